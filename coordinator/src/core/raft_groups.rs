//! Judging what the Raft groups of partitions report: who leads in which term, and the two ends of a switch
//! between fetch and raft replication (ADR 0012 and 0014). The group decides; the control plane follows it,
//! and only ever forward.

use highwater_model::limits::LEADER_EPOCH_MAX;
use highwater_model::topic_config::Replication;
use highwater_model::{LeaderEpoch, NodeId};

use super::command::{Command, RaftLeader, Reply};
use super::draft::{Brokers, Draft};
use super::edit::{Edit, Outcome, PartitionChange};
use super::partitions::{check_leader_epoch, check_partition_epoch, completed};
use super::refusal::Refusal;
use super::state::{ClusterState, Partition, RaftGroup};

impl ClusterState {
    /// A term is reported once, or again by its own leader; an older one comes too late.
    pub(super) fn decide_raft_leader(&self, rules: u16, report: &RaftLeader) -> Result<Outcome, Refusal> {
        let (topic, partition) = self.topic_and_partition(report.tp)?;
        self.active_broker(report.node_id, report.broker_epoch)?;
        let group = raft_group(partition)?;
        let given = report.term;
        check_term(rules, partition, group, given, report.node_id)?;
        let voters = match report.voters.is_empty() {
            true => partition.isr.clone(),
            false => replicas_only(partition, &report.voters)?,
        };
        if !voters.contains(&report.node_id) {
            return Err(Refusal::RequestInvalid(format!("node {} does not vote", report.node_id)));
        }
        let brokers = Brokers::of(self);
        let mut draft = Draft::new(&topic.config, report.tp, partition);
        draft.next.leader = Some(report.node_id);
        draft.next.leader_epoch = given;
        draft.set_isr(&voters);
        let change = draft.finish(&brokers);
        debug_assert!(change.as_ref().is_none_or(|change| change.next.leader_epoch == given));
        let is_confirmed =
            !report.voters.is_empty() && report.partition_epoch == Some(partition.partition_epoch);
        let as_it_is = PartitionChange { tp: report.tp, next: partition.clone() };
        let after = completed(topic, change.as_ref().unwrap_or(&as_it_is), &brokers, is_confirmed);
        Ok(outcome(change.into_iter().chain(after).collect()))
    }

    /// The leader has stopped appending and all in-sync replicas have the same records: they are the first
    /// voters. Nobody leads until the group has elected.
    pub(super) fn decide_raft_begin(&self, command: &Command) -> Result<Outcome, Refusal> {
        let Command::RaftBegin { tp, node_id, broker_epoch, leader_epoch, partition_epoch, start_offset } =
            command
        else {
            unreachable!("dispatched by its kind");
        };
        let (topic, partition) = self.topic_and_partition(*tp)?;
        self.broker_of_epoch(*node_id, *broker_epoch)?;
        if topic.config.replication != Replication::Raft {
            return Err(Refusal::RequestInvalid("the topic does not ask for raft replication".into()));
        }
        check_leader_epoch(partition, *leader_epoch)?;
        if partition.raft.is_some() || partition.leader != Some(*node_id) {
            return Err(Refusal::RequestInvalid(format!("node {node_id} does not lead")));
        }
        check_partition_epoch(partition, *partition_epoch)?;
        if *start_offset < partition.manifest.tiered_end {
            return Err(Refusal::RequestInvalid("the group begins below what is tiered".into()));
        }
        let mut draft = Draft::new(&topic.config, *tp, partition);
        draft.raise_leader_epoch();
        draft.next.raft = Some(RaftGroup {
            since_epoch: partition.leader_epoch + 1,
            start_offset: *start_offset,
            voters: partition.isr.clone(),
        });
        draft.next.leader = None;
        let change = draft.finish(&Brokers::of(self)).expect("the leader epoch is raised");
        assert!(change.next.leader_epoch > partition.leader_epoch && change.next.leader.is_none());
        Ok(Outcome::one(Edit::PartitionsChanged { partitions: vec![change] }, Reply::Done))
    }

