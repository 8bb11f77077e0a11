//! What workers do to a partition: flush, roll, seal, evict, move the log start, close.
//!
//! Each call takes the lock once and does no I/O that can be done off it: fdatasync runs on a ticket, files
//! of evicted segments go when the result is dropped. Invariants: 1, 5, 10 (eviction stays below the
//! published end).

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use highwater_compaction::core::retention::LocalShape;
use highwater_log::{AbortedTxn, Evicted, FlushDone, FlushError, FlushTicket, LogError, SealedSegment};
use highwater_model::{LeaderEpoch, Offset, OffsetBounds};
use highwater_tiering::core::manifest::Manifest;

use super::{Inner, Partition, Unavailable};
use crate::core::replica::Role;
use crate::core::room::NoRoom;
use crate::workers::offload::OffloadTrouble;
use crate::workers::pace::Unpublished;

/// One sealed segment that is to go to the tier.
#[derive(Debug)]
pub struct SealTask {
    pub segment: SealedSegment,
    pub leader_epoch: LeaderEpoch,
    pub epochs: Vec<highwater_log::EpochStart>,
    /// The producer table at the segment's start, encoded; empty where it is not known.
    pub producer_snapshot: Vec<u8>,
    /// The segment's bytes, mapped.
    pub bytes: Bytes,
    /// Transactions with batches in it that were aborted: they stay out of the object.
    pub aborted: Vec<AbortedTxn>,
}

/// What a partition has on the local disk.
#[derive(Clone, Debug)]
pub struct LocalUse {
    pub bounds: OffsetBounds,
    pub bytes: u64,
    /// Sealed but not in the tier yet.
    pub backlog_segments: u64,
    pub backlog_bytes: u64,
    pub oldest_backlog_ms: Option<i64>,
    /// Sealing has stopped here, and why.
    pub seal_alarm: Option<Arc<str>>,
}

impl Partition {
    /// The work of a flush: of all that was appended, or of sealed segments alone.
    pub(crate) fn draw_flush(&self, sealed_only: bool) -> Option<FlushTicket> {
        let mut inner = self.lock().ok()?;
        let log = inner.log();
        let ticket = if sealed_only { log.flush_sealed_ticket() } else { log.flush_ticket() };
        if !sealed_only {
            inner.unflushed_offsets = 0;
        }
        (!ticket.is_empty() || ticket.end() > inner.log().flushed_end()).then_some(ticket)
    }

    /// The outcome of a flush: moves the flushed end and what hangs on it, or stops the partition (invariant
    /// 5).
    pub(crate) fn flush_ended(&self, now_ms: i64, outcome: Result<FlushDone, FlushError>) {
        let mut inner = self.lock_any();
        let done = match outcome {
            Ok(done) => done,
            Err(e) => {
                let (topic, partition) = (&self.topic, self.tp.partition);
                tracing::error!(%topic, partition, "fdatasync failed, the partition stops until restart: {e}");
                inner.log_mut().poison("an fsync failed");
                self.fail(&mut inner, &e);
                return;
            }
        };
        let before = inner.log().flushed_end();
        let moves = inner.replica.flushed(now_ms, done);
        self.take_moves(&mut inner, &moves);
        self.check_bounds(&mut inner);
        let is_further = inner.log().flushed_end() > before;
        let follows = inner.replica.role() != Role::Leader;
        drop(inner);
        self.tell(&moves);
        if is_further {
            self.told();
            if follows {
                // The leader waits to hear of it.
                self.listeners.tell(self.tp);
            }
        }
    }

    /// Whether `flush.ms` has passed since something was appended that no flush has covered.
    pub(crate) fn is_flush_due(&self, now_ms: i64) -> bool {
        let flush_ms = self.terms().config.flush_ms;
        if flush_ms == i64::MAX {
            return false;
        }
        let inner = self.lock_any();
        inner.unflushed_offsets > 0 && now_ms.saturating_sub(inner.unflushed_since_ms) >= flush_ms
    }

    /// Seals the active segment if its time has come; true if it did.
    ///
    /// # Errors
    /// Of the disk; the log is as before.
    pub(crate) fn roll_if_due(&self, now_ms: i64) -> Result<bool, LogError> {
        match self.lock() {
            Ok(mut inner) => inner.log_mut().roll_if_due(now_ms),
            Err(_) => Ok(false),
        }
    }

    /// Seals the active segment now and returns the end of what is sealed.
    ///
    /// # Errors
    /// As [`Partition::roll_if_due`].
    pub(crate) fn roll_now(&self, now_ms: i64) -> Result<Offset, LogError> {
        let Ok(mut inner) = self.lock() else {
            return Err(LogError::Poisoned("the partition does not serve"));
        };
        inner.log_mut().roll(now_ms)?;
        Ok(inner.log().active_start())
    }

