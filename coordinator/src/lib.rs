//! The control plane: what topics exist, who leads their partitions, and every partition's manifest, agreed
//! by Raft.
//!
//! `core` is the state machine, pure; `raft` keeps it on disk and, later, on several nodes; `Coordinator` is
//! the front that the broker holds. The broker reads the state without waiting and writes through the methods
//! here; the tier sees only its own port, `ManifestPort`.

pub mod core;
mod handle;
mod manifests;
mod proposer;
mod raft;

pub use handle::{ConfigChange, Coordinator, CoordinatorSettings, NewPartitions, ReadError, WriteError};
pub use raft::OpenError as StartError;

#[cfg(test)]
mod tests;
