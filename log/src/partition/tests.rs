use std::io;

use highwater_wire::build::BatchBuilder;
use highwater_wire::{BatchHeader, Codec};

use super::*;
use crate::disk::{Fault, SimDisk};
use crate::{ReadError, Sequenced};

mod corruption;
mod holes;
mod lookups;
mod marks;
mod model;
mod replicas;
mod transactions;

pub(super) const NOW: i64 = 1_700_000_000_000;

/// Small segments, so that a few batches roll.
pub(super) fn small() -> LogSettings {
    LogSettings { segment_bytes: 4_000, segment_ms: 60_000, ..LogSettings::default() }
}

pub(super) fn batch(records: usize, value_bytes: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for n in 0..records {
        builder.push(timestamp + n as i64, Some(b"key"), Some(&vec![n as u8; value_bytes]), &[]);
    }
    builder.build()
}

pub(super) fn sequenced(producer: i64, sequence: i32, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None).producer(producer, 0, sequence);
    for n in 0..records {
        builder.push(NOW, None, Some(&[n as u8]), &[]);
    }
    builder.build()
}

pub(super) fn put(log: &mut PartitionLog, bytes: &Bytes) -> Appended {
    try_put(log, bytes, 0).expect("append")
}

pub(super) fn try_put(log: &mut PartitionLog, bytes: &Bytes, epoch: i32) -> Result<Appended, LogError> {
    let header = BatchHeader::parse(bytes).expect("built whole");
    log.append(&header, bytes, epoch, NOW)
}

pub(super) fn open(disk: &SimDisk) -> (PartitionLog, RecoveryReport) {
    PartitionLog::open_on(Arc::new(disk.clone()), small(), NOW).expect("opens")
}

pub(super) fn flush(log: &mut PartitionLog) {
    let done = log.flush_ticket().run().expect("syncs");
    log.flushed(done);
}

/// Every local batch header and the bytes after the stamped prefix, read the way a fetch does.
pub(super) fn contents(log: &PartitionLog) -> Vec<(BatchHeader, Vec<u8>)> {
    let mut found = Vec::new();
    let mut next = log.local_start();
    while next < log.log_end() {
        let slices = log.read(next, 1 << 20, log.log_end(), true).expect("reads").slices;
        assert!(!slices.is_empty(), "something below the end");
        for slice in slices {
            let bytes = slice.read().expect("reads");
            for item in highwater_wire::batch::Batches::new(&bytes) {
                let (header, batch) = item.expect("whole batches only");
                assert!(highwater_wire::batch::crc_matches(batch));
                found.push((header, batch[16..].to_vec()));
                next = header.next_offset();
            }
        }
    }
    found
}

#[test]
fn an_empty_log_touches_nothing() {
    let disk = SimDisk::new();
    let (mut log, report) = open(&disk);
    assert!(report.clean);
    assert_eq!((log.log_start(), log.local_start(), log.log_end(), log.flushed_end()), (0, 0, 0, 0));
    assert!(log.read(0, 100, 100, true).expect("empty").slices.is_empty());
    assert!(!log.roll(NOW).expect("nothing to seal"));
    assert!(log.flush_ticket().is_empty());
    log.close().expect("closes");
    assert!(disk.list().expect("lists").is_empty());
}

#[test]
fn bytes_come_back_as_produced_but_for_offset_and_epoch() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    let sent: Vec<Bytes> = (0..20).map(|n| batch(n % 5 + 1, 300, NOW)).collect();
    let mut expected = 0;
    for bytes in &sent {
        let appended = put(&mut log, bytes);
        assert_eq!(appended.base_offset, expected);
        expected = appended.next_offset;
    }
    assert!(log.sealed().len() > 2, "rolled by size");
    for (log, how) in [(&log, "live"), (&open(&disk.kill()).0, "after kill -9")] {
        let found = contents(log);
        assert_eq!(found.len(), sent.len(), "{how}");
        for ((header, rest), bytes) in found.iter().zip(&sent) {
            assert_eq!(rest, &bytes[16..], "{how}");
            assert_eq!(header.leader_epoch, 0);
        }
        assert_eq!(log.log_end(), expected, "{how}");
    }
}

