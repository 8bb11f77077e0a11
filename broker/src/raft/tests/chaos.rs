//! Random kills, power failures and cuts under load, from a seed: nothing acknowledged is lost, nothing is
//! twice, one leader per term, logs are equal byte for byte. `RAFT_SEEDS=n` runs more, from `RAFT_SEED`.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_wire::batch::BatchHeader;

use super::cluster::Cluster;
use super::groups::{batches, run};
use super::kit::batch_of;
use crate::raft::Beginning;

const PRODUCERS: i64 = 4;
const STEPS: u64 = 150;
/// So that a group without a leader is not done with before it has one.
const STEP: Duration = Duration::from_millis(60);

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Idempotent producers, each with one batch at a time: the next sequence, and what was acknowledged.
#[derive(Default)]
struct Load {
    next: BTreeMap<i64, i32>,
    acked: Vec<(i64, i32, i64)>,
}

impl Load {
    /// Every producer tries its next batch once, at whoever leads.
    async fn step(&mut self, cluster: &Cluster) {
        let tries = (0..PRODUCERS).map(|producer| {
            let sequence = *self.next.entry(producer).or_default();
            let groups: Vec<_> = cluster.nodes.values().map(|node| node.group.clone()).collect();
            tokio::spawn(async move {
                for group in groups {
                    let (header, bytes) = batch_of(&format!("{producer} {sequence}"), 1, producer, sequence);
                    let attempt = async {
                        let appended = group.propose(&header, bytes).await?;
                        group.committed(&appended).await.map(|()| appended)
                    };
                    if let Ok(Ok(appended)) = tokio::time::timeout(Duration::from_secs(2), attempt).await {
                        return Some((producer, sequence, appended.base_offset));
                    }
                }
                None
            })
        });
        for attempt in tries.collect::<Vec<_>>() {
            if let Some((producer, sequence, offset)) = attempt.await.expect("no assertion failed") {
                self.acked.push((producer, sequence, offset));
                self.next.insert(producer, sequence + 1);
            }
        }
    }

    fn check(&self, log: &[BatchHeader]) {
        let found: BTreeMap<_, _> =
            log.iter().map(|h| ((h.producer_id, h.base_sequence), h.base_offset)).collect();
        assert_eq!(found.len(), log.len(), "no batch is there twice");
        for (producer, sequence, offset) in &self.acked {
            let is_there = found.get(&(*producer, *sequence)) == Some(offset);
            assert!(is_there, "batch {sequence} of {producer}, acknowledged at {offset}");
        }
        assert!(log.iter().zip(0..).all(|(header, offset)| header.base_offset == offset));
        assert!(log.windows(2).all(|pair| pair[0].leader_epoch <= pair[1].leader_epoch));
    }
}

async fn restart(cluster: &mut Cluster, node: u64, power: Option<u64>) {
    if cluster.nodes.contains_key(&node) {
        let disk = cluster.kill(node, power).await;
        cluster.open_as(node, disk, Beginning::Existing).await.expect("opens");
    }
}

async fn trouble(cluster: &mut Cluster, random: &mut Random) {
    let node = 1 + random.below(3);
    match random.below(8) {
        0 => restart(cluster, node, None).await,
        1 => restart(cluster, node, Some(random.below(u64::MAX))).await,
        2 => {
            // The lights go out.
            let mut disks = Vec::new();
            for node in [1, 2, 3] {
                disks.push((node, cluster.kill(node, Some(random.below(u64::MAX))).await));
            }
            for (node, disk) in disks {
                cluster.open_as(node, disk, Beginning::Existing).await.expect("opens");
            }
        }
        3 | 4 => cluster.cut(node, 1 + random.below(3)),
        5 => (1..=3).filter(|other| *other != node).for_each(|other| cluster.cut(node, other)),
        _ => cluster.heal(),
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_dies() {
    let number = |name: &str, or| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let first: u64 = number("RAFT_SEED", 1);
    for seed in first..first + number("RAFT_SEEDS", 1) {
        run(async {
            let mut random = Random(seed);
            let mut cluster = Cluster::start().await;
            let mut load = Load::default();
            for _ in 0..STEPS {
                if random.below(8) == 0 {
                    trouble(&mut cluster, &mut random).await;
                }
                load.step(&cluster).await;
                tokio::time::sleep(STEP).await;
            }
            cluster.heal();
            cluster.leader().await;
            let before = load.acked.len();
            while load.acked.len() < before + PRODUCERS as usize {
                load.step(&cluster).await;
            }
            let log = batches(&cluster.converged().await);
            load.check(&log);
            println!("seed {seed}: {} batches acknowledged, {} in the log", load.acked.len(), log.len());
            cluster.stop().await;
        });
    }
}
