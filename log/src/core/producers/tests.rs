use proptest::prelude::*;

use super::*;
use crate::core::stored;
use crate::core::transactions::ProducerState;

fn state(table: ProducerTable) -> ProducerState {
    ProducerState { table, ..ProducerState::default() }
}

fn header(producer_id: i64, epoch: i16, base_sequence: i32, records: i32) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 0,
        max_timestamp: 77,
        producer_id,
        producer_epoch: epoch,
        base_sequence,
        record_count: records,
    }
}

/// Plays a script of `epoch:sequence+records` words for producer 7 and writes what happened to each.
fn play(script: &str) -> String {
    let mut table = ProducerTable::default();
    let mut log_end = 0;
    let mut out = Vec::new();
    for word in script.split_whitespace() {
        let (epoch, rest) = word.split_once(':').expect("epoch:");
        let (sequence, records) = rest.split_once('+').expect("sequence+records");
        let number = |s: &str| s.replace("max", "2147483647").parse::<i64>().expect("number") as i32;
        let header = header(7, number(epoch) as i16, number(sequence), number(records));
        out.push(match table.check(&header) {
            Ok(Sequenced::New) => {
                let base = log_end;
                table.apply(&header, None, base, 0);
                log_end += i64::from(number(records));
                format!("@{base}")
            }
            Ok(Sequenced::Duplicate { base_offset, next_offset, max_timestamp: 77 }) => {
                format!("dup@{base_offset}..{next_offset}")
            }
            Ok(other) => format!("{other:?}"),
            Err(SequenceRefusal::OutOfOrder { expected, .. }) => format!("want{expected}"),
            Err(SequenceRefusal::Earlier { below, .. }) => format!("had<{below}"),
            Err(SequenceRefusal::StaleEpoch { current, .. }) => format!("fenced{current}"),
            Err(other) => format!("{other:?}"),
        });
    }
    out.join(" ")
}

#[test]
fn golden_scripts() {
    let scripts = [
        ("in order", "0:0+3 0:3+1 0:4+2", "@0 @3 @4"),
        (
            "duplicates of the last five",
            "0:0+1 0:1+1 0:2+1 0:3+1 0:4+1 0:0+1 0:4+1",
            "@0 @1 @2 @3 @4 dup@0..1 dup@4..5",
        ),
        (
            "a sixth pushes the first out",
            "0:0+1 0:1+1 0:2+1 0:3+1 0:4+1 0:5+1 0:0+1 0:1+1",
            "@0 @1 @2 @3 @4 @5 had<1 dup@1..2",
        ),
        (
            "whatever came before the last five without a gap",
            "0:0+2 0:2+3 0:5+1 0:6+1 0:7+1 0:8+1 0:9+1 0:0+2 0:2+3 0:0+5 0:1+1 0:4+2 0:10+1 0:5+1",
            "@0 @2 @5 @6 @7 @8 @9 had<5 had<5 had<5 had<5 want10 @10 had<6",
        ),
        (
            "not what came before the first that was seen",
            "0:7+1 0:8+1 0:9+1 0:10+1 0:11+1 0:12+1 0:6+1 0:6+2 0:7+1 0:14+1",
            "@0 @1 @2 @3 @4 @5 want13 want13 had<1 want13",
        ),
        (
            "of the present epoch alone",
            "0:0+1 0:1+1 0:2+1 0:3+1 0:4+1 0:5+1 1:0+1 0:0+1 1:3+1 1:max+1",
            "@0 @1 @2 @3 @4 @5 @6 fenced1 want1 want1",
        ),
        (
            "what came before the wrap",
            "0:2147483646+1 0:max+1 0:0+1 0:1+1 0:2+1 0:3+1 0:4+1 0:2147483646+1 0:2147483646+2 0:max+2",
            "@0 @1 @2 @3 @4 @5 @6 had<2 had<2 want5",
        ),
        ("a gap", "0:0+1 0:2+1 0:1+1", "@0 want1 @1"),
        ("same start, other length is no duplicate", "0:0+3 0:0+2 0:1+2", "@0 want3 want3"),
        ("no state: any sequence", "0:41+1 0:42+1", "@0 @1"),
        ("a new epoch starts at 0", "0:0+1 1:1+1 1:0+1 1:1+1", "@0 want0 @1 @2"),
        ("an old epoch is fenced", "3:0+1 2:0+1 2:1+1 3:1+1", "@0 fenced3 fenced3 @1"),
        ("a new epoch forgets old batches", "0:0+1 1:0+1 0:0+1 1:0+1", "@0 @1 fenced1 dup@1..2"),
        ("sequences wrap", "0:max+1 0:0+1 0:1+1 0:max+1", "@0 @1 @2 dup@0..1"),
        ("a batch across the wrap", "0:2147483646+4 0:2+1 0:2147483646+4", "@0 @4 dup@0..4"),
    ];
    for (name, script, expected) in scripts {
        assert_eq!(play(script), expected, "{name}");
    }
}

