//! One broker: the product's replicas, logs, validation and sealing in a shell that speaks the simulated
//! network. The shell does what the product's does and no more: it carries messages, keeps timers and waits.
//!
//! `calls.rs` talks to the control plane, `serve.rs` to clients, `replicate.rs` and `groups.rs` to other
//! brokers, `shards.rs` coordinates the consumer group and transactions, `switch.rs` brings a partition from
//! one replication to the other, `tier.rs` talks to the bucket.
//! A process is dropped when it dies; what is left is its data directory.

use std::collections::BTreeMap;

use highwater_broker::core::raft_election::Peers;
use highwater_log::PartitionLog;
use highwater_model::{Offset, OffsetBounds};
use highwater_tiering::core::names::Names;
use highwater_tiering::object::{Rebuilder, Sealer};

use crate::checker::Anomaly;
use crate::context::{Context, Event};
use crate::disk::DataDir;
use crate::guards::Guard;
use crate::message::{Message, Metadata};
use crate::network::{Address, MILLI, Micros, SECOND};
use crate::random::Chance;

mod calls;
mod delete;
mod groups;
mod held;
mod read;
mod replicate;
mod serve;
mod shards;
mod switch;
mod tier;
mod upload;

pub use replicate::brief_answer;
pub use upload::topic_ref;

use crate::world::batches;
use calls::Call;
use held::Held;

/// Keys of the simulated cluster.
pub fn names() -> Names {
    Names::new("sim").expect("a legal cluster id")
}

const HEARTBEAT: Micros = 250 * MILLI;

/// A broker, alive or not.
pub struct Broker {
    pub node: u64,
    life: u64,
    chance: Chance,
    pub data: DataDir,
    /// Of the wall clock, from the true time.
    pub skew_ms: i64,
    /// A disk of this process fails so soon that it is restarted after this.
    pub fails_at: Option<Micros>,
    is_paused: bool,
    /// What came while it was paused.
    backlog: Vec<Event>,
    process: Option<Process>,
}

/// What dies with a process.
struct Process {
    incarnation: uuid::Uuid,
    clean_stop_of: Option<u64>,
    /// Once registered.
    epoch: Option<u64>,
    metadata: Option<Metadata>,
    /// The member of the control plane that is asked next.
    member: u64,
    member_answered: Micros,
    next_heartbeat: Micros,
    held: BTreeMap<u32, Held>,
    /// Nodes that are heard, for the groups.
    peers: Peers,
    next_greeting: Micros,
    calls: BTreeMap<u64, Call>,
    tier_reads: BTreeMap<u64, tier::TierRead>,
    shards: shards::Shards,
    sealer: Sealer,
    rebuilder: Rebuilder,
    scratch: Vec<u8>,
    /// In the last step of its life: how long it stays down.
    stopping: Option<Micros>,
    /// Everything tiered goes, whatever local retention says.
    evicts_all: bool,
}

impl Broker {
    pub fn new(node: u64, storage: uuid::Uuid, chance: Chance) -> Broker {
        Broker {
            node,
            life: 0,
            chance,
            data: DataDir::new(storage),
            skew_ms: 0,
            fails_at: None,
            is_paused: false,
            backlog: Vec::new(),
            process: None,
        }
    }

    fn address(&self) -> Address {
        Address::Broker(self.node)
    }

    /// What the process's timers see: never goes back.
    fn now_ms(&self, context: &Context) -> i64 {
        (context.now / MILLI) as i64
    }

    fn wall_ms(&self, context: &Context) -> i64 {
        self.now_ms(context) + self.skew_ms
    }

    // --- life and death ---

