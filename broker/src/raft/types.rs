//! openraft's types for a partition's group, and their way to and from ours.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use highwater_model::Offset;
use highwater_wire::batch::BatchHeader;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership, StoredMembership, Vote};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::core::raft_side::{EntryId, Members, ReplicaId, SetMembers, StoredVote};

openraft::declare_raft_types!(
    /// A partition's group.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = Member,
        Entry = Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(super) type GroupEntry = Entry<TypeConfig>;
pub(super) type GroupLogId = LogId<u64>;
pub(super) type GroupVote = Vote<u64>;
pub(super) type GroupMembership = StoredMembership<u64, Member>;
pub(super) type StorageError = openraft::StorageError<u64>;
pub(super) type StorageIOError = openraft::StorageIOError<u64>;

/// The node that holds a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub node: u64,
}

/// Where a proposal was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub term: u64,
    pub base_offset: Offset,
    pub next_offset: Offset,
}

/// One batch: as a producer sent it, or as it stands in the log. The bytes are shared, never copied; their
/// first 16 may be the producer's, as the header says what is stamped there.
#[derive(Clone)]
pub struct Batch {
    pub(super) header: BatchHeader,
    pub(super) bytes: Bytes,
    /// Set while it has no offset. Dropped unused if it is refused.
    proposal: Option<Arc<Mutex<Option<Proposal>>>>,
}

/// Who to tell where a batch was put, and its proposer's turn, which ends then: not when the proposer gives
/// up waiting, or a batch sent again would be judged before the first is in the log.
type Proposal = (oneshot::Sender<Placed>, OwnedSemaphorePermit);

impl Batch {
    /// A batch to be appended by the leader.
    pub(super) fn proposed(
        header: BatchHeader,
        bytes: Bytes,
        turn: OwnedSemaphorePermit,
    ) -> (Batch, oneshot::Receiver<Placed>) {
        let (tell, told) = oneshot::channel();
        let proposal = Some(Arc::new(Mutex::new(Some((tell, turn)))));
        (Batch { header, bytes, proposal }, told)
    }

    /// A batch that has its offset and leader epoch in the header.
    pub(super) fn stored(header: BatchHeader, bytes: Bytes) -> Batch {
        Batch { header, bytes, proposal: None }
    }

    pub(super) fn is_proposed(&self) -> bool {
        self.proposal.is_some()
    }

    pub(super) fn tell(&self, placed: Placed) {
        let take = |p: &Arc<Mutex<Option<Proposal>>>| p.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((tell, _turn)) = self.proposal.as_ref().and_then(take) {
            // Who proposed may have gone away.
            let _ = tell.send(placed);
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} bytes at {})", self.bytes.len(), self.header.base_offset)
    }
}

/// openraft asks for serde; batches travel and rest as their own bytes.
impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("a batch is its bytes"))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Batch, D::Error> {
        Err(serde::de::Error::custom("a batch is its bytes"))
    }
}

/// An entry as it stands in the log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: EntryId,
    /// Where it stands: a batch's base offset, or the log's end when another entry was appended.
    pub offset: Offset,
    pub body: Body,
}

#[derive(Clone, Debug)]
pub enum Body {
    Blank,
    Members(Arc<Members>),
    Batch { header: BatchHeader, bytes: Bytes },
}

impl Stored {
    /// The log's end after it.
    pub fn next_offset(&self) -> Offset {
        match &self.body {
            Body::Batch { header, .. } => header.next_offset(),
            Body::Blank | Body::Members(_) => self.offset,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Batch { bytes, .. } => bytes.len(),
            Body::Blank | Body::Members(_) => 64,
        }
    }

    pub(super) fn into_entry(self) -> GroupEntry {
        let payload = match self.body {
            Body::Blank => EntryPayload::Blank,
            Body::Members(members) => EntryPayload::Membership(membership(&members)),
            Body::Batch { header, bytes } => EntryPayload::Normal(Batch::stored(header, bytes)),
        };
        Entry { log_id: log_id(self.id), payload }
    }
}

pub(super) fn entry_id(id: &GroupLogId) -> EntryId {
    EntryId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id(id: EntryId) -> GroupLogId {
    LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index)
}

pub(super) fn stored_vote(vote: &GroupVote) -> StoredVote {
    let (term, replica) = (vote.leader_id.term, vote.leader_id.node_id);
    StoredVote { term, replica, is_committed: vote.committed }
}

pub(super) fn vote(stored: StoredVote) -> GroupVote {
    match stored.is_committed {
        true => Vote::new_committed(stored.term, stored.replica),
        false => Vote::new(stored.term, stored.replica),
    }
}

pub(super) fn members(membership: &Membership<u64, Member>) -> Members {
    Members {
        voters: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, member)| (*id, member.node)).collect(),
    }
}

pub(super) fn membership(members: &Members) -> Membership<u64, Member> {
    let nodes: BTreeMap<ReplicaId, Member> =
        members.nodes.iter().map(|(id, node)| (*id, Member { node: *node })).collect();
    Membership::new(members.voters.clone(), nodes)
}

pub(super) fn stored_membership(set: Option<SetMembers>) -> GroupMembership {
    match set {
        Some(set) => StoredMembership::new(set.at.map(log_id), membership(&set.members)),
        None => StoredMembership::default(),
    }
}

pub(super) fn set_members(membership: &GroupMembership) -> SetMembers {
    SetMembers {
        at: membership.log_id().as_ref().map(entry_id),
        members: Arc::new(members(membership.membership())),
    }
}

pub(super) fn write_error(error: &std::io::Error) -> StorageError {
    StorageIOError::write_logs(openraft::AnyError::new(error)).into()
}

pub(super) fn read_error(error: &std::io::Error) -> StorageError {
    StorageIOError::read_logs(openraft::AnyError::new(error)).into()
}
