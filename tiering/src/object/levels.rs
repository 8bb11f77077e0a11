//! Definition and repetition levels: Parquet's hybrid of run-length and bit-packed encoding, behind a 4-byte
//! length, as data pages of version 1 have them.
//!
//! Levels that are all the same become one run and are read back without touching a buffer; mixed ones are
//! bit-packed. Must not allocate by a count from the page: the caller says how many levels there must be
//! (invariant 19).

use super::ObjectError;

/// Appends `levels` (each below `1 << width`) with their length prefix.
pub fn encode(levels: &[u8], width: u32, out: &mut Vec<u8>) {
    debug_assert!(width == 1 || width == 2, "no column here is deeper");
    let first = levels.first().copied().unwrap_or(0);
    if levels.iter().all(|level| *level == first) {
        return encode_same(first, levels.len(), out);
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let groups = levels.len().div_ceil(8);
    put_unsigned(out, (groups as u64) << 1 | 1);
    for group in levels.chunks(8) {
        let packed = group.iter().rev().fold(0u16, |bits, level| bits << width | u16::from(*level));
        out.extend_from_slice(&packed.to_le_bytes()[..width as usize]);
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends `count` levels that are all `level`.
pub fn encode_same(level: u8, count: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if count > 0 {
        put_unsigned(out, (count as u64) << 1);
        out.push(level);
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The levels of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// All are this one.
    Same(u8),
    /// They stand in the buffer that was handed in.
    Mixed,
}

/// Reads `count` levels with their length prefix from the start of `page`, and cuts them off it. Mixed ones
/// are left in `out`, one per byte.
///
/// # Errors
/// `Malformed` when the bytes do not hold exactly `count` levels of at most `max`.
pub fn decode(
    page: &mut &[u8],
    count: usize,
    width: u32,
    max: u8,
    out: &mut Vec<u8>,
) -> Result<Levels, ObjectError> {
    let broken = || ObjectError::Malformed("levels");
    let (length, rest) = page.split_first_chunk::<4>().ok_or_else(broken)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (mut bytes, rest) = rest.split_at_checked(length).ok_or_else(broken)?;
    *page = rest;
    out.clear();
    while out.len() < count {
        let header = take_unsigned(&mut bytes).ok_or_else(broken)?;
        let left = count - out.len();
        if header & 1 == 0 {
            let run = usize::try_from(header >> 1).map_err(|_| broken())?;
            let (&level, after) = bytes.split_first().ok_or_else(broken)?;
            bytes = after;
            if run == 0 || run > left || level > max {
                return Err(broken());
            }
            if run == count {
                return finish(bytes, Levels::Same(level));
            }
            out.resize(out.len() + run, level);
        } else {
            let groups = usize::try_from(header >> 1).map_err(|_| broken())?;
            if groups == 0 || groups > left.div_ceil(8) {
                return Err(broken());
            }
            let (packed, after) = bytes.split_at_checked(groups * width as usize).ok_or_else(broken)?;
            bytes = after;
            unpack(packed, width, left.min(groups * 8), out);
        }
    }
    if out.iter().any(|level| *level > max) {
        return Err(broken());
    }
    finish(bytes, if count == 0 { Levels::Same(0) } else { Levels::Mixed })
}

fn finish(rest: &[u8], levels: Levels) -> Result<Levels, ObjectError> {
    if rest.is_empty() { Ok(levels) } else { Err(ObjectError::Malformed("levels")) }
}

fn unpack(packed: &[u8], width: u32, count: usize, out: &mut Vec<u8>) {
    let mask = (1u16 << width) - 1;
    let end = out.len() + count;
    for group in packed.chunks(width as usize) {
        let mut bits = group.iter().rev().fold(0u16, |bits, byte| bits << 8 | u16::from(*byte));
        for _ in 0..8.min(end - out.len()) {
            out.push((bits & mask) as u8);
            bits >>= width;
        }
    }
}

fn take_unsigned(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(levels: &[u8], width: u32, max: u8) {
        let mut bytes = Vec::new();
        encode(levels, width, &mut bytes);
        bytes.extend_from_slice(b"rest");
        let mut page = &bytes[..];
        let mut out = Vec::new();
        let read = decode(&mut page, levels.len(), width, max, &mut out).expect("reads back");
        assert_eq!(page, b"rest");
        match read {
            Levels::Same(level) => assert!(levels.iter().all(|l| *l == level)),
            Levels::Mixed => assert_eq!(out, levels),
        }
    }

    proptest! {
        #[test]
        fn any_levels_read_back(levels in prop::collection::vec(0u8..=2, 0..200)) {
            round_trip(&levels, 2, 2);
            let narrow: Vec<u8> = levels.iter().map(|l| l & 1).collect();
            round_trip(&narrow, 1, 1);
        }

        #[test]
        fn any_bytes_are_refused_or_read(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            count in 0usize..500,
        ) {
            let mut page = &bytes[..];
            let mut out = Vec::new();
            if let Ok(Levels::Mixed) = decode(&mut page, count, 2, 2, &mut out) {
                prop_assert_eq!(out.len(), count);
            }
        }
    }
}
