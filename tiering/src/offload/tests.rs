use super::*;
use crate::bucket::FaultKind;
use crate::bucket::memory::{Op, Trouble};
use crate::core::manifest::{Edit, EditRequest};
use crate::test_support::{PortTrouble, tier};

#[tokio::test]
async fn segments_become_objects_and_the_manifest_lists_them() {
    let t = tier();
    for (start, end) in [(0, 50), (50, 120), (120, 121)] {
        let manifest = t.offload(start, end).await.expect("offloaded");
        assert_eq!(manifest.tiered_end, end);
    }
    let again = t.offload(50, 120).await.expect("already there");
    assert_eq!((again.version, again.entries.len()), (3, 3));
    assert_eq!(t.stored_keys(), t.known_keys().await);
    assert_eq!(t.bucket.calls(Op::Put), 3, "one request per segment");
    assert_eq!(t.bucket.calls(Op::List), 0, "no listing on the write path");
    assert!(t.mirror.flush().await);
    assert!(t.bucket.keys().iter().any(|k| k.ends_with("_manifest/mirror.json")));
    t.replay(0, 1 << 20, 20).await;
}

#[tokio::test]
async fn a_segment_that_reaches_below_the_tiered_end_is_sealed_from_there() {
    let t = tier();
    t.offloader.raise_log_start(t.tp, "flights", 0, 33).await.expect("DeleteRecords");
    let manifest = t.offload(0, 50).await.expect("offloaded");
    assert_eq!((manifest.entries[0].start, manifest.entries[0].end, manifest.totals.records), (33, 50, 17));
    t.replay(33, 1 << 20, 20).await;
}

#[tokio::test]
async fn a_put_that_was_applied_but_timed_out_is_found_out() {
    let t = tier();
    t.bucket.trouble(Op::Put, Trouble::AppliedButLost, 1);
    t.offload(0, 50).await.expect("settled by looking");
    assert_eq!(t.stored_keys(), t.known_keys().await);
    assert_eq!(t.bucket.calls(Op::Put), 1, "not put twice");
}

#[tokio::test]
async fn a_bucket_under_load_is_waited_for() {
    let t = tier();
    t.bucket.trouble(Op::Put, Trouble::SlowDown, 3);
    t.bucket.trouble(Op::Head, Trouble::SlowDown, 1);
    t.offload(0, 50).await.expect("after a few 503");
    let upload = &t.store.snapshot()[0];
    assert_eq!((upload.lane, upload.retries, upload.errors), ("upload", 4, 4));
}

#[tokio::test]
async fn what_the_bucket_refuses_for_good_fails_at_once_and_leaves_the_manifest() {
    let t = tier();
    t.bucket.trouble(Op::Put, Trouble::Refused(FaultKind::Denied), 1);
    let error = t.offload(0, 50).await.expect_err("denied");
    assert!(matches!(error, OffloadError::Store(_)), "{error}");
    assert_eq!(t.manifest().version, 0);
    t.offload(0, 50).await.expect("the next try works");
}

#[tokio::test]
async fn an_unknown_publish_is_settled_by_reading_back() {
    use PortTrouble::*;
    for plan in [
        vec![UnknownApplied],
        vec![UnknownLost],
        vec![UnknownLate],
        vec![Failed, UnknownLost, UnknownLate],
        vec![UnknownLate, UnknownLate, Failed, UnknownApplied],
    ] {
        let t = tier();
        t.port.plan.lock().unwrap().extend(plan.iter().copied());
        let manifest = t.offload(0, 50).await.unwrap_or_else(|e| panic!("{plan:?}: {e}"));
        assert_eq!((manifest.tiered_end, t.manifest().entries.len()), (50, 1), "{plan:?}");
        assert_eq!(t.stored_keys(), t.known_keys().await, "{plan:?}: nothing lost, nothing twice");
    }
}

