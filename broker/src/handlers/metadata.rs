//! Metadata v0 to v13: brokers, topics by name or id (KIP-516), and creating a topic that a client asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_coordinator::core::{ClusterState, Topic};
use highwater_model::{NodeId, TopicPartition, limits, topic_name};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::metadata_request::MetadataRequestTopic;
use highwater_wire::kafka::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use highwater_wire::kafka::messages::{MetadataRequest, MetadataResponse};

use super::admin::{self, PartitionView};
use super::create_topics;
use crate::node::Node;
use crate::partition::registry::View;

/// Since then an absent list, not an empty one, means all topics.
const NULL_IS_ALL_SINCE: i16 = 1;
/// Since then a topic may be named by its id alone.
const BY_ID_SINCE: i16 = 12;

pub async fn handle(node: &Arc<Node>, version: i16, request: MetadataRequest) -> MetadataResponse {
    let own = node.settings.node_id;
    if request.allow_auto_topic_creation && node.settings.auto_create_topics {
        let missing = to_create(&node.coordinator.state(), version, &request);
        if !missing.is_empty() {
            create_topics::auto_create(node, missing).await;
        }
    }
    respond(&node.coordinator.state(), &node.partitions.view(), own, version, &request)
}

/// Names asked for that could be created: legal, not there, not the protocol's own.
fn to_create(state: &ClusterState, version: i16, request: &MetadataRequest) -> Vec<String> {
    let Some(asked) = asked(version, request) else {
        return Vec::new();
    };
    let mut names: Vec<String> = asked
        .iter()
        .filter(|topic| topic.topic_id.is_nil())
        .filter_map(|topic| topic.name.as_ref())
        .filter(|name| state.topic_by_name(name).is_none())
        .filter(|name| topic_name::validate(name).is_ok() && !admin::is_internal(name))
        .map(|name| name.to_string())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(limits::AUTO_CREATE_PER_REQUEST_MAX);
    names
}

/// The topics asked for; none means all.
fn asked(version: i16, request: &MetadataRequest) -> Option<&[MetadataRequestTopic]> {
    let topics = request.topics.as_deref()?;
    (version >= NULL_IS_ALL_SINCE || !topics.is_empty()).then_some(topics)
}

fn respond(
    state: &ClusterState,
    view: &View,
    own: NodeId,
    version: i16,
    request: &MetadataRequest,
) -> MetadataResponse {
    let brokers = state.brokers.values().filter(|broker| !broker.is_fenced).map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(admin::broker_id(broker.node_id))
            .with_host(admin::text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(admin::text))
    });
    let topics = match asked(version, request) {
        None => state.topics_by_name().map(|topic| found(state, view, topic)).collect(),
        Some(asked) => {
            // Kafka answers each topic once, however often it is asked for.
            let mut seen = BTreeSet::new();
            let once = asked.iter().filter(|t| seen.insert((t.topic_id, t.name.as_deref())));
            once.map(|topic| one(state, view, version, topic)).collect()
        }
    };
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(admin::text(&state.cluster_id)))
        .with_controller_id(admin::controller(state, own))
        .with_topics(topics)
}

fn one(
    state: &ClusterState,
    view: &View,
    version: i16,
    asked: &MetadataRequestTopic,
) -> MetadataResponseTopic {
    let id = admin::topic_id(asked.topic_id);
    let failed = |error: ResponseError| {
        let name = match version < BY_ID_SINCE {
            true => Some(asked.name.clone().unwrap_or_default()),
            false if id.is_some() => None,
            false => asked.name.clone(),
        };
        let is_internal = asked.name.as_deref().is_some_and(|name| admin::is_internal(name));
        MetadataResponseTopic::default()
            .with_error_code(error.code())
            .with_name(name)
            .with_topic_id(asked.topic_id)
            .with_is_internal(is_internal)
    };
    if version < BY_ID_SINCE && (id.is_some() || asked.name.is_none()) {
        return failed(ResponseError::InvalidRequest);
    }
    match (id, asked.name.as_deref()) {
        (Some(id), _) => match state.topic(id) {
            Some(topic) => found(state, view, topic),
            None => failed(ResponseError::UnknownTopicId),
        },
        (None, None) => failed(ResponseError::InvalidRequest),
        (None, Some(name)) => match state.topic_by_name(name) {
            Some(topic) => found(state, view, topic),
            None if topic_name::validate(name).is_err() => failed(ResponseError::InvalidTopicException),
            None => failed(ResponseError::UnknownTopicOrPartition),
        },
    }
}

fn found(state: &ClusterState, known: &View, topic: &Topic) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate().map(|(number, partition)| {
        let tp = TopicPartition::new(topic.id, number as i32);
        let view = PartitionView::new(state, known, tp, partition);
        MetadataResponsePartition::default()
            .with_error_code(view.error_code)
            .with_partition_index(number as i32)
            .with_leader_id(view.leader)
            .with_leader_epoch(view.leader_epoch)
            .with_replica_nodes(view.replicas)
            .with_isr_nodes(view.in_sync)
            .with_offline_replicas(view.offline)
    });
    MetadataResponseTopic::default()
        .with_name(Some(admin::name(&topic.name)))
        .with_topic_id(topic.id.0)
        .with_is_internal(admin::is_internal(&topic.name))
        .with_partitions(partitions.collect())
}
