//! The front of the control plane that the broker holds: reads without waiting, writes through Raft.
//!
//! Errors say what is known: *refused* and *failed* changed nothing; *unknown* may have been applied or may
//! still be, and is settled by reading back. Must not: decide anything itself (`core` does) or name openraft.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_model::limits::PARTITIONS_PER_REQUEST_MAX;
use highwater_model::{NodeId, TopicId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::StartError;
use crate::core::{
    BrokerRegistration, ClusterState, Command, ConfigOp, NewTopic, RULES_VERSION, Refusal, Reply,
    TopicCreated,
};
use crate::duties;
use crate::metadata;
use crate::proposer::{self, Proposal};
use crate::raft::{GroupStatus, NodeSettings, RaftNode, StateCell};
use crate::rpc::Channels;
use crate::sessions::Sessions;
use crate::settings::CoordinatorSettings;

/// Why a write was not done, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Determinate: the state says no and nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Determinate: the command never entered the log.
    #[error("failed: {0}")]
    Failed(String),
    /// It may have been applied, or may still be.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why this node cannot vouch for what it knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control plane not available: {0}")]
pub struct ReadError(pub String);

/// Growth of one topic, to `count` partitions in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartitions {
    pub topic_id: TopicId,
    pub count: i32,
    /// Replicas of each new partition; empty lets the coordinator place them.
    pub assignments: Vec<Vec<NodeId>>,
}

/// A change of the settings of one topic, or of brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// AlterConfigs: these overrides and no others.
    Replace { topic_id: TopicId, overrides: BTreeMap<String, String> },
    /// IncrementalAlterConfigs (KIP-339), in order.
    Alter { topic_id: TopicId, ops: Vec<ConfigOp> },
    /// The same of one broker, or of all.
    Broker { node_id: Option<NodeId>, ops: Vec<ConfigOp> },
}

/// The control plane of this node. Clones share it.
#[derive(Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

/// A coordinator that this does not keep alive.
#[derive(Clone)]
pub(crate) struct WeakCoordinator {
    inner: Weak<Inner>,
}

impl WeakCoordinator {
    pub(crate) fn upgrade(&self) -> Option<Coordinator> {
        self.inner.upgrade().map(|inner| Coordinator { inner })
    }
}

struct Inner {
    settings: CoordinatorSettings,
    cell: Arc<StateCell>,
    seat: Seat,
    /// To the coordinators, this node included where it is one.
    channels: Channels,
    /// Who was last said to lead; a member asks its own Raft instead.
    named: Mutex<Option<NodeId>>,
    closed: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

/// What this node is in the control plane.
pub(crate) enum Seat {
    Member {
        node: Arc<RaftNode>,
        proposals: mpsc::Sender<Proposal>,
        sessions: Arc<Sessions>,
    },
    /// It follows the metadata and forwards what it writes.
    Observer,
}

impl Coordinator {
    /// Opens the coordinator's files, joins or forms the cluster, and returns once this node can vouch for
    /// what it knows. A member of several waits for its peers without end; its door must be open meanwhile.
    pub async fn start(settings: CoordinatorSettings) -> Result<Coordinator, StartError> {
        let node_settings = NodeSettings {
            node_id: settings.node_id,
            data_dir: settings.data_dir.clone(),
            snapshot_entries: settings.snapshot_entries.max(1),
            start_timeout: settings.start_timeout,
            coordinators: settings.coordinators.clone(),
        };
        let node = Arc::new(RaftNode::open(node_settings, settings.door.coordination()).await?);
        let clock = Arc::clone(&settings.clock);
        let proposals = proposer::start(Arc::clone(&node), clock, settings.propose_timeout);
        let sessions = Arc::new(Sessions::new(&settings));
        let cell = Arc::clone(node.cell());
        let coordinator = Coordinator::new(settings, cell, Seat::Member { node, proposals, sessions });
        coordinator.settings().door.open(&coordinator);
        coordinator.spawn(duties::run(coordinator.clone()));
        let formed = match coordinator.settings().is_lone() {
            true => coordinator.form().await.map_err(|e| StartError::Raft(e.to_string())),
            false => coordinator.wait_formed().await,
        };
        match formed {
            Ok(()) => Ok(coordinator),
            Err(e) => {
                coordinator.close().await;
                Err(e)
            }
        }
    }

