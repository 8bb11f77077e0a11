//! Taking away from either end of a group's log. Invariant 4: what is committed is never cut.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;

use super::Store;
use crate::core::raft_side::{Anchor, Base, EntryId, Mark};

impl Store {
    /// Removes the entries from `index` on; durable on return. Blocks for fsyncs.
    pub(in crate::raft) fn truncate(&self, index: u64) -> io::Result<()> {
        let offset = match self.entry(index)? {
            Some(entry) => entry.offset,
            None => return Ok(()),
        };
        // Found before the cut: a flush that waits for the lock must see the new end and the new last entry
        // together, or it would call durable what was cut.
        let last = match index.checked_sub(1) {
            Some(before) => self.id_at(before)?,
            None => None,
        };
        let mut inner = self.lock();
        // Invariant 4: what was committed stays, whoever asks.
        if inner.applied.0.is_some_and(|applied| applied.index >= index) {
            return Err(io::Error::other("a committed entry would be cut"));
        }
        let now_ms = self.port.now_ms();
        self.with_log(|log| log.truncate_to(offset, now_ms))?.map_err(io::Error::other)?;
        inner.side.write_durably(&Mark::Cut(Anchor { index, offset }))?;
        while inner.tail.back().is_some_and(|entry| entry.id.index >= index) {
            let gone = inner.tail.pop_back().expect("there is one");
            inner.tail_bytes -= gone.bytes();
        }
        inner.hint = None;
        inner.generation += 1;
        inner.end = offset;
        inner.next_index = index;
        inner.last = last;
        // What was cut was synced with it; what is left may be a little more than was known to be durable.
        inner.durable = inner.durable.min((last, offset));
        let waiting = std::mem::take(&mut inner.waiting);
        let (gone, still): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(|(at, _)| *at >= index);
        inner.waiting = still;
        drop(inner);
        for (_, done) in gone {
            done(Err(io::Error::other("the entry was cut")));
        }
        Ok(())
    }

    /// Moves the base up to `upto`: entries at or below it are gone. Durable on return.
    pub(in crate::raft) fn purge(&self, upto: EntryId) -> io::Result<()> {
        if self.lock().side.state().base().at.is_some_and(|at| at.index >= upto.index) {
            return Ok(());
        }
        let entry = self.entry(upto.index)?;
        if entry.is_none() && self.is_installing() {
            // The snapshot moves the base itself, with the log.
            return Ok(());
        }
        let mut inner = self.lock();
        let members = inner.side.state().members_at(upto.index);
        // Past the log's end, it goes on after `upto`.
        let offset = entry.map_or(inner.end, |entry| entry.next_offset());
        inner.side.write_durably(&Mark::Base(Base { at: Some(upto), offset, members }))?;
        self.released.store(offset, Ordering::SeqCst);
        if inner.applied.0 < Some(upto) {
            inner.applied = (Some(upto), offset);
        }
        if inner.next_index <= upto.index {
            (inner.last, inner.next_index) = (Some(upto), upto.index + 1);
        }
        while inner.tail.front().is_some_and(|entry| entry.id.index <= upto.index) {
            let gone = inner.tail.pop_front().expect("there is one");
            inner.tail_bytes -= gone.bytes();
        }
        inner.hint = None;
        inner.side.tidy()
    }
}
