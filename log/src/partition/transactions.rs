//! What transactions need of a partition's log: the last stable offset, aborted transactions by range, open
//! ones, and the guard against batches of a transaction that was not verified (KIP-890).
//!
//! The list of aborted transactions is kept per segment, with the producers where the segment ends
//! (`<end>.producers`), and is rebuilt from batch headers where that is missing. Lists of sealed segments are
//! read when a reader asks, and remembered within a bound. Invariants: 4, 18.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use highwater_model::Offset;
use highwater_model::limits::{CONTROL_BATCH_BYTES_MAX, TXN_ABORTED_CACHED_MAX};
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::{Control, EndMarker, read_control};

use super::PartitionLog;
use crate::core::checkpoint::SealedSegment;
use crate::core::producers::{SequenceRefusal, Sequenced};
use crate::core::transactions::{AbortedTxn, concerning};
use crate::core::verification::VerificationTicket;
use crate::error::{LogError, batch_fault};

/// A sealed segment's transactions.
#[derive(Debug)]
struct SegmentTxns {
    /// Those whose marker is in it, by marker.
    aborted: Vec<AbortedTxn>,
    /// Where it ended, every transaction that lies below this had ended too.
    decided_below: Offset,
}

/// By the segment's start.
#[derive(Debug, Default)]
pub(super) struct SealedTxns {
    known: Mutex<BTreeMap<Offset, Arc<SegmentTxns>>>,
}

impl SealedTxns {
    fn get(&self, start: Offset) -> Option<Arc<SegmentTxns>> {
        self.known.lock().expect("no holder panics").get(&start).cloned()
    }

    /// Remembers; beyond the bound the oldest lists are left to be read again.
    fn put(&self, start: Offset, txns: Arc<SegmentTxns>) {
        let mut known = self.known.lock().expect("no holder panics");
        known.insert(start, txns);
        let mut kept: usize = known.values().map(|txns| txns.aborted.len()).sum();
        while kept > TXN_ABORTED_CACHED_MAX && known.len() > 1 {
            let (_, oldest) = known.pop_first().expect("more than one");
            kept -= oldest.aborted.len();
        }
    }

    /// Forgets segments outside `start..end`.
    pub(super) fn retain(&self, start: Offset, end: Offset) {
        self.known.lock().expect("no holder panics").retain(|at, _| *at >= start && *at < end);
    }
}

impl PartitionLog {
    /// Below it every transaction has its final outcome: what a reader of committed data gets to see, as long
    /// as `high_watermark` is the partition's. At least the log start, as what was deleted holds nothing up.
    pub fn last_stable(&self, high_watermark: Offset) -> Offset {
        self.producers.last_stable(high_watermark).max(self.log_start.min(high_watermark))
    }

    /// The high watermark has moved: markers below it are committed.
    pub fn high_watermark_is(&mut self, high_watermark: Offset) {
        self.producers.ended.forget_below(high_watermark);
    }

    /// Aborted transactions whose batches a reader of `start..end` may meet, in the order of their markers,
    /// from what is local. `end` is at most the last stable offset, so that all of them are known. A
    /// transaction is listed too if its first batches are no longer local.
    ///
    /// # Errors
    /// `Io` and `Corrupt` if a list had to be read or rebuilt and could not be.
    pub fn aborted_in(&self, start: Offset, end: Offset) -> Result<Vec<AbortedTxn>, LogError> {
        let mut found = Vec::new();
        if start >= end {
            return Ok(found);
        }
        let first = self.sealed.partition_point(|segment| segment.end <= start);
        for segment in &self.sealed[first..] {
            let txns = self.segment_txns(segment)?;
            found.extend(concerning(&txns.aborted, start, end));
            if txns.decided_below >= end {
                return Ok(found);
            }
        }
        found.extend(concerning(&self.producers.aborted, start, end));
        debug_assert!(found.windows(2).all(|pair| pair[0].marker < pair[1].marker));
        Ok(found)
    }

    fn segment_txns(&self, segment: &SealedSegment) -> Result<Arc<SegmentTxns>, LogError> {
        if let Some(known) = self.sealed_txns.get(segment.start) {
            return Ok(known);
        }
        let state = self.producers_at(segment.end, self.told_ms)?;
        let decided_below = state.table.first_open().unwrap_or(segment.end);
        let txns = Arc::new(SegmentTxns { aborted: state.aborted, decided_below });
        self.sealed_txns.put(segment.start, txns.clone());
        Ok(txns)
    }

    /// The newest segment, `start..end`, takes no more batches. Its snapshot is stored already.
    pub(super) fn txns_are_sealed(&mut self, start: Offset, end: Offset) {
        let aborted = self.producers.begin_segment();
        let decided_below = self.producers.table.first_open().unwrap_or(end);
        self.sealed_txns.put(start, Arc::new(SegmentTxns { aborted, decided_below }));
    }

    /// A ticket for a client's batch that would begin a transaction here: the leader draws it, has the
    /// coordinator verify the transaction or add the partition, and shows it to `check_produce`. None if
    /// there is nothing to ask. `bumps_epoch`: the client bumps its epoch with each transaction (Produce from
    /// v12).
    pub fn verification_ticket(
        &mut self,
        header: &BatchHeader,
        bumps_epoch: bool,
        now_ms: i64,
    ) -> Option<VerificationTicket> {
        match self.producers.table.check(header) {
            // What is there already, or never will be, need not be asked for. What comes before its turn is:
            // its turn may have come when the answer is there.
            Ok(Sequenced::Duplicate { .. })
            | Err(SequenceRefusal::Earlier { .. } | SequenceRefusal::StaleEpoch { .. }) => return None,
            Ok(Sequenced::New) | Err(_) => {}
        }
        self.verifications.draw(&self.producers.table, header, bumps_epoch, now_ms)
    }

    /// Judges a client's batch before `append`: sequences and epochs, and that the transaction which it
    /// begins was verified.
    ///
    /// # Errors
    /// As `ProducerTable::check`; what the ticket says.
    pub fn check_produce(
        &self,
        header: &BatchHeader,
        ticket: Option<VerificationTicket>,
    ) -> Result<Sequenced, SequenceRefusal> {
        let sequenced = self.producers.table.check(header)?;
        if sequenced == Sequenced::New && header.is_transactional() {
            self.verifications.check(&self.producers.table, header, ticket)?;
        }
        Ok(sequenced)
    }

    /// As `check_produce`, for what a coordinator writes: without sequences.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_unsequenced(
        &self,
        header: &BatchHeader,
        ticket: Option<VerificationTicket>,
    ) -> Result<(), SequenceRefusal> {
        self.producers.table.check_unsequenced(header)?;
        if header.is_transactional() {
            self.verifications.check(&self.producers.table, header, ticket)?;
        }
        Ok(())
    }

    /// Voids all tickets: the replica no longer leads.
    pub fn forget_verifications(&mut self) {
        self.verifications.clear();
    }
}

/// What a control batch says that is about to be appended.
pub(super) fn marker_to_append(header: &BatchHeader, bytes: &Bytes) -> Result<Option<EndMarker>, LogError> {
    if !header.is_control() {
        return Ok(None);
    }
    if bytes.len() > CONTROL_BATCH_BYTES_MAX {
        return Err(LogError::Batch("a control batch of this size"));
    }
    match read_control(header, bytes) {
        Ok(Control::End(marker)) => Ok(Some(marker)),
        Ok(Control::Other(_)) => Ok(None),
        Err(error) => Err(LogError::Batch(batch_fault(&error))),
    }
}
