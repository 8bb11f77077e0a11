use super::*;
use crate::BatchBuilder;
use crate::test_support::{Dice, JAVA_BATCHES, OwnedRecord, fuzz_inputs, java_batch, read_all, shared};

const NOW_MS: i64 = 1_700_000_100_000;
const HOUR_MS: i64 = 3_600_000;

fn rules() -> ProduceRules {
    ProduceRules::of(&TopicConfig::default())
}

fn judge(bytes: &[u8], rules: &ProduceRules) -> Result<AcceptedBatch, BatchRefusal> {
    validate_produce(&shared(bytes), rules, NOW_MS, &mut Vec::new())
}

/// The refusal's code, and its text for people.
fn refused(bytes: &[u8], rules: &ProduceRules) -> (i16, String) {
    let refusal = judge(bytes, rules).expect_err("must be refused");
    (refusal.error_code(), refusal.to_string())
}

/// A good batch with one header field changed and its CRC made right again.
fn forged(change: impl FnOnce(&mut BatchHeader)) -> Vec<u8> {
    let mut batch = java_batch("none");
    let mut header = BatchHeader::parse(&batch).expect("good");
    change(&mut header);
    batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    batch::write_crc(&mut batch);
    batch
}

fn one_record(timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(timestamp, key, value, &[]);
    builder.build()
}

#[test]
fn the_default_rules_are_kafkas() {
    let rules = rules();
    assert_eq!(rules.max_message_bytes, 1_048_588);
    assert_eq!((rules.before_max_ms, rules.after_max_ms), (i64::MAX, HOUR_MS));
    assert_eq!(rules.decompressed_bytes_max, DECOMPRESSED_BYTES_MAX);
    assert!(!rules.compacted && rules.zstd_allowed);
    assert_eq!((rules.timestamp_type, rules.value_format), (TimestampType::CreateTime, ValueFormat::Bytes));
}

#[test]
fn good_batches_pass_as_they_are() {
    let lax = ProduceRules { after_max_ms: i64::MAX, ..rules() };
    for (name, bytes) in JAVA_BATCHES.iter() {
        let sent = shared(bytes);
        let accepted = validate_produce(&sent, &lax, NOW_MS, &mut Vec::new()).expect(name);
        assert_eq!(accepted.bytes.as_ptr(), sent.as_ptr(), "{name}: the producer's own bytes, not a copy");
        assert_eq!(accepted.header, BatchHeader::parse(bytes).expect("good"));
        let records = read_all(bytes);
        let latest = records.iter().map(|record| record.timestamp).max().expect("one");
        let first = records.iter().find(|record| record.timestamp == latest).expect("one");
        assert_eq!(i64::from(accepted.offset_delta_of_max_timestamp), first.offset, "{name}");
        assert!(accepted.records_bytes >= records.len() * RECORD_BYTES_MIN);
    }
}

