//! Limits that the shards of all internal topics share.

use std::time::Duration;

/// Requests that wait for one shard; the next one waits on its connection.
pub const SHARD_REQUESTS_MAX: usize = 1_024;
/// Appends of one shard that are not yet committed; requests wait above it.
pub const SHARD_APPENDS_PENDING_MAX: usize = 1_024;
/// Bytes of the log that a shard reads at a time while it is loaded; one batch may be larger.
pub const SHARD_LOAD_CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Pause before a load that failed is tried again, and before a step is tried again whose partition takes no
/// writes for now.
pub const SHARD_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// See [`SHARD_RETRY_PAUSE`]: it doubles with each load that fails, up to this.
pub const SHARD_RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Changes of topics and of leaders are gathered for so long before the shards follow them.
pub const SHARD_FOLLOW_PAUSE: Duration = Duration::from_millis(20);
/// A shard looks at what is due at least this often.
pub const SHARD_TIMER_MAX: Duration = Duration::from_secs(3_600);
/// Bytes of a segment of an internal topic (Kafka's `offsets.topic.segment.bytes` and
/// `transaction.state.log.segment.bytes`).
pub const SHARD_SEGMENT_BYTES: usize = 100 * 1024 * 1024;
/// How long an internal topic, once wanted, waits for the brokers of a cluster that is being formed, so that
/// it does not get too few replicas for good.
pub const SHARD_BROKERS_WAIT: Duration = Duration::from_secs(30);
/// Bytes, about, of one batch of a step; a step that writes more writes several. Far below what a follower
/// takes at once.
pub const SHARD_STEP_BATCH_BYTES: usize = 32 * 1024 * 1024;
/// How many times what counts of it a shard's log holds before it is written once more.
pub const SHARD_REWRITE_FACTOR: u64 = 4;
/// Bytes, about, that a shard writes at a time when it writes its state once more; one group may take more.
pub const SHARD_REWRITE_PART_BYTES: usize = 512 * 1024;
/// Bytes, about, of one batch of it; one record may take more.
pub const SHARD_REWRITE_BATCH_BYTES: usize = 1024 * 1024;
/// Pause between two parts of it, so that requests have the larger share.
pub const SHARD_REWRITE_PAUSE: Duration = Duration::from_millis(20);
