//! Making the log durable, off its owner's lock.
//!
//! Owns `FlushTicket`: what must be synced for the log as it was when the ticket was drawn. The owner draws
//! it under its lock, runs it on the disk's flush queue, and hands the outcome back under its lock. Invariant
//! 5: a failure poisons the log at once, through a flag they share, whatever the owner does with the error.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use highwater_model::Offset;
use tracing::warn;

use super::PartitionLog;
use crate::disk::{Disk, DiskFile, replace_side_file};
use crate::error::FlushError;
use crate::names;

/// What the log remembers between flushes.
#[derive(Debug, Default)]
pub(super) struct FlushState {
    shared: Arc<Shared>,
    /// Grows when the log's end moves back: an older ticket then no longer says anything.
    generation: u64,
    /// Grow with every change; the `synced` and `stored` ones follow when a flush has made them durable.
    names_added: u64,
    names_synced: u64,
    checkpoint_changes: u64,
    checkpoint_stored: u64,
    /// A raised log start that is written and not yet synced.
    marks: Option<(u64, Arc<dyn DiskFile>)>,
    marks_raised: u64,
    /// Producer snapshots at the borders of segments that are written and not yet synced, by the count of
    /// them.
    snapshots: Vec<(u64, Offset, Arc<dyn DiskFile>)>,
    snapshots_written: u64,
    /// Borders whose snapshot is durable, as far as this process has made it so.
    snapshots_synced: BTreeSet<Offset>,
    /// The marks, kept open by a log that flushes: else every flush would open them, under the owner's lock.
    open_marks: Option<Arc<dyn DiskFile>>,
}

#[derive(Debug, Default)]
struct Shared {
    failed: AtomicBool,
    /// Held while a checkpoint is replaced; the newest change that has been stored.
    stored: Mutex<u64>,
}

impl FlushState {
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    pub fn name_was_added(&mut self) {
        self.names_added += 1;
    }

    /// The next flush syncs `marks`.
    pub fn log_start_was_raised(&mut self, marks: Arc<dyn DiskFile>) {
        self.marks_raised += 1;
        self.marks = Some((self.marks_raised, marks));
    }

    pub fn open_marks(&self) -> Option<Arc<dyn DiskFile>> {
        self.open_marks.clone()
    }

    /// The next flush syncs it.
    pub fn snapshot_was_written(&mut self, border: Offset, file: Arc<dyn DiskFile>) {
        self.snapshots_written += 1;
        self.names_added += 1;
        self.snapshots.push((self.snapshots_written, border, file));
    }

    pub fn snapshot_was_synced(&mut self, border: Offset) {
        self.snapshots_synced.insert(border);
    }

    fn snapshots_were_synced(&mut self, upto: u64) {
        let synced = self.snapshots.extract_if(.., |(written, _, _)| *written <= upto);
        self.snapshots_synced.extend(synced.map(|(_, border, _)| border));
    }

    pub fn has_durable_snapshot(&self, border: Offset) -> bool {
        self.snapshots_synced.contains(&border)
    }

    /// Snapshots below are of no more use.
    pub fn forget_snapshots_below(&mut self, border: Offset) {
        self.snapshots.retain(|(_, at, _)| *at >= border);
        self.snapshots_synced.retain(|at| *at >= border);
    }

    pub fn checkpoint_is_stale(&mut self) {
        self.checkpoint_changes += 1;
    }

    /// Makes outstanding tickets void and waits for one that is replacing the checkpoint.
    pub fn end_moves_back(&mut self, end: Offset) {
        self.generation += 1;
        self.snapshots.retain(|(_, at, _)| *at <= end);
        self.snapshots_synced.retain(|at| *at <= end);
        self.checkpoint_changes += 1;
        self.checkpoint_stored = self.checkpoint_changes;
        let mut stored = self.shared.stored.lock().expect("no holder panics");
        *stored = self.checkpoint_changes;
    }
}

/// The work of one flush. Dropping it unrun is harmless.
#[derive(Debug)]
#[must_use = "nothing is durable until the ticket has run and its outcome was handed back"]
pub struct FlushTicket {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    files: Vec<Arc<dyn DiskFile>>,
    end: Offset,
    generation: u64,
    names: Option<u64>,
    marks: Option<u64>,
    snapshots: u64,
    checkpoint: Option<(u64, Vec<u8>)>,
}

/// What a ticket has made durable.
#[derive(Clone, Copy, Debug)]
#[must_use = "hand it back to the log with `flushed`"]
pub struct FlushDone {
    end: Offset,
    generation: u64,
    names: Option<u64>,
    marks: Option<u64>,
    snapshots: u64,
    checkpoint: Option<u64>,
}

