//! The other doors of a node: gRPC, HTTP, and the command line's own client.

use std::net::SocketAddr;
use std::time::Duration;

use highwater_broker::client::consume::{Consumer, Flow, Record, StartAt};
use highwater_broker::client::produce::{Acks, Producer};
use highwater_broker::client::{Client, ClientError};
use highwater_broker::grpc::proto::admin_client::AdminClient;
use highwater_broker::grpc::proto::{TierDescribeRequest, TierOffloadRequest, TierStatusRequest};
use highwater_broker::slot::Slot;
use highwater_broker::{grpc, http};
use highwater_coordinator::ControlDoor;
use highwater_wire::{BatchBuilder, Codec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use super::harness::{Harness, PATIENCE, batch};

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn grpc_tells_and_moves_what_is_in_the_tier() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    harness.create_topic("untiered", 1, &[("remote.storage.enable", "false")]).await;
    let (door, address) = listener().await;
    let serving = tokio::spawn(grpc::serve(
        Slot::of(harness.node.clone()),
        ControlDoor::default(),
        door,
        harness.node.stopping(),
    ));
    let mut kafka = harness.client().await;
    kafka.put("t", 0, batch(&[b"a", b"b", b"c"])).await;
    let mut admin = AdminClient::connect(format!("http://{address}")).await.expect("connected");
    let before = admin.tier_describe(TierDescribeRequest { topic: "t".into() }).await.expect("described");
    let first = &before.get_ref().partitions[0];
    assert_eq!((first.tiered_end, first.high_watermark, first.local.len()), (0, 3, 1));
    assert!(first.local[0].reason.contains("active segment"), "{:?}", first.local);
    let request = TierOffloadRequest {
        topic: "t".into(),
        evict: true,
        deadline_ms: PATIENCE.as_millis() as u64,
        local_only: false,
    };
    let offloaded = admin.tier_offload(request).await.expect("offloaded").into_inner();
    let first = &offloaded.partitions[0];
    assert_eq!((first.tiered_end, first.local_start, first.log_end, first.objects), (3, 3, 3, 1));
    assert_eq!(offloaded.partitions[1].objects, 0, "nothing was there");
    let status = admin.tier_status(TierStatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.topics, status.partitions, status.objects), (2, 3, 1));
    assert!(status.object_bytes > 0 && status.alarms.is_empty());
    assert_eq!(status.cluster_id, harness.node.coordinator.cluster_id());
    assert_eq!(kafka.fetch_values("t", 0, 0).await.len(), 3, "read back from the tier");
    for (topic, code) in [("missing", Code::NotFound), ("untiered", Code::FailedPrecondition)] {
        let request =
            TierOffloadRequest { topic: topic.into(), evict: false, deadline_ms: 0, local_only: false };
        assert_eq!(admin.tier_offload(request).await.expect_err("refused").code(), code, "{topic}");
    }
    let missing = admin.tier_describe(TierDescribeRequest { topic: "missing".into() }).await;
    assert_eq!(missing.expect_err("refused").code(), Code::NotFound);
    drop(admin);
    harness.stop().await;
    tokio::time::timeout(PATIENCE, serving).await.expect("ends").expect("task").expect("served");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("read");
    answer
}

#[tokio::test]
async fn http_shows_health_readiness_and_metrics() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let (door, address) = listener().await;
    let serving = tokio::spawn(http::serve(Slot::of(harness.node.clone()), door, harness.node.stopping()));
    let mut kafka = harness.client().await;
    kafka.put("t", 0, batch(&[b"a"])).await;
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let missing = get(address, "/other").await;
    assert!(missing.starts_with("HTTP/1.1 404") && missing.contains("\"error\""), "{missing}");
    let metrics = get(address, "/metrics").await;
    assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
    for line in
        ["highwater_requests_total{api=\"Produce\"} 1", "highwater_topics 1", "highwater_connections 1"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    harness.node.begin_stop();
    tokio::time::timeout(PATIENCE, serving).await.expect("ends").expect("task").expect("served");
    harness.stop().await;
}

