//! InitProducerId: who gets a transactional id, under which producer id and epoch (KIP-98, KIP-360).

use highwater_model::ProducerId;

use super::coordinator::InitProducerId;
use super::transaction::{CLIENT_EPOCH_MAX, Transaction};
use super::types::{NO_EPOCH, Producer, TxnError, TxnState};
use crate::core::types::Millis;

/// What an InitProducerId leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InitPlan {
    /// The id is the producer's in this new state.
    Next(Transaction),
    /// What is open must be aborted first; the client comes again.
    Fence(Transaction),
}

impl Transaction {
    /// Decides over a request while no change is pending.
    pub(super) fn plan_init(
        &self,
        asked: &InitProducerId,
        now: Millis,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<InitPlan, TxnError> {
        if asked.expected.is_some_and(|expected| !self.may_go_on(expected)) {
            return Err(TxnError::ProducerFenced);
        }
        match self.state {
            TxnState::PrepareCommit | TxnState::PrepareAbort => Err(TxnError::ConcurrentTransactions),
            // The epoch of the abort is given to nobody: the client's next try bumps it again.
            TxnState::Ongoing => Ok(InitPlan::Fence(self.fenced(now))),
            TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort => {
                self.next_producer(asked, now, fresh).map(InitPlan::Next)
            }
        }
    }

    /// Whether a producer that says who it was may be the one that has the id. Its epoch is judged when it is
    /// bumped.
    fn may_go_on(&self, expected: Producer) -> bool {
        let is_new = self.epoch == NO_EPOCH;
        // It may have missed the answer by which it got the present id.
        let was_the_last = expected.id == self.previous_producer_id && expected.epoch >= CLIENT_EPOCH_MAX;
        is_new || expected.id == self.producer_id || was_the_last
    }

    /// The state after a bump of the epoch, or with a new producer id once epochs have run out.
    fn next_producer(
        &self,
        asked: &InitProducerId,
        now: Millis,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<Transaction, TxnError> {
        let to = |producer, last_epoch| self.initialized(producer, last_epoch, asked.timeout_ms, now);
        let expected_epoch = asked.expected.map(|expected| expected.epoch);
        // The last epoch fences and is given to nobody: who had the one before goes on under a new id.
        let is_fenced = |epoch| self.epoch > CLIENT_EPOCH_MAX && epoch == CLIENT_EPOCH_MAX;
        let is_current = expected_epoch.is_none_or(|epoch| epoch == self.epoch || is_fenced(epoch));
        if self.is_exhausted() && is_current {
            let id = fresh().ok_or(TxnError::CoordinatorLoadInProgress)?;
            assert!(id >= 0 && id != self.producer_id, "a fresh id was used before");
            return Ok(to(Producer { id, epoch: 0 }, expected_epoch.unwrap_or(NO_EPOCH)));
        }
        let bumped = || Producer { id: self.producer_id, epoch: self.epoch + 1 };
        match expected_epoch {
            // A new producer instance: whoever missed an answer before is fenced by it.
            None => Ok(to(bumped(), NO_EPOCH)),
            Some(_) if self.epoch == NO_EPOCH => Ok(to(bumped(), NO_EPOCH)),
            Some(epoch) if epoch == self.epoch => Ok(to(bumped(), self.epoch)),
            // It was bumped for this producer and the answer was lost.
            Some(epoch) if epoch == self.last_epoch => Ok(to(self.producer(), self.last_epoch)),
            Some(_) => Err(TxnError::ProducerFenced),
        }
    }
}
