//! What replicas do to a log: take batches as the leader has them, cut, begin anew, let go of damage; and
//! power failures at every single step of the latter.

use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::disk::Entry;
use crate::{Beginning, EpochStart};

/// A disk that fails for good after so many changes: a power failure at that very step.
#[derive(Clone, Debug)]
struct DyingDisk {
    disk: SimDisk,
    left: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct DyingFile {
    file: Arc<dyn DiskFile>,
    disk: DyingDisk,
}

impl DyingDisk {
    fn new(disk: &SimDisk) -> DyingDisk {
        DyingDisk { disk: disk.clone(), left: Arc::new(AtomicUsize::new(usize::MAX)) }
    }

    fn spend(&self) -> io::Result<()> {
        let spent = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(|_| ()).map_err(|_| io::Error::other("power failed"))
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(DyingFile { file, disk: self.clone() })
    }
}

impl Disk for DyingDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(name)?))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.spend()?;
        Ok(self.wrap(self.disk.create(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.spend()?;
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.spend()?;
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.spend()?;
        self.disk.sync_dir()
    }
}

impl DiskFile for DyingFile {
    fn file(&self) -> &Arc<std::fs::File> {
        self.file.file()
    }
    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.disk.spend()?;
        self.file.write_at(parts, position)
    }
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.spend()?;
        self.file.truncate(bytes)
    }
    fn forget_cached(&self) -> io::Result<()> {
        self.file.forget_cached()
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.spend()?;
        self.file.sync()
    }
}

/// All batches of a log as bytes, stamped prefix included.
fn stored(log: &PartitionLog) -> Vec<(BatchHeader, Bytes)> {
    let mut found = Vec::new();
    for slice in
        log.read_for_replica(log.active_start().min(log.log_start()), 1 << 30).map_or(vec![], |r| r.slices)
    {
        let bytes = Bytes::from(slice.read().expect("reads"));
        let mut at = 0;
        for item in highwater_wire::batch::Batches::new(&bytes) {
            let (header, batch) = item.expect("whole");
            found.push((header, bytes.slice(at..at + batch.len())));
            at += batch.len();
        }
    }
    found
}

fn leader() -> PartitionLog {
    let (mut log, _) = open(&SimDisk::new());
    for n in 0..40 {
        let bytes = sequenced(7, n * 3, 3);
        try_put(&mut log, &bytes, n / 9).expect("append");
        if n % 8 == 7 {
            log.roll(NOW).expect("rolls");
        }
    }
    log
}

fn copy(from: &PartitionLog, to: &mut PartitionLog) {
    for (header, bytes) in stored(from) {
        if header.base_offset >= to.log_end() {
            to.append_replicated(&header, &bytes, NOW).expect("follows");
        }
    }
}

#[test]
fn a_replica_has_the_leaders_bytes_epochs_and_producers() {
    let leader = leader();
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    copy(&leader, &mut log);
    for log in [log, open(&disk.kill()).0] {
        assert_eq!(stored(&log), stored(&leader), "offset and epoch included");
        assert_eq!(log.epochs(), leader.epochs());
        assert_eq!(log.producers(), leader.producers());
    }
}

#[test]
fn what_does_not_follow_is_refused_and_changes_nothing() {
    let leader = leader();
    let batches = stored(&leader);
    let (mut log, _) = open(&SimDisk::new());
    let (header, bytes) = &batches[1];
    let refused = log.append_replicated(header, bytes, NOW);
    assert!(matches!(refused, Err(LogError::Misplaced { given: 3, log_end: 0 })), "{refused:?}");
    copy(&leader, &mut log);
    let again = log.append_replicated(header, bytes, NOW);
    assert!(matches!(again, Err(LogError::Misplaced { given: 3, log_end: 120 })), "{again:?}");
    let mut old = leader.latest_epoch().map(|epoch| (batches[0].0, epoch)).expect("has epochs");
    old.0.base_offset = 120;
    old.0.leader_epoch = old.1 - 1;
    let refused = log.append_replicated(&old.0, &batches[0].1, NOW);
    assert!(matches!(refused, Err(LogError::Epoch(_))), "{refused:?}");
    assert_eq!(stored(&log), batches);
}

/// Where a segment of the leader starts, in the middle.
fn middle(leader: &PartitionLog) -> Beginning {
    leader.beginning_at(leader.sealed()[3].start).expect("a segment starts there")
}

