//! Where a client command finds its node.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::{Client, ClientError};

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
