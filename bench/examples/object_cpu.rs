//! Seal and rebuild by CPU time of one thread, which other load on the machine disturbs less than wall time.

use std::time::Duration;

use highwater_bench::objects::{COMPRESSIONS, input, plain_pages};
use highwater_bench::records::{Shape, segment};
use highwater_tiering::object::{Compression, Rebuilder, Sealer, ZSTD_LEVEL};

const SEGMENT_BYTES: usize = 64 * 1024 * 1024;

/// CPU time of this thread so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}

fn best(rounds: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..rounds).map(|_| {
        let before = cpu();
        run();
        (cpu() - before).as_secs_f64()
    });
    times.fold(f64::MAX, f64::min)
}

fn main() {
    let rounds = 7;
    for shape in [Shape::Flight1KiB, Shape::Reading100B] {
        let segment = segment(shape, SEGMENT_BYTES);
        let pages = plain_pages(&segment);
        let megabytes = segment.bytes.len() as f64 / 1e6;
        let millions = segment.records as f64 / 1e6;
        println!("{}: {} records, MB/s per core (M records/s)", shape.name(), segment.records);
        let (mut sealer, mut rebuilder) = (Sealer::new(), Rebuilder::new());
        let mut out = vec![0; 2 * 1024 * 1024];
        for compression in COMPRESSIONS {
            let input = input(&segment, compression);
            let seal = best(rounds, || drop(sealer.seal(&input).expect("sound")));
            let sealed = sealer.seal(&input).expect("sound");
            let bytes = sealed.to_bytes();
            let mut batches = Vec::new();
            let rebuild = best(rounds, || {
                for (number, group) in sealed.index.row_groups.iter().enumerate() {
                    let raw = &bytes[group.position as usize..][..group.length as usize];
                    let mut offset = group.start_offset;
                    while offset < group.end_offset {
                        batches.clear();
                        let rebuilt =
                            rebuilder.rebuild(&sealed.index, number, raw, offset, 1 << 20, &mut batches);
                        offset = rebuilt.expect("sound").next_offset;
                    }
                }
            });
            let (deflate, inflate) = alone(compression, &pages, &mut out, rounds);
            println!(
                "  {:4} {:4.2}x  seal {:5.0} ({:4.2})  codec alone {:5.0}  |  \
                 rebuild {:5.0} ({:5.2})  codec alone {:5.0}  = {:3.0} %",
                compression.name(),
                segment.bytes.len() as f64 / bytes.len() as f64,
                megabytes / seal,
                millions / seal,
                megabytes / deflate,
                megabytes / rebuild,
                millions / rebuild,
                megabytes / inflate,
                100.0 * inflate / rebuild,
            );
        }
    }
}

/// Seconds to compress and to decompress all pages with the codec only.
fn alone(compression: Compression, pages: &[Vec<u8>], out: &mut [u8], rounds: usize) -> (f64, f64) {
    match compression {
        Compression::Zstd => {
            let mut one = zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("level");
            let deflate = best(rounds, || {
                pages.iter().for_each(|p| {
                    one.compress_to_buffer(p, out).expect("fits");
                })
            });
            let small: Vec<_> = pages.iter().map(|p| one.compress(p).expect("fits")).collect();
            let mut one = zstd::bulk::Decompressor::new().expect("context");
            let inflate = best(rounds, || {
                small.iter().for_each(|p| {
                    one.decompress_to_buffer(p, out).expect("fits");
                })
            });
            (deflate, inflate)
        }
        Compression::Lz4 => {
            let mut table = lz4_flex::block::CompressTable::large();
            let deflate = best(rounds, || {
                pages.iter().for_each(|p| {
                    lz4_flex::block::compress_into_with_table(p, out, &mut table).expect("fits");
                })
            });
            let small: Vec<_> = pages.iter().map(|p| lz4_flex::block::compress(p)).collect();
            let inflate = best(rounds, || {
                small.iter().for_each(|p| {
                    lz4_flex::block::decompress_into(p, out).expect("fits");
                })
            });
            (deflate, inflate)
        }
        Compression::None => {
            let copy = best(rounds, || pages.iter().for_each(|p| out[..p.len()].copy_from_slice(p)));
            (copy, copy)
        }
    }
}
