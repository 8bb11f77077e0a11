//! Pages of one stripe -> columns that can be walked row by row.
//!
//! Owns what is checked before a page is used: its header must be exactly the one that was written, its CRC
//! must match, its counts must be the table's (invariant 19). Skips decoding what the table already says
//! (dense offsets, no keys, no headers), never the checksums. Buffers grow by what the checksummed table
//! allows and are used again.

use highwater_model::Offset;

use super::codec::PageDecompressor;
use super::levels::{self, Levels};
use super::thrift::{ENCODING_DELTA, ENCODING_DELTA_LENGTH, PageHeader};
use super::{ObjectError, delta, frame};
use crate::core::exceptions;
use crate::core::layout::{
    COLUMN_HEADER_KEY, COLUMN_HEADER_VALUE, COLUMN_KEY, COLUMN_OFFSET, COLUMN_TIMESTAMP, COLUMN_VALUE,
    COLUMNS, Compression, Exceptions, RowGroupInfo, StripeInfo,
};

/// Which rows of a byte column have a value.
#[derive(Clone, Copy, Debug)]
enum Defined<'a> {
    All,
    None,
    /// One level per row; at `max` there is a value.
    Mixed(&'a [u8]),
}

/// Walks a byte column: `next` once per row.
#[derive(Clone, Copy, Debug)]
pub struct ByteCursor<'a> {
    defined: Defined<'a>,
    lengths: &'a [i64],
    arena: &'a [u8],
}

impl<'a> ByteCursor<'a> {
    const NULLS: ByteCursor<'static> = ByteCursor { defined: Defined::None, lengths: &[], arena: &[] };

    #[inline(always)]
    #[allow(clippy::should_implement_trait)] // never ends: the caller counts rows
    pub fn next(&mut self) -> Option<&'a [u8]> {
        match self.defined {
            Defined::All => self.take(),
            Defined::None => None,
            Defined::Mixed(levels) => {
                let (level, rest) = levels.split_first()?;
                self.defined = Defined::Mixed(rest);
                if *level > 0 { self.take() } else { None }
            }
        }
    }

    #[inline(always)]
    fn take(&mut self) -> Option<&'a [u8]> {
        let (length, lengths) = self.lengths.split_first()?;
        let (bytes, arena) = self.arena.split_at_checked(*length as usize)?;
        (self.lengths, self.arena) = (lengths, arena);
        Some(bytes)
    }

    fn skip(&mut self, rows: usize) {
        for _ in 0..rows {
            self.next();
        }
    }
}

/// Walks the header columns: `next` once per record.
#[derive(Clone, Copy, Debug)]
pub struct HeaderCursor<'a> {
    repeats: &'a [u8],
    defined: &'a [u8],
    keys: ByteCursor<'a>,
    values: ByteCursor<'a>,
}

/// The headers of one record.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeaders<'a> {
    count: usize,
    bytes: usize,
    from: Option<HeaderCursor<'a>>,
}

impl<'a> RecordHeaders<'a> {
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all headers in Kafka's framing, without their count.
    #[inline(always)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let mut cursor = self.from;
        (0..self.count).map_while(move |_| cursor.as_mut().and_then(HeaderCursor::entry))
    }
}

impl<'a> HeaderCursor<'a> {
    /// The headers of the next record.
    fn next(&mut self) -> RecordHeaders<'a> {
        let from = *self;
        let (mut count, mut bytes) = (0, 0);
        // A record begins with a repeat of 0; its further headers have 1.
        loop {
            match self.entry() {
                None => break,
                Some((key, value)) => {
                    count += 1;
                    bytes += frame::header_bytes(key, value);
                }
            }
            if self.repeats.first().is_none_or(|repeat| *repeat == 0) {
                break;
            }
        }
        RecordHeaders { count, bytes, from: Some(from) }
    }

    /// One level: a header, or `None` for a record that has none.
    fn entry(&mut self) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let (defined, rest) = self.defined.split_first()?;
        self.defined = rest;
        self.repeats = self.repeats.get(1..)?;
        match defined {
            0 => None,
            1 => Some((self.keys.take()?, None)),
            _ => Some((self.keys.take()?, Some(self.values.take()?))),
        }
    }
}

/// A decoded stripe.
pub struct Stripe<'a> {
    first: Offset,
    /// Empty when offsets are dense.
    offsets: &'a [i64],
    pub timestamps: &'a [i64],
    keys: ByteCursor<'a>,
    values: ByteCursor<'a>,
    headers: Option<HeaderCursor<'a>>,
}

