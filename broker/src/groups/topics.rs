//! The cluster's topics, for all shards of groups.

use std::sync::Arc;

use highwater_coordinator::core::Topic;
use highwater_groups::core::types::{Name, Topics};
use highwater_model::TopicId;
use highwater_model::limits::SHARD_FOLLOW_PAUSE;
use tokio::sync::watch;

use crate::node::Node;

/// The cluster's topics as of a version of the metadata.
#[derive(Clone, Debug, Default)]
pub struct News {
    pub version: i64,
    pub topics: Arc<Topics>,
}

/// Where shards hear of them.
pub struct Newsroom(watch::Sender<News>);

impl Default for Newsroom {
    fn default() -> Newsroom {
        Newsroom(watch::Sender::new(News::default()))
    }
}

impl Newsroom {
    pub fn subscribe(&self) -> watch::Receiver<News> {
        self.0.subscribe()
    }
}

/// What the last news were made of.
#[derive(Default)]
pub(super) struct Known(Vec<(TopicId, i32)>);

/// Follows the topics until the node stops.
pub(super) async fn follow(node: &Node, mut known: Known) {
    let (mut versions, mut stop) = (node.coordinator.watch(), node.stopping());
    loop {
        versions.mark_unchanged();
        look(node, &mut known);
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { break },
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
        let pause = tokio::time::timeout(SHARD_FOLLOW_PAUSE, stop.wait_for(|stopping| *stopping));
        if pause.await.is_ok() {
            break;
        }
    }
}

/// Tells the shards what has changed since the last look.
pub(super) fn look(node: &Node, known: &mut Known) {
    let changed = node.coordinator.with_state(|state| {
        let count = |topic: &Topic| topic.partitions.len() as i32;
        let now = || state.topics.values().map(|topic| (topic.id, count(topic)));
        if now().eq(known.0.iter().copied()) {
            return None;
        }
        known.0 = now().collect();
        let named = |topic: &Arc<Topic>| (Name::from(topic.name.as_str()), topic.id, count(topic));
        let version = i64::try_from(state.version).unwrap_or(i64::MAX);
        Some(News { version, topics: Arc::new(Topics::new(state.topics.values().map(named))) })
    });
    if let Some(news) = changed {
        node.groups.shared.0.send_replace(news);
    }
}
