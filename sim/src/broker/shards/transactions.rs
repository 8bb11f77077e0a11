//! The shard of `__transaction_state`: what producers and leaders of partitions ask of it, its records, and
//! its markers on their way.

use std::collections::{BTreeMap, VecDeque};

use highwater_broker::core::replica::{AckTicket, LeaderRefusal};
use highwater_broker::replica::{AppendRefusal, Origin};
use highwater_groups::core::txn::{
    AddPartitions, AppendFailure, Coordinator, Effect, EndTxn, InitProducerId, Loader, MarkerAnswer,
    MarkerOutcome, Markers, Reply, RequestId, TxnError, TxnPartition, TxnSettings, WriteId,
};
use highwater_groups::core::types::{Millis, Name};
use highwater_log::SequenceRefusal;
use highwater_model::LeaderEpoch;
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::{EndMarker, marker_batch};

use super::{Broker, CALL_TIMEOUT, CLOCK_BASE, Item, Outgoing, encode, read_log};
use crate::context::Context;
use crate::exactly::{Between, OFFSETS, TRANSACTIONS, Told, place_of};
use crate::message::Message;
use crate::network::{Address, Micros};

/// Producer ids of transactions begin here; those of others are far below.
const PRODUCER_IDS: i64 = 1 << 40;

/// Who waits for a reply.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Client(Address, u64),
    Leader(Address, u64),
}

/// See the module's text.
pub(super) struct TxnShard {
    pub epoch: LeaderEpoch,
    core: Coordinator,
    clock_ms: i64,
    asked: BTreeMap<RequestId, Asker>,
    pub queue: VecDeque<(AckTicket, WriteId)>,
    /// Markers that were sent and not answered.
    sent: BTreeMap<(WriteId, TxnPartition), (Micros, Name)>,
}

/// What became of the one marker in `markers`.
pub(super) fn answer_of(markers: &Markers, outcome: MarkerOutcome) -> MarkerAnswer {
    MarkerAnswer {
        round: markers.round,
        coordinator_epoch: markers.coordinator_epoch,
        transactional_id: markers.transactional_id.clone(),
        outcomes: markers.partitions.iter().map(|at| (at.clone(), outcome)).collect(),
    }
}

fn failure_of(refusal: &AppendRefusal) -> AppendFailure {
    match refusal {
        AppendRefusal::Leader(LeaderRefusal::NotEnoughReplicas { .. }) | AppendRefusal::Log(_) => {
            AppendFailure::Unavailable
        }
        AppendRefusal::Leader(_) => AppendFailure::NotLeader,
        AppendRefusal::Sequence(_) => AppendFailure::Refused,
    }
}

impl Broker {
    pub(super) fn load_transactions(&mut self, context: &mut Context, epoch: LeaderEpoch) {
        let (now_ms, clock_ms) = (self.now_ms(context), CLOCK_BASE + self.skew_ms);
        let process = self.process.as_mut().expect("alive");
        let held = &process.held[&TRANSACTIONS];
        let mut loader = Loader::default();
        read_log(held.log(), held.high_watermark(), |item| match item {
            Item::Record { key, value, .. } => loader.take(key, value).expect("own records"),
            Item::End { .. } => unreachable!("no transaction writes here"),
        });
        let mut effects = Vec::new();
        let core = loader.finish(TxnSettings::default(), epoch, now_ms + clock_ms, &mut effects);
        let (asked, queue, sent) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        let shard = TxnShard { epoch, core, clock_ms, asked, queue, sent };
        self.carry_out_transactions(context, shard, effects);
    }

