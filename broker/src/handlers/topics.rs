//! From what a client calls a topic to the partitions that this node leads.

use std::sync::Arc;

use highwater_model::TopicId;
use highwater_wire::kafka::messages::TopicName;
use uuid::Uuid;

use super::errors;
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
        None => Err(errors::UNKNOWN_TOPIC_OR_PARTITION),
    }
}

/// Kafka's code for a partition that does not serve.
pub fn unavailable_code(unavailable: &Unavailable) -> i16 {
    match unavailable {
        Unavailable::Closed => errors::NOT_LEADER_OR_FOLLOWER,
        Unavailable::Storage(_) => errors::KAFKA_STORAGE_ERROR,
    }
}
