//! Offload, evict, read back: the same bytes of keys and values at the same offsets, whatever holds them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use highwater_coordinator::core::BrokerRegistration;
use highwater_model::limits::{OFFLOAD_RETRY_MS_MIN, RETIRED_GRACE_MS};

use crate::it::harness::*;
use crate::it::offsets::delete_to;

const SMALL_SEGMENTS: &[(&str, &str)] = &[("segment.bytes", "65536")];

/// Produces `count` records of 1,000 bytes and returns what a consumer must see.
async fn fill(client: &mut Client, topic: &str, partition: i32, count: u32) -> Vec<(i64, Vec<u8>)> {
    let mut expected = Vec::new();
    for i in 0..count {
        let value = [&i.to_be_bytes()[..], &[i as u8; 996]].concat();
        let offset = client.put(topic, partition, batch(&[&value])).await;
        expected.push((offset, value));
    }
    expected
}

/// As `assert_eq`, without a megabyte of output.
fn same(found: &[(i64, Vec<u8>)], expected: &[(i64, Vec<u8>)]) {
    let first = found.iter().zip(expected).position(|(f, e)| f != e);
    assert!(first.is_none(), "record {} differs", first.unwrap_or(0));
    assert_eq!(found.len(), expected.len());
}

#[tokio::test]
async fn what_is_evicted_is_read_from_the_tier_and_the_seam_is_crossed() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let mut expected = fill(&mut client, "t", 0, 300).await;
    let done = harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert_eq!(done[0].tiered_end, 300);
    assert!(harness.node.evict_now("t").await.expect("evicted") > 250_000);
    expected.extend((300..).zip(fill(&mut client, "t", 0, 20).await.into_iter().map(|(_, v)| v)));
    assert_eq!(client.list_offset(8, "t", 0, -4).await.offset, 300);
    assert_eq!(client.list_offset(9, "t", 0, -5).await.offset, 299);
    same(&client.consume("t", 0, 0, 320).await, &expected);
    for start in [1, 63, 64, 65, 150, 299, 300] {
        same(&client.consume("t", 0, start, 320).await, &expected[start as usize..]);
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_tier_is_there_after_a_restart_and_without_local_files() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 200).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    drop(client);
    let stopped = harness.stop().await;
    std::fs::remove_dir_all(stopped.data_dir().join("topics").join(id.to_string())).expect("local files");
    let harness = stopped.start().await;
    let mut client = harness.client().await;
    assert_eq!(client.list_offset(5, "t", 0, -2).await.offset, 0);
    same(&client.consume("t", 0, 0, 200).await, &expected);
    assert_eq!(client.put("t", 0, batch(&[b"next"])).await, 200, "offsets are never used twice");
    harness.stop().await;
}

#[tokio::test]
async fn local_retention_drops_only_what_the_tier_has() {
    let harness = Harness::start().await;
    let configs = [("segment.bytes", "65536"), ("local.retention.bytes", "1")];
    harness.create_topic("t", 1, &configs).await;
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 300).await;
    let view = harness.node.partitions.view();
    let partition = view.partitions().next().expect("one").clone();
    until("sealed segments leave the disk by themselves", || {
        let bounds = partition.bounds().expect("serves");
        bounds.local_start > 200 && bounds.local_start <= bounds.tiered_end
    })
    .await;
    same(&client.consume("t", 0, 0, 300).await, &expected);
    harness.stop().await;
}

