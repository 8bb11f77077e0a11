//! Local bytes that rot while the node runs.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::harness::*;

const SMALL_SEGMENTS: &[(&str, &str)] = &[("segment.bytes", "65536")];

/// Segment files below a directory, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("listed").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(segments(&path)),
            path if path.extension().is_some_and(|e| e == "log") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_has_rotted_here_is_read_from_the_tier_and_counted() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, SMALL_SEGMENTS).await;
    let mut client = harness.client().await;
    let t0 = now_ms() - 1_000_000;
    let mut expected = Vec::new();
    for i in 0..200i64 {
        let value = vec![i as u8; 1_000];
        let offset = client.put("t", 0, batch_at(t0 + i, &[&value])).await;
        expected.push((offset, value));
    }
    harness.node.offload_now("t", PATIENCE).await.expect("offloaded");
    client.put("t", 0, batch_at(t0 + 200, &[b"last"])).await;
    expected.push((200, b"last".to_vec()));
    let counted = || harness.node.metrics.local_damage.get();
    assert_eq!(client.consume("t", 0, 0, 201).await, expected);
    assert_eq!(counted(), 0, "read here");
    let files = segments(&harness.data_dir().join("topics"));
    assert!(files.len() >= 4, "{files:?}");
    for rotten in &files[1..3] {
        let file = std::fs::OpenOptions::new().write(true).open(rotten).expect("there");
        let bytes = file.metadata().expect("there").len() as usize;
        file.write_all_at(&vec![0xa5; bytes], 0).expect("written");
    }
    assert_eq!(client.consume("t", 0, 0, 201).await, expected);
    assert!(counted() >= 1);
    // From the middle of what is damaged, and by time.
    let (before, middle) = (counted(), 100);
    assert_eq!(client.fetch_values("t", 0, middle).await[0], expected[middle as usize]);
    assert_eq!(counted(), before + 1);
    let found = client.list_offset(7, "t", 0, t0 + middle).await;
    assert_eq!((found.error_code, found.offset, found.timestamp), (0, middle, t0 + middle));
    // What only this node has, and has lost, is refused.
    client.put("t", 0, batch_at(t0 + 201, &[b"local"])).await;
    let active = segments(&harness.data_dir().join("topics")).pop().expect("one");
    let file = std::fs::OpenOptions::new().write(true).open(active).expect("there");
    let bytes = file.metadata().expect("there").len() as usize;
    file.write_all_at(&vec![0xa5; bytes], 0).expect("written");
    let answer = client.fetch(12, &fetch_request("t", &[(0, 201)], 0, 1)).await;
    assert_eq!(answer.responses[0].partitions[0].error_code, 56, "KAFKA_STORAGE_ERROR");
    harness.stop().await;
}
