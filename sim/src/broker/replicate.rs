//! A broker and its peers: taking over assignments, following leaders, serving followers, flushing.

use std::fmt;

use highwater_broker::core::replica::{Assignment, Member};
use highwater_broker::replica::{AnswerContent, FetchAnswer, FollowerFetch, ReplicaLog, TierEnd};
use highwater_coordinator::core::{ClusterState, Partition, Topic};
use highwater_log::{LogSettings, PartitionLog};
use highwater_model::topic_config::Replication;

use super::Broker;
use super::held::Held;
use crate::context::{Context, Event};
use crate::message::{Message, Metadata};
use crate::network::{Address, MILLI, Micros};

const FETCH_TIMEOUT: Micros = 400 * MILLI;
const ANSWER_BYTES: usize = 8_192;
/// How often what need not be flushed is flushed all the same.
const LAZY_FLUSH: (Micros, Micros) = (100 * MILLI, 400 * MILLI);

/// An answer as the trace shows it.
pub fn brief_answer(answer: &FetchAnswer, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "at {:?} hw={} ", answer.position, answer.high_watermark)?;
    match &answer.content {
        AnswerContent::Records(bytes) => write!(f, "{} B", bytes.len()),
        AnswerContent::Begin(beginning) => write!(f, "begin at {}", beginning.offset),
        other => write!(f, "{other:?}"),
    }
}

fn assignment(context: &Context, state: &ClusterState, topic: &Topic, partition: &Partition) -> Assignment {
    let member = |node: &u64| {
        let broker = state.brokers.get(node);
        Member {
            node_id: *node,
            broker_epoch: broker.map_or(0, |b| b.epoch),
            may_join: broker.is_some_and(|b| b.is_active()),
        }
    };
    Assignment {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.iter().map(member).collect(),
        isr: partition.isr.clone(),
        min_isr: topic.min_isr(partition),
        flush_before_ack: context.params.flush_before_ack,
        lag_ms_max: context.params.replica_lag_ms,
    }
}

impl Broker {
    /// Takes over a newer state of the control plane.
    pub(super) fn adopt(&mut self, context: &mut Context, metadata: Metadata) {
        let process = self.process.as_mut().expect("alive");
        if process.epoch.is_none() || process.metadata.as_ref().is_some_and(|m| m.index >= metadata.index) {
            return;
        }
        let state = metadata.state.clone();
        process.metadata = Some(metadata);
        let Some(topic) = state.topic(context.params.topic_id) else { return };
        for (number, partition) in topic.partitions.iter().enumerate() {
            let number = number as u32;
            if !partition.replicas.contains(&self.node) {
                self.give_up(context, number);
            } else if let Some(group) = &partition.raft {
                self.assign_group(context, number, topic, partition, group);
            } else {
                self.leave_group(context, number);
                let assignment = assignment(context, &state, topic, partition);
                let is_frozen = topic.config.replication == Replication::Raft;
                self.assign(context, number, partition, &assignment, is_frozen);
            }
        }
    }

    /// `is_frozen`: a group is about to take over.
    fn assign(
        &mut self,
        context: &mut Context,
        number: u32,
        partition: &Partition,
        assignment: &Assignment,
        is_frozen: bool,
    ) {
        let now_ms = self.now_ms(context);
        if self.held(number).is_none() {
            let Some(machine) = self.open(context, number, partition) else { return };
            self.process.as_mut().expect("alive").held.insert(number, Held::new(machine));
        }
        let node = self.node;
        let held = self.held(number).expect("just put there");
        held.machine_mut().set_frozen(is_frozen);
        let assigned = held.machine_mut().set_assignment(now_ms, assignment);
        if assigned.is_old {
            return;
        }
        if assigned.is_new_epoch {
            held.fetch = None;
            held.next_fetch = 0;
            held.machine_mut().log_mut().forget_verifications();
            let (role, end) = (held.machine().role(), held.log().log_end());
            let epoch = assignment.leader_epoch;
            context.note(format_args!("broker {node} p{number} epoch {epoch} {role:?} end={end}"));
        }
        self.moved(context, number, assigned.moves);
        self.answer_waiting(context, number);
    }

    /// Opens the partition's log; a disk that fails is tried again with the next state.
    pub(super) fn open(
        &mut self,
        context: &mut Context,
        number: u32,
        partition: &Partition,
    ) -> Option<ReplicaLog> {
        let settings = LogSettings { segment_bytes: context.params.segment_bytes, ..LogSettings::default() };
        let wall_ms = self.wall_ms(context);
        let disk = self.data.disk(number);
        let (log, report) = match PartitionLog::open_on(disk, settings, wall_ms) {
            Ok(opened) => opened,
            Err(error) => {
                context.note(format_args!("broker {} p{number} does not open: {error}", self.node));
                return None;
            }
        };
        let (start, end) = (log.local_start(), log.log_end());
        context.note(format_args!("broker {} p{number} opens {start}..{end}: {report:?}", self.node));
        let manifest = &partition.manifest;
        let tier = TierEnd { offset: manifest.tiered_end, epoch: manifest.epochs.last().map(|e| e.epoch) };
        let mut machine = ReplicaLog::new(self.node, log, tier);
        machine.set_guards(context.guards.of_replica());
        Some(machine)
    }

    /// The partition was moved away.
    fn give_up(&mut self, context: &mut Context, number: u32) {
        self.drop_group(context, number);
        let process = self.process.as_mut().expect("alive");
        let from = Address::Broker(self.node);
        if let Some(held) = process.held.remove(&number) {
            context.note(format_args!("{from:?} p{number} is given up"));
            for waiting in held.waiting {
                let outcome = Err(crate::message::ClientError::Unknown);
                context.send(from, waiting.client, Message::Produced { id: waiting.id, outcome });
            }
        }
        self.data.remove(number);
    }