#[test]
fn exactly_one_whole_batch() {
    let batch = java_batch("none");
    assert_eq!(refused(&[], &rules()), (INVALID_RECORD, "no record batch for the partition".into()));
    let two = [&batch[..], &batch].concat();
    assert_eq!(judge(&two, &rules()), Err(BatchRefusal::MoreThanOne { bytes: batch.len() }));
    assert_eq!(refused(&[&batch[..], &[0]].concat(), &rules()).0, INVALID_RECORD);
    for cut in 1..batch.len() {
        assert_eq!(refused(&batch[..cut], &rules()).0, INVALID_RECORD, "{cut}");
    }
    let mut length = batch.clone();
    length[8..12].copy_from_slice(&48i32.to_be_bytes());
    assert_eq!(refused(&length, &rules()).0, CORRUPT_MESSAGE);
    length[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_eq!(refused(&length, &rules()).0, INVALID_RECORD);
}

#[test]
fn other_message_formats() {
    for (magic, code) in
        [(0, INVALID_RECORD), (1, INVALID_RECORD), (3, CORRUPT_MESSAGE), (0xff, CORRUPT_MESSAGE)]
    {
        let mut batch = java_batch("none");
        batch[16] = magic;
        assert_eq!(refused(&batch, &rules()).0, code, "magic {magic}");
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for name in ["none", "lz4"] {
        let batch = java_batch(name);
        for at in 0..batch.len() {
            // The leader epoch alone is neither checked nor of meaning in a produced batch.
            if (12..16).contains(&at) {
                continue;
            }
            let mut flipped = batch.clone();
            flipped[at] ^= 0x10;
            let (code, text) = refused(&flipped, &rules());
            if at >= batch::CRC_START {
                assert_eq!((code, text.contains("checksum")), (CORRUPT_MESSAGE, true), "{name} {at}: {text}");
            }
        }
    }
}

#[test]
fn counts_must_be_true() {
    for (delta, count) in [(3, 3), (3, 5), (2, 4), (4, 4), (0, 0), (3, 0), (0, 1), (i32::MAX, i32::MAX)] {
        let batch = forged(|header| (header.last_offset_delta, header.record_count) = (delta, count));
        assert_eq!(refused(&batch, &rules()).0, INVALID_RECORD, "{delta} {count}");
    }
    // Counts that agree with each other but not with the records.
    for count in [3, 5, i32::MAX] {
        let batch = forged(|header| (header.last_offset_delta, header.record_count) = (count - 1, count));
        assert_eq!(refused(&batch, &rules()).0, INVALID_RECORD, "{count}");
    }
}

#[test]
fn offsets_must_be_dense_from_zero() {
    assert_eq!(judge(&forged(|header| header.base_offset = 5), &rules()), Err(BatchRefusal::BaseOffset(5)));
    let mut builder = BatchBuilder::new(Codec::Lz4);
    builder.push_at(0, NOW_MS, None, None, &[]);
    builder.push_at(2, NOW_MS, None, None, &[]);
    let gap = builder.build();
    assert_eq!(refused(&gap, &rules()).0, INVALID_RECORD);
    let mut claimed = BatchBuilder::new(Codec::None);
    claimed.push_at(1, NOW_MS, None, None, &[]);
    let mut batch = claimed.build().to_vec();
    batch[23..27].copy_from_slice(&0i32.to_be_bytes());
    batch::write_crc(&mut batch);
    let refusal = judge(&batch, &rules()).expect_err("starts at 1");
    assert_eq!(refusal, BatchRefusal::OffsetDelta { index: 0, offset_delta: 1 });
    assert_eq!((refusal.error_code(), refusal.record_index()), (INVALID_RECORD, Some(0)));
}

#[test]
fn producers_write_neither_control_nor_half_transactional_batches() {
    let bits = |control| batch::attributes(Codec::None, TimestampType::CreateTime, true, control);
    let control = forged(|header| header.attributes = bits(true));
    assert_eq!(judge(&control, &rules()), Err(BatchRefusal::Control));
    let transactional = forged(|header| header.attributes = bits(false));
    assert!(judge(&transactional, &rules()).is_ok());
    let nobody = forged(|header| {
        header.attributes = bits(false);
        header.producer_id = -1;
    });
    assert_eq!(judge(&nobody, &rules()), Err(BatchRefusal::Transactional));
    for (base_sequence, producer_epoch) in [(-1, 7), (100, -1)] {
        let batch = forged(|header| {
            (header.base_sequence, header.producer_epoch) = (base_sequence, producer_epoch);
        });
        assert_eq!(judge(&batch, &rules()), Err(BatchRefusal::Sequence { base_sequence, producer_epoch }));
    }
    let idle = forged(|header| {
        (header.producer_id, header.producer_epoch, header.base_sequence) = (-1, -1, -1);
    });
    assert!(judge(&idle, &rules()).is_ok());
}

#[test]
fn sizes_are_of_the_batch_as_sent() {
    let batch = java_batch("lz4");
    let exact = ProduceRules { max_message_bytes: batch.len(), ..rules() };
    assert!(judge(&batch, &exact).is_ok());
    let below = ProduceRules { max_message_bytes: batch.len() - 1, ..rules() };
    assert_eq!(refused(&batch, &below).0, MESSAGE_TOO_LARGE);
}

#[test]
fn what_shrinks_well_is_no_bomb() {
    let config = TopicConfig::default();
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.push(NOW_MS, None, Some(&vec![b'a'; 30 << 20]), &[]);
    let batch = builder.build();
    assert!((batch.len() as i64) < 1 << 20);
    let own = ProduceRules::of(&config);
    let rules = ProduceRules { before_max_ms: i64::MAX, ..own };
    assert!(judge(&batch, &rules).expect("Kafka takes it").records_bytes > 30 << 20);
    assert_eq!(rules.decompressed_bytes_max, DECOMPRESSED_BYTES_MAX, "and no more than this is unpacked");
}

#[test]
fn bombs_are_refused_within_the_cap() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        builder.push(NOW_MS, None, Some(&vec![0; 80 << 20]), &[]);
        let lax = ProduceRules { max_message_bytes: 10 << 20, ..rules() };
        let (code, text) = refused(&builder.build(), &lax);
        assert_eq!(code, MESSAGE_TOO_LARGE, "{codec:?}: {text}");
    }
    let mut scratch = Vec::new();
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.push(NOW_MS, None, Some(&vec![0; 20 << 20]), &[]);
    let wide = ProduceRules { decompressed_bytes_max: 64 << 20, ..rules() };
    assert!(validate_produce(&builder.build(), &wide, NOW_MS, &mut scratch).is_ok());
    assert!(scratch.capacity() <= DECOMPRESS_SCRATCH_KEEP_BYTES_MAX, "a large buffer is given back");
}

