//! Limits of transactions: what a coordinator keeps, what a partition's log keeps. Each is named here with
//! its unit and its reason (invariant 16).

// --- groups: the transaction coordinator ---

/// Transactional ids that one partition of `__transaction_state` knows; new ones beyond it are refused.
pub const TXN_IDS_PER_PARTITION_MAX: usize = 200_000;
/// Longest transactional id, in bytes: what the stored key can hold.
pub const TXN_ID_BYTES_MAX: usize = 32_767;
/// Partitions of one transaction.
pub const TXN_PARTITIONS_MAX: usize = 50_000;
/// Largest record of a transaction, in bytes: below `max.message.bytes` with the batch around it.
pub const TXN_RECORD_BYTES_MAX: usize = 1_000_000;
/// Transactions whose time has come that one tick takes up; the rest waits for the next.
pub const TXN_DUE_PER_TICK_MAX: usize = 1_000;
/// Markers that were sent and not answered for this long are sent again, in milliseconds.
pub const TXN_MARKER_ANSWER_MS_MAX: i64 = 30_000;
/// First and longest pause before markers that a partition could not take are sent again, in milliseconds.
pub const TXN_RETRY_MS_MIN: i64 = 20;
/// See [`TXN_RETRY_MS_MIN`].
pub const TXN_RETRY_MS_MAX: i64 = 5_000;
/// Bytes of a compiled pattern of transactional ids (ListTransactions), and of its text.
pub const TXN_PATTERN_BYTES_MAX: usize = 1024 * 1024;

// --- broker: the transaction coordinator's shell ---

/// Rounds of markers of one shard that are on their way at a time; the others wait their turn.
pub const TXN_ROUNDS_PENDING_MAX: usize = 256;
/// Bytes of the records of one batch, decompressed, that a shard loads.
pub const TXN_LOAD_BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A marker that is not committed for so long is answered as late; the coordinator sends it again.
pub const TXN_MARKER_COMMIT_MAX: std::time::Duration = std::time::Duration::from_secs(20);
/// How long a produce request waits for the coordinator's word on its transaction.
pub const TXN_VERIFY_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// Largest call between brokers about transactions, in bytes: all partitions of one.
pub const TXN_MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Transactional ids in one DescribeTransactions; those beyond are refused.
pub const TXN_DESCRIBED_MAX: usize = 1_000;

// --- log: transactions of one partition ---

/// Open transactions of one partition; a batch that would begin another is told to come again.
pub const TXN_OPEN_PER_PARTITION_MAX: usize = 5_000;
/// Producers of one partition whose transaction is being verified; the oldest is forgotten beyond it, and its
/// producer asks again.
pub const TXN_VERIFICATIONS_PER_PARTITION_MAX: usize = 10_000;
/// Ended transactions that may lie above the high watermark and are remembered one by one; beyond it
/// neighbours are remembered as one, which holds the last stable offset a little longer.
pub const TXN_ENDED_PER_PARTITION_MAX: usize = 4_096;
/// A control batch larger than this is no marker, in bytes; a marker has 78.
pub const CONTROL_BATCH_BYTES_MAX: usize = 1024;
/// Aborted transactions of one segment; a segment that has as many is sealed.
pub const TXN_ABORTED_PER_SEGMENT_MAX: usize = 200_000;
/// Aborted transactions of sealed segments kept in memory per partition; beyond it they are read again from
/// where they are stored.
pub const TXN_ABORTED_CACHED_MAX: usize = 200_000;
