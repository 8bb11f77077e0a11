//! Records with a time to live over the wire: hidden from reads once it is over, wherever they are, and left
//! out of objects that are sealed after it; readers get past them.

use std::sync::atomic::Ordering;

use highwater_coordinator::ConfigChange;
use highwater_coordinator::core::{ConfigOp, ConfigOpKind};
use highwater_model::TopicId;
use highwater_wire::codec::decompress_into;
use highwater_wire::{BatchBuilder, Batches, Codec, HEADER_BYTES, Records};

use crate::it::harness::*;
use crate::it::transactions::{self, Rules, Txn, until_seen};

const HOUR_MS: i64 = 3_600_000;
const TTL: (&str, &str) = ("highwater.ttl.ms", "3600000");
const SMALL: (&str, &str) = ("segment.bytes", "65536");
const HEADER: &[u8] = b"highwater-ttl-ms";

/// What an answer holds: values with their offsets, and where a reader goes on.
fn read(records: &[u8], from: i64) -> (Vec<(i64, String)>, i64) {
    let (mut found, mut next) = (Vec::new(), from);
    for item in Batches::new(records) {
        let (header, batch) = item.expect("whole batches");
        highwater_wire::batch::check_crc(batch).expect("CRC");
        let (codec, mut section) = (header.codec().expect("known"), Vec::new());
        decompress_into(codec, &batch[HEADER_BYTES..], 1 << 20, &mut section).expect("decompresses");
        let mut records = Records::new(&section, header.record_count);
        while let Some(record) = records.next().expect("record") {
            let offset = header.base_offset + i64::from(record.offset_delta);
            if offset >= from {
                let value = record.value.expect("value");
                found.push((offset, String::from_utf8_lossy(&value[..value.len().min(8)]).into_owned()));
            }
        }
        assert!(header.next_offset() >= next, "a reader never goes back");
        next = header.next_offset();
    }
    (found, next)
}

/// Reads from `offset` to `end` as a consumer does, by the offsets of batches.
async fn consume(client: &mut Client, offset: i64, end: i64) -> Vec<(i64, String)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (mut at, mut all) = (offset, Vec::new());
    while at < end {
        assert!(tokio::time::Instant::now() < deadline, "stuck at {at} of {end}");
        let response = client.fetch(12, &fetch_request("t", &[(0, at)], 500, 1)).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "{partition:?}");
        let (some, next) = read(partition.records.as_ref().expect("records"), at);
        all.extend(some);
        at = next;
    }
    all
}

async fn offsets(client: &mut Client, offset: i64, end: i64) -> Vec<i64> {
    consume(client, offset, end).await.into_iter().map(|(offset, _)| offset).collect()
}

/// One batch of a kilobyte per record; each is as old as said, in milliseconds.
fn aged(codec: Codec, ages: &[i64]) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(codec);
    for age in ages {
        let value = [format!("{age:>8}").as_bytes(), &[b'.'; 1_000]].concat();
        builder.push(now_ms() - age, None, Some(&value), &[]);
    }
    builder.build()
}

async fn set(harness: &Harness, topic_id: TopicId, value: &str) {
    let op = ConfigOp { name: TTL.0.into(), op: ConfigOpKind::Set(value.into()) };
    let change = ConfigChange::Alter { topic_id, ops: vec![op] };
    harness.node.coordinator.alter_configs(vec![change], false).await.remove(0).expect("altered");
    harness.node.follow_topics().await.expect("followed");
}

#[tokio::test]
async fn what_has_expired_is_hidden_and_offsets_stay() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, &[TTL]).await;
    let mut client = harness.client().await;
    for codec in Codec::ALL {
        client.put("t", 0, aged(codec, &[2 * HOUR_MS, 0, 2 * HOUR_MS, 0])).await;
        client.put("t", 0, aged(codec, &[2 * HOUR_MS, 3 * HOUR_MS])).await;
    }
    let living: Vec<i64> = (0..5).flat_map(|codec| [codec * 6 + 1, codec * 6 + 3]).collect();
    assert_eq!(offsets(&mut client, 0, 30).await, living);
    assert_eq!(offsets(&mut client, 9, 30).await, living[3..], "also from amid a batch");
    assert_eq!(client.list_offset(8, "t", 0, -2).await.offset, 0, "the log's start is where it was");
    assert_eq!(client.list_offset(8, "t", 0, -1).await.offset, 30);
    assert!(harness.node.metrics.hidden_records.get() >= 20);
    // Hidden is not gone, while the topic is hot: the setting says what is shown.
    set(&harness, id, "-1").await;
    assert_eq!(offsets(&mut client, 0, 30).await, (0..30).collect::<Vec<i64>>());
    set(&harness, id, "3600000").await;
    assert_eq!(offsets(&mut client, 0, 30).await, living);
    harness.stop().await;
}

#[tokio::test]
async fn the_header_is_over_the_topic_and_works_alone() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, &[("highwater.ttl.ms", "0")]).await;
    let mut client = harness.client().await;
    let mut builder = BatchBuilder::new(Codec::None);
    let old = now_ms() - 2 * HOUR_MS;
    let three_hours = (3 * HOUR_MS).to_string();
    let headers: [Option<&[u8]>; 6] =
        [None, Some(b"1"), Some(three_hours.as_bytes()), Some(b"-1"), Some(b"tomorrow"), Some(b"")];
    for header in headers {
        let headers: Vec<_> = header.iter().map(|value| (HEADER, Some(*value))).collect();
        builder.push(old, None, Some(b"v"), &headers);
    }
    client.put("t", 0, builder.build()).await;
    client.put("t", 0, batch(&[b"last"])).await;
    assert_eq!(offsets(&mut client, 0, 7).await, [0, 2, 3, 4, 5, 6], "by header alone");
    set(&harness, id, "3600000").await;
    assert_eq!(offsets(&mut client, 0, 7).await, [2, 3, 6], "what cannot be read counts as absent");
    harness.stop().await;
}

