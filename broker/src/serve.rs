//! Starting and stopping a node: the order in which its parts come up, the `ready` line, signals, draining.
//!
//! Up: data directory, listeners bound, the doors of nodes and operators (coordinators must talk before they
//! are a group), coordinator, object store, registration, node, then the clients' door. Down: leaders move to
//! other brokers, the clients' door closes, requests in flight end, logs are flushed and closed clean, the
//! token of a clean stop, then the coordinator and the other doors. Nothing here outlives its deadline, and
//! an error at start is one line that says what to do.

mod bucket;
mod doors;
mod report;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_coordinator::core::{BrokerRegistration, BrokerReport};
use highwater_coordinator::{
    ControlDoor, Coordinator, CoordinatorSettings, SessionHandle, StartError as CoordinatorError, WriteError,
};
use highwater_model::limits::STOP_BROKER_WAIT;
use highwater_model::{Clock, NodeId};
use highwater_tiering::core::names::Names;
use highwater_tiering::probe::ProbeFailure;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::bucket::{check_bucket, open_store};
use self::doors::{Addresses, Doors, door_error};
use crate::bucket_mark::MarkError;
use crate::data_dir::{DataDir, DataDirError};
use crate::metrics::Metrics;
use crate::node::{Node, NodeError, NodeParts};
use crate::settings::{Address, Settings};
use crate::slot::Slot;
use crate::tier::Tier;