#[tokio::test]
async fn a_publish_that_stays_unknown_keeps_its_object() {
    let t = tier();
    t.port.plan.lock().unwrap().extend([PortTrouble::UnknownLost; 8]);
    let error = t.offload(0, 50).await.expect_err("unknown");
    assert!(matches!(error, OffloadError::Unknown(_)), "{error}");
    assert_eq!(t.stored_keys().len(), 1, "it may still be listed");
    t.offload(0, 50).await.expect("the next offload starts anew");
    assert_eq!(t.manifest().entries.len(), 1);
    assert_eq!(t.stored_keys().len(), 2, "the first one is an orphan for the sweep");
}

#[tokio::test]
async fn a_publish_that_never_got_through_takes_its_object_back() {
    let t = tier();
    t.port.plan.lock().unwrap().extend([PortTrouble::Failed; 8]);
    let error = t.offload(0, 50).await.expect_err("no control plane");
    assert!(matches!(error, OffloadError::NotProposed(_)), "{error}");
    assert!(t.stored_keys().is_empty());
}

#[tokio::test]
async fn an_edit_in_between_is_rebased_when_it_leaves_the_range_alone() {
    let t = tier();
    let edit = Edit::Prune { log_start: 0, head: vec![] };
    assert!(t.manifest().edited(0, &EditRequest { expected_version: 0, leader_epoch: 0, edit }).is_err());
    t.offload(0, 50).await.expect("first");
    let edit = Edit::Prune { log_start: 20, head: vec![] };
    *t.port.rival.lock().unwrap() = Some(EditRequest { expected_version: 1, leader_epoch: 0, edit });
    let manifest = t.offload(50, 90).await.expect("rebased");
    assert_eq!((manifest.version, manifest.log_start, manifest.tiered_end), (3, 20, 90));
}

#[tokio::test]
async fn a_rival_that_was_faster_wins_and_the_object_is_deleted() {
    let t = tier();
    let rival = ObjectEntry {
        start: 0,
        end: 30,
        epoch: 5,
        upload_id: Uuid::from_u128(99),
        bytes: 10,
        footer_bytes: 8,
        raw_bytes: 10,
        records: 30,
        min_timestamp: 0,
        max_timestamp: 1,
        crc32c: 0,
    };
    let edit = Edit::Publish { object: rival, epochs: vec![EpochStart { epoch: 5, start_offset: 0 }] };
    *t.port.rival.lock().unwrap() = Some(EditRequest { expected_version: 0, leader_epoch: 5, edit });
    let error = t.offload(0, 50).await.expect_err("fenced");
    assert!(matches!(error, OffloadError::Stale(Refusal::StaleEpoch { given: 0, current: 5 })), "{error}");
    assert!(t.stored_keys().is_empty(), "the orphan is gone");
    let before = t.bucket.calls(Op::Put);
    t.offload(0, 50).await.expect_err("still fenced");
    assert_eq!(t.bucket.calls(Op::Put), before, "nothing is uploaded by a leader of the past");
}

#[tokio::test]
async fn damage_gaps_and_nothing_else_stop_a_segment() {
    let t = tier();
    let mut rotten = t.segment(0, 50, 20);
    let mut bytes = rotten.segment.to_vec();
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    rotten.segment = bytes.into();
    let error = t.offloader.offload(rotten).await.expect_err("rotten");
    assert!(matches!(&error, OffloadError::Damaged(place) if place.contains("offset 40")), "{error}");
    assert!(t.stored_keys().is_empty() && t.port.proposals.lock().unwrap().is_empty());
    let error = t.offload(10, 50).await.expect_err("gap");
    assert_eq!(error, OffloadError::Gap { tiered_end: 0, start: 10 });
}

