//! The edits between a decision and the state: decided by `decide`, carried out by `apply`, never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::manifest;
use uuid::Uuid;

use super::broker_configs::BrokerConfigs;
use super::command::Reply;
use super::state::{Broker, Partition};

/// A decided change of the state; `apply` carries it out without a further question. Never stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Edit {
    ClusterFormed {
        cluster_id: String,
        members: BTreeMap<NodeId, Uuid>,
    },
    /// A broker was registered, fenced, or asked to drain; and what that does to partitions.
    BrokerChanged {
        broker: Broker,
        partitions: Vec<PartitionChange>,
    },
    BrokerRemoved {
        node_id: NodeId,
    },
    /// Settings of brokers.
    BrokerConfigsChanged {
        configs: Arc<BrokerConfigs>,
    },
    PartitionsChanged {
        partitions: Vec<PartitionChange>,
    },
    TopicCreated {
        topic_id: TopicId,
        name: String,
        replication_factor: i16,
        assignments: Vec<Vec<NodeId>>,
        is_pinned: bool,
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
        is_pinned: bool,
    },
    OverridesReplaced {
        topic_id: TopicId,
        overrides: BTreeMap<String, String>,
        partitions: Vec<PartitionChange>,
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

/// What becomes of one partition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartitionChange {
    pub tp: TopicPartition,
    pub next: Partition,
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
