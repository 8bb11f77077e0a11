//! The bounded check of a request's shape that stands before the generated decoders; of an answer's, for
//! those that the command line's client reads.
//!
//! `kafka-protocol` allocates whatever count the bytes claim, so untrusted bytes reach it only after this
//! walk: the body must begin with exactly the fields that `table` (for answers `answers`) lists for its key
//! and version, every length and count must fit the bytes that follow it, and null stands only where it may.
//! Bytes after the last field are nobody's business, as in Kafka: librdkafka (2.16 too) sends three of them
//! when it asks Metadata v9 and later for all topics. The walk allocates nothing, never goes back, and
//! recurses only as deep as the table. Every element of every array takes at least a byte, so a claimed count
//! runs out of bytes before it costs anything; the total of elements is bounded beside that (invariant 16),
//! because one byte on the wire can be a hundred in memory. What strings say is not checked here: the
//! decoders refuse what is not UTF-8.

mod answers;
mod group_answers;
mod groups;
mod table;
mod transactions;

use highwater_model::limits::{
    CLIENT_RESPONSE_ELEMENTS_MAX, REQUEST_ELEMENTS_MAX, TAGGED_FIELD_BYTES_MAX, TAGGED_FIELDS_MAX,
};

use crate::api;
use table::{Field, Kind};

/// What an unknown tagged field takes off the budget of elements: the decoders keep each in a map of
/// its own.
const UNKNOWN_TAG_ELEMENTS: usize = 16;
/// Longest string that the protocol can hold, in either encoding.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// Where and why a request or an answer is malformed; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} at byte {at}: {what}")]
pub struct ShapeError {
    pub field: &'static str,
    /// Position in the checked bytes where the error was found.
    pub at: usize,
    pub what: &'static str,
}

/// Checks the body of a request. Accepts what begins with the bytes of the shape that key and version have.
///
/// # Errors
/// The first departure from it. An API or version that is not served is one.
pub fn check(api_key: i16, version: i16, body: &[u8]) -> Result<(), ShapeError> {
    request_bytes(api_key, version, body).map(|_| ())
}

/// As [`check`]; answers how many bytes the request takes.
fn request_bytes(api_key: i16, version: i16, body: &[u8]) -> Result<usize, ShapeError> {
    let range = api::find(api_key).filter(|range| range.serves(version));
    let (Some(range), Some(fields)) = (range, table::request(api_key)) else {
        return Err(ShapeError { field: "request", at: 0, what: "not served" });
    };
    let mut walk = Walk::new(body, version, range.is_flexible(version));
    walk.structure(fields)?;
    Ok(walk.position())
}

/// Checks an answer that a broker has given, from behind its correlation id: the header's tagged fields,
/// where the version has them, and the body.
///
/// # Errors
/// The first departure from the shape. An answer that the command line's client never asks for is one.
pub fn check_answer(api_key: i16, version: i16, answer: &[u8]) -> Result<(), ShapeError> {
    answer_bytes(api_key, version, answer).map(|_| ())
}

/// As [`check_answer`]; answers how many bytes header and body take.
fn answer_bytes(api_key: i16, version: i16, answer: &[u8]) -> Result<usize, ShapeError> {
    let range = api::find(api_key).filter(|range| range.serves(version));
    let (Some(range), Some(fields)) = (range, answers::answer(api_key)) else {
        return Err(ShapeError { field: "answer", at: 0, what: "not one that is asked for" });
    };
    let mut walk = Walk::new(answer, version, range.is_flexible(version));
    walk.elements_left = CLIENT_RESPONSE_ELEMENTS_MAX;
    if api::response_header_version(api_key, version) >= 1 {
        walk.tagged_fields(&[])?;
    }
    walk.structure(fields)?;
    Ok(walk.position())
}

