//! Records with a time to live by stock clients: long hidden stretches, hot and from the tier, and the
//! objects without them.

use highwater_minio_tests::clients::{java, python};
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::minio::{BUCKET, Minio};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPIC: &str = "ttl";
/// Records of a stretch; of eight stretches with each of five codecs three live.
const COUNT: u64 = 900;

#[test]
fn clients_read_over_what_has_expired_and_objects_lack_it() {
    let work = Work::new("ttl");
    let minio = Minio::start(&work);
    let node = Spec::on_s3(&work, &minio.endpoint()).start();
    let (kafka, endpoint) = (node.kafka(), minio.endpoint());
    step("produce with every codec");
    let living = python("ttl.py", &["produce", &kafka, TOPIC, &COUNT.to_string()]);
    assert_eq!(living["records"], 5 * 3 * COUNT);
    for place in ["hot", "from the tier"] {
        step(format!("confluent-kafka and Java read it {place}"));
        assert_eq!(python("ttl.py", &["replay", &kafka, TOPIC]), living, "confluent-kafka {place}");
        assert_eq!(java(&["replay", &kafka, TOPIC]), living, "Java {place}");
        if place == "hot" {
            assert!(node.metric("highwater_hidden_records_total", "") >= (2 * 5 * 5 * COUNT) as f64);
            node.offload(TOPIC);
            assert_eq!(node.local_bytes(), 0, "local copies remain after tier offload --evict");
        }
    }
    step("pyarrow, DuckDB and Polars read the same in the objects");
    python("readers.py", &[&kafka, &endpoint, BUCKET, "hw", TOPIC]);
    step("what an object lacks stays gone");
    python("topics.py", &["configure", &kafka, TOPIC, "highwater.ttl.ms=-1"]);
    assert_eq!(python("ttl.py", &["replay", &kafka, TOPIC]), living);
    node.stop();
}
