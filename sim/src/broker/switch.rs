//! What a partition's leader tells the control plane of its group, whom it votes in and out, and how the
//! partition goes from one replication to the other. Every step is looked at anew at each tick and asked for
//! until the control plane's state shows it.

use std::collections::{BTreeMap, BTreeSet};

use highwater_broker::core::raft_side::ReplicaId;
use highwater_coordinator::core::{Command, Partition, RaftLeader};
use highwater_model::topic_config::Replication;
use highwater_model::{LeaderEpoch, NodeId};

use super::Broker;
use super::calls::Purpose;
use crate::context::Context;
use crate::guards::Guard;
use crate::message::Message;
use crate::network::{Address, MILLI, Micros};

const REPORT: Micros = 300 * MILLI;
const ASK: Micros = 300 * MILLI;

/// What a step is decided by.
struct Known {
    partition: Partition,
    wanted: Replication,
    broker_epoch: u64,
}

impl Broker {
    fn known(&self, context: &Context, number: u32) -> Option<Known> {
        let process = self.process.as_ref()?;
        let state = &process.metadata.as_ref()?.state;
        let topic = state.topic(context.params.topic_id)?;
        let partition = topic.partition(number as i32)?;
        Some(Known {
            partition: (**partition).clone(),
            wanted: topic.config.replication,
            broker_epoch: process.epoch?,
        })
    }

    pub(super) fn tick_switch(&mut self, context: &mut Context, number: u32) {
        let Some(known) = self.known(context, number) else { return };
        match self.group(number).map(|group| group.leads()) {
            None => self.hand_over(context, number, &known),
            Some(false) => {}
            Some(true) => {
                self.report(context, number, &known);
                self.move_members(context, number, &known);
                self.hand_back(context, number, &known);
            }
        }
    }

    /// Whether a report is due; it is made then.
    pub(super) fn may_report(&mut self, context: &Context, number: u32) -> bool {
        let Some(held) = self.held(number).filter(|held| context.now >= held.next_report) else {
            return false;
        };
        held.next_report = context.now + REPORT;
        true
    }

    // --- leadership ---

    fn report(&mut self, context: &mut Context, number: u32, known: &Known) {
        let Some(group) = self.group(number) else { return };
        let (term, partition) = (group.term(), &known.partition);
        let as_set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
        let voters = group.voters().unwrap_or_default();
        let stays: Vec<NodeId> =
            partition.replicas.iter().copied().filter(|node| !partition.removing.contains(node)).collect();
        let may_go = !partition.removing.is_empty() && as_set(&voters) == as_set(&stays);
        let is_known = !may_go
            && partition.leader == Some(self.node)
            && i64::from(partition.leader_epoch) == term as i64
            && (voters.is_empty() || as_set(&voters) == as_set(&partition.isr));
        if is_known && group.is_on_record || !self.may_report(context, number) {
            return;
        }
        let report = RaftLeader {
            tp: context.params.tp(number),
            node_id: self.node,
            broker_epoch: known.broker_epoch,
            term: LeaderEpoch::try_from(term).expect("runs are short"),
            voters,
            partition_epoch: Some(partition.partition_epoch),
        };
        self.propose(context, Purpose::Led { partition: number, term }, Command::RaftLeader(report));
    }

    pub(super) fn led(&mut self, number: u32, term: u64, is_taken: bool) {
        if let Some(held) = self.held(number)
            && let Some(group) = &mut held.group
            && group.term() == term
        {
            group.is_on_record |= is_taken;
        }
    }

    // --- members ---

    fn move_members(&mut self, context: &mut Context, number: u32, known: &Known) {
        let partition = &known.partition;
        let stays = |node: &&NodeId| !partition.removing.contains(node);
        let nodes: Vec<NodeId> = partition.replicas.iter().filter(stays).copied().collect();
        self.ask_replicas(context, number, &nodes);
        let ends = known.wanted == Replication::Fetch && context.guards.holds(Guard::EndMark);
        let Some(held) = self.process.as_ref().and_then(|p| p.held.get(&number)) else { return };
        let Some(group) = &held.group else { return };
        let members = group.members();
        let in_group = |node: NodeId| {
            let votes = |replica: &ReplicaId| members.voters.iter().any(|set| set.contains(replica));
            members.nodes.iter().find(|(id, on)| **on == node && votes(id)).map(|(id, _)| *id)
        };
        let replica_of = |node: NodeId| match node == self.node {
            true => Some(group.me),
            false => held.replica_ids.get(&node).copied().or_else(|| in_group(node)),
        };
        let target: Option<BTreeMap<ReplicaId, NodeId>> =
            nodes.iter().map(|node| Some((replica_of(*node)?, *node))).collect();
        // Who is not known yet keeps things as they are.
        let voters = || members.voters.last().into_iter().flatten();
        let same = || voters().filter_map(|id| Some((*id, *members.nodes.get(id)?))).collect();
        let is_recorded =
            partition.leader == Some(self.node) && partition.leader_epoch as u64 == group.term();
        let Some(wished) = group.wished(&target.unwrap_or_else(same), ends, is_recorded) else { return };
        context.note(format_args!("broker {} p{number} wishes for {wished:?}", self.node));
        self.with_group(context, number, |group, env| group.change(env, wished));
    }

    fn ask_replicas(&mut self, context: &mut Context, number: u32, nodes: &[NodeId]) {
        let (node, from) = (self.node, self.address());
        let Some(held) = self.held(number).filter(|held| context.now >= held.next_ask) else { return };
        held.next_ask = context.now + ASK;
        let Some(group) = &held.group else { return };
        let since_epoch = group.since_epoch;
        for other in nodes.iter().filter(|other| **other != node) {
            let message = Message::WhichReplica { partition: number, since_epoch };
            context.send(from, Address::Broker(*other), message);
        }
    }

    // --- from one replication to the other ---

    /// From fetch to a group: all in sync have the same, and the leader has stopped.
    fn hand_over(&mut self, context: &mut Context, number: u32, known: &Known) {
        let Some(held) = self.held(number).filter(|held| held.leads()) else { return };
        let Some(ready) = held.machine().hand_over().filter(|_| known.wanted == Replication::Raft) else {
            return;
        };
        if known.partition.raft.is_some() || !self.may_report(context, number) {
            return;
        }
        let command = Command::RaftBegin {
            tp: context.params.tp(number),
            node_id: self.node,
            broker_epoch: known.broker_epoch,
            leader_epoch: ready.leader_epoch,
            partition_epoch: ready.partition_epoch,
            start_offset: ready.offset,
        };
        self.propose(context, Purpose::Switch, command);
    }

    /// From a group to fetch: its end is marked and committed, and so is everything before.
    fn hand_back(&mut self, context: &mut Context, number: u32, known: &Known) {
        let Some(group) = self.group(number) else { return };
        let since_epoch = known.partition.raft.as_ref().map(|raft| raft.since_epoch);
        if known.wanted != Replication::Fetch || since_epoch != Some(group.since_epoch) {
            return;
        }
        let term = LeaderEpoch::try_from(group.term()).expect("runs are short");
        let Some(isr) = group.ended() else { return };
        let held = self.held(number).expect("it has a group");
        if held.high_watermark() != held.log().log_end() || !self.may_report(context, number) {
            return;
        }
        let command = Command::RaftEnd {
            tp: context.params.tp(number),
            node_id: self.node,
            broker_epoch: known.broker_epoch,
            term,
            partition_epoch: known.partition.partition_epoch,
            isr,
        };
        self.propose(context, Purpose::Switch, command);
    }
}
