//! Batches without their expired records (docs/adr/0021): what a client is given of a topic with a time to
//! live.
//!
//! Owns the bytes of what is left: offsets, epochs, producers and timestamps stay; a batch that lost some
//! records has its others as they were, under the same codec; one that lost all of them is a header that
//! takes a reader on to the offset behind it, as Kafka's compaction leaves it. Control batches are passed
//! on, and so is whatever cannot be read: a batch that does not match its CRC is never given a new one
//! (invariant 19). Must not be used on what replicas or coordinators read (invariant 14).

use bytes::Bytes;
use highwater_model::Expiry;
use highwater_model::limits::REQUEST_BYTES_MAX;
use highwater_model::ttl::TTL_HEADER;

use crate::batch::{
    self, BatchHeader, Batches, HEADER_BYTES, LENGTH_PREFIX_BYTES, NO_TIMESTAMP, TimestampType,
};
use crate::codec::{Codec, CodecError, compress, decompress_reusing};
use crate::records::{HeadersRef, Records};

/// Whether a record of this timestamp (Unix milliseconds) and these headers has expired.
#[inline]
pub fn is_expired(expiry: &Expiry, timestamp: i64, headers: HeadersRef<'_>) -> bool {
    // Of headers with the same key the last one counts, as for Kafka's `Headers.lastHeader`.
    let header = headers.iter().filter(|header| header.key == TTL_HEADER).last();
    expiry.is_expired(timestamp, header.and_then(|header| header.value))
}

/// What a sieve has let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    /// Whole batches, in order. The last may be one without records; others of that kind are left out.
    pub bytes: Vec<Bytes>,
    /// The offset after what was sifted; `None`: nothing was.
    pub next_offset: Option<i64>,
    /// Whether there is anything but a batch without records.
    pub has_records: bool,
    pub hidden_records: u64,
    /// Bytes of records that were looked at, decompressed.
    pub looked_bytes: usize,
    /// The limit of `looked_bytes` has ended it: batches behind `next_offset` were not looked at.
    pub is_cut: bool,
}

/// Takes batches in order and lets through what has not expired.
pub struct Sieve<'a> {
    expiry: Expiry,
    looked_bytes_max: usize,
    scratch: &'a mut Vec<u8>,
    /// Where the batch at hand is put together.
    kept: Vec<u8>,
    sifted: Sifted,
    /// The last batch, if it has no records.
    empty: Option<Bytes>,
}

/// What becomes of one batch.
enum Verdict {
    AsItIs,
    /// It has no records, or none any more.
    Empty,
    Fewer(Bytes),
}

impl Sieve<'_> {
    /// Looks at batches until their records are more than `looked_bytes_max` once decompressed, and at the
    /// first one in any case. `scratch` is what batches are decompressed into.
    pub fn new(expiry: Expiry, looked_bytes_max: usize, scratch: &mut Vec<u8>) -> Sieve<'_> {
        Sieve { expiry, looked_bytes_max, scratch, kept: Vec::new(), sifted: Sifted::default(), empty: None }
    }

    /// Sifts whole batches that follow those before. Bytes that are no batch are passed on with all that
    /// follows them, and end it.
    pub fn push(&mut self, batches: &Bytes) {
        // Where batches begin that stay as they are and have not been let through yet; these go on together.
        let mut run = 0;
        let mut at = 0;
        for batch in Batches::new(batches) {
            if self.sifted.is_cut {
                break;
            }
            let Ok((header, bytes)) = batch else {
                at = batches.len();
                self.sifted.is_cut = true;
                break;
            };
            let end = at + bytes.len();
            match self.judge(&header, bytes) {
                None => {
                    self.sifted.is_cut = true;
                    break;
                }
                Some(Verdict::AsItIs) => {}
                Some(Verdict::Fewer(fewer)) => {
                    self.let_through(batches.slice(run..at));
                    self.let_through(fewer);
                    run = end;
                }
                Some(Verdict::Empty) => {
                    self.let_through(batches.slice(run..at));
                    self.empty = Some(without_records(&header));
                    run = end;
                }
            }
            self.sifted.next_offset = Some(header.next_offset());
            at = end;
        }
        self.let_through(batches.slice(run..at));
    }

    /// What came through.
    pub fn finish(mut self) -> Sifted {
        self.sifted.bytes.extend(self.empty.take());
        self.sifted
    }

    fn let_through(&mut self, batches: Bytes) {
        if !batches.is_empty() {
            // What follows takes a reader over it as well.
            self.empty = None;
            self.sifted.has_records = true;
            self.sifted.bytes.push(batches);
        }
    }

    /// What becomes of a batch; `None`: there is no room left to look at it.
    fn judge(&mut self, header: &BatchHeader, batch: &[u8]) -> Option<Verdict> {
        if header.is_control() {
            return Some(Verdict::AsItIs);
        }
        let (Ok(()), Ok(codec)) = (batch::check_crc(batch), header.codec()) else {
            return Some(Verdict::AsItIs);
        };
        if header.record_count == 0 {
            return Some(Verdict::Empty);
        }
        let is_first = self.sifted.next_offset.is_none();
        let left = self.looked_bytes_max.saturating_sub(self.sifted.looked_bytes);
        let most = if is_first { left.max(REQUEST_BYTES_MAX) } else { left };
        let section = &batch[HEADER_BYTES..];
        let section = match codec {
            Codec::None if section.len() > most && !is_first => return None,
            Codec::None => section,
            _ => match decompress_reusing(codec, section, most, self.scratch) {
                Ok(length) => &self.scratch[..length],
                Err(CodecError::TooLarge { .. }) if !is_first => return None,
                Err(_) => return Some(Verdict::AsItIs),
            },
        };
        self.sifted.looked_bytes += section.len();
        let (verdict, hidden) = sift(&self.expiry, header, codec, section, &mut self.kept);
        self.sifted.hidden_records += u64::from(hidden.unsigned_abs());
        Some(verdict)
    }
}

