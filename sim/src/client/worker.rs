//! A worker: a member of the group (KIP-848) that reads its partitions, writes what it makes of them and its
//! offsets in one transaction (KIP-890's rules), and begins anew when it is told that it may not.
//!
//! It may stop for a while in the middle of anything and go on as if nothing had happened, and it may die and
//! come back under another member id: the group and the coordinator have to keep such a one out. Whatever it
//! cannot know the outcome of it asks for again: the offsets say where it stands. `member.rs` is its half of
//! the group.

mod member;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_groups::core::answer::FetchedOffset;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{CommitOffset, CommitTransactionOffsets, FetchOffsets};
use highwater_groups::core::txn::{ClientVersion, EndTxn, InitProducerId, Producer, TxnError};
use highwater_groups::core::types::Name;
use highwater_model::Offset;
use highwater_wire::{BatchBuilder, Codec, TimestampType};

use super::Leaders;
use crate::context::{Context, Event};
use crate::exactly::{Ask, GROUP, INPUT_TOPIC, INPUTS, OFFSETS, OUTPUTS, TRANSACTIONS, Told};
use crate::history::{OffsetEvent, Tag, Txn, Value};
use crate::message::{ClientError, Fetched, Message};
use crate::network::{Address, MILLI, Micros, SECOND};

const REQUEST_TIMEOUT: Micros = 900 * MILLI;
/// A transaction that has not ended by then is given up.
const GIVE_UP: Micros = 6 * SECOND;
const TRANSACTION_TIMEOUT_MS: i32 = 4_000;
/// Records of one transaction, at most.
const RECORDS: u64 = 20;

/// What a request under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Init,
    Offsets,
    Fetch(i32),
    Produce,
    Commit,
    End(bool),
}

#[derive(Clone, Copy, Debug)]
struct Call {
    id: u64,
    at: Micros,
    partition: u32,
    purpose: Purpose,
}

/// A transaction that is open.
#[derive(Debug)]
struct Open {
    tag: Tag,
    batches: Vec<(u32, Bytes)>,
    /// Acknowledged.
    sent: usize,
    input: i32,
    next: Offset,
    are_offsets_there: bool,
    /// Asked to end so.
    end: Option<bool>,
    since: Micros,
}

/// See the module's text.
#[derive(Debug)]
pub struct Worker {
    client: u32,
    transactional_id: Name,
    leaders: Leaders,
    paused_until: Micros,
    member: Name,
    epoch: i32,
    /// What the coordinator grants.
    granted: BTreeSet<i32>,
    /// What it works on; what is not granted any more goes when the transaction has ended.
    owned: BTreeSet<i32>,
    beat: Option<(u64, Micros)>,
    next_beat: Micros,
    producer: Option<Producer>,
    positions: BTreeMap<i32, Offset>,
    next_input: usize,
    open: Option<Open>,
    call: Option<Call>,
    retry_at: Micros,
}

impl Worker {
    pub fn new(context: &mut Context, client: u32) -> Worker {
        context.after(MILLI, Event::ClientTick { client });
        Worker::born(context, client)
    }

    /// Knows nothing but its transactional id.
    fn born(context: &mut Context, client: u32) -> Worker {
        Worker {
            client,
            transactional_id: Name::from(format!("worker-{client}")),
            leaders: Leaders::default(),
            paused_until: context.now + 50 * MILLI,
            member: Name::from(context.chance.uuid().to_string()),
            epoch: 0,
            granted: BTreeSet::new(),
            owned: BTreeSet::new(),
            beat: None,
            next_beat: 0,
            producer: None,
            positions: BTreeMap::new(),
            next_input: 0,
            open: None,
            call: None,
            retry_at: 0,
        }
    }

