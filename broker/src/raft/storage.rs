//! openraft's log storage over a group's `Store`.
//!
//! Writing to the page cache happens on the caller's task, as for fetch topics (docs/adr/0005); fsyncs on the
//! disk's queue. A leader's own append is told of as done before its fsync (see `store`): so a restart must
//! never resume a leadership, whose unsynced entries may be gone here and known elsewhere. The vote is given
//! back as a candidate's.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::RAFT_APPEND_BYTES_MAX;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};

use super::store::{Done, Store};
use super::types::{
    GroupEntry, GroupLogId, GroupVote, StorageError, Stored, TypeConfig, entry_id, log_id, members,
    read_error, stored_vote, vote, write_error,
};
use crate::core::raft_side::EntryId;

/// Pause between two looks at a snapshot that is being installed.
pub(super) const INSTALL_LOOK: Duration = Duration::from_millis(5);

/// The log as openraft sees it. Clones share it.
#[derive(Clone)]
pub(super) struct Log {
    store: Arc<Store>,
}

impl Log {
    pub(super) fn new(store: Arc<Store>) -> Log {
        Log { store }
    }

    /// Makes the side file durable.
    async fn sync_side(&self) -> io::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |outcome| {
            let _ = tell.send(outcome);
        });
        self.store.sync_side(done)?;
        told.await.map_err(|_| io::Error::other("the disk's queue has ended"))?
    }

    async fn append_all(&self, entries: impl Iterator<Item = GroupEntry>) -> io::Result<Option<EntryId>> {
        let mut last = None;
        for entry in entries {
            let id = entry_id(&entry.log_id);
            // What follows a snapshot waits for it; how long is bounded by who sends it.
            while self.store.is_installing() && self.store.next_index() != id.index {
                tokio::time::sleep(INSTALL_LOOK).await;
            }
            match entry.payload {
                EntryPayload::Normal(batch) => self.store.append_batch(id, batch)?,
                EntryPayload::Blank => {
                    self.store.append_side(id, None)?;
                    self.sync_side().await?;
                }
                EntryPayload::Membership(set) => {
                    self.store.append_side(id, Some(Arc::new(members(&set))))?;
                    self.sync_side().await?;
                }
            }
            last = Some(id);
        }
        Ok(last)
    }

    /// Runs what blocks for fsyncs off the runtime's threads.
    async fn blocking(&self, work: impl FnOnce(&Store) -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(io::Error::other)?
    }

    /// An error ends the group's part: openraft stops at the first one.
    fn failed(&self, error: &io::Error) -> StorageError {
        self.store.fail(&error.to_string());
        write_error(error)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<GroupEntry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let found = self.store.entries(start, end, usize::MAX).map_err(|e| read_error(&e))?;
        Ok(found.into_iter().map(Stored::into_entry).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<GroupEntry>, StorageError> {
        let found = self.store.entries(start, end, RAFT_APPEND_BYTES_MAX).map_err(|e| read_error(&e))?;
        // What was purged meanwhile is answered by nothing, not by what comes after it.
        let follows = found.first().is_some_and(|entry| entry.id.index == start);
        Ok(if follows { found.into_iter().map(Stored::into_entry).collect() } else { Vec::new() })
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let base = self.store.base_id().map(log_id);
        Ok(LogState { last_purged_log_id: base, last_log_id: self.store.last().map(log_id).or(base) })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &GroupVote) -> Result<(), StorageError> {
        self.store.write_vote(stored_vote(vote)).map_err(|e| self.failed(&e))?;
        self.sync_side().await.map_err(|e| self.failed(&e))
    }

    async fn read_vote(&mut self) -> Result<Option<GroupVote>, StorageError> {
        Ok(self.store.vote().map(vote))
    }

    async fn save_committed(&mut self, committed: Option<GroupLogId>) -> Result<(), StorageError> {
        match committed {
            Some(id) => self.store.note_committed(entry_id(&id)).map_err(|e| self.failed(&e)),
            None => Ok(()),
        }
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = GroupEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = self.append_all(entries.into_iter()).await.map_err(|e| self.failed(&e))?;
        match last {
            Some(id) if !self.store.leads(id) => {
                let done: Done = Box::new(move |outcome| callback.log_io_completed(outcome));
                self.store.when_durable(id.index, done);
            }
            _ => callback.log_io_completed(Ok(())),
        }
        self.store.queue_flush();
        Ok(())
    }

    async fn truncate(&mut self, from: GroupLogId) -> Result<(), StorageError> {
        let index = from.index;
        self.blocking(move |store| store.truncate(index)).await.map_err(|e| self.failed(&e))?;
        self.store.queue_flush();
        Ok(())
    }

    async fn purge(&mut self, upto: GroupLogId) -> Result<(), StorageError> {
        let upto = entry_id(&upto);
        self.blocking(move |store| store.purge(upto)).await.map_err(|e| self.failed(&e))
    }
}
