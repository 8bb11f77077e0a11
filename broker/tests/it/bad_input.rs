//! Bytes that no client should send: a typed error or a closed connection, and everyone else notices nothing.

use std::time::Duration;

use highwater_wire::api;
use highwater_wire::kafka::messages::*;
use tokio::io::AsyncWriteExt;

use crate::it::harness::*;

async fn send_and_expect_close(harness: &Harness, bytes: &[u8]) {
    let mut client = harness.client().await;
    client.stream.write_all(bytes).await.expect("sent");
    client.expect_closed().await;
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes(), body].concat()
}

#[tokio::test]
async fn foreign_and_broken_frames_close_only_their_connection() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut good = harness.client().await;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc],
        vec![0xff, 0xff, 0xff, 0xff],
        vec![0, 0, 0, 0],
        vec![0x7f, 0xff, 0xff, 0xff],
        // 101 MiB.
        (101 * 1024 * 1024_i32).to_be_bytes().to_vec(),
        // Unknown API key, small and large.
        framed(&[0x03, 0xe7, 0, 0, 0, 0, 0, 1, 0xff, 0xff]),
        [&[0, 0x80, 0, 0, 0x03, 0xe7][..], &[0; 2]].concat(),
        // Metadata v1 with 0x7fffffff topics.
        framed(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]),
        // Fetch v4 that ends in the middle.
        framed(&[0, 1, 0, 4, 0, 0, 0, 1, 0xff, 0xff, 0, 0]),
        // Produce of a version that is only advertised.
        framed(&[0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]),
        // A client id longer than the frame.
        framed(&[0, 18, 0, 0, 0, 0, 0, 1, 0x7f, 0xff]),
    ] {
        send_and_expect_close(&harness, &bytes).await;
        good.put("t", 0, batch(&[b"fine"])).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn an_api_versions_of_the_future_is_answered_in_version_0() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.stream.write_all(&framed(&[0, 18, 0x7f, 0, 0, 0, 0, 9, 0, 0, 1, 2, 3])).await.expect("sent");
    let (correlation, body) = client.receive().await;
    assert_eq!(correlation, 9);
    let response: ApiVersionsResponse = decode(api::API_VERSIONS, 0, body);
    assert_eq!(response.error_code, 35);
    assert_eq!(response.api_keys.len(), api::SERVED.len());
    // The connection goes on.
    let response: ApiVersionsResponse =
        client.call(api::API_VERSIONS, 0, &ApiVersionsRequest::default()).await;
    assert_eq!(response.error_code, 0);
    harness.stop().await;
}

#[tokio::test]
async fn slow_and_silent_connections_are_closed_and_cost_little() {
    let harness = Harness::start_with(|s| s.connection_idle_ms = 400).await;
    harness.create_topic("t", 1, &[]).await;
    let mut slow = Vec::new();
    for i in 0..200 {
        let mut client = harness.client().await;
        if i % 2 == 0 {
            // Claims 90 MiB of produce and sends a few bytes.
            let claim = [&(90 * 1024 * 1024_i32).to_be_bytes()[..], &[0, 0, 0, 9, 0, 0, 0, 1]].concat();
            client.stream.write_all(&claim).await.expect("sent");
        }
        slow.push(client);
    }
    let mut good = harness.client().await;
    for _ in 0..50 {
        good.put("t", 0, batch(&[&[1; 100_000]])).await;
    }
    for client in slow.drain(..).step_by(20) {
        client.expect_closed().await;
    }
    until("the slow ones are gone", || harness.node.metrics.connections.get() <= 1).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_frame_that_trickles_is_cut_off_even_if_it_never_stops() {
    let harness = Harness::start_with(|s| s.connection_idle_ms = 300).await;
    let mut client = harness.client().await;
    client.stream.write_all(&[0, 0, 0x10, 0, 0, 0, 0, 9]).await.expect("sent");
    let mut cut = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if client.stream.write_all(&[0]).await.is_err() {
            cut = true;
            break;
        }
    }
    assert!(cut, "a byte now and then keeps no connection");
    harness.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_held_up_alone() {
    let harness = Harness::start_with(|s| s.connection_idle_ms = 500).await;
    harness.create_topic("t", 1, &[]).await;
    let mut good = harness.client().await;
    for _ in 0..10 {
        good.put("t", 0, batch(&[&[1; 500_000]])).await;
    }
    let mut deaf = harness.client().await;
    let mut frames = Vec::new();
    for _ in 0..2_000 {
        frames.extend_from_slice(&deaf.frame(api::FETCH, 12, &fetch_request("t", &[(0, 0)], 0, 1)));
    }
    // 2,000 answers of 1 MB are asked for and none is read.
    let flood = tokio::spawn(async move {
        let _ = deaf.stream.write_all(&frames).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        deaf
    });
    for _ in 0..20 {
        assert_eq!(good.fetch_values("t", 0, 9).await.len(), 1);
    }
    let deaf = flood.await.expect("flooded");
    until("the deaf one is cut off", || harness.node.metrics.connections.get() <= 1).await;
    drop(deaf);
    harness.stop().await;
}

#[tokio::test]
async fn too_many_connections_are_turned_away() {
    let harness = Harness::start_with(|s| s.connections_max = 3).await;
    harness.create_topic("t", 1, &[]).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut client = harness.client().await;
        client.put("t", 0, batch(&[b"x"])).await;
        kept.push(client);
    }
    harness.client().await.expect_closed().await;
    drop(kept.pop());
    until("a seat is free", || harness.node.metrics.connections.get() == 2).await;
    harness.client().await.put("t", 0, batch(&[b"x"])).await;
    harness.stop().await;
}
