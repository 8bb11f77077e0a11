//! Groups of three: elections, failover, partitions, restarts; nothing acknowledged is lost, logs are equal
//! byte for byte.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use highwater_log::disk::{Fault, SimDisk};
use highwater_model::limits::GREETING_PAUSE;
use highwater_wire::EndMarker;
use highwater_wire::batch::BatchHeader;

use super::cluster::{Cluster, LOOKS, partition};
use crate::core::raft_side::StoredVote;
use crate::partition::Marker;
use crate::raft::{Beginning, ProposeRefusal, Role};

/// Base offsets and first bytes of the batches in a log.
pub fn batches(mut bytes: &[u8]) -> Vec<BatchHeader> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(bytes).expect("a batch");
        bytes = &bytes[header.total_bytes()..];
        found.push(header);
    }
    found
}

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(test);
}

#[test]
fn a_group_elects_replicates_and_holds_equal_logs() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        assert!(term > 3, "terms go on after the leader epoch that was");
        for sequence in 0..50 {
            let appended = cluster.produce(leader, "hello", sequence * 2).await.expect("committed");
            assert_eq!((appended.base_offset, appended.term), (i64::from(sequence) * 2, term));
        }
        let log = batches(&cluster.converged().await);
        assert_eq!(log.len(), 50);
        assert!(log.iter().all(|header| header.leader_epoch == term as i32));
        let follower = leader % 3 + 1;
        let refused = cluster.produce(follower, "no", 100).await;
        assert_eq!(refused, Err(ProposeRefusal::NotLeader { leader: Some(leader) }));
        assert_eq!(cluster.records.leaders.lock().expect("leaders").get(&term), Some(&leader));
        cluster.stop().await;
    });
}

#[test]
fn a_batch_sent_again_is_found_before_and_after_a_failover() {
    run(async {
        let mut cluster = Cluster::start().await;
        let (leader, _) = cluster.leader().await;
        let first = cluster.produce(leader, "once", 0).await.expect("committed");
        let again = cluster.produce(leader, "once", 0).await.expect("a duplicate");
        assert_eq!((again.base_offset, again.duplicate_of.is_some()), (first.base_offset, true));
        assert!(matches!(cluster.produce(leader, "gap", 8).await, Err(ProposeRefusal::Sequence(_))));
        cluster.kill(leader, None).await;
        let (next, _) = cluster.leader().await;
        let again = cluster.produce(next, "once", 0).await.expect("a duplicate");
        assert_eq!((again.base_offset, again.duplicate_of.is_some()), (first.base_offset, true));
        cluster.produce(next, "twice", 2).await.expect("goes on");
        assert_eq!(batches(&cluster.converged().await).len(), 2);
        cluster.stop().await;
    });
}

/// The vote is on the disk, and the log may be cut, before openraft says that somebody else leads.
/// As a batch that is sent again: it is told when what the log has is committed, and no sooner.
#[test]
fn a_marker_sent_again_is_found() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, _) = cluster.leader().await;
        cluster.produce(leader, "a", 0).await.expect("committed");
        let end = EndMarker { commit: true, coordinator_epoch: 0 };
        let marker = Marker { producer_id: 77, producer_epoch: 3, end, bumps_epoch: true };
        let batch = marker.batch(5).expect("built");
        let group = cluster.group(leader);
        let propose = || group.propose_as(&batch.header, batch.bytes.clone(), marker.origin());
        let first = propose().await.expect("appended");
        let again = propose().await.expect("known");
        assert_eq!((first.duplicate_of.is_some(), again.duplicate_of.is_some()), (false, true));
        assert_eq!((again.next_offset, first.next_offset), (3, 3));
        group.committed(&again).await.expect("committed");
        assert!(group.high_watermark() >= first.next_offset);
        cluster.stop().await;
    });
}

#[test]
fn who_has_voted_for_another_calls_nothing_out_of_order() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        cluster.produce(leader, "once", 0).await.expect("committed");
        let gap = cluster.produce(leader, "gap", 8).await;
        assert!(matches!(gap, Err(ProposeRefusal::Sequence(_))), "{gap:?}");
        let vote = StoredVote { term: term + 1, replica: 9, is_committed: false };
        cluster.group(leader).store().write_vote(vote).expect("written");
        let gap = cluster.produce(leader, "gap", 8).await;
        assert!(matches!(gap, Err(ProposeRefusal::NotLeader { .. })), "{gap:?}");
        cluster.stop().await;
    });
}

