//! The groups that are open on this node.
//!
//! How a replica begins is decided here, from what the control plane has on record and what the directory has
//! kept (docs/adr/0014, "A lost disk"): as a first member of a group that has served nobody yet; as it was; or
//! as a new replica, under an id that nobody has had, which the leader takes in for the old one.
//! Invariants: 6, 7, 16.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use highwater_coordinator::Coordinator;
use highwater_coordinator::core::{RaftGroup as GroupRecord, RaftLeader};
use highwater_log::disk::{DirDisk, Disk};
use highwater_model::limits::{RAFT_PROPOSALS_PENDING_MAX, RAFT_REOPEN_MS, RAFT_TASKS_MAX};
use highwater_model::{LeaderEpoch, NodeId, TopicPartition};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use super::Subject;
use crate::core::raft_side::ReplicaId;
use crate::node::Node;
use crate::partition::open::topic_dir;
use crate::partition::{GroupPort, Partition};
use crate::raft::{
    Beginning, GrpcTransport, LeadershipPort, OpenError, PeerAddresses, RaftGroup, RaftHost, SyncQueue,
    forget, keep_group, kept_of,
};

/// A group that is open here.
pub(super) struct Open {
    pub since_epoch: LeaderEpoch,
    pub group: Arc<RaftGroup>,
    port: Arc<GroupPort>,
    watcher: AbortHandle,
    /// Which replicas other nodes have said they have, each with the start of its process.
    pub peers: Mutex<BTreeMap<NodeId, (u64, ReplicaId)>>,
    /// When they were asked last.
    pub asked_at: Mutex<Option<Instant>>,
}

/// See the module's text.
pub struct Groups {
    pub(crate) host: Arc<RaftHost>,
    syncs: Arc<SyncQueue>,
    control: Arc<Control>,
    open: Mutex<HashMap<TopicPartition, Arc<Open>>>,
    /// Partitions that something is being done for, and whether something else was due meanwhile.
    busy: Mutex<HashMap<TopicPartition, bool>>,
    tasks: Arc<Semaphore>,
    is_stopped: AtomicBool,
    /// When a group that could not be opened, or failed, may be opened again.
    not_before: Mutex<HashMap<TopicPartition, Instant>>,
    /// Something is to be looked at.
    news: Arc<Notify>,
    /// Batches between their request and their place in the log, or their commit.
    pub(crate) proposals: Arc<Semaphore>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The control plane, as groups need it.
struct Control {
    coordinator: Coordinator,
    node: OnceLock<Weak<Node>>,
}

impl PeerAddresses for Control {
    fn address(&self, node: NodeId) -> Option<String> {
        let address = self.coordinator.with_state(|state| state.brokers.get(&node).map(|b| b.grpc.clone()));
        address.filter(|address| !address.is_empty())
    }
}

#[async_trait::async_trait]
impl LeadershipPort for Control {
    async fn led(&self, tp: TopicPartition, node_id: NodeId, term: u64) -> bool {
        let Some(node) = self.node.get().and_then(Weak::upgrade) else { return false };
        let voters = node.raft.open(tp).and_then(|open| open.group.settled_voters());
        let voters = voters.map(|voters| voters.into_values().collect()).unwrap_or_default();
        report(&node, tp, node_id, term, voters, None).await
    }
}

/// Tells the control plane who leads and votes; whether it has that on record now.
pub(super) async fn report(
    node: &Node,
    tp: TopicPartition,
    node_id: NodeId,
    term: u64,
    voters: Vec<NodeId>,
    partition_epoch: Option<i32>,
) -> bool {
    let Ok(term) = LeaderEpoch::try_from(term) else { return false };
    let broker_epoch = broker_epoch(node);
    let report = RaftLeader { tp, node_id, broker_epoch, term, voters, partition_epoch };
    match node.coordinator.raft_leader(report).await {
        Ok(()) => true,
        Err(e) => {
            tracing::debug!(topic = %tp.topic_id, partition = tp.partition, term, "report of a leader: {e}");
            false
        }
    }
}

/// Of this broker's registration.
pub(super) fn broker_epoch(node: &Node) -> u64 {
    let own = node.settings.node_id;
    match node.isr.broker_epoch() {
        0 => node.coordinator.with_state(|state| state.brokers.get(&own).map_or(0, |broker| broker.epoch)),
        epoch => epoch,
    }
}

impl Groups {
    /// None open yet.
    ///
    /// # Errors
    /// The system gives no threads for fsyncs.
    pub fn start(node_id: NodeId, coordinator: &Coordinator) -> io::Result<Groups> {
        let control = Arc::new(Control { coordinator: coordinator.clone(), node: OnceLock::new() });
        let transport = GrpcTransport::new(node_id, coordinator.cluster_id(), control.clone());
        let syncs = Arc::new(SyncQueue::start()?);
        let host = RaftHost::new(node_id, rand::random(), transport, control.clone(), syncs.clone());
        Ok(Groups {
            host,
            syncs,
            control,
            open: Mutex::default(),
            busy: Mutex::default(),
            tasks: Arc::new(Semaphore::new(RAFT_TASKS_MAX)),
            is_stopped: AtomicBool::new(false),
            not_before: Mutex::default(),
            news: Arc::default(),
            proposals: Arc::new(Semaphore::new(RAFT_PROPOSALS_PENDING_MAX)),
        })
    }