#[test]
fn a_replica_begins_where_a_segment_of_the_leader_starts() {
    let leader = leader();
    let beginning = middle(&leader);
    assert_eq!(beginning.offset, 72);
    assert_eq!(leader.segment_start_of(95), Some(72));
    assert_eq!(leader.segment_start_of(120), Some(120));
    assert_eq!(leader.segment_start_of(121), None);
    assert!(matches!(leader.beginning_at(73), Err(LogError::NoSegment(73))));
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    log.begin_at(&beginning).expect("begins");
    assert_eq!((log.local_start(), log.log_end(), log.flushed_end()), (72, 72, 72));
    assert_eq!(log.latest_epoch(), Some(2), "of the last batch below");
    let next = BatchHeader::parse(&sequenced(7, 72, 3)).expect("whole");
    let known = BatchHeader::parse(&sequenced(7, 69, 3)).expect("whole");
    for seed in 0..20 {
        let (log, report) = open(&disk.crash(seed).expect("crashes"));
        assert_eq!(report.corrupt_below_flushed, None);
        assert_eq!(log.epochs(), &leader.epochs()[..3], "durable when it returns");
        assert_eq!(log.producers().check(&next), Ok(Sequenced::New));
        assert!(matches!(log.producers().check(&known), Ok(Sequenced::Duplicate { base_offset: 69, .. })));
    }
    copy(&leader, &mut log);
    for log in [log, open(&disk.kill()).0] {
        assert_eq!(log.epochs(), leader.epochs());
        assert_eq!(log.producers(), leader.producers());
        assert_eq!(stored(&log), stored(&leader)[24..]);
    }
}

#[test]
fn a_beginning_that_contradicts_itself_is_refused() {
    let leader = leader();
    let (mut log, _) = open(&SimDisk::new());
    copy(&leader, &mut log);
    let sound = middle(&leader);
    let epoch = |epoch, start_offset| EpochStart { epoch, start_offset };
    for broken in [
        Beginning { offset: 71, ..sound.clone() },
        Beginning { offset: -1, ..Beginning::default() },
        Beginning { epochs: vec![epoch(1, 72)], ..sound.clone() },
        Beginning { epochs: vec![epoch(3, 5), epoch(2, 9)], ..sound.clone() },
        Beginning { producers: vec![1, 2, 3], ..sound.clone() },
    ] {
        let refused = log.begin_at(&broken);
        assert!(matches!(refused, Err(LogError::Beginning(_))), "{refused:?}");
        assert_eq!((stored(&log), log.refusal()), (stored(&leader), None), "as before");
    }
}

/// Power fails at each step of `change`, and a second time while the log is opened again.
fn at_every_step(change: impl Fn(&mut PartitionLog), check: impl Fn(&PartitionLog, usize)) {
    for step in 0.. {
        let disk = SimDisk::new();
        let dying = DyingDisk::new(&disk);
        let (mut log, _) = PartitionLog::open_on(Arc::new(dying.clone()), small(), NOW).expect("opens");
        copy(&leader(), &mut log);
        flush(&mut log);
        dying.left.store(step, Ordering::SeqCst);
        change(&mut log);
        let survived = dying.left.load(Ordering::SeqCst) > 0;
        for seed in 0..12 {
            let crashed = disk.crash(seed).expect("crashes");
            let (log, report) = open(&crashed);
            assert_eq!(report.corrupt_below_flushed, None, "step {step} seed {seed}: {report:?}");
            check(&log, step);
            drop(log);
            let (log, _) = open(&crashed.crash(seed + 100).expect("crashes"));
            check(&log, step);
        }
        check(&open(&disk.kill()).0, step);
        if survived {
            assert!(step > 5, "the change has steps");
            return;
        }
    }
}

#[test]
fn power_may_fail_at_every_step_of_a_truncation() {
    let leader = leader();
    let batches = stored(&leader);
    at_every_step(
        |log| {
            let _ = log.truncate_to(50, NOW);
        },
        |log, step| {
            let kept = stored(log);
            assert!(kept.len() >= 16, "step {step}: what is not cut is kept, {}", kept.len());
            assert!(kept[..] == batches[..kept.len()], "step {step}: a prefix");
            let mut table = ProducerTable::default();
            for (header, _) in &kept {
                table.apply(header, None, header.base_offset, NOW);
            }
            assert_eq!(log.producers(), &table, "step {step}: producers are those of the log");
            let last = kept.last().map(|(header, _)| header.leader_epoch);
            assert_eq!(log.latest_epoch(), last, "step {step}: so are epochs");
        },
    );
}

/// A producer whose state had to be rebuilt was dated 1970 and forgotten by the new replica's first tick:
/// what it sent again was appended again.
#[test]
fn producers_that_were_rebuilt_for_a_new_replica_are_not_forgotten() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    put(&mut log, &sequenced(7, 0, 3));
    log.roll(NOW).expect("rolls");
    disk.remove(&names::producers(3)).expect("removes");
    let (mut fresh, _) = open(&SimDisk::new());
    fresh.begin_at(&log.beginning_at(3).expect("a segment starts there")).expect("begins");
    fresh.roll_if_due(NOW + 1_000).expect("ticks");
    let again = BatchHeader::parse(&sequenced(7, 0, 3)).expect("whole");
    assert!(matches!(fresh.producers().check(&again), Ok(Sequenced::Duplicate { base_offset: 0, .. })));
}

