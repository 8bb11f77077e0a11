//! Which records of a batch have a delay, and the batch without those that are kept.
//!
//! Must only be asked for topics with `highwater.delayed.delivery`: it reads every record. Invariants: 13, 14
//! (a batch is encoded anew only where records are taken out of it).

use bytes::Bytes;
use highwater_model::limits::DELAYED_RECORD_BYTES_MAX;
use highwater_wire::batch::{BatchError, write_timestamps};
use highwater_wire::{BatchBuilder, BatchHeader, Codec, HeadersRef, Records, TimestampType};

use super::codec::write_record;
use super::types::{AskRecord, Millis};

/// When a record is to become visible, in Unix milliseconds, as decimal text.
pub const DELIVER_AT_HEADER: &str = "highwater-deliver-at";
/// How long after its arrival, in milliseconds, as decimal text.
pub const DELAY_HEADER: &str = "highwater-delay-ms";
/// Digits of the largest time.
const DIGITS_MAX: usize = 19;

/// What is wrong with a record's headers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("headers {DELIVER_AT_HEADER} and {DELAY_HEADER}: a record has one of them, and once")]
    Both,
    #[error("header {0} is not a number of milliseconds in decimal digits")]
    Unreadable(&'static str),
    #[error("a delay of {delay_ms} ms, more than highwater.delay.max.ms of {max_ms}")]
    TooLong { delay_ms: i64, max_ms: i64 },
    #[error("a delayed record of {bytes} bytes, more than {max}")]
    TooLarge { bytes: usize, max: usize },
}

/// The record at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRefusal {
    #[error("record {index}: {fault}")]
    Record { index: i32, fault: HeaderFault },
    /// It was validated: a defect.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// When a record is due, if it says so.
fn due_of(headers: HeadersRef<'_>, now_ms: Millis, max_ms: i64) -> Result<Option<Millis>, HeaderFault> {
    let mut due = None;
    for header in headers {
        let (name, since_ms) = match header.key {
            key if key == DELIVER_AT_HEADER.as_bytes() => (DELIVER_AT_HEADER, 0),
            key if key == DELAY_HEADER.as_bytes() => (DELAY_HEADER, now_ms),
            _ => continue,
        };
        let number = header.value.and_then(number).ok_or(HeaderFault::Unreadable(name))?;
        if due.replace(since_ms.saturating_add(number)).is_some() {
            return Err(HeaderFault::Both);
        }
    }
    let Some(due_ms) = due else { return Ok(None) };
    let delay_ms = due_ms.saturating_sub(now_ms);
    if delay_ms > max_ms {
        return Err(HeaderFault::TooLong { delay_ms, max_ms });
    }
    debug_assert!(due_ms >= 0 || now_ms < 0, "no header says a time before 1970");
    Ok(Some(due_ms))
}

fn number(text: &[u8]) -> Option<i64> {
    let is_decimal = (1..=DIGITS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_decimal)?.parse().ok()
}

/// The records with a delay, in order. `section`: the batch's records, decompressed.
///
/// # Errors
/// The first record whose headers cannot be followed.
pub fn marked(
    header: &BatchHeader,
    section: &[u8],
    now_ms: Millis,
    max_ms: i64,
) -> Result<Vec<AskRecord>, HeaderRefusal> {
    assert!(max_ms >= 0, "a limit on a delay");
    let mut found = Vec::new();
    let mut records = Records::new(section, header.record_count);
    while let Some(record) = records.next()? {
        if record.headers.is_empty() {
            continue;
        }
        let index = record.offset_delta;
        let refused = |fault| HeaderRefusal::Record { index, fault };
        let Some(due_ms) = due_of(record.headers, now_ms, max_ms).map_err(refused)? else { continue };
        let kept = write_record(header.base_timestamp.wrapping_add(record.timestamp_delta), &record);
        if kept.len() > DELAYED_RECORD_BYTES_MAX {
            let fault = HeaderFault::TooLarge { bytes: kept.len(), max: DELAYED_RECORD_BYTES_MAX };
            return Err(refused(fault));
        }
        let delta = u32::try_from(index).expect("a validated batch counts from 0");
        found.push(AskRecord { delta, due_ms, is_due: due_ms <= now_ms, record: kept });
    }
    debug_assert!(found.windows(2).all(|pair| pair[0].delta < pair[1].delta), "in the batch's order");
    Ok(found)
}

/// The batch without the records at `deltas` (ascending): the same producer, sequence numbers and offsets,
/// with holes where they stood; empty if none is left.
///
/// # Errors
/// A batch that does not read: a defect, it was validated.
pub fn without(header: &BatchHeader, section: &[u8], deltas: &[u32]) -> Result<Bytes, BatchError> {
    assert!(deltas.windows(2).all(|pair| pair[0] < pair[1]), "ascending");
    let is_empty = deltas.len() >= usize::try_from(header.record_count).unwrap_or(0);
    let codec = if is_empty { Codec::None } else { header.codec()? };
    let mut builder = BatchBuilder::new(codec)
        .producer(header.producer_id, header.producer_epoch, header.base_sequence)
        .attributes(header.timestamp_type(), header.is_transactional(), false)
        .spanning(header.last_offset_delta);
    let mut records = Records::new(section, header.record_count);
    let mut headers = Vec::new();
    while let Some(record) = records.next()? {
        let delta = u32::try_from(record.offset_delta).expect("a validated batch counts from 0");
        if deltas.binary_search(&delta).is_ok() {
            continue;
        }
        headers.clear();
        headers.extend(record.headers.iter().map(|one| (one.key, one.value)));
        let timestamp = header.base_timestamp.wrapping_add(record.timestamp_delta);
        builder.push_at(record.offset_delta, timestamp, record.key, record.value, &headers);
    }
    let left = builder.count();
    let bytes = builder.build();
    if left == 0 || header.timestamp_type() == TimestampType::CreateTime {
        return Ok(bytes);
    }
    // The broker's time is the header's.
    let mut copy = bytes.to_vec();
    let attributes = BatchHeader::parse(&copy)?.attributes;
    write_timestamps(&mut copy, attributes, header.max_timestamp);
    assert_eq!(copy.len(), bytes.len());
    Ok(Bytes::from(copy))
}
