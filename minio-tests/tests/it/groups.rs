//! Consumer groups by stock clients: members share a topic, one is killed, their coordinator is killed;
//! Kafka's own tool for groups.

use highwater_minio_tests::clients::{java_program, kafka_tool, python};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::step::step;
use highwater_minio_tests::tools;
use highwater_minio_tests::work::Work;
use serde_json::Value;

use super::cluster;

#[test]
fn members_share_a_topic_and_take_over_from_a_killed_one() {
    let work = Work::new("groups");
    let spec = Spec::embedded(&work)
        .flag("group-consumer-session-timeout-ms", "6s")
        .flag("group-consumer-heartbeat-interval-ms", "500ms")
        .flag("group-initial-rebalance-delay-ms", "500ms");
    let node = spec.start();
    let kafka = node.kafka();
    for protocol in ["classic", "cooperative", "static", "consumer"] {
        step(format!("two members of confluent-kafka, {protocol}, one is killed"));
        let seen = python("groups.py", &["share", &kafka, &format!("t-{protocol}"), protocol]);
        println!("{protocol}: {seen}");
        assert_eq!(seen["records"], 4_000);
    }
    step("kcat -G, twice");
    tools::ensure("kcat");
    let seen = python("groups.py", &["kcat", &kafka, "t-kcat"]);
    assert_eq!((&seen["first"], &seen["second"]), (&2_000.into(), &100.into()));
    step("the command line: list, describe, reset, delete");
    let json = |arguments: &[&str]| -> Value {
        let out = node.group(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&out).expect("JSON")
    };
    assert_eq!(json(&["list"]).as_array().map(Vec::len), Some(5));
    let lags = |seen: &Value| -> Vec<Value> {
        seen["offsets"].as_array().expect("offsets").iter().map(|offset| offset["lag"].clone()).collect()
    };
    assert_eq!(lags(&json(&["describe", "group-t-classic"])), [0, 0, 0, 0]);
    node.group(&["reset", "group-t-classic", "--topic", "t-classic", "--to", "earliest", "--partition", "1"]);
    assert_eq!(lags(&json(&["describe", "group-t-classic"])), [0, 1_000, 0, 0]);
    node.group(&["delete", "group-t-classic"]);
    assert_eq!(json(&["list"]).as_array().map(Vec::len), Some(4));
    assert!(node.metric("highwater_offset_commits_total", "") >= 4_000.0, "commits are counted");
    assert_eq!(node.metric("highwater_group_reloads_total", ""), 0.0);
    node.stop();
}

#[test]
fn java_members_share_a_topic_and_administer_their_group() {
    let work = Work::new("groups-java");
    let spec = Spec::embedded(&work)
        .flag("group-consumer-session-timeout-ms", "6s")
        .flag("group-consumer-heartbeat-interval-ms", "500ms")
        .flag("group-initial-rebalance-delay-ms", "500ms");
    let node = spec.start();
    let kafka = node.kafka();
    for protocol in ["classic", "cooperative", "static", "consumer"] {
        step(format!("two members of the Java client, {protocol}"));
        let seen = java_program("Groups", &["share", &kafka, &format!("j-{protocol}"), protocol]);
        assert_eq!(seen["records"], 4_000);
    }
    for client in ["kafka-python", "aiokafka"] {
        step(format!("{client}: a member, and one that goes on"));
        let seen = python("groups.py", &[client, &kafka, &format!("t-{client}")]);
        assert_eq!((&seen["first"], &seen["second"]), (&2_000.into(), &100.into()));
    }
    step("kafka-consumer-groups: --list, --describe, --reset-offsets, --delete");
    let group = "group-t-kafka-python";
    let tool = |arguments: &[&str]| {
        let at = ["--bootstrap-server", &kafka];
        let (is_well, text) =
            kafka_tool("consumer.group.ConsumerGroupCommand", &[&at[..], arguments].concat());
        assert!(is_well, "{arguments:?}: {text}");
        text
    };
    assert!(tool(&["--list"]).lines().any(|line| line.trim() == group));
    let described = tool(&["--describe", "--group", group]);
    let lags = |text: &str| -> Vec<String> {
        let rows = text.lines().filter(|line| line.starts_with(group));
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
        rows.filter_map(|line| line.split_whitespace().nth(5).map(str::to_owned)).collect()
    };
    assert_eq!(lags(&described), ["0", "0", "0", "0"], "{described}");
    assert!(tool(&["--describe", "--group", group, "--state"]).contains("Empty"));
    let reset = ["--group", group, "--topic", "t-kafka-python", "--reset-offsets"];
    tool(&[&reset[..], &["--to-offset", "25", "--execute"]].concat());
    let described = tool(&["--describe", "--group", group]);
    assert_eq!(lags(&described), ["500", "500", "500", "500"], "{described}");
    tool(&["--delete-offsets", "--group", group, "--topic", "t-kafka-python:3"]);
    assert_eq!(lags(&tool(&["--describe", "--group", group])).len(), 3);
    tool(&["--delete", "--group", group]);
    assert!(!tool(&["--list"]).lines().any(|line| line.trim() == group));
    node.stop();
}

#[test]
fn a_group_goes_on_at_the_next_coordinator() {
    let work = Work::new("groups-failover");
    let minio = Minio::start(&work);
    let specs: Vec<Spec> = Spec::cluster(&work, &minio.endpoint(), 3)
        .into_iter()
        .map(|spec| {
            spec.flag("group-consumer-session-timeout-ms", "30s")
                .flag("group-consumer-heartbeat-interval-ms", "500ms")
                .flag("group-initial-rebalance-delay-ms", "500ms")
                // The log of the groups is written anew again and again meanwhile.
                .flag("offsets-topic-num-partitions", "3")
                .flag("offsets-topic-rewrite-bytes", "64KiB")
        })
        .collect();
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");
    let binary = tools::highwater().to_string_lossy().into_owned();
    for protocol in ["classic", "consumer"] {
        step(format!("{protocol}: kill -9 of the coordinator of two members"));
        let processes: Vec<String> = specs
            .iter()
            .zip(&nodes)
            .map(|(spec, node)| format!("{}={}", spec.id(), node.process.id()))
            .collect();
        let topic = format!("f-{protocol}");
        let mut arguments = vec!["failover", &kafka, &topic, protocol, &binary];
        arguments.extend(processes.iter().map(String::as_str));
        let seen = python("groups.py", &arguments);
        println!("{protocol}: {seen}");
        let killed = seen["killed"].as_u64().expect("a node was killed");
        let gone = specs.iter().position(|spec| u64::from(spec.id()) == killed).expect("one of them");
        nodes[gone].process.kill(); // it is: waits for its end
        nodes[gone] = specs[gone].start();
        cluster::wait_in_sync(&nodes[gone]);
    }
    let rewrites: f64 = nodes.iter().map(|node| node.metric("highwater_group_rewrites_total", "")).sum();
    step(format!("the groups' log was written anew {rewrites} times"));
    assert!(rewrites > 0.0, "more commits than the log may hold, and it was not written anew");
    for node in nodes {
        node.stop();
    }
}
