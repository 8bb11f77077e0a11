//! Delayed delivery: what one shard (a partition of `__highwater_delayed`) keeps for its target partitions,
//! and what it does next (docs/adr/0020).
//!
//! *Decide, append, apply*: a decision is an [`Entry`]; it becomes state by [`Shard::apply`] when it is
//! appended to the journal, and nothing that follows from it (an answer, a release) leaves before it is
//! committed. The state is a function of the journal's entries, so that a new leader goes on where the last
//! one stood. Owns the rules; must not know of logs, nodes or clocks. Invariants: 3, 6, 12, 13, 16.

mod codec;
mod headers;
mod shard;
#[cfg(test)]
mod tests;
mod types;

pub use codec::{CodecError, KeptRecord, decode, encode, read_record, write_record};
pub use headers::{DELAY_HEADER, DELIVER_AT_HEADER, HeaderFault, HeaderRefusal, marked, without};
pub use shard::{Pass, Shard, Take, TakeRefusal};
pub use types::{
    Ask, AskRecord, Entry, Identity, Known, KnownBatch, Limits, Millis, Plan, Release, Source, TakenRecord,
};
