//! Sessions of brokers with whoever leads.

use tokio::sync::watch;

use super::*;
use crate::SessionHandle;
use crate::core::{BrokerRegistration, BrokerReport};

async fn session(coordinator: &Coordinator, id: NodeId, incarnation: u128) -> SessionHandle {
    begin(coordinator, registration(id, incarnation)).await
}

/// Begins a session, however often that takes while the group elects a leader.
async fn begin(coordinator: &Coordinator, registration: BrokerRegistration) -> SessionHandle {
    let deadline = Instant::now() + LONG;
    loop {
        let (_, reports) = watch::channel(BrokerReport::default());
        match coordinator.start_session(registration.clone(), reports).await {
            Ok(handle) => return handle,
            Err(e) => assert!(Instant::now() < deadline, "{e}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
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
    let cluster = Cluster::impatient(3);
    let nodes = cluster.start_all().await;
    let led = leader(&nodes).await;
    let observer = observe(&cluster, 7).await;
    let handle = session(&observer, 7, 7).await;
    let first_epoch = handle.broker_epoch();
    let members: Vec<_> = {
        let start = |id: &NodeId| {
            let (id, coordinator) = (*id, nodes[id].coordinator.clone());
            async move { (id, session(&coordinator, id, u128::from(id)).await) }
        };
        futures::future::join_all(nodes.keys().map(start)).await
    };
    // Longer than the timeout: everybody reports.
    sleep(IMPATIENT + Duration::from_secs(1)).await;
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
    let second_epoch = again.broker_epoch();
    assert!(second_epoch > first_epoch);
    assert!(!is_fenced(judge, 7));
    // Fenced behind its back, it registers again by itself.
    judge.fence_broker(7, again.broker_epoch()).await.expect("fenced");
    until("registered again", || again.broker_epoch() > second_epoch).await;
    assert!(!is_fenced(&observer, 7));
    observer.close().await;
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_the_leader_and_a_dead_broker_beside_it_is_fenced() {
    let cluster = Cluster::impatient(3);
    let mut nodes = cluster.start_all().await;
    let observer = observe(&cluster, 7).await;
    let handle = session(&observer, 7, 7).await;
    let first_epoch = handle.broker_epoch();
    for (id, node) in &nodes {
        let mut own = registration(*id, u128::from(*id));
        own.grpc = cluster.list[id].clone();
        begin(&node.coordinator, own).await;
    }
    let led = leader(&nodes).await;
    nodes.remove(&led).expect("it runs").kill().await;
    let survivor = nodes.values().next().expect("two").coordinator.clone();
    let took = until("fenced", || is_fenced(&survivor, led)).await;
    println!("broker {led} fenced {took:?} after it died with the leader");
    sleep(IMPATIENT + Duration::from_secs(1)).await;
    assert!(!is_fenced(&survivor, 7) && !handle.is_lapsed());
    assert_eq!(handle.broker_epoch(), first_epoch, "no new registration was needed");
    observer.close().await;
    close_all(nodes).await;
}
