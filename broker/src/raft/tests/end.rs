//! The end of a group, marked in its log: nobody takes batches after it, whoever leads, until it is taken
//! away.

use std::time::Duration;

use super::cluster::{Cluster, LOOKS};
use super::groups::run;
use crate::core::raft_election::is_majority;
use crate::raft::{ProposeRefusal, Role};

/// However slow the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// The node that leads, whether or not it takes batches.
async fn leader(cluster: &Cluster) -> u64 {
    for _ in 0..LOOKS {
        let newest = cluster.nodes.values().map(|node| node.group.leadership().term).max();
        let leads = |node: &u64| match cluster.group(*node).role() {
            Role::Leader { term, .. } => Some(term) == newest,
            _ => false,
        };
        if let Some(node) = cluster.nodes.keys().copied().find(leads) {
            return node;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no leader");
}

#[test]
fn a_marked_end_outlives_the_leader_that_marked_it() {
    run(async {
        let mut cluster = Cluster::start().await;
        let (first, _) = cluster.leader().await;
        cluster.produce(first, "before", 0).await.expect("committed");
        let group = cluster.group(first).clone();
        group.pause().await;
        assert_eq!(cluster.produce(first, "paused", 2).await, Err(ProposeRefusal::NoMajority));
        group.mark_end(DEADLINE).await.expect("committed");
        group.mark_end(DEADLINE).await.expect("marked again");
        group.resume();
        assert_eq!(cluster.produce(first, "ended", 2).await, Err(ProposeRefusal::NoMajority));
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while group.nodes_with_all().len() < 3 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(group.nodes_with_all(), [1, 2, 3], "only replicas that exist are counted");
        drop(group);
        cluster.kill(first, None).await;
        let next = leader(&cluster).await;
        assert!(cluster.group(next).is_end_marked(), "it is in the log");
        assert_eq!(cluster.produce(next, "ended", 2).await, Err(ProposeRefusal::NoMajority));
        // Only an entry of its own term lets a leader change the members.
        let mut unmarked = cluster.group(next).unmark_end(DEADLINE).await;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while unmarked.is_err() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            unmarked = cluster.group(next).unmark_end(DEADLINE).await;
        }
        unmarked.expect("taken away");
        let (led, _) = cluster.leader().await;
        assert_eq!(led, next);
        cluster.produce(next, "after", 2).await.expect("the group goes on");
        let voters = cluster.group(next).settled_voters().expect("settled");
        assert_eq!(voters.into_values().collect::<Vec<_>>(), [1, 2, 3]);
        let members = cluster.group(next).members();
        assert!(is_majority(&members, &[1, 2].into()) && members.nodes.len() == 3, "the mark is no replica");
        cluster.stop().await;
    });
}
