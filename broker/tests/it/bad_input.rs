//! Bytes that no client should send: a typed error or a closed connection, and everyone else notices nothing.

use std::time::Duration;

use highwater_wire::api;
use highwater_wire::kafka::messages::*;
use tokio::io::AsyncWriteExt;

use crate::it::harness::*;

/// After which silent connections are closed: longer than a good client of these tests pauses on a slow
/// machine.
const IDLE_MS: u64 = 3_000;

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
    let harness = Harness::start_with(|s| s.connection_idle_ms = IDLE_MS).await;
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
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.stream.write_all(&[0]).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "a byte now and then keeps a connection");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_held_up_alone() {
    let harness = Harness::start_with(|s| s.connection_idle_ms = IDLE_MS).await;
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

/// A small generator: tests must not differ from run to run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

#[tokio::test]
async fn mangled_requests_of_every_api_harm_nobody() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut good = harness.client().await;
    let mut dice = Dice(7);
    for round in 0..600 {
        let mut client = harness.client().await;
        let mut bytes = match round % 3 {
            0 => {
                let range = api::SERVED[dice.roll(api::SERVED.len())];
                let version = range.min + dice.roll((range.max - range.min + 1) as usize) as i16;
                let mut body = [&range.key.to_be_bytes()[..], &version.to_be_bytes(), &[0; 4]].concat();
                body.extend((0..dice.roll(80)).map(|_| [0, 0, 1, 0xff, 0x7f, 2][dice.roll(6)]));
                framed(&body)
            }
            1 => client.frame(api::FETCH, 12, &fetch_request("t", &[(0, 0)], 0, 1)).to_vec(),
            _ => client.frame(api::PRODUCE, 9, &produce_request(1, "t", &[(0, batch(&[b"x"]))])).to_vec(),
        };
        for _ in 0..1 + dice.roll(3) {
            let at = 4 + dice.roll(bytes.len() - 4);
            bytes[at] = dice.roll(256) as u8;
        }
        // Whatever comes back, or nothing: half of them also leave in the middle.
        let end = if dice.roll(2) == 0 { bytes.len() } else { dice.roll(bytes.len()) };
        let _ = client.stream.write_all(&bytes[..end]).await;
        if round % 50 == 0 {
            good.put("t", 0, batch(&[b"fine"])).await;
        }
    }
    let end = good.list_offset(5, "t", 0, -1).await.offset;
    assert!(end >= 12, "{end}");
    assert_eq!(good.consume("t", 0, 0, end).await.len() as i64, end, "what was let in can be read");
    harness.stop().await;
}

#[tokio::test]
async fn bombs_in_one_request_share_a_limit() {
    use highwater_wire::{BatchBuilder, Codec};
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("max.message.bytes", "8388608")]).await;
    let mut client = harness.client().await;
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for _ in 0..60 {
        builder.push(now_ms(), None, Some(&vec![0; 1 << 20]), &[]);
    }
    let bomb = builder.build();
    assert!(bomb.len() < 100_000);
    let bombs: Vec<_> = (0..40).map(|_| (0, bomb.clone())).collect();
    let response: ProduceResponse = client.call(api::PRODUCE, 9, &produce_request(1, "t", &bombs)).await;
    let codes: Vec<i16> = response.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
    assert_eq!(codes[0], 0, "one alone is within the topic's limit");
    assert_eq!(codes[39], 10, "together they are not: {codes:?}");
    harness.stop().await;
}
