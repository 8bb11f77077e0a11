//! DescribeCluster v0 to v2 (KIP-700, KIP-919).

use std::sync::Arc;

use highwater_coordinator::core::ClusterState;
use highwater_model::NodeId;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::describe_cluster_response::DescribeClusterBroker;
use highwater_wire::kafka::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::admin::{self, Denied};
use crate::node::Node;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    respond(&node.coordinator.state(), node.settings.node_id, &request)
}

fn respond(state: &ClusterState, own: NodeId, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let denied = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some(Denied::new(
            ResponseError::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
        )),
        other => Some(Denied::new(
            ResponseError::UnsupportedEndpointType,
            format!("Unsupported endpoint type {other}"),
        )),
    };
    if let Some(denied) = denied {
        return DescribeClusterResponse::default()
            .with_error_code(denied.code)
            .with_error_message(denied.text())
            .with_endpoint_type(request.endpoint_type);
    }
    // Fenced brokers are shown to those who ask for them (KIP-1073, version 2).
    let shown = state.brokers.values().filter(|broker| !broker.is_fenced || request.include_fenced_brokers);
    let brokers = shown.map(|broker| {
        DescribeClusterBroker::default()
            .with_is_fenced(broker.is_fenced)
            .with_broker_id(admin::broker_id(broker.node_id))
            .with_host(admin::text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(admin::text))
    });
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(admin::text(&state.cluster_id))
        .with_controller_id(admin::controller(state, own))
        .with_brokers(brokers.collect())
}
