//! The state in Raft stays small at any retention: 100,000 objects, spilled as the offloader spills.

use highwater_model::limits::{MANIFEST_PAGE_FANOUT, MANIFEST_PAGE_OBJECTS, MANIFEST_SPILL_AT_OBJECTS};

use super::*;

const STATE_BYTES_MAX: usize = 64 * 1024;

fn edit(m: &Manifest, edit: Edit) -> Manifest {
    let request = EditRequest { expected_version: m.version, leader_epoch: 7, edit };
    m.edited(0, &request).expect("accepted")
}

#[test]
fn a_hundred_thousand_objects_fit_in_64_kib() {
    let mut m = Manifest::new(0);
    let (mut largest, mut upload) = (0, 1u128 << 120);
    let first_offset = 9_000_000_000_000i64;
    m = edit(&m, Edit::Prune { log_start: first_offset, head: vec![] });
    for i in 0..100_000i64 {
        upload += 1;
        let start = first_offset + i * 65_536;
        let mut o = object(start, start + 65_536, 7, upload);
        (o.bytes, o.raw_bytes) = (23_456_789, 67_108_864);
        o.footer_bytes = 45_678;
        (o.min_timestamp, o.max_timestamp) = (1_763_700_000_000 + i, 1_763_700_000_999 + i);
        o.crc32c = 4_000_000_000;
        m = edit(&m, Edit::Publish { object: o, epochs: vec![EpochStart { epoch: 7, start_offset: start }] });
        if m.entries.len() >= MANIFEST_SPILL_AT_OBJECTS {
            upload += 1;
            let p = page(&m, 0, MANIFEST_PAGE_OBJECTS, 7, upload).expect("objects");
            m = edit(&m, Edit::Spill { page: p });
        }
        for level in 0..3u8 {
            if m.pages.iter().filter(|p| p.level == level).count() >= MANIFEST_PAGE_FANOUT {
                upload += 1;
                let p = page(&m, level + 1, MANIFEST_PAGE_FANOUT, 7, upload).expect("pages");
                m = edit(&m, Edit::Spill { page: p });
            }
        }
        if i % 97 == 0 || i > 99_900 {
            largest = largest.max(serde_json::to_vec(&m).expect("JSON").len());
        }
    }
    assert_eq!(m.totals.objects, 100_000);
    assert!(largest <= STATE_BYTES_MAX, "{largest} bytes");
    assert!(largest > STATE_BYTES_MAX / 8, "the test measures something: {largest}");
}
