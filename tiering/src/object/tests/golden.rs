//! Every value that must survive exactly, by name.

use highwater_wire::Codec;

use super::parquet::read_arrow;
use super::support::*;
use crate::object::{Compression, ValueFormat};

fn with_headers(mut r: Record, headers: &[(&[u8], Option<&[u8]>)]) -> Record {
    r.headers = headers.iter().map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect();
    r
}

fn cases() -> Vec<Record> {
    let time = 1_700_000_000_123;
    let big = vec![0xa5u8; 1024 * 1024 + 17];
    let max_micros = i64::MAX / 1000;
    vec![
        record(0, time, None, Some(b"null key")),
        record(1, time, Some(b"null value"), None),
        record(2, time, Some(b""), Some(b"")),
        record(3, time, None, None),
        record(4, time, Some(b"\xff\xfe key not UTF-8"), Some(b"\x00\x01\xff value not UTF-8")),
        with_headers(record(5, time, None, Some(b"h")), &[(b"a", Some(b"1"))]),
        with_headers(
            record(6, time, None, Some(b"h")),
            &[(b"a", Some(b"1")), (b"a", Some(b"2")), (b"a", None)],
        ),
        with_headers(
            record(7, time, None, None),
            &[(b"\xff\x00", Some(b"\xfe")), (b"", Some(b"")), (b"", None)],
        ),
        record(8, time, None, Some(b"no headers between headers")),
        with_headers(record(9, time, Some(b"k"), Some(b"v")), &[(&[b'x'; 300], Some(&[b'y'; 70_000]))]),
        record(10, -1, None, Some(b"no timestamp")),
        record(11, 0, None, Some(b"1970")),
        record(12, i64::MAX, None, Some(b"the last millisecond")),
        record(13, max_micros, None, Some(b"the last that microseconds hold")),
        record(14, max_micros + 1, None, Some(b"the first that they do not")),
        record(15, -1, None, Some(b"none again")),
        record(16, time, Some(&big[..300]), Some(&big)),
        record(17, time + 1, None, Some(b"x")),
    ]
}

fn one_batch_each(records: &[Record], codec: Codec) -> Vec<BatchOf> {
    records.iter().map(|r| BatchOf { codec, ..BatchOf::new(vec![r.clone()]) }).collect()
}

#[test]
fn every_value_survives_every_codec_and_compression() {
    let cases = cases();
    for codec in Codec::ALL {
        for compression in [Compression::Zstd, Compression::Lz4, Compression::None] {
            let together = [BatchOf { codec, ..BatchOf::new(cases.clone()) }];
            let apart = one_batch_each(&cases, codec);
            for batches in [&together[..], &apart[..]] {
                let mut input = input(0, 18, batches);
                input.compression = compression;
                let sealed = seal(&input);
                let (index, bytes) = load(&sealed);
                assert_eq!(index.compression, compression);
                assert_eq!((sealed.summary.records, sealed.summary.min_timestamp), (18, -1));
                assert_eq!(sealed.summary.max_timestamp, i64::MAX);
                assert_eq!(sealed.summary.crc32c, crc32c::crc32c(&bytes));
                let want = expected(batches, 0, 18);
                assert!(want.iter().map(|s| &s.record).eq(&cases), "the reference itself");
                for max_bytes in [1, 1000, usize::MAX] {
                    assert!(
                        replay(&index, &bytes, 0, max_bytes) == want,
                        "{codec:?} {compression:?} {max_bytes}"
                    );
                }
                assert_eq!(read_arrow(&bytes, ValueFormat::Bytes), cases);
            }
        }
    }
}

#[test]
fn log_append_time_keeps_its_bit_and_its_time() {
    let batches: Vec<BatchOf> = (0..6i64)
        .map(|n| BatchOf {
            log_append: (2..5).contains(&n),
            ..BatchOf::new((0..3).map(|i| record(n * 3 + i, 1000 + n / 3 + i, None, Some(b"v"))).collect())
        })
        .collect();
    let sealed = seal(&input(0, 18, &batches));
    let (index, bytes) = load(&sealed);
    assert_eq!(
        index.timestamp_types.iter().map(|r| (r.start, r.log_append)).collect::<Vec<_>>(),
        [(0, false), (6, true), (15, false)]
    );
    let want = expected(&batches, 0, 18);
    assert_eq!(replay(&index, &bytes, 0, usize::MAX), want);
    assert_eq!(replay(&index, &bytes, 7, 1), want[7..]);
}

#[test]
fn batches_are_cut_where_the_epoch_changes() {
    let epochs = [0, 0, 2, 2, 5];
    let batches: Vec<BatchOf> = epochs
        .iter()
        .enumerate()
        .map(|(n, epoch)| BatchOf {
            epoch: *epoch,
            ..BatchOf::new((0..4).map(|i| record(n as i64 * 4 + i, 50, None, Some(b"v"))).collect())
        })
        .collect();
    let (index, bytes) = load(&seal(&input(2, 20, &batches)));
    assert_eq!(
        index.epochs.iter().map(|e| (e.epoch, e.start_offset)).collect::<Vec<_>>(),
        [(0, 0), (2, 8), (5, 16)]
    );
    assert_eq!(replay(&index, &bytes, 2, usize::MAX), expected(&batches, 2, 20));
}

#[test]
fn ten_thousand_records_in_one_batch_and_one_record_in_each_of_many() {
    let records: Vec<Record> = (0..10_000)
        .map(|n| record(n, 1_700_000_000_000 + n, Some(format!("k{}", n % 97).as_bytes()), Some(&[b'v'; 40])))
        .collect();
    let together = [BatchOf { codec: Codec::Snappy, ..BatchOf::new(records.clone()) }];
    let apart = one_batch_each(&records, Codec::None);
    for batches in [&together[..], &apart[..]] {
        let (index, bytes) = load(&seal(&input(0, 10_000, batches)));
        let want = expected(batches, 0, 10_000);
        assert!(replay(&index, &bytes, 0, usize::MAX) == want);
        assert!(replay(&index, &bytes, 4_321, 20_000) == want[4_321..]);
        assert_eq!(read_arrow(&bytes, ValueFormat::Bytes), records);
    }
}

#[test]
fn values_are_annotated_as_the_topic_says() {
    let records =
        [record(0, 5, None, Some(br#"{"a":1}"#)), record(1, 6, None, None), record(2, 7, None, Some(b"2"))];
    let batches = [BatchOf::new(records.to_vec())];
    for format in [ValueFormat::Bytes, ValueFormat::Utf8, ValueFormat::Json] {
        let mut input = input(0, 3, &batches);
        input.value_format = format;
        let (index, bytes) = load(&seal(&input));
        assert_eq!(index.value_format, format);
        assert_eq!(read_arrow(&bytes, format), records);
    }
}
