//! openraft's types for this group, and their stored forms, which do not depend on openraft's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership, StoredMembership, Vote};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::frame::{Frame, Kind, Position};
use super::writer::StoredVote;
use crate::core::{Batch, RULES_VERSION, Refusal, Reply};

openraft::declare_raft_types!(
    /// The control plane's group. Commands are shared, never copied, between log, replication and apply.
    pub(crate) TypeConfig:
        D = Arc<Batch>,
        R = Replies,
        NodeId = u64,
        Node = Peer,
        Entry = Entry<TypeConfig>,
        SnapshotData = tokio::fs::File,
);

/// The answers to an entry's commands, in order; none for entries without commands.
pub(crate) type Replies = Vec<Result<Reply, Refusal>>;
pub(super) type GroupLogId = LogId<u64>;
pub(super) type GroupVote = Vote<u64>;
pub(super) type GroupEntry = Entry<TypeConfig>;
pub(super) type GroupMembership = StoredMembership<u64, Peer>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type StorageIOError = openraft::StorageIOError<u64>;

/// A member of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Its gRPC address when the group was formed; empty for the only member.
    pub address: String,
    /// The name of its storage; None for the only member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Uuid>,
}

/// The members of the group as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembers {
    /// One set of voters; two while the group changes.
    pub voters: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, Peer>,
}

impl StoredMembers {
    pub(super) fn of(membership: &Membership<u64, Peer>) -> StoredMembers {
        StoredMembers {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        }
    }

    pub(super) fn membership(self) -> Membership<u64, Peer> {
        Membership::new(self.voters, self.nodes)
    }
}

/// Why an entry on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("entry {index}: {source}")]
    Json { index: u64, source: serde_json::Error },
    #[error("entry {index} was judged by rules {rules}, this release knows {RULES_VERSION}")]
    Rules { index: u64, rules: u16 },
}

pub(super) fn position(id: &GroupLogId) -> Position {
    Position { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id(at: Position) -> GroupLogId {
    LogId::new(CommittedLeaderId::new(at.term, at.node), at.index)
}

pub(super) fn stored_vote(vote: &GroupVote) -> StoredVote {
    StoredVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn vote(stored: StoredVote) -> GroupVote {
    match stored.committed {
        true => Vote::new_committed(stored.term, stored.node),
        false => Vote::new(stored.term, stored.node),
    }
}

/// The stored form of an entry.
pub(super) fn encode(entry: &GroupEntry) -> Result<Frame, serde_json::Error> {
    let (kind, body) = match &entry.payload {
        EntryPayload::Blank => (Kind::Blank, Vec::new()),
        EntryPayload::Normal(batch) => (Kind::Commands, serde_json::to_vec(batch)?),
        EntryPayload::Membership(members) => {
            (Kind::Membership, serde_json::to_vec(&StoredMembers::of(members))?)
        }
    };
    Ok(Frame { kind, at: position(&entry.log_id), body })
}

/// The entry of a stored form.
pub(super) fn decode(frame: &Frame) -> Result<GroupEntry, DecodeError> {
    let index = frame.at.index;
    let json = |source| DecodeError::Json { index, source };
    let payload = match frame.kind {
        Kind::Commands => {
            let batch: Batch = serde_json::from_slice(&frame.body).map_err(json)?;
            if batch.rules > RULES_VERSION {
                return Err(DecodeError::Rules { index, rules: batch.rules });
            }
            EntryPayload::Normal(Arc::new(batch))
        }
        Kind::Membership => {
            let members: StoredMembers = serde_json::from_slice(&frame.body).map_err(json)?;
            EntryPayload::Membership(members.membership())
        }
        Kind::Blank | Kind::Committed => EntryPayload::Blank,
    };
    Ok(Entry { log_id: log_id(frame.at), payload })
}
