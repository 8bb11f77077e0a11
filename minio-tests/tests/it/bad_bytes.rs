//! Bad input against a live broker; its memory is watched from outside.

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

#[test]
fn bad_bytes_get_an_error_or_a_closed_connection_and_others_notice_nothing() {
    let work = Work::new("bad-bytes");
    let mut node = Spec::embedded(&work).start();
    step("frames, records, bombs, names, 1,000 connections, clients that never read");
    let told = python("badbytes.py", &[&node.kafka(), &node.process.id().to_string()]);
    step(format!("bad bytes: {told}"));
    assert!(node.process.ended().is_none(), "the broker ended: {}", node.process.log_end());
    let log = node.process.log();
    assert!(!log.contains("panicked"), "a panic: {}", node.process.log_end());
    let lines = log.lines().count();
    assert!(lines < 5_000, "{lines} log lines: bad clients can fill the disk with them");
    node.stop();
}
