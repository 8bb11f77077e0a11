//! Opening a log: believe what side files and segment files agree on, scan the rest, remove garbage
//! (invariant 12).
//!
//! Carries out the plan of `core::recovery`. A log that was closed cleanly costs a directory listing and the
//! two side files; segment files and indexes are opened when first used.

use std::sync::Arc;

use highwater_model::Offset;
use highwater_model::limits::{REPORTED_FILES_MAX, SEGMENTS_PER_PARTITION_MAX};
use tracing::warn;

use super::{LogSettings, PartitionLog, flush::FlushState};
use crate::core::checkpoint::{Checkpoint, CleanEnd, Marks, SealedSegment};
use crate::core::index::SparseIndex;
use crate::core::recovery::{self, FoundSegment, RecoveryPlan, RecoveryRest, ScanEnd, Verdict};
use crate::core::transactions::ProducerState;
use crate::disk::{Disk, DiskFile, Entry, read_side_file};
use crate::error::{IgnoredFile, LogError, disk_error};
use crate::names::{self, Named};
use crate::scan::{BatchScan, Located, ScanFault};
use crate::segment::{ActiveSegment, SealedCache};

/// A place in the log where bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptAt {
    pub segment: Offset,
    /// Bytes into the segment file.
    pub position: u64,
    /// Where the valid log ends.
    pub offset: Offset,
    pub what: &'static str,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Nothing had to be scanned.
    pub clean: bool,
    pub scanned_segments: usize,
    pub scanned_bytes: u64,
    /// A torn tail that was cut, and how many bytes with it, of this and later segments.
    pub cut: Option<CorruptAt>,
    pub cut_bytes: u64,
    /// What was durable is damaged or gone. Nothing was cut; the log refuses appends and is readable up to
    /// here.
    pub corrupt_below_flushed: Option<CorruptAt>,
    /// Damaged side files, and files that are none of ours (at most `REPORTED_FILES_MAX`).
    pub ignored: Vec<IgnoredFile>,
}

/// The directory's files by what they are.
#[derive(Default)]
struct Listing {
    logs: Vec<FoundSegment>,
    /// Indexes and producer snapshots: name and offset.
    indexes: Vec<(String, Offset)>,
    producers: Vec<(String, Offset)>,
    garbage: Vec<String>,
    unknown: Vec<String>,
    has_checkpoint: bool,
    has_marks: bool,
}

/// One segment after its scan.
struct Scanned {
    end: Offset,
    bytes: u64,
    max_timestamp: i64,
    first_timestamp: Option<i64>,
    index: SparseIndex,
    damage: Option<&'static str>,
}

impl Listing {
    fn sort(entries: Vec<Entry>) -> Result<Listing, LogError> {
        let mut listing = Listing::default();
        for entry in entries {
            match names::parse(&entry.name) {
                Named::Log(start) => listing.logs.push(FoundSegment { start, bytes: entry.bytes }),
                Named::Index(start) => listing.indexes.push((entry.name, start)),
                Named::Producers(end) => listing.producers.push((entry.name, end)),
                Named::Checkpoint => listing.has_checkpoint = true,
                Named::Marks => listing.has_marks = true,
                Named::Neighbour => {}
                Named::Garbage => listing.garbage.push(entry.name),
                Named::Unknown => listing.unknown.push(entry.name),
            }
        }
        if listing.logs.len() > SEGMENTS_PER_PARTITION_MAX {
            return Err(LogError::TooManySegments(listing.logs.len()));
        }
        listing.logs.sort_unstable_by_key(|s| s.start);
        listing.unknown.truncate(REPORTED_FILES_MAX);
        Ok(listing)
    }
}

