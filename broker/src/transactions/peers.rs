//! Calls between brokers about transactions (`proto/highwater/v1/transactions.proto`): the caller's end with
//! its connections, and the service.
//!
//! A call has a deadline, and one that fails says only that the outcome is not known. Must not decide
//! anything. Invariant 16: messages and connections are bounded (two per peer).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_groups::core::txn::{Producer, TxnPartition};
use highwater_groups::core::types::Name;
use highwater_model::NodeId;
use highwater_model::limits::{
    TXN_MARKER_COMMIT_MAX, TXN_MESSAGE_BYTES_MAX, TXN_PARTITIONS_MAX, TXN_VERIFY_WAIT_MAX,
};
use highwater_wire::control::EndMarker;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::ask::{Asked, Asking, answer};
use super::markers::write_here;
use super::proto::transactions_client::TransactionsClient;
use super::proto::transactions_server::{Transactions, TransactionsServer};
use super::proto::{AskAnswer, AskRequest, CodesAnswer, MarkersRequest, TopicPartitions};
use crate::handlers::errors;
use crate::node::Node;
use crate::partition::Marker;

/// What a connection is for: markers may wait long for their commit, and no question behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Ask,
    Mark,
}

/// A connection to each peer that was called, for each purpose, with the address that it was made for.
#[derive(Default)]
pub struct Peers {
    open: Mutex<BTreeMap<(NodeId, Purpose), (String, Channel)>>,
}