/// Why a node could not start, or stopped by itself. One line with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot listen on {address} for {door}: {source}; free the address or choose another --{door}")]
    Listen { door: &'static str, address: Address, source: io::Error },
    #[error("coordinator: {0}")]
    Coordinator(#[from] CoordinatorError),
    #[error("{0}; give another --data-dir")]
    ClusterId(String),
    #[error("this node cannot be registered: {0}; see the log of the coordinator")]
    Register(WriteError),
    #[error("{0}; correct --object-store or --s3-endpoint")]
    Store(#[from] highwater_tiering::store::OpenError),
    #[error("{0}")]
    Bucket(MarkError),
    #[error("{failure}; {advice}")]
    Probe { failure: ProbeFailure, advice: &'static str },
    #[error("{0}; see the data directory")]
    Node(#[from] NodeError),
    #[error("signals cannot be received: {0}; too few file handles?")]
    Signals(io::Error),
    #[error("the {door} door has failed: {reason}; restart the node")]
    Door { door: &'static str, reason: String },
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

/// Runs a node until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or one of its doors failed.
pub async fn run(settings: Settings) -> Result<(), ServeError> {
    let started = Instant::now();
    raise_file_limit();
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    let data_dir = DataDir::open(&settings.data_dir, settings.node_id)?;
    let doors = Doors::bind(&settings).await?;
    let addresses = doors.addresses;
    let (mut open, kafka) = doors.open();
    let starting = Starting { settings, data_dir, kafka, addresses, slot: open.slot.clone() };
    let control = open.control.clone();
    // Until the cluster is there this may take for ever; the doors tell why, and a signal ends it.
    let mut up = tokio::select! {
        up = starting.start(&control) => up?,
        name = signals.wait() => {
            tracing::info!("{name} before the node was ready: stopped");
            open.close().await;
            return Ok(());
        }
        ended = open.ended() => return Err(ended),
    };
    up.tell_ready(&addresses, started.elapsed());
    let outcome = tokio::select! {
        name = signals.wait() => {
            tracing::info!("{name}: draining");
            Ok(())
        }
        ended = open.ended() => Err(ended),
        ended = up.ended() => Err(ended),
    };
    up.stop(&open.slot).await;
    open.close().await;
    tracing::info!("stopped");
    drop(up);
    outcome
}

/// Lets this process open as many files as it may: segments, connections and mapped objects add up to far
/// more than the 1,024 that a shell hands down.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(e) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(files = limit.current, "the limit of open files cannot be raised: {e}");
            return;
        }
    }
    tracing::info!(files = limit.maximum, "open files");
}

/// Joins the control plane, as a coordinator or as one who follows it.
async fn start_coordinator(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    control: &ControlDoor,
) -> Result<Coordinator, ServeError> {
    let mut own = CoordinatorSettings::new(settings.node_id, settings.data_dir.clone(), clock);
    own.default_partitions = settings.default_partitions;
    own.default_replication_factor = settings.default_replication_factor;
    own.coordinators = settings.coordinators.iter().map(|(id, at)| (*id, at.to_string())).collect();
    own.session_timeout = Duration::from_millis(settings.broker_session_timeout_ms);
    own.balance.dead_timeout_ms = i64::try_from(settings.broker_dead_timeout_ms).unwrap_or(i64::MAX);
    own.door = control.clone();
    match settings.roles.coordinator {
        true => Ok(Coordinator::start(own).await?),
        false => Ok(Coordinator::observe(own).await?),
    }
}

/// What there is before the cluster is known.
struct Starting {
    settings: Settings,
    data_dir: DataDir,
    kafka: TcpListener,
    addresses: Addresses,
    slot: Slot,
}

impl Starting {
    async fn start(self, control: &ControlDoor) -> Result<Up, ServeError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let coordinator = start_coordinator(&self.settings, clock.clone(), control).await?;
        let (is_broker, slot) = (self.settings.roles.broker, self.slot.clone());
        match self.start_as(coordinator.clone(), clock).await {
            Ok(up) => {
                match (&up.broker, is_broker) {
                    (Some(broker), _) => slot.fill(broker.node.clone()),
                    (None, _) => slot.seat(up.coordinator.clone()),
                }
                Ok(up)
            }
            Err(error) => {
                coordinator.close().await;
                Err(error)
            }
        }
    }

    /// What can only be done once the cluster is known: bucket, registration, node, clients.
    async fn start_as(mut self, coordinator: Coordinator, clock: Arc<dyn Clock>) -> Result<Up, ServeError> {
        let cluster_id = coordinator.cluster_id();
        let node_id = self.settings.node_id;
        self.data_dir.check(&cluster_id)?;
        if !self.settings.roles.broker {
            self.data_dir.claim(node_id, &cluster_id)?;
            return Ok(Up { coordinator, data_dir: self.data_dir, node_id, broker: None });
        }
        let names = Names::new(&cluster_id).map_err(ServeError::ClusterId)?;
        let is_first_start = self.data_dir.is_new();
        let store = open_store(&self.settings, &names, is_first_start).await?;
        let bucket = check_bucket(&store, &names, &self.data_dir, &coordinator, node_id).await?;
        let storage = self.data_dir.claim(node_id, &cluster_id)?;
        if let Some(bucket) = bucket {
            self.data_dir.note_bucket(bucket)?;
        }
        let advertised = self.advertised();
        let registration = BrokerRegistration {
            node_id,
            incarnation: Uuid::new_v4(),
            host: advertised.host.clone(),
            port: advertised.port,
            rack: self.settings.rack.clone(),
            grpc: self.advertised_grpc(),
            storage,
            clean_stop_of: self.data_dir.take_clean_stop()?,
        };
        let (reports, told) = watch::channel(BrokerReport::default());
        let session = match coordinator.start_session(registration, told).await {
            Ok(session) => session,
            Err(e) => {
                // Another process may be this node: then nothing here is.
                if is_first_start {
                    self.data_dir.unclaim();
                }
                return Err(ServeError::Register(e));
            }
        };
        let tier = Tier::new(&self.settings, store, names, &coordinator).map_err(NodeError::Thread)?;
        let settings = self.settings;
        let parts =
            NodeParts { settings, coordinator: coordinator.clone(), tier, metrics: Metrics::new(), clock };
        let node = Node::start(parts).await?;
        let epoch = session.clone();
        node.isr.set_broker_epoch(Arc::new(move || epoch.broker_epoch()));
        node.advertised.set(advertised).expect("nobody else sets it");
        let (n, listener) = (node.clone(), self.kafka);
        let mut clients = JoinSet::new();
        clients.spawn(async move { n.serve(listener).await });
        clients.spawn(report::run(node.clone(), reports));
        clients.spawn(crate::workers::isr::follow_session(node.clone(), session.watch()));
        let broker = Some(Broker { node, session, clients });
        Ok(Up { coordinator, data_dir: self.data_dir, node_id, broker })
    }

    /// Where clients are told to connect; a port of 0 stands for the one that was bound.
    fn advertised(&self) -> Address {
        let settings = &self.settings;
        let mut address = settings.advertise.clone().unwrap_or_else(|| settings.kafka.clone());
        if address.port == 0 {
            address.port = self.addresses.kafka.port();
        }
        address
    }

    /// Where other nodes reach this one.
    fn advertised_grpc(&self) -> String {
        let settings = &self.settings;
        let listed = settings.coordinators.get(&settings.node_id);
        let mut address = settings.advertise_grpc.as_ref().or(listed).unwrap_or(&settings.grpc).clone();
        if address.port == 0 {
            address.port = self.addresses.grpc.port();
        }
        address.to_string()
    }
}

/// A node that serves.
struct Up {
    coordinator: Coordinator,
    data_dir: DataDir,
    node_id: NodeId,
    /// None where this node is a coordinator alone.
    broker: Option<Broker>,
}

struct Broker {
    node: Arc<Node>,
    session: SessionHandle,
    /// The clients' door, and what goes with it.
    clients: JoinSet<()>,
}

impl Up {
    fn tell_ready(&self, addresses: &Addresses, took: Duration) {
        tracing::info!(
            kafka = %addresses.kafka,
            grpc = %addresses.grpc,
            http = %addresses.http,
            cluster = %self.coordinator.cluster_id(),
            node = self.node_id,
            store = %self.broker.as_ref().map_or("none", |broker| broker.node.store.url()),
            took_ms = took.as_millis() as u64,
            "ready"
        );
    }

    /// Returns only when the clients' door has failed.
    async fn ended(&mut self) -> ServeError {
        let Some(broker) = &mut self.broker else { return std::future::pending().await };
        match broker.clients.join_next().await {
            Some(ended) => door_error(ended.map(Ok), "kafka"),
            None => std::future::pending().await,
        }
    }

    /// Leaders move away first; then the clients' door closes, requests in flight end, and the logs are
    /// flushed and closed clean, each within its time.
    async fn stop(&mut self, slot: &Slot) {
        slot.begin_stop();
        if let Some(broker) = &mut self.broker {
            let epoch = broker.session.broker_epoch();
            // Or it would take the stop for a lapse, and register again.
            broker.session.end();
            hand_over(&self.coordinator, self.node_id, epoch).await;
            if !broker.drain().await {
                tracing::warn!("the next start catches up as after a crash");
            } else if let Err(e) = self.data_dir.leave_clean_stop(epoch) {
                tracing::warn!("{e}; the next start catches up as after a crash");
            }
        }
        self.coordinator.close().await;
    }
}

/// A controlled stop: other brokers lead before this one goes. Alone there is nobody to hand over to.
async fn hand_over(coordinator: &Coordinator, node_id: NodeId, epoch: u64) {
    let has_others = coordinator.with_state(|state| {
        state.brokers.values().any(|broker| broker.node_id != node_id && !broker.is_fenced)
    });
    if !has_others {
        return;
    }
    match tokio::time::timeout(STOP_BROKER_WAIT, coordinator.stop_broker(node_id, epoch)).await {
        Ok(Ok(())) => tracing::info!("leadership has been handed over"),
        Ok(Err(e)) => {
            tracing::warn!("leadership is not handed over: {e}; others notice that this node is gone")
        }
        Err(_) => {
            tracing::warn!("leadership is not handed over in time; others notice that this node is gone")
        }
    }
}

impl Broker {
    /// Ends the clients' door and then the node, within the drain time each. Whether nothing was cut and
    /// every log was closed clean.
    async fn drain(&mut self) -> bool {
        // First, so that others are elected while requests drain.
        self.node.raft.stop(&self.node).await;
        // Who waits for an acknowledgement hears that another leads now, and not only when the time is up:
        // once the node stops, nobody here follows the metadata.
        let wait = Duration::from_millis(self.node.settings.drain_timeout_ms);
        match tokio::time::timeout(wait, self.node.follow_topics()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("partitions do not follow the hand-over: {e}"),
            Err(_) => tracing::warn!("partitions do not follow the hand-over in time"),
        }
        self.node.begin_stop();
        let ended = async { while self.clients.join_next().await.is_some() {} };
        if tokio::time::timeout(wait, ended).await.is_err() {
            tracing::warn!("some requests did not end in time and were cut");
            self.clients.shutdown().await;
        }
        self.node.stop().await
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        use rustix::process::{Resource, getrlimit};
        super::raise_file_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
