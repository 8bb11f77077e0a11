//! Row group -> Kafka batches.
//!
//! Owns which stripes a read decodes and where batches are cut: at epochs, at timestamp types, at
//! `REBUILT_BATCH_BYTES_MAX`, at the reader's budget. Every page is verified before use (invariant 19); on an
//! error the output is as before. Batches cover the object's trailing gap, so that a consumer always gets
//! past the offsets that have no record.

use highwater_model::Offset;
use highwater_model::limits::REBUILT_BATCH_BYTES_MAX;
use highwater_wire::HEADER_BYTES;

use super::frame::{BatchKind, BatchWriter, Framed};
use super::stripe::{Stripe, StripeDecoder, StripeSource};
use super::{ObjectError, ObjectIndex, RowGroupInfo};

/// What was appended to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the next read goes on: after the last offset that the batches cover.
    pub next_offset: Offset,
    pub records: u64,
    pub batches: u32,
}

/// The answer to a lookup by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampHit {
    pub offset: Offset,
    /// Unix milliseconds.
    pub timestamp: i64,
}

/// Rebuilds batches; holds buffers of a few MiB between calls.
pub struct Rebuilder {
    decoder: StripeDecoder,
}

impl Default for Rebuilder {
    fn default() -> Self {
        Rebuilder::new()
    }
}

impl Rebuilder {
    pub fn new() -> Rebuilder {
        Rebuilder { decoder: StripeDecoder::new() }
    }

    /// Appends batches with the records from `from_offset` on to `out`: at least one record (or, in the
    /// object's trailing gap, one empty batch), then whole batches while they fit into `max_bytes`. After the
    /// first stripe, a further one is begun only if all of it fits, so that successive reads decode each
    /// stripe once.
    ///
    /// `raw` is all of row group `row_group`; `from_offset` lies below its end.
    ///
    /// # Errors
    /// When `raw` is not what was sealed. `out` is then unchanged.
    pub fn rebuild(
        &mut self,
        index: &ObjectIndex,
        row_group: usize,
        raw: &[u8],
        from_offset: Offset,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<Rebuilt, ObjectError> {
        let group = row_group_of(index, row_group, raw)?;
        let mut writer = BatchWriter::new(out);
        let mut run = Run { index, group, max_bytes, next_offset: from_offset };
        match run.rebuild(&mut self.decoder, raw, &mut writer) {
            Ok(()) => {
                let rebuilt = Rebuilt {
                    next_offset: run.next_offset,
                    records: writer.records,
                    batches: writer.batches,
                };
                writer.finish();
                Ok(rebuilt)
            }
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    }

    /// The first record of the row group with a timestamp of at least `timestamp` (Unix milliseconds) and an
    /// offset of at least `from_offset`. Decodes offsets and timestamps only. `raw` is all of the row group,
    /// or its first [`RowGroupInfo::lookup_bytes`].
    ///
    /// # Errors
    /// When `raw` is not what was sealed.
    pub fn find_timestamp(
        &mut self,
        index: &ObjectIndex,
        row_group: usize,
        raw: &[u8],
        timestamp: i64,
        from_offset: Offset,
    ) -> Result<Option<TimestampHit>, ObjectError> {
        let group = match index.row_groups.get(row_group) {
            Some(group) if raw.len() as u64 == group.lookup_bytes() => group,
            _ => row_group_of(index, row_group, raw)?,
        };
        for (number, stripe) in group.stripes.iter().enumerate() {
            if stripe.max_timestamp < timestamp || stripe.end <= from_offset {
                continue;
            }
            let source = StripeSource { group, stripe: number, compression: index.compression, raw };
            let places = self.decoder.decode_places(source)?;
            let first = places.row_for(from_offset);
            let found = (first..places.rows()).find(|row| places.timestamps[*row] >= timestamp);
            if let Some(row) = found {
                return Ok(Some(TimestampHit {
                    offset: places.offset(row),
                    timestamp: places.timestamps[row],
                }));
            }
        }
        Ok(None)
    }
}

/// Appends one batch without records that takes a consumer from `from_offset` to the object's end: for an
/// object that has no records at all.
pub fn cover_gap(index: &ObjectIndex, from_offset: Offset, out: &mut Vec<u8>) -> Rebuilt {
    let end = index.identity.end;
    let mut writer = BatchWriter::new(out);
    if from_offset < end {
        writer.put_empty(from_offset, end, kind_at(index, end - 1));
    }
    let rebuilt = Rebuilt { next_offset: from_offset.max(end), records: 0, batches: writer.batches };
    writer.finish();
    rebuilt
}

fn row_group_of<'a>(
    index: &'a ObjectIndex,
    row_group: usize,
    raw: &[u8],
) -> Result<&'a RowGroupInfo, ObjectError> {
    let given = raw.len() as u64;
    match index.row_groups.get(row_group) {
        Some(group) if group.length == given => Ok(group),
        other => Err(ObjectError::Length { row_group, expected: other.map_or(0, |g| g.length), given }),
    }
}

