//! What may be asked of the control plane, what it answers, and the edits in between. Commands are stored
//! (Raft log) and so is their JSON form (docs/format.md, "Raft log"): fields are added with defaults, never
//! changed in meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::manifest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::Broker;

/// Version of the rules by which `decide` judges. A release whose `decide` would judge an old entry otherwise
/// raises it and keeps judging older entries by the older rules, or replicas and restarts would disagree.
pub const RULES_VERSION: u16 = 1;

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
    },
    /// A broker process announces itself. Fences the process that had its node id before: the leader epoch of
    /// every partition that it leads is raised. The same incarnation again changes nothing.
    RegisterBroker(BrokerRegistration),
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    pub node_id: NodeId,
    /// Made anew by each process; tells a retry from a restart.
    pub incarnation: Uuid,
    /// The advertised Kafka address.
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub rack: Option<String>,
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

/// A decided change of the state; `apply` carries it out without a further question. Never stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Edit {
    ClusterFormed {
        cluster_id: String,
    },
    BrokerRegistered(Broker),
    TopicCreated {
        topic_id: TopicId,
        name: String,
        replication_factor: i16,
        assignments: Vec<Vec<NodeId>>,
        overrides: BTreeMap<String, String>,
        at_ms: i64,
    },
    TopicDeleted {
        topic_id: TopicId,
        at_ms: i64,
    },
    PartitionsAdded {
        topic_id: TopicId,
        assignments: Vec<Vec<NodeId>>,
    },
    OverridesReplaced {
        topic_id: TopicId,
        overrides: BTreeMap<String, String>,
    },
    ManifestEdited {
        tp: TopicPartition,
        /// After the edit, checked.
        manifest: Arc<manifest::Manifest>,
    },
    ProducerIdsAllocated {
        end: i64,
    },
    TopicSwept {
        topic_id: TopicId,
    },
}

/// A decision: the edits to apply, none where nothing changes, and the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub edits: Vec<Edit>,
    pub reply: Reply,
}

impl Outcome {
    pub(crate) fn unchanged(reply: Reply) -> Outcome {
        Outcome { edits: Vec::new(), reply }
    }

    pub(crate) fn one(edit: Edit, reply: Reply) -> Outcome {
        Outcome { edits: vec![edit], reply }
    }
}

impl Command {
    /// About how many bytes the command takes in the log; bounds what goes into one entry.
    pub fn bytes_estimate(&self) -> usize {
        let assigned =
            |assignments: &[Vec<NodeId>]| assignments.iter().map(|r| 4 + 21 * r.len()).sum::<usize>();
        let pairs =
            |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| 8 + k.len() + v.len()).sum::<usize>();
        const FIXED: usize = 200;
        FIXED
            + match self {
                Command::CreateTopic(t) => t.name.len() + assigned(&t.assignments) + pairs(&t.configs),
                Command::CreatePartitions { assignments, .. } => assigned(assignments),
                Command::ReplaceConfigs { overrides, .. } => pairs(overrides),
                Command::AlterConfigs { ops, .. } => ops.iter().map(ConfigOp::bytes_estimate).sum(),
                Command::RegisterBroker(b) => b.host.len() + b.rack.as_ref().map_or(0, String::len),
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

impl ConfigOp {
    fn bytes_estimate(&self) -> usize {
        let value = match &self.op {
            ConfigOpKind::Set(v) | ConfigOpKind::Append(v) | ConfigOpKind::Subtract(v) => v.len(),
            ConfigOpKind::Delete => 0,
        };
        40 + self.name.len() + value
    }
}
