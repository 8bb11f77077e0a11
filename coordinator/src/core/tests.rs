//! The state machine held by transcripts (`tests/golden/*.txt`: commands in, answers and state out) and by
//! random commands against a naive reference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::manifest::{Edit, EditRequest, EpochStart, ObjectEntry};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// A state and the names that a transcript gives to topics.
#[derive(Default)]
struct Notebook {
    state: ClusterState,
    ids: BTreeMap<String, TopicId>,
    created: u128,
    clock_ms: i64,
}

impl Notebook {
    fn apply(&mut self, command: Command) -> Result<Reply, Refusal> {
        self.clock_ms += 1;
        let batch = Batch { rules: RULES_VERSION, at_ms: self.clock_ms, commands: vec![command] };
        let answer = self.state.apply_batch(&batch).pop().expect("one answer");
        self.state.check().expect("the state is whole after every command");
        answer
    }

    fn id(&self, name: &str) -> TopicId {
        self.ids.get(name).copied().unwrap_or(TopicId(Uuid::from_u128(0xdead)))
    }

    /// Runs one line of a transcript; what it answers is the text.
    fn line(&mut self, line: &str) -> String {
        if line == "state" {
            return show(&self.state);
        }
        match self.apply(self.parse(line)) {
            Ok(Reply::TopicCreated(created)) => {
                let name = line.split(' ').nth(1).expect("a name");
                self.created += 1;
                self.ids.insert(name.to_string(), created.topic_id);
                format!("created partitions={} replicas={}\n", created.partitions, created.replication_factor)
            }
            Ok(reply) => format!("{reply:?}\n"),
            Err(refusal) => format!("refused ({}): {refusal}\n", refusal.kafka_error_code()),
        }
    }

    fn parse(&self, line: &str) -> Command {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        match words[0] {
            "form" => Command::FormCluster { cluster_id: words[1].into(), members: BTreeMap::new() },
            "register" => Command::RegisterBroker(BrokerRegistration {
                node_id: number(1) as NodeId,
                incarnation: Uuid::from_u128(number(2) as u128),
                host: format!("host-{}", words[1]),
                port: 9092,
                ..BrokerRegistration::default()
            }),
            "create" => Command::CreateTopic(self.parse_create(&words)),
            "delete" => Command::DeleteTopic { topic_id: self.id(words[1]) },
            "swept" => Command::SweptTopic { topic_id: self.id(words[1]) },
            "partitions" => Command::CreatePartitions {
                topic_id: self.id(words[1]),
                count: number(2) as i32,
                assignments: words.get(3).map_or(Vec::new(), |text| assignments(text)),
            },
            "replace" => {
                Command::ReplaceConfigs { topic_id: self.id(words[1]), overrides: pairs(&words[2..]) }
            }
            "alter" => Command::AlterConfigs {
                topic_id: self.id(words[1]),
                ops: words[2..].chunks(2).map(|op| config_op(op[0], op[1])).collect(),
            },
            "ids" => Command::AllocateProducerIds { count: number(1) as u32 },
            "publish" | "prune" => self.parse_edit(&words),
            other => panic!("no such command: {other}"),
        }
    }

    fn parse_create(&self, words: &[&str]) -> NewTopic {
        let mut configs = pairs(&words[2..]);
        let mut take = |name: &str| configs.remove(name);
        let number = |text: Option<String>| text.map_or(1, |text| text.parse::<i32>().expect("a number"));
        NewTopic {
            topic_id: TopicId(Uuid::from_u128(self.created + 1)),
            name: words[1].into(),
            partitions: number(take("partitions")),
            replication_factor: number(take("replicas")) as i16,
            assignments: take("assign").map_or(Vec::new(), |text| assignments(&text)),
            configs,
        }
    }

    /// `publish NAME PARTITION EPOCH VERSION START END` and `prune NAME PARTITION EPOCH VERSION LOG_START`.
    fn parse_edit(&self, words: &[&str]) -> Command {
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let tp = TopicPartition::new(self.id(words[1]), number(2) as i32);
        let edit = match words[0] {
            "publish" => publish(number(3) as i32, number(5), number(6)),
            _ => Edit::Prune { log_start: number(5), head: Vec::new() },
        };
        let request =
            EditRequest { leader_epoch: number(3) as i32, expected_version: number(4) as u64, edit };
        Command::EditManifest { tp, request }
    }
}

/// An object over `start..end`, one record for each offset.
pub(crate) fn publish(epoch: i32, start: i64, end: i64) -> Edit {
    let records = (end - start).max(0) as u64;
    let object = ObjectEntry {
        start,
        end,
        epoch,
        upload_id: Uuid::from_u128(((start as u128) << 64) | end as u128),
        bytes: 100 * records.max(1),
        footer_bytes: 10,
        raw_bytes: 500 * records,
        records,
        min_timestamp: start,
        max_timestamp: end,
        crc32c: 7,
    };
    Edit::Publish { object, epochs: vec![EpochStart { epoch, start_offset: start }] }
}

