//! What is different between two versions of the state, for those who follow it: small where little has
//! changed, because unchanged parts are shared (`Arc`) and found by their address.
//!
//! A delta holds what parts are now, never how they came to be so; applied to the older version it gives the
//! newer one, whatever lies between. It is checked before anything is touched. Invariants: 13, and those of
//! [`super::check`] for every part that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::topic_config::ConfigError;
use highwater_model::topic_name::collision_key;
use highwater_model::{LeaderEpoch, NodeId, TopicConfig, TopicId};
use highwater_tiering::core::manifest::Manifest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::broker_configs::BrokerConfigs;
use super::state::{Broker, ClusterState, DeletedTopic, Partition, RaftGroup, Topic};
use super::stored::StoredTopic;

/// What has changed between version `from` and version `to` of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateDelta {
    pub from: u64,
    pub to: u64,
    cluster_id: String,
    producer_ids_end: i64,
    removed_epochs_end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    members: Option<BTreeMap<NodeId, Uuid>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broker_configs: Option<Arc<BrokerConfigs>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    brokers: Vec<Broker>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    brokers_gone: Vec<NodeId>,
    /// New ones, and those that changed in more than their settings and partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    topics: Vec<StoredTopic>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    topics_changed: Vec<TopicDelta>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    topics_gone: Vec<TopicId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted: Vec<Arc<DeletedTopic>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deleted_gone: Vec<TopicId>,
}

/// What has changed of one topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct TopicDelta {
    id: TopicId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overrides: Option<BTreeMap<String, String>>,
    /// By number; those after the last that was known are new, and whole.
    partitions: Vec<PartitionDelta>,
}

/// What has changed of one partition. A manifest is much larger than the rest, and changes at other times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PartitionDelta {
    partition: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<PartitionHead>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<Arc<Manifest>>,
}

/// A partition without its manifest; the fields are those of [`Partition`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PartitionHead {
    leader: Option<NodeId>,
    leader_epoch: LeaderEpoch,
    partition_epoch: i32,
    replicas: Vec<NodeId>,
    isr: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    elr: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_known_leader: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adding: Vec<NodeId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removing: Vec<NodeId>,
    #[serde(default)]
    is_pinned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raft: Option<RaftGroup>,
}

/// Why a delta cannot be applied; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    #[error("a delta from version {from}, the state is at {at}")]
    Version { from: u64, at: u64 },
    #[error("topic {name}: {source}")]
    Config { name: String, source: ConfigError },
    #[error("topic {0} is not known")]
    TopicUnknown(TopicId),
    #[error("topic {id}: {rule}")]
    Broken { id: TopicId, rule: String },
}

impl ClusterState {
    /// What `self` has that `old` has not, in either order of time.
    pub fn delta_since(&self, old: &ClusterState) -> StateDelta {
        let mut delta = StateDelta {
            from: old.version,
            to: self.version,
            cluster_id: self.cluster_id.clone(),
            producer_ids_end: self.producer_ids_end,
            removed_epochs_end: self.removed_epochs_end,
            members: (self.members != old.members).then(|| self.members.clone()),
            broker_configs: (self.broker_configs != old.broker_configs)
                .then(|| Arc::clone(&self.broker_configs)),
            brokers: self
                .brokers
                .values()
                .filter(|broker| old.brokers.get(&broker.node_id) != Some(broker))
                .cloned()
                .collect(),
            brokers_gone: gone(&old.brokers, &self.brokers),
            topics: Vec::new(),
            topics_changed: Vec::new(),
            topics_gone: gone(&old.topics, &self.topics),
            deleted: Vec::new(),
            deleted_gone: gone(&old.deleted, &self.deleted),
        };
        for (id, topic) in &self.topics {
            match old.topics.get(id) {
                Some(before) if Arc::ptr_eq(before, topic) => {}
                Some(before) if is_kept(before, topic) => {
                    delta.topics_changed.extend(topic_delta(before, topic));
                }
                _ => delta.topics.push(StoredTopic::from(topic.as_ref())),
            }
        }
        for (id, topic) in &self.deleted {
            let before = old.deleted.get(id);
            if before.is_none_or(|before| !Arc::ptr_eq(before, topic) && before != topic) {
                delta.deleted.push(Arc::clone(topic));
            }
        }
        debug_assert!(delta.brokers_gone.len() <= old.brokers.len());
        delta
    }

