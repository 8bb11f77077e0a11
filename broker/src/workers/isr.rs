//! Changes of in-sync sets, from the leader that wants them to the control plane that decides (KIP-497).
//!
//! A partition stands in the queue at most once, and a few proposals are under way at a time. What is not
//! answered counts as unknown: the replica reckons with both sets until it reads the record (KIP-497). Every
//! tick asks again for what time makes due, so a lost wake-up costs a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use highwater_coordinator::core::{AlterPartition, IsrMember};
use highwater_coordinator::{Liveness, WriteError};
use highwater_model::limits::ISR_PROPOSALS_MAX;
use tokio::sync::{Notify, Semaphore, watch};

use crate::core::replica::{IsrOutcome, IsrProposal};
use crate::node::Node;
use crate::partition::Partition;

/// Partitions that want another in-sync set. As long as there are partitions at most.
#[derive(Default)]
pub struct IsrQueue {
    waiting: Mutex<VecDeque<Arc<Partition>>>,
    filled: Notify,
    /// This broker's registration, which every proposal names.
    broker_epoch: OnceLock<Arc<dyn Fn() -> u64 + Send + Sync>>,
    /// The session with the control plane has lapsed: no change of an in-sync set goes through.
    is_lapsed: AtomicBool,
}

impl IsrQueue {
    /// Where the epoch of this broker's registration is read; before, proposals name epoch 0 and are refused.
    pub fn set_broker_epoch(&self, epoch: Arc<dyn Fn() -> u64 + Send + Sync>) {
        let _ = self.broker_epoch.set(epoch);
    }

    /// Epoch of this broker's registration, 0 where it has none.
    pub fn broker_epoch(&self) -> u64 {
        self.broker_epoch.get().map_or(0, |epoch| epoch())
    }

    /// Whether the session with the control plane has lapsed, so that others may have been elected.
    pub fn is_lapsed(&self) -> bool {
        self.is_lapsed.load(Ordering::Relaxed)
    }

    /// Queues the partition if it wants a change.
    pub fn push_if_wanted(&self, partition: &Arc<Partition>) {
        // Cleared by the one who takes the proposal; so nobody is queued twice for one.
        if partition.has_proposal.swap(false, Ordering::SeqCst) {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(partition.clone());
            self.filled.notify_one();
        }
    }

    fn take(&self) -> Option<Arc<Partition>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Tells leaders when the session with the control plane lapses and when it is held again, until the node
/// stops.
pub async fn follow_session(node: Arc<Node>, mut session: watch::Receiver<Liveness>) {
    let mut stop = node.stopping();
    loop {
        let is_lapsed = session.borrow_and_update().is_lapsed;
        if node.isr.is_lapsed.swap(is_lapsed, Ordering::Relaxed) != is_lapsed {
            let now_ms = node.now_ms();
            for partition in node.partitions.view().partitions() {
                partition.tick_replica(&node, now_ms);
            }
        }
        tokio::select! {
            // An ended session says nothing more.
            Ok(()) = session.changed() => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}

pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    let under_way = Arc::new(Semaphore::new(ISR_PROPOSALS_MAX));
    loop {
        let Some(partition) = node.isr.take() else {
            tokio::select! {
                () = node.isr.filled.notified() => continue,
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
        };
        let Some(proposal) = partition.take_proposal() else { continue };
        let permit = tokio::select! {
            permit = under_way.clone().acquire_owned() => permit.expect("never closed"),
            _ = stop.wait_for(|stopping| *stopping) => return,
        };
        let node = node.clone();
        tokio::spawn(async move {
            let outcome = propose(&node, &partition, &proposal).await;
            partition.isr_settled(node.now_ms(), &proposal, outcome);
            node.isr.push_if_wanted(&partition);
            drop(permit);
        });
    }
}

async fn propose(node: &Node, partition: &Partition, proposal: &IsrProposal) -> IsrOutcome {
    let member =
        |m: &crate::core::replica::IsrMember| IsrMember { node_id: m.node_id, broker_epoch: m.broker_epoch };
    let alter = AlterPartition {
        tp: partition.tp,
        node_id: node.settings.node_id,
        broker_epoch: node.isr.broker_epoch(),
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.iter().map(member).collect(),
    };
    let isr: Vec<u64> = proposal.isr.iter().map(|m| m.node_id).collect();
    let (topic, index) = (&partition.topic, partition.tp.partition);
    match node.coordinator.alter_partition(alter).await {
        Ok(partition_epoch) => {
            tracing::info!(%topic, partition = index, ?isr, "in-sync set");
            IsrOutcome::Accepted { partition_epoch }
        }
        Err(WriteError::Refused(refusal)) => {
            tracing::info!(%topic, partition = index, ?isr, "in-sync set refused: {refusal}");
            IsrOutcome::Refused
        }
        Err(e) => {
            tracing::warn!(%topic, partition = index, ?isr, "in-sync set not settled: {e}");
            IsrOutcome::Unknown
        }
    }
}
