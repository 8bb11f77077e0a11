//! A group's snapshot: what a replica must know that begins above what it lacks. The records below are in the
//! tier; the snapshot is where the log goes on, its epochs and its producers (docs/format.md, "Raft
//! beginning").
//!
//! Installing, for a crash at any instant: the beginning is kept durably, then the base is moved, then the
//! log is begun there. A base past the log's end with a kept beginning is an installation to be finished.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use highwater_log::{Beginning as LogBeginning, EpochStart};
use highwater_model::Offset;

use super::Store;
use crate::core::raft_side::{Base, EntryId, SetMembers};
use crate::raft::OpenError;
use crate::raft::port::TierPoint;

const MAGIC: &[u8; 4] = b"HWRB";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 8;
const EPOCH_BYTES: usize = 12;

/// A snapshot as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Snapshot {
    pub tier: TierPoint,
    pub beginning: LogBeginning,
}

impl Snapshot {
    pub(in crate::raft) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.tier.manifest_version.to_le_bytes());
        out.extend_from_slice(&self.tier.tiered_end.to_le_bytes());
        out.extend_from_slice(&self.beginning.offset.to_le_bytes());
        out.extend_from_slice(&(self.beginning.epochs.len() as u32).to_le_bytes());
        for epoch in &self.beginning.epochs {
            out.extend_from_slice(&epoch.epoch.to_le_bytes());
            out.extend_from_slice(&epoch.start_offset.to_le_bytes());
        }
        out.extend_from_slice(&self.beginning.producers);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(in crate::raft) fn decode(bytes: &[u8]) -> io::Result<Snapshot> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "not a Raft beginning");
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(broken)?;
        let head = body.first_chunk::<HEAD_BYTES>().ok_or_else(broken)?;
        if &head[..4] != MAGIC || u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return Err(broken());
        }
        if u16::from_le_bytes([head[4], head[5]]) != VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a Raft beginning of a newer release"));
        }
        let mut rest = &body[HEAD_BYTES..];
        let mut next = |bytes: usize| {
            let (taken, after) = rest.split_at_checked(bytes).ok_or_else(broken)?;
            rest = after;
            Ok::<_, io::Error>(taken)
        };
        let u64_of = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        let manifest_version = u64_of(next(8)?);
        let (tiered_end, offset) = (u64_of(next(8)?) as Offset, u64_of(next(8)?) as Offset);
        let count = u32::from_le_bytes(next(4)?.try_into().expect("4 bytes")) as usize;
        if count > body.len() / EPOCH_BYTES {
            return Err(broken());
        }
        let mut epochs = Vec::with_capacity(count);
        for _ in 0..count {
            let epoch = i32::from_le_bytes(next(4)?.try_into().expect("4 bytes"));
            epochs.push(EpochStart { epoch, start_offset: u64_of(next(8)?) as Offset });
        }
        let beginning = LogBeginning { offset, epochs, producers: rest.to_vec() };
        Ok(Snapshot { tier: TierPoint { manifest_version, tiered_end }, beginning })
    }
}

impl Store {
    /// A snapshot of everything below the newest segment that need not be copied, and the entry it stands
    /// at; None where there is nothing below.
    pub(in crate::raft) fn snapshot(&self) -> io::Result<Option<(EntryId, SetMembers, Snapshot)>> {
        let tier = self.port.tier();
        let (base, applied) = {
            let inner = self.lock();
            (inner.side.state().base().clone(), inner.applied)
        };
        let Some(applied_id) = applied.0 else { return Ok(None) };
        let wanted = tier.tiered_end.min(applied.1).max(base.offset);
        let beginning = self.with_log(|log| {
            let start = log.segment_start_of(wanted).filter(|start| *start > base.offset);
            log.beginning_at(start.unwrap_or(base.offset))
        })?;
        let beginning = beginning.map_err(io::Error::other)?;
        let Some(index) = self.last_index_below(beginning.offset, applied_id.index)? else { return Ok(None) };
        let Some(id) = self.id_at(index)? else { return Ok(None) };
        let members = self.lock().side.state().members_at(index);
        let none = SetMembers { at: None, members: Arc::default() };
        Ok(Some((id, members.unwrap_or(none), Snapshot { tier, beginning })))
    }

    /// Whether a new replica may begin at a snapshot: what lies below is in the tier. A group that has taken
    /// over from fetch replication begins above what is tiered, and only its first voters have the rest.
    pub(in crate::raft) fn is_joinable(&self) -> bool {
        let tiered_end = self.port.tier().tiered_end;
        self.lock().side.state().base().offset <= tiered_end
    }

