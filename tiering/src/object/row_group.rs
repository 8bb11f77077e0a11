//! The column chunks of one row group while its stripes are appended, and what its footer entry will say.
//!
//! Owns the order of bytes inside a row group and the facts kept per page. Must not know records: it is
//! handed cut stripes. Holds invariant 19 on the writing side: every page gets its CRC here.

use bytes::Bytes;
use highwater_model::Offset;
use highwater_model::limits::{
    OBJECT_EXCEPTIONS_INLINE_BYTES_MAX, OBJECT_ROW_GROUP_BYTES, OBJECT_STRIPE_BYTES_MAX,
};
use parquet::bloom_filter::Sbbf;

use super::codec::PageCompressor;
use super::columns::{KeyRange, PageFacts, StripeColumns};
use super::seal::SealError;
use super::thrift::PageHeader;
use crate::core::layout::{COLUMN_VALUE, COLUMNS, Compression, Exceptions, RowGroupInfo, StripeInfo};

/// Chance that a bloom filter names a key that is not there.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;
/// Keys that a row group's filter is first sized for; it is folded to what its keys need.
const BLOOM_KEYS: u64 = 64 * 1024;

/// One page, as the indexes describe it.
#[derive(Clone, Debug)]
pub struct PageEntry {
    /// With its header.
    pub bytes: u32,
    pub rows: u32,
    pub nulls: u32,
    pub values: u32,
}

/// One column chunk.
#[derive(Debug, Default)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    /// Page headers and uncompressed pages.
    pub uncompressed: u64,
    pub encoding: i32,
    pub pages: Vec<PageEntry>,
}

/// A row group that is complete: its bytes are handed over, its description kept for the footer.
#[derive(Debug)]
pub struct FinishedRowGroup {
    pub info: RowGroupInfo,
    pub chunks: Vec<FinishedChunk>,
    /// Per stripe; `None` when all timestamps of the page are null.
    pub micros: Vec<Option<(i64, i64)>>,
    /// Per stripe; `None` when all keys of the page are null.
    pub keys: Vec<Option<KeyRange>>,
    pub bloom: Option<Sbbf>,
}

/// A chunk without its bytes.
#[derive(Debug)]
pub struct FinishedChunk {
    pub position: u64,
    pub compressed: u64,
    pub uncompressed: u64,
    pub encoding: i32,
    pub pages: Vec<PageEntry>,
}

/// A row group under construction.
pub struct RowGroupBuilder {
    chunks: [Chunk; COLUMNS],
    stripes: Vec<StripeInfo>,
    micros: Vec<Option<(i64, i64)>>,
    keys: Vec<Option<KeyRange>>,
    tail: Vec<u8>,
    records_bytes: u64,
    bloom: Option<Sbbf>,
}

impl RowGroupBuilder {
    pub fn new() -> RowGroupBuilder {
        RowGroupBuilder {
            chunks: Default::default(),
            stripes: Vec::new(),
            micros: Vec::new(),
            keys: Vec::new(),
            tail: Vec::new(),
            records_bytes: 0,
            bloom: None,
        }
    }

    /// Forgets a row group that was begun.
    pub fn clear(&mut self) {
        *self = RowGroupBuilder::new();
    }

    pub fn is_empty(&self) -> bool {
        self.stripes.is_empty()
    }

    /// Bytes of the records so far, in Kafka's framing.
    pub fn records_bytes(&self) -> u64 {
        self.records_bytes
    }

