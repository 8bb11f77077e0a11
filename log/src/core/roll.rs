//! When the active segment is sealed and a new one begun. Pure: the shell does the rolling.

use highwater_model::Offset;
use highwater_model::limits::ROLL_BY_RECORD_TIME_BYTES_MIN;

/// What the decision needs to know of the active segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveShape {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// Wall-clock time of the first append, Unix ms; `None` while empty.
    pub first_append_ms: Option<i64>,
    /// Largest record timestamp of the first batch.
    pub first_timestamp: Option<i64>,
}

/// What the decision needs to know of a batch about to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    pub bytes: u64,
    pub last_offset_delta: i32,
    pub max_timestamp: i64,
}

/// The topic's `segment.bytes` and `segment.ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollRule {
    pub segment_bytes: u64,
    pub segment_ms: i64,
}

/// Why a segment is rolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollReason {
    /// The batch would take it past `segment.bytes`.
    Size,
    /// `segment.ms` has passed since its first append.
    Age,
    /// The batch's records are more than `segment.ms` newer than those of the first batch (as Kafka does, but
    /// only once the segment is worth an object of its own: records in mixed time order must not make a
    /// segment each).
    RecordTime,
    /// Offsets relative to the segment's start would no longer fit the index.
    OffsetSpan,
    /// Asked for, by `tier offload`.
    Asked,
}

/// Whether to roll before appending `incoming`. An empty segment is never rolled.
pub fn before_append(
    active: &ActiveShape,
    incoming: &Incoming,
    rule: &RollRule,
    now_ms: i64,
) -> Option<RollReason> {
    assert!(incoming.last_offset_delta >= 0);
    assert!(active.start <= active.end);
    if active.bytes == 0 {
        return None;
    }
    if active.bytes + incoming.bytes > rule.segment_bytes {
        return Some(RollReason::Size);
    }
    let span = active.end - active.start + i64::from(incoming.last_offset_delta);
    if span >= i64::from(i32::MAX) {
        return Some(RollReason::OffsetSpan);
    }
    let record_time = match active.first_timestamp {
        Some(first) if first >= 0 => incoming.max_timestamp.saturating_sub(first),
        _ => 0,
    };
    if record_time > rule.segment_ms && active.bytes >= ROLL_BY_RECORD_TIME_BYTES_MIN {
        return Some(RollReason::RecordTime);
    }
    if_idle(active, rule, now_ms)
}

/// Whether to roll although nothing comes in: an idle segment must be sealed too, or its records would stay
/// local for ever.
pub fn if_idle(active: &ActiveShape, rule: &RollRule, now_ms: i64) -> Option<RollReason> {
    assert!(rule.segment_ms > 0);
    let first = active.first_append_ms?;
    let due = active.bytes > 0 && now_ms.saturating_sub(first) >= rule.segment_ms;
    due.then_some(RollReason::Age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RollRule = RollRule { segment_bytes: 8 << 20, segment_ms: 1_000 };

    fn active(bytes: u64) -> ActiveShape {
        let filled = bytes > 0;
        ActiveShape {
            start: 100,
            end: if filled { 200 } else { 100 },
            bytes,
            first_append_ms: filled.then_some(5_000),
            first_timestamp: filled.then_some(50),
        }
    }

    fn batch(bytes: u64, max_timestamp: i64) -> Incoming {
        Incoming { bytes, last_offset_delta: 9, max_timestamp }
    }

    #[test]
    fn the_reasons_in_order() {
        let full = RULE.segment_bytes;
        let cases = [
            ("empty never rolls", active(0), batch(full * 2, 0), 99_999, None),
            ("fits exactly", active(full - 10), batch(10, 50), 5_000, None),
            ("one byte over", active(full - 10), batch(11, 50), 5_000, Some(RollReason::Size)),
            ("young", active(10), batch(10, 50), 5_999, None),
            ("old", active(10), batch(10, 50), 6_000, Some(RollReason::Age)),
            ("clock stepped back", active(10), batch(10, 50), 0, None),
            ("record time, small", active(10), batch(10, 99_999), 5_000, None),
            ("record time", active(2 << 20), batch(10, 1_051), 5_000, Some(RollReason::RecordTime)),
            ("record time, just not", active(2 << 20), batch(10, 1_050), 5_000, None),
            ("timestamp at the end of time", active(10), batch(10, i64::MAX), 5_000, None),
            ("no timestamp", active(2 << 20), batch(10, -1), 5_000, None),
        ];
        for (name, active, incoming, now, expected) in cases {
            assert_eq!(before_append(&active, &incoming, &RULE, now), expected, "{name}");
        }
    }

    #[test]
    fn relative_offsets_stay_in_range() {
        let mut wide = active(10);
        wide.end = wide.start + i64::from(i32::MAX) - 9;
        assert_eq!(before_append(&wide, &batch(1, 50), &RULE, 5_000), Some(RollReason::OffsetSpan));
        wide.end -= 1;
        assert_eq!(before_append(&wide, &batch(1, 50), &RULE, 5_000), None);
    }

    #[test]
    fn an_idle_segment_rolls_by_age() {
        assert_eq!(if_idle(&active(10), &RULE, 5_999), None);
        assert_eq!(if_idle(&active(10), &RULE, 6_000), Some(RollReason::Age));
        assert_eq!(if_idle(&active(0), &RULE, i64::MAX), None);
    }
}
