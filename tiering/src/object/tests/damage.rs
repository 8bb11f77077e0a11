//! Rot on both sides: a segment that must not be sealed, an object that must not be believed.

use bytes::Bytes;

use super::support::*;
use crate::object::{Compression, ObjectError, ObjectIndex, Rebuilder, SealError, Sealer};

fn batches() -> Vec<BatchOf> {
    let record = |n: i64| {
        let mut r =
            record(n, if n % 5 == 0 { -1 } else { 1000 + n * n }, Some(&[b'k'; 3]), Some(&[b'v'; 20]));
        r.headers = (0..n % 3).map(|h| (vec![b'h'; h as usize], Some(vec![b'x'; 2]))).collect();
        r
    };
    (0..4).map(|b| BatchOf::new((b * 8..b * 8 + 8).map(record).collect())).collect()
}

#[test]
fn every_flipped_byte_of_a_segment_stops_the_seal_at_its_batch() {
    let batches = batches();
    let good = input(0, 32, &batches);
    let lengths: Vec<usize> = batches.iter().map(|b| b.build().len()).collect();
    let mut sealer = Sealer::new();
    for at in 0..good.segment.len() {
        let mut bytes = good.segment.to_vec();
        bytes[at] ^= 0x40;
        let mut rotten = good.clone();
        rotten.segment = Bytes::from(bytes);
        let mut batch_start = 0;
        let number = lengths.iter().position(|length| {
            let inside = at < batch_start + length;
            batch_start += if inside { 0 } else { *length };
            inside
        });
        match sealer.seal(&rotten) {
            Err(SealError::Rotten { offset, position, .. }) => {
                assert_eq!(
                    (position, offset),
                    (batch_start as u64, number.expect("inside") as i64 * 8),
                    "byte {at}"
                );
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    assert!(sealer.seal(&good).is_ok(), "the sealer is as good as new");
}

#[test]
fn segments_that_do_not_cover_the_range_are_refused() {
    let batches = batches();
    let rotten = |input| match Sealer::new().seal(&input) {
        Err(SealError::Rotten { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(rotten(input(0, 33, &batches)), 32, "ends early");
    let missing = [batches[0].clone(), batches[2].clone(), batches[3].clone()];
    assert_eq!(rotten(input(0, 32, &missing)), 8, "a batch is missing");
    assert_eq!(rotten(input(4, 32, &batches[1..])), 4, "starts late");
    let twice = [batches[0].clone(), batches[0].clone()];
    assert_eq!(rotten(input(0, 16, &twice)), 8, "a batch twice");
    let mut cut = input(0, 32, &batches);
    cut.segment = cut.segment.slice(..cut.segment.len() - 1);
    assert_eq!(rotten(cut), 24, "cut short");
    let mut epochs = input(0, 32, &batches);
    epochs.epochs[0].epoch = 1;
    assert_eq!(rotten(epochs), 0, "another epoch");
    let mut none = input(0, 32, &batches);
    none.epochs.clear();
    assert!(matches!(Sealer::new().seal(&none), Err(SealError::Input(_))));
    assert!(matches!(Sealer::new().seal(&input(5, 5, &batches)), Err(SealError::Input(_))));
}

#[test]
fn every_flipped_bit_of_a_row_group_is_noticed() {
    for compression in [Compression::Zstd, Compression::Lz4, Compression::None] {
        let mut input = input(0, 32, &batches());
        input.compression = compression;
        let (index, bytes) = load(&seal(&input));
        let good = row_group(&index, &bytes, 0).to_vec();
        let mut rebuilder = Rebuilder::new();
        let mut expected = b"before".to_vec();
        rebuilder.rebuild(&index, 0, &good, 0, usize::MAX, &mut expected).expect("rebuilds");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut out = b"before".to_vec();
            let result = rebuilder.rebuild(&index, 0, &bad, 0, usize::MAX, &mut out);
            match result {
                Err(ObjectError::Page { .. } | ObjectError::Malformed(_)) => {
                    assert_eq!(out, b"before", "nothing is left of a failed rebuild");
                }
                // The size in the header of a page that need not be decompressed.
                Ok(_) => assert_eq!(out, expected, "bit {bit}"),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        let short = rebuilder.rebuild(&index, 0, &good[1..], 0, 10, &mut Vec::new());
        assert!(matches!(short, Err(ObjectError::Length { .. })));
        let absent = rebuilder.rebuild(&index, 1, &good, 0, 10, &mut Vec::new());
        assert!(matches!(absent, Err(ObjectError::Length { .. })));
    }
}

#[test]
fn many_exceptions_lie_behind_the_row_group_and_are_checked() {
    let odd = |n: i64| i64::MAX - n * n * 7919 % 100_003;
    let batches = [BatchOf::new((0..500).map(|n| record(n, odd(n), None, Some(b"v"))).collect())];
    let (index, bytes) = load(&seal(&input(0, 500, &batches)));
    let want = expected(&batches, 0, 500);
    assert_eq!(replay(&index, &bytes, 0, usize::MAX), want);
    let group = &index.row_groups[0];
    let tail = group.exceptions_range(0);
    assert!(tail.len() > 64 && tail.end as u64 == group.length);
    let mut bad = row_group(&index, &bytes, 0).to_vec();
    bad[tail.start + 9] ^= 1;
    let result = Rebuilder::new().rebuild(&index, 0, &bad, 0, 10, &mut Vec::new());
    assert!(matches!(result, Err(ObjectError::Page { .. })), "{result:?}");
}

#[test]
fn every_damaged_tail_is_refused_or_reads_the_same() {
    let (index, bytes) = load(&seal(&input(0, 32, &batches())));
    let size = bytes.len() as u64;
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = bytes.to_vec();
            bad[at] ^= flip;
            if let Ok(parsed) = ObjectIndex::parse(&bad, size) {
                assert!(parsed == index, "byte {at}");
            }
        }
    }
    let footer = u32::from_le_bytes(*bytes[bytes.len() - 8..].first_chunk().expect("4")) as usize;
    for length in 0..bytes.len() {
        let parsed = ObjectIndex::parse(&bytes[bytes.len() - length..], size);
        match parsed {
            Ok(parsed) => assert!(length >= footer + 8 && parsed == index),
            Err(ObjectError::TailTooShort { needed }) => {
                assert!(length < footer + 8 && needed > length as u64 && needed <= size);
                let longer = &bytes[bytes.len() - needed as usize..];
                assert!(ObjectIndex::parse(longer, size).is_ok() || length < 8);
            }
            Err(other) => panic!("{length}: {other}"),
        }
    }
    for length in 0..bytes.len() {
        assert!(ObjectIndex::parse(&bytes[..length], size).is_err(), "cut at {length}");
    }
}

#[test]
fn garbage_is_not_an_object() {
    for garbage in [&b""[..], b"PAR1", b"PAR1PAR1", &[0xff; 100], b"PAR1....\xff\xff\xff\xffPAR1"] {
        assert!(ObjectIndex::parse(garbage, garbage.len() as u64).is_err());
    }
    // A Parquet file of someone else: no key-values of ours.
    let footer = [0x15, 0x02, 0x19, 0x0c, 0x16, 0x00, 0x19, 0x0c, 0x00];
    let mut file = b"PAR1".to_vec();
    file.extend_from_slice(&footer);
    file.extend_from_slice(&(footer.len() as u32).to_le_bytes());
    file.extend_from_slice(b"PAR1");
    let parsed = ObjectIndex::parse(&file, file.len() as u64);
    assert!(matches!(parsed, Err(ObjectError::Footer(_))), "{parsed:?}");
}
