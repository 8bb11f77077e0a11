//! What operators see of transactions, ends that they force, and requests that are refused.

use highwater_wire::api;
use highwater_wire::kafka::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use highwater_wire::kafka::messages::describe_producers_request::TopicRequest;
use highwater_wire::kafka::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;

use crate::it::harness::*;
use crate::it::transactions::{
    INVALID_PRODUCER_EPOCH, Rules, Txn, harness, init_request, seen, txn_id, until_seen,
};

async fn describe(client: &mut Client, id: &str) -> describe_transactions_response::TransactionState {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![txn_id(id)]);
    let answer: DescribeTransactionsResponse = client.call(api::DESCRIBE_TRANSACTIONS, 0, &request).await;
    answer.transaction_states[0].clone()
}

/// Waits until the transaction is in this state.
async fn until_state(client: &mut Client, id: &str, state: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let described = describe(client, id).await;
        if described.transaction_state.as_str() == state {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{described:?} and not {state}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn producers(client: &mut Client) -> Vec<describe_producers_response::ProducerState> {
    let topic = TopicRequest::default().with_name(name("t")).with_partition_indexes(vec![0]);
    let request = DescribeProducersRequest::default().with_topics(vec![topic]);
    let answer: DescribeProducersResponse = client.call(api::DESCRIBE_PRODUCERS, 0, &request).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    answer.topics[0].partitions[0].active_producers.clone()
}

async fn list(client: &mut Client, request: &ListTransactionsRequest) -> Vec<(String, String)> {
    let answer: ListTransactionsResponse = client.call(api::LIST_TRANSACTIONS, 2, request).await;
    assert_eq!(answer.error_code, 0, "{answer:?}");
    let one = |state: &list_transactions_response::TransactionState| {
        (state.transactional_id.to_string(), state.transaction_state.to_string())
    };
    let mut listed: Vec<_> = answer.transaction_states.iter().map(one).collect();
    listed.sort();
    listed
}

#[tokio::test]
async fn operators_see_transactions_and_producers() {
    let harness = harness().await;
    let mut client = harness.client().await;
    let mut open = Txn::begin(&harness, "open", Rules::New).await;
    open.write("t", 0, &[b"a", b"b"]).await;
    let mut done = Txn::begin(&harness, "done", Rules::Old).await;
    done.write("t", 1, &[b"c"]).await;
    done.end(true).await;
    until_state(&mut client, "done", "CompleteCommit").await;
    let described = describe(&mut client, "open").await;
    assert_eq!((described.error_code, described.transaction_state.as_str()), (0, "Ongoing"));
    assert_eq!((described.producer_id.0, described.producer_epoch), open.producer);
    assert_eq!(described.transaction_timeout_ms, 60_000);
    assert!(described.transaction_start_time_ms > 0);
    assert_eq!(described.topics[0].topic.as_str(), "t");
    assert_eq!(described.topics[0].partitions, [0]);
    assert_eq!(describe(&mut client, "nobody").await.error_code, 105, "TRANSACTIONAL_ID_NOT_FOUND");
    let all = ListTransactionsRequest::default().with_duration_filter(-1);
    let both = [("done", "CompleteCommit"), ("open", "Ongoing")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(list(&mut client, &all).await, both);
    let ongoing = all.clone().with_state_filters(vec!["Ongoing".into(), "Nonsense".into()]);
    assert_eq!(list(&mut client, &ongoing).await, both[1..]);
    let pattern = all.clone().with_transactional_id_pattern(Some("d.*".into()));
    assert_eq!(list(&mut client, &pattern).await, both[..1]);
    let seen = producers(&mut client).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].producer_id.0, seen[0].producer_epoch),
        (open.producer.0, i32::from(open.producer.1))
    );
    assert_eq!((seen[0].last_sequence, seen[0].current_txn_start_offset), (1, 0));
    open.end(false).await;
    until_state(&mut client, "open", "CompleteAbort").await;
    assert_eq!(producers(&mut client).await[0].current_txn_start_offset, -1);
    harness.stop().await;
}

