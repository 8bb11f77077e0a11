//! Verified transactions: a batch may begin a transaction in a partition only if the coordinator has said
//! that the transaction is open and has the partition (KIP-890).
//!
//! A guard per producer: a ticket is drawn before the coordinator is asked, and shown with the batch when its
//! answer is there. A marker, or a batch that began the transaction, voids it. So a batch that was on its way
//! while its transaction ended finds its ticket void and begins nothing, whatever the coordinator had said
//! before. Tickets are a leader's: they are forgotten with its term, and after a time.

use std::collections::BTreeMap;

use highwater_model::ProducerId;
use highwater_model::limits::TXN_VERIFICATIONS_PER_PARTITION_MAX;
use highwater_wire::batch::BatchHeader;

use super::producers::{ProducerTable, SequenceRefusal};

/// Drawn before the coordinator is asked; holds until the producer's next marker or first batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationTicket {
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verification {
    number: u64,
    epoch: i16,
    /// Of the batches that wait: the first must be the one that begins the transaction.
    lowest_sequence: i32,
    /// The producer's epoch is new with each transaction, so that its sequences begin at 0.
    bumps_epoch: bool,
    since_ms: i64,
}

/// The transactions of one partition that are being verified.
#[derive(Clone, Debug, Default)]
pub struct Verifications {
    pending: BTreeMap<ProducerId, Verification>,
    drawn: u64,
}

impl Verifications {
    /// A ticket for a batch that would begin a transaction; None if it needs none: it is in no transaction,
    /// or in one that is open here. `bumps_epoch`: by the client's version (Produce from v12 on).
    pub fn draw(
        &mut self,
        table: &ProducerTable,
        header: &BatchHeader,
        bumps_epoch: bool,
        now_ms: i64,
    ) -> Option<VerificationTicket> {
        let (producer_id, epoch) = (header.producer_id, header.producer_epoch);
        if !header.is_transactional() || header.is_control() || table.is_open(producer_id, epoch) {
            return None;
        }
        if let Some(known) = self.pending.get_mut(&producer_id)
            && known.epoch >= epoch
        {
            if known.epoch == epoch {
                known.lowest_sequence = known.lowest_sequence.min(header.base_sequence);
                known.since_ms = now_ms;
            }
            return Some(VerificationTicket { number: known.number });
        }
        if self.pending.len() >= TXN_VERIFICATIONS_PER_PARTITION_MAX {
            self.forget_oldest();
        }
        self.drawn += 1;
        let (number, lowest_sequence) = (self.drawn, header.base_sequence);
        let verification = Verification { number, epoch, lowest_sequence, bumps_epoch, since_ms: now_ms };
        self.pending.insert(producer_id, verification);
        assert!(self.pending.len() <= TXN_VERIFICATIONS_PER_PARTITION_MAX);
        Some(VerificationTicket { number })
    }

    /// Judges a batch that `ProducerTable::check` has called new. The ticket's transaction was verified, or
    /// had the partition added, since it was drawn.
    ///
    /// # Errors
    /// `Unverified`; `OutOfOrder` if an earlier batch of the producer waits, or its first is missing.
    pub fn check(
        &self,
        table: &ProducerTable,
        header: &BatchHeader,
        ticket: Option<VerificationTicket>,
    ) -> Result<(), SequenceRefusal> {
        let (producer_id, epoch, given) = (header.producer_id, header.producer_epoch, header.base_sequence);
        if !header.is_transactional() || table.is_open(producer_id, epoch) {
            return Ok(());
        }
        let pending = self.pending.get(&producer_id).filter(|known| known.epoch == epoch);
        let shown = pending.filter(|known| ticket.is_some_and(|ticket| ticket.number == known.number));
        let Some(known) = shown else {
            return Err(SequenceRefusal::Unverified(producer_id));
        };
        if known.bumps_epoch && given != 0 && !table.has_batches(producer_id, epoch) {
            return Err(SequenceRefusal::OutOfOrder { producer_id, given, expected: 0 });
        }
        if given > known.lowest_sequence {
            let expected = known.lowest_sequence;
            return Err(SequenceRefusal::OutOfOrder { producer_id, given, expected });
        }
        Ok(())
    }

    /// A batch or a marker of the producer was appended.
    #[inline]
    pub fn appended(&mut self, producer_id: ProducerId) {
        self.pending.remove(&producer_id);
    }

    /// All tickets are void.
    pub fn clear(&mut self) {
        self.pending.clear();
        debug_assert!(self.pending.is_empty());
    }

    /// Forgets what was drawn `after_ms` ago and never came back.
    pub fn expire(&mut self, now_ms: i64, after_ms: i64) {
        self.pending.retain(|_, known| now_ms.saturating_sub(known.since_ms) < after_ms);
    }

    fn forget_oldest(&mut self) {
        let mut by_age: Vec<_> = self.pending.iter().map(|(id, known)| (known.since_ms, *id)).collect();
        by_age.sort_unstable();
        let forgotten = by_age.len().div_ceil(8);
        for (_, id) in &by_age[..forgotten] {
            self.pending.remove(id);
        }
        assert!(self.pending.len() < TXN_VERIFICATIONS_PER_PARTITION_MAX);
    }
}

#[cfg(test)]
mod tests;
