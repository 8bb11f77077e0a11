//! Transactions on this broker: one shard (the pure `highwater_groups::core::txn::Coordinator`) for each
//! partition of `__transaction_state` that this node leads, each owned by one task; and the way to the
//! coordinator for those who need its word, wherever it is (docs/adr/0017, 0019).
//!
//! Owns: which shards there are, the way from a request to its shard and back, the internal topic, markers on
//! their way, and what brokers ask each other. Decides nothing about transactions. Must not: touch a shard
//! but in its task, append in another leader epoch than the one that the shard was loaded in (invariant 6),
//! tell a shard that a record or marker is written before it is committed (invariant 3). Queues are bounded
//! (invariant 16).

mod ask;
mod follow;
mod load;
mod markers;
mod peers;
mod shard;
mod topic;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use highwater_groups::core::shard::partition_of;
use highwater_groups::core::txn::{
    AddPartitions, Coordinator, EndTxn, InitProducerId, Reply, TxnError, TxnSettings,
};
use highwater_groups::core::types::Millis;
use highwater_model::LeaderEpoch;
use tokio::sync::{mpsc, oneshot, watch};

use crate::node::Node;
use crate::partition::registry::Slot;
use crate::settings::Settings;

pub use ask::{Asked, Asking, ask};
pub use follow::run;
pub use markers::write_here;
pub use peers::TransactionsService;
pub use topic::find;

/// The topic that holds the state of transactions.
pub const STATE_TOPIC: &str = "__transaction_state";

/// Messages and the service of `proto/highwater/v1/transactions.proto`, generated.
pub mod proto {
    tonic::include_proto!("highwater.v1.transactions");
}

/// What a coordinator is asked to change.
#[derive(Clone, Debug)]
pub enum Request {
    InitProducerId(InitProducerId),
    AddPartitions(AddPartitions),
    AddOffsets(AddPartitions),
    EndTxn(EndTxn),
}

/// Has a look at the transactions of a shard, at its time.
type Look = Box<dyn FnOnce(&Coordinator, Millis) + Send>;

/// What a shard's task is asked.
enum Message {
    Request { request: Request, answer: oneshot::Sender<Reply> },
    Read(Look),
}

/// A shard as the rest of the broker sees it.
struct Shard {
    partition: i32,
    /// The leader epoch in which it was begun, and the coordinator epoch of its markers.
    epoch: LeaderEpoch,
    messages: mpsc::Sender<Message>,
    is_loaded: AtomicBool,
    stop: watch::Sender<bool>,
    ids: AtomicU64,
}

/// The shards of this node, by partition, and the connections to those of others.
#[derive(Default)]
pub struct TxnShards {
    shards: RwLock<BTreeMap<i32, Arc<Shard>>>,
    /// Held by the one who creates the internal topic.
    creating: tokio::sync::Mutex<()>,
    peers: peers::Peers,
}

impl TxnShards {
    /// Transactional ids whose coordinator this node is, as last counted.
    pub fn ids(&self) -> u64 {
        self.all().iter().map(|shard| shard.ids.load(Ordering::Relaxed)).sum()
    }

    fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, partition: i32) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }
}

impl Shard {
    async fn send(&self, message: Message) -> Result<(), TxnError> {
        if !self.is_loaded.load(Ordering::Acquire) {
            return Err(TxnError::CoordinatorLoadInProgress);
        }
        self.messages.send(message).await.map_err(|_| TxnError::NotCoordinator)
    }

    async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Coordinator, Millis) -> R + Send + 'static,
    ) -> Result<R, TxnError> {
        let (tell, told) = oneshot::channel();
        let read = move |coordinator: &Coordinator, now: Millis| {
            let _ = tell.send(look(coordinator, now)); // who asked may be gone
        };
        self.send(Message::Read(Box::new(read))).await?;
        told.await.map_err(|_| TxnError::NotCoordinator)
    }
}

/// The shard that coordinates a transactional id.
fn shard_of(node: &Node, id: &str) -> Result<Arc<Shard>, TxnError> {
    let view = node.partitions.view();
    let topic = view.by_name(STATE_TOPIC).ok_or(TxnError::NotCoordinator)?;
    let count = i32::try_from(topic.slots().len()).unwrap_or(i32::MAX);
    let number = partition_of(id, count);
    let Some(Slot::Open(partition)) = topic.slot(number) else { return Err(TxnError::NotCoordinator) };
    let terms = partition.terms();
    if !terms.is_leader || node.is_stopping() {
        return Err(TxnError::NotCoordinator);
    }
    let shard = node.transactions.get(number).filter(|shard| shard.epoch == terms.leader_epoch);
    shard.ok_or(TxnError::CoordinatorLoadInProgress)
}

/// Has the coordinator of the transactional id, if it is this node, carry out a request.
///
/// # Errors
/// NotCoordinator, CoordinatorLoadInProgress: the request was not carried out, or its outcome is not known
/// here.
pub async fn call(node: &Node, id: &str, request: Request) -> Result<Reply, TxnError> {
    let shard = shard_of(node, id)?;
    let (answer, answered) = oneshot::channel();
    shard.send(Message::Request { request, answer }).await?;
    answered.await.map_err(|_| TxnError::NotCoordinator)
}

/// Has a look at the transactions of the shard that coordinates `id`.
///
/// # Errors
/// As [`call`].
pub async fn read<R: Send + 'static>(
    node: &Node,
    id: &str,
    look: impl FnOnce(&Coordinator, Millis) -> R + Send + 'static,
) -> Result<R, TxnError> {
    shard_of(node, id)?.read(look).await
}

/// Has a look at each shard of this node, in order of its partitions.
///
/// # Errors
/// The first shard's that is being loaded; one that has ended meanwhile is left out.
pub async fn read_all<R: Send + 'static>(
    node: &Node,
    look: impl Fn(&Coordinator, Millis) -> R + Clone + Send + 'static,
) -> Result<Vec<R>, TxnError> {
    let mut seen = Vec::new();
    for shard in node.transactions.all() {
        match shard.read(look.clone()).await {
            Ok(one) => seen.push(one),
            Err(TxnError::NotCoordinator) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

/// The core's settings from the broker's.
fn txn_settings(settings: &Settings) -> TxnSettings {
    TxnSettings {
        timeout_ms_max: settings.transaction_max_timeout_ms,
        id_expiration_ms: i64::try_from(settings.transactional_id_expiration_ms).unwrap_or(i64::MAX),
    }
}
