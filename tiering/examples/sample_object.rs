//! Writes one object with sample records, to be read by other programs (pyarrow, DuckDB, Polars).
//!
//! `sample_object PATH [zstd|lz4|none] [bytes|utf8|json] [RECORDS] [plain|odd|nulls|empty]`: `odd` adds
//! nulls, headers, gaps and missing timestamps; `nulls` has no key, value or timestamp at all; `empty` has
//! the offsets but no records.

use std::io::Write;

use bytes::Bytes;
use highwater_log::EpochStart;
use highwater_model::TopicId;
use highwater_tiering::object::{Compression, ObjectIdentity, SealInput, Sealer, ValueFormat};
use highwater_wire::{BatchBuilder, Codec};
use uuid::Uuid;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let get = |n: usize, default: &'static str| arguments.get(n).map_or(default, String::as_str);
    let compression = Compression::from_name(get(1, "zstd")).ok_or("compression")?;
    let value_format = ValueFormat::from_name(get(2, "bytes")).ok_or("value format")?;
    let records: i64 = get(3, "10000").parse()?;
    let kind = get(4, "odd");
    let identity = ObjectIdentity {
        cluster_id: "sample".into(),
        topic: "sample".into(),
        topic_id: TopicId(Uuid::from_u128(1)),
        partition: 0,
        start: 0,
        end: records,
        leader_epoch: 0,
        upload_id: Uuid::from_u128(2),
    };
    let epochs = vec![EpochStart { epoch: 0, start_offset: 0 }];
    let mut input = SealInput::new(
        identity,
        epochs,
        Bytes::from(segment(if kind == "empty" { 0 } else { records }, kind)),
    );
    input.compression = compression;
    input.value_format = value_format;
    input.compacted = true;
    input.gaps_allowed = kind == "odd" || kind == "empty";
    let sealed = Sealer::new().seal(&input)?;
    let mut file = std::fs::File::create(arguments.first().ok_or("a path is needed")?)?;
    for part in &sealed.parts {
        file.write_all(part)?;
    }
    println!("{:?}", sealed.summary);
    Ok(())
}

/// Record n: key `k<n % 1000>`, value `{"n":n,...}`, timestamp 2024-01-01 plus n seconds. Odd ones: every 7th
/// has no key, every 11th no value, every 13th no timestamp, every 5th n % 3 headers, and every 17th is
/// missing.
fn segment(records: i64, kind: &str) -> Vec<u8> {
    let (odd, nulls) = (kind == "odd", kind == "nulls");
    let mut segment = Vec::new();
    for base in (0..records).step_by(100) {
        let mut builder = BatchBuilder::new(Codec::None).base_offset(base).leader_epoch(0);
        let mut any = false;
        for n in base..(base + 100).min(records) {
            if odd && n % 17 == 16 {
                continue;
            }
            let key = format!("k{}", n % 1000);
            let value = format!("{{\"n\":{n},\"text\":\"record number {n}\",\"square\":{}}}", n * n);
            let key = (!nulls && (!odd || n % 7 > 0)).then_some(key.as_bytes());
            let value = (!nulls && (!odd || n % 11 > 0)).then_some(value.as_bytes());
            let timestamp = if nulls || odd && n % 13 == 0 { -1 } else { 1_704_067_200_000 + n * 1000 };
            let headers = [(&b"h"[..], Some(&b"1"[..])), (&b"h\xff"[..], None)];
            let count = if odd && n % 5 == 0 { (n % 3) as usize } else { 0 };
            builder.push_at((n - base) as i32, timestamp, key, value, &headers[..count]);
            any = true;
        }
        if any {
            segment.extend_from_slice(&builder.build());
        }
    }
    segment
}
