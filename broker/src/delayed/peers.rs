//! Calls between brokers about delayed records (`proto/highwater/v1/delayed.proto`): the caller's end with
//! its connections, and the service.
//!
//! A call has a deadline, and one that fails says only that the outcome is not known. Must not decide
//! anything. Invariants: 16 (messages and connections are bounded, one per peer), 19 (a batch's CRC is
//! looked at where it is appended).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use highwater_model::limits::{DELAYED_ASK_WAIT_MAX, DELAYED_MESSAGE_BYTES_MAX, DELAYED_RELEASE_WAIT_MAX};
use highwater_model::{NodeId, TopicId, TopicPartition};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::ask::{AskFailure, answer};
use super::proto::delayed_client::DelayedClient;
use super::proto::delayed_server::{Delayed, DelayedServer};
use super::proto::{self, DelayedRecord, ReleaseAnswer, ReleaseRequest, TakeAnswer, TakeRequest};
use super::release::write_here;
use crate::core::delayed::{Ask, AskRecord, Source, read_record};
use crate::handlers::errors;
use crate::node::Node;

/// A connection to each peer that was called, with the address that it was made for.
#[derive(Default)]
pub(super) struct Peers {
    open: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Peers {
    fn client(&self, node: &Node, peer: NodeId) -> Result<DelayedClient<Channel>, Status> {
        let address = node.coordinator.with_state(|state| state.brokers.get(&peer).map(|b| b.grpc.clone()));
        let address = address.filter(|address| !address.is_empty());
        let address = address.ok_or_else(|| Status::unavailable("the peer's gRPC address is not known"))?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match open.get(&peer).filter(|(known, _)| *known == address) {
            Some((_, channel)) => channel.clone(),
            None => {
                let channel = highwater_coordinator::rpc::endpoint(&address)?.connect_lazy();
                open.insert(peer, (address, channel.clone()));
                channel
            }
        };
        let client = DelayedClient::new(channel).max_decoding_message_size(DELAYED_MESSAGE_BYTES_MAX);
        Ok(client.max_encoding_message_size(DELAYED_MESSAGE_BYTES_MAX))
    }

    /// Asks the shard on another node.
    pub async fn take(&self, node: &Node, peer: NodeId, ask: &Ask) -> Result<Vec<u32>, AskFailure> {
        let mut request = Request::new(message(node, ask));
        request.set_timeout(DELAYED_ASK_WAIT_MAX);
        let Ok(mut client) = self.client(node, peer) else { return Err(AskFailure::NotNow) };
        match tokio::time::timeout(DELAYED_ASK_WAIT_MAX, client.take(request)).await {
            Ok(Ok(told)) => {
                let TakeAnswer { error_code, message, deltas } = told.into_inner();
                match short(error_code) {
                    errors::NONE => Ok(deltas),
                    errors::THROTTLING_QUOTA_EXCEEDED => Err(AskFailure::Full(message)),
                    errors::OUT_OF_ORDER_SEQUENCE_NUMBER => Err(AskFailure::Older(message)),
                    errors::INVALID_RECORD => Err(AskFailure::Unfit(message)),
                    errors::NOT_COORDINATOR => Err(AskFailure::NotNow),
                    _ => Err(AskFailure::Unknown),
                }
            }
            Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                Err(AskFailure::Unfit(status.message().to_owned()))
            }
            Ok(Err(status)) => {
                tracing::debug!(peer, "the shard of delayed records cannot be asked: {status}");
                Err(AskFailure::Unknown)
            }
            Err(_) => Err(AskFailure::Unknown),
        }
    }

    /// Has another node append a batch that is due; Kafka's code.
    pub async fn release(&self, node: &Node, peer: NodeId, target: TopicPartition, batch: Bytes) -> i16 {
        let message = ReleaseRequest {
            cluster_id: node.coordinator.cluster_id(),
            topic_id: Bytes::copy_from_slice(target.topic_id.0.as_bytes()),
            partition: target.partition,
            batch,
        };
        let mut request = Request::new(message);
        request.set_timeout(DELAYED_RELEASE_WAIT_MAX);
        let Ok(mut client) = self.client(node, peer) else { return errors::NETWORK_EXCEPTION };
        match tokio::time::timeout(DELAYED_RELEASE_WAIT_MAX, client.release(request)).await {
            Ok(Ok(told)) => short(told.into_inner().error_code),
            Ok(Err(status)) => {
                tracing::debug!(peer, "delayed records cannot be sent: {status}");
                errors::NETWORK_EXCEPTION
            }
            Err(_) => errors::REQUEST_TIMED_OUT,
        }
    }
}

/// A code that does not fit is none that is known.
fn short(code: i32) -> i16 {
    i16::try_from(code).unwrap_or(errors::UNKNOWN_SERVER_ERROR)
}

