use std::time::Duration;

use super::*;
use crate::bucket::memory::{Op, Trouble};
use crate::core::manifest::{Edit, EditRequest};
use crate::lane::deadline_in;
use crate::test_support::{Tier, batches, record, records_of, tier};

/// Three objects; the second has several row groups.
async fn filled(value_bytes: usize) -> Tier {
    let t = tier();
    for (start, end) in [(0, 40), (40, 6_000), (6_000, 6_100)] {
        t.offloader.offload(t.segment(start, end, value_bytes)).await.expect("offloaded");
    }
    t
}

#[tokio::test]
async fn every_budget_replays_the_same_records() {
    let t = filled(8_000).await;
    assert!(t.bucket.calls(Op::Head) == 3);
    let whole = t.replay(0, 64 << 20, 8_000).await;
    assert!(whole <= 4, "{whole} reads for 48 MB");
    t.replay(0, 1 << 20, 8_000).await;
    t.replay(17, 100_000, 8_000).await;
    let tail = t.replay(6_050, 1, 8_000).await;
    assert_eq!(tail, 50, "one record at a time when not even one fits");
}

#[tokio::test]
async fn a_replay_costs_one_get_per_footer_and_row_group() {
    let t = filled(8_000).await;
    let before = t.bucket.calls(Op::Get);
    t.replay(0, 1 << 20, 8_000).await;
    let gets = t.bucket.calls(Op::Get) - before;
    let groups = 1 + 3 + 1;
    assert_eq!(gets, 3 + groups, "three footers and {groups} row groups");
    let c = t.reader.counters().snapshot();
    assert_eq!((c.group_loads, c.index_loads), (groups as u64, 3), "{c:?}");
    assert!(c.prefetched >= 3, "row groups and objects were fetched ahead: {c:?}");
    assert_eq!(c.failed, 0);
    t.replay(0, 1 << 20, 8_000).await;
    assert_eq!(t.bucket.calls(Op::Get) - before, gets, "the second replay is from the cache");
    assert_eq!(t.bucket.calls(Op::List), 0);
}

#[tokio::test]
async fn readers_of_one_place_share_one_fetch() {
    let t = filled(8_000).await;
    let before = t.bucket.calls(Op::Get);
    t.bucket.trouble(Op::Get, Trouble::Slow(Duration::from_millis(50)), 2);
    let reads = (0..16).map(|_| t.read(3_000, 1 << 20));
    for got in futures::future::join_all(reads).await {
        let got = got.expect("readable");
        assert_eq!(records_of(&got.bytes, 3_000)[0], record(3_000, 8_000));
    }
    assert_eq!(t.bucket.calls(Op::Get) - before, 2, "one footer, one row group");
    let c = t.reader.counters().snapshot();
    assert_eq!(c.group_loads, 1, "{c:?}");
}

#[tokio::test]
async fn offsets_outside_the_tier_are_told() {
    let t = filled(100).await;
    let error = t.read(6_100, 1 << 20).await.expect_err("past the end");
    assert_eq!(error, TierError::OutOfRange { offset: 6_100, log_start: 0, tiered_end: 6_100 });
    t.offloader.raise_log_start(t.tp, "flights", 0, 50).await.expect("raised");
    assert!(matches!(t.read(49, 1 << 20).await, Err(TierError::OutOfRange { .. })));
    assert_eq!(records_of(&t.read(50, 1 << 20).await.expect("readable").bytes, 50)[0], record(50, 100));
}

#[tokio::test]
async fn a_slow_bucket_is_given_up_at_the_deadline() {
    let t = filled(100).await;
    t.bucket.trouble(Op::Get, Trouble::Slow(Duration::from_secs(3_600)), 1);
    let mut read = t.read_at(t.manifest(), 100, 1 << 20);
    read.deadline = deadline_in(100);
    assert_eq!(t.reader.read(read).await, Err(TierError::Late));
    t.read(100, 1 << 20).await.expect("the next one is not held up");
    assert_eq!(t.reader.counters().snapshot().expired, 1);
}

#[tokio::test]
async fn a_short_body_under_success_and_a_503_are_retried() {
    let t = filled(100).await;
    t.bucket.trouble(Op::Get, Trouble::Truncated, 1);
    t.bucket.trouble(Op::Get, Trouble::SlowDown, 2);
    t.replay(0, 1 << 20, 100).await;
}

#[tokio::test]
async fn damage_ends_that_read_with_its_place_and_no_other() {
    let t = filled(8_000).await;
    let entry = t.manifest().entries[1].clone();
    let key = t.names.object(&t.topic, 0, &entry);
    t.bucket.corrupt(&key, |bytes| {
        let at = bytes.len() / 2;
        bytes[at..at + 64].fill(0xa5);
    });
    let (mut at, mut error) = (40, None);
    while error.is_none() {
        match t.read(at, 1 << 20).await {
            Ok(got) => at = got.next_offset,
            Err(e) => error = Some(e),
        }
    }
    let error = error.expect("found");
    assert!(
        matches!(&error, TierError::Damaged { key: k, offset, .. } if *k == key && *offset == at),
        "{error}"
    );
    assert!(at > 1_000 && !error.is_retriable());
    t.read(0, 1 << 20).await.expect("another object");
    t.read(5_900, 1 << 20).await.expect("another stripe of the same object");
    assert!(t.reader.counters().snapshot().corrupt > 0);
}