    /// Tells whose groups these are; before, nothing is reported.
    pub(crate) fn belong_to(&self, node: &Arc<Node>) {
        let _ = self.control.node.set(Arc::downgrade(node));
    }

    /// Asks for a look at the groups.
    pub(crate) fn review(&self) {
        self.news.notify_one();
    }

    pub(super) async fn reviewed(&self) {
        self.news.notified().await;
    }

    pub(super) fn open(&self, tp: TopicPartition) -> Option<Arc<Open>> {
        lock(&self.open).get(&tp).cloned()
    }

    pub(super) fn may_open(&self, tp: TopicPartition) -> bool {
        lock(&self.not_before).get(&tp).is_none_or(|at| Instant::now() >= *at)
    }

    fn put_off(&self, tp: TopicPartition) {
        let at = Instant::now() + Duration::from_millis(RAFT_REOPEN_MS);
        lock(&self.not_before).insert(tp, at);
    }

    /// Does `work` for a partition, unless something is being done for it.
    pub(super) fn spawn(&self, tp: TopicPartition, work: impl Future<Output = ()> + Send + 'static) {
        let Some(busy) = self.take_turn(tp) else { return };
        let tasks = self.tasks.clone();
        tokio::spawn(async move {
            let _busy = busy;
            let _seat = tasks.acquire_owned().await.expect("never closed");
            work.await;
        });
    }

    fn take_turn(&self, tp: TopicPartition) -> Option<Turn> {
        let is_stopped = self.is_stopped.load(Ordering::SeqCst);
        let node = self.control.node.get().filter(|_| !is_stopped).cloned()?;
        let mut busy = lock(&self.busy);
        if let Some(is_more_due) = busy.get_mut(&tp) {
            *is_more_due = true;
            return None;
        }
        busy.insert(tp, false);
        Some(Turn { node, tp })
    }

    /// Closes the groups of partitions that this node does not have any more.
    pub(super) fn close_strays(&self, node: &Arc<Node>, is_here: impl Fn(TopicPartition) -> bool) {
        let strays: Vec<_> = lock(&self.open).keys().copied().filter(|tp| !is_here(*tp)).collect();
        for tp in strays {
            let node = node.clone();
            self.spawn(tp, async move {
                node.raft.close(&node, tp, false).await;
            });
        }
    }

    /// Closes what is open of a partition; what it has kept goes with it if `forgets`. False if that could
    /// not be removed.
    pub(crate) async fn close(&self, node: &Node, tp: TopicPartition, forgets: bool) -> bool {
        let open = lock(&self.open).remove(&tp);
        if let Some(open) = open {
            open.port.begin_close();
            open.watcher.abort();
            if let Some(partition) = node.partitions.view().partition(tp) {
                partition.detach_group();
            }
            self.host.close_group(tp).await;
            open.port.end();
        }
        if !forgets {
            return true;
        }
        let disk = disk_of(node, tp);
        match tokio::task::spawn_blocking(move || forget(&disk)).await.map_err(io::Error::other).flatten() {
            Ok(()) => true,
            Err(e) => {
                tracing::error!(topic = %tp.topic_id, partition = tp.partition, "Raft files stay: {e}");
                false
            }
        }
    }

    /// Ends every group's part here; for the stop of the node.
    pub(crate) async fn stop(&self, node: &Node) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let open = std::mem::take(&mut *lock(&self.open));
        let view = node.partitions.view();
        for (tp, open) in &open {
            open.port.begin_close();
            open.watcher.abort();
            if let Some(partition) = view.partition(*tp) {
                partition.detach_group();
            }
        }
        self.host.stop().await;
        for open in open.values() {
            open.port.end();
        }
        let syncs = self.syncs.clone();
        if tokio::task::spawn_blocking(move || syncs.stop()).await.is_err() {
            tracing::error!("the fsyncs of Raft groups did not end");
        }
    }
}

