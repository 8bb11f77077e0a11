//! Limits of delayed delivery. Each is named here with its unit and its reason (invariant 16). Those that all
//! shards share are in `shards.rs`.

use std::time::Duration;

// --- broker: the core ---

/// Records that wait in one shard, i.e. in one partition of `__highwater_delayed`; more are refused.
pub const DELAYED_RECORDS_PER_SHARD_MAX: usize = 1_000_000;
/// Largest record that can be delayed, in bytes as kept: it is sent between brokers as a whole.
pub const DELAYED_RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Records that one batch of a producer may have delayed, in bytes as the journal's entry has them: they are
/// one record of it.
pub const DELAYED_ASK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest entry of the journal, in bytes: an ask, or what is known of one target's producers, with what is
/// around it. Far below what replication carries, as an entry is never split.
pub const DELAYED_ENTRY_BYTES_MAX: usize = DELAYED_ASK_BYTES_MAX + 1024 * 1024;
const _: () = assert!(2 * DELAYED_ENTRY_BYTES_MAX <= super::REPLICA_ANSWER_BYTES_MAX);
/// Records that are released in one batch.
pub const DELAYED_PLAN_RECORDS_MAX: usize = 1_000;
/// Bytes of the records of one release; one record may be larger.
pub const DELAYED_PLAN_BYTES_MAX: usize = 512 * 1024;
/// Batches of a producer that a shard recognises when they come again: as many as a client has on its way.
pub const DELAYED_BATCHES_KNOWN_MAX: usize = 5;
/// Producers that a shard knows; the eighth that was silent for longest is forgotten beyond it.
pub const DELAYED_PRODUCERS_PER_SHARD_MAX: usize = 50_000;
/// Bytes of what a shard knows of producers, as the journal has them; beyond it the eighth that was silent
/// for longest is forgotten, too. All of it may be of one target, and so one entry.
pub const DELAYED_KNOWN_BYTES_MAX: usize = DELAYED_ASK_BYTES_MAX;
/// Bytes of what a shard knows of one producer: beyond it its oldest batches are forgotten, but never the
/// newest, which is no larger (4 bytes for each record of [`DELAYED_ASK_BYTES_MAX`]).
pub const DELAYED_KNOWN_OF_PRODUCER_BYTES_MAX: usize = DELAYED_KNOWN_BYTES_MAX / 4;
/// A producer is forgotten when it was silent for so long, in milliseconds (as `producer.id.expiration.ms`).
pub const DELAYED_PRODUCER_SILENT_MS_MAX: i64 = 24 * 3_600_000;

// --- broker: the shell ---

/// Asks of one node that are on their way, and asks of others that it serves; more are told to come again.
pub const DELAYED_ASKS_MAX: usize = 64;
/// How long a produce request waits for the shard's word on its delayed records, if its own timeout is not
/// shorter.
pub const DELAYED_ASK_WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest call between brokers about delayed records, in bytes: an ask with what is around it.
pub const DELAYED_MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;
/// Releases of one shard that are on their way at a time, each to another partition.
pub const DELAYED_RELEASES_MAX: usize = 128;
/// How long a release may take until it is sent again.
pub const DELAYED_RELEASE_WAIT_MAX: Duration = Duration::from_secs(5);
/// First and longest pause before an ask or a release is sent again that was not taken.
pub const DELAYED_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// See [`DELAYED_RETRY_PAUSE`].
pub const DELAYED_RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);
/// A target says "out of order" for so long before its data counts as lost and the release gets a new
/// identity: a leader that was cut off has stepped down by then.
pub const DELAYED_OUT_OF_ORDER_WAIT: Duration = Duration::from_secs(20);
/// The clock is looked at this often while something waits: it may be set.
pub const DELAYED_CLOCK_PAUSE: Duration = Duration::from_millis(250);
/// How often it is looked for targets that are deleted.
pub const DELAYED_GONE_PAUSE: Duration = Duration::from_secs(5);
/// What waits is counted so long after it has changed.
pub const DELAYED_COUNT_PAUSE: Duration = Duration::from_millis(100);
