//! Reading the records of a batch once they are decompressed: a cursor that borrows, never allocates and
//! never copies.
//!
//! Owns the byte layout of a record and its varints. Every length is checked against the record, every record
//! against the section, before use; a record that `Records::next` has returned is whole, its headers
//! included, so walking those cannot fail. Must not judge what a record says: that is `validate`.

use crate::batch::BatchError;

/// The smallest record: length, attributes, two deltas, two lengths and a header count of one byte each.
pub const RECORD_BYTES_MIN: usize = 7;

/// One record as it lies in its batch. Offsets and timestamps are relative to the batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    pub offset_delta: i32,
    /// Milliseconds; see `BatchHeader::record_timestamp`.
    pub timestamp_delta: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone, not an empty value.
    pub value: Option<&'a [u8]>,
    pub headers: HeadersRef<'a>,
}

/// The headers of one record, known to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeadersRef<'a> {
    bytes: &'a [u8],
    count: u32,
}

/// One header. Keys are strings by Kafka's rules but kept as bytes: what is not UTF-8 survives, and keys may
/// repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

impl<'a> HeadersRef<'a> {
    #[inline]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers as encoded, without their count: to be copied into another record as they are.
    #[inline]
    pub fn encoded(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub fn iter(&self) -> Headers<'a> {
        Headers { rest: self.bytes, left: self.count }
    }
}

impl<'a> IntoIterator for HeadersRef<'a> {
    type Item = HeaderRef<'a>;
    type IntoIter = Headers<'a>;

    fn into_iter(self) -> Headers<'a> {
        self.iter()
    }
}

/// Iterator over the headers of one record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeaderRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let header = read_header(&mut self.rest);
        debug_assert!(header.is_ok(), "headers were walked when their record was read");
        header.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

/// Cursor over a decompressed records section.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    index: i32,
    count: i32,
}

impl<'a> Records<'a> {
    /// A cursor over `bytes`, which the batch's header claims to hold `count` records. Allocates nothing for
    /// `count`.
    #[inline]
    pub fn new(bytes: &'a [u8], count: i32) -> Records<'a> {
        Records { rest: bytes, index: 0, count }
    }

    /// The next record, or `None` after the last.
    ///
    /// # Errors
    /// `BatchError::Record` when the record does not parse, or when bytes follow the last one. The cursor
    /// must not be used after an error.
    #[inline]
    #[allow(clippy::should_implement_trait)] // not an iterator: the error ends it, and callers must see that
    pub fn next(&mut self) -> Result<Option<RecordRef<'a>>, BatchError> {
        if self.index >= self.count {
            if !self.rest.is_empty() {
                return Err(self.broken("bytes after the last record"));
            }
            return Ok(None);
        }
        let (record, after) = match usual_record(self.rest) {
            Some(found) => found,
            None => unusual_record(self.rest).map_err(|what| self.broken(what))?,
        };
        self.rest = after;
        self.index += 1;
        Ok(Some(record))
    }

    /// Bytes not yet read.
    #[inline]
    pub fn remaining_bytes(&self) -> usize {
        self.rest.len()
    }

    #[cold]
    fn broken(&self, what: &'static str) -> BatchError {
        BatchError::Record { index: self.index, what }
    }
}

type Parsed<T> = Result<T, &'static str>;

const CUT_SHORT: &str = "cut short";
const VARINT_TOO_LONG: &str = "varint too long";

/// A record as nearly all are: without headers, its varints of 3 bytes or less. `None` for any other and for
/// one that is not sound; then `unusual_record` has the word.
#[inline(always)]
fn usual_record(bytes: &[u8]) -> Option<(RecordRef<'_>, &[u8])> {
    let word = word_at(bytes, 0)?;
    let (length, at) = short_varint(word)?;
    let (record, after) = bytes.split_at_checked(at + (length >> 1) as usize)?;
    let (timestamp_delta, n) = short_varint(word >> 8 >> (8 * at))?;
    let at = at + 1 + n;
    let word = word_at(bytes, at)?;
    let (offset_delta, n) = short_varint(word)?;
    let (key_length, m) = short_varint(word >> (8 * n))?;
    let (key, at) = short_field(record, at + n + m, key_length)?;
    let (value_length, n) = short_varint(word_at(bytes, at)?)?;
    let (value, at) = short_field(record, at + n, value_length)?;
    if record.len() != at + 1 || record[at] != 0 || length & 1 != 0 {
        return None;
    }
    let (offset_delta, timestamp_delta) = (unzigzag(offset_delta), i64::from(unzigzag(timestamp_delta)));
    Some((RecordRef { offset_delta, timestamp_delta, key, value, headers: HeadersRef::default() }, after))
}

