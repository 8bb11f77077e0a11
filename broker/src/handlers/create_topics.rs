//! CreateTopics v2 to v7, and creating what a Metadata request asks for. The control plane judges; here is
//! only what the request itself gets wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{NewTopic, Refusal, TopicCreated};
use highwater_model::{NodeId, TopicId, limits};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use highwater_wire::kafka::messages::create_topics_response::CreatableTopicResult;
use highwater_wire::kafka::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};

use super::admin::{self, Denied};
use super::alter_configs::{INTERNAL_SETTINGS, not_of_internal};
use super::describe_configs::created_configs;
use crate::node::Node;

/// Means "as the broker is set".
const DEFAULT: i32 = -1;

pub async fn handle(node: &Arc<Node>, _version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let CreateTopicsRequest { mut topics, validate_only, .. } = request;
    let twice = admin::duplicates(topics.iter().map(|topic| &topic.name));
    let too_many = topics.len() > limits::ADMIN_TOPICS_PER_REQUEST_MAX;
    // A name that stands twice is answered once.
    let mut answered = BTreeSet::new();
    topics.retain(|topic| answered.insert(topic.name.clone()));
    let names: Vec<TopicName> = topics.iter().map(|topic| topic.name.clone()).collect();
    let judged = topics.into_iter().map(|topic| match too_many {
        true => Err(Denied::new(ResponseError::PolicyViolation, "Too many topics in one request.")),
        false if twice.contains(&topic.name) => {
            Err(Denied::new(ResponseError::InvalidRequest, "Duplicate topic name."))
        }
        false => new_topic(topic),
    });
    let judged: Vec<Result<NewTopic, Denied>> = judged.collect();
    let overrides = |topic: &Result<NewTopic, Denied>| {
        topic.as_ref().map_or_else(|_| BTreeMap::new(), |t| t.configs.clone())
    };
    let overrides: Vec<BTreeMap<String, String>> = judged.iter().map(overrides).collect();
    let run = |wanted| node.coordinator.create_topics(wanted, validate_only);
    let outcomes = admin::carry_out(node, judged, validate_only, run).await;
    let answer = |((name, overrides), outcome)| match outcome {
        Ok(topic) => created(name, &topic, overrides, validate_only),
        Err(denied) => failed(name, &denied),
    };
    let results = names.into_iter().zip(&overrides).zip(outcomes).map(answer);
    CreateTopicsResponse::default().with_topics(results.collect())
}

/// Creates topics that clients asked for by name; what cannot be created stays unknown to them.
pub async fn auto_create(node: &Arc<Node>, names: Vec<String>) {
    let topic = |name: &String| NewTopic {
        topic_id: TopicId::NONE,
        name: name.clone(),
        partitions: DEFAULT,
        replication_factor: DEFAULT as i16,
        assignments: Vec::new(),
        configs: BTreeMap::new(),
    };
    let outcomes = node.coordinator.create_topics(names.iter().map(topic).collect(), false).await;
    let mut is_changed = false;
    for (name, outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(_) => {
                is_changed = true;
                tracing::info!(topic = %name, "topic created because a client asked for it");
            }
            // Another client was faster.
            Err(WriteError::Refused(Refusal::TopicExists { .. })) => is_changed = true,
            Err(error) => tracing::warn!(topic = %name, "topic not created for a client: {error}"),
        }
    }
    if is_changed {
        admin::follow(node).await;
    }
}

fn new_topic(topic: CreatableTopic) -> Result<NewTopic, Denied> {
    let assignments = assignments(&topic.assignments)?;
    let mut configs = BTreeMap::new();
    for config in topic.configs {
        let name = config.name.to_string();
        let Some(value) = config.value else {
            let text = format!("Null value not supported for topic configs: {name}");
            return Err(Denied::new(ResponseError::InvalidConfig, text));
        };
        configs.insert(name, value.to_string());
    }
    if admin::is_internal(&topic.name) {
        fit_internal(&mut configs)?;
    }
    Ok(NewTopic {
        topic_id: TopicId::NONE,
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments,
        configs,
    })
}

/// Settings of an internal topic that somebody else creates than its coordinators: what they rely on is
/// filled in, and nothing else is taken for it.
fn fit_internal(configs: &mut BTreeMap<String, String>) -> Result<(), Denied> {
    for (name, value) in INTERNAL_SETTINGS {
        if configs.entry(name.to_owned()).or_insert_with(|| value.to_owned()) != value {
            return Err(not_of_internal(name, value));
        }
    }
    Ok(())
}

