//! Kafka's own command-line tools on three nodes: replicas reassigned, checked, and taken back; preferred
//! leaders elected; topics described; offsets told.

use std::path::Path;

use highwater_minio_tests::clients::{kafka_tool, python};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;
use serde_json::{Value, json};

const TOPIC: &str = "tooled";
const REASSIGN: &str = "reassign.ReassignPartitionsCommand";

/// Runs a tool, which must succeed; what it wrote.
fn tool(class: &str, arguments: &[&str]) -> String {
    let (is_well, text) = kafka_tool(class, arguments);
    assert!(is_well, "{class} {arguments:?}: {text}");
    text
}

/// A JSON file as the reassignment tool wants it: these replicas for each of the topic's partitions, in
/// order.
fn plan(path: &Path, replicas: &[[u64; 2]]) -> String {
    let of = |(partition, replicas): (usize, &[u64; 2])| {
        let entry = json!({"topic": TOPIC, "partition": partition});
        let mut entry = entry.as_object().cloned().expect("an object");
        entry.insert("replicas".to_owned(), json!(replicas));
        Value::Object(entry)
    };
    let partitions: Vec<Value> = replicas.iter().enumerate().map(of).collect();
    std::fs::write(path, json!({"version": 1, "partitions": partitions}).to_string()).expect("writable");
    path.to_string_lossy().into_owned()
}

/// The replicas of each partition, as the tool describes the topic.
fn described(kafka: &str) -> Vec<String> {
    let text = tool("TopicCommand", &["--bootstrap-server", kafka, "--describe", "--topic", TOPIC]);
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("{name}: ")).map(|(_, rest)| rest.to_owned());
        rest.unwrap_or_default().split('\t').next().unwrap_or_default().trim().to_owned()
    };
    let lines = text.lines().filter(|line| line.contains("Leader: "));
    lines.map(|line| format!("{} {}", field(line, "Leader"), field(line, "Replicas"))).collect()
}

/// Waits until whichever broker the tool asks describes the topic so: they learn of it one after another.
fn wait_described(kafka: &str, wanted: &[&str]) {
    let mut last = Vec::new();
    let found = until(PATIENCE, || {
        last = described(kafka);
        (last == wanted).then_some(())
    });
    assert!(found.is_some(), "{last:?}, not {wanted:?}");
}

/// The same of the moves under way.
fn wait_listed(kafka: &str, wanted: &str) {
    let mut last = String::new();
    let found = until(PATIENCE, || {
        last = tool(REASSIGN, &["--bootstrap-server", kafka, "--list"]);
        last.contains(wanted).then_some(())
    });
    assert!(found.is_some(), "no {wanted:?} in {last}");
}

/// Waits until the tool finds every move complete.
fn wait_complete(kafka: &str, file: &str) {
    let mut last = String::new();
    let complete = until(PATIENCE, || {
        last = tool(REASSIGN, &["--bootstrap-server", kafka, "--reassignment-json-file", file, "--verify"]);
        let is_done = last.matches("is completed").count() == 2 && !last.contains("still in progress");
        is_done.then_some(())
    });
    assert!(complete.is_some(), "the reassignment does not end: {last}");
    step(format!("verify: {}", last.trim().replace('\n', " | ")));
}

#[test]
fn kafkas_own_tools_find_their_way() {
    let work = Work::new("kafka-tools");
    let minio = Minio::start(&work);
    let specs = Spec::cluster(&work, &minio.endpoint(), 3);
    let mut nodes: Vec<Highwater> = specs.iter().map(Spec::spawn).collect();
    nodes.iter_mut().for_each(Highwater::wait_ready);
    let kafka = specs.iter().map(Spec::kafka).collect::<Vec<_>>().join(",");

    step("kafka-topics --create and --describe, kafka-get-offsets");
    let created =
        ["--bootstrap-server", &kafka, "--create", "--topic", TOPIC, "--replica-assignment", "1:2,2:1"];
    assert!(tool("TopicCommand", &created).contains("Created topic tooled."));
    python("topics.py", &["fill", &kafka, TOPIC, "0", "3000"]);
    wait_described(&kafka, &["1 1,2", "2 2,1"]);
    let offsets = tool("GetOffsetShell", &["--bootstrap-server", &kafka, "--topic", TOPIC]);
    assert_eq!(offsets.lines().collect::<Vec<_>>(), ["tooled:0:3000", "tooled:1:0"]);
    let earliest = ["--bootstrap-server", &kafka, "--topic", TOPIC, "--time", "earliest"];
    assert!(tool("GetOffsetShell", &earliest).contains("tooled:0:0"));

    step("kafka-reassign-partitions --generate");
    let topics = work.join("topics.json");
    std::fs::write(&topics, json!({"version": 1, "topics": [{"topic": TOPIC}]}).to_string())
        .expect("writable");
    let path = topics.to_string_lossy();
    let generate = ["--bootstrap-server", &kafka, "--topics-to-move-json-file", &path];
    let text = tool(REASSIGN, &[&generate[..], &["--broker-list", "2,3", "--generate"]].concat());
    let proposed = text.split("Proposed partition reassignment configuration").nth(1).unwrap_or_default();
    let proposed: Value = serde_json::from_str(proposed.trim()).expect("the proposal is JSON");
    assert_eq!(proposed["partitions"].as_array().map(Vec::len), Some(2), "{proposed}");

    step("--execute, --list, --verify");
    let to_three = plan(&work.join("to-three.json"), &[[3, 2], [3, 1]]);
    let file = ["--bootstrap-server", &kafka, "--reassignment-json-file"];
    let text = tool(REASSIGN, &[&file[..], &[&to_three, "--execute"]].concat());
    assert!(text.contains("Successfully started partition reassignments for tooled-0,tooled-1"), "{text}");
    wait_complete(&kafka, &to_three);
    wait_listed(&kafka, "No partition reassignments found.");

    step("kafka-leader-election: the preferred leaders");
    let elect = ["--bootstrap-server", &kafka, "--election-type", "preferred", "--all-topic-partitions"];
    tool("LeaderElectionCommand", &elect);
    wait_described(&kafka, &["3 3,2", "3 3,1"]);

    step("a throttled move stays under way, is listed, and is taken back");
    let back = plan(&work.join("back.json"), &[[1, 2], [3, 1]]);
    let throttled = [&file[..], &[&back, "--throttle", "1000", "--execute"]].concat();
    let text = tool(REASSIGN, &throttled);
    assert!(text.contains("Successfully started partition reassignment"), "{text}");
    wait_listed(&kafka, "tooled-0: replicas: 1,2,3. adding: 1. removing: 3.");
    let text = tool(REASSIGN, &[&file[..], &[&back, "--cancel"]].concat());
    assert!(text.contains("Successfully cancelled partition reassignment for: tooled-0"), "{text}");
    wait_listed(&kafka, "No partition reassignments found.");
    // As in Kafka: what is left of the target's order, then those that were to go. Who leads is as it may be.
    let replicas = || described(&kafka).iter().map(|line| line[2..].to_owned()).collect::<Vec<String>>();
    let settled = until(PATIENCE, || (replicas() == ["2,3", "3,1"]).then_some(()));
    assert!(settled.is_some(), "{:?}", replicas());
    let told = python("topics.py", &["filled", &kafka, TOPIC, "3000"]);
    step(format!("replay: {told}"));
    for node in nodes {
        node.stop();
    }
}
