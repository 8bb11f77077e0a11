//! What a shard puts into its log: the records of its steps, and the ends of transactions. Every append names
//! the shard's leader epoch, and is one entry in the queue of those that are not committed yet.
//! Invariants: 3, 6.

use std::fmt::Display;

use highwater_groups::core::error::GroupError;
use highwater_groups::core::records::Record;
use highwater_groups::core::request::{Event, Request};
use highwater_log::{SequenceRefusal, VerificationTicket};
use highwater_model::ProducerId;
use highwater_model::limits::SHARD_STEP_BATCH_BYTES;
use highwater_wire::{AcceptedBatch, HEADER_BYTES};
use tokio::sync::oneshot;

use super::{Loaded, batch};
use crate::partition::{AppendRefusal, Marker, MarkerRefusal};
use crate::replica::Origin;
use crate::shards::batch::header_of;
use crate::shards::{Committing, End};

/// About how many bytes the record of a marker takes.
const MARKER_RECORD_BYTES: usize = 17;

/// What a producer is told that may not write here.
fn producer_error(refusal: &SequenceRefusal) -> GroupError {
    match refusal {
        SequenceRefusal::StaleEpoch { .. } => GroupError::InvalidProducerEpoch,
        SequenceRefusal::NotTransactional(_) | SequenceRefusal::Unverified(_) => GroupError::InvalidTxnState,
        SequenceRefusal::StillOpen { .. } => GroupError::ConcurrentTransactions,
        // Clients ask again.
        _ => GroupError::CoordinatorNotAvailable,
    }
}

impl Loaded {
    /// Whether the log would take the transactional batch that a request may write. An append that it refuses
    /// would cost the shard a load.
    pub(super) fn check_producer(
        &self,
        request: &Request,
        shown: Option<VerificationTicket>,
    ) -> Result<(), GroupError> {
        let Request::CommitTransactionOffsets(commit) = request else { return Ok(()) };
        let header = header_of(commit.producer_id, commit.producer_epoch);
        let header = header.map_err(|error| {
            tracing::error!(partition = self.shard.partition, "a batch cannot be read back: {error}");
            GroupError::UnknownServerError
        })?;
        self.partition.check_unsequenced(&header, shown).map_err(|refusal| producer_error(&refusal))
    }

    /// The records of a step: one batch, unless they are so many that a replica would not take it. Then each
    /// part is as good as a step of its own: a load sets right what a crash between them leaves.
    pub(super) fn append(
        &mut self,
        records: &[Record],
        transaction: Option<(ProducerId, i16)>,
        shown: Option<VerificationTicket>,
    ) -> Result<(), End> {
        let now_ms = self.node.now_ms();
        let mut rest = records;
        while !rest.is_empty() {
            // What a transaction writes stands and falls together, and is no larger than a commit may be.
            let count = match transaction {
                Some(_) => rest.len(),
                None => batch::fitting(rest, SHARD_STEP_BATCH_BYTES),
            };
            let (part, after) = rest.split_at(count);
            rest = after;
            let batch = batch::encode(part, transaction, now_ms);
            let batch = batch.map_err(|error| self.cannot_encode(&error))?;
            self.append_batch(&batch, shown.filter(|_| transaction.is_some()))?;
        }
        Ok(())
    }

    pub(super) fn cannot_encode(&self, error: &dyn Display) -> End {
        tracing::error!(partition = self.shard.partition, "a batch of groups cannot be read back: {error}");
        End::Reload
    }

    pub(super) fn refused(&self, refusal: &AppendRefusal) -> End {
        let partition = self.shard.partition;
        tracing::warn!(partition, "records of groups cannot be appended: {refusal}; they are loaded anew");
        End::Reload
    }

    pub(super) fn append_batch(
        &mut self,
        batch: &AcceptedBatch,
        shown: Option<VerificationTicket>,
    ) -> Result<(), End> {
        self.rewriter.appended(batch.bytes.len());
        let appended = self.log.append(batch, Origin::Coordinator(shown));
        let committing = appended.map_err(|refusal| self.refused(&refusal))?;
        self.push(committing);
        Ok(())
    }

    /// The end of a transaction: what it decides counts when its marker does.
    pub(super) fn end_transaction(
        &mut self,
        marker: &Marker,
        answer: oneshot::Sender<Result<(), MarkerRefusal>>,
    ) -> Result<(), End> {
        let checked = self.partition.check_marker(marker);
        let appended = match checked {
            Ok(()) => self.partition.append_marker(&self.node, marker, Some(self.shard.epoch)),
            Err(refusal) => Err(AppendRefusal::Sequence(refusal).into()),
        };
        match appended {
            // Nothing of it is in the log. What it was refused for, such as itself, may not be committed yet.
            Err(refusal) => {
                self.answer(Box::new(move |outcome: Result<(), GroupError>| {
                    let told = outcome.map_err(MarkerRefusal::from).and(Err(refusal));
                    let _ = answer.send(told); // who asked may be gone
                }));
                return Ok(());
            }
            Ok(append) => self.push(self.log.marker(append)),
        }
        self.rewriter.appended(HEADER_BYTES + MARKER_RECORD_BYTES);
        self.answer(Box::new(move |outcome: Result<(), GroupError>| {
            let _ = answer.send(outcome.map_err(MarkerRefusal::from)); // who asked may be gone
        }));
        let (producer_id, is_commit) = (marker.producer_id, marker.end.commit);
        self.step(Event::TransactionEnded { producer_id, is_commit }, None)
    }

    /// What is not committed at once has a place for the answers that wait for it.
    fn push(&mut self, committing: Option<Committing>) {
        if let Some(committing) = committing {
            self.log.push(Vec::new(), committing);
        }
    }
}
