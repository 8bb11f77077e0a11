//! Delayed delivery by a stock client on three nodes, each killed once: whoever keeps the delayed records,
//! and whoever leads the topic, is among them.

use std::time::Duration;

use highwater_minio_tests::clients::{Beside, python_command};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::pause;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

use crate::cluster::wait_in_sync;

/// Longest that the client takes for what is left, once nothing is killed any more.
const FINISH_MAX: Duration = Duration::from_secs(600);

#[test]
fn each_delayed_record_comes_once_and_not_early_though_brokers_are_killed() {
    let work = Work::new("delayed-killed");
    let minio = Minio::start(&work);
    let specs: Vec<Spec> = Spec::cluster(&work, &minio.endpoint(), 3)
        .into_iter()
        .map(|spec| {
            // Small enough that journals are written anew under way.
            spec.flag("delayed-topic-num-partitions", "3").flag("delayed-topic-rewrite-bytes", "256KiB")
        })
        .collect();
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");
    let mut clients = ["fetch", "raft"].map(|replication| {
        let client = python_command("delayed.py", &[&kafka, replication, "3", replication]);
        Beside::start(replication, client, &work.join(replication))
    });
    pause(Duration::from_secs(8));
    for gone in 0..3 {
        wait_in_sync(&nodes[gone]);
        step(format!("kill -9 of node {}", gone + 1));
        nodes[gone].process.kill();
        pause(Duration::from_secs(6));
        clients.iter_mut().for_each(Beside::check);
        nodes[gone] = specs[gone].start();
        wait_in_sync(&nodes[gone]);
        pause(Duration::from_secs(3));
    }
    step("everything that is left comes");
    for client in clients {
        let name = client.name().to_owned();
        let seen = client.finish(FINISH_MAX);
        step(format!("{name}: {seen}"));
        assert!(seen["delayed"].as_u64().is_some_and(|records| records > 1_000), "{seen}");
    }
    let waiting: f64 = nodes.iter().map(|node| node.metric("highwater_delayed_records", "")).sum();
    assert_eq!(waiting, 0.0, "nothing waits any more");
    for node in nodes {
        node.stop();
    }
}

/// On one node that nothing happens to; how late they came is printed.
#[test]
fn each_delayed_record_comes_once_and_not_early() {
    let work = Work::new("delayed");
    let node = Spec::embedded(&work).start();
    let client = python_command("delayed.py", &[&node.kafka(), "later", "1", "fetch"]);
    let mut client = Beside::start("confluent-kafka", client, &work.join("client"));
    pause(Duration::from_secs(6));
    client.check();
    let seen = client.finish(FINISH_MAX);
    step(format!("{seen}"));
    assert!(seen["delayed"].as_u64().is_some_and(|records| records > 100), "{seen}");
    node.stop();
}