/// Replicas by partition, from a list in any order that must name 0, 1, 2 and so on, each once.
fn assignments(given: &[CreatableReplicaAssignment]) -> Result<Vec<Vec<NodeId>>, Denied> {
    let mut by_partition: BTreeMap<i32, Vec<NodeId>> = BTreeMap::new();
    for assignment in given {
        // A negative id is no node's; the control plane will not know it.
        let replicas = assignment.broker_ids.iter().map(|id| NodeId::try_from(id.0).unwrap_or(NodeId::MAX));
        if by_partition.insert(assignment.partition_index, replicas.collect()).is_some() {
            let partition = assignment.partition_index;
            let text = format!("Found multiple manual partition assignments for partition {partition}");
            return Err(Denied::new(ResponseError::InvalidReplicaAssignment, text));
        }
    }
    let is_consecutive =
        by_partition.keys().enumerate().all(|(i, partition)| i as i64 == i64::from(*partition));
    if !is_consecutive {
        let text = "partitions should be a consecutive 0-based integer sequence";
        return Err(Denied::new(ResponseError::InvalidReplicaAssignment, text));
    }
    Ok(by_partition.into_values().collect())
}

fn created(
    name: TopicName,
    topic: &TopicCreated,
    overrides: &BTreeMap<String, String>,
    validate_only: bool,
) -> CreatableTopicResult {
    // A topic that was only judged has no id yet.
    let topic_id = if validate_only { TopicId::NONE } else { topic.topic_id };
    CreatableTopicResult::default()
        .with_name(name)
        .with_topic_id(topic_id.0)
        .with_num_partitions(topic.partitions)
        .with_replication_factor(topic.replication_factor)
        .with_configs(Some(created_configs(overrides)))
}

fn failed(name: TopicName, denied: &Denied) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(denied.code)
        .with_error_message(denied.text())
}

#[cfg(test)]
mod tests {
    use highwater_wire::kafka::messages::BrokerId;
    use highwater_wire::kafka::messages::create_topics_request::CreatableTopicConfig;

    use super::*;

    fn assigned(partition: i32, node: i32) -> CreatableReplicaAssignment {
        CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(vec![BrokerId(node)])
    }

    #[test]
    fn manual_assignments_must_name_each_partition_once() {
        assert_eq!(assignments(&[]), Ok(Vec::new()));
        assert_eq!(assignments(&[assigned(1, 8), assigned(0, 7)]), Ok(vec![vec![7], vec![8]]));
        assert_eq!(assignments(&[assigned(0, -3)]), Ok(vec![vec![NodeId::MAX]]));
        for bad in [vec![assigned(1, 7)], vec![assigned(0, 7), assigned(0, 7)], vec![assigned(-1, 7)]] {
            assert_eq!(assignments(&bad).map_err(|denied| denied.code), Err(39), "{bad:?}");
        }
    }

    #[test]
    fn internal_topics_have_what_their_coordinators_need_whoever_creates_them() {
        let create = |name: &str, configs: &[(&str, &str)]| {
            let config = |(key, value): &(&str, &str)| {
                let config = CreatableTopicConfig::default().with_name(admin::text(key));
                config.with_value(Some(admin::text(value)))
            };
            let topic = CreatableTopic::default().with_name(admin::name(name));
            let created = new_topic(topic.with_configs(configs.iter().map(config).collect()));
            created.map(|topic| topic.configs.into_iter().collect::<Vec<_>>()).map_err(|denied| denied.code)
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let needed = pairs(&[("cleanup.policy", "compact"), ("remote.storage.enable", "false")]);
        assert_eq!(create("__consumer_offsets", &[]), Ok(needed.clone()));
        assert_eq!(create("__transaction_state", &[("cleanup.policy", "compact")]), Ok(needed));
        for (key, value) in [("cleanup.policy", "delete"), ("remote.storage.enable", "true")] {
            let invalid_config = 40;
            assert_eq!(create("__consumer_offsets", &[(key, value)]), Err(invalid_config), "{key}={value}");
            assert_eq!(create("t", &[(key, value)]), Ok(pairs(&[(key, value)])), "others as they like");
        }
    }
}
