//! Nodes that must not join as they are, as real processes: another node's directory, another cluster's,
//! another bucket, a list that disagrees, a release too far away. Each ends soon, not with 0, with one line
//! that says what is wrong and what to do, and has changed nothing. And the node whose replicas moved away
//! while it was gone: it serves them no more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, Process, free_port, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

struct Scene {
    /// Nodes 1 and 2, brokers and coordinators; node 3 is started as each case wants it.
    running: Vec<Highwater>,
    specs: Vec<Spec>,
    minio: Minio,
    work: Work,
}

impl Scene {
    /// A cluster of three, of which the third has been stopped in order.
    fn set(name: &str) -> Scene {
        let work = Work::new(name);
        let minio = Minio::start(&work);
        let specs = Spec::cluster(&work, &minio.endpoint(), 3);
        let mut running: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
        running.iter_mut().for_each(Highwater::wait_ready);
        Scene { running, specs, minio, work }
    }

    fn kafka(&self) -> String {
        self.specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",")
    }

    /// The node ends soon, says why in one line that has all of these words, and nothing has changed.
    fn refuses(&self, what: &str, spec: &Spec, words: &[&str]) {
        self.refuses_but_for(what, spec, words, "none");
    }

    /// The same; below `may_change` the directory may have changed. A coordinator's Raft follows its group
    /// before the bucket is looked at.
    fn refuses_but_for(&self, what: &str, spec: &Spec, words: &[&str], may_change: &str) {
        let contents = |dir| {
            let mut found = contents(dir);
            found.retain(|name, _| !name.starts_with(may_change));
            found
        };
        let before = (contents(spec.data()), self.minio.keys());
        let (status, took, said) = spec.start_and_fail();
        assert!(status.code().is_some_and(|code| code != 0), "{what}: ended with {status}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error:")).collect();
        assert_eq!(errors.len(), 1, "{what}: wanted one line that says it, got: {said}");
        step(format!("{what}: {} ({:.1} s)", errors[0], took.as_secs_f64()));
        assert!(said.ends_with(&format!("{}\n", errors[0])), "{what}: it goes on after that line: {said}");
        for word in words {
            assert!(errors[0].contains(word), "{what}: no {word:?} in {}", errors[0]);
        }
        let after = (contents(spec.data()), self.minio.keys());
        assert_eq!(before.1, after.1, "{what}: the bucket has changed");
        // A node that is new may have made its directory; whose it is, it must not have noted.
        let is_new = before.0.is_empty();
        if is_new {
            assert!(!after.0.contains_key(Path::new("identity.json")), "{what}: {:?}", after.0.keys());
        } else {
            assert!(before.0 == after.0, "{what}: {:?} became {:?}", before.0.keys(), after.0.keys());
        }
    }

    /// Both nodes that run see the cluster as before.
    fn unharmed(&self, brokers: usize) {
        for node in &self.running {
            let status = node.cluster(&["status"]);
            assert_eq!(status["leaderless"], 0, "{status}");
            assert_eq!(status["brokers"].as_array().map(Vec::len), Some(brokers), "{status}");
        }
    }
}

/// Every file below the directory but the lock, with what is in it.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(dir).expect("the walk began there").to_owned();
            if path.is_dir() {
                open.push(path);
            } else if name != Path::new("lock") {
                found.insert(name, std::fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in contents(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, bytes).expect("writable");
    }
}

