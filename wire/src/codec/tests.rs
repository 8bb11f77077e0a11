use super::*;
use crate::HEADER_BYTES;
use crate::test_support::java_batch;

const CAP: usize = 1 << 20;

fn decode(codec: Codec, input: &[u8], cap: usize) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![0xaa; 100];
    decompress_into(codec, input, cap, &mut out).map(|()| out)
}

fn encode(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress(codec, input, &mut out);
    out
}

/// Neither random nor trivial, so that every codec has matches and literals.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|i| b"abcdefgh"[(i / 7 + i * i / 1_000) % 8]).collect()
}

#[test]
fn names_and_ids_are_kafkas() {
    let names: Vec<_> = Codec::ALL.iter().map(|codec| codec.name()).collect();
    assert_eq!(names, ["none", "gzip", "snappy", "lz4", "zstd"]);
    for codec in Codec::ALL {
        assert_eq!(Codec::from_id(codec.id()), Some(codec));
        assert_eq!(Codec::from_name(codec.name()), Some(codec));
    }
    assert_eq!((Codec::from_id(5), Codec::from_name("brotli")), (None, None));
}

#[test]
fn every_codec_round_trips_up_to_the_cap_and_not_past_it() {
    for codec in Codec::ALL {
        for length in [0, 1, 100, 65_535, 65_536, 65_537, 300_000] {
            let input = text(length);
            let encoded = encode(codec, &input);
            assert_eq!(decode(codec, &encoded, CAP).as_ref(), Ok(&input), "{codec:?} {length}");
            assert_eq!(decode(codec, &encoded, length).as_ref(), Ok(&input), "{codec:?} {length} at the cap");
            if length > 0 {
                let refused = Err(CodecError::TooLarge { cap_bytes: length - 1 });
                assert_eq!(decode(codec, &encoded, length - 1), refused, "{codec:?} {length}");
            }
        }
    }
}

#[test]
fn a_reused_buffer_keeps_its_length() {
    let mut out = Vec::new();
    for codec in [Codec::Lz4, Codec::Snappy, Codec::Gzip, Codec::None] {
        for length in [100_000, 10, 0, 5_000] {
            let input = text(length);
            let used = decompress_reusing(codec, &encode(codec, &input), CAP, &mut out).expect("good");
            assert_eq!(out[..used], input, "{codec:?}");
        }
    }
}

#[test]
fn bombs_cost_no_more_than_the_cap() {
    let zeros = vec![0u8; 64 << 20];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = encode(codec, &zeros);
        let mut out = Vec::new();
        let refused = decompress_into(codec, &bomb, CAP, &mut out);
        assert_eq!(refused, Err(CodecError::TooLarge { cap_bytes: CAP }), "{codec:?}");
        assert!(out.capacity() <= 4 * CAP, "{codec:?}: {} bytes", out.capacity());
    }
}

#[test]
fn every_truncation_is_refused_or_shorter() {
    for name in ["gzip", "snappy", "lz4", "zstd"] {
        let codec = Codec::from_name(name).expect("a codec");
        let batch = java_batch(name);
        let section = &batch[HEADER_BYTES..];
        let whole = decode(codec, section, CAP).expect("good");
        for cut in 0..section.len() {
            let decoded = decode(codec, &section[..cut], CAP);
            // Snappy's framing has no end mark, so a cut between blocks is a shorter stream.
            assert!(
                decoded.as_ref().is_err() || decoded.is_ok_and(|out| out.len() < whole.len()),
                "{name} {cut}"
            );
        }
    }
}

#[test]
fn raw_snappy_is_read_and_cannot_claim_what_it_does_not_hold() {
    let input = text(10_000);
    let raw = snap::raw::Encoder::new().compress_vec(&input).expect("compresses");
    assert_eq!(decode(Codec::Snappy, &raw, CAP), Ok(input));
    let lie = [0xff, 0xff, 0x3f, 0];
    assert!(
        matches!(decode(Codec::Snappy, &lie, CAP), Err(CodecError::Malformed { .. })),
        "1 MiB in 4 bytes"
    );
    let framed = encode(Codec::Snappy, &text(100));
    let trailing = [&framed[..], &[0, 0]].concat();
    assert!(matches!(decode(Codec::Snappy, &trailing, CAP), Err(CodecError::Malformed { .. })));
}

#[test]
fn gzip_members_follow_one_another() {
    let two = [encode(Codec::Gzip, b"one "), encode(Codec::Gzip, b"two")].concat();
    assert_eq!(decode(Codec::Gzip, &two, CAP), Ok(b"one two".to_vec()));
}

#[test]
fn lz4_frames_of_other_writers_are_read() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let input = text(700_000);
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
            for sums in [false, true] {
                let mut info = FrameInfo::new().block_mode(mode).block_size(size);
                info = info.block_checksums(sums).content_checksum(sums);
                info = info.content_size(sums.then_some(input.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&input).expect("memory");
                let frame = encoder.finish().expect("memory");
                assert_eq!(decode(Codec::Lz4, &frame, CAP).as_ref(), Ok(&input), "{mode:?} {size:?} {sums}");
                let mut broken = frame.clone();
                let end = broken.len() - 1;
                broken[end] ^= 1;
                assert!(decode(Codec::Lz4, &broken, CAP).is_err(), "{mode:?} {size:?} {sums}: end broken");
            }
        }
    }
}

#[test]
fn lz4_checksums_are_those_of_the_format() {
    assert_eq!(lz4::xxh32(b""), 0x02CC_5D05);
    assert_eq!(lz4::xxh32(b"abc"), 0x32D1_53FF);
    assert_eq!(lz4::xxh32(b"Nobody inspects the spammish repetition"), 0xE229_3B2F);
    let mut frame = encode(Codec::Lz4, b"hello");
    frame[6] ^= 1;
    assert!(matches!(
        decode(Codec::Lz4, &frame, CAP),
        Err(CodecError::Malformed { what: "header checksum", .. })
    ));
}

#[test]
fn zstd_frames_of_other_writers_are_read() {
    let input = text(700_000);
    // A stream does not know its length: no content size in the frame.
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 19).expect("encoder");
    encoder.include_checksum(true).expect("parameter");
    encoder.write_all(&input).expect("memory");
    let stream = encoder.finish().expect("memory");
    assert_eq!(decode(Codec::Zstd, &stream, CAP).as_ref(), Ok(&input));
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let both = [&stream[..], &skippable, &encode(Codec::Zstd, b"tail")].concat();
    assert_eq!(decode(Codec::Zstd, &both, CAP), Ok([&input[..], b"tail"].concat()));
    // A frame that asks for a window of 2 GiB and holds one raw block of 2 bytes.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x11, 0x00, 0x00, b'h', b'i'];
    assert_eq!(decode(Codec::Zstd, &wide, CAP), Ok(b"hi".to_vec()));
}

#[test]
fn zstd_content_sizes_that_lie_are_refused() {
    let mut frame = encode(Codec::Zstd, &text(300));
    assert_eq!(frame[4] & 0b1110_0000, 0b0110_0000, "single segment with a content size of 2 bytes");
    for claimed in [0u16, 43, 45, u16::MAX] {
        frame[5..7].copy_from_slice(&claimed.to_le_bytes());
        assert!(decode(Codec::Zstd, &frame, CAP).is_err(), "{claimed}");
    }
    frame[5..7].copy_from_slice(&44u16.to_le_bytes());
    assert_eq!(decode(Codec::Zstd, &frame, CAP), Ok(text(300)));
}