impl<'a> Stripe<'a> {
    pub fn rows(&self) -> usize {
        self.timestamps.len()
    }

    #[inline(always)]
    pub fn offset(&self, row: usize) -> Offset {
        if self.offsets.is_empty() { self.first + row as i64 } else { self.offsets[row] }
    }

    /// The first row at or after `offset`.
    pub fn row_for(&self, offset: Offset) -> usize {
        if !self.offsets.is_empty() {
            return self.offsets.partition_point(|o| *o < offset);
        }
        (offset - self.first).clamp(0, self.rows() as i64) as usize
    }

    /// Passes over `rows` rows.
    pub fn skip(&mut self, rows: usize) {
        self.keys.skip(rows);
        self.values.skip(rows);
        if let Some(headers) = &mut self.headers {
            (0..rows).for_each(|_| {
                headers.next();
            });
        }
    }

    /// Key and value of the next row.
    #[inline(always)]
    pub fn next(&mut self) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
        (self.keys.next(), self.values.next())
    }

    /// Headers of the next row; `None` in a stripe that has no headers at all.
    #[inline(always)]
    pub fn next_headers(&mut self) -> Option<RecordHeaders<'a>> {
        self.headers.as_mut().map(HeaderCursor::next)
    }
}

/// Buffers of one byte column.
#[derive(Default)]
struct ByteBuffers {
    page: Vec<u8>,
    defined: Vec<u8>,
    lengths: Vec<i64>,
}

/// Decodes stripes one after another.
pub struct StripeDecoder {
    decompressor: PageDecompressor,
    page: Vec<u8>,
    offsets: Vec<i64>,
    micros: Vec<i64>,
    timed: Vec<u8>,
    timestamps: Vec<i64>,
    keys: ByteBuffers,
    values: ByteBuffers,
    header_keys: ByteBuffers,
    header_values: ByteBuffers,
    header_repeats: Vec<u8>,
}

/// The bytes of a stripe in its row group.
#[derive(Clone, Copy)]
pub struct StripeSource<'a> {
    pub group: &'a RowGroupInfo,
    pub stripe: usize,
    pub compression: Compression,
    /// All of the row group; its first [`RowGroupInfo::lookup_bytes`] are enough for `decode_places`.
    pub raw: &'a [u8],
}

impl<'a> StripeSource<'a> {
    pub fn info(&self) -> &'a StripeInfo {
        &self.group.stripes[self.stripe]
    }

    fn broken(&self, column: usize, what: &'static str) -> ObjectError {
        ObjectError::Page { column, stripe: self.stripe, what }
    }

    /// The verified page of `column`, still compressed, and its uncompressed length.
    fn page(&self, column: usize) -> Result<(&'a [u8], usize), ObjectError> {
        let info = self.info();
        let bytes = &self.raw[self.group.page_range(column, self.stripe)];
        let (header, length) = PageHeader::read(bytes).ok_or(self.broken(column, "page header"))?;
        let page = &bytes[length..];
        let (encoding, values) = match column {
            COLUMN_OFFSET | COLUMN_TIMESTAMP => (ENCODING_DELTA, info.rows),
            COLUMN_KEY | COLUMN_VALUE => (ENCODING_DELTA_LENGTH, info.rows),
            _ => (ENCODING_DELTA_LENGTH, info.header_levels),
        };
        if header.encoding != encoding || header.values as u32 != values {
            return Err(self.broken(column, "page of another kind or count"));
        }
        if header.compressed_bytes as usize != page.len() {
            return Err(self.broken(column, "page length"));
        }
        if crc32fast::hash(page) != header.crc32 {
            return Err(self.broken(column, "checksum does not match"));
        }
        let bound = info.records_bytes.saturating_add(16 * u64::from(info.header_levels) + 1024);
        match usize::try_from(header.uncompressed_bytes) {
            Ok(length) if length as u64 <= bound => Ok((page, length)),
            _ => Err(self.broken(column, "page larger than its records")),
        }
    }

    fn exceptions(&self) -> Result<&'a [u8], ObjectError> {
        match &self.info().exceptions {
            Exceptions::None => Ok(&[]),
            Exceptions::Inline(runs) => Ok(runs),
            Exceptions::Tail { crc32c, .. } => {
                let runs = &self.raw[self.group.exceptions_range(self.stripe)];
                match crc32c::crc32c(runs) == *crc32c {
                    true => Ok(runs),
                    false => Err(self.broken(COLUMN_TIMESTAMP, "exceptions' checksum does not match")),
                }
            }
        }
    }
}

