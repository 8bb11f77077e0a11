//! What to believe at start-up: which segments are taken as listed, which are scanned, and what damage means.
//!
//! Pure: it is told what files were found and what the side files claim, and returns a plan; `judge` then
//! says what the end of each scan means. The rule (invariant 12 and the design's promise): a torn tail above
//! the recovery point is a crash's garbage and is cut; the same below it is loss of what was durable, is
//! never cut, and stops all appends.

use highwater_model::Offset;

use super::checkpoint::{Checkpoint, CleanEnd, SealedSegment};

/// A segment file in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSegment {
    pub start: Offset,
    pub bytes: u64,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Sealed segments taken as the checkpoint lists them.
    pub trusted: Vec<SealedSegment>,
    pub rest: RecoveryRest,
}

/// What follows the trusted segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryRest {
    /// Nothing was ever appended.
    Empty,
    /// The log was closed cleanly and is as it was.
    Clean(CleanEnd),
    /// Segments whose every batch is checked, in order. The last one is or becomes the active one.
    Scan(Vec<FoundSegment>),
}

/// Decides how much of the found segments (sorted by start) needs a scan.
pub fn plan(found: &[FoundSegment], checkpoint: &Checkpoint, recovery_point: Offset) -> RecoveryPlan {
    assert!(found.windows(2).all(|p| p[0].start < p[1].start), "sorted, each name once");
    assert!(recovery_point >= 0);
    let Some((last, before)) = found.split_last() else {
        return RecoveryPlan { trusted: Vec::new(), rest: RecoveryRest::Empty };
    };
    let clean = checkpoint.clean.filter(|c| c.start == last.start && c.bytes == last.bytes);
    let mut trusted: Vec<SealedSegment> = Vec::new();
    for (at, segment) in before.iter().enumerate() {
        let next_start = found[at + 1].start;
        let listed = checkpoint.sealed.binary_search_by_key(&segment.start, |s| s.start);
        match listed.ok().map(|i| checkpoint.sealed[i]) {
            Some(s) if s.bytes == segment.bytes && s.end == next_start => {
                if clean.is_none() && s.end > recovery_point {
                    break;
                }
                trusted.push(s);
            }
            _ => break,
        }
    }
    debug_assert!(trusted.windows(2).all(|p| p[0].end == p[1].start));
    let rest = match clean {
        Some(end) if trusted.len() == before.len() => RecoveryRest::Clean(end),
        _ => RecoveryRest::Scan(found[trusted.len()..].to_vec()),
    };
    debug_assert!(!matches!(&rest, RecoveryRest::Scan(s) if s.is_empty()));
    RecoveryPlan { trusted, rest }
}

/// How the scan of one segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanEnd {
    /// Offset after the last valid batch.
    pub end: Offset,
    /// Whether bytes follow that are no valid batch in its place.
    pub damaged: bool,
    /// Start of the next segment file, if there is one.
    pub next_start: Option<Offset>,
}

/// What a scan's end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The segment is whole; go on with the next one.
    Whole,
    /// The log ends here: cut this segment to its valid bytes and drop what follows.
    CutHere,
    /// What was durable is gone or damaged: cut nothing, append nothing.
    CorruptBelowFlushed,
}

/// Judges the end of a scan.
pub fn judge(scan: &ScanEnd, recovery_point: Offset) -> Verdict {
    assert!(scan.end >= 0);
    let joins = scan.next_start.is_none_or(|next| next == scan.end);
    let whole = !scan.damaged && joins;
    let last = scan.next_start.is_none();
    if whole && (!last || scan.end >= recovery_point) {
        return Verdict::Whole;
    }
    if scan.end < recovery_point {
        return Verdict::CorruptBelowFlushed;
    }
    debug_assert!(scan.damaged || !joins);
    Verdict::CutHere
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(start: i64, end: i64) -> SealedSegment {
        SealedSegment { start, end, bytes: 100, max_timestamp: 0, sealed_at_ms: 0 }
    }

    fn found(starts: &[i64]) -> Vec<FoundSegment> {
        starts.iter().map(|&start| FoundSegment { start, bytes: 100 }).collect()
    }

    fn clean(start: i64, bytes: u64) -> CleanEnd {
        CleanEnd {
            start,
            end: start + 5,
            bytes,
            max_timestamp: 0,
            first_append_ms: 0,
            first_timestamp: 0,
            has_producers: false,
        }
    }

    /// The plan as `trusted starts | rest`.
    fn told(found: &[FoundSegment], checkpoint: &Checkpoint, recovery_point: i64) -> String {
        let plan = plan(found, checkpoint, recovery_point);
        let trusted: Vec<i64> = plan.trusted.iter().map(|s| s.start).collect();
        match plan.rest {
            RecoveryRest::Empty => format!("{trusted:?} empty"),
            RecoveryRest::Clean(c) => format!("{trusted:?} clean {}", c.start),
            RecoveryRest::Scan(s) => {
                format!("{trusted:?} scan {:?}", s.iter().map(|s| s.start).collect::<Vec<_>>())
            }
        }
    }

    #[test]
    fn plans() {
        let listed = vec![sealed(0, 10), sealed(10, 20)];
        let dirty = Checkpoint { sealed: listed.clone(), ..Checkpoint::default() };
        let closed = Checkpoint { sealed: listed, clean: Some(clean(20, 100)), ..Checkpoint::default() };
        let none = Checkpoint::default();
        assert_eq!(told(&[], &closed, 0), "[] empty");
        assert_eq!(told(&found(&[0, 10, 20]), &closed, 0), "[0, 10] clean 20");
        assert_eq!(told(&found(&[10, 20]), &closed, 0), "[10] clean 20", "one was evicted since");
        assert_eq!(told(&found(&[0, 10, 20, 30]), &closed, 0), "[] scan [0, 10, 20, 30]", "rolled since");
        assert_eq!(told(&found(&[0, 10, 20]), &dirty, 25), "[0, 10] scan [20]");
        assert_eq!(told(&found(&[0, 10, 20]), &dirty, 19), "[0] scan [10, 20]");
        assert_eq!(told(&found(&[0, 10, 20]), &none, 25), "[] scan [0, 10, 20]", "no checkpoint");
        assert_eq!(told(&found(&[0, 20]), &closed, 25), "[] scan [0, 20]", "one is missing");
        let mut grown = found(&[0, 10, 20]);
        grown[2].bytes += 1;
        assert_eq!(told(&grown, &closed, 20), "[0, 10] scan [20]", "appended since the clean end");
        grown[0].bytes -= 1;
        assert_eq!(told(&grown, &closed, 20), "[] scan [0, 10, 20]", "a sealed one has changed");
    }

    #[test]
    fn verdicts() {
        let end = |end, damaged, next_start| ScanEnd { end, damaged, next_start };
        for (scan, recovery_point, expected) in [
            (end(10, false, Some(10)), 0, Verdict::Whole),
            (end(10, false, None), 10, Verdict::Whole),
            (end(10, true, None), 10, Verdict::CutHere),
            (end(10, true, None), 11, Verdict::CorruptBelowFlushed),
            (end(10, false, None), 11, Verdict::CorruptBelowFlushed),
            (end(8, false, Some(10)), 8, Verdict::CutHere),
            (end(8, false, Some(10)), 9, Verdict::CorruptBelowFlushed),
            (end(10, false, Some(10)), 30, Verdict::Whole),
            (end(12, false, Some(10)), 0, Verdict::CutHere),
        ] {
            assert_eq!(judge(&scan, recovery_point), expected, "{scan:?} flushed to {recovery_point}");
        }
    }
}
