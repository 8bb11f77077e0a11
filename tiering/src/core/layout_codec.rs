//! The row-group table as bytes: format version, then LEB128 varints (see "Tier object" in `docs/format.md`).
//!
//! Owns that layout and its version. Must not allocate by a claimed count: a count is first held against the
//! bytes that are left. The bytes are checksummed by the footer (invariant 19), versioned (invariant 18), and
//! what comes out is checked by `ObjectIndex::check` before use.

use highwater_model::Offset;
use highwater_model::limits::OBJECT_EXCEPTIONS_INLINE_BYTES_MAX;

use super::layout::{COLUMNS, Exceptions, FILE_MAGIC_BYTES, RowGroupInfo, StripeInfo};

/// First byte of the table.
pub const TABLE_VERSION: u8 = 1;
/// A stripe takes at least this many bytes: one per field.
const STRIPE_BYTES_MIN: usize = 8 + COLUMNS;
/// A row group takes at least its stripe count, its trailing gap and one stripe.
const ROW_GROUP_BYTES_MIN: usize = 2 + STRIPE_BYTES_MIN;

const HAS_KEYS: u8 = 1;
const HAS_HEADERS: u8 = 1 << 1;
const EXCEPTIONS_INLINE: u8 = 1 << 2;
const EXCEPTIONS_TAIL: u8 = 1 << 3;

/// Why the table's bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error("row-group table of version {0} is unknown")]
    Version(u8),
    #[error("row-group table: {0}")]
    Malformed(&'static str),
}