impl PartitionLog {
    /// As `open`, on any disk.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        settings: LogSettings,
        now_ms: i64,
    ) -> Result<(PartitionLog, RecoveryReport), LogError> {
        let entries = disk.list().map_err(disk_error("list", "a partition's directory"))?;
        let listing = Listing::sort(entries)?;
        let mut report = RecoveryReport::default();
        report.ignored.extend(listing.unknown.iter().map(|n| IgnoredFile { name: n.clone(), why: None }));
        let (marks_sequence, marks) = read_marks(&*disk, listing.has_marks, &mut report)?;
        let checkpoint = read_checkpoint(&*disk, listing.has_checkpoint, &mut report)?;
        let RecoveryPlan { trusted, rest } = recovery::plan(&listing.logs, &checkpoint, marks.recovery_point);
        let settings = settings.bounded();
        let mut log = PartitionLog {
            disk,
            settings,
            sealed: trusted,
            active: ActiveSegment::empty(marks.log_start, settings.index_interval_bytes),
            cache: SealedCache::default(),
            epochs: checkpoint.epochs,
            producers: ProducerState::default(),
            verifications: Default::default(),
            sealed_txns: Default::default(),
            told_ms: now_ms,
            log_start: marks.log_start,
            flushed_end: marks.log_start,
            unflushed: Vec::new(),
            flush: FlushState::default(),
            marks_sequence,
            closed_cleanly: false,
            refuses: None,
            damaged_below: None,
        };
        let mut clean_end = None;
        match rest {
            RecoveryRest::Empty => log.start_empty(&marks, &mut report),
            RecoveryRest::Clean(end) => {
                clean_end = end.has_producers.then_some(end.end);
                log.start_clean(end, now_ms, &mut report);
            }
            RecoveryRest::Scan(found) => log.start_scanning(&found, &marks, now_ms, &mut report)?,
        }
        if report.corrupt_below_flushed.is_some() {
            log.damaged_below = Some(marks.recovery_point);
        }
        log.remove_garbage(listing, clean_end);
        if log.refuses.is_none() && log.log_start > log.log_end() {
            log.reset_to(log.log_start)?;
        }
        debug_assert!(log.local_start() <= log.log_end() || log.refuses.is_some());
        Ok((log, report))
    }

    /// No segment file: nothing was ever appended, unless the recovery point says otherwise.
    fn start_empty(&mut self, marks: &Marks, report: &mut RecoveryReport) {
        report.clean = true;
        if marks.recovery_point > marks.log_start {
            let offset = marks.log_start;
            let what = "every segment file is gone";
            self.is_corrupt(CorruptAt { segment: offset, position: 0, offset, what }, report);
        }
        self.epochs.truncate_end(marks.log_start);
    }

    fn start_clean(&mut self, end: CleanEnd, now_ms: i64, report: &mut RecoveryReport) {
        report.clean = true;
        self.active = ActiveSegment::empty(end.start, self.settings.index_interval_bytes);
        if end.bytes > 0 {
            self.active.end = end.end;
            self.active.bytes = end.bytes;
            self.active.max_timestamp = end.max_timestamp;
            self.active.first_append_ms = Some(end.first_append_ms);
            self.active.first_timestamp = Some(end.first_timestamp);
            self.active.index = Default::default();
        }
        self.flushed_end = end.end;
        // An epoch may start at the very end, if all that it wrote is below the log start.
        self.epochs.truncate_end(end.end.saturating_add(1));
        self.closed_cleanly = true;
        if end.has_producers {
            self.load_producers(end.end, now_ms, report);
        }
        if end.bytes == 0 {
            self.producers.begin_segment();
        }
    }

    /// Sets the producer table to what it was at `end`, which is the log's end or a segment's start.
    fn load_producers(&mut self, end: Offset, now_ms: i64, report: &mut RecoveryReport) {
        match self.producers_at(end, now_ms) {
            Ok(producers) => self.producers = producers,
            Err(LogError::Corrupt { segment, position, what }) => {
                self.is_corrupt(CorruptAt { segment, position, offset: segment, what }, report);
            }
            Err(error) => {
                warn!(%error, "producers were not recovered");
                self.refuses = Some("producers were not recovered");
            }
        }
    }

    fn is_corrupt(&mut self, at: CorruptAt, report: &mut RecoveryReport) {
        warn!(?at, "damage below the flushed point: the partition refuses appends");
        self.refuses = Some("the log is damaged below its flushed point");
        report.clean = false;
        report.corrupt_below_flushed.get_or_insert(at);
    }

    /// The producer table when the log ended at `end`: the newest snapshot at or below, and headers from
    /// there.
    /// Its list of aborted transactions is that of the segment which ends at `end` or holds it.
    pub(super) fn producers_at(&self, end: Offset, now_ms: i64) -> Result<ProducerState, LogError> {
        let starts = self.sealed.iter().map(|s| s.start).chain([self.active.start, end]);
        let mut starts: Vec<_> = starts.filter(|s| *s <= end).collect();
        starts.dedup();
        let mut from = self.first_segment_start();
        let mut state = ProducerState::default();
        for start in starts.into_iter().rev() {
            let name = names::producers(start);
            let stored = read_side_file(&*self.disk, &name).map_err(disk_error("read", &name))?;
            if let Some(Ok((at, stored))) = stored.as_deref().map(ProducerState::decode)
                && at == start
            {
                (state, from) = (stored, start);
                break;
            }
        }
        if from >= end {
            return Ok(state);
        }
        for view in self.views(from) {
            let view = view?;
            if view.start >= end {
                break;
            }
            state.begin_segment();
            let mut scan = view.scan(0);
            while let Some(at) = scan.next().map_err(|e| view.fault(e))? {
                if at.header.base_offset >= end {
                    return Ok(state);
                }
                if at.header.base_offset >= from {
                    state.apply(&at.header, view.marker(&at)?, at.header.base_offset, now_ms);
                }
            }
        }
        Ok(state)
    }

    /// Checks every batch of the segments that are not trusted, in order, and ends the log where they end.
    fn start_scanning(
        &mut self,
        found: &[FoundSegment],
        marks: &Marks,
        now_ms: i64,
        report: &mut RecoveryReport,
    ) -> Result<(), LogError> {
        let interval = self.settings.index_interval_bytes;
        let first = found[0].start;
        self.active = ActiveSegment::empty(first, interval);
        self.epochs.truncate_end(first);
        self.load_producers(first, now_ms, report);
        self.producers.begin_segment();
        self.flush.checkpoint_is_stale();
        // What was found may not be durable yet, its name included.
        self.flush.name_was_added();
        for (nth, segment) in found.iter().enumerate() {
            let name = names::log(segment.start);
            let file = self.disk.open(&name).map_err(disk_error("open", &name))?;
            // Else recovery would believe what a failed fsync has left in memory only.
            if let Err(error) = file.forget_cached() {
                warn!(%error, name, "the page cache was not dropped");
            }
            let scanned = self.scan(segment, &*file, now_ms)?;
            report.scanned_segments += 1;
            report.scanned_bytes += segment.bytes;
            let next_start = found.get(nth + 1).map(|s| s.start);
            let end = ScanEnd { end: scanned.end, damaged: scanned.damage.is_some(), next_start };
            let verdict = recovery::judge(&end, marks.recovery_point);
            let at = CorruptAt {
                segment: segment.start,
                position: scanned.bytes,
                offset: scanned.end,
                what: scanned.damage.unwrap_or("the next segment does not follow"),
            };
            let goes_on = verdict == Verdict::Whole && next_start.is_some();
            match verdict {
                Verdict::Whole => {}
                Verdict::CutHere => {
                    report.cut = Some(at);
                    report.cut_bytes = segment.bytes - scanned.bytes;
                    self.drop_segments(&found[nth + 1..], report)?;
                    // Synced, or a second power failure could bring back old bytes behind new ones.
                    file.truncate(scanned.bytes).map_err(disk_error("truncate", &name))?;
                    file.sync().map_err(disk_error("fsync", &name))?;
                }
                Verdict::CorruptBelowFlushed => self.is_corrupt(at, report),
            }
            self.take_scanned(segment.start, scanned, file, marks, now_ms);
            if !goes_on {
                break;
            }
            self.seal_scanned(now_ms);
        }
        self.flushed_end =
            marks.recovery_point.clamp(self.first_segment_start().min(self.log_end()), self.log_end());
        Ok(())
    }

    /// Walks one segment, checking that batches are whole, offsets dense and epochs rising; takes in
    /// producers and epochs.
    fn scan(
        &mut self,
        segment: &FoundSegment,
        file: &dyn DiskFile,
        now_ms: i64,
    ) -> Result<Scanned, LogError> {
        let mut scanned = Scanned {
            end: segment.start,
            bytes: 0,
            max_timestamp: i64::MIN,
            first_timestamp: None,
            index: SparseIndex::new(segment.start, self.settings.index_interval_bytes),
            damage: None,
        };
        let mut scan = BatchScan::new(file.file(), segment.bytes);
        loop {
            let (at, marker) = match scan.next() {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(scanned),
                Err(error) => match error.what {
                    ScanFault::Io(source) => {
                        return Err(disk_error("read", &names::log(segment.start))(source));
                    }
                    ScanFault::Batch(what) => {
                        scanned.damage = Some(what);
                        return Ok(scanned);
                    }
                },
            };
            if let Some(what) = self.misplaced(&at, scanned.end) {
                scanned.damage = Some(what);
                return Ok(scanned);
            }
            scanned.index.note(at.header.base_offset, at.position, scanned.max_timestamp);
            scanned.first_timestamp.get_or_insert(at.header.max_timestamp);
            scanned.max_timestamp = scanned.max_timestamp.max(at.header.max_timestamp);
            scanned.end = at.header.next_offset();
            scanned.bytes = at.end();
            self.producers.apply(&at.header, marker, at.header.base_offset, now_ms);
            self.epochs.assign(at.header.leader_epoch, at.header.base_offset);
        }
    }

    /// What of a whole batch does not fit where it stands: the CRC does not cover its offset and epoch.
    fn misplaced(&self, at: &Located, expected: Offset) -> Option<&'static str> {
        let header = &at.header;
        if header.base_offset != expected {
            return Some("offsets do not follow");
        }
        if header.record_count > header.last_offset_delta.saturating_add(1) {
            return Some("more records than offsets");
        }
        if header.leader_epoch < 0 || self.epochs.check(header.leader_epoch).is_err() {
            return Some("leader epoch goes back");
        }
        let overflows = header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_none();
        overflows.then_some("offsets are used up")
    }

    fn take_scanned(
        &mut self,
        start: Offset,
        scanned: Scanned,
        file: Arc<dyn DiskFile>,
        marks: &Marks,
        now_ms: i64,
    ) {
        let dated = marks.active_start == start && marks.first_append_ms > 0;
        let first_append_ms = if dated { marks.first_append_ms } else { now_ms };
        self.active = ActiveSegment {
            start,
            end: scanned.end,
            bytes: scanned.bytes,
            max_timestamp: scanned.max_timestamp,
            first_append_ms: (scanned.bytes > 0).then_some(first_append_ms),
            first_timestamp: scanned.first_timestamp,
            file: file.into(),
            index: scanned.index.into(),
        };
    }

    /// The scanned segment has a successor: it is sealed, its index stored, and it counts as not yet flushed.
    fn seal_scanned(&mut self, now_ms: i64) {
        self.store_active_index();
        let end = self.active.end;
        self.store_producers(end);
        self.txns_are_sealed(self.active.start, end);
        let empty = ActiveSegment::empty(end, self.settings.index_interval_bytes);
        let old = std::mem::replace(&mut self.active, empty);
        self.sealed.push(SealedSegment {
            start: old.start,
            end: old.end,
            bytes: old.bytes,
            max_timestamp: old.max_timestamp,
            sealed_at_ms: now_ms,
        });
        self.unflushed.push((old.end, old.file.into_inner().expect("taken in with its file")));
    }

    /// Removes segments that follow a torn one, newest first.
    fn drop_segments(&self, later: &[FoundSegment], report: &mut RecoveryReport) -> Result<(), LogError> {
        for segment in later.iter().rev() {
            let name = names::log(segment.start);
            self.disk.remove(&name).map_err(disk_error("remove", &name))?;
            report.cut_bytes += segment.bytes;
        }
        if !later.is_empty() {
            self.disk.sync_dir().map_err(disk_error("fsync directory of", &names::log(later[0].start)))?;
        }
        Ok(())
    }

    /// Removes what a crash left and what describes no segment of the log. A damaged log is left as it is.
    fn remove_garbage(&self, listing: Listing, clean_end: Option<Offset>) {
        if self.refuses.is_some() {
            return;
        }
        let is_start = |offset: Offset| {
            offset == self.active.start || self.sealed.binary_search_by_key(&offset, |s| s.start).is_ok()
        };
        let mut garbage = listing.garbage;
        garbage
            .extend(listing.indexes.into_iter().filter(|(_, start)| !is_start(*start)).map(|(name, _)| name));
        let orphan = |end: &Offset| !is_start(*end) && Some(*end) != clean_end;
        garbage.extend(listing.producers.into_iter().filter(|(_, end)| orphan(end)).map(|(name, _)| name));
        for name in garbage {
            if let Err(error) = self.disk.remove(&name) {
                warn!(%error, name, "garbage was not removed");
            }
        }
    }
}

