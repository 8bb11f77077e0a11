//! What an append costs: one batch judged for duplicates, stamped and written with one call into the page
//! cache.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater_log::{LogSettings, PartitionLog};
use highwater_wire::build::BatchBuilder;
use highwater_wire::{BatchHeader, Codec};

const NOW: i64 = 1_700_000_000_000;

fn batch(records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    let value = vec![b'x'; value_bytes];
    for n in 0..records {
        builder.push(NOW + n as i64, Some(b"key"), Some(&value), &[]);
    }
    builder.build()
}

fn append(c: &mut Criterion) {
    let scratch = tempfile::tempdir().expect("scratch");
    let mut group = c.benchmark_group("append");
    group.sample_size(20);
    for (name, bytes) in
        [("1000 records of 1 KiB", batch(1_000, 1_000)), ("1 record of 100 B", batch(1, 100))]
    {
        let header = BatchHeader::parse(&bytes).expect("built whole");
        let dir = scratch.path().join(name.replace(' ', "-"));
        let (mut log, _) = PartitionLog::open(&dir, LogSettings::default(), NOW).expect("opens");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let mut spent = std::time::Duration::ZERO;
                let mut left = times;
                while left > 0 {
                    let round = left.min((128 << 20) / bytes.len() as u64);
                    let start = std::time::Instant::now();
                    for _ in 0..round {
                        black_box(log.producers().check(&header)).expect("new");
                        log.append(&header, &bytes, 0, NOW).expect("appends");
                    }
                    spent += start.elapsed();
                    left -= round;
                    // Keeps the disk from filling, outside of the measurement.
                    drop(log.evict_below(i64::MAX).expect("evicts"));
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