#[tokio::test]
async fn where_all_has_expired_a_fetch_waits_behind_it_and_a_late_answer_takes_the_reader_on() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[TTL, SMALL]).await;
    let mut client = harness.client().await;
    for _ in 0..60 {
        client.put("t", 0, aged(Codec::None, &[2 * HOUR_MS; 3])).await;
    }
    // Many small looks in one fetch: what the partition may give at once is less than what is hidden.
    let mut request = fetch_request("t", &[(0, 0)], 0, 1);
    request.topics[0].partitions[0].partition_max_bytes = 10_000;
    for max_wait_ms in [0, 700] {
        request.max_wait_ms = max_wait_ms;
        let response = client.fetch(12, &request).await;
        let records = response.responses[0].partitions[0].records.clone().expect("records");
        let (found, next) = read(&records, 0);
        assert!(records.len() == HEADER_BYTES && found.is_empty() && next > 0, "one header takes it on");
    }
    assert!(offsets(&mut client, 0, 180).await.is_empty());
    // A long poll goes to the end of what is hidden, and waits there.
    request.max_wait_ms = PATIENCE_MS;
    let hidden = || harness.node.metrics.hidden_records.get();
    let before = hidden();
    client.send(highwater_wire::api::FETCH, 12, &request).await;
    let mut writer = harness.client().await;
    until("the fetch has gone past what is hidden", || hidden() >= before + 180).await;
    assert_eq!(writer.put("t", 0, batch(&[b"news"])).await, 180);
    let (_, body) = client.receive().await;
    let response: highwater_wire::kafka::messages::FetchResponse =
        decode(highwater_wire::api::FETCH, 12, body);
    let records = response.responses[0].partitions[0].records.clone().expect("records");
    assert_eq!(read(&records, 0), (vec![(180, "news".to_owned())], 181));
    harness.stop().await;
}

#[tokio::test]
async fn the_tier_hides_what_expires_and_lacks_what_had_expired() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[TTL, SMALL]).await;
    let mut client = harness.client().await;
    for _ in 0..100 {
        client.put("t", 0, aged(Codec::Lz4, &[2 * HOUR_MS, 0])).await;
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    let view = harness.node.partitions.view();
    let partition = view.partitions().next().expect("one").clone();
    let manifest = partition.manifest();
    assert_eq!((manifest.tiered_end, manifest.totals.records), (200, 100), "no object has what had expired");
    let living: Vec<i64> = (0..200).filter(|offset| offset % 2 == 1).collect();
    assert_eq!(offsets(&mut client, 0, 200).await, living, "from the hot log");
    harness.node.evict_now("t").await.expect("evicted");
    assert_eq!(partition.bounds().expect("serves").local_start, 200);
    assert_eq!(offsets(&mut client, 0, 200).await, living, "from the tier");
    // Time passes: the objects have them, readers do not. Over the seam there is something that lives.
    harness.clock.0.fetch_add(2 * HOUR_MS, Ordering::Relaxed);
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..3 {
        builder.push(now_ms() + 2 * HOUR_MS, None, Some(b"later"), &[]);
    }
    assert_eq!(client.put("t", 0, builder.build()).await, 200);
    let found = consume(&mut client, 0, 203).await;
    assert_eq!(found, [200, 201, 202].map(|offset| (offset, "later".to_owned())));
    assert_eq!(partition.manifest().totals.records, 100, "reading changes no object");
    harness.stop().await;
}

#[tokio::test]
async fn an_object_of_which_everything_had_expired_takes_readers_to_its_end() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[TTL, SMALL]).await;
    let mut client = harness.client().await;
    for _ in 0..40 {
        client.put("t", 0, aged(Codec::None, &[2 * HOUR_MS; 3])).await;
    }
    let done = harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert_eq!(done[0].tiered_end, 120);
    harness.node.evict_now("t").await.expect("evicted");
    assert!(offsets(&mut client, 0, 120).await.is_empty());
    client.put("t", 0, batch(&[b"living"])).await;
    assert_eq!(offsets(&mut client, 50, 121).await, [120]);
    harness.stop().await;
}

#[tokio::test]
async fn transactions_are_as_they_were() {
    let harness = transactions::harness().await;
    let view = harness.node.partitions.view();
    let topic = view.by_name("t").expect("there").id;
    drop(view);
    let mut reader = harness.client().await;
    for rules in [Rules::New, Rules::Old] {
        set(&harness, topic, "-1").await;
        let p = rules as i32;
        let mut txn = Txn::begin(&harness, &format!("id-{rules:?}"), rules).await;
        txn.write("t", p, &[b"old, committed"]).await;
        txn.end(true).await;
        txn.write("t", p, &[b"old, aborted"]).await;
        txn.end(false).await;
        reader.put("t", p, batch_at(now_ms() - HOUR_MS, &[b"old, plain"])).await;
        until_seen(&mut reader, "t", p, &["old, committed", "old, plain"]).await;
        harness.clock.0.fetch_add(HOUR_MS, Ordering::Relaxed);
        txn.write("t", p, &[b"new, aborted"]).await;
        txn.end(false).await;
        let now = now_ms() + harness.clock.0.load(Ordering::Relaxed);
        reader.put("t", p, batch_at(now, &[b"new, plain"])).await;
        set(&harness, topic, "1800000").await;
        until_seen(&mut reader, "t", p, &["new, plain"]).await;
        assert_eq!(transactions::seen(&mut reader, "t", p, 0).await, ["new, plain"]);
    }
    harness.stop().await;
}
