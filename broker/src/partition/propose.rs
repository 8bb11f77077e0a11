//! A client's batch on its way through a partition's Raft group.
//!
//! A proposal begins where the request is read, so that a connection's batches reach the group in their
//! order; what is left of it runs in a task of its own, because a proposal that is next must not wait for a
//! client that is slow to take its answers. Invariants: 2, 3.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use highwater_wire::{AcceptedBatch, TimestampType};
use tokio::task::JoinHandle;

use super::{AppendRefusal, Appended, Partition, RaftTerms};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::raft::{ProposeRefusal, RaftGroup};
use crate::replica::Origin;

/// A batch that was proposed. Dropping it does not take it back.
pub enum Proposal {
    Done(Result<Appended, ProposeRefusal>),
    Pending(JoinHandle<Result<Appended, ProposeRefusal>>),
}

impl Proposal {
    /// Waits until the batch may be acknowledged.
    ///
    /// # Errors
    /// [`ProposeRefusal`]
    pub async fn outcome(self) -> Result<Appended, ProposeRefusal> {
        match self {
            Proposal::Done(outcome) => outcome,
            Proposal::Pending(task) => {
                task.await.unwrap_or_else(|e| Err(ProposeRefusal::Failed(e.to_string())))
            }
        }
    }
}

impl Partition {
    /// Proposes one validated batch to the partition's group. `needs_all`: acks=all, until it is committed;
    /// otherwise until it is in the leader's log.
    ///
    /// # Errors
    /// No group is open here, or too many proposals wait.
    pub fn propose(
        self: &Arc<Self>,
        node: &Arc<Node>,
        raft: &RaftTerms,
        batch: &AcceptedBatch,
        needs_all: bool,
    ) -> Result<Proposal, AppendRefusal> {
        self.propose_as(node, raft, batch, Origin::Client(None), needs_all)
    }

    /// As [`Partition::propose`], of whoever writes it.
    ///
    /// # Errors
    /// As [`Partition::propose`].
    pub fn propose_as(
        self: &Arc<Self>,
        node: &Arc<Node>,
        raft: &RaftTerms,
        batch: &AcceptedBatch,
        origin: Origin,
        needs_all: bool,
    ) -> Result<Proposal, AppendRefusal> {
        let not_leader = AppendRefusal::Leader(LeaderRefusal::NotLeader);
        let Some(group) = raft.group.clone() else { return Err(not_leader) };
        let Ok(seat) = node.raft.proposals.clone().try_acquire_owned() else { return Err(not_leader) };
        let (node, partition, batch) = (node.clone(), self.clone(), batch.clone());
        let mut work = Box::pin(async move {
            let _seat = seat;
            proposed(&node, &partition, &group, &batch, (origin, needs_all)).await
        });
        // Its first step takes its place in the order of proposals.
        let mut context = Context::from_waker(std::task::Waker::noop());
        Ok(match Pin::new(&mut work).poll(&mut context) {
            Poll::Ready(outcome) => Proposal::Done(outcome),
            Poll::Pending => Proposal::Pending(tokio::spawn(work)),
        })
    }
}

async fn proposed(
    node: &Node,
    partition: &Partition,
    group: &RaftGroup,
    batch: &AcceptedBatch,
    (origin, needs_all): (Origin, bool),
) -> Result<Appended, ProposeRefusal> {
    let header = &batch.header;
    let placed = group.propose_as(header, batch.bytes.clone(), origin).await?;
    if placed.duplicate_of.is_none() && matches!(origin, Origin::Client(_)) {
        node.metrics.produced_records.inc_by(u64::from(header.record_count.unsigned_abs()));
        node.metrics.produced_bytes.inc_by(batch.bytes.len() as u64);
    }
    if needs_all {
        group.committed(&placed).await?;
    }
    let is_log_append = header.timestamp_type() == TimestampType::LogAppendTime;
    let timestamp = placed.duplicate_of.unwrap_or(header.max_timestamp);
    Ok(Appended {
        base_offset: placed.base_offset,
        log_append_time_ms: if is_log_append { timestamp } else { -1 },
        log_start: partition.manifest().log_start,
        waits: None,
        is_duplicate: placed.duplicate_of.is_some(),
    })
}
