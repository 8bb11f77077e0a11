//! One partition's local log: the only place where an offset is assigned (invariant 2).
//!
//! Owns segments, indexes, leader epochs, producers and the bounds `log_start <= local_start <= log_end` of
//! one partition. Synchronous; its owner serialises access (invariant 7) and decides when to flush, roll,
//! evict and truncate. It must not know of high watermarks, tiers or clients, and never re-encodes a batch:
//! it stamps the 16 bytes that the CRC leaves out and writes the rest as it came (invariant 14).
//!
//! Layout, one directory per partition (bytes in `docs/format.md`): `<start:020>.log` batches and nothing
//! else; `<start:020>.index` sparse offsets and times, derivable; `<offset:020>.producers` the producer table
//! at a segment's start, derivable until what lies before is evicted; `checkpoint` epochs, sealed segments
//! and the clean end, derivable but for epochs of evicted offsets; `marks` log start and recovery point.
//!
//! Durability. An append is in the page cache: it survives `kill -9`, not power failure. A `FlushTicket`, run
//! off the owner's lock, makes what the log held when it was drawn durable, and moves the recovery point. A
//! failed fsync poisons the log: nothing is appended until it is opened again, and nothing is retried
//! (invariant 5).
//!
//! Crash (invariant 12). Segment files are the truth, and offsets in them are contiguous. A segment is begun
//! by creating its file, empty, so that the directory alone tells where the log ends. Order at a roll:
//! producer snapshot, index, new file; at eviction: oldest first, each by one rename. Whatever else is found
//! is garbage and is removed when opened.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::limits::{SEGMENTS_PER_PARTITION_MAX, TXN_ABORTED_PER_SEGMENT_MAX};
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::batch::{BatchHeader, stamp_prefix};
use tracing::warn;

use crate::core::checkpoint::SealedSegment;
use crate::core::epochs::{EpochStart, EpochTable};
use crate::core::producers::ProducerTable;
use crate::core::roll::{self, ActiveShape, Incoming, RollRule};
use crate::core::transactions::ProducerState;
use crate::core::verification::Verifications;
use crate::crash::crash_point;
use crate::disk::{DirDisk, Disk, DiskFile, write_all};
use crate::error::{LogError, disk_error};
use crate::names;
use crate::segment::{ActiveSegment, SealedCache, SegmentView};

mod begin;
mod flush;
mod lookup;
mod open;
mod read;
mod repair;
mod side;
mod transactions;
mod trim;

pub use begin::Beginning;
pub use flush::{FlushDone, FlushTicket};
pub use lookup::TimestampedOffset;
pub use open::{CorruptAt, RecoveryReport};
pub use read::{LogRead, LogSlice};
pub use repair::Repair;
pub use trim::Evicted;

/// What the topic's settings ask of the log. May be changed while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `segment.bytes`; below 2^31.
    pub segment_bytes: u32,
    /// `segment.ms`, with its jitter already taken off.
    pub segment_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `producer.id.expiration.ms`.
    pub producer_expiration_ms: i64,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            segment_bytes: 64 * 1024 * 1024,
            segment_ms: 7 * 24 * 3_600_000,
            index_interval_bytes: 4_096,
            producer_expiration_ms: 24 * 3_600_000,
        }
    }
}

impl LogSettings {
    /// Brings values into the range that the files can hold.
    fn bounded(self) -> LogSettings {
        LogSettings {
            segment_bytes: self.segment_bytes.clamp(1, i32::MAX as u32),
            segment_ms: self.segment_ms.max(1),
            index_interval_bytes: self.index_interval_bytes.max(1_024),
            producer_expiration_ms: self.producer_expiration_ms.max(1),
        }
    }

    fn roll_rule(&self) -> RollRule {
        RollRule { segment_bytes: u64::from(self.segment_bytes), segment_ms: self.segment_ms }
    }
}

/// Where a batch was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// Offset after the batch's last record; the new log end.
    pub next_offset: Offset,
    /// Whether a segment was sealed first: there is something to flush and to offload.
    pub rolled: bool,
}

