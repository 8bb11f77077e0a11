//! Replication by fetch between brokers, over gRPC: who follows whom, and what goes over the streams.
//!
//! One stream per follower and leader carries all partitions between the two. The follower names positions,
//! each once; the leader answers a position when it has something for it. So a partition in which nothing
//! happens costs nothing, however many there are. What is asked, served and taken is decided in
//! [`crate::replica`]; here it is only carried (docs/adr/0013).
//!
//! Must not: touch a log but through its partition; wait with a partition's lock held. Invariants: 6 (each
//! position names its leader epoch), 7, 16.

mod follower;
mod leader;
mod throttle;
mod wire;

pub use follower::run;
pub use leader::ReplicationService;
pub use throttle::Throttle;

/// Messages and the service of `proto/highwater/v1/replication.proto`, generated.
pub mod proto {
    tonic::include_proto!("highwater.v1.replication");
}

/// The protocol that this release speaks, and the oldest that it understands: one release back.
pub const PROTOCOL: u32 = 1;
/// See [`PROTOCOL`].
pub const PROTOCOL_MIN: u32 = 1;