#[test]
fn codecs_that_are_not_there() {
    for codec in 5..8 {
        let (code, text) = refused(&forged(|header| header.attributes = codec), &rules());
        assert_eq!((code, text.contains("unknown")), (UNSUPPORTED_COMPRESSION_TYPE, true));
    }
    let early = ProduceRules { zstd_allowed: false, ..rules() };
    assert_eq!(refused(&java_batch("zstd"), &early).0, UNSUPPORTED_COMPRESSION_TYPE);
    assert!(judge(&java_batch("lz4"), &early).is_ok());
    for codec in 1..5 {
        let (code, text) = refused(&forged(|header| header.attributes = codec), &rules());
        assert_eq!(code, INVALID_RECORD, "not compressed as it says: {text}");
    }
}

#[test]
fn timestamps_are_bounded_as_the_topic_says() {
    let code = |timestamp, rules: &ProduceRules| {
        judge(&one_record(timestamp, None, None), rules).map(drop).map_err(|refusal| refusal.error_code())
    };
    for good in [NO_TIMESTAMP, 0, 1, NOW_MS, NOW_MS + HOUR_MS] {
        assert_eq!(code(good, &rules()), Ok(()), "{good}");
    }
    for bad in [NOW_MS + HOUR_MS + 1, i64::MAX] {
        assert_eq!(code(bad, &rules()), Err(INVALID_TIMESTAMP), "{bad}");
    }
    let before = ProduceRules { before_max_ms: 10, ..rules() };
    assert_eq!(code(NOW_MS - 10, &before), Ok(()));
    assert_eq!(code(NOW_MS - 11, &before), Err(INVALID_TIMESTAMP));
    assert_eq!(code(0, &before), Err(INVALID_TIMESTAMP));
    assert_eq!(code(NO_TIMESTAMP, &before), Ok(()), "no timestamp is always in range");
    let lax = ProduceRules { after_max_ms: i64::MAX, ..rules() };
    for extreme in [i64::MAX, i64::MIN, -2] {
        assert_eq!(code(extreme, &lax), Ok(()), "{extreme}");
    }
    let refusal = judge(&one_record(i64::MAX, None, None), &rules()).expect_err("too late");
    assert_eq!(refusal.record_index(), Some(0));
    let marked = forged(|header| header.attributes = 0b1000);
    assert_eq!(judge(&marked, &rules()), Err(BatchRefusal::TimestampType));
    assert_eq!(refused(&marked, &rules()).0, INVALID_TIMESTAMP);
}

