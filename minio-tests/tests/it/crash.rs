//! Kill -9 at named points and at random under load: nothing lost, nothing twice, nothing out of place.

use std::time::Duration;

use highwater_minio_tests::clients::{Load, python};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::{BUCKET, Minio};
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPIC: &str = "crash";
/// Name and hit of each point; a hit later than the first catches a partition with history. Segments are
/// small, so that a manifest has enough objects to spill a page by the time its turn comes.
const POINTS: [(&str, u32); 8] = [
    ("append-before-write", 300),
    ("append-written", 300),
    ("before-upload", 3),
    ("after-upload", 3),
    ("before-publish", 3),
    ("after-publish", 3),
    ("evict-unlinked", 2),
    ("spill-page-written", 1),
];
const RANDOM_KILLS: u32 = 4;

fn spec(work: &Work, minio: &Minio) -> Spec {
    Spec::on_s3(work, &minio.endpoint()).flag("retention-check-ms", "200ms")
}

fn create(kafka: &str) {
    let config = [
        "segment.bytes=262144",
        "local.retention.bytes=524288",
        "local.retention.ms=2000",
        "retention.ms=-1",
    ];
    let mut arguments = vec!["create", kafka, TOPIC, "3"];
    arguments.extend(config);
    python("topics.py", &arguments);
}

fn crash_at(name: &str, hit: u32, spec: &Spec, load: &mut Load) {
    step(format!("kill -9 at {name}, hit {hit}"));
    // Sealing that makes way for nobody meets its crash points soon, however busy the machine is.
    let eager = spec.clone().env("HIGHWATER_OFFLOAD_BACKLOG_BYTES_MAX", "0");
    let mut node = eager.env("HIGHWATER_TEST_CRASH_AT", &format!("{name}:{hit}")).start();
    let died = node.process.wait(PATIENCE);
    let end = node.process.log_end();
    let status = died.unwrap_or_else(|| panic!("{name} was not reached within {PATIENCE:?} of load: {end}"));
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(9), "{name}: the process ended by itself with {status}: {end}");
    // The next start serves on; the load proves it before the next blow.
    let mut next = spec.start();
    load.wait_for_more(2_000);
    next.process.kill();
}

fn check_everything(
    node: &Highwater,
    minio: &Minio,
    load: &(String, String, std::path::PathBuf),
    when: &str,
) {
    step(format!("{when}: every acknowledged record once, in place, intact"));
    let told = Load::verify(&load.0, &load.1, &load.2);
    step(format!("{when}: {told}"));
    let described = node.tier(&["describe", TOPIC]);
    let partitions = described["partitions"].as_array().expect("tier describe lists partitions");
    let listed: u64 = partitions.iter().map(|p| p["objects"].as_u64().unwrap_or(0)).sum();
    let stored = minio.keys().iter().filter(|key| key.ends_with(".parquet")).count() as u64;
    assert!(listed > 0 && listed <= stored, "{when}: {listed} objects listed, {stored} in the bucket");
    for p in partitions {
        let at = |name: &str| p[name].as_i64().unwrap_or(-1);
        let line =
            ["log_start", "local_start", "tiered_end", "last_stable", "high_watermark", "log_end"].map(at);
        assert!(line.is_sorted() && line[0] == 0, "{when}: offsets out of order: {p}");
    }
}

#[test]
fn kill_9_anywhere_loses_nothing_and_doubles_nothing() {
    let work = Work::new("crash");
    let minio = Minio::start(&work);
    let spec = spec(&work, &minio);
    let mut node = spec.start();
    create(&node.kafka());
    let mut load = Load::start(&node.kafka(), TOPIC, work.join("ledger"), 4.0);
    load.wait_for_more(5_000);
    node.process.kill();

    for (name, hit) in POINTS {
        crash_at(name, hit, &spec, &mut load);
    }
    for n in 0..RANDOM_KILLS {
        step(format!("kill -9 at any moment, {} of {RANDOM_KILLS}", n + 1));
        let mut node = spec.start();
        load.wait_for_more(1_000 + u64::from(n) * 1_777);
        pause(Duration::from_millis(37 * u64::from(n)));
        node.process.kill();
    }

    let node = spec.start();
    step("the load ends and gets its last acknowledgements");
    let target = load.target();
    step(format!("load: {}", load.finish()));
    check_everything(&node, &minio, &target, "after the crashes");

    step("everything to the tier, local copies dropped");
    node.offload(TOPIC);
    let gone = until(PATIENCE, || (node.local_bytes() == 0).then_some(()));
    assert!(gone.is_some(), "{} local bytes remain", node.local_bytes());
    check_everything(&node, &minio, &target, "from the tier");
    step("the same rows by every Parquet reader");
    python("readers.py", &[&target.0, &minio.endpoint(), BUCKET, "hw", "orphans", TOPIC]);
    node.stop();
}
