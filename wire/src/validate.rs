//! Judging a batch that a client produced: Kafka's own rules for message format 2 (its LogValidator), one
//! refusal each.
//!
//! Owns the decision which bytes may enter a log. What passes here can be sealed and replayed: its counts are
//! true, its offsets dense, every record parses, it decompresses within a cap, and values are what the topic
//! promises. Must not re-encode (invariant 14): only a timestamp that is the broker's to set is rewritten, in
//! a copy. Every batch is decoded once, into the caller's buffer. Holds invariants 13, 14, 16 and 19.

use bytes::Bytes;
use highwater_model::TopicConfig;
use highwater_model::limits::{
    DECOMPRESS_SCRATCH_KEEP_BYTES_MAX, DECOMPRESSED_BYTES_MAX, JSON_DEPTH_MAX, REQUEST_BYTES_MAX,
};
use highwater_model::topic_config::ValueFormat;

use crate::batch::{self, BatchError, BatchHeader, HEADER_BYTES, NO_TIMESTAMP, TimestampType};
use crate::codec::{Codec, CodecError, decompress_reusing};
use crate::records::{RECORD_BYTES_MIN, Records};

/// What a topic demands of a batch; made from its settings, with the request's version for zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceRules {
    /// `max.message.bytes`: of the batch as sent, compressed.
    pub max_message_bytes: usize,
    pub timestamp_type: TimestampType,
    /// How far a record's own timestamp may lie before the broker's clock; `i64::MAX` is without limit.
    pub before_max_ms: i64,
    /// How far it may lie after the broker's clock.
    pub after_max_ms: i64,
    /// The topic is compacted: every record needs a key.
    pub compacted: bool,
    pub value_format: ValueFormat,
    /// Cap on the decompressed records.
    pub decompressed_bytes_max: usize,
    /// Produce requests below version 7 must not use zstd (KIP-110).
    pub zstd_allowed: bool,
}

impl ProduceRules {
    pub fn of(config: &TopicConfig) -> ProduceRules {
        let max_message_bytes = usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX);
        ProduceRules {
            max_message_bytes,
            timestamp_type: config.timestamp_type,
            before_max_ms: config.timestamp_before_max_ms,
            after_max_ms: config.timestamp_after_max_ms,
            compacted: config.cleanup_policy.compact,
            value_format: config.value_format,
            // Not by `max.message.bytes`: Kafka has no cap at all, and text may well shrink to a hundredth.
            decompressed_bytes_max: max_message_bytes.clamp(DECOMPRESSED_BYTES_MAX, REQUEST_BYTES_MAX),
            zstd_allowed: true,
        }
    }

    /// First and last timestamp in range.
    fn timestamp_range(&self, now_ms: i64) -> (i64, i64) {
        let first = match self.before_max_ms {
            i64::MAX => i64::MIN,
            before => now_ms.saturating_sub(before),
        };
        (first, now_ms.saturating_add(self.after_max_ms))
    }
}

/// A batch that may be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedBatch {
    pub header: BatchHeader,
    /// The whole batch: the producer's own bytes, shared; a copy only if timestamps had to be set.
    pub bytes: Bytes,
    /// Offset delta of the first record with the batch's largest timestamp.
    pub offset_delta_of_max_timestamp: i32,
    /// Bytes of the records when decompressed.
    pub records_bytes: usize,
}

/// Why a batch may not be appended; nothing of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchRefusal {
    #[error("no record batch for the partition")]
    Empty,
    #[error("{bytes} bytes after the batch: exactly one batch per partition may be produced")]
    MoreThanOne { bytes: usize },
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("base offset {0} of a produced batch must be 0")]
    BaseOffset(i64),
    #[error("batch of {bytes} bytes exceeds max.message.bytes of {max_bytes}")]
    TooLarge { bytes: usize, max_bytes: usize },
    #[error("clients may not write control records")]
    Control,
    #[error("sequence number {base_sequence} or epoch {producer_epoch} of a batch with a producer id")]
    Sequence { base_sequence: i32, producer_epoch: i16 },
    #[error("transactional batch without a producer id")]
    Transactional,
    #[error("zstd needs Produce version 7 or later")]
    ZstdTooEarly,
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("record {index} has offset delta {offset_delta}")]
    OffsetDelta { index: i32, offset_delta: i32 },
    #[error("timestamp {timestamp} of record {index} is outside [{first}, {last}]")]
    Timestamp { index: i32, timestamp: i64, first: i64, last: i64 },
    #[error("producers may not set the timestamp type to LogAppendTime")]
    TimestampType,
    #[error("record {index} has no key, and the topic is compacted")]
    NullKey { index: i32 },
    #[error("value of record {index} is not valid {format}")]
    Value { index: i32, format: &'static str },
}

