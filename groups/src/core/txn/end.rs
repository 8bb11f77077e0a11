//! EndTxn: the two sets of rules, before and since KIP-890's bump of the epoch with every transaction.
//!
//! Since version 2, by the state (PF: PRODUCER_FENCED, ITS: INVALID_TXN_STATE, CT: CONCURRENT_TRANSACTIONS).
//! A retry comes under the epoch before the current one, for the answer with the bumped epoch was lost:
//!
//! ```text
//! state          | abort, retry | abort, current | commit, retry | commit, current
//! Ongoing        | PF           | PrepareAbort   | PF            | PrepareCommit
//! PrepareCommit  | ITS          | PF             | CT            | PF
//! PrepareAbort   | CT           | PF             | ITS           | PF
//! CompleteCommit | ITS          | PrepareAbort   | ok            | ITS
//! CompleteAbort  | ok           | PrepareAbort   | ITS           | ITS
//! Empty          | PF           | PrepareAbort   | PF            | ITS
//! ```
//! Before it, only the current epoch may end a transaction, and an end that is already there is answered as
//! done: a late EndTxn of an older transaction cannot be told from one of the next, which is why version 2
//! exists.

use highwater_model::ProducerId;

use super::coordinator::EndTxn;
use super::transaction::{CLIENT_EPOCH_MAX, Transaction};
use super::types::{NO_PRODUCER_ID, Producer, TxnError, TxnState};
use crate::core::types::Millis;

/// What an EndTxn leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EndPlan {
    Next(Transaction),
    /// It has ended so already; the producer goes on as this.
    Already(Producer),
}

impl Transaction {
    /// Decides over a client's EndTxn.
    pub(super) fn plan_end(
        &self,
        asked: &EndTxn,
        is_pending: bool,
        now: Millis,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<EndPlan, TxnError> {
        match asked.version.bumps_epoch() {
            true => self.plan_end_bumping(asked, is_pending, now, fresh),
            false => self.plan_end_plain(asked, is_pending, now),
        }
    }

    fn plan_end_plain(&self, asked: &EndTxn, is_pending: bool, now: Millis) -> Result<EndPlan, TxnError> {
        if asked.producer.id != self.producer_id {
            return Err(TxnError::InvalidProducerIdMapping);
        }
        if asked.producer.epoch != self.epoch {
            return Err(TxnError::ProducerFenced);
        }
        if is_pending {
            return Err(TxnError::ConcurrentTransactions);
        }
        match (self.state, asked.commit) {
            (TxnState::Ongoing, commit) => {
                Ok(EndPlan::Next(self.ending(commit, asked.version, NO_PRODUCER_ID, now)))
            }
            (TxnState::CompleteCommit, true) | (TxnState::CompleteAbort, false) => {
                Ok(EndPlan::Already(asked.producer))
            }
            (TxnState::PrepareCommit, true) | (TxnState::PrepareAbort, false) => {
                Err(TxnError::ConcurrentTransactions)
            }
            _ => Err(TxnError::InvalidTxnState),
        }
    }

    fn plan_end_bumping(
        &self,
        asked: &EndTxn,
        is_pending: bool,
        now: Millis,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<EndPlan, TxnError> {
        let is_retry = self.is_retry(asked.producer);
        if is_pending && (is_retry || asked.producer.id == self.producer_id) {
            return Err(TxnError::ConcurrentTransactions);
        }
        if asked.producer.id != self.producer_id && !is_retry {
            // Its answer said so: the end must only become complete first.
            let is_next = self.state.is_prepared() && asked.producer == self.goes_on_as();
            return Err(if is_next {
                TxnError::ConcurrentTransactions
            } else {
                TxnError::InvalidProducerIdMapping
            });
        }
        let is_current = asked.producer == self.producer();
        let may = match self.state {
            TxnState::Ongoing | TxnState::Empty => is_current,
            TxnState::PrepareCommit | TxnState::PrepareAbort => is_retry,
            TxnState::CompleteCommit | TxnState::CompleteAbort => is_retry || is_current,
        };
        if !may {
            return Err(TxnError::ProducerFenced);
        }
        match (self.state, asked.commit, is_retry) {
            (TxnState::Ongoing, commit, _) => self.plan_next(commit, asked, now, fresh),
            // The last epoch fences and is given to nobody.
            (TxnState::CompleteAbort, false, true) if self.epoch > CLIENT_EPOCH_MAX => {
                Err(TxnError::ProducerFenced)
            }
            (TxnState::CompleteCommit, true, true) | (TxnState::CompleteAbort, false, true) => {
                Ok(EndPlan::Already(self.producer()))
            }
            (TxnState::CompleteCommit | TxnState::CompleteAbort, false, false)
            | (TxnState::Empty, false, _) => self.plan_next(false, asked, now, fresh),
            (TxnState::PrepareCommit, true, _) | (TxnState::PrepareAbort, false, _) => {
                Err(TxnError::ConcurrentTransactions)
            }
            _ => Err(TxnError::InvalidTxnState),
        }
    }

    /// Asked under the epoch that the last end has bumped, or under the id that it has used up.
    fn is_retry(&self, producer: Producer) -> bool {
        let bumped = producer.id == self.producer_id && producer.epoch.checked_add(1) == Some(self.epoch);
        let used_up = producer.id == self.previous_producer_id
            && producer.id != self.producer_id
            && producer.epoch == CLIENT_EPOCH_MAX
            && self.epoch == 0;
        bumped || used_up
    }

    fn plan_next(
        &self,
        commit: bool,
        asked: &EndTxn,
        now: Millis,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<EndPlan, TxnError> {
        let next_producer_id = match self.is_exhausted() {
            true => fresh().ok_or(TxnError::CoordinatorLoadInProgress)?,
            false => NO_PRODUCER_ID,
        };
        assert!(next_producer_id != self.producer_id, "a fresh id was used before");
        Ok(EndPlan::Next(self.ending(commit, asked.version, next_producer_id, now)))
    }
}