/// A position in a body, only ever moving on.
pub(crate) struct Walk<'a> {
    rest: &'a [u8],
    total: usize,
    version: i16,
    is_flexible: bool,
    elements_left: usize,
    /// The field being read, for errors.
    field: &'static str,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(body: &'a [u8], version: i16, is_flexible: bool) -> Walk<'a> {
        let total = body.len();
        Walk { rest: body, total, version, is_flexible, elements_left: REQUEST_ELEMENTS_MAX, field: "body" }
    }

    pub(crate) fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// A nullable string.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, ShapeError> {
        self.field = field;
        let Some(length) = self.text_length()? else { return Ok(None) };
        self.take(length).map(Some)
    }

    fn structure(&mut self, fields: &'static [Field]) -> Result<(), ShapeError> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.exists_in(version)) {
            self.value(field)?;
        }
        if self.is_flexible {
            self.tagged_fields(fields)?;
        }
        Ok(())
    }

    fn value(&mut self, field: &'static Field) -> Result<(), ShapeError> {
        self.field = field.name;
        let is_null = match field.kind {
            Kind::Fixed(bytes) => self.take(bytes).map(|_| false)?,
            Kind::Text => match self.text_length()? {
                Some(length) => self.take(length).map(|_| false)?,
                None => true,
            },
            Kind::Blob => match self.blob_length()? {
                Some(length) => self.take(length).map(|_| false)?,
                None => true,
            },
            Kind::FixedArray(bytes) => match self.count()? {
                Some(count) => {
                    let length = count.checked_mul(bytes).ok_or_else(|| self.error("cut short"))?;
                    self.take(length).map(|_| false)?
                }
                None => true,
            },
            Kind::TextArray => match self.count()? {
                Some(count) => {
                    for _ in 0..count {
                        let length = self.text_length()?.ok_or_else(|| self.error("null element"))?;
                        self.take(length)?;
                    }
                    false
                }
                None => true,
            },
            Kind::Array(fields) => match self.count()? {
                Some(count) => {
                    for _ in 0..count {
                        self.structure(fields)?;
                    }
                    false
                }
                None => true,
            },
            Kind::Struct(fields) => self.structure(fields).map(|()| false)?,
            Kind::OptionalStruct(fields) => match self.take(1)? {
                [1] => self.structure(fields).map(|()| false)?,
                [0xff] => true,
                _ => return Err(self.error("neither present nor absent")),
            },
        };
        if is_null && self.version < field.nullable_since {
            self.field = field.name;
            return Err(self.error("null"));
        }
        Ok(())
    }

    /// The tagged fields that end every structure of a flexible version (KIP-482): ascending, those of
    /// `known` that exist in this version exactly as long as they say, the others skipped.
    pub(crate) fn tagged_fields(&mut self, known: &'static [Field]) -> Result<(), ShapeError> {
        self.field = "tagged fields";
        let count = self.uvarint()? as usize;
        if count > TAGGED_FIELDS_MAX {
            return Err(self.error("too many"));
        }
        let mut next_tag = 0u64;
        for _ in 0..count {
            self.field = "tagged fields";
            let tag = self.uvarint()?;
            if u64::from(tag) < next_tag {
                return Err(self.error("tags out of order"));
            }
            next_tag = u64::from(tag) + 1;
            let length = self.uvarint()? as usize;
            let known_here = |field: &&Field| field.tag == Some(tag) && field.exists_in(self.version);
            let Some(field) = known.iter().find(known_here) else {
                if length > TAGGED_FIELD_BYTES_MAX {
                    return Err(self.error("unknown field too large"));
                }
                self.take(length)?;
                self.spend(UNKNOWN_TAG_ELEMENTS)?;
                continue;
            };
            let end = self.rest.len().checked_sub(length).ok_or_else(|| self.error("cut short"))?;
            let after = &self.rest[length..];
            self.value(field)?;
            if self.rest.len() != end {
                self.field = field.name;
                return Err(self.error("not as long as its tag says"));
            }
            self.rest = after;
        }
        Ok(())
    }

    fn text_length(&mut self) -> Result<Option<usize>, ShapeError> {
        if self.is_flexible {
            let length = self.compact_length()?;
            if length > Some(TEXT_BYTES_MAX) {
                return Err(self.error("string too long"));
            }
            return Ok(length);
        }
        let &[high, low] = self.take(2)? else { return Err(self.error("cut short")) };
        self.length_or_null(i32::from(i16::from_be_bytes([high, low])))
    }

    fn blob_length(&mut self) -> Result<Option<usize>, ShapeError> {
        if self.is_flexible { self.compact_length() } else { self.plain_length() }
    }

    /// The count of an array, taken off the budget of elements.
    fn count(&mut self) -> Result<Option<usize>, ShapeError> {
        let count = if self.is_flexible { self.compact_length()? } else { self.plain_length()? };
        let elements = count.unwrap_or(0);
        if elements > self.rest.len() {
            return Err(self.error("more elements than bytes"));
        }
        self.spend(elements)?;
        Ok(count)
    }

    fn spend(&mut self, elements: usize) -> Result<(), ShapeError> {
        match self.elements_left.checked_sub(elements) {
            Some(left) => self.elements_left = left,
            None => return Err(self.error("too many elements")),
        }
        Ok(())
    }

    fn plain_length(&mut self) -> Result<Option<usize>, ShapeError> {
        let bytes = self.take(4)?.first_chunk::<4>().expect("4 bytes were taken");
        self.length_or_null(i32::from_be_bytes(*bytes))
    }

    fn length_or_null(&self, length: i32) -> Result<Option<usize>, ShapeError> {
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| self.error("negative length")),
        }
    }

    /// A length plus one, 0 for null.
    fn compact_length(&mut self) -> Result<Option<usize>, ShapeError> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }

    fn uvarint(&mut self) -> Result<u32, ShapeError> {
        if let [byte, after @ ..] = self.rest
            && *byte < 0x80
        {
            self.rest = after;
            return Ok(u32::from(*byte));
        }
        let mut value = 0u32;
        for at in 0..5 {
            let &byte = self.rest.get(at).ok_or_else(|| self.error("cut short"))?;
            if at == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(self.error("varint over 32 bits"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ShapeError> {
        let Some((taken, after)) = self.rest.split_at_checked(count) else {
            return Err(self.error("cut short"));
        };
        self.rest = after;
        Ok(taken)
    }

    #[cold]
    fn error(&self, what: &'static str) -> ShapeError {
        ShapeError { field: self.field, at: self.position(), what }
    }
}

#[cfg(test)]
mod tests;