const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_TIMESTAMP: i16 = 32;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

impl BatchRefusal {
    /// Kafka's error code for the produce response.
    pub fn error_code(&self) -> i16 {
        match self {
            BatchRefusal::Batch(error) => match error {
                BatchError::Crc { .. } | BatchError::Length(_) => CORRUPT_MESSAGE,
                BatchError::Magic(0 | 1) => INVALID_RECORD,
                BatchError::Magic(_) => CORRUPT_MESSAGE,
                BatchError::Codec(_) => UNSUPPORTED_COMPRESSION_TYPE,
                BatchError::Truncated { .. } | BatchError::Counts { .. } | BatchError::Record { .. } => {
                    INVALID_RECORD
                }
            },
            BatchRefusal::TooLarge { .. } | BatchRefusal::Codec(CodecError::TooLarge { .. }) => {
                MESSAGE_TOO_LARGE
            }
            BatchRefusal::Timestamp { .. } | BatchRefusal::TimestampType => INVALID_TIMESTAMP,
            BatchRefusal::ZstdTooEarly => UNSUPPORTED_COMPRESSION_TYPE,
            BatchRefusal::Empty
            | BatchRefusal::MoreThanOne { .. }
            | BatchRefusal::BaseOffset(_)
            | BatchRefusal::Control
            | BatchRefusal::Sequence { .. }
            | BatchRefusal::Transactional
            | BatchRefusal::Codec(CodecError::Malformed { .. })
            | BatchRefusal::OffsetDelta { .. }
            | BatchRefusal::NullKey { .. }
            | BatchRefusal::Value { .. } => INVALID_RECORD,
        }
    }

    /// Index of the record at fault, for the response's record errors (KIP-467).
    pub fn record_index(&self) -> Option<i32> {
        match *self {
            BatchRefusal::Batch(BatchError::Record { index, .. })
            | BatchRefusal::OffsetDelta { index, .. }
            | BatchRefusal::Timestamp { index, .. }
            | BatchRefusal::NullKey { index }
            | BatchRefusal::Value { index, .. } => Some(index),
            _ => None,
        }
    }
}

/// Judges the records of one partition in a produce request. `scratch` is used to decompress; its content is
/// lost.
///
/// # Errors
/// The first rule that the batch breaks.
pub fn validate_produce(
    records: &Bytes,
    rules: &ProduceRules,
    now_ms: i64,
    scratch: &mut Vec<u8>,
) -> Result<AcceptedBatch, BatchRefusal> {
    let header = check_header(records, rules)?;
    let section = &records[HEADER_BYTES..];
    let checked = match header.codec()? {
        Codec::None => check_records(section, &header, rules, now_ms)?,
        Codec::Zstd if !rules.zstd_allowed => return Err(BatchRefusal::ZstdTooEarly),
        codec => {
            let decoded = decompress_reusing(codec, section, rules.decompressed_bytes_max, scratch)
                .map_err(BatchRefusal::from)
                .and_then(|length| check_records(&scratch[..length], &header, rules, now_ms));
            if scratch.capacity() > DECOMPRESS_SCRATCH_KEEP_BYTES_MAX {
                *scratch = Vec::new();
            }
            decoded?
        }
    };
    Ok(accept(records, header, checked, rules, now_ms))
}

/// All that can be said without reading records.
fn check_header(records: &[u8], rules: &ProduceRules) -> Result<BatchHeader, BatchRefusal> {
    if records.is_empty() {
        return Err(BatchRefusal::Empty);
    }
    let header = BatchHeader::parse(records)?;
    let bytes = header.total_bytes();
    if bytes > records.len() {
        return Err(BatchError::Truncated { needed: bytes, available: records.len() }.into());
    }
    if bytes < records.len() {
        return Err(BatchRefusal::MoreThanOne { bytes: records.len() - bytes });
    }
    if header.base_offset != 0 {
        return Err(BatchRefusal::BaseOffset(header.base_offset));
    }
    if bytes > rules.max_message_bytes {
        return Err(BatchRefusal::TooLarge { bytes, max_bytes: rules.max_message_bytes });
    }
    batch::check_crc(records)?;
    let BatchHeader { last_offset_delta, record_count, base_sequence, producer_epoch, .. } = header;
    if record_count == 0 || i64::from(record_count) != i64::from(last_offset_delta) + 1 {
        return Err(BatchError::Counts { last_offset_delta, record_count }.into());
    }
    if header.is_control() {
        return Err(BatchRefusal::Control);
    }
    if header.has_producer() && (base_sequence < 0 || producer_epoch < 0) {
        return Err(BatchRefusal::Sequence { base_sequence, producer_epoch });
    }
    if header.is_transactional() && !header.has_producer() {
        return Err(BatchRefusal::Transactional);
    }
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchRefusal::TimestampType);
    }
    Ok(header)
}

