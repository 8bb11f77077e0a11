//! What Raft keeps of a partition beside its segment files: the vote, blank and membership entries, and where
//! each Raft index stands in the log (docs/format.md, "Raft side file").
//!
//! One data entry is one batch of the segment files, so only what the files cannot tell is kept here. An
//! index is found from the nearest anchor below it by counting batches. Marks are appended to a journal;
//! `SideState` is what they add up to. Must not touch files or openraft. Invariants: 6 (terms only grow), 12
//! (a cut journal is a shorter one), 16, 18, 19.
//!
//! ```text
//! head:  "HWRS" | version u16 | zero u16 | replica u64 | begun u32 | crc32c u32 of all before it
//! frame: body length u32 | crc32c u32 of what follows | synced u32 | kind u8 | body
//! ```
//! All integers are little-endian. `begun` is the file's length when it appeared, whole, by rename; `synced`
//! is how much of it was durable when the frame was written. Damage below either is rot, damage above them a
//! torn tail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::Offset;
use serde::{Deserialize, Serialize};

mod codec;

use codec::{HEAD_BYTES, encode_head, frames_after, parse_frame, parse_head};

pub use codec::encode_mark;

/// A replica of one partition: unlike a node's, its id is never used again once its disk is lost.
pub type ReplicaId = u64;

/// Where an entry stands in Raft's log, and whose it is. Ordered as Raft orders logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    pub term: u64,
    /// The replica that led in the term.
    pub leader: ReplicaId,
    pub index: u64,
}

/// A vote as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVote {
    pub term: u64,
    pub replica: ReplicaId,
    /// A majority has granted it.
    pub is_committed: bool,
}

/// The replicas of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// One set of voters; two while the group changes.
    pub voters: Vec<BTreeSet<ReplicaId>>,
    /// Every replica, learners too, and the node that holds it.
    pub nodes: BTreeMap<ReplicaId, u64>,
}

impl Members {
    /// A group of these voters and nobody else.
    pub fn of_voters(nodes: BTreeMap<ReplicaId, u64>) -> Members {
        Members { voters: vec![nodes.keys().copied().collect()], nodes }
    }
}

/// A membership and the entry that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMembers {
    /// None for a group's first members, which no entry has set.
    pub at: Option<EntryId>,
    pub members: Arc<Members>,
}

/// One entry that is no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideEntry {
    pub id: EntryId,
    /// The log's end when it was appended: the offset of the batch that follows.
    pub offset: Offset,
    /// None for a blank.
    pub members: Option<Arc<Members>>,
}

/// Everything up to an entry is gone from Raft's log: evicted, or before the group began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The last entry that is gone; none in a log that never lost any.
    pub at: Option<EntryId>,
    /// Where the entry after it stands.
    pub offset: Offset,
    pub members: Option<SetMembers>,
}

/// The entry with this index stands at this offset, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    pub index: u64,
    pub offset: Offset,
}

/// One frame of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Vote(StoredVote),
    Entry(SideEntry),
    /// A batch's index and offset, so that few need be counted.
    Row(Anchor),
    /// Entries from the anchor's index on are gone; the log ends at its offset.
    Cut(Anchor),
    Base(Base),
    /// Not synced for its own sake.
    Committed(EntryId),
}

/// Why a side file cannot be used. The replica must not vote: it may have forgotten a promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SideError {
    #[error("not the head of a Raft side file")]
    Head,
    #[error("format version {0} is newer than this release knows")]
    Newer(u16),
    #[error("damaged at byte {0}")]
    Damaged(usize),
    #[error("byte {at}: {what}")]
    Rule { at: usize, what: &'static str },
}

/// What the journal adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideState {
    pub replica: ReplicaId,
    pub vote: Option<StoredVote>,
    pub committed: Option<EntryId>,
    base: Base,
    entries: BTreeMap<u64, SideEntry>,
    /// Strictly increasing in index; offsets do not decrease.
    anchors: Vec<Anchor>,
}

/// A journal as it was read.
#[derive(Debug)]
pub struct Loaded {
    pub state: SideState,
    /// Where its valid part ends.
    pub end: usize,
    /// Bytes of a torn tail after it.
    pub torn_bytes: usize,
}

impl SideState {
    /// Of a replica whose Raft log begins, empty, at `offset`.
    pub fn new(replica: ReplicaId, offset: Offset) -> SideState {
        assert!(offset >= 0);
        SideState {
            replica,
            vote: None,
            committed: None,
            base: Base { at: None, offset, members: None },
            entries: BTreeMap::new(),
            anchors: vec![Anchor { index: 0, offset }],
        }
    }

