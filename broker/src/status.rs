//! What the node is doing, put together when somebody asks: for `/metrics`, `/readyz` and `tier
//! status|describe`.
//!
//! Reads only; nothing here is kept. Pure but for the look at the node.

use highwater_model::Offset;
use highwater_tiering::core::manifest::Totals;

use crate::node::Node;
use crate::partition::Partition;
use highwater_compaction::core::retention::LocalShape;

/// A partition whose sealing has stopped, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    pub topic: String,
    pub partition: i32,
    pub reason: String,
}

/// Sums over this node's partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    pub topics: u64,
    pub partitions: u64,
    pub tier: Totals,
    pub local_bytes: u64,
    pub backlog_segments: u64,
    pub backlog_bytes: u64,
    /// Age of the oldest segment that waits for its upload.
    pub lag_ms: u64,
    pub alarms: Vec<Alarm>,
}

impl NodeStatus {
    pub fn of(node: &Node) -> NodeStatus {
        let view = node.partitions.view();
        let now_ms = node.now_ms();
        let mut status = NodeStatus { topics: view.topics().count() as u64, ..NodeStatus::default() };
        for partition in view.partitions() {
            let local = partition.local_use();
            status.partitions += 1;
            // Totals of a manifest are checked; their sum over partitions is for the eye alone.
            status.tier = status.tier.plus(&partition.manifest().totals).unwrap_or(status.tier);
            status.local_bytes += local.bytes;
            status.backlog_segments += local.backlog_segments;
            status.backlog_bytes += local.backlog_bytes;
            let age_ms = local.oldest_backlog_ms.map_or(0, |sealed| now_ms.saturating_sub(sealed));
            status.lag_ms = status.lag_ms.max(u64::try_from(age_ms).unwrap_or(0));
            if let Some(reason) = local.seal_alarm {
                status.alarms.push(Alarm {
                    topic: partition.topic.to_string(),
                    partition: partition.tp.partition,
                    reason: reason.to_string(),
                });
            }
        }
        status.alarms.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        status
    }
}

/// Sets the metrics that are only known by looking.
pub fn refresh_metrics(node: &Node) {
    let status = NodeStatus::of(node);
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let metrics = &node.metrics;
    metrics.topics.set(gauge(status.topics));
    metrics.partitions.set(gauge(status.partitions));
    metrics.log_bytes.set(gauge(status.local_bytes));
    metrics.tier_bytes.set(gauge(status.tier.bytes));
    metrics.tier_objects.set(gauge(status.tier.objects));
    metrics.offload_backlog_bytes.set(gauge(status.backlog_bytes));
    metrics.offload_backlog_segments.set(gauge(status.backlog_segments));
    metrics.offload_lag_ms.set(gauge(status.lag_ms));
    let alarms: Vec<(String, i32)> = status.alarms.into_iter().map(|a| (a.topic, a.partition)).collect();
    metrics.set_seal_alarms(&alarms);
    for lane in node.store.snapshot() {
        metrics.set_store(&lane);
    }
    let cache = node.tier.cache();
    let cache_bytes = cache.group_bytes + cache.index_bytes + cache.rebuilt_bytes;
    metrics.set_reads(&node.tier.counters().snapshot(), cache_bytes);
    metrics.set_pace(node.pacer.pace(), &node.offloader.counters().snapshot());
    metrics.mirrors_waiting.set(node.mirror.waiting());
    let (groups, members) = node.groups.counts();
    metrics.groups.set(gauge(groups));
    metrics.group_members.set(gauge(members));
    metrics.transactional_ids.set(gauge(node.transactions.ids()));
    let delayed = node.delays.waiting(node.now_ms());
    metrics.delayed.records.set(gauge(delayed.records));
    metrics.delayed.bytes.set(gauge(delayed.bytes));
    metrics.delayed.lateness_ms.set(gauge(delayed.late_ms));
}

