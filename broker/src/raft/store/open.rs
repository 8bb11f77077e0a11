//! Opening a replica's log: a group that begins, a replica that joins one, or what was there.
//!
//! A replica whose side file is gone or damaged may have forgotten a vote or an entry that it had promised to
//! keep. It is not opened: it comes back under another replica id, empty (docs/adr/0014).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex};

use highwater_log::disk::Disk;
use highwater_model::{NodeId, Offset};
use tokio::sync::watch;

use super::{Inner, Store};
use crate::core::raft_side::{Base, EntryId, Mark, Members, ReplicaId, SetMembers, SideState, StoredVote};
use crate::raft::OpenError;
use crate::raft::port::PartitionPort;
use crate::raft::side_file::SideFile;
use crate::raft::sync_queue::SyncQueue;

/// How a replica begins that has no side file yet; one that has goes on with it.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// It must have one: the group has formed with it.
    Existing,
    /// The group begins here, from a log that every member has up to `offset`. Each member begins with the
    /// same values.
    Group {
        replica: ReplicaId,
        /// Leader epoch of everything below; the first term is the one after.
        term: u64,
        offset: Offset,
        /// The voters and the nodes that hold them.
        members: BTreeMap<ReplicaId, NodeId>,
    },
    /// It joins a group, empty; what the local log holds is dropped.
    Joining { replica: ReplicaId },
}

impl Store {
    /// Opens a replica over the log that `port` holds. Everything found is durable on return. Blocks.
    ///
    /// # Errors
    /// Of the disk; `Lost` and `Side` for a replica that must come back as a new one; `Behind` for a log that
    /// does not reach where its group begins.
    pub fn open(
        disk: &Arc<dyn Disk>,
        port: Arc<dyn PartitionPort>,
        syncs: Arc<SyncQueue>,
        beginning: &Beginning,
    ) -> Result<Arc<Store>, OpenError> {
        let side = match SideFile::open(disk)? {
            Some(side) => side,
            None => begin(disk, &*port, beginning)?,
        };
        let offset = side.state().base().offset;
        let store = Store {
            port,
            syncs,
            advancing: Mutex::default(),
            is_flush_queued: AtomicBool::new(false),
            released: AtomicI64::new(offset),
            high_watermark: watch::Sender::new(offset),
            installing: Mutex::default(),
            is_commit_held_back: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                side,
                last: None,
                next_index: 0,
                end: offset,
                tail: VecDeque::new(),
                tail_bytes: 0,
                bytes_since_row: 0,
                bytes_since_note: 0,
                durable: (None, offset),
                applied: (None, offset),
                advanced: offset,
                generation: 0,
                waiting: VecDeque::new(),
                hint: None,
                failure: None,
            }),
        };
        store.finish_beginning()?;
        store.recover()?;
        store.forget_own_removal().map_err(OpenError::io)?;
        Ok(Arc::new(store))
    }

    /// A leader that was about to be voted out, and died before the others had the entry that says so, would
    /// be waited for in vain: they need its vote by the members before that entry, its log is longer than
    /// theirs, and openraft lets nobody stand whom its own newest members leave out (Raft would). So it takes
    /// back what it appended since. That is safe: by those members its copies count for nothing, and if they
    /// have committed the entry, no candidate without it gets their majority, which the members before need
    /// too. Only while it has taken nothing of another leader, which may have counted on what it has.
    fn forget_own_removal(&self) -> io::Result<()> {
        let cut = self.lock().own_removal();
        let Some((index, offset)) = cut else { return Ok(()) };
        if self.port.tier().tiered_end > offset {
            return Ok(());
        }
        tracing::info!(index, offset, "takes back an entry by which it was to leave the group");
        self.truncate(index)
    }

    /// Brings side file and log to one end, and makes what is there durable.
    fn recover(&self) -> Result<(), OpenError> {
        let base = self.lock().side.state().base().clone();
        let (local_start, end) =
            self.with_log(|log| (log.local_start(), log.log_end())).map_err(OpenError::io)?;
        if end < base.offset || (local_start > base.offset && end > base.offset) {
            return Err(OpenError::Lost(format!(
                "Raft's log begins at offset {}, the segments hold {local_start}..{end}",
                base.offset
            )));
        }
        {
            let mut inner = self.lock();
            inner.end = end;
            if inner.side.state_mut().drop_past(end) {
                inner.side.rewrite().map_err(OpenError::io)?;
            }
        }
        let next_index = self.count().map_err(OpenError::io)?;
        self.lock().next_index = next_index;
        let last = match next_index.checked_sub(1) {
            Some(index) => self.id_at(index).map_err(OpenError::io)?,
            None => None,
        };
        let ticket = self.with_log(|log| log.flush_ticket()).map_err(OpenError::io)?;
        if !ticket.is_empty() {
            let done = ticket.run().map_err(|e| OpenError::io(io::Error::other(e)))?;
            self.with_log(|log| log.flushed(done)).map_err(OpenError::io)?;
        }
        let committed =
            self.lock().side.state().committed.filter(|id| Some(*id) <= last && Some(*id) > base.at);
        let mut applied = (base.at, base.offset);
        if let Some(id) = committed {
            let entry = self.entry(id.index).map_err(OpenError::io)?.filter(|entry| entry.id == id);
            applied = entry.map_or(applied, |entry| (Some(id), entry.next_offset()));
        }
        let mut inner = self.lock();
        inner.last = last;
        inner.durable = (last, end);
        inner.applied = applied;
        inner.advanced = applied.1;
        self.high_watermark.send_replace(applied.1);
        let moved = applied.1;
        drop(inner);
        self.port.advance(moved);
        Ok(())
    }
}

