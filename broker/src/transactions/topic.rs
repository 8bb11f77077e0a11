//! The internal topic: created when a coordinator of a transaction is first asked for, and who leads what of
//! it.

use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{NewTopic, Refusal};
use highwater_groups::core::shard::partition_of;
use highwater_model::limits::TXN_STATE_SEGMENT_BYTES;
use highwater_model::{NodeId, TopicId, TopicPartition};

use super::STATE_TOPIC;
use crate::groups::Coordinator;
use crate::handlers::admin;
use crate::handlers::topics::{current_leader, leader_of};
use crate::node::Node;

/// The coordinator of each transactional id, in order; none where there is no leader for now. Creates the
/// internal topic if need be.
pub async fn find(node: &Arc<Node>, ids: &[&str]) -> Vec<Option<Coordinator>> {
    let Some((topic, count)) = topic(node).await else { return vec![None; ids.len()] };
    let one = |id: &&str| {
        let leader = current_leader(node, topic, partition_of(id, count))?;
        Some(Coordinator { node_id: leader.node_id, host: leader.host, port: leader.port })
    };
    ids.iter().map(one).collect()
}

/// The node that coordinates a transactional id, by what this node knows.
pub(super) fn coordinator_of(node: &Node, id: &str) -> Option<NodeId> {
    let (topic, count) = known(node)?;
    let tp = TopicPartition::new(topic, partition_of(id, count));
    let view = node.partitions.view();
    node.coordinator.with_state(|state| leader_of(&view, tp, state.partition(tp)?).0)
}

fn known(node: &Node) -> Option<(TopicId, i32)> {
    node.coordinator.with_state(|state| {
        let topic = state.topic_by_name(STATE_TOPIC)?;
        Some((topic.id, i32::try_from(topic.partitions.len()).ok()?))
    })
}

/// The internal topic and the number of its partitions.
async fn topic(node: &Arc<Node>) -> Option<(TopicId, i32)> {
    if let Some(known) = known(node) {
        return Some(known);
    }
    let _creating = node.transactions.creating.lock().await;
    if let Some(known) = known(node) {
        return Some(known);
    }
    // One that is away for a moment counts: the topic keeps its number of replicas.
    let brokers =
        node.coordinator.with_state(|state| state.brokers.values().filter(|b| !b.is_draining).count());
    let brokers = i16::try_from(brokers).unwrap_or(i16::MAX).max(1);
    let replication_factor = node.settings.transaction_state_topic_replication_factor.min(brokers);
    // A decision must not hang on one disk where there are three (Kafka's
    // `transaction.state.log.min.isr`).
    let min_in_sync = (replication_factor - 1).clamp(1, 2);
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("min.insync.replicas", min_in_sync.to_string()),
        ("segment.bytes", TXN_STATE_SEGMENT_BYTES.to_string()),
        // A coordinator that is elected reads all of it at once.
        ("remote.storage.enable", "false".to_owned()),
    ];
    let wanted = NewTopic {
        topic_id: TopicId::NONE,
        name: STATE_TOPIC.to_owned(),
        partitions: node.settings.transaction_state_topic_num_partitions,
        replication_factor,
        assignments: Vec::new(),
        configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    };
    let outcome = node.coordinator.create_topics(vec![wanted], false).await.pop();
    match outcome {
        Some(Ok(_)) => tracing::info!("{STATE_TOPIC} created: the first transaction is looked for"),
        // Another broker was faster.
        Some(Err(WriteError::Refused(Refusal::TopicExists { .. }))) => {}
        Some(Err(error)) => tracing::warn!("{STATE_TOPIC} cannot be created: {error}"),
        None => return None,
    }
    admin::follow(node).await;
    known(node)
}