impl Peers {
    fn client(
        &self,
        node: &Node,
        peer: NodeId,
        purpose: Purpose,
    ) -> Result<TransactionsClient<Channel>, Status> {
        let address = node.coordinator.with_state(|state| state.brokers.get(&peer).map(|b| b.grpc.clone()));
        let address = address.filter(|address| !address.is_empty());
        let address = address.ok_or_else(|| Status::unavailable("the peer's gRPC address is not known"))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match open.get(&(peer, purpose)).filter(|(known, _)| *known == address) {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel = highwater_coordinator::rpc::endpoint(&address)?.connect_lazy();
                open.insert((peer, purpose), (address, channel.clone()));
                channel
            }
        };
        let client = TransactionsClient::new(channel).max_decoding_message_size(TXN_MESSAGE_BYTES_MAX);
        Ok(client.max_encoding_message_size(TXN_MESSAGE_BYTES_MAX))
    }

    /// Asks the coordinator on another node.
    pub async fn ask(&self, node: &Node, peer: NodeId, asking: &Asking) -> Asked {
        let message = AskRequest {
            cluster_id: node.coordinator.cluster_id(),
            transactional_id: asking.transactional_id.to_string(),
            producer_id: asking.producer.id,
            producer_epoch: i32::from(asking.producer.epoch),
            topics: topics(&asking.partitions),
            adds: asking.adds,
        };
        let called = async {
            let mut request = Request::new(message);
            request.set_timeout(TXN_VERIFY_WAIT_MAX);
            self.client(node, peer, Purpose::Ask)?.ask(request).await
        };
        match tokio::time::timeout(TXN_VERIFY_WAIT_MAX, called).await {
            Ok(Ok(answer)) => {
                let AskAnswer { error_code, codes } = answer.into_inner();
                let error = short(error_code);
                let codes: Vec<i16> = codes.into_iter().map(short).collect();
                match error {
                    errors::NONE if codes.len() == asking.partitions.len() => Ok(codes),
                    errors::NONE => Err(errors::UNKNOWN_SERVER_ERROR),
                    error => Err(error),
                }
            }
            Ok(Err(status)) => {
                tracing::debug!(peer, "the coordinator cannot be asked: {status}");
                Err(errors::NETWORK_EXCEPTION)
            }
            Err(_) => Err(errors::NETWORK_EXCEPTION),
        }
    }

    /// Has another node write a marker; a code for each partition, or none where that is not known.
    pub async fn write_markers(
        &self,
        node: &Node,
        peer: NodeId,
        marker: &Marker,
        partitions: &[TxnPartition],
    ) -> Vec<i16> {
        let message = MarkersRequest {
            cluster_id: node.coordinator.cluster_id(),
            producer_id: marker.producer_id,
            producer_epoch: i32::from(marker.producer_epoch),
            coordinator_epoch: marker.end.coordinator_epoch,
            commit: marker.end.commit,
            bumps_epoch: marker.bumps_epoch,
            topics: topics(partitions),
        };
        let called =
            async { self.client(node, peer, Purpose::Mark)?.write_markers(Request::new(message)).await };
        match tokio::time::timeout(TXN_MARKER_COMMIT_MAX, called).await {
            Ok(Ok(answer)) => answer.into_inner().codes.into_iter().map(short).collect(),
            Ok(Err(status)) => {
                tracing::debug!(peer, "markers cannot be sent: {status}");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

/// A code that does not fit is none that is known.
fn short(code: i32) -> i16 {
    i16::try_from(code).unwrap_or(errors::UNKNOWN_SERVER_ERROR)
}

/// Partitions by topic; neighbours of one topic together, so that the order stays.
fn topics(partitions: &[TxnPartition]) -> Vec<TopicPartitions> {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for at in partitions {
        match topics.last_mut() {
            Some(last) if last.topic == at.topic.as_ref() => last.partitions.push(at.partition),
            _ => topics.push(TopicPartitions { topic: at.topic.to_string(), partitions: vec![at.partition] }),
        }
    }
    topics
}

fn partitions(topics: Vec<TopicPartitions>) -> Result<Vec<TxnPartition>, Status> {
    let count: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    if count > TXN_PARTITIONS_MAX {
        return Err(Status::invalid_argument("more partitions than a transaction may have"));
    }
    let each = topics.into_iter().flat_map(|topic| {
        let name = Name::from(topic.topic);
        topic.partitions.into_iter().map(move |partition| TxnPartition::new(name.clone(), partition))
    });
    Ok(each.collect())
}

/// Serves peers.
pub struct TransactionsService {
    node: Weak<Node>,
}

impl TransactionsService {
    /// To be added to the node's gRPC door.
    pub fn server(node: &Arc<Node>) -> TransactionsServer<TransactionsService> {
        TransactionsServer::new(TransactionsService { node: Arc::downgrade(node) })
            .max_decoding_message_size(TXN_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(TXN_MESSAGE_BYTES_MAX)
    }

    fn node(&self, cluster_id: &str) -> Result<Arc<Node>, Status> {
        let node = self.node.upgrade().ok_or_else(|| Status::unavailable("the node has stopped"))?;
        match node.coordinator.cluster_id() {
            own if own == cluster_id => Ok(node),
            own => {
                let text = format!("this node is of cluster {own}, the caller of {cluster_id}");
                Err(Status::failed_precondition(text))
            }
        }
    }
}

fn epoch(given: i32) -> Result<i16, Status> {
    let epoch = i16::try_from(given).ok().filter(|epoch| *epoch >= 0);
    epoch.ok_or_else(|| Status::invalid_argument("an epoch that no producer has"))
}

#[tonic::async_trait]
impl Transactions for TransactionsService {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskAnswer>, Status> {
        let asked = request.into_inner();
        let node = self.node(&asked.cluster_id)?;
        let asking = Asking {
            transactional_id: Name::from(asked.transactional_id),
            producer: Producer { id: asked.producer_id, epoch: epoch(asked.producer_epoch)? },
            partitions: partitions(asked.topics)?,
            adds: asked.adds,
        };
        let (error_code, codes) = match answer(&node, &asking).await {
            Ok(codes) => (errors::NONE, codes),
            Err(code) => (code, Vec::new()),
        };
        let codes = codes.into_iter().map(i32::from).collect();
        Ok(Response::new(AskAnswer { error_code: i32::from(error_code), codes }))
    }

    async fn write_markers(&self, request: Request<MarkersRequest>) -> Result<Response<CodesAnswer>, Status> {
        let asked = request.into_inner();
        let node = self.node(&asked.cluster_id)?;
        if asked.producer_id < 0 || asked.coordinator_epoch < 0 {
            return Err(Status::invalid_argument("a producer or coordinator that nobody has"));
        }
        let marker = Marker {
            producer_id: asked.producer_id,
            producer_epoch: epoch(asked.producer_epoch)?,
            end: EndMarker { commit: asked.commit, coordinator_epoch: asked.coordinator_epoch },
            bumps_epoch: asked.bumps_epoch,
        };
        let partitions = partitions(asked.topics)?;
        let codes = write_here(&node, &marker, &partitions).await;
        Ok(Response::new(CodesAnswer { codes: codes.into_iter().map(i32::from).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_keep_their_order() {
        let at = |topic: &str, partition| TxnPartition::new(topic, partition);
        let given = vec![at("a", 1), at("a", 0), at("b", 7), at("a", 2)];
        let message = topics(&given);
        assert_eq!(message.len(), 3);
        assert_eq!(partitions(message).expect("few"), given);
        let many = TopicPartitions { topic: "t".into(), partitions: vec![0; TXN_PARTITIONS_MAX + 1] };
        assert!(partitions(vec![many]).is_err());
        assert!(epoch(-1).is_err() && epoch(40_000).is_err() && epoch(7).is_ok());
    }
}