    /// Appends a cut stripe that covers offsets from `start`; `columns` stays as it is.
    ///
    /// # Errors
    /// `SealError::TooLarge` when a page passes what Parquet's 32-bit sizes hold.
    pub fn append(
        &mut self,
        columns: &mut StripeColumns,
        start: Offset,
        bloom: bool,
        compression: Compression,
        compressor: &mut PageCompressor,
    ) -> Result<(), SealError> {
        let (first, last) = columns.offset_range().expect("a cut stripe has records");
        assert!(start <= first, "a stripe starts where the one before it ended");
        if self.stripes.is_empty() {
            self.reserve(compression);
        }
        let rows = columns.rows() as u32;
        let mut page_bytes = [0; COLUMNS];
        for (column, chunk) in self.chunks.iter_mut().enumerate() {
            let (page, facts) = columns.page(column);
            page_bytes[column] = append_page(chunk, page, facts, rows, compressor)?;
        }
        if bloom && columns.has_keys() {
            let size = || Sbbf::new_with_ndv_fpp(BLOOM_KEYS, BLOOM_FALSE_POSITIVES).expect("valid constants");
            let filter = self.bloom.get_or_insert_with(size);
            columns.for_each_key(|key| filter.insert(key));
        }
        self.micros.push(columns.micros_range());
        self.keys.push(columns.key_range());
        let (min_timestamp, max_timestamp) = columns.timestamp_range();
        let exceptions = place_exceptions(columns.exceptions(), &mut self.tail);
        self.records_bytes += columns.records_bytes();
        self.stripes.push(StripeInfo {
            start,
            first,
            end: last + 1,
            rows,
            records_bytes: columns.records_bytes(),
            min_timestamp,
            max_timestamp,
            header_levels: columns.header_levels(),
            has_keys: columns.has_keys(),
            has_headers: columns.has_headers(),
            exceptions,
            page_bytes,
        });
        Ok(())
    }

    /// Untouched capacity costs address space only; growing a 16 MiB buffer by doubling costs copies.
    fn reserve(&mut self, compression: Compression) {
        let raw = OBJECT_ROW_GROUP_BYTES + OBJECT_STRIPE_BYTES_MAX;
        let values = if compression == Compression::None { raw } else { raw / 2 };
        self.chunks[COLUMN_VALUE].bytes.reserve(values);
    }

    /// Closes the row group, whose bytes begin at `position`, and pushes its bytes to `parts`.
    pub fn finish(&mut self, position: u64, parts: &mut Vec<Bytes>) -> FinishedRowGroup {
        let built = std::mem::replace(self, RowGroupBuilder::new());
        let info = RowGroupInfo::from_stripes(position, built.stripes);
        let mut at = position;
        let mut chunks = Vec::with_capacity(COLUMNS);
        for chunk in built.chunks {
            let compressed = chunk.bytes.len() as u64;
            chunks.push(FinishedChunk {
                position: at,
                compressed,
                uncompressed: chunk.uncompressed,
                encoding: chunk.encoding,
                pages: chunk.pages,
            });
            at += compressed;
            parts.push(Bytes::from(chunk.bytes));
        }
        at += built.tail.len() as u64;
        if !built.tail.is_empty() {
            parts.push(Bytes::from(built.tail));
        }
        assert_eq!(at, position + info.length, "the table describes the bytes");
        let mut bloom = built.bloom;
        if let Some(filter) = &mut bloom {
            filter.fold_to_target_fpp(BLOOM_FALSE_POSITIVES);
        }
        FinishedRowGroup { info, chunks, micros: built.micros, keys: built.keys, bloom }
    }
}

/// Compresses `page` and appends it with its header. Returns the bytes of both.
fn append_page(
    chunk: &mut Chunk,
    page: &[u8],
    facts: PageFacts,
    rows: u32,
    compressor: &mut PageCompressor,
) -> Result<u32, SealError> {
    let compressed = compressor.compress(page);
    let size = |bytes: usize| i32::try_from(bytes).map_err(|_| SealError::TooLarge { bytes });
    let header = PageHeader {
        uncompressed_bytes: size(page.len())?,
        compressed_bytes: size(compressed.len())?,
        crc32: crc32fast::hash(compressed),
        values: facts.values as i32,
        encoding: facts.encoding,
    };
    let before = chunk.bytes.len();
    header.write(&mut chunk.bytes);
    let header_bytes = chunk.bytes.len() - before;
    chunk.bytes.extend_from_slice(compressed);
    let bytes = size(chunk.bytes.len() - before)? as u32;
    chunk.uncompressed += (header_bytes + page.len()) as u64;
    chunk.encoding = facts.encoding;
    chunk.pages.push(PageEntry { bytes, rows, nulls: facts.nulls, values: facts.values });
    Ok(bytes)
}

/// Short runs stay in the footer's table, long ones go behind the row group's columns.
fn place_exceptions(runs: &[u8], tail: &mut Vec<u8>) -> Exceptions {
    if runs.is_empty() {
        Exceptions::None
    } else if runs.len() <= OBJECT_EXCEPTIONS_INLINE_BYTES_MAX {
        Exceptions::Inline(runs.into())
    } else {
        tail.extend_from_slice(runs);
        Exceptions::Tail { length: runs.len() as u32, crc32c: crc32c::crc32c(runs) }
    }
}
