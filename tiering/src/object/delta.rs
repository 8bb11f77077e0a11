//! DELTA_BINARY_PACKED: offsets, timestamps, and the lengths inside DELTA_LENGTH_BYTE_ARRAY.
//!
//! Blocks of 128 values in four miniblocks, as every Parquet writer makes them and as the only form read
//! here. Deltas wrap, so every `i64` survives. Must not allocate by a count from the page: the caller says
//! how many values there must be, and each block is held against the bytes left (invariant 19).

use super::ObjectError;

const BLOCK_VALUES: usize = 128;
const MINIBLOCKS: usize = 4;
const MINIBLOCK_VALUES: usize = BLOCK_VALUES / MINIBLOCKS;
/// Bytes of a miniblock at the widest.
const MINIBLOCK_BYTES_MAX: usize = MINIBLOCK_VALUES * 8;

/// At most this many bytes are appended for `count` values of at most 33 bits (lengths).
pub const fn lengths_bytes_max(count: usize) -> usize {
    let blocks = count.div_ceil(BLOCK_VALUES);
    16 + blocks * (5 + MINIBLOCKS + BLOCK_VALUES * 33 / 8 + 8)
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_head(count: usize, first: i64, out: &mut Vec<u8>) {
    put_unsigned(out, BLOCK_VALUES as u64);
    put_unsigned(out, MINIBLOCKS as u64);
    put_unsigned(out, count as u64);
    put_signed(out, first);
}

/// Appends `values`.
pub fn encode(values: &[i64], out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or(0);
    put_head(values.len(), first, out);
    let mut before = first;
    let mut deltas = [0i64; BLOCK_VALUES];
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK_VALUES) {
        let mut min = i64::MAX;
        for (delta, value) in deltas.iter_mut().zip(block) {
            *delta = value.wrapping_sub(before);
            before = *value;
            min = min.min(*delta);
        }
        put_signed(out, min);
        let widths_at = out.len();
        out.extend_from_slice(&[0; MINIBLOCKS]);
        for (number, mini) in deltas[..block.len()].chunks(MINIBLOCK_VALUES).enumerate() {
            let mut raw = [0u64; MINIBLOCK_VALUES];
            let mut any = 0;
            for (raw, delta) in raw.iter_mut().zip(mini) {
                *raw = delta.wrapping_sub(min) as u64;
                any |= *raw;
            }
            let width = 64 - any.leading_zeros();
            out[widths_at + number] = width as u8;
            pack(&raw, width, out);
        }
    }
}

/// Appends `count` values that grow by one each from `first`: what dense offsets are.
pub fn encode_consecutive(first: i64, count: usize, out: &mut Vec<u8>) {
    put_head(count, first, out);
    for _ in 0..count.saturating_sub(1).div_ceil(BLOCK_VALUES) {
        put_signed(out, 1);
        out.extend_from_slice(&[0; MINIBLOCKS]);
    }
}

fn pack(values: &[u64; MINIBLOCK_VALUES], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let mut packed = [0u8; MINIBLOCK_BYTES_MAX + 8];
    let (mut bits, mut held, mut at) = (0u128, 0u32, 0usize);
    for value in values {
        bits |= u128::from(*value) << held;
        held += width;
        while held >= 32 {
            packed[at..at + 4].copy_from_slice(&(bits as u32).to_le_bytes());
            at += 4;
            bits >>= 32;
            held -= 32;
        }
    }
    debug_assert!(held == 0, "32 values end on a 32-bit word");
    out.extend_from_slice(&packed[..at]);
}

const CUT_SHORT: ObjectError = ObjectError::Malformed("delta block cut short");

fn take_unsigned(bytes: &mut &[u8]) -> Result<u64, ObjectError> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CUT_SHORT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ObjectError::Malformed("delta varint"))
}

