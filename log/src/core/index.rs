//! The sparse index of one segment: offset -> position and time -> position, about one row per
//! `index.interval.bytes`.
//!
//! Owns the rows, the three searches over them and their stored form. Must not read the log: a row only says
//! where a scan of batch headers may begin. Rows are derivable from the log, so a damaged index is rebuilt,
//! never repaired. One row serves offsets and times: `max_timestamp_before` is the largest timestamp of all
//! batches before the row, a running maximum, hence sorted like the rest.

use highwater_model::Offset;
use highwater_model::limits::INDEX_ROWS_MAX;

use super::stored::{self, Reader, StoredError};

pub const INDEX_MAGIC: [u8; 4] = *b"HWIX";
pub const INDEX_VERSION: u16 = 1;
const ROW_BYTES: usize = 16;

/// A batch boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// First offset of the batch, relative to the segment's start.
    pub relative_offset: u32,
    /// Where the batch starts in the segment file, bytes.
    pub position: u32,
    /// Largest record timestamp (Unix ms) of all batches before this one; `i64::MIN` at the segment's start.
    pub max_timestamp_before: i64,
}

/// The whole of a segment that an index describes; stored with the rows so that an index cannot serve another
/// segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexedSegment {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    pub max_timestamp: i64,
}

/// Rows in log order. The segment's first batch needs no row: it is at position 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseIndex {
    start: Offset,
    interval_bytes: u32,
    rows: Vec<IndexRow>,
}

impl SparseIndex {
    pub fn new(start: Offset, interval_bytes: u32) -> SparseIndex {
        assert!(start >= 0);
        assert!(interval_bytes > 0);
        SparseIndex { start, interval_bytes, rows: Vec::new() }
    }

    pub fn rows(&self) -> &[IndexRow] {
        &self.rows
    }

    fn origin(&self) -> IndexRow {
        IndexRow { relative_offset: 0, position: 0, max_timestamp_before: i64::MIN }
    }

    /// Tells the index of a batch at `position`, whose predecessors' largest timestamp is
    /// `max_timestamp_before`. Adds a row if the last one is at least the interval away.
    pub fn note(&mut self, base_offset: Offset, position: u64, max_timestamp_before: i64) {
        let last = self.rows.last().copied().unwrap_or(self.origin());
        assert!(position >= u64::from(last.position), "batches are told in order");
        if position < u64::from(last.position) + u64::from(self.interval_bytes)
            || self.rows.len() == INDEX_ROWS_MAX
        {
            return;
        }
        let relative_offset = u32::try_from(base_offset - self.start).expect("roll keeps offsets within i32");
        let position = u32::try_from(position).expect("segment.bytes is below 2^31");
        debug_assert!(relative_offset > last.relative_offset);
        debug_assert!(max_timestamp_before >= last.max_timestamp_before);
        self.rows.push(IndexRow { relative_offset, position, max_timestamp_before });
    }

    /// The last row at or below `offset`: a scan for the batch holding `offset` starts there.
    pub fn floor_of_offset(&self, offset: Offset) -> IndexRow {
        let above = self.rows.partition_point(|r| self.start + i64::from(r.relative_offset) <= offset);
        above.checked_sub(1).map_or(self.origin(), |i| self.rows[i])
    }

    /// The last row at or below `position`: a batch boundary found without reading the log.
    pub fn floor_of_position(&self, position: u64) -> IndexRow {
        let above = self.rows.partition_point(|r| u64::from(r.position) <= position);
        above.checked_sub(1).map_or(self.origin(), |i| self.rows[i])
    }

    /// The last row before which every timestamp is below `timestamp`: a scan for the first batch that
    /// reaches `timestamp` starts there.
    pub fn floor_of_timestamp(&self, timestamp: i64) -> IndexRow {
        let above = self.rows.partition_point(|r| r.max_timestamp_before < timestamp);
        above.checked_sub(1).map_or(self.origin(), |i| self.rows[i])
    }

    /// First offset of a row's batch.
    pub fn offset_of(&self, row: &IndexRow) -> Offset {
        self.start + i64::from(row.relative_offset)
    }

    /// Forgets rows at or past `position`.
    pub fn truncate(&mut self, position: u64) {
        let kept = self.rows.partition_point(|r| u64::from(r.position) < position);
        self.rows.truncate(kept);
        debug_assert!(self.rows.last().is_none_or(|r| u64::from(r.position) < position));
    }

    /// The stored form, for `<start>.index`.
    pub fn encode(&self, segment: &IndexedSegment) -> Vec<u8> {
        assert_eq!(segment.start, self.start);
        assert!(self.rows.last().is_none_or(|r| u64::from(r.position) < segment.bytes));
        let mut body = Vec::with_capacity(40 + self.rows.len() * ROW_BYTES);
        body.extend_from_slice(&segment.start.to_le_bytes());
        body.extend_from_slice(&segment.end.to_le_bytes());
        body.extend_from_slice(&segment.bytes.to_le_bytes());
        body.extend_from_slice(&segment.max_timestamp.to_le_bytes());
        body.extend_from_slice(&self.interval_bytes.to_le_bytes());
        let rows = u32::try_from(self.rows.len()).expect("bounded by INDEX_ROWS_MAX");
        body.extend_from_slice(&rows.to_le_bytes());
        for row in &self.rows {
            body.extend_from_slice(&row.relative_offset.to_le_bytes());
            body.extend_from_slice(&row.position.to_le_bytes());
            body.extend_from_slice(&row.max_timestamp_before.to_le_bytes());
        }
        stored::frame(INDEX_MAGIC, INDEX_VERSION, &body)
    }

    /// Reads a stored index; any damage or disorder is an error, after which the caller rebuilds it from the
    /// log.
    pub fn decode(file: &[u8]) -> Result<(IndexedSegment, SparseIndex), StoredError> {
        let (_, body) = stored::unframe(INDEX_MAGIC, INDEX_VERSION, file)?;
        let mut r = Reader::new(body);
        let segment =
            IndexedSegment { start: r.i64()?, end: r.i64()?, bytes: r.u64()?, max_timestamp: r.i64()? };
        let interval_bytes = r.u32()?;
        if segment.start < 0 || segment.end < segment.start || interval_bytes == 0 {
            return Err(StoredError::Rule("segment bounds"));
        }
        let count = r.count(ROW_BYTES, INDEX_ROWS_MAX)?;
        let mut index = SparseIndex { start: segment.start, interval_bytes, rows: Vec::with_capacity(count) };
        let mut last = index.origin();
        for _ in 0..count {
            let row =
                IndexRow { relative_offset: r.u32()?, position: r.u32()?, max_timestamp_before: r.i64()? };
            let rises = row.relative_offset > last.relative_offset
                && row.position > last.position
                && row.max_timestamp_before >= last.max_timestamp_before;
            let inside = u64::from(row.position) < segment.bytes && index.offset_of(&row) < segment.end;
            if !rises || !inside {
                return Err(StoredError::Rule("rows rise within the segment"));
            }
            index.rows.push(row);
            last = row;
        }
        r.finish()?;
        assert_eq!(index.rows.len(), count);
        Ok((segment, index))
    }
}

#[cfg(test)]
#[path = "index/tests.rs"]
mod tests;
