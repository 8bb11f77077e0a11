//! Delayed delivery on this broker: one shard (the pure [`crate::core::delayed`]) for each partition of
//! `__highwater_delayed` that this node leads, and the ways between them and the leaders of the partitions
//! whose records they keep (docs/adr/0020).
//!
//! Owns the way of delayed records into their shard and back out. Must not: tell anybody that records are
//! kept, or send them to their partition, before the journal says so and that is committed (invariant 3),
//! append in another leader epoch than the one that the shard was loaded in (invariant 6).

mod ask;
mod peers;
mod release;
mod shard;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use highwater_model::limits::DELAYED_ASKS_MAX;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Semaphore, oneshot};

use crate::core::delayed::Ask;
use crate::node::Node;
use crate::settings::Settings;
use crate::shards::{self, Kind, LoadError, Shards, Task, TopicSpec};

pub use ask::{AskFailure, ask};
pub use peers::DelayedService;

/// The topic that holds what waits.
pub const DELAYED_TOPIC: &str = "__highwater_delayed";

/// Messages and the service of `proto/highwater/v1/delayed.proto`, generated.
pub mod proto {
    tonic::include_proto!("highwater.v1.delayed");
}

/// Which records of the batch are kept.
type Answer = Result<Vec<u32>, AskFailure>;

/// What a shard's task is asked. Its end of the channel is dropped where it is not known what was kept.
pub struct Message {
    ask: Ask,
    answer: oneshot::Sender<Answer>,
}

/// What waits in a shard, as last counted.
pub struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    /// `i64::MAX`: nothing waits.
    oldest_due_ms: AtomicI64,
}

impl Default for Counts {
    fn default() -> Counts {
        let (records, bytes) = Default::default();
        Counts { records, bytes, oldest_due_ms: AtomicI64::new(i64::MAX) }
    }
}

/// What all shards of a node have in common.
pub struct Shared {
    peers: peers::Peers,
    /// Asks of this node on their way.
    asking: Semaphore,
    /// Asks of other nodes that are being served.
    serving: Semaphore,
}

impl Default for Shared {
    fn default() -> Shared {
        let seats = || Semaphore::new(DELAYED_ASKS_MAX);
        Shared { peers: peers::Peers::default(), asking: seats(), serving: seats() }
    }
}

/// Shards of delayed records.
pub struct OfDelays;

/// The shards of delayed records of this node.
pub type DelayShards = Shards<OfDelays>;

impl Kind for OfDelays {
    const TOPIC: &'static str = DELAYED_TOPIC;
    const HOLDS: &'static str = "delayed records";
    type Message = Message;
    type Counts = Counts;
    type Shared = Shared;
    type Loaded = shard::Loaded;

    fn shards(node: &Node) -> &DelayShards {
        &node.delays
    }

    fn topic(settings: &Settings) -> TopicSpec {
        TopicSpec {
            partitions: settings.delayed_topic_num_partitions,
            replication_factor: settings.delayed_topic_replication_factor,
            is_on_two_disks: true,
        }
    }

    fn reloads(node: &Node) -> &Counter {
        &node.metrics.delayed.reloads
    }

    async fn load(task: &mut Task<Self>) -> Result<shard::Loaded, LoadError> {
        shard::load(task).await
    }
}

/// Begins and ends the shards of delayed records until the node stops.
pub async fn run(node: Arc<Node>) {
    shards::follow::<OfDelays>(node).await;
}

/// What waits on a node, as last counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub records: u64,
    pub bytes: u64,
    /// How long the oldest is overdue, in milliseconds; 0: none is.
    pub late_ms: u64,
}

impl Shards<OfDelays> {
    pub fn waiting(&self, now_ms: i64) -> Waiting {
        let mut waiting = Waiting::default();
        for shard in self.all() {
            waiting.records += shard.counts.records.load(Ordering::Relaxed);
            waiting.bytes += shard.counts.bytes.load(Ordering::Relaxed);
            let late_ms = now_ms.saturating_sub(shard.counts.oldest_due_ms.load(Ordering::Relaxed));
            waiting.late_ms = waiting.late_ms.max(u64::try_from(late_ms).unwrap_or(0));
        }
        waiting
    }
}
