//! One partition's local log: segments, sparse offset and time indexes, leader epochs, producers,
//! transactions, recovery.
//!
//! `PartitionLog` (see `partition.rs`, whose head is the essay on layout, durability and crashes) is what
//! other crates use; `core/` has the pure decisions, `disk` the file port under it all.

pub mod core;
pub mod crash;
pub mod disk;
mod error;
mod map;
mod names;
mod partition;
mod scan;
mod segment;

pub use crate::core::checkpoint::SealedSegment;
pub use crate::core::epochs::{EpochRefusal, EpochStart, EpochTable};
pub use crate::core::producers::{ProducerInfo, ProducerTable, SequenceRefusal, Sequenced};
pub use crate::core::transactions::AbortedTxn;
pub use crate::core::verification::VerificationTicket;
pub use crate::crash::crash_point;
pub use crate::error::{FlushError, IgnoredFile, LogError, ReadError};
pub use crate::partition::{
    Appended, Beginning, CorruptAt, Evicted, FlushDone, FlushTicket, LogRead, LogSettings, LogSlice,
    PartitionLog, RecoveryReport, Repair, TimestampedOffset,
};
