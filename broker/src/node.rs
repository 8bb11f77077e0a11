//! The node: everything that a request or a worker needs, shared as one `Arc`.
//!
//! Owns nothing but the references and the order of starting and stopping. State lives in its owners:
//! partitions in [`crate::partition`], metadata and manifests in the coordinator, objects in the tier.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use highwater_coordinator::Coordinator;
use highwater_model::Clock;
use highwater_tiering::lane::Store;
use highwater_tiering::mirror::Mirror;
use highwater_tiering::offload::Offloader;
use highwater_tiering::read::TierReader;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::core::fetch_session::FetchSessions;
use crate::delayed::DelayShards;
use crate::groups::GroupShards;
use crate::handlers::init_producer_id::ProducerIds;
use crate::metrics::Metrics;
use crate::net::budget::{BUDGET_UNIT_BYTES, RequestBudget};
use crate::net::refusal_log::RefusalLog;
use crate::partition::registry::Registry;
use crate::replication::Throttle;
use crate::settings::{Address, Settings};
use crate::tier::Tier;
use crate::transactions::TxnShards;
use crate::workers;
use crate::workers::disk::DiskGuard;
use crate::workers::flush::FlushQueue;
use crate::workers::isr::IsrQueue;
use crate::workers::offload::OffloadQueue;
use crate::workers::pace::Pacer;
use crate::workers::raft::Groups;

/// What a node is made of; `serve.rs` (and the tests) build it.
pub struct NodeParts {
    pub settings: Settings,
    pub coordinator: Coordinator,
    pub tier: Tier,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
}

