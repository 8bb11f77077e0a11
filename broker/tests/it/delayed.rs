//! Delayed delivery over the wire: what waits and what does not, once each, through retries, restarts, the
//! tier, a deleted topic, a journal that is written anew, and limits. Time is the test's own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::core::delayed::{Ask, AskRecord, Source, write_record};
use highwater_broker::delayed::{DELAYED_TOPIC, ask};
use highwater_model::TopicPartition;
use highwater_wire::kafka::messages::{
    DeleteTopicsRequest, DeleteTopicsResponse, ProduceResponse, TransactionalId,
};
use highwater_wire::kafka::protocol::StrBytes;
use highwater_wire::{BatchBuilder, Batches, Codec, HEADER_BYTES, Records, api};

use crate::it::harness::*;

const DELAYED: (&str, &str) = ("highwater.delayed.delivery", "true");
const HOUR_MS: i64 = 3_600_000;
const DELAY: &str = "highwater-delay-ms";
const AT: &str = "highwater-deliver-at";

async fn harness() -> Harness {
    Harness::start_with(|settings| settings.delayed_topic_num_partitions = 1).await
}

/// A record: its value and, if it has one, a header.
type One<'a> = (&'a str, Option<(&'a str, String)>);

fn plain(value: &str) -> One<'_> {
    (value, None)
}

fn in_hours(value: &str, hours: i64) -> One<'_> {
    (value, Some((DELAY, (hours * HOUR_MS).to_string())))
}

fn batch_of(producer: Option<(i64, i32)>, codec: Codec, records: &[One<'_>]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, 0, sequence);
    }
    for (value, header) in records {
        let header = header.as_ref().map(|(name, text)| (name.as_bytes(), Some(text.as_bytes())));
        let headers: Vec<_> = header.into_iter().collect();
        builder.push(now_ms(), Some(b"key"), Some(value.as_bytes()), &headers);
    }
    builder.build()
}

fn simple(records: &[One<'_>]) -> Bytes {
    batch_of(None, Codec::None, records)
}

async fn read(client: &mut Client, topic: &str, end: i64) -> Vec<(i64, String)> {
    read_from(client, topic, 0, end).await
}

/// Records of `start..end`, read as a consumer does: batch by batch, those without records too.
async fn read_from(client: &mut Client, topic: &str, start: i64, end: i64) -> Vec<(i64, String)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (mut at, mut found) = (start, Vec::new());
    while at < end {
        assert!(tokio::time::Instant::now() < deadline, "stuck at {at} of {end}: {found:?}");
        let answer = client.fetch(12, &fetch_request(topic, &[(0, at)], PATIENCE_MS, 1)).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "{partition:?}");
        let records = partition.records.as_ref().expect("records");
        let text = |(at, value)| (at, String::from_utf8(value).expect("text"));
        found.extend(values(records, at).into_iter().map(text));
        for item in Batches::new(records) {
            at = at.max(item.expect("whole batches").0.next_offset());
        }
    }
    found
}

fn owned(expected: &[(i64, &str)]) -> Vec<(i64, String)> {
    expected.iter().map(|(at, value)| (*at, (*value).to_owned())).collect()
}

async fn end_of(client: &mut Client, topic: &str) -> i64 {
    client.list_offset(8, topic, 0, -1).await.offset
}

fn later(harness: &Harness, ms: i64) {
    harness.clock.0.fetch_add(ms, Ordering::Relaxed);
}

/// Since the node was started.
fn released(harness: &Harness) -> u64 {
    harness.node.metrics.delayed.released.get()
}

/// As last counted, which is a moment ago.
fn waiting(harness: &Harness) -> u64 {
    harness.node.delays.waiting(0).records
}

