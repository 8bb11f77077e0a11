use highwater_model::RecordTtl;
use proptest::prelude::*;

use super::*;
use crate::build::Header;
use crate::test_support::{Dice, OwnedRecord, fuzz_inputs, read_all};
use crate::{BatchBuilder, EndMarker, marker_batch};

const NOW: i64 = 1_700_000_000_000;
const ROOM: usize = 64 << 20;

fn expiry(setting: i64) -> Expiry {
    RecordTtl::from_setting(setting).expect("on").at(NOW)
}

fn sift_all(setting: i64, room: usize, pieces: &[Bytes]) -> Sifted {
    let mut scratch = Vec::new();
    let mut sieve = Sieve::new(expiry(setting), room, &mut scratch);
    pieces.iter().for_each(|piece| sieve.push(piece));
    sieve.finish()
}

fn joined(batches: &[Bytes]) -> Bytes {
    Bytes::from(batches.concat())
}

/// A batch of one record per age in milliseconds.
fn batch_of(codec: Codec, base: i64, ages: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(codec).base_offset(base).leader_epoch(3).producer(7, 1, 40);
    for (i, age) in ages.iter().enumerate() {
        builder.push(NOW - age, Some(b"k"), Some(format!("value {i}").as_bytes()), &[]);
    }
    builder.build()
}

fn headers_of(bytes: &[u8]) -> Vec<BatchHeader> {
    Batches::new(bytes).map(|batch| batch.expect("whole")).map(|(header, _)| header).collect()
}

#[test]
fn what_lives_is_passed_on_as_it_is() {
    let batches: Vec<Bytes> =
        Codec::ALL.iter().zip([0, 3, 6, 9, 12]).map(|(c, base)| batch_of(*c, base, &[1, 2, 3])).collect();
    let sifted = sift_all(1_000, ROOM, &[joined(&batches)]);
    assert_eq!(sifted.bytes, [joined(&batches)], "in one piece");
    assert_eq!((sifted.next_offset, sifted.hidden_records, sifted.is_cut), (Some(15), 0, false));
    assert!(sifted.has_records && sifted.looked_bytes > 0);
}

#[test]
fn a_batch_that_has_expired_leaves_its_header() {
    for codec in Codec::ALL {
        let batch = batch_of(codec, 100, &[1_000, 2_000, 5_000]);
        let sifted = sift_all(1_000, ROOM, std::slice::from_ref(&batch));
        assert_eq!((sifted.hidden_records, sifted.has_records), (3, false));
        let [empty] = &sifted.bytes[..] else { panic!("one batch") };
        assert_eq!(empty.len(), HEADER_BYTES);
        batch::check_crc(empty).expect("CRC");
        let (was, is) = (headers_of(&batch)[0], headers_of(empty)[0]);
        assert_eq!((is.base_offset, is.next_offset(), is.record_count), (100, 103, 0));
        assert_eq!(is.codec(), Ok(Codec::None), "nothing is compressed");
        let same = |h: &BatchHeader| {
            (h.leader_epoch, h.producer_id, h.producer_epoch, h.base_sequence, h.last_offset_delta)
        };
        assert_eq!(same(&is), same(&was));
    }
}

#[test]
fn of_batches_without_records_only_the_last_is_left_and_none_before_others() {
    let gone = |base| batch_of(Codec::Lz4, base, &[9_000, 9_000]);
    let lives = batch_of(Codec::None, 4, &[0]);
    let sifted = sift_all(1_000, ROOM, &[joined(&[gone(0), gone(2)]), lives.clone()]);
    assert_eq!((sifted.bytes.as_slice(), sifted.next_offset), (&[lives.clone()][..], Some(5)));
    let sifted = sift_all(1_000, ROOM, &[joined(&[lives, gone(5), gone(7)])]);
    assert_eq!(sifted.bytes.len(), 2);
    assert_eq!(headers_of(&sifted.bytes[1])[0].next_offset(), 9);
    let again = sift_all(1_000, ROOM, &sifted.bytes);
    assert_eq!(again.bytes, sifted.bytes, "what was sifted stays");
}

#[test]
fn log_append_time_is_one_time_for_all() {
    let kind = |builder: BatchBuilder| builder.attributes(TimestampType::LogAppendTime, false, false);
    let mut builder = kind(BatchBuilder::new(Codec::None));
    builder.push(NOW - 50_000, None, Some(b"old by its producer"), &[]);
    builder.push(NOW - 10, None, Some(b"new"), &[(TTL_HEADER, Some(b"5"))]);
    let sifted = sift_all(1_000, ROOM, &[builder.build()]);
    let left = headers_of(&sifted.bytes[0])[0];
    assert_eq!((left.record_count, left.max_timestamp), (1, NOW - 10), "the broker's time counts, and stays");
}

