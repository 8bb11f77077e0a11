//! The shard of `__consumer_offsets`: requests of members in, records and answers out; and the ends of
//! transactions in its partition.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use highwater_broker::core::replica::{AckTicket, LeaderRefusal};
use highwater_broker::replica::Origin;
use highwater_groups::core::answer::{Answer, Effect};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::machine::Groups;
use highwater_groups::core::records::Record;
use highwater_groups::core::request::{
    Client, CommitTransactionOffsets, Event, FetchOffsets, Request, Ticket,
};
use highwater_groups::core::settings::Settings;
use highwater_groups::core::txn::{MarkerOutcome, Markers};
use highwater_groups::core::types::{Name, Topics};
use highwater_log::{SequenceRefusal, VerificationTicket};
use highwater_model::LeaderEpoch;
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::{EndMarker, marker_batch};

use super::transactions::answer_of;
use super::{Broker, CLOCK_BASE, Item, encode, read_log};
use crate::context::Context;
use crate::exactly::{Ask, Between, GROUP, INPUT_TOPIC, INPUTS, OFFSETS, Told, input_topic_id};
use crate::guards::Guard;
use crate::message::Message;
use crate::network::Address;

/// See the module's text.
pub(super) struct GroupShard {
    pub epoch: LeaderEpoch,
    core: Groups,
    /// From the broker's time to the shard's, which does not jump.
    clock_ms: i64,
    asked: BTreeMap<Ticket, (Address, u64)>,
    /// With each append the answers behind it.
    pub queue: VecDeque<(AckTicket, Vec<(Address, Message)>)>,
}

fn settings() -> Settings {
    Settings { consumer_session_ms: 2_500, consumer_heartbeat_ms: 300, ..Settings::default() }
}

/// The head of a batch without sequences of a producer's transaction.
pub(super) fn header_of(producer_id: i64, epoch: i16) -> BatchHeader {
    let records = [(bytes::Bytes::new(), None)];
    encode(records.into_iter(), Some((producer_id, epoch)), 0).0
}

fn error_of(refusal: &SequenceRefusal) -> GroupError {
    match refusal {
        SequenceRefusal::StaleEpoch { .. } => GroupError::InvalidProducerEpoch,
        SequenceRefusal::NotTransactional(_) | SequenceRefusal::Unverified(_) => GroupError::InvalidTxnState,
        SequenceRefusal::StillOpen { .. } => GroupError::ConcurrentTransactions,
        _ => GroupError::CoordinatorNotAvailable,
    }
}

impl GroupShard {
    /// An answer leaves behind everything that was appended before it.
    fn answer(&mut self, to: Address, message: Message, out: &mut Vec<(Address, Message)>) {
        match self.queue.back_mut() {
            Some((_, answers)) => answers.push((to, message)),
            None => out.push((to, message)),
        }
    }
}

impl Broker {
    pub(super) fn load_groups(&mut self, context: &mut Context, epoch: LeaderEpoch) {
        let (now_ms, clock_ms) = (self.now_ms(context), CLOCK_BASE + self.skew_ms);
        let process = self.process.as_mut().expect("alive");
        let held = &process.held[&OFFSETS];
        let topics = Topics::new([(Name::from(INPUT_TOPIC), input_topic_id(), INPUTS.len() as i32)]);
        let mut core = Groups::new(settings(), Arc::new(topics), 1);
        read_log(held.log(), held.high_watermark(), |item| match item {
            Item::Record { producer, key, value } => {
                core.load_bytes(key, value, producer).expect("own records");
            }
            Item::End { producer, is_commit } => core.load_marker(producer, is_commit),
        });
        let mut effects = Vec::new();
        core.loaded(now_ms + clock_ms, &mut effects);
        core.check();
        let (asked, queue) = (BTreeMap::new(), VecDeque::new());
        let shard = GroupShard { epoch, core, clock_ms, asked, queue };
        self.carry_out_groups(context, shard, effects, None);
    }

    pub(super) fn tick_groups(&mut self, context: &mut Context) {
        let now_ms = self.now_ms(context);
        let shard = self.process.as_ref().and_then(|process| process.shards.groups.as_ref());
        let is_due = shard.is_some_and(|s| s.core.next_due().is_some_and(|due| due <= now_ms + s.clock_ms));
        if is_due && self.takes_writes().is_ok() {
            self.step_groups(context, Event::Tick, None);
        }
    }

