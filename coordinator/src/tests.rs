//! The coordinator as a whole, on real files: starts, restarts, kills, snapshots, ports.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_model::limits::COMMAND_BYTES_MAX;
use highwater_model::{Clock, TopicId, TopicPartition};
use highwater_tiering::core::manifest::{EditRequest, Refusal as ManifestRefusal};
use highwater_tiering::port::{ManifestPort, ProposeError, ReadError as PortReadError};
use uuid::Uuid;

use crate::core::tests::publish;
use crate::core::{BrokerRegistration, ClusterState, Command, ConfigOp, ConfigOpKind, NewTopic, Refusal};
use crate::route::Attempt;
use crate::{ConfigChange, Coordinator, CoordinatorSettings, NewPartitions, StartError, WriteError};

struct TestClock;

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

fn settings(dir: &Path) -> CoordinatorSettings {
    CoordinatorSettings::new(1, dir.to_path_buf(), Arc::new(TestClock))
}

async fn start(dir: &Path) -> Coordinator {
    Coordinator::start(settings(dir)).await.unwrap_or_else(|e| panic!("{e}"))
}

fn registration(incarnation: u128) -> BrokerRegistration {
    BrokerRegistration {
        node_id: 1,
        incarnation: Uuid::from_u128(incarnation),
        host: "localhost".into(),
        port: 9092,
        ..BrokerRegistration::default()
    }
}

fn topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic {
        topic_id: TopicId::NONE,
        name: name.into(),
        partitions,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Default::default(),
    }
}

async fn create(coordinator: &Coordinator, name: &str, partitions: i32) -> TopicId {
    let mut answers = coordinator.create_topics(vec![topic(name, partitions)], false).await;
    answers.pop().expect("one answer").unwrap_or_else(|e| panic!("{name}: {e}")).topic_id
}

