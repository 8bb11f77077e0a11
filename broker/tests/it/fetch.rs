//! Fetch over the wire: waiting, limits, sessions, epochs, ids.

use std::time::{Duration, Instant};

use highwater_wire::api;
use highwater_wire::kafka::messages::fetch_request::{FetchTopic, ForgottenTopic};
use highwater_wire::kafka::messages::*;

use crate::it::harness::*;

#[tokio::test]
async fn a_long_poll_ends_when_data_arrives_and_not_before() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let (mut consumer, mut producer) = (harness.client().await, harness.client().await);
    let started = Instant::now();
    // Longer than the answer is waited for: nothing but the news can end it.
    consumer.send(api::FETCH, 12, &fetch_request("t", &[(0, 0), (1, 0)], 2 * PATIENCE_MS, 1)).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    producer.put("t", 1, batch(&[b"news"])).await;
    let (_, body) = consumer.receive().await;
    assert!(started.elapsed() >= Duration::from_millis(150));
    let response: FetchResponse = decode(api::FETCH, 12, body);
    let found = &response.responses[0].partitions[1];
    assert_eq!(values(found.records.as_ref().expect("records"), 0), [(0, b"news".to_vec())]);
    // Nothing comes: the answer is empty, at the deadline.
    let started = Instant::now();
    let empty = consumer.fetch(12, &fetch_request("t", &[(0, 0)], 500, 1)).await;
    assert!(empty.responses[0].partitions[0].records.as_ref().is_none_or(|records| records.is_empty()));
    assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
    harness.stop().await;
}

#[tokio::test]
async fn min_bytes_gathers_and_a_stop_answers_at_once() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let (mut consumer, mut producer) = (harness.client().await, harness.client().await);
    consumer.send(api::FETCH, 12, &fetch_request("t", &[(0, 0)], 2 * PATIENCE_MS, 250)).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        producer.put("t", 0, batch(&[&[1; 50]])).await;
    }
    let response: FetchResponse = decode(api::FETCH, 12, consumer.receive().await.1);
    let bytes = response.responses[0].partitions[0].records.as_ref().expect("records").len();
    assert!(bytes >= 250, "{bytes}");
    consumer.send(api::FETCH, 12, &fetch_request("t", &[(0, 4)], 2 * PATIENCE_MS, 1)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stopping = tokio::spawn(harness.stop());
    let response: FetchResponse = decode(api::FETCH, 12, consumer.receive().await.1);
    assert_eq!(response.responses[0].partitions[0].error_code, 0);
    stopping.await.expect("stopped");
}

#[tokio::test]
async fn a_minimum_of_as_much_as_is_allowed_does_not_wait_when_there_is_more() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    for partition in [0, 1] {
        for _ in 0..20 {
            client.put("t", partition, batch(&[&[1; 20_000]])).await;
        }
    }
    // By the partition's limit, by the fetch's, and with more asked for than may be had.
    for (partition_max, max, min) in [
        (50_000, 1 << 20, 50_000),
        (1 << 20, 50_000, 50_000),
        (50_000, 1 << 20, 100_000),
        (1 << 20, 50_000, 90_000),
    ] {
        let mut request = fetch_request("t", &[(0, 0), (1, 0)], 2 * PATIENCE_MS, min);
        request.max_bytes = max;
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = partition_max;
        }
        // Within the test's patience, which is shorter than the wait that is asked for.
        let response = client.fetch(12, &request).await;
        let found = response.responses[0].partitions[0].records.as_ref().expect("records");
        assert!(!found.is_empty(), "{partition_max} {max} {min}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn byte_limits_hold_but_the_first_batch_always_comes() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    for partition in [0, 1] {
        for _ in 0..20 {
            client.put("t", partition, batch(&[&[1; 20_000]])).await;
        }
    }
    let mut request = fetch_request("t", &[(0, 0), (1, 0)], 0, 1);
    let size = |response: &FetchResponse, at: usize| {
        response.responses[0].partitions[at].records.as_ref().map_or(0, |r| r.len())
    };
    for (partition_max, max, first, second) in [
        (1, 1, 20_000..21_000, 0..1),
        (50_000, 1 << 20, 40_000..50_000, 40_000..50_000),
        (1 << 20, 100_000, 80_000..100_000, 0..20_000),
    ] {
        request.max_bytes = max;
        for partition in &mut request.topics[0].partitions {
            partition.partition_max_bytes = partition_max;
        }
        let response = client.fetch(12, &request).await;
        assert!(first.contains(&size(&response, 0)), "{partition_max} {max}: {}", size(&response, 0));
        assert!(second.contains(&size(&response, 1)), "{partition_max} {max}: {}", size(&response, 1));
    }
    assert_eq!(client.consume("t", 0, 0, 20).await.len(), 20);
    harness.stop().await;
}