/// Appends `value` as a LEB128 varint: 1 to 10 bytes.
pub fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` in zigzag: small magnitudes are short.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// A bounded reader of varints.
pub struct Varints<'a> {
    rest: &'a [u8],
}

impl<'a> Varints<'a> {
    pub fn new(bytes: &'a [u8]) -> Varints<'a> {
        Varints { rest: bytes }
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    pub fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn signed(&mut self) -> Option<i64> {
        let raw = self.unsigned()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.unsigned()?).ok()
    }
}

/// The table of an object that starts at `start`.
pub fn encode_table(row_groups: &[RowGroupInfo], start: Offset) -> Vec<u8> {
    let mut out = vec![TABLE_VERSION];
    put_unsigned(&mut out, row_groups.len() as u64);
    let mut offset = start;
    for group in row_groups {
        assert_eq!(group.start_offset, offset, "row groups are contiguous");
        put_unsigned(&mut out, group.stripes.len() as u64);
        for stripe in &group.stripes {
            assert_eq!(stripe.start, offset, "stripes are contiguous");
            encode_stripe(stripe, &mut out);
            offset = stripe.end;
        }
        assert!(group.end_offset >= offset, "a row group holds its stripes");
        put_unsigned(&mut out, (group.end_offset - offset) as u64);
        offset = group.end_offset;
    }
    debug_assert!(out.len() >= 2, "version and count");
    out
}

fn encode_stripe(stripe: &StripeInfo, out: &mut Vec<u8>) {
    assert!(stripe.first >= stripe.start && stripe.end > stripe.first, "a stripe holds records");
    let mut flags = 0;
    if stripe.has_keys {
        flags |= HAS_KEYS;
    }
    if stripe.has_headers {
        flags |= HAS_HEADERS;
    }
    match stripe.exceptions {
        Exceptions::None => {}
        Exceptions::Inline(_) => flags |= EXCEPTIONS_INLINE,
        Exceptions::Tail { .. } => flags |= EXCEPTIONS_TAIL,
    }
    out.push(flags);
    put_unsigned(out, (stripe.first - stripe.start) as u64);
    put_unsigned(out, (stripe.end - stripe.first) as u64);
    put_unsigned(out, u64::from(stripe.rows));
    put_unsigned(out, stripe.records_bytes);
    put_signed(out, stripe.min_timestamp);
    put_signed(out, stripe.max_timestamp);
    put_unsigned(out, u64::from(stripe.header_levels));
    for bytes in stripe.page_bytes {
        put_unsigned(out, u64::from(bytes));
    }
    match &stripe.exceptions {
        Exceptions::None => {}
        Exceptions::Inline(runs) => {
            assert!(runs.len() <= OBJECT_EXCEPTIONS_INLINE_BYTES_MAX, "long runs go to the tail");
            put_unsigned(out, runs.len() as u64);
            out.extend_from_slice(runs);
        }
        Exceptions::Tail { length, crc32c } => {
            put_unsigned(out, u64::from(*length));
            out.extend_from_slice(&crc32c.to_le_bytes());
        }
    }
}

/// Reads the table of an object that starts at `start`. The caller has checked the bytes' checksum.
///
/// # Errors
/// An unknown version, a value cut short or out of range, or bytes left over.
pub fn decode_table(bytes: &[u8], start: Offset) -> Result<Vec<RowGroupInfo>, TableError> {
    let mut varints = Varints::new(bytes);
    match varints.byte() {
        Some(TABLE_VERSION) => {}
        Some(other) => return Err(TableError::Version(other)),
        None => return Err(TableError::Malformed("empty")),
    }
    let cut = || TableError::Malformed("cut short");
    let groups = count(&mut varints, ROW_GROUP_BYTES_MIN)?;
    let mut row_groups = Vec::with_capacity(groups);
    let mut offset = start;
    let mut position = FILE_MAGIC_BYTES;
    for _ in 0..groups {
        let stripes_claimed = count(&mut varints, STRIPE_BYTES_MIN)?;
        if stripes_claimed == 0 {
            return Err(TableError::Malformed("row group without stripes"));
        }
        let mut stripes = Vec::with_capacity(stripes_claimed);
        for _ in 0..stripes_claimed {
            let stripe = decode_stripe(&mut varints, offset)?;
            offset = stripe.end;
            stripes.push(stripe);
        }
        check_sums(&stripes)?;
        let mut group = RowGroupInfo::from_stripes(position, stripes);
        let gap = varints.unsigned().and_then(|gap| i64::try_from(gap).ok()).ok_or_else(cut)?;
        offset = offset.checked_add(gap).ok_or(TableError::Malformed("offset range"))?;
        group.end_offset = offset;
        position = position.checked_add(group.length).ok_or(TableError::Malformed("byte range"))?;
        row_groups.push(group);
    }
    debug_assert_eq!(row_groups.len(), groups, "all were read");
    match varints.remaining() {
        0 => Ok(row_groups),
        _ => Err(TableError::Malformed("bytes left over")),
    }
}

/// A count whose items take at least `bytes_min` each of what is left.
fn count(varints: &mut Varints<'_>, bytes_min: usize) -> Result<usize, TableError> {
    debug_assert!(bytes_min > 0, "an item takes bytes");
    let claimed = varints.unsigned().ok_or(TableError::Malformed("cut short"))?;
    match usize::try_from(claimed) {
        Ok(count) if count <= varints.remaining() / bytes_min => Ok(count),
        _ => Err(TableError::Malformed("count exceeds the bytes")),
    }
}

/// Keeps `RowGroupInfo::from_stripes` from overflowing.
fn check_sums(stripes: &[StripeInfo]) -> Result<(), TableError> {
    let sum = stripes.iter().try_fold(0u64, |sum, s| sum.checked_add(s.records_bytes));
    match sum {
        Some(_) => Ok(()),
        None => Err(TableError::Malformed("record bytes")),
    }
}

fn decode_stripe(varints: &mut Varints<'_>, start: Offset) -> Result<StripeInfo, TableError> {
    let cut = || TableError::Malformed("cut short");
    let range = || TableError::Malformed("offset range");
    let flags = varints.byte().ok_or_else(cut)?;
    if flags & !(HAS_KEYS | HAS_HEADERS | EXCEPTIONS_INLINE | EXCEPTIONS_TAIL) != 0 {
        return Err(TableError::Malformed("unknown flag"));
    }
    let gap = varints.unsigned().and_then(|gap| i64::try_from(gap).ok()).ok_or_else(cut)?;
    let span = varints.unsigned().and_then(|span| i64::try_from(span).ok()).ok_or_else(cut)?;
    let first = start.checked_add(gap).ok_or_else(range)?;
    let end = first.checked_add(span).ok_or_else(range)?;
    let rows = varints.u32().ok_or_else(cut)?;
    let records_bytes = varints.unsigned().ok_or_else(cut)?;
    let min_timestamp = varints.signed().ok_or_else(cut)?;
    let max_timestamp = varints.signed().ok_or_else(cut)?;
    let header_levels = varints.u32().ok_or_else(cut)?;
    let mut page_bytes = [0; COLUMNS];
    for bytes in &mut page_bytes {
        *bytes = varints.u32().ok_or_else(cut)?;
    }
    let exceptions = match (flags & EXCEPTIONS_INLINE != 0, flags & EXCEPTIONS_TAIL != 0) {
        (false, false) => Exceptions::None,
        (true, false) => {
            let length = varints.u32().ok_or_else(cut)? as usize;
            if length > OBJECT_EXCEPTIONS_INLINE_BYTES_MAX {
                return Err(TableError::Malformed("inline exceptions too long"));
            }
            Exceptions::Inline(varints.bytes(length).ok_or_else(cut)?.into())
        }
        (false, true) => {
            let length = varints.u32().ok_or_else(cut)?;
            let crc = varints.bytes(4).and_then(|b| b.first_chunk()).ok_or_else(cut)?;
            Exceptions::Tail { length, crc32c: u32::from_le_bytes(*crc) }
        }
        (true, true) => return Err(TableError::Malformed("exceptions in two places")),
    };
    Ok(StripeInfo {
        start,
        first,
        end,
        rows,
        records_bytes,
        min_timestamp,
        max_timestamp,
        header_levels,
        has_keys: flags & HAS_KEYS != 0,
        has_headers: flags & HAS_HEADERS != 0,
        exceptions,
        page_bytes,
    })
}

#[cfg(test)]
#[path = "layout_codec/tests.rs"]
mod tests;