fn plain(state: &ClusterState) -> String {
    serde_json::to_string(state).expect("stored")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_everything_again() {
    let dir = tempfile::tempdir().expect("scratch");
    let first = start(dir.path()).await;
    assert_eq!(first.cluster_id().len(), 22);
    assert_eq!(first.register_broker(registration(1)).await, Ok(1));
    let id = create(&first, "flights", 3).await;
    assert_eq!(first.allocate_producer_ids(1000).await, Ok(0..1000));
    let grown = NewPartitions { topic_id: id, count: 5, assignments: Vec::new() };
    assert_eq!(first.create_partitions(vec![grown], false).await, vec![Ok(())]);
    let overrides = [("retention.ms".to_string(), "5000".to_string())].into();
    let change = ConfigChange::Replace { topic_id: id, overrides };
    assert_eq!(first.alter_configs(vec![change], false).await, vec![Ok(())]);
    let doomed = create(&first, "doomed", 1).await;
    assert_eq!(first.delete_topics(vec![doomed]).await, vec![Ok(())]);
    let before = first.state();
    first.close().await;
    assert!(matches!(first.swept_topic(doomed).await, Err(WriteError::Unknown(_) | WriteError::Failed(_))));

    let second = start(dir.path()).await;
    assert_eq!(plain(&second.state()), plain(&before));
    assert_eq!(second.state().topic_by_name("flights").expect("there").config.retention_ms, Some(5000));
    assert_eq!(second.register_broker(registration(2)).await, Ok(2));
    let state = second.state();
    assert!(state.topic(id).expect("there").partitions.iter().all(|p| p.leader_epoch == 1));
    assert_eq!(second.allocate_producer_ids(1).await, Ok(1000..1001));
    second.swept_topic(doomed).await.expect("swept");
    assert!(second.state().deleted.is_empty());
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_per_directory_and_one_node_per_log() {
    let dir = tempfile::tempdir().expect("scratch");
    let first = start(dir.path()).await;
    let error = Coordinator::start(settings(dir.path())).await.err().expect("locked");
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    first.close().await;
    let other = CoordinatorSettings { node_id: 2, ..settings(dir.path()) };
    let error = Coordinator::start(other).await.err().expect("foreign");
    assert!(matches!(error, StartError::ForeignNode { expected: 2, .. }), "{error}");
    start(dir.path()).await.close().await;
    std::fs::remove_file(dir.path().join("raft/vote")).expect("removed");
    let error = Coordinator::start(settings(dir.path())).await.err().expect("no vote").to_string();
    assert!(error.contains("vote") && error.contains("restore"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_together_share_entries_and_watchers_hear() {
    let dir = tempfile::tempdir().expect("scratch");
    let coordinator = start(dir.path()).await;
    coordinator.register_broker(registration(1)).await.expect("registered");
    let mut watch = coordinator.watch();
    let before = *watch.borrow_and_update();
    let topics: Vec<NewTopic> = (0..500).map(|i| topic(&format!("t-{i}"), 2)).collect();
    let answers = coordinator.create_topics(topics, false).await;
    assert!(answers.iter().all(Result::is_ok));
    watch.changed().await.expect("told");
    assert_eq!(*watch.borrow(), before + 500);
    assert_eq!(coordinator.with_state(|state| state.partition_count), 1000);
    coordinator.close().await;
    let bytes: u64 = files(&dir.path().join("raft/log")).iter().map(|(_, length)| length).sum();
    let frames = 500 * 48;
    assert!(bytes < 500 * 250 + frames / 4, "far fewer entries than commands: {bytes} bytes");
}

/// An entry that is larger than a message between members would stop the log for all that comes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_message_could_carry_is_refused_before_it_is_written() {
    let dir = tempfile::tempdir().expect("scratch");
    let coordinator = start(dir.path()).await;
    coordinator.register_broker(registration(1)).await.expect("registered");
    let id = create(&coordinator, "t", 1).await;
    // A control character takes six bytes in JSON.
    let ops = vec![ConfigOp {
        name: "retention.ms".into(),
        op: ConfigOpKind::Set("\u{1}".repeat(COMMAND_BYTES_MAX / 4)),
    }];
    let change = ConfigChange::Alter { topic_id: id, ops };
    let answer = coordinator.alter_configs(vec![change], false).await.remove(0);
    assert!(matches!(answer, Err(WriteError::Refused(Refusal::LimitReached(_)))), "{answer:?}");
    // As it comes in by the door, past the caller's own check.
    let form =
        Command::FormCluster { cluster_id: "x".repeat(COMMAND_BYTES_MAX), members: Default::default() };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let attempt = coordinator.propose_here(form, deadline).await;
    assert!(matches!(attempt, Attempt::Done(Err(Refusal::LimitReached(_)), _)));
    coordinator.close().await;
    let bytes: u64 = files(&dir.path().join("raft/log")).iter().map(|(_, length)| length).sum();
    assert!(bytes < 100_000, "nothing of it was written: {bytes} bytes");
}

fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.expect("entry");
        (e.path(), e.metadata().expect("length").len())
    };
    std::fs::read_dir(dir).expect("dir").map(entry).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn judging_changes_nothing() {
    let dir = tempfile::tempdir().expect("scratch");
    let coordinator = start(dir.path()).await;
    coordinator.register_broker(registration(1)).await.expect("registered");
    let before = plain(&coordinator.state());
    let answers = coordinator.create_topics(vec![topic("a", 2), topic("a/b", 1)], true).await;
    assert_eq!(answers[0].as_ref().expect("legal").partitions, 2);
    assert!(matches!(answers[1], Err(WriteError::Refused(Refusal::TopicNameInvalid(_)))));
    let manual = NewTopic { assignments: vec![vec![1]], ..topic("m", 1) };
    let answers = coordinator.create_topics(vec![manual], true).await;
    assert!(matches!(answers[0], Err(WriteError::Refused(Refusal::RequestInvalid(_)))));
    let answers = coordinator.create_topics(vec![topic("a", 6000), topic("b", 6000)], false).await;
    assert!(answers.iter().all(|a| matches!(a, Err(WriteError::Refused(Refusal::LimitReached(_))))));
    assert_eq!(plain(&coordinator.state()), before);
    coordinator.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_bound_the_log_and_a_damaged_one_is_survived() {
    let dir = tempfile::tempdir().expect("scratch");
    let small = CoordinatorSettings { snapshot_entries: 20, ..settings(dir.path()) };
    let coordinator = Coordinator::start(small.clone()).await.expect("starts");
    coordinator.register_broker(registration(1)).await.expect("registered");
    for i in 0..150 {
        create(&coordinator, &format!("t-{i}"), 1).await;
    }
    let before = plain(&coordinator.state());
    coordinator.close().await;
    let snapshots = || {
        let mut paths: Vec<_> =
            files(&dir.path().join("raft/snapshots")).into_iter().map(|(p, _)| p).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "snapshot"));
        paths.sort();
        paths
    };
    assert_eq!(snapshots().len(), 2);
    let again = Coordinator::start(small.clone()).await.expect("starts");
    assert_eq!(plain(&again.state()), before);
    again.close().await;
    let newest = snapshots().pop().expect("two");
    std::fs::write(&newest, b"rotten").expect("damaged");
    let again = Coordinator::start(small).await.expect("the older snapshot and the log serve");
    assert_eq!(plain(&again.state()), before);
    again.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_of_manifests_tells_refused_from_failed() {
    let dir = tempfile::tempdir().expect("scratch");
    let coordinator = start(dir.path()).await;
    coordinator.register_broker(registration(1)).await.expect("registered");
    let tp = TopicPartition::new(create(&coordinator, "t", 1).await, 0);
    let port: &dyn ManifestPort = &coordinator;
    let request = |version, epoch, start, end| EditRequest {
        expected_version: version,
        leader_epoch: epoch,
        edit: publish(epoch, start, end),
    };
    let manifest = port.propose(tp, request(0, 0, 0, 10)).await.expect("published");
    assert_eq!((manifest.version, manifest.tiered_end), (1, 10));
    let again = port.propose(tp, request(0, 0, 0, 10)).await;
    assert!(matches!(again, Err(ProposeError::Refused(ManifestRefusal::AlreadyPublished { .. }))));
    let gapped = port.propose(tp, request(1, 0, 20, 30)).await;
    assert!(matches!(gapped, Err(ProposeError::Refused(ManifestRefusal::Gap { .. }))));
    coordinator.register_broker(registration(2)).await.expect("restarted");
    let zombie = port.propose(tp, request(1, 0, 10, 20)).await;
    assert!(matches!(zombie, Err(ProposeError::Refused(ManifestRefusal::StaleEpoch { .. }))));
    port.propose(tp, request(1, 1, 10, 20)).await.expect("published");
    assert_eq!(port.read(tp).await.expect("read").totals.objects, 2);

    let raised = coordinator.raise_log_start(tp, 1, 12).await.expect("raised");
    assert_eq!((raised.log_start, raised.totals.objects, raised.retiring.len()), (12, 1, 1));
    let version = raised.version;
    let same = coordinator.raise_log_start(tp, 1, 5).await.expect("already there");
    assert_eq!((same.log_start, same.version), (12, version));

    let nowhere = TopicPartition::new(tp.topic_id, 7);
    assert_eq!(port.read(nowhere).await, Err(PortReadError::UnknownPartition));
    assert!(port.cached(nowhere).is_none());
    assert!(matches!(port.propose(nowhere, request(0, 0, 0, 10)).await, Err(ProposeError::Failed(_))));
    coordinator.close().await;
    let gone = port.propose(tp, request(version, 1, 20, 30)).await;
    assert!(matches!(gone, Err(ProposeError::Unknown(_) | ProposeError::Failed(_))));
    assert!(matches!(port.read(tp).await, Err(PortReadError::Unavailable(_))));
}

const CHILD_DIR: &str = "HIGHWATER_TEST_COORDINATOR_DIR";

/// Creates topics for ever and prints each name once it is acknowledged. Run by the test below, which kills
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of another test"]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let coordinator =
        Coordinator::start(CoordinatorSettings { snapshot_entries: 30, ..settings(Path::new(&dir)) });
    let coordinator = coordinator.await.expect("starts");
    coordinator.register_broker(registration(u128::from(std::process::id()))).await.expect("registered");
    for i in 0.. {
        let names: Vec<String> = (0..1 + i % 4).map(|n| format!("p{}-{i}-{n}", std::process::id())).collect();
        let topics = names.iter().map(|name| topic(name, 1)).collect();
        let answers = coordinator.create_topics(topics, false).await;
        for (name, answer) in names.iter().zip(answers) {
            answer.expect("created");
            println!("acked {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().expect("scratch");
    let mut acked = BTreeSet::new();
    for round in 0..4 {
        let mut child = Process::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "tests::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawned");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut left = 40 + 37 * round;
        while left > 0 {
            let line = lines.next().expect("goes on").expect("text");
            if let Some(name) = line.split_once("acked ").map(|(_, name)| name) {
                acked.insert(name.to_string());
                left -= 1;
            }
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        // What was printed before the kill and not read yet was acknowledged too.
        let rest = lines.map_while(Result::ok);
        acked.extend(rest.filter_map(|l| l.split_once("acked ").map(|(_, name)| name.to_string())));
        let coordinator = start(dir.path()).await;
        let state = coordinator.state();
        state.check().expect("whole");
        let missing: Vec<_> = acked.iter().filter(|name| state.topic_by_name(name).is_none()).collect();
        assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
        coordinator.close().await;
    }
    assert!(acked.len() >= 300);
}

/// A data directory that an earlier release wrote must start, with what it held (invariant 18).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_of_every_format_still_start() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let fixture = fixtures.join("raft-v1");
    if std::env::var_os("WRITE_FIXTURES").is_some() {
        write_fixture(&fixture).await;
    }
    let dir = tempfile::tempdir().expect("scratch");
    copy(&fixture, &dir.path().join("raft"));
    let coordinator = start(dir.path()).await;
    let state = coordinator.state();
    assert_eq!(state.topic_by_name("t-0").expect("in the snapshot").partitions.len(), 1);
    let kept = state.topic_by_name("kept.in-log").expect("in the log");
    assert_eq!((kept.partitions.len(), kept.config.retention_ms), (2, Some(1000)));
    assert_eq!(kept.partitions[1].manifest.totals.objects, 1);
    assert_eq!((state.topics.len(), state.deleted.len(), state.producer_ids_end), (12, 1, 1000));
    coordinator.close().await;
}

async fn write_fixture(fixture: &Path) {
    let dir = tempfile::tempdir().expect("scratch");
    let small = CoordinatorSettings { snapshot_entries: 15, ..settings(dir.path()) };
    let coordinator = Coordinator::start(small).await.expect("starts");
    coordinator.register_broker(registration(1)).await.expect("registered");
    for i in 0..11 {
        create(&coordinator, &format!("t-{i}"), 1).await;
    }
    let kept = create(&coordinator, "kept.in-log", 2).await;
    let overrides = [("retention.ms".to_string(), "1000".to_string())].into();
    let change = ConfigChange::Replace { topic_id: kept, overrides };
    coordinator.alter_configs(vec![change], false).await[0].as_ref().expect("altered");
    let request = EditRequest { expected_version: 0, leader_epoch: 0, edit: publish(0, 0, 10) };
    coordinator.propose(TopicPartition::new(kept, 1), request).await.expect("published");
    let doomed = create(&coordinator, "doomed", 1).await;
    coordinator.delete_topics(vec![doomed]).await[0].as_ref().expect("deleted");
    coordinator.allocate_producer_ids(1000).await.expect("allocated");
    coordinator.close().await;
    let _ = std::fs::remove_dir_all(fixture);
    copy(&dir.path().join("raft"), fixture);
    std::fs::remove_file(fixture.join("lock")).expect("not part of the format");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for (path, _) in files(from) {
        let target = to.join(path.file_name().expect("named"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

/// Prints what start and writes cost; run by hand: `cargo test --release -p highwater-coordinator --
/// --ignored --nocapture measure`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, asserts none"]
async fn measure() {
    for (topics, partitions, objects, snapshot_entries) in
        [(0, 0, 0, 1000), (100, 10, 0, 1000), (100, 10, 50, 1000), (100, 10, 50, 100)]
    {
        let dir = tempfile::tempdir_in(std::env::current_dir().expect("cwd")).expect("scratch");
        let sized = CoordinatorSettings { snapshot_entries, ..settings(dir.path()) };
        let begun = Instant::now();
        let coordinator = Coordinator::start(sized).await.expect("starts");
        println!("first start: {:?}", begun.elapsed());
        coordinator.register_broker(registration(1)).await.expect("registered");
        let new = (0..topics).map(|i| topic(&format!("t-{i}"), partitions)).collect();
        let begun = Instant::now();
        let created = coordinator.create_topics(new, false).await;
        println!("{topics} topics of {partitions} partitions: {:?}", begun.elapsed());
        let tps: Vec<_> = created
            .into_iter()
            .map(|topic| topic.expect("created"))
            .flat_map(|topic| (0..topic.partitions).map(move |p| TopicPartition::new(topic.topic_id, p)))
            .collect();
        let begun = Instant::now();
        for object in 0..objects {
            let edit = |tp: TopicPartition| {
                let edit = publish(0, object * 10, object * 10 + 10);
                let request = EditRequest { expected_version: object as u64, leader_epoch: 0, edit };
                coordinator.propose(tp, request)
            };
            let outcomes = futures::future::join_all(tps.iter().map(|tp| edit(*tp))).await;
            assert!(outcomes.iter().all(Result::is_ok));
        }
        let edits = objects as usize * tps.len();
        if edits > 0 {
            println!(
                "{edits} manifest edits: {:?} each",
                begun.elapsed() / u32::try_from(edits).expect("fits")
            );
        }
        let mut laps: Vec<Duration> = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            coordinator.allocate_producer_ids(1).await.expect("allocated");
            laps.push(begun.elapsed());
        }
        laps.sort();
        println!("one write: p50 {:?} p99 {:?}", laps[100], laps[197]);
        coordinator.close().await;
        for _ in 0..3 {
            let begun = Instant::now();
            let again = start(dir.path()).await;
            println!("start with {} partitions, {objects} objects each: {:?}", tps.len(), begun.elapsed());
            again.close().await;
        }
        let bytes: u64 = files(&dir.path().join("raft/snapshots")).iter().map(|(_, length)| length).sum();
        println!("snapshots: {bytes} bytes");
    }
}
