//! A broker and its Raft groups: opening and closing them, carrying their messages and syncs, proposals of
//! clients, and peers that are heard. What the product does in `raft/host.rs` and the partition's group.

use std::collections::BTreeSet;

use bytes::Bytes;
use highwater_broker::core::raft_election::Greeting;
use highwater_broker::core::raft_side::ReplicaId;
use highwater_broker::core::replica::GroupRole;
use highwater_broker::raft::{
    Beginning, DrivenStore, OpenError, PartitionPort, TierPoint, forget, keep_group, kept_of,
};
use highwater_coordinator::core::{Partition, RaftGroup, Topic};
use highwater_model::topic_config::Replication;
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::batch::BatchHeader;

use super::Broker;
use super::held::{Held, Proposal};
use crate::checker::Anomaly;
use crate::context::{Context, Event};
use crate::guards::Guard;
use crate::message::{ClientError, Message};
use crate::network::{Address, MILLI, Micros};
use crate::raft::{Env, Group, Out, RaftMessage, Refusal};

const GREETING: Micros = 200 * MILLI;
/// After a disk that fails, an operator restarts the process.
const RESTART: Micros = 300 * MILLI;

impl Broker {
    pub(super) fn group(&self, partition: u32) -> Option<&Group> {
        self.process.as_ref()?.held.get(&partition)?.group.as_ref()
    }

    // --- life of a group ---

    /// The partition is replicated by a group.
    pub(super) fn assign_group(
        &mut self,
        context: &mut Context,
        number: u32,
        topic: &Topic,
        partition: &Partition,
        group: &RaftGroup,
    ) {
        let node = self.node;
        if self.held(number).is_none() {
            let Some(machine) = self.open(context, number, partition) else { return };
            self.process.as_mut().expect("alive").held.insert(number, Held::new(machine));
        }
        if self.group(number).is_some_and(|known| known.since_epoch != group.since_epoch) {
            self.leave_group(context, number);
        }
        let manifest = &partition.manifest;
        let tier = TierPoint {
            manifest_version: manifest.version,
            tiered_end: manifest.tiered_end.max(manifest.log_start),
        };
        self.held(number).expect("held").home.set_tier(tier);
        if self.group(number).is_none()
            && let Err(error) = self.open_group(context, number, partition, group)
        {
            context.note(format_args!("broker {node} p{number}: the group does not open: {error}"));
            self.fails_at.get_or_insert(RESTART);
            return;
        }
        // Whoever led before a newer leader is on record leads no more.
        let held = self.held(number).expect("held");
        if partition.leader_epoch > held.leader_epoch() {
            let leader = partition.leader.filter(|leader| *leader != node);
            held.machine_mut().follow_group(GroupRole { term: partition.leader_epoch, leader, leads: false });
        }
        let is_paused = topic.config.replication == Replication::Fetch;
        let is_on_record = partition.leader_epoch > group.since_epoch;
        self.with_group(context, number, |group, _| {
            group.is_paused = is_paused;
            group.is_on_record |= is_on_record;
        });
    }

