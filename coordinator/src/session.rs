//! Broker sessions: the leader's side of the streams, and the broker's.
//!
//! A broker reports over one stream to whoever leads the control plane; who is silent for too long, or whose
//! stream broke and does not come back, is fenced (`core/sessions.rs` judges, `duties.rs` carries out).
//! Sessions are the leader's soft state and die with its term. The broker judges for itself too: it is live
//! for as long as the last answered report allows, counted from when that report was sent, so that it knows
//! no later than the leader that its session has lapsed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use highwater_model::NodeId;
use highwater_model::limits::{
    SESSION_ANSWERS_PENDING, SESSION_OPEN_WAIT, SESSION_REPORT_BYTES_MAX, SESSION_REPORT_INTERVAL,
    SESSION_RETRY, SESSION_SILENCE,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::core::{BrokerRegistration, BrokerReport, Command, Reply};
use crate::door::check_cluster;
use crate::duties;
use crate::handle::{Coordinator, Seat, WriteError, unexpected};
use crate::rpc::{brief, check_client, proto, protocol_min, uuid_bytes, uuid_of, within};
use crate::sessions::Opening;

type Answer = Result<proto::SessionAnswer, Status>;

// --- the leader's side ---

/// Serves one stream until it ends; the first report says whose it is.
pub(crate) async fn serve(
    coordinator: &Coordinator,
    mut reports: Streaming<proto::SessionReport>,
    seat: OwnedSemaphorePermit,
) -> Result<impl Stream<Item = Answer> + Send + 'static, Status> {
    let first = tokio::time::timeout(SESSION_OPEN_WAIT, reports.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("a session begins with a report"))??;
    let first = first.ok_or_else(|| Status::invalid_argument("a session begins with a report"))?;
    check_client(first.node_id, first.protocol).map_err(Status::failed_precondition)?;
    check_cluster(coordinator, first.node_id, &first.cluster_id)?;
    let (answers, mut outbox) = mpsc::channel(SESSION_ANSWERS_PENDING);
    let session = Session { coordinator: coordinator.clone(), node_id: first.node_id, answers };
    coordinator.spawn(async move {
        session.run(first, reports).await;
        drop(seat);
    });
    Ok(futures::stream::poll_fn(move |context| outbox.poll_recv(context)))
}

struct Session {
    coordinator: Coordinator,
    node_id: NodeId,
    answers: mpsc::Sender<Answer>,
}

impl Session {
    async fn run(self, first: proto::SessionReport, mut reports: Streaming<proto::SessionReport>) {
        let Seat::Member { sessions, .. } = self.coordinator.seat() else {
            return self.not_leader(first.sequence).await;
        };
        let sessions = Arc::clone(sessions);
        if !self.coordinator.leads_for_sure() {
            return self.not_leader(first.sequence).await;
        }
        let (epoch, incarnation) = (first.broker_epoch, uuid_of(&first.incarnation).unwrap_or_default());
        let known = self.coordinator.with_state(|state| {
            state.brokers.get(&self.node_id).map(|b| (b.epoch, b.incarnation, b.is_fenced))
        });
        let ended = match known {
            Some((e, i, false)) if (e, i) == (epoch, incarnation) => None,
            Some((e, i, true)) if (e, i) == (epoch, incarnation) => {
                Some("the session has lapsed; register again")
            }
            _ => Some("another process has registered this node"),
        };
        if let Some(ended) = ended {
            return self.end(first.sequence, ended).await;
        }
        // It may have registered a moment ago, before the worker has looked.
        sessions.follow(duties::others(&self.coordinator));
        let opening = Opening { node_id: self.node_id, broker_epoch: epoch };
        let stream = sessions.open(opening);
        let mut closed = self.coordinator.closed();
        let mut report = first;
        loop {
            if let Some(body) = parsed(&report.report) {
                sessions.note_report(self.node_id, body);
            }
            if !self.coordinator.leads_for_sure() {
                return self.not_leader(report.sequence).await;
            }
            if !sessions.heard(opening, stream) {
                sessions.broken(opening, stream);
                return self.end(report.sequence, "the session has lapsed; register again").await;
            }
            if self.answer(report.sequence, String::new(), None).await.is_err() {
                break;
            }
            report = tokio::select! {
                next = reports.message() => match next {
                    Ok(Some(report)) => report,
                    Ok(None) | Err(_) => break,
                },
                _ = closed.wait_for(|closed| *closed) => return,
            };
        }
        sessions.broken(opening, stream);
        // A process that was killed need not be waited for.
        let address =
            self.coordinator.with_state(|state| Some(state.brokers.get(&self.node_id)?.grpc.clone()));
        if let Some(address) = address
            && duties::nobody_listens(&address).await
        {
            sessions.gone(self.node_id, epoch);
        }
    }

