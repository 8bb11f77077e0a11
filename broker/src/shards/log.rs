//! What a shard has appended to its log and is not committed yet, in the order of the appends. Every append
//! names the leader epoch in which the shard was begun. Invariants: 3, 6, 16.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::BoxFuture;
use highwater_model::LeaderEpoch;
use highwater_model::limits::SHARD_APPENDS_PENDING_MAX;
use highwater_wire::AcceptedBatch;

use super::End;
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::{AckFailure, AckWait, AppendRefusal, Appended, MarkerAppend, Partition, Proposal};
use crate::raft::ProposeRefusal;
use crate::replica::Origin;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Committed,
    /// Nothing of it is in the log, and it never will be.
    Refused,
}

/// An append on its way. `Err`: what became of it cannot be known here.
pub type Committing = BoxFuture<'static, Result<Fate, End>>;

/// A shard's log: what goes in, and what of it is committed. `T` stands with each append until it is.
pub struct ShardLog<T> {
    node: Arc<Node>,
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    pending: VecDeque<(T, Committing)>,
    /// Appends that ever were in `pending`, and those of them whose fate is known.
    appended: u64,
    settled: u64,
}

impl<T> ShardLog<T> {
    pub(super) fn new(node: Arc<Node>, partition: Arc<Partition>, epoch: LeaderEpoch) -> ShardLog<T> {
        ShardLog { node, partition, epoch, pending: VecDeque::new(), appended: 0, settled: 0 }
    }

    /// Whether there is room for the appends of another step.
    pub fn has_room(&self) -> bool {
        self.pending.len() < SHARD_APPENDS_PENDING_MAX
    }

    pub fn appended(&self) -> u64 {
        self.appended
    }

    pub fn settled(&self) -> u64 {
        self.settled
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Whether a step may write now.
    ///
    /// # Errors
    /// This shard's time is over.
    pub fn may_write(&self) -> Result<bool, End> {
        if self.node.disk.is_full() {
            self.partition.refused_for_room(self.node.now_ms());
            return Ok(false);
        }
        match self.partition.takes_writes(self.epoch) {
            Ok(()) => Ok(true),
            Err(LeaderRefusal::NotEnoughReplicas { .. }) => Ok(false),
            Err(_) => {
                // While it hands over, it still leads; the shard ends with the epoch.
                let terms = self.partition.terms();
                let is_over = !terms.is_leader || terms.leader_epoch != self.epoch;
                if is_over { Err(End::Stop) } else { Ok(false) }
            }
        }
    }

    /// Appends a batch; what is not committed at once is to be pushed.
    ///
    /// # Errors
    /// Nothing of it is in the log.
    pub fn append(&self, batch: &AcceptedBatch, origin: Origin) -> Result<Option<Committing>, AppendRefusal> {
        if let Some(raft) = &self.partition.terms().raft {
            let proposal = self.partition.propose_as(&self.node, raft, batch, origin, true)?;
            return Ok(Some(self.proposed(proposal)));
        }
        let (now_ms, epoch) = (self.node.now_ms(), Some(self.epoch));
        let appended = self.partition.append_as(&self.node, batch, origin, true, now_ms, epoch)?;
        Ok(self.waited(appended))
    }

    /// A marker that was appended in the shard's epoch: what is not committed at once is to be pushed.
    pub fn marker(&self, append: MarkerAppend) -> Option<Committing> {
        match append {
            MarkerAppend::Proposed(proposal) => Some(self.proposed(proposal)),
            MarkerAppend::Appended(appended) => self.waited(appended),
        }
    }

    fn proposed(&self, proposal: Proposal) -> Committing {
        let (partition, epoch) = (self.partition.clone(), self.epoch);
        Box::pin(async move {
            match proposal.outcome().await {
                // A proposal cannot name its term; one that waited may have come into another.
                Ok(appended) if partition.epoch_at(appended.base_offset) == epoch => Ok(Fate::Committed),
                Err(ProposeRefusal::NoMajority) => Ok(Fate::Refused),
                Ok(_) | Err(_) => Err(End::Reload),
            }
        })
    }

    fn waited(&self, appended: Appended) -> Option<Committing> {
        let (wait, partition): (AckWait, _) = (appended.waits?, self.partition.clone());
        Some(Box::pin(async move {
            match partition.wait_acked(&wait).await {
                // Committed is committed, with however few replicas.
                Ok(()) | Err(AckFailure::NotEnoughReplicas) => Ok(Fate::Committed),
                Err(AckFailure::NotLeader | AckFailure::Unavailable(_)) => Err(End::Stop),
            }
        }))
    }

    /// Takes its place behind those before it.
    pub fn push(&mut self, with: T, committing: Committing) {
        self.appended += 1;
        self.pending.push_back((with, committing));
    }

    /// What stands with the last append on its way; none if nothing is.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.pending.back_mut().map(|(with, _)| with)
    }

    /// Waits for the first append on its way; for ever if there is none. May be dropped and called again.
    pub async fn next(&mut self) -> (T, Result<Fate, End>) {
        let Some((_, committing)) = self.pending.front_mut() else { return std::future::pending().await };
        let fate = committing.as_mut().await;
        let (with, _) = self.pending.pop_front().expect("the front was waited for");
        self.settled += 1;
        assert!(self.settled <= self.appended, "each append has one fate");
        (with, fate)
    }

    /// What stood with appends whose fate will not be heard.
    pub fn abandon(&mut self) -> impl Iterator<Item = T> {
        self.pending.drain(..).map(|(with, _)| with)
    }
}