#[tokio::test]
async fn a_replaced_object_is_reopened_by_a_fresh_manifest() {
    let t = filled(100).await;
    let stale = t.manifest();
    t.reader.read(t.read_at(stale.clone(), 100, 10_000)).await.expect("opened");
    // Rewritten under another upload id, as compaction does; the old object is gone.
    let old = stale.entries[1].clone();
    let key = t.names.object(&t.topic, 0, &old);
    let rewritten = tier();
    rewritten.port.set(rewritten.tp, crate::core::manifest::Manifest::new(0));
    rewritten.offload(0, 40).await.expect("the same start");
    rewritten.offloader.offload(rewritten.segment(40, 6_000, 100)).await.expect("rewritten");
    let new = rewritten.manifest().entries[1].clone();
    let body = {
        let new_key = rewritten.names.object(&t.topic, 0, &new);
        let range = 0..new.bytes;
        rewritten.store.get_range(crate::core::lanes::Lane::Read, &new_key, range, deadline_in(1_000)).await
    };
    let new_key = t.names.object(&t.topic, 0, &new);
    let body = [body.expect("its bytes")];
    t.store
        .put_new(crate::core::lanes::Lane::Upload, &new_key, &body, deadline_in(1_000))
        .await
        .expect("copied");
    let edit = Edit::Replace { removed: vec![old.upload_id], object: new };
    let request = EditRequest { expected_version: stale.version, leader_epoch: 0, edit };
    t.port.apply(t.tp, &request).expect("replaced");
    assert!(t.bucket.lose(&key));
    let mut at = 3_000;
    while at < 6_100 {
        let got = t.reader.read(t.read_at(stale.clone(), at, 50_000)).await.expect("reopened");
        assert_eq!(records_of(&got.bytes, at)[0], record(at, 100));
        at = got.next_offset;
    }
    assert_eq!(t.reader.counters().snapshot().failed, 0);
}

#[tokio::test]
async fn an_object_that_is_listed_but_gone_is_named() {
    let t = filled(100).await;
    let key = t.names.object(&t.topic, 0, &t.manifest().entries[2]);
    t.bucket.lose(&key);
    assert_eq!(t.read(6_010, 1 << 20).await, Err(TierError::Gone { key }));
}

#[tokio::test]
async fn times_are_found_exactly() {
    let t = filled(200).await;
    t.offloader.raise_log_start(t.tp, "flights", 0, 45).await.expect("raised");
    let m = t.manifest();
    let find = |timestamp| t.reader.offset_for_timestamp(t.tp, "flights", &m, timestamp, deadline_in(5_000));
    let at = |offset: i64| 1_700_000_000_000 + offset * 1_000;
    for offset in [45, 46, 100, 3_333, 5_999, 6_000, 6_099] {
        let hit = find(at(offset)).await.expect("looked up").expect("there");
        assert_eq!((hit.offset, hit.timestamp, hit.leader_epoch), (offset, at(offset), 0));
        let hit = find(at(offset) - 999).await.expect("looked up").expect("there");
        assert_eq!(hit.offset, offset);
    }
    assert_eq!(find(0).await.expect("looked up").map(|h| h.offset), Some(45), "not below log_start");
    assert_eq!(find(at(6_100)).await, Ok(None));
}

#[tokio::test]
async fn a_lookup_by_time_fetches_offsets_and_timestamps_alone() {
    let t = filled(8_000).await;
    let m = t.manifest();
    let find = |timestamp| t.reader.offset_for_timestamp(t.tp, "flights", &m, timestamp, deadline_in(5_000));
    let at = |offset: i64| 1_700_000_000_000 + offset * 1_000;
    let received = || -> u64 { t.store.snapshot().iter().map(|lane| lane.bytes_received).sum() };
    let entry = &m.entries[1];
    assert_eq!(find(at(41)).await.expect("looked up").map(|h| h.offset), Some(41));
    let (before, calls) = (received(), t.bucket.calls(Op::Get));
    for offset in [42, 1_000, 1_500] {
        assert_eq!(find(at(offset)).await.expect("looked up").map(|h| h.offset), Some(offset));
    }
    assert_eq!((received(), t.bucket.calls(Op::Get)), (before, calls), "one row group, looked at before");
    assert_eq!(find(at(5_990)).await.expect("looked up").map(|h| h.offset), Some(5_990));
    assert_eq!(t.bucket.calls(Op::Get) - calls, 1, "the last row group of the same object");
    let group = entry.bytes / 3;
    assert!(received() - before < group / 10, "{} bytes of {group}", received() - before);
    // Damage is met, fetched again, and then told.
    let key = t.names.object(&t.topic, 0, entry);
    t.bucket.corrupt(&key, |bytes| {
        let third = bytes.len() / 3;
        bytes[third..2 * third].fill(0xa5);
    });
    let error = find(at(3_000)).await.expect_err("damaged");
    assert!(matches!(&error, TierError::Damaged { key: k, .. } if *k == key), "{error}");
    assert_eq!(t.reader.counters().snapshot().corrupt, 2);
    // A row group that is here as a whole serves lookups too.
    t.read(6_000, 1 << 20).await.expect("readable");
    let calls = t.bucket.calls(Op::Get);
    assert_eq!(find(at(6_050)).await.expect("looked up").map(|h| h.offset), Some(6_050));
    assert_eq!(t.bucket.calls(Op::Get), calls);
}

