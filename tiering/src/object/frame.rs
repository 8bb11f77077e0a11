//! Kafka framing: records as varints and bytes straight into the answer, and the batch header around them.
//!
//! Owns the bytes of a rebuilt batch. A record is measured once and written once, into room that is zeroed at
//! most once. Batches have no producer (id -1): sequence numbers were judged when the records were produced.
//! Reference: KIP-98.

use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::batch::{self, LENGTH_PREFIX_BYTES, NO_PRODUCER_ID, NO_TIMESTAMP};
use highwater_wire::records::varlong_bytes;
use highwater_wire::{BatchHeader, Codec, HEADER_BYTES, TimestampType};

use super::stripe::RecordHeaders;

const MAGIC: i8 = 2;
/// Records from this size on are appended piece by piece; smaller ones are written into zeroed room, which
/// costs less than three appends.
const APPENDED_BYTES_MIN: usize = 512;
/// How much room is zeroed at a time.
const ROOM_BYTES: usize = 8 * 1024;

/// A record to be framed.
#[derive(Clone, Copy)]
pub struct Framed<'a> {
    pub offset: Offset,
    /// Unix milliseconds.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// `None` as well as an empty list is a record without headers.
    pub headers: Option<&'a RecordHeaders<'a>>,
}

/// What a batch has in common with no other batch beside it.
#[derive(Clone, Copy, Debug)]
pub struct BatchKind {
    pub leader_epoch: LeaderEpoch,
    pub log_append: bool,
    /// The first offset where one of the two changes.
    pub until: Offset,
}

/// The batch being written.
#[derive(Clone, Copy, Debug)]
struct OpenBatch {
    at: usize,
    kind: BatchKind,
    base_offset: Offset,
    last_offset: Offset,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

/// Appends batches to a buffer.
pub struct BatchWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Where the buffer began.
    start: usize,
    /// End of what is written; `out` may be longer until `finish`.
    at: usize,
    open: Option<OpenBatch>,
    pub batches: u32,
    pub records: u64,
}

/// As `varlong_bytes`, for numbers that are mostly small.
#[inline(always)]
fn short_bytes(value: i64) -> usize {
    match ((value << 1) ^ (value >> 63)) as u64 {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => varlong_bytes(value),
    }
}

#[inline(always)]
fn nullable_bytes(value: Option<&[u8]>) -> usize {
    match value {
        None => 1,
        Some(bytes) => short_bytes(bytes.len() as i64) + bytes.len(),
    }
}

/// Bytes of a header, key and value.
#[inline]
pub fn header_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    nullable_bytes(Some(key)) + nullable_bytes(value)
}

#[inline(always)]
fn put_varlong(buffer: &mut [u8], mut at: usize, value: i64) -> usize {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    if zigzag < 1 << 7 {
        buffer[at] = zigzag as u8;
        return at + 1;
    }
    if zigzag < 1 << 14 {
        let two = (zigzag & 0x7f | 0x80 | zigzag >> 7 << 8) as u16;
        buffer[at..at + 2].copy_from_slice(&two.to_le_bytes());
        return at + 2;
    }
    while zigzag >= 0x80 {
        buffer[at] = zigzag as u8 | 0x80;
        zigzag >>= 7;
        at += 1;
    }
    buffer[at] = zigzag as u8;
    at + 1
}

#[inline(always)]
fn put_nullable(buffer: &mut [u8], at: usize, value: Option<&[u8]>) -> usize {
    match value {
        None => put_varlong(buffer, at, -1),
        Some(bytes) => {
            let at = put_varlong(buffer, at, bytes.len() as i64);
            buffer[at..at + bytes.len()].copy_from_slice(bytes);
            at + bytes.len()
        }
    }
}

