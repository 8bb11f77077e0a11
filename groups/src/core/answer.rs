//! What goes out: records to append and answers to requests.

use bytes::Bytes;
use highwater_model::ProducerId;

use super::error::GroupError;
use super::records::{MemberState, Record};
use super::request::Ticket;
use super::types::{Name, Partitions};

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append these as one batch, of that producer's transaction if it is one. At most one per step, and the
    /// first of its effects. The state has them already: if the append fails, the shard is loaded anew.
    Append { records: Vec<Record>, transaction: Option<(ProducerId, i16)> },
    /// Answer, once everything appended so far is committed.
    Answer { ticket: Ticket, answer: Answer },
}

/// An answer to a `Request` of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Join(Joined),
    Sync(Synced),
    Heartbeat(Result<(), GroupError>),
    /// Per member, in the order of the request.
    Leave(Result<Vec<Left>, GroupError>),
    ConsumerHeartbeat(Result<Beat, GroupError>),
    /// Per offset, in the order of the request; also for transactions.
    CommitOffsets(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// Per partition, in the order of the request.
    DeleteOffsets(Result<Vec<Result<(), GroupError>>, GroupError>),
    DeleteGroup(Result<(), GroupError>),
}

/// Answer to a Join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    pub error: Option<GroupError>,
    /// -1 with an error.
    pub generation: i32,
    pub protocol_type: Option<Name>,
    pub protocol: Option<Name>,
    pub leader: Option<Name>,
    pub is_assignment_skipped: bool,
    pub member_id: Name,
    /// Filled for the leader only.
    pub members: Vec<JoinedMember>,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub metadata: Bytes,
}

impl Joined {
    pub fn refused(error: GroupError, member_id: Name) -> Self {
        Joined { error: Some(error), generation: -1, member_id, ..Joined::default() }
    }
}

/// Answer to a Sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    pub error: Option<GroupError>,
    pub protocol_type: Option<Name>,
    pub protocol: Option<Name>,
    pub assignment: Bytes,
}

impl Synced {
    pub fn refused(error: GroupError) -> Self {
        Synced { error: Some(error), ..Synced::default() }
    }
}

/// Answer to one leaving member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub error: Option<GroupError>,
}

/// Answer to a ConsumerHeartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub member_id: Name,
    pub epoch: i32,
    pub heartbeat_ms: i32,
    /// What the member owns now; none: as before.
    pub assignment: Option<Partitions>,
}

/// One offset as fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    pub topic: Name,
    pub partition: i32,
    /// -1: none committed.
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Name,
    pub error: Option<GroupError>,
}

/// One group of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: Name,
    /// Empty for groups that only hold offsets.
    pub protocol_type: Name,
    /// As Kafka prints it: `Stable`, `PreparingRebalance`, `Assigning`, ...
    pub state: &'static str,
    /// `classic` or `consumer`.
    pub kind: &'static str,
}

/// A classic group as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedClassic {
    pub group: Name,
    pub state: &'static str,
    pub protocol_type: Name,
    pub protocol: Name,
    pub members: Vec<DescribedClassicMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedClassicMember {
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub client_id: Name,
    pub client_host: Name,
    /// Both empty unless the group is stable.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

/// A consumer group as ConsumerGroupDescribe shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedConsumer {
    pub group: Name,
    pub state: &'static str,
    pub epoch: i32,
    pub assignment_epoch: i32,
    pub assignor: Name,
    pub members: Vec<DescribedConsumerMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedConsumerMember {
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub rack_id: Option<Name>,
    pub epoch: i32,
    pub client_id: Name,
    pub client_host: Name,
    pub topic_names: Vec<Name>,
    pub topic_regex: Option<Name>,
    pub state: MemberState,
    pub is_classic: bool,
    pub assigned: Partitions,
    pub target: Partitions,
}
