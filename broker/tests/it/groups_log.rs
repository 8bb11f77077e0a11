//! The log of consumer groups: it stays bounded, is what Kafka's tools can read, and requests that no honest
//! client sends leave nothing in it.

use std::time::Duration;

use bytes::Bytes;
use highwater_groups::core::records::{Key, Record, Value};
use highwater_wire::api;
use highwater_wire::kafka::messages::join_group_request::JoinGroupRequestProtocol;
use highwater_wire::kafka::messages::*;

use super::groups::*;
use crate::it::harness::*;

const OFFSETS: &str = "__consumer_offsets";
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Above so much the log is written anew.
const REWRITE_BYTES: u64 = 32 * 1024;

async fn harness() -> Harness {
    let harness = Harness::start_with(|settings| {
        settings.offsets_topic_num_partitions = 1;
        settings.offsets_topic_rewrite_bytes = REWRITE_BYTES;
        settings.group_initial_rebalance_delay_ms = 0;
    })
    .await;
    harness.create_topic("t", 4, &[]).await;
    harness
}

async fn end(client: &mut Client, which: i64) -> i64 {
    client.list_offset(4, OFFSETS, 0, which).await.offset
}

/// Every record of the internal topic from its start to its end, as Kafka's formats say, and the bytes.
async fn records(client: &mut Client) -> (Vec<Record>, usize) {
    let (mut at, last) = (end(client, EARLIEST).await, end(client, LATEST).await);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while at < last {
        let request = fetch_request(OFFSETS, &[(0, at)], PATIENCE_MS, 1);
        let response = client.fetch(12, &request).await;
        let partition = &response.responses[0].partitions[0];
        if partition.error_code == OFFSET_OUT_OF_RANGE {
            // The start has moved meanwhile.
            (at, bytes) = (end(client, EARLIEST).await, 0);
            found.clear();
            continue;
        }
        assert_eq!(partition.error_code, 0, "{partition:?}");
        for item in highwater_wire::Batches::new(partition.records.as_ref().expect("records")) {
            let (header, batch) = item.expect("whole batches");
            bytes += batch.len();
            let section = &batch[highwater_wire::HEADER_BYTES..];
            let mut inner = highwater_wire::Records::new(section, header.record_count);
            while let Some(record) = inner.next().expect("a record") {
                let key = record.key.expect("every record has a key");
                let record = Record::decode(key, record.value).expect("in Kafka's format");
                found.push(record.expect("of a kind that is known"));
            }
            at = header.base_offset + i64::from(header.last_offset_delta) + 1;
        }
    }
    (found, bytes)
}

#[tokio::test]
async fn the_log_of_groups_stays_bounded_and_says_the_same() {
    let harness = harness().await;
    let mut client = harness.client().await;
    coordinator(&mut client, "g").await;
    let member = member_id(&mut client, "g").await;
    let joined: JoinGroupResponse = client.call(api::JOIN_GROUP, 9, &join_request("g", &member, b"m")).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(sync(&mut client, "g", 1, &member, &[(&member, b"mine")]).await.error_code, 0);
    assert_eq!(commit(&mut client, 9, "gone", (-1, ""), ("t", 0, 3)).await, 0);
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("gone")]);
    let deleted: DeleteGroupsResponse = client.call(api::DELETE_GROUPS, 2, &delete).await;
    assert_eq!(deleted.results[0].error_code, 0);

    // Until it was written anew twice: the second time over what the first left.
    let mut round = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while harness.node.metrics.group_rewrites.get() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "after {round} rounds of commits");
        round += 1;
        for id in ["a", "b"] {
            for partition in 0..4 {
                assert_eq!(commit(&mut client, 9, id, (-1, ""), ("t", partition, round)).await, 0);
            }
        }
        assert_eq!(commit(&mut client, 9, "g", (1, &member), ("t", 0, round)).await, 0);
        assert_eq!(heartbeat(&mut client, "g", 1, &member).await, 0);
    }
    // What came while it was written may be worth another pass; then it rests.
    let found = loop {
        let (found, bytes) = records(&mut client).await;
        if bytes < 2 * REWRITE_BYTES as usize {
            break found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{bytes} bytes are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let start = end(&mut client, EARLIEST).await;
    assert!(start > round, "{start} records are given up after {round} rounds");
    let is_of = |record: &&Record, wanted: &str| &**record.key.group() == wanted;
    assert!(!found.iter().any(|record| is_of(&record, "gone")), "a deleted group is written no more");
    let groups = found.iter().filter(|record| matches!(record.key, Key::Classic { .. }));
    assert!(groups.filter(|record| is_of(record, "g")).count() >= 1, "the generation that was finished");
    // What lies below goes from the disk too.
    let topic = harness
        .node
        .coordinator
        .with_state(|state| state.topic_by_name(OFFSETS).map(|topic| topic.id).expect("it was created"));
    let dir = harness.data_dir().join("topics").join(topic.to_string()).join("0");
    let oldest = || {
        let names = std::fs::read_dir(&dir).expect("a directory").filter_map(Result::ok);
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".log")?.parse::<i64>().ok()).min().unwrap_or(0)
    };
    until("segments below the start are gone", || oldest() >= start).await;

    drop(client);
    let harness = harness.stop().await.start().await;
    let mut client = harness.client().await;
    coordinator(&mut client, "g").await;
    for id in ["a", "b", "g"] {
        assert_eq!(fetch_offset(&mut client, 9, id).await, (0, round), "{id}");
    }
    assert_eq!(fetch_offset(&mut client, 9, "gone").await, (0, -1));
    assert_eq!(heartbeat(&mut client, "g", 1, &member).await, 0, "the member is still one");
    let again = sync(&mut client, "g", 1, &member, &[]).await;
    assert_eq!((again.error_code, &again.assignment[..]), (0, &b"mine"[..]));
    harness.stop().await;
}