    /// Follows the cluster's metadata without being a coordinator: a node with the role broker alone. Returns
    /// once the metadata is there; it waits for the coordinators without end.
    pub async fn observe(settings: CoordinatorSettings) -> Result<Coordinator, StartError> {
        assert!(!settings.coordinators.is_empty(), "settings were checked: an observer has coordinators");
        let cell = Arc::new(StateCell::new(ClusterState::default()));
        let coordinator = Coordinator::new(settings, cell, Seat::Observer);
        coordinator.settings().door.open(&coordinator);
        let (tell, refused) = watch::channel(None);
        coordinator.spawn(metadata::follow(coordinator.clone(), tell));
        match metadata::first(&coordinator, refused).await {
            Ok(()) => Ok(coordinator),
            Err(reason) => {
                coordinator.close().await;
                Err(StartError::Group(reason))
            }
        }
    }

    fn new(settings: CoordinatorSettings, cell: Arc<StateCell>, seat: Seat) -> Coordinator {
        let channels = Channels::new(settings.coordinators.clone());
        let inner = Inner {
            cell,
            seat,
            channels,
            settings,
            named: Mutex::new(None),
            closed: watch::Sender::new(false),
            tasks: Mutex::new(JoinSet::new()),
        };
        Coordinator { inner: Arc::new(inner) }
    }

    /// Gives the cluster its id if it has none. Only the leader can.
    pub(crate) async fn form(&self) -> Result<(), WriteError> {
        let Seat::Member { node, .. } = self.seat() else { return Ok(()) };
        if !self.cluster_id().is_empty() {
            return Ok(());
        }
        let members = node.group().and_then(|group| group.members()).map(|known| known.storages);
        let members = members.unwrap_or_default();
        let form = Command::FormCluster { cluster_id: cluster_id(new_cluster_uuid()), members };
        match self.write(form).await {
            Ok(_) | Err(WriteError::Refused(Refusal::AlreadyFormed)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Waits until the cluster has its id and this node has all that was acknowledged before.
    async fn wait_formed(&self) -> Result<(), StartError> {
        let mut watch = self.watch();
        let formed = watch.wait_for(|_| !self.cluster_id().is_empty()).await.map(|_| ());
        formed.map_err(|_| StartError::Raft("the coordinator has stopped".into()))?;
        while let Err(e) = self.linearize().await {
            tracing::info!("waiting for the control plane: {e}");
        }
        Ok(())
    }

    pub(crate) fn downgrade(&self) -> WeakCoordinator {
        WeakCoordinator { inner: Arc::downgrade(&self.inner) }
    }

    pub(crate) fn settings(&self) -> &CoordinatorSettings {
        &self.inner.settings
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.inner.seat
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.inner.channels
    }

    pub(crate) fn cell(&self) -> &Arc<StateCell> {
        &self.inner.cell
    }

    pub(crate) fn is_member(&self) -> bool {
        matches!(self.inner.seat, Seat::Member { .. })
    }

    /// A task that ends with this coordinator.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Turns true when this coordinator is closed.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.inner.closed.subscribe()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.inner.closed.borrow()
    }

    /// This node leads the control plane, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.is_member() && self.leader() == Some(self.settings().node_id)
    }

    /// Who leads the control plane, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        match self.seat() {
            Seat::Member { node, .. } => node.leadership().borrow().leader,
            Seat::Observer => *self.inner.named.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// A node was said to lead.
    pub(crate) fn note_leader(&self, leader: NodeId) {
        *self.inner.named.lock().unwrap_or_else(PoisonError::into_inner) = Some(leader);
    }

    /// This node leads, and a majority has said so lately.
    pub(crate) fn leads_for_sure(&self) -> bool {
        match self.seat() {
            Seat::Member { node, .. } => node.leads_for_sure(),
            Seat::Observer => false,
        }
    }

    /// What this node knows of the group; None where it is no coordinator.
    pub(crate) fn group_status(&self) -> Option<GroupStatus> {
        match self.seat() {
            Seat::Member { node, .. } => Some(node.status()),
            Seat::Observer => None,
        }
    }

    /// The state as this node has applied it; it does not change under the caller.
    pub fn state(&self) -> Arc<ClusterState> {
        self.inner.cell.get()
    }

    /// Looks at the state without keeping it: cheaper than `state` where it is short, and writers wait for
    /// it.
    pub fn with_state<R>(&self, look: impl FnOnce(&ClusterState) -> R) -> R {
        self.inner.cell.with(look)
    }

    /// The state's version, told at each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.cell.watch()
    }

