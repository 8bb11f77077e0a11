//! Kafka's own command-line tools on one node, each with its exit code and what it writes, as Apache Kafka
//! 4.3 has them. HIGHWATER_TEST_KAFKA=HOST:PORT runs the same against a fresh Apache Kafka: that is how what
//! is expected here was found.

use highwater_minio_tests::clients::kafka_tool;
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::kafka_shell::{KafkaShell, Said};
use highwater_minio_tests::process::{PATIENCE, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;
use serde_json::json;

const TOPICS: &str = "TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const GROUPS: &str = "consumer.group.ConsumerGroupCommand";
const OFFSETS: &str = "GetOffsetShell";
const TRANSACTIONS: &str = "TransactionsCommand";
const ELECTION: &str = "LeaderElectionCommand";

/// Runs a tool, which must end with 0, until it says so: a broker learns of a change some time after it is
/// made.
fn wait_said(shell: &mut KafkaShell, class: &str, arguments: &[&str], holds: impl Fn(&Said) -> bool) -> Said {
    let mut last = None;
    let told = until(PATIENCE, || {
        last = Some(shell.ends(0, class, arguments));
        last.take_if(|said| holds(said))
    });
    told.unwrap_or_else(|| panic!("{class} {arguments:?} goes on saying {last:?}"))
}

fn topics(shell: &mut KafkaShell) {
    let create = ["--create", "--topic", "tools", "--partitions", "3", "--replication-factor", "1"];
    let made = shell.ends(0, TOPICS, &[&create[..], &["--config", "retention.ms=3600000"]].concat());
    assert!(made.out.contains("Created topic tools."), "{made:?}");
    let again = shell.ends(1, TOPICS, &create);
    assert!(
        again.out.contains("Error while executing topic command : Topic 'tools' already exists."),
        "{again:?}"
    );
    shell.ends(0, TOPICS, &[&create[..], &["--if-not-exists"]].concat());
    let described = shell.ends(0, TOPICS, &["--describe", "--topic", "tools"]);
    let head = described.out.lines().next().unwrap_or_default();
    assert!(head.contains("PartitionCount: 3\tReplicationFactor: 1\tConfigs: "), "{described:?}");
    assert!(head.contains("retention.ms=3600000"), "{described:?}");
    assert_eq!(described.out.matches("Leader: 1\tReplicas: 1\tIsr: 1").count(), 3, "{described:?}");
    shell.ends(0, TOPICS, &["--alter", "--topic", "tools", "--partitions", "4"]);
    let fewer = shell.ends(1, TOPICS, &["--alter", "--topic", "tools", "--partitions", "2"]);
    assert!(fewer.out.contains("currently has 4 partition(s); 2 would not be an increase."), "{fewer:?}");
    let none = shell.ends(1, TOPICS, &["--describe", "--topic", "nope"]);
    assert!(none.out.contains("Topic 'nope' does not exist as expected"), "{none:?}");
    assert!(shell.ends(0, TOPICS, &["--list"]).out.lines().any(|line| line == "tools"));
}

fn configs(shell: &mut KafkaShell) {
    let of = ["--entity-type", "topics", "--entity-name", "tools"];
    let describe = [&["--describe"], &of[..]].concat();
    let alter = [&["--alter"], &of[..]].concat();
    let set = shell.ends(0, CONFIGS, &[&alter[..], &["--add-config", "max.message.bytes=2000000"]].concat());
    assert!(set.out.contains("Completed updating config for topic tools."), "{set:?}");
    let now = wait_said(shell, CONFIGS, &describe, |now| now.out.contains("max.message.bytes"));
    assert!(now.out.contains("Dynamic configs for topic tools are:"), "{now:?}");
    let wanted = "max.message.bytes=2000000 sensitive=false synonyms={\
                  DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000000, DEFAULT_CONFIG:message.max.bytes=1048588}";
    assert!(now.out.contains(wanted), "{now:?}");
    shell.ends(0, CONFIGS, &[&alter[..], &["--delete-config", "max.message.bytes"]].concat());
    wait_said(shell, CONFIGS, &describe, |now| !now.out.contains("max.message.bytes"));
    let bad = shell.ends(1, CONFIGS, &[&alter[..], &["--add-config", "retention.ms=never"]].concat());
    assert!(bad.err.contains("Invalid value never for configuration retention.ms"), "{bad:?}");
    let none =
        ["--alter", "--entity-type", "topics", "--entity-name", "nope", "--add-config", "retention.ms=5"];
    let none = shell.ends(1, CONFIGS, &none);
    assert!(none.err.contains("UnknownTopicOrPartitionException"), "{none:?}");
    let broker = shell.ends(0, CONFIGS, &["--describe", "--entity-type", "brokers", "--entity-name", "1"]);
    assert!(broker.out.contains("Dynamic configs for broker 1 are:"), "{broker:?}");
}

fn records(shell: &mut KafkaShell) {
    let size = ["--topic", "tools", "--record-size", "100", "--throughput", "-1"];
    let sent = shell.ends(0, "ProducerPerformance", &[&size[..], &["--num-records", "2000"]].concat());
    assert!(sent.out.contains("2000 records sent, "), "{sent:?}");
    let transactional =
        ["--num-records", "1000", "--transactional-id", "perf", "--transaction-duration-ms", "50"];
    let sent = shell.ends(0, "ProducerPerformance", &[&size[..], &transactional[..]].concat());
    assert!(sent.out.contains("1000 records sent, "), "{sent:?}");
    let read = ["--topic", "tools", "--num-records", "3000", "--timeout", "60000", "--group", "perf"];
    let read = shell.ends(0, "ConsumerPerformance", &read);
    let figures: Vec<&str> = read.out.lines().nth(1).unwrap_or_default().split(", ").collect();
    assert_eq!((figures.len(), figures.get(4)), (10, Some(&"3000")), "{read:?}");

    let keyed = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"];
    let arguments = [&["--topic", "console"], &keyed[..]].concat();
    let written = shell.run_with("ConsoleProducer", &arguments, "a:1\nb:2\nc:3\n");
    assert_eq!(written.code, 0, "{written:?}");
    let wanted = ["print.key=true", "print.offset=true", "print.partition=true"];
    let mut arguments =
        vec!["--topic", "console", "--from-beginning", "--max-messages", "3", "--group", "console"];
    arguments.extend(["--timeout-ms", "60000", "--isolation-level", "read_committed"]);
    arguments.extend(wanted.iter().flat_map(|property| ["--formatter-property", property]));
    let read = shell.ends(0, "consumer.ConsoleConsumer", &arguments);
    let lines = "Partition:0\tOffset:0\ta\t1\nPartition:0\tOffset:1\tb\t2\nPartition:0\tOffset:2\tc\t3\n";
    assert_eq!(read.out, lines, "{read:?}");
    assert!(read.err.contains("Processed a total of 3 messages"), "{read:?}");
    let rest = ["--topic", "console", "--group", "console", "--timeout-ms", "2000"];
    let rest = shell.ends(0, "consumer.ConsoleConsumer", &rest);
    assert!(rest.err.contains("Processed a total of 0 messages"), "it goes on where the group was: {rest:?}");
}

/// Of its own JVM: what it says last it says as the JVM ends.
fn verifiable_producer(kafka: &str) {
    let arguments =
        ["--bootstrap-server", kafka, "--topic", "verifiable", "--max-messages", "50", "--acks", "-1"];
    let (is_well, text) = kafka_tool("VerifiableProducer", &arguments);
    assert!(is_well, "{text}");
    assert_eq!(text.matches("\"producer_send_success\"").count(), 50, "{text}");
    let summary = text.lines().find(|line| line.contains("\"tool_data\"")).unwrap_or_default();
    assert!(summary.contains("\"sent\":50") && summary.contains("\"acked\":50"), "{text}");
}

fn verifiable_consumers(shell: &mut KafkaShell) {
    for protocol in ["classic", "consumer"] {
        let group = format!("v-{protocol}");
        let mut arguments = vec!["--topic", "verifiable", "--max-messages", "50", "--group-id", &group];
        arguments.extend(["--group-protocol", protocol]);
        let read = shell.ends(0, "VerifiableConsumer", &arguments);
        let counts =
            read.events("records_consumed").iter().map(|event| event["count"].as_u64()).sum::<Option<u64>>();
        assert_eq!(counts, Some(50), "{read:?}");
        let committed = read.events("offsets_committed");
        let last = committed.last().unwrap_or_else(|| panic!("nothing was committed: {read:?}"));
        assert_eq!((&last["success"], &last["offsets"][0]["offset"]), (&true.into(), &50.into()), "{read:?}");
        // A KIP-848 member may be told first that it has nothing yet.
        let assigned = read.events("partitions_assigned");
        let partitions = assigned.last().map(|last| last["partitions"].clone());
        assert_eq!(partitions, Some(json!([{"topic": "verifiable", "partition": 0}])), "{read:?}");
        for event in ["startup_complete", "partitions_revoked", "shutdown_complete"] {
            assert_eq!(read.events(event).len(), 1, "{event}: {read:?}");
        }
    }
}

fn offsets(shell: &mut KafkaShell) {
    let mut told = |arguments: &[&str]| shell.ends(0, OFFSETS, arguments).out.trim().to_owned();
    assert_eq!(told(&["--topic", "verifiable"]), "verifiable:0:50");
    assert_eq!(told(&["--topic", "verifiable", "--time", "latest"]), "verifiable:0:50");
    assert_eq!(told(&["--topic", "verifiable", "--time", "-2"]), "verifiable:0:0");
    assert_eq!(told(&["--topic", "verifiable", "--time", "0"]), "verifiable:0:0");
    assert!(told(&["--topic", "verifiable", "--time", "max-timestamp"]).starts_with("verifiable:0:"));
    assert_eq!(told(&["--topic-partitions", "tools:0-2", "--time", "earliest"]), "tools:0:0\ntools:1:0");
    let none = shell.ends(1, OFFSETS, &["--topic", "nope"]);
    assert!(none.err.contains("Could not match any topic-partitions with the specified filters"), "{none:?}");
}

fn groups(shell: &mut KafkaShell) {
    let listed = shell.ends(0, GROUPS, &["--list"]).out;
    for group in ["console", "perf", "v-classic", "v-consumer"] {
        assert!(listed.lines().any(|line| line == group), "{group}: {listed}");
    }
    let of_type = shell.ends(0, GROUPS, &["--list", "--type", "consumer"]);
    assert_eq!(
        of_type.out.lines().skip(1).collect::<Vec<_>>().concat().split_whitespace().count(),
        2,
        "{of_type:?}"
    );
    assert_eq!(of_type.rows("v-consumer"), [["v-consumer", "Consumer"]]);
    assert_eq!(shell.ends(0, GROUPS, &["--list", "--state"]).rows("perf"), [["perf", "Empty"]]);
    let described = shell.ends(0, GROUPS, &["--describe", "--group", "v-classic"]);
    assert_eq!(
        described.rows("v-classic"),
        [["v-classic", "verifiable", "0", "50", "50", "0", "-", "-", "-"]]
    );
    assert!(described.err.contains("Consumer group 'v-classic' has no active members."), "{described:?}");
    let state = shell.ends(0, GROUPS, &["--describe", "--group", "v-consumer", "--state"]);
    assert_eq!(state.rows("v-consumer")[0][2..], ["(1)", "uniform", "Empty", "0"], "{state:?}");
    let members = shell.ends(0, GROUPS, &["--describe", "--group", "v-consumer", "--members"]);
    assert!(members.rows("v-consumer").is_empty(), "{members:?}");
    let none = shell.run(GROUPS, &["--describe", "--group", "nope"]);
    assert!(none.out.contains("GroupIdNotFoundException: Group nope not found."), "{none:?}");
    let kinds = shell.ends(0, "GroupsCommand", &["--list"]);
    assert_eq!(kinds.rows("v-consumer"), [["v-consumer", "Consumer", "consumer"]]);
    assert_eq!(kinds.rows("console"), [["console", "Classic", "consumer"]]);
}

fn resets(shell: &mut KafkaShell, work: &Work) {
    let of = ["--reset-offsets", "--group", "v-classic", "--topic", "verifiable"];
    let mut reset = |how: &[&str], wanted: &str| {
        let done = shell.ends(0, GROUPS, &[&of[..], how].concat());
        assert_eq!(done.rows("v-classic"), [["v-classic", "verifiable", "0", wanted]], "{how:?}: {done:?}");
    };
    reset(&["--to-earliest", "--execute"], "0");
    reset(&["--to-offset", "7", "--execute"], "7");
    reset(&["--shift-by", "5", "--execute"], "12");
    reset(&["--to-offset", "3", "--dry-run"], "3");
    reset(&["--to-current", "--execute"], "12");
    reset(&["--shift-by", "-100", "--execute"], "0");
    reset(&["--to-latest", "--execute"], "50");
    reset(&["--to-datetime", "2020-01-01T00:00:00.000", "--execute"], "0");
    reset(&["--by-duration", "PT0S", "--execute"], "50");
    reset(&["--to-offset", "1000", "--execute"], "50");
    let exported = shell.ends(0, GROUPS, &[&of[..], &["--to-offset", "4", "--dry-run", "--export"]].concat());
    assert_eq!(exported.out.trim(), "verifiable,0,4");
    let plan = work.join("plan.csv");
    std::fs::write(&plan, &exported.out).expect("the work directory is writable");
    let plan = plan.to_string_lossy();
    let from = ["--reset-offsets", "--group", "v-classic", "--from-file", &plan, "--execute"];
    assert_eq!(shell.ends(0, GROUPS, &from).rows("v-classic"), [["v-classic", "verifiable", "0", "4"]]);
    let described = shell.ends(0, GROUPS, &["--describe", "--group", "v-classic"]);
    assert_eq!(described.rows("v-classic")[0][3..6], ["4", "50", "46"], "{described:?}");
    let every = shell.ends(
        0,
        GROUPS,
        &["--reset-offsets", "--all-groups", "--all-topics", "--to-earliest", "--execute"],
    );
    assert_eq!(every.rows("perf").len(), 4, "{every:?}");
    let deleted =
        shell.ends(0, GROUPS, &["--delete-offsets", "--group", "v-classic", "--topic", "verifiable"]);
    assert_eq!(deleted.rows("verifiable"), [["verifiable", "0", "Successful"]]);
    let deleted = shell.run(GROUPS, &["--delete", "--group", "v-classic", "--group", "nope"]);
    assert!(deleted.out.contains("Group 'nope' could not be deleted due to: "), "{deleted:?}");
    assert!(deleted.out.contains("GroupIdNotFoundException"), "{deleted:?}");
    assert!(
        deleted.out.contains("These consumer groups were deleted successfully: 'v-classic'"),
        "{deleted:?}"
    );
}

fn transactions(shell: &mut KafkaShell) {
    let listed = shell.ends(0, TRANSACTIONS, &["list"]).rows("perf");
    assert_eq!((listed.len(), &*listed[0][1], &*listed[0][3]), (1, "1", "CompleteCommit"), "{listed:?}");
    let described = shell.ends(0, TRANSACTIONS, &["describe", "--transactional-id", "perf"]);
    let row = &described.rows("1")[0];
    assert_eq!((&*row[1], &*row[4], &*row[5]), ("perf", "CompleteCommit", "60000"), "{described:?}");
    let none = shell.ends(1, TRANSACTIONS, &["describe", "--transactional-id", "nope"]);
    assert!(none.err.contains("failed because the ID could not be found"), "{none:?}");
    let mut producers = 0;
    for partition in ["0", "1", "2", "3"] {
        let of = ["describe-producers", "--topic", "tools", "--partition", partition];
        let told = shell.ends(0, TRANSACTIONS, &of);
        let rows: Vec<&str> = told.out.lines().skip(1).collect();
        assert!(rows.iter().all(|row| row.contains("None")), "no transaction is open: {told:?}");
        producers += rows.len();
    }
    assert!(
        producers >= 2,
        "one that is transactional and one that is not, wherever they wrote: {producers}"
    );
    let hanging = shell.ends(0, TRANSACTIONS, &["find-hanging", "--broker-id", "1"]);
    assert_eq!(hanging.out.lines().count(), 1, "only the heading: {hanging:?}");
}

fn leaders_records_and_dirs(shell: &mut KafkaShell, work: &Work) {
    for kind in ["preferred", "unclean"] {
        let elect = ["--election-type", kind, "--topic", "verifiable", "--partition", "0"];
        let told = shell.ends(0, ELECTION, &elect);
        assert!(told.out.contains("Valid replica already elected for partitions verifiable-0"), "{told:?}");
    }
    let none = ["--election-type", "preferred", "--topic", "nope", "--partition", "0"];
    let none = shell.ends(1, ELECTION, &none);
    assert!(
        none.out.contains("Error completing leader election (PREFERRED) for partition: nope-0"),
        "{none:?}"
    );
    assert!(none.err.contains("1 replica(s) could not be elected"), "{none:?}");
    let plan = work.join("delete.json");
    let entry = json!({"topic": "verifiable", "partition": 0, "offset": 10});
    std::fs::write(&plan, json!({"version": 1, "partitions": [entry]}).to_string()).expect("writable");
    let done = shell.ends(0, "DeleteRecordsCommand", &["--offset-json-file", &plan.to_string_lossy()]);
    assert!(done.out.contains("partition: verifiable-0\tlow_watermark: 10"), "{done:?}");
    let earliest = shell.ends(0, OFFSETS, &["--topic", "verifiable", "--time", "earliest"]);
    assert_eq!(earliest.out.trim(), "verifiable:0:10");
    let dirs = shell.ends(0, "LogDirsCommand", &["--describe", "--topic-list", "verifiable"]);
    assert!(dirs.out.contains("Received log directory information from brokers 1"), "{dirs:?}");
    assert!(dirs.out.contains("\"partition\":\"verifiable-0\""), "{dirs:?}");
    let versions = shell.ends(0, "BrokerApiVersionsCommand", &[]);
    assert!(versions.out.contains("Produce(0): 0 to 13 [usable: 13]"), "{versions:?}");
    shell.ends(0, TOPICS, &["--delete", "--topic", "tools"]);
    let gone = shell.ends(1, TOPICS, &["--delete", "--topic", "tools"]);
    assert!(gone.out.contains("Topic 'tools' does not exist as expected"), "{gone:?}");
}

#[test]
fn kafkas_command_line_says_what_it_says_to_kafka() {
    let work = Work::new("kafka-commands");
    let other = std::env::var("HIGHWATER_TEST_KAFKA").ok();
    let node = other
        .is_none()
        .then(|| Spec::embedded(&work).flag("group-initial-rebalance-delay-ms", "0ms").start());
    let kafka = other.unwrap_or_else(|| node.as_ref().expect("it was started").kafka());
    let mut shell = KafkaShell::start(&kafka);
    step("kafka-topics");
    topics(&mut shell);
    step("kafka-configs");
    configs(&mut shell);
    step(
        "kafka-producer-perf-test, kafka-consumer-perf-test, kafka-console-producer, kafka-console-consumer",
    );
    records(&mut shell);
    step("kafka-verifiable-producer, kafka-verifiable-consumer");
    verifiable_producer(&kafka);
    verifiable_consumers(&mut shell);
    step("kafka-get-offsets");
    offsets(&mut shell);
    step("kafka-consumer-groups, kafka-groups");
    groups(&mut shell);
    resets(&mut shell, &work);
    step("kafka-transactions");
    transactions(&mut shell);
    step("kafka-leader-election, kafka-delete-records, kafka-log-dirs, kafka-broker-api-versions");
    leaders_records_and_dirs(&mut shell, &work);
    if let Some(node) = node {
        node.stop();
    }
}
