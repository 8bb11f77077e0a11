//! A group's log and vote: the partition's own segment files for batches, the side file for everything else.
//! Synchronous; openraft's traits over it are in `storage`.
//!
//! Order, for a crash at any instant (invariant 12). Batches go to the segment files, whose valid prefix is
//! found by CRC. An entry that is no batch is durable in the side file before anything after it is written to
//! the segment files, so an index is never counted past it; where the log then lost its tail, entries that
//! stood past its end are forgotten. A truncation cuts the log first: what is left is a prefix either way.
//!
//! Durability. A follower's append is told of when it is on the disk. A leader's is told of at once and
//! counts only when its own fsync has passed too: its commits are told to followers no further than that, and
//! the high watermark moves no further (`storage`, `network`). So a leader syncs while its followers do.
//!
//! Invariants: 2 (offsets come from `PartitionLog` alone), 3, 4 (what is committed is never cut), 5, 6, 12.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_log::{FlushTicket, LogError, PartitionLog, SequenceRefusal, Sequenced};
use highwater_model::limits::{
    RAFT_COMMIT_NOTE_BYTES, RAFT_ROW_BYTES, RAFT_TAIL_BYTES_MAX, RAFT_TAIL_ENTRIES_MAX,
};
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::batch::BatchHeader;
use tokio::sync::watch;

use super::port::PartitionPort;
use super::side_file::SideFile;
use super::sync_queue::SyncQueue;
use super::types::{Batch, Body, Placed, Stored};
use crate::core::raft_side::{Anchor, EntryId, Mark, Members, ReplicaId, SideEntry, StoredVote};
use crate::replica::{Origin, judge};

mod open;
mod read;
mod snapshot;
mod trim;

pub use open::Beginning;
pub(super) use snapshot::Snapshot;

/// Told when an append is durable, or has failed.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub struct Store {
    pub(super) port: Arc<dyn PartitionPort>,
    syncs: Arc<SyncQueue>,
    inner: Mutex<Inner>,
    /// Held while a move of the high watermark is told, so that moves are told in order; taken before
    /// `inner`.
    advancing: Mutex<()>,
    is_flush_queued: AtomicBool,
    /// Copy of the base's offset, to be read while the log's owner holds its lock.
    released: AtomicI64,
    high_watermark: watch::Sender<Offset>,
    /// A snapshot is on its way in until its entry is applied: openraft appends and purges past it without
    /// waiting for it.
    installing: Mutex<Option<EntryId>>,
    /// A commit was told to a follower no further than this leader's fsync has come.
    is_commit_held_back: AtomicBool,
}

pub(super) struct Inner {
    side: SideFile,
    last: Option<EntryId>,
    next_index: u64,
    /// The log's end, as Raft has it.
    end: Offset,
    /// The newest entries, contiguous up to the last.
    tail: VecDeque<Stored>,
    tail_bytes: usize,
    bytes_since_row: u64,
    bytes_since_note: u64,
    /// The last entry on the disk, and the log's end after it.
    durable: (Option<EntryId>, Offset),
    /// The last entry that is committed, as far as openraft has said, and the log's end after it.
    applied: (Option<EntryId>, Offset),
    advanced: Offset,
    /// Grows when the log's end moves back: what an older flush has synced then says nothing.
    generation: u64,
    waiting: VecDeque<(u64, Done)>,
    /// Where the last read of files ended: the next goes on there.
    hint: Option<Anchor>,
    failure: Option<String>,
}