/// Several readers of a long log, a cache far too small for it: all get everything.
#[tokio::test]
async fn readers_do_not_starve_each_other() {
    let t = filled(8_000).await;
    let settings = ReadSettings {
        cache_bytes: 1 << 20,
        demand_bytes: 1 << 20,
        ahead_bytes: 1 << 20,
        rebuild_threads: 1,
    };
    let reader = TierReader::new(ReadParts {
        store: t.store.clone(),
        names: t.names.clone(),
        port: t.port.clone(),
        pages: t.pages.clone(),
        counters: Arc::default(),
        settings,
    });
    let replay = |mut at: i64| {
        let (reader, t) = (reader.clone(), &t);
        async move {
            while at < 6_100 {
                let got = reader.read(t.read_at(t.manifest(), at, 1 << 20)).await.expect("readable");
                assert_eq!(records_of(&got.bytes, at)[0], record(at, 8_000));
                at = got.next_offset;
            }
        }
    };
    futures::future::join_all([0, 10, 2_000, 2_001, 4_000, 5_000].map(replay)).await;
    assert!(reader.cache().group_bytes <= 1 << 20);
    let (left, all) = reader.shared.loader.demand_units();
    assert_eq!(left, all, "who has read on has given back what it waited with");
}

/// What parked streams hold is within the budget, however many there are, and all get on all the same.
#[tokio::test]
async fn many_streams_hold_no_more_than_the_budget() {
    let t = filled(8_000).await;
    let ahead_bytes = 2 << 20;
    let settings = ReadSettings { ahead_bytes, cache_bytes: 64 << 20, ..ReadSettings::default() };
    let reader = TierReader::new(ReadParts {
        store: t.store.clone(),
        names: t.names.clone(),
        port: t.port.clone(),
        pages: t.pages.clone(),
        counters: Arc::default(),
        settings,
    });
    let groups = reader.read(t.read_at(t.manifest(), 40, 1)).await.map(|_| reader.cache());
    let group = groups.expect("readable").group_bytes as usize;
    let mut held = 0;
    let mut at: Vec<Offset> = (0..200).map(|n| 41 + n * 25).collect();
    for _ in 0..4 {
        for at in &mut at {
            let got = reader.read(t.read_at(t.manifest(), *at, 40_000)).await.expect("readable");
            assert_eq!(records_of(&got.bytes, *at)[0], record(*at, 8_000));
            *at = got.next_offset;
            let (streams, bytes) = reader.shared.streams.held_bytes();
            held = held.max(bytes);
            assert!(bytes <= ahead_bytes.max(group), "{streams} streams hold {bytes} bytes");
        }
    }
    assert!(reader.shared.streams.held_bytes().0 > 100 && held > 0, "{held} bytes of {group} a group");
}

/// Cached bytes that have rotted: the first reader fetches them anew, for itself and for everyone.
#[tokio::test]
async fn damaged_bytes_in_the_cache_are_put_right_once() {
    let t = filled(8_000).await;
    let entry = t.manifest().entries[1].clone();
    let key = t.names.object(&t.topic, 0, &entry);
    let mut good = Vec::new();
    t.bucket.corrupt(&key, |bytes| {
        good = bytes.clone();
        let at = bytes.len() / 8;
        bytes[..at].fill(0xa5);
    });
    // Fetched while the bucket gave rotten bytes; by now it gives good ones.
    let scope = Scope { tp: t.tp, topic: Arc::new(t.topic.clone()), deadline: deadline_in(5_000) };
    let loader = &t.reader.shared.loader;
    let place = loader.open(&scope, &t.manifest(), 40).await.expect("opened");
    loader.group(&scope, &place, 0).await.expect("fetched");
    t.bucket.corrupt(&key, |bytes| *bytes = good);
    let before = t.bucket.calls(Op::Get);
    let mut at = 40;
    for _ in 0..6 {
        let got = t.read(at, 100_000).await.expect("readable");
        assert_eq!(records_of(&got.bytes, at)[0], record(at, 8_000));
        at = got.next_offset;
    }
    t.read(60, 100_000).await.expect("readable");
    let c = t.reader.counters().snapshot();
    assert_eq!(c.corrupt, 1, "met once: {c:?}");
    let ahead = c.group_loads as usize - 2;
    assert_eq!(t.bucket.calls(Op::Get) - before, 1 + ahead, "fetched again once: {c:?}");
}

#[test]
fn test_batches_have_what_is_expected() {
    assert_eq!(records_of(&[batches(5, 25, 9)], 7), (7..25).map(|o| record(o, 9)).collect::<Vec<_>>());
}
