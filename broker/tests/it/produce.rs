//! Produce over the wire: acknowledgements, duplicates, refusals, order.

use highwater_wire::kafka::messages::produce_response::PartitionProduceResponse;
use highwater_wire::kafka::messages::*;
use highwater_wire::{BatchBuilder, Codec, api};
use tokio::io::AsyncWriteExt;

use crate::it::harness::*;

#[tokio::test]
async fn what_is_acknowledged_is_read_back_at_its_offset_in_every_version() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    let mut expected = Vec::new();
    for version in 3..=12 {
        let value = format!("v{version}");
        let response = client.produce(version, "t", 1, batch(&[value.as_bytes(), b"", b"x"])).await;
        assert_eq!((response.error_code, response.base_offset), (0, expected.len() as i64), "v{version}");
        expected.extend([value.into_bytes(), Vec::new(), b"x".to_vec()]);
    }
    let mut request = produce_request(1, "", &[(1, batch(&[b"by id"]))]);
    request.topic_data[0].topic_id = id.0;
    let response: ProduceResponse = client.call(api::PRODUCE, 13, &request).await;
    assert_eq!(response.responses[0].partition_responses[0].base_offset, expected.len() as i64);
    expected.push(b"by id".to_vec());
    let found = client.fetch_values("t", 1, 0).await;
    let expected: Vec<(i64, Vec<u8>)> = (0..).zip(expected).collect();
    assert_eq!(found, expected);
    let other = client.fetch(12, &fetch_request("t", &[(0, 0)], 0, 1)).await;
    assert!(other.responses[0].partitions[0].records.as_ref().is_none_or(|records| records.is_empty()));
    harness.stop().await;
}

#[tokio::test]
async fn acks_zero_is_silent_and_an_error_closes() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    client.send(api::PRODUCE, 9, &produce_request(0, "t", &[(0, batch(&[b"a"]))])).await;
    client.send(api::PRODUCE, 9, &produce_request(0, "t", &[(0, batch(&[b"b"]))])).await;
    // The next answer is the fetch's: nothing was sent for the two before.
    assert_eq!(client.fetch_values("t", 0, 0).await.len(), 2);
    client.send(api::PRODUCE, 9, &produce_request(0, "no such topic", &[(0, batch(&[b"a"]))])).await;
    client.expect_closed().await;
    harness.stop().await;
}

#[tokio::test]
async fn pipelined_requests_take_effect_and_are_answered_in_order() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    harness.create_topic("flushed", 1, &[("flush.messages", "1")]).await;
    let mut client = harness.client().await;
    let mut frames = Vec::new();
    for i in 0..200u32 {
        let topic = if i % 3 == 0 { "flushed" } else { "t" };
        let request = produce_request(-1, topic, &[(0, batch(&[&i.to_be_bytes()]))]);
        frames.extend_from_slice(&client.frame(api::PRODUCE, 9, &request));
    }
    client.stream.write_all(&frames).await.expect("sent");
    for i in 0..200 {
        let (correlation, body) = client.receive().await;
        assert_eq!(correlation, i + 1);
        let response: ProduceResponse = decode(api::PRODUCE, 9, body);
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }
    let found = client.consume("flushed", 0, 0, 67).await;
    let numbers: Vec<u32> =
        found.iter().map(|(_, v)| u32::from_be_bytes(v.as_slice().try_into().expect("4 bytes"))).collect();
    assert_eq!(numbers, (0..200).filter(|i| i % 3 == 0).collect::<Vec<_>>());
    harness.stop().await;
}

#[tokio::test]
async fn idempotent_producers_write_once_and_in_order() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1_000);
    let first: InitProducerIdResponse = client.call(api::INIT_PRODUCER_ID, 4, &request).await;
    let second: InitProducerIdResponse = client.call(api::INIT_PRODUCER_ID, 4, &request).await;
    assert_eq!((first.error_code, first.producer_epoch), (0, 0));
    assert_ne!(first.producer_id, second.producer_id);
    let id = first.producer_id.0;
    assert_eq!(client.put("t", 0, idempotent(id, 0, &[b"a", b"b"])).await, 0);
    assert_eq!(client.put("t", 0, idempotent(id, 2, &[b"c"])).await, 2);
    assert_eq!(
        client.put("t", 0, idempotent(id, 0, &[b"a", b"b"])).await,
        0,
        "a duplicate has the first offset"
    );
    let gap = client.produce(9, "t", 0, idempotent(id, 7, &[b"z"])).await;
    assert_eq!(gap.error_code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    assert_eq!(client.fetch_values("t", 0, 0).await.len(), 3);
    harness.stop().await;
}

