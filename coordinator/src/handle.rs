//! The front of the control plane that the broker holds: reads without waiting, writes through Raft.
//!
//! Errors say what is known: *refused* and *failed* changed nothing; *unknown* may have been applied or may
//! still be, and is settled by reading back. Must not: decide anything itself (`core` does) or name openraft.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::{COMMAND_BYTES_MAX, PARTITIONS_PER_REQUEST_MAX, RAFT_SNAPSHOT_ENTRIES};
use highwater_model::{Clock, NodeId, TopicId};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use crate::StartError;
use crate::core::{
    BrokerRegistration, ClusterState, Command, ConfigOp, NewTopic, RULES_VERSION, Refusal, Reply,
    TopicCreated,
};
use crate::proposer::{self, Proposal};
use crate::raft::{NodeSettings, ProposeFailure, RaftNode};

/// What a coordinator needs to start.
#[derive(Clone)]
pub struct CoordinatorSettings {
    pub node_id: NodeId,
    /// The node's data directory; the coordinator's files lie in `raft/` below it.
    pub data_dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    /// Longest wait for a write's answer; after it the outcome is unknown.
    pub propose_timeout: Duration,
    /// Longest wait at start until this node leads with its log applied.
    pub start_timeout: Duration,
    /// Raft entries between two snapshots.
    pub snapshot_entries: u64,
    /// Partitions of a topic created without a count (-1).
    pub default_partitions: i32,
    /// Replicas of a topic created without a factor (-1).
    pub default_replication_factor: i16,
}

impl CoordinatorSettings {
    /// The defaults of a single node.
    pub fn new(node_id: NodeId, data_dir: PathBuf, clock: Arc<dyn Clock>) -> CoordinatorSettings {
        CoordinatorSettings {
            node_id,
            data_dir,
            clock,
            propose_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
            snapshot_entries: RAFT_SNAPSHOT_ENTRIES,
            default_partitions: 1,
            default_replication_factor: 1,
        }
    }
}

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

/// A change of one topic's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// AlterConfigs: these overrides and no others.
    Replace { topic_id: TopicId, overrides: BTreeMap<String, String> },
    /// IncrementalAlterConfigs (KIP-339), in order.
    Alter { topic_id: TopicId, ops: Vec<ConfigOp> },
}

/// The control plane of this node. Clones share it.
#[derive(Clone)]
pub struct Coordinator {
    node: Arc<RaftNode>,
    proposals: mpsc::Sender<Proposal>,
    settings: Arc<CoordinatorSettings>,
}

impl Coordinator {
    /// Opens the coordinator's files, forms the cluster at the first start, and returns once it can serve.
    pub async fn start(settings: CoordinatorSettings) -> Result<Coordinator, StartError> {
        let node = RaftNode::open(NodeSettings {
            node_id: settings.node_id,
            data_dir: settings.data_dir.clone(),
            snapshot_entries: settings.snapshot_entries.max(1),
            start_timeout: settings.start_timeout,
        });
        let node = Arc::new(node.await?);
        let proposals = proposer::start(Arc::clone(&node), Arc::clone(&settings.clock));
        let coordinator = Coordinator { node, proposals, settings: Arc::new(settings) };
        if coordinator.with_state(|state| state.cluster_id.is_empty()) {
            let cluster_id = cluster_id(new_cluster_uuid());
            let form = Command::FormCluster { cluster_id, members: BTreeMap::new() };
            match coordinator.write(form).await {
                Ok(_) | Err(WriteError::Refused(Refusal::AlreadyFormed)) => {}
                Err(e) => {
                    coordinator.close().await;
                    return Err(StartError::Raft(e.to_string()));
                }
            }
        }
        Ok(coordinator)
    }

    /// The state as this node has applied it; it does not change under the caller.
    pub fn state(&self) -> Arc<ClusterState> {
        self.node.cell().get()
    }

    /// Looks at the state without keeping it: cheaper than `state` where it is short, and writers wait for
    /// it.
    pub fn with_state<R>(&self, look: impl FnOnce(&ClusterState) -> R) -> R {
        self.node.cell().with(look)
    }

