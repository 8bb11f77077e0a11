//! openraft's log storage: entries in memory, every change of them also on disk through the writer's thread.
//!
//! What is in memory is bounded by the snapshot policy (entries since the last snapshot, and as many kept
//! below it). Reads never touch the disk. Invariants: 5, 12, 19.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use highwater_model::limits::COMMANDS_PER_ENTRY_BYTES;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::OpenError;
use super::files::LogFiles;
use super::types::{
    GroupEntry, GroupLogId, GroupVote, StorageError, StorageIOError, TypeConfig, decode, encode, log_id,
    position, stored_vote, vote,
};
use super::writer::{Done, Write, Writer, read_vote};

/// The log of this node. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    writer: Arc<Writer>,
    memory: RwLock<Memory>,
}

#[derive(Default)]
struct Memory {
    /// The entry and the length of its body.
    entries: VecDeque<(GroupEntry, usize)>,
    purged: Option<GroupLogId>,
    vote: Option<GroupVote>,
    committed: Option<GroupLogId>,
}

impl LogStore {
    /// Opens the log below `dir` and starts its writer, which holds `lock` until it ends.
    pub(super) fn open(dir: &Path, lock: File) -> Result<(LogStore, Arc<Writer>), OpenError> {
        let log_dir = dir.join("log");
        let opened = LogFiles::open(&log_dir)?;
        if opened.cut_bytes > 0 {
            tracing::warn!(bytes = opened.cut_bytes, "cut a torn tail off the Raft log");
        }
        let stored_vote = read_vote(dir)?;
        if stored_vote.is_none() && (opened.before.is_some() || opened.entries.len() > 1) {
            return Err(OpenError::damaged(&dir.join("vote"), 0, "missing, though there is a log"));
        }
        let mut memory = Memory {
            purged: opened.before.map(log_id),
            vote: stored_vote.map(vote),
            committed: opened.committed.map(log_id),
            ..Memory::default()
        };
        for frame in &opened.entries {
            let entry = decode(frame).map_err(|e| OpenError::damaged(&log_dir, 0, e.to_string()))?;
            memory.entries.push_back((entry, frame.body.len()));
        }
        let last = memory.last();
        memory.committed = memory.committed.filter(|committed| last.is_some_and(|last| *committed <= last));
        let writer = Writer::start(opened.files, dir, lock).map_err(OpenError::io(dir))?;
        let writer = Arc::new(writer);
        let shared = Shared { writer: Arc::clone(&writer), memory: RwLock::new(memory) };
        Ok((LogStore { shared: Arc::new(shared) }, writer))
    }

    /// Position before the first entry that is held.
    pub(super) fn purged(&self) -> Option<GroupLogId> {
        self.read().purged
    }

    /// Position of the last entry.
    pub(super) fn last(&self) -> Option<GroupLogId> {
        self.read().last()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Memory> {
        self.shared.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Memory> {
        self.shared.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the writer do something and waits until it is durable.
    async fn durable(&self, request: impl FnOnce(Done) -> Write) -> io::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |outcome| {
            let _ = tell.send(outcome);
        });
        self.shared.writer.send(request(done))?;
        told.await.map_err(|_| io::Error::other("the Raft log's thread has ended"))?
    }
}

impl Memory {
    fn last(&self) -> Option<GroupLogId> {
        self.entries.back().map(|(entry, _)| entry.log_id).or(self.purged)
    }

    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index)
    }

    fn slice(&self, start: u64, end: u64) -> impl Iterator<Item = &(GroupEntry, usize)> {
        let first = self.first_index().unwrap_or(0);
        let count = |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX);
        let (start, end) = (count(start).min(self.entries.len()), count(end).min(self.entries.len()));
        self.entries.range(start..end.max(start))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
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
        Ok(self.read().slice(start, end).map(|(entry, _)| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<GroupEntry>, StorageError> {
        let memory = self.read();
        let mut bytes = 0;
        let within = |(_, length): &&(GroupEntry, usize)| {
            let room = bytes < COMMANDS_PER_ENTRY_BYTES;
            bytes += length;
            room
        };
        Ok(memory.slice(start, end).take_while(within).map(|(entry, _)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let memory = self.read();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &GroupVote) -> Result<(), StorageError> {
        let stored = stored_vote(vote);
        self.durable(|done| Write::Vote { vote: stored, done }).await.map_err(|e| write_vote_error(&e))?;
        self.write().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<GroupVote>, StorageError> {
        Ok(self.read().vote)
    }

    async fn save_committed(&mut self, committed: Option<GroupLogId>) -> Result<(), StorageError> {
        self.write().committed = committed;
        if let Some(committed) = committed {
            let mark = Write::Committed(position(&committed));
            self.shared.writer.send(mark).map_err(|e| write_logs_error(&e))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<GroupLogId>, StorageError> {
        Ok(self.read().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = GroupEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut frames = Vec::new();
        {
            let mut memory = self.write();
            for entry in entries {
                let frame = encode(&entry).map_err(|e| {
                    StorageIOError::write_log_entry(entry.log_id, openraft::AnyError::new(&e))
                })?;
                let last = memory.entries.back().map(|(entry, _)| entry.log_id.index);
                if last.is_some_and(|last| last + 1 != frame.at.index) {
                    return Err(write_logs_error(&io::Error::other("an append would leave a hole")));
                }
                memory.entries.push_back((entry, frame.body.len()));
                frames.push(frame);
            }
        }
        let done: Done = Box::new(move |outcome| callback.log_io_completed(outcome));
        self.shared.writer.send(Write::Append { frames, done }).map_err(|e| write_logs_error(&e))
    }

    async fn truncate(&mut self, from: GroupLogId) -> Result<(), StorageError> {
        {
            let mut memory = self.write();
            while memory.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= from.index) {
                memory.entries.pop_back();
            }
        }
        let truncated = self.durable(|done| Write::Truncate { from: from.index, done }).await;
        truncated.map_err(|e| write_logs_error(&e))
    }

    async fn purge(&mut self, upto: GroupLogId) -> Result<(), StorageError> {
        {
            let mut memory = self.write();
            while memory.first_index().is_some_and(|first| first <= upto.index) {
                memory.entries.pop_front();
            }
            memory.purged = memory.purged.max(Some(upto));
        }
        let purged = self.durable(|done| Write::Purge { upto: position(&upto), done }).await;
        purged.map_err(|e| write_logs_error(&e))
    }
}

fn write_logs_error(error: &io::Error) -> StorageError {
    StorageIOError::write_logs(openraft::AnyError::new(error)).into()
}

fn write_vote_error(error: &io::Error) -> StorageError {
    StorageIOError::write_vote(openraft::AnyError::new(error)).into()
}
