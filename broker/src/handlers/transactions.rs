//! Requests of transactions: Kafka's messages to the core's plain data and back.
//!
//! Decides nothing about transactions (`highwater-groups` does, in the shard's task). What is judged here is
//! what only the cluster's metadata knows, such as whether a topic exists.

pub mod admin;
pub mod markers;
pub mod offsets;

use std::sync::Arc;

use highwater_groups::core::shard::partition_of;
use highwater_groups::core::txn::{
    AddPartitions, ClientVersion, EndTxn, InitProducerId, Producer, Reply, TxnError, TxnPartition,
};
use highwater_groups::core::types::Name;
use highwater_wire::kafka::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use highwater_wire::kafka::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use highwater_wire::kafka::messages::*;

use super::errors;
use crate::groups::{self, OFFSETS_TOPIC};
use crate::node::Node;
use crate::transactions::{Asking, Request, call, read};

/// Since then InitProducerId, and since the other version the other requests, know PRODUCER_FENCED (KIP-588).
const INIT_FENCED_SINCE: i16 = 4;
const FENCED_SINCE: i16 = 2;
/// Since then AddPartitionsToTxn is batched, and sent by brokers.
const BATCHED_SINCE: i16 = 4;
/// Since then clients of EndTxn and TxnOffsetCommit know TRANSACTION_ABORTABLE.
const END_ABORTABLE_SINCE: i16 = 4;
/// Since then the answer to EndTxn has the producer to go on as.
const PRODUCER_SINCE: i16 = 5;

/// What the versions of a request that writes into transactions know (KIP-890).
pub(super) struct Versions {
    /// Since then clients leave it to brokers to add partitions to a transaction.
    pub add_since: i16,
    /// Since then they know TRANSACTION_ABORTABLE.
    pub abortable_since: i16,
    /// What they are told for what may pass.
    pub again: i16,
}

impl Versions {
    pub fn leave_adding(&self, version: i16) -> bool {
        version >= self.add_since
    }

    /// The coordinator's code as a client of this version understands it.
    pub fn told(&self, code: i16, version: i16) -> i16 {
        match code {
            errors::NETWORK_EXCEPTION
            | errors::COORDINATOR_LOAD_IN_PROGRESS
            | errors::COORDINATOR_NOT_AVAILABLE
            | errors::NOT_COORDINATOR => self.again,
            errors::CONCURRENT_TRANSACTIONS if !self.leave_adding(version) => self.again,
            errors::PRODUCER_FENCED => errors::INVALID_PRODUCER_EPOCH,
            errors::TRANSACTION_ABORTABLE if version < self.abortable_since => errors::INVALID_TXN_STATE,
            code => code,
        }
    }
}

fn name(id: &TransactionalId) -> Name {
    Name::from(id.as_str())
}

/// InitProducerId with a transactional id.
pub async fn init(node: &Node, version: i16, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    let outcome = init_outcome(node, request).await;
    let (code, producer) = match outcome {
        Ok(producer) => (errors::NONE, producer),
        Err(error) => {
            let code = error.code_for(version >= INIT_FENCED_SINCE, true);
            (code, Producer { id: -1, epoch: -1 })
        }
    };
    InitProducerIdResponse::default()
        .with_error_code(code)
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
}

async fn init_outcome(node: &Node, request: &InitProducerIdRequest) -> Result<Producer, TxnError> {
    let id = request.transactional_id.as_ref().map(name).ok_or(TxnError::InvalidRequest)?;
    let expected = match (request.producer_id.0, request.producer_epoch) {
        (-1, -1) => None,
        (id, epoch) if id >= 0 && epoch >= 0 => Some(Producer { id, epoch }),
        _ => return Err(TxnError::InvalidRequest),
    };
    let timeout_ms = request.transaction_timeout_ms;
    let asked = InitProducerId { transactional_id: id.clone(), timeout_ms, expected };
    match call_with_ids(node, &id, Request::InitProducerId(asked)).await? {
        Reply::InitProducerId(outcome) => outcome,
        _ => Err(TxnError::UnknownServerError),
    }
}

/// As [`call`], for what may need a producer id that was never used. Few do, and the control plane may be
/// away: it is asked for ids only once the coordinator has said that there is none at hand.
///
/// # Errors
/// As [`call`].
async fn call_with_ids(node: &Node, id: &str, request: Request) -> Result<Reply, TxnError> {
    let reply = call(node, id, request.clone()).await?;
    let none_at_hand = Err(TxnError::CoordinatorLoadInProgress);
    match &reply {
        Reply::InitProducerId(outcome) | Reply::EndTxn(outcome) if *outcome == none_at_hand => {}
        _ => return Ok(reply),
    }
    node.producer_ids.prepare(node).await;
    call(node, id, request).await
}

