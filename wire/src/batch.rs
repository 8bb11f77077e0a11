//! The header of a RecordBatch v2 (KIP-98), its CRC, and walking batches that lie one after another.
//!
//! Owns the byte layout of the header and nothing else: records are read by `records`, codecs by `codec`, a
//! client's batch is judged by `validate`. Must not allocate. Every length is checked against the bytes at
//! hand before use. Holds invariants 14 (batch bytes are not re-encoded: only the first 16 bytes, which the
//! CRC leaves out, are ever stamped) and 19 (the checksum is checked here, whoever the bytes come from).

use crate::codec::Codec;

pub use highwater_model::topic_config::TimestampType;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes of a batch that `batch_length` does not count: base offset and the length itself.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The smallest `batch_length`: a header without records.
pub const BATCH_LENGTH_MIN: i32 = (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32;
/// Where the checksummed part begins: from the attributes to the end of the batch.
pub const CRC_START: usize = 21;
/// The timestamp that means "none".
pub const NO_TIMESTAMP: i64 = -1;
/// The producer id that means "none".
pub const NO_PRODUCER_ID: i64 = -1;

/// Position of the magic byte, the same in every message format that Kafka has had.
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const MAX_TIMESTAMP_AT: usize = 35;
const MAGIC_V2: i8 = 2;

pub(crate) const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;

/// What is wrong with the bytes of a batch or of its records. Nothing of the batch may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does: a torn tail on disk, a cut frame on the wire.
    #[error("batch cut short: {available} of {needed} bytes")]
    Truncated { needed: usize, available: usize },
    #[error("message format (magic) {0}, only 2 is known")]
    Magic(i8),
    #[error("batch length {0} is below a header's")]
    Length(i32),
    #[error("last offset delta {last_offset_delta} with {record_count} records")]
    Counts { last_offset_delta: i32, record_count: i32 },
    #[error("checksum {stored:#010x} in the batch, {computed:#010x} over its bytes")]
    Crc { stored: u32, computed: u32 },
    #[error("compression codec {0} is unknown")]
    Codec(u8),
    /// A record that does not parse, by its index in the batch.
    #[error("record {index}: {what}")]
    Record { index: i32, what: &'static str },
}

/// The fixed fields of a RecordBatch v2, in their order on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    pub leader_epoch: i32,
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    /// Unix milliseconds, or `NO_TIMESTAMP`.
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which need hold no more than the header. Checks the format,
    /// that the length covers a header, and that delta and count are not negative; not the CRC, nor that the
    /// batch is whole.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Length` or `Counts`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC_V2
        {
            return Err(BatchError::Magic(magic as i8));
        }
        let Some(b) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::Truncated { needed: HEADER_BYTES, available: bytes.len() });
        };
        let header = BatchHeader {
            base_offset: i64::from_be_bytes(field(b, 0)),
            batch_length: i32::from_be_bytes(field(b, 8)),
            leader_epoch: i32::from_be_bytes(field(b, 12)),
            magic: b[MAGIC_AT] as i8,
            crc: u32::from_be_bytes(field(b, CRC_AT)),
            attributes: i16::from_be_bytes(field(b, CRC_START)),
            last_offset_delta: i32::from_be_bytes(field(b, 23)),
            base_timestamp: i64::from_be_bytes(field(b, 27)),
            max_timestamp: i64::from_be_bytes(field(b, MAX_TIMESTAMP_AT)),
            producer_id: i64::from_be_bytes(field(b, 43)),
            producer_epoch: i16::from_be_bytes(field(b, 51)),
            base_sequence: i32::from_be_bytes(field(b, 53)),
            record_count: i32::from_be_bytes(field(b, 57)),
        };
        if header.batch_length < BATCH_LENGTH_MIN {
            return Err(BatchError::Length(header.batch_length));
        }
        if header.last_offset_delta < 0 || header.record_count < 0 {
            return Err(BatchError::Counts {
                last_offset_delta: header.last_offset_delta,
                record_count: header.record_count,
            });
        }
        Ok(header)
    }

    /// The header's bytes; `parse` of them gives the same header.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0u8; HEADER_BYTES];
        b[..16].copy_from_slice(&stamp_prefix(self.base_offset, self.batch_length, self.leader_epoch));
        b[MAGIC_AT] = self.magic as u8;
        b[CRC_AT..CRC_START].copy_from_slice(&self.crc.to_be_bytes());
        b[CRC_START..23].copy_from_slice(&self.attributes.to_be_bytes());
        b[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        b[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        b[MAX_TIMESTAMP_AT..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        b[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        b[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        b[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        b[57..].copy_from_slice(&self.record_count.to_be_bytes());
        b
    }

    /// Bytes of the whole batch.
    #[inline]
    pub fn total_bytes(&self) -> usize {
        debug_assert!(self.batch_length >= BATCH_LENGTH_MIN, "a parsed header has a checked length");
        LENGTH_PREFIX_BYTES + self.batch_length as usize
    }

    /// Offset after the batch's last one. Saturates; an offset that high is refused where offsets are
    /// assigned.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1)
    }

    /// How many offsets the batch takes: of its records, and of those that are no longer in it. At least 1.
    #[inline]
    pub fn offsets(&self) -> u64 {
        u64::from(self.last_offset_delta.unsigned_abs()) + 1
    }

    /// Sequence number of the last record, which wraps from `i32::MAX` to 0 as in Kafka; -1 without a
    /// producer.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (1 << 31)) as i32
    }

    /// # Errors
    /// `Codec` when the id is none that Kafka has defined.
    #[inline]
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let id = (self.attributes & CODEC_BITS) as u8;
        Codec::from_id(id).ok_or(BatchError::Codec(id))
    }

    #[inline]
    pub fn timestamp_type(&self) -> TimestampType {
        match self.attributes & LOG_APPEND_TIME_BIT {
            0 => TimestampType::CreateTime,
            _ => TimestampType::LogAppendTime,
        }
    }

    /// The timestamp of a record with this delta. Wraps as Java does: producers encode -1 after `i64::MAX`
    /// that way.
    #[inline]
    pub fn record_timestamp(&self, timestamp_delta: i64) -> i64 {
        match self.timestamp_type() {
            TimestampType::CreateTime => self.base_timestamp.wrapping_add(timestamp_delta),
            TimestampType::LogAppendTime => self.max_timestamp,
        }
    }

    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// A control batch holds a transaction's end, no data.
    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    #[inline]
    pub fn has_producer(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }
}

/// Attribute bits of a batch.
pub fn attributes(codec: Codec, timestamp_type: TimestampType, transactional: bool, control: bool) -> i16 {
    let mut bits = i16::from(codec.id());
    if timestamp_type == TimestampType::LogAppendTime {
        bits |= LOG_APPEND_TIME_BIT;
    }
    if transactional {
        bits |= TRANSACTIONAL_BIT;
    }
    if control {
        bits |= CONTROL_BIT;
    }
    bits
}

/// The first 16 bytes of a batch, the ones that a broker stamps: they are outside the CRC.
#[inline]
pub fn stamp_prefix(base_offset: i64, batch_length: i32, leader_epoch: i32) -> [u8; 16] {
    debug_assert!(batch_length >= BATCH_LENGTH_MIN, "no batch is shorter than its header");
    let mut prefix = [0u8; 16];
    prefix[..8].copy_from_slice(&base_offset.to_be_bytes());
    prefix[8..12].copy_from_slice(&batch_length.to_be_bytes());
    prefix[12..].copy_from_slice(&leader_epoch.to_be_bytes());
    prefix
}

/// Whether the CRC stored in `batch` (one whole batch, nothing after it) is that of its bytes.
#[inline]
pub fn crc_matches(batch: &[u8]) -> bool {
    check_crc(batch).is_ok()
}

/// As `crc_matches`, saying what differs.
///
/// # Errors
/// `Crc`, or `Truncated` when `batch` is shorter than a header.
#[inline]
pub fn check_crc(batch: &[u8]) -> Result<(), BatchError> {
    if batch.len() < HEADER_BYTES {
        return Err(BatchError::Truncated { needed: HEADER_BYTES, available: batch.len() });
    }
    let stored = u32::from_be_bytes(field(batch, CRC_AT));
    let computed = crc_fast::crc32_iscsi(&batch[CRC_START..]);
    if stored != computed {
        return Err(BatchError::Crc { stored, computed });
    }
    Ok(())
}

/// Computes and writes the CRC of one whole batch.
pub fn write_crc(batch: &mut [u8]) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a header");
    let crc = crc_fast::crc32_iscsi(&batch[CRC_START..]);
    batch[CRC_AT..CRC_START].copy_from_slice(&crc.to_be_bytes());
}

/// Overwrites attributes and max timestamp of one whole batch and recomputes its CRC (log-append time).
pub fn write_timestamps(batch: &mut [u8], attributes: i16, max_timestamp: i64) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a header");
    batch[CRC_START..CRC_START + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max_timestamp.to_be_bytes());
    write_crc(batch);
}

#[inline(always)]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("callers have checked that the header is there")
}

/// Walks batches that lie one after another. Yields each header with the whole batch's bytes; a tail that
/// holds less than a batch yields `Truncated`. Ends after the first error. Checks no CRC.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    pub fn new(bytes: &'a [u8]) -> Batches<'a> {
        Batches { rest: bytes }
    }

    /// Bytes not yet walked; 0 after an error.
    pub fn remaining_bytes(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let header = match BatchHeader::parse(rest) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let needed = header.total_bytes();
        if needed > rest.len() {
            return Some(Err(BatchError::Truncated { needed, available: rest.len() }));
        }
        let (batch, after) = rest.split_at(needed);
        self.rest = after;
        Some(Ok((header, batch)))
    }
}

#[cfg(test)]
mod tests;
