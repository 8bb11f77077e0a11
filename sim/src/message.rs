//! What travels: between clients, brokers, the control plane and the bucket. One enum, cheap to clone, and a
//! short text of each for the trace.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use highwater_broker::core::raft_election::Greeting;
use highwater_broker::replica::{FetchAnswer, FollowerFetch};
use highwater_coordinator::core::{ClusterState, Command, Refusal, Reply};
use highwater_model::Offset;

use crate::bucket;
use crate::exactly::{Ask, Between, Told};
use crate::history::Value;
use crate::raft::RaftMessage;

/// A state of the control plane and how many entries made it.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub index: usize,
    pub state: Arc<ClusterState>,
}

/// Why a client is told no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Nothing was done: this broker does not lead (NOT_LEADER_OR_FOLLOWER) or does not know the partition.
    NotLeader,
    /// Nothing was done: too few in-sync replicas.
    NotEnoughReplicas,
    /// Nothing was done: the sequence is not the one that comes next.
    OutOfOrder,
    /// Nothing was done: the disk refused.
    Storage,
    /// It was appended, and what became of it is not known (leadership was lost while it waited).
    Unknown,
    /// The offset is below what may be read, which begins here.
    BelowLogStart(Offset),
    /// The offset is past what there is.
    OutOfRange,
    /// The tier did not answer; later.
    TierAway,
    /// Nothing was done: the producer is not the one that may write, or its transaction has ended.
    Fenced,
}

/// What a broker answers to a fetch of a consumer.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub records: Vec<(Offset, Value)>,
    pub high_watermark: Offset,
    /// From the bucket.
    pub is_tiered: bool,
}

/// What became of a proposal.
#[derive(Clone, Debug)]
pub enum Proposed {
    /// Committed and judged; the state after it.
    Done(Result<Reply, Refusal>, Metadata),
    /// Not taken; who leads, as far as known.
    NotLeader(Option<u64>),
}

#[derive(Clone, Debug)]
pub enum Message {
    Produce {
        id: u64,
        partition: u32,
        batch: Bytes,
        is_all: bool,
    },
    Produced {
        id: u64,
        outcome: Result<Offset, ClientError>,
    },
    Fetch {
        id: u64,
        partition: u32,
        offset: Offset,
    },
    Fetched {
        id: u64,
        outcome: Result<Fetched, ClientError>,
    },
    WhoLeads {
        id: u64,
    },
    /// Leader of each partition, by number.
    Leads {
        id: u64,
        leaders: Vec<Option<u64>>,
        replicas: Vec<Vec<u64>>,
    },

    /// Of groups and transactions.
    Exactly {
        id: u64,
        ask: Ask,
    },
    Told {
        id: u64,
        told: Told,
    },
    Between(Between),

    ReplicaFetch {
        id: u64,
        partition: u32,
        fetch: FollowerFetch,
    },
    ReplicaAnswer {
        id: u64,
        partition: u32,
        answer: FetchAnswer,
    },

    /// Between replicas of a Raft group.
    Raft(RaftMessage),
    /// A node lives: since which start, and whom it does not hear.
    Greeting {
        node: u64,
        said: Greeting,
        is_answer: bool,
    },
    /// The connection to a node broke.
    PeerLost {
        node: u64,
    },
    /// Which replica the node has of a partition's group.
    WhichReplica {
        partition: u32,
        since_epoch: i32,
    },
    ReplicaIs {
        partition: u32,
        since_epoch: i32,
        node: u64,
        replica: u64,
    },

    Heartbeat {
        node: u64,
        epoch: u64,
        known: usize,
    },
    HeartbeatTaken {
        leader: Option<u64>,
        newer: Option<Metadata>,
    },
    /// A member pushes what it has applied.
    Pushed(Metadata),
    Propose {
        id: u64,
        command: Arc<Command>,
    },
    ProposeDone {
        id: u64,
        outcome: Proposed,
    },
    /// A linearizable read of the state.
    Read {
        id: u64,
    },
    ReadDone {
        id: u64,
        newest: Option<Metadata>,
    },
    /// The stream of a broker's session broke.
    SessionBroke {
        node: u64,
        epoch: u64,
    },

