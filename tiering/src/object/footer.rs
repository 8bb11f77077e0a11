//! The end of an object: bloom filters, page indexes and the Parquet footer, through the `parquet` crate's
//! own writers.
//!
//! Owns how the facts kept per page become statistics: exact bounds on `_offset` and `_timestamp`, cut ones
//! on `_key`, none but null counts on `_value`. Must not touch row-group bytes. Statistics serve other
//! engines; our own reader uses the key-values only.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{BoundaryOrder, ColumnOrder, Encoding, PageType, Type as PhysicalType};
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::page_index::PageIndexBuilder;
use parquet::file::metadata::{
    ColumnChunkMetaData, ColumnIndexBuilder, FileMetaData, KeyValue, OffsetIndexBuilder, PageEncodingStats,
    ParquetMetaDataBuilder, ParquetMetaDataWriter, RowGroupMetaData, SortingColumn,
};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;

use super::columns::KeyRange;
use super::row_group::{FinishedChunk, FinishedRowGroup};
use super::thrift::ENCODING_DELTA;
use crate::core::layout::{
    COLUMN_HEADER_KEY, COLUMN_HEADER_VALUE, COLUMN_KEY, COLUMN_OFFSET, COLUMN_TIMESTAMP, COLUMN_VALUE,
    COLUMNS, Compression, ObjectIndex, StripeInfo,
};
use crate::core::layout_footer::to_key_values;
use crate::schema;

/// Parquet's `FileMetaData.version` of files whose pages use the newer encodings.
const FILE_VERSION: i32 = 2;
const CREATED_BY: &str = concat!("highwater version ", env!("CARGO_PKG_VERSION"));

/// Everything of the object behind its row groups, which end at `position`.
///
/// # Errors
/// When the `parquet` crate refuses what it is given: a defect here.
pub fn write(
    index: &ObjectIndex,
    groups: &mut [FinishedRowGroup],
    position: u64,
) -> Result<Vec<u8>, ParquetError> {
    let descriptor = schema::parquet_schema(index.value_format);
    let mut tail = Tail { skip: position, out: Vec::new() };
    let mut tracked = TrackedWrite::new(&mut tail);
    skip_to(&mut tracked, position)?;
    let mut pages = PageIndexBuilder::new(groups.len(), COLUMNS);
    let mut row_groups = Vec::with_capacity(groups.len());
    for (number, group) in groups.iter_mut().enumerate() {
        let bloom = match group.bloom.take() {
            None => None,
            Some(filter) => {
                let start = tracked.bytes_written();
                filter.write(&mut tracked)?;
                Some((start as i64, (tracked.bytes_written() - start) as i32))
            }
        };
        row_groups.push(row_group(index.compression, &descriptor, group, bloom, number)?);
        for (column, chunk) in group.chunks.iter().enumerate() {
            pages.put_offset_index(offset_index(chunk), number, column);
            if let Some(bounds) = column_index(group, column) {
                pages.put_column_index(bounds.build()?, number, column);
            }
        }
    }
    let metadata = ParquetMetaDataBuilder::new(file_metadata(index, descriptor))
        .set_row_groups(row_groups)
        .set_page_index(Some(Arc::new(pages.build())))
        .build();
    ParquetMetaDataWriter::new_with_tracked(tracked, &metadata).finish()?;
    Ok(tail.out)
}

