//! What a group needs of the partition whose log it replicates, and of the coordinator.

use highwater_log::PartitionLog;
use highwater_model::{NodeId, Offset, TopicPartition};

/// Where the partition stands in the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierPoint {
    pub manifest_version: u64,
    /// Everything below is in the tier, by a manifest that is committed, or given up by retention.
    pub tiered_end: Offset,
}

/// The partition's side of a group. Its calls come from the group's tasks and sync threads and must be short.
pub trait PartitionPort: Send + Sync + 'static {
    /// Runs `work` on the log, under its owner's lock. False if the partition is closed.
    fn with_log(&self, work: &mut dyn FnMut(&mut PartitionLog)) -> bool;

    /// Unix ms, for what the log dates.
    fn now_ms(&self) -> i64;

    /// Everything below is committed and durable on a majority; never called with less than before.
    fn advance(&self, high_watermark: Offset);

    fn tier(&self) -> TierPoint;

    /// The log was begun anew at this offset: what lies below is in the tier.
    fn begun(&self, offset: Offset);

    /// The group's part on this node has ended: the log cannot be written, or a defect was found.
    fn failed(&self, why: &str);
}

/// Who is told of leadership. The coordinator routes clients by it; it decides nothing but who led first in
/// a term.
#[async_trait::async_trait]
pub trait LeadershipPort: Send + Sync + 'static {
    /// This node leads the partition in `term`. True once that is on record; a group's first leader serves
    /// only then, so that a group is known to exist before it holds anything.
    async fn led(&self, tp: TopicPartition, node: NodeId, term: u64) -> bool;
}
