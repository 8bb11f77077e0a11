//! What replicas of a group say to each other.

use std::fmt;

use highwater_broker::core::raft_election::Ask;
use highwater_broker::core::raft_side::{EntryId, ReplicaId, SetMembers, StoredVote};
use highwater_broker::raft::{Body, Stored};

/// From one replica to another; an answer has the id of what it answers.
#[derive(Clone, Debug)]
pub struct RaftMessage {
    pub partition: u32,
    pub from: ReplicaId,
    pub from_node: u64,
    pub to: ReplicaId,
    pub id: u64,
    pub body: RaftBody,
}

#[derive(Clone, Debug)]
pub enum RaftBody {
    PreVote(Ask),
    PreVoted(bool),
    Vote {
        vote: StoredVote,
        last: Option<EntryId>,
    },
    Voted {
        vote: StoredVote,
        is_granted: bool,
    },
    Append {
        vote: StoredVote,
        previous: Option<EntryId>,
        /// Committed, and on the leader's disk.
        committed: Option<EntryId>,
        entries: Vec<Stored>,
    },
    Appended {
        /// The leader's, as it asked.
        vote: StoredVote,
        outcome: Outcome,
    },
    Snapshot {
        vote: StoredVote,
        at: EntryId,
        members: SetMembers,
        bytes: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The log is the leader's up to here, on the disk.
    Matches(EntryId),
    /// What was to precede the entries is not there.
    Conflict,
    HigherVote(StoredVote),
}

fn entry(entry: &Stored, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let EntryId { term, index, .. } = entry.id;
    match &entry.body {
        Body::Blank => write!(f, " {term}.{index}blank"),
        Body::Members(members) => write!(f, " {term}.{index}{:?}", members.voters),
        Body::Batch { header, .. } => write!(f, " {term}.{index}@{}", header.base_offset),
    }
}

impl fmt::Display for RaftMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RaftMessage { partition, from, to, id, body, .. } = self;
        write!(f, "raft#{id} p{partition} {from:x}->{to:x} ")?;
        match body {
            RaftBody::Append { vote, previous, committed, entries } => {
                write!(f, "append t{} after {previous:?} commit {committed:?}:", vote.term)?;
                entries.iter().try_for_each(|e| entry(e, f))
            }
            RaftBody::Snapshot { vote, at, bytes, .. } => {
                write!(f, "snapshot t{} at {at:?} {} B", vote.term, bytes.len())
            }
            other => write!(f, "{other:?}"),
        }
    }
}
