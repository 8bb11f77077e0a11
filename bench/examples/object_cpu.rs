//! Seal and rebuild by CPU time of one thread, which other load on the machine disturbs less than wall time.

use std::hint::black_box;
use std::time::Duration;

use highwater_bench::objects::{COMPRESSIONS, input, plain_pages};
use highwater_bench::records::{Shape, segment};
use highwater_tiering::object::{Compression, Rebuilder, SealedObject, Sealer, ZSTD_LEVEL};
use lz4_flex::block::compress_into_with_table;

const SEGMENT_BYTES: usize = 64 * 1024 * 1024;
const ROUNDS: usize = 5;

/// CPU time of this thread so far.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    Duration::from_nanos(nanoseconds)
}

/// Seconds of one `run`. The kernel advances this clock by ticks of some milliseconds, so `run` is repeated
/// until a tick is less than a hundredth of what is measured.
fn timed(mut run: impl FnMut()) -> f64 {
    const ENOUGH: Duration = Duration::from_millis(500);
    let before = cpu();
    let mut runs = 0;
    loop {
        run();
        runs += 1;
        let spent = cpu() - before;
        if spent >= ENOUGH {
            return spent.as_secs_f64() / f64::from(runs);
        }
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Medians of both, run in turn so that what disturbs one disturbs the other.
fn in_turn(mut ours: impl FnMut(), mut codec: impl FnMut()) -> (f64, f64) {
    let pairs: Vec<_> = (0..ROUNDS).map(|_| (timed(&mut ours), timed(&mut codec))).collect();
    (median(pairs.iter().map(|p| p.0).collect()), median(pairs.iter().map(|p| p.1).collect()))
}

fn main() {
    for shape in [Shape::Flight1KiB, Shape::Reading100B] {
        let segment = segment(shape, SEGMENT_BYTES);
        let pages = plain_pages(&segment);
        let megabytes = segment.bytes.len() as f64 / 1e6;
        let millions = segment.records as f64 / 1e6;
        println!("{}: {} records; MB/s of CPU time, M records/s", shape.name(), segment.records);
        for compression in COMPRESSIONS {
            let input = input(&segment, compression);
            let (mut sealer, mut rebuilder, mut codec) =
                (Sealer::new(), Rebuilder::new(), Alone::new(compression));
            let sealed = sealer.seal(&input).expect("sound");
            let bytes = sealed.to_bytes();
            let small: Vec<Vec<u8>> = pages.iter().map(|p| codec.deflate(p).to_vec()).collect();
            let mut codec_again = Alone::new(compression);
            let seal = in_turn(
                || drop(sealer.seal(&input).expect("sound")),
                || {
                    pages.iter().for_each(|p| {
                        black_box(codec.deflate(p));
                    })
                },
            );
            let mut batches = Vec::new();
            let rebuild = in_turn(
                || rebuild_all(&mut rebuilder, &sealed, &bytes, &mut batches),
                || {
                    small.iter().for_each(|p| {
                        black_box(codec_again.inflate(p));
                    })
                },
            );
            println!("  {} {:.2} times smaller", compression.name(), megabytes * 1e6 / bytes.len() as f64);
            for (name, (ours, alone)) in [("seal", seal), ("rebuild", rebuild)] {
                let beside = match compression {
                    Compression::None => String::new(),
                    _ => {
                        format!(", codec alone {:.0}: {:.0} % of it", megabytes / alone, 100.0 * alone / ours)
                    }
                };
                println!("    {name:8}{:6.0} ({:5.2}){beside}", megabytes / ours, millions / ours);
            }
        }
    }
}

fn rebuild_all(rebuilder: &mut Rebuilder, sealed: &SealedObject, bytes: &[u8], batches: &mut Vec<u8>) {
    for (number, group) in sealed.index.row_groups.iter().enumerate() {
        let raw = &bytes[group.position as usize..][..group.length as usize];
        let mut offset = group.start_offset;
        while offset < group.end_offset {
            batches.clear();
            let rebuilt = rebuilder.rebuild(&sealed.index, number, raw, offset, 1 << 20, batches);
            offset = rebuilt.expect("sound").next_offset;
        }
    }
}

/// A codec with its contexts, and nothing around it.
struct Alone {
    compression: Compression,
    out: Vec<u8>,
    deflate: zstd::bulk::Compressor<'static>,
    inflate: zstd::bulk::Decompressor<'static>,
    table: lz4_flex::block::CompressTable,
}

impl Alone {
    fn new(compression: Compression) -> Alone {
        Alone {
            compression,
            out: vec![0; 2 * 1024 * 1024],
            deflate: zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("level"),
            inflate: zstd::bulk::Decompressor::new().expect("context"),
            table: lz4_flex::block::CompressTable::large(),
        }
    }

    fn deflate(&mut self, page: &[u8]) -> &[u8] {
        let out = &mut self.out[..];
        let length = match self.compression {
            Compression::Zstd => self.deflate.compress_to_buffer(page, out).expect("fits"),
            Compression::Lz4 => compress_into_with_table(page, out, &mut self.table).expect("fits"),
            Compression::None => 0,
        };
        &self.out[..length]
    }

    fn inflate(&mut self, page: &[u8]) -> &[u8] {
        let out = &mut self.out[..];
        let length = match self.compression {
            Compression::Zstd => self.inflate.decompress_to_buffer(page, out).expect("fits"),
            Compression::Lz4 => lz4_flex::block::decompress_into(page, out).expect("fits"),
            Compression::None => 0,
        };
        &self.out[..length]
    }
}
