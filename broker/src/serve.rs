//! Starting and stopping a node: the order in which its parts come up, the `ready` line, signals, draining.
//!
//! Up: data directory, listeners bound, coordinator, object store, node, then the doors open. Down: the doors
//! close, requests in flight end, logs are flushed and closed clean, then the coordinator. Nothing here
//! outlives its deadline, and an error at start is one line that says what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_coordinator::core::BrokerRegistration;
use highwater_coordinator::{Coordinator, CoordinatorSettings, StartError as CoordinatorError, WriteError};
use highwater_model::Clock;
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::{LaneSettings, Store, StoreSettings};
use highwater_tiering::probe::{ProbeFailure, Problem, probe};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::data_dir::{DataDir, DataDirError};
use crate::metrics::Metrics;
use crate::node::{Node, NodeError, NodeParts};
use crate::settings::{Address, Settings};
use crate::tier::Tier;
use crate::{grpc, http};

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
    let mut data_dir = DataDir::open(&settings.data_dir, settings.node_id)?;
    let doors = Doors::bind(&settings).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let coordinator = start_coordinator(&settings, clock.clone()).await?;
    let parts = Parts { settings, data_dir: &mut data_dir, coordinator: coordinator.clone(), clock };
    let node = match start_node(parts, &doors).await {
        Ok(node) => node,
        Err(error) => {
            coordinator.close().await;
            return Err(error);
        }
    };
    let addresses = doors.addresses();
    let mut open = doors.open(&node);
    let took_ms = started.elapsed().as_millis() as u64;
    tracing::info!(
        kafka = %addresses.kafka,
        grpc = %addresses.grpc,
        http = %addresses.http,
        cluster = %coordinator.cluster_id(),
        node = node.settings.node_id,
        store = %node.store.url(),
        took_ms,
        "ready"
    );
    let outcome = tokio::select! {
        name = signals.wait() => {
            tracing::info!("{name}: draining");
            Ok(())
        }
        Some(ended) = open.join_next() => Err(door_error(ended)),
    };
    drain(&node, open).await;
    coordinator.close().await;
    tracing::info!("stopped");
    drop(data_dir);
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

/// The three listeners, bound but not yet served: a client that comes early waits in the backlog.
struct Doors {
    kafka: TcpListener,
    grpc: TcpListener,
    http: TcpListener,
    addresses: Addresses,
}

