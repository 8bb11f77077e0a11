//! The typed no of the control plane, with the Kafka error that a client sees.

use highwater_model::topic_config::ConfigError;
use highwater_model::topic_name::TopicNameError;
use highwater_model::{LeaderEpoch, NodeId};
use highwater_tiering::core::manifest;
use serde::{Deserialize, Serialize};

/// Why a command was not applied. Determinate: nothing has changed. The text is fit for a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster has not been formed yet")]
    NotFormed,
    #[error("the cluster has been formed before")]
    AlreadyFormed,
    #[error("Topic '{name}' already exists.")]
    TopicExists { name: String },
    #[error("Topic '{name}' collides with existing topic: {existing}")]
    TopicCollides { name: String, existing: String },
    #[error("{0}")]
    TopicNameInvalid(String),
    #[error("This server does not host this topic ID.")]
    TopicUnknown,
    #[error("no such partition")]
    PartitionUnknown,
    #[error("{0}")]
    PartitionsInvalid(String),
    #[error("{0}")]
    ReplicationFactorInvalid(String),
    #[error("{0}")]
    AssignmentInvalid(String),
    #[error("{0}")]
    ConfigInvalid(String),
    #[error("{0}")]
    RequestInvalid(String),
    #[error("{0}")]
    LimitReached(String),
    #[error("leader epoch {given} is not the partition's, which is {current}")]
    LeaderEpochUnknown { given: LeaderEpoch, current: LeaderEpoch },
    #[error("node {0} is not registered")]
    BrokerUnknown(NodeId),
    #[error("broker epoch {given} of node {node_id} is not that of now, which is {current}")]
    StaleBrokerEpoch { node_id: NodeId, given: u64, current: u64 },
    #[error("leader epoch {given} is older than the partition's, which is {current}")]
    FencedLeaderEpoch { given: LeaderEpoch, current: LeaderEpoch },
    #[error("made against partition epoch {given}, the partition is at {current}")]
    InvalidUpdateVersion { given: i32, current: i32 },
    #[error("node {0} may not be in sync: it is fenced, or has restarted since it was seen")]
    IneligibleReplica(NodeId),
    #[error("Leader election not needed for topic partition.")]
    ElectionNotNeeded,
    #[error("The preferred leader was not available.")]
    PreferredLeaderNotAvailable,
    #[error("Eligible topic partition leaders are not available.")]
    EligibleLeadersNotAvailable,
    #[error("No partition reassignment is in progress.")]
    NoReassignmentInProgress,
    #[error("{0}")]
    Manifest(#[from] manifest::Refusal),
}

impl Refusal {
    /// The error code of the Kafka protocol for this refusal.
    pub fn kafka_error_code(&self) -> i16 {
        match self {
            Refusal::TopicExists { .. } => 36,
            Refusal::TopicCollides { .. } | Refusal::TopicNameInvalid(_) => 17,
            Refusal::TopicUnknown => 100,
            Refusal::PartitionUnknown => 3,
            Refusal::PartitionsInvalid(_) => 37,
            Refusal::ReplicationFactorInvalid(_) => 38,
            Refusal::AssignmentInvalid(_) => 39,
            Refusal::ConfigInvalid(_) => 40,
            Refusal::RequestInvalid(_) => 42,
            Refusal::LimitReached(_) => 44,
            Refusal::LeaderEpochUnknown { .. } => 75,
            Refusal::Manifest(manifest::Refusal::StaleEpoch { .. }) => 74,
            Refusal::BrokerUnknown(_) => 102,
            Refusal::StaleBrokerEpoch { .. } => 77,
            Refusal::FencedLeaderEpoch { .. } => 74,
            Refusal::InvalidUpdateVersion { .. } => 95,
            Refusal::IneligibleReplica(_) => 107,
            Refusal::ElectionNotNeeded => 84,
            Refusal::PreferredLeaderNotAvailable => 80,
            Refusal::EligibleLeadersNotAvailable => 83,
            Refusal::NoReassignmentInProgress => 85,
            Refusal::NotFormed | Refusal::AlreadyFormed | Refusal::Manifest(_) => -1,
        }
    }
}

impl From<TopicNameError> for Refusal {
    fn from(error: TopicNameError) -> Refusal {
        Refusal::TopicNameInvalid(error.to_string())
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Refusal {
        Refusal::ConfigInvalid(error.to_string())
    }
}