#[tokio::test]
async fn a_rebalance_under_way_is_not_written_and_not_lost() {
    let harness = harness().await;
    let (mut one, mut two) = (harness.client().await, harness.client().await);
    coordinator(&mut one, "g").await;
    let patient = |member: &str, metadata| {
        let request = join_request("g", member, metadata).with_session_timeout_ms(PATIENCE_MS);
        request.with_rebalance_timeout_ms(PATIENCE_MS)
    };
    let first = member_id(&mut one, "g").await;
    let _: JoinGroupResponse = one.call(api::JOIN_GROUP, 9, &patient(&first, b"1")).await;
    sync(&mut one, "g", 1, &first, &[(&first, b"x")]).await;
    // The second member waits for the first, which does not come.
    let second = member_id(&mut two, "g").await;
    two.send(api::JOIN_GROUP, 9, &patient(&second, b"2")).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while heartbeat(&mut one, "g", 1, &first).await != 27 {
        assert!(tokio::time::Instant::now() < deadline, "no rebalance");
    }
    let mut other = harness.client().await;
    let mut round = 0;
    while harness.node.metrics.group_rewrites.get() < 1 {
        assert!(tokio::time::Instant::now() < deadline, "after {round} commits");
        round += 1;
        assert_eq!(commit(&mut other, 9, "a", (-1, ""), ("t", 0, round)).await, 0);
    }
    assert_eq!(heartbeat(&mut one, "g", 1, &first).await, 27, "it is still awaited");
    let joined: JoinGroupResponse = one.call(api::JOIN_GROUP, 9, &patient(&first, b"1")).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 2), "{joined:?}");
    let (found, _) = records(&mut other).await;
    let key = Key::Classic { group: "g".into() };
    let stored = found.iter().filter(|record| record.key == key).map(|record| match &record.value {
        Some(Value::Classic(value)) => (value.generation, value.members.len()),
        other => panic!("{other:?}"),
    });
    let stored: Vec<(i32, usize)> = stored.collect();
    assert!(!stored.is_empty() && stored.iter().all(|one| *one == (1, 1)), "{stored:?}: 2 is not finished");
    harness.stop().await;
}

/// Joins with everything as given; the answer's error.
async fn join_error(client: &mut Client, id: &str, member: &str, session_ms: i32, metadata: usize) -> i16 {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from(vec![7; metadata]));
    let request = JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(session_ms)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let joined: JoinGroupResponse = client.call(api::JOIN_GROUP, 9, &request).await;
    joined.error_code
}