fn take_signed(bytes: &mut &[u8]) -> Result<i64, ObjectError> {
    let raw = take_unsigned(bytes)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// Reads exactly `count` values from the start of `bytes` into the start of `out`, which grows if it is
/// shorter, and cuts them off `bytes`.
///
/// # Errors
/// `Malformed` when the bytes hold another count, another block size, or end early.
pub fn decode(bytes: &mut &[u8], count: usize, out: &mut Vec<i64>) -> Result<(), ObjectError> {
    let (block, minis) = (take_unsigned(bytes)?, take_unsigned(bytes)?);
    if block != BLOCK_VALUES as u64 || minis != MINIBLOCKS as u64 {
        return Err(ObjectError::Malformed("delta block size"));
    }
    if take_unsigned(bytes)? != count as u64 {
        return Err(ObjectError::Malformed("delta count"));
    }
    let mut value = take_signed(bytes)?;
    if out.len() < count {
        out.resize(count, 0);
    }
    let Some((first, mut rest)) = out[..count].split_first_mut() else {
        return Ok(());
    };
    *first = value;
    while !rest.is_empty() {
        let min = take_signed(bytes)?;
        let (widths, after) = bytes.split_first_chunk::<MINIBLOCKS>().ok_or(CUT_SHORT)?;
        *bytes = after;
        for width in widths {
            let (mini, after) = rest.split_at_mut(rest.len().min(MINIBLOCK_VALUES));
            rest = after;
            if mini.is_empty() {
                break;
            }
            value = decode_miniblock(bytes, u32::from(*width), min, value, mini)?;
        }
    }
    Ok(())
}

#[inline]
fn decode_miniblock(
    bytes: &mut &[u8],
    width: u32,
    min: i64,
    mut value: i64,
    out: &mut [i64],
) -> Result<i64, ObjectError> {
    if width == 0 {
        for slot in out {
            value = value.wrapping_add(min);
            *slot = value;
        }
        return Ok(value);
    }
    if width > 64 {
        return Err(ObjectError::Malformed("delta width"));
    }
    let length = MINIBLOCK_VALUES * width as usize / 8;
    if bytes.len() < length {
        return Err(CUT_SHORT);
    }
    let mut raw = [0u64; MINIBLOCK_VALUES];
    if width <= 56 && bytes.len() >= length + 8 {
        unpack_narrow(bytes, width, &mut raw);
    } else {
        let mut padded = [0u8; MINIBLOCK_BYTES_MAX + 16];
        padded[..length].copy_from_slice(&bytes[..length]);
        if width <= 56 {
            unpack_narrow(&padded, width, &mut raw)
        } else {
            unpack_wide(&padded, width, &mut raw)
        }
    }
    *bytes = &bytes[length..];
    for (slot, raw) in out.iter_mut().zip(raw) {
        value = value.wrapping_add(min).wrapping_add(raw as i64);
        *slot = value;
    }
    Ok(value)
}

/// Values of up to 56 bits: each lies within 8 bytes. `bytes` has 8 more than the miniblock.
#[inline]
fn unpack_narrow(bytes: &[u8], width: u32, out: &mut [u64; MINIBLOCK_VALUES]) {
    let mask = (1u64 << width) - 1;
    let mut bit = 0usize;
    for slot in out {
        let at = bit / 8;
        let word = bytes[at..].first_chunk::<8>().expect("the caller gave 8 bytes of slack");
        *slot = u64::from_le_bytes(*word) >> (bit % 8) & mask;
        bit += width as usize;
    }
}

/// Values of up to 64 bits. `bytes` has 16 more than the miniblock.
fn unpack_wide(bytes: &[u8], width: u32, out: &mut [u64; MINIBLOCK_VALUES]) {
    let mask = (1u128 << width) - 1;
    let mut bit = 0usize;
    for slot in out {
        let at = bit / 8;
        let word = bytes[at..].first_chunk::<16>().expect("the caller gave 16 bytes of slack");
        *slot = (u128::from_le_bytes(*word) >> (bit % 8) & mask) as u64;
        bit += width as usize;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(values: &[i64]) {
        let mut bytes = Vec::new();
        encode(values, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"rest");
        let mut rest = &bytes[..];
        let mut out = Vec::new();
        decode(&mut rest, values.len(), &mut out).expect("reads back");
        assert_eq!(out, values);
        assert_eq!(rest, b"rest", "of {length} bytes");
        for cut in 0..length {
            let mut rest = &bytes[..cut];
            assert!(decode(&mut rest, values.len(), &mut out).is_err(), "cut at {cut} of {length}");
        }
    }

    #[test]
    fn extremes_and_borders() {
        for count in [0, 1, 2, 32, 33, 34, 128, 129, 130, 257] {
            let values: Vec<i64> = (0..count).map(|i| [i64::MIN, i64::MAX, 0, -1][i % 4]).collect();
            round_trip(&values);
            let consecutive: Vec<i64> = (7..7 + count as i64).collect();
            round_trip(&consecutive);
            let (mut general, mut special) = (Vec::new(), Vec::new());
            encode(&consecutive, &mut general);
            encode_consecutive(7, count, &mut special);
            assert!(count == 0 || general == special, "count {count}");
        }
    }

    #[test]
    fn lengths_stay_within_their_bound() {
        let lengths: Vec<i64> = (0..1000).map(|i| if i % 2 == 0 { 0 } else { i64::from(i32::MAX) }).collect();
        let mut bytes = Vec::new();
        encode(&lengths, &mut bytes);
        assert!(bytes.len() <= lengths_bytes_max(lengths.len()));
    }

    proptest! {
        #[test]
        fn any_values_read_back(values in prop::collection::vec(any::<i64>(), 0..300), width in 0u32..64) {
            let narrow: Vec<i64> = values.iter().map(|v| v >> width).collect();
            round_trip(&narrow);
        }

        #[test]
        fn any_bytes_are_refused_or_read(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            count in 0usize..300,
        ) {
            let mut head = vec![0x80, 1, 4];
            put_unsigned(&mut head, count as u64);
            head.extend_from_slice(&bytes);
            let mut rest = &head[..];
            let _ = decode(&mut rest, count, &mut Vec::new());
        }
    }
}
