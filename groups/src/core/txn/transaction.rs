//! The state of one transactional id, and the whole new state that each decision gives.
//!
//! Pure data: what is here is what a record of `__transaction_state` holds, but for the last epoch, which
//! Kafka does not store either (a retry over a change of coordinator is then fenced). `check_follows` is the
//! contract of every change.

use std::collections::BTreeSet;

use highwater_model::ProducerId;

use super::types::{ClientVersion, NO_EPOCH, NO_PRODUCER_ID, Producer, TxnPartition, TxnState};
use crate::core::types::Millis;

/// The highest epoch that a client gets; one more is kept for fencing it.
pub const CLIENT_EPOCH_MAX: i16 = i16::MAX - 1;

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: ProducerId,
    /// The producer id before the last change of anything; differs from `producer_id` only right after the
    /// epochs of one ran out. -1: none.
    pub previous_producer_id: ProducerId,
    /// The id that takes over when the end of the transaction is complete, as the epochs have run out; -1
    /// otherwise.
    pub next_producer_id: ProducerId,
    /// -1 until the first InitProducerId is answered.
    pub epoch: i16,
    /// The epoch before the last bump that a client may have missed the answer to; -1: none.
    pub last_epoch: i16,
    pub timeout_ms: i32,
    pub state: TxnState,
    pub partitions: BTreeSet<TxnPartition>,
    /// When the transaction began; -1 outside of one.
    pub started_ms: Millis,
    pub updated_ms: Millis,
    pub version: ClientVersion,
}

impl Transaction {
    /// An id that is seen for the first time.
    pub(super) fn created(producer_id: ProducerId, timeout_ms: i32, now: Millis) -> Transaction {
        debug_assert!(producer_id >= 0);
        Transaction {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            last_epoch: NO_EPOCH,
            timeout_ms,
            state: TxnState::Empty,
            partitions: BTreeSet::new(),
            started_ms: -1,
            updated_ms: now,
            version: ClientVersion::V0,
        }
    }

    pub fn producer(&self) -> Producer {
        Producer { id: self.producer_id, epoch: self.epoch }
    }

    /// No further epoch may be given to a client under this producer id.
    pub fn is_exhausted(&self) -> bool {
        self.epoch >= CLIENT_EPOCH_MAX
    }

    fn changed(&self, state: TxnState, now: Millis) -> Transaction {
        Transaction { state, previous_producer_id: self.producer_id, updated_ms: now, ..self.clone() }
    }

    /// Empty, under the given producer.
    pub(super) fn initialized(&self, to: Producer, last_epoch: i16, timeout_ms: i32, now: Millis) -> Self {
        debug_assert!(self.state.is_idle());
        Transaction {
            producer_id: to.id,
            next_producer_id: NO_PRODUCER_ID,
            epoch: to.epoch,
            last_epoch,
            timeout_ms,
            partitions: BTreeSet::new(),
            started_ms: -1,
            ..self.changed(TxnState::Empty, now)
        }
    }

    /// Ongoing, with more partitions.
    pub(super) fn with_partitions(
        &self,
        added: &[TxnPartition],
        version: ClientVersion,
        now: Millis,
    ) -> Self {
        debug_assert!(!self.state.is_prepared());
        let started_ms = if self.state.is_idle() { now } else { self.started_ms };
        let mut next = Transaction { started_ms, version, ..self.changed(TxnState::Ongoing, now) };
        next.partitions.extend(added.iter().cloned());
        next
    }

    /// The decision how the transaction ends. Under version 2 its markers already carry the next epoch.
    /// `next_producer_id`: given when the epochs are used up.
    pub(super) fn ending(
        &self,
        commit: bool,
        version: ClientVersion,
        next_producer_id: ProducerId,
        now: Millis,
    ) -> Transaction {
        debug_assert!(!self.state.is_prepared());
        let state = if commit { TxnState::PrepareCommit } else { TxnState::PrepareAbort };
        let started_ms = if self.state == TxnState::Ongoing { self.started_ms } else { now };
        let (epoch, last_epoch, version) = match (version.bumps_epoch(), self.epoch.checked_add(1)) {
            (true, Some(next)) => (next, self.epoch, version),
            // Nobody gets the last epoch, but a record may have it. A partition with batches of it would
            // refuse a marker that claims to be newer than they are.
            (true, None) => (self.epoch, self.epoch, ClientVersion::V1),
            (false, _) => (self.epoch, self.last_epoch, version),
        };
        let changed = self.changed(state, now);
        Transaction { epoch, last_epoch, next_producer_id, started_ms, version, ..changed }
    }

    /// The abort by which the coordinator fences whoever holds the current epoch.
    pub(super) fn fenced(&self, now: Millis) -> Transaction {
        debug_assert!(self.state == TxnState::Ongoing);
        self.ending(false, ClientVersion::V2, NO_PRODUCER_ID, now)
    }

    /// Every partition has its marker.
    pub(super) fn completed(&self, now: Millis) -> Transaction {
        debug_assert!(self.state.is_prepared());
        let commit = self.state == TxnState::PrepareCommit;
        let state = if commit { TxnState::CompleteCommit } else { TxnState::CompleteAbort };
        let to = match self.next_producer_id {
            NO_PRODUCER_ID => self.producer(),
            id => Producer { id, epoch: 0 },
        };
        Transaction {
            producer_id: to.id,
            epoch: to.epoch,
            next_producer_id: NO_PRODUCER_ID,
            partitions: BTreeSet::new(),
            ..self.changed(state, now)
        }
    }

    /// The producer that a client goes on as, once the decided transaction is complete.
    pub(super) fn goes_on_as(&self) -> Producer {
        match self.next_producer_id {
            NO_PRODUCER_ID => self.producer(),
            id => Producer { id, epoch: 0 },
        }
    }

    /// What must hold of every change of state, whatever the request was.
    ///
    /// # Panics
    /// When it does not: a defect that must not reach the log.
    pub(super) fn check_follows(&self, before: &Transaction) {
        use TxnState::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
        let follows = match self.state {
            Empty => before.state.is_idle(),
            Ongoing => before.state.is_idle() || before.state == Ongoing,
            PrepareCommit => before.state == Ongoing,
            PrepareAbort => before.state.is_idle() || before.state == Ongoing,
            CompleteCommit => before.state == PrepareCommit,
            CompleteAbort => before.state == PrepareAbort,
        };
        assert!(follows, "{:?} after {:?}", self.state, before.state);
        assert!(self.epoch >= 0, "a stored producer has an epoch");
        if self.producer_id == before.producer_id {
            assert!(self.epoch >= before.epoch, "epochs only grow");
        } else {
            let was_chosen = before.next_producer_id == self.producer_id;
            assert!(self.epoch == 0, "a new id begins at epoch 0");
            assert!(was_chosen || before.epoch >= CLIENT_EPOCH_MAX, "a new id when epochs ran out");
        }
        if self.state.is_prepared() {
            assert!(self.partitions == before.partitions, "a decision is over what was added");
        }
        assert!(
            self.state != Ongoing
                || self.partitions.is_superset(&before.partitions)
                || before.state != Ongoing
        );
        assert!(!self.state.is_idle() || self.partitions.is_empty());
        assert!(self.next_producer_id == NO_PRODUCER_ID || self.state.is_prepared());
    }
}
