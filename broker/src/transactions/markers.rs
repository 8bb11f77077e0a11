//! Markers on their way: to the leader of each partition of a transaction, here or elsewhere, and into the
//! logs that this node leads.
//!
//! A topic counts as deleted only when the control plane says so now (a node may be behind): a marker that is
//! left out for good would leave a transaction torn. Everything else that is no answer is tried again by the
//! coordinator. Invariants: 3 (written is committed), 6.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use highwater_groups::core::txn::{MarkerAnswer, MarkerOutcome, Markers, TxnPartition};
use highwater_model::limits::TXN_MARKER_COMMIT_MAX;
use highwater_model::{NodeId, TopicPartition};
use highwater_wire::control::EndMarker;

use crate::groups::{self, OFFSETS_TOPIC};
use crate::handlers::errors;
use crate::handlers::topics::{find_led, leader_of};
use crate::node::Node;
use crate::partition::{AppendRefusal, Marker, MarkerAppend, MarkerRefusal, Partition};
use crate::raft::ProposeRefusal;

/// Where a marker goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Leader(NodeId),
    /// Nobody leads for now.
    NoLeader,
    /// The topic or partition is not known here.
    Unknown,
}

/// Sends a round of markers and gathers what became of each.
pub(super) async fn send(node: Arc<Node>, markers: Markers) -> MarkerAnswer {
    let Markers { round, transactional_id, producer, coordinator_epoch, commit, bumps_epoch, partitions } =
        markers;
    let marker = Marker {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        end: EndMarker { commit, coordinator_epoch },
        bumps_epoch,
    };
    let mut places = places(&node, &partitions);
    let mut is_known = true;
    if places.contains(&Place::Unknown) {
        is_known = node.coordinator.linearize().await.is_ok();
        places = self::places(&node, &partitions);
    }
    let mut by_leader: BTreeMap<NodeId, Vec<TxnPartition>> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(partitions.len());
    for (partition, place) in partitions.into_iter().zip(places) {
        match place {
            Place::Leader(leader) => by_leader.entry(leader).or_default().push(partition),
            Place::Unknown if is_known => outcomes.push((partition, MarkerOutcome::PartitionGone)),
            Place::Unknown | Place::NoLeader => outcomes.push((partition, MarkerOutcome::Retry)),
        }
    }
    let calls = by_leader.into_iter().map(|(leader, partitions)| {
        let node = node.clone();
        async move {
            let codes = match leader == node.settings.node_id {
                true => write_here(&node, &marker, &partitions).await,
                false => node.transactions.shared.write_markers(&node, leader, &marker, &partitions).await,
            };
            let outcome = |at: usize| codes.get(at).map_or(MarkerOutcome::Retry, |code| outcome_of(*code));
            let outcomes = partitions.into_iter().enumerate().map(|(at, p)| (p, outcome(at)));
            outcomes.collect::<Vec<_>>()
        }
    });
    outcomes.extend(join_all(calls).await.into_iter().flatten());
    MarkerAnswer { round, coordinator_epoch, transactional_id, outcomes }
}

fn places(node: &Node, partitions: &[TxnPartition]) -> Vec<Place> {
    let view = node.partitions.view();
    node.coordinator.with_state(|state| {
        let place = |at: &TxnPartition| {
            let Some(topic) = state.topic_by_name(&at.topic) else { return Place::Unknown };
            let tp = TopicPartition::new(topic.id, at.partition);
            let Some(record) = state.partition(tp) else { return Place::Unknown };
            leader_of(&view, tp, record).0.map_or(Place::NoLeader, Place::Leader)
        };
        partitions.iter().map(place).collect()
    })
}

fn outcome_of(code: i16) -> MarkerOutcome {
    match code {
        errors::NONE => MarkerOutcome::Written,
        errors::INVALID_PRODUCER_EPOCH => MarkerOutcome::StaleEpoch,
        errors::TRANSACTION_COORDINATOR_FENCED => MarkerOutcome::CoordinatorFenced,
        _ => MarkerOutcome::Retry,
    }
}