/// One partition's log. See the module's text.
#[derive(Debug)]
pub struct PartitionLog {
    disk: Arc<dyn Disk>,
    settings: LogSettings,
    sealed: Vec<SealedSegment>,
    active: ActiveSegment,
    cache: SealedCache,
    epochs: EpochTable,
    producers: ProducerState,
    verifications: Verifications,
    /// Transactions of sealed segments, as far as readers asked.
    sealed_txns: transactions::SealedTxns,
    /// The newest time that it was told, Unix ms: producers that have to be rebuilt are dated so.
    told_ms: i64,
    log_start: Offset,
    flushed_end: Offset,
    /// Sealed since the last flush: their end and file.
    unflushed: Vec<(Offset, Arc<dyn DiskFile>)>,
    flush: flush::FlushState,
    marks_sequence: u64,
    /// The directory holds a checkpoint with a clean end that still describes the log.
    closed_cleanly: bool,
    /// Why appends are refused for good, other than a failed flush.
    refuses: Option<&'static str>,
    /// Set while what was durable is not all there: everything below was. The stored recovery point must not
    /// sink below it, or the next open would take the damage for a torn tail and cut.
    damaged_below: Option<Offset>,
}

impl PartitionLog {
    /// Opens the log in `dir`, recovering it if it was not closed cleanly; an absent or empty directory is an
    /// empty log that starts at 0 and touches the disk with its first append.
    ///
    /// # Errors
    /// Only of the disk: damage in files is recovered from or told in the report.
    pub fn open(
        dir: &Path,
        settings: LogSettings,
        now_ms: i64,
    ) -> Result<(PartitionLog, RecoveryReport), LogError> {
        PartitionLog::open_on(Arc::new(DirDisk::new(dir.to_owned())), settings, now_ms)
    }

    /// First offset that may still be read, in either tier, as far as this log was told.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// First offset that is local and may still be read.
    pub fn local_start(&self) -> Offset {
        self.first_segment_start().max(self.log_start)
    }

    fn first_segment_start(&self) -> Offset {
        self.sealed.first().map_or(self.active.start, |s| s.start)
    }

    /// Where the next record goes.
    pub fn log_end(&self) -> Offset {
        self.active.end
    }

    /// Everything below survives power failure.
    pub fn flushed_end(&self) -> Offset {
        self.flushed_end
    }

    /// Bytes of all local segments.
    pub fn local_bytes(&self) -> u64 {
        self.sealed.iter().map(|s| s.bytes).sum::<u64>() + self.active.bytes
    }

    pub fn settings(&self) -> LogSettings {
        self.settings
    }

    pub fn set_settings(&mut self, settings: LogSettings) {
        self.settings = settings.bounded();
    }

    /// Sealed segments, oldest first, contiguous, up to `active_start`.
    pub fn sealed(&self) -> &[SealedSegment] {
        &self.sealed
    }

    /// Start of the active segment: end of what is sealed.
    pub fn active_start(&self) -> Offset {
        self.active.start
    }

    /// Largest record timestamp of the active segment; `None` while it is empty.
    pub fn active_max_timestamp(&self) -> Option<i64> {
        (self.active.bytes > 0).then_some(self.active.max_timestamp)
    }

    pub fn epochs(&self) -> &[EpochStart] {
        self.epochs.entries()
    }

