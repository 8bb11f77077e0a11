//! CreatePartitions v0 to v3: a topic grows; nothing moves between its partitions.

use std::sync::Arc;

use highwater_coordinator::NewPartitions;
use highwater_coordinator::core::ClusterState;
use highwater_model::{NodeId, limits};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_wire::kafka::messages::create_partitions_response::CreatePartitionsTopicResult;
use highwater_wire::kafka::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::admin::{self, Denied};
use crate::node::Node;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let twice = admin::duplicates(request.topics.iter().map(|topic| &topic.name));
    let too_many = request.topics.len() > limits::ADMIN_TOPICS_PER_REQUEST_MAX;
    let state = node.coordinator.state();
    let judged = request.topics.iter().map(|topic| match too_many {
        true => Err(Denied::new(ResponseError::PolicyViolation, "Too many topics in one request.")),
        false if twice.contains(&topic.name) => {
            Err(Denied::new(ResponseError::InvalidRequest, "Duplicate topic name."))
        }
        false => growth(&state, topic),
    });
    let judged: Vec<Result<NewPartitions, Denied>> = judged.collect();
    let run = |wanted| node.coordinator.create_partitions(wanted, request.validate_only);
    let outcomes = admin::carry_out(node, judged, request.validate_only, run).await;
    let answer = |(topic, outcome): (CreatePartitionsTopic, _)| {
        let (code, text) = Denied::answer(outcome);
        let result = CreatePartitionsTopicResult::default().with_name(topic.name);
        result.with_error_code(code).with_error_message(text)
    };
    let results = request.topics.into_iter().zip(outcomes).map(answer);
    CreatePartitionsResponse::default().with_results(results.collect())
}

fn growth(state: &ClusterState, topic: &CreatePartitionsTopic) -> Result<NewPartitions, Denied> {
    if admin::is_internal(&topic.name) {
        // What lies in them is found by the number of partitions.
        let text = "The partitions of an internal topic cannot be changed.";
        return Err(Denied::new(ResponseError::InvalidRequest, text));
    }
    let found = state.topic_by_name(&topic.name).ok_or_else(|| {
        let text = "This server does not host this topic-partition.";
        Denied::new(ResponseError::UnknownTopicOrPartition, text)
    })?;
    let assignments = topic.assignments.iter().flatten().map(|assignment| {
        // A negative id is no node's; the control plane will not know it.
        assignment.broker_ids.iter().map(|id| NodeId::try_from(id.0).unwrap_or(NodeId::MAX)).collect()
    });
    Ok(NewPartitions { topic_id: found.id, count: topic.count, assignments: assignments.collect() })
}