#[test]
fn power_may_fail_at_every_step_of_a_new_beginning() {
    let leader = leader();
    let batches = stored(&leader);
    let elsewhere = Beginning { offset: 5_000, producers: Vec::new(), ..middle(&leader) };
    for beginning in [middle(&leader), elsewhere] {
        let offset = beginning.offset;
        at_every_step(
            |log| {
                let _ = log.begin_at(&beginning);
            },
            |log, step| {
                let kept = stored(log);
                if !kept.is_empty() {
                    assert!(kept[..] == batches[..kept.len()], "step {step}: the old log");
                } else if log.log_end() == offset {
                    let epochs = log.epochs();
                    assert!(epochs.is_empty() || epochs == beginning.epochs, "step {step}: {epochs:?}");
                    let (known, told) = (!log.producers().is_empty(), !beginning.producers.is_empty());
                    assert!(epochs.is_empty() || known == told, "step {step}: with the epochs");
                    assert_eq!((log.log_start(), log.flushed_end()), (offset, offset));
                } else {
                    assert_eq!((log.local_start(), log.log_end()), (120, 120), "step {step}: hidden");
                }
                assert!(log.refusal().is_none());
            },
        );
    }
}

#[test]
fn a_beginning_without_room_changes_nothing_and_is_tried_again() {
    let leader = leader();
    for beginning in [middle(&leader), Beginning { offset: 5_000, ..Beginning::default() }] {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk);
        copy(&leader, &mut log);
        flush(&mut log);
        let (before, files) = (stored(&log), disk.list().expect("lists").len());
        disk.inject(Fault::WriteFails(io::ErrorKind::StorageFull));
        let refused = log.begin_at(&beginning);
        assert!(matches!(refused, Err(LogError::Io { .. })), "{refused:?}");
        assert_eq!((log.log_end(), log.refusal()), (120, None));
        assert_eq!(disk.list().expect("lists").len(), files, "nothing is left of it");
        assert!(stored(&log) == before && stored(&open(&disk.kill()).0) == before);
        log.begin_at(&beginning).expect("there is room again");
        for log in [&log, &open(&disk.kill()).0] {
            assert_eq!((log.local_start(), log.log_end()), (beginning.offset, beginning.offset));
            assert_eq!(log.producers().is_empty(), beginning.producers.is_empty());
        }
        disk.inject(Fault::SyncFails);
        log.begin_at(&beginning).expect_err("a failed fsync");
        assert!(log.refusal().is_some(), "is never tried again (invariant 5)");
    }
}

/// A producer snapshot from before a truncation described another log of the same length.
#[test]
fn what_was_derived_from_a_log_that_was_cut_is_not_believed() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..10 {
        put(&mut log, &sequenced(1, n, 1));
    }
    log.roll(NOW).expect("rolls, and stores the producers at 10");
    log.truncate_to(4, NOW).expect("cuts");
    for n in 0..8 {
        put(&mut log, &sequenced(2, n, 1));
    }
    log.truncate_to(10, NOW).expect("cuts");
    let header = |producer, sequence| BatchHeader::parse(&sequenced(producer, sequence, 1)).expect("whole");
    for log in [log, open(&disk.kill()).0] {
        assert_eq!(log.producers().check(&header(2, 6)), Ok(Sequenced::New), "2 has written 0 to 5");
        assert_eq!(log.producers().check(&header(1, 4)), Ok(Sequenced::New), "1 has written 0 to 3");
    }
}

#[test]
fn a_new_beginning_forgets_what_was_derived_before() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..10 {
        put(&mut log, &sequenced(1, n, 1));
    }
    log.roll(NOW).expect("rolls, and stores the producers at 10");
    log.reset_to(10).expect("begins anew");
    put(&mut log, &sequenced(2, 0, 1));
    let (log, _) = open(&disk.kill());
    assert_eq!(log.producers().len(), 1, "{:?}", log.producers());
}

#[test]
fn damage_that_a_leader_can_replace_is_cut() {
    let leader = leader();
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for (header, bytes) in stored(&leader) {
        if header.base_offset % 24 == 0 {
            log.roll(NOW).expect("rolls");
        }
        log.append_replicated(&header, &bytes, NOW).expect("follows");
    }
    flush(&mut log);
    drop(log);
    let file = disk.open(&names::log(48)).expect("a sealed segment");
    file.write_at(&[IoSlice::new(&[0xff; 40])], 300).expect("writes");
    disk.remove(names::CHECKPOINT).expect("else the segment would be believed");
    let (mut log, report) = open(&disk);
    assert!(report.corrupt_below_flushed.is_some());
    assert_eq!(log.damaged_below(), Some(120));
    let end = log.log_end();
    assert!((48..60).contains(&end), "{end}");
    assert!(matches!(log.begin_at(&middle(&leader)), Err(LogError::Poisoned(_))), "not unasked");
    log.cut_damage().expect("cuts");
    assert_eq!((log.damaged_below(), log.refusal(), log.log_end()), (None, None, end));
    copy(&leader, &mut log);
    flush(&mut log);
    for log in [log, open(&disk.crash(3).expect("crashes")).0] {
        assert_eq!(stored(&log), stored(&leader));
        assert_eq!(log.producers(), leader.producers());
    }
}
