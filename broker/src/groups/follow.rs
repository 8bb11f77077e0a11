//! Shards follow the leadership of their partitions, and all of them the cluster's topics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError};

use highwater_groups::core::types::{Name, Topics};
use highwater_model::TopicId;
use highwater_model::limits::{GROUP_FOLLOW_PAUSE, GROUP_REQUESTS_PER_SHARD_MAX};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::shard::{Task, run as run_shard};
use super::{OFFSETS_TOPIC, Shard};
use crate::node::Node;
use crate::partition::Partition;

/// The cluster's topics as of a version of the metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    pub version: i64,
    pub topics: Arc<Topics>,
}

/// Begins and ends shards until the node stops, and ends them all then.
pub async fn run(node: Arc<Node>) {
    let (mut replicas, mut versions) = (node.watch_replicas(), node.coordinator.watch());
    let mut stop = node.stopping();
    let mut follower = Follower { known: Vec::new(), news: watch::Sender::new(News::default()) };
    let mut tasks = JoinSet::new();
    loop {
        replicas.mark_unchanged();
        versions.mark_unchanged();
        follower.follow_topics(&node);
        follower.follow_leaders(&node, &mut tasks);
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { break },
            changed = versions.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!("a shard of groups has ended by a defect: {panic}; it is begun anew");
                }
                forget_ended(&node);
            }
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
        let pause = tokio::time::timeout(GROUP_FOLLOW_PAUSE, stop.wait_for(|stopping| *stopping));
        if pause.await.is_ok() {
            break;
        }
    }
    let shards = std::mem::take(&mut *node.groups.shards.write().unwrap_or_else(PoisonError::into_inner));
    for shard in shards.values() {
        shard.stop.send_replace(true);
    }
    while tasks.join_next().await.is_some() {}
}

/// Shards whose task has ended by itself make room for new ones.
fn forget_ended(node: &Node) {
    let mut shards = node.groups.shards.write().unwrap_or_else(PoisonError::into_inner);
    shards.retain(|_, shard| !shard.messages.is_closed());
}

struct Follower {
    /// What the last news were made of.
    known: Vec<(TopicId, i32)>,
    news: watch::Sender<News>,
}

impl Follower {
    fn follow_topics(&mut self, node: &Node) {
        let changed = node.coordinator.with_state(|state| {
            let count = |topic: &highwater_coordinator::core::Topic| topic.partitions.len() as i32;
            let now = || state.topics.values().map(|topic| (topic.id, count(topic)));
            if now().eq(self.known.iter().copied()) {
                return None;
            }
            self.known = now().collect();
            let named = |topic: &Arc<highwater_coordinator::core::Topic>| {
                (Name::from(topic.name.as_str()), topic.id, count(topic))
            };
            Some((
                i64::try_from(state.version).unwrap_or(i64::MAX),
                Topics::new(state.topics.values().map(named)),
            ))
        });
        if let Some((version, topics)) = changed {
            self.news.send_replace(News { version, topics: Arc::new(topics) });
        }
    }

    /// One shard for each partition that this node leads, of the present leader epoch.
    fn follow_leaders(&self, node: &Arc<Node>, tasks: &mut JoinSet<()>) {
        let view = node.partitions.view();
        let led: BTreeMap<i32, &Arc<Partition>> = match view.by_name(OFFSETS_TOPIC) {
            Some(topic) => {
                let led = topic.partitions().filter(|partition| partition.terms().is_leader);
                led.map(|partition| (partition.tp.partition, partition)).collect()
            }
            None => BTreeMap::new(),
        };
        let mut shards = node.groups.shards.write().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|number, shard| {
            let stays = led.get(number).is_some_and(|led| led.terms().leader_epoch == shard.epoch);
            if !stays {
                shard.stop.send_replace(true);
            }
            stays
        });
        for (number, partition) in led {
            shards.entry(number).or_insert_with(|| self.begin(node, partition, tasks));
        }
    }

    fn begin(&self, node: &Arc<Node>, partition: &Arc<Partition>, tasks: &mut JoinSet<()>) -> Arc<Shard> {
        let (sender, messages) = mpsc::channel(GROUP_REQUESTS_PER_SHARD_MAX);
        let shard = Arc::new(Shard {
            partition: partition.tp.partition,
            epoch: partition.terms().leader_epoch,
            messages: sender,
            is_loaded: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            groups: AtomicU64::new(0),
            members: AtomicU64::new(0),
        });
        let task = Task {
            node: node.clone(),
            partition: partition.clone(),
            shard: shard.clone(),
            messages,
            news: self.news.subscribe(),
            stop: shard.stop.subscribe(),
        };
        tasks.spawn(run_shard(task));
        shard
    }
}