/// One broker. Handlers and workers hold it as `Arc<Node>`.
pub struct Node {
    pub settings: Settings,
    pub coordinator: Coordinator,
    pub store: Store,
    pub offloader: Offloader,
    pub tier: TierReader,
    pub mirror: Arc<Mirror>,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    pub partitions: Registry,
    /// Where clients are told to connect; set once the listener is bound.
    pub advertised: OnceLock<Address>,
    pub refusals: RefusalLog,
    pub request_budget: RequestBudget,
    /// Units of [`BUDGET_UNIT_BYTES`] that reads from the tier may hold until their answer is in the socket.
    pub tier_memory: Arc<Semaphore>,
    /// Turns at taking expired records out of answers: one per core.
    pub sifting: Arc<Semaphore>,
    pub fetch_sessions: Mutex<FetchSessions>,
    pub flush: FlushQueue,
    pub offloads: OffloadQueue,
    pub pacer: Pacer,
    /// Changes of in-sync sets on their way to the control plane.
    pub isr: IsrQueue,
    /// Raft groups of this node's partitions.
    pub raft: Groups,
    /// How fast replicas that have to catch up are filled.
    pub throttle: Throttle,
    /// Counts changes of what this node replicates; who follows leaders looks again.
    replicas: watch::Sender<u64>,
    pub disk: DiskGuard,
    pub producer_ids: ProducerIds,
    /// Consumer groups whose coordinator this node is.
    pub groups: GroupShards,
    /// Transactions whose coordinator this node is.
    pub transactions: TxnShards,
    /// Records that wait for their time on this node.
    pub delays: DelayShards,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

/// Why a node did not start. One line.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("the local log cannot be opened: {0}")]
    Open(#[from] crate::partition::open::OpenError),
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

impl Node {
    /// Opens the partitions of this node and starts its workers.
    ///
    /// # Errors
    /// The data directory cannot be read or written at all; a single damaged partition does not stop the
    /// node.
    pub async fn start(parts: NodeParts) -> Result<Arc<Node>, NodeError> {
        let memory_units = parts.settings.read_memory_bytes / BUDGET_UNIT_BYTES as u64;
        let groups = Groups::start(parts.settings.node_id, &parts.coordinator).map_err(NodeError::Thread)?;
        let memory_units = usize::try_from(memory_units).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let node = Arc::new(Node {
            request_budget: RequestBudget::new(parts.settings.request_memory_bytes),
            tier_memory: Arc::new(Semaphore::new(memory_units)),
            sifting: Arc::new(Semaphore::new(parts.settings.worker_threads())),
            disk: DiskGuard::new(parts.settings.data_dir.clone()),
            pacer: Pacer::new(&parts.settings),
            isr: IsrQueue::default(),
            raft: groups,
            throttle: Throttle::new(parts.settings.node_id, parts.settings.move_bytes_per_second),
            replicas: watch::Sender::new(0),
            settings: parts.settings,
            coordinator: parts.coordinator,
            store: parts.tier.store,
            offloader: parts.tier.offloader,
            tier: parts.tier.reader,
            mirror: parts.tier.mirror,
            metrics: parts.metrics,
            clock: parts.clock,
            partitions: Registry::default(),
            advertised: OnceLock::new(),
            refusals: RefusalLog::default(),
            fetch_sessions: Mutex::new(FetchSessions::seeded(rand::random())),
            flush: FlushQueue::default(),
            offloads: OffloadQueue::default(),
            producer_ids: ProducerIds::default(),
            groups: GroupShards::default(),
            transactions: TxnShards::default(),
            delays: DelayShards::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::new(JoinSet::new()),
        });
        node.raft.belong_to(&node);
        let (data_dir, node_id) = (&node.settings.data_dir, node.settings.node_id);
        crate::partition::follow::remove_leftovers(data_dir, node_id, &node.coordinator.state());
        node.follow_topics().await?;
        crate::partition::follow::mirror_all(&node);
        workers::flush::start(&node).map_err(NodeError::Thread)?;
        {
            let mut tasks = node.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            workers::start(&node, &mut tasks);
        }
        Ok(node)
    }

    /// Serves Kafka clients until [`Node::stop`]; returns when the last connection has ended.
    pub async fn serve(self: &Arc<Self>, listener: TcpListener) {
        crate::net::listener::serve(self.clone(), listener).await;
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Becomes true when the node stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Opens and closes partitions so that they are those of the coordinator's state. Returns when this node
    /// serves all topics that exist now: a handler that has created a topic calls it before it answers.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub async fn follow_topics(self: &Arc<Self>) -> Result<(), NodeError> {
        crate::partition::follow::reconcile(self).await?;
        Ok(())
    }

    /// Told whenever this node's partitions or their roles may have changed.
    pub fn watch_replicas(&self) -> watch::Receiver<u64> {
        self.replicas.subscribe()
    }

    pub(crate) fn replicas_changed(&self) {
        self.replicas.send_modify(|count| *count += 1);
    }

    /// Tells every connection and worker to finish. Fetches that wait for data are answered at once.
    pub fn begin_stop(&self) {
        self.stop.send_replace(true);
        self.partitions.wake_all();
    }

    /// Stops: connections drain elsewhere ([`Node::serve`] returns), workers end, logs are flushed and closed
    /// clean. False if something was cut, so that a log may lack what it should have.
    pub async fn stop(self: &Arc<Self>) -> bool {
        self.begin_stop();
        self.raft.stop(self).await;
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let drain = std::time::Duration::from_millis(self.settings.drain_timeout_ms);
        let ended = tokio::time::timeout(drain, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!("workers were cut: what they did is done again after the next start");
            tasks.shutdown().await;
        }
        // What has changed last is in the bucket, if the bucket is there.
        let mirrored = tokio::time::timeout(drain, self.mirror.flush()).await;
        if !mirrored.unwrap_or(false) {
            tracing::warn!("the mirror of manifests in the bucket is not of the newest version");
        }
        self.flush.stop();
        let node = self.clone();
        let closed = tokio::task::spawn_blocking(move || node.partitions.close_all()).await;
        if closed.is_err() {
            tracing::error!("closing the local log panicked; the next start recovers it");
        }
        ended.is_ok() && closed.unwrap_or(false)
    }
}