    /// The cluster's name for life.
    pub fn cluster_id(&self) -> String {
        self.with_state(|state| state.cluster_id.clone())
    }

    /// Announces a broker process; returns its epoch. Fences the process that had the node id before.
    pub async fn register_broker(&self, registration: BrokerRegistration) -> Result<u64, WriteError> {
        match self.write(Command::RegisterBroker(registration)).await? {
            Reply::BrokerEpoch(epoch) => Ok(epoch),
            other => Err(unexpected(&other)),
        }
    }

    /// Creates topics, each on its own. A topic id of `TopicId::NONE` is replaced by a new one; counts of -1
    /// by the defaults. With `validate_only` nothing is created and the answers are those of now.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<TopicCreated, WriteError>> {
        let asked: usize = topics.iter().map(|topic| self.partitions_asked(topic)).sum();
        if asked > PARTITIONS_PER_REQUEST_MAX {
            let refusal = Refusal::LimitReached("Excessively large number of partitions per request.".into());
            return topics.iter().map(|_| Err(refusal.clone().into())).collect();
        }
        let prepared: Vec<_> = topics.into_iter().map(|topic| self.prepare(topic)).collect();
        let created = |reply| match reply {
            Reply::TopicCreated(created) => Ok(created),
            other => Err(unexpected(&other)),
        };
        self.write_prepared(prepared, validate_only).await.into_iter().map(|r| r.and_then(created)).collect()
    }