#[tokio::test]
async fn several_partitions_of_one_fetch_come_from_the_tier() {
    let harness = Harness::start().await;
    harness.create_topic("t", 4, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    for partition in 0..4 {
        fill(&mut client, "t", partition, 70).await;
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.evict_now("t").await.expect("evicted");
    let mut request = fetch_request("t", &[(0, 0), (1, 5), (2, 69), (3, 70)], PATIENCE_MS, 1);
    request.max_bytes = 10 << 20;
    let response = client.fetch(12, &request).await;
    let found: Vec<usize> = response.responses[0]
        .partitions
        .iter()
        .zip([0, 5, 69, 70])
        .map(|(p, from)| values(p.records.as_ref().expect("records"), from).len())
        .collect();
    assert_eq!(found, [70, 65, 1, 0]);
    harness.stop().await;
}

#[tokio::test]
async fn times_are_found_in_the_tier() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let t0 = now_ms() - 1_000_000;
    for i in 0..200 {
        client.put("t", 0, batch_at(t0 + i * 1_000, &[&[1; 1_000]])).await;
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.evict_now("t").await.expect("evicted");
    client.put("t", 0, batch_at(t0 + 200_000, &[b"local"])).await;
    for (timestamp, offset) in
        [(t0, 0), (t0 + 1, 1), (t0 + 150_500, 151), (t0 + 199_000, 199), (t0 + 199_001, 200)]
    {
        let found = client.list_offset(7, "t", 0, timestamp).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, offset, t0 + offset * 1_000));
    }
    assert_eq!(client.list_offset(7, "t", 0, t0 + 300_000).await.offset, -1);
    assert_eq!(client.list_offset(7, "t", 0, -3).await.offset, 200);
    harness.stop().await;
}

#[tokio::test]
async fn deleted_records_and_topics_leave_the_bucket() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    fill(&mut client, "t", 0, 200).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    let objects = || count_objects(&harness.data_dir().join("objects"));
    let before = objects();
    assert!(before >= 3, "{before}");
    assert_eq!(delete_to(&mut client, "t", 150).await, (0, 150));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(objects(), before, "a reader may still be in them");
    harness.clock.0.fetch_add(RETIRED_GRACE_MS, Ordering::Relaxed);
    until("retired objects are swept", || objects() < before).await;
    assert_eq!(client.consume("t", 0, 150, 200).await.len(), 50);
    harness.node.coordinator.delete_topics(vec![id]).await.remove(0).expect("deleted");
    harness.clock.0.fetch_add(RETIRED_GRACE_MS, Ordering::Relaxed);
    until("a deleted topic's objects are swept", || objects() == 0).await;
    until("and it is forgotten", || harness.node.coordinator.state().deleted.is_empty()).await;
    harness.stop().await;
}

#[tokio::test]
async fn retention_by_size_takes_the_tier_first() {
    let harness = Harness::start().await;
    let configs = [("segment.bytes", "65536"), ("retention.bytes", "-1")];
    let id = harness.create_topic("t", 1, &configs).await;
    let mut client = harness.client().await;
    fill(&mut client, "t", 0, 200).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.evict_now("t").await.expect("evicted");
    let change = highwater_coordinator::ConfigChange::Alter {
        topic_id: id,
        ops: vec![highwater_coordinator::core::ConfigOp {
            name: "retention.bytes".into(),
            op: highwater_coordinator::core::ConfigOpKind::Set("1".into()),
        }],
    };
    harness.node.coordinator.alter_configs(vec![change], false).await.remove(0).expect("altered");
    let view = harness.node.partitions.view();
    let partition = view.partitions().next().expect("one").clone();
    until("the log start rises", || partition.bounds().expect("serves").log_start >= 180).await;
    assert_eq!(client.put("t", 0, batch(&[b"next"])).await, 200);
    harness.stop().await;
}

