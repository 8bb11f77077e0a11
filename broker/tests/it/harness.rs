//! A node on port 0 in a scratch directory, and a client that speaks frames.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_broker::metrics::Metrics;
use highwater_broker::node::{Node, NodeParts};
use highwater_broker::settings::{Address, Settings};
use highwater_broker::tier::Tier;
use highwater_coordinator::core::{BrokerRegistration, NewTopic};
use highwater_coordinator::{Coordinator, CoordinatorSettings};
use highwater_model::{Clock, TopicId};
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::{Store, StoreSettings};
use highwater_wire::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_wire::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_wire::kafka::messages::list_offsets_response::ListOffsetsPartitionResponse;
use highwater_wire::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_wire::kafka::messages::produce_response::PartitionProduceResponse;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::{Decodable, Encodable, StrBytes};
use highwater_wire::{BatchBuilder, Batches, Codec, Records, api};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Longest time that anything in these tests may take, on a machine however slow and busy: only what never
/// happens takes so long.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The same in the fields of requests.
pub const PATIENCE_MS: i32 = 120_000;

/// Real time, shifted at will.
#[derive(Default)]
pub struct TestClock(pub AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        unix.as_millis() as i64 + self.0.load(Ordering::Relaxed)
    }
}

pub struct Harness {
    pub node: Arc<Node>,
    pub clock: Arc<TestClock>,
    pub address: SocketAddr,
    dir: Arc<TempDir>,
    change: fn(&mut Settings),
    serving: JoinHandle<()>,
}

impl Harness {
    pub async fn start() -> Harness {
        Harness::start_with(|_| {}).await
    }

    pub async fn start_with(change: fn(&mut Settings)) -> Harness {
        let dir = Arc::new(tempfile::tempdir().expect("scratch"));
        Harness::start_in(dir, change, Arc::default()).await
    }