    /// Nothing was ever appended, and no group has begun.
    pub fn is_untouched(&self) -> bool {
        self.base.at.is_none() && self.entries.is_empty() && self.anchors.len() == 1
    }

    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The index of the first entry that is there, or will be.
    pub fn first_index(&self) -> u64 {
        self.anchors[0].index
    }

    /// The entry at `index`, if it is no batch.
    pub fn entry(&self, index: u64) -> Option<&SideEntry> {
        self.entries.get(&index)
    }

    pub fn last_entry(&self) -> Option<&SideEntry> {
        self.entries.values().next_back()
    }

    /// Entries that are no batch, from `index` on.
    pub fn entries_from(&self, index: u64) -> impl Iterator<Item = &SideEntry> {
        self.entries.range(index..).map(|(_, entry)| entry)
    }

    /// Entries of a term that are no batch, the one that its leader began with first.
    pub fn entries_of(&self, term: u64) -> impl Iterator<Item = &SideEntry> {
        self.entries.values().filter(move |entry| entry.id.term == term)
    }

    /// The nearest anchor at or below `index`; none below the first index.
    pub fn anchor_for_index(&self, index: u64) -> Option<Anchor> {
        let above = self.anchors.partition_point(|a| a.index <= index);
        above.checked_sub(1).map(|at| self.anchors[at])
    }

    /// The last anchor whose offset is at or below `offset`.
    pub fn anchor_for_offset(&self, offset: Offset) -> Option<Anchor> {
        let above = self.anchors.partition_point(|a| a.offset <= offset);
        above.checked_sub(1).map(|at| self.anchors[at])
    }

    pub fn last_anchor(&self) -> Anchor {
        *self.anchors.last().expect("the base is an anchor")
    }

    /// Term and leader of the batch with this index: those of the entry that its leader began with.
    pub fn leader_of(&self, index: u64) -> Option<(u64, ReplicaId)> {
        let before = self.entries.range(..index).next_back().map(|(_, entry)| entry.id);
        before.or(self.base.at).map(|id| (id.term, id.leader))
    }

    /// The newest members set at or below `index`.
    pub fn members_at(&self, index: u64) -> Option<SetMembers> {
        let set = |entry: &SideEntry| {
            let members = entry.members.clone()?;
            Some(SetMembers { at: Some(entry.id), members })
        };
        let newest = self.entries.range(..=index).rev().find_map(|(_, entry)| set(entry));
        newest.or_else(|| self.base.members.clone())
    }

