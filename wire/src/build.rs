//! Building a batch from records: for our own client, for tests and for benches. The broker never builds what
//! a producer sent (invariant 14).

use bytes::Bytes;

use crate::batch::{self, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, NO_TIMESTAMP, TimestampType};
use crate::codec::{Codec, compress};
use crate::records::{put_varlong, varlong_bytes};

/// Collects records and encodes them as one batch.
///
/// ```
/// use highwater_wire::build::BatchBuilder;
/// use highwater_wire::{BatchHeader, Codec};
///
/// let mut builder = BatchBuilder::new(Codec::Lz4);
/// builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[]);
/// let batch = builder.build();
/// assert_eq!(BatchHeader::parse(&batch).map(|header| header.record_count), Ok(1));
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    attributes: i16,
    base_offset: i64,
    leader_epoch: i32,
    producer: (i64, i16, i32),
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    last_offset_delta: i32,
    /// The least that `last_offset_delta` is to be when it is built.
    spans: i32,
    records: Vec<u8>,
}

/// A header to encode: key and value.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

impl BatchBuilder {
    /// A batch at offset 0, as producers send it.
    pub fn new(codec: Codec) -> BatchBuilder {
        BatchBuilder {
            codec,
            attributes: batch::attributes(codec, TimestampType::CreateTime, false, false),
            base_offset: 0,
            leader_epoch: -1,
            producer: (batch::NO_PRODUCER_ID, -1, -1),
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            count: 0,
            last_offset_delta: -1,
            spans: -1,
            records: Vec::new(),
        }
    }

    #[must_use]
    pub fn base_offset(mut self, offset: i64) -> BatchBuilder {
        self.base_offset = offset;
        self
    }

    #[must_use]
    pub fn leader_epoch(mut self, epoch: i32) -> BatchBuilder {
        self.leader_epoch = epoch;
        self
    }

    /// Idempotent producer: its id, epoch, and the sequence number of the first record (KIP-98).
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> BatchBuilder {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// The batch ends at this offset delta though its last record may stand before, or though it has none:
    /// what compaction leaves, and a batch of which records are delayed.
    #[must_use]
    pub fn spanning(mut self, last_offset_delta: i32) -> BatchBuilder {
        assert!(last_offset_delta >= 0, "a batch spans at least one offset");
        self.spans = last_offset_delta;
        self
    }

    /// Sets attribute bits beside the codec's; see `batch::attributes`.
    #[must_use]
    pub fn attributes(
        mut self,
        timestamp_type: TimestampType,
        transactional: bool,
        control: bool,
    ) -> BatchBuilder {
        self.attributes = batch::attributes(self.codec, timestamp_type, transactional, control);
        self
    }

    /// Adds a record at the next offset. `timestamp` is Unix milliseconds or `NO_TIMESTAMP`.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) {
        self.push_at(self.last_offset_delta + 1, timestamp, key, value, headers);
    }

    /// Adds a record at an offset of its own, which leaves a gap: what compaction makes and no producer may
    /// send.
    ///
    /// # Panics
    /// When `offset_delta` does not grow, or the batch passes 2 GiB.
    pub fn push_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        assert!(offset_delta > self.last_offset_delta, "offsets grow within a batch");
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let headers_bytes: usize =
            headers.iter().map(|(key, value)| nullable_bytes(Some(key)) + nullable_bytes(*value)).sum();
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(i64::from(offset_delta))
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varlong_bytes(headers.len() as i64)
            + headers_bytes;
        put_varlong(&mut self.records, length as i64);
        let start = self.records.len();
        self.records.push(0);
        put_varlong(&mut self.records, timestamp_delta);
        put_varlong(&mut self.records, i64::from(offset_delta));
        put_nullable(&mut self.records, key);
        put_nullable(&mut self.records, value);
        put_varlong(&mut self.records, headers.len() as i64);
        for (key, value) in headers {
            put_nullable(&mut self.records, Some(key));
            put_nullable(&mut self.records, *value);
        }
        assert_eq!(self.records.len() - start, length, "a record is as long as it says");
        self.count += 1;
        self.last_offset_delta = offset_delta;
    }

    /// Records so far.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far if it were not compressed.
    pub fn uncompressed_bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// The batch's bytes, with their CRC.
    ///
    /// # Panics
    /// When there is no record and nothing that it spans, or the batch passes 2 GiB.
    pub fn build(&self) -> Bytes {
        assert!(self.count > 0 || self.spans >= 0, "a batch has at least one record, or spans offsets");
        let mut out = Vec::with_capacity(self.uncompressed_bytes());
        out.resize(HEADER_BYTES, 0);
        compress(self.codec, &self.records, &mut out);
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        let header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: i32::try_from(out.len() - LENGTH_PREFIX_BYTES).expect("a batch is below 2 GiB"),
            leader_epoch: self.leader_epoch,
            magic: 2,
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.last_offset_delta.max(self.spans),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: self.count,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        batch::write_crc(&mut out);
        debug_assert!(batch::crc_matches(&out), "what was just written is whole");
        Bytes::from(out)
    }
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    match bytes {
        None => 1,
        Some(bytes) => varlong_bytes(bytes.len() as i64) + bytes.len(),
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
