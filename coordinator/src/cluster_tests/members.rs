//! Coordinators that are replaced, added and taken out.

use super::*;

use proto::change_members_request::Change;
use proto::change_members_response::Outcome;

/// Asks the node at `at`, as an operator does, once. No answer is an outcome that nobody knows.
async fn ask_once(cluster: &Cluster, at: NodeId, change: Change) -> Outcome {
    let asked = async {
        let mut client = ControlClient::connect(format!("http://{}", cluster.list[&at])).await?;
        let request = proto::ChangeMembersRequest { protocol: 1, change: Some(change), ..Default::default() };
        let answer = client.change_members(request).await?;
        Ok(answer.into_inner().outcome.expect("an outcome"))
    };
    let answer: Result<Outcome, Box<dyn std::error::Error>> = timeout(LONG, asked).await.expect("in time");
    answer.unwrap_or_else(|e| Outcome::Unknown(e.to_string()))
}

/// Asks until it is decided: a leader may be on its way.
async fn ask(cluster: &Cluster, at: NodeId, change: Change) -> Outcome {
    let deadline = Instant::now() + LONG;
    let mut may_be_done = false;
    loop {
        match ask_once(cluster, at, change.clone()).await {
            // Who is out already cannot be taken out: the attempt without an outcome did it.
            Outcome::Refused(_) if may_be_done && matches!(change, Change::Remove(_)) => {
                return Outcome::Done(true);
            }
            outcome @ (Outcome::Done(_) | Outcome::Refused(_)) => return outcome,
            outcome => {
                assert!(Instant::now() < deadline, "{outcome:?}");
                may_be_done |= matches!(outcome, Outcome::Unknown(_));
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn put(id: NodeId, address: &str, storage: Uuid) -> Change {
    let storage = crate::rpc::uuid_bytes(storage);
    Change::Put(proto::PutMember { id, address: address.into(), storage })
}

/// The storage that a refusal names, in the command that it says to run.
fn storage_in(refusal: &str) -> Uuid {
    let (_, rest) = refusal.split_once("--storage ").unwrap_or_else(|| panic!("{refusal}"));
    rest.split(['`', ' ']).next().expect("a word").parse().expect("a UUID")
}

fn voters(node: &Node) -> Vec<NodeId> {
    let status = node.coordinator.group_status().expect("a member");
    status.members.iter().filter(|member| member.is_voter).map(|member| member.node_id).collect()
}

async fn until_vote(nodes: &BTreeMap<NodeId, Node>, expected: &[NodeId]) {
    let deadline = Instant::now() + LONG;
    while nodes.values().any(|node| voters(node) != expected) {
        let known: Vec<_> = nodes.values().map(voters).collect();
        assert!(Instant::now() < deadline, "{known:?} vote, not {expected:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn fill(coordinator: &Coordinator, name: &str) {
    for i in 0..70 {
        decided(coordinator, &format!("{name}-{i}")).await;
    }
}

/// A disk is lost for good: the node comes back with an empty one, and counts as much as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_with_a_lost_disk_is_replaced() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    register(&nodes[&1].coordinator, 1).await;
    fill(&nodes[&2].coordinator, "early").await;
    nodes.remove(&3).expect("it runs").kill().await;
    let old = cluster.dir.path().join("old");
    std::fs::rename(cluster.data_dir(3), &old).expect("moved");
    let reason = refusal(&cluster, cluster.settings(3)).await;
    assert!(reason.contains("coordinators replace 3 --storage"), "{reason}");
    let storage = storage_in(&reason);

    let led = leader(&nodes).await;
    let other = nodes.keys().copied().find(|id| *id != led).expect("two");
    let refused = ask(&cluster, other, put(led, "", Uuid::from_u128(7))).await;
    assert!(matches!(&refused, Outcome::Refused(why) if why.contains("leads")), "{refused:?}");
    let refused = ask(&cluster, other, put(9, "", Uuid::from_u128(7))).await;
    assert!(matches!(&refused, Outcome::Refused(why) if why.contains("address")), "{refused:?}");
    assert_eq!(ask(&cluster, other, put(3, "", storage)).await, Outcome::Done(true));
    assert_eq!(ask(&cluster, led, put(3, "", storage)).await, Outcome::Done(true), "again: nothing to do");
    fill(&nodes[&other].coordinator, "meanwhile").await;
    assert_eq!(voters(&nodes[&led]), nodes.keys().copied().collect::<Vec<_>>(), "it has no vote yet");

    nodes.insert(3, cluster.start(3).await);
    until_vote(&nodes, &[1, 2, 3]).await;
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
    // It counts: with it and one of the others there is a majority, over a restart too.
    nodes.remove(&led).expect("it runs").kill().await;
    decided(&nodes[&3].coordinator, "late").await;
    nodes.remove(&3).expect("it runs").kill().await;
    nodes.insert(3, cluster.start(3).await);
    decided(&nodes[&other].coordinator, "later").await;
    nodes.insert(led, cluster.start(led).await);
    all_equal(nodes.values().map(|node| &node.coordinator)).await;

    // The disk that was lost is not let in again.
    nodes.remove(&3).expect("it runs").kill().await;
    std::fs::rename(cluster.data_dir(3), cluster.dir.path().join("new")).expect("moved");
    std::fs::rename(&old, cluster.data_dir(3)).expect("moved back");
    let reason = refusal(&cluster, cluster.settings(3)).await;
    assert!(reason.contains("disk") && storage_in(&reason) != storage, "{reason}");
    close_all(nodes).await;
}

/// One after another is replaced, so that nobody is left of those that formed the group; and one that has
/// slept through all of it finds its way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_away_meets_others_than_it_left() {
    let cluster = Cluster::new(5);
    let mut nodes = cluster.start_all().await;
    register(&nodes[&1].coordinator, 1).await;
    nodes.remove(&5).expect("it runs").kill().await;
    for gone in 1..=3 {
        nodes.remove(&gone).expect("it runs").kill().await;
        std::fs::remove_dir_all(cluster.data_dir(gone)).expect("lost");
        let storage = storage_in(&refusal(&cluster, cluster.settings(gone)).await);
        leader(&nodes).await;
        assert_eq!(ask(&cluster, 4, put(gone, "", storage)).await, Outcome::Done(true));
        nodes.insert(gone, cluster.start(gone).await);
        until_vote(&nodes, &[1, 2, 3, 4, 5]).await;
        fill(&nodes[&gone].coordinator, &format!("round-{gone}")).await;
    }
    nodes.insert(5, cluster.start(5).await);
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
    for gone in [1, 4] {
        nodes.remove(&gone).expect("it runs").kill().await;
    }
    decided(&nodes[&5].coordinator, "with-it").await;
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_are_added_and_taken_out() {
    let cluster = Cluster::new(5);
    let three: BTreeMap<_, _> = cluster.list.iter().take(3).map(|(id, a)| (*id, a.clone())).collect();
    let mut nodes = BTreeMap::new();
    let short = |id| CoordinatorSettings { coordinators: three.clone(), ..cluster.settings(id) };
    let started = futures::future::join_all((1..=3).map(|id| cluster.start_with(short(id)))).await;
    for (id, node) in (1..).zip(started) {
        nodes.insert(id, node.expect("starts"));
    }
    register(&nodes[&1].coordinator, 1).await;
    fill(&nodes[&1].coordinator, "early").await;
    // One after another gets the longer list.
    for id in 1..=3 {
        nodes.remove(&id).expect("it runs").kill().await;
        nodes.insert(id, cluster.start(id).await);
        decided(&nodes[&id].coordinator, &format!("list-{id}")).await;
    }
    for id in [4, 5] {
        let reason = refusal(&cluster, cluster.settings(id)).await;
        assert!(reason.contains(&format!("coordinators add {id}=HOST:PORT")), "{reason}");
        let added = ask(&cluster, 1, put(id, &cluster.list[&id], storage_in(&reason))).await;
        assert_eq!(added, Outcome::Done(true));
        nodes.insert(id, cluster.start(id).await);
        let all: Vec<NodeId> = (1..=id).collect();
        until_vote(&nodes, &all).await;
    }
    let led = leader(&nodes).await;
    for gone in nodes.keys().copied().filter(|id| *id != led && *id != 5).take(2).collect::<Vec<_>>() {
        nodes.remove(&gone).expect("it runs").kill().await;
    }
    decided(&nodes[&5].coordinator, "three-of-five").await;
    let gone = cluster.list.keys().copied().find(|id| !nodes.contains_key(id)).expect("two are away");
    assert_eq!(ask(&cluster, 5, Change::Remove(gone)).await, Outcome::Done(true));
    assert!(matches!(ask(&cluster, 5, Change::Remove(gone)).await, Outcome::Refused(_)), "once");
    let reason = refusal(&cluster, cluster.settings(gone)).await;
    assert!(reason.contains("is no coordinator of this cluster"), "{reason}");
    close_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_is_replaced() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    register(&nodes[&1].coordinator, 1).await;
    for gone in [2, 3] {
        nodes.remove(&gone).expect("it runs").kill().await;
    }
    let outcome = ask_once(&cluster, 1, put(3, "", Uuid::from_u128(7))).await;
    assert!(!matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    // What was begun may be finished now, or not; two of them decide either way.
    nodes.insert(2, cluster.start(2).await);
    leader(&nodes).await;
    decided(&nodes[&2].coordinator, "whole").await;
    all_equal(nodes.values().map(|node| &node.coordinator)).await;
    close_all(nodes).await;
}
