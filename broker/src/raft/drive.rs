//! A group's log and vote for the simulation alone, which plays openraft's part itself: its order of steps
//! must come from a seed. Nothing here decides; every call is one of `Store`'s, on the caller's thread.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::disk::Disk;
use highwater_log::{SequenceRefusal, Sequenced};
use highwater_model::Offset;
use highwater_wire::batch::BatchHeader;
use tokio::sync::Semaphore;

use super::store::Snapshot;
use super::types::{Batch, Body, Placed, Stored};
use super::{Beginning, OpenError, PartitionPort, Store, SyncQueue};
use crate::core::raft_side::{EntryId, Members, ReplicaId, SetMembers, StoredVote};

/// A replica's store, as openraft would use it.
#[doc(hidden)]
#[derive(Clone)]
pub struct DrivenStore(Arc<Store>);

impl DrivenStore {
    /// # Errors
    /// As `Store::open`.
    pub fn open(
        disk: &Arc<dyn Disk>,
        port: Arc<dyn PartitionPort>,
        beginning: &Beginning,
    ) -> Result<DrivenStore, OpenError> {
        Store::open(disk, port, Arc::new(SyncQueue::inline()), beginning).map(DrivenStore)
    }

    pub fn replica(&self) -> ReplicaId {
        self.0.replica()
    }

    /// As a restart finds it.
    pub fn vote(&self) -> Option<StoredVote> {
        self.0.vote()
    }

    /// The term of the vote that was written last.
    pub fn term(&self) -> u64 {
        self.0.term()
    }

    pub fn last(&self) -> Option<EntryId> {
        self.0.last().or(self.0.base_id())
    }

    pub fn base_id(&self) -> Option<EntryId> {
        self.0.base_id()
    }

    pub fn durable(&self) -> Option<EntryId> {
        self.0.durable()
    }

    pub fn applied(&self) -> Option<EntryId> {
        self.0.applied_id()
    }

    pub fn failure(&self) -> Option<String> {
        self.0.failure()
    }

    pub fn has_begun(&self, term: u64) -> bool {
        self.0.has_begun(term)
    }

    pub fn released_end(&self) -> Offset {
        self.0.released_end()
    }

    /// The newest members in the log, committed or not.
    pub fn members(&self) -> Option<SetMembers> {
        self.0.members_newest()
    }

    /// # Errors
    /// Files that cannot be read.
    pub fn id_at(&self, index: u64) -> io::Result<Option<EntryId>> {
        self.0.id_at(index)
    }

    /// # Errors
    /// Files that cannot be read.
    pub fn entries(&self, start: u64, max_bytes: usize) -> io::Result<Vec<Stored>> {
        let found = self.0.entries(start, u64::MAX, max_bytes)?;
        let follows = found.first().is_some_and(|entry| entry.id.index == start);
        Ok(if follows { found } else { Vec::new() })
    }

    /// # Errors
    /// The disk's; or a vote that breaks a rule.
    pub fn write_vote(&self, vote: StoredVote) -> io::Result<()> {
        self.0.write_vote(vote)
    }

    /// # Errors
    /// The disk's, which end the replica's part.
    pub fn sync_side(&self) -> io::Result<()> {
        let outcome = Arc::new(std::sync::Mutex::new(Ok(())));
        let told = outcome.clone();
        self.0.sync_side(Box::new(move |done| *told.lock().expect("one thread") = done))?;
        std::mem::replace(&mut *outcome.lock().expect("one thread"), Ok(()))
    }

    /// Appends an entry of a leader's.
    ///
    /// # Errors
    /// The disk's; or an entry that does not fit.
    pub fn append(&self, entry: &Stored) -> io::Result<()> {
        match &entry.body {
            Body::Blank => self.0.append_side(entry.id, None),
            Body::Members(members) => self.0.append_side(entry.id, Some(members.clone())),
            Body::Batch { header, bytes } => {
                self.0.append_batch(entry.id, Batch::stored(*header, bytes.clone()))
            }
        }
    }

    /// Appends a batch of a client's, as the leader; returns where it is.
    ///
    /// # Errors
    /// The disk's.
    pub fn propose(&self, id: EntryId, header: BatchHeader, bytes: Bytes) -> io::Result<Placed> {
        let turn = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody else has it");
        let (batch, mut told) = Batch::proposed(header, bytes, turn);
        self.0.append_batch(id, batch)?;
        Ok(told.try_recv().expect("told where it was put"))
    }

    /// # Errors
    /// The log cannot be asked.
    pub fn check_sequence(&self, header: &BatchHeader) -> io::Result<Result<Sequenced, SequenceRefusal>> {
        self.0.check_sequence(header)
    }

    /// Flushes what is appended.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// # Errors
    /// The disk's; or a committed entry would be cut.
    pub fn truncate(&self, index: u64) -> io::Result<()> {
        self.0.truncate(index)
    }

    /// # Errors
    /// The disk's.
    pub fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.0.purge(upto)
    }

    /// Everything up to `id` is committed: as openraft's state machine is told.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn commit(&self, id: EntryId) -> io::Result<()> {
        let from = self.0.applied_id().map_or(0, |applied| applied.index + 1);
        let entries = self.0.entries(from, id.index + 1, usize::MAX)?;
        let is_batch = |entry: &&Stored| matches!(entry.body, Body::Batch { .. });
        let end = entries.iter().rev().find(is_batch).map(Stored::next_offset);
        self.0.applied(id, end);
        self.0.note_committed(id)
    }

    /// Whether a new replica may begin at a snapshot.
    pub fn is_joinable(&self) -> bool {
        self.0.is_joinable()
    }

    /// # Errors
    /// Files that cannot be read.
    pub fn snapshot(&self) -> io::Result<Option<(EntryId, SetMembers, Vec<u8>)>> {
        let made = self.0.snapshot()?;
        Ok(made.map(|(id, members, snapshot)| (id, members, snapshot.encode())))
    }

    /// # Errors
    /// The disk's; or bytes that are no snapshot.
    pub fn install(&self, at: EntryId, members: SetMembers, bytes: &[u8]) -> io::Result<()> {
        self.0.install(at, members, &Snapshot::decode(bytes)?)
    }

    /// # Errors
    /// Files that cannot be read.
    pub fn releasable(&self, offset: Offset) -> io::Result<Option<EntryId>> {
        self.0.releasable(offset)
    }

    /// Notes commits, as a clean stop does.
    pub fn close(&self) {
        self.0.close();
    }

    /// Ends the replica's part, as openraft's storage does at an error.
    pub fn fail(&self, why: &str) {
        self.0.fail(why);
    }
}

/// An entry that is no batch.
#[doc(hidden)]
pub fn side_entry(id: EntryId, members: Option<Members>) -> Stored {
    let body = members.map_or(Body::Blank, |members| Body::Members(Arc::new(members)));
    Stored { id, offset: 0, body }
}
