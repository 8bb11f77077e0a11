//! A small Kafka client for the command line: one connection per broker, one request at a time on each.
//!
//! Owns: bootstrap, version negotiation, metadata and the retry rule of the commands. Must not: be used by
//! the broker itself, keep threads or tasks of its own, or buffer without bound: an answer is limited by
//! `limits::CLIENT_RESPONSE_BYTES_MAX`, every call by a deadline (invariant 16).

pub mod connection;
pub mod consume;
pub mod error;
pub mod produce;

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_model::limits;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::metadata_request::MetadataRequestTopic;
use highwater_wire::kafka::messages::{MetadataRequest, TopicName};
use highwater_wire::kafka::protocol::StrBytes;

pub use connection::Connection;
pub use error::{ClientError, error_code};

/// One partition as the cluster describes it.
#[derive(Clone, Debug)]
pub struct PartitionMetadata {
    pub partition: i32,
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    pub error_code: i16,
}

/// One topic as the cluster describes it; partitions in order.
#[derive(Clone, Debug)]
pub struct TopicMetadata {
    pub name: String,
    pub topic_id: uuid::Uuid,
    pub is_internal: bool,
    pub error_code: i16,
    pub partitions: Vec<PartitionMetadata>,
}

/// Connections to a cluster.
pub struct Client {
    bootstrap: Vec<String>,
    timeout: Duration,
    brokers: BTreeMap<i32, String>,
    connections: BTreeMap<String, Connection>,
}

impl Client {
    /// A client of the cluster that one of `bootstrap` (`HOST:PORT`, separated by commas) belongs to. Nothing
    /// is connected yet.
    pub fn new(bootstrap: &str, timeout: Duration) -> Result<Client, ClientError> {
        let bootstrap: Vec<String> =
            bootstrap.split(',').map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect();
        if bootstrap.is_empty() {
            return Err(ClientError::Address { address: String::new() });
        }
        Ok(Client { bootstrap, timeout, brokers: BTreeMap::new(), connections: BTreeMap::new() })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A connection to any broker: one that is open, or else the first of the bootstrap list that answers.
    pub async fn any(&mut self) -> Result<&mut Connection, ClientError> {
        let open = self.bootstrap.iter().find(|a| self.connections.contains_key(*a)).cloned();
        if let Some(address) = open {
            return self.at(&address).await;
        }
        let mut last = None;
        for address in self.bootstrap.clone() {
            match Connection::open(&address, self.timeout).await {
                Ok(connection) => {
                    return Ok(self.connections.entry(address).or_insert(connection));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("the bootstrap list is not empty"))
    }

    /// The connection to a broker by its id, as the last metadata named it.
    pub async fn broker(&mut self, node_id: i32) -> Result<&mut Connection, ClientError> {
        match self.brokers.get(&node_id).cloned() {
            Some(address) => self.at(&address).await,
            None => self.any().await,
        }
    }

    /// Ids of the brokers that the last metadata named.
    pub fn nodes(&self) -> Vec<i32> {
        self.brokers.keys().copied().collect()
    }

    async fn at(&mut self, address: &str) -> Result<&mut Connection, ClientError> {
        if self.connections.get(address).is_some_and(Connection::is_broken) {
            self.connections.remove(address);
        }
        if !self.connections.contains_key(address) {
            let connection = Connection::open(address, self.timeout).await?;
            self.connections.insert(address.to_owned(), connection);
        }
        Ok(self.connections.get_mut(address).expect("it was just put there"))
    }

    /// Metadata of the topics named, or of all. Brokers' addresses are remembered for [`Client::broker`].
    pub async fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        auto_create: bool,
    ) -> Result<Vec<TopicMetadata>, ClientError> {
        let topics = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let request =
            MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(auto_create);
        let response = self.any().await?.call(4, 12, &request).await?;
        self.brokers = response.brokers.iter().map(|b| (b.node_id.0, host_port(&b.host, b.port))).collect();
        Ok(response.topics.into_iter().map(topic_metadata).collect())
    }

    /// Metadata of one topic whose partitions all have a leader; waits for a topic that is just being
    /// created.
    pub async fn topic(&mut self, name: &str, auto_create: bool) -> Result<TopicMetadata, ClientError> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        loop {
            let mut topics = self.metadata(Some(&[name]), auto_create).await?;
            let topic = topics.pop().ok_or_else(|| ClientError::protocol("metadata without the topic"))?;
            let pending = topic.error_code == ResponseError::LeaderNotAvailable.code()
                || topic.error_code == ResponseError::UnknownTopicOrPartition.code() && auto_create
                || topic.error_code == 0 && topic.partitions.iter().any(|p| p.leader < 0);
            if !pending {
                error_code(topic.error_code, None, &format!("topic {name}"))?;
                return Ok(topic);
            }
            if tokio::time::Instant::now() >= deadline {
                error_code(topic.error_code, None, &format!("topic {name}"))?;
                return Err(ClientError::Timeout { what: format!("topic {name} to get a leader") });
            }
            tokio::time::sleep(limits::CLIENT_RETRY_PAUSE).await;
        }
    }
}

fn topic_metadata(
    topic: highwater_wire::kafka::messages::metadata_response::MetadataResponseTopic,
) -> TopicMetadata {
    let mut partitions: Vec<PartitionMetadata> = topic
        .partitions
        .into_iter()
        .map(|p| PartitionMetadata {
            partition: p.partition_index,
            leader: p.leader_id.0,
            leader_epoch: p.leader_epoch,
            replicas: p.replica_nodes.iter().map(|n| n.0).collect(),
            in_sync: p.isr_nodes.iter().map(|n| n.0).collect(),
            error_code: p.error_code,
        })
        .collect();
    partitions.sort_by_key(|p| p.partition);
    TopicMetadata {
        name: topic.name.map(|n| n.0.to_string()).unwrap_or_default(),
        topic_id: topic.topic_id,
        is_internal: topic.is_internal,
        error_code: topic.error_code,
        partitions,
    }
}

/// A topic's name as the protocol's type.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
