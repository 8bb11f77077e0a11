//! The control plane's consensus: openraft over durable files. The only folder that names openraft.
//!
//! ```text
//!   <data-dir>/raft/lock                 held while a process runs
//!                   storage.json         the storage's name, in a group of several
//!                   vote                 term, candidate, committed
//!                   log/<first>.log      entries, in files that are purged whole
//!                   snapshots/<index>-<term>.snapshot
//! ```
//! One thread (`writer.rs`) does all writing of log and vote, in the order asked, with one fdatasync for what
//! waits together. The state is in memory: a snapshot plus the entries after it. Nothing is acknowledged
//! before its entry is synced; a failed sync ends the node's part in the group (invariant 5). A crash leaves
//! a torn tail at most, which was not acknowledged and is cut; damage elsewhere stops the start with one line
//! that says what to do.
//!
//! A single voter needs no timers: a leader restarts as leader (its vote is committed), elects itself at once
//! otherwise, and sends no heartbeats, so that it idles at no cost. The members of a group of three or five
//! talk over gRPC: `formation` brings them together, `election` says who asks to lead, `network` and
//! `service` are the two ends of each message, `group` knows who may say what, `members` changes who belongs
//! to it (ADR 0011).

mod election;
mod files;
mod formation;
mod frame;
mod group;
mod identity;
mod log_store;
mod machine;
mod members;
mod network;
mod node;
mod room;
mod service;
mod snapshot;
mod types;
mod wire;
mod writer;

pub(crate) use machine::StateCell;
pub(crate) use members::MemberChange;
pub(crate) use node::{GroupStatus, MemberStatus, NodeSettings, ProposeFailure, RaftNode};
pub(crate) use service::CoordinationDoor;

/// Why the Raft group could not be opened or formed. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path}: another process holds this data directory")]
    Locked { path: String },
    #[error(
        "{path}: damaged at byte {position} ({what}); restore the data directory from a backup, or move \
         raft/ away and restore the cluster from the bucket"
    )]
    Damaged { path: String, position: u64, what: String },
    #[error("{path}: written by a newer release (format {format}); start that release instead")]
    Newer { path: String, format: u32 },
    #[error("{path}: entries {first}..{end} are missing; restore the data directory from a backup")]
    Missing { path: String, first: u64, end: u64 },
    #[error("this data directory belongs to node {found:?}, not to node {expected}; set node-id accordingly")]
    ForeignNode { expected: u64, found: Vec<u64> },
    #[error("{0}")]
    Group(String),
    #[error("Raft did not start: {0}")]
    Raft(String),
}

impl OpenError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> OpenError {
        let path = path.display().to_string();
        move |source| OpenError::Io { path, source }
    }

    fn damaged(path: &std::path::Path, position: u64, what: impl Into<String>) -> OpenError {
        OpenError::Damaged { path: path.display().to_string(), position, what: what.into() }
    }
}

#[cfg(test)]
mod tests;
