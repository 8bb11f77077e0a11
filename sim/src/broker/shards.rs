//! A broker's shards: the group and the transactions that it coordinates while it leads their partitions. The
//! product's cores decide; here stands what its tasks do around them (`broker/src/shards`): read the log when
//! leadership comes, append, hold answers back until what they rest on is committed, give up when leadership
//! or an append is lost.

mod groups;
mod transactions;
mod writes;

use std::collections::BTreeMap;

use bytes::Bytes;
use highwater_broker::core::replica::{AckState, AckTicket, LeaderRefusal};
use highwater_broker::replica::{AppendRefusal, LeaderAppended, Origin};
use highwater_groups::core::types::Millis;
use highwater_log::PartitionLog;
use highwater_model::{LeaderEpoch, Offset, ProducerId};
use highwater_wire::batch::BatchHeader;
use highwater_wire::{BatchBuilder, Batches, Codec, Control, HEADER_BYTES, Records, TimestampType};

use super::Broker;
use crate::context::Context;
use crate::exactly::{Between, OFFSETS, TRANSACTIONS, Told};
use crate::guards::Guard;
use crate::message::{Message, Metadata};
use crate::network::{Address, Micros, SECOND};

use groups::GroupShard;
use transactions::TxnShard;
use writes::Asking;

/// A call to another broker that was not answered.
const CALL_TIMEOUT: Micros = SECOND;
/// Clocks of shards begin here, so that no jump of a wall clock makes them negative.
const CLOCK_BASE: Millis = 1_000_000_000;

/// An answer that leaves when what it says is committed.
struct Outgoing {
    partition: u32,
    ticket: AckTicket,
    to: Address,
    message: Message,
    otherwise: Message,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Shards {
    groups: Option<GroupShard>,
    transactions: Option<TxnShard>,
    /// Where each log ended when it was to be read: what lies below must be committed first.
    begins: BTreeMap<u32, (LeaderEpoch, Offset)>,
    outbox: Vec<Outgoing>,
    asking: BTreeMap<u64, Asking>,
}

impl Shards {
    fn epoch_of(&self, partition: u32) -> Option<LeaderEpoch> {
        match partition {
            OFFSETS => self.groups.as_ref().map(|shard| shard.epoch),
            _ => self.transactions.as_ref().map(|shard| shard.epoch),
        }
    }

    /// Who waits there asks again.
    fn give_up(&mut self, partition: u32) {
        self.begins.remove(&partition);
        match partition {
            OFFSETS => self.groups = None,
            _ => self.transactions = None,
        }
    }
}

/// One step of reading a shard's log.
enum Item<'a> {
    Record { producer: Option<ProducerId>, key: &'a [u8], value: Option<&'a [u8]> },
    End { producer: ProducerId, is_commit: bool },
}

