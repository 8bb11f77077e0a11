//! Judging changes of one partition under fetch replication: its in-sync set (KIP-497), its leader (KIP-460)
//! and its replicas (KIP-455). Checks and their order are those of Kafka's `ReplicationControlManager`.

use highwater_model::limits::REPLICAS_MAX;
use highwater_model::{NodeId, TopicPartition};

use super::command::{AlterPartition, DamagedLog, ElectionKind, Reply, Resignation};
use super::draft::{Brokers, Draft, Election, in_order};
use super::edit::{Edit, Outcome, PartitionChange};
use super::refusal::Refusal;
use super::state::{ClusterState, Partition, Topic};

impl ClusterState {
    /// Only the leader of now, who knows the partition as it is now, changes its in-sync set; and only by
    /// replicas that are there, in the process that the leader saw.
    pub(super) fn decide_alter_partition(&self, alter: &AlterPartition) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(alter.tp)?;
        self.broker_of_epoch(alter.node_id, alter.broker_epoch)?;
        check_leader_epoch(partition, alter.leader_epoch)?;
        if partition.raft.is_some() || partition.leader != Some(alter.node_id) {
            return Err(Refusal::RequestInvalid(format!("node {} does not lead", alter.node_id)));
        }
        check_partition_epoch(partition, alter.partition_epoch)?;
        let isr: Vec<NodeId> = alter.isr.iter().map(|member| member.node_id).collect();
        let is_legal =
            |(i, node): (usize, &NodeId)| partition.replicas.contains(node) && !isr[..i].contains(node);
        if !isr.iter().enumerate().all(is_legal) || !isr.contains(&alter.node_id) {
            let reason = "an in-sync set has the leader and other replicas, each once";
            return Err(Refusal::RequestInvalid(reason.into()));
        }
        for member in &alter.isr {
            let broker = self.brokers.get(&member.node_id).filter(|broker| !broker.is_fenced);
            if broker.is_none_or(|broker| broker.epoch != member.broker_epoch) {
                return Err(Refusal::IneligibleReplica(member.node_id));
            }
        }
        let brokers = Brokers::of(self);
        let mut draft = Draft::new(&topic.config, alter.tp, partition);
        draft.set_isr(&isr);
        // Even if the set is the same: a leader asks for that to be sure that what it asked before, without
        // an answer, will not be carried out any more.
        draft.touch();
        let change = draft.finish(&brokers).expect("touched");
        assert_eq!(change.next.leader, Some(alter.node_id), "the leader is in its own in-sync set");
        let reply = Reply::PartitionEpoch(change.next.partition_epoch);
        // A change of its own: the answer's epoch names exactly the set that was asked for.
        let completed = completed(topic, &change, &brokers, false);
        let partitions = vec![change].into_iter().chain(completed).collect();
        Ok(Outcome::one(Edit::PartitionsChanged { partitions }, reply))
    }

    /// A replica with a damaged log is counted on no more: it leaves both sets, before it may fill its log
    /// again. It leads on only where nobody else may: what it has is still readable, and whoever else may
    /// lead one day has not come back yet.
    pub(super) fn decide_log_damaged(&self, damaged: &DamagedLog) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(damaged.tp)?;
        let node = damaged.node_id;
        self.broker_of_epoch(node, damaged.broker_epoch)?;
        check_leader_epoch(partition, damaged.leader_epoch)?;
        if partition.raft.is_some() || !partition.replicas.contains(&node) {
            return Err(Refusal::RequestInvalid(format!("node {node} has no such replica")));
        }
        let leads = partition.leader == Some(node);
        // Without a leader its place among the eligible ones keeps others, who have less, from leading.
        if partition.leader.is_none() || leads && !self.may_give_up(topic, partition, node) {
            return Err(Refusal::EligibleLeadersNotAvailable);
        }
        let mut draft = Draft::new(&topic.config, damaged.tp, partition);
        match leads {
            true => draft.give_up(node),
            false => draft.leave_uncleanly(node),
        }
        let partitions: Vec<_> = draft.finish(&Brokers::of(self)).into_iter().collect();
        assert!(!leads || partitions.iter().any(|change| change.next.leader.is_some_and(|l| l != node)));
        match partitions.is_empty() {
            true => Ok(Outcome::unchanged(Reply::Done)),
            false => Ok(Outcome::one(Edit::PartitionsChanged { partitions }, Reply::Done)),
        }
    }

    /// Whether a replica other than `node` has everything that is committed, and is there to lead; any other
    /// where the topic would rather lose records than wait.
    pub fn may_give_up(&self, topic: &Topic, partition: &Partition, node: NodeId) -> bool {
        let brokers = Brokers::of(self);
        let is_there = |set: &[NodeId]| set.iter().any(|other| *other != node && brokers.is_active(*other));
        let is_enough = is_there(&partition.isr)
            || is_there(&partition.elr)
            || topic.config.unclean_leader_election && is_there(&partition.replicas);
        partition.raft.is_none() && is_enough
    }

    /// A leader that has no room leaves the in-sync set too: it could not keep up, and acknowledgements would
    /// wait for it. What it has stays eligible where that matters.
    pub(super) fn decide_resign_leader(&self, resigned: &Resignation) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(resigned.tp)?;
        let node = resigned.node_id;
        self.broker_of_epoch(node, resigned.broker_epoch)?;
        check_leader_epoch(partition, resigned.leader_epoch)?;
        if partition.raft.is_some() || partition.leader != Some(node) {
            return Err(Refusal::RequestInvalid(format!("node {node} does not lead")));
        }
        if !self.may_resign(topic, partition, node) {
            return Err(Refusal::EligibleLeadersNotAvailable);
        }
        let mut draft = Draft::new(&topic.config, resigned.tp, partition);
        draft.resign(node);
        let change = draft.finish(&Brokers::of(self)).expect("another leader");
        assert!(change.next.leader.is_some_and(|leader| leader != node), "one that is in sync is there");
        Ok(Outcome::one(Edit::PartitionsChanged { partitions: vec![change] }, Reply::Done))
    }

    /// Whether the partition goes on without `node`: enough others are in sync, and there, for acks=all.
    pub fn may_resign(&self, topic: &Topic, partition: &Partition, node: NodeId) -> bool {
        let brokers = Brokers::of(self);
        let is_there = |other: &&NodeId| **other != node && brokers.is_active(**other);
        partition.raft.is_none() && partition.isr.iter().filter(is_there).count() >= topic.min_isr(partition)
    }

    pub(super) fn decide_elect(&self, tp: TopicPartition, kind: ElectionKind) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(tp)?;
        debug_assert!(!partition.replicas.is_empty(), "a partition has a replica");
        let preferred = partition.replicas.first().copied();
        let mut draft = Draft::new(&topic.config, tp, partition);
        let unavailable = match kind {
            ElectionKind::Preferred if partition.leader == preferred => {
                return Err(Refusal::ElectionNotNeeded);
            }
            ElectionKind::Unclean if partition.leader.is_some() => return Err(Refusal::ElectionNotNeeded),
            ElectionKind::Preferred => {
                draft.elect(Election::Preferred);
                Refusal::PreferredLeaderNotAvailable
            }
            ElectionKind::Unclean => {
                draft.elect(Election::Unclean);
                Refusal::EligibleLeadersNotAvailable
            }
        };
        let is_elected = |change: &PartitionChange| match kind {
            ElectionKind::Preferred => change.next.leader == preferred,
            ElectionKind::Unclean => change.next.leader.is_some(),
        };
        let change = draft.finish(&Brokers::of(self)).filter(is_elected).ok_or(unavailable)?;
        assert!(change.next.leader_epoch > partition.leader_epoch, "a new leader has a new epoch");
        Ok(Outcome::one(Edit::PartitionsChanged { partitions: vec![change] }, Reply::Done))
    }

    /// Begins the move to `target`, or changes the one that is under way.
    pub(super) fn decide_reassign(
        &self,
        tp: TopicPartition,
        target: &[NodeId],
        is_by_hand: bool,
    ) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(tp)?;
        let refuse = |reason: String| Err(Refusal::AssignmentInvalid(reason));
        if target.is_empty() || target.len() > REPLICAS_MAX {
            return refuse(format!("A partition has 1 to {REPLICAS_MAX} replicas."));
        }
        if target.iter().enumerate().any(|(i, node)| target[..i].contains(node)) {
            return refuse("The manual partition assignment includes a broker more than once.".into());
        }
        if let Some(node) = target.iter().find(|node| !self.brokers.contains_key(node)) {
            return refuse(format!(
                "The manual partition assignment includes broker {node}, but no such broker is registered."
            ));
        }
        self.reassigned(topic, tp, partition, target, is_by_hand)
    }

    /// Takes a move back: the replicas are those from before it.
    pub(super) fn decide_cancel_reassignment(&self, tp: TopicPartition) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(tp)?;
        if partition.adding.is_empty() && partition.removing.is_empty() {
            return Err(Refusal::NoReassignmentInProgress);
        }
        let before = in_order(&partition.replicas, |node| !partition.adding.contains(&node));
        assert!(!before.is_empty(), "a move begins from replicas");
        self.reassigned(topic, tp, partition, &before, false)
    }

    fn reassigned(
        &self,
        topic: &Topic,
        tp: TopicPartition,
        partition: &Partition,
        target: &[NodeId],
        is_by_hand: bool,
    ) -> Result<Outcome, Refusal> {
        // Replicas that were being added are dropped at once where they are not wanted any more; but who
        // votes in a Raft group, or may vote by now, has to be voted out.
        let is_grouped = partition.raft.is_some();
        let votes = |node: NodeId| is_grouped && (partition.isr.contains(&node) || !target.contains(&node));
        let is_settled = |node: NodeId| !partition.adding.contains(&node) || votes(node);
        let settled = in_order(&partition.replicas, is_settled);
        let adding = in_order(target, |node| !settled.contains(&node));
        let removing = in_order(&settled, |node| !target.contains(&node));
        let replicas: Vec<NodeId> = target.iter().chain(&removing).copied().collect();
        if replicas.len() > REPLICAS_MAX {
            let reason = format!("A partition has at most {REPLICAS_MAX} replicas while it moves.");
            return Err(Refusal::AssignmentInvalid(reason));
        }
        if (&replicas, &adding, &removing) == (&partition.replicas, &partition.adding, &partition.removing) {
            return Ok(Outcome::unchanged(Reply::Done));
        }
        let kept = |set: &[NodeId]| in_order(&replicas, |node| set.contains(&node));
        let (isr, elr) = (kept(&partition.isr), kept(&partition.elr));
        let had_any = !partition.isr.is_empty() || !partition.elr.is_empty();
        let last_known_leader = partition.last_known_leader.filter(|node| replicas.contains(node));
        if had_any && isr.is_empty() && elr.is_empty() || last_known_leader != partition.last_known_leader {
            let reason = "Unable to change the assignment: it would require an unclean leader election.";
            return Err(Refusal::AssignmentInvalid(reason.into()));
        }
        let is_dropping = partition.replicas.iter().any(|node| !replicas.contains(node));
        let mut draft = Draft::new(&topic.config, tp, partition);
        draft.next.elr = elr;
        draft.next.replicas = replicas;
        draft.next.adding = adding;
        draft.next.removing = removing;
        draft.next.is_pinned |= is_by_hand;
        draft.set_isr(&isr);
        if is_dropping && partition.raft.is_none() {
            draft.raise_leader_epoch();
        }
        draft.complete_reassignment();
        let partitions: Vec<_> = draft.finish(&Brokers::of(self)).into_iter().collect();
        assert!(!partitions.is_empty(), "another assignment");
        Ok(Outcome::one(Edit::PartitionsChanged { partitions }, Reply::Done))
    }

    pub(super) fn topic_and_partition(&self, tp: TopicPartition) -> Result<(&Topic, &Partition), Refusal> {
        let topic = self.topics.get(&tp.topic_id).ok_or(Refusal::TopicUnknown)?;
        let partition = topic.partition(tp.partition).ok_or(Refusal::PartitionUnknown)?;
        debug_assert!(tp.partition >= 0);
        Ok((topic, partition))
    }
}

