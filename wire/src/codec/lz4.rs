//! LZ4 frames, decoded block by block straight into the caller's buffer.
//!
//! The crate's own frame reader copies every block twice and allocates per frame; at produce, where each
//! batch is a frame, that costs more than the decoding. Checks the header's checksum, and those of blocks and
//! content if present. Refuses dictionaries and anything after the frame's end.

use lz4_flex::block::{DecompressError, decompress_into, decompress_into_with_dict};

use super::{Codec, CodecError, grow};

const MAGIC: u32 = 0x184D_2204;
/// How far back a block may refer into those before it.
const WINDOW_BYTES: usize = 64 * 1024;
/// LZ4 makes at most 255 bytes of one.
const EXPANSION_MAX: usize = 255;
const STORED_BIT: u32 = 1 << 31;

const fn malformed(what: &'static str) -> CodecError {
    CodecError::Malformed { codec: Codec::Lz4, what }
}

const CUT_SHORT: CodecError = malformed("frame cut short");

struct FrameHeader {
    blocks_linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_bytes: Option<u64>,
    block_bytes_max: usize,
}

pub(super) fn decompress(input: &[u8], cap_bytes: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    let mut rest = input;
    let header = frame_header(&mut rest)?;
    let mut used = 0;
    loop {
        let word = u32_le(&mut rest)?;
        if word == 0 {
            break;
        }
        let length = (word & !STORED_BIT) as usize;
        if length > header.block_bytes_max {
            return Err(malformed("block over the frame's block size"));
        }
        let block = take(&mut rest, length)?;
        used = if word & STORED_BIT != 0 {
            if length > cap_bytes - used {
                return Err(CodecError::TooLarge { cap_bytes });
            }
            grow(out, used, length).copy_from_slice(block);
            used + length
        } else {
            decompress_block(block, &header, cap_bytes, out, used)?
        };
        if header.block_checksums && u32_le(&mut rest)? != xxh32(block) {
            return Err(malformed("block checksum"));
        }
    }
    if header.content_checksum && u32_le(&mut rest)? != xxh32(&out[..used]) {
        return Err(malformed("content checksum"));
    }
    if header.content_bytes.is_some_and(|bytes| bytes != used as u64) {
        return Err(malformed("content size"));
    }
    if !rest.is_empty() {
        return Err(malformed("bytes after the frame"));
    }
    Ok(used)
}

fn decompress_block(
    block: &[u8],
    header: &FrameHeader,
    cap_bytes: usize,
    out: &mut Vec<u8>,
    used: usize,
) -> Result<usize, CodecError> {
    let room_wanted = header.block_bytes_max.min(block.len() * EXPANSION_MAX);
    let room = room_wanted.min(cap_bytes - used);
    grow(out, used, room);
    let (before, after) = out.split_at_mut(used);
    let target = &mut after[..room];
    let written = if header.blocks_linked {
        decompress_into_with_dict(block, target, &before[used.saturating_sub(WINDOW_BYTES)..])
    } else {
        decompress_into(block, target)
    };
    match written {
        Ok(written) => Ok(used + written),
        Err(DecompressError::OutputTooSmall { .. }) if room < room_wanted => {
            Err(CodecError::TooLarge { cap_bytes })
        }
        Err(_) => Err(malformed("broken block")),
    }
}

fn frame_header(rest: &mut &[u8]) -> Result<FrameHeader, CodecError> {
    if u32_le(rest)? != MAGIC {
        return Err(malformed("no frame magic"));
    }
    let descriptor = *rest;
    let &[flags, block_descriptor] = take(rest, 2)? else { return Err(CUT_SHORT) };
    if flags >> 6 != 1 || flags & 0b10 != 0 || block_descriptor & 0x8f != 0 {
        return Err(malformed("unknown frame version"));
    }
    if flags & 1 != 0 {
        return Err(malformed("needs a dictionary"));
    }
    let block_bytes_max = match block_descriptor >> 4 {
        size @ 4..=7 => 1usize << (2 * size + 8),
        _ => return Err(malformed("unknown block size")),
    };
    let content_bytes = match flags & 0b1000 {
        0 => None,
        _ => {
            let bytes = take(rest, 8)?.first_chunk::<8>().ok_or(CUT_SHORT)?;
            Some(u64::from_le_bytes(*bytes))
        }
    };
    let descriptor = &descriptor[..descriptor.len() - rest.len()];
    let &[checksum] = take(rest, 1)? else { return Err(CUT_SHORT) };
    if checksum != (xxh32(descriptor) >> 8) as u8 {
        return Err(malformed("header checksum"));
    }
    Ok(FrameHeader {
        blocks_linked: flags & 0b10_0000 == 0,
        block_checksums: flags & 0b1_0000 != 0,
        content_checksum: flags & 0b100 != 0,
        content_bytes,
        block_bytes_max,
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], CodecError> {
    let (taken, after) = rest.split_at_checked(count).ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(taken)
}

fn u32_le(rest: &mut &[u8]) -> Result<u32, CodecError> {
    let (word, after) = rest.split_first_chunk::<4>().ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(u32::from_le_bytes(*word))
}

/// One frame of independent 64 KiB blocks, as Kafka's own client writes.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    const BLOCK_BYTES: usize = 64 * 1024;
    let descriptor = [0b0110_0000u8, 0b0100_0000u8];
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&descriptor);
    out.push((xxh32(&descriptor) >> 8) as u8);
    for block in input.chunks(BLOCK_BYTES) {
        let compressed = lz4_flex::block::compress(block);
        let (bytes, stored) =
            if compressed.len() < block.len() { (&compressed[..], 0) } else { (block, STORED_BIT) };
        let length = u32::try_from(bytes.len()).expect("a block is at most 64 KiB");
        out.extend_from_slice(&(length | stored).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(&0u32.to_le_bytes());
}

const PRIMES: [u32; 5] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D, 0x27D4_EB2F, 0x1656_67B1];

/// XXH32 with seed 0, the checksum of LZ4 frames.
pub(super) fn xxh32(bytes: &[u8]) -> u32 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let word = |at: &[u8]| u32::from_le_bytes(*at.first_chunk().expect("called with 4 bytes or more"));
    let mut stripes = bytes.chunks_exact(16);
    let mut hash = if bytes.len() >= 16 {
        let mut lanes = [p1.wrapping_add(p2), p2, 0, 0u32.wrapping_sub(p1)];
        for stripe in &mut stripes {
            for (lane, at) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                *lane = lane.wrapping_add(word(at).wrapping_mul(p2)).rotate_left(13).wrapping_mul(p1);
            }
        }
        let rotated = [1, 7, 12, 18].into_iter().zip(lanes).map(|(by, lane)| lane.rotate_left(by));
        rotated.fold(0, u32::wrapping_add)
    } else {
        p5
    };
    hash = hash.wrapping_add(bytes.len() as u32);
    let mut words = stripes.remainder().chunks_exact(4);
    for at in &mut words {
        hash = hash.wrapping_add(word(at).wrapping_mul(p3)).rotate_left(17).wrapping_mul(p4);
    }
    for &byte in words.remainder() {
        hash = hash.wrapping_add(u32::from(byte).wrapping_mul(p5)).rotate_left(11).wrapping_mul(p1);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(p2);
    hash = (hash ^ (hash >> 13)).wrapping_mul(p3);
    hash ^ (hash >> 16)
}
