//! Once per second: segments whose time has come are rolled, topics with `flush.ms` flushed, the disk looked
//! at.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::WORKER_TICK_MS;

use super::pace::Unpublished;
use super::pause;
use crate::node::Node;

pub(super) async fn run(node: Arc<Node>) {
    node.disk.look();
    while pause(&node, Duration::from_millis(WORKER_TICK_MS)).await {
        node.disk.look();
        let now_ms = node.now_ms();
        let mut unpublished = Unpublished::default();
        for partition in node.partitions.view().partitions() {
            match partition.roll_if_due(now_ms) {
                Ok(false) => {}
                Ok(true) => node.flush.push_sealed(partition),
                Err(e) => {
                    let (topic, partition) = (&partition.topic, partition.tp.partition);
                    tracing::warn!(%topic, partition, "cannot roll: {e}");
                }
            }
            if partition.wants_offload(now_ms) {
                node.offloads.push(partition);
            }
            if partition.is_flush_due(now_ms) {
                node.flush.push(partition);
            }
            partition.tick_replica(&node, now_ms);
            unpublished.add(partition.unpublished());
        }
        node.pacer.counted(unpublished);
    }
}