/// Clients take DUPLICATE_SEQUENCE_NUMBER for an acknowledgement, and OUT_OF_ORDER_SEQUENCE_NUMBER for a
/// reason to send it for ever.
#[tokio::test]
async fn a_batch_that_comes_again_after_many_others_is_a_duplicate() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    for n in 0..8 {
        assert_eq!(client.put("t", 0, idempotent(7, 100 + n * 2, &[b"a", b"b"])).await, i64::from(n) * 2);
    }
    let code = |response: PartitionProduceResponse| (response.error_code, response.base_offset);
    for sequence in [100, 104] {
        let again = client.produce(9, "t", 0, idempotent(7, sequence, &[b"a", b"b"])).await;
        assert_eq!(code(again), (46, -1), "DUPLICATE_SEQUENCE_NUMBER for {sequence}");
    }
    assert_eq!(client.put("t", 0, idempotent(7, 106, &[b"a", b"b"])).await, 6, "where that is, is known");
    for sequence in [98, 99, 118] {
        let never = client.produce(9, "t", 0, idempotent(7, sequence, &[b"a", b"b"])).await;
        assert_eq!(code(never), (45, -1), "OUT_OF_ORDER_SEQUENCE_NUMBER for {sequence}");
    }
    assert_eq!(client.fetch_values("t", 0, 0).await.len(), 16, "nothing was written twice");
    harness.stop().await;
}

#[tokio::test]
async fn refusals_carry_kafkas_codes() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("max.message.bytes", "2000")]).await;
    harness.create_topic("two", 1, &[("min.insync.replicas", "2")]).await;
    harness.create_topic("json", 1, &[("highwater.value.format", "json")]).await;
    let mut client = harness.client().await;
    for (topic, partition, code) in [("nothing", 0, 3), ("t", 1, 3), ("t", -1, 3)] {
        let response = client.produce(9, topic, partition, batch(&[b"x"])).await;
        assert_eq!((response.error_code, response.base_offset), (code, -1), "{topic}-{partition}");
    }
    let mut by_id = produce_request(-1, "", &[(0, batch(&[b"x"]))]);
    by_id.topic_data[0].topic_id = uuid::Uuid::new_v4();
    let response: ProduceResponse = client.call(api::PRODUCE, 13, &by_id).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 100);
    let mut torn = batch(&[b"x"]).to_vec();
    *torn.last_mut().expect("bytes") ^= 1;
    let mut old = batch(&[b"x"]).to_vec();
    old[16] = 1;
    for (name, bytes, code) in [
        ("bad crc", torn.into(), 2),
        ("magic 1", old.into(), 87),
        ("too large", batch(&[&[7; 3_000]]), 10),
        ("empty", bytes::Bytes::new(), 87),
        ("two batches", [batch(&[b"x"]), batch(&[b"y"])].concat().into(), 87),
        ("far future", batch_at(now_ms() + 30 * 86_400_000, &[b"x"]), 32),
    ] {
        let response = client.produce(9, "t", 0, bytes).await;
        assert_eq!((response.error_code, response.base_offset), (code, -1), "{name}: {response:?}");
        assert!(response.error_message.is_some(), "{name}");
    }
    let one_of_two = client.produce(9, "two", 0, batch(&[b"x"])).await;
    assert_eq!(one_of_two.error_code, 0, "no more are needed than there are (KIP-966)");
    let bad_json = client.produce(9, "json", 0, batch(&[b"{}", b"{"])).await;
    assert_eq!((bad_json.error_code, bad_json.record_errors[0].batch_index), (87, 1));
    let response: ProduceResponse =
        client.call(api::PRODUCE, 9, &produce_request(2, "t", &[(0, batch(&[b"x"]))])).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 21);
    let mut zstd = BatchBuilder::new(Codec::Zstd);
    zstd.push(now_ms(), None, Some(b"x"), &[]);
    assert_eq!(client.produce(6, "t", 0, zstd.build()).await.error_code, 76);
    assert_eq!(client.put("t", 0, zstd.build()).await, 0, "nothing of all that was appended");
    harness.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_with_a_retriable_error_and_reads_go_on() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"before"])).await;
    harness.node.disk.force_full(true);
    assert_eq!(client.produce(9, "t", 0, batch(&[b"x"])).await.error_code, 56);
    assert_eq!(client.fetch_values("t", 0, 0).await.len(), 1);
    harness.node.disk.force_full(false);
    assert_eq!(client.put("t", 0, batch(&[b"after"])).await, 1);
    harness.stop().await;
}

#[tokio::test]
async fn flush_before_ack_makes_the_batch_durable_first() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("flush.messages", "1")]).await;
    let mut client = harness.client().await;
    for i in 0..20 {
        assert_eq!(client.put("t", 0, batch(&[b"x"])).await, i);
        let view = harness.node.partitions.view();
        let partition = view.partitions().next().expect("one");
        assert!(partition.high_watermark() > i, "acknowledged below the high watermark");
    }
    harness.stop().await;
}

#[tokio::test]
async fn log_append_time_is_the_brokers() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut client = harness.client().await;
    let before = now_ms();
    let response = client.produce(9, "t", 0, batch_at(5, &[b"x"])).await;
    assert!(response.log_append_time_ms >= before && response.log_append_time_ms <= now_ms());
    let latest = client.list_offset(5, "t", 0, before).await;
    assert_eq!((latest.offset, latest.timestamp), (0, response.log_append_time_ms));
    harness.stop().await;
}