#[test]
fn the_last_of_several_headers_counts() {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(NOW - 10, None, Some(b"a"), &[(TTL_HEADER, Some(b"5")), (TTL_HEADER, Some(b"50"))]);
    builder.push(NOW - 10, None, Some(b"b"), &[(TTL_HEADER, Some(b"50")), (TTL_HEADER, Some(b"5"))]);
    builder.push(NOW - 10, None, Some(b"c"), &[(TTL_HEADER, Some(b"5")), (TTL_HEADER, None)]);
    builder.push(NOW - 10, None, Some(b"d"), &[(b"highwater-ttl", Some(b"5"))]);
    let sifted = sift_all(0, ROOM, &[builder.build()]);
    let values: Vec<_> = read_all(&sifted.bytes[0]).into_iter().filter_map(|record| record.value).collect();
    assert_eq!(values, [b"a", b"c", b"d"]);
}

#[test]
fn markers_are_never_touched() {
    let marker = marker_batch(7, 1, EndMarker { commit: false, coordinator_epoch: 2 }, NOW - 1_000_000);
    let sifted = sift_all(1, ROOM, std::slice::from_ref(&marker));
    assert_eq!(sifted.bytes, [marker]);
    assert!(sifted.has_records, "a client sees it");
}

#[test]
fn damage_is_passed_on_with_its_own_checksum() {
    let batch = batch_of(Codec::Zstd, 0, &[5_000, 5_000]);
    for at in 21..batch.len() {
        let mut broken = batch.to_vec();
        broken[at] ^= 0x10;
        let is_control = headers_of(&broken)[0].is_control();
        let sifted = sift_all(1_000, ROOM, &[Bytes::from(broken.clone())]);
        assert_eq!(sifted.bytes.concat(), broken, "byte {at} {is_control}");
    }
    let mut uncounted = batch.to_vec();
    uncounted[57..61].fill(0);
    let sifted = sift_all(1_000, ROOM, &[Bytes::from(uncounted.clone())]);
    assert_eq!(sifted.bytes.concat(), uncounted, "a count that is damaged");
    // Sound by its CRC, but not what its codec or its count says.
    for (at, value) in [(22, 1), (60, 3), (22, 6)] {
        let mut broken = batch.to_vec();
        broken[at] = value;
        batch::write_crc(&mut broken);
        let sifted = sift_all(1_000, ROOM, &[Bytes::from(broken.clone())]);
        assert_eq!((sifted.bytes.concat(), sifted.hidden_records), (broken, 0));
    }
    // What is no batch ends it.
    let torn = joined(&[batch.clone(), batch.slice(..70)]);
    let sifted = sift_all(1_000, ROOM, &[torn, batch.clone()]);
    assert_eq!(sifted.bytes.concat(), batch.slice(..70));
    assert!(sifted.is_cut && sifted.has_records);
}

#[test]
fn what_is_decompressed_has_a_limit_but_for_the_first() {
    let large = |base, codec| {
        let mut builder = BatchBuilder::new(codec).base_offset(base);
        builder.push(NOW - 5_000, None, Some(&[7; 300_000]), &[]);
        builder.build()
    };
    for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
        let batches = [large(0, codec), large(1, codec), large(2, codec)];
        let sifted = sift_all(1_000, 100_000, &batches);
        assert_eq!((sifted.next_offset, sifted.is_cut, sifted.hidden_records), (Some(1), true, 1));
        let sifted = sift_all(1_000, 650_000, &[joined(&batches)]);
        assert_eq!((sifted.next_offset, sifted.is_cut, sifted.hidden_records), (Some(2), true, 2));
        let sifted = sift_all(10_000, 650_000, &[joined(&batches)]);
        assert_eq!(sifted.bytes.concat(), joined(&batches[..2]), "what lives is cut as well");
    }
}

