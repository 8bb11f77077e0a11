//! Sealed segments as Parquet objects and back: the hot code of the tier.
//!
//! ```text
//! PAR1 | row group 0: _offset _timestamp _key _value header keys, header values [exceptions]
//!      | row group 1 ... | bloom filters | column and offset indexes
//!      | footer: Parquet metadata with our key-values | length | PAR1
//! ```
//! A segment's records become *stripes* of about 1 MiB: page k of every column, all cut at the same rows.
//! About 16 MiB of stripes make a row group, whose column chunks lie together: one ranged GET. A stripe
//! becomes one batch again.
//!
//! Pages are encoded and decoded here, below Arrow: one copy from batch to page, one from page to batch, no
//! object per record. Everything off the hot path (footer, page indexes, bloom filters) is written by the
//! `parquet` crate, and the result is a plain Parquet file that its readers, DuckDB, Polars and pyarrow read.
//!
//! Exactness: null and empty keys and values differ; header keys are bytes, may repeat, values may be null; a
//! timestamp that microseconds cannot hold is null in the column and exact in the exceptions. What cannot be
//! represented exactly is refused: nothing is skipped or rounded. Control batches and aborted records are
//! left out, so offsets may have gaps, and an object's `end` may lie past its last record.
//!
//! All of it is synchronous and owns its buffers: keep a [`Sealer`] or a [`Rebuilder`] per worker and use it
//! again.

mod codec;
mod columns;
mod delta;
mod footer;
mod frame;
mod index;
mod levels;
mod rebuild;
mod row_group;
mod seal;
mod segment;
mod stripe;
mod thrift;

pub use crate::core::layout::{
    Compression, Exceptions, LayoutError, ObjectIdentity, ObjectIndex, RowGroupInfo, StripeInfo,
    TimestampTypeRun, ValueFormat,
};
pub use crate::core::layout_footer::FooterError;
pub use codec::ZSTD_LEVEL;
pub use rebuild::{Rebuilder, Rebuilt, TimestampHit, cover_gap};
pub use seal::{AbortedRange, ObjectSummary, SealError, SealInput, SealedObject, Sealer};

/// Bytes of the tail that hold footer and table of a usual object: what a reader fetches first.
pub const TAIL_BYTES: usize = 64 * 1024;

/// Why an object, or a part of it, cannot be used. The bytes are at fault, not the reader: fetching again may
/// help, retrying with the same bytes does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not an error of the object: its tail must be fetched anew with this many bytes.
    #[error("the tail must hold {needed} bytes")]
    TailTooShort { needed: u64 },
    #[error("not a Parquet file: {0}")]
    NotParquet(&'static str),
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// A page does not match its checksum, or its header is not what was written.
    #[error("column {column} of stripe {stripe}: {what}")]
    Page { column: usize, stripe: usize, what: &'static str },
    #[error("malformed page: {0}")]
    Malformed(&'static str),
    /// The bytes handed in are not the row group's.
    #[error("row group {row_group} has {expected} bytes, not {given}")]
    Length { row_group: usize, expected: u64, given: u64 },
}

#[cfg(test)]
mod tests;