    /// Deletes topics, each on its own. Their objects wait in `ClusterState::deleted` until `swept_topic`.
    pub async fn delete_topics(&self, topics: Vec<TopicId>) -> Vec<Result<(), WriteError>> {
        let commands = topics.into_iter().map(|topic_id| Ok(Command::DeleteTopic { topic_id })).collect();
        self.write_prepared(commands, false).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// Grows topics, each on its own.
    pub async fn create_partitions(
        &self,
        topics: Vec<NewPartitions>,
        validate_only: bool,
    ) -> Vec<Result<(), WriteError>> {
        let command = |NewPartitions { topic_id, count, assignments }| {
            Ok(Command::CreatePartitions { topic_id, count, assignments })
        };
        let commands = topics.into_iter().map(command).collect();
        self.write_prepared(commands, validate_only).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// Changes settings of topics and brokers, each on its own.
    pub async fn alter_configs(
        &self,
        changes: Vec<ConfigChange>,
        validate_only: bool,
    ) -> Vec<Result<(), WriteError>> {
        let command = |change| match change {
            ConfigChange::Replace { topic_id, overrides } => {
                Ok(Command::ReplaceConfigs { topic_id, overrides })
            }
            ConfigChange::Alter { topic_id, ops } => Ok(Command::AlterConfigs { topic_id, ops }),
            ConfigChange::Broker { node_id, ops } => Ok(Command::AlterBrokerConfigs { node_id, ops }),
        };
        let commands = changes.into_iter().map(command).collect();
        self.write_prepared(commands, validate_only).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// A block of producer ids that nobody else has or will have.
    pub async fn allocate_producer_ids(&self, count: u32) -> Result<Range<i64>, WriteError> {
        match self.write(Command::AllocateProducerIds { count }).await? {
            Reply::ProducerIds { start, end } => Ok(start..end),
            other => Err(unexpected(&other)),
        }
    }

    /// Forgets a deleted topic whose objects are gone from the bucket.
    pub async fn swept_topic(&self, topic_id: TopicId) -> Result<(), WriteError> {
        self.write(Command::SweptTopic { topic_id }).await.map(|_| ())
    }

    /// Ends the tasks, stops Raft, waits for its files, and gives up the data directory. Writes fail from now
    /// on.
    pub async fn close(&self) {
        self.inner.closed.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        if let Seat::Member { node, .. } = self.seat() {
            node.close().await;
        }
    }

    /// Writes commands together, each with its own answer; or only judges them against the state of now.
    pub(crate) async fn write_prepared(
        &self,
        commands: Vec<Result<Command, Refusal>>,
        validate_only: bool,
    ) -> Vec<Result<Reply, WriteError>> {
        if validate_only {
            let (state, now_ms) = (self.state(), self.settings().clock.now_ms());
            let judge =
                |command: Result<Command, Refusal>| Ok(state.decide(RULES_VERSION, now_ms, &command?)?.reply);
            return commands.into_iter().map(judge).collect();
        }
        let write = |command: Result<Command, Refusal>| async { self.write(command?).await };
        futures::future::join_all(commands.into_iter().map(write)).await
    }

    fn partitions_asked(&self, topic: &NewTopic) -> usize {
        match (topic.assignments.len(), topic.partitions) {
            (0, -1) => usize::try_from(self.settings().default_partitions).unwrap_or(0),
            (0, count) => usize::try_from(count).unwrap_or(0),
            (assigned, _) => assigned,
        }
    }

    /// Fills in the defaults. Counts beside a manual assignment contradict it, as in Kafka.
    fn prepare(&self, mut topic: NewTopic) -> Result<Command, Refusal> {
        if !topic.assignments.is_empty() {
            let contradicts = |what: &str| {
                let reason =
                    format!("A manual partition assignment was specified, but {what} was not set to -1.");
                Err(Refusal::RequestInvalid(reason))
            };
            if topic.replication_factor != -1 {
                return contradicts("replication factor");
            }
            if topic.partitions != -1 {
                return contradicts("numPartitions");
            }
        }
        if topic.partitions == -1 {
            topic.partitions = self.settings().default_partitions;
        }
        if topic.replication_factor == -1 {
            topic.replication_factor = self.settings().default_replication_factor;
        }
        if topic.topic_id == TopicId::NONE {
            topic.topic_id = TopicId(Uuid::new_v4());
        }
        Ok(Command::CreateTopic(topic))
    }
}

pub(crate) fn unexpected(reply: &Reply) -> WriteError {
    WriteError::Unknown(format!("an answer of another kind: {reply:?}"))
}

/// Random, but for its first bit, so that a cluster's id starts with a letter: names that start with `_` are
/// ours in the bucket, and those that start with `-` look like flags.
pub(crate) fn new_cluster_uuid() -> Uuid {
    Uuid::from_u128(Uuid::new_v4().as_u128() & (u128::MAX >> 1))
}

/// A cluster id as Kafka writes them: 16 bytes in URL-safe base 64, without padding.
pub(crate) fn cluster_id(id: Uuid) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(22);
    for chunk in id.as_bytes().chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn cluster_ids_start_with_a_letter() {
        for _ in 0..1_000 {
            let id = cluster_id(new_cluster_uuid());
            assert!(id.starts_with(|c: char| c.is_ascii_alphabetic()), "{id}");
        }
        let largest = cluster_id(Uuid::from_u128(u128::MAX >> 1));
        assert!(largest.starts_with('f'), "{largest}");
    }

    #[test]
    fn cluster_ids_are_kafkas_base_64() {
        assert_eq!(cluster_id(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        let id = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);
        assert_eq!(cluster_id(id), "ABEiM0RVZneImaq7zN3u_w");
    }
}
