//! Three coordinators in one process, over gRPC on loopback: forming, losing and keeping a leader, following.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use highwater_model::limits::METADATA_BEHIND;
use highwater_model::{Clock, NodeId, TopicId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use crate::core::{BrokerRegistration, BrokerReport, ClusterState, NewTopic, Refusal, StateDelta};
use crate::rpc::proto;
use crate::rpc::proto::control_client::ControlClient;
use crate::{ControlDoor, Coordinator, CoordinatorSettings, SessionHandle, StartError, WriteError};

/// Longest that anything here may take.
const LONG: Duration = Duration::from_secs(60);

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
        Cluster { dir: tempfile::tempdir().expect("scratch"), listeners: Mutex::new(listeners), list }
    }

    fn data_dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn settings(&self, id: NodeId) -> CoordinatorSettings {
        let mut settings = CoordinatorSettings::new(id, self.data_dir(id), Arc::new(TestClock));
        settings.coordinators = self.list.clone();
        settings.snapshot_entries = 50;
        settings.session_timeout = Duration::from_secs(2);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_forms_in_any_order_and_writes_go_anywhere() {
    for order in [[1, 2, 3], [3, 1, 2]] {
        let cluster = Cluster::new(3);
        let start = |(turn, id): (usize, NodeId)| {
            let cluster = &cluster;
            async move {
                sleep(Duration::from_millis(300 * turn as u64)).await;
                (id, cluster.start(id).await)
            }
        };
        let started = futures::future::join_all(order.into_iter().enumerate().map(start)).await;
        let nodes: BTreeMap<NodeId, Node> = started.into_iter().collect();
        let ids: Vec<_> = nodes.values().map(|node| node.coordinator.cluster_id()).collect();
        assert!(ids[0].len() == 22 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let leader = leader(&nodes).await;
        for (id, node) in &nodes {
            assert_eq!(node.coordinator.is_leader(), *id == leader);
            node.coordinator.register_broker(registration(*id, u128::from(*id))).await.expect("registered");
            let topic = create(&node.coordinator, &format!("from-{id}")).await.expect("created");
            // Who wrote reads what it wrote, wherever it was decided.
            assert!(node.coordinator.state().topic(topic).is_some());
        }
        for node in nodes.values() {
            node.coordinator.linearize().await.expect("a majority is there");
            assert_eq!(node.coordinator.state().topics.len(), 3);
        }
        let refused = create(&nodes[&1].coordinator, "from-2").await;
        assert!(matches!(refused, Err(WriteError::Refused(Refusal::TopicExists { .. }))), "{refused:?}");
        close_all(nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_another_leads_and_who_comes_back_catches_up() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    nodes[&1].coordinator.register_broker(registration(1, 1)).await.expect("registered");
    create(&nodes[&1].coordinator, "before").await.expect("created");
    let first = leader(&nodes).await;
    nodes.remove(&first).expect("it runs").kill().await;
    let killed = Instant::now();
    let survivor = nodes.values().next().expect("two are left").coordinator.clone();
    create(&survivor, "after").await.expect("a majority goes on");
    println!("a write went through {:?} after the leader was gone", killed.elapsed());
    assert_ne!(leader(&nodes).await, first);
    // More than a snapshot's worth, so that the one that was away gets one.
    for i in 0..160 {
        create(&survivor, &format!("t-{i}")).await.expect("created");
    }
    nodes.insert(first, cluster.start(first).await);
    let back = &nodes[&first].coordinator;
    assert_eq!(back.state().topics.len(), 162, "start returns when everything is there");
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_and_a_restart_of_all_finds_everything() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    nodes[&1].coordinator.register_broker(registration(1, 1)).await.expect("registered");
    create(&nodes[&2].coordinator, "kept").await.expect("created");
    let before = nodes[&1].coordinator.cluster_id();
    nodes.remove(&2).expect("it runs").kill().await;
    nodes.remove(&3).expect("it runs").kill().await;
    let alone = &nodes[&1].coordinator;
    let begun = Instant::now();
    let refused = create(alone, "lost").await;
    assert!(matches!(refused, Err(WriteError::Failed(_) | WriteError::Unknown(_))), "{refused:?}");
    assert!(alone.linearize().await.is_err());
    assert!(begun.elapsed() < LONG, "bounded");
    assert!(alone.state().topic_by_name("kept").is_some(), "what is known is served");
    close_all(nodes).await;
    let nodes = cluster.start_all().await;
    for node in nodes.values() {
        assert_eq!(node.coordinator.cluster_id(), before);
        assert!(node.coordinator.state().topic_by_name("kept").is_some());
    }
    create(&nodes[&3].coordinator, "later").await.expect("created");
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_does_not_unseat_the_leader() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    let led = leader(&nodes).await;
    let term = nodes[&led].coordinator.group_status().expect("a member").leadership.term;
    let other = nodes.keys().copied().find(|id| *id != led).expect("three");
    for _ in 0..2 {
        nodes.remove(&other).expect("it runs").kill().await;
        sleep(Duration::from_millis(1500)).await;
        nodes.insert(other, cluster.start(other).await);
        sleep(Duration::from_millis(500)).await;
    }
    let status = nodes[&led].coordinator.group_status().expect("a member");
    assert_eq!((status.leadership.leader, status.leadership.term), (Some(led), term));
    close_all(nodes).await;
}

async fn refusal(cluster: &Cluster, settings: CoordinatorSettings) -> String {
    let refused = timeout(LONG, cluster.start_with(settings)).await.expect("in time").err();
    let reason = refused.expect("refused").to_string();
    assert_eq!(reason.lines().count(), 1, "{reason}");
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_a_foreign_directory_and_a_second_process_are_refused() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    let second = CoordinatorSettings { data_dir: cluster.dir.path().join("second"), ..cluster.settings(2) };
    // Its own port is not even needed: whoever answers at node 2's address is another process.
    let started = Coordinator::start(second);
    let reason = timeout(LONG, started).await.expect("in time").err().expect("refused").to_string();
    assert!(reason.contains("node 2") && reason.lines().count() == 1, "{reason}");

    nodes.remove(&3).expect("it runs").kill().await;
    let raft = cluster.data_dir(3).join("raft");
    let moved = cluster.dir.path().join("moved");
    std::fs::rename(&raft, &moved).expect("moved");
    let reason = refusal(&cluster, cluster.settings(3)).await;
    assert!(reason.contains("disk") && reason.contains("restore"), "{reason}");
    // Node 1's directory is not node 3's.
    std::fs::remove_dir_all(cluster.data_dir(3)).expect("removed");
    copy(&cluster.data_dir(1).join("raft"), &raft);
    let reason = refusal(&cluster, cluster.settings(3)).await;
    assert!(reason.contains("belongs to node [1]"), "{reason}");
    // The old disk again: welcome.
    std::fs::remove_dir_all(&raft).expect("removed");
    std::fs::rename(&moved, &raft).expect("moved back");
    nodes.insert(3, cluster.start(3).await);
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_disagree_are_refused() {
    let cluster = Cluster::new(3);
    let two: BTreeMap<_, _> = cluster.list.iter().take(2).map(|(id, a)| (*id, a.clone())).collect();
    let short = CoordinatorSettings { coordinators: two.clone(), ..cluster.settings(1) };
    let (odd, whole) = tokio::join!(
        timeout(LONG, cluster.start_with(short)),
        timeout(LONG, cluster.start_with(cluster.settings(2)))
    );
    let reasons = [odd, whole].map(|r| r.expect("in time").err().expect("refused").to_string());
    for reason in &reasons {
        assert!(reason.contains("--coordinators") && reason.lines().count() == 1, "{reason}");
    }
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    nodes.remove(&1).expect("it runs").kill().await;
    let two: BTreeMap<_, _> = cluster.list.iter().take(2).map(|(id, a)| (*id, a.clone())).collect();
    let reason = refusal(&cluster, CoordinatorSettings { coordinators: two, ..cluster.settings(1) }).await;
    assert!(reason.contains("1, 2, 3") && reason.contains("correct the list"), "{reason}");
    let lone = CoordinatorSettings { coordinators: BTreeMap::new(), ..cluster.settings(1) };
    let reason = refusal(&cluster, lone).await;
    assert!(reason.contains("1, 2, 3"), "{reason}");
    close_all(nodes).await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    for entry in std::fs::read_dir(from).expect("dir") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("named"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

async fn observe(cluster: &Cluster, id: NodeId) -> Coordinator {
    let settings = cluster.settings(id);
    let observed = timeout(LONG, Coordinator::observe(settings)).await.expect("in time");
    observed.unwrap_or_else(|e| panic!("observer {id}: {e}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_seat_follows_and_writes() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    nodes[&1].coordinator.register_broker(registration(1, 1)).await.expect("registered");
    create(&nodes[&1].coordinator, "early").await.expect("created");
    let observer = observe(&cluster, 7).await;
    assert_eq!(observer.cluster_id(), nodes[&1].coordinator.cluster_id());
    assert!(observer.state().topic_by_name("early").is_some(), "the snapshot");
    for i in 0..20 {
        let topic = create(&observer, &format!("mine-{i}")).await.expect("forwarded");
        assert!(observer.state().topic(topic).is_some(), "it reads what it wrote");
    }
    create(&nodes[&2].coordinator, "theirs").await.expect("created");
    observer.linearize().await.expect("a majority is there");
    assert!(observer.state().topic_by_name("theirs").is_some());
    all_equal([&observer, &nodes[&1].coordinator].into_iter()).await;
    // Whichever coordinator goes, it follows another.
    for gone in [1, 2, 3] {
        nodes.remove(&gone).expect("it runs").kill().await;
        create(&observer, &format!("without-{gone}")).await.expect("goes on");
        nodes.insert(gone, cluster.start(gone).await);
    }
    let names: Vec<_> = observer.state().topics_by_name().map(|topic| topic.name.clone()).collect();
    assert_eq!(names.len(), 25, "{names:?}");
    close_all(nodes).await;
    assert!(observer.state().topic_by_name("early").is_some(), "what is known stays");
    assert!(create(&observer, "nobody-decides").await.is_err());
    observer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_with_another_list_is_refused() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all().await;
    let two: BTreeMap<_, _> = cluster.list.iter().take(2).map(|(id, a)| (*id, a.clone())).collect();
    let settings = CoordinatorSettings { coordinators: two, ..cluster.settings(7) };
    let refused = timeout(LONG, Coordinator::observe(settings)).await.expect("in time");
    let reason = refused.err().expect("refused").to_string();
    assert!(reason.contains("same list") && reason.lines().count() == 1, "{reason}");
    close_all(nodes).await;
}

/// One whole update of a metadata stream.
async fn update(updates: &mut tonic::Streaming<proto::MetadataUpdate>) -> (proto::MetadataUpdate, Vec<u8>) {
    let mut body = Vec::new();
    loop {
        let piece = timeout(LONG, updates.message()).await.expect("in time").expect("open").expect("goes on");
        body.extend_from_slice(&piece.body);
        if piece.is_last {
            return (piece, body);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_client_follows_by_deltas_and_one_that_falls_behind_gets_a_snapshot() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all().await;
    let coordinator = &nodes[&2].coordinator;
    coordinator.register_broker(registration(2, 2)).await.expect("registered");
    // Small windows: what nobody reads fills them soon.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.list[&2]));
    let endpoint = endpoint.expect("an address").initial_stream_window_size(65_535);
    let channel = endpoint.initial_connection_window_size(65_535).connect().await.expect("connected");
    let mut client = ControlClient::new(channel);
    let updates = client.watch_metadata(proto::WatchMetadataRequest::default()).await.expect("a stream");
    let mut updates = updates.into_inner();
    let (first, body) = update(&mut updates).await;
    assert!(first.is_snapshot);
    let mut state: ClusterState = serde_json::from_slice(&body).expect("a state");
    create(coordinator, "small").await.expect("created");
    while state.version < coordinator.with_state(|state| state.version) {
        let (next, body) = update(&mut updates).await;
        assert!(!next.is_snapshot && next.base_version == state.version);
        assert!(body.len() < 4096, "what has changed, not more: {} bytes", body.len());
        let delta: StateDelta = serde_json::from_slice(&body).expect("a delta");
        state.apply_delta(&delta).expect("applies");
    }
    assert_eq!(plain(&state), plain(&coordinator.state()));
    // More than fits between the two, and nobody reads.
    for round in 0..2 {
        let topics = (0..60).map(|i| NewTopic { partitions: 100, ..topic(&format!("big-{round}-{i}")) });
        let created = coordinator.create_topics(topics.collect(), false).await;
        assert!(created.iter().all(Result::is_ok));
    }
    sleep(METADATA_BEHIND + Duration::from_secs(1)).await;
    // Whether or not the update that is stuck holds all of these, this one comes after it.
    create(coordinator, "last").await.expect("created");
    let mut snapshots = 0;
    while state.version < coordinator.with_state(|state| state.version) {
        let (next, body) = update(&mut updates).await;
        if next.is_snapshot {
            snapshots += 1;
            state = serde_json::from_slice(&body).expect("a state");
        } else {
            state.apply_delta(&serde_json::from_slice(&body).expect("a delta")).expect("applies");
        }
    }
    assert_eq!(snapshots, 1);
    assert_eq!(plain(&state), plain(&coordinator.state()));
    drop(updates);
    close_all(nodes).await;
}

async fn session(coordinator: &Coordinator, id: NodeId, incarnation: u128) -> SessionHandle {
    let (_, reports) = watch::channel(BrokerReport::default());
    coordinator.start_session(registration(id, incarnation), reports).await.expect("registered")
}

async fn until(what: &str, mut check: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < LONG, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
    begun.elapsed()
}

fn is_fenced(coordinator: &Coordinator, id: NodeId) -> bool {
    coordinator.with_state(|state| state.brokers.get(&id).is_none_or(|broker| broker.is_fenced))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_session_stays_and_who_has_not_is_fenced() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all().await;
    let led = leader(&nodes).await;
    let observer = observe(&cluster, 7).await;
    let handle = session(&observer, 7, 7).await;
    let members: Vec<_> = {
        let start = |id: &NodeId| {
            let (id, coordinator) = (*id, nodes[id].coordinator.clone());
            async move { (id, session(&coordinator, id, u128::from(id)).await) }
        };
        futures::future::join_all(nodes.keys().map(start)).await
    };
    // Longer than the timeout of two seconds: everybody reports.
    sleep(Duration::from_secs(3)).await;
    let judge = &nodes[&led].coordinator;
    for id in [1, 2, 3, 7] {
        assert!(!is_fenced(judge, id), "broker {id}");
    }
    assert!(!handle.is_lapsed() && members.iter().all(|(_, handle)| !handle.is_lapsed()));
    // A second process of node 7 may not register while the first is there.
    let (_, reports) = watch::channel(BrokerReport::default());
    let second = nodes[&led].coordinator.start_session(registration(7, 8), reports).await.err();
    assert!(second.is_some_and(|e| e.to_string().contains("node 7 is running")));
    // The stream goes without a word: noticed well before the timeout.
    observer.close().await;
    let took = until("fenced", || is_fenced(judge, 7)).await;
    println!("fenced {took:?} after its stream broke");
    // The same process comes back under a new epoch.
    let observer = observe(&cluster, 7).await;
    let again = session(&observer, 7, 8).await;
    assert_eq!(again.broker_epoch(), handle.broker_epoch() + 1);
    assert!(!is_fenced(judge, 7));
    // Fenced behind its back, it registers again by itself.
    judge.fence_broker(7, again.broker_epoch()).await.expect("fenced");
    until("registered again", || again.broker_epoch() > handle.broker_epoch() + 1).await;
    assert!(!is_fenced(&observer, 7));
    observer.close().await;
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_leader_and_a_dead_broker_beside_it_is_fenced() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    let observer = observe(&cluster, 7).await;
    let handle = session(&observer, 7, 7).await;
    for (id, node) in &nodes {
        let mut own = registration(*id, u128::from(*id));
        own.grpc = cluster.list[id].clone();
        let (_, reports) = watch::channel(BrokerReport::default());
        node.coordinator.start_session(own, reports).await.expect("registered");
    }
    let led = leader(&nodes).await;
    nodes.remove(&led).expect("it runs").kill().await;
    let survivor = nodes.values().next().expect("two").coordinator.clone();
    let took = until("fenced", || is_fenced(&survivor, led)).await;
    println!("broker {led} fenced {took:?} after it died with the leader");
    sleep(Duration::from_secs(3)).await;
    assert!(!is_fenced(&survivor, 7) && !handle.is_lapsed());
    assert_eq!(handle.broker_epoch(), 1, "no new registration was needed");
    observer.close().await;
    close_all(nodes).await;
}