/// Something is being done for a partition; another look follows it if more was due.
struct Turn {
    node: Weak<Node>,
    tp: TopicPartition,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            let is_more_due = lock(&node.raft.busy).remove(&self.tp).unwrap_or(false);
            if is_more_due {
                node.raft.review();
            }
        }
    }
}

fn disk_of(node: &Node, tp: TopicPartition) -> Arc<dyn Disk> {
    let dir = topic_dir(&node.settings.data_dir, tp.topic_id).join(tp.partition.to_string());
    Arc::new(DirDisk::new(dir))
}

/// The id of a node's replica among a group's first: no group has those of another, so that they do not
/// understand each other.
fn first_replica(since_epoch: LeaderEpoch, node_id: NodeId) -> ReplicaId {
    debug_assert!(node_id <= u64::from(u32::MAX), "node ids are those of Kafka");
    u64::from(since_epoch.unsigned_abs()) << 32 | node_id
}

/// An id that no replica of any group has had (docs/adr/0014).
fn new_replica(node_id: NodeId) -> ReplicaId {
    const LATER: u32 = 1 << 31;
    debug_assert!(node_id <= u64::from(u32::MAX), "node ids are those of Kafka");
    u64::from(rand::random::<u32>() | LATER) << 32 | node_id
}

/// How this node's replica begins that has kept nothing.
fn beginning(subject: &Subject, group: &GroupRecord) -> Result<Beginning, OpenError> {
    let own = subject.node.settings.node_id;
    let is_on_record = subject.record.leader_epoch > group.since_epoch;
    if !is_on_record && group.voters.contains(&own) {
        return Ok(Beginning::Group {
            replica: first_replica(group.since_epoch, own),
            term: u64::try_from(group.since_epoch).unwrap_or(0),
            offset: group.start_offset,
            members: group
                .voters
                .iter()
                .map(|node| (first_replica(group.since_epoch, *node), *node))
                .collect(),
        });
    }
    rejoining(subject)
}

/// How a replica begins that comes back as another one.
fn rejoining(subject: &Subject) -> Result<Beginning, OpenError> {
    let own = subject.node.settings.node_id;
    let replica = new_replica(own);
    if subject.record.replicas != [own] {
        return Ok(Beginning::Joining { replica });
    }
    // Nobody else has anything: what there is goes on, in a term that nobody has seen.
    let raised = subject.partition.raise_to_tier();
    let (offset, epoch) = raised.map_err(|e| OpenError::Io(io::Error::other(e)))?;
    let term = subject.record.leader_epoch.max(epoch.unwrap_or(0));
    let term = u64::try_from(term).unwrap_or(0);
    Ok(Beginning::Group { replica, term, offset, members: BTreeMap::from([(replica, own)]) })
}

/// Whether another node leads the group, and is heard: by then the others have what this replica had
/// promised, and it may begin again with nothing. Else what is left here may be all there is.
fn is_led_elsewhere(subject: &Subject) -> bool {
    let Subject { node, record, .. } = subject;
    let leader = record.leader.filter(|leader| *leader != node.settings.node_id);
    leader.is_some_and(|leader| node.raft.host.boot_of(leader).is_some())
}

/// Opens the group that the record names.
pub(super) async fn open_group(subject: Subject) {
    let Some(subject) = subject.again() else { return };
    let (node, tp) = (subject.node.clone(), subject.partition.tp);
    let since_epoch = subject.record.raft.as_ref().map(|raft| raft.since_epoch);
    if since_epoch != subject.partition.terms().raft.as_ref().map(|raft| raft.since_epoch) {
        // The partition has yet to follow the record.
        return;
    }
    if let Err(e) = try_open(&subject).await {
        let (topic, partition) = (&subject.partition.topic, tp.partition);
        tracing::error!(%topic, partition, "the partition's group cannot be opened, it is tried again: {e}");
        node.raft.put_off(tp);
    }
    node.raft.review();
}

