//! Transactions by stock clients: commits and aborts, and a reader that writes, with brokers killed under it.

use std::time::Duration;

use highwater_minio_tests::clients::{
    Beside, java_command, java_program, kafka_tool, python, python_command,
};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::pause;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

use crate::cluster::wait_in_sync;

/// Longest that a client takes to bring through what is left, once nothing is killed any more.
const FINISH_MAX: Duration = Duration::from_secs(600);

#[test]
fn transactions_of_stock_clients_end_as_they_say() {
    let work = Work::new("transactions");
    let node = Spec::embedded(&work).start();
    let kafka = node.kafka();
    step("confluent-kafka: commits and aborts");
    let seen = python("transactions.py", &["ends", &kafka, "confluent"]);
    assert_eq!((&seen["committed"], &seen["written"]), (&300.into(), &400.into()));
    step("Java: commits, aborts, a fenced producer");
    let seen = java_program("Transactions", &["ends", &kafka, "java"]);
    assert_eq!((&seen["committed"], &seen["written"]), (&301.into(), &402.into()));
    step("kafka-transactions: list, describe, describe-producers");
    let tool = |arguments: &[&str]| {
        let at = ["--bootstrap-server", &kafka];
        let (is_well, text) = kafka_tool("TransactionsCommand", &[&at[..], arguments].concat());
        assert!(is_well, "{arguments:?}: {text}");
        text
    };
    let listed = tool(&["list"]);
    assert!(listed.contains("id-confluent") && listed.contains("id-java"), "{listed}");
    assert!(tool(&["describe", "--transactional-id", "id-java"]).contains("CompleteCommit"));
    let producers = tool(&["describe-producers", "--topic", "java", "--partition", "0"]);
    assert!(producers.contains("None"), "no transaction is open: {producers}");
    assert!(node.metric("highwater_transactional_ids", "") >= 2.0);
    assert_eq!(node.metric("highwater_transaction_reloads_total", ""), 0.0);
    node.stop();
}

#[test]
fn what_goes_in_comes_out_once_though_brokers_are_killed() {
    let work = Work::new("transactions-killed");
    let minio = Minio::start(&work);
    let specs: Vec<Spec> = Spec::cluster(&work, &minio.endpoint(), 3)
        .into_iter()
        .map(|spec| {
            spec.flag("group-initial-rebalance-delay-ms", "500ms")
                .flag("offsets-topic-num-partitions", "6")
                .flag("transaction-state-topic-num-partitions", "6")
                // The log of the coordinators is written anew again and again meanwhile.
                .flag("transaction-state-topic-rewrite-bytes", "4KiB")
        })
        .collect();
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");
    let confluent = python_command("transactions.py", &["process", &kafka, "in-c", "out-c", "3"]);
    let mut confluent = Beside::start("confluent-kafka", confluent, &work.join("confluent"));
    let java = java_command("Transactions", &["process", &kafka, "in-j", "out-j", "3"]);
    let mut java = Beside::start("java", java, &work.join("java"));
    pause(Duration::from_secs(10));
    for gone in 0..3 {
        wait_in_sync(&nodes[gone]);
        step(format!("kill -9 of node {}", gone + 1));
        nodes[gone].process.kill();
        pause(Duration::from_secs(8));
        confluent.check();
        java.check();
        nodes[gone] = specs[gone].start();
        wait_in_sync(&nodes[gone]);
        pause(Duration::from_secs(4));
    }
    for (name, client) in [("confluent-kafka", confluent), ("java", java)] {
        step(format!("{name} brings through what is left"));
        let seen = client.finish(FINISH_MAX);
        step(format!("{name}: {seen}"));
        assert!(seen["records"].as_u64().is_some_and(|records| records > 1_000), "{seen}");
    }
    let rewrites: f64 =
        nodes.iter().map(|node| node.metric("highwater_transaction_rewrites_total", "")).sum();
    step(format!("the coordinators' log was written anew {rewrites} times"));
    assert!(rewrites > 0.0, "more transactions than the log may hold, and it was not written anew");
    for node in nodes {
        node.stop();
    }
}
