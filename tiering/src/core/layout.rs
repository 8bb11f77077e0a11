//! What an object says of itself: identity, epochs, row groups and their stripes, as the footer holds them.
//!
//! Owns the types and the lookups (which row group, which stripe). Must not read files, decompress or know
//! Parquet: `layout_codec` turns the row-group table into bytes, `object::index` finds it in a file's tail.
//! Invariants held: 11 in small (row groups and stripes are contiguous in offsets and bytes, increasing,
//! inside the object; checked by `check` on every load and before every write), 19 (nothing is used before it
//! is checked).
//!
//! A *stripe* is page k of every column: all columns are cut at the same rows, so that one stripe rebuilds
//! one batch and a read decodes only the stripes it needs. A *row group* is what one ranged GET brings.

use std::fmt;

use highwater_log::EpochStart;
use highwater_model::limits::{OBJECT_ROW_GROUPS_MAX, OBJECT_STRIPE_ROWS_MAX};
use highwater_model::{LeaderEpoch, Offset, TopicId};
use uuid::Uuid;

/// Leaf columns of every object, in the file's order.
pub const COLUMNS: usize = 6;
/// Leaf column of `_offset`.
pub const COLUMN_OFFSET: usize = 0;
/// Leaf column of `_timestamp`.
pub const COLUMN_TIMESTAMP: usize = 1;
/// Leaf column of `_key`.
pub const COLUMN_KEY: usize = 2;
/// Leaf column of `_value`.
pub const COLUMN_VALUE: usize = 3;
/// Leaf column of a header's key.
pub const COLUMN_HEADER_KEY: usize = 4;
/// Leaf column of a header's value.
pub const COLUMN_HEADER_VALUE: usize = 5;
/// Bytes of a Parquet file before its first column chunk (`PAR1`).
pub const FILE_MAGIC_BYTES: u64 = 4;

/// How the pages of an object are compressed (`highwater.parquet.compression`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard, level 1.
    #[default]
    Zstd,
    /// LZ4 block format (Parquet's `LZ4_RAW`).
    Lz4,
    None,
}

impl Compression {
    /// The setting's value.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::None => "none",
        }
    }

    /// The inverse of `name`.
    pub fn from_name(name: &str) -> Option<Compression> {
        [Compression::Zstd, Compression::Lz4, Compression::None].into_iter().find(|c| c.name() == name)
    }
}

/// How `_value` is annotated (`highwater.value.format`); the bytes are the same under each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ValueFormat {
    #[default]
    Bytes,
    Utf8,
    Json,
}

impl ValueFormat {
    /// The setting's value.
    pub fn name(self) -> &'static str {
        match self {
            ValueFormat::Bytes => "bytes",
            ValueFormat::Utf8 => "utf8",
            ValueFormat::Json => "json",
        }
    }

    /// The inverse of `name`.
    pub fn from_name(name: &str) -> Option<ValueFormat> {
        [ValueFormat::Bytes, ValueFormat::Utf8, ValueFormat::Json].into_iter().find(|f| f.name() == name)
    }
}

/// Whose object this is and which offsets it covers; also what its key in the bucket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectIdentity {
    pub cluster_id: String,
    pub topic: String,
    pub topic_id: TopicId,
    pub partition: i32,
    /// First offset covered.
    pub start: Offset,
    /// Offset after the last one covered; may exceed the last record's (a trailing gap).
    pub end: Offset,
    /// Leader epoch of the writer: the manifest generation of this upload.
    pub leader_epoch: LeaderEpoch,
    pub upload_id: Uuid,
}

/// From `start` on, whose clock the timestamps are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampTypeRun {
    pub start: Offset,
    /// Set by the broker at append instead of by the producer.
    pub log_append: bool,
}

/// Where a stripe keeps the timestamps that microseconds cannot hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Exceptions {
    #[default]
    None,
    /// Encoded runs, in the footer's table itself.
    Inline(Box<[u8]>),
    /// Encoded runs behind the row group's column chunks, inside its byte range: too long for the footer.
    Tail { length: u32, crc32c: u32 },
}

