//! Clients: producers and consumers as Kafka's behave. They believe a broker only as far as its answers go.

mod committed;
mod consumer;
mod producer;
mod worker;

pub use committed::CommittedReader;
pub use consumer::{Consumer, Goal};
pub use producer::{Kind, Producer};
pub use worker::Worker;

use crate::context::Context;
use crate::message::Message;
use crate::network::{Address, MILLI, Micros};

/// Who leads, as a client knows it, and the question that is under way.
#[derive(Debug, Default)]
pub struct Leaders {
    leaders: Vec<Option<u64>>,
    replicas: Vec<Vec<u64>>,
    asked: Option<(u64, Micros)>,
}

const ASK_TIMEOUT: Micros = 400 * MILLI;

impl Leaders {
    fn of(&self, partition: u32) -> Option<u64> {
        self.leaders.get(partition as usize).copied().flatten()
    }

    fn replicas(&self, partition: u32) -> &[u64] {
        self.replicas.get(partition as usize).map_or(&[], Vec::as_slice)
    }

    /// What was known of the partition's leader was wrong.
    fn forget(&mut self, partition: u32) {
        if let Some(leader) = self.leaders.get_mut(partition as usize) {
            *leader = None;
        }
    }

    /// Asks some broker, unless a question is under way.
    fn ask(&mut self, context: &mut Context, client: u32) {
        if self.asked.is_some_and(|(_, at)| context.now < at + ASK_TIMEOUT) {
            return;
        }
        let id = context.id();
        self.asked = Some((id, context.now));
        let broker = context.chance.between(1, context.params.brokers);
        context.send(Address::Client(client), Address::Broker(broker), Message::WhoLeads { id });
    }

    fn answered(&mut self, id: u64, leaders: Vec<Option<u64>>, replicas: Vec<Vec<u64>>) {
        if self.asked.is_some_and(|(asked, _)| asked == id) {
            (self.leaders, self.replicas, self.asked) = (leaders, replicas, None);
        }
    }
}

/// Any client.
#[derive(Debug)]
pub enum Client {
    Producer(Producer),
    Consumer(Consumer),
    Worker(Box<Worker>),
    CommittedReader(CommittedReader),
}

impl Client {
    pub fn tick(&mut self, context: &mut Context) {
        match self {
            Client::Producer(producer) => producer.tick(context),
            Client::Consumer(consumer) => consumer.tick(context),
            Client::Worker(worker) => worker.tick(context),
            Client::CommittedReader(reader) => reader.tick(context),
        }
    }

    pub fn receive(&mut self, context: &mut Context, message: Message) {
        match self {
            Client::Producer(producer) => producer.receive(context, message),
            Client::Consumer(consumer) => consumer.receive(context, message),
            Client::Worker(worker) => worker.receive(context, message),
            Client::CommittedReader(reader) => reader.receive(context, message),
        }
    }

    /// Why it has not come to its end; none if it has.
    pub fn unfinished(&self) -> Option<String> {
        match self {
            Client::Producer(producer) => producer.unfinished(),
            Client::Consumer(consumer) => consumer.unfinished(),
            // Their work is judged by what it has come to.
            Client::Worker(_) | Client::CommittedReader(_) => None,
        }
    }
}
