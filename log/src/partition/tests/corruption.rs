//! Damage of every kind in every file: a typed outcome and never a panic, and nothing durable is given up
//! silently.

use super::*;

/// A log of several segments on a simulated disk, flushed up to a batch in its last segment if `flushed`.
fn filled(flushed: bool) -> (SimDisk, Vec<(BatchHeader, Vec<u8>)>) {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..8 {
        put(&mut log, &sequenced(5, n * 60, 60));
    }
    for _ in 0..9 {
        put(&mut log, &batch(2, 500, NOW));
    }
    if flushed {
        flush(&mut log);
    }
    assert!(log.sealed().len() >= 2);
    let contents = contents(&log);
    (disk, contents)
}

/// A copy on which damage can be done.
fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new();
    for entry in disk.list().expect("lists") {
        let bytes = crate::disk::read_side_file(disk, &entry.name).expect("reads").expect("is there");
        crate::disk::write_side_file(&copy, &entry.name, &bytes).expect("writes");
    }
    copy
}

fn change(disk: &SimDisk, name: &str, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = crate::disk::read_side_file(disk, name).expect("reads").expect("is there");
    how(&mut bytes);
    crate::disk::write_side_file(disk, name, &bytes).expect("writes");
}

fn names(disk: &SimDisk, suffix: &str) -> Vec<String> {
    let entries = disk.list().expect("lists").into_iter();
    entries.map(|e| e.name).filter(|n| n.ends_with(suffix)).collect()
}

/// Opens whatever is left and checks that what is readable is a prefix of what was written.
fn opens_to_a_prefix(
    disk: &SimDisk,
    written: &[(BatchHeader, Vec<u8>)],
    what: &str,
) -> (usize, RecoveryReport) {
    let (mut log, report) = open(disk);
    let found = contents(&log);
    assert!(found == written[..found.len()], "{what}");
    let end = found.last().map_or(0, |(h, _)| h.next_offset());
    assert_eq!(log.log_end(), end, "{what}");
    if log.refusal().is_none() {
        assert_eq!(put(&mut log, &batch(1, 1, NOW)).base_offset, end, "{what}: the log goes on");
    } else {
        assert!(report.corrupt_below_flushed.is_some(), "{what}: {report:?}");
        assert!(matches!(try_put(&mut log, &batch(1, 1, NOW), 0), Err(LogError::Poisoned(_))));
    }
    (found.len(), report)
}

#[test]
fn a_torn_tail_at_every_byte_of_the_last_batch_is_cut() {
    let (disk, written) = filled(false);
    let last = names(&disk, ".log").pop().expect("segments");
    let size = disk.list().expect("lists").iter().find(|e| e.name == last).expect("there").bytes as usize;
    let batch_bytes = written.last().expect("batches").0.total_bytes();
    for cut in 1..=batch_bytes {
        let torn = copy(&disk);
        change(&torn, &last, |b| b.truncate(size - cut));
        let (kept, report) = opens_to_a_prefix(&torn, &written, "torn");
        assert_eq!(kept, written.len() - 1, "cut {cut}");
        assert_eq!(report.cut.is_some(), cut < batch_bytes);
        assert_eq!(report.cut_bytes as usize, batch_bytes - cut);
    }
}

