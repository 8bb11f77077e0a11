//! Ranges that do not end where records do: cut batches, gaps, control batches, aborted records, nothing at
//! all.

use highwater_wire::Batches;

use super::support::*;
use crate::object::{AbortedRange, ObjectError, ObjectIndex, Rebuilder, TimestampHit, cover_gap};

fn plain(range: std::ops::Range<i64>) -> BatchOf {
    BatchOf::new(range.map(|n| record(n, 1000 + n, Some(b"k"), Some(b"value"))).collect())
}

#[test]
fn a_segment_that_starts_below_and_ends_above() {
    let batches = [plain(0..10), plain(10..20), plain(20..30)];
    for (start, end) in [(0, 30), (5, 25), (10, 20), (9, 11), (29, 30), (0, 1)] {
        let (index, bytes) = load(&seal(&input(start, end, &batches)));
        let want = expected(&batches, start, end);
        assert_eq!(want.len() as i64, end - start);
        for from in start..end {
            assert_eq!(
                replay(&index, &bytes, from, 200),
                want[(from - start) as usize..],
                "{start}..{end} {from}"
            );
        }
    }
}

#[test]
fn control_batches_and_aborted_records_are_left_out_and_the_end_is_covered() {
    let transactional = |producer, range| BatchOf { producer: Some(producer), ..plain(range) };
    let marker = |producer, offset| BatchOf { control: true, ..transactional(producer, offset..offset + 1) };
    let batches = [
        transactional(1, 0..5),
        transactional(2, 5..8),
        marker(1, 8),
        plain(9..12),
        marker(2, 12),
        transactional(2, 13..15),
        marker(2, 15),
    ];
    let mut input = input(0, 16, &batches);
    input.aborted = vec![AbortedRange { producer_id: 2, start: 5, end: 13 }];
    let sealed = seal(&input);
    let (index, bytes) = load(&sealed);
    let offsets: Vec<i64> = replay(&index, &bytes, 0, usize::MAX).iter().map(|s| s.record.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 9, 10, 11, 13, 14]);
    let in_gap: Vec<i64> = replay(&index, &bytes, 6, usize::MAX).iter().map(|s| s.record.offset).collect();
    assert_eq!(in_gap, [9, 10, 11, 13, 14]);
    assert!(replay(&index, &bytes, 15, usize::MAX).is_empty(), "the trailing gap is one empty batch");
}

#[test]
fn what_has_expired_is_left_out_and_every_offset_covered() {
    let ttl_of = |n: i64| (b"highwater-ttl-ms".to_vec(), Some(n.to_string().into_bytes()));
    let batches = [plain(0..10), plain(10..20), plain(20..30)];
    let mut with_header = plain(30..34);
    with_header.records[1].headers = vec![ttl_of(1)];
    with_header.records[2].headers = vec![ttl_of(-1)];
    let batches = [batches.to_vec(), vec![with_header]].concat();
    let offsets_at = |setting, now_ms| {
        let mut input = input(0, 34, &batches);
        input.expiry = highwater_model::RecordTtl::from_setting(setting).map(|ttl| ttl.at(now_ms));
        let sealed = seal(&input);
        assert_eq!((sealed.summary.start, sealed.summary.end), (0, 34));
        let (index, bytes) = load(&sealed);
        let found: Vec<i64> = replay(&index, &bytes, 0, usize::MAX).iter().map(|s| s.record.offset).collect();
        assert_eq!(sealed.summary.records as usize, found.len());
        found
    };
    // A record's timestamp is 1,000 and its offset.
    assert_eq!(offsets_at(-1, i64::MAX), (0..34).collect::<Vec<_>>());
    assert_eq!(offsets_at(0, i64::MAX), (0..34).filter(|n| *n != 31).collect::<Vec<_>>());
    assert_eq!(offsets_at(100, 1_114), (15..34).filter(|n| *n != 31).collect::<Vec<_>>());
    assert_eq!(offsets_at(100, 1_133), [32], "one that lives on");
    let mut all_gone = input(0, 30, &batches[..3]);
    all_gone.expiry = highwater_model::RecordTtl::from_setting(1).map(|ttl| ttl.at(2_000));
    let sealed = seal(&all_gone);
    assert_eq!((sealed.summary.records, sealed.summary.end, sealed.summary.min_timestamp), (0, 30, -1));
    let (index, bytes) = load(&sealed);
    let mut out = Vec::new();
    assert_eq!(cover_gap(&index, 3, &mut out).next_offset, 30);
    assert!(replay(&index, &bytes, 3, usize::MAX).is_empty());
}

#[test]
fn an_object_without_records_still_takes_a_consumer_to_its_end() {
    let marker = BatchOf { control: true, producer: Some(9), ..plain(4..5) };
    let sealed = seal(&input(4, 5, &[marker]));
    assert_eq!((sealed.summary.records, sealed.summary.max_timestamp), (0, -1));
    let (index, bytes) = load(&sealed);
    assert_eq!(index.row_group_for_offset(4), None);
    assert!(replay(&index, &bytes, 4, 100).is_empty());
    let mut out = Vec::new();
    assert_eq!(cover_gap(&index, 5, &mut out).next_offset, 5);
    assert!(out.is_empty());
}