#[tokio::test]
async fn a_rotten_segment_stops_sealing_with_an_alarm_and_nothing_else() {
    let harness = Harness::start().await;
    let id = harness
        .create_topic("t", 1, &[("segment.bytes", "65536"), ("remote.log.copy.disable", "true")])
        .await;
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 150).await;
    let segment = harness.data_dir().join("topics").join(id.to_string()).join("0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("segment");
    bytes[30_000] ^= 0xff;
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&segment).expect("segment");
        file.write_all_at(&bytes[30_000..30_001], 30_000).expect("rot");
    }
    let change = highwater_coordinator::ConfigChange::Alter {
        topic_id: id,
        ops: vec![highwater_coordinator::core::ConfigOp {
            name: "remote.log.copy.disable".into(),
            op: highwater_coordinator::core::ConfigOpKind::Delete,
        }],
    };
    harness.node.coordinator.alter_configs(vec![change], false).await.remove(0).expect("altered");
    let view = harness.node.partitions.view();
    let partition = view.partitions().next().expect("one").clone();
    until("sealing stops with an alarm", || partition.seal_alarm().is_some()).await;
    assert_eq!(partition.bounds().expect("serves").tiered_end, 0, "nothing is skipped");
    assert!(harness.node.metrics.render().contains("highwater_seal_alarm{"));
    let refused = harness.node.offload_now("t", PATIENCE).await.expect_err("alarm");
    assert!(refused.to_string().contains("sealing has stopped"), "{refused}");
    assert_eq!(client.put("t", 0, batch(&[b"goes on"])).await, 150);
    let found = client.consume("t", 0, 100, 150).await;
    assert!(found[..50] == expected[100..], "hot reads go on");
    harness.stop().await;
}

#[tokio::test]
async fn a_bucket_that_is_away_delays_only_the_tier() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let objects = harness.data_dir().join("objects");
    let away = harness.data_dir().join("away");
    // A file where the bucket was: every request fails.
    std::fs::rename(&objects, &away).or_else(|_| std::fs::create_dir(&away)).expect("away");
    std::fs::write(&objects, b"no directory").expect("blocked");
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 200).await;
    let view = harness.node.partitions.view();
    let partition = view.partitions().next().expect("one").clone();
    until("the offload fails and says why", || partition.offload_trouble_reason().is_some()).await;
    same(&client.consume("t", 0, 0, 200).await, &expected);
    assert_eq!(harness.node.evict_now("t").await.expect("evicts nothing"), 0);
    let refused = harness.node.offload_now("t", Duration::from_millis(100)).await.expect_err("away");
    assert!(refused.to_string().starts_with("t-0: "), "{refused}");
    std::fs::remove_file(&objects).expect("unblocked");
    std::fs::rename(&away, &objects).expect("back");
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert!(harness.node.evict_now("t").await.expect("evicted") > 0);
    same(&client.consume("t", 0, 0, 200).await, &expected);
    harness.stop().await;
}

fn count_objects(dir: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.path() {
            path if path.is_dir() => count_objects(&path),
            path => usize::from(path.extension().is_some_and(|e| e == "parquet")),
        })
        .sum()
}

#[tokio::test]
async fn the_bucket_learns_of_topics_settings_and_manifests_even_if_only_at_the_next_start() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 2, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    fill(&mut client, "t", 0, 70).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    let cluster = harness.data_dir().join("objects").join(harness.node.coordinator.cluster_id());
    let topics = cluster.join("_cluster/topics.json");
    let manifest = cluster.join("t").join(id.to_string()).join("partition=0/_manifest/mirror.json");
    drop(client);
    let stopped = harness.stop().await;
    let read = |path: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("mirrored")).expect("JSON")
    };
    assert_eq!(read(&manifest)["manifest"]["tiered_end"], 70);
    std::fs::remove_file(&manifest).expect("removed");
    std::fs::remove_file(&topics).expect("removed");
    let harness = stopped.start().await;
    let stopped = harness.stop().await;
    assert_eq!(read(&manifest)["manifest"]["tiered_end"], 70);
    let first = read(&topics);
    assert_eq!(first["body"]["format"], 1);
    let topic = &first["body"]["topics"][0];
    assert_eq!((&topic["name"], &topic["partitions"]), (&"t".into(), &2.into()));
    assert_eq!(topic["settings"]["segment.bytes"], "65536");
    let harness = stopped.start().await;
    harness.create_topic("u", 1, &[]).await;
    let _stopped = harness.stop().await;
    let second = read(&topics);
    assert_eq!(second["body"]["topics"].as_array().expect("a list").len(), 2);
    assert!(second["version"].as_u64() > first["version"].as_u64());
}