/// Enough segments for pages of two levels; everything stays readable, retention eats into them, and the
/// sweep leaves exactly what the manifest leads to.
#[tokio::test]
async fn pages_are_spilled_read_pruned_and_swept() {
    let t = tier();
    let objects = 64 * 32 + 130;
    for i in 0..objects {
        t.offload(i * 2, i * 2 + 2).await.expect("offloaded");
    }
    let m = t.manifest();
    assert!(m.pages[0].level == 1 && m.pages.last().expect("pages").level == 0, "{:?}", m.pages);
    assert!(m.entries.len() < 96);
    assert_eq!(t.stored_keys(), t.known_keys().await);
    t.replay(0, 1 << 20, 20).await;
    for log_start in [1, 5, 127, 129, 1_000, 64 * 32 * 2 - 1, 64 * 32 * 2 + 131] {
        let m = t.offloader.raise_log_start(t.tp, "flights", 0, log_start).await.expect("pruned");
        assert_eq!(m.log_start, log_start);
        while !t.manifest().retiring.is_empty() {
            let early = t.offloader.sweep(t.tp, "flights", 0, 119_999).await.expect("nothing due");
            assert_eq!(early.files, 0, "the grace has not passed");
            let swept = t.offloader.sweep(t.tp, "flights", 0, 120_000).await.expect("swept");
            assert!(swept.files > 0);
        }
        assert_eq!(t.stored_keys(), t.known_keys().await, "log_start {log_start}");
        let m = t.manifest();
        assert!(m.listed_start() > log_start - 4 && m.listed_start() <= log_start, "{}", m.listed_start());
        assert!(t.read(log_start, 1 << 20).await.expect("readable").next_offset > log_start);
    }
    let m = t.manifest();
    t.mirror.flush().await;
    t.offloader.delete_partition(t.tp, "flights", &m).await.expect("deleted");
    assert!(t.bucket.keys().is_empty(), "{:?}", t.bucket.keys());
}

#[tokio::test]
async fn a_sweep_that_was_cut_short_is_done_again() {
    let t = tier();
    for i in 0..100 {
        t.offload(i * 2, i * 2 + 2).await.expect("offloaded");
    }
    t.offloader.raise_log_start(t.tp, "flights", 0, 150).await.expect("pruned");
    t.bucket.trouble(Op::Delete, Trouble::AppliedButLost, 1);
    t.bucket.trouble(Op::Delete, Trouble::Refused(FaultKind::Denied), 1);
    t.offloader.sweep(t.tp, "flights", 0, i64::MAX).await.expect_err("cut short");
    assert!(!t.manifest().retiring.is_empty());
    t.offloader.sweep(t.tp, "flights", 0, i64::MAX).await.expect("again");
    assert!(t.manifest().retiring.is_empty());
    assert_eq!(t.stored_keys(), t.known_keys().await);
}

/// Batches of 4 MB: a row group holds 16 MiB, so an object that may hold 20 MiB ends after the batch that
/// closes its second one, and the rest becomes an object of its own.
#[tokio::test]
async fn a_segment_that_decompresses_to_too_much_becomes_several_objects() {
    let t = tier();
    let parts = OffloadParts {
        store: t.store.clone(),
        names: t.names.clone(),
        port: t.port.clone(),
        pages: t.pages.clone(),
        mirror: t.mirror.clone(),
        counters: Arc::default(),
        seal_threads: 1,
    };
    let offloader = Offloader::with_object_limit(parts, 20 << 20).expect("threads");
    let segment = t.segment(0, 200, 400_000);
    let length = segment.segment.len() as u64;
    let manifest = offloader.offload(segment).await.expect("offloaded");
    assert_eq!((manifest.tiered_end, manifest.totals.records), (200, 200));
    let ends: Vec<Offset> = manifest.entries.iter().map(|e| e.end).collect();
    assert!(ends.len() >= 2 && ends.iter().all(|end| end % 10 == 0), "cut after batches: {ends:?}");
    assert!(manifest.entries.iter().all(|e| e.raw_bytes < 42 << 20), "{manifest:?}");
    let counters = offloader.counters();
    assert_eq!((counters.published.get(), counters.segment_bytes.get()), (ends.len() as u64, length));
    assert_eq!(t.stored_keys(), t.known_keys().await);
    t.replay(0, 8 << 20, 400_000).await;
}
