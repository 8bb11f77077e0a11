//! The transaction coordinator: which producer may write under a transactional id, and which of its
//! transactions are committed (KIP-98, KIP-360, KIP-890).
//!
//! One [`Coordinator`] is the state of one partition of `__transaction_state` while its broker leads it. It
//! is a reactor: a request or an answer goes in with the time, effects come out. It must not know of sockets,
//! topics' leaders or logs: it says which record to append, which markers to write and what to answer.
//!
//! The rule that all else follows: *decide, append, apply, answer*. A decision is a whole new
//! [`Transaction`]; it becomes the state, and is answered, only when its record is committed. Until then the
//! transactional id has a pending change and everybody else is told CONCURRENT_TRANSACTIONS. So the memory is
//! at each moment what a reload of the committed records would give, but for the pending change, and a crash
//! at any point leaves either the old state or the new one.
//!
//! ```text
//!         AddPartitions         EndTxn                 markers everywhere
//!   Empty -------------> Ongoing -----> PrepareCommit ------------------> CompleteCommit
//!     |                  ^    |
//!     |   AddPartitions  |    | timeout, InitProducerId, EndTxn
//!     |   from Complete* |    v                        markers everywhere
//!     '------------------'  PrepareAbort -------------------------------> CompleteAbort
//! InitProducerId: from Empty and Complete* to Empty, from Ongoing to PrepareAbort first
//! ```
//! An idle id (Empty, Complete*) that is not used for `transactional.id.expiration.ms` gets a tombstone and
//! is forgotten (Dead, which is never stored).
//!
//! What holds, and is asserted or tested:
//! - a Prepare* record is the decision: from then on only its outcome can come, whoever asks and crashes;
//! - epochs of a producer id only grow (invariant 6); a request under an older one changes nothing;
//! - under version 2 each transaction ends with a new epoch, so that nothing late can join the next one;
//! - markers go out only for a committed Prepare*, and are repeated until each partition has taken them;
//! - everything dies with the coordinator's epoch: a new leader loads anew (LESSONS: permits outlive nobody).
//!
//! Where this departs from Apache Kafka 4.1, on purpose: a write whose outcome is not known keeps the id
//! pending until it is (Kafka goes back to the old state and hopes); a producer that uses the new id after
//! its epochs ran out is asked to come again rather than told that the id is unknown; markers are repeated
//! under a number, so that a late answer cannot count for the next transaction. See docs/adr/0017.

mod abort;
mod admin;
mod coordinator;
mod end;
mod init;
mod load;
mod markers;
mod records;
mod rewrite;
mod transaction;
mod types;

pub use admin::{Described, Listed, ListedTransaction, Listing};
pub use coordinator::{AddPartitions, Coordinator, EndTxn, InitProducerId};
pub use load::Loader;
pub use records::{decode_key, decode_value, encode_key, encode_value};
pub use rewrite::RewritePart;
pub use transaction::Transaction;
pub use types::{
    AppendFailure, ClientVersion, Effect, MarkerAnswer, MarkerOutcome, Markers, Producer, Reply, RequestId,
    TxnError, TxnPartition, TxnRecord, TxnSettings, TxnState, WriteId,
};

#[cfg(test)]
mod tests;