/// `1,2;2,3`: partitions by semicolon, replicas by comma.
fn assignments(text: &str) -> Vec<Vec<NodeId>> {
    let replicas = |text: &str| text.split(',').filter_map(|node| node.parse().ok()).collect();
    text.split(';').map(replicas).collect()
}

fn pairs(words: &[&str]) -> BTreeMap<String, String> {
    let pair = |word: &&str| word.split_once('=').map(|(k, v)| (k.to_string(), v.to_string()));
    words.iter().filter_map(pair).collect()
}

fn config_op(verb: &str, pair: &str) -> ConfigOp {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let value = value.to_string();
    let op = match verb {
        "set" => ConfigOpKind::Set(value),
        "append" => ConfigOpKind::Append(value),
        "subtract" => ConfigOpKind::Subtract(value),
        _ => ConfigOpKind::Delete,
    };
    ConfigOp { name: name.into(), op }
}

fn show(state: &ClusterState) -> String {
    let mut out = format!("cluster {:?} version {}\n", state.cluster_id, state.version);
    for broker in state.brokers.values() {
        writeln!(out, "broker {} epoch {} at {}:{}", broker.node_id, broker.epoch, broker.host, broker.port)
            .expect("text");
    }
    for topic in state.topics_by_name() {
        writeln!(out, "topic {} replicas {} {:?}", topic.name, topic.replication_factor, topic.overrides)
            .expect("text");
        for (number, p) in topic.partitions.iter().enumerate() {
            let (m, leader) = (&p.manifest, p.leader.map_or("none".into(), |node| node.to_string()));
            writeln!(
                out,
                "  {number} leader {leader} epoch {}/{} replicas {:?} manifest v{} g{} {}..{} {} objects",
                p.leader_epoch,
                p.partition_epoch,
                p.replicas,
                m.version,
                m.generation,
                m.log_start,
                m.tiered_end,
                m.totals.objects
            )
            .expect("text");
        }
    }
    for topic in state.deleted.values() {
        writeln!(out, "deleted {} with {} manifests", topic.name, topic.manifests.len()).expect("text");
    }
    out
}

#[test]
fn transcripts_read_as_written() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found = 0;
    for entry in std::fs::read_dir(&dir).expect("golden transcripts") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let (mut notebook, mut out) = (Notebook::default(), String::new());
        for line in text.lines().filter(|line| line.starts_with(['>', '#'])) {
            writeln!(out, "{line}").expect("text");
            if let Some(command) = line.strip_prefix("> ") {
                out.push_str(&notebook.line(command));
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &out).expect("written");
        } else {
            assert_eq!(text, out, "{}; UPDATE_GOLDEN=1 rewrites it", path.display());
        }
        found += 1;
    }
    assert!(found >= 4, "the transcripts were not found");
}

fn command() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b.c", "b_c", "d", "e", "..", "f/g"]);
    let config = prop::sample::select(vec![
        "retention.ms=1000",
        "retention.ms=-2",
        "cleanup.policy=compact",
        "local.retention.ms=5000",
        "nope=1",
    ]);
    prop_oneof![
        2 => (0..4u32, 0..3u32).prop_map(|(node, incarnation)| format!("register {node} {incarnation}")),
        4 => (name.clone(), -1..4i32, 0..3i32, config.clone())
            .prop_map(|(name, p, r, c)| format!("create {name} partitions={p} replicas={r} {c}")),
        1 => (name.clone(), "[0-3](,[0-3]){0,2}(;[0-3](,[0-3]){0,2}){0,2}")
            .prop_map(|(name, text)| format!("create {name} assign={text}")),
        2 => (name.clone(), 0..6i32).prop_map(|(name, count)| format!("partitions {name} {count}")),
        2 => (name.clone(), config.clone()).prop_map(|(name, c)| format!("replace {name} {c}")),
        2 => (name.clone(), prop::sample::select(vec!["set", "delete", "append", "subtract"]), config)
            .prop_map(|(name, verb, c)| format!("alter {name} {verb} {c}")),
        1 => name.clone().prop_map(|name| format!("delete {name}")),
        1 => name.clone().prop_map(|name| format!("swept {name}")),
        1 => (0..2000u32).prop_map(|count| format!("ids {count}")),
        6 => (name.clone(), 0..3i32, 0..3i32, 0..4u64, 0..3i64, 1..5i64).prop_map(
            |(name, partition, epoch, version, start, length)| format!(
                "publish {name} {partition} {epoch} {version} {start} {}", start + length)),
        2 => (name, 0..3i32, 0..3i32, 0..4u64, 0..9i64).prop_map(
            |(name, partition, epoch, version, at)| format!("prune {name} {partition} {epoch} {version} {at}")),
    ]
}

