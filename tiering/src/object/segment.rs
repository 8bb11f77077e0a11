//! The committed data records of a segment, in offset order, each batch verified.
//!
//! Owns what is left out (control batches, aborted transactions, expired records, offsets outside the range)
//! and what is never left out: a batch that does not match its CRC, does not parse, or does not follow the
//! one before it stops the seal with its place (invariant 19). Must not skip anything silently.

use std::cell::Cell;
use std::collections::BTreeMap;

use highwater_model::ProducerId;
use highwater_model::limits::SEAL_BATCH_BYTES_MAX;
use highwater_wire::batch::check_crc;
use highwater_wire::codec::decompress_reusing;
use highwater_wire::expire::is_expired;
use highwater_wire::{BatchHeader, Batches, Codec, HEADER_BYTES, Records, TimestampType};

use super::columns::Row;
use super::seal::{AbortedRange, SealError, SealInput};
use crate::core::layout::TimestampTypeRun;

/// Walks one segment.
pub struct SegmentReader<'a> {
    input: &'a SealInput,
    /// Offset that the next batch must start at, at most.
    expected: i64,
    position: u64,
    /// What is left out of each producer's, by first offset; a producer has one transaction at a time.
    aborted: BTreeMap<ProducerId, Vec<AbortedRange>>,
    /// Timestamp types of what was walked.
    pub kinds: Vec<TimestampTypeRun>,
}

impl<'a> SegmentReader<'a> {
    pub fn new(input: &'a SealInput) -> SegmentReader<'a> {
        let mut aborted: BTreeMap<ProducerId, Vec<AbortedRange>> = BTreeMap::new();
        for range in &input.aborted {
            aborted.entry(range.producer_id).or_default().push(*range);
        }
        aborted.values_mut().for_each(|ranges| ranges.sort_unstable_by_key(|range| range.start));
        SegmentReader { input, expected: input.identity.start, position: 0, aborted, kinds: Vec::new() }
    }

    /// Hands every record of the range to `each`, or of its part up to the batch during which `each` has set
    /// `full`: `expected` says how far.
    ///
    /// # Errors
    /// `SealError::Rotten` at the first batch that cannot be trusted; whatever `each` returns.
    pub fn walk(
        &mut self,
        decompressed: &mut Vec<u8>,
        full: &Cell<bool>,
        mut each: impl FnMut(&Row<'_>) -> Result<(), SealError>,
    ) -> Result<(), SealError> {
        let segment: &[u8] = &self.input.segment;
        let end = self.input.identity.end;
        for batch in Batches::new(segment) {
            if self.expected >= end || full.get() {
                break;
            }
            let (header, bytes) = batch.map_err(|error| self.rotten(error.to_string()))?;
            self.check_place(&header)?;
            if header.next_offset() > self.input.identity.start {
                check_crc(bytes).map_err(|error| self.rotten(error.to_string()))?;
                self.check_epoch(&header)?;
                if !header.is_control() && !self.is_aborted(&header) {
                    self.note_kind(&header);
                    self.walk_batch(&header, &bytes[HEADER_BYTES..], decompressed, &mut each)?;
                }
                self.expected = header.next_offset();
            }
            self.position += bytes.len() as u64;
        }
        if self.expected < end && !self.input.gaps_allowed && !full.get() {
            return Err(self.rotten(format!("the segment ends before offset {end}")));
        }
        Ok(())
    }

    /// The offset after what was walked, at most one batch past the range.
    pub fn expected(&self) -> i64 {
        self.expected
    }

    fn walk_batch(
        &self,
        header: &BatchHeader,
        payload: &[u8],
        decompressed: &mut Vec<u8>,
        each: &mut impl FnMut(&Row<'_>) -> Result<(), SealError>,
    ) -> Result<(), SealError> {
        let codec = header.codec().map_err(|error| self.rotten(error.to_string()))?;
        let bytes = match codec {
            Codec::None => payload,
            _ => {
                let length = decompress_reusing(codec, payload, SEAL_BATCH_BYTES_MAX, decompressed)
                    .map_err(|error| self.rotten(error.to_string()))?;
                &decompressed[..length]
            }
        };
        let (start, end) = (self.input.identity.start, self.input.identity.end);
        let mut records = Records::new(bytes, header.record_count);
        let mut delta_before = -1;
        while let Some(record) = records.next().map_err(|error| self.rotten(error.to_string()))? {
            if record.offset_delta <= delta_before || record.offset_delta > header.last_offset_delta {
                return Err(self.rotten(format!("offset delta {} out of order", record.offset_delta)));
            }
            delta_before = record.offset_delta;
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset < start || offset >= end {
                continue;
            }
            let timestamp = header.record_timestamp(record.timestamp_delta);
            if self.input.expiry.is_some_and(|expiry| is_expired(&expiry, timestamp, record.headers)) {
                continue;
            }
            each(&Row { offset, timestamp, key: record.key, value: record.value, headers: record.headers })?;
        }
        Ok(())
    }

    /// Batches lie one after another; only a range that was sealed before may have gaps.
    fn check_place(&self, header: &BatchHeader) -> Result<(), SealError> {
        let (base, next) = (header.base_offset, header.next_offset());
        if base < 0
            || next == i64::MAX
            || header.record_count as i64 > i64::from(header.last_offset_delta) + 1
        {
            return Err(self.rotten(format!("batch of {} records at {base}", header.record_count)));
        }
        let start = self.input.identity.start;
        let before_start = next <= start || (base < start && self.expected == start);
        if before_start || base == self.expected || (base > self.expected && self.input.gaps_allowed) {
            return Ok(());
        }
        Err(self.rotten(format!("batch of offset {base} where {} was to follow", self.expected)))
    }

    fn check_epoch(&self, header: &BatchHeader) -> Result<(), SealError> {
        let epochs = &self.input.epochs;
        let after =
            epochs.partition_point(|e| e.start_offset <= header.base_offset.max(self.input.identity.start));
        match after.checked_sub(1).map(|at| epochs[at].epoch) {
            Some(epoch) if epoch == header.leader_epoch => Ok(()),
            known => Err(self.rotten(format!(
                "batch of offset {} has leader epoch {}, the epoch table {known:?}",
                header.base_offset, header.leader_epoch
            ))),
        }
    }

    fn is_aborted(&self, header: &BatchHeader) -> bool {
        let Some(ranges) = self.aborted.get(&header.producer_id).filter(|_| header.is_transactional()) else {
            return false;
        };
        let begun = ranges.partition_point(|range| range.start <= header.base_offset);
        begun.checked_sub(1).is_some_and(|at| header.base_offset < ranges[at].end)
    }

    fn note_kind(&mut self, header: &BatchHeader) {
        let log_append = header.timestamp_type() == TimestampType::LogAppendTime;
        let start = match self.kinds.last() {
            None => self.input.identity.start,
            Some(last) if last.log_append != log_append => header.base_offset.max(last.start + 1),
            Some(_) => return,
        };
        self.kinds.push(TimestampTypeRun { start, log_append });
    }

    fn rotten(&self, what: String) -> SealError {
        SealError::Rotten { offset: self.expected, position: self.position, what }
    }
}
