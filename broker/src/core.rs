//! The pure decisions of the data plane: no I/O, no clock, no tasks.

pub mod delayed;
pub mod fetch_plan;
pub mod fetch_session;
pub mod pace;
pub mod raft_election;
pub mod raft_side;
pub mod rate;
pub mod replica;
pub mod room;
pub mod throttle;