    pub(super) fn tick_transactions(&mut self, context: &mut Context) {
        let (now_ms, now) = (self.now_ms(context), context.now);
        let process = self.process.as_mut().expect("alive");
        let Some(shard) = &mut process.shards.transactions else { return };
        let is_late = |at: &Micros| now >= at + CALL_TIMEOUT;
        let late: Vec<_> = shard.sent.iter().filter(|(_, (at, _))| is_late(at)).collect();
        let epoch = shard.core.coordinator_epoch();
        let answers: Vec<MarkerAnswer> = late
            .into_iter()
            .map(|((round, at), (_, id))| MarkerAnswer {
                round: *round,
                coordinator_epoch: epoch,
                transactional_id: id.clone(),
                outcomes: vec![(at.clone(), MarkerOutcome::Retry)],
            })
            .collect();
        let is_due = shard.core.next_due().is_some_and(|due| due <= now_ms + shard.clock_ms);
        for answer in &answers {
            self.marked(context, answer);
        }
        if is_due {
            self.with_transactions(context, |core, now, effects| core.tick(now, effects));
        }
    }

    /// A step of the coordinator, and what comes of it.
    pub(super) fn with_transactions(
        &mut self,
        context: &mut Context,
        step: impl FnOnce(&mut Coordinator, Millis, &mut Vec<Effect>),
    ) {
        let now_ms = self.now_ms(context);
        let process = self.process.as_mut().expect("alive");
        let Some(mut shard) = process.shards.transactions.take() else { return };
        let mut effects = Vec::new();
        step(&mut shard.core, now_ms + shard.clock_ms, &mut effects);
        self.carry_out_transactions(context, shard, effects);
    }

    fn carry_out_transactions(&mut self, context: &mut Context, mut shard: TxnShard, effects: Vec<Effect>) {
        let now_ms = self.now_ms(context);
        let mut work = VecDeque::from(effects);
        while let Some(effect) = work.pop_front() {
            match effect {
                Effect::Append { write, record } => {
                    let records = std::iter::once((record.key, record.value));
                    let batch = encode(records, None, self.wall_ms(context));
                    let (epoch, origin) = (Some(shard.epoch), Origin::Coordinator(None));
                    match self.append_in(context, TRANSACTIONS, epoch, (&batch.0, &batch.1), origin) {
                        Ok(appended) => shard.queue.push_back((appended.ticket, write)),
                        Err(refusal) => {
                            let (mut more, failure) = (Vec::new(), Err(failure_of(&refusal)));
                            shard.core.appended(now_ms + shard.clock_ms, write, failure, &mut more);
                            work.extend(more);
                        }
                    }
                }
                Effect::Reply { request, reply } => {
                    if let Some(asker) = shard.asked.remove(&request) {
                        self.reply(context, asker, reply);
                    }
                }
                Effect::Mark(markers) => self.send_markers(context, &mut shard, &markers),
            }
        }
        if shard.core.is_fenced() {
            context.note(format_args!("broker {} drops its transactions: fenced", self.node));
            return self.process.as_mut().expect("alive").shards.give_up(TRANSACTIONS);
        }
        self.process.as_mut().expect("alive").shards.transactions = Some(shard);
        if !context.guards.holds(crate::guards::Guard::CommitBeforeAnswer) {
            self.settle_shards(context);
        }
    }

    fn reply(&self, context: &mut Context, asker: Asker, reply: Reply) {
        match (asker, reply) {
            (Asker::Client(to, id), Reply::InitProducerId(told)) => {
                self.tell(context, to, id, Told::Init(told));
            }
            (Asker::Client(to, id), Reply::EndTxn(told)) => self.tell(context, to, id, Told::Ended(told)),
            (Asker::Leader(to, id), Reply::AddPartitions(outcome)) => {
                let message = Message::Between(Between::Added { id, outcome });
                context.send(self.address(), to, message);
            }
            (asker, reply) => unreachable!("{asker:?} did not ask for {reply:?}"),
        }
    }

    // --- requests ---

    fn asked(&mut self, context: &mut Context, asker: Asker) -> Option<RequestId> {
        let request = context.id();
        let shard = self.process.as_mut()?.shards.transactions.as_mut()?;
        shard.asked.insert(request, asker);
        Some(request)
    }

