use proptest::prelude::*;

use super::*;
use crate::test_support::{JAVA_BATCHES, OwnedRecord, java_batch, read_all};
use crate::{BatchBuilder, BatchHeader, Codec, HEADER_BYTES};

/// What the fixtures of the small batches hold, as their generator wrote it.
fn expected() -> Vec<OwnedRecord> {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let record =
        |offset, timestamp, key, value, headers| OwnedRecord { offset, timestamp, key, value, headers };
    vec![
        record(0, 1_700_000_000_000, bytes("key"), bytes("value"), vec![]),
        record(
            1,
            1_700_000_000_500,
            None,
            Some(vec![b'x'; 300]),
            vec![(b"h".to_vec(), bytes("1")), (b"h".to_vec(), None)],
        ),
        record(2, 1_699_999_999_000, bytes("gone"), None, vec![(vec![], bytes(""))]),
        record(3, 1_700_000_000_001, bytes(""), Some(vec![0, 0xff, 0x80]), vec![]),
    ]
}

#[test]
fn records_of_the_java_client_are_read() {
    for codec in Codec::ALL {
        assert_eq!(read_all(&java_batch(codec.name())), expected(), "{}", codec.name());
    }
    let times: Vec<_> = read_all(&java_batch("timestamps")).iter().map(|record| record.timestamp).collect();
    assert_eq!(times, [-1, 0, i64::MAX, -1]);
    for name in ["gzip-large", "snappy-large", "lz4-large", "zstd-large"] {
        let records = read_all(&java_batch(name));
        assert_eq!(records.len(), 100, "{name}");
        for (i, record) in records.iter().enumerate() {
            assert_eq!(record.value, Some(format!("value-{i}-").repeat(100).into_bytes()), "{name}");
        }
    }
}

#[test]
fn the_builder_writes_what_the_java_client_writes() {
    let mut builder = BatchBuilder::new(Codec::None).producer(4242, 7, 100);
    for record in expected() {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        builder.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    assert_eq!(builder.build(), java_batch("none"));
    let mut builder = BatchBuilder::new(Codec::None);
    for timestamp in [-1, 0, i64::MAX, -1] {
        builder.push(timestamp, Some(b"k"), Some(b"v"), &[]);
    }
    assert_eq!(builder.build(), java_batch("timestamps"));
}

#[test]
fn varints_of_every_length_round_trip() {
    let mut values = vec![0, -1, i64::MAX, i64::MIN, i64::from(i32::MAX), i64::from(i32::MIN)];
    for bits in 0..63 {
        values.extend([1 << bits, (1 << bits) - 1, -(1 << bits), -(1 << bits) - 1]);
    }
    for value in values {
        let mut bytes = Vec::new();
        put_varlong(&mut bytes, value);
        assert_eq!(bytes.len(), varlong_bytes(value), "{value}");
        let mut rest = &bytes[..];
        assert_eq!(varlong(&mut rest), Ok(value));
        assert!(rest.is_empty());
        let mut rest = &bytes[..];
        match i32::try_from(value) {
            Ok(small) => assert_eq!(varint(&mut rest), Ok(small)),
            Err(_) => assert!(varint(&mut rest).is_err(), "{value} is over 32 bits"),
        }
        for cut in 0..bytes.len() {
            assert_eq!(varlong(&mut &bytes[..cut]), Err(CUT_SHORT), "{value}");
        }
    }
}

#[test]
fn varints_that_go_on_are_refused() {
    assert_eq!(varint(&mut &[0xff; 5][..]), Err(VARINT_TOO_LONG));
    assert_eq!(varint(&mut &[0xff, 0xff, 0xff, 0xff, 0x10][..]), Err(VARINT_TOO_LONG));
    assert_eq!(varlong(&mut &[0xff; 10][..]), Err(VARINT_TOO_LONG));
    assert_eq!(
        varlong(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]),
        Err(VARINT_TOO_LONG)
    );
}

fn parse(record: &[u8]) -> Result<(), &'static str> {
    let parsed = unusual_record(record);
    assert!(parsed.is_err() || parsed.is_ok_and(|(_, rest)| rest.is_empty()));
    // With something behind it the short way is tried as well.
    let padded = [record, &[0; 16]].concat();
    match usual_record(&padded) {
        Some((quick, rest)) => assert_eq!((Ok(quick), rest.len()), (parsed.map(|(it, _)| it), 16)),
        None => assert!(unusual_record(&padded).map(|(it, _)| it.headers.is_empty()) != Ok(true)),
    }
    parsed.map(|_| ())
}

