//! A partition that a Raft group replicates (docs/adr/0014): which group that is, what the group says of
//! leadership, and the partition's side of the group's port.
//!
//! The group decides who leads, what is appended and what is committed; the control plane's record only names
//! the group and who led when it was last told. While this node has a replica, clients are told what the
//! group says, so that they find a new leader with the control plane away. Never asks the group anything with
//! the partition's lock held: a group holds its own while it asks for the log. Invariants: 2, 3, 4, 6, 7.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use highwater_coordinator::core::Partition as Record;
use highwater_log::{LogError, PartitionLog};
use highwater_model::{LeaderEpoch, Offset, TopicConfig};

use super::{Inner, Partition, Terms};
use crate::core::replica::{GroupRole, HandOver, Role as ReplicaRole};
use crate::node::Node;
use crate::raft::{Leadership, PartitionPort, RaftGroup, Role, TierPoint};

/// The group that replicates a partition.
#[derive(Clone)]
pub struct RaftTerms {
    /// The leader epoch since which it is; the group's terms are greater.
    pub since_epoch: LeaderEpoch,
    /// While it is open on this node.
    pub group: Option<Arc<RaftGroup>>,
}

impl std::fmt::Debug for RaftTerms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RaftTerms(since {}, open {})", self.since_epoch, self.group.is_some())
    }
}

impl Partition {
    /// Takes over what the control plane says of a partition that a group replicates.
    pub fn take_raft_record(&self, config: &Arc<TopicConfig>, record: &Record) {
        let since_epoch = record.raft.as_ref().expect("a group replicates it").since_epoch;
        let mut inner = self.lock_any();
        let known = self.terms();
        let same = known.raft.as_ref().filter(|raft| raft.since_epoch == since_epoch);
        let is_new = same.is_none();
        inner.recorded = Some((record.leader_epoch, record.leader));
        if is_new || record.leader_epoch > inner.replica.leader_epoch() {
            let leader = record.leader.filter(|leader| *leader != self.node_id);
            let role = GroupRole { term: record.leader_epoch, leader, leads: false };
            inner.log_mut().forget_verifications();
            inner.replica.follow_group(role);
        }
        let raft = Some(RaftTerms { since_epoch, group: same.and_then(|raft| raft.group.clone()) });
        let is_changed = is_new
            || known.leader_epoch != inner.replica.leader_epoch()
            || !Arc::ptr_eq(&known.config, config);
        if is_changed {
            self.show(&inner, Terms::with_config(&known, config.clone(), raft));
        }
        drop(inner);
        if is_new {
            tracing::info!(
                topic = %self.topic, partition = self.tp.partition, since_epoch, "replicated by a Raft group"
            );
            self.told();
            self.waiters.wake();
        }
    }

    /// The group is open on this node; false if the partition has gone on to something else meanwhile.
    pub(crate) fn attach_group(&self, since_epoch: LeaderEpoch, group: &Arc<RaftGroup>) -> bool {
        let inner = self.lock_any();
        let known = self.terms();
        let is_its = known.raft.as_ref().is_some_and(|raft| raft.since_epoch == since_epoch);
        if is_its {
            let raft = Some(RaftTerms { since_epoch, group: Some(group.clone()) });
            self.show(&inner, Terms::with_config(&known, known.config.clone(), raft));
        }
        is_its
    }

    /// The group is not open on this node any more.
    pub(crate) fn detach_group(&self) {
        let mut inner = self.lock_any();
        let known = self.terms();
        let Some(raft) = &known.raft else { return };
        self.lose_leader(&mut inner);
        let raft = Some(RaftTerms { group: None, ..raft.clone() });
        self.show(&inner, Terms::with_config(&known, known.config.clone(), raft));
        drop(inner);
        self.told();
        self.waiters.wake();
    }

    /// The group is no more, and what it had open here is closed: the next assignment counts.
    pub(crate) fn leave_raft(&self) {
        let mut inner = self.lock_any();
        inner.replica.leave_group();
        inner.recorded = None;
        let known = self.terms();
        self.set_terms(Terms {
            is_leader: false,
            leader: None,
            ..Terms::with_config(&known, known.config.clone(), None)
        });
    }

