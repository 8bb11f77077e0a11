//! The whole of one run: brokers, control plane, bucket, clients and faults, driven by one queue of events.
//!
//! First the safety phase: load and faults together, invariants checked as it goes. Then the healing phase
//! (`heal.rs`): no more faults, everything must converge, and fresh readers read every partition from its
//! beginning, before and after local copies were dropped. The history then goes to the checker.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::core::Command;

use crate::broker::Broker;
use crate::bucket::Bucket;
use crate::checker;
use crate::client::{Client, CommittedReader, Consumer, Kind, Producer, Worker};
use crate::context::{Context, Event};
use crate::control::Control;
use crate::faults::Faults;
use crate::guards::Guards;
use crate::history::Sent;
use crate::message::Message;
use crate::network::{Address, MILLI, Micros, SECOND};
use crate::params::Params;
use crate::run::Tally;

mod heal;

pub use heal::batches;

/// Within which brokers must be registered and the topic be there.
const SET_UP_MAX: Micros = 20 * SECOND;

/// Everything.
pub struct World {
    pub context: Context,
    pub brokers: BTreeMap<u64, Broker>,
    pub control: Control,
    pub bucket: Bucket,
    pub clients: BTreeMap<u32, Client>,
    faults: Option<Faults>,
}

impl World {
    pub fn new(params: Params, guards: Guards) -> World {
        let params = Arc::new(params);
        let mut context = Context::new(params.clone(), guards);
        let chance = context.chance.clone();
        let control = Control::new(params.members, "sim", chance.fork("control"));
        let mut brokers = BTreeMap::new();
        for node in 1..=params.brokers {
            let storage = context.chance.uuid();
            brokers.insert(node, Broker::new(node, storage, chance.fork(&format!("broker {node}"))));
        }
        let bucket = Bucket::new(chance.fork("bucket"));
        let faults = Some(Faults::new(chance.fork("faults")));
        World { context, brokers, control, bucket, clients: BTreeMap::new(), faults }
    }

    /// All of it; what is wrong is in the context's findings.
    pub fn run(&mut self) {
        let params = self.context.params.clone();
        self.context.note(format_args!("{params:?}"));
        self.control.begin(&mut self.context);
        for broker in self.brokers.values_mut() {
            broker.start(&mut self.context);
        }
        self.set_up();
        if !self.context.findings.is_empty() {
            return;
        }
        self.context.network.weather = params.weather;
        self.start_clients();
        let faults = self.faults.as_mut().expect("put back after each use");
        faults.schedule(&mut self.context);
        let until = self.context.now + params.chaos;
        self.advance(until);
        if self.context.findings.is_empty() {
            self.heal();
        }
        self.record_log_starts();
        let found = checker::check(&self.context.history);
        self.context.findings.extend(found);
    }

    fn set_up(&mut self) {
        let brokers = self.brokers.len();
        let all = |world: &World| world.control.newest().state.brokers.len() == brokers;
        if !self.advance_until(SET_UP_MAX, all) {
            return self.stuck("brokers do not register");
        }
        let create = self.context.params.create_topic();
        self.administer(create);
        let topic = self.context.params.topic_id;
        if !self.advance_until(SET_UP_MAX, |world| world.control.newest().state.topic(topic).is_some()) {
            self.stuck("the topic is not created");
        }
    }

    fn stuck(&mut self, what: &str) {
        self.context.find(checker::Anomaly::Stuck, what.to_owned());
    }

    fn start_clients(&mut self) {
        let params = self.context.params.clone();
        let kinds = [
            (Kind::Idempotent, params.idempotent_producers),
            (Kind::Plain, params.plain_producers),
            (Kind::Weak, params.weak_producers),
        ];
        for partition in params.plain_partitions() {
            for (kind, many) in kinds {
                for _ in 0..many {
                    let client = self.clients.len() as u32 + 1;
                    let producer = Producer::new(&mut self.context, client, partition, kind);
                    self.clients.insert(client, Client::Producer(producer));
                }
            }
        }
        for _ in 0..params.consumers {
            let client = self.clients.len() as u32 + 1;
            self.clients.insert(client, Client::Consumer(Consumer::new(&mut self.context, client)));
        }
        for _ in 0..params.workers {
            let client = self.clients.len() as u32 + 1;
            let worker = Worker::new(&mut self.context, client);
            self.clients.insert(client, Client::Worker(Box::new(worker)));
        }
        for _ in 0..params.committed_readers {
            let client = self.clients.len() as u32 + 1;
            let reader = CommittedReader::new(&mut self.context, client);
            self.clients.insert(client, Client::CommittedReader(reader));
        }
    }

    /// Carries out events until the time has come or something was found.
    fn advance(&mut self, until: Micros) {
        while self.context.now < until && self.context.findings.is_empty() {
            self.step();
        }
    }

    /// Carries out events until `done`, looked at every 20 ms. False if it has not come to that in time.
    fn advance_until(&mut self, within: Micros, done: impl Fn(&World) -> bool) -> bool {
        let end = self.context.now + within;
        while self.context.now < end && self.context.findings.is_empty() {
            let next = self.context.now + 20 * MILLI;
            self.advance(next);
            if done(self) {
                return true;
            }
        }
        false
    }