#[tokio::test]
async fn a_record_comes_when_it_is_due_and_the_rest_of_its_batch_at_once() {
    let harness = harness().await;
    harness.create_topic("t", 1, &[DELAYED]).await;
    let mut client = harness.client().await;
    let mixed = batch_of(Some((7, 0)), Codec::Gzip, &[plain("a"), in_hours("b", 2), plain("c")]);
    assert_eq!(client.put("t", 0, mixed.clone()).await, 0);
    assert_eq!(client.put("t", 0, batch_of(Some((7, 3)), Codec::None, &[plain("d")])).await, 3);
    // All of a batch; and what is due already is not delayed.
    let past = ("e", Some((AT, (now_ms() - 1).to_string())));
    assert_eq!(client.put("t", 0, batch_of(Some((7, 4)), Codec::None, &[in_hours("f", 1)])).await, 4);
    assert_eq!(client.put("t", 0, batch_of(Some((7, 5)), Codec::None, &[past])).await, 5);
    let end = end_of(&mut client, "t").await;
    assert_eq!(end, 6);
    until("it is counted", || waiting(&harness) == 2).await;
    // Kept compressed is left compressed: a client decodes it.
    let answer = client.fetch(12, &fetch_request("t", &[(0, 0)], PATIENCE_MS, 1)).await;
    let records = answer.responses[0].partitions[0].records.clone().expect("records");
    let heads: Vec<_> = Batches::new(&records).map(|item| item.expect("whole").0).collect();
    let shape: Vec<_> = heads.iter().map(|h| (h.base_offset, h.last_offset_delta, h.record_count)).collect();
    assert_eq!(shape, [(0, 2, 2), (3, 0, 1), (4, 0, 0), (5, 0, 1)]);
    assert_eq!((heads[0].codec(), heads[0].base_sequence), (Ok(Codec::Gzip), 0));
    // A little before the time nothing has come.
    later(&harness, HOUR_MS - 60_000);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(end_of(&mut client, "t").await, end);
    later(&harness, 60_000);
    until("f is due", || waiting(&harness) == 1).await;
    later(&harness, HOUR_MS);
    until("b is due", || waiting(&harness) == 0).await;
    let answer = client.fetch(12, &fetch_request("t", &[(0, 6)], PATIENCE_MS, 1)).await;
    let records = answer.responses[0].partitions[0].records.clone().expect("records");
    assert_eq!(values(&records, 0), [(6, b"f".to_vec()), (7, b"b".to_vec())]);
    // Its batch again: known. A second copy would be due, and come, before what is due later.
    assert_eq!(client.put("t", 0, mixed).await, 0);
    assert_eq!(end_of(&mut client, "t").await, 8);
    assert_eq!(client.put("t", 0, batch_of(Some((7, 6)), Codec::None, &[in_hours("g", 3)])).await, 8);
    later(&harness, 4 * HOUR_MS);
    assert_eq!(read_from(&mut client, "t", 7, 10).await, owned(&[(7, "b"), (9, "g")]));
    until("no more waits", || waiting(&harness) == 0).await;
    assert_eq!((end_of(&mut client, "t").await, released(&harness)), (10, 3));
    harness.stop().await;
}

