//! The log of the transaction coordinators: it stays bounded, and says the same as before.

use highwater_groups::core::txn::{TxnState, decode_key, decode_value};

use super::transactions::*;
use crate::it::harness::*;

const STATE: &str = "__transaction_state";
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const OFFSET_OUT_OF_RANGE: i16 = 1;
/// Above so much the log is written anew.
const REWRITE_BYTES: u64 = 24 * 1024;

async fn end(client: &mut Client, which: i64) -> i64 {
    client.list_offset(4, STATE, 0, which).await.offset
}

/// The last state of each id in the log, from its start to its end, and the bytes of it.
async fn states(client: &mut Client) -> (Vec<(String, Option<TxnState>)>, usize) {
    let (mut at, last) = (end(client, EARLIEST).await, end(client, LATEST).await);
    let (mut found, mut bytes) = (std::collections::BTreeMap::new(), 0);
    while at < last {
        let response = client.fetch(12, &fetch_request(STATE, &[(0, at)], PATIENCE_MS, 1)).await;
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
                let id = decode_key(record.key.expect("every record has a key")).expect("in Kafka's format");
                let state = record.value.map(|value| decode_value(value).expect("in Kafka's format").state);
                found.insert(id.to_string(), state);
            }
            at = header.next_offset();
        }
    }
    (found.into_iter().collect(), bytes)
}

#[tokio::test]
async fn the_log_of_transactions_stays_bounded_and_says_the_same() {
    let harness = Harness::start_with(|settings| {
        settings.offsets_topic_num_partitions = 1;
        settings.transaction_state_topic_num_partitions = 1;
        settings.transaction_state_topic_rewrite_bytes = REWRITE_BYTES;
    })
    .await;
    harness.create_topic("t", 4, &[]).await;
    let mut reader = harness.client().await;
    let idle = init(&mut reader, "idle", 60_000).await;
    let mut open = Txn::with_timeout(&harness, "open", Rules::New, 900_000).await;
    open.write("t", 1, &[b"begun before"]).await;
    let mut busy = Txn::begin(&harness, "busy", Rules::New).await;
    // Until it was written anew twice: the second time over what the first left.
    let mut rounds = 0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while harness.node.metrics.transaction_rewrites.get() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "after {rounds} transactions");
        rounds += 1;
        busy.write("t", 0, &[b"x"]).await;
        busy.end(rounds % 2 == 0).await;
    }
    assert_eq!(harness.node.metrics.transaction_reloads.get(), 0);
    busy.write("t", 0, &[b"last"]).await;
    let start = end(&mut reader, EARLIEST).await;
    assert!(start > 0, "the log start has moved");
    let ongoing = Some(TxnState::Ongoing);
    let expected = [("busy", ongoing), ("idle", Some(TxnState::Empty)), ("open", ongoing)];
    // What many transactions added while it was written anew goes with the next time, which follows at once.
    loop {
        let (found, bytes) = states(&mut reader).await;
        assert_eq!(found, expected.map(|(id, state)| (id.to_owned(), state)));
        // One round may add less than a kilobyte to what it takes to be written anew.
        if bytes as u64 <= 2 * REWRITE_BYTES {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{bytes} bytes after {rounds} transactions");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    drop(reader);
    let harness = harness.stop().await.start().await;
    let mut reader = harness.client().await;
    assert_eq!(init(&mut reader, "idle", 60_000).await, (idle.0, idle.1 + 1), "the id and its epochs");
    for (txn, partition) in [(&mut open, 1), (&mut busy, 2)] {
        txn.reconnect(&harness).await;
        txn.write("t", partition, &[b"more"]).await;
        txn.end(true).await;
    }
    until_seen(&mut reader, "t", 1, &["begun before", "more"]).await;
    until_seen(&mut reader, "t", 2, &["more"]).await;
    let committed = seen(&mut reader, "t", 0, 1).await;
    assert_eq!(committed.len(), rounds / 2 + 1, "each second one, and the last");
    harness.stop().await;
}
