//! A reader of committed data: follows the outputs below the last stable offset, at the leader or any
//! replica.

use std::collections::BTreeMap;

use highwater_model::Offset;

use super::Leaders;
use crate::context::{Context, Event};
use crate::exactly::{Ask, OUTPUTS, Told};
use crate::history::CommittedRead;
use crate::message::Message;
use crate::network::{Address, MILLI, Micros, SECOND};

const READ_TIMEOUT: Micros = SECOND;

/// See the module's text.
#[derive(Debug)]
pub struct CommittedReader {
    client: u32,
    leaders: Leaders,
    positions: BTreeMap<u32, Offset>,
    asked: Option<(u64, u32, Micros)>,
    next: usize,
}

impl CommittedReader {
    pub fn new(context: &mut Context, client: u32) -> CommittedReader {
        context.after(MILLI, Event::ClientTick { client });
        let (leaders, positions) = (Leaders::default(), BTreeMap::new());
        CommittedReader { client, leaders, positions, asked: None, next: 0 }
    }

    pub fn tick(&mut self, context: &mut Context) {
        let client = self.client;
        let pause = context.chance.between(20, 100) * MILLI;
        context.after(pause, Event::ClientTick { client });
        let now = context.now;
        if let Some((_, partition, _)) = self.asked.take_if(|(_, _, at)| now >= *at + READ_TIMEOUT) {
            self.leaders.forget(partition);
        }
        if self.asked.is_some() {
            return;
        }
        self.next += 1;
        let partition = OUTPUTS[self.next % OUTPUTS.len()];
        let Some(leader) = self.leaders.of(partition) else { return self.leaders.ask(context, client) };
        let replica = context.chance.pick(self.leaders.replicas(partition)).copied();
        let broker = replica.filter(|_| self.next.is_multiple_of(3)).unwrap_or(leader);
        let (id, offset) = (context.id(), self.positions.get(&partition).copied().unwrap_or(0));
        self.asked = Some((id, partition, now));
        let message = Message::Exactly { id, ask: Ask::Read { partition, offset } };
        context.send(Address::Client(client), Address::Broker(broker), message);
    }

    pub fn receive(&mut self, context: &mut Context, message: Message) {
        match message {
            Message::Leads { id, leaders, replicas } => self.leaders.answered(id, leaders, replicas),
            Message::Told { id, told: Told::Read(outcome) } => {
                let Some((_, partition, _)) = self.asked.take_if(|(asked, _, _)| *asked == id) else {
                    return;
                };
                match outcome {
                    Ok(read) => {
                        let position = self.positions.entry(partition).or_insert(0);
                        *position = read.next.max(*position);
                        if !read.records.is_empty() {
                            let (is_final, records) = (false, read.records);
                            let read = CommittedRead { partition, is_final, records };
                            context.history.committed_reads.push(read);
                        }
                    }
                    Err(_) => self.leaders.forget(partition),
                }
            }
            _ => {}
        }
    }
}