#[test]
fn a_torn_tail_below_the_flushed_point_is_kept_and_refuses_appends() {
    let (disk, written) = filled(true);
    let last = names(&disk, ".log").pop().expect("segments");
    for cut in [1, 200, 1_000] {
        let torn = copy(&disk);
        change(&torn, &last, |b| b.truncate(b.len() - cut));
        let before = torn.list().expect("lists");
        let (_, report) = opens_to_a_prefix(&torn, &written, "torn below flushed");
        assert!(report.corrupt_below_flushed.is_some(), "cut {cut}");
        assert_eq!(torn.list().expect("lists"), before, "nothing was cut or removed");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_when_its_segment_is_scanned() {
    let (disk, written) = filled(false);
    for (nth, name) in names(&disk, ".log").iter().enumerate() {
        let size =
            disk.list().expect("lists").iter().find(|e| &e.name == name).expect("there").bytes as usize;
        for at in (0..size).step_by(if nth == 0 { 1 } else { 37 }) {
            let bad = copy(&disk);
            change(&bad, name, |b| b[at] ^= 1 << (at % 8));
            // Epoch bytes are outside the CRC; a higher epoch in the last batch cannot be told from a true
            // one.
            let (log, _) = open(&bad);
            let found = contents(&log);
            let same =
                found.iter().zip(&written).filter(|(a, b)| a.1 == b.1 && a.0.base_offset == b.0.base_offset);
            assert_eq!(same.count(), found.len(), "{name} byte {at}");
            assert_eq!(log.refusal(), None, "nothing was flushed");
        }
    }
}

#[test]
fn a_flipped_bit_below_the_flushed_point_refuses_appends() {
    let (disk, written) = filled(true);
    let last = names(&disk, ".log").pop().expect("segments");
    for at in [0, 9, 16, 20, 30, 61, 100] {
        let bad = copy(&disk);
        change(&bad, &last, |b| b[at] ^= 0x40);
        let (_, report) = opens_to_a_prefix(&bad, &written, "flipped");
        assert!(report.corrupt_below_flushed.is_some(), "byte {at}: {report:?}");
    }
}

#[test]
fn zeroed_pages_are_no_batches() {
    let (disk, written) = filled(false);
    for name in names(&disk, ".log") {
        for from in [0, 61, 1_000] {
            let bad = copy(&disk);
            change(&bad, &name, |b| {
                let (from, to) = (from.min(b.len()), (from + 4_096).min(b.len()));
                b[from..to].fill(0);
            });
            let (kept, report) = opens_to_a_prefix(&bad, &written, "zeroed");
            assert!(kept < written.len() && report.cut.is_some(), "{name} from {from}");
        }
    }
    let bad = copy(&disk);
    let last = names(&disk, ".log").pop().expect("segments");
    change(&bad, &last, |b| b.extend_from_slice(&[0; 4_096]));
    let (kept, report) = opens_to_a_prefix(&bad, &written, "zeroes after the end");
    assert_eq!((kept, report.cut_bytes), (written.len(), 4_096));
}

#[test]
fn lost_segments_are_noticed() {
    for flushed in [false, true] {
        let (disk, written) = filled(flushed);
        let logs = names(&disk, ".log");
        for (nth, name) in logs.iter().enumerate() {
            let bad = copy(&disk);
            bad.remove(name).expect("removes");
            if nth == 0 {
                // As if evicted: what is left is contiguous.
                let (log, report) = open(&bad);
                assert!(log.local_start() > 0 && report.corrupt_below_flushed.is_none());
                continue;
            }
            let (_, report) = opens_to_a_prefix(&bad, &written, "lost segment");
            assert_eq!(report.corrupt_below_flushed.is_some(), flushed, "{name}: {report:?}");
        }
        let bad = copy(&disk);
        for name in &logs {
            bad.remove(name).expect("removes");
        }
        assert_eq!(open(&bad).1.corrupt_below_flushed.is_some(), flushed);
    }
}

#[test]
fn swapped_segments_are_noticed() {
    let (disk, written) = filled(false);
    let logs = names(&disk, ".log");
    disk.rename(&logs[0], "x").expect("renames");
    disk.rename(&logs[1], &logs[0]).expect("renames");
    disk.rename("x", &logs[1]).expect("renames");
    let (kept, report) = opens_to_a_prefix(&disk, &written, "swapped");
    assert_eq!(kept, 0);
    assert_eq!(report.cut.expect("noticed").what, "offsets do not follow");
}

#[test]
fn side_files_may_be_missing_damaged_or_anothers() {
    for flushed in [false, true] {
        let (disk, written) = filled(flushed);
        {
            let (mut log, _) = open(&disk);
            log.close().expect("closes");
        }
        let all = disk.list().expect("lists");
        let indexes = names(&disk, ".index");
        let swapped = copy(&disk);
        swapped.rename(&indexes[0], "x").expect("renames");
        swapped.rename(&indexes[1], &indexes[0]).expect("renames");
        swapped.rename("x", &indexes[1]).expect("renames");
        let (kept, _) = opens_to_a_prefix(&swapped, &written, "swapped indexes");
        assert_eq!(kept, written.len());
        for entry in all.iter().filter(|e| !e.name.ends_with(".log")) {
            let gone = copy(&disk);
            gone.remove(&entry.name).expect("removes");
            let (kept, _) = opens_to_a_prefix(&gone, &written, &entry.name);
            assert_eq!(kept, written.len(), "without {}", entry.name);
            for at in 0..entry.bytes as usize {
                let bad = copy(&disk);
                change(&bad, &entry.name, |b| b[at] ^= 1 << (at % 8));
                let (kept, _) = opens_to_a_prefix(&bad, &written, &entry.name);
                assert_eq!(kept, written.len(), "{} byte {at}", entry.name);
                let (log, _) = open(&bad);
                let resent = BatchHeader::parse(&sequenced(5, 7 * 60, 60)).expect("whole");
                assert!(matches!(
                    log.producers().check(&resent),
                    Ok(Sequenced::Duplicate { base_offset: 420, .. })
                ));
            }
        }
    }
}

#[test]
fn strangers_in_the_directory_are_left_alone() {
    let (disk, written) = filled(false);
    for name in ["notes.txt", "1.log", "lost+found", "00000000000000000007.log.bak"] {
        crate::disk::write_side_file(&disk, name, b"?").expect("writes");
    }
    for name in ["00000000000000000003.index", "00000000000000000004.producers", "checkpoint.tmp"] {
        crate::disk::write_side_file(&disk, name, b"?").expect("writes");
    }
    let (kept, report) = opens_to_a_prefix(&disk, &written, "strangers");
    assert_eq!((kept, report.ignored.len()), (written.len(), 4));
    assert!(names(&disk, "0003.index").is_empty() && names(&disk, ".tmp").is_empty(), "garbage goes");
    assert_eq!(names(&disk, "notes.txt").len(), 1);
}

#[test]
fn rot_under_a_reader_is_an_error_with_its_place() {
    let (disk, _) = filled(true);
    let (mut log, _) = open(&disk);
    log.close().expect("closes");
    let first = names(&disk, ".log").remove(0);
    change(&disk, &first, |b| b[16] = 9);
    for index in names(&disk, ".index") {
        disk.remove(&index).expect("removes");
    }
    let (log, report) = open(&disk);
    assert!(report.clean, "sealed segments are not scanned at a clean start");
    assert!(matches!(
        log.read(0, 100, 100, true),
        Err(ReadError::Corrupt { segment: 0, position: 0, what: "no batch of format 2" })
    ));
    assert!(log.offset_for_timestamp(0, 100).is_err());
}

/// A flushed log with a byte changed in its first segment, opened; with the start of its last segment.
fn with_rotten_first_segment() -> (SimDisk, PartitionLog, Vec<(BatchHeader, Vec<u8>)>, i64) {
    let (disk, written) = filled(true);
    let last_start = open(&disk).0.active_start();
    // Without the checkpoint every segment is scanned.
    disk.remove(crate::names::CHECKPOINT).expect("removes");
    change(&disk, &names(&disk, ".log")[0], |b| b[1_000] ^= 1);
    let (log, report) = open(&disk);
    assert!(report.corrupt_below_flushed.is_some() && log.log_end() < last_start);
    (disk, log, written, last_start)
}

#[test]
fn the_recovery_point_of_a_damaged_log_does_not_sink() {
    let (disk, mut log, _, _) = with_rotten_first_segment();
    log.raise_log_start(1).expect("raised");
    flush(&mut log);
    let (log, report) = open(&disk);
    assert!(report.corrupt_below_flushed.is_some() && report.cut.is_none(), "{report:?}");
    assert!(log.refusal().is_some());
}

#[test]
fn damage_that_the_tier_has_is_dropped_and_the_log_goes_on_behind_it() {
    let (disk, log, written, last_start) = with_rotten_first_segment();
    let end = written.last().expect("batches").0.next_offset();
    let (mut log, repair) = log.repair_below(last_start, NOW).expect("repaired");
    assert_eq!(repair, Repair::BeginsAt(last_start));
    assert_eq!((log.local_start(), log.log_end(), log.refusal()), (last_start, end, None));
    let kept = contents(&log);
    assert!(!kept.is_empty() && written.ends_with(&kept));
    assert_eq!(log.producers().check(&BatchHeader::parse(&sequenced(5, 7 * 60, 60)).expect("built")), {
        let duplicate = &written[7].0;
        let (base_offset, next_offset) = (duplicate.base_offset, duplicate.next_offset());
        Ok(Sequenced::Duplicate { base_offset, next_offset, max_timestamp: NOW })
    });
    assert_eq!(put(&mut log, &batch(1, 1, NOW)).base_offset, end);
    flush(&mut log);
    let (log, report) = open(&disk);
    assert_eq!((log.log_end(), report.corrupt_below_flushed), (end + 1, None));
}

#[test]
fn a_damaged_log_that_the_tier_has_whole_begins_anew_and_another_is_left_as_it_is() {
    let (disk, written) = filled(true);
    let end = written.last().expect("batches").0.next_offset();
    for gone in [true, false] {
        let damaged = copy(&disk);
        damaged.remove(crate::names::CHECKPOINT).expect("removes");
        for name in names(&damaged, ".log") {
            match gone {
                true => damaged.remove(&name).expect("removes"),
                false => change(&damaged, &name, |b| b[1_000] ^= 1),
            }
        }
        // The tier lacks the last record.
        let (log, _) = open(&damaged);
        let before = damaged.list().expect("lists");
        let (mut log, repair) = log.repair_below(end - 1, NOW).expect("looked at");
        let files = |disk: &SimDisk| {
            let mut names = names(disk, ".log");
            names.sort();
            names
        };
        if gone {
            assert_eq!(repair, Repair::SetAside);
            assert_eq!(damaged.list().expect("lists"), before);
        } else {
            assert_eq!(repair, Repair::SetAside, "the newest segment is kept");
            assert_eq!(files(&damaged).len(), 1);
        }
        assert_eq!((log.local_start(), log.log_end()), (end - 1, end - 1));
        assert!(matches!(try_put(&mut log, &batch(1, 1, NOW), 0), Err(LogError::Poisoned(_))));
        log.raise_log_start(2).expect("raised");
        flush(&mut log);
        // It has everything.
        let (log, report) = open(&damaged);
        assert!(report.corrupt_below_flushed.is_some(), "still known to be damaged");
        let (mut log, repair) = log.repair_below(end, NOW).expect("repaired");
        assert_eq!((repair, log.refusal()), (Repair::Reset, None));
        assert_eq!(put(&mut log, &batch(1, 1, NOW)).base_offset, end, "offsets are never used twice");
        flush(&mut log);
        assert_eq!(files(&damaged).len(), 1);
        assert_eq!(open(&damaged).0.log_end(), end + 1);
    }
}

#[test]
fn recovery_does_not_believe_what_a_failed_fsync_left_in_the_cache() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &batch(1, 100, NOW));
    flush(&mut log);
    put(&mut log, &batch(1, 100, NOW));
    disk.inject(Fault::SyncFails);
    log.flush_ticket().run().expect_err("told to fail");
    assert!(log.roll_if_due(NOW + 1_000_000).is_ok_and(|rolled| !rolled), "a poisoned log is left as it is");
    drop(log);
    let (log, _) = open(&disk.kill());
    assert_eq!(log.log_end(), 1, "the second batch is on no disk");
}

/// A segment that rots under an open log ends the reads that reach it, and takes nothing from those before
/// it.
#[test]
fn a_read_gives_what_lies_before_a_segment_that_has_rotted() {
    let (disk, _) = filled(true);
    let (log, _) = open(&disk);
    let rotten = log.sealed()[1];
    let read = |from: Offset| log.read(from, 1 << 20, log.log_end(), true);
    let whole: usize = read(0).expect("reads").slices.iter().map(|slice| slice.length).sum();
    let file = disk.open(&crate::names::log(rotten.start)).expect("there");
    crate::disk::write_all(&*file, &vec![0xa5; rotten.bytes as usize], &[], 0).expect("written");
    let found = read(0).expect("what is good");
    assert!(found.is_limited, "there is more");
    assert_eq!(found.slices.iter().map(|slice| slice.length as u64).sum::<u64>(), log.sealed()[0].bytes);
    assert!(whole as u64 > log.sealed()[0].bytes, "it went on before");
    for from in [rotten.start, rotten.start + 1] {
        let error = read(from).expect_err("damaged");
        assert!(matches!(error, ReadError::Corrupt { segment, .. } if segment == rotten.start), "{error}");
    }
    assert!(!read(rotten.end).expect("what lies behind").slices.is_empty());
}
