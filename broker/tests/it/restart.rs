//! What survives a stop, clean or not, and what a deleted topic leaves.

use crate::it::harness::*;

#[tokio::test]
async fn everything_is_there_after_a_clean_stop() {
    let harness = Harness::start().await;
    harness.create_topic("t", 3, &[("segment.bytes", "65536")]).await;
    let mut client = harness.client().await;
    for i in 0..30u8 {
        client.put("t", i32::from(i % 3), batch(&[&[i; 10_000]])).await;
    }
    client.put("t", 0, idempotent(77, 0, &[b"once"])).await;
    drop(client);
    let harness = harness.stop().await.start().await;
    let mut client = harness.client().await;
    assert_eq!(client.put("t", 0, idempotent(77, 0, &[b"once"])).await, 10, "producers are remembered");
    for partition in 0..3 {
        let found = client.consume("t", partition, 0, 10).await;
        assert!(found.iter().enumerate().all(|(at, (offset, value))| {
            *offset == at as i64 && (at >= 10 || value[0] as i32 == at as i32 * 3 + partition)
        }));
    }
    assert_eq!(client.put("t", 1, batch(&[b"next"])).await, 10);
    harness.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_namesake_starts_at_zero() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"old"])).await;
    let dir = harness.data_dir().join("topics").join(id.to_string());
    assert!(dir.exists());
    harness.node.coordinator.delete_topics(vec![id]).await.remove(0).expect("deleted");
    harness.node.follow_topics().await.expect("followed");
    assert_eq!(client.produce(9, "t", 0, batch(&[b"x"])).await.error_code, 3);
    until("local files are gone", || !dir.exists()).await;
    harness.create_topic("t", 1, &[]).await;
    assert_eq!(client.put("t", 0, batch(&[b"new"])).await, 0);
    assert_eq!(client.fetch_values("t", 0, 0).await, [(0, b"new".to_vec())]);
    harness.stop().await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    for _ in 0..5 {
        client.put("t", 0, batch(&[b"whole"])).await;
    }
    drop(client);
    let stopped = harness.stop().await;
    let dir = stopped.data_dir().join("topics").join(id.to_string()).join("0");
    // As after a crash: no clean end, and half a batch at the end.
    std::fs::remove_file(dir.join("checkpoint")).expect("checkpoint");
    let segment = dir.join("00000000000000000000.log");
    let whole = std::fs::read(&segment).expect("segment");
    let torn = [&whole[..], &whole[..40]].concat();
    std::fs::write(&segment, torn).expect("torn");
    let harness = stopped.start().await;
    let mut client = harness.client().await;
    assert_eq!(client.put("t", 0, batch(&[b"next"])).await, 5);
    assert_eq!(client.consume("t", 0, 0, 6).await.len(), 6);
    harness.stop().await;
}

#[tokio::test]
async fn many_partitions_open_quickly() {
    let harness = Harness::start().await;
    harness.create_topic("many", 300, &[]).await;
    let mut client = harness.client().await;
    for partition in (0..300).step_by(37) {
        assert_eq!(client.put("many", partition, batch(&[b"x"])).await, 0);
    }
    drop(client);
    let harness = harness.stop().await.start().await;
    assert_eq!(harness.node.partitions.view().partitions().count(), 300);
    assert_eq!(harness.client().await.put("many", 37, batch(&[b"x"])).await, 1);
    harness.stop().await;
}

/// A stopped node with two tiered segments' worth of records of which the first segment has rotted, as an
/// unclean start finds it; and what consumers must see.
async fn rotten_below_the_tier(newer: usize) -> (Stopped, Vec<(i64, Vec<u8>)>) {
    let harness = Harness::start().await;
    let id = harness.create_topic("t", 1, &[("segment.bytes", "65536")]).await;
    let mut client = harness.client().await;
    let values: Vec<Vec<u8>> = (0..100 + newer).map(|i| vec![i as u8; 1_000]).collect();
    for value in &values[..100] {
        client.put("t", 0, batch(&[value])).await;
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    for value in &values[100..] {
        client.put("t", 0, batch(&[value])).await;
    }
    drop(client);
    let stopped = harness.stop().await;
    let dir = stopped.data_dir().join("topics").join(id.to_string()).join("0");
    std::fs::remove_file(dir.join("checkpoint")).expect("checkpoint");
    let segment = dir.join("00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("segment");
    bytes[30_000] ^= 0xff;
    std::fs::write(&segment, bytes).expect("rot");
    (stopped, (0..).zip(values).collect())
}

#[tokio::test]
async fn rot_that_the_tier_has_costs_nothing() {
    for newer in [0, 20] {
        let (stopped, expected) = rotten_below_the_tier(newer).await;
        let harness = stopped.start().await;
        let mut client = harness.client().await;
        let end = expected.len() as i64;
        assert!(client.consume("t", 0, 0, end).await == expected, "{newer}");
        assert_eq!(client.put("t", 0, batch(&[b"next"])).await, end);
        drop(client);
        let harness = harness.stop().await.start().await;
        assert_eq!(harness.client().await.consume("t", 0, end, end + 1).await, [(end, b"next".to_vec())]);
        harness.stop().await;
    }
}

#[tokio::test]
async fn the_tier_is_served_when_newer_local_files_are_gone() {
    let (stopped, expected) = rotten_below_the_tier(20).await;
    let topics = stopped.data_dir().join("topics");
    let dir = std::fs::read_dir(topics).expect("topics").flatten().next().expect("one").path().join("0");
    for file in std::fs::read_dir(dir).expect("partition").flatten() {
        if file.path().extension().is_some_and(|e| e == "log") {
            std::fs::remove_file(file.path()).expect("removed");
        }
    }
    let mut harness = stopped.start().await;
    for _ in 0..2 {
        let mut client = harness.client().await;
        assert!(client.consume("t", 0, 0, 100).await == expected[..100]);
        let refused = client.produce(9, "t", 0, batch(&[b"next"])).await;
        assert_eq!(refused.error_code, 56, "what was at 100 is lost, its offset is not used again");
        drop(client);
        harness = harness.stop().await.start().await;
    }
    harness.stop().await;
}
