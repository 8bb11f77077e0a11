//! What retention gives up: how far the log start rises, and how far the local log is dropped.
//!
//! Kafka's rules: a segment goes when its newest record is older than `retention.ms`, or when what is left
//! without it still has `retention.bytes`; always from the oldest end. Local retention applies the same to
//! local segments that are in the tier (invariant 10). A local segment without timestamps ages from the
//! moment it was sealed; a node of the tier without any is taken to be as old as what follows it, so it
//! cannot hold back for ever what lies behind.
//!
//! Pure over sizes and times; the caller carries the plan out: manifest first, then log start, then eviction.

use highwater_log::SealedSegment;
use highwater_model::{Offset, OffsetBounds, TopicConfig};
use highwater_tiering::core::manifest::{Node, PageRef};

/// The limits of one topic; `None` is without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
    pub local_ms: Option<i64>,
    pub local_bytes: Option<u64>,
    /// `cleanup.policy` has delete.
    pub deletes: bool,
    /// The topic has a tier.
    pub tiers: bool,
}

impl Limits {
    pub fn of(config: &TopicConfig) -> Limits {
        Limits {
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            local_ms: config.local_retention_ms,
            local_bytes: config.local_retention_bytes,
            deletes: config.cleanup_policy.delete,
            tiers: config.tier_enabled,
        }
    }
}

/// A partition's local log.
#[derive(Clone, Debug)]
pub struct LocalShape {
    /// Oldest first.
    pub segments: Vec<SealedSegment>,
    pub active_bytes: u64,
    /// None while the active segment is empty.
    pub active_max_timestamp: Option<i64>,
    pub bounds: OffsetBounds,
}

impl LocalShape {
    /// Of all segments.
    pub fn local_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum::<u64>() + self.active_bytes
    }

    /// Sealed segments that reach past the tier.
    fn only_local(&self) -> impl Iterator<Item = &SealedSegment> {
        self.segments.iter().filter(|s| s.end > self.bounds.tiered_end)
    }
}

/// How far the log start may rise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogStartPlan {
    /// To this offset; the present one means that nothing is due. `rolls`: the active segment has expired as
    /// well and must be sealed before more can go.
    To { log_start: Offset, rolls: bool },
    /// The limit lies within this page: plan again with its content in its place.
    LookInto { page: PageRef },
}

/// One step of the walk from the oldest end.
struct Piece {
    end: Offset,
    bytes: u64,
    newest_ms: i64,
}

struct Walk {
    limits: Limits,
    now_ms: i64,
    /// Bytes not given up yet.
    rest_bytes: u64,
    log_start: Offset,
}

impl Walk {
    fn is_expired(&self, piece: &Piece) -> bool {
        let too_old =
            self.limits.retention_ms.is_some_and(|ms| piece.newest_ms < self.now_ms.saturating_sub(ms));
        let rest = self.rest_bytes.saturating_sub(piece.bytes);
        too_old || self.limits.retention_bytes.is_some_and(|bytes| rest >= bytes && piece.bytes > 0)
    }

    /// Gives the piece up if it has expired.
    fn step(&mut self, piece: &Piece) -> bool {
        if !self.is_expired(piece) {
            return false;
        }
        self.rest_bytes = self.rest_bytes.saturating_sub(piece.bytes);
        debug_assert!(self.limits.deletes, "only a topic that deletes has its log start raised");
        debug_assert!(piece.end >= self.log_start || piece.bytes == 0, "pieces come in order");
        self.log_start = self.log_start.max(piece.end);
        true
    }
}

