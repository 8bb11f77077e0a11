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
