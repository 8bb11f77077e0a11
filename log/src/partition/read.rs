//! Finding the bytes of a fetch: whole batches, as ranges of segment files, without reading the batches
//! themselves.
//!
//! Costs one index search and, as a rule, one small read of headers per segment. Cuts at batch boundaries
//! that the sparse index knows, so what is sent is never a part of a batch (Kafka sends the part and the
//! client throws it away).

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::Offset;
use highwater_model::limits::READ_SLICES_MAX;

use super::PartitionLog;
use crate::core::checkpoint::SealedSegment;
use crate::core::transactions::ProducerState;
use crate::disk::{read_side_file, read_up_to};
use crate::error::{LogError, ReadError, disk_error};
use crate::map;
use crate::names;
use crate::segment::SegmentView;

/// Whole batches in one segment file. The file stays readable while the slice lives, evicted or not.
#[derive(Clone, Debug)]
pub struct LogSlice {
    pub file: Arc<File>,
    pub position: u64,
    /// Bytes.
    pub length: usize,
}

impl LogSlice {
    /// Copies the bytes into memory, for those who cannot send from the file.
    ///
    /// # Errors
    /// Of the read; `UnexpectedEof` if the file was cut since.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length];
        if read_up_to(&self.file, &mut bytes, self.position)? != self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// What a read found.
#[derive(Debug, Default)]
pub struct LogRead {
    pub slices: Vec<LogSlice>,
    /// The limit of bytes ended it, not the end bound: there is more. The slices then have somewhat less than
    /// the limit, as they end where the sparse index knows a batch to end.
    pub is_limited: bool,
    /// Every record read lies below this offset; not far above the last of them.
    pub upto: Offset,
}

impl PartitionLog {
    /// Whole batches from the one holding `start` up to `end_bound` (the high watermark or last stable
    /// offset), at most `max_bytes`, in offset order; with `at_least_one_batch` the first one comes even if
    /// it is larger. Empty when there is nothing below the bound. The first batch may begin below `start`, as
    /// in Kafka.
    ///
    /// # Errors
    /// `BelowLocalStart` and `AboveLogEnd`; `Io` and `Corrupt` of the headers it had to look at.
    pub fn read(
        &self,
        start: Offset,
        max_bytes: usize,
        end_bound: Offset,
        at_least_one_batch: bool,
    ) -> Result<LogRead, ReadError> {
        let local_start = self.local_start();
        if start < local_start {
            return Err(ReadError::BelowLocalStart { start, local_start });
        }
        self.read_segments(start, max_bytes, end_bound, at_least_one_batch)
    }

    /// As `read`, for a replica: everything that has a segment, up to the log's end, at least one batch.
    /// Below the log start too, as a replica copies whole segments.
    ///
    /// # Errors
    /// As `read`; `BelowLocalStart` below the first segment.
    pub fn read_for_replica(&self, start: Offset, max_bytes: usize) -> Result<LogRead, ReadError> {
        let local_start = self.first_segment_start();
        if start < local_start {
            return Err(ReadError::BelowLocalStart { start, local_start });
        }
        self.read_segments(start, max_bytes, self.log_end(), true)
    }

    fn read_segments(
        &self,
        start: Offset,
        max_bytes: usize,
        end_bound: Offset,
        at_least_one_batch: bool,
    ) -> Result<LogRead, ReadError> {
        let log_end = self.log_end();
        if start > log_end {
            return Err(ReadError::AboveLogEnd { start, log_end });
        }
        let end_bound = end_bound.min(log_end);
        let mut read = LogRead::default();
        if start >= end_bound {
            return Ok(read);
        }
        let mut left = max_bytes as u64;
        let mut from = start;
        for view in self.views(start).take(READ_SLICES_MAX) {
            let must = at_least_one_batch && read.slices.is_empty();
            let found = view.and_then(|view| {
                let cut = cut(&view, from, left, end_bound, must)?;
                Ok((view, cut))
            });
            let (view, Cut { position, end, is_limited, upto }) = match found {
                Ok(found) => found,
                // What came before is good; the next read begins here, and tells.
                Err(_) if !read.slices.is_empty() => break,
                Err(error) => return Err(error),
            };
            read.is_limited = is_limited;
            if end <= position {
                break;
            }
            let length = usize::try_from(end - position).expect("segments are below 2^31 bytes");
            read.upto = upto;
            read.slices.push(LogSlice { file: view.file.clone(), position, length });
            left = left.saturating_sub(length as u64);
            from = view.end;
            if end < view.bytes || from >= end_bound {
                break;
            }
            // Unless the next segment says otherwise: there are no more slices for it.
            read.is_limited = true;
        }
        Ok(read)
    }

