//! Transactions of one partition: which are open, which have ended and are not yet committed to be so, which
//! were aborted (KIP-98).
//!
//! Owns the last stable offset and the list of aborted transactions of the newest segment, and with the table
//! of producers everything that replaying a log gives beside offsets. All of it is a function of the batches,
//! so that replicas and recovery come to the same; only `ended` also knows the high watermark, and may forget
//! more or less of it.
//!
//! The last stable offset lies at or below the high watermark and below every transaction that is open, or
//! whose marker is not below the high watermark: a marker that is not committed could still be lost, and with
//! it the outcome. What lies below it never changes its outcome (invariant 4).

use highwater_model::limits::TXN_ENDED_PER_PARTITION_MAX;
use highwater_model::{Offset, ProducerId};
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::EndMarker;
use std::collections::VecDeque;

use super::producers::ProducerTable;

/// Batches of `producer_id` from `first` to `marker` belong to a transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTxn {
    pub producer_id: ProducerId,
    /// Offset of its first batch in this partition.
    pub first: Offset,
    /// Offset of its marker.
    pub marker: Offset,
}

impl AbortedTxn {
    /// Whether a reader of `start..end` may meet its batches.
    pub fn concerns(&self, start: Offset, end: Offset) -> bool {
        self.first < end && self.marker >= start
    }
}

/// Ended transactions whose marker may lie above the high watermark: first offset and marker, by marker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedTxns {
    ended: VecDeque<(Offset, Offset)>,
}

impl EndedTxns {
    pub fn len(&self) -> usize {
        self.ended.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Offset, Offset)> + '_ {
        self.ended.iter().copied()
    }

    /// Remembers one, whose marker is the newest. Beyond the limit the two oldest become one.
    pub fn note(&mut self, first: Offset, marker: Offset) {
        assert!(first < marker, "a marker stands behind what it ends");
        assert!(self.ended.back().is_none_or(|(_, before)| *before < marker), "markers come in order");
        self.ended.push_back((first, marker));
        if self.ended.len() > TXN_ENDED_PER_PARTITION_MAX {
            let oldest = self.ended.pop_front().expect("more than the limit");
            let next = self.ended.front_mut().expect("more than the limit");
            next.0 = next.0.min(oldest.0);
        }
        assert!(self.ended.len() <= TXN_ENDED_PER_PARTITION_MAX);
    }

    /// Markers below the high watermark are committed: what they ended is over.
    pub fn forget_below(&mut self, high_watermark: Offset) {
        while self.ended.front().is_some_and(|(_, marker)| *marker < high_watermark) {
            self.ended.pop_front();
        }
    }

    /// First offset of the oldest transaction whose marker is not below the high watermark.
    pub fn first_unstable(&self, high_watermark: Offset) -> Option<Offset> {
        let unstable = self.ended.iter().rev().take_while(|(_, marker)| *marker >= high_watermark);
        unstable.map(|(first, _)| *first).min()
    }
}

/// Everything that replaying a log gives beside offsets, epochs and indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerState {
    pub table: ProducerTable,
    pub ended: EndedTxns,
    /// Aborted transactions whose marker is in the newest segment, by marker.
    pub aborted: Vec<AbortedTxn>,
}

impl ProducerState {
    pub fn is_empty(&self) -> bool {
        self.table.is_empty() && self.ended.is_empty() && self.aborted.is_empty()
    }

    /// Records a batch that stands in the log at `base_offset`; see `ProducerTable::apply`.
    #[inline]
    pub fn apply(
        &mut self,
        header: &BatchHeader,
        marker: Option<EndMarker>,
        base_offset: Offset,
        now_ms: i64,
    ) {
        debug_assert!(marker.is_none() || header.is_control());
        let Some(ended) = self.table.apply(header, marker, base_offset, now_ms) else {
            return;
        };
        self.ended.note(ended.first, ended.marker);
        if !ended.commit {
            let (producer_id, first, marker) = (ended.producer_id, ended.first, ended.marker);
            debug_assert!(self.aborted.last().is_none_or(|before| before.marker < marker));
            self.aborted.push(AbortedTxn { producer_id, first, marker });
        }
    }

    /// What follows goes into a new segment, which has no aborted transaction yet. Gives the list of the
    /// last.
    pub fn begin_segment(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.aborted)
    }

    /// Below it every transaction has its final outcome; at most the high watermark.
    pub fn last_stable(&self, high_watermark: Offset) -> Offset {
        let open = self.table.first_open();
        let unstable = self.ended.first_unstable(high_watermark);
        let first = [open, unstable].into_iter().flatten().min();
        let last_stable = first.map_or(high_watermark, |first| first.min(high_watermark));
        debug_assert!(last_stable <= high_watermark);
        last_stable
    }
}

/// Those of `aborted`, which is in the order of markers, that a reader of `start..end` may meet.
pub fn concerning(
    aborted: &[AbortedTxn],
    start: Offset,
    end: Offset,
) -> impl Iterator<Item = AbortedTxn> + '_ {
    debug_assert!(start <= end);
    let from = aborted.partition_point(|txn| txn.marker < start);
    aborted[from..].iter().copied().filter(move |txn| txn.concerns(start, end))
}

#[cfg(test)]
mod tests;
