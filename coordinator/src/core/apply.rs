//! Carrying out a decided edit: the only code that changes the state. Infallible; what `decide` promised is
//! asserted.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::topic_name::collision_key;
use highwater_model::{NodeId, TopicConfig, TopicId};

use super::command::{Batch, Edit, RULES_VERSION, Reply};
use super::refusal::Refusal;
use super::state::{Broker, ClusterState, DeletedTopic, Partition, Topic};

impl ClusterState {
    /// Judges and carries out the commands of one Raft entry, in order; a refused one changes nothing.
    pub fn apply_batch(&mut self, batch: &Batch) -> Vec<Result<Reply, Refusal>> {
        assert!(batch.rules <= RULES_VERSION, "entries of newer rules are refused when they are read");
        let replies: Vec<_> = batch
            .commands
            .iter()
            .map(|command| {
                let outcome = self.decide(batch.at_ms, command)?;
                for edit in &outcome.edits {
                    self.apply(edit);
                }
                Ok(outcome.reply)
            })
            .collect();
        assert_eq!(replies.len(), batch.commands.len(), "one answer for each command");
        replies
    }

    /// Carries out one edit that `decide` decided on this very state.
    pub(crate) fn apply(&mut self, edit: &Edit) {
        debug_assert!(matches!(edit, Edit::ClusterFormed { .. }) || !self.cluster_id.is_empty());
        self.version += 1;
        match edit {
            Edit::ClusterFormed { cluster_id } => {
                assert!(self.cluster_id.is_empty(), "a cluster is formed once");
                self.cluster_id = cluster_id.clone();
            }
            Edit::BrokerRegistered(broker) => self.apply_registered(broker),
            Edit::TopicCreated { topic_id, name, replication_factor, assignments, overrides, at_ms } => {
                self.apply_created(Topic {
                    id: *topic_id,
                    name: name.clone(),
                    replication_factor: *replication_factor,
                    overrides: overrides.clone(),
                    config: parsed(overrides),
                    created_at_ms: *at_ms,
                    created_version: self.version,
                    partitions: partitions(assignments),
                });
            }
            Edit::TopicDeleted { topic_id, at_ms } => self.apply_deleted(*topic_id, *at_ms),
            Edit::PartitionsAdded { topic_id, assignments } => {
                self.topic_mut(*topic_id).partitions.extend(partitions(assignments));
                self.partition_count += assignments.len();
            }
            Edit::OverridesReplaced { topic_id, overrides } => {
                let topic = self.topic_mut(*topic_id);
                topic.config = parsed(overrides);
                topic.overrides = overrides.clone();
            }
            Edit::ManifestEdited { tp, manifest } => {
                let topic = self.topic_mut(tp.topic_id);
                let number = usize::try_from(tp.partition).expect("decide found the partition");
                let partition = Arc::make_mut(topic.partitions.get_mut(number).expect("decide found it"));
                assert_eq!(manifest.version, partition.manifest.version + 1, "decided on this very version");
                partition.manifest = Arc::clone(manifest);
                assert!(
                    partition.manifest.generation <= partition.leader_epoch,
                    "fenced by the leader epoch"
                );
            }
            Edit::ProducerIdsAllocated { end } => {
                assert!(*end > self.producer_ids_end, "producer ids are handed out once");
                self.producer_ids_end = *end;
            }
            Edit::TopicSwept { topic_id } => {
                self.deleted.remove(topic_id).expect("decide found the deleted topic");
            }
        }
    }

    fn topic_mut(&mut self, topic_id: TopicId) -> &mut Topic {
        Arc::make_mut(self.topics.get_mut(&topic_id).expect("decide found the topic"))
    }

    /// Registers a broker and raises the leader epoch of what it leads, which fences the process before it.
    fn apply_registered(&mut self, broker: &Broker) {
        let before = self.brokers.insert(broker.node_id, broker.clone());
        assert!(before.is_none_or(|b| b.epoch < broker.epoch), "broker epochs only grow");
        debug_assert_eq!(self.brokers[&broker.node_id].incarnation, broker.incarnation);
        for topic in self.topics.values_mut() {
            let leads = |partition: &Arc<Partition>| partition.leader == Some(broker.node_id);
            if !topic.partitions.iter().any(leads) {
                continue;
            }
            let topic = Arc::make_mut(topic);
            for partition in topic.partitions.iter_mut().filter(|partition| leads(partition)) {
                let partition = Arc::make_mut(partition);
                partition.leader_epoch += 1;
                partition.partition_epoch += 1;
                assert!(
                    partition.leader_epoch > partition.manifest.generation,
                    "fences manifest writers too"
                );
            }
        }
    }

    fn apply_created(&mut self, topic: Topic) {
        assert!(!topic.partitions.is_empty() && !self.deleted.contains_key(&topic.id));
        self.partition_count += topic.partitions.len();
        let key = collision_key(&topic.name);
        let before = Arc::make_mut(&mut self.by_key).insert(key, topic.id);
        assert!(before.is_none(), "decide refused names that collide");
        let before = self.topics.insert(topic.id, Arc::new(topic));
        assert!(before.is_none(), "decide refused a known topic id");
    }

    fn apply_deleted(&mut self, topic_id: TopicId, at_ms: i64) {
        let topic = self.topics.remove(&topic_id).expect("decide found the topic");
        Arc::make_mut(&mut self.by_key)
            .remove(&collision_key(&topic.name))
            .expect("topics are found by name");
        assert!(self.partition_count >= topic.partitions.len(), "partitions are counted");
        self.partition_count -= topic.partitions.len();
        let deleted = DeletedTopic {
            id: topic_id,
            name: topic.name.clone(),
            deleted_at_ms: at_ms,
            manifests: topic.partitions.iter().map(|partition| Arc::clone(&partition.manifest)).collect(),
        };
        let before = self.deleted.insert(topic_id, Arc::new(deleted));
        assert!(before.is_none(), "a topic is deleted once");
    }
}

fn parsed(overrides: &BTreeMap<String, String>) -> Arc<TopicConfig> {
    Arc::new(TopicConfig::from_overrides(overrides).expect("decide validated the settings"))
}

fn partitions(assignments: &[Vec<NodeId>]) -> Vec<Arc<Partition>> {
    assignments.iter().map(|replicas| Arc::new(Partition::new(replicas.clone()))).collect()
}
