//! What a connection holds for a client that does not take it.

use std::time::Duration;

use highwater_model::limits::{READY_BYTES_PER_CONNECTION_MAX, REQUESTS_PENDING_PER_CONNECTION_MAX};
use highwater_wire::api;

use super::harness::*;

const PARTITIONS: i32 = 10;
/// How long a produce that must not begin is watched.
const HELD_UP: Duration = Duration::from_millis(700);
/// Small enough to be copied into the answer: slices of files hold no memory.
const VALUE_BYTES: usize = 12_000;

/// Answers that are ready and wait for an earlier one hold up what comes behind them once they are
/// `READY_BYTES_PER_CONNECTION_MAX`, and not before.
#[tokio::test]
async fn answers_in_memory_that_wait_hold_up_the_next_request() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    harness.create_topic("many", PARTITIONS, &[]).await;
    let mut other = harness.client().await;
    for partition in 0..PARTITIONS {
        other.put("many", partition, batch(&[&[7; VALUE_BYTES]])).await;
    }
    let all: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let ready = PARTITIONS as usize * VALUE_BYTES;
    let too_many = READY_BYTES_PER_CONNECTION_MAX / ready + 1;
    assert!(too_many + 2 < REQUESTS_PENDING_PER_CONNECTION_MAX, "another bound would come first");
    let written = || {
        let view = harness.node.partitions.view();
        let topic = view.by_name("t").expect("there");
        topic.partitions().next().expect("one").high_watermark()
    };
    for (fetches, begins) in [(2, true), (too_many, false)] {
        let before = written();
        let mut client = harness.client().await;
        // A fetch that waits for more than there is, what is ready behind it, and a produce behind that.
        let mut sent =
            vec![client.send(api::FETCH, 12, &fetch_request("t", &[(0, before)], PATIENCE_MS, 50_000)).await];
        for _ in 0..fetches {
            sent.push(client.send(api::FETCH, 12, &fetch_request("many", &all, 0, 1)).await);
        }
        sent.push(client.send(api::PRODUCE, 9, &produce_request(1, "t", &[(0, batch(&[b"v"]))])).await);
        if begins {
            until("the produce has begun", || written() == before + 1).await;
        } else {
            tokio::time::sleep(HELD_UP).await;
            assert_eq!(written(), before, "held up behind {fetches} answers of {ready} bytes");
        }
        other.put("t", 0, batch(&[&[1; 60_000]])).await;
        for correlation in sent {
            assert_eq!(client.receive().await.0, correlation, "in order");
        }
        assert_eq!(written(), before + 2, "all has been done in the end");
    }
    harness.stop().await;
}