    pub fn start(&mut self, context: &mut Context) {
        assert!(self.process.is_none(), "one process at a time");
        self.life += 1;
        let incarnation = self.chance.uuid();
        context.note(format_args!("broker {} starts, life {}", self.node, self.life));
        let members = context.params.members;
        self.process = Some(Process {
            incarnation,
            clean_stop_of: self.data.clean_stop_of.take(),
            epoch: None,
            metadata: None,
            member: self.chance.between(1, members),
            member_answered: context.now,
            next_heartbeat: 0,
            held: BTreeMap::new(),
            peers: Peers::default(),
            next_greeting: 0,
            calls: BTreeMap::new(),
            tier_reads: BTreeMap::new(),
            shards: shards::Shards::default(),
            sealer: Sealer::new(),
            rebuilder: Rebuilder::new(),
            scratch: Vec::new(),
            stopping: None,
            evicts_all: false,
        });
        context.after(MILLI, Event::BrokerTick { node: self.node, life: self.life });
    }

    /// The process is gone, and with `loses_power` what it had not synced. Its epoch, if it had one.
    pub fn die(&mut self, context: &mut Context, loses_power: bool) -> Option<u64> {
        let power = if loses_power { "and its power" } else { "" };
        context.note(format_args!("broker {} dies {power}", self.node));
        let epoch = self.process.take().and_then(|process| process.epoch);
        self.is_paused = false;
        self.backlog.clear();
        self.fails_at = None;
        match loses_power {
            true => self.data.lose_power(&mut self.chance),
            false => self.data.settle(),
        }
        epoch
    }

    pub fn start_after(&mut self, context: &mut Context, down_for: Micros) {
        // A later death has its own start.
        self.life += 1;
        context.after(down_for, Event::BrokerStart { node: self.node, life: self.life });
    }

    pub fn pause(&mut self, context: &mut Context, lasts: Micros) {
        if self.process.is_some() && !self.is_paused {
            context.note(format_args!("broker {} is paused", self.node));
            self.is_paused = true;
            context.after(lasts, Event::Resume { node: self.node });
        }
    }

    fn resume(&mut self, context: &mut Context) {
        if std::mem::take(&mut self.is_paused) {
            context.note(format_args!("broker {} goes on", self.node));
            for event in std::mem::take(&mut self.backlog) {
                self.handle(context, event);
            }
        }
    }

    /// SIGTERM: gives its leaders away, then closes its logs.
    pub fn stop_in_order(&mut self, context: &mut Context, down_for: Micros) {
        let Some(process) = self.process.as_mut().filter(|p| p.stopping.is_none()) else { return };
        context.note(format_args!("broker {} stops in order", self.node));
        process.stopping = Some(down_for);
        self.call_stop(context);
        // It does not wait for ever.
        context.after(2 * SECOND, Event::BrokerStop { node: self.node, life: self.life });
    }

    /// Closes what it can; a log that cannot be closed makes the stop an unclean one.
    fn close(&mut self, context: &mut Context) {
        let Some(mut process) = self.process.take() else { return };
        let is_clean = process.held.values_mut().all(|held| held.close().is_ok());
        for other in 1..=context.params.brokers {
            let message = Message::PeerLost { node: self.node };
            context.send(self.address(), Address::Broker(other), message);
        }
        let clean = if is_clean && process.epoch.is_some() { "cleanly" } else { "uncleanly" };
        context.note(format_args!("broker {} has stopped {clean}", self.node));
        self.data.clean_stop_of = process.epoch.filter(|_| is_clean);
        let down_for = process.stopping.unwrap_or(SECOND);
        drop(process);
        self.is_paused = false;
        self.backlog.clear();
        self.data.settle();
        self.start_after(context, down_for);
    }

    /// Faults are over: who is down starts, who is paused goes on.
    pub fn heal(&mut self, context: &mut Context) {
        self.skew_ms = 0;
        self.resume(context);
        for partition in self.data.partitions() {
            self.data.sim(partition).expect("listed").clear_faults();
        }
        if self.process.as_ref().is_some_and(|process| process.stopping.is_some()) {
            self.close(context);
        }
        if self.fails_at.is_some() || self.holds_poison() {
            self.die(context, false);
        }
        if self.process.is_none() {
            self.start(context);
        }
    }

