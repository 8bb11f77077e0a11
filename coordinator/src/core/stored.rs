//! The stored form of the state (the body of a Raft snapshot; docs/format.md, "Raft snapshot").
//!
//! Derived fields are left out and made again at load, and everything is checked then: a state that breaks an
//! invariant is refused, not served.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::topic_config::ConfigError;
use highwater_model::topic_name::collision_key;
use highwater_model::{NodeId, TopicConfig, TopicId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::broker_configs::BrokerConfigs;
use super::check::StateBroken;
use super::holdings::Holdings;
use super::state::{Broker, ClusterState, DeletedTopic, Partition, Topic};

/// Version of the stored state. 1: one node. 2: brokers may be fenced or drain, partitions have eligible
/// leaders and reassignments, and the coordinators' storage ids are known.
pub const STATE_FORMAT: u32 = 2;

/// Why a stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("state format {0} is not one that this program knows (1 to {STATE_FORMAT})")]
    Format(u32),
    #[error("topic {name}: {source}")]
    Config { name: String, source: ConfigError },
    #[error(transparent)]
    Broken(#[from] StateBroken),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredState {
    format: u32,
    cluster_id: String,
    version: u64,
    brokers: BTreeMap<NodeId, Broker>,
    topics: Vec<StoredTopic>,
    #[serde(default)]
    deleted: Vec<Arc<DeletedTopic>>,
    producer_ids_end: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<NodeId, Uuid>,
    #[serde(default)]
    removed_epochs_end: u64,
    #[serde(default, skip_serializing_if = "is_unset")]
    broker_configs: Arc<BrokerConfigs>,
}

fn is_unset(configs: &Arc<BrokerConfigs>) -> bool {
    configs.is_empty()
}

/// A topic without what is derived from the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredTopic {
    id: TopicId,
    name: String,
    replication_factor: i16,
    #[serde(default)]
    overrides: BTreeMap<String, String>,
    created_at_ms: i64,
    created_version: u64,
    partitions: Vec<Arc<Partition>>,
}

impl StoredTopic {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl From<&Topic> for StoredTopic {
    fn from(topic: &Topic) -> StoredTopic {
        debug_assert!(!topic.partitions.is_empty(), "a topic has a partition");
        StoredTopic {
            id: topic.id,
            name: topic.name.clone(),
            replication_factor: topic.replication_factor,
            overrides: topic.overrides.clone(),
            created_at_ms: topic.created_at_ms,
            created_version: topic.created_version,
            partitions: topic.partitions.clone(),
        }
    }
}

impl TryFrom<StoredTopic> for Topic {
    type Error = ConfigError;

    fn try_from(stored: StoredTopic) -> Result<Topic, ConfigError> {
        let config = TopicConfig::from_overrides(&stored.overrides)?;
        Ok(Topic {
            id: stored.id,
            name: stored.name,
            replication_factor: stored.replication_factor,
            overrides: stored.overrides,
            config: Arc::new(config),
            created_at_ms: stored.created_at_ms,
            created_version: stored.created_version,
            partitions: stored.partitions,
        })
    }
}

impl From<ClusterState> for StoredState {
    fn from(state: ClusterState) -> StoredState {
        debug_assert_eq!(state.check(), Ok(()), "checked before it is written");
        StoredState {
            format: STATE_FORMAT,
            topics: state.topics.values().map(|topic| StoredTopic::from(topic.as_ref())).collect(),
            deleted: state.deleted.values().cloned().collect(),
            cluster_id: state.cluster_id,
            version: state.version,
            brokers: state.brokers,
            producer_ids_end: state.producer_ids_end,
            members: state.members,
            removed_epochs_end: state.removed_epochs_end,
            broker_configs: state.broker_configs,
        }
    }
}

impl TryFrom<StoredState> for ClusterState {
    type Error = LoadError;

    fn try_from(stored: StoredState) -> Result<ClusterState, LoadError> {
        if stored.format == 0 || stored.format > STATE_FORMAT {
            return Err(LoadError::Format(stored.format));
        }
        let mut state = ClusterState {
            cluster_id: stored.cluster_id,
            version: stored.version,
            brokers: stored.brokers,
            deleted: stored.deleted.into_iter().map(|topic| (topic.id, topic)).collect(),
            producer_ids_end: stored.producer_ids_end,
            members: stored.members,
            removed_epochs_end: stored.removed_epochs_end,
            broker_configs: stored.broker_configs,
            ..ClusterState::default()
        };
        let mut by_key = BTreeMap::new();
        for topic in stored.topics {
            let name = topic.name.clone();
            let topic = Topic::try_from(topic).map_err(|source| LoadError::Config { name, source })?;
            state.partition_count += topic.partitions.len();
            by_key.insert(collision_key(&topic.name), topic.id);
            state.topics.insert(topic.id, Arc::new(topic));
        }
        debug_assert!(
            state.topics.keys().all(|id| !state.deleted.contains_key(id)) || state.check().is_err()
        );
        state.by_key = Arc::new(by_key);
        state.holdings = Holdings::counted(&state.topics);
        state.check()?;
        assert_eq!(state.by_key.len(), state.topics.len(), "checked: names do not collide");
        Ok(state)
    }
}
