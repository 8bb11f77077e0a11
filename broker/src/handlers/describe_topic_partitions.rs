//! DescribeTopicPartitions v0 (KIP-966): topics in the order of their names, in pages of partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_coordinator::core::{ClusterState, Topic};
use highwater_model::{TopicPartition, limits, topic_name};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use highwater_wire::kafka::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};

use super::admin::{self, PartitionView};
use crate::node::Node;
use crate::partition::registry::View;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    respond(&node.coordinator.state(), &node.partitions.view(), &request)
}

fn respond(
    state: &ClusterState,
    view: &View,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut room = limit.clamp(1, limits::DESCRIBE_PARTITIONS_MAX);
    let names: BTreeSet<&str> = match request.topics.is_empty() {
        true => state.topics.values().map(|topic| topic.name.as_str()).collect(),
        false => request.topics.iter().map(|topic| topic.name.as_str()).collect(),
    };
    let (from_name, from_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.as_str(), usize::try_from(cursor.partition_index).unwrap_or(0)),
        None => ("", 0),
    };
    let mut topics = Vec::new();
    for name in names.range(from_name..) {
        if room == 0 {
            return page(topics, Some((name, 0)));
        }
        let Some(topic) = state.topic_by_name(name) else {
            topics.push(unknown(name));
            room -= 1;
            continue;
        };
        let start = if *name == from_name { from_partition.min(topic.partitions.len()) } else { 0 };
        let end = topic.partitions.len().min(start + room);
        topics.push(part(state, view, topic, start, end));
        if end < topic.partitions.len() {
            return page(topics, Some((name, end)));
        }
        room -= (end - start).min(room);
    }
    page(topics, None)
}

fn page(
    topics: Vec<DescribeTopicPartitionsResponseTopic>,
    next: Option<(&str, usize)>,
) -> DescribeTopicPartitionsResponse {
    let cursor = next.map(|(name, partition)| {
        Cursor::default().with_topic_name(admin::name(name)).with_partition_index(partition as i32)
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics).with_next_cursor(cursor)
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let error = match topic_name::validate(name) {
        Ok(()) => ResponseError::UnknownTopicOrPartition,
        Err(_) => ResponseError::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(admin::name(name)))
        .with_is_internal(admin::is_internal(name))
}

fn part(
    state: &ClusterState,
    known: &View,
    topic: &Topic,
    start: usize,
    end: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic.partitions[start..end].iter().enumerate().map(|(i, partition)| {
        let tp = TopicPartition::new(topic.id, (start + i) as i32);
        let view = PartitionView::new(state, known, tp, partition);
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(view.error_code)
            .with_partition_index((start + i) as i32)
            .with_leader_id(view.leader)
            .with_leader_epoch(view.leader_epoch)
            .with_replica_nodes(view.replicas)
            .with_isr_nodes(view.in_sync)
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
            .with_offline_replicas(view.offline)
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(admin::name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(admin::is_internal(&topic.name))
        .with_partitions(partitions.collect())
}