#[tokio::test]
async fn bad_requests_get_kafkas_errors_and_leave_nothing() {
    let harness = harness().await;
    let mut client = harness.client().await;
    coordinator(&mut client, "g").await;
    let longest = "x".repeat(i16::MAX as usize);
    for (id, member, session_ms, metadata, expected) in [
        ("", "", 10_000, 0, 24),
        ("g", "", 1, 0, 26),
        ("g", "", i32::MAX, 0, 26),
        ("g", "stranger", 10_000, 0, 25),
        ("g", longest.as_str(), 10_000, 0, 25),
        ("g", "", 10_000, 8 << 20, 42),
    ] {
        let error = join_error(&mut client, id, member, session_ms, metadata).await;
        assert_eq!(error, expected, "{} {} {session_ms} {metadata}", id.len(), member.len());
    }
    assert_eq!(sync(&mut client, "g", 1, "stranger", &[]).await.error_code, 25);
    assert_eq!(sync(&mut client, "", 1, "stranger", &[]).await.error_code, 24);
    assert_eq!(heartbeat(&mut client, "g", -1, "").await, 25);
    assert_eq!(heartbeat(&mut client, "", 1, "m").await, 24);
    // No text of the protocol is longer; as with Kafka, the connection ends.
    let mut other = harness.client().await;
    other.send(api::JOIN_GROUP, 9, &join_request(&"x".repeat(40_000), "", b"m")).await;
    other.expect_closed().await;
    assert_eq!(commit(&mut client, 9, "g", (7, "stranger"), ("t", 0, 1)).await, 69);
    assert_eq!(commit(&mut client, 8, "g", (7, "stranger"), ("t", 0, 1)).await, 22);
    assert_eq!(commit(&mut client, 9, "g", (-1, ""), ("t", -1, 1)).await, 3);
    assert_eq!(commit(&mut client, 9, "g", (-1, ""), ("t", i32::MAX, 1)).await, 3);
    let (found, _) = records(&mut client).await;
    assert_eq!(found.len(), 0, "records of nothing");
    assert_eq!(join_error(&mut client, &longest, "", 10_000, 0).await, 79, "the longest id is one");
    // Offsets are not compared with the log, as in Kafka.
    for offset in [-7, i64::MAX] {
        assert_eq!(commit(&mut client, 9, "g", (-1, ""), ("t", 0, offset)).await, 0);
        assert_eq!(fetch_offset(&mut client, 9, "g").await, (0, offset));
    }
    let grow = create_partitions_request::CreatePartitionsTopic::default()
        .with_name(name(OFFSETS))
        .with_count(5)
        .with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![grow]).with_timeout_ms(PATIENCE_MS);
    let grown: CreatePartitionsResponse = client.call(api::CREATE_PARTITIONS, 3, &request).await;
    assert_eq!(grown.results[0].error_code, 42, "groups would be looked for elsewhere");
    harness.stop().await;
}

/// Commits offsets of every partition of `t`, in one request.
async fn commit_all(client: &mut Client, id: &str, partitions: i32, offset: i64) {
    use offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
    let one = |partition| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("")))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(name("t"))
        .with_partitions((0..partitions).map(one).collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let answer: OffsetCommitResponse = client.call(api::OFFSET_COMMIT, 9, &request).await;
    assert!(answer.topics[0].partitions.iter().all(|partition| partition.error_code == 0));
}

/// Figures for people: commits per second of 32 consumers, and the load of a million offsets.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures for people, takes a while"]
async fn figures() {
    const PARTITIONS: i32 = 100;
    const GROUPS: i64 = 10_000;
    let harness = Harness::start_with(|settings| settings.offsets_topic_num_partitions = 1).await;
    harness.create_topic("t", PARTITIONS, &[]).await;
    coordinator(&mut harness.client().await, "g").await;
    let began = std::time::Instant::now();
    let consumers = (0..32).map(|n| {
        let address = harness.address;
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for round in 0..2_000 {
                let id = format!("one-{n}");
                assert_eq!(commit(&mut client, 9, &id, (-1, ""), ("t", 0, round)).await, 0);
            }
        })
    });
    for consumer in consumers.collect::<Vec<_>>() {
        consumer.await.expect("committed");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("32 consumers: {:.0} commits/s", 64_000.0 / seconds);
    let began = std::time::Instant::now();
    let mut client = harness.client().await;
    for n in 0..GROUPS {
        commit_all(&mut client, &format!("group-{n:05}"), PARTITIONS, n).await;
    }
    println!("{} offsets, 100 at a time: {:.1} s", GROUPS * 100, began.elapsed().as_secs_f64());
    drop(client);
    let harness = harness.stop().await.start().await;
    let began = std::time::Instant::now();
    let mut client = harness.client().await;
    coordinator(&mut client, "group-00007").await;
    println!("loaded {:.2} s after the start", began.elapsed().as_secs_f64());
    assert_eq!(fetch_offset(&mut client, 9, "group-00007").await, (0, 7));
    harness.stop().await;
}