    fn step(&mut self) {
        let Some(event) = self.context.next() else { return };
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, message),
            Event::BrokerTick { node, .. }
            | Event::Flush { node, .. }
            | Event::GroupSync { node, .. }
            | Event::BrokerStop { node, .. }
            | Event::Resume { node } => self.on_broker(node, event),
            Event::BrokerStart { node, life } => {
                if self.brokers[&node].starts_in(life) {
                    self.with_faults(|faults, world| faults.before_start(world, node));
                }
                self.on_broker(node, event);
            }
            Event::ControlTick => self.control.tick(&mut self.context),
            Event::Commit { proposal } => self.control.commit(&mut self.context, proposal),
            Event::MemberApplies { member, index } => {
                self.control.member_applies(&mut self.context, member, index);
            }
            Event::MemberUp { member } => self.control.bring_up(&mut self.context, member),
            Event::ClientTick { client } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.tick(&mut self.context);
                }
            }
            Event::Fault if !self.context.is_healing => self.with_faults(|faults, world| {
                faults.strike(world);
                faults.schedule(&mut world.context);
            }),
            Event::Fault => {}
            Event::FaultEnds { fault } => self.with_faults(|faults, world| faults.end(world, fault)),
        }
    }

    fn with_faults(&mut self, act: impl FnOnce(&mut Faults, &mut World)) {
        let mut faults = self.faults.take().expect("put back after each use");
        act(&mut faults, self);
        self.faults = Some(faults);
    }

    pub fn broker(&mut self, node: u64) -> &mut Broker {
        self.brokers.get_mut(&node).expect("a known broker")
    }

    fn on_broker(&mut self, node: u64, event: Event) {
        let broker = self.brokers.get_mut(&node).expect("a known broker");
        broker.handle(&mut self.context, event);
        broker.watch(&mut self.context);
    }

    fn deliver(&mut self, from: Address, to: Address, message: Message) {
        if self.context.network.is_cut(from, to) {
            self.context.note(format_args!("{from:?}->{to:?} CUT {message}"));
            return;
        }
        self.context.note(format_args!("{from:?}->{to:?} {message}"));
        match to {
            Address::Broker(node) => self.on_broker(node, Event::Deliver { from, to, message }),
            Address::Member(member) if self.control.is_up(member) => {
                self.control.receive(&mut self.context, member, from, message);
            }
            Address::Member(_) => {}
            Address::Client(client) => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.receive(&mut self.context, message);
                }
            }
            Address::Bucket => self.ask_bucket(from, message),
        }
    }

    fn ask_bucket(&mut self, from: Address, message: Message) {
        let Message::Ask { id, ask } = message else { return };
        let (guards, findings) = (self.context.guards, &mut self.context.findings);
        if let Some((answer, delay)) = self.bucket.serve(&ask, guards, findings) {
            let message = Message::Answered { id, answer };
            self.context.after(delay, Event::Deliver { from: Address::Bucket, to: from, message });
        }
    }

    // --- what faults do ---

    /// An operator's command; nobody waits for its answer.
    pub fn administer(&mut self, command: Command) {
        self.control.administer(&mut self.context, command);
    }

    pub fn kill(&mut self, node: u64, loses_power: bool, down_for: Micros) {
        let broker = self.brokers.get_mut(&node).expect("a known broker");
        let epoch = broker.die(&mut self.context, loses_power);
        broker.start_after(&mut self.context, down_for);
        // A process that dies closes its connections; a machine without power does not.
        if !loses_power {
            self.connections_break(node);
        }
        if let Some(epoch) = epoch.filter(|_| !loses_power) {
            for member in self.control.members().collect::<Vec<_>>() {
                let message = Message::SessionBroke { node, epoch };
                self.context.send(Address::Broker(node), Address::Member(member), message);
            }
        }
    }

    /// A client asks the leader, if there is one.
    pub fn delete_records(&mut self, partition: u32, permille: i64) {
        let tp = self.context.params.tp(partition);
        let leader = self.control.newest().state.partition(tp).and_then(|p| p.leader);
        if let Some(broker) = leader.and_then(|leader| self.brokers.get_mut(&leader)) {
            broker.delete_records(&mut self.context, partition, permille);
        }
    }

    fn connections_break(&mut self, node: u64) {
        for other in self.brokers.keys().filter(|other| **other != node) {
            let message = Message::PeerLost { node };
            self.context.send(Address::Broker(node), Address::Broker(*other), message);
        }
    }

    pub fn pause(&mut self, node: u64, lasts: Micros) {
        let broker = self.brokers.get_mut(&node).expect("a known broker");
        broker.pause(&mut self.context, lasts);
    }

    pub fn stop_in_order(&mut self, node: u64, down_for: Micros) {
        let broker = self.brokers.get_mut(&node).expect("a known broker");
        broker.stop_in_order(&mut self.context, down_for);
    }

    pub fn tally(&self) -> Tally {
        let history = &self.context.history;
        let acknowledged = history.sends.iter().filter(|s| matches!(s.sent, Sent::Acked(_)));
        let state = self.control.newest().state;
        let partitions = state.topic(self.context.params.topic_id).map(|t| t.partitions.clone());
        let partitions = partitions.unwrap_or_default();
        Tally {
            records_acknowledged: acknowledged.count() as u64,
            records_read: history.polls.iter().map(|p| p.records.len() as u64).sum(),
            transactions: history.txns.iter().filter(|txn| txn.told == Some(true)).count() as u64,
            objects: partitions.iter().map(|p| p.manifest.totals.objects).sum(),
            leader_changes: partitions.iter().map(|p| p.leader_epoch as u64).sum(),
            simulated_ms: self.context.now / MILLI,
        }
    }
}