#[test]
fn log_append_time_is_stamped_into_a_copy() {
    let rules = ProduceRules { timestamp_type: TimestampType::LogAppendTime, before_max_ms: 10, ..rules() };
    for codec in Codec::ALL {
        let sent = java_batch(codec.name());
        let accepted = judge(&sent, &rules).expect("good");
        assert!(batch::crc_matches(&accepted.bytes));
        assert_eq!(accepted.header, BatchHeader::parse(&accepted.bytes).expect("good"));
        assert_eq!(accepted.header.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(accepted.header.codec(), Ok(codec));
        assert_eq!((accepted.header.max_timestamp, accepted.offset_delta_of_max_timestamp), (NOW_MS, 0));
        let stamped = |record| OwnedRecord { timestamp: NOW_MS, ..record };
        let expected: Vec<_> = read_all(&sent).into_iter().map(stamped).collect();
        assert_eq!(read_all(&accepted.bytes), expected, "only the timestamps change");
    }
}

#[test]
fn a_wrong_maximum_is_set_right() {
    let sent = forged(|header| header.max_timestamp = 5);
    let accepted = judge(&sent, &rules()).expect("good otherwise");
    assert_eq!(accepted.bytes, java_batch("none"));
    assert_eq!(accepted.header.max_timestamp, 1_700_000_000_500);
    assert_eq!(accepted.offset_delta_of_max_timestamp, 1);
}

#[test]
fn compacted_topics_need_keys() {
    let compacted = ProduceRules { compacted: true, ..rules() };
    assert!(judge(&one_record(0, Some(b""), None), &compacted).is_ok());
    let refusal = judge(&java_batch("zstd"), &compacted).expect_err("the second has no key");
    assert_eq!(refusal, BatchRefusal::NullKey { index: 1 });
    assert_eq!((refusal.error_code(), refusal.record_index()), (INVALID_RECORD, Some(1)));
}

#[test]
fn values_are_what_the_topic_promises() {
    let accepts = |format, value: Option<&[u8]>| {
        let rules = ProduceRules { value_format: format, ..rules() };
        match judge(&one_record(0, None, value), &rules) {
            Ok(_) => true,
            Err(refusal) => {
                assert_eq!((refusal.error_code(), refusal.record_index()), (INVALID_RECORD, Some(0)));
                false
            }
        }
    };
    for format in [ValueFormat::Bytes, ValueFormat::Utf8, ValueFormat::Json] {
        assert!(accepts(format, None), "a tombstone is legal under {format:?}");
    }
    assert!(accepts(ValueFormat::Bytes, Some(&[0xff, 0xfe])));
    assert!(accepts(ValueFormat::Utf8, Some(b"")) && accepts(ValueFormat::Utf8, Some("grüß\0".as_bytes())));
    assert!(
        !accepts(ValueFormat::Utf8, Some(&[0xff])) && !accepts(ValueFormat::Utf8, Some(&[0xed, 0xa0, 0x80]))
    );
    for good in ["1", "null", " {\"a\": [1, 2.5e300, \"\\u00e9\"]} ", "\"x\"", "-0.0", "[]", "1e999"] {
        assert!(accepts(ValueFormat::Json, Some(good.as_bytes())), "{good}");
    }
    for bad in
        ["", " ", "{", "{\"a\":1,}", "[1 2]", "NaN", "'x'", "01", "{} {}", "\"\n\"", "\u{feff}{}", "tru"]
    {
        assert!(!accepts(ValueFormat::Json, Some(bad.as_bytes())), "{bad:?}");
    }
    assert!(!accepts(ValueFormat::Json, Some(b"\"\xff\"")), "JSON is UTF-8");
}

#[test]
fn json_is_not_deeper_than_readers_can_take() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(is_json(&nested(JSON_DEPTH_MAX)));
    assert!(!is_json(&nested(JSON_DEPTH_MAX + 1)));
    assert!(!is_json(&nested(1_000_000)));
    assert!(!is_json(&vec![b'['; 1_000_000]));
    let text = format!("[\"{}\\\"[\"]", "[{".repeat(10_000));
    assert!(is_json(text.as_bytes()), "brackets in strings do not nest");
    let wide = format!("[{}]", vec!["[]"; 10_000].join(","));
    assert!(is_json(wide.as_bytes()), "many brackets side by side do not nest");
}

#[test]
fn damaged_batches_never_panic() {
    let lax = ProduceRules {
        after_max_ms: i64::MAX,
        decompressed_bytes_max: 1 << 20,
        value_format: ValueFormat::Utf8,
        ..rules()
    };
    let mut dice = Dice::new(7);
    let mut scratch = Vec::new();
    let mut accepted = 0;
    for _ in 0..fuzz_inputs(35) {
        let (name, fixture) = &JAVA_BATCHES[dice.below(6)];
        let mut bytes = fixture.clone();
        match dice.below(4) {
            // Damage anywhere: mostly ends at the checksum.
            0 => dice.mutate(&mut bytes),
            // Damage the records or the header, then make length and checksum right again.
            kind => {
                let mut section = bytes.split_off(HEADER_BYTES);
                if kind < 3 {
                    dice.mutate(&mut section);
                } else {
                    let at = 16 + dice.below(HEADER_BYTES - 16);
                    bytes[at] = dice.next() as u8;
                }
                bytes.append(&mut section);
                let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
                batch::write_crc(&mut bytes);
            }
        }
        for batch in batch::Batches::new(&bytes) {
            let _ = batch.map(|(header, bytes)| (header.next_offset(), batch::crc_matches(bytes)));
        }
        if let Ok(batch) = validate_produce(&Bytes::from(bytes), &lax, NOW_MS, &mut scratch) {
            accepted += 1;
            let records = read_all(&batch.bytes);
            assert_eq!(
                records.len(),
                batch.header.record_count as usize,
                "{name}: what is accepted can be read"
            );
        }
    }
    assert!(accepted > 0, "some damage is harmless, or the test damages nothing");
}
