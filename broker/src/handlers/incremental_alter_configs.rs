//! IncrementalAlterConfigs v0 and v1 (KIP-339): single settings set, returned to their default, or lists
//! edited.

use std::sync::Arc;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::{ClusterState, ConfigOp, ConfigOpKind};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_wire::kafka::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use highwater_wire::kafka::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::admin::{self, Denied};
use super::alter_configs::{Asked, alter, altered_topic};
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
    let topic_id = altered_topic(state, resource.resource_type, &resource.resource_name)?;
    if !admin::duplicates(resource.configs.iter().map(|config| &config.name)).is_empty() {
        return Err(Denied::new(ResponseError::InvalidRequest, "Error due to duplicate config keys"));
    }
    let ops: Result<Vec<ConfigOp>, Denied> = resource.configs.iter().map(op).collect();
    Ok(ConfigChange::Alter { topic_id, ops: ops? })
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