    fn lose_leader(&self, inner: &mut Inner) {
        let term = inner.replica.leader_epoch();
        let recorded = inner.recorded.filter(|(epoch, _)| *epoch == term);
        let leader = recorded.and_then(|(_, leader)| leader).filter(|leader| *leader != self.node_id);
        inner.log_mut().forget_verifications();
        inner.replica.follow_group(GroupRole { term, leader, leads: false });
    }

    /// Takes over what the group says of leadership; of an older term than is known it says nothing new.
    pub(crate) fn take_leadership(&self, group: &Arc<RaftGroup>, leadership: Leadership) {
        let Ok(term) = LeaderEpoch::try_from(leadership.term) else { return };
        let mut inner = self.lock_any();
        let known = self.terms();
        let is_its = |raft: &RaftTerms| raft.group.as_ref().is_some_and(|open| Arc::ptr_eq(open, group));
        if !known.raft.as_ref().is_some_and(is_its) || term < inner.replica.leader_epoch() {
            return;
        }
        let leads = matches!(leadership.role, Role::Leader { takes_writes: true, .. });
        // Until the group knows better, the leader that the control plane has on record for this very term.
        let recorded = inner.recorded.filter(|(epoch, _)| *epoch == term).and_then(|(_, leader)| leader);
        let recorded = recorded.filter(|leader| *leader != self.node_id);
        let leader = leadership.leader.or(recorded);
        let before = (inner.replica.role(), inner.replica.leader_epoch());
        inner.replica.follow_group(GroupRole { term, leader, leads });
        let now = (inner.replica.role(), inner.replica.leader_epoch());
        if now != before {
            inner.log_mut().forget_verifications();
        }
        self.show(&inner, Terms::clone(&known));
        self.check_bounds(&mut inner);
        drop(inner);
        if now == before {
            return;
        }
        let (topic, partition) = (&self.topic, self.tp.partition);
        match now.0 {
            ReplicaRole::Leader => tracing::info!(%topic, partition, term, "leads its group"),
            role => tracing::debug!(%topic, partition, term, "group: {role:?}"),
        }
        self.told();
        self.waiters.wake();
    }

    /// Shows what the replica is by now.
    fn show(&self, inner: &Inner, terms: Terms) {
        let (leader, is_leader) = match inner.replica.role() {
            ReplicaRole::Leader => (Some(self.node_id), true),
            ReplicaRole::Follower(leader) => (leader, false),
            ReplicaRole::Stranger => (None, false),
        };
        self.set_terms(Terms { leader, is_leader, leader_epoch: inner.replica.leader_epoch(), ..terms });
    }

    /// What a group may begin with, once this leader of a fetch partition has come to rest.
    pub(crate) fn hand_over(&self) -> Option<HandOver> {
        self.lock().ok()?.replica.hand_over()
    }

    /// How far the log goes, and how far it is on the disk.
    pub(crate) fn log_ends(&self) -> (Offset, Offset) {
        let inner = self.lock_any();
        (inner.log().log_end(), inner.log().flushed_end())
    }

    /// The log refuses to be written: what is there is damaged, or a disk has failed.
    pub(crate) fn log_refusal(&self) -> Option<&'static str> {
        self.lock_any().log().refusal()
    }

    /// Takes away what is damaged of the log, for a replica that begins again with nothing. A sound log
    /// stays.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn cut_damage(&self) -> Result<(), LogError> {
        let mut inner = self.lock_any();
        inner.log_mut().cut_damage()?;
        inner.replica.group_wrote();
        self.high_watermark.store(inner.replica.high_watermark(), Ordering::SeqCst);
        self.has_lost.store(inner.replica.has_lost(), Ordering::Relaxed);
        Ok(())
    }

    /// A log that ends below the tier's end goes on there, as for a replica without others.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn raise_to_tier(&self) -> Result<(Offset, Option<LeaderEpoch>), LogError> {
        let mut inner = self.lock_any();
        super::replicate::raise_to_tier(&mut inner)?;
        inner.replica.group_wrote();
        self.high_watermark.store(inner.replica.high_watermark(), Ordering::SeqCst);
        Ok((inner.log().log_end(), inner.log().latest_epoch()))
    }

    /// Local segments below here may go: the group's log begins there. None where no group replicates it.
    pub(super) fn released_end(&self) -> Option<Offset> {
        let terms = self.terms();
        let raft = terms.raft.as_ref()?;
        Some(raft.group.as_ref().map_or(0, |group| group.released_end()))
    }

    /// The group works on the log.
    fn with_group_log(&self, node: &Node, work: &mut dyn FnMut(&mut PartitionLog)) -> bool {
        let Ok(mut inner) = self.lock() else { return false };
        if inner.replica.replica().group().is_none() {
            return false;
        }
        let active = inner.log().active_start();
        work(inner.log_mut());
        inner.replica.group_wrote();
        self.high_watermark.store(inner.replica.high_watermark(), Ordering::SeqCst);
        let is_rolled = inner.log().active_start() > active && inner.replica.role() == ReplicaRole::Leader;
        let sealed = if is_rolled { inner.log().sealed().last().map(|s| s.bytes) } else { None };
        drop(inner);
        if let Some(bytes) = sealed {
            node.pacer.sealed(bytes);
        }
        true
    }

    /// The group has committed everything below `end`.
    fn group_committed(self: &Arc<Self>, node: &Node, end: Offset) {
        let Ok(mut inner) = self.lock() else { return };
        if inner.replica.replica().group().is_none() {
            return;
        }
        let before = inner.replica.high_watermark();
        let moves = inner.replica.group_committed(end);
        self.take_moves(&mut inner, &moves);
        self.check_bounds(&mut inner);
        let now = inner.replica.high_watermark();
        let is_sealed = inner.log().sealed().last().is_some_and(|s| before < s.end && s.end <= now);
        let leads = inner.replica.role() == ReplicaRole::Leader;
        drop(inner);
        self.tell(&moves);
        if is_sealed && leads {
            node.offloads.push(self);
        }
    }
}

