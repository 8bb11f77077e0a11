//! Transactions on this broker: one shard (the pure `highwater_groups::core::txn::Coordinator`) for each
//! partition of `__transaction_state` that this node leads, each owned by one task; and the way to the
//! coordinator for those who need its word, wherever it is (docs/adr/0017, 0019).
//!
//! Owns: the way from a request to its shard and back, markers on their way, and what brokers ask each other;
//! the rest of a shard's life is `crate::shards`. Decides nothing about transactions. Must not: tell a shard
//! that a record or marker is written before it is committed (invariant 3). Queues are bounded (invariant
//! 16).

mod ask;
mod load;
mod markers;
mod peers;
mod shard;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_groups::core::txn::{
    AddPartitions, Coordinator, EndTxn, InitProducerId, Reply, TxnError, TxnSettings,
};
use highwater_groups::core::types::Millis;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::settings::Settings;
use crate::shards::{self, Kind, LoadError, Shard, Shards, Task, TopicSpec, shard_of};

pub use ask::{Asked, Asking, ask};
pub use markers::write_here;
pub use peers::TransactionsService;

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
pub type Look = Box<dyn FnOnce(&Coordinator, Millis) + Send>;

/// What a shard's task is asked.
pub enum Message {
    Request { request: Request, answer: oneshot::Sender<Reply> },
    Read(Look),
}

/// Shards of transactions. The leader epoch of one is the coordinator epoch of its markers.
pub struct OfTransactions;

/// The shards of transactions of this node.
pub type TxnShards = Shards<OfTransactions>;

impl Kind for OfTransactions {
    const TOPIC: &'static str = STATE_TOPIC;
    const HOLDS: &'static str = "transactions";
    type Message = Message;
    /// Transactional ids.
    type Counts = AtomicU64;
    /// Connections to the shards of other nodes.
    type Shared = peers::Peers;
    type Loaded = shard::Loaded;

    fn shards(node: &Node) -> &TxnShards {
        &node.transactions
    }

    fn topic(settings: &Settings) -> TopicSpec {
        TopicSpec {
            partitions: settings.transaction_state_topic_num_partitions,
            replication_factor: settings.transaction_state_topic_replication_factor,
            is_on_two_disks: true,
        }
    }

    fn reloads(node: &Node) -> &Counter {
        &node.metrics.transaction_reloads
    }

    async fn load(task: &mut Task<Self>) -> Result<shard::Loaded, LoadError> {
        shard::load(task).await
    }
}

/// Begins and ends the shards of transactions until the node stops.
pub async fn run(node: Arc<Node>) {
    shards::follow::<OfTransactions>(node).await;
}

/// The coordinator of each transactional id, in order; none where there is no leader for now. Creates the
/// internal topic if need be.
pub async fn find(node: &Arc<Node>, ids: &[&str]) -> Vec<Option<shards::Coordinator>> {
    shards::find::<OfTransactions>(node, ids).await
}

impl Shards<OfTransactions> {
    /// Transactional ids whose coordinator this node is, as last counted.
    pub fn ids(&self) -> u64 {
        self.all().iter().map(|shard| shard.counts.load(Ordering::Relaxed)).sum()
    }
}

impl Shard<OfTransactions> {
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

/// Has the coordinator of the transactional id, if it is this node, carry out a request.
///
/// # Errors
/// NotCoordinator, CoordinatorLoadInProgress: the request was not carried out, or its outcome is not known
/// here.
pub async fn call(node: &Node, id: &str, request: Request) -> Result<Reply, TxnError> {
    let shard = shard_of::<OfTransactions>(node, id)?;
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
    shard_of::<OfTransactions>(node, id)?.read(look).await
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
