//! What time makes due: aborts of transactions that take too long, markers to send again, ids that nobody
//! uses; and the end of the coordinator itself. Time decides when, never whether it is right (invariant 17).

use highwater_model::limits::TXN_DUE_PER_TICK_MAX;

use super::coordinator::{Answer, Coordinator};
use super::types::{Effect, TxnError, TxnState};
use crate::core::types::{Millis, Name};

impl Coordinator {
    /// When `tick` has something to do.
    pub fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Does what is due: at most `TXN_DUE_PER_TICK_MAX` ids, the rest with the next call.
    pub fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for _ in 0..TXN_DUE_PER_TICK_MAX {
            let Some((due_ms, id)) = self.due.first().filter(|(due_ms, _)| *due_ms <= now).cloned() else {
                break;
            };
            self.is_due(now, &id, effects);
            assert!(self.due.first().is_none_or(|first| *first != (due_ms, id)), "what was due is under way");
        }
    }

    fn is_due(&mut self, now: Millis, id: &Name, effects: &mut Vec<Effect>) {
        let entry = self.entries.get(id).expect("what is due is known");
        assert!(entry.pending.is_none() && !self.is_fenced);
        match entry.txn.state {
            TxnState::Ongoing => {
                let next = entry.txn.fenced(now);
                self.begin_write(id, Some(next), Answer::Nobody, effects);
            }
            TxnState::PrepareCommit | TxnState::PrepareAbort => self.go_on_marking(now, id, effects),
            TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort => {
                self.begin_write(id, None, Answer::Nobody, effects);
            }
        }
    }

    /// The broker leads the partition no longer: whoever waits is sent to the new coordinator, which decides
    /// by what is committed.
    pub fn resign(mut self, effects: &mut Vec<Effect>) {
        for (_, id) in std::mem::take(&mut self.writes) {
            let entry = self.entries.get_mut(&id).expect("an id with a write is known");
            let pending = entry.pending.take().expect("an id with a write has a pending change");
            pending.answer.refuse(TxnError::NotCoordinator, effects);
        }
        debug_assert!(self.entries.values().all(|entry| entry.pending.is_none()));
    }
}
