//! The state of the control plane: what exists, who leads it, and every partition's manifest.
//!
//! Everything that is large hangs on an `Arc`, so that a copy for a reader or a snapshot costs one pointer
//! per topic, and an edit copies one topic's list of pointers at most. Fields are public for reading; only
//! `apply` writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::topic_name::collision_key;
use highwater_model::{LeaderEpoch, NodeId, Offset, TopicConfig, TopicId, TopicPartition};
use highwater_tiering::core::manifest::Manifest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::broker_configs::BrokerConfigs;
use super::holdings::Holdings;
use super::stored::StoredState;

/// All that the control plane knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredState", into = "StoredState")]
pub struct ClusterState {
    /// Empty until the cluster is formed; then fixed for life.
    pub cluster_id: String,
    /// Count of edits applied; readers compare it to learn that something changed.
    pub version: u64,
    pub brokers: BTreeMap<NodeId, Broker>,
    pub topics: BTreeMap<TopicId, Arc<Topic>>,
    /// Deleted topics whose objects are still in the bucket.
    pub deleted: BTreeMap<TopicId, Arc<DeletedTopic>>,
    /// Every producer id below it has been handed out.
    pub producer_ids_end: i64,
    /// Storage ids of the coordinators' data directories, recorded when the cluster was formed; empty in a
    /// cluster of one node.
    pub members: BTreeMap<NodeId, Uuid>,
    /// Greatest epoch of any broker that was removed: a node id that comes back goes on above it.
    pub removed_epochs_end: u64,
    /// Settings of brokers that were changed while they ran.
    pub broker_configs: Arc<BrokerConfigs>,
    /// Over all topics.
    pub partition_count: usize,
    /// Replicas by broker.
    pub(super) holdings: Holdings,
    /// Topics by name, with `.` written as `_`: names that collide cannot both be there.
    pub(super) by_key: Arc<BTreeMap<String, TopicId>>,
}

/// A registered broker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    pub node_id: NodeId,
    /// Grows with each registration of this node id.
    pub epoch: u64,
    pub incarnation: Uuid,
    pub host: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    pub registered_at_ms: i64,
    /// Its gRPC address, `HOST:PORT`; empty where unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grpc: String,
    /// Names its data directory; nil where unknown. Another one means that its logs are gone.
    #[serde(default, skip_serializing_if = "Uuid::is_nil")]
    pub storage: Uuid,
    /// Its session has lapsed or it has stopped: it leads nothing and is in no in-sync set.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_fenced: bool,
    /// When it was fenced, Unix ms; 0 while it is not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fenced_at_ms: i64,
    /// It gives its replicas away and gets no new ones.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_draining: bool,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub id: TopicId,
    pub name: String,
    pub replication_factor: i16,
    /// The settings that were given, as text.
    pub overrides: BTreeMap<String, String>,
    /// `overrides` over the defaults, parsed.
    pub config: Arc<TopicConfig>,
    pub created_at_ms: i64,
    /// The state's version when the topic was created.
    pub created_version: u64,
    /// By partition number.
    pub partitions: Vec<Arc<Partition>>,
}

/// One partition: who leads and follows it, and its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// None where no replica may lead.
    pub leader: Option<NodeId>,
    /// Grows with every change of leader, and with every restart of it (invariant 6).
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this record but its manifest.
    pub partition_epoch: i32,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
    /// In-sync replicas, in the order of `replicas`; the voters of a raft partition. None of them is fenced,
    /// but for voters.
    pub isr: Vec<NodeId>,
    /// Eligible leader replicas (KIP-966): have all below the high watermark, which stands still while the
    /// in-sync set is below `min.insync.replicas`. Disjoint from `isr`, in the order of `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<NodeId>,
    /// Who led before nobody did. Leads again, even after an unclean stop, where `isr` and `elr` are empty;
    /// in a Raft group, the only one that the term of now may be reported by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known_leader: Option<NodeId>,
    /// Replicas that came back with an empty directory and have not been in sync since: an unclean election
    /// takes them last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<NodeId>,
    /// Replicas that a reassignment (KIP-455) adds; part of `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<NodeId>,
    /// Replicas that go when the reassignment is complete; part of `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<NodeId>,
    /// Its replicas were named by an operator: balance leaves them where they are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_pinned: bool,
    /// The Raft group that replicates the partition; none under fetch replication. It follows the topic's
    /// `highwater.replication` when the leader has brought the switch about (ADR 0014).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raft: Option<RaftGroup>,
    pub manifest: Arc<Manifest>,
}

