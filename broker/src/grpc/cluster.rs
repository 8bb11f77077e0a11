//! The cluster part of the administration service: what the control plane knows, and what operators ask of
//! it.

use std::time::Duration;

use highwater_coordinator::core::{Broker, ClusterState};
use highwater_coordinator::{Coordinator, WriteError};
use highwater_model::limits::MOVES_PER_REQUEST_MAX;
use highwater_model::topic_config::Replication;
use highwater_model::{NodeId, TopicPartition};
use tonic::Status;

use super::proto::admin_client::AdminClient;
use super::proto::{BrokerStatus, ClusterMoveRequest, ClusterStatusResponse, TierOffloadRequest};
use crate::node::Node;

/// What a call of another node gets beyond the time of its work.
const CALL_SLACK: Duration = Duration::from_secs(5);

/// What a broker holds.
#[derive(Clone, Copy, Default)]
struct Holds {
    leaders: u32,
    replicas: u32,
    lagging: u32,
}

/// The cluster as this state has it. Pure.
pub(super) fn status(state: &ClusterState, node_id: NodeId, leader: Option<NodeId>) -> ClusterStatusResponse {
    let mut holds: std::collections::BTreeMap<NodeId, Holds> = Default::default();
    let mut answer = ClusterStatusResponse {
        cluster_id: state.cluster_id.clone(),
        node_id,
        coordinator_leader: leader.unwrap_or(0),
        topics: count(state.topics.len()),
        partitions: count(state.partition_count),
        ..ClusterStatusResponse::default()
    };
    for topic in state.topics.values() {
        let min_isr = usize::try_from(topic.config.min_insync_replicas).unwrap_or(1);
        let wants_raft = topic.config.replication == Replication::Raft;
        for partition in &topic.partitions {
            for node in &partition.replicas {
                let held = holds.entry(*node).or_default();
                held.replicas += 1;
                held.lagging += u32::from(!partition.isr.contains(node));
            }
            if let Some(leader) = partition.leader {
                holds.entry(leader).or_default().leaders += 1;
            }
            let min_isr = min_isr.min(partition.replicas.len());
            answer.raft += u32::from(partition.raft.is_some());
            answer.switching += u32::from(partition.raft.is_some() != wants_raft);
            answer.leaderless += u32::from(partition.leader.is_none());
            answer.under_replicated += u32::from(partition.isr.len() < partition.replicas.len());
            answer.under_min_isr += u32::from(partition.isr.len() < min_isr);
            answer.moving += u32::from(!partition.adding.is_empty() || !partition.removing.is_empty());
        }
    }
    let live: Vec<Holds> = state
        .brokers
        .values()
        .filter(|broker| !broker.is_fenced)
        .map(|broker| holds.get(&broker.node_id).copied().unwrap_or_default())
        .collect();
    answer.leader_imbalance_percent = imbalance(live.iter().map(|h| h.leaders));
    answer.replica_imbalance_percent = imbalance(live.iter().map(|h| h.replicas));
    answer.brokers = state
        .brokers
        .values()
        .map(|b| broker(b, holds.get(&b.node_id).copied().unwrap_or_default()))
        .collect();
    answer
}

fn broker(broker: &Broker, holds: Holds) -> BrokerStatus {
    let state = match (broker.is_fenced, broker.is_draining) {
        (true, _) => "fenced",
        (false, true) => "draining",
        (false, false) => "live",
    };
    BrokerStatus {
        node_id: broker.node_id,
        epoch: broker.epoch,
        kafka: format!("{}:{}", broker.host, broker.port),
        grpc: broker.grpc.clone(),
        rack: broker.rack.clone().unwrap_or_default(),
        state: state.to_owned(),
        leaders: holds.leaders,
        replicas: holds.replicas,
        lagging: holds.lagging,
    }
}