    /// The oldest sealed segment that the tier does not have, if sealing may go on.
    ///
    /// # Errors
    /// The segment cannot be mapped.
    pub(crate) fn seal_task(&self) -> Result<Option<SealTask>, LogError> {
        let Ok(inner) = self.lock() else {
            return Ok(None);
        };
        let leader_epoch = inner.replica.leader_epoch();
        let Some(segment) = next_to_seal(&inner, self.bounds_of(&inner).last_stable) else {
            return Ok(None);
        };
        let aborted = inner.log().aborted_in(segment.start, segment.end)?;
        let bytes = inner.log().map_sealed(segment.start)?;
        let producer_snapshot = inner.log().producer_snapshot_at_seal(segment.start).unwrap_or_default();
        let epochs = inner.log().epochs().iter().filter(|e| e.start_offset < segment.end).copied().collect();
        assert!(segment.end > inner.manifest.tiered_end, "a segment to seal has something new");
        Ok(Some(SealTask { segment, leader_epoch, epochs, producer_snapshot, bytes, aborted }))
    }

    /// Whether a sealed segment waits for the tier.
    pub(crate) fn has_seal_task(&self) -> bool {
        self.lock().is_ok_and(|inner| next_to_seal(&inner, self.bounds_of(&inner).last_stable).is_some())
    }

    /// Whether there is something to offload and its time has come.
    pub(crate) fn wants_offload(&self, now_ms: i64) -> bool {
        self.offload_trouble().is_over(now_ms) && self.has_seal_task()
    }

    fn offload_trouble(&self) -> std::sync::MutexGuard<'_, OffloadTrouble> {
        self.offload_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_offload_trouble(&self, trouble: OffloadTrouble) {
        *self.offload_trouble() = trouble;
    }

    pub(crate) fn offload_failed(&self, note: impl FnOnce(&mut OffloadTrouble)) {
        note(&mut self.offload_trouble());
    }

    /// Why the last offload failed, if none has succeeded since.
    pub fn offload_trouble_reason(&self) -> Option<Arc<str>> {
        self.offload_trouble().reason()
    }

    fn no_room(&self) -> std::sync::MutexGuard<'_, NoRoom> {
        self.no_room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An append was refused because the disk is full.
    pub(crate) fn refused_for_room(&self, now_ms: i64) {
        self.no_room().refused(now_ms);
    }

    /// Whether this leader has refused for so long that another one should lead.
    pub(crate) fn wants_to_resign(&self, now_ms: i64) -> bool {
        self.no_room().wants_another(now_ms)
    }

    /// That was asked for.
    pub(crate) fn resigned(&self, now_ms: i64) {
        self.no_room().resigned(now_ms);
    }

    /// Whether this replica takes nothing more until the process starts anew: its log is damaged, or an fsync
    /// or a write that could not be taken back has failed.
    pub(crate) fn is_broken(&self) -> bool {
        let inner = self.lock_any();
        match &inner.unavailable {
            Some(Unavailable::Closed) => false,
            Some(Unavailable::Storage(_)) => true,
            None => inner.log().refusal().is_some(),
        }
    }

    /// Sealing has met damaged data and stops; appends and reads of other ranges go on.
    pub(crate) fn raise_seal_alarm(&self, place: &str) {
        self.lock_any().seal_alarm = Some(place.into());
    }

    pub fn seal_alarm(&self) -> Option<Arc<str>> {
        self.lock_any().seal_alarm.clone()
    }

    /// Takes over a newer manifest of this partition.
    pub fn set_manifest(&self, manifest: Arc<Manifest>) {
        let mut inner = self.lock_any();
        if manifest.version > inner.manifest.version {
            assert!(manifest.tiered_end >= inner.manifest.tiered_end, "a manifest's end never moves back");
            inner.manifest = manifest;
            self.check_bounds(&mut inner);
        }
    }

    /// Sizes and times of what is local, for the retention plan.
    pub(crate) fn local_shape(&self) -> Option<LocalShape> {
        let inner = self.lock().ok()?;
        Some(LocalShape {
            segments: inner.log().sealed().to_vec(),
            active_bytes: inner.log().local_bytes()
                - inner.log().sealed().iter().map(|s| s.bytes).sum::<u64>(),
            active_max_timestamp: inner.log().active_max_timestamp(),
            bounds: self.bounds_of(&inner),
        })
    }