async fn try_open(subject: &Subject) -> Result<(), OpenError> {
    let Some(group) = subject.record.raft.clone() else { return Ok(()) };
    let (node, tp) = (&subject.node, subject.partition.tp);
    let port = Arc::new(GroupPort::new(node, &subject.partition));
    let first = match subject.partition.log_refusal() {
        Some(why) if subject.partition.has_lost() && is_led_elsewhere(subject) => {
            Err(OpenError::Lost(format!("its log refuses to be written: {why}")))
        }
        Some(why) => Err(OpenError::Io(io::Error::other(format!("the log refuses to be written: {why}")))),
        None => start_with(subject, &group, &port, beginning).await,
    };
    let opened = match first {
        // What it had promised may be forgotten: it comes back as another replica, and never as this one.
        Err(e @ (OpenError::Lost(_) | OpenError::Side(_) | OpenError::Behind { .. })) => {
            let (topic, partition) = (&subject.partition.topic, tp.partition);
            tracing::warn!(%topic, partition, "this replica joins its group anew: {e}");
            let (disk, own) = (disk_of(node, tp), subject.partition.clone());
            // In this order: a crash in between must not find a cut log with the promises of the whole one.
            let forgotten = tokio::task::spawn_blocking(move || {
                forget(&disk)?;
                own.cut_damage().map_err(io::Error::other)
            });
            let forgotten = forgotten.await.map_err(io::Error::other).flatten();
            forgotten.map_err(OpenError::Io)?;
            start_with(subject, &group, &port, |subject, _| rejoining(subject)).await?
        }
        other => other?,
    };
    attach(&subject.partition, group.since_epoch, &opened);
    let watcher = tokio::spawn(watch(subject.partition.clone(), opened.clone(), node.clone()));
    let open = Open {
        since_epoch: group.since_epoch,
        group: opened.clone(),
        port,
        watcher: watcher.abort_handle(),
        peers: Mutex::default(),
        asked_at: Mutex::default(),
    };
    lock(&node.raft.open).insert(tp, Arc::new(open));
    lock(&node.raft.not_before).remove(&tp);
    // It may have been given away meanwhile: then nobody else closes it.
    let is_here = |found: &Arc<Partition>| Arc::ptr_eq(found, &subject.partition);
    let is_gone = !node.partitions.view().partition(tp).is_some_and(is_here);
    if is_gone || node.raft.is_stopped.load(Ordering::SeqCst) {
        node.raft.close(node, tp, false).await;
    }
    Ok(())
}

async fn start_with(
    subject: &Subject,
    group: &GroupRecord,
    port: &Arc<GroupPort>,
    how: impl FnOnce(&Subject, &GroupRecord) -> Result<Beginning, OpenError> + Send + 'static,
) -> Result<Arc<RaftGroup>, OpenError> {
    let (node, tp) = (&subject.node, subject.partition.tp);
    let disk = disk_of(node, tp);
    let (own, record, at) = (subject.clone(), group.clone(), disk.clone());
    let prepare = move || {
        let since_epoch = record.since_epoch;
        if kept_of(&at, since_epoch).map_err(OpenError::Io)? {
            return Ok(Beginning::Existing);
        }
        forget(&at).map_err(OpenError::Io)?;
        let beginning = how(&own, &record)?;
        keep_group(&at, since_epoch).map_err(OpenError::Io)?;
        Ok(beginning)
    };
    let prepared = tokio::task::spawn_blocking(prepare).await;
    let beginning = prepared.map_err(|e| OpenError::Raft(e.to_string())).flatten()?;
    let is_on_record = subject.record.leader_epoch > group.since_epoch;
    let opened = node.raft.host.open_group(tp, disk, port.clone(), beginning, is_on_record).await?;
    opened.name(group.since_epoch);
    Ok(opened)
}

/// Shows the partition its group.
pub(super) fn attach(partition: &Partition, since_epoch: LeaderEpoch, group: &Arc<RaftGroup>) {
    if partition.attach_group(since_epoch, group) {
        partition.take_leadership(group, group.leadership());
    }
}

/// Tells the partition what the group says of leadership, as it changes.
async fn watch(partition: Arc<Partition>, group: Arc<RaftGroup>, node: Arc<Node>) {
    loop {
        let leadership = group.leadership();
        partition.take_leadership(&group, leadership);
        node.raft.review();
        if !group.leadership_changed(leadership).await {
            return;
        }
    }
}

/// A group whose part here has ended: a disk that was full may have room again.
pub(super) async fn reopen_later(subject: Subject) {
    let (node, tp) = (&subject.node, subject.partition.tp);
    node.raft.put_off(tp);
    node.raft.close(node, tp, false).await;
}
