//! Vocabulary shared by every crate: identifiers, offsets, bounds, limits, topic settings and the clock port.
//! No I/O, no clock of its own, no randomness.

pub mod bounds;
pub mod clock;
pub mod ids;
pub mod limits;
pub mod topic_config;
pub mod topic_name;
pub mod ttl;

pub use bounds::OffsetBounds;
pub use clock::Clock;
pub use ids::{LeaderEpoch, NodeId, Offset, ProducerId, TopicId, TopicPartition};
pub use topic_config::TopicConfig;
pub use ttl::{Expiry, RecordTtl};
