//! What a shard puts into its log: the records of its steps, and the ends of transactions. Every append names
//! the shard's leader epoch, and is one entry in the queue of those that are not committed yet.
//! Invariants: 3, 6.

use std::collections::VecDeque;
use std::fmt::Display;

use futures::future::BoxFuture;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::records::Record;
use highwater_groups::core::request::{Event, Request};
use highwater_log::{SequenceRefusal, VerificationTicket};
use highwater_model::ProducerId;
use highwater_wire::{AcceptedBatch, HEADER_BYTES};
use tokio::sync::oneshot;

use super::{End, Loaded, Release, batch};
use crate::partition::{AckFailure, AckWait, AppendRefusal, Marker, MarkerAppend, MarkerRefusal, Proposal};
use crate::replica::Origin;

/// About how many bytes the record of a marker takes.
const MARKER_RECORD_BYTES: usize = 17;

/// An append on its way, and the answers behind it.
pub(super) struct Pending {
    pub committed: BoxFuture<'static, Result<(), End>>,
    pub answers: Vec<Release>,
}

/// Waits for the first append on its way; for ever if there is none.
pub(super) async fn front(pending: &mut VecDeque<Pending>) -> Result<(), End> {
    match pending.front_mut() {
        Some(pending) => pending.committed.as_mut().await,
        None => std::future::pending().await,
    }
}

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
        let header = batch::header_of(commit.producer_id, commit.producer_epoch);
        let header = header.map_err(|error| {
            tracing::error!(partition = self.shard.partition, "a batch cannot be read back: {error}");
            GroupError::UnknownServerError
        })?;
        self.partition.check_unsequenced(&header, shown).map_err(|refusal| producer_error(&refusal))
    }

    /// The records of a step.
    pub(super) fn append(
        &mut self,
        records: &[Record],
        transaction: Option<(ProducerId, i16)>,
        shown: Option<VerificationTicket>,
    ) -> Result<(), End> {
        let batch = batch::encode(records, transaction, self.node.now_ms());
        let batch = batch.map_err(|error| self.cannot_encode(&error))?;
        self.append_batch(&batch, shown.filter(|_| transaction.is_some()))
    }

    pub(super) fn cannot_encode(&self, error: &dyn Display) -> End {
        tracing::error!(partition = self.shard.partition, "a batch of groups cannot be read back: {error}");
        End::Reload
    }

    fn refused(&self, refusal: &AppendRefusal) -> End {
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
        let origin = Origin::Coordinator(shown);
        if let Some(raft) = &self.partition.terms().raft {
            let proposed = self.partition.propose_as(&self.node, raft, batch, origin, true);
            let proposal = proposed.map_err(|refusal| self.refused(&refusal))?;
            self.push_proposal(proposal);
            return Ok(());
        }
        let (now_ms, epoch) = (self.node.now_ms(), Some(self.shard.epoch));
        let appended = self.partition.append_as(&self.node, batch, origin, true, now_ms, epoch);
        let appended = appended.map_err(|refusal| self.refused(&refusal))?;
        if let Some(wait) = appended.waits {
            self.push_wait(wait);
        }
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
            // Nothing of it is in the log.
            Err(refusal) => {
                let _ = answer.send(Err(refusal)); // who asked may be gone
                return Ok(());
            }
            Ok(MarkerAppend::Proposed(proposal)) => self.push_proposal(proposal),
            Ok(MarkerAppend::Appended(appended)) => {
                if let Some(wait) = appended.waits {
                    self.push_wait(wait);
                }
            }
        }
        self.rewriter.appended(HEADER_BYTES + MARKER_RECORD_BYTES);
        self.answer(Box::new(move |outcome: Result<(), GroupError>| {
            let _ = answer.send(outcome.map_err(MarkerRefusal::from)); // who asked may be gone
        }));
        let (producer_id, is_commit) = (marker.producer_id, marker.end.commit);
        self.step(Event::TransactionEnded { producer_id, is_commit }, None)
    }

    fn push(&mut self, committed: BoxFuture<'static, Result<(), End>>) {
        self.appended += 1;
        self.pending.push_back(Pending { committed, answers: Vec::new() });
    }

    fn push_proposal(&mut self, proposal: Proposal) {
        let (partition, epoch) = (self.partition.clone(), self.shard.epoch);
        self.push(Box::pin(async move {
            match proposal.outcome().await {
                // A proposal cannot name its term; one that waited may have come into another.
                Ok(appended) if partition.epoch_at(appended.base_offset) == epoch => Ok(()),
                Ok(_) | Err(_) => Err(End::Reload),
            }
        }));
    }

    fn push_wait(&mut self, wait: AckWait) {
        let partition = self.partition.clone();
        self.push(Box::pin(async move {
            match partition.wait_acked(&wait).await {
                // Committed is committed, with however few replicas.
                Ok(()) | Err(AckFailure::NotEnoughReplicas) => Ok(()),
                Err(AckFailure::NotLeader | AckFailure::Unavailable(_)) => Err(End::Stop),
            }
        }));
    }
}