    /// Makes the older state the newer one.
    ///
    /// # Errors
    /// The delta was made against another version, or its parts break a rule; the state is as it was.
    pub fn apply_delta(&mut self, delta: &StateDelta) -> Result<(), DeltaError> {
        if delta.from != self.version {
            return Err(DeltaError::Version { from: delta.from, at: self.version });
        }
        let mut changed: Vec<Arc<Topic>> =
            Vec::with_capacity(delta.topics.len() + delta.topics_changed.len());
        for stored in &delta.topics {
            let name = stored.name().to_owned();
            let topic =
                Topic::try_from(stored.clone()).map_err(|source| DeltaError::Config { name, source })?;
            topic.check().map_err(|rule| DeltaError::Broken { id: topic.id, rule })?;
            changed.push(Arc::new(topic));
        }
        for part in &delta.topics_changed {
            let before = self.topics.get(&part.id).ok_or(DeltaError::TopicUnknown(part.id))?;
            changed.push(Arc::new(part.applied(before)?));
        }
        let by_key = self.names_after(&delta.topics_gone, &changed)?;
        for id in &delta.topics_gone {
            let gone = self.topics.remove(id);
            self.holdings.changed(gone.as_deref(), None);
        }
        for topic in changed {
            let before = self.topics.insert(topic.id, Arc::clone(&topic));
            self.holdings.changed(before.as_deref(), Some(&topic));
        }
        if let Some(by_key) = by_key {
            self.by_key = Arc::new(by_key);
            self.partition_count = self.topics.values().map(|topic| topic.partitions.len()).sum();
        }
        for node in &delta.brokers_gone {
            self.brokers.remove(node);
        }
        for id in &delta.deleted_gone {
            self.deleted.remove(id);
        }
        self.brokers.extend(delta.brokers.iter().map(|broker| (broker.node_id, broker.clone())));
        self.deleted.extend(delta.deleted.iter().map(|topic| (topic.id, Arc::clone(topic))));
        self.cluster_id = delta.cluster_id.clone();
        self.producer_ids_end = delta.producer_ids_end;
        self.removed_epochs_end = delta.removed_epochs_end;
        self.version = delta.to;
        if let Some(members) = &delta.members {
            self.members = members.clone();
        }
        if let Some(configs) = &delta.broker_configs {
            self.broker_configs = Arc::clone(configs);
        }
        assert_eq!(self.by_key.len(), self.topics.len(), "names are unique");
        Ok(())
    }

    /// Topics by name after the change; none where neither names nor numbers of partitions are touched.
    fn names_after(
        &self,
        gone: &[TopicId],
        changed: &[Arc<Topic>],
    ) -> Result<Option<BTreeMap<String, TopicId>>, DeltaError> {
        let is_as_known = |topic: &Arc<Topic>| {
            let known = self.topics.get(&topic.id);
            known.is_some_and(|k| k.name == topic.name && k.partitions.len() == topic.partitions.len())
        };
        if gone.is_empty() && changed.iter().all(is_as_known) {
            return Ok(None);
        }
        let leaving: BTreeSet<TopicId> = gone.iter().copied().chain(changed.iter().map(|t| t.id)).collect();
        let stay = self.by_key.iter().filter(|(_, id)| !leaving.contains(id));
        let mut by_key: BTreeMap<String, TopicId> = stay.map(|(key, id)| (key.clone(), *id)).collect();
        for topic in changed {
            if by_key.insert(collision_key(&topic.name), topic.id).is_some() {
                let rule = format!("the name {} is taken", topic.name);
                return Err(DeltaError::Broken { id: topic.id, rule });
            }
        }
        debug_assert!(by_key.len() <= self.topics.len() + changed.len());
        Ok(Some(by_key))
    }
}