impl Inner {
    /// Where the entry stands that takes this replica, its last leader, out of the group; None if there is
    /// none or it is known to be committed.
    fn own_removal(&self) -> Option<(u64, Offset)> {
        let state = self.side.state();
        let me = state.replica;
        let newest = state.members_at(u64::MAX).filter(|set| !set.members.nodes.contains_key(&me))?;
        let at = newest.at.filter(|at| at.leader == me && Some(*at) > self.applied.0)?;
        let before = state.members_at(at.index.checked_sub(1)?)?;
        let voted = before.members.voters.iter().any(|set| set.contains(&me));
        let follows = state.vote.is_some_and(|vote| vote.is_committed && vote.replica != me);
        let is_last_leader = self.last.is_some_and(|last| last.leader == me);
        let entry = state.entry(at.index).filter(|_| voted && is_last_leader && !follows)?;
        Some((entry.id.index, entry.offset))
    }
}

/// A replica without a side file.
fn begin(
    disk: &Arc<dyn Disk>,
    port: &dyn PartitionPort,
    beginning: &Beginning,
) -> Result<SideFile, OpenError> {
    match beginning {
        Beginning::Existing => Err(OpenError::Lost("its Raft side file is gone".to_owned())),
        Beginning::Group { replica, term, offset, members } => {
            end_log_at(port, *offset)?;
            let at = EntryId { term: *term, leader: 0, index: 0 };
            let members = Arc::new(Members::of_voters(members.clone()));
            let set = SetMembers { at: Some(at), members };
            let mut state = SideState::new(*replica, *offset);
            let base = Mark::Base(Base { at: Some(at), offset: *offset, members: Some(set) });
            let vote = Mark::Vote(StoredVote { term: *term, replica: 0, is_committed: false });
            for mark in [base, vote] {
                state.apply(&mark).expect("a new state takes its first marks");
            }
            SideFile::create(disk, state).map_err(OpenError::io)
        }
        Beginning::Joining { replica } => {
            let mut reset = Ok(());
            let is_there = port.with_log(&mut |log| {
                if log.log_end() > 0 {
                    reset = log.reset_to(0);
                }
            });
            reset.map_err(|e| OpenError::io(io::Error::other(e)))?;
            if !is_there {
                return Err(OpenError::io(io::Error::other("the partition is closed")));
            }
            SideFile::create(disk, SideState::new(*replica, 0)).map_err(OpenError::io)
        }
    }
}

/// The log ends at `offset`, where a segment begins: from there on Raft counts.
fn end_log_at(port: &dyn PartitionPort, offset: Offset) -> Result<(), OpenError> {
    let mut outcome = Err(OpenError::io(io::Error::other("the partition is closed")));
    let now_ms = port.now_ms();
    port.with_log(&mut |log| {
        let log_end = log.log_end();
        if log_end < offset {
            outcome = Err(OpenError::Behind { log_end, offset });
            return;
        }
        let cut = log.truncate_to(offset, now_ms).and_then(|()| log.roll(now_ms));
        outcome = match cut {
            Ok(_) if log.log_end() == offset => Ok(()),
            Ok(_) => Err(OpenError::Behind { log_end: log.log_end(), offset }),
            Err(e) => Err(OpenError::io(io::Error::other(e))),
        };
    });
    outcome
}
