//! Taking away from either end: evict, log start, truncate, close.

use std::sync::Arc;

use highwater_model::Offset;
use tracing::warn;

use super::PartitionLog;
use crate::core::checkpoint::{CleanEnd, SealedSegment};
use crate::crash::crash_point;
use crate::disk::{Disk, replace_side_file};
use crate::error::{LogError, disk_error};
use crate::names;
use crate::segment::ActiveSegment;

const CLOSED: &str = "closed";

/// Segments that are out of the log; their files go when this is dropped, which may take milliseconds per
/// segment and is best done off the owner's lock.
#[derive(Debug)]
#[must_use = "drop it off the lock: removing files takes time"]
pub struct Evicted {
    /// What was evicted, oldest first.
    pub segments: Vec<SealedSegment>,
    names: Vec<String>,
    disk: Arc<dyn Disk>,
}

/// Where a truncation cuts.
struct Cut {
    segment: Offset,
    position: u64,
    /// The log's end after it.
    end: Offset,
    /// Of what stays in the segment.
    max_timestamp: i64,
}

impl Evicted {
    /// Bytes of the segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }
}

impl Drop for Evicted {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = self.disk.remove(name) {
                warn!(%error, name, "not removed; the next start will");
            }
        }
    }
}

/// The disk had no room for what was to be written; an fsync that says so is a failed fsync.
pub(super) fn is_out_of_room(error: &LogError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let LogError::Io { what, source, .. } = error else { return false };
    !what.starts_with("fsync") && matches!(source.kind(), StorageFull | QuotaExceeded)
}

impl PartitionLog {
    /// Drops whole sealed segments that end at or below `offset` from the local log. The caller has made sure
    /// that they are in the tier's manifest or below the log start (invariant 10). Readers that hold slices
    /// of them keep reading.
    ///
    /// # Errors
    /// `Io` if the first one could not be taken out; a later failure ends it early.
    pub fn evict_below(&mut self, offset: Offset) -> Result<Evicted, LogError> {
        let count = self.sealed.partition_point(|s| s.end <= offset);
        if let Some(last) = count.checked_sub(1) {
            self.keep_producers_at(self.sealed[last].end)?;
        }
        let mut gone = 0;
        let mut doomed = Vec::new();
        for segment in &self.sealed[..count] {
            let (name, deleted) = (names::log(segment.start), names::deleted(segment.start));
            if let Err(error) = self.disk.rename(&name, &deleted) {
                if gone == 0 {
                    return Err(disk_error("evict", &name)(error));
                }
                break;
            }
            gone += 1;
            crash_point("evict-unlinked");
            doomed.extend([deleted, names::index(segment.start), names::producers(segment.start)]);
        }
        let segments: Vec<_> = self.sealed.drain(..gone).collect();
        let first = self.first_segment_start();
        self.cache.retain(first, Offset::MAX);
        self.sealed_txns.retain(first, Offset::MAX);
        self.unflushed.retain(|(end, _)| *end > first);
        self.flush.forget_snapshots_below(first);
        if gone > 0 {
            self.flush.checkpoint_is_stale();
        }
        debug_assert!(segments.iter().all(|s| s.end <= offset));
        Ok(Evicted { segments, names: doomed, disk: self.disk.clone() })
    }

    /// Moves the log start up; what lies below is no longer readable and is evicted by `evict_below`. Moving
    /// it down does nothing.
    ///
    /// # Errors
    /// `OutOfRange` past the log's end; `Io` if it could not be written down.
    pub fn raise_log_start(&mut self, offset: Offset) -> Result<(), LogError> {
        let end = self.log_end();
        if offset > end {
            return Err(LogError::OutOfRange { offset, start: self.log_start, end });
        }
        if offset <= self.log_start {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.log_start, offset);
        match self.write_marks() {
            Ok(marks) => self.flush.log_start_was_raised(marks),
            Err(error) => {
                self.log_start = before;
                return Err(error);
            }
        }
        self.epochs.truncate_start(offset);
        self.flush.checkpoint_is_stale();
        Ok(())
    }

    /// Cuts the log so that it ends at `offset`, or at the start of the batch that holds it. For replicas: no
    /// reader may hold a slice or map of what is cut.
    ///
    /// # Errors
    /// `OutOfRange` below the first local segment: use `reset_to`. `Io` where there was no room to begin
    /// with: nothing is cut. Any other error poisons the log.
    pub fn truncate_to(&mut self, offset: Offset, now_ms: i64) -> Result<(), LogError> {
        self.check_writable()?;
        let (start, end) = (self.first_segment_start().max(self.log_start), self.log_end());
        if offset >= end {
            return Ok(());
        }
        if offset < start {
            return Err(LogError::OutOfRange { offset, start, end });
        }
        let done = match self.begin_cut(offset) {
            Err(error) if is_out_of_room(&error) => return Err(error),
            begun => begun.and_then(|cut| self.truncate_files(&cut, now_ms)),
        };
        if done.is_err() {
            self.refuses = Some("a truncation failed half way");
        }
        done
    }

    fn begin_cut(&mut self, offset: Offset) -> Result<Cut, LogError> {
        let cut = self.find_cut(offset)?;
        let log_start = self.log_start;
        self.log_start = log_start.min(cut.end);
        // A lower recovery point and log start are safe, should no more come of it.
        if let Err(error) = self.end_moves_back(cut.end) {
            self.log_start = log_start;
            self.flush.checkpoint_is_stale();
            return Err(error);
        }
        Ok(cut)
    }

