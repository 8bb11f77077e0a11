//! A batch that rots on disk before it is sealed: that partition's sealing stops with an alarm that names the
//! place; nothing is skipped, produce and hot reads of the rest go on.

use std::os::unix::fs::FileExt;

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::{Spec, segments};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, until};
use highwater_minio_tests::proxy::Proxy;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPIC: &str = "rot";

#[test]
fn a_rotten_batch_stops_the_sealing_of_its_partition_and_nothing_else() {
    let work = Work::new("rot");
    let minio = Minio::start(&work);
    let proxy = Proxy::start(minio.address());
    let node = Spec::on_s3(&work, &proxy.endpoint()).flag("retention-check-ms", "500ms").start();
    let kafka = node.kafka();
    step("segments pile up while the store is away");
    python("topics.py", &["create", &kafka, TOPIC, "1", "segment.bytes=1048576", "retention.ms=-1"]);
    proxy.away(true);
    let sent = python("topics.py", &["fill", &kafka, TOPIC, "0", "8000"]);
    let files = segments(node.spec().data());
    assert!(files.len() >= 6, "too few segments: {files:?}");
    let rotten = &files[files.len() - 2];
    let start: i64 = rotten
        .file_stem()
        .and_then(|s| s.to_string_lossy().parse().ok())
        .expect("segments are named by offset");

    step(format!("one byte of {} turns", rotten.display()));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(rotten).expect("the segment is there");
    let (mut byte, at) = ([0], file.metadata().expect("it has a size").len() / 2);
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 0x40], at).expect("within the file");

    step("the store comes back: sealing reaches the rotten segment and stops there");
    proxy.heal();
    let alarm = until(PATIENCE, || {
        let status = node.tier(&["status"]);
        status["alarms"].as_array().filter(|alarms| !alarms.is_empty()).cloned()
    });
    let alarm = alarm.unwrap_or_else(|| panic!("no alarm: {}", node.tier(&["status"])));
    assert_eq!(
        (alarm[0]["topic"].as_str(), alarm[0]["partition"].as_i64().unwrap_or(0)),
        (Some(TOPIC), 0),
        "{alarm:?}"
    );
    let stopped = until(PATIENCE, || {
        let tiered = node.tier(&["describe", TOPIC])["partitions"][0]["tiered_end"].as_i64();
        (tiered == Some(start)).then_some(())
    });
    assert!(stopped.is_some(), "sealing did not stop at {start}: {}", node.tier(&["describe", TOPIC]));
    let named = node.process.log().lines().any(|line| {
        let place = line.contains(TOPIC) || line.contains(&format!("{start:020}"));
        place
            && (line.contains("ERROR")
                || line.contains("error")
                || line.contains("corrupt")
                || line.contains("CRC"))
    });
    assert!(named, "no log line names the place: {}", node.process.log_end());
    assert!(node.metric("highwater_seal_alarms", "") >= 1.0, "no alarm in /metrics");

    step("produce goes on, and so do reads of everything else, hot and tiered");
    python("topics.py", &["fill", &kafka, TOPIC, &sent["records"].to_string(), "500"]);
    python("topics.py", &["around", &kafka, TOPIC, &start.to_string()]);
    step("other partitions are sealed as ever");
    let other = python("librdkafka.py", &["produce", &kafka, "healthy", "500"]);
    node.offload("healthy");
    assert_eq!(python("librdkafka.py", &["replay", &kafka, "healthy"]), other);
    step("a restart does not hide it");
    node.stop();
    let node = Spec::on_s3(&work, &proxy.endpoint()).flag("retention-check-ms", "500ms").start();
    let again = until(PATIENCE, || {
        let status = node.tier(&["status"]);
        status["alarms"].as_array().is_some_and(|alarms| !alarms.is_empty()).then_some(())
    });
    assert!(again.is_some(), "the alarm is gone after a restart");
    node.stop();
}