    pub(super) fn init_producer_id(
        &mut self,
        context: &mut Context,
        from: Address,
        id: u64,
        asked: &InitProducerId,
    ) {
        let Some(request) = self.asked(context, Asker::Client(from, id)) else {
            return self.tell(context, from, id, Told::Init(Err(TxnError::NotCoordinator)));
        };
        let mut fresh = || Some(PRODUCER_IDS + request as i64);
        self.with_transactions(context, |core, now, effects| {
            core.init_producer_id(now, request, asked, &mut fresh, effects);
        });
    }

    pub(super) fn end_transaction(&mut self, context: &mut Context, from: Address, id: u64, asked: &EndTxn) {
        let Some(request) = self.asked(context, Asker::Client(from, id)) else {
            return self.tell(context, from, id, Told::Ended(Err(TxnError::NotCoordinator)));
        };
        let mut fresh = || Some(PRODUCER_IDS + request as i64);
        self.with_transactions(context, |core, now, effects| {
            core.end_txn(now, request, asked, &mut fresh, effects);
        });
    }

    pub(super) fn add_partitions(
        &mut self,
        context: &mut Context,
        from: Address,
        id: u64,
        asked: &AddPartitions,
    ) {
        let Some(request) = self.asked(context, Asker::Leader(from, id)) else {
            let outcome = Err(TxnError::NotCoordinator);
            let message = Message::Between(Between::Added { id, outcome });
            return context.send(self.address(), from, message);
        };
        self.with_transactions(context, |core, now, effects| {
            core.add_partitions(now, request, asked, effects);
        });
    }

    // --- markers ---

    /// One message for each partition; where nobody leads it is tried again.
    fn send_markers(&mut self, context: &mut Context, shard: &mut TxnShard, markers: &Markers) {
        for at in &markers.partitions {
            let key = (markers.round, at.clone());
            let leader = self.leader_of(context, place_of(at));
            shard.sent.insert(key, (context.now, markers.transactional_id.clone()));
            if let Some(leader) = leader {
                let one = Markers { partitions: vec![at.clone()], ..markers.clone() };
                let message = Message::Between(Between::Mark(one));
                context.send(self.address(), Address::Broker(leader), message);
            }
        }
    }

    pub(super) fn marked(&mut self, context: &mut Context, answer: &MarkerAnswer) {
        if let Some(shard) = self.process.as_mut().and_then(|p| p.shards.transactions.as_mut()) {
            for (at, _) in &answer.outcomes {
                shard.sent.remove(&(answer.round, at.clone()));
            }
        }
        self.with_transactions(context, |core, now, effects| core.marked(now, answer, effects));
    }

    pub(super) fn write_marker(&mut self, context: &mut Context, from: Address, markers: &Markers) {
        let partition = place_of(&markers.partitions[0]);
        if partition == OFFSETS {
            return self.end_in_groups(context, from, markers);
        }
        let end = EndMarker { commit: markers.commit, coordinator_epoch: markers.coordinator_epoch };
        let producer = markers.producer;
        let bytes = marker_batch(producer.id, producer.epoch, end, self.wall_ms(context));
        let header = BatchHeader::parse(&bytes).expect("own marker");
        let origin = Origin::Marker { end, bumps_epoch: markers.bumps_epoch };
        let marked = |outcome| Message::Between(Between::Marked(answer_of(markers, outcome)));
        let outcome = match self.append_in(context, partition, None, (&header, &bytes), origin) {
            Ok(appended) => {
                let is_past = appended.duplicate_of.is_some();
                let told = if is_past { MarkerOutcome::StaleEpoch } else { MarkerOutcome::Written };
                let (message, otherwise) = (marked(told), marked(MarkerOutcome::Retry));
                let ticket = appended.ticket;
                let waits = Outgoing { partition, ticket, to: from, message, otherwise };
                self.process.as_mut().expect("alive").shards.outbox.push(waits);
                return self.settle_shards(context);
            }
            Err(AppendRefusal::Sequence(SequenceRefusal::CoordinatorFenced { .. })) => {
                MarkerOutcome::CoordinatorFenced
            }
            Err(_) => MarkerOutcome::Retry,
        };
        context.send(self.address(), from, marked(outcome));
    }
}
