//! AlterConfigs v0 to v2 (the old way: what is not named returns to its default), and what it shares with
//! IncrementalAlterConfigs. Only topics have settings that can be altered; a broker's are flags of `serve`.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::ClusterState;
use highwater_model::{TopicId, topic_name};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::alter_configs_request::AlterConfigsResource;
use highwater_wire::kafka::messages::alter_configs_response::AlterConfigsResourceResponse;
use highwater_wire::kafka::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::admin::{self, Denied};
use super::describe_configs::{BROKER, TOPIC};
use crate::node::Node;

pub async fn handle(node: &Arc<Node>, _version: i16, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let state = node.coordinator.state();
    let keys: Vec<(i8, String)> =
        request.resources.iter().map(|r| (r.resource_type, r.resource_name.to_string())).collect();
    let changes = request.resources.iter().map(|resource| replacement(&state, resource)).collect();
    let outcomes = alter(node, &keys, changes, request.validate_only).await;
    let responses = request.resources.into_iter().zip(outcomes).map(|(resource, outcome)| {
        let response = AlterConfigsResourceResponse::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        match outcome {
            Ok(()) => response,
            Err(denied) => response.with_error_code(denied.code).with_error_message(denied.text()),
        }
    });
    AlterConfigsResponse::default().with_responses(responses.collect())
}

fn replacement(state: &ClusterState, resource: &AlterConfigsResource) -> Result<ConfigChange, Denied> {
    let topic_id = altered_topic(state, resource.resource_type, &resource.resource_name)?;
    let mut overrides = BTreeMap::new();
    for config in &resource.configs {
        let Some(value) = &config.value else {
            let text = format!("Null value not supported for : {}", config.name);
            return Err(Denied::new(ResponseError::InvalidRequest, text));
        };
        if overrides.insert(config.name.to_string(), value.to_string()).is_some() {
            return Err(Denied::new(ResponseError::InvalidRequest, "Error due to duplicate config keys"));
        }
    }
    Ok(ConfigChange::Replace { topic_id, overrides })
}

/// The topic whose settings a resource names.
pub fn altered_topic(state: &ClusterState, resource_type: i8, name: &str) -> Result<TopicId, Denied> {
    match resource_type {
        TOPIC => {}
        BROKER => {
            let text = "A broker's settings are flags of `highwater serve`; restart it with other ones.";
            return Err(Denied::new(ResponseError::InvalidRequest, text));
        }
        other => {
            let text = format!("Unsupported resource type: {other}");
            return Err(Denied::new(ResponseError::InvalidRequest, text));
        }
    }
    topic_name::validate(name)
        .map_err(|e| Denied::new(ResponseError::InvalidTopicException, e.to_string()))?;
    let topic = state.topic_by_name(name).ok_or_else(|| {
        let text = format!("The topic '{name}' does not exist.");
        Denied::new(ResponseError::UnknownTopicOrPartition, text)
    })?;
    Ok(topic.id)
}

/// Carries out the changes that could be read; one outcome for each. `keys` are the resources, in the same
/// order.
pub async fn alter(
    node: &Arc<Node>,
    keys: &[(i8, String)],
    changes: Vec<Result<ConfigChange, Denied>>,
    validate_only: bool,
) -> Vec<Result<(), Denied>> {
    let twice = admin::duplicates(keys);
    let judge = |(key, change)| match twice.contains::<(i8, String)>(key) {
        true => Err(Denied::new(ResponseError::InvalidRequest, "Each resource must appear at most once.")),
        false => change,
    };
    let judged: Vec<Result<ConfigChange, Denied>> = keys.iter().zip(changes).map(judge).collect();
    let wanted: Vec<ConfigChange> = judged.iter().flatten().cloned().collect();
    let mut outcomes = node.coordinator.alter_configs(wanted, validate_only).await.into_iter();
    if !validate_only && outcomes.as_slice().iter().any(Result::is_ok) {
        admin::follow(node).await;
    }
    let results: Vec<Result<(), Denied>> = judged
        .into_iter()
        .map(|judged| {
            judged?;
            let outcome = outcomes.next().expect("one outcome for each change");
            outcome.map_err(|error| Denied::from_write(&error))
        })
        .collect();
    admin::count_refused(node, results.iter().filter(|result| result.is_err()).count());
    results
}
