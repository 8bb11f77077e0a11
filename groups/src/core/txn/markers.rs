//! Markers: telling every partition of a decided transaction how it ended, until each has taken it.
//!
//! One round per decision, under a number of its own: an answer counts only for the round that it names, so
//! one that comes late cannot count for the producer's next transaction. Markers are idempotent for the
//! partition; what is not answered in time is sent again.

use std::collections::BTreeSet;

use highwater_model::limits::{TXN_MARKER_ANSWER_MS_MAX, TXN_RETRY_MS_MAX, TXN_RETRY_MS_MIN};

use super::coordinator::{Answer, Coordinator};
use super::types::{Effect, MarkerAnswer, MarkerOutcome, Markers, TxnPartition, TxnState, WriteId, after};
use crate::core::types::{Millis, Name};

/// The markers of one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marking {
    pub round: WriteId,
    /// Partitions without a marker, as far as is known.
    pub left: BTreeSet<TxnPartition>,
    /// Of these, asked and not answered.
    pub asked: BTreeSet<TxnPartition>,
    /// When to go on: send again, or write that all is complete.
    pub again_ms: Millis,
    pub attempts: u32,
}

impl Marking {
    /// Goes on after a pause that grows.
    pub fn pause(&mut self, now: Millis) {
        let factor = 1i64 << self.attempts.min(20);
        self.attempts = self.attempts.saturating_add(1);
        let pause_ms = TXN_RETRY_MS_MIN.saturating_mul(factor).min(TXN_RETRY_MS_MAX);
        self.again_ms = after(now, pause_ms);
        debug_assert!(self.again_ms > now || now == Millis::MAX);
    }
}

impl Coordinator {
    /// The decision is committed: now, and not earlier, partitions are told.
    pub(super) fn begin_marking(&mut self, now: Millis, id: &Name, effects: &mut Vec<Effect>) {
        let round = self.number();
        let entry = self.entries.get_mut(id).expect("the caller has found it");
        assert!(entry.txn.state.is_prepared() && entry.pending.is_none());
        let left = entry.txn.partitions.clone();
        let asked = BTreeSet::new();
        entry.marking = Some(Marking { round, left, asked, again_ms: now, attempts: 0 });
        self.go_on_marking(now, id, effects);
    }

    /// Sends what is left, or writes that nothing is.
    pub(super) fn go_on_marking(&mut self, now: Millis, id: &Name, effects: &mut Vec<Effect>) {
        let entry = self.entries.get_mut(id).expect("the caller has found it");
        let txn = &entry.txn;
        assert!(txn.state.is_prepared());
        let marking = entry.marking.as_mut().expect("begun with the decision");
        if marking.left.is_empty() {
            let next = txn.completed(now);
            return self.begin_write(id, Some(next), Answer::Nobody, effects);
        }
        marking.asked = marking.left.clone();
        marking.again_ms = after(now, TXN_MARKER_ANSWER_MS_MAX);
        effects.push(Effect::Mark(Markers {
            round: marking.round,
            transactional_id: id.clone(),
            producer: txn.producer(),
            coordinator_epoch: self.coordinator_epoch,
            commit: txn.state == TxnState::PrepareCommit,
            bumps_epoch: txn.version.bumps_epoch(),
            partitions: marking.left.iter().cloned().collect(),
        }));
        self.reschedule(id);
    }

    /// What became of markers. Answers of another round or another coordinator's are ignored.
    pub fn marked(&mut self, now: Millis, answer: &MarkerAnswer, effects: &mut Vec<Effect>) {
        let id = &answer.transactional_id;
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let is_ours = answer.coordinator_epoch == self.coordinator_epoch && !self.is_fenced;
        let is_ours = is_ours && entry.pending.is_none();
        let Some(marking) = entry.marking.as_mut().filter(|m| is_ours && m.round == answer.round) else {
            return;
        };
        assert!(entry.txn.state.is_prepared(), "markers are out for a decision only");
        if answer.outcomes.iter().any(|(_, outcome)| *outcome == MarkerOutcome::CoordinatorFenced) {
            return self.fence();
        }
        for (partition, outcome) in &answer.outcomes {
            marking.asked.remove(partition);
            match outcome {
                MarkerOutcome::Written | MarkerOutcome::PartitionGone | MarkerOutcome::StaleEpoch => {
                    marking.left.remove(partition);
                }
                MarkerOutcome::Retry => {}
                MarkerOutcome::CoordinatorFenced => unreachable!("looked for above"),
            }
        }
        if marking.left.is_empty() {
            return self.go_on_marking(now, id, effects);
        }
        if marking.asked.is_empty() {
            marking.pause(now);
        }
        self.reschedule(&id.clone());
    }

    /// Changes nothing any more: a newer coordinator has the partition.
    fn fence(&mut self) {
        self.is_fenced = true;
        self.due.clear();
        for entry in self.entries.values_mut() {
            entry.due_ms = None;
        }
        debug_assert!(self.next_due().is_none());
    }
}
