//! Any records, any batches, any codec: what goes in comes out, wherever the reader starts and whatever it
//! may hold.

use highwater_wire::Codec;
use proptest::prelude::*;

use super::parquet::read_arrow;
use super::support::*;
use crate::object::{Compression, ValueFormat};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..24),
        2 => prop::collection::vec(prop::sample::select(b"abc".to_vec()), 0..200),
        1 => (0..max).prop_map(|n| vec![b'z'; n]),
    ]
}

fn timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => 1_700_000_000_000i64..1_700_000_100_000,
        1 => Just(-1i64),
        1 => Just(0i64),
        1 => Just(i64::MAX),
        1 => i64::MAX / 1000 - 2..i64::MAX / 1000 + 3,
        1 => any::<i64>(),
    ]
}

type Parts = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

fn parts() -> impl Strategy<Value = Parts> {
    let headers = prop::collection::vec((bytes(300), prop::option::of(bytes(300))), 0..4);
    let no_headers = Just(Vec::new());
    (
        1i64..4,
        timestamp(),
        prop::option::of(bytes(300)),
        prop::option::weighted(0.9, bytes(200_000)),
        prop_oneof![2 => no_headers, 1 => headers],
    )
}

fn batch() -> impl Strategy<Value = (Vec<Parts>, usize, bool, bool)> {
    (prop::collection::vec(parts(), 1..12), 0usize..5, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
}

fn assemble(raw: Vec<(Vec<Parts>, usize, bool, bool)>) -> (Vec<BatchOf>, i64) {
    let (mut offset, mut epoch) = (10i64, 0);
    let mut batches = Vec::new();
    for (parts, codec, log_append, bump) in raw {
        epoch += i32::from(bump);
        let mut records = Vec::new();
        for (step, timestamp, key, value, headers) in parts {
            offset += step;
            records.push(Record { offset, timestamp, key, value, headers });
        }
        batches.push(BatchOf { codec: Codec::ALL[codec], epoch, log_append, ..BatchOf::new(records) });
    }
    (batches, offset + 1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out(
        raw in prop::collection::vec(batch(), 1..12),
        compression in prop::sample::select(vec![Compression::Zstd, Compression::Lz4, Compression::None]),
        skip in 0i64..40,
        extra in 0i64..40,
        max_bytes in prop_oneof![Just(1usize), 100usize..5_000, 50_000usize..2_000_000, Just(usize::MAX)],
    ) {
        let (batches, end) = assemble(raw);
        let (start, end) = (skip.min(end - 1), end + extra);
        let mut input = input(start, end, &batches);
        input.compression = compression;
        input.gaps_allowed = true;
        let sealed = seal(&input);
        let (index, bytes) = load(&sealed);
        let want = expected(&batches, start, end);
        prop_assert_eq!(sealed.summary.records as usize, want.len());
        prop_assert!(replay(&index, &bytes, start, max_bytes) == want);
        let from = start + (end - start) / 2;
        let after: Vec<Seen> = want.iter().filter(|s| s.record.offset >= from).cloned().collect();
        prop_assert!(replay(&index, &bytes, from, max_bytes) == after);
        let read = read_arrow(&bytes, ValueFormat::Bytes);
        prop_assert!(read.iter().eq(want.iter().map(|s| &s.record)));
    }
}
