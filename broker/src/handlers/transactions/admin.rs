//! DescribeTransactions, ListTransactions and DescribeProducers: what operators see.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_groups::core::txn::{Described, Listing, TxnError};
use highwater_groups::core::types::Name;
use highwater_log::ProducerInfo;
use highwater_model::limits::TXN_DESCRIBED_MAX;
use highwater_wire::kafka::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use highwater_wire::kafka::messages::describe_transactions_response::{TopicData, TransactionState};
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;
use uuid::Uuid;

use crate::handlers::admin;
use crate::handlers::topics::{find_led, find_topic, unavailable_code};
use crate::node::Node;
use crate::transactions::{read, read_all};

pub async fn describe(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let mut states = Vec::with_capacity(request.transactional_ids.len().min(TXN_DESCRIBED_MAX));
    for (at, id) in request.transactional_ids.into_iter().enumerate() {
        let outcome = match at < TXN_DESCRIBED_MAX {
            true => describe_one(node, Name::from(id.as_str())).await,
            false => Err(TxnError::InvalidRequest),
        };
        let state = TransactionState::default().with_transactional_id(id);
        states.push(match outcome {
            Ok(described) => state_of(state, described),
            Err(error) => state.with_error_code(error.code()),
        });
    }
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

async fn describe_one(node: &Node, id: Name) -> Result<Described, TxnError> {
    let asked = id.clone();
    read(node, &id, move |coordinator, _| coordinator.describe(&asked)).await?
}

fn state_of(state: TransactionState, described: Described) -> TransactionState {
    let mut topics: BTreeMap<Name, Vec<i32>> = BTreeMap::new();
    for at in described.partitions {
        topics.entry(at.topic).or_default().push(at.partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        TopicData::default().with_topic(admin::name(&topic)).with_partitions(partitions)
    });
    state
        .with_transaction_state(StrBytes::from_static_str(described.state.name()))
        .with_transaction_timeout_ms(described.timeout_ms)
        .with_transaction_start_time_ms(described.started_ms)
        .with_producer_id(ProducerId(described.producer.id))
        .with_producer_epoch(described.producer.epoch)
        .with_topics(topics.collect())
}

pub async fn list(
    node: &Arc<Node>,
    _version: i16,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let listing = Listing {
        states: request.state_filters.iter().map(|state| state.to_string()).collect(),
        producer_ids: request.producer_id_filters.iter().map(|id| id.0).collect(),
        running_ms_min: request.duration_filter,
        pattern: request.transactional_id_pattern.map(|pattern| pattern.to_string()),
    };
    let unknown = |states: Vec<String>| states.into_iter().map(StrBytes::from_string).collect();
    let listed = read_all(node, move |coordinator, now| coordinator.list(now, &listing)).await;
    let listed = listed.and_then(|each| each.into_iter().collect::<Result<Vec<_>, _>>());
    let response = ListTransactionsResponse::default();
    match listed {
        Err(error) => response.with_error_code(error.code()),
        Ok(shards) => {
            let unknown_states = shards.first().map(|shard| shard.unknown_states.clone()).unwrap_or_default();
            let transactions = shards.into_iter().flat_map(|shard| shard.transactions).map(|one| {
                list_transactions_response::TransactionState::default()
                    .with_transactional_id(TransactionalId(admin::text(&one.transactional_id)))
                    .with_producer_id(ProducerId(one.producer_id))
                    .with_transaction_state(StrBytes::from_static_str(one.state.name()))
            });
            let transactions = transactions.collect();
            response.with_unknown_state_filters(unknown(unknown_states)).with_transaction_states(transactions)
        }
    }
}

pub async fn producers(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let view = node.partitions.view();
    let topics = request.topics.into_iter().map(|asked| {
        let topic = find_topic(&view, false, &asked.name, Uuid::nil());
        let partitions = asked.partition_indexes.iter().map(|index| {
            let found = topic.and_then(|topic| find_led(topic, *index));
            let producers =
                found.and_then(|partition| partition.producers().map_err(|e| unavailable_code(&e)));
            let response = PartitionResponse::default().with_partition_index(*index);
            match producers {
                Ok(producers) => {
                    response.with_active_producers(producers.into_iter().map(producer).collect())
                }
                Err(code) => response.with_error_code(code),
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default().with_name(asked.name).with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn producer(info: ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(info.producer_id))
        .with_producer_epoch(i32::from(info.epoch))
        .with_last_sequence(info.last_sequence)
        .with_last_timestamp(info.last_append_ms)
        .with_coordinator_epoch(info.coordinator_epoch)
        .with_current_txn_start_offset(info.txn_first.unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_without_a_transaction_has_none_at_minus_one() {
        let info = ProducerInfo {
            producer_id: 7,
            epoch: 2,
            last_sequence: 5,
            last_append_ms: 9,
            coordinator_epoch: -1,
            txn_first: None,
        };
        assert_eq!(producer(info).current_txn_start_offset, -1);
        let open = ProducerInfo { txn_first: Some(40), ..info };
        assert_eq!(producer(open).current_txn_start_offset, 40);
    }
}