    /// Takes in a mark; `Err` says which rule it breaks, and nothing has changed.
    pub fn apply(&mut self, mark: &Mark) -> Result<(), &'static str> {
        match mark {
            Mark::Vote(vote) => self.apply_vote(*vote)?,
            Mark::Entry(entry) => self.apply_entry(entry)?,
            Mark::Row(row) => {
                let last = self.last_anchor();
                if row.index <= last.index || row.offset <= last.offset {
                    return Err("a row goes back");
                }
                self.anchors.push(*row);
            }
            Mark::Cut(at) => self.apply_cut(*at)?,
            Mark::Base(base) => self.apply_base(base)?,
            Mark::Committed(id) => self.committed = self.committed.max(Some(*id)),
        }
        debug_assert!(self.anchors.windows(2).all(|p| p[0].index < p[1].index));
        debug_assert!(self.anchors.windows(2).all(|p| p[0].offset <= p[1].offset));
        Ok(())
    }

    fn apply_vote(&mut self, vote: StoredVote) -> Result<(), &'static str> {
        let known = self.vote.map_or((0, false), |v| (v.term, v.is_committed));
        if vote.term < known.0 {
            return Err("a vote goes back");
        }
        let elected = |v: &StoredVote| v.is_committed.then_some((v.term, v.replica));
        let same_term = self.vote.as_ref().and_then(elected).filter(|(term, _)| *term == vote.term);
        // One leader per term: the term is the leader epoch of the batches.
        if vote.is_committed && same_term.is_some_and(|(_, leader)| leader != vote.replica) {
            return Err("two leaders in one term");
        }
        self.vote = Some(vote);
        Ok(())
    }

    fn apply_entry(&mut self, entry: &SideEntry) -> Result<(), &'static str> {
        if self.is_untouched() {
            // A log that has never held anything begins wherever its first entry is.
            self.anchors[0].index = entry.id.index;
        }
        let last = self.last_anchor();
        if entry.id.index < last.index || entry.offset < last.offset {
            return Err("an entry goes back");
        }
        // Between two anchors without a batch there is no index to spare.
        if entry.offset == last.offset && entry.id.index != last.index {
            return Err("an entry does not follow");
        }
        self.entries.insert(entry.id.index, entry.clone());
        self.anchors.push(Anchor { index: entry.id.index + 1, offset: entry.offset });
        Ok(())
    }

    fn apply_cut(&mut self, at: Anchor) -> Result<(), &'static str> {
        if at.index < self.first_index() || at.offset < self.base.offset {
            return Err("a cut below the base");
        }
        self.entries.retain(|index, _| *index < at.index);
        self.anchors.retain(|a| a.index <= at.index && a.offset <= at.offset);
        assert!(!self.anchors.is_empty(), "the base stays");
        assert!(self.last_anchor().index <= at.index);
        self.committed = self.committed.filter(|id| id.index < at.index);
        Ok(())
    }

    fn apply_base(&mut self, base: &Base) -> Result<(), &'static str> {
        let first = base.at.map_or(0, |at| at.index + 1);
        if first < self.first_index() {
            return Err("the base goes back");
        }
        self.entries.retain(|index, _| *index >= first);
        self.anchors.retain(|a| a.index > first && a.offset >= base.offset);
        self.anchors.insert(0, Anchor { index: first, offset: base.offset });
        self.base = base.clone();
        assert_eq!(self.first_index(), self.anchors[0].index);
        Ok(())
    }

    /// Forgets what stands past `log_end`: the log lost its tail and these entries, which were never
    /// acknowledged, with it. True if there was such.
    pub fn drop_past(&mut self, log_end: Offset) -> bool {
        assert!(log_end >= self.base.offset, "the base is not lost");
        let before = (self.entries.len(), self.anchors.len());
        self.entries.retain(|_, entry| entry.offset <= log_end);
        self.anchors.retain(|anchor| anchor.offset <= log_end);
        before != (self.entries.len(), self.anchors.len())
    }

    /// Starts over at `base`, which is past everything known or contradicts it; the vote stays.
    pub fn drop_all(&mut self, base: &Base) {
        let first = base.at.map_or(0, |at| at.index + 1);
        assert!(base.offset >= 0);
        self.base = base.clone();
        self.entries.clear();
        self.anchors = vec![Anchor { index: first, offset: base.offset }];
        self.committed = base.at;
    }

    /// The fewest marks that add up to this state.
    pub fn marks(&self) -> Vec<Mark> {
        let mut marks = vec![Mark::Base(self.base.clone())];
        marks.extend(self.vote.map(Mark::Vote));
        let mut entries = self.entries.values().peekable();
        for anchor in &self.anchors[1..] {
            match entries.next_if(|e| e.id.index + 1 == anchor.index) {
                Some(entry) => marks.push(Mark::Entry(entry.clone())),
                None => marks.push(Mark::Row(*anchor)),
            }
        }
        assert!(entries.next().is_none(), "every entry is an anchor");
        marks.extend(self.committed.map(Mark::Committed));
        marks
    }

    /// A whole journal of this state.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0; HEAD_BYTES];
        for mark in self.marks() {
            encode_mark(&mark, 0, &mut file);
        }
        let begun = u32::try_from(file.len()).expect("a journal is bounded far below 4 GiB");
        file[..HEAD_BYTES].copy_from_slice(&encode_head(self.replica, begun));
        file
    }

    /// Reads a journal; what follows its valid part was never durable.
    ///
    /// # Errors
    /// It is none, of a newer release, or was damaged where it had been durable.
    pub fn load(file: &[u8]) -> Result<Loaded, SideError> {
        let (replica, begun) = parse_head(file)?;
        let mut state = SideState::new(replica, 0);
        let mut at = HEAD_BYTES;
        while at < file.len() {
            let Some((mark, length, _)) = parse_frame(&file[at..]) else {
                if at < begun || frames_after(file, at) {
                    return Err(SideError::Damaged(at));
                }
                break;
            };
            let mark = mark.ok_or(SideError::Damaged(at))?;
            // The first mark says where the log begins.
            if at == HEAD_BYTES && !matches!(mark, Mark::Base(_)) {
                return Err(SideError::Rule { at, what: "a journal begins with its base" });
            }
            state.apply(&mark).map_err(|what| SideError::Rule { at, what })?;
            at += length;
        }
        if at == HEAD_BYTES || at < begun {
            return Err(SideError::Damaged(at));
        }
        Ok(Loaded { state, end: at, torn_bytes: file.len() - at })
    }
}

#[cfg(test)]
mod tests;