    /// The last entry below the newest segment start that is at or below `offset` and needs no copy here;
    /// None where that is not above the base.
    pub(in crate::raft) fn releasable(&self, offset: Offset) -> io::Result<Option<EntryId>> {
        let tiered_end = self.port.tier().tiered_end;
        let (base, applied) = {
            let inner = self.lock();
            (inner.side.state().base().offset, inner.applied)
        };
        let wanted = offset.min(tiered_end).min(applied.1);
        let start = self.with_log(|log| log.segment_start_of(wanted))?.filter(|start| *start > base);
        let (Some(start), Some(id)) = (start, applied.0) else { return Ok(None) };
        match self.last_index_below(start, id.index)? {
            Some(index) => self.id_at(index),
            None => Ok(None),
        }
    }

    /// Takes in a snapshot that stands at `id`. Where the log has that entry it stays as it is. Durable on
    /// return; blocks for fsyncs.
    pub(in crate::raft) fn install(
        &self,
        id: EntryId,
        members: SetMembers,
        snapshot: &Snapshot,
    ) -> io::Result<()> {
        let offset = snapshot.beginning.offset;
        let base = self.lock().side.state().base().clone();
        let is_there = base.at != Some(id) || base.offset == offset;
        if is_there && self.id_at(id.index)? == Some(id) {
            let mut inner = self.lock();
            if inner.applied.0 < Some(id) {
                inner.applied = (Some(id), offset);
            }
            drop(inner);
            self.advance();
            return Ok(());
        }
        let now_ms = self.port.now_ms();
        {
            let mut inner = self.lock();
            // What stands past the snapshot contradicts it: had it been committed, its entry would be here.
            self.with_log(|log| match log.log_end() > offset {
                true => log.truncate_to(offset, now_ms),
                false => Ok(()),
            })?
            .map_err(io::Error::other)?;
            // A flush that comes in between sees the log as it is now, and counts for nothing afterwards.
            inner.end = inner.end.min(offset);
            inner.side.keep_beginning(&snapshot.encode())?;
            let base = Base { at: Some(id), offset, members: Some(members) };
            // Entries that the log had are below the snapshot, or differ from it: openraft has checked.
            inner.side.state_mut().drop_all(&base);
            inner.side.rewrite()?;
        }
        self.finish_beginning().map_err(io::Error::other)?;
        let mut inner = self.lock();
        inner.tail.clear();
        inner.tail_bytes = 0;
        inner.hint = None;
        inner.generation += 1;
        (inner.last, inner.next_index, inner.end) = (Some(id), id.index + 1, offset);
        inner.durable = (Some(id), offset);
        inner.applied = (Some(id), offset);
        inner.advanced = inner.advanced.max(offset);
        self.released.store(offset, Ordering::SeqCst);
        drop(inner);
        let _advancing = self.advancing.lock().unwrap_or_else(PoisonError::into_inner);
        self.port.begun(offset);
        let moved = self.lock().advanced;
        self.port.advance(moved);
        self.told_high_watermark(moved);
        Ok(())
    }

    /// Begins the log where a snapshot that was taken in says, unless that was done before a crash.
    pub(super) fn finish_beginning(&self) -> Result<(), OpenError> {
        let (kept, offset) = {
            let inner = self.lock();
            (inner.side.beginning().map_err(OpenError::io)?, inner.side.state().base().offset)
        };
        let Some(kept) = kept else { return Ok(()) };
        // Cut short, or for a base that was never written: the group sends another.
        let snapshot = Snapshot::decode(&kept).ok().filter(|s| s.beginning.offset == offset);
        if let Some(snapshot) = snapshot {
            let begun = self.with_log(|log| {
                // Past it, the log has begun there and gone on.
                let has_begun = log.log_end() > offset && log.segment_start_of(offset) == Some(offset);
                if has_begun { Ok(()) } else { log.begin_at(&snapshot.beginning) }
            });
            begun.and_then(|begun| begun.map_err(io::Error::other)).map_err(OpenError::io)?;
        }
        self.lock().side.drop_beginning().map_err(OpenError::io)
    }

    /// The members in force at the last entry that is committed, for openraft.
    pub(in crate::raft) fn members_applied(&self) -> Option<SetMembers> {
        let inner = self.lock();
        let index = inner.applied.0.map_or(0, |id| id.index);
        inner.side.state().members_at(index)
    }

    /// The newest members in the log, committed or not.
    pub(in crate::raft) fn members_newest(&self) -> Option<SetMembers> {
        self.lock().side.state().members_at(u64::MAX)
    }

    /// Marks of the log's first entry, for openraft: what lies at or below is gone.
    pub(in crate::raft) fn base_id(&self) -> Option<EntryId> {
        self.lock().side.state().base().at
    }

    /// Writes a mark for tests of the journal's size.
    #[cfg(test)]
    pub(in crate::raft) fn write_mark(&self, mark: &crate::core::raft_side::Mark) -> io::Result<()> {
        let mut inner = self.lock();
        inner.side.write(mark)?;
        inner.side.tidy()
    }
}