    /// Drops local segments below `offset` that are in the tier or below the log start; the files go when the
    /// result is dropped.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn evict_below(&self, offset: Offset) -> Result<Option<Evicted>, LogError> {
        let Ok(mut inner) = self.lock() else {
            return Ok(None);
        };
        // Invariant 10: never above what the committed manifest lists, or what retention has given up.
        let tiered_end = inner.manifest.tiered_end.max(inner.manifest.log_start);
        let allowed = match self.released_end() {
            // A group must have let go of it first.
            Some(released) => released.min(tiered_end),
            None => inner.manifest.tiered_end,
        };
        let allowed = allowed.min(self.high_watermark());
        let evicted = inner.log_mut().evict_below(offset.min(allowed))?;
        self.check_bounds(&mut inner);
        Ok((!evicted.segments.is_empty()).then_some(evicted))
    }

    /// Moves the log start up, after the manifest has.
    ///
    /// # Errors
    /// Of the disk, or past the log's end.
    pub(crate) fn raise_log_start(&self, offset: Offset) -> Result<(), LogError> {
        let Ok(mut inner) = self.lock() else {
            return Ok(());
        };
        // The manifest's log start rules; a group's log must not begin above where the group thinks.
        let offset = self.released_end().map_or(offset, |released| offset.min(released));
        inner.log_mut().raise_log_start(offset)?;
        self.check_bounds(&mut inner);
        Ok(())
    }

    /// Moves the log's own start to the manifest's, if it is behind: the disk may have refused it when the
    /// manifest moved.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn follow_log_start(&self) -> Result<(), LogError> {
        let Ok(mut inner) = self.lock() else {
            return Ok(());
        };
        let log_start = self.bounds_of(&inner).log_start;
        let log_start = self.released_end().map_or(log_start, |released| log_start.min(released));
        if inner.log().log_start() < log_start {
            inner.log_mut().raise_log_start(log_start)?;
            self.check_bounds(&mut inner);
        }
        Ok(())
    }

    /// What is sealed and on its way to the tier; nothing where there is no way.
    pub(crate) fn unpublished(&self) -> Unpublished {
        if !self.terms().config.uploads() {
            return Unpublished::default();
        }
        let inner = self.lock_any();
        if inner.seal_alarm.is_some() || inner.unavailable.is_some() || inner.replica.role() != Role::Leader {
            return Unpublished::default();
        }
        let sealed = inner.log().sealed();
        let waiting = &sealed[sealed.partition_point(|s| s.end <= inner.manifest.tiered_end)..];
        Unpublished {
            bytes: waiting.iter().map(|s| s.bytes).sum(),
            oldest_ms: waiting.first().map(|s| s.sealed_at_ms),
        }
    }

    /// What is local, and what of it waits for the tier.
    pub fn local_use(&self) -> LocalUse {
        let inner = self.lock_any();
        let tiered_end = inner.manifest.tiered_end;
        let waiting = inner.log().sealed().iter().filter(|s| s.end > tiered_end);
        let (mut backlog_segments, mut backlog_bytes, mut oldest_backlog_ms) = (0, 0, None);
        for segment in waiting {
            backlog_segments += 1;
            backlog_bytes += segment.bytes;
            oldest_backlog_ms = oldest_backlog_ms.or(Some(segment.sealed_at_ms));
        }
        LocalUse {
            bounds: self.bounds_of(&inner),
            bytes: inner.log().local_bytes(),
            backlog_segments,
            backlog_bytes,
            oldest_backlog_ms,
            seal_alarm: inner.seal_alarm.clone(),
        }
    }

    /// Ends service: waiters and later requests learn that the partition is gone from here. `clean` flushes
    /// the log and notes its end, so that the next start need not recover; false if that failed. A partition
    /// that had stopped to serve is left as it is.
    pub(crate) fn close(&self, clean: bool) -> bool {
        let mut inner = self.lock_any();
        let was_serving = inner.unavailable.is_none();
        self.end_service(&mut inner, Unavailable::Closed);
        if clean
            && was_serving
            && let Err(e) = inner.log_mut().close()
        {
            let (topic, partition) = (&self.topic, self.tp.partition);
            tracing::warn!(%topic, partition, "not closed cleanly, the next start recovers: {e}");
            return false;
        }
        was_serving || !clean
    }
}

/// The first sealed segment past the tier in which every transaction has ended, unless sealing has stopped.
/// Only a leader writes to the tier.
fn next_to_seal(inner: &Inner, last_stable: Offset) -> Option<SealedSegment> {
    if inner.seal_alarm.is_some() || inner.replica.role() != Role::Leader {
        return None;
    }
    // Manifests are fenced by the leader epoch that is on record: a group's leader waits until it is there.
    if inner.recorded.is_some_and(|(epoch, _)| epoch != inner.replica.leader_epoch()) {
        return None;
    }
    let sealed = inner.log().sealed();
    let at = sealed.partition_point(|s| s.end <= inner.manifest.tiered_end);
    sealed.get(at).filter(|s| s.end <= last_stable).cloned()
}