impl FlushDone {
    /// Everything below is durable.
    pub fn end(&self) -> Offset {
        self.end
    }
}

impl FlushTicket {
    /// Everything below will be durable.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Whether there is nothing to sync.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.names.is_none() && self.checkpoint.is_none()
    }

    /// The same without the checkpoint, for one who writes it himself.
    pub(super) fn without_checkpoint(self) -> FlushTicket {
        FlushTicket { checkpoint: None, ..self }
    }

    /// Syncs the files, then their names, then stores the checkpoint. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The first fsync that failed; the log is then poisoned. A checkpoint that could not be stored is only
    /// logged: a scan does its work.
    pub fn run(self) -> Result<FlushDone, FlushError> {
        if self.shared.failed.load(Ordering::Acquire) {
            let source = std::io::Error::other("an earlier fsync failed");
            return Err(FlushError { what: "flush a poisoned log", source });
        }
        for file in &self.files {
            self.poison_on_error("fsync a segment", file.sync())?;
        }
        if self.names.is_some() {
            self.poison_on_error("fsync a partition's directory", self.disk.sync_dir())?;
        }
        let checkpoint = self.checkpoint.as_ref().and_then(|(change, content)| self.store(*change, content));
        let FlushTicket { end, generation, names, marks, snapshots, .. } = self;
        Ok(FlushDone { end, generation, names, marks, snapshots, checkpoint })
    }

    fn poison_on_error(&self, what: &'static str, done: std::io::Result<()>) -> Result<(), FlushError> {
        done.map_err(|source| {
            self.shared.failed.store(true, Ordering::Release);
            FlushError { what, source }
        })
    }

    fn store(&self, change: u64, content: &[u8]) -> Option<u64> {
        let mut stored = self.shared.stored.lock().expect("no holder panics");
        if *stored < change {
            if let Err(error) = replace_side_file(&*self.disk, names::CHECKPOINT, content) {
                warn!(%error, "checkpoint was not stored");
                return None;
            }
            *stored = change;
        }
        Some(change)
    }
}

impl PartitionLog {
    /// Draws the work that makes everything appended so far durable.
    pub fn flush_ticket(&self) -> FlushTicket {
        let mut files: Vec<_> = self.unflushed.iter().map(|(_, file)| file.clone()).collect();
        let unflushed_tail = self.flushed_end < self.active.end && self.active.bytes > 0;
        files.extend(self.active.file.get().filter(|_| unflushed_tail).cloned());
        self.ticket(files, self.active.end)
    }

    /// As `flush_ticket` for sealed segments only: after a roll, without making the active segment's writer
    /// wait.
    pub fn flush_sealed_ticket(&self) -> FlushTicket {
        let files = self.unflushed.iter().map(|(_, file)| file.clone()).collect();
        self.ticket(files, self.active.start.max(self.flushed_end))
    }

    fn ticket(&self, mut files: Vec<Arc<dyn DiskFile>>, end: Offset) -> FlushTicket {
        let state = &self.flush;
        files.extend(state.marks.iter().map(|(_, file)| file.clone()));
        files.extend(state.snapshots.iter().map(|(_, _, file)| file.clone()));
        let checkpoint = (state.checkpoint_stored < state.checkpoint_changes)
            .then(|| (state.checkpoint_changes, self.checkpoint().encode()));
        FlushTicket {
            shared: state.shared.clone(),
            disk: self.disk.clone(),
            files,
            end,
            generation: state.generation,
            marks: state.marks.as_ref().map(|(raised, _)| *raised),
            snapshots: state.snapshots_written,
            names: (state.names_synced < state.names_added).then_some(state.names_added),
            checkpoint,
        }
    }

    /// Takes in what a ticket has made durable and moves the recovery point.
    pub fn flushed(&mut self, done: FlushDone) {
        if done.generation != self.flush.generation || self.flush.failed() {
            return;
        }
        debug_assert!(done.end <= self.log_end());
        if let Some(names) = done.names {
            self.flush.names_synced = self.flush.names_synced.max(names);
        }
        if done.marks.is_some() && done.marks == self.flush.marks.as_ref().map(|(raised, _)| *raised) {
            self.flush.marks = None;
        }
        self.flush.snapshots_were_synced(done.snapshots);
        if let Some(checkpoint) = done.checkpoint {
            self.flush.checkpoint_stored = self.flush.checkpoint_stored.max(checkpoint);
        }
        self.unflushed.retain(|(end, _)| *end > done.end);
        if done.end > self.flushed_end {
            self.flushed_end = done.end;
            match self.write_marks() {
                Ok(file) => self.flush.open_marks = Some(file),
                Err(error) => warn!(%error, "recovery point was not stored; recovery will scan more"),
            }
        }
    }
}
