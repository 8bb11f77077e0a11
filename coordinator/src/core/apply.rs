//! Carrying out a decided edit: the only code that changes the state. Infallible; what `decide` promised is
//! asserted.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::topic_config::Replication;
use highwater_model::topic_name::collision_key;
use highwater_model::{NodeId, TopicConfig, TopicId, TopicPartition};
use highwater_tiering::core::manifest::Manifest;

use super::command::{Batch, RULES_VERSION, Reply};
use super::edit::{Edit, PartitionChange};
use super::refusal::Refusal;
use super::state::{Broker, ClusterState, DeletedTopic, Partition, RaftGroup, Topic};

impl ClusterState {
    /// Judges and carries out the commands of one Raft entry, in order; a refused one changes nothing.
    pub fn apply_batch(&mut self, batch: &Batch) -> Vec<Result<Reply, Refusal>> {
        assert!(batch.rules <= RULES_VERSION, "entries of newer rules are refused when they are read");
        let replies: Vec<_> = batch
            .commands
            .iter()
            .map(|command| {
                let outcome = self.decide(batch.rules, batch.at_ms, command)?;
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
            Edit::ClusterFormed { cluster_id, members } => {
                assert!(self.cluster_id.is_empty(), "a cluster is formed once");
                self.cluster_id = cluster_id.clone();
                self.members = members.clone();
            }
            Edit::BrokerChanged { broker, partitions } => {
                self.apply_broker(broker);
                self.apply_partitions(partitions);
            }
            Edit::BrokerRemoved { node_id } => {
                let broker = self.brokers.remove(node_id).expect("decide found the broker");
                self.removed_epochs_end = self.removed_epochs_end.max(broker.epoch);
                if self.broker_configs.of.contains_key(node_id) {
                    self.broker_configs = Arc::new(self.broker_configs.without(*node_id));
                }
            }
            Edit::BrokerConfigsChanged { configs } => self.broker_configs = Arc::clone(configs),
            Edit::PartitionsChanged { partitions } => self.apply_partitions(partitions),
            Edit::TopicCreated {
                topic_id,
                name,
                replication_factor,
                assignments,
                is_pinned,
                overrides,
                at_ms,
            } => {
                let config = parsed(overrides);
                self.apply_created(Topic {
                    id: *topic_id,
                    name: name.clone(),
                    replication_factor: *replication_factor,
                    overrides: overrides.clone(),
                    created_at_ms: *at_ms,
                    created_version: self.version,
                    partitions: self.new_partitions(&config, assignments, *is_pinned),
                    config,
                });
            }
            Edit::TopicDeleted { topic_id, at_ms } => self.apply_deleted(*topic_id, *at_ms),
            Edit::PartitionsAdded { topic_id, assignments, is_pinned } => {
                let config = Arc::clone(&self.topic_mut(*topic_id).config);
                let added = self.new_partitions(&config, assignments, *is_pinned);
                for partition in &added {
                    self.holdings.moved(&[], &partition.replicas);
                }
                self.topic_mut(*topic_id).partitions.extend(added);
                self.partition_count += assignments.len();
            }
            Edit::OverridesReplaced { topic_id, overrides, partitions } => {
                let topic = self.topic_mut(*topic_id);
                topic.config = parsed(overrides);
                topic.overrides = overrides.clone();
                self.apply_partitions(partitions);
            }
            Edit::ManifestEdited { tp, manifest } => self.apply_manifest(*tp, manifest),
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

    fn apply_manifest(&mut self, tp: TopicPartition, manifest: &Arc<Manifest>) {
        let number = usize::try_from(tp.partition).expect("decide found the partition");
        let topic = self.topic_mut(tp.topic_id);
        let partition = Arc::make_mut(topic.partitions.get_mut(number).expect("decide found it"));
        assert_eq!(manifest.version, partition.manifest.version + 1, "decided on this very version");
        assert!(manifest.generation <= partition.leader_epoch, "fenced by the leader epoch");
        partition.manifest = Arc::clone(manifest);
    }

    fn apply_broker(&mut self, broker: &Broker) {
        let before = self.brokers.insert(broker.node_id, broker.clone());
        assert!(before.is_none_or(|b| b.epoch <= broker.epoch), "broker epochs only grow");
        debug_assert!(broker.epoch > 0, "registered");
    }

    fn apply_partitions(&mut self, changes: &[PartitionChange]) {
        for PartitionChange { tp, next } in changes {
            let number = usize::try_from(tp.partition).expect("decide found the partition");
            let slot = self.topic_mut(tp.topic_id).partitions.get_mut(number).expect("decide found it");
            assert!(slot.leader_epoch <= next.leader_epoch, "leader epochs only grow (invariant 6)");
            assert_eq!(slot.partition_epoch + 1, next.partition_epoch, "decided on this very partition");
            debug_assert_eq!(
                slot.manifest.version, next.manifest.version,
                "manifests are edited by themselves"
            );
            let before = std::mem::replace(slot, Arc::new(next.clone()));
            self.holdings.moved(&before.replicas, &next.replicas);
        }
    }

    /// New partitions are empty, so that whoever is there is in sync; a Raft group elects by itself.
    fn new_partitions(
        &self,
        config: &TopicConfig,
        assignments: &[Vec<NodeId>],
        is_pinned: bool,
    ) -> Vec<Arc<Partition>> {
        let is_active = |node: &NodeId| self.brokers.get(node).is_some_and(Broker::is_active);
        let partition = |replicas: &Vec<NodeId>| {
            let mut partition = Partition { is_pinned, ..Partition::new(replicas.clone()) };
            match config.replication {
                Replication::Fetch => {
                    partition.isr.retain(is_active);
                    partition.leader = partition.isr.first().copied();
                }
                Replication::Raft => {
                    let voters = replicas.clone();
                    partition.leader = None;
                    partition.raft = Some(RaftGroup { since_epoch: 0, start_offset: 0, voters });
                }
            }
            assert!(partition.leader.is_none_or(|leader| partition.isr.contains(&leader)));
            Arc::new(partition)
        };
        assignments.iter().map(partition).collect()
    }

    fn apply_created(&mut self, topic: Topic) {
        assert!(!topic.partitions.is_empty() && !self.deleted.contains_key(&topic.id));
        self.partition_count += topic.partitions.len();
        let key = collision_key(&topic.name);
        let before = Arc::make_mut(&mut self.by_key).insert(key, topic.id);
        assert!(before.is_none(), "decide refused names that collide");
        self.holdings.changed(None, Some(&topic));
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
        self.holdings.changed(Some(&topic), None);
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
