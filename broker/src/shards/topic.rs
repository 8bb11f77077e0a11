//! An internal topic: created when what it holds is first looked for, and who leads what of it.

use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{NewTopic, Refusal};
use highwater_groups::core::shard::partition_of;
use highwater_model::limits::{SHARD_BROKERS_WAIT, SHARD_SEGMENT_BYTES};
use highwater_model::{NodeId, TopicId, TopicPartition};
use tokio::time::Instant;

use super::Kind;
use crate::handlers::admin;
use crate::handlers::topics::{current_leader, leader_of};
use crate::node::Node;

/// What is asked for an internal topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub partitions: i32,
    /// No more than brokers are registered.
    pub replication_factor: i16,
    /// What is written there must not hang on one disk where there are three (Kafka's
    /// `transaction.state.log.min.isr`).
    pub is_on_two_disks: bool,
}

/// The broker that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
}

/// The broker that has each key, in order; none where there is no leader for now. Creates the internal topic
/// if need be.
pub async fn find<K: Kind>(node: &Arc<Node>, keys: &[&str]) -> Vec<Option<Coordinator>> {
    let Some((id, count)) = topic::<K>(node).await else { return vec![None; keys.len()] };
    let one = |key: &&str| {
        let leader = current_leader(node, id, partition_of(key, count))?;
        Some(Coordinator { node_id: leader.node_id, host: leader.host, port: leader.port })
    };
    keys.iter().map(one).collect()
}

/// The node that has a key, by what this node knows.
pub fn coordinator_of<K: Kind>(node: &Node, key: &str) -> Option<NodeId> {
    let (topic, count) = known::<K>(node)?;
    let tp = TopicPartition::new(topic, partition_of(key, count));
    let view = node.partitions.view();
    node.coordinator.with_state(|state| leader_of(&view, tp, state.partition(tp)?).0)
}

/// The internal topic and the number of its partitions, if it was created.
pub fn known<K: Kind>(node: &Node) -> Option<(TopicId, i32)> {
    node.coordinator.with_state(|state| {
        let topic = state.topic_by_name(K::TOPIC)?;
        Some((topic.id, i32::try_from(topic.partitions.len()).ok()?))
    })
}

/// As [`known`]; creates it if need be. None: not now.
pub async fn topic<K: Kind>(node: &Arc<Node>) -> Option<(TopicId, i32)> {
    if let Some(known) = known::<K>(node) {
        return Some(known);
    }
    let mut first_asked = K::shards(node).creating.lock().await;
    if let Some(known) = known::<K>(node) {
        return Some(known);
    }
    let spec = K::topic(&node.settings);
    // One that is away for a moment counts: the topic keeps its number of replicas, so it waits for that
    // broker.
    let brokers =
        node.coordinator.with_state(|state| state.brokers.values().filter(|b| !b.is_draining).count());
    let first_asked = *first_asked.get_or_insert_with(Instant::now);
    let is_forming = brokers < node.settings.coordinators.len() && first_asked.elapsed() < SHARD_BROKERS_WAIT;
    let brokers = i16::try_from(brokers).unwrap_or(i16::MAX).max(1);
    if is_forming && brokers < spec.replication_factor {
        return None; // clients ask again
    }
    let outcome = node.coordinator.create_topics(vec![wanted::<K>(spec, brokers)], false).await.pop();
    match outcome {
        Some(Ok(_)) => tracing::info!("{} created: {} are first looked for", K::TOPIC, K::HOLDS),
        // Another broker was faster.
        Some(Err(WriteError::Refused(Refusal::TopicExists { .. }))) => {}
        Some(Err(error)) => tracing::warn!("{} cannot be created: {error}", K::TOPIC),
        None => return None,
    }
    admin::follow(node).await;
    known::<K>(node)
}

fn wanted<K: Kind>(spec: TopicSpec, brokers: i16) -> NewTopic {
    let replication_factor = spec.replication_factor.min(brokers);
    let mut configs = vec![
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("segment.bytes", SHARD_SEGMENT_BYTES.to_string()),
        // A node that comes to lead it reads all of it at once, and it changes all the time.
        ("remote.storage.enable", "false".to_owned()),
    ];
    if spec.is_on_two_disks {
        configs.push(("min.insync.replicas", (replication_factor - 1).clamp(1, 2).to_string()));
    }
    NewTopic {
        topic_id: TopicId::NONE,
        name: K::TOPIC.to_owned(),
        partitions: spec.partitions,
        replication_factor,
        assignments: Vec::new(),
        configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}