/// What a reader must find after each command, kept by other means.
#[derive(Default)]
struct Reference {
    partitions: BTreeMap<String, usize>,
    epochs: BTreeMap<TopicPartition, (i32, i32)>,
    producer_ids_end: i64,
}

impl Reference {
    fn follow(&mut self, line: &str, answer: &Result<Reply, Refusal>, state: &ClusterState) {
        let words: Vec<&str> = line.split(' ').collect();
        match (words[0], answer) {
            ("create", Ok(Reply::TopicCreated(created))) => {
                let before = self.partitions.insert(words[1].into(), created.partitions as usize);
                assert_eq!(before, None, "created once");
            }
            ("partitions", Ok(_)) => {
                self.partitions.insert(words[1].into(), words[2].parse().expect("a number"));
            }
            ("delete", Ok(_)) => {
                self.partitions.remove(words[1]).expect("deleted topics were there");
            }
            ("ids", Ok(Reply::ProducerIds { start, end })) => {
                assert_eq!(*start, self.producer_ids_end, "dense and never twice");
                self.producer_ids_end = *end;
            }
            _ => {}
        }
        let found: BTreeMap<String, usize> =
            state.topics_by_name().map(|topic| (topic.name.clone(), topic.partitions.len())).collect();
        assert_eq!(found, self.partitions);
        for topic in state.topics.values() {
            assert!(state.topic_by_name(&topic.name).is_some_and(|found| found.id == topic.id));
            for (number, p) in topic.partitions.iter().enumerate() {
                let tp = TopicPartition::new(topic.id, number as i32);
                let now = (p.leader_epoch, p.manifest.generation);
                let before = self.epochs.insert(tp, now).unwrap_or((0, -1));
                assert!(before.0 <= now.0 && before.1 <= now.1, "epochs and generations only grow");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_commands_keep_the_state_whole(lines in prop::collection::vec(command(), 1..60)) {
        let mut notebook = Notebook::default();
        let mut reference = Reference::default();
        let mut replay = ClusterState::default();
        let form = ["form random", "register 1 9", "register 2 9"].map(String::from);
        for line in form.iter().chain(&lines) {
            let before = notebook.state.clone();
            let parsed = notebook.parse(line);
            let answer = notebook.apply(parsed.clone());
            if let Ok(Reply::TopicCreated(created)) = &answer {
                notebook.created += 1;
                notebook.ids.insert(line.split(' ').nth(1).expect("a name").into(), created.topic_id);
            }
            match &answer {
                Ok(_) => prop_assert!(notebook.state.version >= before.version),
                Err(_) => prop_assert_eq!(&notebook.state, &before, "a refusal changes nothing"),
            }
            reference.follow(line, &answer, &notebook.state);
            // The same entry gives the same answer and state on another node.
            let batch = Batch { rules: RULES_VERSION, at_ms: notebook.clock_ms, commands: vec![parsed] };
            let stored = serde_json::to_vec(&batch).expect("stored");
            let batch: Batch = serde_json::from_slice(&stored).expect("read back");
            prop_assert_eq!(replay.apply_batch(&batch), vec![answer]);
        }
        prop_assert_eq!(&replay, &notebook.state);
        let snapshot = serde_json::to_vec(&notebook.state).expect("stored");
        let loaded: ClusterState = serde_json::from_slice(&snapshot).expect("read back");
        prop_assert_eq!(loaded, notebook.state);
    }

    #[test]
    fn estimates_bound_what_is_stored(line in command()) {
        let command = Notebook::default().parse(&line);
        let stored = serde_json::to_vec(&command).expect("stored").len();
        prop_assert!(stored <= 2 * command.bytes_estimate(), "{} {}", stored, command.bytes_estimate());
    }
}

#[test]
fn a_stored_state_that_breaks_a_rule_is_refused() {
    let mut notebook = Notebook::default();
    for line in ["form c", "register 1 1", "create a partitions=1 replicas=1"] {
        assert!(!notebook.line(line).starts_with("refused"));
    }
    let good = serde_json::to_string(&notebook.state).expect("stored");
    serde_json::from_str::<ClusterState>(&good).expect("whole");
    for (from, to) in [
        ("\"format\":2,\"cluster_id\"", "\"format\":3,\"cluster_id\""),
        ("\"isr\":[1]", "\"isr\":[2]"),
        ("\"leader_epoch\":0", "\"leader_epoch\":-1"),
        ("\"tiered_end\":0", "\"tiered_end\":-5"),
        ("\"overrides\":{}", "\"overrides\":{\"nope\":\"1\"}"),
        ("\"cluster_id\":\"c\"", "\"cluster_id\":\"\""),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        let bad = good.replace(from, to);
        assert!(serde_json::from_str::<ClusterState>(&bad).is_err(), "{to}");
    }
}
