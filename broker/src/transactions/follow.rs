//! Shards follow the leadership of their partitions: one for each that this node leads, of that leader epoch.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError};

use highwater_model::limits::{TXN_FOLLOW_PAUSE, TXN_REQUESTS_PER_SHARD_MAX};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::shard::{Task, run as run_shard};
use super::{STATE_TOPIC, Shard};
use crate::node::Node;
use crate::partition::Partition;

/// Begins and ends shards until the node stops, and ends them all then.
pub async fn run(node: Arc<Node>) {
    let (mut replicas, mut stop) = (node.watch_replicas(), node.stopping());
    let mut tasks = JoinSet::new();
    loop {
        replicas.mark_unchanged();
        follow(&node, &mut tasks);
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!("a shard of transactions has ended by a defect: {panic}; it is begun anew");
                }
                forget_ended(&node);
            }
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
        let pause = tokio::time::timeout(TXN_FOLLOW_PAUSE, stop.wait_for(|stopping| *stopping));
        if pause.await.is_ok() {
            break;
        }
    }
    let shards =
        std::mem::take(&mut *node.transactions.shards.write().unwrap_or_else(PoisonError::into_inner));
    for shard in shards.values() {
        shard.stop.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
}

/// Shards whose task has ended by itself make room for new ones.
fn forget_ended(node: &Node) {
    let mut shards = node.transactions.shards.write().unwrap_or_else(PoisonError::into_inner);
    shards.retain(|_, shard| !shard.messages.is_closed());
}

fn follow(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    let view = node.partitions.view();
    let led: BTreeMap<i32, &Arc<Partition>> = match view.by_name(STATE_TOPIC) {
        Some(topic) => {
            let led = topic.partitions().filter(|partition| partition.terms().is_leader);
            led.map(|partition| (partition.tp.partition, partition)).collect()
        }
        None => BTreeMap::new(),
    };
    let mut shards = node.transactions.shards.write().unwrap_or_else(PoisonError::into_inner);
    shards.retain(|number, shard| {
        let stays = led.get(number).is_some_and(|led| led.terms().leader_epoch == shard.epoch);
        if !stays {
            shard.stop.send_replace(true);
        }
        stays
    });
    for (number, partition) in led {
        shards.entry(number).or_insert_with(|| begin(node, partition, tasks));
    }
}

fn begin(node: &Arc<Node>, partition: &Arc<Partition>, tasks: &mut JoinSet<()>) -> Arc<Shard> {
    let (sender, messages) = mpsc::channel(TXN_REQUESTS_PER_SHARD_MAX);
    let shard = Arc::new(Shard {
        partition: partition.tp.partition,
        epoch: partition.terms().leader_epoch,
        messages: sender,
        is_loaded: AtomicBool::new(false),
        stop: watch::Sender::new(false),
        ids: AtomicU64::new(0),
    });
    let task = Task {
        node: node.clone(),
        partition: partition.clone(),
        shard: shard.clone(),
        messages,
        stop: shard.stop.subscribe(),
    };
    tasks.spawn(run_shard(task));
    shard
}
