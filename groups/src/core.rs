//! The machines: `machine` is the shard of a partition of `__consumer_offsets` (groups and offsets), `txn`
//! the coordinator of transactions. No I/O, no clock, no chance: time and fresh ids are arguments, timers are
//! data, what has to survive comes out as records.

mod admin;
pub mod answer;
pub mod classic;
pub mod codec;
mod commit;
pub mod consumer;
pub mod error;
mod expire;
mod load;
pub mod machine;
pub mod offsets;
pub mod protocol;
pub mod records;
pub mod request;
pub mod rewrite;
pub mod settings;
pub mod shard;
pub mod timers;
mod turn;
pub mod txn;
pub mod types;

#[cfg(test)]
mod tests;