#[test]
fn reads_are_cut_at_batches_and_bounded() {
    let disk = SimDisk::new();
    let settings = LogSettings { segment_bytes: 60_000, index_interval_bytes: 1_024, ..small() };
    let (mut log, _) = PartitionLog::open_on(Arc::new(disk), settings, NOW).expect("opens");
    for _ in 0..300 {
        put(&mut log, &batch(2, 100, NOW));
    }
    let one = batch(2, 100, NOW).len();
    let end = log.log_end();
    for start in (0..end).step_by(7) {
        for max_bytes in [0, 1, one - 1, one, 3 * one + 5, 20_000, 1 << 20] {
            for bound in [start, start + 1, start + 2, start + 31, end - 3, end, end + 9] {
                let bound = bound.min(end);
                for must in [false, true] {
                    let slices = log.read(start, max_bytes, bound, must).expect("reads").slices;
                    let bytes: Vec<u8> = slices.iter().flat_map(|s| s.read().expect("reads")).collect();
                    let batches: Vec<BatchHeader> = highwater_wire::batch::Batches::new(&bytes)
                        .map(|b| b.expect("whole batches only").0)
                        .collect();
                    if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
                        assert!(first.base_offset <= start && first.next_offset() > start);
                        assert!(last.next_offset() <= bound, "below the bound");
                        assert!(bytes.len() <= max_bytes || (must && batches.len() == 1));
                    }
                    let first_end = start - start % 2 + 2;
                    let available = first_end <= bound;
                    assert!(!(must && available && batches.is_empty()), "one batch at least");
                    let room = max_bytes.min(((bound - start) / 2) as usize * one);
                    assert!(bytes.len() + 1_024 + 2 * one > room, "{} of {room} bytes", bytes.len());
                }
            }
        }
    }
    assert!(matches!(log.read(end + 1, 1, end, true), Err(ReadError::AboveLogEnd { .. })));
    log.raise_log_start(10).expect("raises");
    assert!(matches!(log.read(9, 1, end, true), Err(ReadError::BelowLocalStart { local_start: 10, .. })));
}

#[test]
fn a_clean_close_scans_nothing_and_forgets_nothing() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..12 {
        put(&mut log, &sequenced(7, n * 50, 50));
    }
    log.raise_log_start(60).expect("raises");
    log.close().expect("closes");
    log.close().expect("again");
    assert!(matches!(try_put(&mut log, &batch(1, 1, NOW), 0), Err(LogError::Poisoned("closed"))));
    for seed in 0..20 {
        let (reopened, _) = open(&disk.crash(seed).expect("crashes"));
        assert!(contents(&reopened) == contents(&log), "power failure after a close loses nothing");
    }
    let after = disk.kill();
    let (reopened, report) = open(&after);
    assert!(report.clean && report.scanned_segments == 0, "{report:?}");
    assert_eq!(reopened.sealed(), log.sealed());
    assert_eq!(reopened.epochs(), log.epochs());
    assert_eq!(reopened.producers(), log.producers());
    assert_eq!((reopened.log_start(), reopened.log_end(), reopened.flushed_end()), (60, 600, 600));
    assert!(contents(&reopened) == contents(&log));

    let (mut again, _) = open(&after);
    let names_before = after.list().expect("lists");
    again.close().expect("closes");
    assert_eq!(after.list().expect("lists"), names_before, "an untouched log writes nothing");

    put(&mut again.reopened(&after), &sequenced(7, 600, 1));
    let (log, report) = open(&after);
    assert!(!report.clean, "appended since the clean close");
    assert_eq!((report.scanned_segments, log.log_end()), (1, 601));
    assert!(matches!(
        log.producers().check(&BatchHeader::parse(&sequenced(7, 600, 1)).expect("whole")),
        Ok(Sequenced::Duplicate { base_offset: 600, next_offset: 601, .. })
    ));
}

impl PartitionLog {
    fn reopened(self, disk: &SimDisk) -> PartitionLog {
        drop(self);
        open(disk).0
    }
}

