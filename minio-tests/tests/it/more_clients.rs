//! The other stock clients: franz-go, sarama, KafkaJS, and Kafka Streams. In groups and transactions on one
//! node; then all but KafkaJS at once on three, with brokers killed and a Streams instance closed and started
//! again.

use std::time::Duration;

use highwater_minio_tests::clients::{Beside, go, go_command, java_command, kafkajs};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, pause};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

use crate::cluster::wait_in_sync;

/// Longest that a client takes to bring through what is left, once nothing is killed any more.
const FINISH_MAX: Duration = Duration::from_secs(600);

#[test]
fn go_and_node_members_share_topics_and_end_transactions() {
    let work = Work::new("go-and-node");
    let spec = Spec::embedded(&work)
        .flag("group-consumer-heartbeat-interval-ms", "500ms")
        .flag("group-initial-rebalance-delay-ms", "500ms");
    let node = spec.start();
    let kafka = node.kafka();
    let protocols = [
        ("franz", "eager"),
        ("franz", "cooperative"),
        ("franz", "consumer"),
        ("sarama", "eager"),
        ("sarama", "sticky"),
    ];
    for (client, protocol) in protocols {
        step(format!("two members of {client}, {protocol}, one goes"));
        let seen = go(&[client, "group", &kafka, &format!("{client}-{protocol}"), protocol]);
        assert_eq!(seen["records"], 4_000, "{seen}");
        if client == "franz" {
            let kind = if protocol == "consumer" { "consumer" } else { "classic" };
            assert_eq!(seen["kind"], kind, "{seen}");
        }
    }
    step("two members of KafkaJS, one goes");
    assert_eq!(kafkajs(&["group", &kafka, "kafkajs"])["records"], 4_000);
    for client in ["franz", "sarama", "kafkajs"] {
        step(format!("{client}: transactions that commit and abort"));
        let topic = format!("ends-{client}");
        let seen = match client {
            "kafkajs" => kafkajs(&["ends", &kafka, &topic]),
            _ => go(&[client, "ends", &kafka, &topic]),
        };
        assert_eq!((&seen["committed"], &seen["written"]), (&300.into(), &400.into()), "{client}");
    }
    node.stop();
}

#[test]
fn streams_and_the_others_go_on_exactly_once_though_brokers_are_killed() {
    let work = Work::new("streams");
    let minio = Minio::start(&work);
    let specs: Vec<Spec> = Spec::cluster(&work, &minio.endpoint(), 3)
        .into_iter()
        .map(|spec| {
            spec.flag("group-initial-rebalance-delay-ms", "500ms")
                .flag("offsets-topic-num-partitions", "6")
                .flag("transaction-state-topic-num-partitions", "6")
        })
        .collect();
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");
    let directory = work.join("streams").to_string_lossy().into_owned();
    let streams = java_command("Streams", &["count", &kafka, "words", "3", &directory]);
    let mut streams = Beside::start("Streams", streams, &work.join("streams-log"));
    streams.wait_said("ready", 1, PATIENCE);
    let mut others = vec![
        ("franz-go", go_command(&["franz", "process", &kafka, "in-f", "out-f", "3"])),
        ("sarama", go_command(&["sarama", "process", &kafka, "in-s", "out-s", "3"])),
    ]
    .into_iter()
    .map(|(name, command)| Beside::start(name, command, &work.join(name)))
    .collect::<Vec<Beside>>();
    pause(Duration::from_secs(4));
    for gone in 0..2 {
        wait_in_sync(&nodes[gone]);
        step(format!("kill -9 of node {}", gone + 1));
        nodes[gone].process.kill();
        if gone == 0 {
            step("a Streams instance is closed, loses its directory and starts again meanwhile");
            streams.tell("restart");
        }
        pause(Duration::from_secs(6));
        streams.check();
        others.iter_mut().for_each(Beside::check);
        nodes[gone] = specs[gone].start();
        streams.wait_said("restarted", 1, PATIENCE);
        pause(Duration::from_secs(3));
    }
    wait_in_sync(&nodes[2]);
    let seen = streams.finish(FINISH_MAX);
    step(format!("Streams: {seen}"));
    assert!(seen["restarts"] == 1 && seen["words"].as_u64().is_some_and(|words| words > 2_000), "{seen}");
    for client in others {
        let name = client.name().to_owned();
        let seen = client.finish(FINISH_MAX);
        step(format!("{name}: {seen}"));
        assert!(seen["records"].as_u64().is_some_and(|records| records > 500), "{name}: {seen}");
    }
    for node in nodes {
        node.stop();
    }
}
