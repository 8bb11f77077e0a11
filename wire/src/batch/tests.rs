use super::*;
use crate::test_support::{JAVA_BATCHES, java_batch};

fn header() -> BatchHeader {
    BatchHeader {
        base_offset: 0x0102_0304_0506_0708,
        batch_length: 49,
        leader_epoch: 7,
        magic: 2,
        crc: 0xdead_beef,
        attributes: 0b11_0100,
        last_offset_delta: 9,
        base_timestamp: -1,
        max_timestamp: i64::MAX,
        producer_id: 77,
        producer_epoch: 3,
        base_sequence: i32::MAX,
        record_count: 10,
    }
}

#[test]
fn the_layout_is_kafkas() {
    let hex: String = header().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = [
        "0102030405060708", // base offset
        "00000031",         // length
        "00000007",         // leader epoch
        "02",               // magic
        "deadbeef",         // crc
        "0034",             // attributes
        "00000009",         // last offset delta
        "ffffffffffffffff", // base timestamp
        "7fffffffffffffff", // max timestamp
        "000000000000004d", // producer id
        "0003",             // producer epoch
        "7fffffff",         // base sequence
        "0000000a",         // records
    ];
    assert_eq!(hex, fields.concat());
    assert_eq!(BatchHeader::parse(&header().to_bytes()), Ok(header()));
}

#[test]
fn attributes_are_told_apart() {
    let h = header();
    assert_eq!(h.codec(), Ok(Codec::Zstd));
    assert_eq!(h.timestamp_type(), TimestampType::CreateTime);
    assert!(h.is_transactional() && h.is_control() && h.has_producer());
    assert_eq!(attributes(Codec::Zstd, TimestampType::CreateTime, true, true), h.attributes);
    let h = BatchHeader { attributes: 0b1101, producer_id: NO_PRODUCER_ID, ..h };
    assert_eq!(h.codec(), Err(BatchError::Codec(5)));
    assert_eq!(h.timestamp_type(), TimestampType::LogAppendTime);
    assert!(!h.is_transactional() && !h.is_control() && !h.has_producer());
    for codec in Codec::ALL {
        let bits = attributes(codec, TimestampType::LogAppendTime, false, false);
        let h = BatchHeader { attributes: bits, ..header() };
        assert_eq!((h.codec(), h.timestamp_type()), (Ok(codec), TimestampType::LogAppendTime));
    }
}

#[test]
fn offsets_and_sequences_end_without_overflow() {
    assert_eq!(header().next_offset(), 0x0102_0304_0506_0708 + 10);
    assert_eq!(BatchHeader { base_offset: i64::MAX, ..header() }.next_offset(), i64::MAX);
    assert_eq!(header().last_sequence(), 8, "sequences wrap to 0 after i32::MAX");
    assert_eq!(BatchHeader { base_sequence: 5, ..header() }.last_sequence(), 14);
    assert_eq!(BatchHeader { base_sequence: -1, ..header() }.last_sequence(), -1);
}

#[test]
fn timestamps_wrap_as_in_java() {
    let h = header();
    assert_eq!(h.record_timestamp(0), -1);
    assert_eq!(h.record_timestamp(i64::MIN), i64::MAX);
    let h = BatchHeader { attributes: 0b1000, ..h };
    assert_eq!(h.record_timestamp(5), h.max_timestamp);
}

#[test]
fn bad_headers_are_named() {
    let good = header().to_bytes();
    assert_eq!(BatchHeader::parse(&[]), Err(BatchError::Truncated { needed: 61, available: 0 }));
    assert_eq!(BatchHeader::parse(&good[..60]), Err(BatchError::Truncated { needed: 61, available: 60 }));
    let mut old = good;
    old[16] = 1;
    assert_eq!(BatchHeader::parse(&old[..17]), Err(BatchError::Magic(1)), "an old message is shorter");
    let length = BatchHeader { batch_length: 48, ..header() };
    assert_eq!(BatchHeader::parse(&forge(length)), Err(BatchError::Length(48)));
    let length = BatchHeader { batch_length: -1, ..header() };
    assert_eq!(BatchHeader::parse(&forge(length)), Err(BatchError::Length(-1)));
    for (last_offset_delta, record_count) in [(-1, 10), (9, -1)] {
        let counts = BatchHeader { last_offset_delta, record_count, ..header() };
        let error = BatchError::Counts { last_offset_delta, record_count };
        assert_eq!(BatchHeader::parse(&counts.to_bytes()), Err(error));
    }
}

fn forge(header: BatchHeader) -> [u8; HEADER_BYTES] {
    let mut bytes = BatchHeader { batch_length: 49, ..header }.to_bytes();
    bytes[8..12].copy_from_slice(&header.batch_length.to_be_bytes());
    bytes
}

#[test]
fn the_crc_is_the_java_clients() {
    for (name, batch) in JAVA_BATCHES.iter() {
        assert!(crc_matches(batch), "{name}");
        let mut changed = batch.clone();
        write_crc(&mut changed);
        assert_eq!(&changed, batch, "{name}: the same CRC is written");
        changed[HEADER_BYTES - 1] ^= 1;
        assert!(matches!(check_crc(&changed), Err(BatchError::Crc { .. })), "{name}");
    }
    assert!(!crc_matches(&[0; 60]));
}

/// Every way that the checksum takes by length and alignment, against another crate's.
#[test]
fn the_crc_is_crc_32c_at_every_length() {
    let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let lengths = (HEADER_BYTES..1_200).chain([4_095, 16_384, 65_537, 69_990]);
    for (at, length) in lengths.enumerate() {
        let mut batch = bytes[at % 9..at % 9 + length].to_vec();
        write_crc(&mut batch);
        assert_eq!(batch[CRC_AT..CRC_START], crc32c::crc32c(&batch[CRC_START..]).to_be_bytes(), "{length}");
    }
}

#[test]
fn the_stamped_prefix_is_outside_the_crc() {
    let mut batch = java_batch("none");
    let before = BatchHeader::parse(&batch).expect("good");
    batch[..16].copy_from_slice(&stamp_prefix(1_000_000_007, before.batch_length, 12));
    assert!(crc_matches(&batch));
    let after = BatchHeader::parse(&batch).expect("good");
    assert_eq!(after, BatchHeader { base_offset: 1_000_000_007, leader_epoch: 12, ..before });
}

#[test]
fn batches_are_walked_to_the_torn_tail() {
    let mut log: Vec<u8> = Vec::new();
    for (_, batch) in JAVA_BATCHES.iter() {
        log.extend_from_slice(batch);
    }
    let whole: Vec<_> = Batches::new(&log).map(|batch| batch.expect("whole").1.to_vec()).collect();
    let expected: Vec<_> = JAVA_BATCHES.iter().map(|(_, batch)| batch.clone()).collect();
    assert_eq!(whole, expected);
    let first = expected[0].len();
    for cut in [1, 12, 17, 60, 61, expected[1].len() - 1] {
        let mut batches = Batches::new(&log[..first + cut]);
        assert!(batches.next().expect("first").is_ok());
        let torn = batches.next().expect("a torn second").expect_err("torn");
        assert!(matches!(torn, BatchError::Truncated { available, .. } if available == cut), "{cut}: {torn}");
        assert!(batches.next().is_none(), "an error ends the walk");
        assert_eq!(batches.remaining_bytes(), 0);
    }
}
