//! Zstandard frames, decoded in one call straight into the caller's buffer.
//!
//! One-shot decoding uses the output itself as window, so a frame that asks for a window of gigabytes costs
//! nothing; what it may cost is bounded by walking the block headers first: no block yields more than 128 KiB
//! (RFC 8878).

use std::cell::RefCell;

use ::zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_error_name};

use super::{Codec, CodecError};

const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const BLOCK_BYTES_MAX: u64 = 128 * 1024;
const LEVEL: i32 = 3;

const fn malformed(what: &'static str) -> CodecError {
    CodecError::Malformed { codec: Codec::Zstd, what }
}

const CUT_SHORT: CodecError = malformed("frame cut short");

thread_local! {
    static DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    static ENCODER: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
}

pub(super) fn decompress(input: &[u8], cap_bytes: usize, out: &mut Vec<u8>) -> Result<usize, CodecError> {
    let bound = output_bound(input)?;
    // `bound` may be above what really comes out (a small block can be anything up to 128 KiB), so the cap
    // decides only when the decoder runs into it; memory past what is written is reserved and never touched.
    let room = usize::try_from(bound).unwrap_or(usize::MAX).min(cap_bytes);
    out.clear();
    out.reserve(room);
    // The decoder sees the vector's whole capacity, so the cap is checked again below.
    let written = DECODER.with_borrow_mut(|decoder| decoder.decompress(out, input));
    match written {
        Ok(written) if written <= cap_bytes => Ok(written),
        Ok(_) => Err(CodecError::TooLarge { cap_bytes }),
        Err(_) if bound > room as u64 && out_of_room(written) => Err(CodecError::TooLarge { cap_bytes }),
        Err(_) => Err(malformed("broken frame")),
    }
}

fn out_of_room(result: Result<usize, usize>) -> bool {
    result.is_err_and(|code| get_error_name(code) == "Destination buffer is too small")
}

/// The most that a sequence of frames can decode to, from its headers alone.
fn output_bound(input: &[u8]) -> Result<u64, CodecError> {
    let mut rest = input;
    let mut bound = 0u64;
    if rest.is_empty() {
        return Err(CUT_SHORT);
    }
    while !rest.is_empty() {
        let magic = le(&mut rest, 4)? as u32;
        if magic & !0xf == SKIPPABLE_MAGIC {
            let length = le(&mut rest, 4)?;
            skip(&mut rest, length)?;
            continue;
        }
        if magic != MAGIC {
            return Err(malformed("no frame magic"));
        }
        bound = bound.saturating_add(frame_bound(&mut rest)?);
    }
    Ok(bound)
}

fn frame_bound(rest: &mut &[u8]) -> Result<u64, CodecError> {
    let descriptor = le(rest, 1)? as u8;
    let single_segment = descriptor & 0b10_0000 != 0;
    let mut block_max = BLOCK_BYTES_MAX;
    if !single_segment {
        let window = le(rest, 1)?;
        let base = 1u64 << (10 + (window >> 3));
        block_max = block_max.min(base + (base / 8) * (window & 7));
    }
    skip(rest, [0, 1, 2, 4][usize::from(descriptor & 0b11)])?;
    let content_size = match (descriptor >> 6, single_segment) {
        (0, false) => None,
        (0, true) => Some(le(rest, 1)?),
        (1, _) => Some(le(rest, 2)? + 256),
        (2, _) => Some(le(rest, 4)?),
        _ => Some(le(rest, 8)?),
    };
    let mut blocks_bound = 0u64;
    loop {
        let block = le(rest, 3)?;
        let size = block >> 3;
        blocks_bound += match (block >> 1) & 0b11 {
            0 => {
                skip(rest, size)?;
                size
            }
            1 => {
                skip(rest, 1)?;
                size
            }
            2 => {
                skip(rest, size)?;
                block_max
            }
            _ => return Err(malformed("reserved block type")),
        };
        if block & 1 != 0 {
            break;
        }
    }
    if descriptor & 0b100 != 0 {
        skip(rest, 4)?;
    }
    // A content size above what the blocks can hold is a lie that the decoder will find out.
    Ok(content_size.map_or(blocks_bound, |size| size.min(blocks_bound)))
}

fn le(rest: &mut &[u8], count: usize) -> Result<u64, CodecError> {
    debug_assert!(count <= 8, "fields are at most 64 bits");
    let (bytes, after) = rest.split_at_checked(count).ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(bytes.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte)))
}

fn skip(rest: &mut &[u8], count: u64) -> Result<(), CodecError> {
    let count = usize::try_from(count).map_err(|_| CUT_SHORT)?;
    *rest = rest.get(count..).ok_or(CUT_SHORT)?;
    Ok(())
}

pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    let mut frame = Vec::with_capacity(compress_bound(input.len()));
    ENCODER
        .with_borrow_mut(|encoder| encoder.compress(&mut frame, input, LEVEL))
        .expect("the buffer is as large as the bound says");
    out.extend_from_slice(&frame);
}