/// Writes a marker into partitions that this node leads; Kafka's error code for each, in order, once it is
/// committed.
pub async fn write_here(node: &Arc<Node>, marker: &Marker, partitions: &[TxnPartition]) -> Vec<i16> {
    // All are appended first; then they are waited for together.
    let writes = partitions.iter().map(|at| {
        let begun = match at.topic.as_ref() {
            OFFSETS_TOPIC => Ok(None),
            _ => begin(node, marker, at).map(Some),
        };
        async move {
            let written = match begun {
                Err(code) => return code,
                Ok(Some((partition, append))) => partition.marker_committed(append).await,
                // Groups write what decides on their offsets themselves, in the order of their steps.
                Ok(None) => {
                    let ended = groups::end_transaction(node, at.partition, *marker);
                    let ended = tokio::time::timeout(TXN_MARKER_COMMIT_MAX, ended).await;
                    ended.unwrap_or(Err(MarkerRefusal::Late))
                }
            };
            written.map_or_else(|refusal| code(&refusal), |()| errors::NONE)
        }
    });
    let writes: Vec<_> = writes.collect();
    join_all(writes).await
}

fn begin(
    node: &Arc<Node>,
    marker: &Marker,
    at: &TxnPartition,
) -> Result<(Arc<Partition>, MarkerAppend), i16> {
    let view = node.partitions.view();
    let topic = view.by_name(&at.topic).ok_or(errors::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = find_led(topic, at.partition)?;
    let appended = partition.append_marker(node, marker, None).map_err(|refusal| code(&refusal))?;
    Ok((partition.clone(), appended))
}

/// Kafka's code for a marker that is not known to be written.
pub(crate) fn code(refusal: &MarkerRefusal) -> i16 {
    match refusal {
        MarkerRefusal::Append(AppendRefusal::Sequence(sequence))
        | MarkerRefusal::Propose(ProposeRefusal::Sequence(sequence)) => sequence.error_code(),
        MarkerRefusal::Append(AppendRefusal::Leader(refusal)) => {
            crate::handlers::topics::leader_refusal_code(refusal)
        }
        MarkerRefusal::Append(AppendRefusal::Unavailable(unavailable)) => {
            crate::handlers::topics::unavailable_code(unavailable)
        }
        MarkerRefusal::Append(AppendRefusal::DiskFull | AppendRefusal::Storage(_)) => {
            errors::KAFKA_STORAGE_ERROR
        }
        MarkerRefusal::Group(error) => error.code(),
        MarkerRefusal::Late => errors::REQUEST_TIMED_OUT,
        MarkerRefusal::Past => errors::INVALID_PRODUCER_EPOCH,
        MarkerRefusal::Ack(_) | MarkerRefusal::Propose(_) => errors::NOT_LEADER_OR_FOLLOWER,
        MarkerRefusal::Defect(_) => errors::UNKNOWN_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use highwater_log::SequenceRefusal;

    use super::*;

    #[test]
    fn refusals_that_end_a_marker_are_told_from_those_that_are_tried_again() {
        let sequence = |refusal| MarkerRefusal::Append(AppendRefusal::Sequence(refusal));
        let stale = sequence(SequenceRefusal::StaleEpoch { producer_id: 1, given: 2, current: 3 });
        assert_eq!(outcome_of(code(&stale)), MarkerOutcome::StaleEpoch);
        assert_eq!(outcome_of(code(&MarkerRefusal::Past)), MarkerOutcome::StaleEpoch);
        let fenced = sequence(SequenceRefusal::CoordinatorFenced { producer_id: 1, given: 2, current: 3 });
        assert_eq!(outcome_of(code(&fenced)), MarkerOutcome::CoordinatorFenced);
        let fenced = SequenceRefusal::CoordinatorFenced { producer_id: 1, given: 2, current: 3 };
        let fenced = MarkerRefusal::Propose(ProposeRefusal::Sequence(fenced));
        assert_eq!(outcome_of(code(&fenced)), MarkerOutcome::CoordinatorFenced);
        for again in [
            MarkerRefusal::Late,
            MarkerRefusal::Append(AppendRefusal::DiskFull),
            MarkerRefusal::Propose(ProposeRefusal::Unknown),
            MarkerRefusal::Group(highwater_groups::core::error::GroupError::CoordinatorLoadInProgress),
        ] {
            assert_eq!(outcome_of(code(&again)), MarkerOutcome::Retry, "{again}");
        }
        assert_eq!(outcome_of(errors::UNKNOWN_TOPIC_OR_PARTITION), MarkerOutcome::Retry);
        assert_eq!(outcome_of(0), MarkerOutcome::Written);
    }
}