impl Terms {
    /// As `known`, under these settings and this group.
    fn with_config(known: &Terms, config: Arc<TopicConfig>, raft: Option<RaftTerms>) -> Terms {
        Terms { rules: highwater_wire::ProduceRules::of(&config), config, raft, ..known.clone() }
    }
}

/// The partition as its group sees it.
pub(crate) struct GroupPort {
    partition: Weak<Partition>,
    node: Weak<Node>,
    /// The group is being closed: what fails now has not failed.
    is_closing: AtomicBool,
    /// It is closed: the log is not its any more.
    is_over: AtomicBool,
}

impl GroupPort {
    pub fn new(node: &Arc<Node>, partition: &Arc<Partition>) -> GroupPort {
        GroupPort {
            partition: Arc::downgrade(partition),
            node: Arc::downgrade(node),
            is_closing: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn begin_close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    fn open(&self) -> Option<(Arc<Node>, Arc<Partition>)> {
        let is_over = self.is_over.load(Ordering::SeqCst);
        Some((self.node.upgrade()?, self.partition.upgrade()?)).filter(|_| !is_over)
    }
}

impl PartitionPort for GroupPort {
    fn with_log(&self, work: &mut dyn FnMut(&mut PartitionLog)) -> bool {
        self.open().is_some_and(|(node, partition)| partition.with_group_log(&node, work))
    }

    fn now_ms(&self) -> i64 {
        self.node.upgrade().map_or(0, |node| node.now_ms())
    }

    fn advance(&self, high_watermark: Offset) {
        if let Some((node, partition)) = self.open() {
            partition.group_committed(&node, high_watermark);
        }
    }

    fn tier(&self) -> TierPoint {
        let Some((_, partition)) = self.open() else { return TierPoint::default() };
        let manifest = partition.manifest();
        let tiered_end = manifest.tiered_end.max(manifest.log_start);
        TierPoint { manifest_version: manifest.version, tiered_end }
    }

    fn begun(&self, offset: Offset) {
        if let Some((_, partition)) = self.open() {
            let (topic, index) = (&partition.topic, partition.tp.partition);
            tracing::info!(%topic, partition = index, offset, "begins where the tier has what lies below");
            partition.told();
            partition.waiters.wake();
        }
    }

    fn failed(&self, why: &str) {
        let Some((node, partition)) = self.open() else { return };
        if self.is_closing.load(Ordering::SeqCst) {
            return;
        }
        let (topic, index) = (&partition.topic, partition.tp.partition);
        tracing::error!(%topic, partition = index, "this replica's part in its group has ended: {why}");
        let mut inner = partition.lock_any();
        if inner.replica.replica().group().is_some() {
            partition.lose_leader(&mut inner);
            partition.show(&inner, Terms::clone(&partition.terms()));
        }
        drop(inner);
        partition.told();
        partition.waiters.wake();
        node.raft.review();
    }
}