    pub fn tick(&mut self, context: &mut Context) {
        let client = self.client;
        let pause = context.chance.between(5, 25) * MILLI;
        context.after(pause, Event::ClientTick { client });
        if context.is_healing {
            self.paused_until = 0;
        } else if context.chance.permille(2) {
            self.paused_until = context.now + context.chance.between(200, 5_000) * MILLI;
            context.note(format_args!("worker {client} stops until {}", self.paused_until));
        } else if context.chance.permille(1) {
            context.note(format_args!("worker {client} dies and comes back"));
            *self = Worker::born(context, client);
        }
        if context.now < self.paused_until {
            return;
        }
        self.go_on(context);
        self.keep_alive(context);
    }

    pub fn receive(&mut self, context: &mut Context, message: Message) {
        if context.now < self.paused_until {
            return; // lost with what it was doing
        }
        match message {
            Message::Leads { id, leaders, replicas } => self.leaders.answered(id, leaders, replicas),
            Message::Told { id, told } => {
                if let Some(call) = self.call.take_if(|call| call.id == id) {
                    self.told(context, call, told);
                } else if let Told::Beat(outcome) = told
                    && self.beat.take_if(|(asked, _)| *asked == id).is_some()
                {
                    self.beaten(context, outcome);
                }
            }
            Message::Fetched { id, outcome } => {
                if let Some(call) = self.call.take_if(|call| call.id == id) {
                    self.fetched(context, call, outcome);
                }
            }
            Message::Produced { id, outcome } => {
                if let Some(call) = self.call.take_if(|call| call.id == id) {
                    self.produced(context, call, outcome);
                }
            }
            _ => {}
        }
    }

    // --- its work ---

    fn go_on(&mut self, context: &mut Context) {
        let now = context.now;
        if let Some(call) = self.call.take_if(|call| now >= call.at + REQUEST_TIMEOUT) {
            self.leaders.forget(call.partition);
        }
        if self.call.is_some() || now < self.retry_at {
            return;
        }
        if self.open.as_ref().is_some_and(|open| now >= open.since + GIVE_UP) {
            self.give_up(context, "it takes too long");
        }
        let Some(producer) = self.producer else {
            let (transactional_id, timeout_ms) = (self.transactional_id.clone(), TRANSACTION_TIMEOUT_MS);
            let asked = InitProducerId { transactional_id, timeout_ms, expected: None };
            return self.ask(context, TRANSACTIONS, Purpose::Init, Ask::Init(asked));
        };
        match self.open.is_some() {
            true => self.go_on_with_transaction(context, producer),
            false => self.read_on(context),
        }
    }

    /// The outcome of the transaction is not known here, or it cannot be ended by this producer.
    fn give_up(&mut self, context: &mut Context, why: &str) {
        context.note(format_args!("worker {} gives its transaction up: {why}", self.client));
        (self.open, self.producer, self.call) = (None, None, None);
        self.positions.clear();
    }

    fn ask(&mut self, context: &mut Context, partition: u32, purpose: Purpose, ask: Ask) {
        self.send(context, partition, purpose, |id| Message::Exactly { id, ask });
    }

    fn send(
        &mut self,
        context: &mut Context,
        partition: u32,
        purpose: Purpose,
        message: impl FnOnce(u64) -> Message,
    ) {
        let Some(leader) = self.leaders.of(partition) else {
            return self.leaders.ask(context, self.client);
        };
        let id = context.id();
        self.call = Some(Call { id, at: context.now, partition, purpose });
        if purpose == Purpose::Offsets {
            let asked = self.owned.iter().map(|partition| OffsetEvent::Asked { id, partition: *partition });
            context.history.offset_events.extend(asked);
        }
        context.send(Address::Client(self.client), Address::Broker(leader), message(id));
    }

