//! The columns of one stripe while its records are collected, and their pages once it is cut.
//!
//! Owns the one copy that a record's bytes make on their way to a page: key and value go from the batch
//! straight behind a gap in the column's buffer, and when the stripe is cut, levels and lengths (known only
//! then) are laid into the gap so that the page lies in one piece for the compressor. Must not know files or
//! batches. Buffers are used again.

use highwater_model::Offset;
use highwater_model::limits::{
    OBJECT_BUFFER_KEEP_BYTES_MAX, OBJECT_KEY_STATISTICS_BYTES_MAX, OBJECT_STRIPE_ROWS_MAX,
};
use highwater_wire::records::{HeadersRef, varlong_bytes};

use super::thrift::{ENCODING_DELTA, ENCODING_DELTA_LENGTH};
use super::{delta, levels};
use crate::core::exceptions::{ExceptionRuns, to_micros};
use crate::core::layout::{
    COLUMN_HEADER_KEY, COLUMN_HEADER_VALUE, COLUMN_KEY, COLUMN_OFFSET, COLUMN_TIMESTAMP, COLUMN_VALUE,
};

/// Room before a column's bytes for the levels and lengths of a full stripe: the length prefix and one bit
/// per row, then the lengths at their worst.
const GAP_BYTES: usize = 16 + OBJECT_STRIPE_ROWS_MAX / 8 + delta::lengths_bytes_max(OBJECT_STRIPE_ROWS_MAX);

/// Key, value or header bytes of a stripe's rows.
#[derive(Debug)]
struct ByteColumn {
    /// One per row: 1 when there is a value, 0 for null.
    defined: Vec<u8>,
    lengths: Vec<i64>,
    /// `GAP_BYTES` of room, then the values one after another.
    arena: Vec<u8>,
}

impl ByteColumn {
    fn new() -> ByteColumn {
        ByteColumn { defined: Vec::new(), lengths: Vec::new(), arena: vec![0; GAP_BYTES] }
    }

    fn clear(&mut self) {
        self.defined.clear();
        self.lengths.clear();
        if self.arena.capacity() > OBJECT_BUFFER_KEEP_BYTES_MAX {
            self.arena = vec![0; GAP_BYTES];
        }
        self.arena.truncate(GAP_BYTES);
    }

    #[inline]
    fn push(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.defined.push(0),
            Some(bytes) => {
                self.defined.push(1);
                self.push_bytes(bytes);
            }
        }
    }

    #[inline]
    fn push_bytes(&mut self, bytes: &[u8]) {
        self.lengths.push(bytes.len() as i64);
        self.arena.extend_from_slice(bytes);
    }

    /// The page: `prefix` (its levels), the lengths, the values.
    fn page<'a>(&'a mut self, prefix: &'a mut Vec<u8>) -> &'a [u8] {
        delta::encode(&self.lengths, prefix);
        match GAP_BYTES.checked_sub(prefix.len()) {
            Some(start) => {
                self.arena[start..GAP_BYTES].copy_from_slice(prefix);
                &self.arena[start..]
            }
            None => {
                prefix.extend_from_slice(&self.arena[GAP_BYTES..]);
                prefix
            }
        }
    }
}

/// Smallest and largest key of a page, cut to `OBJECT_KEY_STATISTICS_BYTES_MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub min: Vec<u8>,
    pub max: Vec<u8>,
    /// Neither was cut.
    pub exact: bool,
}

/// What a cut page says beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PageFacts {
    pub encoding: i32,
    /// Level pairs.
    pub values: u32,
    pub nulls: u32,
}

/// One stripe under construction.
#[derive(Debug)]
pub struct StripeColumns {
    offsets: Vec<i64>,
    micros: Vec<i64>,
    timed: Vec<u8>,
    keys: ByteColumn,
    values: ByteColumn,
    header_keys: ByteColumn,
    header_values: ByteColumn,
    /// 0 for a row's first header (or its lack of any), 1 for a further one.
    header_repeats: Vec<u8>,
    /// 0 for a row without headers, 1 for a header with a null value, 2 for one with a value.
    header_defined: Vec<u8>,
    key_min: Option<(usize, usize)>,
    key_max: Option<(usize, usize)>,
    exceptions: ExceptionRuns,
    header_count: usize,
    records_bytes: u64,
    min_timestamp: i64,
    max_timestamp: i64,
    prefix: Vec<u8>,
}

/// A record on its way into the columns.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub offset: Offset,
    /// Unix milliseconds.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: HeadersRef<'a>,
}

