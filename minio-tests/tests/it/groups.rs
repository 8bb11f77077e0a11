//! Consumer groups by stock clients: members share a topic, one is killed, the broker is killed.

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::step::step;
use highwater_minio_tests::tools;
use highwater_minio_tests::work::Work;

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
    assert!(node.metric("highwater_offset_commits_total", "") >= 4_000.0, "commits are counted");
    assert_eq!(node.metric("highwater_group_reloads_total", ""), 0.0);
    node.stop();
}