    /// Between transactions: takes over what is granted, and reads the next partition.
    fn read_on(&mut self, context: &mut Context) {
        if self.owned != self.granted {
            self.owned = self.granted.clone();
            self.positions.retain(|partition, _| self.owned.contains(partition));
            self.next_beat = 0;
        }
        if self.owned.iter().any(|partition| !self.positions.contains_key(partition)) {
            let names = self.owned.iter().map(|partition| (Name::from(INPUT_TOPIC), *partition));
            let fetch = FetchOffsets {
                group: Name::from(GROUP),
                member_id: Some(self.member.clone()),
                epoch: self.epoch,
                partitions: Some(names.collect()),
                is_stable_required: true,
            };
            return self.ask(context, OFFSETS, Purpose::Offsets, Ask::FetchOffsets(fetch));
        }
        let owned: Vec<i32> = self.owned.iter().copied().collect();
        if owned.is_empty() {
            return;
        }
        self.next_input += 1;
        let input = owned[self.next_input % owned.len()];
        let (partition, offset) = (INPUTS[input as usize], self.positions[&input]);
        self.send(context, partition, Purpose::Fetch(input), |id| Message::Fetch { id, partition, offset });
    }

    fn fetched(&mut self, context: &mut Context, call: Call, outcome: Result<Fetched, ClientError>) {
        let Purpose::Fetch(input) = call.purpose else { return };
        self.wait(context);
        match outcome {
            Ok(fetched) => {
                let Some(from) = self.positions.get(&input).copied() else { return };
                let most = context.chance.between(1, RECORDS) as usize;
                let records = fetched.records.into_iter().filter(|(offset, _)| *offset >= from);
                let records: Vec<(Offset, Value)> = records.take(most).collect();
                if let (Some((last, _)), Some(producer)) = (records.last(), self.producer) {
                    self.begin(context, producer, input, last + 1, &records);
                }
            }
            Err(_) => self.leaders.forget(call.partition),
        }
    }

    fn begin(
        &mut self,
        context: &mut Context,
        producer: Producer,
        input: i32,
        next: Offset,
        records: &[(Offset, Value)],
    ) {
        let tag = context.history.txns.len() as Tag;
        let mut by_output: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
        for (_, value) in records {
            by_output.entry(OUTPUTS[*value as usize % OUTPUTS.len()]).or_default().push(*value);
        }
        let of = |(partition, values): (&u32, &Vec<Value>)| {
            values.iter().map(|value| (*partition, *value)).collect::<Vec<_>>()
        };
        let written = by_output.iter().flat_map(of).collect();
        context.history.txns.push(Txn { records: written, ..Txn::default() });
        let at_ms = (context.now / MILLI) as i64;
        let batch = |values: Vec<Value>| {
            let builder = BatchBuilder::new(Codec::None).producer(producer.id, producer.epoch, 0);
            let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
            for value in values {
                let bytes = [value.to_be_bytes(), tag.to_be_bytes()].concat();
                builder.push(at_ms, None, Some(&bytes), &[]);
            }
            builder.build()
        };
        let batches = by_output.into_iter().map(|(partition, values)| (partition, batch(values))).collect();
        context.note(format_args!("worker {} begins transaction {tag} of {input} up to {next}", self.client));
        self.open = Some(Open {
            tag,
            batches,
            sent: 0,
            input,
            next,
            are_offsets_there: false,
            end: None,
            since: context.now,
        });
    }

    fn go_on_with_transaction(&mut self, context: &mut Context, producer: Producer) {
        let open = self.open.as_mut().expect("looked at by the caller");
        let transactional_id = self.transactional_id.clone();
        if open.end.is_none() && open.sent == open.batches.len() && open.are_offsets_there {
            let commit = !context.chance.permille(100);
            open.end = Some(commit);
            context.history.txns[open.tag as usize].asked_to_commit = commit;
        }
        if let Some(commit) = open.end {
            let asked = EndTxn { transactional_id, producer, commit, version: ClientVersion::V2 };
            return self.ask(context, TRANSACTIONS, Purpose::End(commit), Ask::End(asked));
        }
        if let Some((partition, batch)) = open.batches.get(open.sent).cloned() {
            let ask = Ask::Produce { transactional_id, partition, batch };
            return self.ask(context, partition, Purpose::Produce, ask);
        }
        let offset = CommitOffset {
            topic: Name::from(INPUT_TOPIC),
            topic_id: None,
            partition: open.input,
            offset: open.next,
            leader_epoch: -1,
            metadata: Name::from(""),
        };
        let commit = CommitTransactionOffsets {
            group: Name::from(GROUP),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            member_id: self.member.clone(),
            instance_id: None,
            // One that was put out of the group asks as nobody's member no more.
            generation: self.epoch,
            offsets: vec![offset],
        };
        self.ask(context, OFFSETS, Purpose::Commit, Ask::CommitOffsets { transactional_id, commit });
    }

