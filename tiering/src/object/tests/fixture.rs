//! Objects written by every version of the format must still load and rebuild (invariant 18).

use super::support::*;
use crate::object::{Compression, ObjectIndex, SealInput};

const FIXTURES: [(&str, Compression, &[u8]); 3] = [
    ("v1-zstd", Compression::Zstd, include_bytes!("../../../tests/fixtures/object-v1-zstd.parquet")),
    ("v1-lz4", Compression::Lz4, include_bytes!("../../../tests/fixtures/object-v1-lz4.parquet")),
    ("v1-none", Compression::None, include_bytes!("../../../tests/fixtures/object-v1-none.parquet")),
];

/// What the fixtures hold: two epochs, both timestamp types, every kind of null, a gap and a trailing gap.
fn batches() -> Vec<BatchOf> {
    let mut headed = record(101, 1_700_000_000_001, Some(b"k1"), None);
    headed.headers =
        vec![(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None), (vec![0xff], Some(Vec::new()))];
    vec![
        BatchOf::new(vec![record(100, 1_700_000_000_000, None, Some(b"{\"n\":100}")), headed]),
        BatchOf {
            log_append: true,
            ..BatchOf::new(vec![record(102, 1_700_000_000_500, Some(b""), Some(b""))])
        },
        BatchOf {
            epoch: 4,
            ..BatchOf::new(vec![
                record(105, -1, Some(b"k2"), Some(b"none")),
                record(106, i64::MAX, None, None),
            ])
        },
    ]
}

fn fixture_input(compression: Compression) -> SealInput {
    let mut input = input(100, 110, &batches());
    input.gaps_allowed = true;
    input.compacted = true;
    input.producer_snapshot = b"opaque producer state".to_vec();
    input.compression = compression;
    input
}

#[test]
fn every_version_still_loads() {
    for (name, compression, bytes) in FIXTURES {
        let index = ObjectIndex::parse(bytes, bytes.len() as u64).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(index.identity, identity(100, 110), "{name}");
        assert_eq!((index.compression, index.compacted), (compression, true), "{name}");
        assert_eq!(index.producer_snapshot, b"opaque producer state", "{name}");
        assert_eq!(index.records(), 5, "{name}");
        assert_eq!(replay(&index, bytes, 100, usize::MAX), expected(&batches(), 100, 110), "{name}");
    }
}

/// Writes the fixtures anew: only for a new version of the format, under new names.
#[test]
#[ignore = "writes files into the source tree"]
fn write_fixtures() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::create_dir_all(&directory).expect("directory");
    for (name, compression, _) in FIXTURES {
        let sealed = seal(&fixture_input(compression));
        let path = directory.join(format!("object-{name}.parquet"));
        std::fs::write(path, sealed.to_bytes()).expect("written");
    }
}
