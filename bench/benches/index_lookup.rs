//! What a fetch costs before its first byte is sent: offset to file range, in the active segment and in a
//! sealed one, and a record found by its timestamp.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use highwater_log::{LogSettings, PartitionLog};
use highwater_wire::build::BatchBuilder;
use highwater_wire::{BatchHeader, Codec};

const NOW: i64 = 1_700_000_000_000;
const BATCHES: i64 = 400_000;
const FETCH_BYTES: usize = 1024 * 1024;

/// Single-record batches of about 170 bytes in 16 MiB segments: the worst case for a sparse index.
fn filled(dir: &std::path::Path) -> PartitionLog {
    let settings = LogSettings { segment_bytes: 16 << 20, ..LogSettings::default() };
    let (mut log, _) = PartitionLog::open(dir, settings, NOW).expect("opens");
    for n in 0..BATCHES {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(NOW + n, Some(b"key"), Some(&[b'x'; 90]), &[]);
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("built whole");
        log.append(&header, &bytes, 0, NOW).expect("appends");
    }
    log
}

/// Offsets all over `start..end`, the same each time.
fn scattered(start: i64, end: i64) -> impl FnMut() -> i64 {
    let mut state = 7u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        start + ((state >> 33) as i64) % (end - start)
    }
}

fn lookup(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("scratch");
    let log = filled(scratch.path());
    let end = log.log_end();
    let sealed = *log.sealed().last().expect("several segments");
    let mut group = c.benchmark_group("index lookup");
    let read = |start: i64| log.read(start, FETCH_BYTES, end, true).expect("reads").slices;

    let mut active = scattered(log.active_start(), end);
    group.bench_function("offset in the active segment", |b| b.iter(|| black_box(read(active()))));
    let mut old = scattered(sealed.start, sealed.end);
    group.bench_function("offset in a sealed segment", |b| b.iter(|| black_box(read(old()))));
    group.bench_function("tail", |b| b.iter(|| black_box(read(end - 1))));
    group.bench_function("nothing new", |b| b.iter(|| black_box(read(end))));
    let mut any = scattered(log.active_start(), end);
    group.bench_function("timestamp", |b| {
        b.iter(|| black_box(log.offset_for_timestamp(NOW + any(), end).expect("reads")));
    });
    group.finish();
}

/// Start-up: a thousand partitions that were closed cleanly, each with a sealed and an active segment, and as
/// many empty ones.
fn open(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("scratch");
    let dirs: Vec<_> = (0..1_000).map(|n| scratch.path().join(format!("{n}"))).collect();
    for dir in &dirs {
        let (mut log, _) = PartitionLog::open(dir, LogSettings::default(), NOW).expect("opens");
        for _ in 0..2 {
            log.roll(NOW).expect("rolls");
            let mut builder = BatchBuilder::new(Codec::None).producer(1, 0, log.log_end() as i32);
            builder.push(NOW, None, Some(b"value"), &[]);
            let bytes = builder.build();
            let header = BatchHeader::parse(&bytes).expect("built whole");
            log.append(&header, &bytes, 0, NOW).expect("appends");
        }
        log.close().expect("closes");
    }
    let mut group = c.benchmark_group("open 1,000 partitions");
    group.sample_size(10);
    group.bench_function("closed cleanly", |b| {
        b.iter(|| {
            for dir in &dirs {
                black_box(PartitionLog::open(dir, LogSettings::default(), NOW).expect("opens"));
            }
        });
    });
    group.bench_function("empty", |b| {
        b.iter(|| {
            for dir in &dirs {
                let dir = dir.join("none");
                black_box(PartitionLog::open(&dir, LogSettings::default(), NOW).expect("opens"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, lookup, open);
criterion_main!(benches);