#[test]
fn a_node_that_must_not_join_says_why_and_changes_nothing() {
    let mut scene = Scene::set("states");
    scene.running.pop().expect("three").stop();
    let third = scene.specs[2].clone();
    let endpoint = scene.minio.endpoint();
    let join = |name: &str| scene.work.join(name);
    let members = Spec::members(&scene.specs);

    let as_second = third.clone().flag("node-id", "2");
    scene.refuses("the directory of node 3 as node 2", &as_second, &["belongs to node 3", "--node-id"]);
    let copied = join("copy-of-1");
    copy(scene.specs[0].data(), &copied);
    let on_copy = third.clone().moved_to(copied);
    scene.refuses("node 3 on a copy of node 1's directory", &on_copy, &["belongs to node 1", "--data-dir"]);
    let lost = third.clone().moved_to(join("new-disk"));
    let lost = lost.at_grpc_of(&third);
    scene.refuses("a coordinator that lost its disk", &lost, &["storage", "node 3"]);

    let twin = scene.specs[0].clone().moved_to(join("twin"));
    scene.refuses("a second node 1", &twin, &["another process runs as node 1", "--node-id"]);
    let swapped = format!("1={},2={},3={}", scene.specs[1].grpc(), scene.specs[0].grpc(), third.grpc());
    let words = ["--coordinators says", "correct the list"];
    scene.refuses("a list with two addresses swapped", &third.clone().flag("coordinators", &swapped), &words);
    let other = format!("2={},3={},4=127.0.0.1:{}", scene.specs[1].grpc(), third.grpc(), free_port());
    let words = ["--coordinators", "list"];
    scene.refuses("a list of other nodes", &third.clone().flag("coordinators", &other), &words);

    let elsewhere = third.clone().flag("object-store", "s3://tier/elsewhere");
    let words = ["not the bucket of cluster", "--object-store"];
    scene.refuses_but_for("another bucket than last time", &elsewhere, &words, "raft");
    let broker = Spec::on_s3(&scene.work, &endpoint).numbered(&scene.work, 4);
    let broker = broker.flag("roles", "broker").flag("coordinators", &members);
    let astray = broker.clone().flag("object-store", "s3://tier/elsewhere");
    scene.refuses("a new broker with another bucket", &astray, &words);

    let newer = third.clone().env("HIGHWATER_TEST_PROTOCOL", "2-3");
    scene.refuses("a release two ahead", &newer, &["protocol", "upgrade"]);
    scene.unharmed(3);

    step("a broker of another cluster, and two brokers of one id");
    let apart = Spec::on_s3(&scene.work, &endpoint).numbered(&scene.work, 9);
    let stranger = apart.clone().flag("object-store", "s3://tier/theirs");
    stranger.start().stop();
    let astray = stranger.clone().flag("roles", "broker").flag("coordinators", &members);
    scene.refuses("a directory of another cluster", &astray, &["belongs to cluster", "--data-dir"]);
    let fourth = broker.start();
    let twin = broker.clone().moved_to(join("broker-twin"));
    scene.refuses("a second broker 4", &twin, &["a process of node 4 is running", "--node-id"]);
    fourth.stop();
    let theirs = third.clone().flag("object-store", "s3://tier/theirs");
    scene.refuses_but_for("the bucket of another cluster", &theirs, &words, "raft");

    step("one release ahead is near enough, coming and staying; then as it was");
    for protocols in ["1-2", "1-1"] {
        let node = third.clone().env("HIGHWATER_TEST_PROTOCOL", protocols).start();
        let status = node.cluster(&["status"]);
        assert_eq!(status["leaderless"], 0, "{status}");
        node.stop();
    }
    scene.unharmed(4);

    step("all but one are two releases ahead");
    scene.running.drain(..).for_each(Highwater::stop);
    let ahead = scene.specs[..2].iter().map(|spec| spec.clone().env("HIGHWATER_TEST_PROTOCOL", "2-3"));
    scene.running = ahead.map(|spec| spec.spawn()).collect();
    scene.running.iter_mut().for_each(Highwater::wait_ready);
    scene.refuses("a release two behind", &third, &["protocol", "upgrade"]);
    let behind = broker.clone();
    scene.refuses("a broker two behind", &behind, &["protocol", "upgrade"]);
}

/// Until every partition of the topic is in sync on exactly these nodes.
fn wait_replicas(kafka: &str, topic: &str, wanted: &[u64]) {
    let mut last = serde_json::Value::Null;
    let there = until(PATIENCE, || {
        last = python("topics.py", &["leaders", kafka, topic]);
        let isrs = last["isrs"].as_array()?;
        isrs.iter().all(|isr| *isr == serde_json::json!(wanted)).then_some(())
    });
    assert!(there.is_some(), "{topic} is not in sync on {wanted:?}: {last}");
}

/// Bytes of records that a node has of any topic but what the process of the test itself made.
fn has_records(process: &Process, spec: &Spec) -> bool {
    assert!(process.id() > 0, "it runs");
    !highwater_minio_tests::highwater::segments(spec.data()).is_empty()
}

#[test]
fn a_node_whose_replicas_moved_away_serves_them_no_more() {
    let mut scene = Scene::set("moved-away");
    let kafka = scene.kafka();
    python("topics.py", &["create", &kafka, "moved", "2", "replicas=2", "retention.ms=-1"]);
    scene.running[0].cluster_in_time(&["move", "moved", "--replicas", "3,1"]);
    wait_replicas(&kafka, "moved", &[1, 3]);
    let sent = python("topics.py", &["fill", &kafka, "moved", "0", "2000"]);
    assert_eq!(sent["records"], 2000);

    step("kill -9 of node 3; its replicas move to node 2");
    let mut gone = scene.running.pop().expect("three");
    assert!(has_records(&gone.process, &scene.specs[2]), "node 3 has records");
    gone.process.kill();
    scene.running[0].cluster_in_time(&["move", "moved", "--replicas", "2,1"]);
    wait_replicas(&kafka, "moved", &[1, 2]);
    python("topics.py", &["fill", &kafka, "moved", "2000", "2000"]);

    step("node 3 comes back: it knows that they are not its own any more");
    let back = scene.specs[2].start();
    let answers = python("topics.py", &["ask", &scene.specs[2].kafka(), "moved"]);
    step(format!("node 3 is asked for them: {answers}"));
    // NOT_LEADER_OR_FOLLOWER, for the producer and for the reader.
    assert_eq!(answers, serde_json::json!({"produce": 6, "fetch": 6}));
    let dropped = until(PATIENCE, || (!has_records(&back.process, &scene.specs[2])).then_some(()));
    assert!(dropped.is_some(), "the replica that was moved away still takes room on node 3");

    step("and back again: what it had is no part of what it gets");
    scene.running[0].cluster_in_time(&["move", "moved", "--replicas", "3,1"]);
    wait_replicas(&kafka, "moved", &[1, 3]);
    python("topics.py", &["elect", &kafka, "moved"]);
    let told = python("topics.py", &["filled", &kafka, "moved", "4000"]);
    step(format!("replay: {told}"));
    back.stop();
}
