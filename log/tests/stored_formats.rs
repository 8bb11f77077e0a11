//! Every version of every stored format must still load (invariant 18): a partition's directory per version,
//! as that version wrote it. A new version adds a directory; the old ones are never written again.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use highwater_log::{AbortedTxn, LogSettings, PartitionLog, SequenceRefusal, Sequenced};
use highwater_wire::batch::{Batches, crc_matches};
use highwater_wire::build::BatchBuilder;
use highwater_wire::control::{EndMarker, marker_batch};
use highwater_wire::{BatchHeader, Codec, TimestampType};

const NOW: i64 = 1_700_000_000_000;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 3_000, index_interval_bytes: 1_024, ..LogSettings::default() }
}

fn copied(name: &str) -> tempfile::TempDir {
    let scratch = tempfile::tempdir().expect("scratch");
    for entry in fs::read_dir(fixture(name)).expect("fixture") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), scratch.path().join(entry.file_name())).expect("copies");
    }
    scratch
}

fn batch(n: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None).producer(7, 2, n * 10);
    for record in 0..10 {
        builder.push(NOW + i64::from(n), Some(b"key"), Some(&[record; 40]), &[(b"h", None)]);
    }
    builder.build()
}

/// The log that the directories of versions 1 and 3 hold: twelve batches of ten records under epochs 3 and 5,
/// log start at 25.
fn write_batches(dir: &Path) {
    let (mut log, _) = PartitionLog::open(dir, settings(), NOW).expect("opens");
    for n in 0..12 {
        let bytes = batch(n);
        let header = BatchHeader::parse(&bytes).expect("whole");
        log.append(&header, &bytes, if n < 8 { 3 } else { 5 }, NOW).expect("appends");
    }
    log.raise_log_start(25).expect("raises");
    log.close().expect("closes");
}

/// The log that version 2 of the producer snapshot is for: producer 7's transaction is aborted, 8's
/// committed, 9's aborted in a later segment, 10's is open.
fn write_transactions(dir: &Path) {
    let (mut log, _) = PartitionLog::open(dir, settings(), NOW).expect("opens");
    let put = |log: &mut PartitionLog, bytes: &Bytes| {
        let header = BatchHeader::parse(bytes).expect("whole");
        log.append(&header, bytes, 0, NOW).expect("appends");
    };
    let data = |producer, records: i32| {
        let builder = BatchBuilder::new(Codec::None).producer(producer, 0, 0);
        let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
        for n in 0..records {
            builder.push(NOW + i64::from(n), Some(b"key"), Some(b"value"), &[]);
        }
        builder.build()
    };
    let end = |producer, commit| marker_batch(producer, 1, EndMarker { commit, coordinator_epoch: 4 }, NOW);
    for producer in [7, 8, 9] {
        put(&mut log, &data(producer, 10));
    }
    put(&mut log, &end(7, false));
    put(&mut log, &end(8, true));
    log.roll(NOW).expect("rolls");
    put(&mut log, &data(10, 5));
    put(&mut log, &end(9, false));
    log.close().expect("closes");
}

#[test]
#[ignore = "writes the fixture; run only when a new version of a format is made"]
fn write_fixture() {
    write_batches(&fixture("local-log-v3"));
}

fn check_transactions(log: &PartitionLog, how: &str) {
    assert_eq!(log.log_end(), 38, "{how}");
    let aborted = |producer_id, first, marker| AbortedTxn { producer_id, first, marker };
    let all = [aborted(7, 0, 30), aborted(9, 20, 37)];
    assert_eq!(log.aborted_in(0, 38).expect("reads"), all, "{how}");
    assert_eq!(log.aborted_in(31, 32).expect("reads"), all[1..], "{how}");
    assert_eq!(log.aborted_in(0, 20).expect("reads"), all[..1], "{how}");
    let stable: Vec<_> = [38, 37, 32, 31, 30].map(|hw| log.last_stable(hw)).to_vec();
    assert_eq!(stable, [32, 20, 20, 10, 0], "{how}");
    let producers: Vec<_> =
        log.producers().iter().map(|p| (p.producer_id, p.epoch, p.coordinator_epoch, p.txn_first)).collect();
    assert_eq!(
        producers,
        [(7, 1, 4, None), (8, 1, 4, None), (9, 1, 4, None), (10, 0, -1, Some(32))],
        "{how}"
    );
}

