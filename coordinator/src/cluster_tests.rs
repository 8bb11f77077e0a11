//! Several coordinators in one process, over gRPC on loopback. Here is what the tests share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_model::{Clock, NodeId, TopicId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use crate::core::{BrokerRegistration, ClusterState, NewTopic, Refusal};
use crate::rpc::proto;
use crate::rpc::proto::control_client::ControlClient;
use crate::{ControlDoor, Coordinator, CoordinatorSettings, StartError, WriteError};

mod forming;
mod members;
mod observers;
mod sessions;
mod skew;

/// Longest that anything here may take.
const LONG: Duration = Duration::from_secs(60);

/// After this a broker without a session is missed, where a test wants that: longer than a machine that is
/// busy with other tests stands still.
const IMPATIENT: Duration = Duration::from_secs(5);

struct TestClock;

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }
}

/// A node's gRPC server. It has threads of its own: when they go, so do its connections, as those of a
/// process that is killed.
struct Server1 {
    runtime: Option<Runtime>,
}

impl Server1 {
    fn start(listener: std::net::TcpListener, door: &ControlDoor) -> Server1 {
        listener.set_nonblocking(true).expect("nonblocking");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let mut routes = Routes::builder();
        door.add_services(&mut routes);
        let server = Server::builder().add_routes(routes.routes());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming(incoming).await.expect("serves");
        });
        Server1 { runtime: Some(runtime) }
    }
}

impl Drop for Server1 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    /// Ports that were taken for nodes that have not started yet.
    listeners: Mutex<BTreeMap<NodeId, std::net::TcpListener>>,
    list: BTreeMap<NodeId, String>,
    session_timeout: Duration,
}

/// A node that runs.
struct Node {
    coordinator: Coordinator,
    server: Server1,
}

impl Node {
    /// As a process that is killed, as far as its peers can tell.
    async fn kill(self) {
        drop(self.server);
        self.coordinator.close().await;
    }
}

