//! A leader that refuses appends for lack of room gives its place to another in-sync replica, if enough of
//! them are there for acks=all (docs/adr/0012). Then it follows, and fills its log when there is room again
//! (`replication/follower.rs`).

use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::Resignation;
use highwater_model::limits::DISK_FULL_RESIGN_MAX;

use crate::node::Node;
use crate::partition::Partition;

/// Asks the control plane to elect others in the place of `starved` leaders.
pub(super) async fn resign(node: &Arc<Node>, starved: Vec<Arc<Partition>>) {
    let node_id = node.settings.node_id;
    let broker_epoch = node.isr.broker_epoch();
    let is_due = |partition: &Arc<Partition>| {
        node.coordinator.with_state(|state| {
            let Some(topic) = state.topic(partition.tp.topic_id) else { return false };
            let Some(record) = topic.partition(partition.tp.partition) else { return false };
            record.leader == Some(node_id) && state.may_resign(topic, record, node_id)
        })
    };
    let due: Vec<_> = starved.into_iter().filter(is_due).take(DISK_FULL_RESIGN_MAX).collect();
    if due.is_empty() {
        return;
    }
    let request = |partition: &Arc<Partition>| {
        let leader_epoch = partition.terms().leader_epoch;
        Resignation { tp: partition.tp, node_id, broker_epoch, leader_epoch }
    };
    let outcomes = node.coordinator.resign_leaders(due.iter().map(request).collect()).await;
    let now_ms = node.now_ms();
    for (partition, outcome) in due.iter().zip(outcomes) {
        let (topic, index) = (&partition.topic, partition.tp.partition);
        match outcome {
            Ok(()) => {
                tracing::warn!(%topic, partition = index, "the disk is full: another replica leads");
                partition.resigned(now_ms);
            }
            Err(WriteError::Refused(refusal)) => {
                tracing::info!(%topic, partition = index, "the disk is full, and no other replica leads: {refusal}");
                partition.resigned(now_ms);
            }
            // Asked again in a second.
            Err(e) => {
                tracing::debug!(%topic, partition = index, "the disk is full; no other leader yet: {e}")
            }
        }
    }
}