#[test]
fn version_2_of_the_producers_loads() {
    let scratch = copied("local-log-v2");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(report.clean && report.ignored.is_empty(), "{report:?}");
    check_transactions(&log, "as it was closed");
    drop(log);
    fs::remove_file(scratch.path().join("checkpoint")).expect("removes");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(!report.clean, "{report:?}");
    check_transactions(&log, "scanned");
}

#[test]
fn this_version_still_writes_version_2() {
    let scratch = tempfile::tempdir().expect("scratch");
    write_transactions(scratch.path());
    same_files(scratch.path(), &fixture("local-log-v2"));
}

fn check_version_1(log: &PartitionLog, how: &str) {
    assert_eq!((log.log_start(), log.log_end()), (25, 120), "{how}");
    assert!(log.sealed().len() > 1, "{how}");
    let epochs: Vec<_> = log.epochs().iter().map(|e| (e.epoch, e.start_offset)).collect();
    assert_eq!(epochs.last(), Some(&(5, 80)), "{how}");
    let slices = log.read(25, 1 << 20, 120, true).expect("reads").slices;
    let bytes: Vec<u8> = slices.iter().flat_map(|s| s.read().expect("reads")).collect();
    for (n, item) in Batches::new(&bytes).enumerate() {
        let (header, found) = item.expect("whole");
        let n = n as i32 + 2;
        assert!(crc_matches(found) && found[16..] == batch(n)[16..], "{how}: batch {n}");
        assert_eq!(header.base_offset, i64::from(n) * 10);
    }
    let resent = BatchHeader::parse(&batch(11)).expect("whole");
    assert!(
        matches!(log.producers().check(&resent), Ok(Sequenced::Duplicate { base_offset: 110, .. })),
        "{how}"
    );
    let found = log.offset_for_timestamp(NOW + 7, 120).expect("reads").expect("found");
    assert_eq!((found.offset, found.leader_epoch), (70, 3), "{how}");
}

#[test]
fn version_1_loads() {
    let scratch = copied("local-log-v1");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(report.clean && report.ignored.is_empty(), "{report:?}");
    check_version_1(&log, "as it was closed");
}

#[test]
fn version_1_loads_without_its_checkpoint() {
    let scratch = copied("local-log-v1");
    fs::remove_file(scratch.path().join("checkpoint")).expect("removes");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(!report.clean && report.corrupt_below_flushed.is_none(), "{report:?}");
    check_version_1(&log, "scanned");
}

/// A batch that is older than those that are known one by one.
fn oldest_again(log: &PartitionLog) -> SequenceRefusal {
    let resent = BatchHeader::parse(&batch(0)).expect("whole");
    log.producers().check(&resent).expect_err("not known one by one")
}

#[test]
fn version_1_does_not_say_how_far_back_sequences_are_known() {
    let scratch = copied("local-log-v1");
    let (log, _) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(matches!(oldest_again(&log), SequenceRefusal::OutOfOrder { expected: 120, .. }));
}

#[test]
fn version_3_loads() {
    let scratch = copied("local-log-v3");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(report.clean && report.ignored.is_empty(), "{report:?}");
    check_version_1(&log, "as it was closed");
    assert!(matches!(oldest_again(&log), SequenceRefusal::Earlier { below: 70, .. }));
    drop(log);
    fs::remove_file(scratch.path().join("checkpoint")).expect("removes");
    let (log, report) = PartitionLog::open(scratch.path(), settings(), NOW).expect("opens");
    assert!(!report.clean, "{report:?}");
    check_version_1(&log, "scanned");
    assert!(matches!(oldest_again(&log), SequenceRefusal::Earlier { below: 70, .. }));
}

#[test]
fn this_version_still_writes_version_3() {
    let scratch = tempfile::tempdir().expect("scratch");
    write_batches(scratch.path());
    same_files(scratch.path(), &fixture("local-log-v3"));
}

fn same_files(new: &Path, old: &Path) {
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(new), names(old));
    for name in names(old) {
        let (new, old) = (fs::read(new.join(&name)), fs::read(old.join(&name)));
        assert_eq!(new.expect("reads"), old.expect("reads"), "{name:?}");
    }
}
