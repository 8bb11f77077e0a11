//! The refusals that groups answer with, named and numbered as Kafka's. A refusal changes no durable state.

use thiserror::Error;

/// One of Kafka's error codes; `code` is what the wire carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
#[repr(i16)]
pub enum GroupError {
    #[error("the server failed in an unexpected way")]
    UnknownServerError = -1,
    #[error("this server does not host this topic-partition")]
    UnknownTopicOrPartition = 3,
    #[error("the metadata of the offset is too large")]
    OffsetMetadataTooLarge = 12,
    #[error("the coordinator is loading")]
    CoordinatorLoadInProgress = 14,
    #[error("the coordinator is not available")]
    CoordinatorNotAvailable = 15,
    #[error("this is not the coordinator of the group")]
    NotCoordinator = 16,
    #[error("the generation is not the group's")]
    IllegalGeneration = 22,
    #[error("the member's protocols do not fit the group's")]
    InconsistentGroupProtocol = 23,
    #[error("the group id is not valid")]
    InvalidGroupId = 24,
    #[error("the coordinator does not know this member")]
    UnknownMemberId = 25,
    #[error("the session timeout is outside the allowed range")]
    InvalidSessionTimeout = 26,
    #[error("the group is rebalancing, join again")]
    RebalanceInProgress = 27,
    #[error("the commit is too large")]
    InvalidCommitOffsetSize = 28,
    #[error("the version is not supported for this group")]
    UnsupportedVersion = 35,
    #[error("the request is malformed")]
    InvalidRequest = 42,
    #[error("the producer's epoch is older than one seen before")]
    InvalidProducerEpoch = 47,
    #[error("the producer is in no transaction that may write this")]
    InvalidTxnState = 48,
    #[error("the producer's last transaction has not ended yet")]
    ConcurrentTransactions = 51,
    #[error("the group is not empty")]
    NonEmptyGroup = 68,
    #[error("the group does not exist")]
    GroupIdNotFound = 69,
    #[error("join again with the member id given here")]
    MemberIdRequired = 79,
    #[error("the group has as many members as it may have")]
    GroupMaxSizeReached = 81,
    #[error("another member has taken this group instance id")]
    FencedInstanceId = 82,
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic = 86,
    #[error("a transaction has offsets of this partition that are not decided")]
    UnstableOffsetCommit = 88,
    #[error("the member's epoch is fenced: it must abandon its partitions and join again")]
    FencedMemberEpoch = 110,
    #[error("another member still uses this group instance id")]
    UnreleasedInstanceId = 111,
    #[error("no such assignor on the server")]
    UnsupportedAssignor = 112,
    #[error("the member's epoch is stale: it must take the new one first")]
    StaleMemberEpoch = 113,
    #[error("the pattern of topics is not valid")]
    InvalidRegularExpression = 128,
}

impl GroupError {
    /// Kafka's number for it.
    pub fn code(self) -> i16 {
        self as i16
    }
}