/// Takes the place of a whole file and keeps only what lies behind `skip` bytes.
struct Tail {
    skip: u64,
    out: Vec<u8>,
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        self.out.extend_from_slice(&bytes[skipped as usize..]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `TrackedWrite` counts from 0, and positions in the footer are counted by it: let it count the row groups,
/// whose bytes lie elsewhere, without looking at them.
fn skip_to(tracked: &mut TrackedWrite<&mut Tail>, position: u64) -> io::Result<()> {
    static NOTHING: [u8; 8 * 1024] = [0; 8 * 1024];
    let mut left = position;
    while left > 0 {
        let step = left.min(NOTHING.len() as u64);
        tracked.write_all(&NOTHING[..step as usize])?;
        left -= step;
    }
    Ok(())
}

fn file_metadata(index: &ObjectIndex, descriptor: SchemaDescPtr) -> FileMetaData {
    let arrow = schema::arrow_schema_value(index.value_format);
    let mut pairs = vec![KeyValue::new(schema::ARROW_SCHEMA_KEY.to_string(), arrow)];
    let ours = to_key_values(index).into_iter();
    pairs.extend(ours.map(|(key, value)| KeyValue::new(key.to_string(), value)));
    let orders = descriptor.columns().iter().map(|column| {
        ColumnOrder::column_order_for_type(
            column.logical_type_ref(),
            column.converted_type(),
            column.physical_type(),
        )
    });
    let orders = orders.collect();
    let rows = index.records() as i64;
    FileMetaData::new(FILE_VERSION, rows, Some(CREATED_BY.to_string()), Some(pairs), descriptor, Some(orders))
}

fn row_group(
    compression: Compression,
    descriptor: &SchemaDescPtr,
    group: &FinishedRowGroup,
    bloom: Option<(i64, i32)>,
    number: usize,
) -> Result<RowGroupMetaData, ParquetError> {
    let mut builder = RowGroupMetaData::builder(descriptor.clone())
        .set_num_rows(group.info.rows as i64)
        .set_total_byte_size(group.chunks.iter().map(|c| c.uncompressed as i64).sum())
        .set_ordinal(number as i32)
        .set_file_offset(group.info.position as i64)
        .set_sorting_columns(Some(vec![SortingColumn {
            column_idx: COLUMN_OFFSET as i32,
            descending: false,
            nulls_first: false,
        }]));
    for (column, chunk) in group.chunks.iter().enumerate() {
        let mut facts = ColumnChunkMetaData::builder(descriptor.column(column))
            .set_compression(parquet_compression(compression))
            .set_encodings(vec![Encoding::RLE, encoding(chunk)])
            .set_page_encoding_stats(vec![PageEncodingStats {
                page_type: PageType::DATA_PAGE,
                encoding: encoding(chunk),
                count: chunk.pages.len() as i32,
            }])
            .set_num_values(chunk.pages.iter().map(|p| i64::from(p.values)).sum())
            .set_total_compressed_size(chunk.compressed as i64)
            .set_total_uncompressed_size(chunk.uncompressed as i64)
            .set_data_page_offset(chunk.position as i64);
        if let Some(statistics) = statistics(group, column) {
            facts = facts.set_statistics(statistics);
        }
        if column == COLUMN_KEY
            && let Some((position, length)) = bloom
        {
            facts = facts.set_bloom_filter_offset(Some(position)).set_bloom_filter_length(Some(length));
        }
        builder = builder.add_column_metadata(facts.build()?);
    }
    builder.build()
}

fn parquet_compression(compression: Compression) -> parquet::basic::Compression {
    match compression {
        Compression::Zstd => parquet::basic::Compression::ZSTD(Default::default()),
        Compression::Lz4 => parquet::basic::Compression::LZ4_RAW,
        Compression::None => parquet::basic::Compression::UNCOMPRESSED,
    }
}

fn encoding(chunk: &FinishedChunk) -> Encoding {
    match chunk.encoding {
        ENCODING_DELTA => Encoding::DELTA_BINARY_PACKED,
        _ => Encoding::DELTA_LENGTH_BYTE_ARRAY,
    }
}

fn nulls(chunk: &FinishedChunk) -> u64 {
    chunk.pages.iter().map(|p| u64::from(p.nulls)).sum()
}

/// Bounds of one page of `_offset` or `_timestamp`; `None` when it has no value.
fn page_bounds(group: &FinishedRowGroup, column: usize, page: usize) -> Option<(i64, i64)> {
    let stripe: &StripeInfo = &group.info.stripes[page];
    match column {
        COLUMN_OFFSET => Some((stripe.first, stripe.end - 1)),
        _ => group.micros[page],
    }
}

fn statistics(group: &FinishedRowGroup, column: usize) -> Option<Statistics> {
    let nulls = Some(nulls(&group.chunks[column]));
    match column {
        COLUMN_OFFSET | COLUMN_TIMESTAMP => {
            let bounds = (0..group.info.stripes.len()).filter_map(|page| page_bounds(group, column, page));
            let (min, max) =
                bounds.fold((None, None), |(min, max): (Option<i64>, Option<i64>), (low, high)| {
                    (Some(min.map_or(low, |m| m.min(low))), max.max(Some(high)))
                });
            Some(Statistics::Int64(ValueStatistics::new(min, max, None, nulls, false)))
        }
        COLUMN_KEY => {
            let ranges = || group.keys.iter().flatten();
            let exact = ranges().all(|r| r.exact);
            let bytes = |key: &Vec<u8>| ByteArray::from(key.clone());
            let min = ranges().map(|r| &r.min).min().map(bytes);
            let max = ranges().map(|r| &r.max).max().map(bytes);
            let found = min.is_some();
            let statistics = ValueStatistics::new(min, max, None, nulls, false)
                .with_min_is_exact(exact && found)
                .with_max_is_exact(exact && found);
            Some(Statistics::ByteArray(statistics))
        }
        COLUMN_VALUE => Some(Statistics::ByteArray(ValueStatistics::new(None, None, None, nulls, false))),
        COLUMN_HEADER_KEY | COLUMN_HEADER_VALUE => None,
        _ => unreachable!("there are six columns"),
    }
}

fn column_index(group: &FinishedRowGroup, column: usize) -> Option<ColumnIndexBuilder> {
    let pages = &group.chunks[column].pages;
    let mut builder = match column {
        COLUMN_OFFSET | COLUMN_TIMESTAMP => ColumnIndexBuilder::new(PhysicalType::INT64),
        COLUMN_KEY => ColumnIndexBuilder::new(PhysicalType::BYTE_ARRAY),
        _ => return None,
    };
    if column == COLUMN_KEY {
        for (page, range) in pages.iter().zip(&group.keys) {
            let KeyRange { min, max, .. } = range.clone().unwrap_or_default();
            builder.append(range.is_none(), min, max, i64::from(page.nulls), None);
        }
        return Some(builder);
    }
    let (mut before, mut ascending) = ((i64::MIN, i64::MIN), true);
    for (number, page) in pages.iter().enumerate() {
        match page_bounds(group, column, number) {
            None => builder.append(true, Vec::new(), Vec::new(), i64::from(page.nulls), None),
            Some((min, max)) => {
                ascending &= min >= before.0 && max >= before.1;
                before = (min, max);
                let bytes = |value: i64| value.to_le_bytes().to_vec();
                builder.append(false, bytes(min), bytes(max), i64::from(page.nulls), None);
            }
        }
    }
    if ascending {
        builder.set_boundary_order(BoundaryOrder::ASCENDING);
    }
    Some(builder)
}

fn offset_index(chunk: &FinishedChunk) -> OffsetIndexMetaData {
    let mut builder = OffsetIndexBuilder::new();
    let mut position = chunk.position;
    for page in &chunk.pages {
        builder.append_row_count(i64::from(page.rows));
        builder.append_offset_and_size(position as i64, page.bytes as i32);
        position += u64::from(page.bytes);
    }
    builder.build()
}