/// Everything in `0..end`, in order.
fn read_log(log: &PartitionLog, end: Offset, mut take: impl FnMut(Item<'_>)) {
    let mut next = log.local_start();
    while next < end {
        let read = log.read(next, 1 << 20, end, true).expect("what is local can be read");
        assert!(!read.slices.is_empty(), "a high watermark is where a batch ends");
        for slice in read.slices {
            let bytes = slice.read().expect("memory files can be read");
            for item in Batches::new(&bytes) {
                let (header, batch) = item.expect("whole batches");
                next = header.next_offset();
                take_batch(&header, batch, &mut take);
            }
        }
    }
}

fn take_batch(header: &BatchHeader, batch: &[u8], take: &mut impl FnMut(Item<'_>)) {
    if header.is_control() {
        if let Control::End(end) = highwater_wire::read_control(header, batch).expect("own markers") {
            take(Item::End { producer: header.producer_id, is_commit: end.commit });
        }
        return;
    }
    let producer = header.is_transactional().then_some(header.producer_id);
    let mut records = Records::new(&batch[HEADER_BYTES..], header.record_count);
    while let Some(record) = records.next().expect("own records") {
        take(Item::Record { producer, key: record.key.expect("a key"), value: record.value });
    }
}

/// Records as one batch, as the product's shards write them.
fn encode(
    records: impl Iterator<Item = (Bytes, Option<Bytes>)>,
    transaction: Option<(ProducerId, i16)>,
    now_ms: i64,
) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some((producer_id, epoch)) = transaction {
        builder = builder.producer(producer_id, epoch, -1).attributes(TimestampType::CreateTime, true, false);
    }
    for (key, value) in records {
        builder.push(now_ms, Some(&key), value.as_deref(), &[]);
    }
    let bytes = builder.build();
    (BatchHeader::parse(&bytes).expect("own batch"), bytes)
}

impl Broker {
    /// Shards follow leadership, their timers and their logs.
    pub(super) fn tick_shards(&mut self, context: &mut Context) {
        if context.params.workers == 0 {
            return;
        }
        for partition in [OFFSETS, TRANSACTIONS] {
            self.follow_shard(context, partition);
        }
        self.settle_shards(context);
        self.tick_groups(context);
        self.tick_transactions(context);
        self.time_out_asking(context);
    }

    fn follow_shard(&mut self, context: &mut Context, partition: u32) {
        let Some(process) = &mut self.process else { return };
        let held = process.held.get(&partition).filter(|held| held.leads());
        let Some(held) = held else { return process.shards.give_up(partition) };
        let (epoch, end) = (held.leader_epoch(), held.log().log_end());
        if process.shards.epoch_of(partition) == Some(epoch) {
            return;
        }
        let high_watermark = held.high_watermark();
        let begin = process.shards.begins.get(&partition).filter(|(known, _)| *known == epoch).copied();
        process.shards.give_up(partition);
        let (_, until) = begin.unwrap_or((epoch, end));
        process.shards.begins.insert(partition, (epoch, until));
        if high_watermark >= until {
            context
                .note(format_args!("broker {} p{partition} loads its shard to {high_watermark}", self.node));
            match partition {
                OFFSETS => self.load_groups(context, epoch),
                _ => self.load_transactions(context, epoch),
            }
        }
    }

    /// Whom this broker takes for a partition's leader.
    fn leader_of(&self, context: &Context, partition: u32) -> Option<u64> {
        let metadata: &Metadata = self.process.as_ref()?.metadata.as_ref()?;
        metadata.state.partition(context.params.tp(partition))?.leader
    }

    /// Appends as the leader, in no other leader epoch than `epoch` if one is given.
    fn append_in(
        &mut self,
        context: &mut Context,
        partition: u32,
        epoch: Option<LeaderEpoch>,
        batch: (&BatchHeader, &Bytes),
        origin: Origin,
    ) -> Result<LeaderAppended, AppendRefusal> {
        let now_ms = self.now_ms(context);
        let is_unguarded =
            matches!(origin, Origin::Marker { .. }) && !context.guards.holds(Guard::MarkerEpoch);
        let guards = context.guards.of_replica();
        let not_leader = || AppendRefusal::Leader(LeaderRefusal::NotLeader);
        let held = self.held(partition).ok_or_else(not_leader)?;
        if epoch.is_some_and(|epoch| held.leader_epoch() != epoch) {
            return Err(not_leader());
        }
        let machine = held.machine_mut();
        if is_unguarded {
            machine.set_guards(highwater_broker::replica::Guards { sequence_check: false, ..guards });
        }
        let appended = machine.append_from(batch.0, batch.1, origin, true, now_ms);
        machine.set_guards(guards);
        let mut appended = appended?;
        self.moved(context, partition, std::mem::take(&mut appended.moves));
        self.flush_soon(context, partition);
        Ok(appended)
    }

    /// What became of what waits for commits.
    pub(super) fn settle_shards(&mut self, context: &mut Context) {
        let from = self.address();
        let is_told_early = !context.guards.holds(Guard::CommitBeforeAnswer);
        let Some(process) = &mut self.process else { return };
        let (held, shards) = (&process.held, &mut process.shards);
        let ack = |partition: u32, ticket: &AckTicket| match held.get(&partition) {
            Some(_) if is_told_early => AckState::Committed,
            Some(held) => held.machine().ack(ticket),
            None => AckState::NotLeader,
        };
        let mut out = Vec::new();
        shards.outbox.retain(|waits| {
            let message = match ack(waits.partition, &waits.ticket) {
                AckState::Waiting => return true,
                AckState::Committed => &waits.message,
                AckState::Unproven | AckState::NotLeader => &waits.otherwise,
            };
            out.push((waits.to, message.clone()));
            false
        });
        let mut is_lost = false;
        if let Some(shard) = &mut shards.groups {
            while let Some((ticket, _)) = shard.queue.front() {
                match ack(OFFSETS, ticket) {
                    AckState::Waiting => break,
                    AckState::Committed => out.extend(shard.queue.pop_front().expect("looked at").1),
                    AckState::Unproven | AckState::NotLeader => {
                        is_lost = true;
                        break;
                    }
                }
            }
        }
        if is_lost {
            shards.give_up(OFFSETS);
        }
        let (mut written, mut is_lost) = (Vec::new(), false);
        if let Some(shard) = &mut shards.transactions {
            while let Some((ticket, write)) = shard.queue.front() {
                match ack(TRANSACTIONS, ticket) {
                    AckState::Waiting => break,
                    AckState::Committed => written.push(*write),
                    AckState::Unproven | AckState::NotLeader => {
                        is_lost = true;
                        break;
                    }
                }
                shard.queue.pop_front();
            }
        }
        if is_lost {
            shards.give_up(TRANSACTIONS);
        }
        for (to, message) in out {
            context.send(from, to, message);
        }
        for write in written {
            self.with_transactions(context, |core, now, effects| core.appended(now, write, Ok(()), effects));
        }
    }

    pub(super) fn take_between(&mut self, context: &mut Context, from: Address, between: Between) {
        match between {
            Between::Add { id, asked } => self.add_partitions(context, from, id, &asked),
            Between::Added { id, outcome } => self.added(context, id, outcome),
            Between::Mark(markers) => self.write_marker(context, from, &markers),
            Between::Marked(answer) => self.marked(context, &answer),
        }
    }

    fn tell(&self, context: &mut Context, to: Address, id: u64, told: Told) {
        context.send(self.address(), to, Message::Told { id, told });
    }
}
