//! Following the metadata: nodes without a seat, and any client.

use highwater_model::limits::METADATA_BEHIND;

use super::*;
use crate::core::StateDelta;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_seat_follows_and_writes() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    register(&nodes[&1].coordinator, 1).await;
    decided(&nodes[&1].coordinator, "early").await;
    // Whomever the observer asks for its first snapshot has it by now.
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
    let observer = observe(&cluster, 7).await;
    assert_eq!(observer.cluster_id(), nodes[&1].coordinator.cluster_id());
    assert!(observer.state().topic_by_name("early").is_some(), "the snapshot");
    for i in 0..20 {
        let topic = decided(&observer, &format!("mine-{i}")).await;
        assert!(observer.state().topic(topic).is_some(), "it reads what it wrote");
    }
    decided(&nodes[&2].coordinator, "theirs").await;
    vouched(&observer).await;
    assert!(observer.state().topic_by_name("theirs").is_some());
    all_equal([&observer, &nodes[&1].coordinator].into_iter()).await;
    // Whichever coordinator goes, it follows another.
    for gone in [1, 2, 3] {
        nodes.remove(&gone).expect("it runs").kill().await;
        decided(&observer, &format!("without-{gone}")).await;
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
    register(coordinator, 2).await;
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
    decided(coordinator, "small").await;
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
    decided(coordinator, "last").await;
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