    fn open_group(
        &mut self,
        context: &mut Context,
        number: u32,
        partition: &Partition,
        group: &RaftGroup,
    ) -> Result<(), OpenError> {
        let io = OpenError::Io;
        let (disk, since_epoch) = (self.data.disk(number), group.since_epoch);
        let (node, wall_ms) = (self.node, self.wall_ms(context));
        let incarnation = self.chance.below(1 << 31) | 1 << 31;
        let joining = Beginning::Joining { replica: incarnation << 32 | node };
        let is_on_record = partition.leader_epoch > since_epoch;
        let is_kept = kept_of(&disk, since_epoch).map_err(io)?;
        let beginning = match is_kept {
            true => Beginning::Existing,
            false if !is_on_record && group.voters.contains(&node) => first(node, group),
            false => joining.clone(),
        };
        if !is_kept {
            forget(&disk).map_err(io)?;
            keep_group(&disk, since_epoch).map_err(io)?;
        }
        let held = self.held(number).expect("held");
        held.machine_mut().follow_group(GroupRole { term: since_epoch, leader: None, leads: false });
        let home: std::sync::Arc<dyn PartitionPort> = held.home.clone();
        let opened = held.lent(wall_ms, || match DrivenStore::open(&disk, home.clone(), &beginning) {
            Err(OpenError::Lost(_) | OpenError::Side(_) | OpenError::Behind { .. }) => {
                forget(&disk).map_err(io)?;
                keep_group(&disk, since_epoch).map_err(io)?;
                DrivenStore::open(&disk, home, &joining)
            }
            opened => opened,
        });
        let store = opened?;
        held.watched.1 = held.watched.1.min(held.high_watermark());
        held.compared = held.compared.min(held.high_watermark());
        let mut group = Group::new(store, node, number, since_epoch, context.guards);
        group.is_on_record = is_on_record;
        let (me, last, vote) = (group.me, group.store.last(), group.store.vote());
        held.opening = context.id();
        held.flushes = false;
        held.replica_ids.clear();
        held.group = Some(group);
        let how = format!("{beginning:?}: {last:?} {vote:?}");
        context.note(format_args!(
            "broker {node} p{number} opens the group since {since_epoch} as {me:x} {how}"
        ));
        Ok(())
    }

    /// The partition is replicated by fetch again: the group ends, and what it kept goes.
    pub(super) fn leave_group(&mut self, context: &mut Context, number: u32) {
        self.drop_group(context, number);
        if let Some(held) = self.held(number)
            && held.machine().replica().group().is_some()
        {
            held.machine_mut().leave_group();
            context.note(format_args!("broker {} p{number} leaves the group", self.node));
        }
        // After a restart, too: a group of before may have left its files.
        if let Err(error) = forget(&self.data.disk(number)) {
            context.note(format_args!("broker {} p{number}: {error}", self.node));
        }
    }

    /// Who waits for the group does not know what came of it.
    pub(super) fn drop_group(&mut self, context: &mut Context, number: u32) {
        let from = self.address();
        let Some(held) = self.held(number) else { return };
        if held.group.take().is_none() {
            return;
        }
        held.flushes = false;
        for proposal in std::mem::take(&mut held.proposals) {
            let outcome = Err(ClientError::Unknown);
            context.send(from, proposal.client, Message::Produced { id: proposal.id, outcome });
        }
    }

    // --- steps of a group ---