/// Page k of every column of a row group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeInfo {
    /// End of the stripe before it, or the row group's start.
    pub start: Offset,
    /// Offset of the first record; between `start` and it lies a gap.
    pub first: Offset,
    /// Offset after the last record.
    pub end: Offset,
    pub rows: u32,
    /// Bytes of its records as Kafka frames them in one batch that starts at `first`, without the batch
    /// header.
    pub records_bytes: u64,
    /// Unix milliseconds; exact, exceptions included.
    pub min_timestamp: i64,
    /// Unix milliseconds; exact, exceptions included.
    pub max_timestamp: i64,
    /// Level pairs of the header columns: one per header, one per record without any.
    pub header_levels: u32,
    pub has_keys: bool,
    pub has_headers: bool,
    pub exceptions: Exceptions,
    /// Bytes of each column's page with its page header.
    pub page_bytes: [u32; COLUMNS],
}

impl StripeInfo {
    /// Whether every offset from `first` to `end` has a record.
    pub fn is_dense(&self) -> bool {
        self.end - self.first == i64::from(self.rows)
    }

    fn tail_bytes(&self) -> u64 {
        match self.exceptions {
            Exceptions::Tail { length, .. } => u64::from(length),
            Exceptions::None | Exceptions::Inline(_) => 0,
        }
    }
}

/// Consecutive records whose bytes lie together in the object: one ranged GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroupInfo {
    /// End of the row group before it, or the object's start.
    pub start_offset: Offset,
    /// Offset after its last record; for the last row group, the object's end.
    pub end_offset: Offset,
    /// Where its bytes begin in the object.
    pub position: u64,
    /// How many bytes to fetch.
    pub length: u64,
    pub rows: u64,
    /// Bytes of its records in Kafka's framing.
    pub records_bytes: u64,
    /// Unix milliseconds.
    pub min_timestamp: i64,
    /// Unix milliseconds.
    pub max_timestamp: i64,
    pub stripes: Vec<StripeInfo>,
}

impl RowGroupInfo {
    /// Sums up `stripes`, which must not be empty.
    pub fn from_stripes(position: u64, stripes: Vec<StripeInfo>) -> RowGroupInfo {
        assert!(!stripes.is_empty(), "a row group has a stripe");
        let (first, last) = (&stripes[0], &stripes[stripes.len() - 1]);
        RowGroupInfo {
            start_offset: first.start,
            end_offset: last.end,
            position,
            length: stripes
                .iter()
                .map(|s| s.page_bytes.iter().map(|b| u64::from(*b)).sum::<u64>())
                .sum::<u64>()
                + stripes.iter().map(StripeInfo::tail_bytes).sum::<u64>(),
            rows: stripes.iter().map(|s| u64::from(s.rows)).sum(),
            records_bytes: stripes.iter().map(|s| s.records_bytes).sum(),
            min_timestamp: stripes.iter().map(|s| s.min_timestamp).min().expect("not empty"),
            max_timestamp: stripes.iter().map(|s| s.max_timestamp).max().expect("not empty"),
            stripes,
        }
    }

    /// The first stripe that has a record at or after `offset`.
    pub fn stripe_for_offset(&self, offset: Offset) -> Option<usize> {
        let at = self.stripes.partition_point(|s| s.end <= offset);
        (at < self.stripes.len()).then_some(at)
    }

    /// Where, inside the row group's bytes, page `stripe` of `column` lies.
    pub fn page_range(&self, column: usize, stripe: usize) -> std::ops::Range<usize> {
        assert!(column < COLUMNS, "column {column}");
        assert!(stripe < self.stripes.len(), "stripe {stripe}");
        let chunk: u64 = (0..column).map(|c| self.column_bytes(c)).sum();
        let before: u64 = self.stripes[..stripe].iter().map(|s| u64::from(s.page_bytes[column])).sum();
        let start = (chunk + before) as usize;
        start..start + self.stripes[stripe].page_bytes[column] as usize
    }

    /// Where, inside the row group's bytes, a stripe's tail exceptions lie.
    pub fn exceptions_range(&self, stripe: usize) -> std::ops::Range<usize> {
        assert!(stripe < self.stripes.len(), "stripe {stripe}");
        let chunks: u64 = (0..COLUMNS).map(|c| self.column_bytes(c)).sum();
        let before: u64 = self.stripes[..stripe].iter().map(StripeInfo::tail_bytes).sum();
        let start = (chunks + before) as usize;
        start..start + self.stripes[stripe].tail_bytes() as usize
    }

