//! AlterPartitionReassignments v0 to v1 and ListPartitionReassignments v0 (KIP-455): replicas move to other
//! brokers, and what is on its way.

use std::sync::Arc;

use highwater_coordinator::core::{ClusterState, Topic};
use highwater_model::{NodeId, TopicPartition, limits};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::alter_partition_reassignments_request::ReassignablePartition;
use highwater_wire::kafka::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use highwater_wire::kafka::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use highwater_wire::kafka::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

use super::admin::{self, Denied};
use crate::node::Node;

type Move = (TopicPartition, Option<Vec<NodeId>>);

pub async fn alter(
    node: &Arc<Node>,
    version: i16,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let may_change_factor = version < 1 || request.allow_replication_factor_change;
    let answer = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(may_change_factor);
    let asked: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    if asked > limits::MOVES_PER_REQUEST_MAX {
        let denied = Denied::new(ResponseError::PolicyViolation, "Too many partitions in one request.");
        return answer.with_error_code(denied.code).with_error_message(denied.text());
    }
    let state = node.coordinator.state();
    let judged: Vec<Result<Move, Denied>> = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(move |partition| (&topic.name, partition)))
        .map(|(name, partition)| wanted(&state, name, partition, may_change_factor))
        .collect();
    let outcomes = admin::carry_out(node, judged, false, |moves| node.coordinator.reassign(moves)).await;
    let mut outcomes = outcomes.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let (code, text) = Denied::answer(outcomes.next().expect("one outcome for each partition"));
            let response = ReassignablePartitionResponse::default();
            let response = response.with_partition_index(partition.partition_index);
            response.with_error_code(code).with_error_message(text)
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    let topics = topics.collect();
    answer.with_responses(topics)
}

fn wanted(
    state: &ClusterState,
    name: &str,
    asked: &ReassignablePartition,
    may_change_factor: bool,
) -> Result<Move, Denied> {
    let tp = admin::find_record(state, name, asked.partition_index)?;
    let Some(replicas) = &asked.replicas else {
        return Ok((tp, None));
    };
    let now = state.partition(tp).map_or(0, |partition| partition.replicas.len() - partition.adding.len());
    if !may_change_factor && replicas.len() != now {
        let text = "The replication factor is changed, and that was not allowed.";
        return Err(Denied::new(ResponseError::InvalidReplicationFactor, text));
    }
    // A negative id is no node's; the control plane will not know it.
    let replicas = replicas.iter().map(|id| NodeId::try_from(id.0).unwrap_or(NodeId::MAX)).collect();
    Ok((tp, Some(replicas)))
}

pub async fn list(
    node: &Arc<Node>,
    _version: i16,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let state = node.coordinator.state();
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => state.topics_by_name().filter_map(|topic| ongoing(topic, None)).collect(),
        Some(named) => named
            .iter()
            .filter_map(|asked| ongoing(state.topic_by_name(&asked.name)?, Some(&asked.partition_indexes)))
            .collect(),
    };
    ListPartitionReassignmentsResponse::default().with_topics(topics)
}

/// The partitions of a topic that are on their way, of those asked for.
fn ongoing(topic: &Topic, only: Option<&[i32]>) -> Option<OngoingTopicReassignment> {
    let ids = |nodes: &[NodeId]| nodes.iter().copied().map(admin::broker_id).collect::<Vec<BrokerId>>();
    let moving = (0..).zip(&topic.partitions).filter(|(index, partition)| {
        let is_moving = !partition.adding.is_empty() || !partition.removing.is_empty();
        is_moving && only.is_none_or(|only| only.contains(index))
    });
    let partitions: Vec<_> = moving
        .map(|(index, partition)| {
            OngoingPartitionReassignment::default()
                .with_partition_index(index)
                .with_replicas(ids(&partition.replicas))
                .with_adding_replicas(ids(&partition.adding))
                .with_removing_replicas(ids(&partition.removing))
        })
        .collect();
    let topic = OngoingTopicReassignment::default().with_name(admin::name(&topic.name));
    (!partitions.is_empty()).then(|| topic.with_partitions(partitions))
}
