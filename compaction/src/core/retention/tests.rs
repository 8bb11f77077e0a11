//! Retention by hand-made cases, then against invariant 10 for any shape.

use highwater_tiering::core::manifest::{ObjectEntry, Totals};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const NOW: i64 = 1_000_000;

fn limits() -> Limits {
    Limits {
        retention_ms: None,
        retention_bytes: None,
        local_ms: None,
        local_bytes: None,
        deletes: true,
        tiers: true,
    }
}

fn segment(start: i64, end: i64, bytes: u64, max_timestamp: i64) -> SealedSegment {
    SealedSegment { start, end, bytes, max_timestamp, sealed_at_ms: NOW - 10 }
}

/// Segments of ten offsets and 100 bytes each; `ages` oldest first. The tier has the first `tiered` of them.
fn local(ages: &[i64], tiered: usize) -> LocalShape {
    let segments: Vec<_> =
        ages.iter().zip(0..).map(|(age, i)| segment(i * 10, i * 10 + 10, 100, NOW - age)).collect();
    let end = ages.len() as i64 * 10;
    LocalShape {
        segments,
        active_bytes: 50,
        active_max_timestamp: Some(NOW),
        bounds: OffsetBounds {
            log_start: 0,
            local_start: 0,
            tiered_end: tiered as i64 * 10,
            last_stable: end + 5,
            high_watermark: end + 5,
            log_end: end + 5,
        },
    }
}

fn object(start: i64, end: i64, bytes: u64, max_timestamp: i64) -> Node {
    Node::Object(ObjectEntry {
        start,
        end,
        epoch: 0,
        upload_id: Uuid::nil(),
        bytes,
        footer_bytes: 1,
        raw_bytes: bytes,
        records: 1,
        min_timestamp: max_timestamp,
        max_timestamp,
        crc32c: 0,
    })
}

fn to(log_start: i64) -> LogStartPlan {
    LogStartPlan::To { log_start, rolls: false }
}

#[test]
fn by_time_the_oldest_go_and_the_walk_stops_at_the_first_that_stays() {
    let limits = Limits { retention_ms: Some(500), ..limits() };
    assert_eq!(plan_log_start(NOW, limits, &[], &local(&[900, 501, 500, 900], 0)), to(20));
    let kept = Limits { deletes: false, ..limits };
    assert_eq!(plan_log_start(NOW, kept, &[], &local(&[900, 900], 0)), to(0));
}

#[test]
fn an_expired_active_segment_asks_to_be_rolled() {
    let limits = Limits { retention_ms: Some(500), ..limits() };
    let mut shape = local(&[900, 900], 0);
    shape.active_max_timestamp = Some(NOW - 600);
    assert_eq!(plan_log_start(NOW, limits, &[], &shape), LogStartPlan::To { log_start: 20, rolls: true });
}

#[test]
fn by_size_what_is_left_still_has_the_limit() {
    let limits = |bytes| Limits { retention_bytes: Some(bytes), ..limits() };
    // 4 x 100 + 50 active.
    for (bytes, log_start) in [(450, 0), (351, 0), (350, 10), (151, 20), (50, 40), (0, 40)] {
        let plan = plan_log_start(NOW, limits(bytes), &[], &local(&[1, 1, 1, 1], 0));
        assert_eq!(plan, to(log_start), "{bytes}");
    }
}

#[test]
fn the_tier_goes_before_what_is_only_local() {
    let limits = Limits { retention_ms: Some(500), ..limits() };
    let listed = [object(0, 10, 30, NOW - 900), object(10, 20, 30, NOW - 600)];
    assert_eq!(plan_log_start(NOW, limits, &listed, &local(&[900, 600, 700, 10], 2)), to(30));
    let young = [object(0, 10, 30, NOW - 900), object(10, 20, 30, NOW - 500)];
    assert_eq!(plan_log_start(NOW, limits, &young, &local(&[900, 600, 700, 10], 2)), to(10));
}

