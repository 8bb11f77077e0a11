//! IncrementalAlterConfigs v0 and v1 (KIP-339): single settings set, returned to their default, or lists
//! edited; of topics, and of brokers what they can take while they run.

use std::sync::Arc;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::{ClusterState, ConfigOp, ConfigOpKind};
use highwater_model::NodeId;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_wire::kafka::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use highwater_wire::kafka::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::admin::{self, Denied};
use super::alter_configs::{Asked, alter, altered_topic};
use super::describe_configs::BROKER;
use crate::node::Node;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let state = node.coordinator.state();
    let asked = request.resources.into_iter().map(|resource| {
        let change = change(&state, &resource);
        Asked { resource_type: resource.resource_type, name: resource.resource_name, change }
    });
    let responses = alter(node, asked.collect(), request.validate_only).await.into_iter().map(|altered| {
        AlterConfigsResourceResponse::default()
            .with_resource_type(altered.resource_type)
            .with_resource_name(altered.name)
            .with_error_code(altered.code)
            .with_error_message(altered.text)
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

fn change(state: &ClusterState, resource: &AlterConfigsResource) -> Result<ConfigChange, Denied> {
    let altered = match resource.resource_type {
        BROKER => Err(altered_broker(&resource.resource_name)?),
        kind => Ok(altered_topic(state, kind, &resource.resource_name)?),
    };
    if !admin::duplicates(resource.configs.iter().map(|config| &config.name)).is_empty() {
        return Err(Denied::new(ResponseError::InvalidRequest, "Error due to duplicate config keys"));
    }
    let ops: Result<Vec<ConfigOp>, Denied> = resource.configs.iter().map(op).collect();
    let ops = ops?;
    Ok(match altered {
        Ok(topic_id) => ConfigChange::Alter { topic_id, ops },
        Err(node_id) => ConfigChange::Broker { node_id, ops },
    })
}

/// The broker whose settings a resource names; none stands for all of them.
fn altered_broker(name: &str) -> Result<Option<NodeId>, Denied> {
    if name.is_empty() {
        return Ok(None);
    }
    let id = name.parse::<u32>().ok().map(NodeId::from);
    let refused = || Denied::new(ResponseError::InvalidRequest, format!("{name:?} is no broker id"));
    id.map(Some).ok_or_else(refused)
}

fn op(config: &AlterableConfig) -> Result<ConfigOp, Denied> {
    let value = || match &config.value {
        Some(value) => Ok(value.to_string()),
        None => {
            let text = format!("Null value not supported for : {}", config.name);
            Err(Denied::new(ResponseError::InvalidRequest, text))
        }
    };
    let op = match config.config_operation {
        SET => ConfigOpKind::Set(value()?),
        DELETE => ConfigOpKind::Delete,
        APPEND => ConfigOpKind::Append(value()?),
        SUBTRACT => ConfigOpKind::Subtract(value()?),
        other => {
            let text = format!("Unknown operation type {other} for {}", config.name);
            return Err(Denied::new(ResponseError::InvalidRequest, text));
        }
    };
    Ok(ConfigOp { name: config.name.to_string(), op })
}

#[cfg(test)]
mod tests {
    use highwater_wire::kafka::protocol::StrBytes;

    use super::*;

    #[test]
    fn a_broker_is_named_by_its_id_and_all_of_them_by_nothing() {
        assert_eq!(altered_broker("").map_err(|d| d.code), Ok(None));
        assert_eq!(altered_broker("3").map_err(|d| d.code), Ok(Some(3)));
        for name in ["-1", "one", " 1", "99999999999"] {
            assert_eq!(altered_broker(name).map_err(|d| d.code), Err(42), "{name}");
        }
    }

    #[test]
    fn each_operation_is_read_and_others_are_refused() {
        let config = |operation: i8, value: Option<&'static str>| {
            AlterableConfig::default()
                .with_name(StrBytes::from_static_str("cleanup.policy"))
                .with_config_operation(operation)
                .with_value(value.map(StrBytes::from_static_str))
        };
        let kind = |operation, value| op(&config(operation, value)).map(|op| op.op).map_err(|d| d.code);
        assert_eq!(kind(SET, Some("x")), Ok(ConfigOpKind::Set("x".into())));
        assert_eq!(kind(DELETE, None), Ok(ConfigOpKind::Delete));
        assert_eq!(kind(APPEND, Some("x")), Ok(ConfigOpKind::Append("x".into())));
        assert_eq!(kind(SUBTRACT, Some("x")), Ok(ConfigOpKind::Subtract("x".into())));
        for (operation, value) in [(SET, None), (APPEND, None), (SUBTRACT, None), (4, Some("x")), (-1, None)]
        {
            assert_eq!(kind(operation, value), Err(42), "{operation}");
        }
    }
}