    /// The state's version, told at each change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.node.cell().watch()
    }

    /// The cluster's name for life.
    pub fn cluster_id(&self) -> String {
        self.with_state(|state| state.cluster_id.clone())
    }

    /// Returns once the state here has all that was acknowledged to anyone before the call.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        match tokio::time::timeout(self.settings.propose_timeout, self.node.linearize()).await {
            Ok(read) => read.map_err(ReadError),
            Err(_) => Err(ReadError("timed out".into())),
        }
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

    /// Changes settings of topics, each on its own.
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

    /// Stops Raft, waits for its files, and gives up the data directory. Writes fail from now on.
    pub async fn close(&self) {
        self.node.close().await;
    }

    /// Proposes one command and waits for its answer.
    pub(crate) async fn write(&self, command: Command) -> Result<Reply, WriteError> {
        let bytes = command.bytes_estimate();
        if bytes > COMMAND_BYTES_MAX {
            let reason = format!("a change of {bytes} bytes; at most {COMMAND_BYTES_MAX}");
            return Err(Refusal::LimitReached(reason).into());
        }
        let (answer, told) = oneshot::channel();
        let deadline = tokio::time::Instant::now() + self.settings.propose_timeout;
        match tokio::time::timeout_at(deadline, self.proposals.send(Proposal { command, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(WriteError::Failed("the coordinator has stopped".into())),
            Err(_) => return Err(WriteError::Failed("the coordinator is overloaded".into())),
        }
        match tokio::time::timeout_at(deadline, told).await {
            Ok(Ok(Ok(answer))) => Ok(answer?),
            Ok(Ok(Err(ProposeFailure::Failed(e)))) => Err(WriteError::Failed(e)),
            Ok(Ok(Err(ProposeFailure::Unknown(e)))) => Err(WriteError::Unknown(e)),
            Ok(Err(_)) => Err(WriteError::Unknown("the coordinator stopped meanwhile".into())),
            Err(_) => Err(WriteError::Unknown("timed out".into())),
        }
    }

    /// Writes commands together, each with its own answer; or only judges them against the state of now.
    async fn write_prepared(
        &self,
        commands: Vec<Result<Command, Refusal>>,
        validate_only: bool,
    ) -> Vec<Result<Reply, WriteError>> {
        if validate_only {
            let (state, now_ms) = (self.state(), self.settings.clock.now_ms());
            let judge = |command: Result<Command, Refusal>| {
                Ok(state.decide(RULES_VERSION, now_ms, &command?)?.reply)
            };
            return commands.into_iter().map(judge).collect();
        }
        let write = |command: Result<Command, Refusal>| async { self.write(command?).await };
        futures::future::join_all(commands.into_iter().map(write)).await
    }

    fn partitions_asked(&self, topic: &NewTopic) -> usize {
        match (topic.assignments.len(), topic.partitions) {
            (0, -1) => usize::try_from(self.settings.default_partitions).unwrap_or(0),
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
            topic.partitions = self.settings.default_partitions;
        }
        if topic.replication_factor == -1 {
            topic.replication_factor = self.settings.default_replication_factor;
        }
        if topic.topic_id == TopicId::NONE {
            topic.topic_id = TopicId(Uuid::new_v4());
        }
        Ok(Command::CreateTopic(topic))
    }
}

fn unexpected(reply: &Reply) -> WriteError {
    WriteError::Unknown(format!("an answer of another kind: {reply:?}"))
}

/// Random, but for its first bit, so that a cluster's id starts with a letter: names that start with `_` are
/// ours in the bucket, and those that start with `-` look like flags.
fn new_cluster_uuid() -> Uuid {
    Uuid::from_u128(Uuid::new_v4().as_u128() & (u128::MAX >> 1))
}

/// A cluster id as Kafka writes them: 16 bytes in URL-safe base 64, without padding.
fn cluster_id(id: Uuid) -> String {
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