    // --- answers ---

    fn wait(&mut self, context: &mut Context) {
        let pause = context.chance.between(10, 90) * MILLI;
        self.retry_at = context.now + pause;
    }

    /// Asks again, of whoever leads by then.
    fn again(&mut self, context: &mut Context, call: Call) {
        self.leaders.forget(call.partition);
        self.wait(context);
    }

    fn produced(&mut self, context: &mut Context, call: Call, outcome: Result<Offset, ClientError>) {
        let Some(open) = &mut self.open else { return };
        match outcome {
            Ok(_) => open.sent += 1,
            Err(ClientError::Fenced | ClientError::OutOfOrder) => self.give_up(context, "fenced"),
            Err(_) => self.again(context, call),
        }
    }

    fn told(&mut self, context: &mut Context, call: Call, told: Told) {
        match (call.purpose, told) {
            (Purpose::Init, Told::Init(Ok(producer))) => self.producer = Some(producer),
            (Purpose::Offsets, Told::Offsets(Ok(offsets))) => self.take_offsets(context, call, &offsets),
            (Purpose::Commit, Told::Committed(outcome)) => self.offsets_written(context, call, outcome),
            (Purpose::End(commit), Told::Ended(outcome)) => self.ended(context, call, commit, outcome),
            _ => self.again(context, call),
        }
    }

    fn take_offsets(&mut self, context: &mut Context, call: Call, offsets: &[FetchedOffset]) {
        for fetched in offsets {
            if fetched.error.is_some() {
                self.wait(context);
                continue;
            }
            let (partition, offset) = (fetched.partition, fetched.offset.max(0));
            let event = OffsetEvent::Read { id: call.id, partition, offset };
            context.history.offset_events.push(event);
            if self.owned.contains(&partition) {
                self.positions.entry(partition).or_insert(offset);
            }
        }
    }

    fn offsets_written(&mut self, context: &mut Context, call: Call, outcome: Result<(), GroupError>) {
        let Some(open) = &mut self.open else { return };
        match outcome {
            Ok(()) => open.are_offsets_there = true,
            Err(
                GroupError::NotCoordinator
                | GroupError::CoordinatorNotAvailable
                | GroupError::CoordinatorLoadInProgress
                | GroupError::ConcurrentTransactions,
            ) => self.again(context, call),
            Err(GroupError::InvalidProducerEpoch | GroupError::InvalidTxnState) => {
                self.give_up(context, "fenced");
            }
            // Not in this generation.
            Err(_) => open.end = Some(false),
        }
    }

    fn ended(
        &mut self,
        context: &mut Context,
        call: Call,
        commit: bool,
        outcome: Result<Producer, TxnError>,
    ) {
        match outcome {
            Ok(producer) => {
                let Some(open) = self.open.take() else { return };
                context.history.txns[open.tag as usize].told = Some(commit);
                self.producer = Some(producer);
                if commit {
                    let (partition, offset) = (open.input, open.next);
                    context.history.offset_events.push(OffsetEvent::Committed { partition, offset });
                    // Whose the partition was meanwhile may have gone on from there.
                    if self.owned.contains(&partition) {
                        self.positions.insert(partition, offset);
                    }
                } else {
                    self.positions.clear();
                }
            }
            Err(
                TxnError::ConcurrentTransactions
                | TxnError::CoordinatorLoadInProgress
                | TxnError::CoordinatorNotAvailable
                | TxnError::NotCoordinator,
            ) => self.again(context, call),
            Err(error) => self.give_up(context, &error.to_string()),
        }
    }
}
