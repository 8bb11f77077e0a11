//! Forming a group, losing and keeping a leader, and who is refused.

use std::path::Path;

use super::*;
use crate::core::Refusal;

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
            register(&node.coordinator, *id).await;
            let topic = decided(&node.coordinator, &format!("from-{id}")).await;
            // Who wrote reads what it wrote, wherever it was decided.
            assert!(node.coordinator.state().topic(topic).is_some());
        }
        for node in nodes.values() {
            vouched(&node.coordinator).await;
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
    register(&nodes[&1].coordinator, 1).await;
    decided(&nodes[&1].coordinator, "before").await;
    let first = leader(&nodes).await;
    nodes.remove(&first).expect("it runs").kill().await;
    let killed = Instant::now();
    let survivor = nodes.values().next().expect("two are left").coordinator.clone();
    decided(&survivor, "after").await;
    println!("a write went through {:?} after the leader was gone", killed.elapsed());
    assert_ne!(leader(&nodes).await, first);
    // More than a snapshot's worth, so that the one that was away gets one.
    for i in 0..160 {
        decided(&survivor, &format!("t-{i}")).await;
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
    register(&nodes[&1].coordinator, 1).await;
    decided(&nodes[&2].coordinator, "kept").await;
    let before = nodes[&1].coordinator.cluster_id();
    // Two have decided; the one that is about to be alone is told a little later.
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
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
    decided(&nodes[&3].coordinator, "later").await;
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_does_not_unseat_the_leader() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    // On a machine that stands still for a while the group may elect by itself: not every time.
    for turn in 1..=3 {
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
        if (status.leadership.leader, status.leadership.term) == (Some(led), term) {
            break;
        }
        assert!(turn < 3, "who comes back unseats the leader, always: {:?}", status.leadership);
    }
    close_all(nodes).await;
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
    // Whoever hears of it first ends; the other may not have heard yet, and waits for somebody to greet.
    let started = async {
        let (odd, whole) = (cluster.start_with(short), cluster.start_with(cluster.settings(2)));
        tokio::pin!(odd, whole);
        let first = futures::future::select(odd, whole).await;
        first.factor_first().0
    };
    let reason = timeout(LONG, started).await.expect("in time").err().expect("refused").to_string();
    assert!(reason.contains("--coordinators") && reason.lines().count() == 1, "{reason}");
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
