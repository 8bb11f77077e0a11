//! Segment -> object.
//!
//! Owns where stripes and row groups are cut, and the order of the work: records into columns (one copy),
//! full columns into compressed pages, pages into row groups, then the footer. Must not skip what it cannot
//! read: see `segment`. An object that has grown to its limits ends early, after a batch: a segment may hold
//! far more than its own length once it is decompressed. Invariants: 8 (an object is built once, under an
//! upload id of its own), 11 (its ranges are contiguous), 19.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use highwater_log::EpochStart;
use highwater_model::limits::{
    OBJECT_BYTES_MAX, OBJECT_RAW_BYTES_MAX, OBJECT_ROW_GROUP_BYTES, OBJECT_ROW_GROUPS_MAX,
    OBJECT_STRIPE_BYTES_MAX, OBJECT_STRIPE_ROWS_MAX,
};
use highwater_model::{Expiry, Offset, ProducerId};

use super::codec::{PageCompressor, give_back_if_large};
use super::columns::{Row, StripeColumns};
use super::footer;
use super::row_group::{FinishedRowGroup, RowGroupBuilder};
use super::segment::SegmentReader;
use crate::core::layout::{
    Compression, FILE_MAGIC_BYTES, ObjectIdentity, ObjectIndex, TimestampTypeRun, ValueFormat,
};

/// Data batches of `producer_id` with a base offset in `start..end` belong to an aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedRange {
    pub producer_id: ProducerId,
    pub start: Offset,
    pub end: Offset,
}

/// What is to be sealed.
#[derive(Clone, Debug)]
pub struct SealInput {
    pub identity: ObjectIdentity,
    /// Leader epochs with their first offsets, increasing; the first at or below `identity.start`. Entries
    /// outside the range do no harm. Each batch must carry the epoch that this table gives its offset.
    pub epochs: Vec<EpochStart>,
    /// Producers' state at `identity.end`, kept as it is.
    pub producer_snapshot: Vec<u8>,
    /// Batches one after another; the first may start below `identity.start`, the last end above
    /// `identity.end`.
    pub segment: Bytes,
    pub value_format: ValueFormat,
    pub compression: Compression,
    /// The topic is compacted: row groups get a bloom filter over their keys.
    pub compacted: bool,
    /// Aborted transactions whose records are to be left out.
    pub aborted: Vec<AbortedRange>,
    /// Records that have expired by this are left out too.
    pub expiry: Option<Expiry>,
    /// Offsets may be missing in `segment`: it was rebuilt from the tier. A local segment has none missing.
    pub gaps_allowed: bool,
    /// Bytes of row groups' records, uncompressed, at which the object ends early, after the batch at hand.
    pub raw_bytes_max: u64,
}

impl SealInput {
    /// A local segment with the defaults of a new topic: zstd, plain bytes, not compacted, nothing aborted,
    /// nothing that expires.
    pub fn new(identity: ObjectIdentity, epochs: Vec<EpochStart>, segment: Bytes) -> SealInput {
        SealInput {
            identity,
            epochs,
            producer_snapshot: Vec::new(),
            segment,
            value_format: ValueFormat::Bytes,
            compression: Compression::Zstd,
            compacted: false,
            aborted: Vec::new(),
            expiry: None,
            gaps_allowed: false,
            raw_bytes_max: OBJECT_RAW_BYTES_MAX,
        }
    }
}

/// Why a segment was not sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The segment's bytes cannot be trusted from here on. Sealing of the partition must stop and someone
    /// must look.
    #[error("rotten batch at byte {position}, where offset {offset} was to follow: {what}")]
    Rotten { offset: Offset, position: u64, what: String },
    /// The call itself is wrong.
    #[error("cannot seal: {0}")]
    Input(&'static str),
    /// One record is larger than Parquet's page sizes can say.
    #[error("a page of {bytes} bytes is more than Parquet can hold")]
    TooLarge { bytes: usize },
    /// The footer could not be written: a defect.
    #[error("writing the footer: {0}")]
    Footer(String),
    /// The caller has asked it to stop; nothing is wrong with the segment.
    #[error("sealing was interrupted")]
    Interrupted,
}

/// What an object holds, for the manifest and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    pub start: Offset,
    pub end: Offset,
    pub records: u64,
    /// Bytes of the records in Kafka's framing, uncompressed, without batch headers.
    pub raw_bytes: u64,
    pub object_bytes: u64,
    /// Unix milliseconds; -1 without records.
    pub min_timestamp: i64,
    /// Unix milliseconds; -1 without records.
    pub max_timestamp: i64,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
}

