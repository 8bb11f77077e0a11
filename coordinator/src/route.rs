//! The way of a write or a read to the leader, and back.
//!
//! A node that leads proposes; every other forwards over gRPC and waits until its own state has what the
//! answer speaks of, so that whoever wrote reads what it wrote. What certainly was not done is tried again
//! elsewhere until the deadline; what may have been done is never sent twice (STYLE, "refused, failed,
//! unknown"). Must not: hold more calls than the callers do.

use std::time::Duration;

use highwater_model::NodeId;
use highwater_model::limits::{COMMAND_BYTES_MAX, ROUTE_ATTEMPT_WAIT, ROUTE_PAUSE};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::core::{Command, Refusal, Reply};
use crate::handle::{Coordinator, ReadError, Seat, WriteError};
use crate::proposer::Proposal;
use crate::raft::ProposeFailure;
use crate::rpc::{brief, never_sent, proto, protocol_min, timed, within};
use crate::session;

/// What one attempt came to.
pub(crate) enum Attempt<T> {
    /// Done, with the state's version that shows it.
    Done(T, u64),
    /// Certainly not done; may be tried elsewhere. The leader, if it was named.
    Elsewhere(String, Option<NodeId>),
    /// Certainly not done: the leader will not, for now.
    Later(String),
    /// It may have been done.
    Unknown(String),
}

type Outcome = Result<Reply, Refusal>;

impl Coordinator {
    /// Has the leader decide one command, and waits until this node's state shows it.
    pub(crate) async fn write(&self, command: Command) -> Result<Reply, WriteError> {
        check_size(&command)?;
        let deadline = Instant::now() + self.settings().propose_timeout;
        let mut route = Route::new(self);
        loop {
            let target = route.next();
            let attempt = match target {
                Some(node) if node == self.settings().node_id => {
                    self.propose_here(command.clone(), deadline).await
                }
                Some(node) => self.forward(node, &command, deadline).await,
                None => Attempt::Elsewhere("no coordinator is known".into(), None),
            };
            match attempt {
                Attempt::Done(outcome, version) => {
                    if !self.wait_for(version, deadline).await {
                        let reason = "it was decided, but this node has not heard of it in time";
                        return Err(WriteError::Unknown(reason.into()));
                    }
                    return Ok(outcome?);
                }
                Attempt::Unknown(reason) => return Err(WriteError::Unknown(reason)),
                Attempt::Elsewhere(reason, leader) => {
                    if self.is_closed() || !route.pause(leader, deadline).await {
                        return Err(WriteError::Failed(route.said.unwrap_or(reason)));
                    }
                }
                Attempt::Later(reason) => {
                    route.said = Some(reason.clone());
                    if self.is_closed() || !route.pause(None, deadline).await {
                        return Err(WriteError::Failed(reason));
                    }
                }
            }
        }
    }

