//! How much of a partition's local log may go, by local retention. Pure.
//!
//! Fails closed: without a manifest nothing may go, because then nothing is known to be in the bucket (invariant 10:
//! publish before evict). Every replica decides this for itself. Must not look at the disk.

use highwater_model::Offset;

/// A sealed local segment, as far as retention cares. Oldest first where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalExtent {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// Greatest record timestamp, in ms; negative when it has none.
    pub max_timestamp: i64,
}

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct EvictInput<'a> {
    /// First offset that consumers may read.
    pub log_start: Offset,
    /// The manifest's, as committed; None while this node does not know it.
    pub tiered_end: Option<Offset>,
    /// Sealed segments, oldest first.
    pub sealed: &'a [LocalExtent],
    /// Bytes of the active segment, which never goes.
    pub active_bytes: u64,
    /// `local.retention.ms` after resolving -2; negative: no limit.
    pub local_retention_ms: i64,
    /// `local.retention.bytes` after resolving -2; negative: no limit.
    pub local_retention_bytes: i64,
    pub now_ms: i64,
}

/// Why the oldest local segment is still there, for `tier describe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptBecause {
    NothingSealed,
    NoManifest,
    NotTieredYet,
    WithinRetention,
}

/// Whole segments below `end` may be evicted; and why the next one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub end: Option<Offset>,
    pub kept: KeptBecause,
}

/// Oldest first, stopping at the first segment that must stay.
pub fn evictable(input: &EvictInput<'_>) -> Eviction {
    let mut local_bytes = input.active_bytes + input.sealed.iter().map(|s| s.bytes).sum::<u64>();
    let mut end = None;
    for segment in input.sealed {
        assert!(segment.start < segment.end, "a sealed segment has offsets");
        if let Some(kept) = keeps(input, segment, local_bytes) {
            return Eviction { end, kept };
        }
        debug_assert!(end.is_none_or(|e| e <= segment.start), "segments are given oldest first");
        local_bytes -= segment.bytes;
        end = Some(segment.end);
    }
    Eviction { end, kept: KeptBecause::NothingSealed }
}

fn keeps(input: &EvictInput<'_>, segment: &LocalExtent, local_bytes: u64) -> Option<KeptBecause> {
    let Some(tiered_end) = input.tiered_end else { return Some(KeptBecause::NoManifest) };
    if segment.end <= input.log_start {
        return None;
    }
    if segment.end > tiered_end {
        return Some(KeptBecause::NotTieredYet);
    }
    let expired = input.local_retention_ms >= 0
        && segment.max_timestamp < input.now_ms.saturating_sub(input.local_retention_ms);
    let over = u64::try_from(input.local_retention_bytes).is_ok_and(|max| local_bytes > max);
    if expired || over { None } else { Some(KeptBecause::WithinRetention) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: [LocalExtent; 3] = [
        LocalExtent { start: 0, end: 10, bytes: 100, max_timestamp: 1_000 },
        LocalExtent { start: 10, end: 20, bytes: 100, max_timestamp: 2_000 },
        LocalExtent { start: 20, end: 30, bytes: 100, max_timestamp: 3_000 },
    ];

    fn input(tiered_end: Option<Offset>, ms: i64, bytes: i64) -> EvictInput<'static> {
        EvictInput {
            log_start: 0,
            tiered_end,
            sealed: &SEGMENTS,
            active_bytes: 50,
            local_retention_ms: ms,
            local_retention_bytes: bytes,
            now_ms: 3_500,
        }
    }

    #[test]
    fn without_a_manifest_nothing_goes() {
        let mut asked = input(None, 0, 0);
        asked.log_start = 30;
        assert_eq!(evictable(&asked), Eviction { end: None, kept: KeptBecause::NoManifest });
    }

    #[test]
    fn what_is_not_tiered_stays_whatever_retention_says() {
        assert_eq!(evictable(&input(Some(0), 0, 0)).end, None);
        assert_eq!(evictable(&input(Some(15), 0, 0)).end, Some(10));
        let eviction = evictable(&input(Some(20), 0, 0));
        assert_eq!(eviction, Eviction { end: Some(20), kept: KeptBecause::NotTieredYet });
    }

    #[test]
    fn time_and_size_each_suffice() {
        assert_eq!(evictable(&input(Some(30), 2_000, -1)).end, Some(10));
        assert_eq!(evictable(&input(Some(30), -1, 150)).end, Some(20));
        assert_eq!(evictable(&input(Some(30), -1, 0)).end, Some(30));
        let kept = Eviction { end: None, kept: KeptBecause::WithinRetention };
        assert_eq!(evictable(&input(Some(30), -1, -1)), kept);
    }

    #[test]
    fn what_retention_already_dropped_goes_without_being_tiered() {
        let mut asked = input(Some(0), -1, -1);
        asked.log_start = 20;
        assert_eq!(evictable(&asked).end, Some(20));
    }
}