#[test]
fn records_that_lie_are_refused() {
    // Length, attributes, timestamp delta, offset delta, key length, value length, header count.
    assert_eq!(parse(&[12, 0, 0, 0, 1, 1, 0]), Ok(()));
    assert_eq!(parse(&[14, 0, 0, 0, 1, 1, 0]), Err("cut short"), "length over the section");
    assert_eq!(parse(&[10, 0, 0, 0, 1, 1, 0]), Err("cut short"), "length under the fields");
    assert_eq!(parse(&[14, 0, 0, 0, 1, 1, 0, 0]), Err("longer than its fields"));
    assert_eq!(parse(&[1, 0, 0, 0, 1, 1, 0]), Err("negative length"));
    assert_eq!(parse(&[0]), Err("cut short"), "empty");
    assert_eq!(parse(&[12, 0, 0, 0, 3, 1, 0]), Err("negative length"), "key of -2 bytes");
    assert_eq!(parse(&[12, 0, 0, 0, 20, 1, 0]), Err("cut short"), "key of 10 bytes");
    assert_eq!(parse(&[12, 0, 0, 0, 1, 20, 0]), Err("cut short"), "value of 10 bytes");
    assert_eq!(parse(&[12, 0, 0, 0, 1, 1, 1]), Err("negative header count"));
    assert_eq!(parse(&[12, 0, 0, 0, 1, 1, 2]), Err("cut short"), "a header that is not there");
    assert_eq!(
        parse(&[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]),
        Err("cut short"),
        "2^31 - 1 headers"
    );
    assert_eq!(parse(&[16, 0, 0, 0, 1, 1, 2, 1, 1]), Err("null header key"));
    assert_eq!(parse(&[16, 0, 0, 0, 1, 1, 2, 0, 1]), Ok(()), "empty header key, null value");
    assert_eq!(parse(&[18, 0, 0, 0, 1, 1, 2, 0, 1, 0]), Err("longer than its fields"));
}

#[test]
fn counts_that_lie_are_refused() {
    let section = &java_batch("none")[HEADER_BYTES..];
    for (count, index) in [(3, 3), (5, 4), (0, 0)] {
        let mut records = Records::new(section, count);
        let error = loop {
            match records.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a lie went unnoticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, BatchError::Record { index: at, .. } if at == index), "{count}: {error}");
    }
}

type OwnedHeaders = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn any_timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![Just(-1), Just(0), Just(i64::MAX), any::<i64>(), 1_700_000_000_000i64..1_700_000_100_000]
}

prop_compose! {
    fn any_record()(
        timestamp in any_timestamp(),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400)),
        headers in proptest::collection::vec((
            proptest::collection::vec(any::<u8>(), 0..20),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        ), 0..4),
    ) -> (i64, Option<Vec<u8>>, Option<Vec<u8>>, OwnedHeaders) {
        (timestamp, key, value, headers)
    }
}

proptest! {
    #[test]
    fn what_is_built_is_read(records in proptest::collection::vec(any_record(), 1..60), codec in 0u8..5) {
        let codec = Codec::from_id(codec).expect("a codec");
        let mut builder = BatchBuilder::new(codec).base_offset(1_000).leader_epoch(3);
        for (timestamp, key, value, headers) in &records {
            let headers: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            builder.push(*timestamp, key.as_deref(), value.as_deref(), &headers);
        }
        let batch = builder.build();
        prop_assert!(crate::batch::crc_matches(&batch));
        let header = BatchHeader::parse(&batch).expect("built");
        prop_assert_eq!(header.total_bytes(), batch.len());
        prop_assert_eq!(header.next_offset(), 1_000 + records.len() as i64);
        prop_assert_eq!(header.max_timestamp, records.iter().map(|record| record.0).max().expect("one"));
        let read = read_all(&batch);
        prop_assert_eq!(read.len(), records.len());
        for (i, (read, (timestamp, key, value, headers))) in read.into_iter().zip(records).enumerate() {
            prop_assert_eq!(read, OwnedRecord { offset: 1_000 + i as i64, timestamp, key, value, headers });
        }
    }
}

proptest! {
    /// The short way says what the long one says, or leaves it the word; also of bytes that are wrong.
    #[test]
    fn both_ways_to_read_a_record_agree(
        deltas in (-2_000_000i64..2_000_000, any::<bool>()),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20_000)),
        padding in proptest::collection::vec(any::<u8>(), 0..12),
        damage in proptest::collection::vec((0usize..24, any::<u8>()), 0..3),
    ) {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(0, None, None, &[]);
        builder.push(deltas.0, key.as_deref(), value.as_deref(), &[(&b"h"[..], None)][..usize::from(deltas.1)]);
        let section = &builder.build()[HEADER_BYTES..];
        let mut bytes = [&section[RECORD_BYTES_MIN..], &padding].concat();
        let is_short = deltas.0.abs() < 1_000_000 && !deltas.1;
        let whole_words = value.as_ref().map_or(0, Vec::len) + padding.len() >= 8 && padding.len() >= 7;
        if is_short && whole_words {
            prop_assert!(usual_record(&bytes).is_some(), "the short way is taken");
        }
        for (at, byte) in damage {
            if let Some(slot) = bytes.get_mut(at) {
                *slot = byte;
            }
        }
        if let Some(found) = usual_record(&bytes) {
            prop_assert_eq!(unusual_record(&bytes), Ok(found));
        }
    }
}

#[test]
fn every_fixture_is_read() {
    for (name, batch) in JAVA_BATCHES.iter() {
        assert!(!read_all(batch).is_empty(), "{name}");
    }
}
