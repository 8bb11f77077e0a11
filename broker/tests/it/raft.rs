//! Topics replicated by Raft, on one node: what clients see is what they see of other topics, whatever the
//! way of replication is or was.

use std::time::Duration;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::{ConfigOp, ConfigOpKind};
use highwater_model::TopicId;
use highwater_wire::api;
use highwater_wire::kafka::messages::*;

use crate::it::harness::*;
use crate::it::offsets::delete_to;

const RAFT: (&str, &str) = ("highwater.replication", "raft");
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

async fn create(harness: &Harness, configs: &[(&str, &str)]) -> TopicId {
    let id = harness.create_topic("t", 1, configs).await;
    wait_led(harness).await;
    id
}

async fn wait_led(harness: &Harness) {
    until("the partition is led", || {
        harness.node.partitions.view().partitions().all(|partition| partition.terms().is_leader)
    })
    .await;
}

fn is_by_raft(harness: &Harness) -> bool {
    let view = harness.node.partitions.view();
    view.partitions().all(|p| p.terms().raft.as_ref().is_some_and(|raft| raft.group.is_some()))
}

/// As a client does: again while the leader is none.
async fn put(client: &mut Client, batch: bytes::Bytes) -> i64 {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let response = client.produce(9, "t", 0, batch.clone()).await;
        match response.error_code {
            0 => return response.base_offset,
            NOT_LEADER_OR_FOLLOWER => assert!(tokio::time::Instant::now() < deadline, "no leader in time"),
            code => panic!("error {code}: {response:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_raft_topic_is_written_read_and_looked_up() {
    let harness = Harness::start().await;
    create(&harness, &[RAFT]).await;
    let mut client = harness.client().await;
    assert_eq!(client.put("t", 0, idempotent(7, 0, &[b"a", b"b"])).await, 0);
    assert_eq!(client.put("t", 0, idempotent(7, 2, &[b"c"])).await, 2);
    assert_eq!(client.put("t", 0, idempotent(7, 2, &[b"c"])).await, 2, "sent again, it is where it was");
    let gap = client.produce(9, "t", 0, idempotent(7, 9, &[b"x"])).await;
    assert_eq!(gap.error_code, OUT_OF_ORDER_SEQUENCE_NUMBER);
    for n in 0..7 {
        client.put("t", 0, idempotent(8, n, &[b"x"])).await;
    }
    let old = client.produce(9, "t", 0, idempotent(8, 0, &[b"x"])).await;
    assert_eq!(old.error_code, DUPLICATE_SEQUENCE_NUMBER, "committed, and too old to know where");
    let one: ProduceResponse =
        client.call(api::PRODUCE, 9, &produce_request(1, "t", &[(0, batch(&[b"d"]))])).await;
    assert_eq!(one.responses[0].partition_responses[0].base_offset, 10);
    client.send(api::PRODUCE, 9, &produce_request(0, "t", &[(0, batch(&[b"e"]))])).await;
    let read = client.consume("t", 0, 0, 12).await;
    let values: Vec<&[u8]> = read.iter().map(|(_, value)| value.as_slice()).collect();
    assert_eq!(values.concat(), b"abcxxxxxxxde");
    let (first, last) = (client.list_offset(5, "t", 0, -2).await, client.list_offset(5, "t", 0, -1).await);
    assert_eq!((first.offset, last.offset), (0, 12));
    let metadata = MetadataRequest::default().with_topics(None);
    let metadata: MetadataResponse = client.call(api::METADATA, 12, &metadata).await;
    let partition = &metadata.topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.leader_id.0), (0, 1));
    assert_eq!(partition.leader_epoch, last.leader_epoch, "the term is the leader epoch");
    harness.stop().await;
}