impl Row<'_> {
    /// Bytes of the record in a batch that starts at offset `first` with timestamp `base`.
    #[inline]
    pub fn framed_bytes(&self, first: Offset, base: i64) -> usize {
        let nullable = |value: Option<&[u8]>| match value {
            None => 1,
            Some(bytes) => varlong_bytes(bytes.len() as i64) + bytes.len(),
        };
        let headers = match self.headers.is_empty() {
            true => 1,
            false => {
                let each =
                    |h: highwater_wire::records::HeaderRef<'_>| nullable(Some(h.key)) + nullable(h.value);
                varlong_bytes(self.headers.len() as i64) + self.headers.iter().map(each).sum::<usize>()
            }
        };
        let body = 1
            + varlong_bytes(self.timestamp.wrapping_sub(base))
            + varlong_bytes(self.offset - first)
            + nullable(self.key)
            + nullable(self.value)
            + headers;
        varlong_bytes(body as i64) + body
    }
}

impl StripeColumns {
    pub fn new() -> StripeColumns {
        StripeColumns {
            offsets: Vec::new(),
            micros: Vec::new(),
            timed: Vec::new(),
            keys: ByteColumn::new(),
            values: ByteColumn::new(),
            header_keys: ByteColumn::new(),
            header_values: ByteColumn::new(),
            header_repeats: Vec::new(),
            header_defined: Vec::new(),
            key_min: None,
            key_max: None,
            exceptions: ExceptionRuns::default(),
            header_count: 0,
            records_bytes: 0,
            min_timestamp: i64::MAX,
            max_timestamp: i64::MIN,
            prefix: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.offsets.clear();
        self.micros.clear();
        self.timed.clear();
        for column in [&mut self.keys, &mut self.values, &mut self.header_keys, &mut self.header_values] {
            column.clear();
        }
        self.header_repeats.clear();
        self.header_defined.clear();
        (self.key_min, self.key_max) = (None, None);
        self.exceptions.clear();
        (self.header_count, self.records_bytes) = (0, 0);
        (self.min_timestamp, self.max_timestamp) = (i64::MAX, i64::MIN);
    }

    /// Adds a record, whose offset is above all before it and which takes `framed_bytes` in Kafka's framing.
    #[inline]
    pub fn push(&mut self, row: &Row<'_>, framed_bytes: usize) {
        debug_assert!(self.offsets.last().is_none_or(|last| *last < row.offset), "offsets grow");
        let number = self.offsets.len() as u32;
        self.offsets.push(row.offset);
        match to_micros(row.timestamp) {
            Some(micros) => {
                self.timed.push(1);
                self.micros.push(micros);
            }
            None => {
                self.timed.push(0);
                self.exceptions.push(number, row.timestamp);
            }
        }
        self.min_timestamp = self.min_timestamp.min(row.timestamp);
        self.max_timestamp = self.max_timestamp.max(row.timestamp);
        self.records_bytes += framed_bytes as u64;
        if let Some(key) = row.key {
            self.note_key(key);
        }
        self.keys.push(row.key);
        self.values.push(row.value);
        if row.headers.is_empty() {
            self.header_repeats.push(0);
            self.header_defined.push(0);
        } else {
            self.push_headers(row.headers);
        }
    }

    /// Keeps the places of the smallest and the largest key in the arena. Called before the key is pushed.
    #[inline]
    fn note_key(&mut self, key: &[u8]) {
        let place = (self.keys.arena.len(), self.keys.arena.len() + key.len());
        let arena = &self.keys.arena;
        if self.key_min.is_none_or(|(start, end)| key < &arena[start..end]) {
            self.key_min = Some(place);
        }
        if self.key_max.is_none_or(|(start, end)| key > &arena[start..end]) {
            self.key_max = Some(place);
        }
    }

    fn push_headers(&mut self, headers: HeadersRef<'_>) {
        for (number, header) in headers.iter().enumerate() {
            self.header_repeats.push(u8::from(number > 0));
            self.header_keys.push_bytes(header.key);
            match header.value {
                None => self.header_defined.push(1),
                Some(value) => {
                    self.header_defined.push(2);
                    self.header_values.push_bytes(value);
                }
            }
            self.header_count += 1;
        }
    }

    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of the records in Kafka's framing.
    pub fn records_bytes(&self) -> u64 {
        self.records_bytes
    }

    /// First and last offset.
    pub fn offset_range(&self) -> Option<(Offset, Offset)> {
        Some((*self.offsets.first()?, *self.offsets.last()?))
    }

    /// Smallest and largest timestamp in Unix milliseconds, exceptions included.
    pub fn timestamp_range(&self) -> (i64, i64) {
        (self.min_timestamp, self.max_timestamp)
    }

    /// Smallest and largest value of the `_timestamp` column; `None` when all are null.
    pub fn micros_range(&self) -> Option<(i64, i64)> {
        Some((*self.micros.iter().min()?, *self.micros.iter().max()?))
    }

    pub fn has_keys(&self) -> bool {
        !self.keys.lengths.is_empty()
    }

    pub fn has_headers(&self) -> bool {
        self.header_count > 0
    }

    pub fn header_levels(&self) -> u32 {
        self.header_repeats.len() as u32
    }

    /// The encoded timestamp exceptions.
    pub fn exceptions(&mut self) -> &[u8] {
        self.exceptions.finish()
    }

    /// The keys' range for statistics; `None` when all are null.
    pub fn key_range(&self) -> Option<KeyRange> {
        let (min, max) = (self.key_min?, self.key_max?);
        let (min, max) = (&self.keys.arena[min.0..min.1], &self.keys.arena[max.0..max.1]);
        let cut = OBJECT_KEY_STATISTICS_BYTES_MAX;
        let (max_cut, max_exact) = cut_upper(max);
        Some(KeyRange {
            min: min[..min.len().min(cut)].to_vec(),
            max: max_cut,
            exact: min.len() <= cut && max_exact,
        })
    }

    /// Calls `each` with every key that is not null.
    pub fn for_each_key(&self, mut each: impl FnMut(&[u8])) {
        let mut at = GAP_BYTES;
        for length in &self.keys.lengths {
            let end = at + *length as usize;
            each(&self.keys.arena[at..end]);
            at = end;
        }
    }

    /// The page of `column`, uncompressed, valid until the next call.
    pub fn page(&mut self, column: usize) -> (&[u8], PageFacts) {
        let rows = self.offsets.len();
        let facts = |encoding, values: usize, present: usize| PageFacts {
            encoding,
            values: values as u32,
            nulls: (values - present) as u32,
        };
        let prefix = &mut self.prefix;
        prefix.clear();
        match column {
            COLUMN_OFFSET => {
                let first = self.offsets.first().copied().unwrap_or(0);
                match self.offsets.last().is_some_and(|last| (last - first) as u64 + 1 == rows as u64) {
                    true => delta::encode_consecutive(first, rows, prefix),
                    false => delta::encode(&self.offsets, prefix),
                }
                (prefix, facts(ENCODING_DELTA, rows, rows))
            }
            COLUMN_TIMESTAMP => {
                levels::encode(&self.timed, 1, prefix);
                delta::encode(&self.micros, prefix);
                (prefix, facts(ENCODING_DELTA, rows, self.micros.len()))
            }
            COLUMN_KEY | COLUMN_VALUE => {
                let bytes = if column == COLUMN_KEY { &mut self.keys } else { &mut self.values };
                levels::encode(&bytes.defined, 1, prefix);
                let facts = facts(ENCODING_DELTA_LENGTH, rows, bytes.lengths.len());
                (bytes.page(prefix), facts)
            }
            COLUMN_HEADER_KEY | COLUMN_HEADER_VALUE => {
                let levels_count = self.header_repeats.len();
                levels::encode(&self.header_repeats, 1, prefix);
                let bytes = if column == COLUMN_HEADER_KEY {
                    let scratch = &mut self.header_keys.defined;
                    scratch.clear();
                    scratch.extend(self.header_defined.iter().map(|level| u8::from(*level > 0)));
                    levels::encode(scratch, 1, prefix);
                    &mut self.header_keys
                } else {
                    levels::encode(&self.header_defined, 2, prefix);
                    &mut self.header_values
                };
                let facts = facts(ENCODING_DELTA_LENGTH, levels_count, bytes.lengths.len());
                (bytes.page(prefix), facts)
            }
            _ => unreachable!("there are six columns"),
        }
    }
}

/// An upper bound of `key` of limited length: cut, then raised by one; the whole key when it cannot be
/// raised.
fn cut_upper(key: &[u8]) -> (Vec<u8>, bool) {
    if key.len() <= OBJECT_KEY_STATISTICS_BYTES_MAX {
        return (key.to_vec(), true);
    }
    let cut = &key[..OBJECT_KEY_STATISTICS_BYTES_MAX];
    match cut.iter().rposition(|byte| *byte != 0xff) {
        None => (key.to_vec(), true),
        Some(at) => {
            let mut raised = cut[..=at].to_vec();
            raised[at] += 1;
            (raised, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upper_bound_is_above_its_key() {
        let long = [b"a".repeat(63), vec![0xff; 40]].concat();
        let (bound, exact) = cut_upper(&long);
        assert!(bound > long && !exact && bound.len() <= 64);
        let highest = vec![0xff; 100];
        assert_eq!(cut_upper(&highest), (highest, true));
        assert_eq!(cut_upper(b"short"), (b"short".to_vec(), true));
    }

    #[test]
    fn the_gap_holds_the_longest_prefix() {
        let mut columns = ByteColumn::new();
        let mut prefix = Vec::new();
        for row in 0..OBJECT_STRIPE_ROWS_MAX {
            columns.defined.push((row % 3 > 0) as u8);
            columns.lengths.push(if row % 2 == 0 { 0 } else { i64::from(i32::MAX) });
        }
        columns.arena.extend_from_slice(b"values");
        levels::encode(&columns.defined, 1, &mut prefix);
        let page = columns.page(&mut prefix).to_vec();
        assert!(prefix.len() <= GAP_BYTES, "{} in a gap of {GAP_BYTES}", prefix.len());
        assert!(page.ends_with(b"values"));
    }
}