/// The completion of a move that `change` makes possible, as a change that follows it. `is_confirmed`: see
/// `Draft::confirm_voters`.
pub(super) fn completed(
    topic: &Topic,
    change: &PartitionChange,
    brokers: &Brokers<'_>,
    is_confirmed: bool,
) -> Option<PartitionChange> {
    let mut draft = Draft::new(&topic.config, change.tp, &change.next);
    if is_confirmed {
        draft.confirm_voters();
    }
    draft.complete_reassignment();
    let completed = draft.finish(brokers);
    debug_assert!(completed.as_ref().is_none_or(|done| done.next.adding.is_empty()), "complete or as it was");
    completed
}

pub(super) fn check_leader_epoch(partition: &Partition, given: i32) -> Result<(), Refusal> {
    let current = partition.leader_epoch;
    match given {
        given if given < current => Err(Refusal::FencedLeaderEpoch { given, current }),
        given if given > current => Err(Refusal::LeaderEpochUnknown { given, current }),
        _ => Ok(()),
    }
}

pub(super) fn check_partition_epoch(partition: &Partition, given: i32) -> Result<(), Refusal> {
    let current = partition.partition_epoch;
    match given == current {
        true => Ok(()),
        false => Err(Refusal::InvalidUpdateVersion { given, current }),
    }
}
