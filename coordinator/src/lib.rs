//! The control plane: what topics exist, who leads their partitions, and every partition's manifest, agreed
//! by Raft.
//!
//! `core` is the state machine, pure; `raft` keeps it on disk and, later, on several nodes; `Coordinator` is
//! the front that the broker holds. The broker reads the state without waiting and writes through the methods
//! here; the tier sees only its own port, `ManifestPort`.

mod brokers;
pub mod core;
mod door;
mod duties;
mod handle;
mod manifests;
mod membership;
mod metadata;
mod proposer;
mod raft;
mod route;
pub mod rpc;
mod session;
mod sessions;
mod settings;

pub use door::ControlDoor;
pub use handle::{ConfigChange, Coordinator, NewPartitions, ReadError, WriteError};
pub use membership::ControlStatus;
pub use raft::OpenError as StartError;
pub use session::{Liveness, SessionHandle};
pub use settings::CoordinatorSettings;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
