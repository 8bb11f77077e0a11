//! What may be asked of the control plane, and what it answers. Commands are stored
//! (Raft log) and so is their JSON form (docs/format.md, "Raft log"): fields are added with defaults, never
//! changed in meaning.

use std::collections::BTreeMap;

use highwater_model::{LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};
use highwater_tiering::core::manifest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the rules by which `decide` judges. A release whose `decide` would judge an old entry otherwise
/// raises it and keeps judging older entries by the older rules, or replicas and restarts would disagree.
///
/// 1: one node; brokers are never fenced, replicas go round the brokers. 2: sessions, elections, in-sync
/// sets, reassignment, placement (ADR 0012). 3: settings of brokers, leaders with damaged logs. 4: leaders
/// that resign, and who is eligible after a Raft group.
pub const RULES_VERSION: u16 = 4;

/// What one Raft entry carries: commands that were waiting together, applied in order, each on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// See [`RULES_VERSION`].
    pub rules: u16,
    /// The proposer's clock, Unix ms. Decides when, never whether it is correct (invariant 17).
    pub at_ms: i64,
    pub commands: Vec<Command>,
}

/// One request to the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The first command of a cluster: its name for life.
    FormCluster {
        cluster_id: String,
        /// Storage ids of the coordinators; empty in a cluster of one node.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        members: BTreeMap<NodeId, Uuid>,
    },
    /// A broker process announces itself, and is unfenced at once. Fences the process that had its node id
    /// before: the leader epoch of every partition that it leads is raised. After an unclean stop it leaves
    /// the in-sync sets. The same incarnation again changes nothing unless it had been fenced.
    RegisterBroker(BrokerRegistration),
    /// The broker's session has lapsed: it leads no more and leaves the in-sync sets.
    FenceBroker {
        node_id: NodeId,
        /// The epoch whose session lapsed; a broker that has registered since is left alone.
        broker_epoch: u64,
    },
    /// The broker is about to stop, in order: as `FenceBroker`, asked for by the broker itself.
    StopBroker {
        node_id: NodeId,
        broker_epoch: u64,
    },
    /// Whether the broker gives its replicas away and gets no new ones.
    DrainBroker {
        node_id: NodeId,
        is_draining: bool,
    },
    /// Forgets a broker that is fenced and has no replica.
    RemoveBroker {
        node_id: NodeId,
    },
    /// Changes settings of one broker, or of all of them, in order (KIP-226, KIP-339).
    AlterBrokerConfigs {
        node_id: Option<NodeId>,
        ops: Vec<ConfigOp>,
    },
    /// The leader of a partition changes its in-sync set (KIP-497).
    AlterPartition(AlterPartition),
    /// A replica has lost part of what was durable in its log: it is not to be counted on, nor to lead.
    LogDamaged(DamagedLog),
    /// A leader that can take no appends for lack of room gives its place to another in-sync replica.
    ResignLeader(Resignation),
    ElectLeader {
        tp: TopicPartition,
        kind: ElectionKind,
    },
    /// Moves a partition to these replicas, the preferred leader first; none takes back a move that is under
    /// way (KIP-455).
    Reassign {
        tp: TopicPartition,
        replicas: Option<Vec<NodeId>>,
    },
    /// As `Reassign`, but planned: what an operator placed by hand is moved only where it has to be.
    MovePartition {
        tp: TopicPartition,
        replicas: Option<Vec<NodeId>>,
    },
    /// A member of a partition's Raft group reports that it leads, in which term, and who votes.
    RaftLeader(RaftLeader),
    /// The leader of a fetch partition whose topic asks for raft hands it over to a Raft group: it has
    /// stopped appending, and all in-sync replicas have exactly the records below `start_offset`.
    RaftBegin {
        tp: TopicPartition,
        node_id: NodeId,
        broker_epoch: u64,
        leader_epoch: LeaderEpoch,
        partition_epoch: i32,
        start_offset: Offset,
    },
    /// The leader of a Raft group whose topic asks for fetch hands the partition back: the group has
    /// committed its last entry, and `isr` have it.
    RaftEnd {
        tp: TopicPartition,
        node_id: NodeId,
        broker_epoch: u64,
        term: LeaderEpoch,
        /// The record that this was decided by: with another one the leader may have gone on appending.
        partition_epoch: i32,
        isr: Vec<NodeId>,
    },
    CreateTopic(NewTopic),
    DeleteTopic {
        topic_id: TopicId,
    },
    /// Grows a topic to `count` partitions in all; `assignments` names the replicas of each new one, or is
    /// empty.
    CreatePartitions {
        topic_id: TopicId,
        count: i32,
        assignments: Vec<Vec<NodeId>>,
    },
    /// Puts `overrides` in the place of all overrides of the topic.
    ReplaceConfigs {
        topic_id: TopicId,
        overrides: BTreeMap<String, String>,
    },
    /// Changes single overrides, in order (KIP-339).
    AlterConfigs {
        topic_id: TopicId,
        ops: Vec<ConfigOp>,
    },
    EditManifest {
        tp: TopicPartition,
        request: manifest::EditRequest,
    },
    /// Hands out `count` producer ids, never used before.
    AllocateProducerIds {
        count: u32,
    },
    /// The objects of a deleted topic are gone from the bucket; forget it.
    SweptTopic {
        topic_id: TopicId,
    },
}