    /// Runs a step of the group with the replica lent to it, and carries out what it asks for.
    pub(super) fn with_group<R>(
        &mut self,
        context: &mut Context,
        partition: u32,
        work: impl FnOnce(&mut Group, Env<'_>) -> R,
    ) -> Option<R> {
        let (now_ms, wall_ms) = (self.now_ms(context), self.wall_ms(context));
        let process = self.process.as_mut()?;
        let (held, peers) = (process.held.get_mut(&partition)?, &process.peers);
        let mut group = held.group.take()?;
        let done = held.lent(wall_ms, || work(&mut group, Env { now_ms, peers }));
        let (outs, failure) = (group.drain(), group.store.failure());
        let role = GroupRole {
            term: LeaderEpoch::try_from(group.term()).expect("runs are short"),
            leader: group.leader_node(),
            leads: group.takes_writes(),
        };
        let before = held.high_watermark();
        held.machine_mut().follow_group(role);
        held.group = Some(group);
        let high_watermark = held.high_watermark();
        if high_watermark > before {
            context.note(format_args!("broker {} p{partition} hw={high_watermark}", self.node));
        }
        for out in outs {
            self.carry_out(context, partition, out);
        }
        if let Some(why) = failure {
            self.group_failed(context, partition, &why);
        }
        self.answer_proposals(context, partition);
        Some(done)
    }

    fn carry_out(&mut self, context: &mut Context, partition: u32, out: Out) {
        let (node, life, from) = (self.node, self.life, self.address());
        let flush_max = context.params.flush_max;
        match out {
            Out::Send { node: to, message } => {
                context.send(from, Address::Broker(to), Message::Raft(message));
            }
            Out::Sync => {
                let delay = self.chance.between(MILLI, flush_max);
                let opening = self.held(partition).expect("held").opening;
                context.after(delay, Event::GroupSync { node, life, partition, opening });
            }
            Out::Flush => {
                let delay = self.chance.between(MILLI, flush_max);
                let held = self.held(partition).expect("held");
                if !std::mem::replace(&mut held.flushes, true) {
                    context.after(delay, Event::Flush { node, life, partition });
                }
            }
            Out::Led { term } => {
                let me = self.group(partition).expect("it works").me;
                context.leads(partition, term, me);
            }
        }
    }

    pub(super) fn group_sync(&mut self, context: &mut Context, partition: u32, opening: u64) {
        if self.held(partition).is_some_and(|held| held.opening == opening) {
            self.with_group(context, partition, |group, env| group.sync(env));
        }
    }

    /// The group's part here has ended: by its disk, or by a defect.
    fn group_failed(&mut self, context: &mut Context, partition: u32, why: &str) {
        if self.data.is_faulty(partition) || context.is_healing && self.fails_at.is_some() {
            self.fails_at.get_or_insert(RESTART);
            return;
        }
        let what = format!("broker {} partition {partition}: {why}", self.node);
        context.find(Anomaly::Defect, what);
    }

    pub(super) fn take_raft(&mut self, context: &mut Context, message: RaftMessage) {
        let partition = message.partition;
        if self.group(partition).is_some_and(|group| group.me == message.to) {
            self.with_group(context, partition, |group, env| group.receive(env, message));
        }
    }

    pub(super) fn tick_group(&mut self, context: &mut Context, partition: u32) {
        self.with_group(context, partition, |group, env| group.tick(env));
    }

    // --- clients ---

    pub(super) fn propose_batch(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        header: &BatchHeader,
        bytes: &Bytes,
    ) -> Result<Option<Offset>, ClientError> {
        let placed = self.with_group(context, partition, |group, env| group.propose(env, header, bytes));
        let placed = placed.ok_or(ClientError::NotLeader)?.map_err(|refusal| match refusal {
            Refusal::NotLeader => ClientError::NotLeader,
            Refusal::OutOfOrder => ClientError::OutOfOrder,
            Refusal::Storage => ClientError::Unknown,
        })?;
        let (term, base_offset, next_offset) = (placed.term, placed.base_offset, placed.next_offset);
        let proposal = Proposal { client, id, term, base_offset, next_offset };
        self.held(partition).expect("held").proposals.push(proposal);
        self.answer_proposals(context, partition);
        Ok(None)
    }

    /// As `RaftGroup::committed`.
    fn answer_proposals(&mut self, context: &mut Context, partition: u32) {
        let from = self.address();
        let Some(held) = self.held(partition) else { return };
        let Some(group) = &held.group else { return };
        let end = held.high_watermark();
        let is_over = |p: &Proposal| group.store.term() != p.term || group.store.failure().is_some();
        let mut answers = Vec::new();
        let mut still = Vec::new();
        for proposal in &held.proposals {
            match end >= proposal.next_offset {
                _ if is_over(proposal) => answers.push((*proposal, Err(ClientError::Unknown))),
                true => answers.push((*proposal, Ok(proposal.base_offset))),
                false if !group.hears_majority() => answers.push((*proposal, Err(ClientError::Unknown))),
                false => still.push(*proposal),
            }
        }
        held.proposals = still;
        for (proposal, outcome) in answers {
            context.send(from, proposal.client, Message::Produced { id: proposal.id, outcome });
        }
    }

    // --- peers ---

    pub(super) fn greet(&mut self, context: &mut Context) {
        let (node, from) = (self.node, self.address());
        let (boot, now_ms) = (self.boot(), self.now_ms(context));
        let Some(process) = &mut self.process else { return };
        let has_groups = process.held.values().any(|held| held.group.is_some());
        if !has_groups || context.now < process.next_greeting {
            return;
        }
        process.next_greeting = context.now + GREETING;
        let others: BTreeSet<u64> = (1..=context.params.brokers).filter(|other| *other != node).collect();
        process.peers.listen(now_ms, &others);
        let said = process.peers.greeting(now_ms, boot);
        for other in others {
            let message = Message::Greeting { node, said: said.clone(), is_answer: false };
            context.send(from, Address::Broker(other), message);
        }
    }

    fn boot(&self) -> u64 {
        self.process.as_ref().map_or(0, |process| process.incarnation.as_u64_pair().0)
    }

    pub(super) fn greeted(&mut self, context: &mut Context, node: u64, said: Greeting, is_answer: bool) {
        let (now_ms, from) = (self.now_ms(context), self.address());
        let peers = &mut self.process.as_mut().expect("alive").peers;
        let was_away = !peers.is_alive(now_ms, node);
        let is_new = peers.heard(now_ms, node, said);
        for partition in self.held_partitions() {
            self.with_group(context, partition, |group, _| {
                if is_new {
                    group.restarted(node);
                }
                if is_new || was_away {
                    group.heard_again(node);
                }
            });
        }
        if !is_answer {
            let peers = &self.process.as_ref().expect("alive").peers;
            let said = peers.greeting(now_ms, self.boot());
            let message = Message::Greeting { node: self.node, said, is_answer: true };
            context.send(from, Address::Broker(node), message);
        }
    }

    pub(super) fn peer_lost(&mut self, node: u64) {
        self.process.as_mut().expect("alive").peers.lost(node);
    }

    /// Of that very group: one of an earlier group would mix two logs.
    pub(super) fn which_replica(&mut self, context: &mut Context, to: Address, number: u32, since: i32) {
        let from = self.address();
        let its = self
            .group(number)
            .filter(|group| group.since_epoch == since || !context.guards.holds(Guard::GroupNamed));
        if let Some(replica) = its.map(|group| group.me) {
            let (partition, since_epoch, node) = (number, since, self.node);
            context.send(from, to, Message::ReplicaIs { partition, since_epoch, node, replica });
        }
    }

    pub(super) fn replica_is(&mut self, partition: u32, since_epoch: i32, node: u64, replica: ReplicaId) {
        if let Some(held) = self.held(partition)
            && held.group.as_ref().is_some_and(|group| group.since_epoch == since_epoch)
        {
            held.replica_ids.insert(node, replica);
        }
    }

    // --- eviction ---

    /// Moves the beginning of the group's log up to what is tiered; below it may be evicted. None without a
    /// group.
    pub(super) fn released_end(&mut self, context: &mut Context, partition: u32) -> Option<Offset> {
        let keeps = context.params.local_segments;
        let evicts_all = self.process.as_ref().is_some_and(|process| process.evicts_all);
        let keeps = if evicts_all { 0 } else { keeps };
        let sealed = self.held(partition)?.log().sealed();
        let newest = sealed.len().checked_sub(keeps + 1).map(|at| sealed[at].end);
        self.release(context, partition, newest.unwrap_or(0))
    }

    /// Has the group let go of what lies below `offset`, as far as it can.
    pub(super) fn release(
        &mut self,
        context: &mut Context,
        partition: u32,
        offset: Offset,
    ) -> Option<Offset> {
        if self.group(partition).is_none() {
            // A group that is not open lets go of nothing.
            let waits = self.held(partition)?.machine().replica().group().is_some();
            return waits.then_some(0);
        }
        if self.group(partition)?.store.released_end() >= offset {
            return Some(self.group(partition)?.store.released_end());
        }
        self.with_group(context, partition, |group, _| {
            if let Ok(Some(upto)) = group.store.releasable(offset)
                && let Err(error) = group.store.purge(upto)
            {
                group.store.fail(&error.to_string());
            }
            group.store.released_end()
        })
    }
}

/// How a first voter begins: with what all of them begin with.
fn first(node: u64, group: &RaftGroup) -> Beginning {
    let replica = |node: u64| (group.since_epoch as u64) << 32 | node;
    Beginning::Group {
        replica: replica(node),
        term: group.since_epoch as u64,
        offset: group.start_offset,
        members: group.voters.iter().map(|voter| (replica(*voter), *voter)).collect(),
    }
}