    fn truncate_files(&mut self, cut: &Cut, now_ms: i64) -> Result<(), LogError> {
        while self.active.start > cut.segment {
            self.drop_active_segment()?;
        }
        self.remove_derived(cut.segment, cut.end)?;
        // A dropped segment that came back after a power failure might fit behind what is appended from here
        // on.
        self.disk.sync_dir().map_err(disk_error("fsync directory of", names::MARKS))?;
        self.prepare_active()?;
        let file = self.active.file.get().expect("prepared above");
        let name = names::log(self.active.start);
        file.truncate(cut.position).map_err(disk_error("truncate", &name))?;
        file.sync().map_err(disk_error("fsync", &name))?;
        self.active.index.get_mut().expect("prepared above").truncate(cut.position);
        self.active.bytes = cut.position;
        self.active.end = cut.end;
        self.active.max_timestamp = cut.max_timestamp;
        if cut.position == 0 {
            self.active.first_append_ms = None;
            self.active.first_timestamp = None;
        }
        debug_assert!(self.flushed_end <= cut.end);
        self.epochs.truncate_end(cut.end);
        self.producers = self.producers_at(cut.end, now_ms)?;
        if cut.position == 0 {
            self.producers.begin_segment();
        }
        self.sealed_txns.retain(0, self.active.start);
        self.verifications.clear();
        self.store_checkpoint()
    }

    /// Where the log is cut so that it ends at or before `offset`, which is local.
    fn find_cut(&self, offset: Offset) -> Result<Cut, LogError> {
        let end = self.log_end();
        let view = self.views(offset).next().ok_or(LogError::OutOfRange { offset, start: end, end })??;
        let batch = view.find(offset)?;
        let row = view.index.floor_of_position(batch.position.saturating_sub(1));
        let mut max_timestamp = row.max_timestamp_before;
        let mut scan = view.scan(u64::from(row.position));
        while let Some(at) = scan.next().map_err(|e| view.fault(e))? {
            if at.position >= batch.position {
                break;
            }
            max_timestamp = max_timestamp.max(at.header.max_timestamp);
        }
        let (position, end) = (batch.position, batch.header.base_offset);
        Ok(Cut { segment: view.start, position, end, max_timestamp })
    }

    /// Voids outstanding tickets and makes the lower recovery point durable before anything is cut.
    pub(super) fn end_moves_back(&mut self, end: Offset) -> Result<(), LogError> {
        self.flush.end_moves_back(end);
        self.closed_cleanly = false;
        self.flushed_end = self.flushed_end.min(end);
        // Both slots: later unsynced writes may tear the one and leave the other, which must not be the old
        // one.
        self.write_marks()?;
        let marks = self.write_marks()?;
        marks.sync().map_err(disk_error("fsync", names::MARKS))?;
        // A clean end in the stored checkpoint could match a file that is cut and grows again.
        self.store_checkpoint()?;
        self.disk.sync_dir().map_err(disk_error("fsync directory of", names::MARKS))
    }

    /// Removes the active segment's file; the last sealed one becomes active.
    pub(super) fn drop_active_segment(&mut self) -> Result<(), LogError> {
        let name = names::log(self.active.start);
        self.disk.remove(&name).map_err(disk_error("remove", &name))?;
        let last = self.sealed.pop().expect("the caller has checked that one is left");
        self.unflushed.retain(|(end, _)| *end < last.end);
        self.cache.retain(0, last.start);
        self.active = ActiveSegment {
            start: last.start,
            end: last.end,
            bytes: last.bytes,
            max_timestamp: last.max_timestamp,
            first_append_ms: Some(last.sealed_at_ms),
            first_timestamp: None,
            file: Default::default(),
            index: Default::default(),
        };
        Ok(())
    }

    /// Flushes and writes down how the log ends, so that the next open scans nothing. The log then refuses
    /// appends.
    ///
    /// # Errors
    /// `Poisoned` after a failed flush, now or earlier; `Io`. The next open then recovers.
    pub fn close(&mut self) -> Result<(), LogError> {
        if self.refuses == Some(CLOSED) {
            return Ok(());
        }
        self.check_writable()?;
        self.refuses = Some(CLOSED);
        if self.closed_cleanly {
            return Ok(());
        }
        let done = self.flush_ticket().without_checkpoint().run().map_err(|e| LogError::Io {
            what: e.what,
            file: names::log(self.active.start),
            source: e.source,
        })?;
        self.flushed(done);
        let active = &self.active;
        if active.bytes == 0 && self.sealed.is_empty() && active.file.get().is_none() {
            return Ok(());
        }
        if let Some(Err(error)) = active.file.get().map(|file| file.finish()) {
            warn!(%error, "disk space ahead of the active segment was not given back");
        }
        self.store_active_index();
        let has_producers = !self.producers.is_empty();
        if has_producers && active.bytes > 0 {
            self.store_derived(&names::producers(active.end), &self.producers.encode(active.end));
        }
        let mut checkpoint = self.checkpoint();
        checkpoint.clean = Some(CleanEnd {
            start: active.start,
            end: active.end,
            bytes: active.bytes,
            max_timestamp: active.max_timestamp,
            first_append_ms: active.first_append_ms.unwrap_or(0),
            first_timestamp: active.first_timestamp.unwrap_or(-1),
            has_producers,
        });
        replace_side_file(&*self.disk, names::CHECKPOINT, &checkpoint.encode())
            .map_err(disk_error("write", names::CHECKPOINT))
    }
}