    /// Returns once the state here has all that was acknowledged to anyone before the call.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.settings().propose_timeout;
        let mut route = Route::new(self);
        loop {
            let attempt = match route.next() {
                Some(node) if node == self.settings().node_id => self.own_read_version(deadline).await,
                Some(node) => self.ask_read_version(node, deadline).await,
                None => Attempt::Elsewhere("no coordinator is known".into(), None),
            };
            match attempt {
                Attempt::Done((), version) => {
                    return match self.wait_for(version, deadline).await {
                        true => Ok(()),
                        false => Err(ReadError("this node is behind the leader".into())),
                    };
                }
                Attempt::Unknown(reason) | Attempt::Later(reason) => return Err(ReadError(reason)),
                Attempt::Elsewhere(reason, leader) => {
                    if self.is_closed() || !route.pause(leader, deadline).await {
                        return Err(ReadError(reason));
                    }
                }
            }
        }
    }

    /// Proposes on this node.
    pub(crate) async fn propose_here(&self, command: Command, deadline: Instant) -> Attempt<Outcome> {
        let Seat::Member { proposals, node, .. } = self.seat() else {
            return Attempt::Elsewhere("this node is no coordinator".into(), None);
        };
        // Whoever asks: an entry that is larger than a message never reaches the other members, nor does any
        // that comes after it.
        if let Err(refusal) = check_size(&command) {
            return Attempt::Done(Err(refusal), 0);
        }
        if let Command::RegisterBroker(registration) = &command
            && self.is_leader()
            && let Some(reason) = session::running_elsewhere(self, registration)
        {
            return Attempt::Later(reason);
        }
        let (answer, told) = oneshot::channel();
        match tokio::time::timeout_at(deadline, proposals.send(Proposal { command, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Attempt::Elsewhere("the coordinator has stopped".into(), None),
            Err(_) => return Attempt::Elsewhere("the coordinator is overloaded".into(), None),
        }
        match tokio::time::timeout_at(deadline, told).await {
            Ok(Ok(Ok(outcome))) => Attempt::Done(outcome, node.cell().with(|state| state.version)),
            Ok(Ok(Err(ProposeFailure::NotLeader(leader)))) => {
                Attempt::Elsewhere("the control plane has no leader".into(), leader)
            }
            Ok(Ok(Err(ProposeFailure::Failed(e)))) => Attempt::Elsewhere(e, None),
            Ok(Ok(Err(ProposeFailure::Refused(e)))) => Attempt::Done(Err(Refusal::RequestInvalid(e)), 0),
            Ok(Ok(Err(ProposeFailure::Unknown(e)))) => Attempt::Unknown(e),
            Ok(Err(_)) => Attempt::Unknown("the coordinator stopped meanwhile".into()),
            Err(_) => Attempt::Unknown("timed out".into()),
        }
    }

    /// The version up to which a reader must wait, if this node leads.
    pub(crate) async fn own_read_version(&self, deadline: Instant) -> Attempt<()> {
        let Seat::Member { node, .. } = self.seat() else {
            return Attempt::Elsewhere("this node is no coordinator".into(), None);
        };
        match tokio::time::timeout_at(deadline, node.read_version()).await {
            Ok(Ok(version)) => Attempt::Done((), version),
            Ok(Err(ProposeFailure::NotLeader(leader))) => {
                Attempt::Elsewhere("the control plane has no leader".into(), leader)
            }
            Ok(Err(e)) => Attempt::Elsewhere(e.to_string(), None),
            Err(_) => Attempt::Elsewhere("timed out".into(), None),
        }
    }

    async fn forward(&self, node: NodeId, command: &Command, deadline: Instant) -> Attempt<Outcome> {
        use proto::propose_response::Outcome as Told;
        let wait = deadline.saturating_duration_since(Instant::now());
        let body = match serde_json::to_vec(command) {
            Ok(body) => body.into(),
            Err(e) => return Attempt::Elsewhere(e.to_string(), None),
        };
        let request = proto::ProposeRequest {
            protocol: protocol_min(),
            cluster_id: self.cluster_id(),
            from: self.settings().node_id,
            command: body,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let call = async {
            let mut client = self.channels().control(node)?;
            client.propose(timed(request, wait)).await
        };
        let answer = match within(wait, call).await {
            Ok(answer) => answer,
            Err(status) => return undone(node, &status),
        };
        let version = answer.version;
        let parsed = |e: serde_json::Error| Attempt::Unknown(format!("node {node} answered {e}"));
        match answer.outcome {
            Some(Told::Reply(reply)) => {
                serde_json::from_slice(&reply).map_or_else(parsed, |reply| Attempt::Done(Ok(reply), version))
            }
            Some(Told::Refused(refusal)) => serde_json::from_slice(&refusal)
                .map_or_else(parsed, |refusal| Attempt::Done(Err(refusal), version)),
            Some(Told::Failed(reason)) => Attempt::Later(reason),
            Some(Told::Unknown(reason)) => Attempt::Unknown(reason),
            Some(Told::NotLeader(other)) => not_leader(other),
            None => {
                Attempt::Unknown(format!("node {node} answered in a way that this release does not know"))
            }
        }
    }

    async fn ask_read_version(&self, node: NodeId, deadline: Instant) -> Attempt<()> {
        use proto::read_index_response::Outcome as Told;
        // A read can be asked again: a leader that is silent need not cost the whole time.
        let wait = deadline.saturating_duration_since(Instant::now()).min(ROUTE_ATTEMPT_WAIT);
        let request = proto::ReadIndexRequest {
            protocol: protocol_min(),
            cluster_id: self.cluster_id(),
            from: self.settings().node_id,
        };
        let call = async {
            let mut client = self.channels().control(node)?;
            client.read_index(timed(request, wait)).await
        };
        match within(wait, call).await.map(|answer| answer.outcome) {
            Ok(Some(Told::Version(version))) => Attempt::Done((), version),
            Ok(Some(Told::NotLeader(other))) => not_leader(other),
            Ok(Some(Told::Unavailable(reason))) => Attempt::Elsewhere(reason, None),
            Ok(None) => Attempt::Elsewhere(format!("node {node} gave no answer"), None),
            Err(status) => Attempt::Elsewhere(format!("node {node}: {}", brief(&status)), None),
        }
    }

    /// Waits until this node's state is of `version` or later; false if that takes too long.
    pub(crate) async fn wait_for(&self, version: u64, deadline: Instant) -> bool {
        let mut watch = self.watch();
        tokio::time::timeout_at(deadline, watch.wait_for(|known| *known >= version))
            .await
            .is_ok_and(|told| told.is_ok())
    }
}

fn check_size(command: &Command) -> Result<(), Refusal> {
    let bytes = command.bytes_estimate();
    match bytes <= COMMAND_BYTES_MAX {
        true => Ok(()),
        false => {
            Err(Refusal::LimitReached(format!("a change of {bytes} bytes; at most {COMMAND_BYTES_MAX}")))
        }
    }
}

fn not_leader<T>(other: proto::NotLeader) -> Attempt<T> {
    let leader = Some(other.leader).filter(|leader| *leader != 0);
    Attempt::Elsewhere("the control plane has no leader".into(), leader)
}

/// A call without an answer: what is known of it.
fn undone<T>(node: NodeId, status: &Status) -> Attempt<T> {
    let reason = format!("node {node}: {}", brief(status));
    // A status with a source is the connection's; one without was sent by the peer, which had not begun.
    let said_no = std::error::Error::source(status).is_none()
        && !matches!(
            status.code(),
            Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
        );
    match never_sent(status) || said_no {
        true => Attempt::Elsewhere(reason, None),
        false => Attempt::Unknown(reason),
    }
}

/// Whom to ask, in which order: who is said to lead, else one after another.
struct Route {
    coordinator: Coordinator,
    ids: Vec<NodeId>,
    next: usize,
    named: Option<NodeId>,
    /// Nodes that were named in a row without any of them leading.
    named_in_vain: usize,
    /// Why the leader would not, when it was asked last.
    said: Option<String>,
}

impl Route {
    fn new(coordinator: &Coordinator) -> Route {
        let ids: Vec<NodeId> = match coordinator.settings().is_lone() && coordinator.is_member() {
            true => vec![coordinator.settings().node_id],
            false => coordinator.channels().addresses().keys().copied().collect(),
        };
        let named = coordinator.leader();
        Route { coordinator: coordinator.clone(), next: 0, ids, named, named_in_vain: 0, said: None }
    }

    fn next(&mut self) -> Option<NodeId> {
        if let Some(named) = self.named.take().filter(|named| self.ids.contains(named)) {
            return Some(named);
        }
        let id = self.ids.get(self.next % self.ids.len().max(1)).copied();
        self.next += 1;
        id
    }

    /// Takes note of who is said to lead; false if there is no time for another attempt.
    async fn pause(&mut self, leader: Option<NodeId>, deadline: Instant) -> bool {
        self.named = leader;
        self.named_in_vain += 1;
        if let Some(leader) = leader {
            self.coordinator.note_leader(leader);
            // The first hint is followed at once.
            if self.named_in_vain == 1 {
                return Instant::now() < deadline;
            }
        }
        let pause: Duration = ROUTE_PAUSE;
        if Instant::now() + pause >= deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}
