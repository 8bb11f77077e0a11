//! Kafka's primitive encodings as the records of internal topics use them: bounded reading, plain writing.
//! A reader never allocates for more elements than bytes are left, and never panics.

use bytes::{Buf, BufMut, Bytes};
use highwater_model::limits::{GROUP_RECORD_TAG_BYTES_MAX, TAGGED_FIELDS_MAX};
use thiserror::Error;
use uuid::Uuid;

use super::types::Name;

/// Why stored bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    #[error("the record ends early")]
    Short,
    #[error("a length or count is not possible")]
    Length,
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("version {0} is not known")]
    Version(i16),
    #[error("bytes are left over")]
    Trailing,
    #[error("a null where none may be")]
    Null,
}

/// Reads one key or value from its start.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { left: bytes }
    }

    fn need(&self, bytes: usize) -> Result<(), Damage> {
        if self.left.len() < bytes { Err(Damage::Short) } else { Ok(()) }
    }

    pub fn int8(&mut self) -> Result<i8, Damage> {
        self.need(1)?;
        Ok(self.left.get_i8())
    }

    pub fn int16(&mut self) -> Result<i16, Damage> {
        self.need(2)?;
        Ok(self.left.get_i16())
    }

    pub fn int32(&mut self) -> Result<i32, Damage> {
        self.need(4)?;
        Ok(self.left.get_i32())
    }

    pub fn int64(&mut self) -> Result<i64, Damage> {
        self.need(8)?;
        Ok(self.left.get_i64())
    }

    pub fn uuid(&mut self) -> Result<Uuid, Damage> {
        let taken = self.take(16)?;
        Uuid::from_slice(taken).map_err(|_| Damage::Short)
    }

    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Damage> {
        self.need(bytes)?;
        let (taken, left) = self.left.split_at(bytes);
        self.left = left;
        debug_assert_eq!(taken.len(), bytes, "a part of another length");
        Ok(taken)
    }

    /// An unsigned varint of at most 32 bits.
    pub fn varint(&mut self) -> Result<u32, Damage> {
        let mut value: u64 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.int8()? as u8;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Damage::Length);
            }
        }
        Err(Damage::Length)
    }

    /// A length of the old kind (i16 or i32); -1 is none.
    fn old_length(&mut self, wide: bool) -> Result<Option<usize>, Damage> {
        let length = if wide { self.int32()? } else { i32::from(self.int16()?) };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Damage::Length),
        }
    }

    /// A length of the compact kind: one more than it is, 0 is none.
    fn compact_length(&mut self) -> Result<Option<usize>, Damage> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    fn text(&mut self, length: Option<usize>) -> Result<Option<Name>, Damage> {
        let Some(length) = length else { return Ok(None) };
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(|s| Some(Name::from(s))).map_err(|_| Damage::Utf8)
    }

    pub fn nullable_string(&mut self) -> Result<Option<Name>, Damage> {
        let length = self.old_length(false)?;
        self.text(length)
    }

    pub fn string(&mut self) -> Result<Name, Damage> {
        self.nullable_string()?.ok_or(Damage::Null)
    }

    pub fn nullable_compact_string(&mut self) -> Result<Option<Name>, Damage> {
        let length = self.compact_length()?;
        self.text(length)
    }

    pub fn compact_string(&mut self) -> Result<Name, Damage> {
        self.nullable_compact_string()?.ok_or(Damage::Null)
    }

    /// Bytes with an i32 length; none is empty.
    pub fn bytes(&mut self) -> Result<Bytes, Damage> {
        let length = self.old_length(true)?.unwrap_or(0);
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    pub fn compact_bytes(&mut self) -> Result<Bytes, Damage> {
        let length = self.compact_length()?.ok_or(Damage::Null)?;
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// The count of an array with an i32 length; every element has a byte at least.
    pub fn count(&mut self) -> Result<usize, Damage> {
        let count = self.old_length(true)?.unwrap_or(0);
        if count > self.left.len() { Err(Damage::Length) } else { Ok(count) }
    }

    /// The count of a compact array; none counts as empty.
    pub fn compact_count(&mut self) -> Result<usize, Damage> {
        let count = self.compact_length()?.unwrap_or(0);
        if count > self.left.len() { Err(Damage::Length) } else { Ok(count) }
    }

    /// The tagged fields at the end of a structure; each is handed to `field` with a reader of its own.
    /// What `field` does not know it leaves alone.
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let count = self.varint()? as usize;
        if count > TAGGED_FIELDS_MAX {
            return Err(Damage::Length);
        }
        for _ in 0..count {
            let (tag, length) = (self.varint()?, self.varint()? as usize);
            if length > GROUP_RECORD_TAG_BYTES_MAX {
                return Err(Damage::Length);
            }
            field(tag, &mut Reader::new(self.take(length)?))?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub fn skip_tags(&mut self) -> Result<(), Damage> {
        self.tags(|_, _| Ok(()))
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Damage> {
        if self.left.is_empty() { Ok(()) } else { Err(Damage::Trailing) }
    }
}

/// Room for most keys and values: growing to it step by step was a sixth of the broker's CPU for large
/// commits.
const BYTES_EXPECTED: usize = 128;

/// Writes one key or value.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Every key and value begins with its version (in keys the version is the kind of record).
    pub fn new(version: i16) -> Self {
        Writer::with_room(version, BYTES_EXPECTED)
    }

    /// As `new`, where it is known how many bytes will follow the version: what is as long as its room needs
    /// no second allocation when it is done.
    pub fn with_room(version: i16, bytes: usize) -> Self {
        let mut writer = Writer { bytes: Vec::with_capacity(2 + bytes) };
        writer.int16(version);
        writer
    }

    pub fn int8(&mut self, value: i8) {
        self.bytes.put_i8(value);
    }

    pub fn int16(&mut self, value: i16) {
        self.bytes.put_i16(value);
    }

    pub fn int32(&mut self, value: i32) {
        self.bytes.put_i32(value);
    }

    pub fn int64(&mut self, value: i64) {
        self.bytes.put_i64(value);
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.bytes.put_slice(value.as_bytes());
    }

    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.put_slice(value);
    }

    pub fn varint(&mut self, mut value: u32) {
        let before = self.bytes.len();
        while value >= 0x80 {
            self.bytes.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
        debug_assert!((1..=5).contains(&(self.bytes.len() - before)), "a varint of 32 bits");
    }

    pub fn string(&mut self, value: &str) {
        let length = i16::try_from(value.len()).expect("names are at most 32 KiB, checked on entry");
        self.int16(length);
        self.raw(value.as_bytes());
    }

    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None => self.int16(-1),
        }
    }

    fn compact_length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("records are far below 4 GiB");
        self.varint(length + 1);
    }

    pub fn compact_string(&mut self, value: &str) {
        self.compact_length(value.len());
        self.raw(value.as_bytes());
    }

    pub fn nullable_compact_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.compact_string(value),
            None => self.varint(0),
        }
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.raw(value);
    }

    pub fn compact_bytes(&mut self, value: &[u8]) {
        self.compact_length(value.len());
        self.raw(value);
    }

    pub fn count(&mut self, count: usize) {
        self.int32(i32::try_from(count).expect("records are far below 2 GiB"));
    }

    pub fn compact_count(&mut self, count: usize) {
        self.compact_length(count);
    }

    /// A structure without tagged fields.
    pub fn no_tags(&mut self) {
        self.varint(0);
    }

    /// A structure with one tagged field.
    pub fn one_tag(&mut self, tag: u32, value: &[u8]) {
        debug_assert!(!value.is_empty(), "a tagged field that says nothing is left out");
        self.varint(1);
        self.varint(tag);
        self.varint(u32::try_from(value.len()).expect("records are far below 4 GiB"));
        self.raw(value);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}