#[tokio::test]
async fn batches_of_one_connection_keep_their_order() {
    let harness = Harness::start().await;
    create(&harness, &[RAFT]).await;
    let mut client = harness.client().await;
    let mut sent = Vec::new();
    for number in 0..200u32 {
        let batch = idempotent(9, number as i32, &[&number.to_be_bytes()]);
        sent.push(client.send(api::PRODUCE, 9, &produce_request(-1, "t", &[(0, batch)])).await);
    }
    for (number, sent) in sent.into_iter().enumerate() {
        let (correlation, body) = client.receive().await;
        assert_eq!(correlation, sent);
        let response: ProduceResponse = decode(api::PRODUCE, 9, body);
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, number as i64), "batch {number}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn a_raft_topic_goes_to_the_tier_is_evicted_and_read_after_a_restart() {
    let harness = Harness::start().await;
    create(&harness, &[RAFT, ("segment.bytes", "65536")]).await;
    let mut client = harness.client().await;
    for number in 0..300u32 {
        client.put("t", 0, batch(&[&[&number.to_be_bytes()[..], &[7; 996]].concat()])).await;
    }
    let done = harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert_eq!(done[0].tiered_end, 300);
    assert!(harness.node.evict_now("t").await.expect("evicted") > 250_000, "the group lets go of it");
    assert_eq!(client.put("t", 0, batch(&[b"after"])).await, 300);
    drop(client);
    let harness = harness.stop().await.start().await;
    wait_led(&harness).await;
    let mut client = harness.client().await;
    let read = client.consume("t", 0, 0, 301).await;
    assert!((0..300u32).zip(&read).all(|(number, (_, value))| value[..4] == number.to_be_bytes()));
    assert_eq!(read[300], (300, b"after".to_vec()));
    assert_eq!(client.list_offset(8, "t", 0, -4).await.offset, 300, "local from here");
    assert_eq!(delete_to(&mut client, "t", 100).await, (0, 100));
    assert_eq!(client.list_offset(5, "t", 0, -2).await.offset, 100);
    assert_eq!(client.put("t", 0, batch(&[b"more"])).await, 301);
    harness.stop().await;
}

async fn replicate_by(harness: &Harness, id: TopicId, way: &str) {
    let op = ConfigOp { name: RAFT.0.into(), op: ConfigOpKind::Set(way.into()) };
    let change = ConfigChange::Alter { topic_id: id, ops: vec![op] };
    harness.node.coordinator.alter_configs(vec![change], false).await.remove(0).expect("altered");
    until("the switch is done", || is_by_raft(harness) == (way == "raft")).await;
    wait_led(harness).await;
}

#[tokio::test]
async fn a_live_topic_goes_to_raft_and_back_and_keeps_everything() {
    let harness = Harness::start().await;
    let id = create(&harness, &[]).await;
    let mut client = harness.client().await;
    for (number, way) in ["raft", "fetch", "raft"].into_iter().enumerate() {
        let number = number as i32;
        assert_eq!(put(&mut client, idempotent(5, number, &[way.as_bytes()])).await, i64::from(number));
        replicate_by(&harness, id, way).await;
        let again = put(&mut client, idempotent(5, number, &[way.as_bytes()])).await;
        assert_eq!(again, i64::from(number), "what is known of producers goes with the log");
    }
    drop(client);
    let harness = harness.stop().await.start().await;
    wait_led(&harness).await;
    assert!(is_by_raft(&harness));
    let mut client = harness.client().await;
    assert_eq!(put(&mut client, idempotent(5, 3, &[b"last"])).await, 3);
    let read = client.consume("t", 0, 0, 4).await;
    let values: Vec<&[u8]> = read.iter().map(|(_, value)| value.as_slice()).collect();
    assert_eq!(values, [&b"raft"[..], b"fetch", b"raft", b"last"]);
    harness.stop().await;
}

#[tokio::test]
async fn a_single_replica_that_lost_its_side_files_goes_on_with_its_log() {
    let harness = Harness::start().await;
    let id = create(&harness, &[RAFT]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"a"])).await;
    let before = client.list_offset(5, "t", 0, -1).await.leader_epoch;
    drop(client);
    let stopped = harness.stop().await;
    let dir = stopped.data_dir().join("topics").join(id.to_string()).join("0");
    std::fs::remove_file(dir.join("raft")).expect("the side file");
    let harness = stopped.start().await;
    wait_led(&harness).await;
    let mut client = harness.client().await;
    assert_eq!(put(&mut client, batch(&[b"b"])).await, 1);
    let now = client.list_offset(5, "t", 0, -1).await.leader_epoch;
    assert!(now > before, "in a term that nobody has seen: {now} after {before}");
    harness.stop().await;
}
