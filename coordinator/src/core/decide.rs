//! Judging a command: dispatch, and the commands about the cluster, brokers, manifests and producer ids.
//! Topics are judged in `topics.rs`, their settings in `configs.rs`.

use std::sync::Arc;

use highwater_model::limits::{BROKERS_MAX, DELETED_TOPICS_MAX, HOST_BYTES_MAX, PRODUCER_IDS_PER_BLOCK_MAX};
use highwater_model::{TopicId, TopicPartition};
use highwater_tiering::core::manifest;

use super::command::{BrokerRegistration, Command, Edit, Outcome, Reply};
use super::refusal::Refusal;
use super::state::{Broker, ClusterState};

impl ClusterState {
    /// Whether `command` may be applied now, and what it does. Changes nothing.
    pub(crate) fn decide(&self, now_ms: i64, command: &Command) -> Result<Outcome, Refusal> {
        if let Command::FormCluster { cluster_id } = command {
            return self.decide_form(cluster_id);
        }
        if self.cluster_id.is_empty() {
            return Err(Refusal::NotFormed);
        }
        match command {
            Command::FormCluster { .. } => unreachable!("judged above"),
            Command::RegisterBroker(registration) => self.decide_register(now_ms, registration),
            Command::CreateTopic(topic) => self.decide_create_topic(now_ms, topic),
            Command::DeleteTopic { topic_id } => self.decide_delete_topic(now_ms, *topic_id),
            Command::CreatePartitions { topic_id, count, assignments } => {
                self.decide_create_partitions(*topic_id, *count, assignments)
            }
            Command::ReplaceConfigs { topic_id, overrides } => {
                self.decide_replace_configs(*topic_id, overrides)
            }
            Command::AlterConfigs { topic_id, ops } => self.decide_alter_configs(*topic_id, ops),
            Command::EditManifest { tp, request } => self.decide_edit_manifest(now_ms, *tp, request),
            Command::AllocateProducerIds { count } => self.decide_producer_ids(*count),
            Command::SweptTopic { topic_id } => self.decide_swept_topic(*topic_id),
        }
    }

    fn decide_form(&self, cluster_id: &str) -> Result<Outcome, Refusal> {
        if !self.cluster_id.is_empty() {
            return Err(Refusal::AlreadyFormed);
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if cluster_id.is_empty() || cluster_id.len() > 64 || !cluster_id.bytes().all(legal) {
            return Err(Refusal::RequestInvalid("a cluster id is 1 to 64 of [a-zA-Z0-9_-]".into()));
        }
        Ok(Outcome::one(Edit::ClusterFormed { cluster_id: cluster_id.to_owned() }, Reply::Done))
    }

    fn decide_register(&self, now_ms: i64, new: &BrokerRegistration) -> Result<Outcome, Refusal> {
        debug_assert!(self.brokers.len() <= BROKERS_MAX);
        let known = self.brokers.get(&new.node_id);
        if let Some(broker) = known.filter(|broker| broker.incarnation == new.incarnation) {
            return Ok(Outcome::unchanged(Reply::BrokerEpoch(broker.epoch)));
        }
        if i32::try_from(new.node_id).is_err() {
            return Err(Refusal::RequestInvalid(format!("node id {} does not fit 31 bits", new.node_id)));
        }
        if new.host.is_empty() || new.host.len() > HOST_BYTES_MAX || new.port == 0 {
            return Err(Refusal::RequestInvalid("a broker needs an address that clients can reach".into()));
        }
        if known.is_none() && self.brokers.len() >= BROKERS_MAX {
            return Err(Refusal::LimitReached(format!("at most {BROKERS_MAX} brokers")));
        }
        let epoch = known.map_or(1, |broker| broker.epoch + 1);
        assert!(epoch >= 1, "a registration raises the broker's epoch");
        let broker = Broker {
            node_id: new.node_id,
            epoch,
            incarnation: new.incarnation,
            host: new.host.clone(),
            port: new.port,
            rack: new.rack.clone(),
            registered_at_ms: now_ms,
        };
        Ok(Outcome::one(Edit::BrokerRegistered(broker), Reply::BrokerEpoch(epoch)))
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