#[test]
fn duplicates_are_known_after_any_restart() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..30 {
        put(&mut log, &sequenced(1 + i64::from(n % 2), n / 2 * 30, 30));
    }
    assert!(log.sealed().len() > 1);
    let killed = open(&disk.kill()).0;
    assert_eq!(killed.producers().len(), 2);
    let check =
        |log: &PartitionLog, bytes: &Bytes| log.producers().check(&BatchHeader::parse(bytes).expect("whole"));
    assert_eq!(check(&killed, &sequenced(2, 14 * 30, 30)), check(&log, &sequenced(2, 14 * 30, 30)));
    assert!(matches!(
        check(&killed, &sequenced(2, 14 * 30, 30)),
        Ok(Sequenced::Duplicate { base_offset: 870, .. })
    ));
    assert_eq!(check(&killed, &sequenced(2, 15 * 30, 30)), Ok(Sequenced::New));
    assert!(check(&killed, &sequenced(2, 16 * 30, 30)).is_err());

    // Without any snapshot the table is rebuilt from headers, and the snapshot for the tier too.
    let first = log.sealed()[0];
    let snapshot = log.producer_snapshot_at_seal(first.start).expect("stored");
    for entry in disk.list().expect("lists") {
        if entry.name.ends_with(".producers") {
            disk.remove(&entry.name).expect("removes");
        }
    }
    let rebuilt = open(&disk.kill()).0;
    assert_eq!(check(&rebuilt, &sequenced(2, 14 * 30, 30)), check(&log, &sequenced(2, 14 * 30, 30)));
    let (end, state) =
        ProducerState::decode(&rebuilt.producer_snapshot_at_seal(first.start).expect("rebuilt"))
            .expect("valid");
    let (stored_end, stored) = ProducerState::decode(&snapshot).expect("valid");
    assert_eq!((end, state.table.len()), (stored_end, stored.table.len()));
    assert!(matches!(log.producer_snapshot_at_seal(1), Err(LogError::NoSegment(1))));
}

#[test]
fn rolls_by_age_when_idle_and_when_asked() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &batch(1, 10, NOW));
    assert!(!log.roll_if_due(NOW + 59_999).expect("rolls"));
    let (mut killed, _) = PartitionLog::open_on(Arc::new(disk.kill()), small(), NOW + 59_999).expect("opens");
    assert!(!killed.roll_if_due(NOW + 59_999).expect("dated by its first append, not by the restart"));
    assert!(killed.roll_if_due(NOW + 60_000).expect("rolls"));
    assert_eq!(killed.sealed().len(), 1);
    assert!(!killed.roll_if_due(NOW + 999_999).expect("an empty segment stays"));
    put(&mut killed, &batch(1, 10, NOW));
    assert!(killed.roll(NOW).expect("asked"));
    assert_eq!(killed.sealed().iter().map(|s| (s.start, s.end)).collect::<Vec<_>>(), [(0, 1), (1, 2)]);
    let reopened = open(&disk.kill()).0;
    assert_eq!(
        (reopened.log_end(), reopened.active_start()),
        (2, 2),
        "an empty segment tells where the log ends"
    );
}

/// Found by the simulation: nothing can rebuild the producer table of evicted offsets, so it has to be on the
/// disk before they go.
#[test]
fn the_producers_of_what_is_evicted_survive_a_power_failure() {
    for (seed, is_reopened) in (0..200).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk);
        let early = sequenced(7, 0, 3);
        put(&mut log, &early);
        flush(&mut log);
        log.roll(NOW).expect("rolls");
        put(&mut log, &sequenced(8, 0, 1));
        flush(&mut log);
        if is_reopened {
            log = open(&disk).0;
        }
        drop(log.evict_below(3).expect("evicts"));
        assert_eq!(log.local_start(), 3);
        drop(log);
        let (log, report) = open(&disk.crash(seed).expect("memory"));
        let known = log.producers().check(&BatchHeader::parse(&early).expect("whole"));
        let is_duplicate = matches!(known, Ok(Sequenced::Duplicate { base_offset: 0, .. }));
        assert!(is_duplicate, "seed {seed}, reopened {is_reopened}: {known:?}, {report:?}");
    }
}

#[test]
fn eviction_takes_whole_sealed_segments_and_readers_keep_theirs() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for _ in 0..12 {
        put(&mut log, &batch(1, 1_000, NOW));
    }
    let before = contents(&log);
    let first = log.sealed()[0];
    let held = log.read(0, 1, 100, true).expect("reads").slices;
    let mapped = log.map_sealed(0).expect("maps");
    assert_eq!(mapped.len() as u64, first.bytes);
    assert_eq!(log.evict_below(first.end - 1).expect("evicts").segments.len(), 0);
    let evicted = log.evict_below(first.end + 1).expect("evicts");
    assert_eq!(evicted.segments, [first]);
    assert_eq!(evicted.bytes(), first.bytes);
    drop(evicted);
    assert_eq!(log.local_start(), first.end);
    assert_eq!(log.log_start(), 0, "the tier has it");
    assert_eq!(held[0].read().expect("still readable").len(), held[0].length);
    assert_eq!(&mapped[..held[0].length], &held[0].read().expect("still readable")[..]);
    let names: Vec<String> = disk.list().expect("lists").into_iter().map(|e| e.name).collect();
    assert!(!names.iter().any(|n| n.contains("deleted") || n == "00000000000000000000.index"), "{names:?}");
    drop(log.evict_below(Offset::MAX).expect("evicts"));
    assert!(log.sealed().is_empty());
    assert_eq!(log.local_start(), log.active_start(), "the active segment stays");
    let reopened = open(&disk.kill()).0;
    assert_eq!((reopened.local_start(), reopened.log_end()), (log.local_start(), 12));
    assert!(contents(&reopened) == before[reopened.local_start() as usize..]);
}