/// What becomes of a batch with these records, and how many of them have expired. `kept` is overwritten.
fn sift(
    expiry: &Expiry,
    header: &BatchHeader,
    codec: Codec,
    section: &[u8],
    kept: &mut Vec<u8>,
) -> (Verdict, i32) {
    let mut records = Records::new(section, header.record_count);
    let (mut expired, mut copied, mut max_timestamp) = (0, 0, NO_TIMESTAMP);
    kept.clear();
    loop {
        let at = section.len() - records.remaining_bytes();
        match records.next() {
            Err(_) => return (Verdict::AsItIs, 0),
            Ok(None) => break,
            Ok(Some(record)) => {
                let timestamp = header.record_timestamp(record.timestamp_delta);
                if is_expired(expiry, timestamp, record.headers) {
                    kept.extend_from_slice(&section[copied..at]);
                    copied = section.len() - records.remaining_bytes();
                    expired += 1;
                } else {
                    max_timestamp = max_timestamp.max(timestamp);
                }
            }
        }
    }
    let verdict = match header.record_count - expired {
        _ if expired == 0 => Verdict::AsItIs,
        0 => Verdict::Empty,
        left => {
            kept.extend_from_slice(&section[copied..]);
            let max_timestamp = match header.timestamp_type() {
                TimestampType::CreateTime => max_timestamp,
                TimestampType::LogAppendTime => header.max_timestamp,
            };
            let header = BatchHeader { record_count: left, max_timestamp, ..*header };
            Verdict::Fewer(assemble(header, codec, kept))
        }
    };
    (verdict, expired)
}

/// A batch of this header with these records: deltas count from the header's base as before.
fn assemble(header: BatchHeader, codec: Codec, records: &[u8]) -> Bytes {
    let mut out = vec![0; HEADER_BYTES];
    compress(codec, records, &mut out);
    let batch_length =
        i32::try_from(out.len() - LENGTH_PREFIX_BYTES).expect("less than was produced at once");
    let header = BatchHeader { batch_length, ..header };
    out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    batch::write_crc(&mut out);
    Bytes::from(out)
}

/// The batch as a header alone (Kafka's `DefaultRecordBatch.writeEmptyHeader`): uncompressed, or a reader
/// would look for a compressed nothing behind it.
fn without_records(header: &BatchHeader) -> Bytes {
    let attributes = header.attributes & !batch::CODEC_BITS;
    let header = BatchHeader { attributes, base_timestamp: NO_TIMESTAMP, record_count: 0, ..*header };
    assemble(header, Codec::None, &[])
}

#[cfg(test)]
mod tests;