    async fn answer(
        &self,
        sequence: u64,
        ended: String,
        not_leader: Option<proto::NotLeader>,
    ) -> Result<(), mpsc::error::SendError<Answer>> {
        let timeout = self.coordinator.settings().session_timeout;
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.answers.send(Ok(proto::SessionAnswer { sequence, timeout_ms, ended, not_leader })).await
    }

    async fn end(&self, sequence: u64, why: &str) {
        let _ = self.answer(sequence, why.to_owned(), None).await;
    }

    async fn not_leader(&self, sequence: u64) {
        let own = self.coordinator.settings().node_id;
        let leader = self.coordinator.leader().filter(|leader| *leader != own).unwrap_or(0);
        let _ = self.answer(sequence, String::new(), Some(proto::NotLeader { leader })).await;
    }
}

/// A report that cannot be read is left out: the session does not depend on it.
fn parsed(body: &[u8]) -> Option<BrokerReport> {
    if body.is_empty() || body.len() > SESSION_REPORT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(body).inspect_err(|e| tracing::debug!("a report that cannot be read: {e}")).ok()
}

/// Why a process may not register yet: another one of the same node is alive, or may be.
pub(crate) fn running_elsewhere(coordinator: &Coordinator, new: &BrokerRegistration) -> Option<String> {
    let Seat::Member { sessions, .. } = coordinator.seat() else { return None };
    let known = coordinator.with_state(|state| state.brokers.get(&new.node_id).cloned())?;
    if known.incarnation == new.incarnation || known.is_fenced {
        return None;
    }
    let own = coordinator.settings().node_id == new.node_id;
    (!own && sessions.may_be_alive(known.node_id, known.epoch)).then(|| {
        format!(
            "a process of node {} is running at {}:{}; stop it, or give this one another --node-id",
            known.node_id, known.host, known.port
        )
    })
}

// --- the broker's side ---

/// A broker's session with the control plane. It ends with the coordinator, or by `end`.
#[derive(Clone)]
pub struct SessionHandle {
    live: watch::Receiver<Liveness>,
    ended: Arc<watch::Sender<bool>>,
}

/// What the broker knows of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// The epoch of the registration in force.
    pub broker_epoch: u64,
    /// The leader may have fenced this broker: the last report that was answered is too old, or it said so.
    pub is_lapsed: bool,
}

impl SessionHandle {
    pub fn broker_epoch(&self) -> u64 {
        self.live.borrow().broker_epoch
    }

    /// Told at every change: of the epoch, when the broker had to register again, and of the lapse.
    pub fn watch(&self) -> watch::Receiver<Liveness> {
        self.live.clone()
    }

    /// True while the broker cannot know that it is not fenced.
    pub fn is_lapsed(&self) -> bool {
        self.live.borrow().is_lapsed
    }

    /// Ends the session: no more reports, no new registration.
    pub fn end(&self) {
        self.ended.send_replace(true);
    }
}

impl Coordinator {
    /// Registers this broker and keeps its session until `SessionHandle::end`. `reports` is sent when it
    /// changes.
    ///
    /// # Errors
    /// The registration was refused, or no leader could be reached in time.
    pub async fn start_session(
        &self,
        registration: BrokerRegistration,
        reports: watch::Receiver<BrokerReport>,
    ) -> Result<SessionHandle, WriteError> {
        let broker_epoch = self.register_broker(registration.clone()).await?;
        let (tell, live) = watch::channel(Liveness { broker_epoch, is_lapsed: false });
        let ended = Arc::new(watch::Sender::new(false));
        let keeper = Keeper {
            coordinator: self.clone(),
            registration,
            broker_epoch,
            reports,
            tell,
            sequence: AtomicU64::new(0),
            lapses_at: Instant::now() + self.settings().session_timeout,
        };
        let mut stop = ended.subscribe();
        self.spawn(async move {
            tokio::select! {
                () = keeper.run() => {}
                _ = stop.wait_for(|ended| *ended) => {}
            }
        });
        Ok(SessionHandle { live, ended })
    }
}

