//! The broker over its wire: a node in this process, driven by raw frames through a real socket.

mod it {
    pub mod harness;

    mod admin;
    mod backpressure;
    mod bad_input;
    mod delayed;
    mod doors;
    mod fetch;
    mod groups;
    mod groups_log;
    mod offsets;
    mod produce;
    mod raft;
    mod restart;
    mod rot;
    mod tier;
    mod transactions;
    mod transactions_admin;
    mod transactions_log;
    mod ttl;
}
