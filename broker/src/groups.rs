//! Consumer groups on this broker: one shard (`highwater-groups`) for each partition of `__consumer_offsets`
//! that this node leads, each owned by one task.
//!
//! Owns: which shards there are, the way from a request to its shard and back, and the internal topic.
//! Decides nothing about groups; that is the pure core's. Must not: touch a shard but in its task, answer
//! before what the answer rests on is committed (invariant 3), append in another leader epoch than the one
//! that the shard was loaded in (invariant 6). Queues are bounded (invariant 16). See docs/adr/0016, 0018.

mod batch;
mod follow;
mod load;
mod shard;
mod topic;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use highwater_groups::core::answer::Answer;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::machine::Groups;
use highwater_groups::core::request::{Client, Request};
use highwater_groups::core::settings::Settings as GroupSettings;
use highwater_groups::core::shard::partition_of;
use highwater_log::VerificationTicket;
use highwater_model::LeaderEpoch;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::node::Node;
use crate::partition::registry::Slot;
use crate::partition::{Marker, MarkerRefusal};
use crate::settings::Settings;

pub use follow::run;
pub use topic::{Coordinator, find};

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Sends an answer once it counts, or says why it never will.
type Release = Box<dyn FnOnce(Result<(), GroupError>) + Send>;

/// A request on its way to its shard.
struct Asked {
    client: Client,
    request: Request,
    /// Shows that the transaction which a commit begins here was verified (KIP-890).
    ticket: Option<VerificationTicket>,
    answer: oneshot::Sender<Result<Answer, GroupError>>,
}

/// What a shard's task is asked.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
enum Message {
    Request(Asked),
    /// A transaction has ended.
    Marker {
        marker: Marker,
        answer: oneshot::Sender<Result<(), MarkerRefusal>>,
    },
    /// Looks at the groups; what it has seen is told when it counts.
    Read(Box<dyn FnOnce(&Groups) -> Release + Send>),
}

/// A shard as the rest of the broker sees it.
struct Shard {
    partition: i32,
    /// The leader epoch in which it was begun; it serves in no other.
    epoch: LeaderEpoch,
    messages: mpsc::Sender<Message>,
    is_loaded: AtomicBool,
    stop: watch::Sender<bool>,
    groups: AtomicU64,
    members: AtomicU64,
}

/// The shards of this node, by partition.
#[derive(Default)]
pub struct GroupShards {
    shards: RwLock<BTreeMap<i32, Arc<Shard>>>,
    /// Held by the one who creates the internal topic; since when somebody has wanted it.
    creating: tokio::sync::Mutex<Option<Instant>>,
}

impl GroupShards {
    /// Groups and members whose coordinator this node is, as last counted.
    pub fn counts(&self) -> (u64, u64) {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.values().fold((0, 0), |(groups, members), shard| {
            let more = shard.groups.load(Ordering::Relaxed);
            (groups + more, members + shard.members.load(Ordering::Relaxed))
        })
    }

    fn all(&self) -> Vec<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn get(&self, partition: i32) -> Option<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }
}

impl Shard {
    async fn send(&self, message: Message) -> Result<(), GroupError> {
        if !self.is_loaded.load(Ordering::Acquire) {
            return Err(GroupError::CoordinatorLoadInProgress);
        }
        self.messages.send(message).await.map_err(|_| GroupError::NotCoordinator)
    }

    async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Groups) -> R + Send + 'static,
    ) -> Result<R, GroupError> {
        let (tell, told) = oneshot::channel();
        let read = move |groups: &Groups| -> Release {
            let seen = look(groups);
            Box::new(move |outcome| {
                let _ = tell.send(outcome.map(|()| seen)); // who asked may be gone
            })
        };
        self.send(Message::Read(Box::new(read))).await?;
        told.await.unwrap_or(Err(GroupError::NotCoordinator))
    }
}

/// The shard that coordinates a group.
fn shard_of(node: &Node, group: &str) -> Result<Arc<Shard>, GroupError> {
    let view = node.partitions.view();
    let topic = view.by_name(OFFSETS_TOPIC).ok_or(GroupError::NotCoordinator)?;
    let count = i32::try_from(topic.slots().len()).unwrap_or(i32::MAX);
    shard_at(node, partition_of(group, count))
}

