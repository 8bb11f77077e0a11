//! A bucket on its bad days, during load: slow, refusing, losing answers, away. Produce must not notice.

use std::time::Duration;

use highwater_minio_tests::clients::{Load, python};
use highwater_minio_tests::highwater::{Highwater, Spec};
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::{PATIENCE, pause, until};
use highwater_minio_tests::proxy::Proxy;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;
use serde_json::Value;

const TOPIC: &str = "faults";
/// A produce that waited for the bucket would wait for as long as the fault lasts, which is longer than this.
const DELAY_MAX_MS: f64 = 2_500.0;
/// Records per second that a produce which goes on takes at least; the load sends twice as many.
const RATE_MIN: u64 = 1_500;

fn seconds_away() -> u64 {
    let text = std::env::var("HIGHWATER_TEST_AWAY_SECONDS").unwrap_or_else(|_| "60".to_owned());
    text.parse().expect("HIGHWATER_TEST_AWAY_SECONDS is a number of seconds")
}

struct Scene {
    work: Work,
    minio: Minio,
    proxy: Proxy,
    node: Highwater,
}

impl Scene {
    fn set(name: &str) -> Scene {
        let work = Work::new(name);
        let minio = Minio::start(&work);
        let proxy = Proxy::start(minio.address());
        let node = Spec::on_s3(&work, &proxy.endpoint()).flag("retention-check-ms", "500ms").start();
        let config = ["segment.bytes=1048576", "local.retention.ms=1000", "retention.ms=-1"];
        let kafka = node.kafka();
        let mut arguments = vec!["create", &kafka, TOPIC, "3"];
        arguments.extend(config);
        python("topics.py", &arguments);
        Scene { work, minio, proxy, node }
    }

    /// Load while `fault` lasts for some seconds; then all must reach the tier and come back.
    fn endure(&self, what: &str, seconds: u64, fault: impl Fn(&Proxy)) {
        step(format!("{what}: load begins"));
        let ledger = self.work.join(&format!("ledger-{}", what.replace(' ', "-")));
        let topic = TOPIC;
        let mut load = Load::start(&self.node.kafka(), topic, ledger, 3.0);
        load.wait_for_more(3_000);
        step(format!("{what}: {seconds} s of it"));
        fault(&self.proxy);
        let before = load.acknowledged();
        pause(Duration::from_secs(seconds));
        let during = load.acknowledged() - before;
        self.proxy.heal();
        pause(Duration::from_secs(2));
        let report: Value = load.finish();
        step(format!("{what}: healed; load {report}"));
        assert!(
            during > seconds * RATE_MIN,
            "{what}: only {during} records were acknowledged in {seconds} s"
        );
        let worst = report["max_ms"].as_f64().unwrap_or(f64::MAX);
        assert!(worst < DELAY_MAX_MS, "{what}: a produce waited {worst} ms: {report}");
    }

    /// Everything sealed reaches the tier by itself once the store is back.
    fn catches_up(&self) {
        step("sealed segments reach the tier and leave the disk");
        let caught = until(PATIENCE, || {
            let status = self.node.tier(&["status"]);
            (status["backlog_segments"].as_u64() == Some(0)).then_some(())
        });
        assert!(caught.is_some(), "a backlog remains: {}", self.node.tier(&["status"]));
        self.node.offload(TOPIC);
        let gone = until(PATIENCE, || (self.node.local_bytes() == 0).then_some(()));
        assert!(gone.is_some(), "{} local bytes remain", self.node.local_bytes());
    }
}

#[test]
fn a_bad_bucket_delays_no_produce_and_loses_nothing() {
    let scene = Scene::set("faults");
    scene.endure("slow store", 12, |proxy| proxy.slow(400, 1_000_000));
    scene.endure("a third refused with 503", 12, |proxy| proxy.refuse(333));
    assert!(scene.proxy.count("503") > 0, "no request met a 503");
    scene.endure("answers lost after the store has acted", 12, |proxy| proxy.lose_answers(300));
    assert!(scene.proxy.count("lost") > 0, "no answer was lost");
    scene.endure("store away", seconds_away(), |proxy| proxy.away(true));
    assert!(scene.proxy.count("cut") > 0, "no connection was cut");
    scene.catches_up();
    step("replay from the tier: all loads together, every record once");
    let told =
        python("topics.py", &["merged", &scene.node.kafka(), TOPIC, &scene.work.path().to_string_lossy()]);
    step(format!("replay: {told}"));
    let listed = scene.node.tier(&["status"]);
    let stored = scene.minio.keys().iter().filter(|key| key.ends_with(".parquet")).count() as u64;
    let objects = listed["objects"].as_u64().unwrap_or(0);
    assert!(objects > 0 && objects <= stored, "{objects} objects listed, {stored} in the bucket");
    let puts = scene.proxy.count("PUT");
    step(format!(
        "{objects} objects, {puts} PUTs, {} GETs, {} 503s",
        scene.proxy.count("GET"),
        scene.proxy.count("503")
    ));
    scene.node.stop();
}

#[test]
fn reads_from_a_slow_or_refusing_store_still_arrive() {
    let scene = Scene::set("slow-reads");
    let kafka = scene.node.kafka();
    let sent = python("librdkafka.py", &["produce", &kafka, "reads", "1500"]);
    scene.node.offload("reads");
    scene.node.stop();
    let node = Spec::on_s3(&scene.work, &scene.proxy.endpoint()).start();
    step("replay through 100 ms of latency and a fifth of 503s");
    scene.proxy.slow(100, 0);
    scene.proxy.refuse(200);
    assert_eq!(python("librdkafka.py", &["replay", &node.kafka(), "reads"]), sent);
    scene.proxy.heal();
    node.stop();
}

#[test]
fn a_sealed_segment_costs_one_put_and_no_list() {
    let scene = Scene::set("requests");
    let kafka = scene.node.kafka();
    python("librdkafka.py", &["produce", &kafka, "requests", "3000"]);
    let (puts, lists) = (scene.proxy.count("PUT"), scene.proxy.count("LIST"));
    scene.node.offload("requests");
    let described = scene.node.tier(&["describe", "requests"]);
    let partitions = described["partitions"].as_array().expect("tier describe lists partitions");
    let objects: u64 = partitions.iter().map(|p| p["objects"].as_u64().unwrap_or(0)).sum();
    let puts = scene.proxy.count("PUT") - puts;
    let before_lists = scene.proxy.count("LIST");
    let lists = before_lists - lists;
    step(format!("{objects} objects, {puts} PUTs, {lists} LISTs"));
    // One PUT an object; the mirror of each partition's manifest may add one each.
    assert!(
        puts >= objects && puts <= objects + 2 * partitions.len() as u64,
        "{puts} PUTs for {objects} objects"
    );
    scene.node.stop();
}
