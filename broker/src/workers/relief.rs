//! Leaders that had better not lead any more: those whose logs are damaged or can no longer be written, and
//! those without room. Looked for once per second, beside the tick: an answer of the control plane may take
//! its time, and nothing else waits for it.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::WORKER_TICK_MS;

use super::{damage, pause, room};
use crate::node::Node;

pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    while pause(&node, Duration::from_millis(WORKER_TICK_MS)).await {
        let (mut broken, mut starved) = (Vec::new(), Vec::new());
        let now_ms = node.now_ms();
        for partition in node.partitions.view().partitions() {
            // A follower that takes nothing more leaves by its lag: told off before, its leader would take it
            // in again, as it has not fallen behind yet.
            if partition.has_lost() || (partition.terms().is_leader && partition.is_broken()) {
                broken.push(partition.clone());
            }
            if partition.wants_to_resign(now_ms) {
                starved.push(partition.clone());
            }
        }
        let asked = async {
            damage::tell(&node, broken).await;
            room::resign(&node, starved).await;
        };
        tokio::select! {
            () = asked => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}
