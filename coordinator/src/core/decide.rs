//! Judging a command: dispatch, and the commands about the cluster, manifests and producer ids. Brokers are
//! judged in `brokers.rs`, their settings in `broker_configs.rs`, partitions in `partitions.rs` and
//! `raft_groups.rs`, topics in `topics.rs`, their settings in `configs.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::limits::{COORDINATORS_MAX, DELETED_TOPICS_MAX, PRODUCER_IDS_PER_BLOCK_MAX};
use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::manifest;
use uuid::Uuid;

use super::command::{Command, RULES_VERSION, Reply};
use super::edit::{Edit, Outcome};
use super::refusal::Refusal;
use super::state::ClusterState;

impl ClusterState {
    /// Whether `command` may be applied now, and what it does. Changes nothing.
    ///
    /// `rules` are those of the entry that carries the command ([`super::RULES_VERSION`] for a new one).
    pub(crate) fn decide(&self, rules: u16, now_ms: i64, command: &Command) -> Result<Outcome, Refusal> {
        assert!(
            (1..=RULES_VERSION).contains(&rules),
            "entries of other rules are refused when they are read"
        );
        if let Command::FormCluster { cluster_id, members } = command {
            return self.decide_form(cluster_id, members);
        }
        if self.cluster_id.is_empty() {
            return Err(Refusal::NotFormed);
        }
        match command {
            Command::FormCluster { .. } => unreachable!("judged above"),
            Command::RegisterBroker(registration) => self.decide_register(rules, now_ms, registration),
            Command::FenceBroker { node_id, broker_epoch }
            | Command::StopBroker { node_id, broker_epoch } => {
                self.decide_fence(now_ms, *node_id, *broker_epoch)
            }
            Command::DrainBroker { node_id, is_draining } => self.decide_drain(*node_id, *is_draining),
            Command::RemoveBroker { node_id } => self.decide_remove(*node_id),
            Command::AlterBrokerConfigs { node_id, ops } => self.decide_alter_broker_configs(*node_id, ops),
            Command::AlterPartition(alter) => self.decide_alter_partition(alter),
            Command::LogDamaged(damaged) => self.decide_log_damaged(damaged),
            Command::ResignLeader(resigned) => self.decide_resign_leader(resigned),
            Command::ElectLeader { tp, kind } => self.decide_elect(*tp, *kind),
            Command::Reassign { tp, replicas: Some(replicas) } => self.decide_reassign(*tp, replicas, true),
            Command::MovePartition { tp, replicas: Some(replicas) } => {
                self.decide_reassign(*tp, replicas, false)
            }
            Command::Reassign { tp, replicas: None } | Command::MovePartition { tp, replicas: None } => {
                self.decide_cancel_reassignment(*tp)
            }
            Command::RaftLeader(report) => self.decide_raft_leader(rules, report),
            Command::RaftBegin { .. } => self.decide_raft_begin(command),
            Command::RaftEnd { .. } => self.decide_raft_end(rules, command),
            Command::CreateTopic(topic) => self.decide_create_topic(rules, now_ms, topic),
            Command::DeleteTopic { topic_id } => self.decide_delete_topic(now_ms, *topic_id),
            Command::CreatePartitions { topic_id, count, assignments } => {
                self.decide_create_partitions(rules, *topic_id, *count, assignments)
            }
            Command::ReplaceConfigs { topic_id, overrides } => {
                self.decide_replace_configs(rules, *topic_id, overrides)
            }
            Command::AlterConfigs { topic_id, ops } => self.decide_alter_configs(rules, *topic_id, ops),
            Command::EditManifest { tp, request } => self.decide_edit_manifest(now_ms, *tp, request),
            Command::AllocateProducerIds { count } => self.decide_producer_ids(*count),
            Command::SweptTopic { topic_id } => self.decide_swept_topic(*topic_id),
        }
    }

    fn decide_form(&self, cluster_id: &str, members: &BTreeMap<NodeId, Uuid>) -> Result<Outcome, Refusal> {
        if !self.cluster_id.is_empty() {
            return Err(Refusal::AlreadyFormed);
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if cluster_id.is_empty() || cluster_id.len() > 64 || !cluster_id.bytes().all(legal) {
            return Err(Refusal::RequestInvalid("a cluster id is 1 to 64 of [a-zA-Z0-9_-]".into()));
        }
        if members.len() > COORDINATORS_MAX || members.values().any(Uuid::is_nil) {
            let reason =
                format!("a cluster has at most {COORDINATORS_MAX} coordinators, each with a storage id");
            return Err(Refusal::RequestInvalid(reason));
        }
        let (cluster_id, members) = (cluster_id.to_owned(), members.clone());
        Ok(Outcome::one(Edit::ClusterFormed { cluster_id, members }, Reply::Done))
    }

    /// The manifest judges the edit; here its writer is held to the partition's leader epoch (invariant 6).
    fn decide_edit_manifest(
        &self,
        now_ms: i64,
        tp: TopicPartition,
        request: &manifest::EditRequest,
    ) -> Result<Outcome, Refusal> {
        let partition = self.partition(tp).ok_or(Refusal::PartitionUnknown)?;
        let (given, current) = (request.leader_epoch, partition.leader_epoch);
        if given > current {
            return Err(Refusal::LeaderEpochUnknown { given, current });
        }
        // Checked as a whole (invariant 11), so that what breaks a rule is refused and never stored.
        let edited = match partition.manifest.edited(now_ms, request) {
            // The retry of what had gone through stays recognisable under a newer leader.
            Err(done @ manifest::Refusal::AlreadyPublished { .. }) => return Err(done.into()),
            _ if given < current => return Err(manifest::Refusal::StaleEpoch { given, current }.into()),
            other => other?,
        };
        assert_eq!(given, current, "only the leader of now edits a manifest");
        assert!(given >= partition.manifest.generation, "the generation never passes the leader epoch");
        let version = edited.version;
        assert_eq!(version, partition.manifest.version + 1, "each edit is a version");
        let manifest = Arc::new(edited);
        Ok(Outcome::one(Edit::ManifestEdited { tp, manifest }, Reply::ManifestVersion(version)))
    }

    fn decide_producer_ids(&self, count: u32) -> Result<Outcome, Refusal> {
        if count == 0 || count > PRODUCER_IDS_PER_BLOCK_MAX {
            let reason = format!("a block has 1 to {PRODUCER_IDS_PER_BLOCK_MAX} producer ids");
            return Err(Refusal::RequestInvalid(reason));
        }
        let start = self.producer_ids_end;
        let end = start.checked_add(i64::from(count));
        let end = end.ok_or_else(|| Refusal::LimitReached("producer ids are exhausted".into()))?;
        debug_assert!(0 <= start && start < end);
        Ok(Outcome::one(Edit::ProducerIdsAllocated { end }, Reply::ProducerIds { start, end }))
    }

    /// Sweeping what is gone already is done, so that a retry is answered alike.
    fn decide_swept_topic(&self, topic_id: TopicId) -> Result<Outcome, Refusal> {
        if self.topics.contains_key(&topic_id) {
            return Err(Refusal::RequestInvalid("the topic is not deleted".into()));
        }
        debug_assert!(self.deleted.len() <= DELETED_TOPICS_MAX);
        match self.deleted.contains_key(&topic_id) {
            true => Ok(Outcome::one(Edit::TopicSwept { topic_id }, Reply::Done)),
            false => Ok(Outcome::unchanged(Reply::Done)),
        }
    }
}