#[test]
fn a_crash_in_the_middle_of_eviction_leaves_garbage_only() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for _ in 0..12 {
        put(&mut log, &batch(1, 1_000, NOW));
    }
    let first = log.sealed()[0];
    disk.rename("00000000000000000000.log", "00000000000000000000.log.deleted").expect("renames");
    let (reopened, _) = open(&disk.kill());
    assert_eq!((reopened.local_start(), reopened.log_end()), (first.end, 12));
    let names: Vec<String> = disk.list().expect("lists").into_iter().map(|e| e.name).collect();
    assert!(!names.iter().any(|n| n.starts_with("00000000000000000000")), "{names:?}");
}

#[test]
fn a_failed_fsync_poisons_for_good() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &batch(1, 10, NOW));
    disk.inject(Fault::SyncFails);
    log.flush_ticket().run().expect_err("fails");
    assert!(matches!(try_put(&mut log, &batch(1, 10, NOW), 0), Err(LogError::Poisoned(_))));
    log.flush_ticket().run().expect_err("never retried");
    assert_eq!(log.flushed_end(), 0);
    assert!(log.close().is_err());
    assert_eq!(contents(&log).len(), 1, "reads go on");
}

#[test]
fn a_failed_or_short_write_changes_nothing() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &batch(1, 100, NOW));
    for fault in [Fault::WriteFails(io::ErrorKind::StorageFull), Fault::WriteTears { bytes: 40 }] {
        disk.inject(fault);
        assert!(matches!(try_put(&mut log, &batch(1, 100, NOW), 0), Err(LogError::Io { .. })), "{fault:?}");
        assert_eq!(log.log_end(), 1);
        let (reopened, report) = open(&disk.kill());
        assert_eq!((reopened.log_end(), report.cut), (1, None));
    }
    assert_eq!(put(&mut log, &batch(1, 100, NOW)).base_offset, 1);
    disk.inject(Fault::WriteTears { bytes: 70 });
    disk.inject(Fault::TruncateFails);
    assert!(matches!(try_put(&mut log, &batch(1, 100, NOW), 0), Err(LogError::Io { .. })));
    assert!(matches!(try_put(&mut log, &batch(1, 100, NOW), 0), Err(LogError::Poisoned(_))));
    let (reopened, report) = open(&disk.kill());
    assert_eq!(reopened.log_end(), 2);
    assert_eq!(report.cut.expect("torn").what, "batch cut short");
}

#[test]
fn stale_epochs_and_lying_headers_are_refused() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    let bytes = batch(3, 10, NOW);
    try_put(&mut log, &bytes, 4).expect("appends");
    assert!(matches!(try_put(&mut log, &bytes, 3), Err(LogError::Epoch(_))));
    try_put(&mut log, &bytes, 6).expect("appends");
    assert_eq!(log.epoch_end(4), Some((4, 3)));
    assert_eq!(log.epoch_end(5), Some((4, 3)));
    assert_eq!(log.epoch_end(6), Some((6, 6)));
    assert_eq!(log.epoch_end(7), None);
    assert_eq!(open(&disk.kill()).0.epochs(), log.epochs());
    let mut lies = BatchHeader::parse(&bytes).expect("whole");
    lies.last_offset_delta = 7;
    assert!(matches!(log.append(&lies, &bytes, 6, NOW), Err(LogError::Batch(_))));
    let header = BatchHeader::parse(&bytes).expect("whole");
    assert!(matches!(log.append(&header, &bytes.slice(1..), 6, NOW), Err(LogError::Batch(_))));
    assert!(matches!(log.append(&header, &bytes, -1, NOW), Err(LogError::Batch(_))));
    assert_eq!(log.log_end(), 6);
}

