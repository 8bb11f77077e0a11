//! Finding entries by index: in the tail, or by counting batches in the files from the nearest anchor.
//!
//! Files are read off the log's lock; a batch that does not stand where its index says ends the read with an
//! error (invariant 19), one that was cut or evicted meanwhile ends it with what there is.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use highwater_log::{LogSlice, ReadError};
use highwater_model::Offset;
use highwater_model::limits::RAFT_ROW_BYTES;
use highwater_wire::batch::BatchHeader;

use super::Store;
use crate::core::raft_side::{Anchor, EntryId, SideEntry};
use crate::raft::types::{Body, Stored};

/// Bytes of one read of the files.
const CHUNK_BYTES: usize = RAFT_ROW_BYTES as usize / 4;

/// What a walk over the files has to know, taken under the lock.
struct Walk {
    at: Anchor,
    end_index: u64,
    end_offset: Offset,
    entries: BTreeMap<u64, SideEntry>,
    /// Term and leader of the batches at `at`.
    leader: Option<(u64, u64)>,
}

impl Store {
    /// Entries from `start` up to `end`, both indexes; at most about `max_bytes`, one at least. Fewer if the
    /// log does not hold them.
    pub(in crate::raft) fn entries(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Stored>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut take = |entry: &Stored| {
            let fits = bytes == 0 || bytes + entry.bytes() <= max_bytes;
            if fits {
                bytes += entry.bytes();
                found.push(entry.clone());
            }
            fits
        };
        let walk = {
            let inner = self.lock();
            let end = end.min(inner.next_index);
            let start = start.max(inner.side.state().first_index());
            if start >= end {
                return Ok(found);
            }
            let tail_start = inner.tail.front().map_or(u64::MAX, |entry| entry.id.index);
            if start >= tail_start {
                let skip = usize::try_from(start - tail_start).map_err(io::Error::other)?;
                let wanted = usize::try_from(end - start).map_err(io::Error::other)?;
                inner.tail.iter().skip(skip).take(wanted).all(&mut take);
                return Ok(found);
            }
            let anchor = inner.side.state().anchor_for_index(start).expect("at or past the first index");
            let hint = inner.hint.filter(|hint| hint.index <= start && hint.index > anchor.index);
            inner.walk(hint.unwrap_or(anchor), end)
        };
        let ended = self.walk(walk, &mut |entry| entry.id.index < start || take(entry))?;
        self.lock().hint = Some(ended);
        Ok(found)
    }

    pub(in crate::raft) fn entry(&self, index: u64) -> io::Result<Option<Stored>> {
        Ok(self.entries(index, index.saturating_add(1), 0)?.pop())
    }

    /// The id at `index`, the base's included.
    pub(in crate::raft) fn id_at(&self, index: u64) -> io::Result<Option<EntryId>> {
        let base = self.lock().side.state().base().at;
        match base.filter(|at| at.index == index) {
            Some(at) => Ok(Some(at)),
            None => Ok(self.entry(index)?.map(|entry| entry.id)),
        }
    }

    /// The index of the first entry that stands at `offset` or later, and those before it that stand there
    /// too and are at most at `upto`.
    pub(super) fn last_index_below(&self, offset: Offset, upto: u64) -> io::Result<Option<u64>> {
        let walk = {
            let inner = self.lock();
            // The last anchor at the offset comes after every entry there.
            let Some(anchor) = inner.side.state().anchor_for_offset(offset) else { return Ok(None) };
            let anchor = match anchor.index > upto + 1 {
                true => inner.side.state().anchor_for_index(upto + 1).expect("the base is below"),
                false => anchor,
            };
            inner.walk(anchor, upto.saturating_add(1))
        };
        let mut next = walk.at.index;
        self.walk(walk, &mut |entry| {
            let is_below = match entry.body {
                Body::Batch { .. } => entry.next_offset() <= offset,
                Body::Blank | Body::Members(_) => entry.offset <= offset,
            };
            if is_below {
                next = entry.id.index + 1;
            }
            is_below
        })?;
        Ok(next.checked_sub(1))
    }

    /// How many entries the log holds: the index after the last one, by counting from the last anchor.
    pub(super) fn count(&self) -> io::Result<u64> {
        let walk = {
            let inner = self.lock();
            inner.walk(inner.side.state().last_anchor(), u64::MAX)
        };
        Ok(self.walk(walk, &mut |_| true)?.index)
    }

    /// Shows entries in order while `visit` says to go on; returns where it stopped, at a place in the log.
    fn walk(&self, walk: Walk, visit: &mut dyn FnMut(&Stored) -> bool) -> io::Result<Anchor> {
        let Walk { mut at, end_index, end_offset, entries, mut leader } = walk;
        let show_side =
            |at: &mut Anchor, leader: &mut Option<(u64, u64)>, visit: &mut dyn FnMut(&Stored) -> bool| {
                while let Some(entry) = entries.get(&at.index).filter(|_| at.index < end_index) {
                    *leader = Some((entry.id.term, entry.id.leader));
                    let body = entry.members.clone().map_or(Body::Blank, Body::Members);
                    if !visit(&Stored { id: entry.id, offset: entry.offset, body }) {
                        return false;
                    }
                    at.index += 1;
                }
                at.index < end_index
            };
        while show_side(&mut at, &mut leader, visit) && at.offset < end_offset {
            let mut chunk = self.read_chunk(at.offset, end_offset)?;
            if chunk.is_empty() {
                return Ok(at);
            }
            while !chunk.is_empty() && show_side(&mut at, &mut leader, visit) {
                let header = BatchHeader::parse(&chunk).map_err(io::Error::other)?;
                let bytes = header.total_bytes();
                let expected = leader.filter(|(term, _)| i64::from(header.leader_epoch) == *term as i64);
                let (Some((term, leader)), true) = (expected, header.base_offset == at.offset) else {
                    return Err(io::Error::other(format!(
                        "offset {}: not the batch of its index",
                        at.offset
                    )));
                };
                if bytes > chunk.len() {
                    return Ok(at);
                }
                let id = EntryId { term, leader, index: at.index };
                let bytes = chunk.split_to(bytes);
                if !visit(&Stored { id, offset: at.offset, body: Body::Batch { header, bytes } }) {
                    return Ok(at);
                }
                at = Anchor { index: at.index + 1, offset: header.next_offset() };
            }
        }
        Ok(at)
    }

    /// Bytes of whole batches from `offset` on; none where the log no longer holds it.
    fn read_chunk(&self, offset: Offset, end: Offset) -> io::Result<Bytes> {
        let read = self.with_log(|log| log.read(offset, CHUNK_BYTES, end, true))?;
        let slices = match read {
            Ok(read) => read.slices,
            Err(ReadError::BelowLocalStart { .. } | ReadError::AboveLogEnd { .. }) => Vec::new(),
            Err(e) => return Err(io::Error::other(e)),
        };
        match slices.first().map(LogSlice::read) {
            None => Ok(Bytes::new()),
            Some(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Bytes::new()),
            Some(bytes) => Ok(bytes?.into()),
        }
    }
}

impl super::Inner {
    fn walk(&self, at: Anchor, end_index: u64) -> Walk {
        let state = self.side.state();
        let entries = state.entries_from(at.index).take_while(|entry| entry.id.index < end_index);
        Walk {
            at,
            end_index,
            end_offset: self.end,
            entries: entries.map(|entry| (entry.id.index, entry.clone())).collect(),
            leader: state.leader_of(at.index),
        }
    }
}