#[tokio::test]
async fn an_edit_of_manifests_alone_costs_no_new_view() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let before = harness.node.partitions.view();
    fill(&mut client, "t", 0, 70).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.follow_topics().await.expect("followed");
    let after = harness.node.partitions.view();
    assert!(std::sync::Arc::ptr_eq(&before, &after));
    assert_eq!(after.partitions().next().expect("one").manifest().tiered_end, 70);
    let topic = after.by_name("t").expect("there");
    assert_eq!(topic.record().partitions[0].manifest.tiered_end, 70);
    harness.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_for_more_than_the_memory_for_reads_gets_what_it_holds() {
    let harness = Harness::start_with(|settings| settings.read_memory_bytes = 256 * 1024).await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 300).await;
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.evict_now("t").await.expect("evicted");
    same(&client.consume("t", 0, 0, 300).await, &expected);
    harness.stop().await;
}

#[tokio::test]
async fn the_newest_record_is_found_when_the_log_start_has_cut_the_one_that_set_the_bound() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let t0 = now_ms() - 1_000_000;
    // The first record is the newest of all; within what is left the newest lies in the middle of the first
    // object.
    let at = |i: i64| match i {
        0 => t0 + 900_000,
        20 | 25 => t0 + 500_000,
        i => t0 + i,
    };
    for i in 0..150 {
        client.put("t", 0, batch_at(at(i), &[&[1; 1_000]])).await;
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    harness.node.evict_now("t").await.expect("evicted");
    assert_eq!(client.list_offset(7, "t", 0, -3).await.offset, 0);
    for (log_start, newest) in [(1, 20), (21, 25), (26, 149)] {
        assert_eq!(delete_to(&mut client, "t", log_start).await, (0, log_start));
        let found = client.list_offset(7, "t", 0, -3).await;
        assert_eq!((found.error_code, found.offset, found.timestamp), (0, newest, at(newest)));
    }
    client.put("t", 0, batch_at(t0 + 200, &[b"local"])).await;
    assert_eq!(client.list_offset(7, "t", 0, -3).await.offset, 150);
    harness.stop().await;
}

#[tokio::test]
async fn a_partition_whose_edits_stay_stale_pauses_and_goes_on_once_they_are_not() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let partition = harness.node.partitions.view().partitions().next().expect("one").clone();
    // As a leader that has not heard of its successor: the control plane refuses what it publishes.
    let held = harness.node.partitions.hold().await;
    let broker = harness.node.coordinator.state().brokers.values().next().expect("one").clone();
    let successor = BrokerRegistration {
        node_id: broker.node_id,
        incarnation: uuid::Uuid::new_v4(),
        host: broker.host,
        port: broker.port,
        rack: None,
        ..BrokerRegistration::default()
    };
    harness.node.coordinator.register_broker(successor).await.expect("registered");
    let mut client = harness.client().await;
    let expected = fill(&mut client, "t", 0, 70).await;
    let failures = || harness.node.metrics.offload_failures.get();
    until("the second refusal", || failures() >= 2).await;
    until("the pause", || partition.offload_trouble_reason().is_some()).await;
    let reason = partition.offload_trouble_reason().expect("told");
    assert!(reason.contains("stale"), "{reason}");
    let (before, began) = (failures(), std::time::Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (more, took) = (failures() - before, began.elapsed());
    let most = 1 + took.as_millis() as u64 / OFFLOAD_RETRY_MS_MIN;
    assert!(more <= most, "{more} attempts in {took:?}");
    assert_eq!(partition.manifest().tiered_end, 0);
    drop(held);
    harness.node.follow_topics().await.expect("followed");
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    assert_eq!(partition.offload_trouble_reason(), None);
    harness.node.evict_now("t").await.expect("evicted");
    same(&client.consume("t", 0, 0, 70).await, &expected);
    harness.stop().await;
}