impl TopicDelta {
    fn applied(&self, before: &Topic) -> Result<Topic, DeltaError> {
        let mut topic = before.clone();
        if let Some(overrides) = &self.overrides {
            let config = TopicConfig::from_overrides(overrides);
            let config = config.map_err(|source| DeltaError::Config { name: topic.name.clone(), source })?;
            (topic.config, topic.overrides) = (Arc::new(config), overrides.clone());
        }
        for part in &self.partitions {
            let broken = |rule: &str| DeltaError::Broken { id: self.id, rule: rule.into() };
            let number = usize::try_from(part.partition).map_err(|_| broken("partitions are numbered"))?;
            let known = topic.partitions.get(number);
            let manifest = part.manifest.as_ref().or(known.map(|known| &known.manifest));
            let head = part.head.clone().or_else(|| known.map(|known| PartitionHead::of(known)));
            let (Some(manifest), Some(head)) = (manifest, head) else {
                return Err(broken("a new partition comes whole"));
            };
            let partition = head.with(Arc::clone(manifest));
            partition.check().map_err(|rule| broken(&format!("partition {number}: {rule}")))?;
            let (count, partition) = (topic.partitions.len(), Arc::new(partition));
            match topic.partitions.get_mut(number) {
                Some(slot) => *slot = partition,
                None if number == count => topic.partitions.push(partition),
                None => return Err(broken("partitions have no gaps")),
            }
        }
        debug_assert!(topic.partitions.len() >= before.partitions.len());
        Ok(topic)
    }
}

impl PartitionHead {
    fn of(partition: &Partition) -> PartitionHead {
        let p = partition.clone();
        PartitionHead {
            leader: p.leader,
            leader_epoch: p.leader_epoch,
            partition_epoch: p.partition_epoch,
            replicas: p.replicas,
            isr: p.isr,
            elr: p.elr,
            last_known_leader: p.last_known_leader,
            lost: p.lost,
            adding: p.adding,
            removing: p.removing,
            is_pinned: p.is_pinned,
            raft: p.raft,
        }
    }

    fn with(self, manifest: Arc<Manifest>) -> Partition {
        Partition {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            replicas: self.replicas,
            isr: self.isr,
            elr: self.elr,
            last_known_leader: self.last_known_leader,
            lost: self.lost,
            adding: self.adding,
            removing: self.removing,
            is_pinned: self.is_pinned,
            raft: self.raft,
            manifest,
        }
    }
}

/// Whether a topic differs in its settings and partitions at most, of which it has not lost any.
fn is_kept(before: &Topic, now: &Topic) -> bool {
    debug_assert_eq!(before.id, now.id);
    before.name == now.name
        && before.replication_factor == now.replication_factor
        && before.created_at_ms == now.created_at_ms
        && before.created_version == now.created_version
        && before.partitions.len() <= now.partitions.len()
}

fn topic_delta(before: &Topic, now: &Topic) -> Option<TopicDelta> {
    let mut partitions = Vec::new();
    for (i, partition) in (0i32..).zip(&now.partitions) {
        let known = usize::try_from(i).ok().and_then(|number| before.partitions.get(number));
        let part = match known {
            Some(known) if Arc::ptr_eq(known, partition) => continue,
            Some(known) => {
                let head = PartitionHead::of(partition);
                let is_same =
                    Arc::ptr_eq(&known.manifest, &partition.manifest) || known.manifest == partition.manifest;
                PartitionDelta {
                    partition: i,
                    head: Some(head).filter(|head| *head != PartitionHead::of(known)),
                    manifest: (!is_same).then(|| Arc::clone(&partition.manifest)),
                }
            }
            None => PartitionDelta {
                partition: i,
                head: Some(PartitionHead::of(partition)),
                manifest: Some(Arc::clone(&partition.manifest)),
            },
        };
        if part.head.is_some() || part.manifest.is_some() {
            partitions.push(part);
        }
    }
    let overrides = (before.overrides != now.overrides).then(|| now.overrides.clone());
    debug_assert!(partitions.len() <= now.partitions.len());
    (overrides.is_some() || !partitions.is_empty()).then_some(TopicDelta {
        id: now.id,
        overrides,
        partitions,
    })
}

fn gone<K: Ord + Copy, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}
