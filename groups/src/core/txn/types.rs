//! The words of the transaction coordinator: what goes in, what comes out, what it refuses.

use bytes::Bytes;
use highwater_model::ProducerId;
use thiserror::Error;

use crate::core::types::{Millis, Name};

/// "No producer id" and "no epoch" in records and answers.
pub const NO_PRODUCER_ID: ProducerId = -1;
pub const NO_EPOCH: i16 = -1;

/// Chosen by the caller; comes back with the answer.
pub type RequestId = u64;
/// Names an append or a round of markers; never used twice by one coordinator.
pub type WriteId = u64;

/// Where a transactional id stands; Kafka's numbers are stored and its names are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum TxnState {
    /// A producer is known and has no transaction.
    Empty = 0,
    Ongoing = 1,
    /// The decision to commit is made; markers are on their way.
    PrepareCommit = 2,
    PrepareAbort = 3,
    /// Every partition has its marker.
    CompleteCommit = 4,
    CompleteAbort = 5,
}

impl TxnState {
    pub const ALL: [TxnState; 6] = [
        TxnState::Empty,
        TxnState::Ongoing,
        TxnState::PrepareCommit,
        TxnState::PrepareAbort,
        TxnState::CompleteCommit,
        TxnState::CompleteAbort,
    ];

    /// Kafka's number of it.
    pub fn id(self) -> i8 {
        self as i8
    }

    pub fn from_id(id: i8) -> Option<TxnState> {
        TxnState::ALL.into_iter().find(|state| state.id() == id)
    }

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            TxnState::Empty => "Empty",
            TxnState::Ongoing => "Ongoing",
            TxnState::PrepareCommit => "PrepareCommit",
            TxnState::PrepareAbort => "PrepareAbort",
            TxnState::CompleteCommit => "CompleteCommit",
            TxnState::CompleteAbort => "CompleteAbort",
        }
    }

    pub fn from_name(name: &str) -> Option<TxnState> {
        TxnState::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The outcome is decided and not everywhere yet.
    pub fn is_prepared(self) -> bool {
        matches!(self, TxnState::PrepareCommit | TxnState::PrepareAbort)
    }

    /// Nothing is open: a transaction may begin.
    pub fn is_idle(self) -> bool {
        matches!(self, TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort)
    }
}

/// Which rules the client follows (Kafka's feature `transaction.version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i16)]
pub enum ClientVersion {
    /// AddPartitionsToTxn up to v3, AddOffsetsToTxn, EndTxn up to v4.
    V0 = 0,
    /// As V0; records are written in the flexible format.
    V1 = 1,
    /// KIP-890: the epoch is bumped with every transaction; brokers add partitions (AddPartitionsToTxn from
    /// v4, EndTxn from v5).
    V2 = 2,
}

impl ClientVersion {
    pub fn from_level(level: i16) -> Option<ClientVersion> {
        [ClientVersion::V0, ClientVersion::V1, ClientVersion::V2].into_iter().find(|v| *v as i16 == level)
    }

    pub fn bumps_epoch(self) -> bool {
        self == ClientVersion::V2
    }

    /// Of an AddPartitionsToTxn request.
    pub fn of_add_partitions(api_version: i16) -> ClientVersion {
        if api_version > 3 { ClientVersion::V2 } else { ClientVersion::V0 }
    }

    /// Of an EndTxn request.
    pub fn of_end_txn(api_version: i16) -> ClientVersion {
        if api_version > 4 { ClientVersion::V2 } else { ClientVersion::V0 }
    }
}

/// A partition that a transaction writes to, by topic name as Kafka stores it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TxnPartition {
    pub topic: Name,
    pub partition: i32,
}

impl TxnPartition {
    pub fn new(topic: impl Into<Name>, partition: i32) -> TxnPartition {
        TxnPartition { topic: topic.into(), partition }
    }
}

/// A producer id and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Producer {
    pub id: ProducerId,
    pub epoch: i16,
}

/// Settings, with Kafka's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnSettings {
    /// `transaction.max.timeout.ms`
    pub timeout_ms_max: i32,
    /// `transactional.id.expiration.ms`
    pub id_expiration_ms: i64,
}

impl Default for TxnSettings {
    fn default() -> TxnSettings {
        TxnSettings { timeout_ms_max: 15 * 60 * 1_000, id_expiration_ms: 7 * 24 * 3_600 * 1_000 }
    }
}

