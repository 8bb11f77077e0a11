//! The leader's sessions: `core/sessions.rs` with a clock, numbered streams and what brokers report.
//!
//! One lock, held for one step at a time (invariant 7). Everything here dies with the leader's term, but for
//! the last reports, which the next term may start from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_model::NodeId;
use highwater_model::limits::{FENCE_AGAIN, SESSION_GRACE, SESSION_REOPEN};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::{BrokerReport, Loads, SessionEffect, SessionEvent, SessionTimes, Sessions as Reactor};
use crate::settings::CoordinatorSettings;

/// A session that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub node_id: NodeId,
    pub broker_epoch: u64,
}

/// The sessions of the brokers with this leader.
pub(crate) struct Sessions {
    /// The broker in this process, if there is one, has no stream.
    own: NodeId,
    times: SessionTimes,
    begun: Instant,
    table: Mutex<Table>,
    /// Something may be due earlier than was thought.
    changed: Notify,
}

struct Table {
    reactor: Reactor,
    /// When this node began to lead.
    since: Instant,
    streams: u64,
    /// Brokers that have opened a stream in this term.
    met: BTreeSet<NodeId>,
    /// Streams that are open.
    open: BTreeMap<NodeId, u64>,
    /// Whom to fence, in which epoch.
    fences: BTreeSet<(NodeId, u64)>,
    reports: BTreeMap<NodeId, BrokerReport>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Sessions {
    pub(crate) fn new(settings: &CoordinatorSettings) -> Sessions {
        let times = SessionTimes {
            timeout_ms: ms(settings.session_timeout).max(1),
            reopen_ms: ms(SESSION_REOPEN),
            again_ms: ms(FENCE_AGAIN),
        };
        let now = Instant::now();
        let table = Table {
            reactor: Reactor::new(times),
            since: now,
            streams: 0,
            met: BTreeSet::new(),
            open: BTreeMap::new(),
            fences: BTreeSet::new(),
            reports: BTreeMap::new(),
        };
        Sessions {
            own: settings.node_id,
            times,
            begun: now,
            table: Mutex::new(table),
            changed: Notify::new(),
        }
    }

    /// A term begins: nobody is known, everybody has a fresh timeout.
    pub(crate) fn begin_term(&self) {
        let mut table = self.table();
        table.reactor = Reactor::new(self.times);
        table.since = Instant::now();
        table.met.clear();
        table.open.clear();
        table.fences.clear();
    }

    /// The brokers that may have a session, with their epochs.
    pub(crate) fn follow(&self, brokers: Vec<(NodeId, u64)>) {
        let is_there = |node: &NodeId| *node == self.own || brokers.iter().any(|(id, _)| id == node);
        self.table().reports.retain(|node, _| is_there(node));
        self.step(&SessionEvent::Brokers(brokers));
    }

    /// Notes that a stream has opened; returns its number.
    pub(crate) fn open(&self, opening: Opening) -> u64 {
        let stream = {
            let mut table = self.table();
            table.streams += 1;
            table.met.insert(opening.node_id);
            let stream = table.streams;
            table.open.insert(opening.node_id, stream);
            stream
        };
        let Opening { node_id, broker_epoch } = opening;
        self.step(&SessionEvent::Hello { node_id, broker_epoch, stream });
        stream
    }

    /// Notes a report; false if the session is over.
    pub(crate) fn heard(&self, opening: Opening, stream: u64) -> bool {
        self.step(&SessionEvent::Heartbeat { node_id: opening.node_id, stream });
        self.table().reactor.is_open(opening.node_id, stream)
    }

    /// The stream has broken without a word.
    pub(crate) fn broken(&self, opening: Opening, stream: u64) {
        {
            let mut table = self.table();
            if table.open.get(&opening.node_id) == Some(&stream) {
                table.open.remove(&opening.node_id);
            }
        }
        self.step(&SessionEvent::StreamClosed { node_id: opening.node_id, stream });
        self.changed.notify_one();
    }

    pub(crate) fn note_report(&self, node: NodeId, report: BrokerReport) {
        self.table().reports.insert(node, report);
    }

    /// What brokers carry, by their last reports.
    pub(crate) fn loads(&self) -> Loads {
        Loads::from_reports(self.table().reports.values())
    }

    /// This term has only just begun: who is alive is not known yet.
    pub(crate) fn is_young(&self) -> bool {
        self.table().since.elapsed() < Duration::from_millis(self.times.timeout_ms)
    }

    /// Whether the process that registered with that epoch has a session, or may come back with one.
    pub(crate) fn may_be_alive(&self, node: NodeId, broker_epoch: u64) -> bool {
        let table = self.table();
        let met = table.met.contains(&node);
        table.since.elapsed() < SESSION_GRACE || met && table.reactor.may_be_alive(node, broker_epoch)
    }

    /// Nobody listens at that broker's address: unless it has a stream, its process is gone.
    pub(crate) fn gone(&self, node: NodeId, broker_epoch: u64) {
        let mut table = self.table();
        if !table.open.contains_key(&node) {
            table.fences.insert((node, broker_epoch));
        }
        drop(table);
        self.changed.notify_one();
    }

    /// Whom to fence now; and when the next one may be due.
    pub(crate) fn due(&self) -> (Vec<(NodeId, u64)>, Option<Instant>) {
        self.step(&SessionEvent::Tick);
        let mut table = self.table();
        let fences = std::mem::take(&mut table.fences).into_iter().collect();
        let next = table.reactor.next_due_ms().map(|due| self.begun + Duration::from_millis(due));
        (fences, next)
    }

    /// Waits until something may be due earlier than was thought.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn step(&self, event: &SessionEvent) {
        let now_ms = ms(self.begun.elapsed());
        let mut effects = Vec::new();
        let mut table = self.table();
        table.reactor.step(now_ms, event, &mut effects);
        for SessionEffect::Fence { node_id, broker_epoch } in effects {
            table.fences.insert((node_id, broker_epoch));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
