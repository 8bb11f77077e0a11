//! Vocabulary shared by every crate: identifiers, offsets, bounds, limits, topic settings and the clock port.
//! No I/O, no clock of its own, no randomness.

pub mod bounds;
pub mod clock;
pub mod ids;
pub mod limits;

pub use bounds::OffsetBounds;
pub use clock::Clock;
pub use ids::{LeaderEpoch, NodeId, Offset, ProducerId, TopicId, TopicPartition};