fn message(node: &Node, ask: &Ask) -> TakeRequest {
    let source = ask.source.map(|source| proto::Source {
        producer_id: source.producer_id,
        producer_epoch: i32::from(source.epoch),
        first_sequence: source.first,
        last_sequence: source.last,
    });
    let record = |one: &AskRecord| {
        let AskRecord { delta, due_ms, is_due, ref record } = *one;
        DelayedRecord { delta, due_ms, is_due, record: record.clone() }
    };
    TakeRequest {
        cluster_id: node.coordinator.cluster_id(),
        topic_id: Bytes::copy_from_slice(ask.target.topic_id.0.as_bytes()),
        partition: ask.target.partition,
        source,
        records: ask.records.iter().map(record).collect(),
    }
}

fn target(topic_id: &Bytes, partition: i32) -> Result<TopicPartition, Status> {
    let topic_id = Uuid::from_slice(topic_id).map_err(|_| Status::invalid_argument("no topic id"))?;
    if partition < 0 {
        return Err(Status::invalid_argument("no partition"));
    }
    Ok(TopicPartition::new(TopicId(topic_id), partition))
}

fn source(given: &proto::Source) -> Result<Source, Status> {
    let epoch = i16::try_from(given.producer_epoch).ok().filter(|epoch| *epoch >= 0);
    let epoch = epoch.ok_or_else(|| Status::invalid_argument("an epoch that no producer has"))?;
    let (first, last) = (given.first_sequence, given.last_sequence);
    if given.producer_id < 0 || first < 0 || last < 0 {
        return Err(Status::invalid_argument("a producer or sequence that nobody has"));
    }
    Ok(Source { producer_id: given.producer_id, epoch, first, last })
}

fn ask_of(request: &TakeRequest) -> Result<Ask, Status> {
    let record = |one: &DelayedRecord| {
        read_record(&one.record).map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A copy: what waits must not hold on to the whole message.
        let record = Bytes::copy_from_slice(&one.record);
        Ok(AskRecord { delta: one.delta, due_ms: one.due_ms, is_due: one.is_due, record })
    };
    Ok(Ask {
        target: target(&request.topic_id, request.partition)?,
        source: request.source.as_ref().map(source).transpose()?,
        records: request.records.iter().map(record).collect::<Result<_, Status>>()?,
    })
}

/// Serves peers.
pub struct DelayedService {
    node: Weak<Node>,
}

impl DelayedService {
    /// To be added to the node's gRPC door.
    pub fn server(node: &Arc<Node>) -> DelayedServer<DelayedService> {
        DelayedServer::new(DelayedService { node: Arc::downgrade(node) })
            .max_decoding_message_size(DELAYED_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(DELAYED_MESSAGE_BYTES_MAX)
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

#[tonic::async_trait]
impl Delayed for DelayedService {
    async fn take(&self, request: Request<TakeRequest>) -> Result<Response<TakeAnswer>, Status> {
        let request = request.into_inner();
        let node = self.node(&request.cluster_id)?;
        let told = |error_code: i16, message, deltas| {
            Ok(Response::new(TakeAnswer { error_code: i32::from(error_code), message, deltas }))
        };
        let Ok(_seat) = node.delays.shared.serving.try_acquire() else {
            return told(errors::NOT_COORDINATOR, String::new(), Vec::new());
        };
        match answer(&node, ask_of(&request)?).await {
            Ok(deltas) => told(errors::NONE, String::new(), deltas),
            Err(AskFailure::Full(text)) => told(errors::THROTTLING_QUOTA_EXCEEDED, text, Vec::new()),
            Err(AskFailure::Older(text)) => told(errors::OUT_OF_ORDER_SEQUENCE_NUMBER, text, Vec::new()),
            Err(AskFailure::Unfit(text)) => told(errors::INVALID_RECORD, text, Vec::new()),
            Err(AskFailure::NotNow) => told(errors::NOT_COORDINATOR, String::new(), Vec::new()),
            Err(AskFailure::Unknown) => told(errors::NETWORK_EXCEPTION, String::new(), Vec::new()),
        }
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseAnswer>, Status> {
        let request = request.into_inner();
        let node = self.node(&request.cluster_id)?;
        let target = target(&request.topic_id, request.partition)?;
        let error_code = i32::from(write_here(&node, target, request.batch).await);
        Ok(Response::new(ReleaseAnswer { error_code }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let topic_id = Bytes::from_static(&[7; 16]);
        assert!(target(&topic_id, 0).is_ok() && target(&topic_id, -1).is_err());
        assert!(target(&Bytes::from_static(b"short"), 0).is_err());
        let given = |producer_id, producer_epoch, first_sequence| proto::Source {
            producer_id,
            producer_epoch,
            first_sequence,
            last_sequence: 9,
        };
        assert!(source(&given(1, 2, 3)).is_ok());
        assert!(source(&given(-1, 2, 3)).is_err() && source(&given(1, 40_000, 3)).is_err());
        assert!(source(&given(1, -1, 3)).is_err() && source(&given(1, 2, -3)).is_err());
        let record = DelayedRecord { delta: 0, due_ms: 5, is_due: false, record: Bytes::from_static(b"no") };
        let request = TakeRequest { topic_id, records: vec![record], ..TakeRequest::default() };
        assert!(ask_of(&request).is_err(), "a record that does not read");
    }
}