#[tokio::test]
async fn the_own_client_writes_and_reads_with_every_codec() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let connect = || Client::new(&harness.address.to_string(), PATIENCE).expect("address");
    let mut expected = 0;
    for acks in [Acks::All, Acks::Leader, Acks::None] {
        let mut producer = Producer::new(connect(), "t", acks).await.expect("producer");
        assert_eq!(producer.partitions(), 2);
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new(codec);
            for _ in 0..10 {
                builder.push(1_000, Some(b"k"), Some(b"value"), &[(b"h", None)]);
                expected += 1;
            }
            producer.send(1, builder).await.expect("sent");
        }
    }
    // What was sent without acknowledgement may still be on its way.
    super::harness::until("all is there", || {
        let view = harness.node.partitions.view();
        let topic = view.by_name("t").expect("topic");
        topic.partitions().map(|p| p.high_watermark()).sum::<i64>() == expected
    })
    .await;
    let mut consumer = Consumer::new(connect(), "t", None, StartAt::Earliest, true).await.expect("consumer");
    let mut offsets = Vec::new();
    while !consumer.is_done() {
        let mut sink = |record: &Record<'_>| -> Result<Flow, ClientError> {
            assert_eq!((record.partition, record.timestamp, record.key), (1, 1_000, Some(&b"k"[..])));
            assert_eq!((record.value, record.headers.len()), (Some(&b"value"[..]), 1));
            offsets.push(record.offset);
            Ok(Flow::More)
        };
        consumer.poll(Duration::from_millis(100), &mut sink).await.expect("polled");
    }
    assert_eq!(offsets, (0..expected).collect::<Vec<i64>>());
    for (start, first) in [(StartAt::Offset(7), 7), (StartAt::Timestamp(1_000), 0)] {
        let mut consumer = Consumer::new(connect(), "t", Some(1), start, true).await.expect("consumer");
        let mut seen = None;
        let mut sink = |record: &Record<'_>| -> Result<Flow, ClientError> {
            seen = Some(record.offset);
            Ok(Flow::Enough)
        };
        consumer.poll(Duration::from_millis(100), &mut sink).await.expect("polled");
        assert_eq!(seen, Some(first), "{start:?}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_own_client_says_what_is_wrong_in_one_line() {
    let harness = Harness::start_with(|settings| settings.auto_create_topics = false).await;
    harness.create_topic("t", 1, &[]).await;
    let connect = |address: &str| Client::new(address, PATIENCE).expect("address");
    let address = harness.address.to_string();
    let missing = Consumer::new(connect(&address), "missing", None, StartAt::Earliest, true).await.err();
    let text = missing.expect("refused").to_string();
    assert!(text.contains("there is no such topic") && !text.contains('\n'), "{text}");
    let partition = Consumer::new(connect(&address), "t", Some(9), StartAt::Earliest, true).await.err();
    assert!(partition.expect("refused").to_string().contains("partition 9 of t"));
    let (closed, nobody) = listener().await;
    drop(closed);
    let refused = connect(&nobody.to_string()).any().await.err().expect("nobody is there").to_string();
    assert!(refused.contains("is a broker running there?"), "{refused}");
    // Somebody who does not speak Kafka, and somebody who says nothing.
    let (odd, odd_address) = listener().await;
    let talking = tokio::spawn(async move {
        let (mut stream, _) = odd.accept().await.expect("accepted");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("sent");
        stream
    });
    let odd = connect(&odd_address.to_string()).any().await.err().expect("not Kafka").to_string();
    assert!(odd.contains("Kafka protocol"), "{odd}");
    talking.await.expect("talked");
    let (mute, mute_address) = listener().await;
    let mut hasty = Client::new(&mute_address.to_string(), Duration::from_millis(500)).expect("address");
    let silent = hasty.any().await.err().expect("mute").to_string();
    assert!(silent.contains("timed out"), "{silent}");
    drop(mute);
    harness.stop().await;
}

/// Somebody who answers each request of a connection with the next of these, behind the request's own id.
async fn liar(answers: &'static [&'static [u8]]) -> SocketAddr {
    let (door, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = door.accept().await.expect("accepted");
        for answer in answers {
            let mut request = vec![0; stream.read_i32().await.expect("a frame") as usize];
            stream.read_exact(&mut request).await.expect("whole");
            stream.write_i32(4 + answer.len() as i32).await.expect("sent");
            stream.write_all(&request[4..8]).await.expect("sent");
            stream.write_all(answer).await.expect("sent");
        }
        // Open until the client has gone.
        let _ = stream.read_i32().await;
    });
    address
}

/// Each of these would make the generated decoder ask for gigabytes, which ends the process.
#[tokio::test]
async fn the_own_client_is_not_hurt_by_who_answers_it() {
    const VERSIONS: &[u8] = &[0, 0, 0, 0, 0, 1, 0, 3, 0, 4, 0, 12];
    let lies: [(&'static [&'static [u8]], &str); 4] = [
        (&[&[0, 0, 0x7f, 0xff, 0xff, 0xff]], "api_keys"),
        (&[VERSIONS, &[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]], "brokers"),
        (&[VERSIONS, &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0x7f]], "topics"),
        (&[VERSIONS, &[0xff, 0xff, 0xff, 0xff, 0x0f]], "tagged fields"),
    ];
    for (answers, field) in lies {
        let address = liar(answers).await;
        let mut client = Client::new(&address.to_string(), PATIENCE).expect("address");
        let error = client.metadata(None, false).await.expect_err("a lie").to_string();
        assert!(error.contains("does not answer in the Kafka protocol") && error.contains(field), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let harness = Harness::start().await;
    let (door, address) = listener().await;
    let serving = tokio::spawn(http::serve(Slot::of(harness.node.clone()), door, harness.node.stopping()));
    let mut client = Client::new(&address.to_string(), PATIENCE).expect("address");
    let error = client.any().await.err().expect("not Kafka").to_string();
    assert!(error.contains("it speaks HTTP") && !error.contains('\n'), "{error}");
    harness.stop().await;
    tokio::time::timeout(PATIENCE, serving).await.expect("ends").expect("task").expect("served");
}
