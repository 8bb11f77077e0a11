//! The table's bytes: what is written reads back, what is damaged is refused.

use proptest::prelude::*;

use super::*;

fn stripe() -> impl Strategy<Value = (u32, u32, u32, i64, i64, Vec<u8>, bool)> {
    (
        1u32..30_000,
        0u32..100,
        any::<u32>(),
        any::<i64>(),
        any::<i64>(),
        prop::collection::vec(any::<u8>(), 0..90),
        any::<bool>(),
    )
}

fn table() -> impl Strategy<Value = (i64, Vec<RowGroupInfo>)> {
    let groups = prop::collection::vec((prop::collection::vec(stripe(), 1..5), 0i64..9), 0..4);
    (0i64..1 << 40, groups).prop_map(|(start, groups)| {
        let (mut offset, mut position) = (start, FILE_MAGIC_BYTES);
        let mut row_groups = Vec::new();
        for (stripes, gap) in groups {
            let mut built = Vec::new();
            for (rows, before, bytes, low, high, runs, flag) in stripes {
                let first = offset + i64::from(before);
                let exceptions = match runs.len() {
                    0 => Exceptions::None,
                    1..=64 => Exceptions::Inline(runs.into()),
                    length => Exceptions::Tail { length: length as u32, crc32c: bytes },
                };
                built.push(StripeInfo {
                    start: offset,
                    first,
                    end: first + i64::from(rows),
                    rows,
                    records_bytes: u64::from(bytes) * 3,
                    min_timestamp: low.min(high),
                    max_timestamp: low.max(high),
                    header_levels: rows,
                    has_keys: flag,
                    has_headers: !flag,
                    exceptions,
                    page_bytes: [bytes, rows, 1, 0, u32::MAX, 77],
                });
                offset = first + i64::from(rows);
            }
            let mut group = RowGroupInfo::from_stripes(position, built);
            position += group.length;
            offset += gap;
            group.end_offset = offset;
            row_groups.push(group);
        }
        (start, row_groups)
    })
}

proptest! {
    #[test]
    fn any_table_reads_back(
        (start, groups) in table(),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let bytes = encode_table(&groups, start);
        prop_assert_eq!(&decode_table(&bytes, start), &Ok(groups));
        prop_assert!(decode_table(&bytes[..cut.index(bytes.len())], start).is_err());
        let mut flipped = bytes.clone();
        flipped[flip.index(bytes.len())] ^= 0x55;
        let _ = decode_table(&flipped, start);
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut table = vec![TABLE_VERSION];
        table.extend_from_slice(&bytes);
        let _ = decode_table(&table, 0);
        let _ = decode_table(&table, i64::MAX);
    }

    #[test]
    fn any_number_reads_back(value in any::<i64>()) {
        let mut bytes = Vec::new();
        put_signed(&mut bytes, value);
        put_unsigned(&mut bytes, value as u64);
        let mut varints = Varints::new(&bytes);
        prop_assert_eq!((varints.signed(), varints.unsigned()), (Some(value), Some(value as u64)));
        prop_assert_eq!(varints.remaining(), 0);
    }
}

#[test]
fn another_version_is_named() {
    assert_eq!(decode_table(&[9, 0], 0), Err(TableError::Version(9)));
    assert_eq!(decode_table(&[TABLE_VERSION, 0], 0), Ok(vec![]));
    assert_eq!(decode_table(&[], 0), Err(TableError::Malformed("empty")));
    let huge = [TABLE_VERSION, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(decode_table(&huge, 0), Err(TableError::Malformed("count exceeds the bytes")));
}
