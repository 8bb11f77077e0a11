//! Objects through the eyes of the `parquet` crate: its Arrow reader, its statistics, its page indexes, its
//! filters.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::file::statistics::Statistics;

use super::support::*;
use crate::core::exceptions::to_micros;
use crate::object::{Exceptions, ObjectIndex, ValueFormat};
use crate::schema::arrow_schema;

fn bytes_at(array: &dyn Array, row: usize) -> Option<Vec<u8>> {
    match array.is_null(row) {
        true => None,
        false => match array.as_binary_opt::<i32>() {
            Some(binary) => Some(binary.value(row).to_vec()),
            None => Some(array.as_string::<i32>().value(row).as_bytes().to_vec()),
        },
    }
}

/// All records as Arrow reads them, with the exceptions of the index put back.
pub fn read_arrow(bytes: &Bytes, format: ValueFormat) -> Vec<Record> {
    let index = ObjectIndex::parse(bytes, bytes.len() as u64).expect("parses");
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options).expect("opens");
    assert_eq!(builder.schema().fields(), arrow_schema(format).fields());
    let mut records = Vec::new();
    for batch in builder.build().expect("reads") {
        let batch = batch.expect("reads");
        let offsets = batch.column(0).as_primitive::<Int64Type>();
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let headers = batch.column(4).as_list::<i32>();
        for row in 0..batch.num_rows() {
            let entry = headers.value(row);
            let entry = entry.as_struct();
            let header = |n| (bytes_at(entry.column(0), n).expect("a key"), bytes_at(entry.column(1), n));
            records.push(Record {
                offset: offsets.value(row),
                timestamp: if times.is_null(row) { i64::MIN } else { times.value(row) / 1000 },
                key: bytes_at(batch.column(2), row),
                value: bytes_at(batch.column(3), row),
                headers: (0..entry.len()).map(header).collect(),
            });
        }
    }
    put_back_exceptions(&index, bytes, &mut records);
    records
}

fn put_back_exceptions(index: &ObjectIndex, bytes: &[u8], records: &mut [Record]) {
    let mut row = 0;
    for (number, group) in index.row_groups.iter().enumerate() {
        for (at, stripe) in group.stripes.iter().enumerate() {
            let runs = match &stripe.exceptions {
                Exceptions::None => &[][..],
                Exceptions::Inline(runs) => runs,
                Exceptions::Tail { .. } => &row_group(index, bytes, number)[group.exceptions_range(at)],
            };
            let mut timestamps = vec![i64::MIN; stripe.rows as usize];
            crate::core::exceptions::fill(runs, &mut timestamps).expect("runs");
            for timestamp in timestamps {
                if records[row].timestamp == i64::MIN {
                    records[row].timestamp = timestamp;
                } else {
                    assert_eq!(timestamp, i64::MIN, "no exception for a row that has a timestamp");
                }
                row += 1;
            }
        }
    }
}

fn many(count: i64) -> Vec<BatchOf> {
    let record = |n: i64| {
        let key = (n % 3 > 0).then(|| format!("key-{:05}", n % 1000).into_bytes());
        let time = if n % 11 == 0 { -1 } else { 1_700_000_000_000 + n * 10 };
        record(n, time, key.as_deref(), Some(&[b'a' + (n % 26) as u8; 700]))
    };
    (0..count / 100).map(|b| BatchOf::new((b * 100..b * 100 + 100).map(record).collect())).collect()
}

#[test]
fn indexes_and_statistics_say_what_the_table_says() {
    let batches = many(60_000);
    let (index, bytes) = load(&seal(&input(0, 60_000, &batches)));
    assert!(index.row_groups.len() >= 2, "{} row groups", index.row_groups.len());
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&bytes)
        .expect("parses");
    assert_eq!(metadata.num_row_groups(), index.row_groups.len());
    let pages = metadata.page_index().expect("page index");
    let mut first_row = 0;
    for (number, group) in index.row_groups.iter().enumerate() {
        let seen = metadata.row_group(number);
        assert_eq!(seen.num_rows() as u64, group.rows);
        assert_eq!(seen.sorting_columns().map(Vec::len), Some(1));
        let mut position = group.position;
        for column in 0..6 {
            let chunk = seen.column(column);
            assert_eq!(chunk.byte_range(), (position, group.column_bytes(column)), "chunks lie together");
            position += group.column_bytes(column);
            let locations = pages.page_locations(number, column).expect("offset index");
            assert_eq!(locations.len(), group.stripes.len());
            let mut row = 0;
            for (at, location) in locations.iter().enumerate() {
                let range = group.page_range(column, at);
                assert_eq!(location.offset as u64, group.position + range.start as u64);
                assert_eq!(location.compressed_page_size as usize, range.len());
                assert_eq!(location.first_row_index, row, "every column is cut at the same rows");
                row += i64::from(group.stripes[at].rows);
            }
        }
        let tail: usize = (0..group.stripes.len()).map(|at| group.exceptions_range(at).len()).sum();
        assert_eq!(position + tail as u64, group.position + group.length);
        let Some(Statistics::Int64(offsets)) = seen.column(0).statistics() else { panic!("statistics") };
        assert_eq!(offsets.min_opt(), Some(&first_row));
        first_row += group.rows as i64;
        assert_eq!(offsets.max_opt(), Some(&(first_row - 1)));
        let Some(Statistics::Int64(times)) = seen.column(1).statistics() else { panic!("statistics") };
        assert_eq!(times.max_opt().copied(), to_micros(group.max_timestamp));
        assert!(times.null_count_opt().is_some_and(|n| n > group.rows / 12));
        assert!(pages.column_index(number, 3).is_none(), "no bounds on values");
        let keys = pages.column_index(number, 2).expect("bounds on keys");
        assert_eq!(keys.num_pages(), group.stripes.len() as u64);
    }
}

#[test]
fn bloom_filters_know_the_keys_of_a_compacted_topic() {
    let batches = many(30_000);
    let mut input = input(0, 30_000, &batches);
    input.compacted = true;
    let (_, bytes) = load(&seal(&input));
    let options = ReadOptionsBuilder::new()
        .with_reader_properties(ReaderProperties::builder().set_read_bloom_filter(true).build())
        .build();
    let reader = SerializedFileReader::new_with_options(bytes, options).expect("opens");
    let group = reader.get_row_group(0).expect("row group");
    let filter = group.get_column_bloom_filter(2).expect("a filter");
    assert!((0..1000).all(|n| n % 3 == 0 || filter.check(format!("key-{n:05}").as_bytes())));
    let wrong = (0..10_000).filter(|n| filter.check(format!("other-{n}").as_bytes())).count();
    assert!(wrong < 300, "{wrong} of 10,000 by mistake");
}

#[test]
fn a_predicate_on_offsets_reads_one_page() {
    use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
    let batches = many(20_000);
    let (_, bytes) = load(&seal(&input(0, 20_000, &batches)));
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).expect("opens");
    let selection = RowSelection::from(vec![RowSelector::skip(12_345), RowSelector::select(2)]);
    let reader = builder.with_row_selection(selection).build().expect("reads");
    let offsets: Vec<i64> = reader
        .flat_map(|b| b.expect("batch").column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(offsets, [12_345, 12_346]);
}
