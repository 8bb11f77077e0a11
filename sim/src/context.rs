//! What every part of the simulated world shares: the time, the queue of events, the network, the trace, the
//! history and what was found wrong. Nothing here decides anything about brokers or clients.

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::sync::Arc;

use highwater_broker::core::raft_side::ReplicaId;
use highwater_model::Offset;

use crate::checker::{Anomaly, Finding};
use crate::guards::Guards;
use crate::history::{HeldBatch, History};
use crate::message::Message;
use crate::network::{Address, Micros, Network};
use crate::params::Params;
use crate::random::Chance;
use crate::trace::Trace;

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    Deliver {
        from: Address,
        to: Address,
        message: Message,
    },
    /// A broker process looks after its timers. `life` is of the process: those of a dead one come to
    /// nothing.
    BrokerTick {
        node: u64,
        life: u64,
    },
    /// A partition's flush reaches the disk.
    Flush {
        node: u64,
        life: u64,
        partition: u32,
    },
    /// The sync of a group's side file is done.
    GroupSync {
        node: u64,
        life: u64,
        partition: u32,
        /// Names the opening of the group.
        opening: u64,
    },
    BrokerStart {
        node: u64,
        life: u64,
    },
    BrokerStop {
        node: u64,
        life: u64,
    },
    Resume {
        node: u64,
    },
    ControlTick,
    /// A proposal is on a majority of the members.
    Commit {
        proposal: u64,
    },
    /// A member has applied up to this entry.
    MemberApplies {
        member: u64,
        index: usize,
    },
    MemberUp {
        member: u64,
    },
    ClientTick {
        client: u32,
    },
    /// The next fault is due.
    Fault,
    /// The network, the bucket or a clock is itself again.
    FaultEnds {
        fault: u64,
    },
}

struct Scheduled {
    at: Micros,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as the heap gives the greatest first.
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// The shared part of the world.
pub struct Context {
    pub now: Micros,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
    ids: u64,
    pub network: Network,
    pub chance: Chance,
    pub trace: Trace,
    pub history: History,
    pub findings: Vec<Finding>,
    pub guards: Guards,
    pub params: Arc<Params>,
    /// Every batch that any replica has held for committed, by partition and base offset, and who said so.
    pub committed: BTreeMap<(u32, Offset), (u64, HeldBatch)>,
    /// Who led, by partition and term.
    led: BTreeMap<(u32, u64), ReplicaId>,
    /// Faults are over.
    pub is_healing: bool,
}

impl Context {
    pub fn new(params: Arc<Params>, guards: Guards) -> Context {
        let chance = Chance::new(params.seed);
        let network = Network::new(chance.fork("network"), params.members_on_brokers);
        Context {
            now: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            ids: 0,
            network,
            chance: chance.fork("world"),
            trace: Trace::default(),
            history: History::default(),
            findings: Vec::new(),
            guards,
            params,
            committed: BTreeMap::new(),
            led: BTreeMap::new(),
            is_healing: false,
        }
    }

    /// An id that nothing else in this world has.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.sequence += 1;
        self.queue.push(Scheduled { at: self.now + delay, sequence: self.sequence, event });
    }

    /// Takes the next event and moves the time to it.
    pub fn next(&mut self) -> Option<Event> {
        let scheduled = self.queue.pop()?;
        assert!(scheduled.at >= self.now, "time does not go back");
        self.now = scheduled.at;
        Some(scheduled.event)
    }

    pub fn send(&mut self, from: Address, to: Address, message: Message) {
        let arrivals = self.network.arrivals(self.now, from, to);
        if arrivals[0].is_none() {
            self.note(format_args!("{from:?}->{to:?} LOST {message}"));
        }
        for at in arrivals.into_iter().flatten() {
            let delay = at - self.now;
            self.after(delay, Event::Deliver { from, to, message: message.clone() });
        }
    }

    /// A line of the trace.
    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.line(self.now, what);
    }

    /// What one replica holds for committed is what every other does (invariant 4).
    pub fn compare_committed(&mut self, partition: u32, node: u64, batches: Vec<HeldBatch>) {
        for batch in batches {
            let key = (partition, batch.base_offset);
            let before = self.committed.range((partition, 0)..key).next_back().map(|(_, known)| *known);
            let (other, known) = *self.committed.entry(key).or_insert((node, batch));
            let inside = before.filter(|(_, b)| b.next_offset > batch.base_offset);
            if let Some((other, known)) = inside.or((known != batch).then_some((other, known))) {
                let what = format!(
                    "partition {partition}: node {node} has {batch:?} for committed, node {other} {known:?}"
                );
                return self.find(Anomaly::Divergence, what);
            }
        }
    }

    /// A term has one leader (invariant 6).
    pub fn leads(&mut self, partition: u32, term: u64, replica: ReplicaId) {
        self.note(format_args!("p{partition}: replica {replica:x} leads in term {term}"));
        let first = *self.led.entry((partition, term)).or_insert(replica);
        if first != replica {
            let what = format!("partition {partition} term {term}: replicas {first:x} and {replica:x}");
            self.find(Anomaly::TwoLeaders, what);
        }
    }

    pub fn find(&mut self, anomaly: Anomaly, detail: String) {
        self.note(format_args!("FOUND {anomaly:?}: {detail}"));
        self.findings.push(Finding { anomaly, detail });
    }
}