#[test]
fn what_has_no_timestamps_goes_with_what_follows_it() {
    let limits = Limits { retention_ms: Some(500), ..limits() };
    let shape = |age| local(&[900, 900, 900, age, 10], 3);
    let none = |start| object(start, start + 10, 30, -1);
    // Followed by an expired node, by a young one, by a segment that only the local log has.
    let listed = [none(0), none(10), object(20, 30, 30, NOW - 600)];
    assert_eq!(plan_log_start(NOW, limits, &listed, &shape(100)), to(30));
    let listed = [none(0), none(10), object(20, 30, 30, NOW - 400)];
    assert_eq!(plan_log_start(NOW, limits, &listed, &shape(100)), to(0));
    let listed = [object(0, 10, 30, NOW - 600), none(10), none(20)];
    assert_eq!(plan_log_start(NOW, limits, &listed, &shape(100)), to(10));
    assert_eq!(plan_log_start(NOW, limits, &listed, &shape(600)), to(40));
    // By size they go as ever.
    let by_size = Limits { retention_bytes: Some(250), retention_ms: None, ..limits };
    assert_eq!(plan_log_start(NOW, by_size, &[none(0), none(10), none(20)], &shape(100)), to(30));
}

#[test]
fn a_page_that_the_limit_cuts_is_looked_into() {
    let page = PageRef {
        level: 0,
        start: 0,
        end: 20,
        epoch: 0,
        upload_id: Uuid::nil(),
        page_bytes: 1,
        crc32c: 0,
        min_timestamp: NOW - 900,
        max_timestamp: NOW - 100,
        totals: Totals { objects: 2, bytes: 60, raw_bytes: 60, records: 2 },
    };
    let limits = Limits { retention_ms: Some(500), ..limits() };
    let shape = local(&[900, 100], 2);
    let plan = plan_log_start(NOW, limits, &[Node::Page(page.clone())], &shape);
    assert_eq!(plan, LogStartPlan::LookInto { page: page.clone() });
    let opened = [object(0, 10, 30, NOW - 900), object(10, 20, 30, NOW - 100)];
    assert_eq!(plan_log_start(NOW, limits, &opened, &shape), to(10));
    let young = PageRef { min_timestamp: NOW - 400, ..page };
    assert_eq!(plan_log_start(NOW, limits, &[Node::Page(young)], &shape), to(0));
}

#[test]
fn eviction_keeps_what_the_tier_lacks() {
    let by_age = Limits { local_ms: Some(500), ..limits() };
    assert_eq!(plan_eviction(NOW, by_age, &local(&[900, 900, 900], 2), false), 20);
    assert_eq!(plan_eviction(NOW, by_age, &local(&[900, 100, 900], 3), false), 10);
    let by_bytes = Limits { local_bytes: Some(150), ..limits() };
    assert_eq!(plan_eviction(NOW, by_bytes, &local(&[1, 1, 1], 3), false), 20);
    assert_eq!(plan_eviction(NOW, limits(), &local(&[1, 1, 1], 2), true), 20);
    let untiered = Limits { tiers: false, ..by_age };
    assert_eq!(plan_eviction(NOW, untiered, &local(&[900, 900], 2), true), 0);
    let mut raised = local(&[1, 1, 1], 0);
    raised.bounds.log_start = 25;
    raised.bounds.local_start = 25;
    assert_eq!(plan_eviction(NOW, limits(), &raised, false), 20);
}

proptest! {
    #[test]
    fn plans_stay_within_their_bounds(
        ages in prop::collection::vec(0..2_000i64, 0..8), tiered in 0..8usize,
        ms in prop::option::of(0..2_000i64), bytes in prop::option::of(0..1_000u64), everything: bool,
    ) {
        let shape = local(&ages, tiered.min(ages.len()));
        let limits = Limits {
            retention_ms: ms, retention_bytes: bytes, local_ms: ms, local_bytes: bytes,
            deletes: true, tiers: true,
        };
        let evict = plan_eviction(NOW, limits, &shape, everything);
        prop_assert!(evict <= shape.bounds.tiered_end);
        prop_assert!(!everything || evict == shape.bounds.tiered_end);
        let listed: Vec<Node> = shape.segments.iter().filter(|s| s.end <= shape.bounds.tiered_end)
            .map(|s| object(s.start, s.end, 30, s.max_timestamp)).collect();
        let LogStartPlan::To { log_start, .. } = plan_log_start(NOW, limits, &listed, &shape) else {
            return Err(TestCaseError::fail("no pages"));
        };
        prop_assert!(log_start <= shape.bounds.high_watermark && log_start % 10 == 0);
        if let Some(ms) = ms {
            let oldest_kept = shape.segments.iter().find(|s| s.start >= log_start);
            if bytes.is_none() {
                prop_assert!(oldest_kept.is_none_or(|s| s.max_timestamp >= NOW - ms));
            }
        }
    }
}
