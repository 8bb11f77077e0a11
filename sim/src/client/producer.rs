//! A producer: a few batches in flight, retried in order until acknowledged or given up.
//!
//! An idempotent one numbers its records and takes a new producer id when it gives a batch up, as it can no
//! longer tell what came of it (KIP-98). A plain one may write a record twice; a weak one (acks=1) may lose
//! it. Each record's outcome goes to the history: refused only if every attempt was refused by a broker that
//! says it did nothing.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use highwater_wire::Codec;
use highwater_wire::build::BatchBuilder;

use super::Leaders;
use crate::context::{Context, Event};
use crate::history::{Send, Sent};
use crate::message::{ClientError, Message};
use crate::network::{Address, MILLI, Micros, SECOND};

/// What a producer promises itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Idempotent,
    Plain,
    /// acks=1.
    Weak,
}

const IN_FLIGHT_MAX: usize = 5;
const REQUEST_TIMEOUT: Micros = SECOND;
const DELIVERY_TIMEOUT: Micros = 7 * SECOND;

#[derive(Debug)]
struct Flight {
    /// Of its records in the history.
    sends: Range<usize>,
    batch: Bytes,
    created: Micros,
    /// The attempt that is under way.
    sent: Option<(u64, Micros)>,
    /// An attempt may have been applied.
    is_unknown: bool,
    /// Acknowledged, and kept while an older one is not: no more than a few batches may be written past that
    /// one, or it would not be recognised when it is sent again.
    is_done: bool,
}

/// A producer of one partition.
#[derive(Debug)]
pub struct Producer {
    client: u32,
    partition: u32,
    kind: Kind,
    /// Producer id; names the session for plain ones too.
    session: u64,
    next_sequence: i32,
    /// A batch of the session was acknowledged. Before that only one is in flight: a broker that has not
    /// heard of the producer takes it at any sequence, as Kafka's does, and so might take the second batch
    /// first.
    is_known: bool,
    lane: VecDeque<Flight>,
    leaders: Leaders,
    next_batch: Micros,
    retry_at: Micros,
    is_winding_down: bool,
}

impl Producer {
    pub fn new(context: &mut Context, client: u32, partition: u32, kind: Kind) -> Producer {
        context.after(MILLI, Event::ClientTick { client });
        Producer {
            client,
            partition,
            kind,
            session: context.id(),
            next_sequence: 0,
            is_known: false,
            lane: VecDeque::new(),
            leaders: Leaders::default(),
            next_batch: 0,
            retry_at: 0,
            is_winding_down: false,
        }
    }

    /// Sends nothing new any more.
    pub fn wind_down(&mut self) {
        self.is_winding_down = true;
    }

    pub fn unfinished(&self) -> Option<String> {
        let first = self.lane.front()?;
        let many = self.lane.len();
        Some(format!(
            "producer {} of partition {}: {many} batches in flight, the first sent {:?} unknown={} leader {:?}",
            self.client,
            self.partition,
            first.sent,
            first.is_unknown,
            self.leaders.of(self.partition)
        ))
    }

    pub fn tick(&mut self, context: &mut Context) {
        let client = self.client;
        let pause = context.chance.between(5, 25) * MILLI;
        context.after(pause, Event::ClientTick { client });
        let now = context.now;
        for flight in &mut self.lane {
            if flight.sent.is_some_and(|(_, at)| now > at + REQUEST_TIMEOUT) {
                flight.sent = None;
                flight.is_unknown = true;
                self.leaders.forget(self.partition);
            }
        }
        let is_late = self.lane.front().is_some_and(|f| now > f.created + DELIVERY_TIMEOUT);
        if is_late && !context.is_healing {
            self.give_up(context);
        }
        if !self.is_winding_down && now >= self.next_batch && self.lane.len() < IN_FLIGHT_MAX {
            let pause = context.chance.between(20, 250) * MILLI;
            self.next_batch = now + pause;
            let flight = self.new_batch(context);
            self.lane.push_back(flight);
        }
        self.send_due(context);
    }