fn kind_at(index: &ObjectIndex, offset: Offset) -> BatchKind {
    BatchKind {
        leader_epoch: index.epoch_at(offset),
        log_append: index.log_append_at(offset),
        until: index.next_cut(offset),
    }
}

/// One call of `rebuild`.
struct Run<'a> {
    index: &'a ObjectIndex,
    group: &'a RowGroupInfo,
    max_bytes: usize,
    next_offset: Offset,
}

impl Run<'_> {
    fn rebuild(
        &mut self,
        decoder: &mut StripeDecoder,
        raw: &[u8],
        writer: &mut BatchWriter<'_>,
    ) -> Result<(), ObjectError> {
        let stripes = &self.group.stripes;
        let first = self.group.stripe_for_offset(self.next_offset).unwrap_or(stripes.len());
        for (number, stripe) in stripes.iter().enumerate().skip(first) {
            let bytes = stripe.records_bytes as usize + HEADER_BYTES;
            if writer.written() > 0 && writer.written() + bytes > self.max_bytes {
                return Ok(());
            }
            let source =
                StripeSource { group: self.group, stripe: number, compression: self.index.compression, raw };
            let decoded = decoder.decode(source)?;
            writer.reserve(bytes.min(self.max_bytes.saturating_add(HEADER_BYTES)));
            let whole = self.emit(decoded, writer);
            let end = (number + 1 == stripes.len()).then_some(self.group.end_offset);
            if !whole {
                return Ok(());
            }
            let next = writer.close(end).expect("a stripe has records behind its start");
            self.next_offset = next.max(stripe.end);
        }
        if self.next_offset < self.group.end_offset {
            let end = self.group.end_offset;
            writer.put_empty(self.next_offset, end, kind_at(self.index, end - 1));
            self.next_offset = end;
        }
        Ok(())
    }

    /// Writes the stripe's records from `next_offset` on; leaves the last batch open. Returns whether all
    /// were written, else the last batch is closed.
    fn emit(&mut self, mut stripe: Stripe<'_>, writer: &mut BatchWriter<'_>) -> bool {
        let first = stripe.row_for(self.next_offset);
        stripe.skip(first);
        for row in first..stripe.rows() {
            let headers = stripe.next_headers();
            let (key, value) = stripe.next();
            let record = Framed {
                offset: stripe.offset(row),
                timestamp: stripe.timestamps[row],
                key,
                value,
                headers: headers.as_ref(),
            };
            if !writer.try_push(&record, REBUILT_BATCH_BYTES_MAX, self.max_bytes)
                && !self.begin_batch(&record, writer)
            {
                return false;
            }
        }
        true
    }

    /// Closes the open batch and begins another with `record`, unless it does not fit into the budget any
    /// more.
    #[inline(never)]
    fn begin_batch(&mut self, record: &Framed<'_>, writer: &mut BatchWriter<'_>) -> bool {
        if let Some(next) = writer.close(None) {
            self.next_offset = next;
        }
        if writer.written() > 0 && writer.written() + record.bytes() + HEADER_BYTES > self.max_bytes {
            return false;
        }
        writer.open(record.offset, record.timestamp, kind_at(self.index, record.offset));
        let pushed = writer.try_push(record, REBUILT_BATCH_BYTES_MAX, self.max_bytes);
        assert!(pushed, "the first record of a batch always fits");
        true
    }
}