#[test]
fn a_truncation_without_room_changes_nothing_and_is_tried_again() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..10 {
        put(&mut log, &sequenced(9, n * 40, 40));
    }
    flush(&mut log);
    let before = contents(&log);
    disk.inject(Fault::WriteFails(std::io::ErrorKind::StorageFull));
    log.truncate_to(205, NOW).expect_err("no room");
    assert_eq!((log.log_end(), log.refusal()), (400, None));
    assert!(contents(&log) == before && contents(&open(&disk.kill()).0) == before);
    log.truncate_to(205, NOW).expect("there is room again");
    for log in [&log, &open(&disk.kill()).0] {
        assert!(log.log_end() == 200 && contents(log) == before[..5]);
    }
    disk.inject(Fault::SyncFails);
    log.truncate_to(100, NOW).expect_err("a failed fsync");
    assert!(log.refusal().is_some(), "is never tried again (invariant 5)");
}

#[test]
fn truncation_takes_everything_with_it() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..30 {
        let header_and = sequenced(9, n * 40, 40);
        try_put(&mut log, &header_and, n / 10).expect("appends");
    }
    flush(&mut log);
    let before = contents(&log);
    for to in [1_150, 805, 800, 401, 390, 40] {
        log.truncate_to(to, NOW).expect("truncates");
        let end = to / 40 * 40;
        for log in [&log, &open(&disk.kill()).0, &open(&disk.crash(to as u64).expect("crashes")).0] {
            assert_eq!(log.log_end(), end);
            assert_eq!(log.refusal(), None);
            assert!(contents(log) == before[..end as usize / 40]);
            assert!(log.epochs().iter().all(|e| e.start_offset < end));
            let next = BatchHeader::parse(&sequenced(9, end as i32, 40)).expect("whole");
            assert_eq!(log.producers().check(&next), Ok(Sequenced::New), "at {end}");
        }
    }
    put(&mut log, &sequenced(9, 40, 40));
    log.raise_log_start(80).expect("raises");
    assert!(matches!(log.truncate_to(10, NOW), Err(LogError::OutOfRange { .. })));
    log.reset_to(5_000).expect("resets");
    assert_eq!((log.log_start(), log.local_start(), log.log_end()), (5_000, 5_000, 5_000));
    assert_eq!(put(&mut log, &batch(1, 1, NOW)).base_offset, 5_000);
    let reopened = open(&disk.kill()).0;
    assert_eq!((reopened.local_start(), reopened.log_end(), reopened.refusal()), (5_000, 5_001, None));
}

#[test]
fn an_old_ticket_says_nothing_after_a_truncation() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &batch(10, 10, NOW));
    put(&mut log, &batch(10, 10, NOW));
    let old = log.flush_ticket().run().expect("syncs");
    log.truncate_to(10, NOW).expect("truncates");
    put(&mut log, &batch(10, 10, NOW));
    log.flushed(old);
    assert!(log.flushed_end() <= 10);
    flush(&mut log);
    assert_eq!(log.flushed_end(), 20);
}

#[test]
fn sealed_segments_flush_without_the_active_one() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    while !put(&mut log, &batch(1, 1_000, NOW)).rolled {}
    assert!(log.flushed_end() == 0 && !log.flush_sealed_ticket().is_empty());
    let done = log.flush_sealed_ticket().run().expect("syncs");
    log.flushed(done);
    assert_eq!(log.flushed_end(), log.active_start());
    assert!(log.flush_sealed_ticket().is_empty());
    flush(&mut log);
    assert_eq!(log.flushed_end(), log.log_end());
    assert!(log.flush_ticket().is_empty());
}

#[test]
fn a_real_directory_works_the_same() {
    let scratch = tempfile::tempdir().expect("scratch");
    let dir = scratch.path().join("partitions").join("some-topic-0");
    let (mut log, _) = PartitionLog::open(&dir, small(), NOW).expect("opens");
    assert!(!dir.exists(), "nothing is created before the first append");
    for _ in 0..20 {
        put(&mut log, &batch(3, 300, NOW));
    }
    flush(&mut log);
    let before = contents(&log);
    let slices = log.read(0, 1 << 20, log.log_end(), true).expect("reads").slices;
    assert!(slices.len() > 1, "one read spans segments");
    drop(log.evict_below(log.sealed()[0].end).expect("evicts"));
    log.close().expect("closes");
    let (reopened, report) = PartitionLog::open(&dir, small(), NOW).expect("opens");
    assert!(report.clean);
    let evicted = reopened.local_start() as usize / 3;
    assert!(evicted > 0);
    assert!(contents(&reopened) == before[evicted..]);
}