impl StripeDecoder {
    pub fn new() -> StripeDecoder {
        StripeDecoder {
            decompressor: PageDecompressor::new(),
            page: Vec::new(),
            offsets: Vec::new(),
            micros: Vec::new(),
            timed: Vec::new(),
            timestamps: Vec::new(),
            keys: ByteBuffers::default(),
            values: ByteBuffers::default(),
            header_keys: ByteBuffers::default(),
            header_values: ByteBuffers::default(),
            header_repeats: Vec::new(),
        }
    }

    /// Verifies and decodes a whole stripe.
    ///
    /// # Errors
    /// `Page` names the column; `Malformed` when a page that matches its checksum still does not parse.
    pub fn decode<'a>(&'a mut self, source: StripeSource<'a>) -> Result<Stripe<'a>, ObjectError> {
        self.decode_times(source)?;
        let info = source.info();
        let rows = info.rows as usize;
        let StripeDecoder { decompressor, keys, values, header_keys, header_values, header_repeats, .. } =
            self;
        let key_page = source.page(COLUMN_KEY)?;
        let keys = match info.has_keys {
            false => ByteCursor::NULLS,
            true => decode_bytes(decompressor, source, key_page, rows, keys)?,
        };
        let values = decode_bytes(decompressor, source, source.page(COLUMN_VALUE)?, rows, values)?;
        let header_pages = [source.page(COLUMN_HEADER_KEY)?, source.page(COLUMN_HEADER_VALUE)?];
        let headers = match info.has_headers {
            false => None,
            true => {
                let [key_page, value_page] = header_pages;
                let levels = info.header_levels as usize;
                let buffers = (header_keys, header_values, header_repeats);
                Some(decode_headers(decompressor, source, key_page, value_page, rows, levels, buffers)?)
            }
        };
        Ok(Stripe {
            first: info.first,
            offsets: if info.is_dense() { &[] } else { &self.offsets[..rows] },
            timestamps: &self.timestamps[..rows],
            keys,
            values,
            headers,
        })
    }

    /// Verifies and decodes offsets and timestamps only; the other columns of the result are empty.
    ///
    /// # Errors
    /// As `decode`.
    pub fn decode_places<'a>(&'a mut self, source: StripeSource<'a>) -> Result<Stripe<'a>, ObjectError> {
        self.decode_times(source)?;
        let info = source.info();
        let rows = info.rows as usize;
        Ok(Stripe {
            first: info.first,
            offsets: if info.is_dense() { &[] } else { &self.offsets[..rows] },
            timestamps: &self.timestamps[..rows],
            keys: ByteCursor::NULLS,
            values: ByteCursor::NULLS,
            headers: None,
        })
    }

    fn decode_times(&mut self, source: StripeSource<'_>) -> Result<(), ObjectError> {
        let info = source.info();
        let rows = info.rows as usize;
        let (page, length) = source.page(COLUMN_OFFSET)?;
        if !info.is_dense() {
            let mut page = self.decompressor.decompress(source.compression, page, length, &mut self.page)?;
            delta::decode(&mut page, rows, &mut self.offsets)?;
            let offsets = &self.offsets[..rows];
            let increasing = offsets.windows(2).all(|pair| pair[0] < pair[1]);
            if !page.is_empty()
                || !increasing
                || offsets[0] != info.first
                || offsets[rows - 1].checked_add(1) != Some(info.end)
            {
                return Err(ObjectError::Malformed("offsets"));
            }
        }
        let (page, length) = source.page(COLUMN_TIMESTAMP)?;
        let mut page = self.decompressor.decompress(source.compression, page, length, &mut self.page)?;
        let timed = levels::decode(&mut page, rows, 1, 1, &mut self.timed)?;
        let present = match timed {
            Levels::Same(0) => 0,
            Levels::Same(_) => rows,
            Levels::Mixed => self.timed.iter().filter(|level| **level > 0).count(),
        };
        delta::decode(&mut page, present, &mut self.micros)?;
        self.timestamps.clear();
        self.timestamps.resize(rows, exceptions::NO_TIMESTAMP);
        let filled = match rows - present {
            0 => 0,
            _ => exceptions::fill(source.exceptions()?, &mut self.timestamps).unwrap_or(0),
        };
        if filled + present != rows || !page.is_empty() {
            return Err(ObjectError::Malformed("timestamps"));
        }
        match timed {
            Levels::Same(_) => {
                for (timestamp, micros) in self.timestamps.iter_mut().zip(&self.micros[..present]) {
                    *timestamp = micros / 1000;
                }
            }
            Levels::Mixed => {
                let rows = self.timestamps.iter_mut().zip(&self.timed).filter(|(_, level)| **level > 0);
                rows.zip(&self.micros[..present])
                    .for_each(|((timestamp, _), micros)| *timestamp = micros / 1000);
            }
        }
        Ok(())
    }
}

