//! The internal topic: created when a coordinator is first asked for, and who leads what of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{NewTopic, Refusal};
use highwater_groups::core::shard::partition_of;
use highwater_model::TopicId;
use highwater_model::limits::{GROUP_BROKERS_WAIT, OFFSETS_TOPIC_SEGMENT_BYTES};
use tokio::time::Instant;

use super::OFFSETS_TOPIC;
use crate::handlers::admin;
use crate::handlers::topics::current_leader;
use crate::node::Node;

/// The broker that coordinates a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
}

/// The coordinator of each group, in order; none where there is no leader for now. Creates the internal
/// topic if need be.
pub async fn find(node: &Arc<Node>, groups: &[&str]) -> Vec<Option<Coordinator>> {
    let Some((id, count)) = topic(node).await else { return vec![None; groups.len()] };
    let one = |group: &&str| {
        let leader = current_leader(node, id, partition_of(group, count))?;
        Some(Coordinator { node_id: leader.node_id, host: leader.host, port: leader.port })
    };
    groups.iter().map(one).collect()
}

fn known(node: &Node) -> Option<(TopicId, i32)> {
    node.coordinator.with_state(|state| {
        let topic = state.topic_by_name(OFFSETS_TOPIC)?;
        Some((topic.id, i32::try_from(topic.partitions.len()).ok()?))
    })
}

/// The internal topic and the number of its partitions.
async fn topic(node: &Arc<Node>) -> Option<(TopicId, i32)> {
    if let Some(known) = known(node) {
        return Some(known);
    }
    let mut first_asked = node.groups.creating.lock().await;
    if let Some(known) = known(node) {
        return Some(known);
    }
    // One that is away for a moment counts: the topic keeps its number of replicas, so it waits for that
    // broker.
    let brokers =
        node.coordinator.with_state(|state| state.brokers.values().filter(|b| !b.is_draining).count());
    let first_asked = *first_asked.get_or_insert_with(Instant::now);
    let is_forming = brokers < node.settings.coordinators.len() && first_asked.elapsed() < GROUP_BROKERS_WAIT;
    let brokers = i16::try_from(brokers).unwrap_or(i16::MAX).max(1);
    if is_forming && brokers < node.settings.offsets_topic_replication_factor {
        return None; // clients ask again
    }
    let configs = [
        ("cleanup.policy", "compact".to_owned()),
        ("compression.type", "producer".to_owned()),
        ("segment.bytes", OFFSETS_TOPIC_SEGMENT_BYTES.to_string()),
        // A coordinator that is elected reads all of it at once, and it changes all the time.
        ("remote.storage.enable", "false".to_owned()),
    ];
    let wanted = NewTopic {
        topic_id: TopicId::NONE,
        name: OFFSETS_TOPIC.to_owned(),
        partitions: node.settings.offsets_topic_num_partitions,
        replication_factor: node.settings.offsets_topic_replication_factor.min(brokers),
        assignments: Vec::new(),
        configs: configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
    };
    let outcome = node.coordinator.create_topics(vec![wanted], false).await.pop();
    match outcome {
        Some(Ok(_)) => tracing::info!("{OFFSETS_TOPIC} created: the first group is looked for"),
        // Another broker was faster.
        Some(Err(WriteError::Refused(Refusal::TopicExists { .. }))) => {}
        Some(Err(error)) => tracing::warn!("{OFFSETS_TOPIC} cannot be created: {error}"),
        None => return None,
    }
    admin::follow(node).await;
    known(node)
}
