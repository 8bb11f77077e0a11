//! A replica whose log has lost part of what was durable is not to be counted on: it says so, and leads no
//! more where another one may; then it fills its log again as a follower does (docs/adr/0012). So does a
//! leader whose disk has failed it, which takes nothing more and may have lost what was not synced; it
//! follows when its process has started anew.
//!
//! The order matters: filled first, it would lack committed records for a while, and might be elected
//! meanwhile by a control plane that takes it to have them. Where no other replica may lead nothing is asked:
//! what is left stays readable here, and appends are refused, until one comes back or an operator decides.

use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::DamagedLog;

use crate::node::Node;
use crate::partition::Partition;

/// Tells the control plane of each, one after another, as far as it does not know yet.
pub(super) async fn tell(node: &Arc<Node>, broken: Vec<Arc<Partition>>) {
    let node_id = node.settings.node_id;
    for partition in broken {
        let (tp, leader_epoch) = (partition.tp, partition.terms().leader_epoch);
        let is_due = node.coordinator.with_state(|state| {
            let Some(topic) = state.topic(tp.topic_id) else { return false };
            let Some(record) = topic.partition(tp.partition) else { return false };
            match record.leader == Some(node_id) {
                true => state.may_give_up(topic, record, node_id),
                false => record.leader.is_some() && record.counts_on(node_id) && record.raft.is_none(),
            }
        });
        if !is_due {
            continue;
        }
        let request = DamagedLog { tp, node_id, broker_epoch: node.isr.broker_epoch(), leader_epoch };
        let (topic, index) = (&partition.topic, tp.partition);
        match node.coordinator.log_damaged(request).await {
            Ok(()) => {
                let until =
                    if partition.has_lost() { "it is filled again" } else { "this node has restarted" };
                tracing::warn!(%topic, partition = index, "this log is broken: not counted on until {until}");
            }
            // The record has moved on, or will be looked at again in a second.
            Err(WriteError::Refused(refusal)) => {
                tracing::debug!(%topic, partition = index, "the damage is not on record: {refusal}");
            }
            Err(e) => {
                tracing::warn!(%topic, partition = index, "the damage is not on record yet: {e}");
                return;
            }
        }
    }
}
