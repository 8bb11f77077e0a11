//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords over the wire.

use highwater_wire::api;
use highwater_wire::kafka::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use highwater_wire::kafka::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use highwater_wire::kafka::messages::*;

use crate::it::harness::*;

#[tokio::test]
async fn ends_and_times_are_found_in_every_version() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    let t0 = now_ms() - 10_000;
    client.put("t", 0, batch_at(t0, &[b"a", b"b"])).await;
    client.put("t", 0, batch_at(t0 + 200, &[b"c"])).await;
    client.put("t", 0, batch_at(t0 + 100, &[b"d"])).await;
    for version in 1..=10 {
        for (timestamp, offset, at) in
            [(-1, 4, -1), (-2, 0, -1), (t0 - 5, 0, t0), (t0 + 1, 2, t0 + 200), (t0 + 201, -1, -1)]
        {
            let found = client.list_offset(version, "t", 0, timestamp).await;
            assert_eq!(
                (found.error_code, found.offset, found.timestamp),
                (0, offset, at),
                "v{version} {timestamp}"
            );
        }
    }
    let newest = client.list_offset(7, "t", 0, -3).await;
    assert_eq!((newest.offset, newest.timestamp), (2, t0 + 200));
    assert_eq!(client.list_offset(8, "t", 0, -4).await.offset, 0);
    assert_eq!(client.list_offset(9, "t", 0, -5).await.offset, -1);
    for (version, timestamp) in [(6, -3), (7, -4), (8, -5), (10, -9)] {
        assert_eq!(
            client.list_offset(version, "t", 0, timestamp).await.error_code,
            35,
            "v{version} {timestamp}"
        );
    }
    assert_eq!(client.list_offset(5, "t", 1, -1).await.error_code, 3);
    assert_eq!(client.list_offset(5, "nothing", 0, -1).await.error_code, 3);
    harness.stop().await;
}

async fn epoch_end(client: &mut Client, current: i32, epoch: i32) -> (i16, i32, i64) {
    let partition =
        OffsetForLeaderPartition::default().with_current_leader_epoch(current).with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
    let request =
        OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let response: OffsetForLeaderEpochResponse = client.call(api::OFFSET_FOR_LEADER_EPOCH, 4, &request).await;
    let found = &response.topics[0].partitions[0];
    (found.error_code, found.leader_epoch, found.end_offset)
}

#[tokio::test]
async fn epochs_grow_with_restarts_and_their_ends_are_known() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 0, batch(&[b"a", b"b"])).await;
    let harness = harness.stop().await.start().await;
    let mut client = {
        drop(client);
        harness.client().await
    };
    client.put("t", 0, batch(&[b"c"])).await;
    let epoch = harness.node.partitions.view().partitions().next().expect("one").terms().leader_epoch;
    assert!(epoch > 0, "a restart raises the epoch");
    assert_eq!(epoch_end(&mut client, -1, 0).await, (0, 0, 2));
    assert_eq!(epoch_end(&mut client, epoch, epoch).await, (0, epoch, 3));
    assert_eq!(epoch_end(&mut client, epoch - 1, 0).await, (74, -1, -1));
    assert_eq!(epoch_end(&mut client, epoch + 1, 0).await, (75, -1, -1));
    harness.stop().await;
}

pub async fn delete_to(client: &mut Client, topic: &str, offset: i64) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default().with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_timeout_ms(5_000).with_topics(vec![topic]);
    let response: DeleteRecordsResponse = client.call(api::DELETE_RECORDS, 2, &request).await;
    let result = &response.topics[0].partitions[0];
    (result.error_code, result.low_watermark)
}

#[tokio::test]
async fn deleted_records_are_gone_for_good() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    for _ in 0..10 {
        client.put("t", 0, batch(&[b"x"])).await;
    }
    assert_eq!(delete_to(&mut client, "t", 4).await, (0, 4));
    assert_eq!(delete_to(&mut client, "t", 2).await, (0, 4), "never backwards");
    assert_eq!(delete_to(&mut client, "t", 11).await, (1, -1));
    assert_eq!(client.list_offset(5, "t", 0, -2).await.offset, 4);
    let response = client.fetch(12, &fetch_request("t", &[(0, 3)], 0, 1)).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 1);
    assert_eq!(client.consume("t", 0, 4, 10).await.len(), 6);
    assert_eq!(delete_to(&mut client, "t", -1).await, (0, 10));
    drop(client);
    let harness = harness.stop().await.start().await;
    let mut client = harness.client().await;
    assert_eq!(client.list_offset(5, "t", 0, -2).await.offset, 10);
    assert_eq!(client.put("t", 0, batch(&[b"x"])).await, 10);
    harness.stop().await;
}
