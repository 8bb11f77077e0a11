//! Consumer groups by stock clients: members share a topic, one is killed, the broker is killed.

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::step::step;
use highwater_minio_tests::tools;
use highwater_minio_tests::work::Work;
use serde_json::Value;

#[test]
fn members_share_a_topic_and_take_over_from_a_killed_one() {
    let work = Work::new("groups");
    let spec = Spec::embedded(&work)
        .flag("group-consumer-session-timeout-ms", "6s")
        .flag("group-consumer-heartbeat-interval-ms", "500ms")
        .flag("group-initial-rebalance-delay-ms", "500ms");
    let node = spec.start();
    let kafka = node.kafka();
    for protocol in ["classic", "cooperative", "consumer"] {
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
    assert_eq!(json(&["list"]).as_array().map(Vec::len), Some(4));
    let lags = |seen: &Value| -> Vec<Value> {
        seen["offsets"].as_array().expect("offsets").iter().map(|offset| offset["lag"].clone()).collect()
    };
    assert_eq!(lags(&json(&["describe", "group-t-classic"])), [0, 0, 0, 0]);
    node.group(&["reset", "group-t-classic", "--topic", "t-classic", "--to", "earliest", "--partition", "1"]);
    assert_eq!(lags(&json(&["describe", "group-t-classic"])), [0, 1_000, 0, 0]);
    node.group(&["delete", "group-t-classic"]);
    assert_eq!(json(&["list"]).as_array().map(Vec::len), Some(3));
    assert!(node.metric("highwater_offset_commits_total", "") >= 4_000.0, "commits are counted");
    assert_eq!(node.metric("highwater_group_reloads_total", ""), 0.0);
    node.stop();
}
