//! Leaders that had better not lead any more: those with damaged logs, and those without room. Looked for
//! once per second, beside the tick: an answer of the control plane may take its time, and nothing else waits
//! for it.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::WORKER_TICK_MS;

use super::{damage, pause, room};
use crate::node::Node;

pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    while pause(&node, Duration::from_millis(WORKER_TICK_MS)).await {
        let (mut damaged, mut starved) = (Vec::new(), Vec::new());
        let now_ms = node.now_ms();
        for partition in node.partitions.view().partitions() {
            if partition.has_lost() {
                damaged.push(partition.clone());
            }
            if partition.wants_to_resign(now_ms) {
                starved.push(partition.clone());
            }
        }
        let asked = async {
            damage::tell(&node, damaged).await;
            room::resign(&node, starved).await;
        };
        tokio::select! {
            () = asked => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}
