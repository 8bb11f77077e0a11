//! Object -> batches, in bytes of batches per second on one core; and decompressing the same pages alone.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use highwater_bench::objects::{COMPRESSIONS, input, plain_pages};
use highwater_bench::records::{Shape, segment};
use highwater_tiering::object::{Compression, Rebuilder, Sealer, ZSTD_LEVEL};

const SEGMENT_BYTES: usize = 64 * 1024 * 1024;

fn rebuild(criterion: &mut Criterion) {
    for shape in [Shape::Flight1KiB, Shape::Reading100B] {
        let segment = segment(shape, SEGMENT_BYTES);
        let pages = plain_pages(&segment);
        let mut group = criterion.benchmark_group(format!("rebuild/{}", shape.name()));
        println!("{}: {} records", shape.name(), segment.records);
        let mut rebuilder = Rebuilder::new();
        let mut out: Vec<u8> = Vec::new();
        for compression in COMPRESSIONS {
            let sealed = Sealer::new().seal(&input(&segment, compression)).expect("sound");
            let bytes = sealed.to_bytes();
            let index = &sealed.index;
            group.throughput(Throughput::Bytes(segment.bytes.len() as u64)).sample_size(10);
            group.bench_function(compression.name(), |b| {
                b.iter(|| {
                    for (number, group) in index.row_groups.iter().enumerate() {
                        let raw = &bytes[group.position as usize..][..group.length as usize];
                        let mut offset = group.start_offset;
                        while offset < group.end_offset {
                            out.clear();
                            let rebuilt = rebuilder.rebuild(index, number, raw, offset, 1 << 20, &mut out);
                            offset = rebuilt.expect("sound").next_offset;
                        }
                    }
                })
            });
        }
        let mut buffer = vec![0; 2 * 1024 * 1024];
        let zstd_pages: Vec<_> =
            pages.iter().map(|p| zstd::bulk::compress(p, ZSTD_LEVEL).expect("fits")).collect();
        let mut zstd = zstd::bulk::Decompressor::new().expect("context");
        group.bench_function(format!("{}-alone", Compression::Zstd.name()), |b| {
            b.iter(|| {
                let mut one = |p: &Vec<u8>| zstd.decompress_to_buffer(p, &mut buffer[..]).expect("fits");
                zstd_pages.iter().map(&mut one).sum::<usize>()
            })
        });
        let lz4_pages: Vec<_> = pages.iter().map(|p| lz4_flex::block::compress(p)).collect();
        group.bench_function(format!("{}-alone", Compression::Lz4.name()), |b| {
            b.iter(|| {
                let mut one = |p: &Vec<u8>| lz4_flex::block::decompress_into(p, &mut buffer).expect("fits");
                lz4_pages.iter().map(&mut one).sum::<usize>()
            })
        });
        group.finish();
    }
}

criterion_group!(benches, rebuild);
criterion_main!(benches);