/// Where the Raft group of a partition began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftGroup {
    /// The leader epoch at its beginning; the group's terms are greater.
    pub since_epoch: LeaderEpoch,
    /// Every first voter had exactly the records below it, and they were committed.
    pub start_offset: Offset,
    /// The first voters.
    pub voters: Vec<NodeId>,
}

/// A topic that was deleted, kept until its objects have been swept from the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopic {
    pub id: TopicId,
    pub name: String,
    pub deleted_at_ms: i64,
    /// By partition number.
    pub manifests: Vec<Arc<Manifest>>,
}

impl ClusterState {
    /// The topic of that very name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_colliding_with(name).filter(|topic| topic.name == name)
    }

    /// The topic of that name, or of one that differs only in `.` and `_`.
    pub(super) fn topic_colliding_with(&self, name: &str) -> Option<&Arc<Topic>> {
        let id = match name.contains('.') {
            true => self.by_key.get(&collision_key(name))?,
            false => self.by_key.get(name)?,
        };
        let topic = self.topics.get(id).expect("names lead to topics");
        debug_assert_eq!(collision_key(&topic.name), collision_key(name));
        Some(topic)
    }

    /// Topics in the order of their names (`.` and `_` alike).
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        debug_assert_eq!(self.by_key.len(), self.topics.len());
        self.by_key.values().map(|id| self.topics.get(id).expect("names lead to topics"))
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn partition(&self, tp: TopicPartition) -> Option<&Arc<Partition>> {
        self.topics.get(&tp.topic_id)?.partition(tp.partition)
    }

    pub fn manifest(&self, tp: TopicPartition) -> Option<&Arc<Manifest>> {
        self.partition(tp).map(|partition| &partition.manifest)
    }
}

impl Broker {
    /// Whether it may lead and be in sync.
    pub fn is_active(&self) -> bool {
        debug_assert!(self.is_fenced || self.fenced_at_ms == 0, "a time of fencing only while fenced");
        !self.is_fenced
    }
}

impl Topic {
    /// In-sync replicas that acks=all needs: `min.insync.replicas`, or all where there are fewer replicas.
    pub fn min_isr(&self, partition: &Partition) -> usize {
        debug_assert!(!partition.replicas.is_empty(), "a partition has a replica");
        let wanted = usize::try_from(self.config.min_insync_replicas).unwrap_or(usize::MAX);
        wanted.clamp(1, partition.replicas.len())
    }

    pub fn partition(&self, partition: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

impl Partition {
    /// Whether the replica is held to have everything that is committed.
    pub fn counts_on(&self, node: NodeId) -> bool {
        debug_assert!(self.isr.iter().all(|member| !self.elr.contains(member)), "in one of both sets");
        self.isr.contains(&node) || self.elr.contains(&node)
    }

    pub(super) fn new(replicas: Vec<NodeId>) -> Partition {
        assert!(!replicas.is_empty(), "a partition has a replica");
        Partition {
            leader: replicas.first().copied(),
            leader_epoch: 0,
            partition_epoch: 0,
            isr: replicas.clone(),
            replicas,
            elr: Vec::new(),
            last_known_leader: None,
            lost: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            is_pinned: false,
            raft: None,
            manifest: Arc::new(Manifest::new(0)),
        }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}