fn read_marks(disk: &dyn Disk, exists: bool, report: &mut RecoveryReport) -> Result<(u64, Marks), LogError> {
    if !exists {
        return Ok((0, Marks::default()));
    }
    let file = read_side_file(disk, names::MARKS).map_err(disk_error("read", names::MARKS))?;
    let decoded = file.as_deref().and_then(Marks::decode);
    if decoded.is_none() {
        report.ignored.push(IgnoredFile {
            name: names::MARKS.to_owned(),
            why: Some(crate::core::stored::StoredError::Checksum),
        });
    }
    Ok(decoded.unwrap_or_default())
}

fn read_checkpoint(
    disk: &dyn Disk,
    exists: bool,
    report: &mut RecoveryReport,
) -> Result<Checkpoint, LogError> {
    if !exists {
        return Ok(Checkpoint::default());
    }
    let file = read_side_file(disk, names::CHECKPOINT).map_err(disk_error("read", names::CHECKPOINT))?;
    match Checkpoint::decode(file.as_deref().unwrap_or_default()) {
        Ok(checkpoint) => Ok(checkpoint),
        Err(why) => {
            warn!(%why, "checkpoint is damaged; the log is scanned instead");
            report.ignored.push(IgnoredFile { name: names::CHECKPOINT.to_owned(), why: Some(why) });
            Ok(Checkpoint::default())
        }
    }
}