/// Why the node cannot serve right now, if so.
pub fn not_ready(node: &Node) -> Option<&'static str> {
    if node.is_stopping() {
        return Some("the node is stopping");
    }
    if node.advertised.get().is_none() {
        return Some("the node is starting");
    }
    let own = node.settings.node_id;
    match node.coordinator.with_state(|state| state.brokers.get(&own).map(|broker| broker.is_fenced)) {
        None => Some("the node is not registered with the coordinator"),
        Some(true) => Some("the node's session with the control plane has lapsed"),
        Some(false) => None,
    }
}

/// A range that is on the local disk, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRange {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    pub reason: String,
}

/// What of a partition is local and why, in offset order; neighbours with the same reason together.
pub fn local_ranges(partition: &Partition) -> Vec<LocalRange> {
    let Some(shape) = partition.local_shape() else {
        return Vec::new();
    };
    let terms = partition.terms();
    let waiting = if let Some(place) = partition.seal_alarm() {
        format!("sealing has stopped on damaged data: {place}")
    } else if !terms.config.tier_enabled {
        "the topic has no tier (remote.storage.enable=false)".to_owned()
    } else if !terms.config.uploads() {
        "uploads are paused (remote.log.copy.disable=true)".to_owned()
    } else if let Some(reason) = partition.offload_trouble_reason() {
        format!("the last upload failed and is tried again: {reason}")
    } else {
        "sealed, waits for its upload".to_owned()
    };
    ranges(&shape, &waiting)
}

/// The ranges of a local log; `waiting` is why what is sealed is not in the tier.
fn ranges(shape: &LocalShape, waiting: &str) -> Vec<LocalRange> {
    const TIERED: &str = "in the tier too, kept by local retention";
    const ACTIVE: &str = "in the active segment, which is sealed at segment.bytes or after segment.ms";
    let mut ranges: Vec<LocalRange> = Vec::new();
    let mut add = |start: Offset, end: Offset, bytes: u64, reason: &str| match ranges.last_mut() {
        Some(last) if last.reason == reason && last.end == start => {
            last.end = end;
            last.bytes += bytes;
        }
        _ => ranges.push(LocalRange { start, end, bytes, reason: reason.to_owned() }),
    };
    let bounds = &shape.bounds;
    let mut active_start = bounds.local_start;
    for segment in &shape.segments {
        let reason = if segment.end <= bounds.tiered_end { TIERED } else { waiting };
        add(segment.start, segment.end, segment.bytes, reason);
        active_start = segment.end;
    }
    if active_start < bounds.log_end {
        add(active_start, bounds.log_end, shape.active_bytes, ACTIVE);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use highwater_log::SealedSegment;
    use highwater_model::OffsetBounds;

    use super::*;

    fn segment(start: Offset, end: Offset) -> SealedSegment {
        SealedSegment { start, end, bytes: 10, max_timestamp: 0, sealed_at_ms: 0 }
    }

    #[test]
    fn each_local_range_has_its_reason() {
        let bounds = OffsetBounds {
            log_start: 0,
            local_start: 10,
            tiered_end: 30,
            last_stable: 60,
            high_watermark: 60,
            log_end: 60,
        };
        let shape = LocalShape {
            segments: vec![segment(10, 20), segment(20, 30), segment(30, 40), segment(40, 50)],
            active_bytes: 7,
            active_max_timestamp: Some(1),
            bounds,
        };
        let found = ranges(&shape, "waits");
        let brief: Vec<_> = found.iter().map(|r| (r.start, r.end, r.bytes)).collect();
        assert_eq!(brief, [(10, 30, 20), (30, 50, 20), (50, 60, 7)]);
        assert!(found[0].reason.contains("in the tier too") && found[2].reason.contains("active"));
        assert_eq!(found[1].reason, "waits");
        let empty = LocalShape {
            segments: Vec::new(),
            active_bytes: 0,
            active_max_timestamp: None,
            bounds: OffsetBounds { local_start: 60, ..bounds },
        };
        assert_eq!(ranges(&empty, "waits"), []);
    }
}
