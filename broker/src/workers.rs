//! What happens without a client asking: flush, roll, offload, evict, retain, sweep, follow the coordinator.
//!
//! Each worker is a short loop that waits for its queue or its time and carries out what `partition` and
//! `core` decide. An idle node wakes once per `WORKER_TICK_MS`. Must not hold a partition's lock while
//! waiting (invariant 7), nor let a slow bucket delay anything but the tier (invariant 15).

mod damage;
pub mod disk;
pub mod flush;
pub mod isr;
pub mod offload;
pub mod pace;
pub mod raft;
mod relief;
pub mod retention;
mod room;
pub mod sweep;
mod tick;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::node::Node;

/// Spawns the workers into `tasks`; all end when the node stops.
pub fn start(node: &Arc<Node>, tasks: &mut JoinSet<()>) {
    tasks.spawn(tick::run(node.clone()));
    tasks.spawn(relief::run(node.clone()));
    tasks.spawn(follow_topics(node.clone()));
    tasks.spawn(retention::run(node.clone()));
    tasks.spawn(sweep::run(node.clone()));
    tasks.spawn(mirror(node.clone()));
    tasks.spawn(pace::run(node.clone()));
    tasks.spawn(isr::run(node.clone()));
    tasks.spawn(crate::replication::run(node.clone()));
    tasks.spawn(raft::run(node.clone()));
    tasks.spawn(raft_host(node.clone()));
    tasks.spawn(crate::groups::run(node.clone()));
    tasks.spawn(crate::transactions::run(node.clone()));
    tasks.spawn(crate::delayed::run(node.clone()));
    for _ in 0..node.settings.offload_concurrency.max(1) {
        tasks.spawn(offload::run(node.clone()));
    }
}

/// Waits for `pause` or the node's stop; false when it stops.
async fn pause(node: &Node, pause: Duration) -> bool {
    let mut stop = node.stopping();
    tokio::time::timeout(pause, stop.wait_for(|stopping| *stopping)).await.is_err()
}

/// Looks after the other nodes of groups, and elections, until the node stops.
async fn raft_host(node: Arc<Node>) {
    let mut stop = node.stopping();
    tokio::select! {
        () = node.raft.host.clone().run() => {}
        _ = stop.wait_for(|stopping| *stopping) => {}
    }
}

/// Writes changed manifests to the bucket until the node stops.
async fn mirror(node: Arc<Node>) {
    let mut stop = node.stopping();
    tokio::select! {
        () = node.mirror.clone().run() => {}
        _ = stop.wait_for(|stopping| *stopping) => {}
    }
}

/// Brings the partitions up to the coordinator's state whenever that changes.
async fn follow_topics(node: Arc<Node>) {
    let mut versions = node.coordinator.watch();
    let mut stop = node.stopping();
    loop {
        versions.mark_unchanged();
        if let Err(e) = node.follow_topics().await {
            tracing::error!("topics cannot be followed: {e}");
            if !pause(&node, Duration::from_secs(1)).await {
                return;
            }
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}
