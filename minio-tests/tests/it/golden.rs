//! The table of awkward values: produce -> seal -> replay -> each Parquet reader, and the refusals beside
//! them.

use highwater_minio_tests::clients::python;
use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::minio::{BUCKET, Minio};
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

const TOPICS: [&str; 5] = ["golden-bytes", "golden-append", "golden-many", "golden-utf8", "golden-json"];

#[test]
fn awkward_values_survive_exactly() {
    let work = Work::new("golden");
    let minio = Minio::start(&work);
    let node = Spec::on_s3(&work, &minio.endpoint()).start();
    let (kafka, endpoint) = (node.kafka(), minio.endpoint());
    let ledger = work.join("ledger");
    let ledger = ledger.to_string_lossy();

    step("produce every case with every codec; every refusal");
    python("golden.py", &["produce", &kafka, &ledger]);
    step("replay while hot");
    python("golden.py", &["check", &kafka, &ledger]);
    for topic in TOPICS {
        node.offload(topic);
    }
    assert_eq!(node.local_bytes(), 0, "local copies remain after tier offload --evict");
    step("replay from the tier");
    python("golden.py", &["check", &kafka, &ledger]);
    step("read by pyarrow, DuckDB and Polars");
    let mut arguments = vec![kafka.as_str(), &endpoint, BUCKET, "hw"];
    arguments.extend(TOPICS);
    python("readers.py", &arguments);
    node.stop();
}
