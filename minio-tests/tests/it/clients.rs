//! Stock clients: produce, offload, evict, replay byte for byte; then the objects by stock Parquet readers.

use highwater_minio_tests::clients::{java, kcat, python};
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::minio::{BUCKET, Minio};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;
use serde_json::Value;

fn replay_by_all(kafka: &str, topic: &str, sent: &Value, when: &str) {
    step(format!("{when}: replay {topic} by confluent-kafka and Java"));
    let python = python("librdkafka.py", &["replay", kafka, topic]);
    assert_eq!(
        python["digest"],
        java(&["replay", kafka, topic])["digest"],
        "{when}: the two clients differ on {topic}"
    );
    if !sent.is_null() {
        assert_eq!(&python, sent, "{when}: {topic} is not what was sent");
    }
}

#[test]
fn what_each_client_sends_comes_back_from_the_tier_and_from_parquet() {
    let work = Work::new("clients");
    let minio = Minio::start(&work);
    let node = Spec::on_s3(&work, &minio.endpoint()).start();
    let kafka = node.kafka();

    step("produce by kcat, every codec");
    let by_kcat = kcat(&["produce", &kafka, "by-kcat", "1500"]);
    step("produce by confluent-kafka, every codec");
    let by_python = python("librdkafka.py", &["produce", &kafka, "by-librdkafka", "2000"]);
    step("produce by Java, idempotent by default, every codec");
    let by_java = java(&["produce", &kafka, "by-java", "2000"]);
    let topics = [("by-kcat", &Value::Null), ("by-librdkafka", &by_python), ("by-java", &by_java)];
    for (topic, sent) in topics {
        replay_by_all(&kafka, topic, sent, "hot");
    }

    for (topic, _) in topics {
        step(format!("offload and evict {topic}"));
        node.offload(topic);
    }
    assert_eq!(node.local_bytes(), 0, "local copies remain after tier offload --evict");
    for (topic, sent) in topics {
        replay_by_all(&kafka, topic, sent, "from the tier");
    }
    step("replay by kcat from the tier");
    assert_eq!(kcat(&["replay", &kafka, "by-kcat"]), by_kcat, "kcat's replay from the tier");

    step("Parquet from MinIO by pyarrow, DuckDB and Polars");
    let mut arguments = vec![kafka.as_str(), "", BUCKET, "hw"];
    let endpoint = minio.endpoint();
    arguments[1] = &endpoint;
    arguments.extend(topics.iter().map(|(topic, _)| *topic));
    python("readers.py", &arguments);

    step("restart, then replay from the tier with cold caches");
    node.stop();
    let node = Spec::on_s3(&work, &minio.endpoint()).start();
    for (topic, sent) in topics {
        replay_by_all(&node.kafka(), topic, sent, "after a restart");
    }
    node.stop();
}

#[test]
fn javas_admin_client_administers() {
    let work = Work::new("admin");
    let node = Spec::embedded(&work).start();
    step("AdminClient: topics, partitions, configs, offsets, records, refusals");
    java(&["admin", &node.kafka()]);
    node.stop();
}