/// What reading the records has found.
struct CheckedRecords {
    max_timestamp: i64,
    offset_delta_of_max_timestamp: i32,
    bytes: usize,
}

fn check_records(
    section: &[u8],
    header: &BatchHeader,
    rules: &ProduceRules,
    now_ms: i64,
) -> Result<CheckedRecords, BatchRefusal> {
    let count = header.record_count;
    if count as usize > section.len() / RECORD_BYTES_MIN {
        return Err(
            BatchError::Record { index: 0, what: "more records claimed than the bytes can hold" }.into()
        );
    }
    let (first, last) = match rules.timestamp_type {
        TimestampType::CreateTime => rules.timestamp_range(now_ms),
        TimestampType::LogAppendTime => (i64::MIN, i64::MAX),
    };
    let plain_values = rules.value_format == ValueFormat::Bytes;
    let mut max_timestamp = NO_TIMESTAMP;
    let mut offset_delta_of_max_timestamp = 0;
    let mut records = Records::new(section, count);
    let mut index = 0;
    while let Some(record) = records.next()? {
        if record.offset_delta != index {
            return Err(BatchRefusal::OffsetDelta { index, offset_delta: record.offset_delta });
        }
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        if (timestamp < first || timestamp > last) && timestamp != NO_TIMESTAMP {
            return Err(BatchRefusal::Timestamp { index, timestamp, first, last });
        }
        if timestamp > max_timestamp {
            max_timestamp = timestamp;
            offset_delta_of_max_timestamp = index;
        }
        if rules.compacted && record.key.is_none() {
            return Err(BatchRefusal::NullKey { index });
        }
        if !plain_values && let Some(value) = record.value {
            check_value(value, rules.value_format, index)?;
        }
        index += 1;
    }
    debug_assert_eq!(index, count, "the cursor yields as many records as were claimed, or an error");
    Ok(CheckedRecords { max_timestamp, offset_delta_of_max_timestamp, bytes: section.len() })
}

fn accept(
    records: &Bytes,
    mut header: BatchHeader,
    checked: CheckedRecords,
    rules: &ProduceRules,
    now_ms: i64,
) -> AcceptedBatch {
    let (max_timestamp, offset_delta_of_max_timestamp) = match rules.timestamp_type {
        TimestampType::CreateTime => (checked.max_timestamp, checked.offset_delta_of_max_timestamp),
        TimestampType::LogAppendTime => (now_ms, 0),
    };
    let bytes = if header.timestamp_type() == rules.timestamp_type && header.max_timestamp == max_timestamp {
        records.clone()
    } else {
        // The topic's clock decides, or the producer's own maximum is wrong: set both, as Kafka does.
        let mut copy = records.to_vec();
        let bits = batch::attributes(Codec::None, rules.timestamp_type, false, false);
        batch::write_timestamps(&mut copy, header.attributes | bits, max_timestamp);
        header = BatchHeader::parse(&copy).expect("the copy of a parsed header parses");
        Bytes::from(copy)
    };
    debug_assert!(batch::crc_matches(&bytes), "an accepted batch is whole");
    AcceptedBatch { header, bytes, offset_delta_of_max_timestamp, records_bytes: checked.bytes }
}

fn check_value(value: &[u8], format: ValueFormat, index: i32) -> Result<(), BatchRefusal> {
    let refusal = |format| Err(BatchRefusal::Value { index, format });
    match format {
        ValueFormat::Bytes => Ok(()),
        ValueFormat::Utf8 if std::str::from_utf8(value).is_err() => refusal("UTF-8"),
        ValueFormat::Json if !is_json(value) => refusal("JSON"),
        ValueFormat::Utf8 | ValueFormat::Json => Ok(()),
    }
}

/// Whether `value` is one JSON text in UTF-8, nested at most `JSON_DEPTH_MAX` deep. Builds nothing.
fn is_json(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    // Brackets in strings count here too: this only decides whether the slower walk is needed.
    let brackets = value.iter().filter(|&&byte| byte == b'[' || byte == b'{').count();
    if brackets > JSON_DEPTH_MAX && json_depth(value) > JSON_DEPTH_MAX {
        return false;
    }
    serde_json::from_str::<JsonText<'_>>(text).is_ok()
}

/// A JSON text that is checked but not built: the parser walks it without recursion.
type JsonText<'a> = &'a serde_json::value::RawValue;

/// Deepest nesting of brackets outside strings.
fn json_depth(value: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests;
