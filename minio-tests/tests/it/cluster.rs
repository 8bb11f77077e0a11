//! Three nodes, real processes: leaders killed, paused and stopped under load; nothing lost, nothing twice.

use std::time::{Duration, Instant};

use highwater_minio_tests::clients::{Load, python};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPIC: &str = "replicated";
const NODES: u16 = 3;

fn start(specs: &[Spec]) -> Vec<Highwater> {
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    nodes
}

fn bootstrap(specs: &[Spec]) -> String {
    specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",")
}

/// Waits until every replica of every partition is in sync.
pub fn wait_in_sync(node: &Highwater) {
    let mut last = String::new();
    let settled = until(PATIENCE, || {
        let status = node.ask("cluster", &["status"]);
        last = format!("{status:?}");
        let status = status.ok()?;
        let zero = |name: &str| status[name].as_u64() == Some(0);
        (zero("under_replicated") && zero("leaderless")).then_some(())
    });
    assert!(settled.is_some(), "not all replicas are in sync within {PATIENCE:?}: {last}");
}

/// The node that leads partition 0.
fn leader(kafka: &str) -> usize {
    let found = python("topics.py", &["leaders", kafka, TOPIC]);
    let leader = found["leaders"][0].as_u64().expect("partition 0 has a leader");
    usize::try_from(leader).expect("small") - 1
}

fn check(target: &(String, String, std::path::PathBuf), when: &str) {
    step(format!("{when}: every acknowledged record once, in place, intact"));
    let told = Load::verify(&target.0, &target.1, &target.2);
    step(format!("{when}: {told}"));
}

#[test]
fn leaders_go_and_nothing_is_lost_or_doubled() {
    let work = Work::new("cluster");
    let minio = Minio::start(&work);
    let specs = Spec::cluster(&work, &minio.endpoint(), NODES);
    let mut nodes = start(&specs);
    let kafka = bootstrap(&specs);
    let mut arguments = vec!["create", &kafka, TOPIC, "6", "replicas=3", "min.insync.replicas=2"];
    arguments.extend(["segment.bytes=1048576", "local.retention.bytes=2097152", "retention.ms=-1"]);
    python("topics.py", &arguments);
    wait_in_sync(&nodes[0]);
    let mut load = Load::start(&kafka, TOPIC, work.join("ledger"), 2.0);
    load.wait_for_more(5_000);

    for round in 0..2 {
        let gone = leader(&kafka);
        step(format!("round {round}: kill -9 of node {}, which leads", gone + 1));
        nodes[gone].process.kill();
        let began = Instant::now();
        load.wait_for_more(3_000);
        step(format!(
            "the load goes on, 3,000 acknowledgements {:.1} s after the kill",
            began.elapsed().as_secs_f64()
        ));
        nodes[gone] = specs[gone].start();
        wait_in_sync(&nodes[gone]);
    }

    let paused = leader(&kafka);
    step(format!("SIGSTOP of node {}, which leads", paused + 1));
    nodes[paused].process.signal("STOP");
    let began = Instant::now();
    load.wait_for_more(3_000);
    step(format!("3,000 acknowledgements {:.1} s after the stop", began.elapsed().as_secs_f64()));
    pause(Duration::from_secs(5));
    nodes[paused].process.signal("CONT");
    wait_in_sync(&nodes[paused]);

    let stopped = leader(&kafka);
    step(format!("SIGTERM of node {}: leaders move first", stopped + 1));
    nodes.remove(stopped).stop();
    load.wait_for_more(3_000);
    nodes.insert(stopped, specs[stopped].start());
    wait_in_sync(&nodes[stopped]);

    step("the load ends and gets its last acknowledgements");
    let target = load.target();
    step(format!("load: {}", load.finish()));
    check(&target, "after the failovers");

    step("everything to the tier, local copies dropped");
    nodes[0].offload(TOPIC);
    check(&target, "from the tier");
    for node in nodes {
        node.stop();
    }
}
