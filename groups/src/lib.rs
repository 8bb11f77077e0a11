//! Consumer groups, their offsets and transactions: what a group or transaction coordinator decides, and the
//! records by which it survives. Everything lies in `core` and is pure: inputs and outputs are plain Rust,
//! the time is an argument, ids are handed in. The broker translates Kafka's messages, appends the records to
//! `__consumer_offsets` and `__transaction_state`, and sends the answers when they are committed.

pub mod core;