#[test]
fn gaps_wider_than_a_batch_can_say() {
    let far = 3 * i64::from(i32::MAX);
    let end = far + 7 * i64::from(i32::MAX);
    let batches = [plain(0..2), plain(far..far + 2)];
    let mut input = input(0, end, &batches);
    input.gaps_allowed = true;
    let (index, bytes) = load(&seal(&input));
    for from in [0, 1, 2, 1000, far, far + 1] {
        let offsets: Vec<i64> =
            replay(&index, &bytes, from, usize::MAX).iter().map(|s| s.record.offset).collect();
        let want: Vec<i64> = [0, 1, far, far + 1].into_iter().filter(|o| *o >= from).collect();
        assert_eq!(offsets, want, "from {from}");
    }
    assert!(replay(&index, &bytes, far + 2, 1).is_empty());
}

#[test]
fn successive_reads_of_a_mebibyte_decode_each_stripe_once() {
    let value = [b'v'; 1000];
    let batches: Vec<BatchOf> = (0..500)
        .map(|b| {
            BatchOf::new((b * 16..b * 16 + 16).map(|n| record(n, 1000 + n, None, Some(&value))).collect())
        })
        .collect();
    let (index, bytes) = load(&seal(&input(0, 8000, &batches)));
    let group = &index.row_groups[0];
    let mut rebuilder = Rebuilder::new();
    for stripe in &group.stripes {
        let mut out = Vec::new();
        let raw = row_group(&index, &bytes, 0);
        let rebuilt =
            rebuilder.rebuild(&index, 0, raw, stripe.first, 1024 * 1024, &mut out).expect("rebuilds");
        assert_eq!((rebuilt.next_offset, rebuilt.batches), (stripe.end, 1), "one stripe, one batch");
        assert_eq!(stripe.records_bytes as usize + 61, out.len(), "the table says how large");
        assert!(out.len() <= 1024 * 1024);
    }
}

/// With every so many-th record without a timestamp; if those are many, they stand behind the columns.
#[test]
fn lookups_by_time_are_exact() {
    for untimed in [7, 6_000] {
        lookups_are_exact(untimed);
    }
}

fn lookups_are_exact(untimed: i64) {
    let time = |n: i64| if n % untimed == 0 { -1 } else { 1_000_000 + (n / 10) * 10 - (n % 3) };
    let value = vec![b'v'; 4000];
    let batches: Vec<BatchOf> = (0..600)
        .map(|b| {
            BatchOf::new((b * 10..b * 10 + 10).map(|n| record(n, time(n), None, Some(&value))).collect())
        })
        .collect();
    let (index, bytes) = load(&seal(&input(0, 6000, &batches)));
    assert!(index.row_groups.len() > 1);
    let mut rebuilder = Rebuilder::new();
    let mut look = |timestamp: i64, index: &ObjectIndex| -> Option<TimestampHit> {
        let first = index.row_group_for_timestamp(timestamp)?;
        (first..index.row_groups.len()).find_map(|number| {
            let raw = row_group(index, &bytes, number);
            let found = rebuilder.find_timestamp(index, number, raw, timestamp, 0).expect("reads");
            let start = &raw[..index.row_groups[number].lookup_bytes() as usize];
            assert!(start.len() == raw.len() || untimed > 7, "all of it, where timestamps lie behind");
            assert!(start.len() < raw.len() || untimed == 7, "{} of {}", start.len(), raw.len());
            assert_eq!(rebuilder.find_timestamp(index, number, start, timestamp, 0), Ok(found));
            let less = rebuilder.find_timestamp(index, number, &start[1..], timestamp, 0);
            assert!(matches!(less, Err(ObjectError::Length { .. })), "{less:?}");
            found
        })
    };
    for timestamp in
        [-1, 0, 999_998, 1_000_000, 1_000_001, 1_002_345, 1_003_333, 1_005_990, 1_005_991, i64::MAX]
    {
        let want = (0..6000).find(|n| time(*n) >= timestamp);
        let want = want.map(|n| TimestampHit { offset: n, timestamp: time(n) });
        assert_eq!(look(timestamp, &index), want, "at {timestamp}");
    }
}

#[test]
fn a_record_larger_than_a_stripe_has_one_of_its_own() {
    let big = vec![b'b'; 5 * 1024 * 1024];
    let mut batches = vec![plain(0..10)];
    batches.push(BatchOf::new(vec![record(10, 5, Some(b"big"), Some(&big))]));
    batches.push(plain(11..20));
    let (index, bytes) = load(&seal(&input(0, 20, &batches)));
    assert_eq!(index.row_groups[0].stripes.iter().map(|s| s.rows).collect::<Vec<_>>(), [10, 1, 9]);
    let want = expected(&batches, 0, 20);
    assert!(replay(&index, &bytes, 0, 1024 * 1024) == want);
    let mut out = Vec::new();
    let raw = row_group(&index, &bytes, 0);
    Rebuilder::new().rebuild(&index, 0, raw, 0, 1024, &mut out).expect("rebuilds");
    assert_eq!(Batches::new(&out).count(), 1, "the big one does not fit behind the small ones");
}