    async fn start_in(dir: Arc<TempDir>, change: fn(&mut Settings), clock: Arc<TestClock>) -> Harness {
        let mut settings = Settings {
            data_dir: dir.path().join("data"),
            drain_timeout_ms: 20_000,
            retention_check_ms: 50,
            // On a test's own clock nothing that waits becomes late.
            offload_backlog_bytes_max: 0,
            ..Settings::default()
        };
        change(&mut settings);
        std::fs::create_dir_all(&settings.data_dir).expect("data directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("bound");
        let coordinator_settings =
            CoordinatorSettings::new(settings.node_id, settings.data_dir.clone(), clock.clone());
        let coordinator = Coordinator::start(coordinator_settings).await.expect("coordinator");
        let registration = BrokerRegistration {
            node_id: settings.node_id,
            incarnation: Uuid::new_v4(),
            host: "127.0.0.1".into(),
            port: address.port(),
            ..BrokerRegistration::default()
        };
        coordinator.register_broker(registration).await.expect("registered");
        let parts = parts(settings, coordinator, clock.clone());
        let node = Node::start(parts).await.expect("node");
        let own = Address { host: "127.0.0.1".into(), port: address.port() };
        node.advertised.set(own).expect("once");
        let serving = tokio::spawn({
            let node = node.clone();
            async move { node.serve(listener).await }
        });
        Harness { node, clock, address, dir, change, serving }
    }

    /// Stops cleanly.
    pub async fn stop(self) -> Stopped {
        self.node.begin_stop();
        self.serving.await.expect("served");
        self.node.stop().await;
        self.node.coordinator.close().await;
        Stopped { dir: self.dir, change: self.change, clock: self.clock }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Creates a topic with these settings and waits until it is served.
    pub async fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicId {
        let topic = NewTopic {
            topic_id: TopicId::NONE,
            name: name.into(),
            partitions,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: configs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        let created =
            self.node.coordinator.create_topics(vec![topic], false).await.remove(0).expect("created");
        self.node.follow_topics().await.expect("followed");
        created.topic_id
    }
}

/// A stopped node's directory.
pub struct Stopped {
    pub dir: Arc<TempDir>,
    change: fn(&mut Settings),
    clock: Arc<TestClock>,
}

impl Stopped {
    pub async fn start(self) -> Harness {
        Harness::start_in(self.dir, self.change, self.clock).await
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// Waits until `done` holds.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Client {
    pub stream: TcpStream,
    correlation: i32,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, correlation: 0 }
    }

    /// A whole request frame.
    pub fn frame(&mut self, key: i16, version: i16, request: &impl Encodable) -> Bytes {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        let header_version = api::request_header_version(key, version).expect("served");
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, header_version).expect("header");
        request.encode(&mut frame, version).expect("request");
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        frame.freeze()
    }

    pub async fn send(&mut self, key: i16, version: i16, request: &impl Encodable) -> i32 {
        let frame = self.frame(key, version, request);
        self.stream.write_all(&frame).await.expect("sent");
        self.correlation
    }

    /// The next response: correlation id and the rest.
    pub async fn receive(&mut self) -> (i32, Bytes) {
        self.try_receive().await.expect("a response")
    }

    /// None when the connection is closed instead.
    pub async fn try_receive(&mut self) -> Option<(i32, Bytes)> {
        let read = async {
            let length = self.stream.read_i32().await.ok()?;
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await.ok()?;
            let mut body = Bytes::from(body);
            Some((body.get_i32(), body))
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time")
    }

    pub async fn call<R: Decodable>(&mut self, key: i16, version: i16, request: &impl Encodable) -> R {
        let sent = self.send(key, version, request).await;
        let (correlation, body) = self.receive().await;
        assert_eq!(correlation, sent);
        decode(key, version, body)
    }

    /// Asserts that the broker closes the connection without a further answer.
    pub async fn expect_closed(mut self) {
        assert!(self.try_receive().await.is_none(), "an answer instead of a closed connection");
    }

    pub async fn produce(
        &mut self,
        version: i16,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> PartitionProduceResponse {
        let request = produce_request(-1, topic, &[(partition, batch)]);
        let response: ProduceResponse = self.call(api::PRODUCE, version, &request).await;
        response.responses[0].partition_responses[0].clone()
    }

    /// Produces and asserts success; returns the base offset.
    pub async fn put(&mut self, topic: &str, partition: i32, batch: Bytes) -> i64 {
        let response = self.produce(9, topic, partition, batch).await;
        assert_eq!(response.error_code, 0, "{response:?}");
        response.base_offset
    }

    pub async fn fetch(&mut self, version: i16, request: &FetchRequest) -> FetchResponse {
        self.call(api::FETCH, version, request).await
    }

    /// Records from `offset` on: `(offset, value)`, as far as one fetch gives them. Waits until there is one.
    pub async fn fetch_values(&mut self, topic: &str, partition: i32, offset: i64) -> Vec<(i64, Vec<u8>)> {
        let response = self.fetch(12, &fetch_request(topic, &[(partition, offset)], PATIENCE_MS, 1)).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "{partition:?}");
        values(partition.records.as_ref().expect("records"), offset)
    }

    /// All records of `offset..end`, by as many fetches as it takes.
    pub async fn consume(
        &mut self,
        topic: &str,
        partition: i32,
        mut offset: i64,
        end: i64,
    ) -> Vec<(i64, Vec<u8>)> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while offset < end {
            assert!(tokio::time::Instant::now() < deadline, "stuck at {offset} of {end}");
            let some = self.fetch_values(topic, partition, offset).await;
            if let Some((last, _)) = some.last() {
                offset = last + 1;
            }
            all.extend(some);
        }
        all
    }

    pub async fn list_offset(
        &mut self,
        version: i16,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response: ListOffsetsResponse = self.call(api::LIST_OFFSETS, version, &request).await;
        response.topics[0].partitions[0].clone()
    }
}

pub fn decode<R: Decodable>(key: i16, version: i16, mut body: Bytes) -> R {
    if api::response_header_version(key, version) >= 1 {
        assert_eq!(body.get_u8(), 0, "no tagged fields");
    }
    let response = R::decode(&mut body, version).expect("a response of this version");
    assert!(body.is_empty(), "{} bytes left over", body.len());
    response
}

pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub fn produce_request(acks: i16, topic: &str, batches: &[(i32, Bytes)]) -> ProduceRequest {
    let data = batches
        .iter()
        .map(|(index, batch)| {
            PartitionProduceData::default().with_index(*index).with_records(Some(batch.clone()))
        })
        .collect();
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(data);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(PATIENCE_MS).with_topic_data(vec![topic])
}

/// A sessionless fetch of some partitions of one topic.
pub fn fetch_request(
    topic: &str,
    partitions: &[(i32, i64)],
    max_wait_ms: i32,
    min_bytes: i32,
) -> FetchRequest {
    let topic = FetchTopic::default().with_topic(name(topic)).with_partitions(fetch_partitions(partitions));
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

pub fn fetch_partitions(partitions: &[(i32, i64)]) -> Vec<FetchPartition> {
    let one = |(index, offset): &(i32, i64)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(*offset)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(1 << 20)
    };
    partitions.iter().map(one).collect()
}

/// A batch of values without keys, stamped now.
pub fn batch(values: &[&[u8]]) -> Bytes {
    batch_at(now_ms(), values)
}

pub fn batch_at(timestamp: i64, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in values {
        builder.push(timestamp, None, Some(value), &[]);
    }
    builder.build()
}

pub fn idempotent(producer_id: i64, sequence: i32, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None).producer(producer_id, 0, sequence);
    for value in values {
        builder.push(now_ms(), None, Some(value), &[]);
    }
    builder.build()
}

pub fn now_ms() -> i64 {
    TestClock::default().now_ms()
}

/// `(offset, value)` of the uncompressed records at or after `from`; checks every batch's CRC.
pub fn values(records: &Bytes, from: i64) -> Vec<(i64, Vec<u8>)> {
    let mut found = Vec::new();
    for item in Batches::new(records) {
        let (header, batch) = item.expect("whole batches");
        assert!(highwater_wire::batch::crc_matches(batch), "CRC");
        let mut records = Records::new(&batch[highwater_wire::HEADER_BYTES..], header.record_count);
        while let Some(record) = records.next().expect("record") {
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset >= from {
                found.push((offset, record.value.expect("value").to_vec()));
            }
        }
    }
    found
}

fn parts(settings: Settings, coordinator: Coordinator, clock: Arc<TestClock>) -> NodeParts {
    let store = Store::open(&settings.object_store_url(), None, StoreSettings::default()).expect("store");
    let names = Names::new(&coordinator.cluster_id()).expect("a cluster id fits into keys");
    let tier = Tier::new(&settings, store, names, &coordinator).expect("threads");
    NodeParts { settings, coordinator, tier, metrics: Metrics::new(), clock }
}
