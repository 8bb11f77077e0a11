//! One partition on its way to its next state: elections, the in-sync set and the eligible leader replicas
//! (KIP-966). Every change of leader or replicas is made here, so that the rules hold wherever it comes from.
//!
//! The order is Kafka's (`PartitionChangeBuilder`): what is wanted is written into the draft; `finish` then
//! gives the eligible leader replicas, elects where the leader may not stay, and raises the epochs.
//! Must not: look at anything but the partition, its settings and which brokers are active. Invariant 6.

use highwater_model::{LeaderEpoch, NodeId, TopicConfig, TopicPartition};

use super::edit::PartitionChange;
use super::state::{ClusterState, Partition};

/// What the brokers are, for one decision: the state's, but for the one broker that is about to change.
#[derive(Clone, Copy)]
pub(super) struct Brokers<'a> {
    state: &'a ClusterState,
    /// This one is as told, whatever the state says.
    changed: Option<(NodeId, bool)>,
}

impl<'a> Brokers<'a> {
    pub(super) fn of(state: &'a ClusterState) -> Brokers<'a> {
        Brokers { state, changed: None }
    }

    pub(super) fn with(state: &'a ClusterState, node: NodeId, is_active: bool) -> Brokers<'a> {
        Brokers { state, changed: Some((node, is_active)) }
    }

    /// Whether the broker may lead and be in sync.
    pub(super) fn is_active(&self, node: NodeId) -> bool {
        match self.changed {
            Some((changed, is_active)) if changed == node => is_active,
            _ => self.state.brokers.get(&node).is_some_and(|broker| broker.is_active()),
        }
    }
}

/// How far an election may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Election {
    /// The leader stays if it may; else a replica that has everything.
    Clean,
    /// The first replica takes over if it has everything.
    Preferred,
    /// Where no replica has everything, any that is there: may lose records.
    Unclean,
}

/// The next state of a partition, not yet finished.
pub(super) struct Draft<'a> {
    tp: TopicPartition,
    before: &'a Partition,
    min_isr: usize,
    election: Election,
    /// Replicas whose logs may lack what they had: out of both sets.
    unclean: Vec<NodeId>,
    /// Is not elected, however the election goes.
    barred: Option<NodeId>,
    /// Is elected uncleanly only if nobody else is there.
    last_choice: Option<NodeId>,
    is_leader_epoch_raised: bool,
    is_touched: bool,
    /// The leader of a Raft group has said that who is to go has no vote, and will have none.
    is_confirmed: bool,
    pub next: Partition,
}