#[test]
fn batches_without_a_producer_leave_no_trace() {
    let mut table = ProducerTable::default();
    let plain = header(-1, -1, -1, 1);
    assert_eq!(table.check(&plain), Ok(Sequenced::New));
    table.apply(&plain, None, 0, 0);
    assert!(table.is_empty());
}

#[test]
fn refusals_have_kafkas_codes() {
    let mut table = ProducerTable::default();
    table.apply(&header(7, 1, 0, 1), None, 0, 0);
    assert_eq!(table.check(&header(7, 1, 5, 1)).expect_err("gap").error_code(), 45);
    assert_eq!(table.check(&header(7, 0, 1, 1)).expect_err("stale").error_code(), 47);
}

#[test]
fn what_is_committed_is_a_duplicate_and_what_is_not_may_be_sent_again() {
    let mut table = ProducerTable::default();
    for n in 0..7 {
        table.apply(&header(7, 0, n, 1), None, 100 + i64::from(n), 0);
    }
    let refusal = table.check(&header(7, 0, 1, 1)).expect_err("too old to know where");
    assert_eq!(refusal, SequenceRefusal::Earlier { producer_id: 7, given: 1, below: 102 });
    assert_eq!(refusal.error_code(), 20, "may come again");
    assert_eq!(refusal.at_high_watermark(101), refusal);
    let committed = refusal.at_high_watermark(102);
    assert_eq!(committed, SequenceRefusal::Duplicate { producer_id: 7, given: 1 });
    assert_eq!(committed.error_code(), 46, "taken for an acknowledgement");
    let gap = table.check(&header(7, 0, 9, 1)).expect_err("a gap");
    assert_eq!(gap.at_high_watermark(i64::MAX), gap);
}

#[test]
fn a_gap_in_the_log_ends_what_is_known_of_before() {
    // A log may hold one: the state that judged it had expired.
    let (mut table, mut end) = (ProducerTable::default(), 0);
    let mut apply = |table: &mut ProducerTable, sequence| {
        table.apply(&header(7, 0, sequence, 1), None, end, 0);
        end += 1;
    };
    let known = |table: &ProducerTable| -> Vec<i32> {
        let judged = |n: &i32| table.check(&header(7, 0, *n, 1));
        (0..40).filter(|n| matches!(judged(n), Err(SequenceRefusal::Earlier { .. }))).collect()
    };
    (0..7).chain(20..23).for_each(|sequence| apply(&mut table, sequence));
    assert_eq!(known(&table), [0, 1, 2, 3, 4], "5, 6, 20, 21 and 22 are known one by one");
    (23..27).for_each(|sequence| apply(&mut table, sequence));
    assert_eq!(known(&table), [20, 21]);
}

#[test]
fn how_far_back_sequences_are_known_is_stored_and_older_versions_do_not_say() {
    let mut table = ProducerTable::default();
    for n in 0..5 {
        table.apply(&header(7, 0, n, 1), None, i64::from(n), 0);
    }
    let version = |bytes: &[u8]| u16::from_le_bytes([bytes[4], bytes[5]]);
    assert_eq!(version(&state(table.clone()).encode(5)), 1, "nothing that version 1 could not tell");
    table.apply(&header(7, 0, 5, 1), None, 5, 0);
    let new = state(table.clone()).encode(6);
    assert_eq!(version(&new), PRODUCERS_VERSION);
    assert_eq!(ProducerState::decode(&new).expect("just written").1, state(table.clone()));

    // As an older release has stored it after more than five batches.
    table.producers.get_mut(&7).expect("known").before = 0;
    let stored = state(table).encode(6);
    assert_eq!(version(&stored), 1);
    let mut loaded = ProducerState::decode(&stored).expect("loads").1.table;
    let judged = |table: &ProducerTable, n| table.check(&header(7, 0, n, 1)).expect_err("old").error_code();
    assert_eq!(judged(&loaded, 0), 45, "it may never have been there");
    loaded.apply(&header(7, 0, 6, 1), None, 6, 0);
    assert_eq!((judged(&loaded, 0), judged(&loaded, 1)), (45, 20), "1 was known when it was loaded");
}

