//! Topics replicated by Raft, as real processes: brokers and coordinators each on their own, killed and
//! paused under load, and the way of replication changed meanwhile. Nothing lost, nothing twice.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use highwater_minio_tests::clients::{Load, python};
use highwater_minio_tests::highwater::{Highwater, Spec, segments};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPIC: &str = "voted";
const PARTITIONS: u64 = 4;

fn start(specs: &[Spec]) -> Vec<Highwater> {
    specs.iter().map(Spec::spawn).collect()
}

/// The broker, by place, that leads partition 0.
fn leader(kafka: &str) -> usize {
    let found = until(PATIENCE, || {
        let leaders = python("topics.py", &["leaders", kafka, TOPIC]);
        leaders["leaders"][0].as_u64()
    });
    usize::try_from(found.expect("partition 0 has a leader")).expect("small") - 1
}

/// Waits until `cluster status` counts so many partitions as replicated by Raft, each with a leader and all
/// its replicas.
fn wait_for(node: &Highwater, by_raft: u64) {
    let mut last = String::new();
    let settled = until(PATIENCE, || {
        let status = node.ask("cluster", &["status"]);
        last = format!("{status:?}");
        let status = status.ok()?;
        let is = |name: &str, count: u64| status[name].as_u64() == Some(count);
        let is_whole = is("leaderless", 0) && is("under_replicated", 0);
        (is("raft", by_raft) && is("switching", 0) && is_whole).then_some(())
    });
    assert!(settled.is_some(), "not {by_raft} partitions by Raft within {PATIENCE:?}: {last}");
}

fn check(target: &(String, String, std::path::PathBuf), when: &str) {
    step(format!("{when}: every acknowledged record once, in place, intact"));
    let told = Load::verify(&target.0, &target.1, &target.2);
    step(format!("{when}: {told}"));
}

fn goes_on(load: &mut Load, after: &str) {
    let began = Instant::now();
    load.wait_for_more(2_000);
    step(format!("2,000 acknowledgements {:.1} s after {after}", began.elapsed().as_secs_f64()));
}

/// A segment that is written to and has been synced since it was begun, by what `marks` says.
fn synced(spec: &Spec) -> Option<PathBuf> {
    let files = segments(spec.data());
    let is_last = |at: usize| files.get(at + 1).is_none_or(|next| next.parent() != files[at].parent());
    let is_synced = |file: &PathBuf| {
        let start: Option<i64> = file.file_stem().and_then(|name| name.to_string_lossy().parse().ok());
        let marks = std::fs::read(file.with_file_name("marks")).unwrap_or_default();
        let point = |slot: &[u8]| i64::from_le_bytes(slot[28..36].try_into().expect("8 bytes"));
        marks.chunks_exact(56).map(point).max() > start
    };
    (0..files.len()).filter(|at| is_last(*at)).map(|at| files[at].clone()).find(is_synced)
}

#[test]
fn raft_topics_outlive_leaders_and_the_control_plane_and_change_their_replication() {
    let work = Work::new("raft");
    let minio = Minio::start(&work);
    let (specs, coordinator_specs) = Spec::with_coordinators_apart(&work, &minio.endpoint(), 3);
    let mut coordinators = start(&coordinator_specs);
    let mut nodes = start(&specs);
    coordinators.iter_mut().chain(&mut nodes).for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");
    let partitions = PARTITIONS.to_string();
    let mut arguments = vec!["create", &kafka, TOPIC, &partitions, "replicas=3"];
    arguments.extend([
        "highwater.replication=raft",
        "segment.bytes=1048576",
        "local.retention.bytes=2097152",
    ]);
    python("topics.py", &arguments);
    wait_for(&nodes[0], PARTITIONS);
    let mut load = Load::start(&kafka, TOPIC, work.join("ledger"), 2.0);
    load.wait_for_more(3_000);

    let gone = leader(&kafka);
    step(format!("kill -9 of broker {}, which leads", gone + 1));
    nodes[gone].process.kill();
    goes_on(&mut load, "the kill");
    nodes[gone] = specs[gone].start();
    wait_for(&nodes[gone], PARTITIONS);

    step("kill -9 of every coordinator, and of a broker that leads");
    coordinators.iter_mut().for_each(|coordinator| coordinator.process.kill());
    let gone = leader(&kafka);
    nodes[gone].process.kill();
    goes_on(&mut load, "the kills, without a control plane");
    coordinators = start(&coordinator_specs);
    coordinators.iter_mut().for_each(Highwater::wait_ready);
    nodes[gone] = specs[gone].start();
    wait_for(&nodes[gone], PARTITIONS);

    let paused = leader(&kafka);
    step(format!("SIGSTOP of broker {}, which leads", paused + 1));
    nodes[paused].process.signal("STOP");
    let others: Vec<String> =
        (0..).zip(&specs).filter(|(place, _)| *place != paused).map(|(_, spec)| spec.kafka()).collect();
    let next = until(PATIENCE, || Some(leader(&others.join(","))).filter(|next| *next != paused));
    step(format!("broker {} leads instead", next.expect("another one leads") + 1));
    // A client that waits for the stopped broker learns of it afterwards.
    pause(Duration::from_secs(2));
    nodes[paused].process.signal("CONT");
    goes_on(&mut load, "it goes on");
    wait_for(&nodes[paused], PARTITIONS);

    let rotten = (leader(&kafka) + 1) % specs.len();
    step(format!("kill -9 of broker {}, and some of what it has on its disk rots", rotten + 1));
    // With four partitions, what one of them has just begun another one has not.
    assert!(until(PATIENCE, || synced(&specs[rotten])).is_some(), "nothing is synced");
    nodes[rotten].process.kill();
    let file = synced(&specs[rotten]).expect("something was synced");
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("the segment is there");
    file.write_all_at(&[0xff; 16], 100).expect("within the file");
    nodes[rotten] = specs[rotten].start();
    let anew = until(PATIENCE, || nodes[rotten].process.log().contains("joins its group anew").then_some(()));
    assert!(anew.is_some(), "it is not filled again: {}", nodes[rotten].process.log_end());
    goes_on(&mut load, "that");

    for (way, by_raft) in [("fetch", 0), ("raft", PARTITIONS)] {
        step(format!("to {way} replication under load"));
        let began = Instant::now();
        python("topics.py", &["configure", &kafka, TOPIC, &format!("highwater.replication={way}")]);
        wait_for(&nodes[0], by_raft);
        step(format!("{way} replication after {:.1} s", began.elapsed().as_secs_f64()));
        goes_on(&mut load, "the switch");
    }

    step("the load ends and gets its last acknowledgements");
    let target = load.target();
    step(format!("load: {}", load.finish()));
    check(&target, "after failovers and switches");
    nodes[0].offload(TOPIC);
    check(&target, "from the tier");
    for node in nodes.into_iter().chain(coordinators) {
        node.stop();
    }
}