#[test]
fn a_dead_leader_is_replaced_and_comes_back_as_a_follower() {
    run(async {
        let mut cluster = Cluster::start().await;
        let mut sequence = 0;
        for round in 0..4 {
            let (leader, _) = cluster.leader().await;
            for _ in 0..20 {
                cluster.produce(leader, "round", sequence).await.expect("committed");
                sequence += 2;
            }
            let disk = cluster.kill(leader, (round % 2 == 0).then_some(round)).await;
            let killed = Instant::now();
            let (next, _) = cluster.leader().await;
            println!("failover took {:?}", killed.elapsed());
            cluster.produce(next, "after", sequence).await.expect("committed");
            sequence += 2;
            cluster.open_as(leader, disk, Beginning::Existing).await.expect("opens");
            let bytes = cluster.converged().await;
            assert_eq!(batches(&bytes).len() as i32 * 2, sequence);
        }
        cluster.stop().await;
    });
}

#[test]
fn a_minority_refuses_writes_and_follows_once_healed() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        cluster.produce(leader, "before", 0).await.expect("committed");
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|n| *n != leader).collect();
        for other in &others {
            cluster.cut(leader, *other);
        }
        // Within the silence it may still append; nothing of that is acknowledged.
        let lost = cluster.produce(leader, "lost", 2).await;
        assert!(lost.is_err(), "{lost:?}");
        let (next, next_term) = cluster.leader_of(&others).await;
        assert!(next_term > term);
        cluster.produce(next, "majority", 2).await.expect("committed");
        for _ in 0..LOOKS {
            match cluster.group(leader).role() {
                Role::Leader { takes_writes: true, .. } => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                _ => break,
            }
        }
        assert!(cluster.produce(leader, "refused", 4).await.is_err());
        cluster.heal();
        let bytes = cluster.converged().await;
        let epochs: Vec<_> = batches(&bytes).iter().map(|header| header.leader_epoch as u64).collect();
        assert_eq!(epochs, [term, next_term], "what the minority took is gone");
        cluster.stop().await;
    });
}

#[test]
fn a_leader_that_is_heard_but_hears_nobody_is_replaced() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        cluster.produce(leader, "before", 0).await.expect("committed");
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|n| *n != leader).collect();
        for other in &others {
            cluster.cut_one_way(*other, leader);
        }
        let (next, next_term) = cluster.leader_of(&others).await;
        assert!(next_term > term, "its greetings are heard all the while");
        cluster.produce(next, "on", 2).await.expect("committed");
        assert!(cluster.produce(leader, "refused", 4).await.is_err());
        cluster.heal();
        let bytes = cluster.converged().await;
        let epochs: Vec<_> = batches(&bytes).iter().map(|header| header.leader_epoch as u64).collect();
        assert_eq!(epochs, [term, next_term]);
        cluster.stop().await;
    });
}

#[test]
fn a_leader_that_hears_one_of_two_is_not_replaced() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        cluster.cut_one_way(leader % 3 + 1, leader);
        // Longer than a silence, and than an election after it.
        for sequence in 0..20 {
            cluster.produce(leader, "on", sequence * 2).await.expect("committed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(cluster.leader().await, (leader, term), "the third is a majority with it");
        cluster.heal();
        assert_eq!(batches(&cluster.converged().await).len(), 20);
        cluster.stop().await;
    });
}

#[test]
fn a_leader_whose_disk_fails_is_replaced_though_its_node_lives() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        cluster.produce(leader, "before", 0).await.expect("committed");
        cluster.nodes[&leader].disk.inject(Fault::SyncFails);
        for _ in 0..1_000 {
            let in_doubt = cluster.produce(leader, "in doubt", 2).await;
            if cluster.group(leader).role() == Role::Ended {
                break;
            }
            assert!(in_doubt.is_err(), "it is not on the leader's disk");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(cluster.group(leader).role(), Role::Ended);
        // As the node does with a part that has ended.
        cluster.nodes[&leader].host.close_group(partition()).await;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|n| *n != leader).collect();
        let (next, next_term) = cluster.leader_of(&others).await;
        assert!(next_term > term, "the node is heard all the while");
        cluster.produce(next, "in doubt", 2).await.expect("committed, or found");
        cluster.produce(next, "after", 4).await.expect("committed");
        assert_eq!(batches(&cluster.nodes[&next].home.bytes()).len(), 3);
        cluster.stop().await;
    });
}

#[test]
fn a_node_has_a_replica_of_no_group_but_the_one_that_is_named() {
    run(async {
        let cluster = Cluster::start().await;
        let asked = vec![(partition(), 3), (partition(), 4)];
        let asks = || cluster.nodes[&1].host.replicas_on(2, asked.clone());
        assert_eq!(asks().await.expect("answers"), [None, None], "which group it is, is not known yet");
        cluster.group(2).name(3);
        assert_eq!(asks().await.expect("answers"), [Some(2), None], "one of a later group it has not");
        cluster.group(2).name(4);
        assert_eq!(asks().await.expect("answers"), [None, Some(2)], "nor one of an earlier");
        cluster.stop().await;
    });
}