#[derive(Clone, Copy)]
struct Addresses {
    kafka: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Doors {
    async fn bind(settings: &Settings) -> Result<Doors, ServeError> {
        let (kafka, kafka_address) = listen("kafka", &settings.kafka).await?;
        let (grpc, grpc_address) = listen("grpc", &settings.grpc).await?;
        let (http, http_address) = listen("http", &settings.http).await?;
        let addresses = Addresses { kafka: kafka_address, grpc: grpc_address, http: http_address };
        Ok(Doors { kafka, grpc, http, addresses })
    }

    fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Where clients are told to connect; a port of 0 stands for the one that was bound.
    fn advertised(&self, settings: &Settings) -> Address {
        let mut address = settings.advertise.clone().unwrap_or_else(|| settings.kafka.clone());
        if address.port == 0 {
            address.port = self.addresses.kafka.port();
        }
        address
    }

    fn open(self, node: &Arc<Node>) -> JoinSet<Result<(), ServeError>> {
        let mut open = JoinSet::new();
        let failed = |door: &'static str, reason: String| ServeError::Door { door, reason };
        let (n, listener) = (node.clone(), self.kafka);
        open.spawn(async move {
            n.serve(listener).await;
            Ok(())
        });
        let (n, listener, stop) = (node.clone(), self.grpc, node.stopping());
        open.spawn(
            async move { grpc::serve(n, listener, stop).await.map_err(|e| failed("grpc", e.to_string())) },
        );
        let (n, listener, stop) = (node.clone(), self.http, node.stopping());
        open.spawn(
            async move { http::serve(n, listener, stop).await.map_err(|e| failed("http", e.to_string())) },
        );
        open
    }
}

async fn listen(door: &'static str, address: &Address) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { door, address: address.clone(), source };
    let listener = TcpListener::bind((address.host.as_str(), address.port)).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn start_coordinator(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Coordinator, ServeError> {
    let mut own = CoordinatorSettings::new(settings.node_id, settings.data_dir.clone(), clock);
    own.default_partitions = settings.default_partitions;
    Ok(Coordinator::start(own).await?)
}

/// Announces this process, which fences the one that had the node id before.
async fn register(
    coordinator: &Coordinator,
    settings: &Settings,
    advertised: &Address,
) -> Result<(), ServeError> {
    let registration = BrokerRegistration {
        node_id: settings.node_id,
        incarnation: Uuid::new_v4(),
        host: advertised.host.clone(),
        port: advertised.port,
        ..BrokerRegistration::default()
    };
    coordinator.register_broker(registration).await.map(|_| ()).map_err(ServeError::Register)
}

/// Opens the store and proves what it can do. A store that is away does not keep a node from starting again:
/// produce and hot reads need none; but the first start refuses, because the address may be wrong.
async fn open_store(settings: &Settings, names: &Names, is_first_start: bool) -> Result<Store, ServeError> {
    let lane = |concurrency: usize, bytes_per_s: u64| LaneSettings {
        concurrency,
        requests_per_s: u64::from(settings.store_requests_per_second),
        bytes_per_s,
        attempt_ms: settings.store_timeout_ms,
    };
    let lanes = StoreSettings {
        upload: lane(settings.store_upload_concurrency, settings.store_upload_bytes_per_second),
        read: lane(settings.store_read_concurrency, 0),
        housekeeping: LaneSettings {
            attempt_ms: settings.store_timeout_ms,
            ..StoreSettings::default().housekeeping
        },
    };
    let store = Store::open(&settings.object_store_url(), settings.s3_endpoint.as_deref(), lanes)?;
    match probe(&store, names).await {
        Ok(()) => {}
        Err(failure) if !is_first_start && matches!(failure.problem, Problem::Unreachable { .. }) => {
            tracing::warn!("{failure}; starting without it, what is sealed waits");
        }
        Err(failure) => {
            let advice = advice(&failure.problem);
            return Err(ServeError::Probe { failure, advice });
        }
    }
    Ok(store)
}

fn advice(problem: &Problem) -> &'static str {
    match problem {
        Problem::NoBucket => "create it or correct --object-store",
        Problem::Denied { .. } => {
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy of the bucket"
        }
        Problem::Unreachable { .. } => "check --object-store and --s3-endpoint, and that the store is up",
        Problem::Overwrites => "use a store or a release of it that has conditional writes",
        Problem::OtherBytes | Problem::NotListed => "use another store",
        Problem::Step { .. } => "check --object-store and the store's log",
    }
}

/// What is up before the node.
struct Parts<'a> {
    settings: Settings,
    data_dir: &'a mut DataDir,
    coordinator: Coordinator,
    clock: Arc<dyn Clock>,
}

/// Store, registration, node: what can only be done once the cluster is known.
async fn start_node(parts: Parts<'_>, doors: &Doors) -> Result<Arc<Node>, ServeError> {
    let Parts { settings, data_dir, coordinator, clock } = parts;
    let cluster_id = coordinator.cluster_id();
    data_dir.check(&cluster_id)?;
    let names = Names::new(&cluster_id).map_err(ServeError::ClusterId)?;
    let store = open_store(&settings, &names, data_dir.is_new()).await?;
    data_dir.claim(settings.node_id, &cluster_id)?;
    let advertised = doors.advertised(&settings);
    register(&coordinator, &settings, &advertised).await?;
    let tier = Tier::new(&settings, store, names, &coordinator).map_err(NodeError::Thread)?;
    let parts = NodeParts { settings, coordinator, tier, metrics: Metrics::new(), clock };
    let node = Node::start(parts).await?;
    node.advertised.set(advertised).expect("nobody else sets it");
    Ok(node)
}

fn door_error(ended: Result<Result<(), ServeError>, tokio::task::JoinError>) -> ServeError {
    let door = "kafka, grpc or http";
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => ServeError::Door { door, reason: "it closed by itself".to_owned() },
        Err(error) => ServeError::Door { door, reason: error.to_string() },
    }
}

/// Ends the doors and then the node, within the drain time each.
async fn drain(node: &Arc<Node>, mut open: JoinSet<Result<(), ServeError>>) {
    node.begin_stop();
    let wait = Duration::from_millis(node.settings.drain_timeout_ms);
    let ended = tokio::time::timeout(wait, async { while open.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tracing::warn!("some requests did not end in time and were cut");
        open.shutdown().await;
    }
    node.stop().await;
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
