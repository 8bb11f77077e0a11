//! The state of the control plane: what exists, who leads it, and every partition's manifest.
//!
//! Everything that is large hangs on an `Arc`, so that a copy for a reader or a snapshot costs one pointer
//! per topic, and an edit copies one topic's list of pointers at most. Fields are public for reading; only
//! `apply` writes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::topic_name::collision_key;
use highwater_model::{LeaderEpoch, NodeId, TopicConfig, TopicId, TopicPartition};
use highwater_tiering::core::manifest::Manifest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// Over all topics.
    pub partition_count: usize,
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
    pub isr: Vec<NodeId>,
    pub manifest: Arc<Manifest>,
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

impl Topic {
    pub fn partition(&self, partition: i32) -> Option<&Arc<Partition>> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }
}

impl Partition {
    pub(super) fn new(replicas: Vec<NodeId>) -> Partition {
        assert!(!replicas.is_empty(), "a partition has a replica");
        Partition {
            leader: replicas.first().copied(),
            leader_epoch: 0,
            partition_epoch: 0,
            isr: replicas.clone(),
            replicas,
            manifest: Arc::new(Manifest::new(0)),
        }
    }
}