#[test]
fn silence_expires_by_append_time() {
    let mut table = ProducerTable::default();
    table.apply(&header(1, 0, 0, 1), None, 0, 1_000);
    table.apply(&header(2, 0, 0, 1), None, 1, 5_000);
    assert_eq!(table.expire(5_999, 5_000), 0);
    assert_eq!(table.expire(6_000, 5_000), 1);
    assert_eq!(table.check(&header(1, 0, 9, 1)), Ok(Sequenced::New), "forgotten: starts anywhere");
    assert!(table.check(&header(2, 0, 9, 1)).is_err());
}

#[test]
fn the_table_is_bounded() {
    let mut table = ProducerTable::default();
    for id in 0..PRODUCERS_PER_PARTITION_MAX as i64 + 10 {
        table.apply(&header(id, 0, 0, 1), None, id, id);
    }
    assert!(table.len() <= PRODUCERS_PER_PARTITION_MAX);
    assert!(table.check(&header(PRODUCERS_PER_PARTITION_MAX as i64, 0, 5, 1)).is_err(), "the newest stay");
    let bytes = state(table).encode(1 << 40);
    assert!((bytes.len() as u64) < highwater_model::limits::SIDE_FILE_BYTES_MAX);
}

fn filled(batches: &[(i64, i16, i32)]) -> (ProducerTable, i64) {
    let mut table = ProducerTable::default();
    let mut end = 0;
    for &(id, epoch, records) in batches {
        let sequence = end as i32;
        table.apply(&header(id, epoch, sequence, records), None, end, end);
        end += i64::from(records);
    }
    (table, end)
}

proptest! {
    #[test]
    fn stored_form_comes_back(batches in prop::collection::vec((0i64..9, 0i16..3, 1i32..9), 0..60)) {
        let (table, end) = filled(&batches);
        let state = state(table);
        prop_assert_eq!(ProducerState::decode(&state.encode(end)).expect("just written"), (end, state));
    }

    #[test]
    fn damage_is_an_error_never_a_panic(
        batches in prop::collection::vec((0i64..9, 0i16..3, 1i32..9), 0..20),
        at in 0usize..10_000, bit in 0u8..8, noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (table, end) = filled(&batches);
        let mut file = state(table).encode(end);
        let at = at % file.len();
        file[at] ^= 1 << bit;
        prop_assert!(ProducerState::decode(&file).is_err());
        prop_assert!(ProducerState::decode(&file[..at]).is_err());
        // A valid frame around noise reaches the body's own checks; it may only be accepted if it obeys them.
        for version in 1..=PRODUCERS_VERSION {
            let framed = stored::frame(PRODUCERS_MAGIC, version, &noise);
            if let Ok((end, state)) = ProducerState::decode(&framed) {
                prop_assert_eq!(ProducerState::decode(&state.encode(end)).expect("obeys"), (end, state));
            }
        }
    }

    #[test]
    fn whatever_is_sent_again_is_never_appended_twice(
        sends in prop::collection::vec((0usize..12, 1i32..4), 1..60),
    ) {
        // A client sends batches in order and may resend any of its last ones.
        let mut table = ProducerTable::default();
        let mut appended: Vec<(i32, i32, i64)> = Vec::new();
        let (mut next, mut end) = (0, 0i64);
        for (back, records) in sends {
            let (sequence, records) = match appended.len().checked_sub(back).and_then(|i| appended.get(i)) {
                Some(&(sequence, records, _)) => (sequence, records),
                None => (next, records),
            };
            let h = header(3, 0, sequence, records);
            match table.check(&h) {
                Ok(Sequenced::New) => {
                    prop_assert_eq!(sequence, next);
                    table.apply(&h, None, end, 0);
                    appended.push((sequence, records, end));
                    next += records;
                    end += i64::from(records);
                }
                Ok(Sequenced::Duplicate { base_offset, .. }) => {
                    prop_assert!(appended.contains(&(sequence, records, base_offset)));
                }
                Err(SequenceRefusal::Earlier { below, .. }) => {
                    let known = appended.iter().find(|known| known.0 == sequence).expect("was appended");
                    prop_assert!(known.2 + i64::from(records) <= below, "it stands there");
                }
                Err(refusal) => prop_assert!(false, "everything was seen without a gap: {refusal}"),
            }
        }
    }
}