impl<'a> Draft<'a> {
    pub(super) fn new(config: &TopicConfig, tp: TopicPartition, before: &'a Partition) -> Draft<'a> {
        Draft {
            tp,
            before,
            min_isr: usize::try_from(config.min_insync_replicas).unwrap_or(usize::MAX).max(1),
            election: match config.unclean_leader_election {
                true => Election::Unclean,
                false => Election::Clean,
            },
            unclean: Vec::new(),
            barred: None,
            last_choice: None,
            is_leader_epoch_raised: false,
            is_touched: false,
            is_confirmed: false,
            next: before.clone(),
        }
    }

    /// Asks for another election than the topic's settings do.
    pub(super) fn elect(&mut self, election: Election) {
        self.election = election;
    }

    /// Takes the in-sync set; it is put in the order of the replicas.
    pub(super) fn set_isr(&mut self, isr: &[NodeId]) {
        debug_assert!(isr.iter().all(|node| self.next.replicas.contains(node)), "replicas only");
        self.next.isr = in_order(&self.next.replicas, |node| isr.contains(&node));
    }

    /// Out of the in-sync set; what it has may stay eligible. A voter of a Raft group stays one: its log is
    /// synced, and the group does not need to be told who is there.
    pub(super) fn leave_isr(&mut self, node: NodeId) {
        if self.next.raft.is_none() {
            self.next.isr.retain(|member| *member != node);
        }
    }

    /// Out of both sets: its log may lack what it had.
    pub(super) fn leave_uncleanly(&mut self, node: NodeId) {
        self.leave_isr(node);
        self.next.elr.retain(|member| *member != node);
        self.unclean.push(node);
    }

    /// Its log is gone: it does not lead as the last known leader either.
    pub(super) fn lose_log(&mut self, node: NodeId) {
        self.leave_uncleanly(node);
        if self.next.raft.is_some() {
            return;
        }
        self.next.leader = self.next.leader.filter(|leader| *leader != node);
        self.next.last_known_leader = self.next.last_known_leader.filter(|leader| *leader != node);
        debug_assert!(!self.next.isr.contains(&node) && !self.next.elr.contains(&node));
    }

    /// It comes back with less than it had: others that are there may have most of that, though they were not
    /// in sync.
    pub(super) fn comes_last(&mut self, node: NodeId) {
        self.last_choice = Some(node);
    }

    /// It comes back with nothing; that is remembered until it is in sync again.
    pub(super) fn note_loss(&mut self, node: NodeId) {
        let next = &mut self.next;
        next.lost = in_order(&next.replicas, |other| other == node || next.lost.contains(&other));
    }

    /// Its log has lost something while it led: another one is elected.
    pub(super) fn give_up(&mut self, node: NodeId) {
        self.lose_log(node);
        self.barred = Some(node);
    }

    /// It leads no more and leaves the in-sync set, with a log that is whole: another one is elected.
    pub(super) fn resign(&mut self, node: NodeId) {
        debug_assert!(self.next.raft.is_none() && self.next.leader == Some(node), "of fetch, and its leader");
        self.leave_isr(node);
        self.barred = Some(node);
    }

    /// Fences writers of the leader epoch of now, even if the leader stays.
    pub(super) fn raise_leader_epoch(&mut self) {
        self.is_leader_epoch_raised = true;
    }

    /// The process that led is gone, another one has its node id. It leads on only in a new leader epoch; in
    /// a Raft group only when it has been elected again.
    pub(super) fn restart_leader(&mut self) {
        match self.next.raft.is_some() {
            true => self.next.leader = None,
            false => self.raise_leader_epoch(),
        }
    }

    /// Raises the partition's epoch even if nothing else changes: wishes based on it are refused.
    pub(super) fn touch(&mut self) {
        self.is_touched = true;
    }

    /// Replicas of a Raft group may go that have no vote.
    pub(super) fn confirm_voters(&mut self) {
        self.is_confirmed = true;
    }

    /// Completes a reassignment that can be: what is added is in sync, and enough stays in sync without what
    /// goes.
    pub(super) fn complete_reassignment(&mut self) {
        let next = &mut self.next;
        if next.adding.is_empty() && next.removing.is_empty() {
            return;
        }
        let stays = |node: &NodeId| !next.removing.contains(node);
        let replicas: Vec<NodeId> = next.replicas.iter().copied().filter(stays).collect();
        let isr: Vec<NodeId> = next.isr.iter().copied().filter(stays).collect();
        let needed = match next.raft.is_some() {
            true if next.isr.len() > isr.len() => return, // The group still counts a vote that is to go.
            // It may count one that is not known of here yet.
            true if !next.removing.is_empty() && !self.is_confirmed => return,
            true => replicas.len(),
            false => self.min_isr.min(replicas.len()),
        };
        if !next.adding.iter().all(|node| isr.contains(node)) || isr.len() < needed {
            return;
        }
        assert!(!isr.is_empty(), "at least one replica that stays is in sync");
        // Replicas that go are fenced by the leader epoch, so that none of them serves or leads on.
        // The members of a Raft group fence each other by its terms.
        self.is_leader_epoch_raised |= !next.removing.is_empty() && next.raft.is_none();
        next.elr.retain(|node| replicas.contains(node));
        (next.replicas, next.isr) = (replicas, isr);
        next.adding.clear();
        next.removing.clear();
        self.is_touched = true;
    }

    /// Elects and raises epochs; none where nothing changes.
    pub(super) fn finish(mut self, brokers: &Brokers<'_>) -> Option<PartitionChange> {
        match self.next.raft.is_some() {
            true => self.settle_raft_leader(brokers),
            false => {
                self.populate_elr();
                self.settle_leader(brokers);
            }
        }
        let (before, next) = (self.before, &mut self.next);
        next.lost = match next.raft.is_some() {
            true => Vec::new(),
            false => in_order(&next.replicas, |node| next.lost.contains(&node) && !next.isr.contains(&node)),
        };
        if next.leader != before.leader && next.raft.is_none() {
            self.is_leader_epoch_raised = true;
        }
        if *next == *before && !self.is_leader_epoch_raised && !self.is_touched {
            return None;
        }
        if self.is_leader_epoch_raised {
            next.leader_epoch = raised(before.leader_epoch.max(next.leader_epoch));
        }
        next.partition_epoch = raised(before.partition_epoch);
        assert!(next.leader_epoch >= before.leader_epoch, "leader epochs only grow (invariant 6)");
        assert!(next.leader.is_none_or(|leader| next.isr.contains(&leader)), "who leads is in sync");
        debug_assert!(next.elr.iter().all(|node| !next.isr.contains(node)), "in one of both sets");
        Some(PartitionChange { tp: self.tp, next: self.next })
    }

    /// Whoever leaves a set that falls below the minimum stays eligible: the high watermark stands still from
    /// then on, so it has all below it.
    fn populate_elr(&mut self) {
        let next = &mut self.next;
        if next.isr.len() >= self.min_isr.min(next.replicas.len()) {
            next.elr.clear();
            return;
        }
        let (isr, elr) = (&next.isr, &next.elr);
        let had = |node: NodeId| elr.contains(&node) || self.before.isr.contains(&node);
        next.elr = in_order(&next.replicas, |node| {
            had(node) && !isr.contains(&node) && !self.unclean.contains(&node)
        });
        debug_assert!(next.elr.len() + next.isr.len() <= next.replicas.len());
    }

    fn settle_leader(&mut self, brokers: &Brokers<'_>) {
        let elected = self.elected(brokers);
        let next = &mut self.next;
        match elected {
            None => {
                if let Some(leader) = next.leader.take() {
                    next.last_known_leader = Some(leader).filter(|node| next.replicas.contains(node));
                }
            }
            Some(leader) => {
                next.leader = Some(leader);
                next.last_known_leader = None;
                if !next.isr.contains(&leader) {
                    // From the eligible ones it has everything, and the others stay eligible; else not.
                    let is_clean = next.elr.contains(&leader);
                    next.isr = vec![leader];
                    next.elr.retain(|node| is_clean && *node != leader);
                }
                if next.isr.len() >= self.min_isr.min(next.replicas.len()) {
                    next.elr.clear();
                }
                debug_assert!(brokers.is_active(leader), "only who is there leads");
            }
        }
    }

    /// Who leads next. The in-sync replicas come before the eligible ones: they may have more.
    fn elected(&self, brokers: &Brokers<'_>) -> Option<NodeId> {
        let next = &self.next;
        let may_lead = |node: NodeId| brokers.is_active(node) && next.isr.contains(&node);
        let preferred = next.replicas.first().copied().filter(|node| may_lead(*node));
        if self.election == Election::Preferred && preferred.is_some() {
            return preferred;
        }
        let first = |set: &[NodeId]| {
            let may = |node: &NodeId| set.contains(node) && brokers.is_active(*node);
            next.replicas.iter().copied().find(|node| may(node) && self.barred != Some(*node))
        };
        let stays = next.leader.filter(|leader| may_lead(*leader));
        let clean = stays.or_else(|| first(&next.isr)).or_else(|| first(&next.elr));
        let last_known = || {
            let known = next.last_known_leader.or(next.leader)?;
            let is_alone = next.isr.is_empty() && next.elr.is_empty();
            (is_alone && brokers.is_active(known) && next.replicas.contains(&known)).then_some(known)
        };
        let unclean = || {
            if self.election != Election::Unclean {
                return None;
            }
            let with_something = in_order(&next.replicas, |node| !next.lost.contains(&node));
            let with_most = in_order(&with_something, |node| self.last_choice != Some(node));
            first(&with_most).or_else(|| first(&with_something)).or_else(|| first(&next.replicas))
        };
        clean.or_else(last_known).or_else(unclean)
    }

    /// The group elects; here is only forgotten who cannot lead any more.
    fn settle_raft_leader(&mut self, brokers: &Brokers<'_>) {
        let next = &mut self.next;
        next.leader = next.leader.filter(|leader| brokers.is_active(*leader) && next.isr.contains(leader));
        next.elr.clear();
        // The term that is known belongs to it, and to nobody else.
        next.last_known_leader = match next.leader {
            Some(_) => None,
            None => self.before.leader.or(self.before.last_known_leader),
        };
        next.last_known_leader = next.last_known_leader.filter(|node| next.replicas.contains(node));
        debug_assert!(next.isr.iter().all(|node| next.replicas.contains(node)), "voters are replicas");
    }
}

/// The replicas that `keep` says, in their order.
pub(super) fn in_order(replicas: &[NodeId], keep: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    replicas.iter().copied().filter(|node| keep(*node)).collect()
}

fn raised(epoch: LeaderEpoch) -> LeaderEpoch {
    epoch.checked_add(1).expect("an epoch is raised a few times a second at most")
}