    /// The epoch of the newest batch.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// The largest known epoch at or below `epoch` and where it ended; see `EpochTable::end_of`.
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_of(epoch, self.log_end())
    }

    pub fn producers(&self) -> &ProducerTable {
        &self.producers.table
    }

    /// Refuses all further appends until the log is opened again.
    pub fn poison(&mut self, why: &'static str) {
        self.refuses.get_or_insert(why);
    }

    /// Why appends are refused, if they are.
    pub fn refusal(&self) -> Option<&'static str> {
        self.refuses.or_else(|| self.flush.failed().then_some("an fsync failed"))
    }

    fn check_writable(&self) -> Result<(), LogError> {
        self.refusal().map_or(Ok(()), |why| Err(LogError::Poisoned(why)))
    }

    /// Assigns the next offsets to a batch that has been validated and that `producers().check` called new,
    /// and writes it with one write call.
    ///
    /// # Errors
    /// `Io` when the disk refused and the log is as before; `Poisoned`; `Epoch` for a stale leader; `Batch`
    /// when header and bytes do not agree.
    pub fn append(
        &mut self,
        header: &BatchHeader,
        bytes: &Bytes,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.append_at(header, bytes, self.log_end(), leader_epoch, now_ms)
    }

    /// Writes a batch as its leader has it, with the offset and the leader epoch that it carries: the one
    /// must be this log's end, the other no older than the newest here. The caller has checked its CRC.
    ///
    /// # Errors
    /// As `append`; `Misplaced` when it does not follow.
    pub fn append_replicated(
        &mut self,
        header: &BatchHeader,
        bytes: &Bytes,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        let (given, log_end) = (header.base_offset, self.log_end());
        if given != log_end {
            return Err(LogError::Misplaced { given, log_end });
        }
        self.append_at(header, bytes, given, header.leader_epoch, now_ms)
    }

    fn append_at(
        &mut self,
        header: &BatchHeader,
        bytes: &Bytes,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Appended, LogError> {
        self.check_writable()?;
        check_batch(header, bytes, leader_epoch)?;
        let marker = transactions::marker_to_append(header, bytes)?;
        self.epochs.check(leader_epoch)?;
        assert_eq!(base_offset, self.log_end(), "offsets are dense (invariant 2)");
        let records = i64::from(header.last_offset_delta) + 1;
        let next_offset = base_offset.checked_add(records).ok_or(LogError::Batch("offsets are used up"))?;
        let incoming = Incoming {
            bytes: bytes.len() as u64,
            last_offset_delta: header.last_offset_delta,
            max_timestamp: header.max_timestamp,
        };
        let reason = roll::before_append(&self.shape(), &incoming, &self.settings.roll_rule(), now_ms);
        let rolled = reason.is_some() || self.producers.aborted.len() >= TXN_ABORTED_PER_SEGMENT_MAX;
        if rolled {
            self.seal_active(now_ms)?;
        }
        self.prepare_active()?;
        crash_point("append-before-write");
        let position = self.active.bytes;
        let prefix = stamp_prefix(base_offset, header.batch_length, leader_epoch);
        let file = self.active.file.get().expect("prepared above");
        if let Err(error) = write_all(&**file, &prefix, &bytes[prefix.len()..], position) {
            return Err(self.undo_write(error));
        }
        crash_point("append-written");
        self.producers.apply(header, marker, base_offset, now_ms);
        self.take_in(header, base_offset, next_offset, leader_epoch, now_ms);
        Ok(Appended { base_offset, next_offset, rolled })
    }

    /// What every written batch changes in memory.
    fn take_in(&mut self, header: &BatchHeader, base: Offset, next: Offset, epoch: LeaderEpoch, now_ms: i64) {
        let first = self.active.bytes == 0;
        let (position, max_before) = (self.active.bytes, self.active.max_timestamp);
        self.active.index.get_mut().expect("prepared before the write").note(base, position, max_before);
        self.active.bytes += header.total_bytes() as u64;
        self.active.end = next;
        self.active.max_timestamp = max_before.max(header.max_timestamp);
        self.told_ms = now_ms;
        if header.is_transactional() {
            self.verifications.appended(header.producer_id);
        }
        if self.epochs.assign(epoch, base) {
            self.flush.checkpoint_is_stale();
        }
        self.closed_cleanly = false;
        if first {
            self.active.first_append_ms = Some(now_ms);
            self.active.first_timestamp = Some(header.max_timestamp);
            // Only dates the segment; without it an unclean restart dates it anew.
            if let Err(error) = self.write_marks() {
                warn!(%error, "marks were not written");
            }
        }
        debug_assert_eq!(self.active.end, next);
    }

    /// Takes back a write that failed part way, so that the file ends where the log does.
    fn undo_write(&mut self, error: std::io::Error) -> LogError {
        let file = self.active.file.get().expect("a write was tried on it");
        if file.truncate(self.active.bytes).is_err() {
            self.refuses = Some("a failed write could not be taken back");
        }
        disk_error("write", &names::log(self.active.start))(error)
    }

    /// Makes sure that the active segment has a file and its index in memory.
    fn prepare_active(&mut self) -> Result<(), LogError> {
        if self.active.file.get().is_none() {
            if self.active.bytes == 0 {
                let name = names::log(self.active.start);
                let file = self.disk.create(&name).map_err(disk_error("create", &name))?;
                self.flush.name_was_added();
                self.active.file.get_or_init(|| file);
            } else {
                self.active.open_file(&*self.disk)?;
            }
        }
        self.active.load_index(&*self.disk, self.settings.index_interval_bytes)?;
        Ok(())
    }

    fn shape(&self) -> ActiveShape {
        ActiveShape {
            start: self.active.start,
            end: self.active.end,
            bytes: self.active.bytes,
            first_append_ms: self.active.first_append_ms,
            first_timestamp: self.active.first_timestamp,
        }
    }

    /// Seals the active segment if `segment.ms` has passed since its first append, and forgets expired
    /// producers. To be called now and then, also on idle partitions. True if it sealed.
    ///
    /// # Errors
    /// As `append`.
    pub fn roll_if_due(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.told_ms = now_ms;
        self.producers.table.expire(now_ms, self.settings.producer_expiration_ms);
        self.verifications.expire(now_ms, self.settings.producer_expiration_ms);
        if self.refusal().is_some() {
            return Ok(false);
        }
        match roll::if_idle(&self.shape(), &self.settings.roll_rule(), now_ms) {
            Some(_) => self.roll(now_ms),
            None => Ok(false),
        }
    }

    /// Seals the active segment now (`RollReason::Asked`); false if it is empty.
    ///
    /// # Errors
    /// As `append`.
    pub fn roll(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.check_writable()?;
        if self.active.bytes == 0 {
            return Ok(false);
        }
        self.prepare_active()?;
        self.seal_active(now_ms)?;
        Ok(true)
    }

    fn seal_active(&mut self, now_ms: i64) -> Result<(), LogError> {
        if self.sealed.len() >= SEGMENTS_PER_PARTITION_MAX {
            return Err(LogError::TooManySegments(self.sealed.len()));
        }
        self.prepare_active()?;
        let end = self.active.end;
        self.store_producers(end);
        self.store_active_index();
        let name = names::log(end);
        let file = self.disk.create(&name).map_err(disk_error("create", &name))?;
        let interval_bytes = self.settings.index_interval_bytes;
        let old = std::mem::replace(&mut self.active, ActiveSegment::empty(end, interval_bytes));
        self.active.file.get_or_init(|| file);
        self.txns_are_sealed(old.start, end);
        let finished = old.file.into_inner().expect("prepared above");
        if let Err(error) = finished.finish() {
            warn!(%error, segment = old.start, "disk space ahead of a sealed segment was not given back");
        }
        self.sealed.push(SealedSegment {
            start: old.start,
            end: old.end,
            bytes: old.bytes,
            max_timestamp: old.max_timestamp,
            sealed_at_ms: now_ms,
        });
        self.unflushed.push((old.end, finished));
        self.flush.name_was_added();
        self.flush.checkpoint_is_stale();
        self.closed_cleanly = false;
        Ok(())
    }

    /// Sealed segments and the active one, from the one holding `offset` on.
    fn views(&self, offset: Offset) -> impl Iterator<Item = Result<SegmentView<'_>, crate::ReadError>> {
        self.views_where(offset, |_| true)
    }

    /// As `views`, without opening the sealed segments that are not `wanted`.
    fn views_where(
        &self,
        offset: Offset,
        wanted: impl Fn(&SealedSegment) -> bool,
    ) -> impl Iterator<Item = Result<SegmentView<'_>, crate::ReadError>> {
        let first = self.sealed.partition_point(|s| s.end <= offset);
        let interval = self.settings.index_interval_bytes;
        let sealed = self.sealed[first..].iter().filter(move |s| wanted(s));
        let sealed = sealed.map(move |s| self.cache.view(&*self.disk, s, interval));
        let active = (self.active.bytes > 0).then(|| self.active_view());
        sealed.chain(active)
    }

    fn active_view(&self) -> Result<SegmentView<'_>, crate::ReadError> {
        let file = self.active.open_file(&*self.disk)?.file().clone();
        let index = self.active.load_index(&*self.disk, self.settings.index_interval_bytes)?;
        Ok(SegmentView {
            start: self.active.start,
            end: self.active.end,
            bytes: self.active.bytes,
            max_timestamp: self.active.max_timestamp,
            file,
            index: crate::segment::IndexRef::Active(index),
        })
    }
}

/// The parts of the header that offsets and the file depend on. Everything else was validated at produce.
fn check_batch(header: &BatchHeader, bytes: &Bytes, leader_epoch: LeaderEpoch) -> Result<(), LogError> {
    if bytes.len() != header.total_bytes() || bytes.len() > i32::MAX as usize {
        return Err(LogError::Batch("length differs from its header"));
    }
    let is_dense = header.record_count == header.last_offset_delta.saturating_add(1);
    if header.last_offset_delta < 0 || !(is_dense || has_holes(header, bytes)) {
        return Err(LogError::Batch("offsets are not dense"));
    }
    if leader_epoch < 0 {
        return Err(LogError::Batch("no leader epoch"));
    }
    Ok(())
}

/// Whether a batch has fewer records than offsets, and its bytes say so too: some of it are delayed.
fn has_holes(header: &BatchHeader, bytes: &Bytes) -> bool {
    let same = |stored: BatchHeader| {
        (stored.record_count, stored.last_offset_delta) == (header.record_count, header.last_offset_delta)
    };
    header.record_count <= header.last_offset_delta && BatchHeader::parse(bytes).is_ok_and(same)
}

#[cfg(test)]
mod tests;