#[tokio::test]
async fn what_is_due_together_comes_in_due_order_with_all_that_it_had() {
    let harness = harness().await;
    for replication in ["fetch", "raft"] {
        let topic = format!("t-{replication}");
        harness.create_topic(&topic, 1, &[DELAYED, ("highwater.replication", replication)]).await;
        let mut client = harness.client().await;
        for (value, hours) in [("third", 3), ("first", 1), ("second", 2)] {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            // A group that is being formed has no leader yet.
            while client.produce(9, &topic, 0, simple(&[in_hours(value, hours)])).await.error_code != 0 {
                assert!(tokio::time::Instant::now() < deadline, "no leader");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        later(&harness, 4 * HOUR_MS);
        let found = read(&mut client, &topic, 6).await;
        assert_eq!(found, owned(&[(3, "first"), (4, "second"), (5, "third")]), "{topic}");
        let answer = client.fetch(12, &fetch_request(&topic, &[(0, 3)], PATIENCE_MS, 1)).await;
        let records = answer.responses[0].partitions[0].records.clone().expect("records");
        let (header, batch) = Batches::new(&records).next().expect("a batch").expect("whole");
        let mut each = Records::new(&batch[HEADER_BYTES..], header.record_count);
        let first = each.next().expect("reads").expect("one");
        let headers: Vec<_> = first.headers.iter().map(|h| (h.key, h.value)).collect();
        assert_eq!(
            (first.key, headers),
            (Some(&b"key"[..]), vec![(DELAY.as_bytes(), Some(&b"3600000"[..]))])
        );
        // The timestamp is the producer's, hours before it came.
        assert!(header.record_timestamp(first.timestamp_delta) <= now_ms());
    }
    harness.stop().await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_with_its_place() {
    let harness = harness().await;
    let limit = ("highwater.delay.max.ms", "7200000");
    harness.create_topic("t", 1, &[DELAYED, limit]).await;
    harness.create_topic("off", 1, &[]).await;
    let mut client = harness.client().await;
    let soon = ("b", Some((DELAY, "soon".to_owned())));
    let cases = [(soon.clone(), "decimal"), (in_hours("b", 3), "highwater.delay.max.ms of 7200000")];
    for (bad, text) in cases {
        let refused = client.produce(9, "t", 0, simple(&[plain("a"), bad])).await;
        assert_eq!((refused.error_code, refused.record_errors.len()), (87, 1), "{refused:?}");
        assert_eq!(refused.record_errors[0].batch_index, 1);
        assert!(refused.error_message.expect("a message").contains(text));
    }
    let mut both = BatchBuilder::new(Codec::None);
    both.push(0, None, Some(b"x"), &[(DELAY.as_bytes(), Some(b"1")), (AT.as_bytes(), Some(b"1"))]);
    assert_eq!(client.produce(9, "t", 0, both.build()).await.error_code, 87);
    let in_transaction = produce_request(-1, "t", &[(0, simple(&[in_hours("a", 1)]))])
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("x"))));
    let answer: ProduceResponse = client.call(api::PRODUCE, 9, &in_transaction).await;
    let refused = &answer.responses[0].partition_responses[0];
    assert_eq!(refused.error_code, 87);
    assert!(refused.error_message.as_ref().expect("a message").contains("transaction"));
    let mut silent = harness.client().await;
    silent.send(api::PRODUCE, 9, &produce_request(0, "t", &[(0, simple(&[in_hours("a", 1)]))])).await;
    silent.expect_closed().await;
    assert_eq!((end_of(&mut client, "t").await, waiting(&harness)), (0, 0));
    // Without the setting a header is a header.
    assert_eq!(client.put("off", 0, simple(&[soon, in_hours("a", 9)])).await, 0);
    assert_eq!(read(&mut client, "off", 2).await, owned(&[(0, "b"), (1, "a")]));
    assert!(harness.node.partitions.view().by_name(DELAYED_TOPIC).is_none(), "nobody has needed it");
    harness.stop().await;
}

#[tokio::test]
async fn a_full_shard_refuses_and_takes_again_when_there_is_room() {
    let harness = Harness::start_with(|settings| {
        settings.delayed_topic_num_partitions = 1;
        settings.delayed_partition_max_bytes = 400;
    })
    .await;
    harness.create_topic("t", 1, &[DELAYED]).await;
    let mut client = harness.client().await;
    let value = "x".repeat(200);
    assert_eq!(client.put("t", 0, simple(&[in_hours(&value, 1)])).await, 0);
    let refused = client.produce(9, "t", 0, simple(&[plain("a"), in_hours(&value, 1)])).await;
    assert_eq!(refused.error_code, 89, "{refused:?}");
    assert!(refused.error_message.expect("a message").contains("1 delayed records"));
    assert_eq!(end_of(&mut client, "t").await, 1, "nothing of the batch is there");
    later(&harness, HOUR_MS);
    until("the first is released", || released(&harness) == 1).await;
    assert_eq!(client.put("t", 0, simple(&[in_hours(&value, 1)])).await, 2);
    harness.stop().await;
}

/// What is left of such a batch has no records; its acknowledgement waits for the disk all the same.
#[tokio::test]
async fn a_batch_of_delayed_records_alone_is_acknowledged_where_each_is_flushed() {
    let harness = harness().await;
    harness.create_topic("t", 1, &[DELAYED, ("flush.messages", "1")]).await;
    let mut client = harness.client().await;
    for (sequence, acks) in [(0, -1), (1, 1)] {
        let batch = batch_of(Some((7, sequence)), Codec::None, &[in_hours("a", 1)]);
        let request = produce_request(acks, "t", &[(0, batch)]);
        let answer: ProduceResponse = client.call(api::PRODUCE, 9, &request).await;
        let taken = &answer.responses[0].partition_responses[0];
        assert_eq!((taken.error_code, taken.base_offset), (0, i64::from(sequence)), "acks={acks}: {taken:?}");
    }
    later(&harness, HOUR_MS);
    assert_eq!(read(&mut client, "t", 4).await, owned(&[(2, "a"), (3, "a")]));
    harness.stop().await;
}

