//! What can go wrong with a partition's log, by what the owner should do about it.

use std::io;

use highwater_model::Offset;
use highwater_wire::batch::BatchError;

use crate::core::epochs::EpochRefusal;
use crate::core::stored::StoredError;

/// A change to the log was not made. Unless it says poisoned, the log is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk refused; the log is unchanged and the call may be tried again.
    #[error("cannot {what} {file}: {source}")]
    Io { what: &'static str, file: String, source: io::Error },
    /// A write or fsync failed in a way that leaves the files unknown (invariant 5); appends are refused
    /// until the partition is opened again.
    #[error("partition is poisoned: {0}")]
    Poisoned(&'static str),
    /// The batch is not what its header says; the caller has validated it, so this is a defect, not a
    /// client's.
    #[error("batch refused: {0}")]
    Batch(&'static str),
    #[error(transparent)]
    Epoch(#[from] EpochRefusal),
    /// A replicated batch does not begin where the log ends.
    #[error("a batch of offset {given} where {log_end} comes next")]
    Misplaced { given: Offset, log_end: Offset },
    /// What a new replica was given to begin with is not right; nothing was changed.
    #[error("cannot begin: {0}")]
    Beginning(&'static str),
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: Offset, start: Offset, end: Offset },
    #[error("no sealed segment starts at {0}")]
    NoSegment(Offset),
    /// Bytes of the log do not hold what they should (invariant 19).
    #[error("segment {segment:020}, position {position}: {what}")]
    Corrupt { segment: Offset, position: u64, what: &'static str },
    #[error("{0} segments, more than one partition may have")]
    TooManySegments(usize),
}

/// Nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is below what is local: ask the tier, or the consumer's position is gone.
    #[error("offset {start} is below the local start {local_start}")]
    BelowLocalStart { start: Offset, local_start: Offset },
    #[error("offset {start} is past the log's end {log_end}")]
    AboveLogEnd { start: Offset, log_end: Offset },
    #[error("cannot {what} segment {segment:020}: {source}")]
    Io { what: &'static str, segment: Offset, source: io::Error },
    #[error("segment {segment:020}, position {position}: {what}")]
    Corrupt { segment: Offset, position: u64, what: &'static str },
}

/// An fsync failed: the partition is poisoned by it.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct FlushError {
    pub what: &'static str,
    pub source: io::Error,
}

pub(crate) fn disk_error<'a>(what: &'static str, file: &'a str) -> impl FnOnce(io::Error) -> LogError + 'a {
    move |source| LogError::Io { what, file: file.to_owned(), source }
}

/// In one line, without the variable parts, which the place tells.
pub(crate) fn batch_fault(error: &BatchError) -> &'static str {
    match error {
        BatchError::Truncated { .. } => "batch cut short",
        BatchError::Magic(_) => "no batch of format 2",
        BatchError::Length(_) => "impossible batch length",
        BatchError::Counts { .. } => "impossible record counts",
        BatchError::Crc { .. } => "checksum differs",
        BatchError::Codec(_) => "unknown codec",
        BatchError::Record { .. } => "record does not parse",
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> LogError {
        match error {
            ReadError::BelowLocalStart { start, local_start } => {
                LogError::OutOfRange { offset: start, start: local_start, end: Offset::MAX }
            }
            ReadError::AboveLogEnd { start, log_end } => {
                LogError::OutOfRange { offset: start, start: 0, end: log_end }
            }
            ReadError::Io { what, segment, source } => {
                LogError::Io { what, file: format!("{segment:020}.log"), source }
            }
            ReadError::Corrupt { segment, position, what } => LogError::Corrupt { segment, position, what },
        }
    }
}

/// Why a side file was ignored, for the recovery report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredFile {
    pub name: String,
    /// `None`: the name is none of ours.
    pub why: Option<StoredError>,
}