/// The shard of a partition of the internal topic, if this node leads it.
fn shard_at(node: &Node, number: i32) -> Result<Arc<Shard>, GroupError> {
    let view = node.partitions.view();
    let topic = view.by_name(OFFSETS_TOPIC).ok_or(GroupError::NotCoordinator)?;
    let Some(Slot::Open(partition)) = topic.slot(number) else { return Err(GroupError::NotCoordinator) };
    let terms = partition.terms();
    if !terms.is_leader || node.is_stopping() {
        return Err(GroupError::NotCoordinator);
    }
    let shard = node.groups.get(number).filter(|shard| shard.epoch == terms.leader_epoch);
    shard.ok_or(GroupError::CoordinatorLoadInProgress)
}

/// Has the group's coordinator carry out a request; the answer counts.
///
/// # Errors
/// NotCoordinator, CoordinatorLoadInProgress, CoordinatorNotAvailable: the request was not carried out, or
/// this coordinator does not know whether its outcome will last.
pub async fn call(node: &Node, group: &str, client: Client, request: Request) -> Result<Answer, GroupError> {
    call_verified(node, group, client, request, None).await
}

/// As [`call`], for a commit within a transaction; `ticket` as `Partition::verification_ticket` drew it.
///
/// # Errors
/// As [`call`]; also InvalidProducerEpoch, InvalidTxnState and ConcurrentTransactions, with nothing changed.
pub async fn call_verified(
    node: &Node,
    group: &str,
    client: Client,
    request: Request,
    ticket: Option<VerificationTicket>,
) -> Result<Answer, GroupError> {
    let shard = shard_of(node, group)?;
    let (answer, answered) = oneshot::channel();
    shard.send(Message::Request(Asked { client, request, ticket, answer })).await?;
    answered.await.unwrap_or(Err(GroupError::NotCoordinator))
}

/// Ends a transaction in partition `number` of the internal topic: appends its marker, and what it decides
/// counts. The caller bounds the wait.
///
/// # Errors
/// As `Partition::append_marker`; `Group` if this node does not coordinate the partition's groups now, or not
/// any more: then it is not known whether the marker lasts.
pub async fn end_transaction(node: &Node, number: i32, marker: Marker) -> Result<(), MarkerRefusal> {
    let shard = shard_at(node, number)?;
    let (answer, answered) = oneshot::channel();
    shard.send(Message::Marker { marker, answer }).await?;
    answered.await.unwrap_or(Err(MarkerRefusal::Group(GroupError::NotCoordinator)))
}

/// Has a look at the groups of the shard that coordinates `group`.
///
/// # Errors
/// As [`call`].
pub async fn read<R: Send + 'static>(
    node: &Node,
    group: &str,
    look: impl FnOnce(&Groups) -> R + Send + 'static,
) -> Result<R, GroupError> {
    shard_of(node, group)?.read(look).await
}

/// Has a look at each shard of this node, in order of its partitions.
///
/// # Errors
/// The first shard's that is being loaded; one that has ended meanwhile is left out.
pub async fn read_all<R: Send + 'static>(
    node: &Node,
    look: impl Fn(&Groups) -> R + Clone + Send + 'static,
) -> Result<Vec<R>, GroupError> {
    let mut seen = Vec::new();
    for shard in node.groups.all() {
        match shard.read(look.clone()).await {
            Ok(one) => seen.push(one),
            Err(GroupError::NotCoordinator) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(seen)
}

/// The core's settings from the broker's.
fn group_settings(settings: &Settings) -> GroupSettings {
    let millis = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    GroupSettings {
        session_ms_min: settings.group_min_session_timeout_ms,
        session_ms_max: settings.group_max_session_timeout_ms,
        initial_rebalance_delay_ms: settings.group_initial_rebalance_delay_ms,
        group_size_max: settings.group_max_size,
        consumer_group_size_max: settings.group_consumer_max_size,
        consumer_session_ms: settings.group_consumer_session_timeout_ms,
        consumer_heartbeat_ms: settings.group_consumer_heartbeat_interval_ms,
        migration: settings.group_consumer_migration_policy,
        regex_refresh_ms: millis(settings.group_consumer_regex_refresh_interval_ms),
        offset_metadata_bytes_max: settings.offset_metadata_max_bytes,
        offsets_retention_ms: millis(settings.offsets_retention_minutes).saturating_mul(60_000),
        offsets_check_ms: millis(settings.offsets_retention_check_interval_ms),
        ..GroupSettings::default()
    }
}