/// A sealed segment, ready to be uploaded.
#[derive(Clone, Debug)]
pub struct SealedObject {
    /// The object's bytes in order, in parts that were never copied together.
    pub parts: Vec<Bytes>,
    pub summary: ObjectSummary,
    /// What `ObjectIndex::parse` will find in it: a reader's cache may start with this.
    pub index: ObjectIndex,
}

impl SealedObject {
    /// The parts as one buffer: a copy of the whole object.
    pub fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.summary.object_bytes as usize);
        self.parts.iter().for_each(|part| all.extend_from_slice(part));
        all.freeze()
    }
}

/// Seals segments one after another; holds buffers of a few MiB between them.
pub struct Sealer {
    compressor: PageCompressor,
    columns: StripeColumns,
    group: RowGroupBuilder,
    decompressed: Vec<u8>,
}

impl Default for Sealer {
    fn default() -> Self {
        Sealer::new()
    }
}

impl Sealer {
    pub fn new() -> Sealer {
        Sealer {
            compressor: PageCompressor::new(),
            columns: StripeColumns::new(),
            group: RowGroupBuilder::new(),
            decompressed: Vec::new(),
        }
    }

    /// Seals `input` into an object in memory. CPU-bound: a few hundred MB/s per core. When the object would
    /// pass its limits it ends early: `summary.end` is then below `identity.end`, and it carries no producer
    /// snapshot, which is of `identity.end`.
    ///
    /// # Errors
    /// `Rotten` names the place where the segment cannot be trusted; nothing of it may then be published.
    pub fn seal(&mut self, input: &SealInput) -> Result<SealedObject, SealError> {
        self.seal_unless(input, &AtomicBool::new(false))
    }

    /// As [`Sealer::seal`], and ends within a stripe's work once `stop` is set.
    ///
    /// # Errors
    /// As [`Sealer::seal`]; `Interrupted` when `stop` was set before the last stripe was cut.
    pub fn seal_unless(&mut self, input: &SealInput, stop: &AtomicBool) -> Result<SealedObject, SealError> {
        check_input(input)?;
        self.columns.clear();
        self.group.clear();
        self.compressor.set(input.compression);
        let mut reader = SegmentReader::new(input);
        let mut decompressed = std::mem::take(&mut self.decompressed);
        let full = Cell::new(false);
        let mut building = Building::new(input, self, &full, stop);
        let walked = reader.walk(&mut decompressed, &full, |row| building.push(row));
        let end = if full.get() { reader.expected() } else { input.identity.end };
        let cut = walked.and_then(|()| building.cut_row_group());
        let Building { parts, groups, position, .. } = building;
        give_back_if_large(&mut decompressed);
        self.decompressed = decompressed;
        cut?;
        let mut identity = input.identity.clone();
        identity.end = identity.end.min(end);
        finish(input, identity, parts, groups, position, reader.kinds)
    }
}

fn check_input(input: &SealInput) -> Result<(), SealError> {
    let identity = &input.identity;
    if identity.start < 0 || identity.start >= identity.end {
        return Err(SealError::Input("the offset range is empty or negative"));
    }
    if input.epochs.first().is_none_or(|e| e.start_offset > identity.start) {
        return Err(SealError::Input("the epoch table does not cover the start"));
    }
    let in_order = |a: &EpochStart, b: &EpochStart| a.epoch < b.epoch && a.start_offset <= b.start_offset;
    if !input.epochs.windows(2).all(|w| in_order(&w[0], &w[1])) {
        return Err(SealError::Input("the epoch table is out of order"));
    }
    Ok(())
}

/// One object under construction.
struct Building<'a> {
    input: &'a SealInput,
    sealer: &'a mut Sealer,
    parts: Vec<Bytes>,
    groups: Vec<FinishedRowGroup>,
    position: u64,
    /// Offset after the last cut stripe.
    cut_at: Offset,
    /// First offset and timestamp of the stripe being filled: what its records' deltas are counted from.
    base: (Offset, i64),
    raw_bytes: u64,
    /// Set once the object is as large as it may be.
    full: &'a Cell<bool>,
    /// Set by the caller's thread to end the work.
    stop: &'a AtomicBool,
}