    /// The group's leader leads on under fetch replication, in the leader epoch after the group's last term.
    pub(super) fn decide_raft_end(&self, rules: u16, command: &Command) -> Result<Outcome, Refusal> {
        let Command::RaftEnd { tp, node_id, broker_epoch, term, partition_epoch, isr } = command else {
            unreachable!("dispatched by its kind");
        };
        let (topic, partition) = self.topic_and_partition(*tp)?;
        self.active_broker(*node_id, *broker_epoch)?;
        let group = raft_group(partition)?;
        if topic.config.replication != Replication::Fetch {
            return Err(Refusal::RequestInvalid("the topic does not ask for fetch replication".into()));
        }
        let given = *term;
        check_term(rules, partition, group, given, *node_id)?;
        check_partition_epoch(partition, *partition_epoch)?;
        let isr = replicas_only(partition, isr)?;
        if !isr.contains(node_id) {
            return Err(Refusal::RequestInvalid("the leader has what it committed".into()));
        }
        let brokers = Brokers::of(self);
        let active: Vec<NodeId> = isr.iter().copied().filter(|node| brokers.is_active(*node)).collect();
        let mut draft = Draft::new(&topic.config, *tp, partition);
        draft.next.raft = None;
        draft.next.leader = Some(*node_id);
        draft.next.leader_epoch = given;
        // A voter without the last entry has less than was committed: where the set that stays is small, it
        // must not be held for eligible with those that have it and are away.
        for behind in partition.isr.iter().filter(|voter| rules > 3 && !isr.contains(voter)) {
            draft.leave_uncleanly(*behind);
        }
        draft.set_isr(&active);
        draft.raise_leader_epoch();
        let change = draft.finish(&brokers).expect("the leader epoch is raised");
        assert!(change.next.leader_epoch > given, "fences the group's last term");
        assert_eq!(change.next.leader, Some(*node_id), "it is there and in sync");
        let after = completed(topic, &change, &brokers, false);
        Ok(outcome([change].into_iter().chain(after).collect()))
    }

    fn active_broker(&self, node: NodeId, epoch: u64) -> Result<(), Refusal> {
        let broker = self.broker_of_epoch(node, epoch)?;
        debug_assert_eq!(broker.epoch, epoch);
        match broker.is_fenced {
            true => Err(Refusal::IneligibleReplica(node)),
            false => Ok(()),
        }
    }
}

fn raft_group(partition: &Partition) -> Result<&RaftGroup, Refusal> {
    let refused = || Refusal::RequestInvalid("the partition is not replicated by a Raft group".into());
    partition.raft.as_ref().ok_or_else(refused)
}

/// A term is older than what is known, or has the leader that was known first.
fn check_term(
    rules: u16,
    partition: &Partition,
    group: &RaftGroup,
    given: LeaderEpoch,
    node: NodeId,
) -> Result<(), Refusal> {
    let current = partition.leader_epoch;
    debug_assert!(group.since_epoch <= current, "checked at every load");
    if given < current || given <= group.since_epoch {
        return Err(Refusal::FencedLeaderEpoch { given, current });
    }
    let known = partition.leader.or(partition.last_known_leader);
    if rules > 3 && given > LEADER_EPOCH_MAX {
        return Err(Refusal::RequestInvalid(format!("term {given} leaves no room for those that follow")));
    }
    match given == current && known.is_some_and(|leader| leader != node) {
        true => Err(Refusal::RequestInvalid(format!("term {given} has another leader"))),
        false => Ok(()),
    }
}

fn replicas_only(partition: &Partition, nodes: &[NodeId]) -> Result<Vec<NodeId>, Refusal> {
    match nodes.iter().find(|node| !partition.replicas.contains(node)) {
        Some(node) => Err(Refusal::RequestInvalid(format!("node {node} is not a replica"))),
        None => Ok(nodes.to_vec()),
    }
}

fn outcome(partitions: Vec<PartitionChange>) -> Outcome {
    debug_assert!(partitions.windows(2).all(|pair| pair[0].tp == pair[1].tp), "of one partition");
    match partitions.is_empty() {
        true => Outcome::unchanged(Reply::Done),
        false => Outcome::one(Edit::PartitionsChanged { partitions }, Reply::Done),
    }
}