    fn holds_poison(&self) -> bool {
        let held = self.process.iter().flat_map(|p| p.held.values());
        held.into_iter().any(|h| {
            h.log().refusal().is_some() || h.group.as_ref().is_some_and(|g| g.store.failure().is_some())
        })
    }

    // --- events ---

    pub fn handle(&mut self, context: &mut Context, event: Event) {
        if let Event::Resume { .. } = event {
            return self.resume(context);
        }
        let current = self.life;
        match event {
            Event::BrokerTick { life, .. }
            | Event::Flush { life, .. }
            | Event::GroupSync { life, .. }
            | Event::BrokerStart { life, .. }
            | Event::BrokerStop { life, .. }
                if life != current => {}
            Event::BrokerStart { .. } if self.process.is_none() => self.start(context),
            _ if self.is_paused => self.backlog.push(event),
            Event::Deliver { from, message, .. } => self.receive(context, from, message),
            Event::BrokerTick { .. } => self.tick(context),
            Event::Flush { partition, .. } => self.flush(context, partition),
            Event::GroupSync { partition, opening, .. } => self.group_sync(context, partition, opening),
            Event::BrokerStop { .. } => self.close(context),
            _ => {}
        }
    }

    fn receive(&mut self, context: &mut Context, from: Address, message: Message) {
        if self.process.is_none() {
            return;
        }
        match message {
            Message::Produce { id, partition, batch, is_all } => {
                self.produce(context, from, id, partition, &batch, is_all);
            }
            Message::Fetch { id, partition, offset } => self.fetch(context, from, id, partition, offset),
            Message::Exactly { id, ask } => self.take_exactly(context, from, id, ask),
            Message::Between(between) => self.take_between(context, from, between),
            Message::WhoLeads { id } => self.who_leads(context, from, id),
            Message::ReplicaFetch { id, partition, fetch } => {
                self.serve_replica(context, from, id, partition, fetch);
            }
            Message::ReplicaAnswer { id, partition, answer } => {
                self.take_answer(context, id, partition, answer);
            }
            Message::Raft(message) => self.take_raft(context, message),
            Message::Greeting { node, said, is_answer } => self.greeted(context, node, said, is_answer),
            Message::PeerLost { node } => self.peer_lost(node),
            Message::WhichReplica { partition, since_epoch } => {
                self.which_replica(context, from, partition, since_epoch);
            }
            Message::ReplicaIs { partition, since_epoch, node, replica } => {
                self.replica_is(partition, since_epoch, node, replica);
            }
            Message::HeartbeatTaken { leader, newer } => self.heartbeat_taken(context, from, leader, newer),
            Message::Pushed(metadata) => self.adopt(context, metadata),
            Message::ProposeDone { id, outcome } => self.propose_done(context, id, outcome),
            Message::ReadDone { id, newest } => self.read_done(context, id, newest),
            Message::Answered { id, answer } => self.bucket_answered(context, id, &answer),
            _ => {}
        }
    }

    fn tick(&mut self, context: &mut Context) {
        if let Some(left) = &mut self.fails_at {
            *left = left.saturating_sub(30 * MILLI);
            if *left == 0 {
                self.die(context, false);
                return self.start_after(context, 300 * MILLI);
            }
        }
        let pause = self.chance.between(15, 40) * MILLI;
        context.after(pause, Event::BrokerTick { node: self.node, life: self.life });
        self.beat(context);
        self.greet(context);
        self.time_out_calls(context);
        for partition in self.held_partitions() {
            self.tick_partition(context, partition);
        }
        self.tick_shards(context);
    }

    fn held_partitions(&self) -> Vec<u32> {
        self.process.iter().flat_map(|p| p.held.keys().copied()).collect()
    }

