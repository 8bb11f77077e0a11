//! Sealed segments to the tier, in order per partition and fair over partitions.
//!
//! A partition stands in the queue at most once and is worked on by one task at a time, so its segments are
//! published in order. A failure puts the partition aside for a growing time; what the store refuses delays
//! nothing else. Damaged data stops the partition's sealing with an alarm that names the place: nothing is
//! skipped, produce and hot reads go on. Every tick asks for partitions that have something to seal, so a
//! lost wake-up costs a second. Invariants: 10, 12 (a crash leaves an unlisted object at most), 15.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use highwater_log::AbortedTxn;
use highwater_model::Offset;
use highwater_model::limits::{OFFLOAD_RETRY_MS_MAX, OFFLOAD_RETRY_MS_MIN, WORKER_TICK_MS};
use highwater_tiering::object::AbortedRange;
use highwater_tiering::offload::{OffloadError, SegmentToOffload};
use tokio::sync::Notify;

use crate::node::Node;
use crate::partition::registry::Topic;
use crate::partition::{Partition, SealTask};

/// Partitions with something to seal.
#[derive(Default)]
pub struct OffloadQueue {
    waiting: Mutex<VecDeque<Arc<Partition>>>,
    filled: Notify,
    /// The same, for the one who sets the pace.
    arrived: Notify,
    /// Partitions being worked on.
    working: AtomicUsize,
}

impl OffloadQueue {
    /// Asks for the partition's sealed segments to be offloaded.
    pub fn push(&self, partition: &Arc<Partition>) {
        if !partition.terms().config.uploads() || partition.is_offload_queued.swap(true, Ordering::SeqCst) {
            return;
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(partition.clone());
        self.filled.notify_one();
        self.arrived.notify_one();
    }

    /// Something was pushed, perhaps a while ago.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Whether a partition is worked on or waits for it.
    pub(super) fn has_work(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        !waiting.is_empty() || self.working.load(Ordering::SeqCst) > 0
    }

    fn take(&self) -> Option<Arc<Partition>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = waiting.pop_front();
        if !waiting.is_empty() {
            self.filled.notify_one();
        }
        self.working.fetch_add(usize::from(partition.is_some()), Ordering::SeqCst);
        partition
    }
}

/// When a partition whose offload has failed is tried again, and why it failed.
#[derive(Default)]
pub(crate) struct OffloadTrouble {
    failures: u32,
    retry_at_ms: i64,
    reason: Option<Arc<str>>,
    /// Races for the manifest that were lost since the last success.
    lost_races: u32,
}

impl OffloadTrouble {
    /// A pause between half and all of an exponentially growing time.
    fn failed(&mut self, now_ms: i64, reason: &str, jitter: f64) {
        let doubled = OFFLOAD_RETRY_MS_MIN << self.failures.min(16);
        let pause_ms = doubled.min(OFFLOAD_RETRY_MS_MAX) as f64 * (0.5 + jitter / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.retry_at_ms = now_ms.saturating_add(pause_ms as i64);
        self.reason = Some(reason.into());
    }

    /// Another writer's edit came first. True if that was so the last time already: then someone else writes
    /// as well, or what is known here does not become newer, and trying at once would never end.
    fn lost_race(&mut self) -> bool {
        self.lost_races = self.lost_races.saturating_add(1);
        self.lost_races > 1
    }

    pub(crate) fn is_over(&self, now_ms: i64) -> bool {
        now_ms >= self.retry_at_ms
    }

    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.reason.clone()
    }
}

