use proptest::prelude::*;

use super::*;

/// (records, bytes, max timestamp) of each batch.
type Batches = Vec<(i64, u64, i64)>;

struct Naive {
    base: i64,
    position: u64,
    max_before: i64,
}

fn lay_out(start: i64, batches: &Batches, interval: u32) -> (SparseIndex, Vec<Naive>, IndexedSegment) {
    let mut index = SparseIndex::new(start, interval);
    let mut naive = Vec::new();
    let (mut base, mut position, mut max_before) = (start, 0, i64::MIN);
    for &(records, bytes, max) in batches {
        index.note(base, position, max_before);
        naive.push(Naive { base, position, max_before });
        base += records;
        position += bytes;
        max_before = max_before.max(max);
    }
    (index, naive, IndexedSegment { start, end: base, bytes: position, max_timestamp: max_before })
}

fn batches() -> impl Strategy<Value = Batches> {
    prop::collection::vec((1i64..50, 70u64..9_000, -1i64..1_000), 1..200)
}

proptest! {
    #[test]
    fn floors_match_a_walk(start in 0i64..1 << 40, batches in batches(), probe in 0usize..10_000) {
        let (index, naive, segment) = lay_out(start, &batches, 4_096);
        prop_assert!(index.rows().len() as u64 <= segment.bytes / 4_096);
        let at = &naive[probe % naive.len()];

        let row = index.floor_of_offset(at.base);
        prop_assert!(index.offset_of(&row) <= at.base);
        prop_assert!(at.position - u64::from(row.position) < 4_096 + 9_000, "the scan stays short");

        let row = index.floor_of_position(at.position);
        prop_assert!(naive.iter().any(|n| n.position == u64::from(row.position)), "rows are boundaries");
        prop_assert!(u64::from(row.position) <= at.position);

        let timestamp = (probe % 1_002) as i64 - 1;
        let row = index.floor_of_timestamp(timestamp);
        let first = batches.iter().position(|b| b.2 >= timestamp);
        if let Some(first) = first {
            prop_assert!(u64::from(row.position) <= naive[first].position, "never past the answer");
            prop_assert!(naive[first].max_before < timestamp);
        }
    }

    #[test]
    fn stored_form_comes_back(start in 0i64..1 << 40, batches in batches()) {
        let (index, _, segment) = lay_out(start, &batches, 1_024);
        let file = index.encode(&segment);
        prop_assert_eq!(SparseIndex::decode(&file).expect("just written"), (segment, index));
    }

    #[test]
    fn damage_is_an_error_never_a_panic(
        batches in batches(), at in 0usize..100_000, bit in 0u8..8, cut in any::<bool>(),
    ) {
        let (index, _, segment) = lay_out(7, &batches, 1_024);
        let mut file = index.encode(&segment);
        let at = at % file.len();
        if cut { file.truncate(at) } else { file[at] ^= 1 << bit }
        prop_assert!(SparseIndex::decode(&file).is_err());
    }

    #[test]
    fn noise_is_an_error_never_a_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(SparseIndex::decode(&noise).is_err());
        prop_assert!(SparseIndex::decode(&stored::frame(INDEX_MAGIC, INDEX_VERSION, &noise)).is_err());
    }
}

#[test]
fn truncation_forgets_later_rows() {
    let (mut index, _, _) = lay_out(0, &vec![(1, 5_000, 0); 10], 4_096);
    assert_eq!(index.rows().len(), 9);
    index.truncate(10_000);
    assert_eq!(index.rows().len(), 1);
    assert_eq!(index.floor_of_offset(9).position, 5_000);
    index.truncate(0);
    assert_eq!(index.floor_of_offset(9).position, 0);
}
