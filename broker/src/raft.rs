//! Raft replication of a topic's partitions: one openraft group per partition, whose log is the partition's
//! own segment files. With `coordinator/src/raft`, the only folders that name openraft.
//!
//! ```text
//! types, storage, machine     openraft's view of one group
//! store, side_file, sync_queue the log and the vote on the disk (the essay on order and crashes is in store)
//! group                       the handle: propose, high watermark, role
//! host                        every group of this node: liveness of peers, elections, what comes in
//! network, wire, grpc         one stream per peer that carries all groups
//! core::raft_side             what the side file says, pure
//! core::raft_election         who stands for election and when, pure
//! ```
//! A group at rest sends nothing and sets no timer: nodes are known to live or not, groups follow from that.
//! Decisions and why: docs/adr/0014. Invariants: 2 to 7, 12, 16, 18, 19.

mod drive;
mod group;
mod grpc;
mod host;
mod kept;
mod machine;
mod message;
mod network;
mod port;
mod side_file;
mod storage;
mod store;
mod sync_queue;
#[cfg(test)]
mod tests;
mod types;
mod wire;

use highwater_model::Offset;

#[doc(hidden)]
pub use drive::{DrivenStore, side_entry};
pub use group::{Appended, Leadership, ProposeRefusal, RaftGroup, Role};
pub use grpc::{GrpcTransport, PeerAddresses, RaftService};
pub use host::RaftHost;
pub use kept::{forget, keep_group, kept_of};
pub use message::{Answer, AppendAnswer, PreVote, Request, Route, Transport, Unreached};
pub use port::{LeadershipPort, PartitionPort, TierPoint};
pub use store::{Beginning, Store};
pub use sync_queue::SyncQueue;
#[doc(hidden)]
pub use types::{Body, Placed, Stored};

use crate::core::raft_side::SideError;

/// Why a replica was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the replica's Raft files: {0}")]
    Io(std::io::Error),
    /// It may have forgotten what it promised: it comes back under another replica id, empty.
    #[error("{0}; the replica must join its group anew")]
    Lost(String),
    /// As `Lost`, unless the release is too old.
    #[error("the Raft side file: {0}")]
    Side(#[from] SideError),
    /// The log does not reach where its group begins: the replica joins it as a new one.
    #[error("the log ends at {log_end}, its group begins at {offset}")]
    Behind { log_end: Offset, offset: Offset },
    #[error("Raft did not start: {0}")]
    Raft(String),
}

impl OpenError {
    fn io(source: std::io::Error) -> OpenError {
        OpenError::Io(source)
    }
}