    fn sealed_at(&self, start: Offset) -> Result<&SealedSegment, LogError> {
        let at = self.sealed.binary_search_by_key(&start, |s| s.start);
        at.map(|i| &self.sealed[i]).map_err(|_| LogError::NoSegment(start))
    }

    /// The bytes of the sealed segment that starts at `start`, mapped. They stay readable after eviction. A
    /// disk that fails under the map kills the process; recovery and fetches do not read through maps.
    ///
    /// # Errors
    /// `NoSegment`; `Io`, also if the file is shorter than it was when sealed.
    pub fn map_sealed(&self, start: Offset) -> Result<Bytes, LogError> {
        let segment = self.sealed_at(start)?;
        let name = names::log(start);
        let file = self.disk.open(&name).map_err(disk_error("open", &name))?;
        map::map_sealed(file.file(), segment.bytes).map_err(disk_error("map", &name))
    }

    /// The producer table, encoded, as it was at the end of the sealed segment that starts at `start`.
    ///
    /// # Errors
    /// `NoSegment`; `Io` and `Corrupt` if it had to be rebuilt from the log and could not.
    pub fn producer_snapshot_at_seal(&self, start: Offset) -> Result<Vec<u8>, LogError> {
        let end = self.sealed_at(start)?.end;
        let name = names::producers(end);
        let stored = read_side_file(&*self.disk, &name).map_err(disk_error("read", &name))?;
        if let Some(stored) = stored
            && ProducerState::decode(&stored).is_ok_and(|(at, _)| at == end)
        {
            return Ok(stored);
        }
        Ok(self.producers_at(end, self.told_ms)?.encode(end))
    }
}

/// A range of a segment, and whether the limit of bytes ended it.
struct Cut {
    position: u64,
    end: u64,
    is_limited: bool,
    /// What is in the range lies below.
    upto: Offset,
}

/// The range of `view` to send: from the batch holding `from` to at most `left` bytes further, below
/// `end_bound`.
fn cut(
    view: &SegmentView<'_>,
    from: Offset,
    left: u64,
    end_bound: Offset,
    must: bool,
) -> Result<Cut, ReadError> {
    let first = view.find(from)?;
    if first.header.next_offset() > end_bound {
        return Ok(Cut { position: 0, end: 0, is_limited: false, upto: from });
    }
    let (position, first_end) = (first.position, first.end());
    let limit = position.saturating_add(left).min(view.bytes);
    let bound = end_bound.min(view.end);
    let (end, is_limited, upto) = if limit == view.bytes {
        (bound_position(view, end_bound)?, false, bound)
    } else {
        let row = view.index.floor_of_position(limit);
        let by_bytes = u64::from(row.position);
        // A row at or below the bound is within it; only one above makes it worth looking for the bound
        // itself.
        match view.index.offset_of(&row) {
            offset if offset <= end_bound => (by_bytes, offset < end_bound, offset),
            _ => (bound_position(view, end_bound)?, false, bound),
        }
    };
    debug_assert!(end <= limit);
    let (end, upto) = match must && end < first_end {
        true => (first_end, first.header.next_offset()),
        false => (end, upto),
    };
    Ok(Cut { position, end, is_limited, upto })
}

/// Where `end_bound` lies in the segment: the position of the first batch that is not wholly below it.
fn bound_position(view: &SegmentView<'_>, end_bound: Offset) -> Result<u64, ReadError> {
    if end_bound >= view.end {
        return Ok(view.bytes);
    }
    if end_bound <= view.start {
        return Ok(0);
    }
    Ok(view.find(end_bound)?.position)
}
