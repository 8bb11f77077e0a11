//! ElectLeaders v0 to v2 (KIP-183, KIP-460): preferred leaders given back, and an operator's last resort.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{ClusterState, ElectionKind, Refusal};
use highwater_model::{TopicPartition, limits};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use highwater_wire::kafka::messages::{ElectLeadersRequest, ElectLeadersResponse};

use super::admin::{self, Denied};
use crate::node::Node;

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

pub async fn handle(node: &Arc<Node>, _version: i16, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let kind = match request.election_type {
        PREFERRED => ElectionKind::Preferred,
        UNCLEAN => ElectionKind::Unclean,
        _ => {
            let code = ResponseError::InvalidRequest.code();
            return ElectLeadersResponse::default().with_error_code(code);
        }
    };
    let asked = asked(&node.coordinator.state(), &request);
    if asked.len() > limits::MOVES_PER_REQUEST_MAX {
        return ElectLeadersResponse::default().with_error_code(ResponseError::PolicyViolation.code());
    }
    let judged: Vec<Result<TopicPartition, Denied>> = asked.iter().map(|(_, _, tp)| tp.clone()).collect();
    let is_every = request.topic_partitions.is_none();
    let run = |wanted: Vec<TopicPartition>| async {
        let outcomes = node.coordinator.elect_leaders(wanted, kind).await;
        // Who asks for every partition wants those that need it; the others are no error.
        let not_needed = |o: &Result<(), WriteError>| {
            is_every && matches!(o, Err(WriteError::Refused(Refusal::ElectionNotNeeded)))
        };
        outcomes.into_iter().map(|o| if not_needed(&o) { Ok(()) } else { o }).collect::<Vec<_>>()
    };
    let outcomes = admin::carry_out(node, judged, false, run).await;
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for ((topic, partition, _), outcome) in asked.into_iter().zip(outcomes) {
        let (code, text) = Denied::answer(outcome);
        let result = PartitionResult::default().with_partition_id(partition);
        topics.entry(topic).or_default().push(result.with_error_code(code).with_error_message(text));
    }
    let result = |(topic, partitions): (String, Vec<PartitionResult>)| {
        ReplicaElectionResult::default().with_topic(admin::name(&topic)).with_partition_result(partitions)
    };
    ElectLeadersResponse::default().with_replica_election_results(topics.into_iter().map(result).collect())
}

type Asked = (String, i32, Result<TopicPartition, Denied>);

/// The partitions that are named, or all.
fn asked(state: &ClusterState, request: &ElectLeadersRequest) -> Vec<Asked> {
    let Some(named) = &request.topic_partitions else {
        let of_topic = |topic: &Arc<highwater_coordinator::core::Topic>| {
            let (id, name) = (topic.id, topic.name.clone());
            let partitions = (0..).take(topic.partitions.len());
            partitions.map(move |p| (name.clone(), p, Ok(TopicPartition::new(id, p)))).collect::<Vec<Asked>>()
        };
        return state.topics_by_name().flat_map(of_topic).collect();
    };
    let one = |name: &str, partition: i32| admin::find_record(state, name, partition);
    let of_topic = |topic: &highwater_wire::kafka::messages::elect_leaders_request::TopicPartitions| {
        let name = topic.topic.to_string();
        let partitions = topic.partitions.iter();
        partitions.map(|p| (name.clone(), *p, one(&name, *p))).collect::<Vec<Asked>>()
    };
    named.iter().flat_map(of_topic).collect()
}
