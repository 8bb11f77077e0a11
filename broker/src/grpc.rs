//! The gRPC door: administration of this node (`proto/highwater/v1/admin.proto`, docs/format.md "gRPC").
//!
//! Owns the service and its server. Must not hold a call without a deadline, or let clients send large
//! messages or hold more than so many connections (invariant 16). The command line is one of its clients.

mod admin;
mod door;

use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::{GRPC_MESSAGE_BYTES_MAX, GRPC_REQUESTS_PER_CONNECTION_MAX, OFFLOAD_WAIT_MAX};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;

use crate::node::Node;

/// Messages and services of package `highwater.v1`, generated.
pub mod proto {
    tonic::include_proto!("highwater.v1");
}

const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves until `stop` turns true.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let incoming = door::incoming(node.clone(), listener);
    let service = proto::admin_server::AdminServer::new(admin::AdminService::new(node))
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX);
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
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}
