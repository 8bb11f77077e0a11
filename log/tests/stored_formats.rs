//! Every version of every stored format must still load (invariant 18): a partition's directory per version,
//! as that version wrote it. A new version adds a directory; the old ones are never written again.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use highwater_log::{LogSettings, PartitionLog, Sequenced};
use highwater_wire::batch::{Batches, crc_matches};
use highwater_wire::build::BatchBuilder;
use highwater_wire::{BatchHeader, Codec};

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

/// The log that version 1's directory holds: twelve batches of ten records under epochs 3 and 5, log start at
/// 25.
fn write_version_1(dir: &Path) {
    let (mut log, _) = PartitionLog::open(dir, settings(), NOW).expect("opens");
    for n in 0..12 {
        let bytes = batch(n);
        let header = BatchHeader::parse(&bytes).expect("whole");
        log.append(&header, &bytes, if n < 8 { 3 } else { 5 }, NOW).expect("appends");
    }
    log.raise_log_start(25).expect("raises");
    log.close().expect("closes");
}

#[test]
#[ignore = "writes the fixture; run only when a new version of a format is made"]
fn write_fixture() {
    write_version_1(&fixture("local-log-v1"));
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

#[test]
fn this_version_still_writes_version_1() {
    let scratch = tempfile::tempdir().expect("scratch");
    write_version_1(scratch.path());
    let names = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    let old = fixture("local-log-v1");
    assert_eq!(names(scratch.path()), names(&old));
    for name in names(&old) {
        let (new, old) = (fs::read(scratch.path().join(&name)), fs::read(old.join(&name)));
        assert_eq!(new.expect("reads"), old.expect("reads"), "{name:?}");
    }
}
