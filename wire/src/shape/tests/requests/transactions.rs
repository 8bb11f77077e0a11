//! Random requests of transactions.

use super::*;
use crate::kafka::messages::{
    add_partitions_to_txn_request as add, describe_producers_request as producers,
    txn_offset_commit_request as commit, write_txn_markers_request as markers,
};

pub fn any_request(dice: &mut Dice, key: i16, version: i16) -> RequestKind {
    match key {
        api::ADD_PARTITIONS_TO_TXN => RequestKind::AddPartitionsToTxn(any_add(dice, version)),
        api::ADD_OFFSETS_TO_TXN => {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(id(dice))
                .with_producer_id(producer(dice))
                .with_producer_epoch(number(dice) as i16)
                .with_group_id(GroupId(text(dice)));
            RequestKind::AddOffsetsToTxn(tags!(dice, version >= 3, request))
        }
        api::END_TXN => {
            let request = EndTxnRequest::default()
                .with_transactional_id(id(dice))
                .with_producer_id(producer(dice))
                .with_producer_epoch(number(dice) as i16)
                .with_committed(dice.one_in(2));
            RequestKind::EndTxn(tags!(dice, version >= 3, request))
        }
        api::WRITE_TXN_MARKERS => RequestKind::WriteTxnMarkers(any_markers(dice)),
        api::TXN_OFFSET_COMMIT => RequestKind::TxnOffsetCommit(any_commit(dice, version)),
        api::DESCRIBE_PRODUCERS => {
            let topics = some(dice, |dice| {
                let topic = producers::TopicRequest::default().with_name(topic(dice));
                let topic = topic.with_partition_indexes(some(dice, number));
                tags!(dice, true, topic)
            });
            let request = DescribeProducersRequest::default().with_topics(topics);
            RequestKind::DescribeProducers(tags!(dice, true, request))
        }
        api::DESCRIBE_TRANSACTIONS => {
            let request = DescribeTransactionsRequest::default().with_transactional_ids(some(dice, id));
            RequestKind::DescribeTransactions(tags!(dice, true, request))
        }
        api::LIST_TRANSACTIONS => {
            let mut request = ListTransactionsRequest::default()
                .with_state_filters(some(dice, text))
                .with_producer_id_filters(some(dice, producer));
            if version >= 1 {
                request = request.with_duration_filter(dice.next() as i64);
            }
            if version >= 2 {
                request = request.with_transactional_id_pattern(maybe(dice, text));
            }
            RequestKind::ListTransactions(tags!(dice, true, request))
        }
        other => panic!("no requests of API {other}"),
    }
}

fn id(dice: &mut Dice) -> TransactionalId {
    TransactionalId(text(dice))
}

fn producer(dice: &mut Dice) -> ProducerId {
    ProducerId(dice.next() as i64)
}

fn any_add(dice: &mut Dice, version: i16) -> AddPartitionsToTxnRequest {
    let topics = |dice: &mut Dice| {
        some(dice, |dice| {
            let topic = add::AddPartitionsToTxnTopic::default().with_name(topic(dice));
            let topic = topic.with_partitions(some(dice, number));
            tags!(dice, version >= 3, topic)
        })
    };
    let request = AddPartitionsToTxnRequest::default();
    let request = match version >= 4 {
        true => {
            let transactions = some(dice, |dice| {
                let transaction = add::AddPartitionsToTxnTransaction::default()
                    .with_transactional_id(id(dice))
                    .with_producer_id(producer(dice))
                    .with_producer_epoch(number(dice) as i16)
                    .with_verify_only(dice.one_in(2))
                    .with_topics(topics(dice));
                tags!(dice, true, transaction)
            });
            request.with_transactions(transactions)
        }
        false => request
            .with_v3_and_below_transactional_id(id(dice))
            .with_v3_and_below_producer_id(producer(dice))
            .with_v3_and_below_producer_epoch(number(dice) as i16)
            .with_v3_and_below_topics(topics(dice)),
    };
    tags!(dice, version >= 3, request)
}

fn any_markers(dice: &mut Dice) -> WriteTxnMarkersRequest {
    let markers = some(dice, |dice| {
        let topics = some(dice, |dice| {
            let topic = markers::WritableTxnMarkerTopic::default().with_name(topic(dice));
            let topic = topic.with_partition_indexes(some(dice, number));
            tags!(dice, true, topic)
        });
        let marker = markers::WritableTxnMarker::default()
            .with_producer_id(producer(dice))
            .with_producer_epoch(number(dice) as i16)
            .with_transaction_result(dice.one_in(2))
            .with_topics(topics)
            .with_coordinator_epoch(number(dice));
        tags!(dice, true, marker)
    });
    let request = WriteTxnMarkersRequest::default().with_markers(markers);
    tags!(dice, true, request)
}

fn any_commit(dice: &mut Dice, version: i16) -> TxnOffsetCommitRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            let partition = commit::TxnOffsetCommitRequestPartition::default()
                .with_partition_index(number(dice))
                .with_committed_offset(dice.next() as i64)
                .with_committed_metadata(maybe(dice, text));
            let partition = match version >= 2 {
                true => partition.with_committed_leader_epoch(number(dice)),
                false => partition,
            };
            tags!(dice, version >= 3, partition)
        });
        let topic = commit::TxnOffsetCommitRequestTopic::default().with_name(topic(dice));
        let topic = topic.with_partitions(partitions);
        tags!(dice, version >= 3, topic)
    });
    let mut request = TxnOffsetCommitRequest::default()
        .with_transactional_id(id(dice))
        .with_group_id(GroupId(text(dice)))
        .with_producer_id(producer(dice))
        .with_producer_epoch(number(dice) as i16)
        .with_topics(topics);
    if version >= 3 {
        request = request
            .with_generation_id(number(dice))
            .with_member_id(text(dice))
            .with_group_instance_id(maybe(dice, text));
    }
    tags!(dice, version >= 3, request)
}
