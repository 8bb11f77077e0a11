//! What nodes say to each other for their groups. Carried by a `Transport`: one stream per peer for all
//! groups (`grpc`), or a function call in tests and simulations.

use std::time::Duration;

use highwater_model::{LeaderEpoch, NodeId, TopicPartition};

use super::types::Stored;
use crate::core::raft_election::{Ask, Greeting};
use crate::core::raft_side::{EntryId, ReplicaId, SetMembers, StoredVote};

/// Which replica speaks to which. One that was replaced since answers nothing: its id is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub tp: TopicPartition,
    pub from: ReplicaId,
    pub to: ReplicaId,
}

#[derive(Clone, Debug)]
pub struct Append {
    pub route: Route,
    pub vote: StoredVote,
    pub previous: Option<EntryId>,
    /// Committed, and on the leader's disk.
    pub committed: Option<EntryId>,
    pub(super) entries: Vec<Stored>,
}

#[derive(Clone, Debug)]
pub struct VoteAsk {
    pub route: Route,
    pub vote: StoredVote,
    pub last: Option<EntryId>,
}

#[derive(Clone, Copy, Debug)]
pub struct Resigned {
    pub route: Route,
    pub term: u64,
}

#[derive(Clone, Debug)]
pub struct PreVote {
    pub tp: TopicPartition,
    pub to: ReplicaId,
    pub ask: Ask,
}

#[derive(Clone, Debug)]
pub struct SnapshotSend {
    pub route: Route,
    pub vote: StoredVote,
    pub at: EntryId,
    pub members: SetMembers,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Request {
    /// Keeps the stream and tells that the node lives, and whom it does not hear.
    Greeting(Greeting),
    Append(Append),
    Vote(VoteAsk),
    PreVotes(Vec<PreVote>),
    Snapshot(SnapshotSend),
    /// The replica led in this term and leads no more, though its node lives. Answered by a greeting.
    Resigned(Resigned),
    /// Which replicas the node has of these partitions, in the group that is since the leader epoch: one of
    /// an earlier group would mix two logs.
    Replicas(Vec<(TopicPartition, LeaderEpoch)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendAnswer {
    Success,
    /// Appended up to here.
    Partial(Option<EntryId>),
    HigherVote(StoredVote),
    /// `previous` is not in the log.
    Conflict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Greeting(Greeting),
    Append(AppendAnswer),
    Vote {
        vote: StoredVote,
        is_granted: bool,
        last: Option<EntryId>,
    },
    /// In the order asked.
    PreVotes(Vec<bool>),
    Snapshot {
        vote: StoredVote,
    },
    /// In the order asked; none where there is no group.
    Replicas(Vec<Option<ReplicaId>>),
    /// No such replica here, or its part has ended.
    Refused(String),
}

/// A request was not answered: lost, late, or the peer is not there. It may have been carried out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node}: {why}")]
pub struct Unreached {
    pub node: NodeId,
    pub why: String,
    /// The peer cannot be connected to, or its connection broke: it is gone rather than slow.
    pub is_lost: bool,
}

#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    async fn call(&self, to: NodeId, request: Request, deadline: Duration) -> Result<Answer, Unreached>;
}