/// One of the tasks that offload.
pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    loop {
        tokio::select! {
            () = node.pacer.turn() => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
        let Some(partition) = node.offloads.take() else {
            tokio::select! {
                () = node.offloads.filled.notified() => continue,
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
        };
        let again = tokio::select! {
            again = offload_next(&node, &partition) => again,
            _ = stop.wait_for(|stopping| *stopping) => return,
        };
        node.offloads.working.fetch_sub(1, Ordering::SeqCst);
        // Released before looking again: who sealed a segment in between was not queued.
        partition.is_offload_queued.store(false, Ordering::SeqCst);
        if again && partition.has_seal_task() {
            node.offloads.push(&partition);
        }
    }
}

/// Offloads the partition's oldest segment that is due; false when it is to be left for a while.
async fn offload_next(node: &Arc<Node>, partition: &Arc<Partition>) -> bool {
    if !partition.terms().config.uploads() {
        return false;
    }
    let task = match partition.seal_task() {
        Ok(Some(task)) => task,
        Ok(None) => return false,
        Err(e) => {
            put_aside(node, partition, &e.to_string());
            return false;
        }
    };
    let started = Instant::now();
    let segment_start = task.segment.start;
    match publish(node, partition, task).await {
        Ok(()) => {
            partition.set_offload_trouble(OffloadTrouble::default());
            node.metrics.offloaded_segments.inc();
            node.metrics.offload_seconds.observe(started.elapsed().as_secs_f64());
            super::retention::evict(node, partition, false).await;
            true
        }
        Err(OffloadError::Damaged(place)) => {
            let (topic, index) = (&partition.topic, partition.tp.partition);
            tracing::error!(
                %topic, partition = index, segment = segment_start,
                "sealing has stopped, the segment is damaged: {place}"
            );
            partition.raise_seal_alarm(&format!("segment {segment_start:020}: {place}"));
            node.metrics.offload_failures.inc();
            show_alarms(node);
            false
        }
        Err(e) => {
            node.metrics.offload_failures.inc();
            // A lost race for the manifest is settled by looking again.
            if matches!(e, OffloadError::Stale(_)) {
                refresh_manifest(node, partition);
                let mut again = false;
                partition.offload_failed(|trouble| again = trouble.lost_race());
                if !again {
                    return true;
                }
            }
            put_aside(node, partition, &e.to_string());
            false
        }
    }
}

async fn publish(node: &Arc<Node>, partition: &Arc<Partition>, task: SealTask) -> Result<(), OffloadError> {
    let (end, bytes) = (task.segment.end, task.segment.bytes);
    let segment = segment_to_offload(partition, task, node.now_ms());
    let manifest = node.offloader.offload(segment).await?;
    assert!(manifest.tiered_end >= end, "a published segment moves the tier's end");
    partition.set_manifest(manifest);
    node.pacer.published(bytes);
    Ok(())
}

fn segment_to_offload(partition: &Partition, task: SealTask, now_ms: i64) -> SegmentToOffload {
    let config = &partition.terms().config;
    SegmentToOffload {
        tp: partition.tp,
        topic: partition.topic.clone(),
        start: task.segment.start,
        end: task.segment.end,
        leader_epoch: task.leader_epoch,
        epochs: task.epochs,
        producer_snapshot: task.producer_snapshot,
        segment: task.bytes,
        config: config.clone(),
        aborted: task.aborted.into_iter().map(aborted_range).collect(),
        expiry: partition.expiry(now_ms),
    }
}

fn aborted_range(txn: AbortedTxn) -> AbortedRange {
    AbortedRange { producer_id: txn.producer_id, start: txn.first, end: txn.marker }
}

fn put_aside(node: &Node, partition: &Partition, reason: &str) {
    let (topic, index) = (&partition.topic, partition.tp.partition);
    tracing::warn!(%topic, partition = index, "offload failed, it will be tried again: {reason}");
    partition.offload_failed(|trouble| trouble.failed(node.now_ms(), reason, rand::random::<f64>()));
}

/// Takes over what the coordinator knows by now.
pub(crate) fn refresh_manifest(node: &Node, partition: &Partition) {
    use highwater_tiering::port::ManifestPort;
    if let Some(manifest) = node.coordinator.cached(partition.tp) {
        partition.set_manifest(manifest);
    }
}

fn show_alarms(node: &Node) {
    let view = node.partitions.view();
    let alarmed = view.partitions().filter(|p| p.seal_alarm().is_some());
    let alarms: Vec<(String, i32)> = alarmed.map(|p| (p.topic.to_string(), p.tp.partition)).collect();
    node.metrics.set_seal_alarms(&alarms);
}

/// What `tier offload` has done for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloaded {
    pub partition: i32,
    pub tiered_end: Offset,
}

/// Why not everything could be offloaded now. One line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadNowError {
    #[error("there is no topic {0:?}")]
    UnknownTopic(String),
    #[error("{0} has no tier: remote.storage.enable is false or remote.log.copy.disable is true")]
    NoTier(String),
    #[error("{topic}-{partition}: {reason}")]
    Partition { topic: String, partition: i32, reason: String },
}