#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An unsigned varint of up to 3 bytes at the low end of `word`, and its length.
#[inline(always)]
fn short_varint(word: u64) -> Option<(u32, usize)> {
    let word = word as u32;
    if word & 0x80 == 0 {
        Some((word & 0x7f, 1))
    } else if word & 0x8000 == 0 {
        Some((word & 0x7f | word >> 1 & 0x3f80, 2))
    } else if word & 0x80_0000 == 0 {
        Some((word & 0x7f | word >> 1 & 0x3f80 | word >> 2 & 0x1f_c000, 3))
    } else {
        None
    }
}

#[inline(always)]
fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[inline(always)]
fn short_field(record: &[u8], at: usize, length: u32) -> Option<(Option<&[u8]>, usize)> {
    if length & 1 != 0 {
        return (length == 1).then_some((None, at));
    }
    let end = at + (length >> 1) as usize;
    Some((Some(record.get(at..end)?), end))
}

/// Any record, and what follows it.
#[inline(never)]
fn unusual_record(mut rest: &[u8]) -> Parsed<(RecordRef<'_>, &[u8])> {
    let length = usize::try_from(varint(&mut rest)?).map_err(|_| "negative length")?;
    let mut body = take(&mut rest, length)?;
    let (_attributes, after) = body.split_first().ok_or(CUT_SHORT)?;
    body = after;
    let timestamp_delta = varlong(&mut body)?;
    let offset_delta = varint(&mut body)?;
    let key = nullable(&mut body)?;
    let value = nullable(&mut body)?;
    let headers = read_headers(body)?;
    Ok((RecordRef { offset_delta, timestamp_delta, key, value, headers }, rest))
}

/// The rest of a record: a count and that many headers, nothing after them.
#[inline(always)]
fn read_headers(mut body: &[u8]) -> Parsed<HeadersRef<'_>> {
    let count = u32::try_from(varint(&mut body)?).map_err(|_| "negative header count")?;
    if count == 0 {
        return match body {
            [] => Ok(HeadersRef::default()),
            _ => Err("longer than its fields"),
        };
    }
    let headers = HeadersRef { bytes: body, count };
    walk_headers(body, count)?;
    Ok(headers)
}

#[inline(never)]
fn walk_headers(mut body: &[u8], count: u32) -> Parsed<()> {
    // A header has a byte of length for its key and one for its value, so the count cannot outrun the bytes
    // for long.
    for _ in 0..count {
        read_header(&mut body)?;
    }
    match body {
        [] => Ok(()),
        _ => Err("longer than its fields"),
    }
}

#[inline]
fn read_header<'a>(rest: &mut &'a [u8]) -> Parsed<HeaderRef<'a>> {
    let key = nullable(rest)?.ok_or("null header key")?;
    let value = nullable(rest)?;
    Ok(HeaderRef { key, value })
}

/// A length and that many bytes; -1 is null.
#[inline(always)]
fn nullable<'a>(rest: &mut &'a [u8]) -> Parsed<Option<&'a [u8]>> {
    match varint(rest)? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| "negative length")?;
            take(rest, length).map(Some)
        }
    }
}

#[inline(always)]
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Parsed<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count).ok_or(CUT_SHORT)?;
    *rest = after;
    Ok(taken)
}

/// A zigzag varint of 32 bits, at most 5 bytes.
///
/// # Errors
/// What is wrong, when the bytes end within it or it holds more than 32 bits.
#[inline(always)]
pub fn varint(rest: &mut &[u8]) -> Result<i32, &'static str> {
    let value = match *rest {
        [a, after @ ..] if *a < 0x80 => {
            *rest = after;
            u32::from(*a)
        }
        [a, b, after @ ..] if *b < 0x80 => {
            *rest = after;
            u32::from(*a & 0x7f) | u32::from(*b) << 7
        }
        _ => u32::try_from(long_unsigned(rest, 5)?).map_err(|_| VARINT_TOO_LONG)?,
    };
    Ok((value >> 1) as i32 ^ -((value & 1) as i32))
}

/// A zigzag varint of 64 bits, at most 10 bytes.
///
/// # Errors
/// As `varint`.
#[inline(always)]
pub fn varlong(rest: &mut &[u8]) -> Result<i64, &'static str> {
    let value = match *rest {
        [a, after @ ..] if *a < 0x80 => {
            *rest = after;
            u64::from(*a)
        }
        _ => long_unsigned(rest, 10)?,
    };
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// An unsigned varint of at most `bytes_max` bytes and 64 bits.
#[inline(never)]
fn long_unsigned(rest: &mut &[u8], bytes_max: usize) -> Parsed<u64> {
    debug_assert!(bytes_max <= 10, "64 bits take at most 10 bytes");
    let mut value = 0u64;
    for (at, &byte) in rest.iter().take(bytes_max).enumerate() {
        if at == 9 && byte > 1 {
            return Err(VARINT_TOO_LONG);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() >= bytes_max { VARINT_TOO_LONG } else { CUT_SHORT })
}

/// Appends a zigzag varint of 64 bits; a 32-bit value encodes the same either way.
#[inline]
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// Bytes that `put_varlong` appends.
#[inline]
pub fn varlong_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (zigzag | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
mod tests;