#[test]
fn a_node_that_does_not_hear_the_leader_unseats_nobody() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, term) = cluster.leader().await;
        let deaf = leader % 3 + 1;
        cluster.cut(leader, deaf);
        for sequence in 0..20 {
            cluster.produce(leader, "on", sequence * 2).await.expect("committed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(cluster.leader().await, (leader, term), "no term was spent");
        cluster.heal();
        assert_eq!(batches(&cluster.converged().await).len(), 20);
        assert_eq!(cluster.leader().await, (leader, term), "nor after the healing");
        cluster.stop().await;
    });
}

#[test]
fn a_group_at_rest_sends_nothing_but_greetings() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, _) = cluster.leader().await;
        cluster.produce(leader, "one", 0).await.expect("committed");
        cluster.converged().await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let (before, began) = (cluster.net.calls.load(Ordering::SeqCst), Instant::now());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calls = u128::from(cluster.net.calls.load(Ordering::SeqCst) - before);
        // Six pairs, a greeting every so often; one of each may have been late before.
        let most = 6 * (2 + began.elapsed().as_millis() / GREETING_PAUSE.as_millis());
        assert!(calls <= most, "{calls} calls, greetings are {most} at most");
        cluster.stop().await;
    });
}

#[test]
fn a_disk_that_was_lost_comes_back_as_another_replica() {
    run(async {
        let mut cluster = Cluster::start().await;
        let (leader, _) = cluster.leader().await;
        for sequence in 0..100 {
            cluster.produce(leader, &"x".repeat(500), sequence * 2).await.expect("committed");
        }
        cluster.converged().await;
        // The first half is in the tier, and no longer local on the leader.
        for node in cluster.nodes.values() {
            node.home.tier.lock().expect("tier").tiered_end = 100;
        }
        let released = cluster.group(leader).release_to(100).await.expect("released");
        assert!(released > 0 && released <= 100, "{released}");
        drop(cluster.nodes[&leader].home.log.lock().expect("log").evict_below(released).expect("evicts"));
        let lost = leader % 3 + 1;
        cluster.kill(lost, None).await;
        let empty = cluster.open_as(lost, SimDisk::new(), Beginning::Existing).await;
        assert!(empty.is_err(), "it may have forgotten a vote");
        let reborn = (9 << 32) | lost;
        cluster.open_as(lost, SimDisk::new(), Beginning::Joining { replica: reborn }).await.expect("opens");
        let target = [1, 2, 3].into_iter().map(|n| (if n == lost { reborn } else { n }, n)).collect();
        cluster.group(leader).set_voters(&target, Duration::from_secs(120)).await.expect("changed");
        cluster.produce(leader, "more", 200).await.expect("committed");
        for _ in 0..LOOKS {
            if cluster.group(lost).high_watermark() == cluster.group(leader).high_watermark() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (old, new) = (cluster.nodes[&leader].home.bytes(), cluster.nodes[&lost].home.bytes());
        assert!(old == new, "it begins where the tier ends: {} and {} bytes", old.len(), new.len());
        assert_eq!(batches(&new)[0].base_offset, released);
        // And counts: with it a majority stands without the third.
        let third = [1, 2, 3].into_iter().find(|n| *n != leader && *n != lost).expect("one is left");
        cluster.kill(third, None).await;
        cluster.produce(leader, "of two", 202).await.expect("committed");
        cluster.stop().await;
    });
}

#[test]
fn batches_of_many_producers_share_fsyncs_and_keep_their_order() {
    run(async {
        let cluster = Cluster::start().await;
        let (leader, _) = cluster.leader().await;
        let group = cluster.group(leader).clone();
        let tasks: Vec<_> = (0..16)
            .map(|producer| {
                let group = group.clone();
                tokio::spawn(async move {
                    let mut last = -1;
                    for sequence in 0..100 {
                        let (header, bytes) = super::kit::batch_of("load", 1, 1_000 + producer, sequence);
                        let appended = group.propose(&header, bytes).await.expect("appended");
                        group.committed(&appended).await.expect("committed");
                        assert!(appended.base_offset > last);
                        last = appended.base_offset;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no assertion failed");
        }
        let log = batches(&cluster.converged().await);
        assert_eq!(log.len(), 1_600);
        assert!(log.iter().zip(0..).all(|(header, offset)| header.base_offset == offset));
        assert!(cluster.net.calls.load(Ordering::SeqCst) < 3_200, "appends are gathered");
        assert_eq!(cluster.nodes[&leader].host.group(partition()).map(|g| g.me), Some(leader));
        cluster.stop().await;
    });
}
