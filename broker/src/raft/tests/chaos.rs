//! Random kills, power failures and cuts under load, from a seed: nothing acknowledged is lost, nothing is
//! twice, one leader per term, logs are equal byte for byte. `RAFT_SEEDS=n` runs more, from `RAFT_SEED`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_wire::batch::BatchHeader;

use super::cluster::Cluster;
use super::groups::{batches, run};
use super::kit::batch_of;
use crate::raft::{Beginning, RaftGroup};

const PRODUCERS: i64 = 4;
const STEPS: u64 = 120;
/// So that a group without a leader is not done with before it has one.
const STEP_MS: u64 = 40;
/// Batches that a producer sends in a step.
const BATCHES: i32 = 5;

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

/// What a producer got acknowledged: sequence and offset of each batch, in order.
type Acked = Vec<(i32, i64)>;

impl Load {
    /// Every producer sends a few batches, one after another, to whoever leads.
    fn begin(&mut self, cluster: &Cluster) -> Vec<(i64, tokio::task::JoinHandle<Acked>)> {
        let tries = (0..PRODUCERS).map(|producer| {
            let first = *self.next.entry(producer).or_default();
            let groups: Vec<_> = cluster.nodes.values().map(|node| node.group.clone()).collect();
            (producer, tokio::spawn(send(groups, producer, first)))
        });
        tries.collect()
    }

    async fn end(&mut self, tries: Vec<(i64, tokio::task::JoinHandle<Acked>)>) {
        for (producer, attempt) in tries {
            for (sequence, offset) in attempt.await.expect("no assertion failed") {
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
            let instead = log.iter().find(|h| h.base_offset == *offset);
            let instead = instead.map(|h| (h.producer_id, h.base_sequence, h.leader_epoch));
            let elsewhere = found.get(&(*producer, *sequence));
            assert!(
                is_there,
                "batch {sequence} of {producer} was acknowledged at {offset}; there is {instead:?}, it is at {elsewhere:?}"
            );
        }
        assert!(log.iter().zip(0..).all(|(header, offset)| header.base_offset == offset));
        assert!(log.windows(2).all(|pair| pair[0].leader_epoch <= pair[1].leader_epoch));
    }
}

/// Sends until something is not acknowledged.
async fn send(groups: Vec<Arc<RaftGroup>>, producer: i64, first: i32) -> Acked {
    let mut acked = Acked::new();
    for sequence in first..first + BATCHES {
        let (header, bytes) = batch_of(&format!("{producer} {sequence}"), 1, producer, sequence);
        let mut offset = None;
        for group in &groups {
            let attempt = async {
                let appended = group.propose(&header, bytes.clone()).await?;
                group.committed(&appended).await.map(|()| appended)
            };
            let attempted = tokio::time::timeout(Duration::from_secs(2), attempt).await;
            if let Ok(Ok(appended)) = attempted {
                offset = Some(appended.base_offset);
                break;
            }
        }
        match offset {
            Some(offset) => acked.push((sequence, offset)),
            None => break,
        }
    }
    acked
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
                let tries = load.begin(&cluster);
                tokio::time::sleep(Duration::from_millis(random.below(STEP_MS))).await;
                if random.below(8) == 0 {
                    trouble(&mut cluster, &mut random).await;
                }
                load.end(tries).await;
                tokio::time::sleep(Duration::from_millis(STEP_MS)).await;
            }
            cluster.heal();
            cluster.leader().await;
            let before = load.acked.len();
            while load.acked.len() < before + PRODUCERS as usize {
                let tries = load.begin(&cluster);
                load.end(tries).await;
            }
            let log = batches(&cluster.converged().await);
            load.check(&log);
            println!("seed {seed}: {} batches acknowledged, {} in the log", load.acked.len(), log.len());
            cluster.stop().await;
        });
    }
}