    /// Before a step: whether its records would be taken.
    fn takes_writes(&self) -> Result<(), GroupError> {
        let process = self.process.as_ref().ok_or(GroupError::NotCoordinator)?;
        let shard = process.shards.groups.as_ref().ok_or(GroupError::NotCoordinator)?;
        let machine = process.held.get(&OFFSETS).ok_or(GroupError::NotCoordinator)?.machine();
        match machine.replica().check_append(true) {
            Ok(epoch) if epoch == shard.epoch && machine.log().refusal().is_none() => Ok(()),
            Err(LeaderRefusal::NotEnoughReplicas { .. }) => Err(GroupError::CoordinatorNotAvailable),
            _ => Err(GroupError::NotCoordinator),
        }
    }

    fn step_groups(&mut self, context: &mut Context, event: Event, shown: Option<VerificationTicket>) {
        let now_ms = self.now_ms(context);
        let process = self.process.as_mut().expect("alive");
        let Some(mut shard) = process.shards.groups.take() else { return };
        let mut effects = Vec::new();
        shard.core.step(now_ms + shard.clock_ms, event, &mut effects);
        self.carry_out_groups(context, shard, effects, shown);
    }

    /// The shard is kept unless an append fails: its state has what the log has not.
    fn carry_out_groups(
        &mut self,
        context: &mut Context,
        mut shard: GroupShard,
        effects: Vec<Effect>,
        shown: Option<VerificationTicket>,
    ) {
        let (from, wall_ms) = (self.address(), self.wall_ms(context));
        let mut out = Vec::new();
        for effect in effects {
            match effect {
                Effect::Append { records, transaction } => {
                    let batch = encode(records.iter().map(Record::encode), transaction, wall_ms);
                    let origin = Origin::Coordinator(shown.filter(|_| transaction.is_some()));
                    let epoch = Some(shard.epoch);
                    match self.append_in(context, OFFSETS, epoch, (&batch.0, &batch.1), origin) {
                        Ok(appended) => shard.queue.push_back((appended.ticket, Vec::new())),
                        Err(refusal) => {
                            let node = self.node;
                            context.note(format_args!("broker {node} drops its group: {refusal}"));
                            return self.process.as_mut().expect("alive").shards.give_up(OFFSETS);
                        }
                    }
                }
                Effect::Answer { ticket, answer } => {
                    let Some((to, id)) = shard.asked.remove(&ticket) else { continue };
                    shard.answer(to, Message::Told { id, told: told(answer) }, &mut out);
                }
            }
        }
        self.process.as_mut().expect("alive").shards.groups = Some(shard);
        for (to, message) in out {
            context.send(from, to, message);
        }
        self.settle_shards(context);
    }

    /// What members ask.
    pub(in crate::broker) fn take_exactly(
        &mut self,
        context: &mut Context,
        from: Address,
        id: u64,
        ask: Ask,
    ) {
        match ask {
            Ask::Beat(beat) => match self.takes_writes() {
                Ok(()) => self.request(context, from, id, Request::ConsumerHeartbeat(beat), None),
                Err(error) => self.tell(context, from, id, Told::Beat(Err(error))),
            },
            Ask::FetchOffsets(fetch) => self.fetch_offsets(context, from, id, &fetch),
            Ask::CommitOffsets { transactional_id, commit } => {
                self.verify_commit(context, from, id, transactional_id, commit);
            }
            Ask::Produce { transactional_id, partition, batch } => {
                self.verify_produce(context, from, id, transactional_id, partition, batch);
            }
            Ask::Init(asked) => self.init_producer_id(context, from, id, &asked),
            Ask::End(asked) => self.end_transaction(context, from, id, &asked),
            Ask::Read { partition, offset } => {
                let told = Told::Read(self.read_committed(partition, offset));
                self.tell(context, from, id, told);
            }
        }
    }

    fn request(
        &mut self,
        context: &mut Context,
        from: Address,
        id: u64,
        request: Request,
        shown: Option<VerificationTicket>,
    ) {
        let fresh = self.chance.uuid();
        let ticket = context.id();
        let process = self.process.as_mut().expect("alive");
        let Some(shard) = &mut process.shards.groups else { return };
        shard.asked.insert(ticket, (from, id));
        let client = Client { id: Name::from("worker"), host: Name::from("sim"), fresh };
        self.step_groups(context, Event::Request { ticket, client, request }, shown);
    }

    fn fetch_offsets(&mut self, context: &mut Context, from: Address, id: u64, fetch: &FetchOffsets) {
        let here = self.address();
        let process = self.process.as_mut().expect("alive");
        let mut out = Vec::new();
        match &mut process.shards.groups {
            Some(shard) => {
                let told = Told::Offsets(shard.core.fetch_offsets(fetch));
                shard.answer(from, Message::Told { id, told }, &mut out);
            }
            None => {
                let told = Told::Offsets(Err(GroupError::NotCoordinator));
                out.push((from, Message::Told { id, told }));
            }
        }
        for (to, message) in out {
            context.send(here, to, message);
        }
    }