impl<'a> BatchWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> BatchWriter<'a> {
        let at = out.len();
        BatchWriter { out, start: at, at, open: None, batches: 0, records: 0 }
    }

    /// Bytes written so far, the open batch included.
    pub fn written(&self) -> usize {
        self.at - self.start
    }

    /// Makes sure that writing `bytes` more moves nothing that is written already.
    pub fn reserve(&mut self, bytes: usize) {
        let needed = self.at + bytes + ROOM_BYTES;
        self.out.reserve(needed.saturating_sub(self.out.len()));
    }

    /// The next `bytes` of the output, to be overwritten. What lies behind what is written is zeroed a little
    /// at a time, just before it is used.
    #[inline(always)]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.out.len() - self.at < bytes {
            self.out.resize(self.at + bytes.max(ROOM_BYTES), 0);
        }
        &mut self.out[self.at..self.at + bytes]
    }

    /// Begins a batch with the record at `offset`; the one before must be closed.
    pub fn open(&mut self, offset: Offset, timestamp: i64, kind: BatchKind) {
        assert!(self.open.is_none(), "one batch at a time");
        assert!(offset < kind.until, "a batch lies before the next cut");
        self.room(HEADER_BYTES);
        self.open = Some(OpenBatch {
            at: self.at,
            kind,
            base_offset: offset,
            last_offset: offset,
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            count: 0,
        });
        self.at += HEADER_BYTES;
    }

    /// Writes `record` into the open batch if it can stand there: same epoch, same timestamp type (and the
    /// same timestamp, where the batch has only one), deltas that fit, a batch of at most `batch_bytes_max`
    /// and an output of at most `bytes_max`. The first record of a batch always can.
    #[inline(always)]
    pub fn try_push(&mut self, record: &Framed<'_>, batch_bytes_max: usize, bytes_max: usize) -> bool {
        let Some(open) = &mut self.open else {
            return false;
        };
        let (timestamp_delta, overflows) = record.timestamp.overflowing_sub(open.base_timestamp);
        let offset_delta = record.offset - open.base_offset;
        let body = record.body_bytes(offset_delta, timestamp_delta);
        let total = short_bytes(body as i64) + body;
        if open.count > 0
            && (record.offset >= open.kind.until
                || offset_delta > i64::from(i32::MAX)
                || overflows
                || (open.kind.log_append && timestamp_delta != 0)
                || self.at - open.at + total > batch_bytes_max
                || self.at - self.start + total > bytes_max)
        {
            return false;
        }
        open.last_offset = record.offset;
        open.max_timestamp = open.max_timestamp.max(record.timestamp);
        open.count += 1;
        if total < APPENDED_BYTES_MIN {
            record.write(body, offset_delta, timestamp_delta, self.room(total));
        } else {
            self.out.truncate(self.at);
            record.append(body, offset_delta, timestamp_delta, self.out);
            debug_assert_eq!(self.out.len(), self.at + total, "measured and written agree");
        }
        self.at += total;
        self.records += 1;
        true
    }

    /// Completes the open batch, if any; it covers offsets to `end` when that is further than its last
    /// record. Returns the offset after the batch.
    pub fn close(&mut self, end: Option<Offset>) -> Option<Offset> {
        let open = self.open.take()?;
        let last = end.map_or(open.last_offset, |end| (end - 1).max(open.last_offset));
        let last_offset_delta = match i32::try_from(last - open.base_offset) {
            Ok(delta) => delta,
            Err(_) => i32::try_from(open.last_offset - open.base_offset).expect("checked by `try_push`"),
        };
        let kind =
            if open.kind.log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        let length = self.at - open.at - LENGTH_PREFIX_BYTES;
        let header = BatchHeader {
            base_offset: open.base_offset,
            batch_length: i32::try_from(length).expect("one record, or a batch within its bound"),
            leader_epoch: open.kind.leader_epoch,
            magic: MAGIC,
            crc: 0,
            attributes: batch::attributes(Codec::None, kind, false, false),
            last_offset_delta,
            base_timestamp: open.base_timestamp,
            max_timestamp: open.max_timestamp,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: open.count,
        };
        let bytes = &mut self.out[open.at..self.at];
        bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        batch::write_crc(bytes);
        self.batches += 1;
        Some(header.next_offset())
    }

    /// A batch without records that takes a consumer from `from` to `end`: what compaction leaves in Kafka
    /// too.
    pub fn put_empty(&mut self, from: Offset, end: Offset, kind: BatchKind) {
        assert!(from < end, "there is something to cover");
        let base = from.max(end - 1 - i64::from(i32::MAX));
        let kind = BatchKind { until: Offset::MAX, ..kind };
        self.open(base, NO_TIMESTAMP, kind);
        let next = self.close(Some(end));
        debug_assert_eq!(next, Some(end), "the batch ends there");
    }

    /// Cuts the buffer to what was written; all batches must be closed.
    pub fn finish(self) {
        assert!(self.open.is_none(), "every batch is closed");
        self.out.truncate(self.at);
    }

    /// Forgets everything written.
    pub fn abandon(self) {
        self.out.truncate(self.start);
    }
}