impl Cluster {
    fn new(size: u64) -> Cluster {
        // What the nodes log, where a test fails: RUST_LOG=debug.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let mut listeners = BTreeMap::new();
        for id in 1..=size {
            listeners.insert(id, std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
        }
        let address = |l: &std::net::TcpListener| l.local_addr().expect("bound").to_string();
        let list = listeners.iter().map(|(id, l)| (*id, address(l))).collect();
        let dir = tempfile::tempdir().expect("scratch");
        // Brokers that are registered here have no sessions, and must not be missed.
        Cluster { dir, listeners: Mutex::new(listeners), list, session_timeout: 10 * LONG }
    }

    /// One that soon misses a broker without a session.
    fn impatient(size: u64) -> Cluster {
        Cluster { session_timeout: IMPATIENT, ..Cluster::new(size) }
    }

    fn data_dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn settings(&self, id: NodeId) -> CoordinatorSettings {
        let mut settings = CoordinatorSettings::new(id, self.data_dir(id), Arc::new(TestClock));
        settings.coordinators = self.list.clone();
        settings.snapshot_entries = 50;
        settings.session_timeout = self.session_timeout;
        settings
    }

    /// The node's port: as it was taken in its first life, taken again once the life before has let it go. In
    /// between it refuses, as that of a dead process does.
    async fn listener(&self, id: NodeId) -> std::net::TcpListener {
        let first = self.listeners.lock().expect("no test panics with it").remove(&id);
        if let Some(first) = first {
            return first;
        }
        let deadline = Instant::now() + LONG;
        loop {
            match std::net::TcpListener::bind(&self.list[&id]) {
                Ok(listener) => return listener,
                Err(e) => assert!(Instant::now() < deadline, "node {id}: {e}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn start_with(&self, settings: CoordinatorSettings) -> Result<Node, StartError> {
        let door = settings.door.clone();
        let listener = self.listener(settings.node_id).await;
        let server = Server1::start(listener, &door);
        Coordinator::start(settings).await.map(|coordinator| Node { coordinator, server })
    }

    async fn start(&self, id: NodeId) -> Node {
        let started = timeout(LONG, self.start_with(self.settings(id))).await.expect("in time");
        started.unwrap_or_else(|e| panic!("node {id}: {e}"))
    }

    async fn start_all(&self) -> BTreeMap<NodeId, Node> {
        let start = |id: NodeId| async move { (id, self.start(id).await) };
        futures::future::join_all(self.list.keys().copied().map(start)).await.into_iter().collect()
    }
}

fn topic(name: &str) -> NewTopic {
    NewTopic {
        topic_id: TopicId::NONE,
        name: name.into(),
        partitions: 2,
        replication_factor: 1,
        assignments: Vec::new(),
        configs: Default::default(),
    }
}

async fn create(coordinator: &Coordinator, name: &str) -> Result<TopicId, WriteError> {
    let mut answers = coordinator.create_topics(vec![topic(name)], false).await;
    answers.pop().expect("one answer").map(|created| created.topic_id)
}

/// Creates a topic, however often that takes while the group elects a leader or a connection ends: what is
/// refused because it exists after an attempt without an outcome has been created by that.
async fn decided(coordinator: &Coordinator, name: &str) -> TopicId {
    let deadline = Instant::now() + LONG;
    loop {
        match create(coordinator, name).await {
            Ok(topic) => return topic,
            Err(WriteError::Refused(Refusal::TopicExists { .. })) => {
                let known = coordinator.with_state(|state| state.topic_by_name(name).map(|topic| topic.id));
                if let Some(topic) = known {
                    return topic;
                }
            }
            Err(e @ WriteError::Refused(_)) => panic!("{name}: {e}"),
            Err(e) => assert!(Instant::now() < deadline, "{name}: {e}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Registers a broker, however often that takes.
async fn register(coordinator: &Coordinator, node_id: NodeId) {
    let deadline = Instant::now() + LONG;
    while let Err(e) = coordinator.register_broker(registration(node_id, u128::from(node_id))).await {
        assert!(Instant::now() < deadline, "broker {node_id}: {e}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a majority vouches for what the node knows.
async fn vouched(coordinator: &Coordinator) {
    let deadline = Instant::now() + LONG;
    while let Err(e) = coordinator.linearize().await {
        assert!(Instant::now() < deadline, "{e}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn registration(node_id: NodeId, incarnation: u128) -> BrokerRegistration {
    BrokerRegistration {
        node_id,
        incarnation: Uuid::from_u128(incarnation),
        host: "localhost".into(),
        port: 9092,
        ..BrokerRegistration::default()
    }
}

fn plain(state: &ClusterState) -> String {
    serde_json::to_string(state).expect("stored")
}

/// The node that leads; all nodes agree on it.
async fn leader(nodes: &BTreeMap<NodeId, Node>) -> NodeId {
    let deadline = Instant::now() + LONG;
    loop {
        let named: Vec<_> = nodes.values().map(|node| node.coordinator.leader()).collect();
        if let Some(leader) = named[0].filter(|id| nodes.contains_key(id))
            && named.iter().all(|n| *n == Some(leader))
        {
            return leader;
        }
        assert!(Instant::now() < deadline, "no leader: {named:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn all_equal(nodes: impl Iterator<Item = &Coordinator>) {
    let deadline = Instant::now() + LONG;
    let nodes: Vec<_> = nodes.collect();
    loop {
        let states: Vec<_> = nodes.iter().map(|node| plain(&node.state())).collect();
        if states.iter().all(|state| *state == states[0]) {
            return;
        }
        assert!(Instant::now() < deadline, "states stay different");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn close_all(nodes: BTreeMap<NodeId, Node>) {
    futures::future::join_all(nodes.into_values().map(Node::kill)).await;
}

/// Why a node may not start.
async fn refusal(cluster: &Cluster, settings: CoordinatorSettings) -> String {
    let refused = timeout(LONG, cluster.start_with(settings)).await.expect("in time").err();
    let reason = refused.expect("refused").to_string();
    assert_eq!(reason.lines().count(), 1, "{reason}");
    reason
}

async fn observe(cluster: &Cluster, id: NodeId) -> Coordinator {
    let settings = cluster.settings(id);
    let observed = timeout(LONG, Coordinator::observe(settings)).await.expect("in time");
    observed.unwrap_or_else(|e| panic!("observer {id}: {e}"))
}