#[tokio::test]
async fn records_whose_answer_was_lost_are_kept_once() {
    let harness = harness().await;
    let id = harness.create_topic("t", 1, &[DELAYED]).await;
    // As a leader that asked, and was gone before it appended the rest.
    let batch = batch_of(Some((7, 0)), Codec::None, &[plain("a"), in_hours("b", 1)]);
    let mut records = Records::new(&batch[HEADER_BYTES..], 2);
    records.next().expect("reads");
    let record = write_record(now_ms(), &records.next().expect("reads").expect("b"));
    let due_ms = now_ms() + HOUR_MS;
    let asking = Ask {
        target: TopicPartition::new(id, 0),
        source: Some(Source { producer_id: 7, epoch: 0, first: 0, last: 1 }),
        records: vec![AskRecord { delta: 1, due_ms, is_due: false, record }],
    };
    assert_eq!(ask(&harness.node, &asking, PATIENCE).await, Ok(vec![1]));
    assert_eq!(ask(&harness.node, &asking, PATIENCE).await, Ok(vec![1]));
    let stopped = harness.stop().await;
    let harness = stopped.start().await;
    let mut again = harness.client().await;
    assert_eq!(again.put("t", 0, batch.clone()).await, 0);
    later(&harness, 2 * HOUR_MS);
    assert_eq!(read(&mut again, "t", 3).await, owned(&[(0, "a"), (2, "b")]));
    // Once more: a second copy would come before what is due later.
    assert_eq!(again.put("t", 0, batch).await, 0);
    assert_eq!(again.put("t", 0, batch_of(Some((7, 2)), Codec::None, &[in_hours("c", 2)])).await, 3);
    later(&harness, 3 * HOUR_MS);
    assert_eq!(read(&mut again, "t", 5).await, owned(&[(0, "a"), (2, "b"), (4, "c")]));
    until("no more waits", || waiting(&harness) == 0).await;
    assert_eq!((end_of(&mut again, "t").await, released(&harness)), (5, 2));
    harness.stop().await;
}

#[tokio::test]
async fn a_restart_loses_nothing_and_doubles_nothing() {
    let harness = harness().await;
    harness.create_topic("t", 1, &[DELAYED]).await;
    let mut client = harness.client().await;
    for hours in 1..=6 {
        client.put("t", 0, simple(&[in_hours(&format!("{hours}"), hours)])).await;
    }
    drop(client);
    later(&harness, HOUR_MS);
    until("one is released", || released(&harness) == 1).await;
    let harness = harness.stop().await.start().await;
    // Due while nobody was there to see.
    later(&harness, HOUR_MS);
    let mut client = harness.client().await;
    assert_eq!(read(&mut client, "t", 8).await, owned(&[(6, "1"), (7, "2")]));
    later(&harness, 4 * HOUR_MS);
    let expected = owned(&[(6, "1"), (7, "2"), (8, "3"), (9, "4"), (10, "5"), (11, "6")]);
    assert_eq!(read(&mut client, "t", 12).await, expected);
    drop(client);
    let harness = harness.stop().await.start().await;
    let mut client = harness.client().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(end_of(&mut client, "t").await, 12);
    harness.stop().await;
}

#[tokio::test]
async fn records_of_a_deleted_topic_are_dropped() {
    let harness = harness().await;
    harness.create_topic("t", 2, &[DELAYED]).await;
    harness.create_topic("u", 1, &[DELAYED]).await;
    let mut client = harness.client().await;
    client.put("t", 0, simple(&[in_hours("a", 1), in_hours("b", 2)])).await;
    client.put("t", 1, simple(&[in_hours("c", 1)])).await;
    client.put("u", 0, simple(&[in_hours("d", 1)])).await;
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![name("t")]).with_timeout_ms(PATIENCE_MS);
    let answer: DeleteTopicsResponse = client.call(api::DELETE_TOPICS, 5, &request).await;
    assert_eq!(answer.responses[0].error_code, 0);
    until("its records are dropped", || harness.node.metrics.delayed.dropped.get() == 3).await;
    // One of the same name has nothing to do with it.
    harness.create_topic("t", 2, &[DELAYED]).await;
    later(&harness, 3 * HOUR_MS);
    assert_eq!(read(&mut client, "u", 2).await, owned(&[(1, "d")]));
    until("nothing waits any more", || waiting(&harness) == 0).await;
    assert_eq!(end_of(&mut client, "t").await, 0);
    harness.stop().await;
}