    Ask {
        id: u64,
        ask: bucket::Ask,
    },
    Answered {
        id: u64,
        answer: bucket::Answer,
    },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Produce { id, partition, batch, is_all } => {
                write!(f, "produce#{id} p{partition} {} B all={is_all}", batch.len())
            }
            Message::Produced { id, outcome } => write!(f, "produced#{id} {outcome:?}"),
            Message::Fetch { id, partition, offset } => write!(f, "fetch#{id} p{partition} at {offset}"),
            Message::Fetched { id, outcome: Ok(fetched) } => write!(
                f,
                "fetched#{id} {} records hw={} tiered={}",
                fetched.records.len(),
                fetched.high_watermark,
                fetched.is_tiered
            ),
            Message::Fetched { id, outcome } => write!(f, "fetched#{id} {:?}", outcome.as_ref().err()),
            Message::WhoLeads { id } => write!(f, "who-leads#{id}"),
            Message::Leads { id, leaders, .. } => write!(f, "leads#{id} {leaders:?}"),
            Message::Exactly { id, ask } => write!(f, "ask#{id} {ask:?}"),
            Message::Told { id, told } => write!(f, "told#{id} {told:?}"),
            Message::Between(between) => write!(f, "{between:?}"),
            Message::ReplicaFetch { id, partition, fetch } => write!(f, "rfetch#{id} p{partition} {fetch:?}"),
            Message::ReplicaAnswer { id, partition, answer } => {
                write!(f, "ranswer#{id} p{partition} ")?;
                crate::broker::brief_answer(answer, f)
            }
            Message::Raft(message) => message.fmt(f),
            Message::Greeting { node, said, .. } => {
                write!(f, "greeting {node}/{} unheard {:?}", said.boot, said.unheard)
            }
            Message::PeerLost { node } => write!(f, "lost {node}"),
            Message::WhichReplica { partition, .. } => write!(f, "which replica of p{partition}"),
            Message::ReplicaIs { partition, node, replica, .. } => {
                write!(f, "p{partition} on {node} is {replica:x}")
            }
            Message::Heartbeat { node, epoch, known } => write!(f, "heartbeat {node}/{epoch} knows {known}"),
            Message::HeartbeatTaken { leader, newer } => {
                write!(f, "heartbeat-taken leader={leader:?} newer={:?}", newer.as_ref().map(|m| m.index))
            }
            Message::Pushed(metadata) => write!(f, "pushed {}", metadata.index),
            Message::Propose { id, command } => write!(f, "propose#{id} {command:?}"),
            Message::ProposeDone { id, outcome: Proposed::Done(reply, metadata) } => {
                write!(f, "proposed#{id} at {} {reply:?}", metadata.index)
            }
            Message::ProposeDone { id, outcome } => write!(f, "proposed#{id} {outcome:?}"),
            Message::Read { id } => write!(f, "read#{id}"),
            Message::ReadDone { id, newest } => {
                write!(f, "read-done#{id} {:?}", newest.as_ref().map(|m| m.index))
            }
            Message::SessionBroke { node, epoch } => write!(f, "session-broke {node}/{epoch}"),
            Message::Ask { id, ask: bucket::Ask::Put { key, body } } => {
                write!(f, "put#{id} {key} {} B", body.len())
            }
            Message::Ask { id, ask } => write!(f, "ask#{id} {ask:?}"),
            Message::Answered { id, answer: bucket::Answer::Body(body) } => {
                write!(f, "answered#{id} {} B", body.len())
            }
            Message::Answered { id, answer } => write!(f, "answered#{id} {answer:?}"),
        }
    }
}