    fn new_batch(&mut self, context: &mut Context) -> Flight {
        let codec = if context.chance.permille(300) { Codec::Lz4 } else { Codec::None };
        let count = context.chance.between(1, 4);
        let mut builder = BatchBuilder::new(codec);
        if self.kind == Kind::Idempotent {
            builder = builder.producer(self.session as i64, 0, self.next_sequence);
        }
        let at_ms = (context.now / MILLI) as i64;
        let start = context.history.sends.len();
        for _ in 0..count {
            let value = context.history.sends.len() as u64 + 1;
            let mut bytes = value.to_be_bytes().to_vec();
            let padding = context.chance.below(160) as usize;
            bytes.resize(8 + padding, b'.');
            builder.push(at_ms, None, Some(&bytes), &[]);
            context.history.sends.push(Send {
                partition: self.partition,
                session: self.session,
                value,
                is_idempotent: self.kind == Kind::Idempotent,
                is_committed_when_acked: self.kind != Kind::Weak,
                sent: Sent::Unknown,
            });
        }
        self.next_sequence += count as i32;
        let sends = start..context.history.sends.len();
        Flight {
            sends,
            batch: builder.build(),
            created: context.now,
            sent: None,
            is_unknown: false,
            is_done: false,
        }
    }

    fn send_due(&mut self, context: &mut Context) {
        if context.now < self.retry_at || self.lane.iter().all(|f| f.is_done || f.sent.is_some()) {
            return;
        }
        let Some(leader) = self.leaders.of(self.partition) else {
            self.leaders.ask(context, self.client);
            return;
        };
        let many = if self.is_known { IN_FLIGHT_MAX } else { 1 };
        for flight in self.lane.iter_mut().take(many).filter(|f| !f.is_done && f.sent.is_none()) {
            let id = context.id();
            flight.sent = Some((id, context.now));
            let is_all = self.kind != Kind::Weak;
            let message =
                Message::Produce { id, partition: self.partition, batch: flight.batch.clone(), is_all };
            context.send(Address::Client(self.client), Address::Broker(leader), message);
        }
    }

    pub fn receive(&mut self, context: &mut Context, message: Message) {
        match message {
            Message::Leads { id, leaders, replicas } => self.leaders.answered(id, leaders, replicas),
            Message::Produced { id, outcome } => {
                let of = |f: &Flight| f.sent.is_some_and(|(sent, _)| sent == id);
                let Some(at) = self.lane.iter().position(of) else { return };
                match outcome {
                    Ok(base) => self.acknowledged(context, at, base),
                    Err(error) => self.failed(context, at, error),
                }
            }
            _ => {}
        }
    }

    fn acknowledged(&mut self, context: &mut Context, at: usize, base: i64) {
        self.is_known = true;
        let flight = &mut self.lane[at];
        flight.is_done = true;
        flight.sent = None;
        for (send, offset) in context.history.sends[flight.sends.clone()].iter_mut().zip(base..) {
            send.sent = Sent::Acked(offset);
        }
        while self.lane.pop_front_if(|flight| flight.is_done).is_some() {}
    }

    fn failed(&mut self, context: &mut Context, at: usize, error: ClientError) {
        let flight = &mut self.lane[at];
        flight.sent = None;
        flight.is_unknown |= error == ClientError::Unknown;
        let pause = context.chance.between(20, 120) * MILLI;
        self.retry_at = context.now + pause;
        self.leaders.forget(self.partition);
    }

    /// The first batch is too old. An idempotent producer cannot leave a hole in its sequence, so all go and
    /// it begins anew.
    fn give_up(&mut self, context: &mut Context) {
        let many = if self.kind == Kind::Idempotent { self.lane.len() } else { 1 };
        for flight in self.lane.drain(..many).filter(|flight| !flight.is_done) {
            let is_unknown = flight.is_unknown || flight.sent.is_some();
            let sent = if is_unknown { Sent::Unknown } else { Sent::Refused };
            context.history.sends[flight.sends].iter_mut().for_each(|send| send.sent = sent);
        }
        if self.kind == Kind::Idempotent {
            self.session = context.id();
            self.next_sequence = 0;
            self.is_known = false;
        }
        let (client, session) = (self.client, self.session);
        context.note(format_args!("producer {client} gave up {many} batches; session {session}"));
    }
}