#[tokio::test]
async fn an_operator_ends_a_transaction_that_hangs() {
    let harness = harness().await;
    let mut client = harness.client().await;
    let mut hung = Txn::begin(&harness, "hung", Rules::Old).await;
    hung.write("t", 0, &[b"a"]).await;
    let marker = |epoch: i16, coordinator_epoch: i32| {
        let topic = WritableTxnMarkerTopic::default().with_name(name("t")).with_partition_indexes(vec![0, 9]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(hung.producer.0))
            .with_producer_epoch(epoch)
            .with_transaction_result(false)
            .with_coordinator_epoch(coordinator_epoch)
            .with_topics(vec![topic]);
        WriteTxnMarkersRequest::default().with_markers(vec![marker])
    };
    // As `kafka-transactions.sh abort` sends it.
    let request = marker(hung.producer.1, 7);
    let answer: WriteTxnMarkersResponse = client.call(api::WRITE_TXN_MARKERS, 1, &request).await;
    let codes = |answer: &WriteTxnMarkersResponse| -> Vec<i16> {
        answer.markers[0].topics[0].partitions.iter().map(|partition| partition.error_code).collect()
    };
    assert_eq!(codes(&answer), [0, 3]);
    until_seen(&mut client, "t", 0, &[]).await;
    assert_eq!(seen(&mut client, "t", 0, 0).await, ["a"]);
    // An older coordinator and an older epoch change nothing.
    let request = marker(hung.producer.1, 6);
    let answer: WriteTxnMarkersResponse = client.call(api::WRITE_TXN_MARKERS, 1, &request).await;
    assert_eq!(codes(&answer), [52, 3], "TRANSACTION_COORDINATOR_FENCED");
    for request in [marker(-1, 7), marker(hung.producer.1, -2), marker(hung.producer.1, i32::MIN)] {
        let answer: WriteTxnMarkersResponse = client.call(api::WRITE_TXN_MARKERS, 1, &request).await;
        assert_eq!(codes(&answer), [42, 42], "INVALID_REQUEST");
    }
    harness.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_kafkas_codes() {
    let harness = harness().await;
    let mut client = harness.client().await;
    let mut txn = Txn::begin(&harness, "id", Rules::New).await;
    for (request, code) in [
        (init_request("", 1_000, (-1, -1)), 42),
        (init_request("id", 0, (-1, -1)), 50),
        (init_request("id", 15 * 60_000 + 1, (-1, -1)), 50),
        (init_request("id", 1_000, (5, -1)), 42),
        (init_request("id", 1_000, (txn.producer.0 + 77, 0)), 90),
    ] {
        let answer: InitProducerIdResponse = client.call(api::INIT_PRODUCER_ID, 5, &request).await;
        assert_eq!((answer.error_code, answer.producer_id.0), (code, -1), "{request:?}");
    }
    // Before version 4 a fenced producer was told so in another word.
    let fenced = init_request("id", 1_000, (txn.producer.0 + 77, 0));
    let answer: InitProducerIdResponse = client.call(api::INIT_PRODUCER_ID, 3, &fenced).await;
    assert_eq!(answer.error_code, INVALID_PRODUCER_EPOCH);
    // All partitions or none.
    let topic = AddPartitionsToTxnTopic::default().with_name(name("t")).with_partitions(vec![0, 99]);
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(txn_id("id"))
        .with_producer_id(ProducerId(txn.producer.0))
        .with_producer_epoch(txn.producer.1)
        .with_topics(vec![topic]);
    let request = AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]);
    let answer: AddPartitionsToTxnResponse = client.call(api::ADD_PARTITIONS_TO_TXN, 5, &request).await;
    let results = &answer.results_by_transaction[0].topic_results[0].results_by_partition;
    let codes: Vec<i16> = results.iter().map(|result| result.partition_error_code).collect();
    assert_eq!(codes, [55, 3]);
    // Nobody's id, and an end without a transaction.
    let end = EndTxnRequest::default()
        .with_transactional_id(txn_id("nobody"))
        .with_producer_id(ProducerId(1))
        .with_producer_epoch(0)
        .with_committed(true);
    let answer: EndTxnResponse = client.call(api::END_TXN, 5, &end).await;
    assert_eq!(answer.error_code, 49, "INVALID_PRODUCER_ID_MAPPING");
    assert_eq!(txn.ask_end(true).await.0, 48, "INVALID_TXN_STATE");
    // The internal topics are the brokers' own, whoever asks.
    let request = produce_request(-1, "__transaction_state", &[(0, batch(&[b"x"]))]);
    let answer: ProduceResponse = client.call(api::PRODUCE, 9, &request).await;
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 17);
    let unknown = FindCoordinatorRequest::default()
        .with_key_type(9)
        .with_coordinator_keys(vec![StrBytes::from_static_str("id")]);
    let answer: FindCoordinatorResponse = client.call(api::FIND_COORDINATOR, 6, &unknown).await;
    assert_eq!(answer.coordinators[0].error_code, 42);
    harness.stop().await;
}
