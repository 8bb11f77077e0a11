//! Retention and eviction carried out: the manifest first, then the log start, then the local files.
//!
//! Fails closed (invariant 10): without a manifest nothing is evicted, and what is evicted lies below the end
//! that the committed manifest lists. A page of the manifest is read only when the limit lies within it.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::Offset;
use highwater_model::limits::PAGES_PER_RETENTION_MAX;
use highwater_tiering::core::manifest::Node as Listed;

use super::pause;
use crate::node::Node;
use crate::partition::Partition;
use highwater_compaction::core::retention::{Limits, LogStartPlan, plan_eviction, plan_log_start};

pub(super) async fn run(node: Arc<Node>) {
    let interval = Duration::from_millis(node.settings.retention_check_ms);
    while pause(&node, interval).await {
        let view = node.partitions.view();
        for partition in view.partitions() {
            if let Err(e) = retain(&node, partition).await {
                let (topic, index) = (&partition.topic, partition.tp.partition);
                tracing::warn!(%topic, partition = index, "retention was put off: {e}");
            }
            evict(&node, partition, false).await;
            if node.is_stopping() {
                return;
            }
        }
    }
}

/// Raises the log start as far as the topic's retention says; its leader alone decides.
async fn retain(node: &Arc<Node>, partition: &Arc<Partition>) -> Result<(), String> {
    if let Ok(bounds) = partition.bounds() {
        release(partition, bounds.log_start).await;
    }
    partition.follow_log_start().map_err(|e| e.to_string())?;
    if !partition.terms().is_leader {
        return Ok(());
    }
    let limits = Limits::of(&partition.terms().config);
    let manifest = partition.manifest();
    let Some(shape) = partition.local_shape() else { return Ok(()) };
    let mut listed: Vec<Listed> = manifest.nodes().collect();
    for _ in 0..PAGES_PER_RETENTION_MAX {
        match plan_log_start(node.now_ms(), limits, &listed, &shape) {
            LogStartPlan::LookInto { page } => {
                let content = node
                    .offloader
                    .read_page(partition.tp, &partition.topic, &page)
                    .await
                    .map_err(|e| e.to_string())?;
                let at = listed.iter().position(|l| *l == Listed::Page(page.clone()));
                let at = at.ok_or("the plan names a page that is not listed")?;
                listed.splice(at..=at, content);
            }
            LogStartPlan::To { log_start, rolls } => {
                if rolls {
                    partition.roll_now(node.now_ms()).map_err(|e| e.to_string())?;
                    node.offloads.push(partition);
                }
                if log_start > shape.bounds.log_start {
                    return raise_log_start(node, partition, log_start).await;
                }
                return Ok(());
            }
        }
    }
    Err(format!("more than {PAGES_PER_RETENTION_MAX} pages to look into"))
}

/// Raises the log start, in the manifest first and then in the local log, and drops what lies below.
///
/// # Errors
/// In words; the manifest may have moved, then the rest is done by the next pass or at the next start.
pub async fn raise_log_start(
    node: &Arc<Node>,
    partition: &Arc<Partition>,
    offset: Offset,
) -> Result<(), String> {
    let leader_epoch = partition.terms().leader_epoch;
    let raised = node.offloader.raise_log_start(partition.tp, &partition.topic, leader_epoch, offset).await;
    partition.set_manifest(raised.map_err(|e| e.to_string())?);
    release(partition, offset).await;
    partition.raise_log_start(offset).map_err(|e| e.to_string())?;
    evict(node, partition, false).await;
    Ok(())
}

/// Has the partition's group, if one replicates it, let go of what lies below `target`.
async fn release(partition: &Partition, target: Offset) {
    let terms = partition.terms();
    let Some(group) = terms.raft.as_ref().and_then(|raft| raft.group.as_ref()) else { return };
    if target <= group.released_end() {
        return;
    }
    if let Err(e) = group.release_to(target).await {
        let (topic, index) = (&partition.topic, partition.tp.partition);
        // Not while a follower is being sent what lies there; the next pass tries again.
        tracing::debug!(%topic, partition = index, "the group's log still begins below: {e}");
    }
}

/// Drops local segments that need not be kept; returns the bytes freed. `everything`: all that the tier has.
pub(super) async fn evict(node: &Arc<Node>, partition: &Arc<Partition>, everything: bool) -> u64 {
    let limits = Limits::of(&partition.terms().config);
    let Some(shape) = partition.local_shape() else { return 0 };
    let target = plan_eviction(node.now_ms(), limits, &shape, everything);
    release(partition, target).await;
    match partition.evict_below(target) {
        Ok(None) => 0,
        Ok(Some(evicted)) => {
            let (topic, index, bytes) = (&partition.topic, partition.tp.partition, evicted.bytes());
            let segments = evicted.segments.len();
            tracing::debug!(%topic, partition = index, segments, bytes, "evicted");
            // Removing large files takes milliseconds each.
            if tokio::task::spawn_blocking(move || drop(evicted)).await.is_err() {
                tracing::error!(%topic, partition = index, "removing evicted files panicked");
            }
            bytes
        }
        Err(e) => {
            let (topic, index) = (&partition.topic, partition.tp.partition);
            tracing::warn!(%topic, partition = index, "cannot evict: {e}");
            0
        }
    }
}
