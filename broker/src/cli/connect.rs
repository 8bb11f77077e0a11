//! Where a client command finds its node.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tonic::transport::{Channel, Endpoint};

use super::CommandError;
use crate::client::{Client, ClientError};
use crate::grpc::proto::admin_client::AdminClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer of the gRPC door, where the command has none of its own.
pub const GRPC_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The Kafka door of a node.
#[derive(Clone, Debug, Args)]
pub struct KafkaArgs {
    /// Brokers to start from: HOST:PORT, several separated by commas.
    #[arg(long, env = "HIGHWATER_KAFKA", default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub kafka: String,
    /// How long to wait for an answer.
    #[arg(long, default_value_t = 30_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub timeout_ms: u64,
}

impl KafkaArgs {
    pub fn client(&self) -> Result<Client, ClientError> {
        Client::new(&self.kafka, Duration::from_millis(self.timeout_ms))
    }
}

/// Form of what a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns, for people.
    Table,
    /// One JSON document, for programs.
    Json,
}

/// The gRPC door of a node, and the form of what is written.
#[derive(Debug, Args)]
pub struct GrpcArgs {
    /// Administration address of the node.
    #[arg(long, env = "HIGHWATER_GRPC", default_value = "127.0.0.1:9093", value_name = "HOST:PORT")]
    pub grpc: String,
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,
}

/// A connection to a node's gRPC door.
pub async fn connect(args: &GrpcArgs, timeout: Duration) -> Result<AdminClient<Channel>, CommandError> {
    Ok(AdminClient::new(channel(args, timeout).await?))
}

/// The same for any service behind it.
pub async fn channel(args: &GrpcArgs, timeout: Duration) -> Result<Channel, CommandError> {
    let address = &args.grpc;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| CommandError::Failed(format!("{address:?} is no address; give --grpc HOST:PORT")))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(timeout);
    endpoint.connect().await.map_err(|error| {
        let reason = innermost(&error);
        CommandError::Failed(format!(
            "cannot connect to {address}: {reason}; is a node running there? (--grpc HOST:PORT)"
        ))
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