/// How a broker process announces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    pub node_id: NodeId,
    /// Made anew by each process; tells a retry from a restart.
    pub incarnation: Uuid,
    /// The advertised Kafka address.
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub rack: Option<String>,
    /// Its gRPC address, `HOST:PORT`; empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grpc: String,
    /// Names its data directory for life; nil where unknown.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    pub storage: Uuid,
    /// The broker epoch whose clean-stop token the data directory holds. If it is not that of the process
    /// before, the logs may lack what was in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_stop_of: Option<u64>,
}

/// A leader's wish for its partition's in-sync set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    pub tp: TopicPartition,
    /// The asker, which leads in `leader_epoch`.
    pub node_id: NodeId,
    pub broker_epoch: u64,
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch that the wish is based on.
    pub partition_epoch: i32,
    /// The whole set, the leader in it.
    pub isr: Vec<IsrMember>,
}

/// A replica whose log is damaged below what it had synced. As a leader it takes no appends, and serves no
/// followers, who may have more than it has by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedLog {
    pub tp: TopicPartition,
    /// The asker.
    pub node_id: NodeId,
    pub broker_epoch: u64,
    /// That of the record which the asker knows.
    pub leader_epoch: LeaderEpoch,
}

/// A leader whose disk is full. Its log is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resignation {
    pub tp: TopicPartition,
    /// The asker, which leads in `leader_epoch`.
    pub node_id: NodeId,
    pub broker_epoch: u64,
    pub leader_epoch: LeaderEpoch,
}

/// A replica that the leader holds to be in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    pub node_id: NodeId,
    /// The epoch with which it fetched (KIP-903); one that has restarted since is refused.
    pub broker_epoch: u64,
}

/// Which leader is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElectionKind {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica that is there, where nobody leads: may lose records. An operator's last resort.
    Unclean,
}

/// Leadership of a raft partition, as its group has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftLeader {
    pub tp: TopicPartition,
    pub node_id: NodeId,
    pub broker_epoch: u64,
    /// Becomes the leader epoch.
    pub term: LeaderEpoch,
    /// The group's voters of now; empty leaves them as they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<NodeId>,
    /// The record that the leader goes by. If that is the one of now, whoever is to go and does not vote will
    /// not vote any more: the leader knows, and no change of its voters is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_epoch: Option<i32>,
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// Made by the proposer (random, version 4).
    pub topic_id: TopicId,
    pub name: String,
    /// Count of partitions, at least 1; ignored where `assignments` is not empty. Defaults are the
    /// proposer's.
    pub partitions: i32,
    /// Count of replicas, at least 1; ignored where `assignments` is not empty.
    pub replication_factor: i16,
    /// Replicas of partition 0, 1, ..., the preferred leader first; empty lets the coordinator place them.
    #[serde(default)]
    pub assignments: Vec<Vec<NodeId>>,
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

