//! AlterConfigs v0 to v2 (the old way: what is not named returns to its default), and what it shares with
//! IncrementalAlterConfigs. Only topics have settings that can be replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::{ClusterState, ConfigOpKind};
use highwater_model::{TopicId, topic_name};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::alter_configs_request::AlterConfigsResource;
use highwater_wire::kafka::messages::alter_configs_response::AlterConfigsResourceResponse;
use highwater_wire::kafka::messages::{AlterConfigsRequest, AlterConfigsResponse};
use highwater_wire::kafka::protocol::StrBytes;

use super::admin::{self, Denied};
use super::describe_configs::{BROKER, TOPIC};
use crate::node::Node;

pub async fn handle(node: &Arc<Node>, _version: i16, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let state = node.coordinator.state();
    let asked = request.resources.into_iter().map(|resource| {
        let change = replacement(&state, &resource);
        Asked { resource_type: resource.resource_type, name: resource.resource_name, change }
    });
    let responses = alter(node, asked.collect(), request.validate_only).await.into_iter().map(|altered| {
        AlterConfigsResourceResponse::default()
            .with_resource_type(altered.resource_type)
            .with_resource_name(altered.name)
            .with_error_code(altered.code)
            .with_error_message(altered.text)
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
            let text = "A broker's settings are flags of `highwater serve`; what can change while it runs is \
                        altered one by one (IncrementalAlterConfigs).";
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

/// A resource whose settings a request alters, and what it asks for, if that could be read.
pub struct Asked {
    pub resource_type: i8,
    pub name: StrBytes,
    pub change: Result<ConfigChange, Denied>,
}

/// The answer for one resource.
pub struct Altered {
    pub resource_type: i8,
    pub name: StrBytes,
    pub code: i16,
    pub text: Option<StrBytes>,
}

/// Carries out the changes that could be read; one answer for each resource, in order.
pub async fn alter(node: &Arc<Node>, asked: Vec<Asked>, validate_only: bool) -> Vec<Altered> {
    let (keys, changes): (Vec<(i8, StrBytes)>, Vec<_>) =
        asked.into_iter().map(|asked| ((asked.resource_type, asked.name), asked.change)).unzip();
    let twice = admin::duplicates(&keys);
    let judged = keys.iter().zip(changes).map(|(key, change)| match twice.contains(key) {
        true => Err(Denied::new(ResponseError::InvalidRequest, "Each resource must appear at most once.")),
        false if key.0 == TOPIC && admin::is_internal(&key.1) => change.and_then(kept_internal),
        false => change,
    });
    let run = |wanted| node.coordinator.alter_configs(wanted, validate_only);
    let outcomes = admin::carry_out(node, judged, validate_only, run).await;
    let answer = |((resource_type, name), outcome)| {
        let (code, text) = Denied::answer(outcome);
        Altered { resource_type, name, code, text }
    };
    keys.into_iter().zip(outcomes).map(answer).collect()
}

/// What the coordinators of internal topics rely on: each key's last record stays, and on the local disk.
pub(super) const INTERNAL_SETTINGS: [(&str, &str); 2] =
    [("cleanup.policy", "compact"), ("remote.storage.enable", "false")];

/// That an internal topic is not to have this value.
pub(super) fn not_of_internal(name: &str, value: &str) -> Denied {
    Denied::new(ResponseError::InvalidConfig, format!("{name} of an internal topic is {value}."))
}

/// A change of an internal topic's settings that leaves them as its coordinators need them.
fn kept_internal(change: ConfigChange) -> Result<ConfigChange, Denied> {
    let is_kept = |(name, value): &(&str, &str)| match &change {
        ConfigChange::Replace { overrides, .. } => overrides.get(*name).is_some_and(|given| given == value),
        ConfigChange::Alter { ops, .. } => ops
            .iter()
            .filter(|op| op.name == *name)
            .all(|op| matches!(&op.op, ConfigOpKind::Set(given) if given == value)),
        ConfigChange::Broker { .. } => true,
    };
    match INTERNAL_SETTINGS.iter().find(|setting| !is_kept(setting)) {
        None => Ok(change),
        Some((name, value)) => Err(not_of_internal(name, value)),
    }
}

#[cfg(test)]
mod tests {
    use highwater_coordinator::core::ConfigOp;

    use super::*;

    #[test]
    fn internal_topics_keep_what_their_coordinators_need() {
        let topic_id = TopicId::NONE;
        let op = |name: &str, op| ConfigOp { name: name.to_owned(), op };
        let alter = |op| kept_internal(ConfigChange::Alter { topic_id, ops: vec![op] }).is_ok();
        assert!(alter(op("segment.bytes", ConfigOpKind::Set("1048576".into()))));
        assert!(alter(op("cleanup.policy", ConfigOpKind::Set("compact".into()))));
        assert!(!alter(op("cleanup.policy", ConfigOpKind::Append("delete".into()))));
        assert!(!alter(op("cleanup.policy", ConfigOpKind::Delete)));
        assert!(!alter(op("remote.storage.enable", ConfigOpKind::Set("true".into()))));
        let replace = |overrides: &[(&str, &str)]| {
            let overrides = overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            kept_internal(ConfigChange::Replace { topic_id, overrides }).is_ok()
        };
        assert!(!replace(&[("cleanup.policy", "compact")]));
        assert!(replace(&[("cleanup.policy", "compact"), ("remote.storage.enable", "false")]));
    }
}
