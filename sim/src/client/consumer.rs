//! A consumer: reads partitions from offset 0 and follows the high watermark, from the leader or from any
//! replica (KIP-392). It goes on where the log starts when what it asks for was deleted, and resets for
//! nothing else: an offset that is refused is asked for again.

use std::collections::BTreeMap;

use highwater_model::Offset;

use super::Leaders;
use crate::context::{Context, Event};
use crate::history::{FinalRead, Poll};
use crate::message::{ClientError, Fetched, Message};
use crate::network::{Address, MILLI, Micros, SECOND};

const FETCH_TIMEOUT: Micros = 2 * SECOND;

/// What a reader of a whole partition is after.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub partition: u32,
    pub until: Offset,
    pub is_after_eviction: bool,
}

/// A consumer of all partitions, or a reader of one.
#[derive(Debug)]
pub struct Consumer {
    client: u32,
    positions: BTreeMap<u32, Offset>,
    leaders: Leaders,
    /// Id, partition, sent.
    fetch: Option<(u64, u32, Micros)>,
    next_partition: u32,
    /// Times in a thousand that it asks a replica instead of the leader.
    replica_permille: u64,
    goal: Option<Goal>,
    last_error: Option<String>,
}

impl Consumer {
    pub fn new(context: &mut Context, client: u32) -> Consumer {
        context.after(MILLI, Event::ClientTick { client });
        Consumer {
            client,
            positions: BTreeMap::new(),
            leaders: Leaders::default(),
            fetch: None,
            next_partition: 0,
            replica_permille: *context.chance.pick(&[0, 300, 1_000]).expect("not empty"),
            goal: None,
            last_error: None,
        }
    }

    /// Reads one partition from 0 to `goal.until` into the history's final reads.
    pub fn reader(context: &mut Context, client: u32, goal: Goal) -> Consumer {
        let Goal { partition, is_after_eviction, .. } = goal;
        context.history.finals.push(FinalRead { partition, is_after_eviction, records: Vec::new() });
        let mut reader = Consumer::new(context, client);
        reader.goal = Some(goal);
        reader
    }

    pub fn unfinished(&self) -> Option<String> {
        let goal = self.goal?;
        let position = self.positions.get(&goal.partition).copied().unwrap_or(0);
        (position < goal.until)
            .then(|| format!("reader {} is at {position} of {goal:?}: {:?}", self.client, self.last_error))
    }

    pub fn tick(&mut self, context: &mut Context) {
        if self.goal.is_some() && self.unfinished().is_none() {
            return;
        }
        let client = self.client;
        let pause = if self.goal.is_some() { 5 } else { context.chance.between(30, 120) } * MILLI;
        context.after(pause, Event::ClientTick { client });
        if self.fetch.is_some_and(|(_, _, at)| context.now < at + FETCH_TIMEOUT) {
            return;
        }
        if let Some((_, partition, _)) = self.fetch.take() {
            self.leaders.forget(partition);
        }
        let partition = self.goal.map_or(self.next_partition, |goal| goal.partition);
        self.next_partition = (self.next_partition + 1) % context.params.partitions;
        let Some(leader) = self.leaders.of(partition) else {
            self.leaders.ask(context, client);
            return;
        };
        let from_replica = context.chance.permille(self.replica_permille);
        let replica = context.chance.pick(self.leaders.replicas(partition)).copied();
        let broker = replica.filter(|_| from_replica).unwrap_or(leader);
        let id = context.id();
        self.fetch = Some((id, partition, context.now));
        let offset = self.positions.get(&partition).copied().unwrap_or(0);
        let message = Message::Fetch { id, partition, offset };
        context.send(Address::Client(client), Address::Broker(broker), message);
    }

    pub fn receive(&mut self, context: &mut Context, message: Message) {
        match message {
            Message::Leads { id, leaders, replicas } => self.leaders.answered(id, leaders, replicas),
            Message::Fetched { id, outcome } => {
                let Some((_, partition, _)) = self.fetch.take_if(|(asked, _, _)| *asked == id) else {
                    return;
                };
                match outcome {
                    Ok(fetched) => self.take(context, partition, fetched),
                    Err(ClientError::BelowLogStart(log_start)) => {
                        let position = self.positions.entry(partition).or_insert(0);
                        *position = log_start.max(*position);
                    }
                    Err(error) => {
                        self.last_error = Some(format!("{error:?}"));
                        self.leaders.forget(partition);
                    }
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, context: &mut Context, partition: u32, fetched: Fetched) {
        let position = self.positions.entry(partition).or_insert(0);
        let from = *position;
        // A batch may begin below the offset that was asked for.
        let records: Vec<_> = fetched.records.into_iter().filter(|(offset, _)| *offset >= from).collect();
        let Some((last, _)) = records.last() else { return };
        *position = last + 1;
        match self.goal {
            None => {
                context.history.polls.push(Poll { partition, consumer: self.client, from, records });
            }
            Some(goal) => {
                let same = |f: &&mut FinalRead| {
                    f.partition == partition && f.is_after_eviction == goal.is_after_eviction
                };
                let last = context.history.finals.iter_mut().find(same).expect("begun with the reader");
                last.records.extend(records);
            }
        }
    }
}
