//! The tables of an index: lookups, and what `check` refuses.

use uuid::Uuid;

use super::*;

fn stripe(start: Offset, first: Offset, end: Offset, rows: u32) -> StripeInfo {
    StripeInfo {
        start,
        first,
        end,
        rows,
        records_bytes: 100,
        min_timestamp: first,
        max_timestamp: end,
        header_levels: rows,
        has_keys: true,
        has_headers: false,
        exceptions: Exceptions::None,
        page_bytes: [10, 20, 30, 40, 50, 60],
    }
}

pub fn index() -> ObjectIndex {
    let first = RowGroupInfo::from_stripes(4, vec![stripe(10, 10, 20, 10), stripe(20, 22, 30, 5)]);
    let mut second = RowGroupInfo::from_stripes(4 + first.length, vec![stripe(30, 35, 40, 5)]);
    second.end_offset = 50;
    ObjectIndex {
        identity: ObjectIdentity {
            cluster_id: "c".into(),
            topic: "t".into(),
            topic_id: TopicId(Uuid::from_u128(1)),
            partition: 0,
            start: 10,
            end: 50,
            leader_epoch: 3,
            upload_id: Uuid::from_u128(2),
        },
        compression: Compression::Zstd,
        value_format: ValueFormat::Bytes,
        compacted: false,
        epochs: vec![EpochStart { epoch: 1, start_offset: 5 }, EpochStart { epoch: 3, start_offset: 25 }],
        timestamp_types: vec![TimestampTypeRun { start: 10, log_append: true }],
        producer_snapshot: vec![1, 2, 3],
        row_groups: vec![first, second],
        object_bytes: 2000,
    }
}

#[test]
fn offsets_find_their_row_group_and_stripe() {
    let index = index();
    index.check().expect("consistent");
    for (offset, group, stripe) in [
        (0, Some(0), Some(0)),
        (10, Some(0), Some(0)),
        (20, Some(0), Some(1)),
        (21, Some(0), Some(1)),
        (29, Some(0), Some(1)),
        (30, Some(1), Some(0)),
        (40, Some(1), None),
        (49, Some(1), None),
        (50, None, None),
    ] {
        assert_eq!(index.row_group_for_offset(offset), group, "offset {offset}");
        let found = group.and_then(|g| index.row_groups[g].stripe_for_offset(offset));
        assert_eq!(found, stripe, "offset {offset}");
    }
    assert_eq!((index.epoch_at(10), index.epoch_at(24), index.epoch_at(25)), (1, 1, 3));
    assert_eq!((index.next_cut(10), index.next_cut(25)), (25, Offset::MAX));
    assert_eq!(index.row_group_for_timestamp(31), Some(1));
    assert_eq!(index.row_group_for_timestamp(41), None);
}

#[test]
fn pages_lie_one_after_another() {
    let group = &index().row_groups[0];
    assert_eq!(group.length, 2 * 210);
    assert_eq!(group.page_range(0, 0), 0..10);
    assert_eq!(group.page_range(0, 1), 10..20);
    assert_eq!(group.page_range(1, 0), 20..40);
    assert_eq!(group.page_range(5, 1), 360..420);
}

#[test]
fn contradictions_are_refused() {
    type Break = fn(&mut ObjectIndex);
    let breaks: [(&str, Break); 14] = [
        ("start above end", |i| i.identity.end = 9),
        ("end before the last row group", |i| i.identity.end = 45),
        ("no epochs", |i| i.epochs.clear()),
        ("epochs start late", |i| i.epochs[0].start_offset = 11),
        ("epochs go back", |i| i.epochs[1].epoch = 1),
        ("no timestamp types", |i| i.timestamp_types.clear()),
        ("row groups apart", |i| i.row_groups[1].start_offset = 31),
        ("bytes apart", |i| i.row_groups[1].position += 1),
        ("longer than its pages", |i| i.row_groups[0].length += 1),
        ("outside the object", |i| i.object_bytes = 600),
        ("more rows than offsets", |i| i.row_groups[0].stripes[0].rows = 11),
        ("no rows", |i| i.row_groups[0].stripes[0].rows = 0),
        ("stripes overlap", |i| i.row_groups[0].stripes[1].start = 19),
        ("wrong maximum", |i| i.row_groups[0].max_timestamp = 99),
    ];
    for (what, damage) in breaks {
        let mut broken = index();
        damage(&mut broken);
        assert!(broken.check().is_err(), "{what}");
    }
}