impl Framed<'_> {
    /// Bytes of the record in a batch that begins with it.
    pub fn bytes(&self) -> usize {
        let body = self.body_bytes(0, 0);
        varlong_bytes(body as i64) + body
    }

    #[inline(always)]
    fn body_bytes(&self, offset_delta: i64, timestamp_delta: i64) -> usize {
        let headers = match self.headers {
            None => 1,
            Some(headers) => short_bytes(headers.count() as i64) + headers.bytes(),
        };
        1 + short_bytes(timestamp_delta)
            + short_bytes(offset_delta)
            + nullable_bytes(self.key)
            + nullable_bytes(self.value)
            + headers
    }

    /// Fills `buffer`, which is as long as the record was measured.
    #[inline(always)]
    fn write(&self, body: usize, offset_delta: i64, timestamp_delta: i64, buffer: &mut [u8]) {
        let mut at = put_varlong(buffer, 0, body as i64);
        buffer[at] = 0;
        at = put_varlong(buffer, at + 1, timestamp_delta);
        at = put_varlong(buffer, at, offset_delta);
        at = put_nullable(buffer, at, self.key);
        at = put_nullable(buffer, at, self.value);
        at = match self.headers {
            None => put_varlong(buffer, at, 0),
            Some(headers) => write_headers(headers, buffer, at),
        };
        debug_assert_eq!(at, buffer.len(), "measured and written agree");
    }

    /// As `write`, for records whose bytes are worth an append each.
    fn append(&self, body: usize, offset_delta: i64, timestamp_delta: i64, out: &mut Vec<u8>) {
        let mut head = [0; 32];
        let mut at = put_varlong(&mut head, 0, body as i64) + 1; // the attributes are 0
        at = put_varlong(&mut head, at, timestamp_delta);
        at = put_varlong(&mut head, at, offset_delta);
        at = put_varlong(&mut head, at, self.key.map_or(-1, |key| key.len() as i64));
        out.extend_from_slice(&head[..at]);
        out.extend_from_slice(self.key.unwrap_or_default());
        at = put_varlong(&mut head, 0, self.value.map_or(-1, |value| value.len() as i64));
        out.extend_from_slice(&head[..at]);
        out.extend_from_slice(self.value.unwrap_or_default());
        match self.headers {
            None => out.push(0),
            Some(headers) => {
                let start = out.len();
                out.resize(start + short_bytes(headers.count() as i64) + headers.bytes(), 0);
                write_headers(headers, &mut out[start..], 0);
            }
        }
    }
}

#[inline(never)]
fn write_headers(headers: &RecordHeaders<'_>, buffer: &mut [u8], at: usize) -> usize {
    let mut at = put_varlong(buffer, at, headers.count() as i64);
    for (key, value) in headers.iter() {
        at = put_nullable(buffer, at, Some(key));
        at = put_nullable(buffer, at, value);
    }
    at
}