/// One change of one override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigOp {
    pub name: String,
    pub op: ConfigOpKind,
}

/// What to do with an override. Append and subtract are for list settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOpKind {
    Set(String),
    Delete,
    Append(String),
    Subtract(String),
}

/// The answer to an accepted command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    BrokerEpoch(u64),
    /// The partition's epoch with the in-sync set that was asked for.
    PartitionEpoch(i32),
    TopicCreated(TopicCreated),
    /// The manifest's version after the edit.
    ManifestVersion(u64),
    /// `start..end` are the asker's.
    ProducerIds {
        start: i64,
        end: i64,
    },
}

/// What became of a `CreateTopic`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicCreated {
    pub topic_id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

impl Command {
    /// The oldest rules that know the command: older members of the group could not read it.
    pub(crate) fn rules_min(&self) -> u16 {
        match self {
            Command::ResignLeader(_) => 4,
            Command::AlterBrokerConfigs { .. } | Command::LogDamaged(_) => 3,
            Command::FormCluster { .. }
            | Command::RegisterBroker(_)
            | Command::CreateTopic(_)
            | Command::DeleteTopic { .. }
            | Command::CreatePartitions { .. }
            | Command::ReplaceConfigs { .. }
            | Command::AlterConfigs { .. }
            | Command::EditManifest { .. }
            | Command::AllocateProducerIds { .. }
            | Command::SweptTopic { .. } => 1,
            _ => 2,
        }
    }

    /// About how many bytes the command takes in the log; bounds what goes into one entry. What is stored has
    /// at most twice as many.
    pub fn bytes_estimate(&self) -> usize {
        let assigned =
            |assignments: &[Vec<NodeId>]| assignments.iter().map(|r| 4 + 21 * r.len()).sum::<usize>();
        let pairs = |map: &BTreeMap<String, String>| {
            map.iter().map(|(k, v)| 8 + text_bytes(k) + text_bytes(v)).sum::<usize>()
        };
        const FIXED: usize = 200;
        FIXED
            + match self {
                Command::CreateTopic(t) => text_bytes(&t.name) + assigned(&t.assignments) + pairs(&t.configs),
                Command::CreatePartitions { assignments, .. } => assigned(assignments),
                Command::ReplaceConfigs { overrides, .. } => pairs(overrides),
                Command::AlterConfigs { ops, .. } | Command::AlterBrokerConfigs { ops, .. } => {
                    ops.iter().map(ConfigOp::bytes_estimate).sum()
                }
                Command::FormCluster { cluster_id, members } => text_bytes(cluster_id) + 64 * members.len(),
                Command::RegisterBroker(b) => {
                    text_bytes(&b.host) + text_bytes(&b.grpc) + b.rack.as_deref().map_or(0, text_bytes)
                }
                Command::AlterPartition(alter) => 64 * alter.isr.len(),
                Command::Reassign { replicas, .. } | Command::MovePartition { replicas, .. } => {
                    replicas.as_ref().map_or(0, |r| 21 * r.len())
                }
                Command::RaftLeader(report) => 21 * report.voters.len(),
                Command::RaftEnd { isr, .. } => 21 * isr.len(),
                Command::EditManifest { request, .. } => match &request.edit {
                    manifest::Edit::Publish { epochs, .. } => 400 + 50 * epochs.len(),
                    manifest::Edit::Replace { removed, .. } => 400 + 40 * removed.len(),
                    manifest::Edit::Prune { head, .. } => 400 * head.len(),
                    manifest::Edit::Spill { .. } => 400,
                    manifest::Edit::Swept { upload_ids } => 40 * upload_ids.len(),
                },
                _ => 0,
            }
    }
}

/// Bytes of a text in JSON: control characters become six, quotes and backslashes two.
fn text_bytes(text: &str) -> usize {
    let written = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(written).sum()
}

impl ConfigOp {
    fn bytes_estimate(&self) -> usize {
        let value = match &self.op {
            ConfigOpKind::Set(v) | ConfigOpKind::Append(v) | ConfigOpKind::Subtract(v) => text_bytes(v),
            ConfigOpKind::Delete => 0,
        };
        40 + text_bytes(&self.name) + value
    }
}