/// Plans the log start over `listed`, the manifest's nodes oldest first (pages opened as far as asked for),
/// and the local segments behind them.
pub fn plan_log_start(now_ms: i64, limits: Limits, listed: &[Node], local: &LocalShape) -> LogStartPlan {
    let present = local.bounds.log_start;
    if !limits.deletes || (limits.retention_ms.is_none() && limits.retention_bytes.is_none()) {
        return LogStartPlan::To { log_start: present, rolls: false };
    }
    let tier_bytes: u64 = listed.iter().map(|node| node.totals().bytes).sum();
    let local_bytes: u64 = local.only_local().map(|s| s.bytes).sum::<u64>() + local.active_bytes;
    let mut walk = Walk { limits, now_ms, rest_bytes: tier_bytes + local_bytes, log_start: present };
    let newest = newest_of_nodes(listed, newest_behind_tier(now_ms, local));
    for (node, newest_ms) in listed.iter().zip(newest) {
        let piece = Piece { end: node.end(), bytes: node.totals().bytes, newest_ms };
        if !walk.step(&piece) {
            if let Node::Page(page) = node
                && reaches_into(&walk, page)
            {
                return LogStartPlan::LookInto { page: page.clone() };
            }
            return LogStartPlan::To { log_start: walk.log_start, rolls: false };
        }
    }
    for segment in local.only_local().filter(|s| s.end <= local.bounds.high_watermark) {
        let piece = Piece { end: segment.end, bytes: segment.bytes, newest_ms: newest_of(segment) };
        if !walk.step(&piece) {
            return LogStartPlan::To { log_start: walk.log_start, rolls: false };
        }
    }
    let rolls = match (local.active_max_timestamp, limits.retention_ms) {
        (Some(newest), Some(ms)) => newest >= 0 && newest < now_ms.saturating_sub(ms),
        _ => false,
    };
    assert!(walk.log_start >= present, "the log start only rises");
    LogStartPlan::To { log_start: walk.log_start, rolls }
}

/// Whether part of a page that has not expired as a whole may have.
fn reaches_into(walk: &Walk, page: &PageRef) -> bool {
    // A page without timestamps goes with what follows it, and as a whole.
    let by_time = page.max_timestamp >= 0
        && walk.limits.retention_ms.is_some_and(|ms| page.min_timestamp < walk.now_ms.saturating_sub(ms));
    let by_bytes = walk.limits.retention_bytes.is_some_and(|bytes| walk.rest_bytes > bytes);
    by_time || by_bytes
}

/// The newest timestamp of each node; of one without, that of the next that has timestamps, or `behind`: once
/// that has expired, so has what lies before it.
fn newest_of_nodes(listed: &[Node], behind: i64) -> Vec<i64> {
    let mut next = behind;
    let mut newest: Vec<i64> = Vec::with_capacity(listed.len());
    for node in listed.iter().rev() {
        let own = node.timestamps().1;
        next = if own >= 0 { own } else { next };
        newest.push(next);
    }
    newest.reverse();
    assert_eq!(newest.len(), listed.len());
    debug_assert!(newest.iter().all(|ms| *ms >= 0));
    newest
}

/// The newest timestamp of what follows the tier: the first local segment that is not in it, or the active
/// one. An empty one is as new as can be.
fn newest_behind_tier(now_ms: i64, local: &LocalShape) -> i64 {
    let active = || local.active_max_timestamp.filter(|ms| *ms >= 0).unwrap_or(now_ms);
    local.only_local().next().map_or_else(active, newest_of).max(0)
}

fn newest_of(segment: &SealedSegment) -> i64 {
    if segment.max_timestamp >= 0 { segment.max_timestamp } else { segment.sealed_at_ms }
}

/// Below which offset the local log is to be dropped: what lies below the log start, and what the tier has
/// and local retention no longer keeps. `everything`: drop all that the tier has.
pub fn plan_eviction(now_ms: i64, limits: Limits, local: &LocalShape, everything: bool) -> Offset {
    let bounds = &local.bounds;
    let mut rest_bytes = local.local_bytes();
    let mut evict_end = bounds.log_start.min(bounds.local_start);
    for segment in &local.segments {
        let is_tiered = limits.tiers && segment.end <= bounds.tiered_end;
        let too_old = limits.local_ms.is_some_and(|ms| newest_of(segment) < now_ms.saturating_sub(ms));
        let left = rest_bytes.saturating_sub(segment.bytes);
        let too_much = limits.local_bytes.is_some_and(|bytes| left >= bytes);
        let is_given_up = segment.end <= bounds.log_start;
        if !(is_given_up || (is_tiered && (everything || too_old || too_much))) {
            break;
        }
        rest_bytes = left;
        evict_end = segment.end;
    }
    assert!(
        evict_end <= bounds.tiered_end.max(bounds.log_start).max(bounds.local_start),
        "eviction stays below the tier's end: {evict_end} {bounds:?}"
    );
    evict_end
}

#[cfg(test)]
mod tests;
