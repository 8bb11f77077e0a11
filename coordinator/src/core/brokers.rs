//! Judging the life of a broker: it registers, is fenced or stops, drains, and is removed (ADR 0012). Each of
//! these says in the same decision what becomes of the partitions that it leads or follows.

use super::command::{BrokerRegistration, Reply};
use super::draft::{Brokers, Draft};
use super::edit::{Edit, Outcome, PartitionChange};
use super::refusal::Refusal;
use super::state::{Broker, ClusterState, Partition, Topic};
use highwater_model::limits::{BROKERS_MAX, HOST_BYTES_MAX};
use highwater_model::{NodeId, TopicPartition};
use uuid::Uuid;

/// What a registration says about the logs of the process before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logs {
    /// They are as that process left them, in order or in the same process.
    Whole,
    /// They may lack what was only in memory.
    Unclean,
    /// They lie in another directory.
    Gone,
}

impl ClusterState {
    pub(super) fn decide_register(
        &self,
        rules: u16,
        now_ms: i64,
        new: &BrokerRegistration,
    ) -> Result<Outcome, Refusal> {
        debug_assert!(self.brokers.len() <= BROKERS_MAX);
        let known = self.brokers.get(&new.node_id);
        let is_same = |broker: &&Broker| broker.incarnation == new.incarnation && !broker.is_fenced;
        if let Some(broker) = known.filter(is_same) {
            return Ok(Outcome::unchanged(Reply::BrokerEpoch(broker.epoch)));
        }
        if i32::try_from(new.node_id).is_err() {
            return Err(Refusal::RequestInvalid(format!("node id {} does not fit 31 bits", new.node_id)));
        }
        let is_long = |text: &str| text.len() > HOST_BYTES_MAX;
        if new.host.is_empty() || is_long(&new.host) || new.port == 0 || is_long(&new.grpc) {
            return Err(Refusal::RequestInvalid("a broker needs an address that clients can reach".into()));
        }
        if rules > 1 && new.rack.as_deref().is_some_and(|rack| rack.is_empty() || is_long(rack)) {
            let reason = format!("the name of a rack has 1 to {HOST_BYTES_MAX} bytes");
            return Err(Refusal::RequestInvalid(reason));
        }
        if known.is_none() && self.brokers.len() >= BROKERS_MAX {
            return Err(Refusal::LimitReached(format!("at most {BROKERS_MAX} brokers")));
        }
        let epoch = known.map_or(self.removed_epochs_end, |broker| broker.epoch) + 1;
        assert!(known.is_none_or(|broker| broker.epoch < epoch), "a registration raises the broker's epoch");
        let broker = Broker {
            node_id: new.node_id,
            epoch,
            incarnation: new.incarnation,
            host: new.host.clone(),
            port: new.port,
            rack: new.rack.clone(),
            registered_at_ms: now_ms,
            grpc: new.grpc.clone(),
            storage: new.storage,
            is_fenced: false,
            fenced_at_ms: 0,
            is_draining: known.is_some_and(|broker| broker.is_draining),
        };
        let logs = match rules {
            1 => Logs::Whole,
            _ => known.map_or(Logs::Gone, |known| logs(known, new)),
        };
        let brokers = Brokers::with(self, new.node_id, true);
        let is_restart = known.is_some_and(|broker| broker.incarnation != new.incarnation);
        let partitions = self.changes(&brokers, |topic, tp, partition| {
            partition.replicas.contains(&new.node_id).then(|| {
                let mut draft = Draft::new(&topic.config, tp, partition);
                match logs {
                    Logs::Whole => {}
                    Logs::Unclean => draft.leave_uncleanly(new.node_id),
                    Logs::Gone => draft.lose_log(new.node_id),
                }
                match logs {
                    Logs::Unclean if rules > 3 => draft.comes_last(new.node_id),
                    Logs::Gone if rules > 3 => draft.note_loss(new.node_id),
                    _ => {}
                }
                if is_restart && partition.leader == Some(new.node_id) {
                    draft.restart_leader();
                }
                draft
            })
        });
        Ok(Outcome::one(Edit::BrokerChanged { broker, partitions }, Reply::BrokerEpoch(epoch)))
    }

