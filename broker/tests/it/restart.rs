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
