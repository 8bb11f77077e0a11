//! Appends that a leader refuses because the disk is full: whether that has gone on for so long that another
//! replica had better lead, and whether that was asked for lately. Pure; the time is an argument. Where every
//! disk is full, the pause bounds how often leaders go round (invariant 16).

use highwater_model::limits::{DISK_FULL_GAP_MS, DISK_FULL_RESIGN_MS, DISK_FULL_RESIGN_PAUSE_MS};

/// What one partition knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRoom {
    /// When the first and the newest append were refused, of those without a longer pause in between.
    refused: Option<(i64, i64)>,
    resigned_ms: Option<i64>,
}

impl NoRoom {
    /// An append was refused.
    pub fn refused(&mut self, now_ms: i64) {
        let goes_on = |(_, last): &(i64, i64)| now_ms.saturating_sub(*last) <= DISK_FULL_GAP_MS;
        let first = self.refused.filter(goes_on).map_or(now_ms, |(first, _)| first.min(now_ms));
        self.refused = Some((first, now_ms));
        debug_assert!(first <= now_ms);
    }

    /// Whether another replica should be asked to lead.
    pub fn wants_another(&self, now_ms: i64) -> bool {
        let Some((first, last)) = self.refused else { return false };
        assert!(first <= last, "in this order");
        let is_lasting = last.saturating_sub(first) >= DISK_FULL_RESIGN_MS;
        let is_new = now_ms.saturating_sub(last) <= DISK_FULL_GAP_MS;
        let since = self.resigned_ms.map(|at| now_ms.saturating_sub(at));
        is_lasting && is_new && since.is_none_or(|since| !(0..DISK_FULL_RESIGN_PAUSE_MS).contains(&since))
    }

    /// That was asked for, with whatever outcome.
    pub fn resigned(&mut self, now_ms: i64) {
        *self = NoRoom { refused: None, resigned_ms: Some(now_ms) };
        debug_assert!(!self.wants_another(now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_keeps_refusing_wants_another_and_asks_once_in_a_while() {
        let mut room = NoRoom::default();
        assert!(!room.wants_another(0));
        room.refused(1_000);
        assert!(!room.wants_another(1_000), "it may be over in a moment");
        room.refused(1_000 + DISK_FULL_RESIGN_MS);
        assert!(room.wants_another(1_000 + DISK_FULL_RESIGN_MS));
        assert!(
            !room.wants_another(1_001 + DISK_FULL_RESIGN_MS + DISK_FULL_GAP_MS),
            "nobody writes any more"
        );
        room.resigned(10_000);
        let refuse = |room: &mut NoRoom, from: i64| {
            (0..=10).for_each(|n| room.refused(from + n * 500));
            from + 5_000
        };
        let now_ms = refuse(&mut room, 20_000);
        assert!(!room.wants_another(now_ms), "asked a moment ago");
        let now_ms = refuse(&mut room, 10_000 + DISK_FULL_RESIGN_PAUSE_MS);
        assert!(room.wants_another(now_ms));
    }

    #[test]
    fn single_refusals_far_apart_are_none_that_lasts() {
        let mut room = NoRoom::default();
        for n in 0..10 {
            room.refused(n * (DISK_FULL_GAP_MS + 1));
            assert!(!room.wants_another(n * (DISK_FULL_GAP_MS + 1)));
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_no_harm() {
        let mut room = NoRoom::default();
        room.refused(1_000_000);
        room.resigned(1_000_000);
        room.refused(5_000);
        room.refused(4_000);
        room.refused(4_000 + DISK_FULL_RESIGN_MS);
        assert!(room.wants_another(4_000 + DISK_FULL_RESIGN_MS), "what was asked in the future is forgotten");
    }
}
