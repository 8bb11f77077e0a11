//! Control batches: the markers by which a transaction ends in a partition (KIP-98).
//!
//! Owns their bytes: one record whose key is `version i16 | type i16` and, for an end of a transaction, whose
//! value is `version i16 | coordinator epoch i32`. Only brokers write them (`validate` refuses a client's).
//! Nothing is allocated to read one.

use bytes::Bytes;

use crate::batch::{BatchError, BatchHeader, HEADER_BYTES, TimestampType};
use crate::build::BatchBuilder;
use crate::codec::Codec;
use crate::records::Records;

/// Bytes at the start of a control batch that hold all that `read_control` looks at, for a marker as brokers
/// write it: header, and a record of a key of 4 bytes and a value of 6.
pub const MARKER_BYTES: usize = 78;

const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const VERSION: i16 = 0;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    pub commit: bool,
    /// Leader epoch of the coordinator's partition; one that is older than another seen before is refused.
    pub coordinator_epoch: i32,
}

/// What a control batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    End(EndMarker),
    /// A kind that is no transaction's business (Kafka has some of its controllers'), by its number.
    Other(i16),
}

/// Reads the whole control batch in `batch`, whose CRC the caller has checked.
///
/// # Errors
/// `Record` when it holds no control record, `Codec` when it is compressed: no broker writes it so.
pub fn read_control(header: &BatchHeader, batch: &[u8]) -> Result<Control, BatchError> {
    debug_assert!(header.is_control());
    if header.codec()? != Codec::None {
        return Err(BatchError::Codec(header.codec()?.id()));
    }
    let fault = |what| BatchError::Record { index: 0, what };
    let section = batch.get(HEADER_BYTES..).ok_or(fault("no records"))?;
    let record = Records::new(section, header.record_count).next()?.ok_or(fault("no records"))?;
    let key = record.key.ok_or(fault("a control record without a key"))?;
    let (version, kind) = (int16(key, 0), int16(key, 2));
    let (Some(version), Some(kind)) = (version, kind) else {
        return Err(fault("a control record's key is too short"));
    };
    if version < 0 {
        return Err(fault("a control record of no version"));
    }
    if kind != ABORT && kind != COMMIT {
        return Ok(Control::Other(kind));
    }
    let value = record.value.ok_or(fault("a marker without a value"))?;
    let epoch = value.get(2..).and_then(|rest| rest.first_chunk::<4>()).map(|b| i32::from_be_bytes(*b));
    match (int16(value, 0), epoch) {
        (Some(version), Some(coordinator_epoch)) if version >= 0 => {
            Ok(Control::End(EndMarker { commit: kind == COMMIT, coordinator_epoch }))
        }
        _ => Err(fault("a marker's value is too short")),
    }
}

fn int16(bytes: &[u8], at: usize) -> Option<i16> {
    bytes.get(at..)?.first_chunk::<2>().map(|b| i16::from_be_bytes(*b))
}

/// A marker for a producer's transaction, as a batch to append.
pub fn marker_batch(producer_id: i64, producer_epoch: i16, marker: EndMarker, timestamp: i64) -> Bytes {
    debug_assert!(producer_id >= 0 && producer_epoch >= 0);
    let kind = if marker.commit { COMMIT } else { ABORT };
    let key = [VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
    let value = [&VERSION.to_be_bytes()[..], &marker.coordinator_epoch.to_be_bytes()].concat();
    let builder = BatchBuilder::new(Codec::None).producer(producer_id, producer_epoch, -1);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, true);
    builder.push(timestamp, Some(&key), Some(&value), &[]);
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{check_crc, write_crc};

    fn marker(commit: bool) -> EndMarker {
        EndMarker { commit, coordinator_epoch: 7 }
    }

    fn read(batch: &[u8]) -> Result<Control, BatchError> {
        read_control(&BatchHeader::parse(batch).expect("a header"), batch)
    }

    #[test]
    fn markers_come_back() {
        for commit in [true, false] {
            let batch = marker_batch(4_000, 3, marker(commit), 1_700_000_000_000);
            let header = BatchHeader::parse(&batch).expect("whole");
            assert!(header.is_control() && header.is_transactional() && check_crc(&batch).is_ok());
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4_000, 3, -1));
            assert_eq!((header.record_count, batch.len()), (1, MARKER_BYTES));
            assert_eq!(read(&batch), Ok(Control::End(marker(commit))));
        }
    }

    /// `MemoryRecords.withEndTransactionMarker(0, 1700000000000, -1, 4000, 3, new
    /// EndTransactionMarker(COMMIT, 7))` of Kafka's own clients.
    #[test]
    fn kafkas_own_marker_is_the_same() {
        let text = include_str!("control/kafka-marker.txt");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
        let kafkas: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).expect("hex")).collect();
        assert_eq!(read(&kafkas), Ok(Control::End(marker(true))));
        let ours = marker_batch(4_000, 3, marker(true), 1_700_000_000_000);
        assert_eq!(ours[16..], kafkas[16..], "but for the offset and epoch that are stamped at append");
    }

    fn control(key: Option<&[u8]>, value: Option<&[u8]>) -> Bytes {
        let builder = BatchBuilder::new(Codec::None).producer(1, 0, -1);
        let mut builder = builder.attributes(TimestampType::CreateTime, true, true);
        builder.push(0, key, value, &[]);
        builder.build()
    }

    #[test]
    fn other_kinds_and_damage() {
        assert_eq!(read(&control(Some(&[0, 0, 0, 2]), None)), Ok(Control::Other(2)));
        assert_eq!(read(&control(Some(&[0, 0, 0, 5]), Some(&[1]))), Ok(Control::Other(5)));
        let later = [0, 3, 0, 0, 0, 7, 99];
        assert_eq!(read(&control(Some(&[0, 3, 0, 1]), Some(&later))), Ok(Control::End(marker(true))));
        for (key, value) in [
            (None, None),
            (Some(&[0, 0, 0][..]), Some(&later[..])),
            (Some(&[0xff, 0xff, 0, 1]), Some(&later)),
            (Some(&[0, 0, 0, 1]), None),
            (Some(&[0, 0, 0, 1]), Some(&later[..5])),
        ] {
            assert!(read(&control(key, value)).is_err(), "{key:?} {value:?}");
        }
        let mut compressed = marker_batch(1, 0, marker(true), 0).to_vec();
        compressed[22] |= 3;
        write_crc(&mut compressed);
        assert_eq!(read(&compressed), Err(BatchError::Codec(3)));
        let whole = marker_batch(1, 0, marker(true), 0);
        for cut in HEADER_BYTES..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
