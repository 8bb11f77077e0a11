//! Identifiers. Topic ids, never names, appear in paths on disk and in keys of internal maps.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Position of a record in its partition; ranges of offsets are half-open (`start..end`).
pub type Offset = i64;
/// Fences writers of a partition; grows with every change of leader (KIP-101). In Raft topics it is the term.
pub type LeaderEpoch = i32;
/// A producer's id as handed out by InitProducerId (KIP-98); -1 means none.
pub type ProducerId = i64;
/// A node of the cluster.
pub type NodeId = u64;

/// A topic's identity for its whole life (KIP-516). A topic created again under the same name has another id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl TopicId {
    /// The all-zero id that the Kafka protocol uses for "none".
    pub const NONE: TopicId = TopicId(Uuid::nil());
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic_id: TopicId,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic_id: TopicId, partition: i32) -> Self {
        TopicPartition { topic_id, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic_id, self.partition)
    }
}