/// One flush of the log, as it was when drawn.
struct Flush {
    ticket: FlushTicket,
    upto: (Option<EntryId>, Offset),
    generation: u64,
}

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this replica's part: nothing more is written, who waits is told.
    pub(super) fn fail(&self, why: &str) {
        let waiting = {
            let mut inner = self.lock();
            if inner.failure.is_some() {
                return;
            }
            inner.failure = Some(why.to_owned());
            inner.side.failed();
            std::mem::take(&mut inner.waiting)
        };
        for (_, done) in waiting {
            done(Err(io::Error::other(why.to_owned())));
        }
        self.port.failed(why);
    }

    /// Runs `work` on the partition's log; to be called with `inner` locked.
    fn with_log<R>(&self, work: impl FnOnce(&mut PartitionLog) -> R) -> io::Result<R> {
        let (mut work, mut outcome) = (Some(work), None);
        let ran = self.port.with_log(&mut |log| {
            if let Some(work) = work.take() {
                outcome = Some(work(log));
            }
        });
        outcome.filter(|_| ran).ok_or_else(|| io::Error::other("the partition is closed"))
    }

    /// Appends a batch: one that was proposed here gets its offset; one of a leader's must be the next.
    pub(super) fn append_batch(&self, id: EntryId, batch: Batch) -> io::Result<()> {
        let mut inner = self.lock();
        inner.check_next(id)?;
        let epoch = LeaderEpoch::try_from(id.term).map_err(io::Error::other)?;
        if inner.side.state().leader_of(id.index) != Some((id.term, id.leader)) {
            return Err(io::Error::other("a batch of a leader that has not begun its term"));
        }
        let now_ms = self.port.now_ms();
        let appended = self.with_log(|log| {
            if log.log_end() != inner.end {
                return Err(LogError::Batch("the log was written behind Raft's back"));
            }
            match batch.is_proposed() {
                true => log.append(&batch.header, &batch.bytes, epoch, now_ms),
                false if batch.header.leader_epoch != epoch => Err(LogError::Batch("epoch is not its term")),
                false => log.append_replicated(&batch.header, &batch.bytes, now_ms),
            }
        })?;
        let appended = appended.map_err(io::Error::other)?;
        let header = BatchHeader { base_offset: appended.base_offset, leader_epoch: epoch, ..batch.header };
        inner.note_row(id.index, header.base_offset, batch.bytes.len() as u64)?;
        let (base_offset, next_offset) = (appended.base_offset, appended.next_offset);
        inner.took(Stored {
            id,
            offset: base_offset,
            body: Body::Batch { header, bytes: batch.bytes.clone() },
        });
        drop(inner);
        batch.tell(Placed { term: id.term, base_offset, next_offset });
        Ok(())
    }

    /// Appends an entry that is no batch. Not durable before `sync_side`, and nothing may follow until then.
    pub(super) fn append_side(&self, id: EntryId, members: Option<Arc<Members>>) -> io::Result<()> {
        let mut inner = self.lock();
        inner.check_next(id)?;
        let offset = inner.end;
        inner.side.write(&Mark::Entry(SideEntry { id, offset, members: members.clone() }))?;
        inner.bytes_since_row = 0;
        inner.took(Stored { id, offset, body: members.map_or(Body::Blank, Body::Members) });
        Ok(())
    }

    /// Makes the side file durable, on the disk's queue; `done` is told.
    pub(super) fn sync_side(self: &Arc<Store>, done: Done) -> io::Result<()> {
        let store = self.clone();
        self.syncs.push(Box::new(move || {
            let sync = store.lock().side.draw_sync();
            match sync.run() {
                Ok(length) => {
                    store.lock().side.synced(length);
                    done(Ok(()));
                }
                Err(e) => {
                    done(Err(io::Error::other(e.to_string())));
                    store.fail(&format!("fsync of the Raft side file: {e}"));
                }
            }
        }))
    }

    /// Stores a vote; not durable before `sync_side`.
    pub(super) fn write_vote(&self, vote: StoredVote) -> io::Result<()> {
        let mut inner = self.lock();
        inner.side.tidy()?;
        inner.side.write(&Mark::Vote(vote))
    }

    /// The vote to go on with after a restart: never as the leader that this replica may have been.
    pub(super) fn vote(&self) -> Option<StoredVote> {
        self.lock().side.state().vote.map(|vote| StoredVote { is_committed: false, ..vote })
    }

    /// Whether this replica appends `id` as its leader.
    pub(super) fn leads(&self, id: EntryId) -> bool {
        let inner = self.lock();
        let state = inner.side.state();
        let elected = state.vote.is_some_and(|vote| vote.is_committed && vote.term == id.term);
        elected && id.leader == state.replica
    }

    /// Has `done` told once the entry at `index` is on the disk.
    pub(super) fn when_durable(&self, index: u64, done: Done) {
        let mut inner = self.lock();
        if let Some(why) = &inner.failure {
            let failure = io::Error::other(why.clone());
            drop(inner);
            return done(Err(failure));
        }
        if inner.durable.0.is_some_and(|id| id.index >= index) {
            drop(inner);
            return done(Ok(()));
        }
        inner.waiting.push_back((index, done));
    }

    /// Asks for a flush of everything appended.
    pub(super) fn queue_flush(self: &Arc<Store>) {
        if self.is_flush_queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let store = self.clone();
        if let Err(e) = self.syncs.push(Box::new(move || store.flush())) {
            self.is_flush_queued.store(false, Ordering::SeqCst);
            self.fail(&e.to_string());
        }
    }

    /// One flush, on the caller's thread.
    pub(super) fn flush(self: &Arc<Store>) {
        // Cleared before the ticket is drawn: what is appended from here on asks again.
        self.is_flush_queued.store(false, Ordering::SeqCst);
        let drawn = {
            let inner = self.lock();
            let upto = (inner.last, inner.end);
            let generation = inner.generation;
            self.with_log(|log| log.flush_ticket()).map(|ticket| Flush { ticket, upto, generation })
        };
        let outcome = drawn.and_then(|flush| {
            let done = flush.ticket.run().map_err(|e| io::Error::other(e.to_string()))?;
            assert!(done.end() >= flush.upto.1, "a ticket covers what was appended");
            self.with_log(|log| log.flushed(done))?;
            Ok((flush.upto, flush.generation))
        });
        match outcome {
            Ok((upto, generation)) => self.flushed(upto, generation),
            Err(e) => self.fail(&e.to_string()),
        }
    }

    fn flushed(&self, upto: (Option<EntryId>, Offset), generation: u64) {
        let mut told = Vec::new();
        {
            let mut inner = self.lock();
            if inner.generation != generation || inner.failure.is_some() {
                return;
            }
            inner.durable = inner.durable.max(upto);
            let durable = inner.durable.0.map_or(0, |id| id.index + 1);
            // Not only from the front: a claim may wait for a later entry than the append after it.
            let waiting = std::mem::take(&mut inner.waiting);
            let (done, still): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|(index, _)| *index < durable);
            inner.waiting = still;
            told.extend(done);
        }
        for (_, done) in told {
            done(Ok(()));
        }
        self.advance();
    }

    /// Moves the high watermark to what is committed and durable here.
    fn advance(&self) {
        let _advancing = self.advancing.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = {
            let mut inner = self.lock();
            let end = inner.applied.1.min(inner.durable.1);
            let moved = end > inner.advanced;
            inner.advanced = inner.advanced.max(end);
            moved.then_some(end)
        };
        if let Some(end) = moved {
            self.port.advance(end);
            self.told_high_watermark(end);
        }
    }

    /// Tells those who wait; a move that was overtaken tells nothing.
    fn told_high_watermark(&self, end: Offset) {
        self.high_watermark.send_if_modified(|known| {
            let moved = end > *known;
            *known = (*known).max(end);
            moved
        });
    }

    /// Everything up to `id` is committed; `end` is the log's end after its last batch, if there is a new
    /// one.
    pub(super) fn applied(&self, id: EntryId, end: Option<Offset>) {
        {
            let mut inner = self.lock();
            let end = end.unwrap_or(inner.applied.1);
            inner.applied = (Some(id), end);
        }
        self.advance();
    }

    /// Notes how far commits have come, now and then: what a restart may count on at once.
    pub(super) fn note_committed(&self, id: EntryId) -> io::Result<()> {
        let mut inner = self.lock();
        let known = inner.durable.0.is_some_and(|durable| id <= durable);
        if !known || inner.bytes_since_note < RAFT_COMMIT_NOTE_BYTES {
            return Ok(());
        }
        inner.bytes_since_note = 0;
        inner.side.write(&Mark::Committed(id))
    }

    /// Whether a snapshot is on its way in, however long that takes its disk.
    pub(super) fn is_installing(&self) -> bool {
        let at = *self.installing();
        at.is_some_and(|at| self.applied_id() < Some(at)) && self.failure().is_none()
    }

    /// A snapshot that stands at `at` is about to be given to openraft.
    pub(super) fn begin_installing(&self, at: EntryId) {
        let mut installing = self.installing();
        *installing = (*installing).max(Some(at));
    }

    /// openraft did not take that snapshot.
    pub(super) fn abandon_installing(&self, at: EntryId) {
        self.installing().take_if(|installing| *installing == at);
    }

    fn installing(&self) -> MutexGuard<'_, Option<EntryId>> {
        self.installing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index that is appended next.
    pub(super) fn next_index(&self) -> u64 {
        self.lock().next_index
    }

    /// What lies below may be evicted: Raft's log begins there.
    pub(super) fn released_end(&self) -> Offset {
        self.released.load(Ordering::SeqCst)
    }

    /// Gives back the memory of the tail; for a group at rest.
    pub(super) fn shed(&self) {
        let mut inner = self.lock();
        inner.tail = VecDeque::new();
        inner.tail_bytes = 0;
    }

    /// Notes commits and closes the side file's account; for a clean stop.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        let durable = inner.durable.0;
        if let Some(id) = inner.applied.0.filter(|id| durable.is_some_and(|d| *id <= d)) {
            // A note that is lost costs a wait for the next leader.
            let _ = inner.side.write_durably(&Mark::Committed(id));
        }
    }

    /// The last entry on the disk here, for what a leader tells of commits.
    pub(super) fn durable(&self) -> Option<EntryId> {
        self.lock().durable.0
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        self.lock().last
    }

    pub(super) fn applied_id(&self) -> Option<EntryId> {
        self.lock().applied.0
    }

    /// The high watermark as this replica knows it.
    pub(super) fn watch_high_watermark(&self) -> watch::Receiver<Offset> {
        self.high_watermark.subscribe()
    }

    pub(super) fn replica(&self) -> ReplicaId {
        self.lock().side.state().replica
    }

    /// The term of the newest vote.
    pub(super) fn term(&self) -> u64 {
        self.lock().side.state().vote.map_or(0, |vote| vote.term)
    }

    /// The term that this replica leads, or led last and has voted in no later one.
    pub(super) fn led_term(&self) -> Option<u64> {
        let inner = self.lock();
        let state = inner.side.state();
        state.vote.filter(|vote| vote.is_committed && vote.replica == state.replica).map(|vote| vote.term)
    }

    /// Whether the entry that a leader begins `term` with is committed, and with it all that came before.
    pub(super) fn has_begun(&self, term: u64) -> bool {
        let inner = self.lock();
        let began = inner.side.state().entries_of(term).next();
        let is_applied = inner.applied.0.is_some_and(|id| id.term == term);
        is_applied && began.is_none_or(|entry| inner.advanced >= entry.offset)
    }

    /// The log's end, as Raft has it.
    pub(super) fn appended_end(&self) -> Offset {
        self.lock().end
    }

    /// Judges a producer's batch against everything in the log, committed or not.
    pub(super) fn check_sequence(
        &self,
        header: &BatchHeader,
    ) -> io::Result<Result<Sequenced, SequenceRefusal>> {
        let _inner = self.lock();
        self.with_log(|log| log.producers().check(header))
    }

    /// As `check_sequence`, by who writes the batch.
    pub(super) fn judge(
        &self,
        header: &BatchHeader,
        origin: Origin,
    ) -> io::Result<Result<Sequenced, SequenceRefusal>> {
        let _inner = self.lock();
        self.with_log(|log| judge(log, header, origin))
    }

    #[cfg(test)]
    pub(super) fn lock_end(&self) -> Offset {
        self.lock().end
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Whether a commit waits to be told further, once asked for.
    pub(super) fn take_held_back(&self) -> bool {
        self.is_commit_held_back.swap(false, Ordering::SeqCst)
    }

    pub(super) fn hold_back_commit(&self) {
        self.is_commit_held_back.store(true, Ordering::SeqCst);
    }
}