impl Node {
    /// Seals what the topic has now, as far as this node leads it, and returns once the manifest lists it.
    ///
    /// # Errors
    /// The topic is unknown or has no tier; a partition's sealing has stopped; `timeout` has passed, with the
    /// last reason.
    pub async fn offload_now(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Vec<Offloaded>, OffloadNowError> {
        let view = self.partitions.view();
        let found = view.by_name(topic).ok_or_else(|| OffloadNowError::UnknownTopic(topic.to_owned()))?;
        if !found.record().config.uploads() {
            return Err(OffloadNowError::NoTier(topic.to_owned()));
        }
        let _hurry = self.pacer.hurry();
        let deadline = tokio::time::Instant::now() + timeout;
        let mut ends = Vec::new();
        for partition in found.partitions().filter(|partition| partition.terms().is_leader) {
            let end = partition.roll_now(self.now_ms()).map_err(|e| refused(partition, e.to_string()))?;
            self.flush.push(partition);
            partition.set_offload_trouble(OffloadTrouble::default());
            self.offloads.push(partition);
            ends.push((partition.clone(), end));
        }
        for (partition, end) in &ends {
            self.wait_tiered(partition, *end, deadline).await?;
        }
        Ok(offloaded(found))
    }

    async fn wait_tiered(
        &self,
        partition: &Arc<Partition>,
        end: Offset,
        deadline: tokio::time::Instant,
    ) -> Result<(), OffloadNowError> {
        let mut versions = self.coordinator.watch();
        loop {
            versions.mark_unchanged();
            refresh_manifest(self, partition);
            if partition.manifest().tiered_end >= end {
                return Ok(());
            }
            if let Some(place) = partition.seal_alarm() {
                return Err(refused(partition, format!("sealing has stopped: {place}")));
            }
            if tokio::time::Instant::now() >= deadline {
                let reason = partition.offload_trouble_reason();
                let reason = reason.map_or_else(|| "not done in time".to_owned(), |r| r.to_string());
                return Err(refused(partition, reason));
            }
            let tick = Duration::from_millis(WORKER_TICK_MS / 4);
            // Either the state has moved or it is time to look for an alarm or the deadline.
            let _ = tokio::time::timeout(tick, versions.changed()).await;
            if partition.has_seal_task() {
                self.offloads.push(partition);
            }
        }
    }

    /// Drops every local segment of the topic that the tier has; returns the bytes freed.
    ///
    /// # Errors
    /// The topic is unknown.
    pub async fn evict_now(self: &Arc<Self>, topic: &str) -> Result<u64, OffloadNowError> {
        let view = self.partitions.view();
        let found = view.by_name(topic).ok_or_else(|| OffloadNowError::UnknownTopic(topic.to_owned()))?;
        let mut freed = 0;
        for partition in found.partitions() {
            let is_all_tiered = partition.bounds().is_ok_and(|b| b.tiered_end >= b.log_end);
            // A leader's segments were sealed to be uploaded; a follower's end elsewhere.
            if is_all_tiered && let Err(e) = partition.roll_now(self.now_ms()) {
                tracing::warn!(topic, partition = partition.tp.partition, "cannot roll: {e}");
            }
            freed += super::retention::evict(self, partition, true).await;
        }
        Ok(freed)
    }
}

fn offloaded(topic: &Topic) -> Vec<Offloaded> {
    let partitions = topic.partitions();
    partitions.map(|p| Offloaded { partition: p.tp.partition, tiered_end: p.manifest().tiered_end }).collect()
}

fn refused(partition: &Partition, reason: String) -> OffloadNowError {
    OffloadNowError::Partition {
        topic: partition.topic.to_string(),
        partition: partition.tp.partition,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_and_has_a_limit() {
        let mut trouble = OffloadTrouble::default();
        assert!(trouble.is_over(0));
        let mut pauses = Vec::new();
        for _ in 0..40 {
            trouble.failed(1_000, "no bucket", 1.0);
            pauses.push(trouble.retry_at_ms - 1_000);
        }
        assert_eq!(pauses[..4], [250, 500, 1_000, 2_000]);
        assert_eq!(pauses[39], OFFLOAD_RETRY_MS_MAX as i64);
        assert!(!trouble.is_over(1_000) && trouble.is_over(1_000 + OFFLOAD_RETRY_MS_MAX as i64));
        trouble.failed(0, "still none", 0.0);
        assert_eq!(trouble.retry_at_ms, OFFLOAD_RETRY_MS_MAX as i64 / 2);
    }

    #[test]
    fn only_the_first_lost_race_is_tried_again_at_once() {
        let mut trouble = OffloadTrouble::default();
        assert!(!trouble.lost_race());
        assert!(trouble.lost_race());
        trouble.failed(0, "the manifest has moved on", 1.0);
        assert!(!trouble.is_over(0) && trouble.lost_race(), "until something succeeds");
        assert!(!OffloadTrouble::default().lost_race());
    }
}