    /// The offsets of a transaction whose partition here is known to be in it.
    pub(super) fn commit_offsets(
        &mut self,
        context: &mut Context,
        from: Address,
        id: u64,
        mut commit: CommitTransactionOffsets,
        shown: Option<VerificationTicket>,
    ) {
        if let Err(error) = self.takes_writes() {
            return self.tell(context, from, id, Told::Committed(Err(error)));
        }
        let header = header_of(commit.producer_id, commit.producer_epoch);
        let log = self.held(OFFSETS).expect("it leads").machine().log();
        if let Err(refusal) = log.check_unsequenced(&header, shown) {
            let told = Told::Committed(Err(error_of(&refusal)));
            return self.answer_behind(context, from, Message::Told { id, told });
        }
        if !context.guards.holds(Guard::GenerationOnCommit) {
            (commit.member_id, commit.generation) = (Name::from(""), -1);
        }
        let producer_id = commit.producer_id;
        self.request(context, from, id, Request::CommitTransactionOffsets(commit), shown);
        if !context.guards.holds(Guard::OffsetsAtMarker) {
            self.step_groups(context, Event::TransactionEnded { producer_id, is_commit: true }, None);
        }
    }

    fn answer_behind(&mut self, context: &mut Context, to: Address, message: Message) {
        let (here, mut out) = (self.address(), Vec::new());
        match self.process.as_mut().expect("alive").shards.groups.as_mut() {
            Some(shard) => shard.answer(to, message, &mut out),
            None => out.push((to, message)),
        }
        for (to, message) in out {
            context.send(here, to, message);
        }
    }

    /// The end of a transaction: what it decides counts when its marker does.
    pub(super) fn end_in_groups(&mut self, context: &mut Context, from: Address, markers: &Markers) {
        let marked = |outcome| Message::Between(Between::Marked(answer_of(markers, outcome)));
        if self.takes_writes().is_err() {
            return context.send(self.address(), from, marked(MarkerOutcome::Retry));
        }
        let epoch = self.process.as_ref().and_then(|p| p.shards.groups.as_ref()).map(|shard| shard.epoch);
        let end = EndMarker { commit: markers.commit, coordinator_epoch: markers.coordinator_epoch };
        let (producer, bumps_epoch) = (markers.producer, markers.bumps_epoch);
        let is_guarded = context.guards.holds(Guard::MarkerEpoch);
        let log = self.held(OFFSETS).expect("it leads").machine().log();
        match log.producers().check_marker(producer.id, producer.epoch, end, bumps_epoch) {
            Err(SequenceRefusal::StaleEpoch { .. }) if is_guarded => {
                return self.answer_behind(context, from, marked(MarkerOutcome::StaleEpoch));
            }
            Err(SequenceRefusal::CoordinatorFenced { .. }) if is_guarded => {
                return self.answer_behind(context, from, marked(MarkerOutcome::CoordinatorFenced));
            }
            _ => {}
        }
        let bytes = marker_batch(producer.id, producer.epoch, end, self.wall_ms(context));
        let header = BatchHeader::parse(&bytes).expect("own marker");
        let origin = Origin::Marker { end, bumps_epoch };
        let Ok(appended) = self.append_in(context, OFFSETS, epoch, (&header, &bytes), origin) else {
            return context.send(self.address(), from, marked(MarkerOutcome::Retry));
        };
        if let Some(shard) = self.process.as_mut().expect("alive").shards.groups.as_mut() {
            shard.queue.push_back((appended.ticket, vec![(from, marked(MarkerOutcome::Written))]));
        }
        let event = Event::TransactionEnded { producer_id: producer.id, is_commit: markers.commit };
        self.step_groups(context, event, None);
    }

    /// What the group has committed of its inputs, for the end of a run.
    pub fn committed_offsets(&self) -> Option<Vec<i64>> {
        let core = &self.process.as_ref()?.shards.groups.as_ref()?.core;
        let of = |partition: usize| core.offsets().get(GROUP, INPUT_TOPIC, partition as i32);
        Some((0..INPUTS.len()).map(|partition| of(partition).map_or(0, |value| value.offset)).collect())
    }
}

fn told(answer: Answer) -> Told {
    match answer {
        Answer::ConsumerHeartbeat(beat) => Told::Beat(beat),
        Answer::CommitOffsets(outcome) => {
            Told::Committed(outcome.and_then(|each| each.into_iter().collect::<Result<(), _>>()))
        }
        other => unreachable!("nobody asks for {other:?}"),
    }
}