pub async fn add_partitions(
    node: &Arc<Node>,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if version < BATCHED_SINCE {
        let producer =
            Producer { id: request.v3_and_below_producer_id.0, epoch: request.v3_and_below_producer_epoch };
        let asking = Asking {
            transactional_id: name(&request.v3_and_below_transactional_id),
            producer,
            partitions: partitions(&request.v3_and_below_topics),
            adds: true,
        };
        let codes = add(node, version, &asking).await;
        let results = results(request.v3_and_below_topics, codes);
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
    }
    let mut all = Vec::with_capacity(request.transactions.len());
    for transaction in request.transactions {
        let asking = Asking {
            transactional_id: name(&transaction.transactional_id),
            producer: Producer { id: transaction.producer_id.0, epoch: transaction.producer_epoch },
            partitions: partitions(&transaction.topics),
            adds: !transaction.verify_only,
        };
        let codes = add(node, version, &asking).await;
        let result = AddPartitionsToTxnResult::default()
            .with_transactional_id(transaction.transactional_id)
            .with_topic_results(results(transaction.topics, codes));
        all.push(result);
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(all)
}

fn partitions(topics: &[AddPartitionsToTxnTopic]) -> Vec<TxnPartition> {
    let each = topics.iter().flat_map(|topic| {
        let name = Name::from(topic.name.as_str());
        topic.partitions.iter().map(move |partition| TxnPartition::new(name.clone(), *partition))
    });
    each.collect()
}

/// A code for each partition, in order.
async fn add(node: &Node, version: i16, asking: &Asking) -> Vec<i16> {
    let exists = node.coordinator.with_state(|state| {
        let exists = |at: &TxnPartition| {
            let topic = state.topic_by_name(&at.topic);
            topic.is_some_and(|topic| topic.partition(at.partition).is_some())
        };
        asking.partitions.iter().map(exists).collect::<Vec<bool>>()
    });
    // All or none, as in Kafka.
    if exists.contains(&false) {
        let code = |exists: bool| match exists {
            true => errors::OPERATION_NOT_ATTEMPTED,
            false => errors::UNKNOWN_TOPIC_OR_PARTITION,
        };
        return exists.into_iter().map(code).collect();
    }
    let count = asking.partitions.len();
    let told = |error: TxnError| error.code_for(version >= FENCED_SINCE, true);
    let asked = AddPartitions {
        transactional_id: asking.transactional_id.clone(),
        producer: asking.producer,
        partitions: asking.partitions.clone(),
        version: ClientVersion::of_add_partitions(version),
    };
    let id = &asking.transactional_id;
    if !asking.adds {
        return match read(node, id, move |coordinator, _| coordinator.verify(&asked)).await {
            Ok(Ok(each)) => each.into_iter().map(|one| one.map_or_else(told, |()| 0)).collect(),
            Ok(Err(error)) | Err(error) => vec![told(error); count],
        };
    }
    let code = match call(node, id, Request::AddPartitions(asked)).await {
        Ok(Reply::AddPartitions(outcome)) => outcome.map_or_else(told, |()| 0),
        Ok(_) => errors::UNKNOWN_SERVER_ERROR,
        Err(error) => told(error),
    };
    vec![code; count]
}

fn results(topics: Vec<AddPartitionsToTxnTopic>, codes: Vec<i16>) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut codes = codes.into_iter();
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*partition)
                .with_partition_error_code(codes.next().unwrap_or(errors::UNKNOWN_SERVER_ERROR))
        });
        let partitions = partitions.collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name).with_results_by_partition(partitions)
    });
    topics.collect()
}

pub async fn add_offsets(
    node: &Arc<Node>,
    version: i16,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let outcome = add_offsets_outcome(node, &request).await;
    let code = outcome.map_or_else(|error| error.code_for(version >= FENCED_SINCE, true), |()| errors::NONE);
    AddOffsetsToTxnResponse::default().with_error_code(code)
}

async fn add_offsets_outcome(node: &Arc<Node>, request: &AddOffsetsToTxnRequest) -> Result<(), TxnError> {
    let partition = offsets_partition(node, request.group_id.as_str()).await;
    let id = name(&request.transactional_id);
    let asked = AddPartitions {
        transactional_id: id.clone(),
        producer: Producer { id: request.producer_id.0, epoch: request.producer_epoch },
        partitions: vec![partition.ok_or(TxnError::CoordinatorNotAvailable)?],
        version: ClientVersion::V0,
    };
    match call(node, &id, Request::AddOffsets(asked)).await? {
        Reply::AddOffsets(outcome) => outcome,
        _ => Err(TxnError::UnknownServerError),
    }
}

/// The partition that holds a group's offsets; the topic is made if need be.
async fn offsets_partition(node: &Arc<Node>, group: &str) -> Option<TxnPartition> {
    let count = || {
        let count = |state: &highwater_coordinator::core::ClusterState| {
            state.topic_by_name(OFFSETS_TOPIC).and_then(|topic| i32::try_from(topic.partitions.len()).ok())
        };
        node.coordinator.with_state(count)
    };
    let known = match count() {
        Some(known) => Some(known),
        None => {
            groups::find(node, &[group]).await;
            count()
        }
    };
    Some(TxnPartition::new(OFFSETS_TOPIC, partition_of(group, known?)))
}

pub async fn end(node: &Arc<Node>, version: i16, request: EndTxnRequest) -> EndTxnResponse {
    let id = name(&request.transactional_id);
    let asked = EndTxn {
        transactional_id: id.clone(),
        producer: Producer { id: request.producer_id.0, epoch: request.producer_epoch },
        commit: request.committed,
        version: ClientVersion::of_end_txn(version),
    };
    let outcome = match call_with_ids(node, &id, Request::EndTxn(asked)).await {
        Ok(Reply::EndTxn(outcome)) => outcome,
        Ok(_) => Err(TxnError::UnknownServerError),
        Err(error) => Err(error),
    };
    let knows = (version >= FENCED_SINCE, version >= END_ABORTABLE_SINCE);
    let (code, producer) = match outcome {
        Ok(producer) => (errors::NONE, producer),
        Err(error) => (error.code_for(knows.0, knows.1), Producer { id: -1, epoch: -1 }),
    };
    let response = EndTxnResponse::default().with_error_code(code);
    match version >= PRODUCER_SINCE {
        true => response.with_producer_id(ProducerId(producer.id)).with_producer_epoch(producer.epoch),
        false => response,
    }
}