    /// How many of the row group's first bytes a lookup by time needs: offsets and timestamps, which come
    /// first; all of them if there are timestamps behind the columns.
    pub fn lookup_bytes(&self) -> u64 {
        let has_tail = self.stripes.iter().any(|s| s.tail_bytes() > 0);
        let first_columns = self.column_bytes(COLUMN_OFFSET) + self.column_bytes(COLUMN_TIMESTAMP);
        assert!(first_columns <= self.length, "columns lie inside the row group");
        if has_tail { self.length } else { first_columns }
    }

    /// Bytes of one column chunk.
    pub fn column_bytes(&self, column: usize) -> u64 {
        debug_assert!(column < COLUMNS, "column {column}");
        self.stripes.iter().map(|s| u64::from(s.page_bytes[column])).sum()
    }
}

/// Why a footer's tables contradict themselves or the object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("object layout: {what} (row group {row_group}, stripe {stripe})")]
pub struct LayoutError {
    pub what: &'static str,
    pub row_group: usize,
    pub stripe: usize,
}

/// Everything a reader needs to fetch and rebuild; kept in memory per object, bounded by its stripes.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectIndex {
    pub identity: ObjectIdentity,
    pub compression: Compression,
    pub value_format: ValueFormat,
    pub compacted: bool,
    /// Leader epochs of the range: first entry at or below `identity.start`, increasing.
    pub epochs: Vec<EpochStart>,
    /// First entry at `identity.start`, alternating.
    pub timestamp_types: Vec<TimestampTypeRun>,
    /// The producers' sequence state at the end of the segment; opaque here.
    pub producer_snapshot: Vec<u8>,
    pub row_groups: Vec<RowGroupInfo>,
    /// Bytes of the whole object.
    pub object_bytes: u64,
}

impl fmt::Debug for ObjectIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectIndex")
            .field("identity", &self.identity)
            .field("row_groups", &self.row_groups.len())
            .field("records", &self.records())
            .field("object_bytes", &self.object_bytes)
            .finish_non_exhaustive()
    }
}

impl ObjectIndex {
    pub fn records(&self) -> u64 {
        self.row_groups.iter().map(|g| g.rows).sum()
    }

    /// Largest timestamp of the object, in Unix milliseconds; -1 when it has no records.
    pub fn max_timestamp(&self) -> i64 {
        self.row_groups.iter().map(|g| g.max_timestamp).max().unwrap_or(-1)
    }

    /// The row group to read for `offset`: the first with a record at or after it, else the last (whose
    /// rebuild then covers the trailing gap). `None` when the object has no records or ends at or below
    /// `offset`.
    pub fn row_group_for_offset(&self, offset: Offset) -> Option<usize> {
        if offset >= self.identity.end || self.row_groups.is_empty() {
            return None;
        }
        let at = self.row_groups.partition_point(|g| g.end_offset <= offset);
        debug_assert!(at < self.row_groups.len(), "the last row group ends at the object's end");
        Some(at.min(self.row_groups.len() - 1))
    }

    /// The first row group that has a record with a timestamp of at least `timestamp` (Unix milliseconds).
    pub fn row_group_for_timestamp(&self, timestamp: i64) -> Option<usize> {
        self.row_groups.iter().position(|g| g.max_timestamp >= timestamp)
    }

