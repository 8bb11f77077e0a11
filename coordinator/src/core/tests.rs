//! The state machine held by transcripts (`tests/golden/*.txt`: commands in, answers and state out) and by
//! random commands against a naive reference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::manifest::{Edit, EditRequest, EpochStart, ObjectEntry};
use uuid::Uuid;

use super::*;

mod balance;
mod delta;
mod fixtures;
mod random;
mod sessions;
mod switching;

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
        match line.split_once(' ').unwrap_or((line, "")) {
            ("state", _) => return show(&self.state),
            ("plan", _) => return self.plan(),
            ("at", ms) => {
                self.clock_ms = ms.parse().expect("a number");
                return String::new();
            }
            _ => {}
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
            "register" => Command::RegisterBroker(registration(&words)),
            "fence" | "stop" => self.parse_fence(&words),
            "drain" => Command::DrainBroker {
                node_id: number(1) as NodeId,
                is_draining: words.get(2) != Some(&"off"),
            },
            "remove" => Command::RemoveBroker { node_id: number(1) as NodeId },
            "throttle" => Command::AlterBrokerConfigs {
                node_id: words[1].parse().ok(),
                ops: words[2..].chunks(2).map(|op| config_op(op[0], op[1])).collect(),
            },
            "isr" | "elect" | "damaged" | "resign" | "reassign" | "move" | "raft-leader" | "raft-begin"
            | "raft-end" => self.parse_partition(&words),
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

    /// What `plan_moves` says now, and what becomes of it.
    fn plan(&mut self) -> String {
        let mut out = String::new();
        for command in plan_moves(&self.state, &Loads::default(), &SETTINGS, self.clock_ms) {
            let told = match &command {
                Command::MovePartition { tp, replicas: Some(replicas) } => {
                    format!("move {} {replicas:?}", self.place(*tp))
                }
                Command::MovePartition { tp, replicas: None } => format!("move {} cancel", self.place(*tp)),
                Command::ElectLeader { tp, .. } => format!("elect {} preferred", self.place(*tp)),
                other => panic!("not for a plan: {other:?}"),
            };
            self.apply(command).unwrap_or_else(|refusal| panic!("{told}: {refusal}"));
            writeln!(out, "{told}").expect("text");
        }
        if out.is_empty() { "nothing to do\n".into() } else { out }
    }

    fn place(&self, tp: TopicPartition) -> String {
        format!("{} {}", self.state.topic(tp.topic_id).expect("there").name, tp.partition)
    }

    /// `fence NODE [EPOCH]`; the epoch of now where none is given.
    fn parse_fence(&self, words: &[&str]) -> Command {
        let node_id: NodeId = words[1].parse().expect("a node");
        let broker_epoch = match words.get(2) {
            Some(epoch) => epoch.parse().expect("an epoch"),
            None => self.epoch_of(node_id),
        };
        match words[0] {
            "fence" => Command::FenceBroker { node_id, broker_epoch },
            _ => Command::StopBroker { node_id, broker_epoch },
        }
    }

    fn epoch_of(&self, node: NodeId) -> u64 {
        self.state.brokers.get(&node).map_or(0, |broker| broker.epoch)
    }

    /// Commands about `NAME PARTITION`; who asks and the epochs are those of now unless `by`, `leader-epoch`
    /// and `epoch` say otherwise. A node of an in-sync set may be written `NODE@EPOCH`.
    fn parse_partition(&self, words: &[&str]) -> Command {
        let tp = TopicPartition::new(self.id(words[1]), words[2].parse().expect("a number"));
        let given = pairs(&words[3..]);
        let known = self.state.partition(tp);
        let given = |name: &str| given.get(name).map(|text| text.parse::<i64>().expect("a number"));
        let leader = known.and_then(|p| p.leader).unwrap_or(99);
        let node_id = given("by").map_or(leader, |node| node as NodeId);
        let broker_epoch = given("broker-epoch").map_or(self.epoch_of(node_id), |epoch| epoch as u64);
        let leader_epoch = given("leader-epoch").map(|e| e as i32);
        let leader_epoch = leader_epoch.unwrap_or(known.map_or(0, |p| p.leader_epoch));
        let partition_epoch = given("epoch").map(|e| e as i32);
        let partition_epoch = partition_epoch.unwrap_or(known.map_or(0, |p| p.partition_epoch));
        let nodes = || words[3].split(',').filter_map(|node| node.parse().ok()).collect::<Vec<NodeId>>();
        match words[0] {
            "isr" => Command::AlterPartition(AlterPartition {
                tp,
                node_id,
                broker_epoch,
                leader_epoch,
                partition_epoch,
                isr: words[3].split(',').map(|text| self.parse_member(text)).collect(),
            }),
            "damaged" => Command::LogDamaged(DamagedLog { tp, node_id, broker_epoch, leader_epoch }),
            "resign" => Command::ResignLeader(Resignation { tp, node_id, broker_epoch, leader_epoch }),
            "elect" if words[3] == "preferred" => Command::ElectLeader { tp, kind: ElectionKind::Preferred },
            "elect" => Command::ElectLeader { tp, kind: ElectionKind::Unclean },
            "move" => Command::MovePartition { tp, replicas: Some(nodes()) },
            "reassign" if words[3] == "cancel" => Command::Reassign { tp, replicas: None },
            "reassign" => Command::Reassign { tp, replicas: Some(nodes()) },
            "raft-leader" => {
                let term = given("term").expect("a term") as i32;
                Command::RaftLeader(RaftLeader {
                    tp,
                    node_id,
                    broker_epoch,
                    term,
                    voters: nodes(),
                    partition_epoch: Some(partition_epoch),
                })
            }
            "raft-begin" => {
                let start_offset = given("offset").expect("an offset");
                Command::RaftBegin { tp, node_id, broker_epoch, leader_epoch, partition_epoch, start_offset }
            }
            _ => {
                let term = given("term").expect("a term") as i32;
                Command::RaftEnd { tp, node_id, broker_epoch, term, partition_epoch, isr: nodes() }
            }
        }
    }

    fn parse_member(&self, text: &str) -> IsrMember {
        let (node, epoch) = text.split_once('@').unwrap_or((text, ""));
        let node_id = node.parse().expect("a node");
        IsrMember { node_id, broker_epoch: epoch.parse().unwrap_or(self.epoch_of(node_id)) }
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

const SETTINGS: BalanceSettings =
    BalanceSettings { dead_timeout_ms: 60_000, moves_max: 4, elections_max: 10, settle_ms: 1_000 };

/// `register NODE INCARNATION [rack=R] [clean=EPOCH] [storage=N]`.
fn registration(words: &[&str]) -> BrokerRegistration {
    let given = pairs(&words[3..]);
    let number = |name: &str| given.get(name).map(|text| text.parse::<u64>().expect("a number"));
    BrokerRegistration {
        node_id: words[1].parse().expect("a node"),
        incarnation: Uuid::from_u128(words[2].parse().expect("a number")),
        host: format!("host-{}", words[1]),
        port: 9092,
        rack: given.get("rack").cloned(),
        grpc: format!("host-{}:9093", words[1]),
        storage: Uuid::from_u128(u128::from(number("storage").unwrap_or(0))),
        clean_stop_of: number("clean"),
    }
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
        write!(out, "broker {} epoch {} at {}:{}", broker.node_id, broker.epoch, broker.host, broker.port)
            .expect("text");
        if let Some(rack) = &broker.rack {
            write!(out, " rack {rack}").expect("text");
        }
        out.push_str(if broker.is_fenced { " fenced" } else { "" });
        out.push_str(if broker.is_draining { " draining\n" } else { "\n" });
    }
    if !state.broker_configs.is_empty() {
        let BrokerConfigs { all, of } = state.broker_configs.as_ref();
        writeln!(out, "settings of all brokers {all:?}, of single ones {of:?}").expect("text");
    }
    for topic in state.topics_by_name() {
        writeln!(out, "topic {} replicas {} {:?}", topic.name, topic.replication_factor, topic.overrides)
            .expect("text");
        for (number, p) in topic.partitions.iter().enumerate() {
            let (m, leader) = (&p.manifest, p.leader.map_or("none".into(), |node| node.to_string()));
            writeln!(
                out,
                "  {number} leader {leader} epoch {}/{} replicas {:?}{} manifest v{} g{} {}..{} {} objects",
                p.leader_epoch,
                p.partition_epoch,
                p.replicas,
                sets(p),
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

/// What of a partition is not as it usually is.
fn sets(p: &Partition) -> String {
    let mut out = String::new();
    let mut set = |name: &str, nodes: &[NodeId], usual: &[NodeId]| {
        if nodes != usual {
            write!(out, " {name} {nodes:?}").expect("text");
        }
    };
    set("isr", &p.isr, &p.replicas);
    set("elr", &p.elr, &[]);
    set("lost", &p.lost, &[]);
    set("adding", &p.adding, &[]);
    set("removing", &p.removing, &[]);
    out.push_str(if p.is_pinned { " pinned" } else { "" });
    if let Some(last) = p.last_known_leader {
        write!(out, " last leader {last}").expect("text");
    }
    if let Some(group) = &p.raft {
        let RaftGroup { since_epoch, start_offset, voters } = group;
        write!(out, " raft since {since_epoch} from {start_offset} by {voters:?}").expect("text");
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
        let (mut notebook, mut sessions) = (Notebook::default(), sessions::Notebook::default());
        let is_sessions = path.ends_with("sessions.txt");
        let mut out = String::new();
        for line in text.lines().filter(|line| line.starts_with(['>', '#'])) {
            writeln!(out, "{line}").expect("text");
            match line.strip_prefix("> ") {
                Some(event) if is_sessions => out.push_str(&sessions.line(event)),
                Some(command) => out.push_str(&notebook.line(command)),
                None => {}
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &out).expect("written");
        } else {
            assert_eq!(text, out, "{}; UPDATE_GOLDEN=1 rewrites it", path.display());
        }
        found += 1;
    }
    assert!(found >= 11, "the transcripts were not found");
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