#[tokio::test]
async fn every_version_answers_and_ids_are_checked() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    let big = vec![9; 100_000];
    client.put("t", 0, batch(&[&big])).await;
    for version in 4..=18 {
        let mut request = fetch_request("t", &[(0, 0)], 0, 1);
        if version >= 13 {
            request.topics[0].topic = Default::default();
            request.topics[0].topic_id = id.0;
        }
        request.isolation_level = 1;
        let response = client.fetch(version, &request).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 1), "v{version}");
        assert_eq!(partition.last_stable_offset, 1);
        let found = values(partition.records.as_ref().expect("records"), 0);
        assert_eq!(found, [(0, big.clone())], "v{version}");
    }
    let mut unknown = fetch_request("", &[(0, 0)], 2 * PATIENCE_MS, 1);
    unknown.topics[0].topic_id = uuid::Uuid::new_v4();
    let response = client.fetch(13, &unknown).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 100);
    let response = client.fetch(12, &fetch_request("nothing", &[(0, 0)], 2 * PATIENCE_MS, 1)).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 3);
    harness.stop().await;
}

#[tokio::test]
async fn offsets_and_epochs_out_of_range_are_told_at_once() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"a"])).await;
    let epoch = harness.node.partitions.view().partitions().next().expect("one").terms().leader_epoch;
    for (offset, current_epoch, last_epoch, code) in
        [(2, -1, -1, 1), (-1, -1, -1, 1), (0, epoch, -1, 0), (0, epoch + 1, -1, 75), (0, epoch, epoch, 0)]
    {
        let mut request = fetch_request("t", &[(0, offset)], 2 * PATIENCE_MS, 1);
        request.topics[0].partitions[0].current_leader_epoch = current_epoch;
        request.topics[0].partitions[0].last_fetched_epoch = last_epoch;
        let response = client.fetch(12, &request).await;
        assert_eq!(
            response.responses[0].partitions[0].error_code, code,
            "{offset} {current_epoch} {last_epoch}"
        );
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_session_answers_with_what_changed() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 3, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"a"])).await;
    let full = |session_id, epoch, partitions: &[(i32, i64)]| {
        let topic = FetchTopic::default().with_topic_id(id.0).with_partitions(fetch_partitions(partitions));
        let topics = if partitions.is_empty() { vec![] } else { vec![topic] };
        fetch_request("", &[], 0, 1).with_topics(topics).with_session_id(session_id).with_session_epoch(epoch)
    };
    let numbers = |response: &FetchResponse| -> Vec<i32> {
        response.responses.iter().flat_map(|t| t.partitions.iter().map(|p| p.partition_index)).collect()
    };
    let first = client.fetch(17, &full(0, 0, &[(0, 0), (1, 0), (2, 0)])).await;
    let session = first.session_id;
    assert!(session > 0 && first.error_code == 0);
    assert_eq!(numbers(&first), [0, 1, 2]);
    let moved = client.fetch(17, &full(session, 1, &[(0, 1)])).await;
    assert_eq!((numbers(&moved), moved.session_id), (vec![], session));
    client.put("t", 2, batch(&[b"b"])).await;
    let news = client.fetch(17, &full(session, 2, &[])).await;
    assert_eq!(numbers(&news), [2]);
    let mut without = full(session, 3, &[(2, 1)]);
    without.forgotten_topics_data =
        vec![ForgottenTopic::default().with_topic_id(id.0).with_partitions(vec![0])];
    assert_eq!(numbers(&client.fetch(17, &without).await), Vec::<i32>::new());
    client.put("t", 0, batch(&[b"unseen"])).await;
    assert_eq!(numbers(&client.fetch(17, &full(session, 4, &[])).await), Vec::<i32>::new());
    assert_eq!(client.fetch(17, &full(session, 9, &[])).await.error_code, 71);
    assert_eq!(client.fetch(17, &full(session + 1, 1, &[])).await.error_code, 70);
    assert_eq!(client.fetch(12, &full(session, 5, &[])).await.error_code, 106);
    let closed = client.fetch(17, &full(session, -1, &[(0, 0)])).await;
    assert_eq!((closed.session_id, numbers(&closed)), (0, vec![0]));
    assert_eq!(client.fetch(17, &full(session, 5, &[])).await.error_code, 70);
    harness.stop().await;
}