    /// A lapsed session and an orderly stop do the same here: what tells them apart is the token that the
    /// stop leaves in the data directory, which the next registration brings along.
    pub(super) fn decide_fence(&self, now_ms: i64, node: NodeId, epoch: u64) -> Result<Outcome, Refusal> {
        let broker = self.broker_of_epoch(node, epoch)?;
        if broker.is_fenced {
            return Ok(Outcome::unchanged(Reply::Done));
        }
        let brokers = Brokers::with(self, node, false);
        let partitions = self.changes(&brokers, |topic, tp, partition| {
            partition.replicas.contains(&node).then(|| {
                let mut draft = Draft::new(&topic.config, tp, partition);
                draft.leave_isr(node);
                draft
            })
        });
        // 0 says that it is not fenced; the time is for people and for `broker.dead.timeout` only.
        let fenced = Broker { is_fenced: true, fenced_at_ms: now_ms.max(1), ..broker.clone() };
        debug_assert!(!fenced.is_active());
        Ok(Outcome::one(Edit::BrokerChanged { broker: fenced, partitions }, Reply::Done))
    }

    pub(super) fn decide_drain(&self, node: NodeId, is_draining: bool) -> Result<Outcome, Refusal> {
        let broker = self.brokers.get(&node).ok_or(Refusal::BrokerUnknown(node))?;
        if broker.is_draining == is_draining {
            return Ok(Outcome::unchanged(Reply::Done));
        }
        let broker = Broker { is_draining, ..broker.clone() };
        Ok(Outcome::one(Edit::BrokerChanged { broker, partitions: Vec::new() }, Reply::Done))
    }

    pub(super) fn decide_remove(&self, node: NodeId) -> Result<Outcome, Refusal> {
        let broker = self.brokers.get(&node).ok_or(Refusal::BrokerUnknown(node))?;
        if !broker.is_fenced {
            return Err(Refusal::RequestInvalid(format!("node {node} is alive; stop it first")));
        }
        let replicas = self.partitions().filter(|(_, p)| p.replicas.contains(&node)).count();
        if replicas > 0 {
            let reason = format!("node {node} has {replicas} replicas; drain it first");
            return Err(Refusal::RequestInvalid(reason));
        }
        debug_assert_eq!(broker.node_id, node);
        Ok(Outcome::one(Edit::BrokerRemoved { node_id: node }, Reply::Done))
    }

    /// The registered broker, if that is its epoch.
    pub(super) fn broker_of_epoch(&self, node: NodeId, given: u64) -> Result<&Broker, Refusal> {
        let broker = self.brokers.get(&node).ok_or(Refusal::BrokerUnknown(node))?;
        match broker.epoch == given {
            true => Ok(broker),
            false => Err(Refusal::StaleBrokerEpoch { node_id: node, given, current: broker.epoch }),
        }
    }

    /// Every partition of the cluster.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &Partition)> {
        self.topics.values().flat_map(|topic| {
            let numbered = (0i32..).zip(&topic.partitions);
            numbered.map(|(number, partition)| (TopicPartition::new(topic.id, number), partition.as_ref()))
        })
    }

    /// What becomes of all partitions, each by its draft; the same brokers for all of them.
    fn changes<'a>(
        &'a self,
        brokers: &Brokers<'_>,
        draft: impl Fn(&Topic, TopicPartition, &'a Partition) -> Option<Draft<'a>>,
    ) -> Vec<PartitionChange> {
        let mut changes = Vec::new();
        for topic in self.topics.values() {
            for (number, partition) in (0i32..).zip(&topic.partitions) {
                let tp = TopicPartition::new(topic.id, number);
                let change = draft(topic, tp, partition).and_then(|draft| draft.finish(brokers));
                changes.extend(change);
            }
        }
        debug_assert!(changes.len() <= self.partition_count);
        changes
    }
}

/// Kafka trusts a broker's word likewise (KIP-966, `PreviousBrokerEpoch`).
fn logs(known: &Broker, new: &BrokerRegistration) -> Logs {
    // One process has one directory for its life.
    if known.incarnation == new.incarnation {
        return Logs::Whole;
    }
    let is_named = |storage: &Uuid| !storage.is_nil();
    if is_named(&known.storage) && known.storage != new.storage {
        return Logs::Gone;
    }
    match new.clean_stop_of == Some(known.epoch) {
        true => Logs::Whole,
        false => Logs::Unclean,
    }
}
