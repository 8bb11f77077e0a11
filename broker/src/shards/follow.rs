//! Shards follow the leadership of their partitions: one for each that this node leads, of that leader epoch.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use highwater_model::limits::{SHARD_FOLLOW_PAUSE, SHARD_REQUESTS_MAX};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Kind, Shard, SteadyClock, Task};
use crate::node::Node;
use crate::partition::Partition;

/// Begins and ends shards until the node stops, and ends them all then.
pub async fn follow<K: Kind>(node: Arc<Node>) {
    let (mut replicas, mut stop) = (node.watch_replicas(), node.stopping());
    let mut tasks = JoinSet::new();
    loop {
        replicas.mark_unchanged();
        follow_leaders::<K>(&node, &mut tasks);
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => {
                if let Err(panic) = ended {
                    let holds = K::HOLDS;
                    tracing::error!("a shard of {holds} has ended by a defect: {panic}; it is begun anew");
                }
                forget_ended::<K>(&node);
            }
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
        let pause = tokio::time::timeout(SHARD_FOLLOW_PAUSE, stop.wait_for(|stopping| *stopping));
        if pause.await.is_ok() {
            break;
        }
    }
    let shards = std::mem::take(&mut *K::shards(&node).begun.write().unwrap_or_else(PoisonError::into_inner));
    for shard in shards.values() {
        shard.stop.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
}

/// Shards whose task has ended by itself make room for new ones.
fn forget_ended<K: Kind>(node: &Node) {
    let mut shards = K::shards(node).begun.write().unwrap_or_else(PoisonError::into_inner);
    shards.retain(|_, shard| !shard.messages.is_closed());
}

fn follow_leaders<K: Kind>(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    let view = node.partitions.view();
    let led: BTreeMap<i32, &Arc<Partition>> = match view.by_name(K::TOPIC) {
        Some(topic) => {
            let led = topic.partitions().filter(|partition| partition.terms().is_leader);
            led.map(|partition| (partition.tp.partition, partition)).collect()
        }
        None => BTreeMap::new(),
    };
    let mut shards = K::shards(node).begun.write().unwrap_or_else(PoisonError::into_inner);
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

fn begin<K: Kind>(node: &Arc<Node>, partition: &Arc<Partition>, tasks: &mut JoinSet<()>) -> Arc<Shard<K>> {
    let (sender, messages) = mpsc::channel(SHARD_REQUESTS_MAX);
    let shard = Arc::new(Shard {
        partition: partition.tp.partition,
        epoch: partition.terms().leader_epoch,
        counts: K::Counts::default(),
        messages: sender,
        is_loaded: AtomicBool::new(false),
        stop: watch::Sender::new(false),
    });
    let task = Task {
        node: node.clone(),
        partition: partition.clone(),
        shard: shard.clone(),
        messages,
        stop: shard.stop.subscribe(),
        clock: SteadyClock::starting(node.now_ms()),
    };
    tasks.spawn(task.run());
    shard
}
