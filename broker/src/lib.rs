//! The data plane of Highwater and its front doors: Kafka protocol, gRPC administration, HTTP and the command
//! line.
//!
//! [`node::Node`] is what every request sees; `net` and `dispatch` bring requests to `handlers`, `partition`
//! owns the hot tail, `workers` do what time makes due. `core` is pure.

// --- data plane ---
pub mod core;
pub mod delayed;
pub mod dispatch;
pub mod groups;
pub mod handlers;
pub mod net;
pub mod node;
pub mod partition;
pub mod raft;
pub mod replica;
pub mod replication;
pub mod shards;
pub mod tier;
pub mod transactions;
pub mod workers;

// --- front doors ---
pub mod bucket_mark;
pub mod cli;
pub mod client;
pub mod control_metrics;
pub mod data_dir;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod serve;
pub mod settings;
pub mod slot;
pub mod status;