    fn tick_partition(&mut self, context: &mut Context, partition: u32) {
        let now_ms = self.now_ms(context);
        let Some(held) = self.held(partition) else { return };
        let moves = held.machine_mut().tick(now_ms);
        self.moved(context, partition, moves);
        self.fetch_from_leader(context, partition);
        self.tick_group(context, partition);
        self.tick_switch(context, partition);
        self.tick_log_start(context, partition);
        self.flush_if_due(context, partition);
        // Internal topics are not offloaded, and in this mode the others go along.
        if context.params.workers == 0 {
            self.tick_tier(context, partition);
        }
        self.compare_committed(context, partition);
    }

    /// What this replica has come to hold for committed since the last look.
    fn compare_committed(&mut self, context: &mut Context, partition: u32) {
        let node = self.node;
        let Some(held) = self.held(partition) else { return };
        let end = held.high_watermark();
        let from = held.compared.max(held.log().local_start()).min(end);
        held.compared = end;
        if from < end {
            context.compare_committed(partition, node, batches(held.log(), from, end));
        }
    }

    fn held(&mut self, partition: u32) -> Option<&mut Held> {
        self.process.as_mut()?.held.get_mut(&partition)
    }

    // --- what is looked at from outside ---

    /// Whether a start that was scheduled in that life happens.
    pub fn starts_in(&self, life: u64) -> bool {
        self.life == life && self.process.is_none()
    }

    /// A process is there, has registered and is not about to end.
    pub fn is_up(&self) -> bool {
        let is_sound = |process: &Process| process.epoch.is_some() && process.stopping.is_none();
        self.process.as_ref().is_some_and(is_sound) && !self.is_paused && self.fails_at.is_none()
    }

    pub fn log(&self, partition: u32) -> Option<&PartitionLog> {
        self.process.as_ref()?.held.get(&partition).map(Held::log)
    }

    /// High watermark and log end.
    pub fn ends(&self, partition: u32) -> Option<(Offset, Offset)> {
        let held = self.process.as_ref()?.held.get(&partition)?;
        Some((held.high_watermark(), held.log().log_end()))
    }

    pub fn local_start(&self, partition: u32) -> Option<Offset> {
        self.log(partition).map(PartitionLog::local_start)
    }

    /// From now on everything is sealed at once, and nothing stays local that is tiered.
    pub fn tier_all(&mut self) {
        if let Some(process) = &mut self.process {
            process.evicts_all = true;
        }
    }

    /// The invariants of this broker, after each of its steps.
    pub fn watch(&mut self, context: &mut Context) {
        let node = self.node;
        let Some(process) = &mut self.process else { return };
        let state = process.metadata.as_ref().map(|m| m.state.clone());
        for (partition, held) in &mut process.held {
            let manifest = state.as_ref().and_then(|s| s.manifest(context.params.tp(*partition)).cloned());
            let high_watermark = held.high_watermark();
            let (seen_epoch, seen) = held.watched;
            let epoch = held.leader_epoch();
            if epoch < seen_epoch || high_watermark < seen {
                let what = format!(
                    "broker {node} partition {partition}: epoch {seen_epoch} to {epoch}, high watermark {seen} \
                     to {high_watermark}"
                );
                context.find(Anomaly::WentBack, what);
            }
            held.watched = (epoch, high_watermark);
            let Some(manifest) = manifest.filter(|_| held.leads()) else { continue };
            let log = held.log();
            let bounds = OffsetBounds {
                log_start: log.log_start().max(manifest.log_start),
                local_start: log.local_start(),
                tiered_end: manifest.tiered_end,
                last_stable: high_watermark.max(manifest.tiered_end),
                high_watermark: high_watermark.max(manifest.tiered_end),
                log_end: log.log_end(),
            };
            let guarded = context.guards.holds(Guard::PublishBeforeEvict);
            if let Err(broken) = bounds.check()
                && guarded
            {
                context.find(Anomaly::BoundsBroken, format!("broker {node} partition {partition}: {broken}"));
            }
        }
    }
}
