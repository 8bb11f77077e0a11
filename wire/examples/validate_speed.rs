//! Prints how fast produced batches are judged on one core: `cargo run --release -p highwater-wire --example
//! validate_speed`. Figures for people; nothing asserts them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_model::TopicConfig;
use highwater_wire::{BatchBuilder, Codec, ProduceRules, validate_produce};

const NOW_MS: i64 = 1_700_000_000_000;
const RUN: Duration = Duration::from_millis(500);
const RUNS: usize = 5;

fn json_value(seed: usize, length: usize) -> Vec<u8> {
    let mut text = format!("{{\"id\":{seed},\"carrier\":\"UA\",\"note\":\"");
    let mut state = seed as u64 + 1;
    while text.len() + 2 < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(["delay ", "gate ", "on time ", "JFK ", "N14228 ", "17 "][(state >> 33) as usize % 6]);
    }
    text.truncate(length - 2);
    text.push_str("\"}");
    text.into_bytes()
}

fn batch(codec: Codec, value_bytes: usize, batch_bytes: usize) -> (Bytes, usize) {
    let mut builder = BatchBuilder::new(codec);
    while builder.uncompressed_bytes() + value_bytes + 20 < batch_bytes {
        let value = json_value(builder.count(), value_bytes);
        builder.push(NOW_MS, Some(b"key-0001"), Some(&value), &[]);
    }
    (builder.build(), builder.count())
}

fn main() {
    println!("{:<28} {:>10} {:>12} {:>14}", "batch", "MB/s", "Mrecords/s", "us per batch");
    for (name, codec, value_bytes, batch_bytes, format) in [
        ("1 KiB none, 1 MiB", Codec::None, 1_024, 1 << 20, "bytes"),
        ("1 KiB none, 16 KiB", Codec::None, 1_024, 16 << 10, "bytes"),
        ("100 B none, 1 MiB", Codec::None, 100, 1 << 20, "bytes"),
        ("100 B none, 16 KiB", Codec::None, 100, 16 << 10, "bytes"),
        ("1 KiB lz4, 1 MiB", Codec::Lz4, 1_024, 1 << 20, "bytes"),
        ("1 KiB lz4, 16 KiB", Codec::Lz4, 1_024, 16 << 10, "bytes"),
        ("1 KiB zstd, 1 MiB", Codec::Zstd, 1_024, 1 << 20, "bytes"),
        ("1 KiB snappy, 1 MiB", Codec::Snappy, 1_024, 1 << 20, "bytes"),
        ("1 KiB gzip, 1 MiB", Codec::Gzip, 1_024, 1 << 20, "bytes"),
        ("1 KiB none, 1 MiB, json", Codec::None, 1_024, 1 << 20, "json"),
    ] {
        let (bytes, records) = batch(codec, value_bytes, batch_bytes);
        let overrides = [("highwater.value.format".to_string(), format.to_string())].into();
        let config = TopicConfig::from_overrides(&overrides).expect("a legal setting");
        let rules = ProduceRules::of(&config);
        let mut scratch = Vec::new();
        let raw = validate_produce(&bytes, &rules, NOW_MS, &mut scratch).expect("good").records_bytes;
        let best = (0..RUNS)
            .map(|_| {
                let (start, mut turns) = (Instant::now(), 0u32);
                while start.elapsed() < RUN {
                    for _ in 0..8 {
                        let accepted = validate_produce(&bytes, &rules, NOW_MS, &mut scratch);
                        std::hint::black_box(accepted).expect("good");
                    }
                    turns += 8;
                }
                start.elapsed().as_secs_f64() / f64::from(turns)
            })
            .fold(f64::INFINITY, f64::min);
        let (rate, count) = (raw as f64 / best / 1e6, records as f64 / best / 1e6);
        println!("{name:<28} {rate:>10.0} {count:>12.2} {:>14.2}", best * 1e6);
    }
}
