//! The end-to-end tests, one binary. Each starts its own MinIO and broker, prints its steps, and fails with
//! the end of the broker's log. They take turns (see `Work`), whatever the number of test threads.

#[path = "it/bad_bytes.rs"]
mod bad_bytes;
#[path = "it/chaos.rs"]
mod chaos;
#[path = "it/clients.rs"]
mod clients;
#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/connect.rs"]
mod connect;
#[path = "it/control_plane.rs"]
mod control_plane;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/delayed.rs"]
mod delayed;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/golden.rs"]
mod golden;
#[path = "it/groups.rs"]
mod groups;
#[path = "it/kafka_commands.rs"]
mod kafka_commands;
#[path = "it/kafka_tools.rs"]
mod kafka_tools;
#[path = "it/more_clients.rs"]
mod more_clients;
#[path = "it/raft.rs"]
mod raft;
#[path = "it/rot.rs"]
mod rot;
#[path = "it/startup.rs"]
mod startup;
#[path = "it/states.rs"]
mod states;
#[path = "it/transactions.rs"]
mod transactions;
#[path = "it/ttl.rs"]
mod ttl;