impl Inner {
    fn check_next(&self, id: EntryId) -> io::Result<()> {
        if let Some(why) = &self.failure {
            return Err(io::Error::other(why.clone()));
        }
        let begins = self.side.state().is_untouched();
        if (id.index != self.next_index && !begins) || self.last.is_some_and(|last| id.term < last.term) {
            return Err(io::Error::other("an append would leave a hole or go back a term"));
        }
        Ok(())
    }

    /// A row now and then, so that an index is found by counting few batches.
    fn note_row(&mut self, index: u64, offset: Offset, bytes: u64) -> io::Result<()> {
        self.bytes_since_note += bytes;
        self.bytes_since_row += bytes;
        if self.bytes_since_row < RAFT_ROW_BYTES || offset <= self.side.state().last_anchor().offset {
            return Ok(());
        }
        self.bytes_since_row = 0;
        self.side.write(&Mark::Row(Anchor { index, offset }))
    }

    fn took(&mut self, entry: Stored) {
        assert!(self.last.is_none() || entry.id.index == self.next_index, "entries are dense");
        assert!(entry.offset == self.end, "an entry stands at the log's end");
        self.end = entry.next_offset();
        self.last = Some(entry.id);
        self.next_index = entry.id.index + 1;
        self.tail_bytes += entry.bytes();
        self.tail.push_back(entry);
        while self.tail.len() > RAFT_TAIL_ENTRIES_MAX
            || (self.tail_bytes > RAFT_TAIL_BYTES_MAX && self.tail.len() > 1)
        {
            let gone = self.tail.pop_front().expect("there is one");
            self.tail_bytes -= gone.bytes();
        }
    }
}