/// By how much the largest is above the mean, in percent. One above a mean that cannot be even is even.
fn imbalance(counts: impl Iterator<Item = u32> + Clone) -> u32 {
    let (brokers, sum) = (counts.clone().count() as u64, counts.clone().map(u64::from).sum::<u64>());
    let most = u64::from(counts.max().unwrap_or(0));
    if brokers == 0 || sum == 0 || most <= sum.div_ceil(brokers) {
        return 0;
    }
    u32::try_from((most * brokers - sum) * 100 / sum).unwrap_or(u32::MAX)
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Begins the moves that were asked for, or takes them back; how many.
pub(super) async fn begin_moves(coordinator: &Coordinator, asked: ClusterMoveRequest) -> Result<u32, Status> {
    let moves = coordinator.with_state(|state| wanted(state, &asked))?;
    let mut done = 0;
    for outcome in coordinator.reassign(moves).await {
        outcome.map_err(|error| refused(&error))?;
        done += 1;
    }
    Ok(done)
}

type Move = (TopicPartition, Option<Vec<NodeId>>);

fn wanted(state: &ClusterState, asked: &ClusterMoveRequest) -> Result<Vec<Move>, Status> {
    let topic = state.topic_by_name(&asked.topic);
    let topic = topic.ok_or_else(|| Status::not_found(format!("there is no topic {:?}", asked.topic)))?;
    let all = || (0..).take(topic.partitions.len()).collect::<Vec<i32>>();
    let partitions = if asked.partitions.is_empty() { all() } else { asked.partitions.clone() };
    if partitions.len() > MOVES_PER_REQUEST_MAX {
        return Err(Status::invalid_argument(format!(
            "at most {MOVES_PER_REQUEST_MAX} partitions at a time"
        )));
    }
    if let Some(unknown) = partitions.iter().find(|p| topic.partition(**p).is_none()) {
        return Err(Status::not_found(format!("{} has no partition {unknown}", asked.topic)));
    }
    let replicas = (!asked.replicas.is_empty()).then(|| asked.replicas.clone());
    Ok(partitions.into_iter().map(|p| (TopicPartition::new(topic.id, p), replicas.clone())).collect())
}

/// The gRPC addresses of the other brokers that are alive.
pub(super) fn others(node: &Node) -> Vec<String> {
    let own = node.settings.node_id;
    node.coordinator.with_state(|state| {
        let others =
            state.brokers.values().filter(|b| b.node_id != own && !b.is_fenced && !b.grpc.is_empty());
        others.map(|b| b.grpc.clone()).collect()
    })
}

/// Has other nodes do their part of an offload, all at a time.
pub(super) async fn offload_on(
    others: &[String],
    request: &TierOffloadRequest,
    wait: Duration,
) -> Result<(), Status> {
    let one = |address: &String| {
        let (address, request) = (address.clone(), request.clone());
        async move {
            let channel =
                highwater_coordinator::rpc::endpoint(&address)?.timeout(wait + CALL_SLACK).connect_lazy();
            let done = AdminClient::new(channel).tier_offload(request).await;
            done.map(drop).map_err(|e| Status::new(e.code(), format!("node at {address}: {}", e.message())))
        }
    };
    futures::future::try_join_all(others.iter().map(one)).await.map(drop)
}

/// Replicas that a broker has.
pub(super) fn replicas_of(state: &ClusterState, node_id: NodeId) -> u32 {
    let partitions = state.topics.values().flat_map(|topic| &topic.partitions);
    count(partitions.filter(|partition| partition.replicas.contains(&node_id)).count())
}

pub(super) fn refused(error: &WriteError) -> Status {
    match error {
        WriteError::Refused(refusal) => Status::failed_precondition(refusal.to_string()),
        WriteError::Failed(reason) | WriteError::Unknown(reason) => Status::unavailable(reason.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_more_even_is_even() {
        assert_eq!(imbalance([2, 2, 2].into_iter()), 0);
        assert_eq!(imbalance([3, 2, 2].into_iter()), 0);
        assert_eq!(imbalance([4, 2, 0].into_iter()), 100);
        assert_eq!(imbalance([0, 0].into_iter()), 0);
        assert_eq!(imbalance(std::iter::empty()), 0);
    }
}
