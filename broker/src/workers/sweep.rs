//! Deleting from the bucket what manifests have retired and what deleted topics have left.
//!
//! Only after the grace, which is longer than any read (invariant 10); in bulk, and again after a crash. A
//! deleted topic is forgotten by the coordinator once nothing of it is left, in the bucket or on this node's
//! disk.

use std::sync::Arc;
use std::time::Duration;

use highwater_coordinator::core::DeletedTopic;
use highwater_model::TopicPartition;
use highwater_model::limits::RETIRED_GRACE_MS;

use super::pause;
use crate::node::Node;
use crate::partition::Partition;
use crate::partition::open::topic_dir;

pub(super) async fn run(node: Arc<Node>) {
    let interval = Duration::from_millis(node.settings.retention_check_ms);
    while pause(&node, interval).await {
        let view = node.partitions.view();
        for partition in view.partitions().filter(|p| !p.manifest().retiring.is_empty()) {
            sweep_partition(&node, partition).await;
            if node.is_stopping() {
                return;
            }
        }
        for topic in node.coordinator.state().deleted.values() {
            if let Err(e) = sweep_topic(&node, topic).await {
                tracing::warn!(topic = %topic.name, "a deleted topic's objects stay for now: {e}");
            }
        }
    }
}

async fn sweep_partition(node: &Node, partition: &Arc<Partition>) {
    let leader_epoch = partition.terms().leader_epoch;
    match node.offloader.sweep(partition.tp, &partition.topic, leader_epoch, node.now_ms()).await {
        Ok(swept) if swept.entries > 0 => super::offload::refresh_manifest(node, partition),
        Ok(_) => {}
        Err(e) => {
            let (topic, index) = (&partition.topic, partition.tp.partition);
            tracing::warn!(%topic, partition = index, "retired objects stay for now: {e}");
        }
    }
}

async fn sweep_topic(node: &Node, topic: &DeletedTopic) -> Result<(), String> {
    let is_due = node.now_ms().saturating_sub(topic.deleted_at_ms) >= RETIRED_GRACE_MS;
    if !is_due || topic_dir(&node.settings.data_dir, topic.id).exists() {
        return Ok(());
    }
    for (index, manifest) in (0..).zip(&topic.manifests) {
        let tp = TopicPartition::new(topic.id, index);
        node.offloader.delete_partition(tp, &topic.name, manifest).await.map_err(|e| e.to_string())?;
    }
    node.coordinator.swept_topic(topic.id).await.map_err(|e| e.to_string())?;
    tracing::info!(topic = %topic.name, "a deleted topic's objects are gone from the bucket");
    Ok(())
}
