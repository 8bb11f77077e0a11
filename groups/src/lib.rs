//! Consumer groups, their offsets and transactions: what a group or transaction coordinator decides, and the
//! records by which it survives. Everything lies in `core` and is pure: inputs and outputs are plain Rust,
//! the time is an argument, ids are handed in. The broker translates Kafka's messages, appends the records to
//! `__consumer_offsets` and `__transaction_state`, and sends the answers when they are committed.
//!
//! How a broker drives [`core::machine::Groups`], one per partition of `__consumer_offsets` that it leads:
//! - *Load*, when it has become leader of the partition: `Groups::new`, then every record up to the log's
//!   end in order with `load_bytes` (with the producer id if its batch is transactional), every marker with
//!   `load_marker`, then `loaded`. Until then requests are answered COORDINATOR_LOAD_IN_PROGRESS.
//! - *Step*: one event at a time, in one place. Before a step that may write, see whether the partition takes
//!   writes; if not, answer COORDINATOR_NOT_AVAILABLE and do not step.
//! - *Append* comes first among a step's effects and is one batch, transactional if it says so. Its bytes may
//!   be more than `max.message.bytes`. If it fails, `unload` the shard and load it again.
//! - *Answer*: when the high watermark has passed the end of the log as it was after that append (or, if the
//!   step appended nothing, as it was then). Reads (`fetch_offsets`, `list`, ...) follow the same rule.
//! - *Timers*: step with `Event::Tick` when `next_due` has come; again at once while it names the past.
//! - *Time* is in milliseconds since 1970, because commits are stamped with it, but must not jump: a
//!   monotonic clock that was set by the wall clock once.
//! - *Unload*, when the partition has another leader: what is parked is answered NOT_COORDINATOR.

pub mod core;
