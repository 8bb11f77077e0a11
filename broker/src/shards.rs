//! Shards: the state that this node keeps, alone and in memory, for each partition of an internal topic that
//! it leads, and whose log is that partition. Groups, transactions and others are kinds of shards ([`Kind`]).
//!
//! Owns what they have in common: which shards there are (`follow`), the life of the task that owns one
//! (`task`), how a log is read into it (`load`), its appends until they are committed (`log`), how its log
//! stays bounded (`rewrite`), its clock, and the internal topic. A kind brings its messages, its pure state
//! machine and the loop that joins the two. Must not: touch a shard but in its task, append in another
//! leader epoch than the one that the shard was begun in (invariant 6). Queues are bounded (invariant 16).
//! See docs/adr/0018.

pub mod batch;
mod clock;
mod follow;
pub mod load;
mod log;
mod rewrite;
mod task;
mod topic;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use highwater_groups::core::error::GroupError;
use highwater_groups::core::shard::partition_of;
use highwater_groups::core::txn::TxnError;
use highwater_model::LeaderEpoch;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::node::Node;
use crate::partition::registry::Slot;
use crate::settings::Settings;

pub use clock::{SteadyClock, sleep_until};
pub use follow::follow;
pub use load::LoadError;
pub use log::{Committing, Fate, ShardLog};
pub use rewrite::{Rewriter, Todo, Wrote};
pub use task::Task;
pub use topic::{Coordinator, TopicSpec, coordinator_of, find, known, topic};

/// One kind of shards, such as groups.
pub trait Kind: Sized + Send + Sync + 'static {
    /// The internal topic.
    const TOPIC: &'static str;
    /// What its shards hold, in the plural, for the log.
    const HOLDS: &'static str;
    /// What a shard is asked.
    type Message: Send + 'static;
    /// What a shard lets others see without asking it.
    type Counts: Default + Send + Sync + 'static;
    /// What all shards of a node have in common.
    type Shared: Default + Send + Sync + 'static;
    /// A shard that serves.
    type Loaded: Serve<Self>;

    fn shards(node: &Node) -> &Shards<Self>;

    fn topic(settings: &Settings) -> TopicSpec;

    /// Counts loads anew.
    fn reloads(node: &Node) -> &Counter;

    /// Reads the shard's log (`Task::read`) and makes of it a shard that serves. The task gives up when it is
    /// told to stop.
    fn load(task: &mut Task<Self>) -> impl Future<Output = Result<Self::Loaded, LoadError>> + Send;

    /// Tells who has sent it that this shard does not serve; most hear it from their end of a channel.
    fn refuse(message: Self::Message) {
        drop(message);
    }
}

/// A shard that was loaded.
pub trait Serve<K: Kind>: Send {
    /// Serves until its time is over.
    fn serve(&mut self, task: &mut Task<K>) -> impl Future<Output = End> + Send;

    /// Whether it could serve at all; if not, the pauses between loads go on growing.
    fn has_served(&self) -> bool {
        true
    }

    /// Everybody who waits is told that this is over.
    fn give_up(self);
}

/// Why a shard serves no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Another leads, or the node stops.
    Stop,
    /// The state is not what the log says, or it is not known what is committed: load it anew.
    Reload,
}

/// Why a request did not come to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoShard {
    /// Another node has it, or nobody.
    Elsewhere,
    /// This node is about to serve it.
    Loading,
}

impl From<NoShard> for GroupError {
    fn from(reason: NoShard) -> GroupError {
        match reason {
            NoShard::Elsewhere => GroupError::NotCoordinator,
            NoShard::Loading => GroupError::CoordinatorLoadInProgress,
        }
    }
}

impl From<NoShard> for TxnError {
    fn from(reason: NoShard) -> TxnError {
        match reason {
            NoShard::Elsewhere => TxnError::NotCoordinator,
            NoShard::Loading => TxnError::CoordinatorLoadInProgress,
        }
    }
}

/// A shard as the rest of the broker sees it.
pub struct Shard<K: Kind> {
    pub partition: i32,
    /// The leader epoch in which it was begun; it serves in no other.
    pub epoch: LeaderEpoch,
    pub counts: K::Counts,
    messages: mpsc::Sender<K::Message>,
    is_loaded: AtomicBool,
    stop: watch::Sender<bool>,
}

impl<K: Kind> Shard<K> {
    /// Hands it a message; waits while its queue is full.
    ///
    /// # Errors
    /// [`NoShard`]: it was not sent.
    pub async fn send(&self, message: K::Message) -> Result<(), NoShard> {
        if !self.is_loaded.load(Ordering::Acquire) {
            return Err(NoShard::Loading);
        }
        self.messages.send(message).await.map_err(|_| NoShard::Elsewhere)
    }
}

/// The shards of this node of one kind, by partition.
pub struct Shards<K: Kind> {
    pub shared: K::Shared,
    begun: RwLock<BTreeMap<i32, Arc<Shard<K>>>>,
    /// Held by the one who creates the internal topic; since when somebody has wanted it.
    creating: tokio::sync::Mutex<Option<Instant>>,
}

impl<K: Kind> Default for Shards<K> {
    fn default() -> Self {
        let (shared, begun, creating) = Default::default();
        Shards { shared, begun, creating }
    }
}

impl<K: Kind> Shards<K> {
    /// In order of their partitions.
    pub fn all(&self) -> Vec<Arc<Shard<K>>> {
        self.begun.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, partition: i32) -> Option<Arc<Shard<K>>> {
        self.begun.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }
}

/// The shard that has `key`.
///
/// # Errors
/// As [`shard_at`].
pub fn shard_of<K: Kind>(node: &Node, key: &str) -> Result<Arc<Shard<K>>, NoShard> {
    let count = {
        let view = node.partitions.view();
        let topic = view.by_name(K::TOPIC).ok_or(NoShard::Elsewhere)?;
        i32::try_from(topic.slots().len()).unwrap_or(i32::MAX)
    };
    shard_at(node, partition_of(key, count))
}

/// The shard of a partition of the internal topic, if this node leads it.
///
/// # Errors
/// [`NoShard`]
pub fn shard_at<K: Kind>(node: &Node, number: i32) -> Result<Arc<Shard<K>>, NoShard> {
    let view = node.partitions.view();
    let topic = view.by_name(K::TOPIC).ok_or(NoShard::Elsewhere)?;
    let Some(Slot::Open(partition)) = topic.slot(number) else { return Err(NoShard::Elsewhere) };
    let terms = partition.terms();
    if !terms.is_leader || node.is_stopping() {
        return Err(NoShard::Elsewhere);
    }
    let shard = K::shards(node).get(number).filter(|shard| shard.epoch == terms.leader_epoch);
    shard.ok_or(NoShard::Loading)
}