impl<'a> Building<'a> {
    fn new(
        input: &'a SealInput,
        sealer: &'a mut Sealer,
        full: &'a Cell<bool>,
        stop: &'a AtomicBool,
    ) -> Building<'a> {
        Building {
            input,
            sealer,
            parts: vec![Bytes::from_static(b"PAR1")],
            groups: Vec::new(),
            position: FILE_MAGIC_BYTES,
            cut_at: input.identity.start,
            base: (0, 0),
            raw_bytes: 0,
            full,
            stop,
        }
    }

    #[inline]
    fn push(&mut self, row: &Row<'_>) -> Result<(), SealError> {
        if self.sealer.columns.is_empty() {
            self.base = (row.offset, row.timestamp);
        }
        let mut bytes = row.framed_bytes(self.base.0, self.base.1);
        let columns = &self.sealer.columns;
        let full = columns.records_bytes() + bytes as u64 > OBJECT_STRIPE_BYTES_MAX as u64
            || columns.rows() >= OBJECT_STRIPE_ROWS_MAX
            || row.offset - self.base.0 > i64::from(i32::MAX);
        if full && !columns.is_empty() {
            self.cut_stripe()?;
            self.base = (row.offset, row.timestamp);
            bytes = row.framed_bytes(self.base.0, self.base.1);
        }
        self.sealer.columns.push(row, bytes);
        Ok(())
    }

    fn cut_stripe(&mut self) -> Result<(), SealError> {
        let sealer = &mut *self.sealer;
        let Some((_, last)) = sealer.columns.offset_range() else {
            return Ok(());
        };
        if self.stop.load(Relaxed) {
            return Err(SealError::Interrupted);
        }
        let (bloom, compression) = (self.input.compacted, self.input.compression);
        sealer.group.append(&mut sealer.columns, self.cut_at, bloom, compression, &mut sealer.compressor)?;
        sealer.columns.clear();
        self.cut_at = last + 1;
        if sealer.group.records_bytes() >= OBJECT_ROW_GROUP_BYTES as u64 {
            self.cut_row_group()?;
        }
        Ok(())
    }

    fn cut_row_group(&mut self) -> Result<(), SealError> {
        if !self.sealer.columns.is_empty() {
            self.cut_stripe()?;
        }
        if self.sealer.group.is_empty() {
            return Ok(());
        }
        if self.groups.len() == OBJECT_ROW_GROUPS_MAX {
            return Err(SealError::Input("too many row groups"));
        }
        let group = self.sealer.group.finish(self.position, &mut self.parts);
        self.position += group.info.length;
        self.raw_bytes += group.info.records_bytes;
        if self.raw_bytes >= self.input.raw_bytes_max || self.position >= OBJECT_BYTES_MAX {
            self.full.set(true);
        }
        self.groups.push(group);
        Ok(())
    }
}

fn finish(
    input: &SealInput,
    identity: ObjectIdentity,
    mut parts: Vec<Bytes>,
    mut groups: Vec<FinishedRowGroup>,
    position: u64,
    kinds: Vec<TimestampTypeRun>,
) -> Result<SealedObject, SealError> {
    let whole = identity.end == input.identity.end;
    assert!(whole || !groups.is_empty(), "an object that ends early has what filled it");
    if let Some(last) = groups.last_mut() {
        last.info.end_offset = identity.end;
    }
    let none = TimestampTypeRun { start: identity.start, log_append: false };
    let mut index = ObjectIndex {
        identity: identity.clone(),
        compression: input.compression,
        value_format: input.value_format,
        compacted: input.compacted,
        epochs: epochs_within(&input.epochs, identity.start, identity.end),
        timestamp_types: if kinds.is_empty() { vec![none] } else { kinds },
        producer_snapshot: if whole { input.producer_snapshot.clone() } else { Vec::new() },
        row_groups: groups.iter().map(|g| g.info.clone()).collect(),
        object_bytes: u64::MAX,
    };
    let tail = footer::write(&index, &mut groups, position).map_err(|e| SealError::Footer(e.to_string()))?;
    index.object_bytes = position + tail.len() as u64;
    index.check().map_err(|e| SealError::Footer(e.to_string()))?;
    parts.push(Bytes::from(tail));
    let min = index.row_groups.iter().map(|g| g.min_timestamp).min();
    let summary = ObjectSummary {
        start: identity.start,
        end: identity.end,
        records: index.records(),
        raw_bytes: index.row_groups.iter().map(|g| g.records_bytes).sum(),
        object_bytes: index.object_bytes,
        min_timestamp: min.unwrap_or(-1),
        max_timestamp: index.max_timestamp(),
        crc32c: parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part)),
    };
    assert_eq!(parts.iter().map(Bytes::len).sum::<usize>() as u64, index.object_bytes, "all bytes are there");
    Ok(SealedObject { parts, summary, index })
}

/// The part of the epoch table that covers `start..end`.
fn epochs_within(epochs: &[EpochStart], start: Offset, end: Offset) -> Vec<EpochStart> {
    let first = epochs.partition_point(|e| e.start_offset <= start).saturating_sub(1);
    let after = epochs.partition_point(|e| e.start_offset < end).max(first + 1);
    epochs[first..after].to_vec()
}