/// The lengths at the start of `page`, then as many bytes; sets `page` to the bytes.
fn decode_lengths(page: &mut &[u8], present: usize, lengths: &mut Vec<i64>) -> Result<(), ObjectError> {
    delta::decode(page, present, lengths)?;
    let mut total = 0u64;
    let mut negative = 0;
    for length in &lengths[..present] {
        negative |= *length;
        total = total.wrapping_add(*length as u64);
    }
    // No overflow without a negative length: fewer than 2^32 lengths, and any above the page's size shows in
    // the sum.
    if negative < 0
        || lengths[..present].iter().any(|l| *l as u64 > page.len() as u64)
        || total != page.len() as u64
    {
        return Err(ObjectError::Malformed("lengths"));
    }
    Ok(())
}

fn decode_bytes<'a>(
    decompressor: &mut PageDecompressor,
    source: StripeSource<'a>,
    (page, length): (&'a [u8], usize),
    rows: usize,
    buffers: &'a mut ByteBuffers,
) -> Result<ByteCursor<'a>, ObjectError> {
    let mut page = decompressor.decompress(source.compression, page, length, &mut buffers.page)?;
    let levels = levels::decode(&mut page, rows, 1, 1, &mut buffers.defined)?;
    let (defined, present) = match levels {
        Levels::Same(0) => (Defined::None, 0),
        Levels::Same(_) => (Defined::All, rows),
        Levels::Mixed => {
            let present = buffers.defined.iter().filter(|level| **level > 0).count();
            (Defined::Mixed(&buffers.defined), present)
        }
    };
    decode_lengths(&mut page, present, &mut buffers.lengths)?;
    Ok(ByteCursor { defined, lengths: &buffers.lengths[..present], arena: page })
}

fn decode_headers<'a>(
    decompressor: &mut PageDecompressor,
    source: StripeSource<'a>,
    (key_page, key_length): (&'a [u8], usize),
    (value_page, value_length): (&'a [u8], usize),
    rows: usize,
    count: usize,
    (keys, values, repeats): (&'a mut ByteBuffers, &'a mut ByteBuffers, &'a mut Vec<u8>),
) -> Result<HeaderCursor<'a>, ObjectError> {
    const BROKEN: ObjectError = ObjectError::Malformed("headers");
    let mut page = decompressor.decompress(source.compression, key_page, key_length, &mut keys.page)?;
    spread(levels::decode(&mut page, count, 1, 1, repeats)?, count, repeats);
    spread(levels::decode(&mut page, count, 1, 1, &mut keys.defined)?, count, &mut keys.defined);
    if repeats.iter().filter(|repeat| **repeat == 0).count() != rows {
        return Err(BROKEN);
    }
    let present = keys.defined.iter().filter(|level| **level > 0).count();
    decode_lengths(&mut page, present, &mut keys.lengths)?;
    let key_arena = page;
    let mut page = decompressor.decompress(source.compression, value_page, value_length, &mut values.page)?;
    // Both columns carry the repetition levels, and definition levels that agree on where a header is.
    let mut again = Vec::new();
    spread(levels::decode(&mut page, count, 1, 1, &mut again)?, count, &mut again);
    spread(levels::decode(&mut page, count, 2, 2, &mut values.defined)?, count, &mut values.defined);
    let agree = keys.defined.iter().zip(&values.defined).all(|(key, value)| (*key > 0) == (*value > 0));
    if again != *repeats || !agree {
        return Err(BROKEN);
    }
    let valued = values.defined.iter().filter(|level| **level > 1).count();
    decode_lengths(&mut page, valued, &mut values.lengths)?;
    let cursor = |lengths, arena| ByteCursor { defined: Defined::All, lengths, arena };
    Ok(HeaderCursor {
        repeats,
        defined: &values.defined,
        keys: cursor(&keys.lengths[..present], key_arena),
        values: cursor(&values.lengths[..valued], page),
    })
}

/// Levels as one byte each, whatever form they came in.
fn spread(levels: Levels, count: usize, out: &mut Vec<u8>) {
    if let Levels::Same(level) = levels {
        out.clear();
        out.resize(count, level);
    }
}

const _: () = assert!(COLUMNS == 6, "a stripe decodes six columns");
