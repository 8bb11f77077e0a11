//! The control plane's state machine: pure. Commands in, edits and a reply (or a typed refusal) out.
//!
//! `ClusterState::decide` judges a command without changing anything; `ClusterState::apply` carries out a
//! decided edit and cannot fail. Both run on every node when a Raft entry is applied, with the time that the
//! entry carries, so that the same entries give the same state everywhere.
//!
//! Must not: read a clock, a file, a socket or randomness (ids are made by the proposer and carried in
//! commands). Invariants: 6 (leader epochs and generations only grow), 9 and 11 (manifests), 13, 17.

mod apply;
mod balance;
mod broker_configs;
mod brokers;
mod check;
mod command;
mod configs;
mod decide;
mod delta;
mod draft;
mod edit;
mod holdings;
mod partitions;
mod placement;
mod raft_groups;
mod refusal;
mod sessions;
mod state;
mod stored;
mod topics;

pub use balance::{BalanceSettings, BrokerReport, BrokerShare, Loads, PartitionReport, plan_moves, shares};
pub use broker_configs::{BROKER_CONFIGS, BrokerConfigs, FOLLOWER_THROTTLED_RATE, LEADER_THROTTLED_RATE};
pub use check::StateBroken;
pub use command::{
    AlterPartition, Batch, BrokerRegistration, Command, ConfigOp, ConfigOpKind, DamagedLog, ElectionKind,
    IsrMember, NewTopic, RULES_VERSION, RaftLeader, Reply, Resignation, TopicCreated,
};
pub use delta::{DeltaError, StateDelta};
pub use refusal::Refusal;
pub use sessions::{SessionEffect, SessionEvent, SessionTimes, Sessions};
pub use state::{Broker, ClusterState, DeletedTopic, Partition, RaftGroup, Topic};
pub use stored::{LoadError, STATE_FORMAT};

#[cfg(test)]
pub(crate) mod tests;