struct Keeper {
    coordinator: Coordinator,
    registration: BrokerRegistration,
    broker_epoch: u64,
    reports: watch::Receiver<BrokerReport>,
    tell: watch::Sender<Liveness>,
    sequence: AtomicU64,
    lapses_at: Instant,
}

/// How a stream ended.
enum Parted {
    Fenced,
    NotLeader(Option<NodeId>),
    Broken(String),
}

impl Keeper {
    async fn run(mut self) {
        let mut named = None;
        loop {
            let own = self.coordinator.settings().node_id;
            let leader = named.take().or_else(|| self.coordinator.leader());
            let parted = match leader {
                Some(leader) if leader == own => self.lead().await,
                Some(leader) => self.report_to(leader).await,
                None => Parted::NotLeader(None),
            };
            match parted {
                Parted::Fenced => self.register_again().await,
                Parted::NotLeader(Some(leader)) if leader != own => {
                    self.coordinator.note_leader(leader);
                    named = Some(leader);
                }
                Parted::NotLeader(_) => named = self.any_coordinator(),
                Parted::Broken(reason) => {
                    tracing::debug!("the session's stream has ended: {reason}");
                    named = self.any_coordinator();
                }
            }
            self.tell_lapse();
            tokio::time::sleep(SESSION_RETRY).await;
        }
    }

    /// A member knows by its Raft who leads; an observer asks one coordinator after another.
    fn any_coordinator(&self) -> Option<NodeId> {
        if self.coordinator.is_member() {
            return None;
        }
        let ids = self.coordinator.channels().addresses();
        let turn = self.sequence.fetch_add(1, Ordering::Relaxed);
        let turn = usize::try_from(turn).unwrap_or(0) % ids.len().max(1);
        ids.keys().nth(turn).copied()
    }

    fn tell_lapse(&self) {
        let is_lapsed = Instant::now() >= self.lapses_at;
        self.say(is_lapsed);
    }

    fn say(&self, is_lapsed: bool) {
        let now = Liveness { broker_epoch: self.broker_epoch, is_lapsed };
        self.tell.send_if_modified(|known| std::mem::replace(known, now) != now);
    }

    /// This process leads the control plane: there is no stream to keep, and nobody to be fenced by.
    async fn lead(&mut self) -> Parted {
        let Seat::Member { sessions, node, .. } = self.coordinator.seat() else {
            return Parted::NotLeader(None);
        };
        let (sessions, node_id) = (Arc::clone(sessions), self.registration.node_id);
        let mut leadership = node.leadership();
        let mut versions = self.coordinator.watch();
        let timeout = self.coordinator.settings().session_timeout;
        let is_lone = self.coordinator.settings().is_lone();
        let mut has_reports = true;
        sessions.note_report(node_id, self.reports.borrow_and_update().clone());
        loop {
            if self.coordinator.leads_for_sure() {
                self.lapses_at = Instant::now() + timeout;
            }
            self.tell_lapse();
            if self.is_over() {
                return Parted::Fenced;
            }
            // A lone node has nobody to be cut off from: it looks only when something has changed.
            let look = if is_lone { Duration::from_secs(3600) } else { SESSION_REPORT_INTERVAL };
            tokio::select! {
                changed = leadership.changed() => {
                    let own = Some(self.coordinator.settings().node_id);
                    if changed.is_err() || leadership.borrow_and_update().leader != own {
                        return Parted::NotLeader(None);
                    }
                }
                _ = versions.changed() => {}
                changed = self.reports.changed(), if has_reports => match changed {
                    Ok(()) => sessions.note_report(node_id, self.reports.borrow_and_update().clone()),
                    Err(_) => has_reports = false,
                },
                () = tokio::time::sleep(look) => {}
            }
        }
    }

