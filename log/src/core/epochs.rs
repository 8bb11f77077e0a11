//! Which leader epoch wrote which offsets (KIP-101, KIP-279, KIP-320), and invariant 6: epochs only grow.
//!
//! Owns the table of epoch starts. Must not touch files: the shell stores it inside the checkpoint and
//! derives lost entries from batch headers, which carry the epoch that wrote them.

use highwater_model::limits::EPOCHS_PER_PARTITION_MAX;
use highwater_model::{LeaderEpoch, Offset};
use serde::{Deserialize, Serialize};

/// One leader epoch and the first offset that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// A writer came with an epoch older than one that has already written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leader epoch {given} is older than {current}")]
pub struct EpochRefusal {
    pub given: LeaderEpoch,
    pub current: LeaderEpoch,
}

/// Epoch starts, strictly increasing in epoch and in start offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochTable {
    entries: Vec<EpochStart>,
}

impl EpochTable {
    /// Takes entries from storage; `None` unless both columns strictly increase.
    pub fn from_entries(entries: Vec<EpochStart>) -> Option<EpochTable> {
        let rising = |pair: &[EpochStart]| {
            pair[0].epoch < pair[1].epoch && pair[0].start_offset < pair[1].start_offset
        };
        let starts_sane = entries.first().is_none_or(|e| e.epoch >= 0 && e.start_offset >= 0);
        let sane = entries.len() <= EPOCHS_PER_PARTITION_MAX && entries.windows(2).all(rising) && starts_sane;
        sane.then_some(EpochTable { entries })
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|e| e.epoch)
    }

    /// Whether a writer with `epoch` may append.
    pub fn check(&self, epoch: LeaderEpoch) -> Result<(), EpochRefusal> {
        match self.latest() {
            Some(current) if epoch < current => Err(EpochRefusal { given: epoch, current }),
            _ => Ok(()),
        }
    }

    /// Records that `epoch` wrote the batch starting at `offset`; true if it is a new entry. The caller has
    /// passed `check`. An epoch that wrote nothing before the next one leaves no entry behind.
    pub fn assign(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        assert!(offset >= 0);
        assert!(self.check(epoch).is_ok(), "epochs only grow (invariant 6)");
        if self.latest() == Some(epoch) {
            return false;
        }
        self.entries.retain(|e| e.start_offset < offset);
        if self.entries.len() == EPOCHS_PER_PARTITION_MAX {
            self.entries.remove(0);
        }
        self.entries.push(EpochStart { epoch, start_offset: offset });
        debug_assert!(self.entries.windows(2).all(|p| p[0].start_offset < p[1].start_offset));
        true
    }

    /// The largest known epoch at or below `epoch` and the end of what it wrote, as OffsetForLeaderEpoch
    /// answers it; `None` for an epoch above every known one. An epoch below every known one ends where the
    /// first known starts.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if epoch < 0 {
            return None;
        }
        if self.latest() == Some(epoch) {
            return Some((epoch, log_end));
        }
        let above = self.entries.partition_point(|e| e.epoch <= epoch);
        let end = self.entries.get(above)?.start_offset;
        debug_assert!(end <= log_end);
        let floor = if above == 0 { epoch } else { self.entries[above - 1].epoch };
        Some((floor, end))
    }

    /// The epoch that wrote `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.entries.partition_point(|e| e.start_offset <= offset);
        above.checked_sub(1).map(|i| self.entries[i].epoch)
    }

    /// Forgets epochs that wrote nothing below `log_end`.
    pub fn truncate_end(&mut self, log_end: Offset) {
        self.entries.retain(|e| e.start_offset < log_end);
        debug_assert!(self.entries.last().is_none_or(|e| e.start_offset < log_end));
    }

    /// Forgets epochs that wrote nothing at or above `log_start`; the one covering `log_start` then starts
    /// there.
    pub fn truncate_start(&mut self, log_start: Offset) {
        let above = self.entries.partition_point(|e| e.start_offset <= log_start);
        if above > 1 {
            self.entries.drain(..above - 1);
        }
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = first.start_offset.max(log_start);
        }
        debug_assert!(self.entries.windows(2).all(|p| p[0].start_offset < p[1].start_offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(i32, i64)]) -> EpochTable {
        let mut table = EpochTable::default();
        for &(epoch, offset) in entries {
            table.assign(epoch, offset);
        }
        table
    }

    #[test]
    fn answers_like_offset_for_leader_epoch() {
        let t = table(&[(2, 0), (5, 10), (9, 30)]);
        for (epoch, expected) in [
            (-1, None),
            (0, Some((0, 0))),
            (2, Some((2, 10))),
            (4, Some((2, 10))),
            (5, Some((5, 30))),
            (8, Some((5, 30))),
            (9, Some((9, 44))),
            (10, None),
        ] {
            assert_eq!(t.end_of(epoch, 44), expected, "epoch {epoch}");
        }
        assert_eq!(EpochTable::default().end_of(0, 0), None);
    }

    #[test]
    fn an_epoch_without_batches_leaves_no_entry() {
        let t = table(&[(1, 0), (2, 10), (3, 10)]);
        assert_eq!(t.entries().iter().map(|e| e.epoch).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(t.check(2), Err(EpochRefusal { given: 2, current: 3 }));
    }

    #[test]
    fn both_ends_are_cut() {
        let mut t = table(&[(1, 0), (4, 10), (6, 20)]);
        t.truncate_start(15);
        assert_eq!(t.entries()[0], EpochStart { epoch: 4, start_offset: 15 });
        t.truncate_end(20);
        assert_eq!(t.latest(), Some(4));
        t.truncate_end(15);
        assert_eq!(t.latest(), None);
        assert_eq!(t.epoch_at(3), None);
    }

    #[test]
    fn stored_disorder_is_refused() {
        let e = |epoch, start_offset| EpochStart { epoch, start_offset };
        assert!(EpochTable::from_entries(vec![e(1, 0), e(2, 5)]).is_some());
        assert!(EpochTable::from_entries(vec![e(2, 0), e(2, 5)]).is_none());
        assert!(EpochTable::from_entries(vec![e(1, 5), e(2, 5)]).is_none());
        assert!(EpochTable::from_entries(vec![e(-1, 5)]).is_none());
    }
}
