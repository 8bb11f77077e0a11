//! The little of Thrift's compact protocol that the hot paths need: page headers both ways, and finding the
//! key-values of a file's footer without decoding the rest.
//!
//! Everything else of Parquet's metadata is written by the `parquet` crate (see `footer`). Must not allocate
//! by a claimed count: every length is held against the bytes left first, nesting is bounded (invariants 16,
//! 19). Reference: `parquet.thrift` and the Thrift compact protocol's specification.

use highwater_model::limits::OBJECT_THRIFT_DEPTH_MAX;

const STOP: u8 = 0;
const BOOL_TRUE: u8 = 1;
const BOOL_FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Parquet's ids of the encodings used here.
pub const ENCODING_RLE: i32 = 3;
/// DELTA_BINARY_PACKED.
pub const ENCODING_DELTA: i32 = 5;
/// DELTA_LENGTH_BYTE_ARRAY.
pub const ENCODING_DELTA_LENGTH: i32 = 6;

const PAGE_TYPE_DATA: i32 = 0;

/// A data page (version 1) as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    pub uncompressed_bytes: i32,
    pub compressed_bytes: i32,
    /// CRC-32 (IEEE) of the compressed bytes.
    pub crc32: u32,
    /// Level pairs: rows, nulls included; in header columns one per header and per row without any.
    pub values: i32,
    pub encoding: i32,
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

struct HeaderWriter {
    bytes: [u8; PageHeader::BYTES_MAX],
    length: usize,
}

impl HeaderWriter {
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// An i32 field whose id is one more than the field before it.
    fn next_i32(&mut self, value: i32) {
        self.byte(1 << 4 | I32);
        let mut rest = zigzag(value);
        while rest >= 0x80 {
            self.byte(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.byte(rest as u8);
    }
}

impl PageHeader {
    /// No header is longer: 8 fields of at most 6 bytes, two stops and a structure.
    pub const BYTES_MAX: usize = 8 * 6 + 3;

    /// Appends the header in the one form that this program writes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let writer = self.encode();
        out.extend_from_slice(&writer.bytes[..writer.length]);
    }

    fn encode(&self) -> HeaderWriter {
        let mut writer = HeaderWriter { bytes: [0; Self::BYTES_MAX], length: 0 };
        writer.next_i32(PAGE_TYPE_DATA);
        writer.next_i32(self.uncompressed_bytes);
        writer.next_i32(self.compressed_bytes);
        writer.next_i32(self.crc32 as i32);
        writer.byte(1 << 4 | STRUCT);
        writer.next_i32(self.values);
        writer.next_i32(self.encoding);
        writer.next_i32(ENCODING_RLE);
        writer.next_i32(ENCODING_RLE);
        writer.byte(STOP);
        writer.byte(STOP);
        writer
    }

    /// Reads a header from the start of `bytes`; returns it and its length. Only the exact form that `write`
    /// gives is accepted, so that no flipped bit of it can pass.
    pub fn read(bytes: &[u8]) -> Option<(PageHeader, usize)> {
        let mut input = Compact::new(bytes);
        let page_type = input.next_i32()?;
        let uncompressed_bytes = input.next_i32()?;
        let compressed_bytes = input.next_i32()?;
        let crc32 = input.next_i32()? as u32;
        if page_type != PAGE_TYPE_DATA || input.byte()? != (1 << 4 | STRUCT) {
            return None;
        }
        let values = input.next_i32()?;
        let encoding = input.next_i32()?;
        let header = PageHeader { uncompressed_bytes, compressed_bytes, crc32, values, encoding };
        let expected = header.encode();
        let expected = &expected.bytes[..expected.length];
        (bytes.get(..expected.len()) == Some(expected)).then_some((header, expected.len()))
    }
}

/// A bounded reader of the compact protocol.
struct Compact<'a> {
    rest: &'a [u8],
}

