//! Acknowledgements that wait: for every replica in sync, or for the leader's own disk.

use highwater_model::{LeaderEpoch, Offset};

use super::{Partition, Unavailable};
use crate::core::replica::{AckState, AckTicket, LeaderRefusal};
use crate::raft::Role as GroupRole;

/// A batch whose producer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckWait {
    pub ticket: AckTicket,
    /// acks=all: until it is committed. Otherwise until it is on the leader's disk (`flush.messages=1`).
    pub needs_all: bool,
}

/// Why an acknowledgement will not come. Whether the batch lasts is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckFailure {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// NOT_LEADER_OR_FOLLOWER.
    #[error("another leader has taken over, or may have")]
    NotLeader,
    /// NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    #[error("committed, with fewer replicas in sync than min.insync.replicas")]
    NotEnoughReplicas,
}

impl Partition {
    /// Waits until a batch may be acknowledged (invariant 3).
    ///
    /// # Errors
    /// [`AckFailure`]; the caller bounds the wait.
    pub async fn wait_acked(&self, wait: &AckWait) -> Result<(), AckFailure> {
        // Subscribed first, looked at second: what moves in between is seen by the look or told.
        let mut progress = self.progress.subscribe();
        loop {
            progress.mark_unchanged();
            if self.is_acked(wait)? {
                return Ok(());
            }
            if progress.changed().await.is_err() {
                return Err(Unavailable::Closed.into());
            }
        }
    }

    fn is_acked(&self, wait: &AckWait) -> Result<bool, AckFailure> {
        let inner = self.lock_any();
        let state = inner.replica.ack(&wait.ticket);
        let is_durable = inner.log().flushed_end() >= wait.ticket.end;
        let is_done = match (state, wait.needs_all) {
            (AckState::Committed, _) => true,
            (AckState::Waiting, true) => false,
            (AckState::Waiting | AckState::Unproven, false) => is_durable,
            // Once durable here it counts as told for acks=1, whoever leads by now.
            (AckState::NotLeader, false) if is_durable => true,
            (AckState::NotLeader | AckState::Unproven, _) => {
                return Err(match &inner.unavailable {
                    Some(unavailable) => unavailable.clone().into(),
                    None => AckFailure::NotLeader,
                });
            }
        };
        let judged = inner.replica.replica().check_append(true);
        if is_done && wait.needs_all && matches!(judged, Err(LeaderRefusal::NotEnoughReplicas { .. })) {
            return Err(AckFailure::NotEnoughReplicas);
        }
        match &inner.unavailable {
            Some(unavailable) if !is_done => Err(unavailable.clone().into()),
            _ => Ok(is_done),
        }
    }

    /// Whether an append with acks=all would be taken now, from the leader of this epoch.
    ///
    /// # Errors
    /// Why not; `NotLeader` where this node does not serve the partition.
    pub fn takes_writes(&self, epoch: LeaderEpoch) -> Result<(), LeaderRefusal> {
        if let Some(raft) = &self.terms().raft {
            let role = raft.group.as_ref().map(|group| group.role());
            return match role {
                // A group's term is the partition's leader epoch.
                Some(GroupRole::Leader { term, .. }) if LeaderEpoch::try_from(term) != Ok(epoch) => {
                    Err(LeaderRefusal::NotLeader)
                }
                Some(GroupRole::Leader { takes_writes: true, .. }) => Ok(()),
                Some(GroupRole::Leader { .. }) => {
                    Err(LeaderRefusal::NotEnoughReplicas { isr: 0, min_isr: 1 })
                }
                _ => Err(LeaderRefusal::NotLeader),
            };
        }
        let Ok(inner) = self.lock() else { return Err(LeaderRefusal::NotLeader) };
        match inner.replica.replica().check_append(true)? {
            current if current == epoch => Ok(()),
            current => Err(LeaderRefusal::FencedEpoch { given: epoch, current }),
        }
    }

    /// End of what is on this node's disk.
    pub fn flushed_end(&self) -> Offset {
        self.lock_any().log().flushed_end()
    }
}
