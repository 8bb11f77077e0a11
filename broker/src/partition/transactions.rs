//! What transactions need of a partition: tickets of those that are verified, markers, and who has what open
//! (docs/adr/0017, 0019).
//!
//! Must not ask a coordinator (`crate::transactions` does). Invariants: 2, 3 (a marker counts as written once
//! it is committed), 6 (a marker of an older coordinator or producer epoch is refused).

use std::sync::Arc;

use highwater_groups::core::error::GroupError;
use highwater_log::{ProducerInfo, SequenceRefusal, VerificationTicket};
use highwater_model::limits::TXN_MARKER_COMMIT_MAX;
use highwater_model::{LeaderEpoch, ProducerId};
use highwater_wire::batch::BatchError;
use highwater_wire::control::{EndMarker, marker_batch};
use highwater_wire::{AcceptedBatch, BatchHeader, HEADER_BYTES};

use super::{AckFailure, AppendRefusal, Appended, Partition, Proposal, Unavailable};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::raft::ProposeRefusal;
use crate::replica::Origin;

/// How a producer's transaction ended, to be told to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    pub end: EndMarker,
    /// By the coordinator's rules the epoch is newer than every batch of the transaction (KIP-890).
    pub bumps_epoch: bool,
}

impl Marker {
    /// As a batch to append.
    ///
    /// # Errors
    /// A batch that cannot be read back: a defect.
    pub fn batch(&self, now_ms: i64) -> Result<AcceptedBatch, BatchError> {
        let bytes = marker_batch(self.producer_id, self.producer_epoch, self.end, now_ms);
        let header = BatchHeader::parse(&bytes)?;
        let records_bytes = bytes.len() - HEADER_BYTES;
        Ok(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
    }

    pub fn origin(&self) -> Origin {
        Origin::Marker { end: self.end, bumps_epoch: self.bumps_epoch }
    }
}

/// Why a marker is not known to be written.
#[derive(Debug, thiserror::Error)]
pub enum MarkerRefusal {
    #[error(transparent)]
    Append(#[from] AppendRefusal),
    #[error(transparent)]
    Ack(#[from] AckFailure),
    #[error(transparent)]
    Propose(#[from] ProposeRefusal),
    /// The partition holds groups, and their coordinator cannot take it now.
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("not committed in time")]
    Late,
    /// The partition has gone past its epoch, and that is committed.
    #[error("the partition knows a newer epoch of the producer")]
    Past,
    #[error("{0}")]
    Defect(#[from] BatchError),
}

/// A marker that was appended, or is on its way through the partition's group.
pub enum MarkerAppend {
    Appended(Appended),
    Proposed(Proposal),
}

impl Partition {
    /// A ticket for a client's batch that would begin a transaction here; to be drawn before the coordinator
    /// is asked, and shown with the batch. None if there is nothing to ask. `bumps_epoch`: by the version of
    /// the client's request (Produce from v12 on).
    ///
    /// # Errors
    /// The partition does not serve.
    pub fn verification_ticket(
        &self,
        header: &BatchHeader,
        bumps_epoch: bool,
        now_ms: i64,
    ) -> Result<Option<VerificationTicket>, Unavailable> {
        let mut inner = self.lock()?;
        Ok(inner.log_mut().verification_ticket(header, bumps_epoch, now_ms))
    }

    /// Judges a coordinator's batch for a producer, before the step that writes it.
    ///
    /// # Errors
    /// As `append_as` would refuse it.
    pub fn check_unsequenced(
        &self,
        header: &BatchHeader,
        ticket: Option<VerificationTicket>,
    ) -> Result<(), SequenceRefusal> {
        self.lock_any().log().check_unsequenced(header, ticket)
    }

    /// Judges a marker, before the step that writes it.
    ///
    /// # Errors
    /// As `append_marker` would refuse it.
    pub fn check_marker(&self, marker: &Marker) -> Result<(), SequenceRefusal> {
        let Marker { producer_id, producer_epoch, end, bumps_epoch } = *marker;
        self.lock_any().log().producers().check_marker(producer_id, producer_epoch, end, bumps_epoch)
    }

    /// Appends a marker as the partition's leader; in no other leader epoch than `epoch`, if one is given.
    /// Nothing is waited for. One of an epoch that the partition has gone past is not appended, and
    /// `marker_committed` says so.
    ///
    /// # Errors
    /// `Append`, `Defect`: it is not in the log.
    pub fn append_marker(
        self: &Arc<Self>,
        node: &Arc<Node>,
        marker: &Marker,
        epoch: Option<LeaderEpoch>,
    ) -> Result<MarkerAppend, MarkerRefusal> {
        let now_ms = node.now_ms();
        let batch = marker.batch(now_ms)?;
        if node.disk.is_full() {
            self.refused_for_room(now_ms);
            return Err(AppendRefusal::DiskFull.into());
        }
        let terms = self.terms();
        if let Some(raft) = &terms.raft {
            if !terms.is_leader {
                return Err(AppendRefusal::Leader(LeaderRefusal::NotLeader).into());
            }
            let proposal = self.propose_as(node, raft, &batch, marker.origin(), true)?;
            return Ok(MarkerAppend::Proposed(proposal));
        }
        let appended = self.append_as(node, &batch, marker.origin(), true, now_ms, epoch)?;
        Ok(MarkerAppend::Appended(appended))
    }

    /// Waits until a marker is committed, or what the partition has instead of it.
    ///
    /// # Errors
    /// `Past`: nothing was appended, nor need be. Any other: it is not committed, or that is not known.
    pub async fn marker_committed(&self, append: MarkerAppend) -> Result<(), MarkerRefusal> {
        let committed = async {
            let is_past = match append {
                MarkerAppend::Proposed(proposal) => proposal.outcome().await?.is_duplicate,
                MarkerAppend::Appended(appended) => {
                    if let Some(wait) = appended.waits {
                        match self.wait_acked(&wait).await {
                            // Committed is committed, with however few replicas.
                            Ok(()) | Err(AckFailure::NotEnoughReplicas) => {}
                            Err(failure) => return Err(failure.into()),
                        }
                    }
                    appended.is_duplicate
                }
            };
            if is_past { Err(MarkerRefusal::Past) } else { Ok(()) }
        };
        let waited = tokio::time::timeout(TXN_MARKER_COMMIT_MAX, committed).await;
        waited.unwrap_or(Err(MarkerRefusal::Late))
    }

    /// The producers that the partition knows (DescribeProducers).
    ///
    /// # Errors
    /// The partition does not serve.
    pub fn producers(&self) -> Result<Vec<ProducerInfo>, Unavailable> {
        Ok(self.lock()?.log().producers().iter().collect())
    }
}
