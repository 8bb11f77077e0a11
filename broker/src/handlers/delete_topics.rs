//! DeleteTopics v1 to v6: by name, and by id since v6 (KIP-516).

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_coordinator::core::{ClusterState, Topic};
use highwater_model::{TopicId, limits};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::delete_topics_request::DeleteTopicState;
use highwater_wire::kafka::messages::delete_topics_response::DeletableTopicResult;
use highwater_wire::kafka::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::admin::{self, Denied};
use crate::node::Node;

const NAME_OR_ID_SINCE: i16 = 6;

pub async fn handle(node: &Arc<Node>, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked: Vec<DeleteTopicState> = match version >= NAME_OR_ID_SINCE {
        true => request.topics,
        false => {
            let by_name = |name| DeleteTopicState::default().with_name(Some(name));
            request.topic_names.into_iter().map(by_name).collect()
        }
    };
    let (answers, judged): (Vec<_>, Vec<_>) = judge(&node.coordinator.state(), asked).into_iter().unzip();
    let run = |wanted| node.coordinator.delete_topics(wanted);
    let outcomes = admin::carry_out(node, judged, false, run).await;
    let answer = |(result, outcome): (DeletableTopicResult, _)| {
        let (code, text) = Denied::answer(outcome);
        result.with_error_code(code).with_error_message(text)
    };
    let responses = answers.into_iter().zip(outcomes).map(answer);
    DeleteTopicsResponse::default().with_responses(responses.collect())
}

/// Each topic asked for with the start of its answer, and its id or what is wrong.
fn judge(
    state: &ClusterState,
    asked: Vec<DeleteTopicState>,
) -> Vec<(DeletableTopicResult, Result<TopicId, Denied>)> {
    let too_many = asked.len() > limits::ADMIN_TOPICS_PER_REQUEST_MAX;
    let found: Vec<Result<&Arc<Topic>, Denied>> = asked.iter().map(|topic| find(state, topic)).collect();
    let ids: Vec<TopicId> = found.iter().flatten().map(|topic| topic.id).collect();
    let twice: BTreeSet<TopicId> = admin::duplicates(&ids);
    let answer = |(asked, found): (DeleteTopicState, Result<&Arc<Topic>, Denied>)| {
        let result = DeletableTopicResult::default();
        let topic = match found {
            Ok(topic) => topic,
            Err(denied) => {
                return (result.with_name(asked.name).with_topic_id(asked.topic_id), Err(denied));
            }
        };
        let result = result.with_name(Some(admin::name(&topic.name))).with_topic_id(topic.id.0);
        if too_many {
            let denied = Denied::new(ResponseError::PolicyViolation, "Too many topics in one request.");
            return (result, Err(denied));
        }
        if twice.contains(&topic.id) {
            return (result, Err(Denied::new(ResponseError::InvalidRequest, "Duplicate topic name or ID.")));
        }
        (result, Ok(topic.id))
    };
    asked.into_iter().zip(found).map(answer).collect()
}

fn find<'a>(state: &'a ClusterState, asked: &DeleteTopicState) -> Result<&'a Arc<Topic>, Denied> {
    match (admin::topic_id(asked.topic_id), asked.name.as_ref()) {
        (Some(_), Some(_)) => Err(Denied::new(
            ResponseError::InvalidRequest,
            "You may not specify both topic name and topic id.",
        )),
        (None, None) => {
            Err(Denied::new(ResponseError::InvalidRequest, "Neither topic name nor id were specified."))
        }
        (Some(id), None) => state.topic(id).ok_or_else(|| {
            Denied::new(ResponseError::UnknownTopicId, "This server does not host this topic ID.")
        }),
        (None, Some(name)) => state.topic_by_name(name).ok_or_else(|| {
            let text = "This server does not host this topic-partition.";
            Denied::new(ResponseError::UnknownTopicOrPartition, text)
        }),
    }
}
