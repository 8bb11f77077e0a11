//! From what a client calls a topic to the partitions that this node has, and to who leads those that it does
//! not.

use std::sync::Arc;

use highwater_coordinator::core::Partition as Record;
use highwater_model::{LeaderEpoch, NodeId, TopicId, TopicPartition};
use highwater_wire::kafka::messages::TopicName;
use uuid::Uuid;

use super::errors;
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::registry::{Slot, Topic, View};
use crate::partition::{Partition, Unavailable};

/// The topic that a request names by `id` (if it uses ids) or by name.
///
/// # Errors
/// Kafka's code: UNKNOWN_TOPIC_ID or UNKNOWN_TOPIC_OR_PARTITION.
pub fn find_topic<'a>(
    view: &'a View,
    by_id: bool,
    name: &TopicName,
    id: Uuid,
) -> Result<&'a Arc<Topic>, i16> {
    if by_id {
        return view.by_id(TopicId(id)).ok_or(errors::UNKNOWN_TOPIC_ID);
    }
    view.by_name(name.as_str()).ok_or(errors::UNKNOWN_TOPIC_OR_PARTITION)
}

/// One partition of a topic.
///
/// # Errors
/// Kafka's code: it does not exist, or its log could not be opened.
pub fn find_partition(topic: &Topic, partition: i32) -> Result<&Arc<Partition>, i16> {
    match topic.slot(partition) {
        Some(Slot::Open(partition)) => Ok(partition),
        Some(Slot::Failed(_)) => Err(errors::KAFKA_STORAGE_ERROR),
        Some(Slot::Elsewhere) => Err(errors::NOT_LEADER_OR_FOLLOWER),
        None => Err(errors::UNKNOWN_TOPIC_OR_PARTITION),
    }
}

/// As [`find_partition`], where only the leader may answer.
///
/// # Errors
/// Kafka's code; NOT_LEADER_OR_FOLLOWER from a follower.
pub fn find_led(topic: &Topic, partition: i32) -> Result<&Arc<Partition>, i16> {
    let partition = find_partition(topic, partition)?;
    match partition.terms().is_leader {
        true => Ok(partition),
        false => Err(errors::NOT_LEADER_OR_FOLLOWER),
    }
}

/// Kafka's code for what only a leader may do.
pub fn leader_refusal_code(refusal: &LeaderRefusal) -> i16 {
    match refusal {
        LeaderRefusal::NotEnoughReplicas { .. } => errors::NOT_ENOUGH_REPLICAS,
        LeaderRefusal::FencedEpoch { .. } => errors::FENCED_LEADER_EPOCH,
        LeaderRefusal::UnknownEpoch { .. } => errors::UNKNOWN_LEADER_EPOCH,
        LeaderRefusal::NotLeader | LeaderRefusal::StaleBroker { .. } | LeaderRefusal::NoReplica { .. } => {
            errors::NOT_LEADER_OR_FOLLOWER
        }
    }
}

/// Whether a client that gets this code looks for another leader (KIP-951).
pub fn names_another_leader(code: i16) -> bool {
    matches!(code, errors::NOT_LEADER_OR_FOLLOWER | errors::FENCED_LEADER_EPOCH)
}

/// Who leads a partition by what this node knows, and where it is reached; a client that asked the wrong node
/// goes on without asking for metadata (KIP-951).
pub struct CurrentLeader {
    pub node_id: i32,
    pub epoch: LeaderEpoch,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// None where nobody leads.
pub fn current_leader(node: &Node, topic: TopicId, partition: i32) -> Option<CurrentLeader> {
    let tp = TopicPartition::new(topic, partition);
    let view = node.partitions.view();
    node.coordinator.with_state(|state| {
        let (leader, epoch) = leader_of(&view, tp, state.partition(tp)?);
        let broker = state.brokers.get(&leader?)?;
        Some(CurrentLeader {
            node_id: i32::try_from(broker.node_id).ok()?,
            epoch,
            host: broker.host.clone(),
            port: i32::from(broker.port),
            rack: broker.rack.clone(),
        })
    })
}

/// Leader and leader epoch of a partition: by what its Raft group says, where this node has a replica and the
/// control plane knows nothing newer; else as on record. So a group's new leader is found with the control
/// plane away, and one that is cut off from its group is named by nobody.
pub fn leader_of(view: &View, tp: TopicPartition, record: &Record) -> (Option<NodeId>, LeaderEpoch) {
    let on_record = (record.leader, record.leader_epoch);
    let Some(since_epoch) = record.raft.as_ref().map(|raft| raft.since_epoch) else { return on_record };
    let Some(terms) = view.partition(tp).map(|partition| partition.terms()) else { return on_record };
    let is_open = terms.raft.as_ref().is_some_and(|r| r.since_epoch == since_epoch && r.group.is_some());
    match is_open && terms.leader_epoch >= record.leader_epoch {
        true => (terms.leader, terms.leader_epoch),
        false => on_record,
    }
}

/// Kafka's code for a partition that does not serve.
pub fn unavailable_code(unavailable: &Unavailable) -> i16 {
    match unavailable {
        Unavailable::Closed => errors::NOT_LEADER_OR_FOLLOWER,
        Unavailable::Storage(_) => errors::KAFKA_STORAGE_ERROR,
    }
}
