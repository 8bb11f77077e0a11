//! The pure decisions of the log: no files, clock, async or randomness; time is an argument.

pub mod checkpoint;
pub mod epochs;
pub mod index;
pub mod producers;
pub mod recovery;
pub mod roll;
pub mod stored;
pub mod transactions;
pub mod verification;
