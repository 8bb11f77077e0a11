//! Broker sessions as the leader of the control plane judges them: a reactor on a monotonic clock. A broker
//! that is silent for the session's timeout, or whose stream has broken and does not come back soon, is to be
//! fenced. Soft state: it begins anew with every leader, who gives everybody a fresh timeout.
//!
//! Must not: read a clock or touch a stream. Whether a broker really is fenced is decided by the state
//! machine; until it is, the reactor asks again. Invariants: 16, 17 (a wrong clock fences too early or too
//! late, which costs availability, never correctness).

use std::collections::BTreeMap;

use highwater_model::NodeId;

/// The reactor's times, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimes {
    /// Longest silence (`broker.session.timeout.ms`).
    pub timeout_ms: u64,
    /// Longest wait for a broken stream to come back: processes that die break theirs at once.
    pub reopen_ms: u64,
    /// Pause before fencing is asked for again.
    pub again_ms: u64,
}

/// What happens to sessions. Streams have numbers that are never used twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The brokers that are not fenced, with their epochs: at the beginning, and when that changes.
    Brokers(Vec<(NodeId, u64)>),
    /// A broker has opened a stream.
    Hello {
        node_id: NodeId,
        broker_epoch: u64,
        stream: u64,
    },
    Heartbeat {
        node_id: NodeId,
        stream: u64,
    },
    /// A stream has broken without a word.
    StreamClosed {
        node_id: NodeId,
        stream: u64,
    },
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEffect {
    Fence { node_id: NodeId, broker_epoch: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    broker_epoch: u64,
    /// The newest stream, while it is open.
    stream: Option<u64>,
    /// When it lapses, or when fencing is asked for again.
    due_ms: u64,
    has_lapsed: bool,
}

/// The sessions with one leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    times: SessionTimes,
    now_ms: u64,
    sessions: BTreeMap<NodeId, Session>,
}

impl Sessions {
    pub fn new(times: SessionTimes) -> Sessions {
        assert!(times.timeout_ms > 0 && times.again_ms > 0, "times that let a session live");
        Sessions { times, now_ms: 0, sessions: BTreeMap::new() }
    }

    /// Takes one event at `now_ms` of a monotonic clock; pushes what is to be done.
    pub fn step(&mut self, now_ms: u64, event: &SessionEvent, effects: &mut Vec<SessionEffect>) {
        self.now_ms = self.now_ms.max(now_ms);
        match event {
            SessionEvent::Brokers(brokers) => self.follow(brokers),
            SessionEvent::Hello { node_id, broker_epoch, stream } => {
                self.hello(*node_id, *broker_epoch, *stream);
            }
            SessionEvent::Heartbeat { node_id, stream } => {
                let due_ms = self.now_ms + self.times.timeout_ms;
                if let Some(session) = self.live(*node_id, *stream) {
                    session.due_ms = due_ms;
                }
            }
            SessionEvent::StreamClosed { node_id, stream } => {
                let soon_ms = self.now_ms + self.times.reopen_ms;
                if let Some(session) = self.live(*node_id, *stream) {
                    session.stream = None;
                    session.due_ms = session.due_ms.min(soon_ms);
                }
            }
            SessionEvent::Tick => {}
        }
        self.lapse(effects);
    }

    /// Whether reports on that stream keep a session alive; where not, the broker is to register again.
    pub fn is_open(&self, node_id: NodeId, stream: u64) -> bool {
        let session = self.sessions.get(&node_id);
        debug_assert!(session.is_none_or(|session| !session.has_lapsed || session.stream.is_none()));
        session.is_some_and(|session| session.stream == Some(stream))
    }

    /// Whether the process with that epoch has a stream, or may still open one.
    pub fn may_be_alive(&self, node_id: NodeId, broker_epoch: u64) -> bool {
        let session = self.sessions.get(&node_id).filter(|session| session.broker_epoch == broker_epoch);
        session.is_some_and(|session| !session.has_lapsed && session.due_ms > self.now_ms)
    }

    /// When the next `Tick` is due, if nothing happens before.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.sessions.values().map(|session| session.due_ms).min()
    }

    /// Sessions are those of the brokers that are not fenced; a new one has the whole timeout to open a
    /// stream.
    fn follow(&mut self, brokers: &[(NodeId, u64)]) {
        let known = std::mem::take(&mut self.sessions);
        let due_ms = self.now_ms + self.times.timeout_ms;
        for (node_id, broker_epoch) in brokers {
            let fresh = Session { broker_epoch: *broker_epoch, stream: None, due_ms, has_lapsed: false };
            let session = known.get(node_id).filter(|session| session.broker_epoch == *broker_epoch);
            self.sessions.insert(*node_id, session.copied().unwrap_or(fresh));
        }
        debug_assert!(self.sessions.len() <= brokers.len());
    }

    /// A session that has lapsed stays so: the broker has to register again.
    fn hello(&mut self, node_id: NodeId, broker_epoch: u64, stream: u64) {
        let due_ms = self.now_ms + self.times.timeout_ms;
        let Some(session) = self.sessions.get_mut(&node_id) else { return };
        if session.broker_epoch == broker_epoch && !session.has_lapsed {
            debug_assert!(session.stream.is_none_or(|before| before < stream), "numbered as they open");
            session.stream = Some(stream);
            session.due_ms = due_ms;
        }
    }

    fn live(&mut self, node_id: NodeId, stream: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&node_id).filter(|session| session.stream == Some(stream))
    }

    fn lapse(&mut self, effects: &mut Vec<SessionEffect>) {
        let (now_ms, again_ms) = (self.now_ms, self.times.again_ms);
        for (node_id, session) in &mut self.sessions {
            if session.due_ms <= now_ms {
                session.has_lapsed = true;
                session.stream = None;
                session.due_ms = now_ms + again_ms;
                let broker_epoch = session.broker_epoch;
                effects.push(SessionEffect::Fence { node_id: *node_id, broker_epoch });
            }
        }
        assert!(self.sessions.values().all(|session| session.due_ms > now_ms), "everything due is done");
    }
}
