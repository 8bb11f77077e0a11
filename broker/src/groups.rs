//! Consumer groups on this broker: one shard (`highwater-groups`) for each partition of `__consumer_offsets`
//! that this node leads, each owned by one task.
//!
//! Owns: the way from a request to its shard and back, and the news of topics for all of them; the rest of a
//! shard's life is `crate::shards`. Decides nothing about groups; that is the pure core's. Must not: answer
//! before what the answer rests on is committed (invariant 3). See docs/adr/0016, 0018.

mod batch;
mod load;
mod shard;
mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_groups::core::answer::Answer;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::machine::Groups;
use highwater_groups::core::request::{Client, Request};
use highwater_groups::core::settings::Settings as GroupSettings;
use highwater_log::VerificationTicket;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::partition::{Marker, MarkerRefusal};
use crate::settings::Settings;
use crate::shards::{self, Coordinator, Kind, LoadError, Shard, Shards, Task, TopicSpec, shard_at, shard_of};

/// The topic that holds groups and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Sends an answer once it counts, or says why it never will.
pub type Release = Box<dyn FnOnce(Result<(), GroupError>) + Send>;

/// A request on its way to its shard.
pub struct Asked {
    client: Client,
    request: Request,
    /// Shows that the transaction which a commit begins here was verified (KIP-890).
    ticket: Option<VerificationTicket>,
    answer: oneshot::Sender<Result<Answer, GroupError>>,
}

/// What a shard's task is asked.
#[expect(clippy::large_enum_variant, reason = "nearly all are requests")]
pub enum Message {
    Request(Asked),
    /// A transaction has ended.
    Marker {
        marker: Marker,
        answer: oneshot::Sender<Result<(), MarkerRefusal>>,
    },
    /// Looks at the groups; what it has seen is told when it counts.
    Read(Box<dyn FnOnce(&Groups) -> Release + Send>),
}

/// Groups and members of a shard, as last counted.
#[derive(Default)]
pub struct Counts {
    groups: AtomicU64,
    members: AtomicU64,
}

/// Shards of groups.
pub struct OfGroups;

/// The shards of groups of this node.
pub type GroupShards = Shards<OfGroups>;

impl Kind for OfGroups {
    const TOPIC: &'static str = OFFSETS_TOPIC;
    const HOLDS: &'static str = "groups";
    type Message = Message;
    type Counts = Counts;
    type Shared = topics::Newsroom;
    type Loaded = shard::Loaded;

    fn shards(node: &Node) -> &GroupShards {
        &node.groups
    }

    fn topic(settings: &Settings) -> TopicSpec {
        TopicSpec {
            partitions: settings.offsets_topic_num_partitions,
            replication_factor: settings.offsets_topic_replication_factor,
            is_on_two_disks: false,
        }
    }

    fn reloads(node: &Node) -> &Counter {
        &node.metrics.group_reloads
    }

    async fn load(task: &mut Task<Self>) -> Result<shard::Loaded, LoadError> {
        shard::load(task).await
    }

    fn refuse(message: Message) {
        shard::refuse(message, GroupError::NotCoordinator);
    }
}

/// Begins and ends the shards of groups until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut known = topics::Known::default();
    topics::look(&node, &mut known); // before the first shard begins
    tokio::join!(shards::follow::<OfGroups>(node.clone()), topics::follow(&node, known));
}

/// The coordinator of each group, in order; none where there is no leader for now. Creates the internal
/// topic if need be.
pub async fn find(node: &Arc<Node>, groups: &[&str]) -> Vec<Option<Coordinator>> {
    shards::find::<OfGroups>(node, groups).await
}

impl Shards<OfGroups> {
    /// Groups and members whose coordinator this node is, as last counted.
    pub fn counts(&self) -> (u64, u64) {
        self.all().iter().fold((0, 0), |(groups, members), shard| {
            let more = shard.counts.groups.load(Ordering::Relaxed);
            (groups + more, members + shard.counts.members.load(Ordering::Relaxed))
        })
    }
}

impl Shard<OfGroups> {
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
    let shard = shard_of::<OfGroups>(node, group)?;
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
    let shard = shard_at::<OfGroups>(node, number).map_err(GroupError::from)?;
    let (answer, answered) = oneshot::channel();
    shard.send(Message::Marker { marker, answer }).await.map_err(GroupError::from)?;
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
    shard_of::<OfGroups>(node, group)?.read(look).await
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