/// A refusal, named and numbered as Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
#[repr(i16)]
pub enum TxnError {
    #[error("the server failed in an unexpected way")]
    UnknownServerError = -1,
    #[error("the coordinator is loading, or has no producer id at hand")]
    CoordinatorLoadInProgress = 14,
    #[error("the coordinator cannot write at the moment")]
    CoordinatorNotAvailable = 15,
    #[error("this is not the coordinator of the transactional id")]
    NotCoordinator = 16,
    #[error("the request is malformed")]
    InvalidRequest = 42,
    #[error("more transactional ids or partitions than may be")]
    PolicyViolation = 44,
    #[error("the producer's epoch is older than the current one")]
    InvalidProducerEpoch = 47,
    #[error("the transaction is not in a state for this")]
    InvalidTxnState = 48,
    #[error("the producer id is not the one of the transactional id")]
    InvalidProducerIdMapping = 49,
    #[error("the transaction timeout is larger than transaction.max.timeout.ms, or not positive")]
    InvalidTransactionTimeout = 50,
    #[error("another change of the transaction is under way")]
    ConcurrentTransactions = 51,
    #[error("a newer producer has taken the transactional id")]
    ProducerFenced = 90,
    #[error("no such transactional id")]
    TransactionalIdNotFound = 105,
    #[error("the partition is not in the transaction, which must be aborted")]
    TransactionAbortable = 120,
    #[error("the pattern of transactional ids is not valid")]
    InvalidRegularExpression = 128,
}

impl TxnError {
    /// Kafka's number for it.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The number that a client of an older version of the request knows: before KIP-588 a fenced producer
    /// was told INVALID_PRODUCER_EPOCH (InitProducerId below v4, the other three below v2); before KIP-890
    /// part 2 a partition outside the transaction was INVALID_TXN_STATE.
    pub fn code_for(self, knows_fenced: bool, knows_abortable: bool) -> i16 {
        match self {
            TxnError::ProducerFenced if !knows_fenced => TxnError::InvalidProducerEpoch.code(),
            TxnError::TransactionAbortable if !knows_abortable => TxnError::InvalidTxnState.code(),
            error => error.code(),
        }
    }
}

/// A record for the coordinator's partition of `__transaction_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnRecord {
    pub key: Bytes,
    /// None is a tombstone.
    pub value: Option<Bytes>,
}

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append the record under the coordinator's epoch, acks=all, in the order of the effects. `appended` is
    /// told once it is committed, or once it is certain that it never was appended. If neither can be known
    /// any more (leadership was lost), the coordinator is to be dropped.
    Append {
        write: WriteId,
        record: TxnRecord,
    },
    Reply {
        request: RequestId,
        reply: Reply,
    },
    /// Send markers to the leaders of the partitions and tell `marked` what became of each.
    Mark(Markers),
}

/// What a client is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    InitProducerId(Result<Producer, TxnError>),
    /// For all partitions of the transaction alike.
    AddPartitions(Result<(), TxnError>),
    AddOffsets(Result<(), TxnError>),
    /// Under version 2 with the producer to go on as; before it with the one that asked.
    EndTxn(Result<Producer, TxnError>),
}

/// Markers that end a transaction in some partitions (WriteTxnMarkers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markers {
    /// Which transaction's; to be given back with the answer.
    pub round: WriteId,
    pub transactional_id: Name,
    pub producer: Producer,
    pub coordinator_epoch: i32,
    pub commit: bool,
    /// The marker's epoch is newer than every batch of its transaction.
    pub bumps_epoch: bool,
    pub partitions: Vec<TxnPartition>,
}

/// What became of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MarkerOutcome {
    /// It is committed.
    Written,
    /// The topic or partition has been deleted.
    PartitionGone,
    /// INVALID_PRODUCER_EPOCH: the partition has gone on to a newer epoch, so that this transaction has ended
    /// there.
    StaleEpoch,
    /// TRANSACTION_COORDINATOR_FENCED: there is a newer coordinator.
    CoordinatorFenced,
    /// Anything else: no leader, no connection, no answer.
    Retry,
}

/// The answer to [`Markers`], whole or in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerAnswer {
    pub round: WriteId,
    pub coordinator_epoch: i32,
    pub transactional_id: Name,
    pub outcomes: Vec<(TxnPartition, MarkerOutcome)>,
}

/// Why a record certainly was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFailure {
    /// Too few replicas, a full disk: it may work later.
    Unavailable,
    /// The broker no longer leads the partition.
    NotLeader,
    /// The record is refused, now and later.
    Refused,
}

impl AppendFailure {
    /// What the client is told.
    pub fn error(self) -> TxnError {
        match self {
            AppendFailure::Unavailable => TxnError::CoordinatorNotAvailable,
            AppendFailure::NotLeader => TxnError::NotCoordinator,
            AppendFailure::Refused => TxnError::UnknownServerError,
        }
    }
}

/// Whole milliseconds later, or the end of time.
pub(super) fn after(from: Millis, ms: i64) -> Millis {
    from.saturating_add(ms.max(0))
}
