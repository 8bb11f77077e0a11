//! Segment -> object, in bytes of segment per second on one core; and the codec alone over the same pages.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater_bench::objects::{COMPRESSIONS, input, plain_pages};
use highwater_bench::records::{Shape, segment};
use highwater_tiering::object::{Compression, Sealer, ZSTD_LEVEL};

const SEGMENT_BYTES: usize = 64 * 1024 * 1024;

fn seal(criterion: &mut Criterion) {
    for shape in [Shape::Flight1KiB, Shape::Reading100B] {
        let segment = segment(shape, SEGMENT_BYTES);
        let pages = plain_pages(&segment);
        let mut group = criterion.benchmark_group(format!("seal/{}", shape.name()));
        group.throughput(Throughput::Bytes(segment.bytes.len() as u64)).sample_size(10);
        let mut sealer = Sealer::new();
        for compression in COMPRESSIONS {
            let input = input(&segment, compression);
            let size = sealer.seal(&input).expect("sound").summary.object_bytes;
            println!(
                "{} {compression:?}: {:.2} times smaller",
                shape.name(),
                segment.bytes.len() as f64 / size as f64
            );
            group.bench_function(compression.name(), |b| b.iter(|| sealer.seal(&input).expect("sound")));
        }
        let mut out = vec![0; 2 * 1024 * 1024];
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("level");
        group.bench_function(format!("{}-alone", Compression::Zstd.name()), |b| {
            b.iter(|| {
                pages.iter().map(|p| zstd.compress_to_buffer(p, &mut out[..]).expect("fits")).sum::<usize>()
            })
        });
        let mut table = lz4_flex::block::CompressTable::large();
        group.bench_function(format!("{}-alone", Compression::Lz4.name()), |b| {
            b.iter(|| {
                let mut one = |p: &[u8]| lz4_flex::block::compress_into_with_table(p, &mut out, &mut table);
                pages.iter().map(|p| one(p).expect("fits")).sum::<usize>()
            })
        });
        group.finish();
    }
}

criterion_group!(benches, seal);
criterion_main!(benches);