    /// The state says that this very registration is over: fenced, or followed by a later one, be it this
    /// process's own whose answer was lost.
    fn is_over(&self) -> bool {
        let node_id = self.registration.node_id;
        self.coordinator.with_state(|state| {
            state.brokers.get(&node_id).is_some_and(|b| b.epoch > self.broker_epoch || b.is_fenced)
        })
    }

    async fn register_again(&mut self) {
        tracing::warn!("the session with the control plane has lapsed; registering again");
        self.say(true);
        // The same process comes back: its logs are whole, whatever they lack.
        let command = Command::RegisterBroker(self.registration.clone());
        match self.coordinator.write(command).await {
            Ok(Reply::BrokerEpoch(epoch)) => {
                self.broker_epoch = epoch;
                self.lapses_at = Instant::now() + self.coordinator.settings().session_timeout;
                tracing::info!(epoch, "registered again");
            }
            Ok(other) => tracing::error!("registering again: {}", unexpected(&other)),
            Err(e) => tracing::warn!("cannot register again yet: {e}"),
        }
    }

    /// Keeps a stream to the leader for as long as it lasts.
    async fn report_to(&mut self, leader: NodeId) -> Parted {
        let (outbox, mut queue) = mpsc::channel::<proto::SessionReport>(SESSION_ANSWERS_PENDING);
        let mut sent: (u64, Instant) = (0, Instant::now());
        let mut answered = Instant::now();
        if outbox.try_send(self.report(0, true)).is_err() {
            return Parted::Broken("no room for the first report".into());
        }
        let stream = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let call = async { self.coordinator.channels().control(leader)?.session(stream).await };
        let mut answers = match within(SESSION_OPEN_WAIT, call).await {
            Ok(answers) => answers,
            Err(status) => return Parted::Broken(brief(&status)),
        };
        let mut beat = tokio::time::interval(SESSION_REPORT_INTERVAL);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let answer = match answer {
                        Ok(Some(answer)) => answer,
                        Ok(None) => return Parted::Broken("the leader has ended it".into()),
                        Err(status) => return Parted::Broken(brief(&status)),
                    };
                    if let Some(other) = answer.not_leader {
                        return Parted::NotLeader(Some(other.leader).filter(|leader| *leader != 0));
                    }
                    if !answer.ended.is_empty() {
                        return Parted::Fenced;
                    }
                    self.coordinator.note_leader(leader);
                    answered = Instant::now();
                    if answer.sequence == sent.0 {
                        self.lapses_at = sent.1 + Duration::from_millis(answer.timeout_ms);
                        self.tell_lapse();
                    }
                }
                _ = beat.tick() => {
                    self.tell_lapse();
                    let (sequence, at) = (sent.0 + 1, Instant::now());
                    let has_news = self.reports.has_changed().unwrap_or(false);
                    match outbox.try_send(self.report(sequence, has_news)) {
                        Ok(()) => sent = (sequence, at),
                        // The last ones have not left yet: the connection is stuck.
                        Err(mpsc::error::TrySendError::Full(_)) => {}
                        Err(mpsc::error::TrySendError::Closed(_)) => return Parted::Broken("closed".into()),
                    }
                    // It may hang, or be cut off: another one may lead by now.
                    if answered.elapsed() >= SESSION_SILENCE {
                        return Parted::Broken("the leader is silent".into());
                    }
                    if self.coordinator.is_member() && self.coordinator.leader() != Some(leader) {
                        return Parted::NotLeader(None);
                    }
                }
            }
        }
    }

    fn report(&mut self, sequence: u64, with_body: bool) -> proto::SessionReport {
        let body = match with_body {
            true => serde_json::to_vec(&*self.reports.borrow_and_update()).unwrap_or_default(),
            false => Vec::new(),
        };
        proto::SessionReport {
            node_id: self.registration.node_id,
            broker_epoch: self.broker_epoch,
            incarnation: uuid_bytes(self.registration.incarnation),
            cluster_id: self.coordinator.cluster_id(),
            protocol: protocol_min(),
            sequence,
            state_version: self.coordinator.with_state(|state| state.version),
            report: body.into(),
        }
    }
}