    /// The leader epoch under which the record at `offset` was written.
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        debug_assert!(!self.epochs.is_empty(), "checked at load");
        let after = self.epochs.partition_point(|e| e.start_offset <= offset);
        self.epochs[after.saturating_sub(1)].epoch
    }

    /// Whether the record at `offset` has the broker's timestamp.
    pub fn log_append_at(&self, offset: Offset) -> bool {
        let after = self.timestamp_types.partition_point(|r| r.start <= offset);
        after > 0 && self.timestamp_types[after - 1].log_append
    }

    /// The first offset after `offset` where epoch or timestamp type changes.
    pub fn next_cut(&self, offset: Offset) -> Offset {
        let epoch = self.epochs.partition_point(|e| e.start_offset <= offset);
        let kind = self.timestamp_types.partition_point(|r| r.start <= offset);
        let epoch = self.epochs.get(epoch).map_or(Offset::MAX, |e| e.start_offset);
        let kind = self.timestamp_types.get(kind).map_or(Offset::MAX, |r| r.start);
        debug_assert!(epoch > offset && kind > offset, "cuts lie ahead");
        epoch.min(kind)
    }

    /// An estimate of the heap bytes held, for a cache's weigher.
    pub fn memory_bytes(&self) -> usize {
        let stripes: usize = self.row_groups.iter().map(|g| g.stripes.len()).sum();
        size_of::<Self>()
            + self.producer_snapshot.len()
            + self.epochs.len() * size_of::<EpochStart>()
            + self.timestamp_types.len() * size_of::<TimestampTypeRun>()
            + self.row_groups.len() * size_of::<RowGroupInfo>()
            + stripes * (size_of::<StripeInfo>() + 16)
    }

    /// Checks that the tables agree with each other and lie inside the object. Lookups and rebuild rely on
    /// it.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), LayoutError> {
        let broken = |what| LayoutError { what, row_group: 0, stripe: 0 };
        let identity = &self.identity;
        if identity.start < 0 || identity.start > identity.end {
            return Err(broken("offset range"));
        }
        if self.row_groups.len() > OBJECT_ROW_GROUPS_MAX {
            return Err(broken("too many row groups"));
        }
        if self.epochs.first().is_none_or(|e| e.start_offset > identity.start) {
            return Err(broken("epochs do not cover the start"));
        }
        let in_order = |a: &EpochStart, b: &EpochStart| a.epoch < b.epoch && a.start_offset <= b.start_offset;
        if !self.epochs.windows(2).all(|w| in_order(&w[0], &w[1])) {
            return Err(broken("epochs out of order"));
        }
        if self.timestamp_types.first().is_none_or(|r| r.start > identity.start) {
            return Err(broken("timestamp types do not cover the start"));
        }
        if !self.timestamp_types.windows(2).all(|w| w[0].start < w[1].start) {
            return Err(broken("timestamp types out of order"));
        }
        let mut offset = identity.start;
        let mut position = FILE_MAGIC_BYTES;
        for (number, group) in self.row_groups.iter().enumerate() {
            let last = number + 1 == self.row_groups.len();
            check_row_group(group, number, offset, position, last)?;
            offset = group.end_offset;
            position = group.position.checked_add(group.length).ok_or(broken("byte range"))?;
        }
        if position > self.object_bytes {
            return Err(broken("row groups outside the object"));
        }
        if !self.row_groups.is_empty() && offset != identity.end {
            return Err(broken("row groups do not reach the end"));
        }
        Ok(())
    }
}

fn check_row_group(
    group: &RowGroupInfo,
    number: usize,
    offset: Offset,
    position: u64,
    last: bool,
) -> Result<(), LayoutError> {
    let broken = |what, stripe| LayoutError { what, row_group: number, stripe };
    if group.stripes.is_empty() {
        return Err(broken("empty row group", 0));
    }
    if group.start_offset != offset || group.position != position {
        return Err(broken("not contiguous", 0));
    }
    let mut start = offset;
    for (at, stripe) in group.stripes.iter().enumerate() {
        if stripe.start != start || stripe.first < stripe.start {
            return Err(broken("stripes not contiguous", at));
        }
        if stripe.rows == 0 || stripe.rows as usize > OBJECT_STRIPE_ROWS_MAX {
            return Err(broken("stripe rows", at));
        }
        if stripe.end.checked_sub(stripe.first).is_none_or(|n| n < i64::from(stripe.rows)) {
            return Err(broken("more rows than offsets", at));
        }
        if stripe.header_levels < stripe.rows || stripe.min_timestamp > stripe.max_timestamp {
            return Err(broken("stripe counts", at));
        }
        start = stripe.end;
    }
    if group.end_offset < start || (!last && group.end_offset != start) {
        return Err(broken("row group end", group.stripes.len() - 1));
    }
    let sums = RowGroupInfo::from_stripes(position, group.stripes.clone());
    if sums.length != group.length || sums.rows != group.rows || sums.records_bytes != group.records_bytes {
        return Err(broken("row group sums", 0));
    }
    if sums.max_timestamp != group.max_timestamp || sums.min_timestamp != group.min_timestamp {
        return Err(broken("row group timestamps", 0));
    }
    Ok(())
}

#[cfg(test)]
#[path = "layout/tests.rs"]
mod tests;