    // --- the follower's half ---

    pub(super) fn fetch_from_leader(&mut self, context: &mut Context, partition: u32) {
        let from = self.address();
        let Some(process) = &mut self.process else { return };
        let (Some(broker_epoch), now) = (process.epoch, context.now) else { return };
        let Some(held) = process.held.get_mut(&partition) else { return };
        let is_waiting = held.fetch.is_some_and(|(_, at)| now < at + FETCH_TIMEOUT);
        if is_waiting || now < held.next_fetch || held.log().refusal().is_some() {
            return;
        }
        let (Some(leader), Some(fetch)) = (held.leader(), held.machine().next_fetch(broker_epoch)) else {
            return;
        };
        let id = context.id();
        held.fetch = Some((id, now));
        context.send(from, Address::Broker(leader), Message::ReplicaFetch { id, partition, fetch });
    }

    /// Every answer goes to the replica, late and doubled ones too: it knows which it has asked for.
    pub(super) fn take_answer(
        &mut self,
        context: &mut Context,
        id: u64,
        partition: u32,
        answer: FetchAnswer,
    ) {
        let now_ms = self.now_ms(context);
        let idle = self.chance.between(10, 60) * MILLI;
        let node = self.node;
        let Some(held) = self.held(partition) else { return };
        if held.fetch.is_some_and(|(asked, _)| asked == id) {
            held.fetch = None;
        }
        // What consumers may have read here. A replica that has evicted all of it by what another leader put
        // into the tier has shown them nothing, whatever it is cut to.
        let was_readable = held.log().local_start()..held.high_watermark();
        let mut pause = idle;
        match held.machine_mut().take_answer(now_ms, &answer) {
            Ok(taken) => {
                if taken.truncated.is_some() || taken.began_at.is_some() || taken.damage_cut {
                    context.note(format_args!("broker {node} p{partition} {taken:?}"));
                }
                // Begun anew, it knows less than it did, and shows less.
                held.watched.1 = taken.began_at.unwrap_or(held.watched.1);
                if let Some(truncation) = taken.truncated
                    && truncation.is_below_high_watermark
                {
                    held.watched.1 = truncation.to;
                    if !was_readable.is_empty() {
                        let what = format!("broker {node} partition {partition}: {truncation:?}");
                        context.find(crate::checker::Anomaly::WentBack, what);
                    }
                }
                if taken.appended_batches > 0 || taken.truncated.is_some() || taken.began_at.is_some() {
                    pause = 0;
                }
                self.moved(context, partition, taken.moves);
                self.flush_soon(context, partition);
            }
            Err(error) => context.note(format_args!("broker {node} p{partition} does not take it: {error}")),
        }
        let Some(held) = self.held(partition) else { return };
        held.next_fetch = context.now + pause;
        self.fetch_from_leader(context, partition);
    }

    // --- the leader's half ---

    pub(super) fn serve_replica(
        &mut self,
        context: &mut Context,
        to: Address,
        id: u64,
        partition: u32,
        fetch: FollowerFetch,
    ) {
        let now_ms = self.now_ms(context);
        let from = self.address();
        let tp = context.params.tp(partition);
        let Some(process) = &mut self.process else { return };
        let manifest = process.metadata.as_ref().and_then(|m| m.state.manifest(tp));
        let tiered_end = manifest.map_or(0, |m| m.tiered_end);
        let Some(held) = process.held.get_mut(&partition) else { return };
        let mut served = held.machine_mut().serve_fetch(now_ms, &fetch, tiered_end, ANSWER_BYTES);
        let moves = std::mem::take(&mut served.moves);
        let answer = served.into_answer().expect("memory files can be read");
        context.send(from, to, Message::ReplicaAnswer { id, partition, answer });
        self.moved(context, partition, moves);
    }

    // --- flushing ---

    /// Draws a flush that reaches the disk after a while, if there is something to flush.
    pub(super) fn flush_soon(&mut self, context: &mut Context, partition: u32) {
        let (node, life) = (self.node, self.life);
        let soon = self.chance.between(MILLI, context.params.flush_max);
        let lazy = self.chance.between(LAZY_FLUSH.0, LAZY_FLUSH.1);
        let delay = if context.params.flush_before_ack { soon } else { lazy };
        let Some(held) = self.held(partition) else { return };
        let is_dirty = held.log().flushed_end() < held.log().log_end() && held.group.is_none();
        if is_dirty && !held.flushes && held.log().refusal().is_none() {
            held.flushes = true;
            context.after(delay, Event::Flush { node, life, partition });
        }
    }

    pub(super) fn flush_if_due(&mut self, context: &mut Context, partition: u32) {
        self.flush_soon(context, partition);
    }

    pub(super) fn flush(&mut self, context: &mut Context, partition: u32) {
        let now_ms = self.now_ms(context);
        let node = self.node;
        let Some(held) = self.held(partition) else { return };
        held.flushes = false;
        if held.group.is_some() {
            self.with_group(context, partition, |group, env| group.flush(env));
            return;
        }
        match held.log().flush_ticket().run() {
            Ok(done) => {
                let moves = held.machine_mut().flushed(now_ms, done);
                self.moved(context, partition, moves);
                // A follower tells its leader that it is on the disk.
                if let Some(held) = self.held(partition) {
                    held.next_fetch = 0;
                }
                self.fetch_from_leader(context, partition);
            }
            Err(error) => context.note(format_args!("broker {node} p{partition} flush: {error}")),
        }
    }
}
