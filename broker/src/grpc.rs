//! The gRPC door: administration of this node (`proto/highwater/v1/admin.proto`), the control plane, and
//! replication between brokers (docs/format.md "gRPC").
//!
//! Owns the server, which is up before the node is: coordinators must talk before they are a group. Until the
//! node is there, its own services answer UNAVAILABLE. Must not hold a call without a deadline, or let
//! clients send large messages or hold more than so many connections (invariant 16). The command line is one
//! of its clients.

mod admin;
mod cluster;
mod door;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use highwater_coordinator::ControlDoor;
use highwater_model::limits::{
    GRPC_CONNECTIONS_MAX, GRPC_MESSAGE_BYTES_MAX, GRPC_REQUESTS_PER_CONNECTION_MAX, OFFLOAD_WAIT_MAX,
    REPLICA_MESSAGE_BYTES_MAX,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::delayed::DelayedService;
use crate::node::Node;
use crate::raft::RaftService;
use crate::replication::ReplicationService;
use crate::replication::proto::replication_server::ReplicationServer;
use crate::slot::Slot;
use crate::transactions::TransactionsService;

/// Messages and services of package `highwater.v1`, generated.
pub mod proto {
    tonic::include_proto!("highwater.v1");
}

const KEEPALIVE: Duration = Duration::from_secs(60);

/// The services of the node itself, once it is there.
#[derive(Clone, Default)]
struct NodeServices {
    node: Slot,
    routes: Arc<OnceLock<axum::Router>>,
}

/// Serves until `stop` turns true.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(
    node: Slot,
    control: ControlDoor,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let incoming = door::incoming(node.clone(), listener, GRPC_CONNECTIONS_MAX);
    let mut routes = Routes::builder();
    control.add_services(&mut routes);
    let late = NodeServices { node, routes: Arc::default() };
    let fallback = move |request: Request| of_node(late.clone(), request);
    let routes = routes.routes().into_axum_router().fallback(fallback);
    let stopped = async move {
        // The sender lives as long as the node; if it is gone, so is the node.
        let _ = stop.wait_for(|stopping| *stopping).await;
    };
    Server::builder()
        .concurrency_limit_per_connection(GRPC_REQUESTS_PER_CONNECTION_MAX)
        .max_concurrent_streams(GRPC_REQUESTS_PER_CONNECTION_MAX as u32)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .timeout(OFFLOAD_WAIT_MAX + KEEPALIVE)
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}

/// Brings a call to a service of the node.
async fn of_node(late: NodeServices, request: Request) -> Result<Response, Infallible> {
    let Some(node) = late.node.get() else {
        return Ok(Status::unavailable("the node is starting").into_http());
    };
    let mut routes = late.routes.get_or_init(|| services(node)).clone();
    routes.call(request).await
}

fn services(node: &Arc<Node>) -> axum::Router {
    let admin = proto::admin_server::AdminServer::new(admin::AdminService::new(node.clone()))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let replication = ReplicationServer::new(ReplicationService::new(node))
        .max_decoding_message_size(REPLICA_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(REPLICA_MESSAGE_BYTES_MAX);
    let raft = RaftService::server(node.raft.host.clone(), node.coordinator.cluster_id());
    let transactions = TransactionsService::server(node);
    let routes = Routes::new(admin).add_service(replication).add_service(raft);
    routes.add_service(transactions).add_service(DelayedService::server(node)).into_axum_router()
}