#[tokio::test]
async fn holes_and_empty_batches_go_to_the_tier_and_come_back() {
    let harness = harness().await;
    harness.create_topic("t", 1, &[DELAYED, ("segment.bytes", "65536")]).await;
    let mut client = harness.client().await;
    let (mut expected, mut at) = (Vec::new(), 0);
    let filler = "y".repeat(3_000);
    for n in 0..90 {
        let value = format!("{n}-{filler}");
        let late = in_hours("late", 1);
        let (records, kept): (Vec<One<'_>>, Vec<i64>) = match n % 3 {
            0 => (vec![late.clone(), plain(&value), late], vec![1]),
            1 => (vec![late.clone(), late], vec![]),
            _ => (vec![plain(&value), plain("z")], vec![0, 1]),
        };
        assert_eq!(client.put("t", 0, simple(&records)).await, at);
        expected.extend(kept.iter().map(|delta| (at + delta, records[*delta as usize].0.to_owned())));
        at += records.len() as i64;
    }
    // A segment of empty batches alone.
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    for _ in 0..3 {
        client.put("t", 0, simple(&[in_hours("late", 1)])).await;
    }
    at += 3;
    let done = harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert_eq!(done[0].tiered_end, at);
    harness.node.evict_now("t").await.expect("evicted");
    assert_eq!(read(&mut client, "t", at).await, expected);
    // A fetch that begins in a hole.
    let response = client.fetch(12, &fetch_request("t", &[(0, 3)], PATIENCE_MS, 1)).await;
    let records = response.responses[0].partitions[0].records.clone().expect("records");
    assert_eq!(values(&records, 3).first().map(|(at, _)| *at), Some(5));
    later(&harness, HOUR_MS);
    let late = 30 * 4 + 3;
    expected.extend((0..late).map(|n| (at + n, "late".to_owned())));
    assert_eq!(read(&mut client, "t", at + late).await, expected);
    harness.stop().await;
}

#[tokio::test]
async fn the_journal_is_written_anew_and_says_the_same() {
    let harness = Harness::start_with(|settings| {
        settings.delayed_topic_num_partitions = 1;
        settings.delayed_topic_rewrite_bytes = 32 * 1024;
    })
    .await;
    harness.create_topic("t", 1, &[DELAYED]).await;
    let mut client = harness.client().await;
    let kept = batch_of(Some((7, 0)), Codec::None, &[in_hours("last", 100)]);
    client.put("t", 0, kept.clone()).await;
    let value = "v".repeat(4_000);
    let mut end = 1;
    for round in 1..=4 {
        for _ in 0..10 {
            client.put("t", 0, simple(&[in_hours(&value, 1)])).await;
        }
        end += 20;
        later(&harness, HOUR_MS);
        until("they are released", || released(&harness) == 10 * round).await;
    }
    until("the journal begins anew", || {
        let view = harness.node.partitions.view();
        let topic = view.by_name(DELAYED_TOPIC).expect("made");
        let partition = topic.partitions().next().expect("open").clone();
        partition.bounds().expect("served").log_start > 0
    })
    .await;
    assert_eq!(end_of(&mut client, "t").await, end);
    drop(client);
    let harness = harness.stop().await.start().await;
    let mut client = harness.client().await;
    // Its producer is still known, and what waits.
    assert_eq!(client.put("t", 0, kept).await, 0);
    later(&harness, 100 * HOUR_MS);
    let found = read(&mut client, "t", end + 1).await;
    assert_eq!(found.last(), Some(&(end, "last".to_owned())));
    assert_eq!(found.len() as i64, (end - 1) / 2 + 1);
    harness.stop().await;
}
