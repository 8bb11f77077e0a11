//! Opening a partition's log: the directory, the settings, and what the manifest knows that the disk does
//! not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_coordinator::core::Topic as TopicRecord;
use highwater_log::disk::{DirDisk, Disk};
use highwater_log::{LogError, LogSettings, PartitionLog, RecoveryReport, Repair};
use highwater_model::limits::OPEN_THREADS_MAX;
use highwater_model::{NodeId, Offset, TopicConfig, TopicId, TopicPartition};

use super::Partition;
use crate::core::replica::Assignment;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct OpenError {
    pub path: String,
    pub source: io::Error,
}

impl OpenError {
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.display().to_string();
        move |source| OpenError { path, source }
    }
}

/// Where the logs of all topics are.
pub fn topics_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("topics")
}

/// Local paths are built from topic ids, never from names.
pub fn topic_dir(data_dir: &Path, id: TopicId) -> PathBuf {
    topics_dir(data_dir).join(id.to_string())
}

/// The topic's settings as its logs take them. `segment.jitter.ms` is taken off by partition, so that the
/// partitions of a topic do not all roll at once.
pub fn log_settings(config: &TopicConfig, partition: i32) -> LogSettings {
    let defaults = LogSettings::default();
    let jitter_range = config.segment_jitter_ms.clamp(0, config.segment_ms.max(1) - 1);
    // A fixed share per partition: a multiplicative hash, scaled.
    let share = i128::from((partition.unsigned_abs()).wrapping_mul(0x9e37_79b9));
    let jitter_ms = i64::try_from((i128::from(jitter_range) * share) >> 32).expect("a part of an i64");
    LogSettings {
        segment_bytes: u32::try_from(config.segment_bytes).unwrap_or(u32::MAX),
        segment_ms: config.segment_ms - jitter_ms,
        index_interval_bytes: u32::try_from(config.index_interval_bytes).unwrap_or(u32::MAX),
        ..defaults
    }
}

/// Opens one partition of `topic`.
///
/// # Errors
/// In words: why it cannot serve at all. Damage that leaves something readable is logged instead.
pub(super) fn open_partition(
    data_dir: &Path,
    topic: &TopicRecord,
    name: &Arc<str>,
    index: i32,
    (node_id, assignment): (NodeId, &Assignment),
    now_ms: i64,
) -> Result<Partition, String> {
    let record = topic.partition(index).ok_or("no such partition")?;
    let manifest = record.manifest.clone();
    let dir = topic_dir(data_dir, topic.id).join(index.to_string());
    let settings = log_settings(&topic.config, index);
    let (mut log, report) = PartitionLog::open(&dir, settings, now_ms).map_err(|e| e.to_string())?;
    tell(name, index, &log, &report);
    let is_of_group = record.raft.is_some();
    if !is_of_group {
        // Of a group that was, if of any: it would bear the name of the next one.
        let disk: Arc<dyn Disk> = Arc::new(DirDisk::new(dir));
        crate::raft::forget(&disk).map_err(|e| e.to_string())?;
    }
    let follows = assignment.leader.is_some_and(|leader| leader != node_id) || is_of_group;
    if follows {
        // Its leader tells it where to go on or to begin, and mends what is damaged.
    } else if log.log_end() < manifest.tiered_end {
        log = raised_to_tier(name, index, log, manifest.tiered_end, now_ms).map_err(|e| e.to_string())?;
    }
    let log_start = manifest.log_start.min(log.log_end());
    if log.log_start() < log_start && !is_of_group {
        log.raise_log_start(log_start).map_err(|e| e.to_string())?;
    }
    let tp = TopicPartition::new(topic.id, index);
    let (name, config) = (name.clone(), topic.config.clone());
    Ok(Partition::new(tp, name, config, log, manifest, (node_id, assignment), now_ms))
}

/// A log that ends below the tier's end: the disk is new, has lost its tail, or is damaged. The tier has
/// everything below its end, and offsets are never used twice.
fn raised_to_tier(
    topic: &str,
    partition: i32,
    mut log: PartitionLog,
    tiered_end: Offset,
    now_ms: i64,
) -> Result<PartitionLog, LogError> {
    let end = log.log_end();
    if log.refusal().is_none() {
        if end > log.log_start() {
            tracing::warn!(topic, partition, end, tiered_end, "the local log ends below the tier's end");
        }
        log.reset_to(tiered_end)?;
        return Ok(log);
    }
    let (log, repair) = log.repair_below(tiered_end, now_ms)?;
    match repair {
        Repair::BeginsAt(start) => tracing::warn!(
            topic,
            partition,
            start,
            "damaged segments that the tier has were dropped, the local log goes on behind them"
        ),
        Repair::Reset => {
            tracing::warn!(topic, partition, tiered_end, "the local log was begun anew where the tier ends");
        }
        Repair::SetAside => tracing::error!(
            topic,
            partition,
            tiered_end,
            "local data above the tier's end cannot be read: its files are kept, the tier is served, appends \
             are refused"
        ),
    }
    Ok(log)
}

fn tell(topic: &str, partition: i32, log: &PartitionLog, report: &RecoveryReport) {
    if let Some(at) = &report.corrupt_below_flushed {
        let (segment, position, end) = (at.segment, at.position, at.offset);
        tracing::error!(
            topic,
            partition,
            segment,
            position,
            end,
            "durable data is damaged: {}; appends are refused, what lies below stays readable",
            at.what
        );
    }
    if let Some(at) = &report.cut {
        let (segment, position, bytes) = (at.segment, at.position, report.cut_bytes);
        tracing::warn!(topic, partition, segment, position, bytes, "a torn tail was cut: {}", at.what);
    }
    if report.scanned_segments > 0 {
        let (segments, bytes, end) = (report.scanned_segments, report.scanned_bytes, log.log_end());
        tracing::info!(topic, partition, segments, bytes, end, "recovered after an unclean stop");
    }
    for file in &report.ignored {
        tracing::warn!(topic, partition, file = %file.name, "a file was ignored: {:?}", file.why);
    }
}

/// Runs `work` on every item, on a few threads if there are many.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    const ITEMS_PER_THREAD_MIN: usize = 16;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() * 2);
    let threads = threads.min(OPEN_THREADS_MAX).min(items.len() / ITEMS_PER_THREAD_MIN);
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let parts: Vec<_> = items
            .chunks(share)
            .map(|part| scope.spawn(|| part.iter().map(&work).collect::<Vec<R>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("a panic of the work is ours")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_fixed_per_partition_and_below_its_limit() {
        let config = TopicConfig { segment_ms: 1_000, segment_jitter_ms: 400, ..TopicConfig::default() };
        let times: Vec<i64> = (0..50).map(|p| log_settings(&config, p).segment_ms).collect();
        assert!(times.iter().all(|ms| (601..=1_000).contains(ms)), "{times:?}");
        assert!(times.iter().any(|ms| *ms < 700) && times.iter().any(|ms| *ms > 900), "{times:?}");
        let none = TopicConfig { segment_jitter_ms: 0, ..config };
        assert!((0..50).all(|p| log_settings(&none, p).segment_ms == 1_000));
    }

    #[test]
    fn parallel_work_keeps_its_order() {
        let items: Vec<usize> = (0..1_000).collect();
        assert_eq!(in_parallel(&items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
    }
}