impl<'a> Compact<'a> {
    fn new(bytes: &'a [u8]) -> Compact<'a> {
        Compact { rest: bytes }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn next_i32(&mut self) -> Option<i32> {
        if self.byte()? != (1 << 4 | I32) {
            return None;
        }
        i32::try_from(self.signed()?).ok()
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// The next field's id and type, or `Some(None)` at the end of the structure.
    fn field(&mut self, last: &mut i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        if byte == STOP {
            return Some(None);
        }
        let id = match byte >> 4 {
            0 => self.signed()?,
            delta => last.checked_add(i64::from(delta))?,
        };
        *last = id;
        Some(Some((id, byte & 0x0f)))
    }

    /// Element type and count of a list; each element takes at least a byte.
    fn list(&mut self) -> Option<(u8, usize)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            short => usize::from(short),
        };
        (count <= self.rest.len()).then_some((byte & 0x0f, count))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        if depth == 0 {
            return None;
        }
        match kind {
            BOOL_TRUE | BOOL_FALSE => {}
            BYTE => {
                self.byte()?;
            }
            I16 | I32 | I64 => {
                self.varint()?;
            }
            DOUBLE => {
                let (_, rest) = self.rest.split_at_checked(8)?;
                self.rest = rest;
            }
            BINARY => {
                self.binary()?;
            }
            LIST | SET => {
                let (element, count) = self.list()?;
                for _ in 0..count {
                    self.skip_element(element, depth - 1)?;
                }
            }
            MAP => return None, // no Parquet footer has one
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth - 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// As `skip`, but a boolean in a list takes a byte.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            BOOL_TRUE | BOOL_FALSE => self.byte().map(|_| ()),
            other => self.skip(other, depth),
        }
    }
}

/// What is wanted of a footer.
#[derive(Debug, Default)]
pub struct Footer<'a> {
    pub rows: i64,
    /// Keys and values in the file's order.
    pub key_values: Vec<(&'a [u8], &'a [u8])>,
}

const FOOTER_ROWS: i64 = 3;
const FOOTER_KEY_VALUES: i64 = 5;

/// Walks a Parquet `FileMetaData` and returns its row count and key-values; the rest is skipped.
pub fn read_footer(bytes: &[u8]) -> Option<Footer<'_>> {
    let mut input = Compact::new(bytes);
    let mut footer = Footer { rows: -1, key_values: Vec::new() };
    let mut last = 0;
    while let Some((id, kind)) = input.field(&mut last)? {
        match (id, kind) {
            (FOOTER_ROWS, I64) => footer.rows = input.signed()?,
            (FOOTER_KEY_VALUES, LIST) => {
                let (element, count) = input.list()?;
                if element != STRUCT {
                    return None;
                }
                for _ in 0..count {
                    footer.key_values.push(read_key_value(&mut input)?);
                }
            }
            _ => input.skip(kind, OBJECT_THRIFT_DEPTH_MAX)?,
        }
    }
    input.rest.is_empty().then_some(footer)
}

fn read_key_value<'a>(input: &mut Compact<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let (mut key, mut value, mut last) = (None, None, 0);
    while let Some((id, kind)) = input.field(&mut last)? {
        match (id, kind) {
            (1, BINARY) => key = Some(input.binary()?),
            (2, BINARY) => value = Some(input.binary()?),
            _ => input.skip(kind, OBJECT_THRIFT_DEPTH_MAX)?,
        }
    }
    Some((key?, value.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: PageHeader = PageHeader {
        uncompressed_bytes: 1_048_576,
        compressed_bytes: 204_800,
        crc32: 0xdead_beef,
        values: 1000,
        encoding: ENCODING_DELTA_LENGTH,
    };

    #[test]
    fn page_header_reads_back_and_no_flipped_bit_passes() {
        let mut bytes = Vec::new();
        HEADER.write(&mut bytes);
        bytes.extend_from_slice(b"page");
        let (read, length) = PageHeader::read(&bytes).expect("reads");
        assert_eq!((read, length), (HEADER, bytes.len() - 4));
        for bit in 0..length * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(PageHeader::read(&flipped), Some((HEADER, length)), "bit {bit}");
        }
        for cut in 0..length {
            assert_eq!(PageHeader::read(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn longest_header_fits() {
        let header = PageHeader {
            uncompressed_bytes: i32::MIN,
            compressed_bytes: i32::MIN,
            crc32: 0x8000_0000,
            values: i32::MIN,
            encoding: i32::MIN,
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        assert!(bytes.len() <= PageHeader::BYTES_MAX);
        assert_eq!(PageHeader::read(&bytes), Some((header, bytes.len())));
    }

    #[test]
    fn a_list_that_claims_more_than_the_bytes_is_refused() {
        // Field 5, list of structs, 0x7fffffff of them.
        let bytes = [0x59, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0];
        assert!(read_footer(&bytes).is_none());
        // Nested lists deeper than any footer.
        let deep = [&[0x19][..], &[0x19; 64][..]].concat();
        assert!(read_footer(&deep).is_none());
    }
}
