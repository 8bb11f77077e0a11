//! What comes in: requests as plain data (the broker translates Kafka's messages), news of the cluster, and
//! ticks of the clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::{ProducerId, TopicId};
use uuid::Uuid;

use super::records::ClassicProtocol;
use super::types::{Name, Partitions, Topics};

/// Names the request that an answer is for; chosen by the caller, never used twice while unanswered.
pub type Ticket = u64;

/// Something that a shard learns.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly all are requests")]
pub enum Event {
    Request {
        ticket: Ticket,
        client: Client,
        request: Request,
    },
    /// The cluster's topics have changed. Versions only grow.
    Topics {
        version: i64,
        topics: Arc<Topics>,
    },
    /// Topics are gone for good: their offsets go too, but not those of topics that were created anew.
    TopicsDeleted(Vec<GoneTopic>),
    /// A transaction's marker was appended to this shard's partition.
    TransactionEnded {
        producer_id: ProducerId,
        is_commit: bool,
    },
    /// Time has come for what `next_due` named.
    Tick,
}

/// A topic that is gone, and the id of the one that has its name now, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoneTopic {
    pub name: Name,
    pub now: Option<TopicId>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: Name,
    pub host: Name,
    /// Fresh randomness: a member id is made of it if one is needed. Never handed in twice.
    pub fresh: Uuid,
}

/// A request that may change a group. Reads are functions of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Join(Join),
    Sync(Sync),
    Heartbeat(Heartbeat),
    Leave(Leave),
    ConsumerHeartbeat(ConsumerHeartbeat),
    CommitOffsets(CommitOffsets),
    CommitTransactionOffsets(CommitTransactionOffsets),
    DeleteOffsets(DeleteOffsets),
    DeleteGroup { group: Name },
}

/// JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub group: Name,
    /// Empty: not known yet.
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub protocol_type: Name,
    pub protocols: Vec<ClassicProtocol>,
    pub session_timeout_ms: i32,
    /// Negative: not said (version 0), the session timeout counts.
    pub rebalance_timeout_ms: i32,
    /// Version 4 and up: a member without an id is given one and asked to come again (KIP-394).
    pub requires_member_id: bool,
    /// Version 9 and up: a leader may be told to leave the assignment as it is (KIP-814).
    pub can_skip_assignment: bool,
}

impl Join {
    pub(super) fn rebalance_ms(&self) -> i32 {
        if self.rebalance_timeout_ms < 0 { self.session_timeout_ms } else { self.rebalance_timeout_ms }
    }

    /// The protocols in order, each once.
    pub(super) fn distinct_protocols(&self) -> Vec<ClassicProtocol> {
        let mut distinct: Vec<ClassicProtocol> = Vec::with_capacity(self.protocols.len());
        for protocol in &self.protocols {
            if distinct.iter().all(|seen| seen.name != protocol.name) {
                distinct.push(protocol.clone());
            }
        }
        debug_assert!(distinct.is_empty() == self.protocols.is_empty(), "a protocol is lost");
        distinct
    }
}

/// SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    pub group: Name,
    pub generation: i32,
    pub member_id: Name,
    pub instance_id: Option<Name>,
    /// Version 5 and up.
    pub protocol_type: Option<Name>,
    pub protocol: Option<Name>,
    /// From the leader only.
    pub assignments: Vec<(Name, Bytes)>,
}

/// Heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub group: Name,
    pub generation: i32,
    pub member_id: Name,
    pub instance_id: Option<Name>,
}

/// LeaveGroup, all versions as the batched one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    pub group: Name,
    pub members: Vec<LeavingMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    /// Empty: the static member of `instance_id`, whatever its member id.
    pub member_id: Name,
    pub instance_id: Option<Name>,
}

/// ConsumerGroupHeartbeat (KIP-848). What is `None` has not changed since the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    pub group: Name,
    /// Empty: to be given (version 0).
    pub member_id: Name,
    /// 0 joins, -1 leaves, -2 leaves for a while (static members).
    pub epoch: i32,
    pub instance_id: Option<Name>,
    pub rack_id: Option<Name>,
    pub rebalance_timeout_ms: Option<i32>,
    pub topic_names: Option<BTreeSet<Name>>,
    /// An empty pattern takes it back.
    pub topic_regex: Option<Name>,
    pub server_assignor: Option<Name>,
    pub owned: Option<Partitions>,
}

/// OffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    pub group: Name,
    pub member_id: Name,
    pub instance_id: Option<Name>,
    /// Of a classic member, or the epoch of a consumer group's; -1: no member.
    pub generation: i32,
    /// Versions 2 to 4 may name one.
    pub retention_ms: Option<i64>,
    /// Version 9 and up: the client knows of epochs (KIP-848).
    pub knows_epochs: bool,
    pub offsets: Vec<CommitOffset>,
}

/// TxnOffsetCommit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitTransactionOffsets {
    pub group: Name,
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub generation: i32,
    pub offsets: Vec<CommitOffset>,
}

/// One offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    pub topic: Name,
    /// If the broker knows it.
    pub topic_id: Option<TopicId>,
    pub partition: i32,
    pub offset: i64,
    /// -1: not known.
    pub leader_epoch: i32,
    pub metadata: Name,
}

/// OffsetDelete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOffsets {
    pub group: Name,
    pub partitions: Vec<(Name, i32)>,
}

/// OffsetFetch for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOffsets {
    pub group: Name,
    /// With `epoch`, from members of consumer groups (version 9 and up).
    pub member_id: Option<Name>,
    pub epoch: i32,
    /// None: all there are.
    pub partitions: Option<Vec<(Name, i32)>>,
    /// A partition with undecided offsets of a transaction is refused (KIP-447).
    pub is_stable_required: bool,
}