/// Whatever the bytes, nothing panics, and what has a good checksum afterwards had one before or is sound.
#[test]
fn any_bytes_are_sifted_or_passed_on() {
    let mut dice = Dice::new(77);
    for _ in 0..fuzz_inputs(2) {
        let codec = Codec::from_id(dice.below(5) as u8).expect("known");
        let mut bytes = batch_of(codec, 0, &[0, 5_000, 0, 5_000]).to_vec();
        dice.mutate(&mut bytes);
        let is_sealed = bytes.len() >= HEADER_BYTES && dice.one_in(2);
        if is_sealed {
            batch::write_crc(&mut bytes);
        }
        let bytes = Bytes::from(bytes);
        let sifted = sift_all(1_000, 1 << 20, &[bytes.clone(), batch_of(codec, 9, &[5_000])]);
        if !is_sealed && sifted.hidden_records == 0 && sifted.is_cut {
            assert!(bytes.starts_with(&sifted.bytes.concat()), "it is passed on as it is");
        }
    }
}

/// A record of the model: its age, its header, its sizes.
type Drawn = (i64, Option<Vec<u8>>, Option<u8>, usize);

fn drawn() -> impl Strategy<Value = (u8, bool, Vec<Drawn>, Vec<i32>)> {
    let header = prop_oneof![
        6 => Just(None),
        4 => (0i64..2_000).prop_map(|ms| Some(ms.to_string().into_bytes())),
        1 => Just(Some(b"-1".to_vec())),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(Some),
    ];
    let record = (-10i64..2_000, header, prop::option::of(any::<u8>()), 0usize..300);
    (0u8..5, any::<bool>(), prop::collection::vec(record, 1..12), prop::collection::vec(1i32..4, 12))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What a naive reader of all records would keep is what comes through, whatever the codec, and the
    /// batches that carry it are sound and take a reader as far.
    #[test]
    fn what_comes_through_is_what_lives(
        batches in prop::collection::vec(drawn(), 1..6), setting in 0i64..1_500,
    ) {
        let (mut pieces, mut base) = (Vec::new(), 1_000);
        for (codec, log_append, records, steps) in &batches {
            let kind = if *log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
            let codec = Codec::from_id(*codec).expect("known");
            let builder = BatchBuilder::new(codec).base_offset(base).attributes(kind, false, false);
            let mut builder = builder.leader_epoch(2);
            let mut delta = -1;
            for ((age, header, key, length), step) in records.iter().zip(steps) {
                delta += step;
                let headers: Vec<Header<'_>> =
                    header.iter().map(|value| (TTL_HEADER, Some(value.as_slice()))).collect();
                let (key, value) = (key.map(|key| [key]), vec![1; *length]);
                let key = key.as_ref().map(|key| &key[..]);
                builder.push_at(delta, NOW - age, key, Some(&value), &headers);
            }
            base += i64::from(delta) + 1;
            pieces.push(builder.build());
        }
        let living = |record: &OwnedRecord| {
            let header = record.headers.last().and_then(|(_, value)| value.as_deref());
            let digits = header.filter(|h| !h.is_empty() && h.iter().all(u8::is_ascii_digit));
            let ttl = match (header, digits) {
                (Some(b"-1"), _) => None,
                (_, Some(digits)) => std::str::from_utf8(digits).expect("digits").parse::<i64>().ok(),
                _ => Some(setting).filter(|ms| *ms > 0),
            };
            ttl.is_none_or(|ttl| record.timestamp + ttl > NOW)
        };
        let all: Vec<OwnedRecord> = pieces.iter().flat_map(|piece| read_all(piece)).collect();
        let expected: Vec<OwnedRecord> = all.iter().filter(|r| living(r)).cloned().collect();
        // In one piece or in many, it is the same.
        let whole = sift_all(setting, ROOM, &[joined(&pieces)]);
        let sifted = sift_all(setting, ROOM, &pieces);
        prop_assert_eq!(whole.bytes.concat(), sifted.bytes.concat());
        prop_assert_eq!(sifted.hidden_records as usize, all.len() - expected.len());
        prop_assert_eq!((sifted.next_offset, sifted.is_cut), (Some(base), false));
        let bytes = sifted.bytes.concat();
        let mut found = Vec::new();
        let mut last = 0;
        for batch in Batches::new(&bytes) {
            let (header, batch) = batch.expect("whole");
            batch::check_crc(batch).expect("CRC");
            prop_assert!(header.base_offset >= last);
            last = header.next_offset();
            let records = read_all(batch);
            if let (Some(newest), TimestampType::CreateTime) =
                (records.iter().map(|r| r.timestamp).max(), header.timestamp_type())
            {
                prop_assert_eq!(header.max_timestamp, newest);
            }
            found.extend(records);
        }
        prop_assert_eq!(last, base, "a reader gets to the end");
        prop_assert_eq!(found, expected);
    }
}
