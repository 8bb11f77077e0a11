use proptest::prelude::*;

use super::*;
use crate::core::producers::{SequenceRefusal, Sequenced};

const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

fn header(producer_id: i64, epoch: i16, base_sequence: i32, records: i32, attributes: i16) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        batch_length: 100,
        leader_epoch: 0,
        magic: 2,
        crc: 0,
        attributes,
        last_offset_delta: records - 1,
        base_timestamp: 0,
        max_timestamp: 77,
        producer_id,
        producer_epoch: epoch,
        base_sequence,
        record_count: records,
    }
}

/// Plays a script: `7/0:3+2t` is a transactional batch of producer 7, epoch 0, sequence 3, two records
/// (without
/// `t` an idempotent one), `7/0c5` a commit marker of coordinator epoch 5, `a` an abort, a doubled letter one
/// whose epoch must be new, `lso@9` the last stable offset under high watermark 9, `hw@9` forgets what ended
/// below it, `aborted@0..9` lists.
fn play(script: &str) -> String {
    let (mut state, mut log_end) = (ProducerState::default(), 0i64);
    let mut out = Vec::new();
    for word in script.split_whitespace() {
        out.push(match word.split_once('@') {
            Some(("lso", hw)) => state.last_stable(hw.parse().expect("offset")).to_string(),
            Some(("hw", hw)) => {
                state.ended.forget_below(hw.parse().expect("offset"));
                format!("({})", state.ended.len())
            }
            Some((_, range)) => {
                let (start, end) = range.split_once("..").expect("range");
                let (start, end) = (start.parse().expect("offset"), end.parse().expect("offset"));
                let found: Vec<_> = concerning(&state.aborted, start, end)
                    .map(|t| format!("{}:{}-{}", t.producer_id, t.first, t.marker))
                    .collect();
                format!("[{}]", found.join(","))
            }
            None => batch(&mut state, &mut log_end, word),
        });
    }
    out.join(" ")
}

fn batch(state: &mut ProducerState, log_end: &mut i64, word: &str) -> String {
    let (id, rest) = word.split_once('/').expect("id/");
    let id: i64 = id.parse().expect("id");
    let (header, marker) = match rest.split_once(':') {
        Some((epoch, rest)) => {
            let (sequence, records) = rest.split_once('+').expect("sequence+records");
            let bits = if records.ends_with('t') { TRANSACTIONAL } else { 0 };
            let records = records.trim_end_matches('t').parse().expect("records");
            let (epoch, sequence) = (epoch.parse().expect("epoch"), sequence.parse().expect("sequence"));
            (header(id, epoch, sequence, records, bits), None)
        }
        None => {
            let at = rest.find(['c', 'a']).expect("c or a");
            let epoch = rest[..at].parse().expect("epoch");
            let letters = rest[at..].trim_end_matches(|c: char| c.is_ascii_digit());
            let coordinator_epoch = rest[at + letters.len()..].parse().expect("coordinator epoch");
            let marker = EndMarker { commit: letters.starts_with('c'), coordinator_epoch };
            if let Err(refusal) = state.table.check_marker(id, epoch, marker, letters.len() == 2) {
                return told(&refusal);
            }
            (header(id, epoch, -1, 1, TRANSACTIONAL | CONTROL), Some(marker))
        }
    };
    if marker.is_none() {
        match state.table.check(&header) {
            Ok(Sequenced::New) => {}
            Ok(Sequenced::Duplicate { base_offset, .. }) => return format!("dup@{base_offset}"),
            Err(refusal) => return told(&refusal),
        }
    }
    let base = *log_end;
    state.apply(&header, marker, base, 0);
    *log_end += i64::from(header.record_count);
    format!("@{base}")
}

fn told(refusal: &SequenceRefusal) -> String {
    match refusal {
        SequenceRefusal::OutOfOrder { expected, .. } => format!("want{expected}"),
        SequenceRefusal::StaleEpoch { current, .. } => format!("fenced{current}"),
        SequenceRefusal::NotTransactional(_) => "not-in-transaction".to_owned(),
        SequenceRefusal::StillOpen { open, .. } => format!("open{open}"),
        SequenceRefusal::CoordinatorFenced { current, .. } => format!("coordinator{current}"),
        SequenceRefusal::Earlier { below, .. } => format!("had<{below}"),
        SequenceRefusal::Duplicate { .. } => "duplicate".to_owned(),
        SequenceRefusal::Unverified(_) | SequenceRefusal::TooManyOpen(_) => format!("{refusal:?}"),
    }
}

#[test]
fn golden_scripts() {
    let scripts = [
        ("nothing open", "1/0:0+3 lso@3 lso@2", "@0 3 2"),
        ("an open one holds it", "1/0:0+3 7/0:0+2t 1/0:3+1 lso@6", "@0 @3 @5 3"),
        ("a commit frees it when it is committed", "7/0:0+2t 7/0c1 lso@2 lso@3 aborted@0..9", "@0 @2 0 3 []"),
        ("and so does an abort", "7/0:0+2t 7/0a1 lso@2 lso@3 aborted@0..9", "@0 @2 0 3 [7:0-2]"),
        ("the oldest of several", "7/0:0+1t 8/0:0+1t 7/0c1 lso@3 8/0c1 lso@3 lso@4", "@0 @1 @2 1 @3 1 4"),
        (
            "an ended one under an open one",
            "7/0:0+1t 8/0:0+1t 7/0c1 lso@2 lso@3 hw@3 lso@3",
            "@0 @1 @2 0 1 (0) 1",
        ),
        (
            "aborted ones by range",
            "7/0:0+2t 8/0:0+2t 7/0a1 8/0a1 7/0:2+1t 7/0a1 aborted@0..1 aborted@2..3 aborted@5..6 aborted@6..9 \
             aborted@8..9",
            "@0 @2 @4 @5 @6 @7 [7:0-4] [7:0-4,8:2-5] [8:2-5] [7:6-7] []",
        ),
        ("an empty transaction leaves no trace", "7/0a1 lso@1 aborted@0..9 7/0:0+1t lso@2", "@0 1 [] @1 1"),
        ("the same epoch goes on with its sequences", "7/0:0+2t 7/0c1 7/0:2+1t 7/0:0+2t", "@0 @2 @3 dup@0"),
        ("a new epoch starts at 0", "7/0:0+2t 7/1cc1 7/1:2+1t 7/1:0+1t 7/1:1+1t", "@0 @2 want0 @3 @4"),
        ("a marker fences", "7/0:0+2t 7/1aa1 7/0:2+1t 7/0:2+1 7/1:0+1t", "@0 @2 fenced1 fenced1 @3"),
        (
            "a marker that comes twice ends nothing new",
            "7/0:0+1t 7/1cc1 7/1:0+1t 7/1cc1 7/1aa2 lso@9 7/2aa2 lso@9",
            "@0 @1 @2 fenced1 fenced1 2 @3 9",
        ),
        ("an older coordinator is refused", "7/0:0+1t 7/1cc5 7/2cc4 7/2cc5", "@0 @1 coordinator5 @2"),
        ("an older epoch's marker is refused", "7/3:0+1t 7/2a1 7/2aa1 7/3a1", "@0 fenced3 fenced3 @1"),
        (
            "out of the transaction",
            "7/0:0+1t 7/0:1+1 7/0c1 7/0:1+1 7/0:2+1t",
            "@0 not-in-transaction @1 @2 @3",
        ),
        ("a newer epoch does not join", "7/0:0+1t 7/1:0+1t 7/1a1 7/1:0+1t", "@0 open0 @1 @2"),
        ("a marker for one who wrote nothing", "7/4cc1 7/3:0+1t 7/4:1+1t 7/4:0+1t", "@0 fenced4 want0 @1"),
    ];
    for (name, script, expected) in scripts {
        assert_eq!(play(script), expected, "{name}");
    }
}

#[test]
fn refusals_have_kafkas_codes() {
    let codes = [
        (SequenceRefusal::NotTransactional(7), 48),
        (SequenceRefusal::Unverified(7), 48),
        (SequenceRefusal::StillOpen { producer_id: 7, open: 0 }, 51),
        (SequenceRefusal::TooManyOpen(5_000), 7),
        (SequenceRefusal::CoordinatorFenced { producer_id: 7, given: 0, current: 1 }, 52),
    ];
    for (refusal, code) in codes {
        assert_eq!(refusal.error_code(), code, "{refusal}");
    }
}

#[test]
fn open_transactions_are_never_forgotten_and_bounded() {
    use highwater_model::limits::{PRODUCERS_PER_PARTITION_MAX, TXN_OPEN_PER_PARTITION_MAX};
    let mut state = ProducerState::default();
    let open = |state: &mut ProducerState, id: i64| {
        let header = header(id, 0, 0, 1, TRANSACTIONAL);
        let judged = state.table.check(&header);
        if judged == Ok(Sequenced::New) {
            state.apply(&header, None, id, id);
        }
        judged
    };
    for id in 0..TXN_OPEN_PER_PARTITION_MAX as i64 {
        assert_eq!(open(&mut state, id), Ok(Sequenced::New));
    }
    let one_more = TXN_OPEN_PER_PARTITION_MAX as i64;
    assert_eq!(open(&mut state, one_more), Err(SequenceRefusal::TooManyOpen(TXN_OPEN_PER_PARTITION_MAX)));
    for id in one_more..one_more + 2 * PRODUCERS_PER_PARTITION_MAX as i64 {
        state.apply(&header(id, 0, 0, 1, 0), None, id, id);
    }
    assert!(state.table.len() <= PRODUCERS_PER_PARTITION_MAX + TXN_OPEN_PER_PARTITION_MAX);
    let idle = state.table.len() - TXN_OPEN_PER_PARTITION_MAX;
    assert_eq!(state.table.expire(i64::MAX, 1), idle);
    assert_eq!(state.table.iter().filter(|p| p.txn_first.is_some()).count(), TXN_OPEN_PER_PARTITION_MAX);
    assert_eq!(state.last_stable(1 << 40), 0);
}

#[test]
fn ended_ones_beyond_the_limit_become_one() {
    let mut ended = EndedTxns::default();
    let count = TXN_ENDED_PER_PARTITION_MAX as i64 + 10;
    for n in 0..count {
        ended.note(n * 10, n * 10 + 5);
    }
    assert_eq!(ended.len(), TXN_ENDED_PER_PARTITION_MAX);
    assert_eq!(ended.first_unstable(3), Some(0), "lower than need be, never higher");
    assert_eq!(ended.first_unstable(count * 10 - 12), Some(count * 10 - 10));
    ended.forget_below(count * 10);
    assert!(ended.is_empty());
}

/// Producer, first offset, and the marker's offset with what it says.
type Txn = (i64, i64, Option<(i64, bool)>);

/// What a log of these batches means, worked out from the whole of it each time.
#[derive(Clone, Debug, Default)]
struct Naive {
    /// Producer, first offset, records, transactional, and what it says if it is a marker.
    batches: Vec<(i64, i64, i64, bool, Option<bool>)>,
}

impl Naive {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |b| b.1 + b.2)
    }

    fn transactions(&self) -> Vec<Txn> {
        let mut found: Vec<Txn> = Vec::new();
        for (producer, offset, _, transactional, marker) in &self.batches {
            let open = found.iter_mut().find(|t| t.0 == *producer && t.2.is_none());
            match (open, marker) {
                (Some(txn), Some(commit)) => txn.2 = Some((*offset, *commit)),
                (None, None) if *transactional => found.push((*producer, *offset, None)),
                _ => {}
            }
        }
        found
    }

    fn last_stable(&self, high_watermark: i64) -> i64 {
        let unstable = self.transactions().into_iter().filter(|t| t.2.is_none_or(|m| m.0 >= high_watermark));
        unstable.map(|t| t.1).min().unwrap_or(i64::MAX).min(high_watermark)
    }

    fn aborted(&self, start: i64, end: i64) -> Vec<AbortedTxn> {
        let aborted = self.transactions().into_iter().filter_map(|(producer_id, first, marker)| {
            let (marker, _) = marker.filter(|(_, commit)| !commit)?;
            (first < end && marker >= start).then_some(AbortedTxn { producer_id, first, marker })
        });
        let mut aborted: Vec<_> = aborted.collect();
        aborted.sort_by_key(|txn| txn.marker);
        aborted
    }
}

proptest! {
    #[test]
    fn as_the_naive_reading_of_the_log_says(
        steps in prop::collection::vec((0i64..5, 1i32..4, 0u8..8), 1..80),
        cut in 0usize..80, hw in 0i64..200, start in 0i64..100, length in 0i64..100,
    ) {
        let (mut state, mut naive) = (ProducerState::default(), Naive::default());
        let mut sequences = [0i32; 5];
        for (n, (producer, records, kind)) in steps.into_iter().enumerate() {
            let marker = (kind < 2).then_some(EndMarker { commit: kind == 0, coordinator_epoch: 0 });
            let records = if marker.is_some() { 1 } else { records };
            let bits = match kind {
                0 | 1 => TRANSACTIONAL | CONTROL,
                2..=5 => TRANSACTIONAL,
                _ => 0,
            };
            let sequence = if marker.is_some() { -1 } else { sequences[producer as usize] };
            let header = header(producer, 0, sequence, records, bits);
            if marker.is_none() {
                match state.table.check(&header) {
                    Ok(judged) => prop_assert_eq!(judged, Sequenced::New),
                    Err(refusal) => {
                        prop_assert!(matches!(refusal, SequenceRefusal::NotTransactional(_)), "{}", refusal);
                        continue;
                    }
                }
                sequences[producer as usize] += records;
            }
            let base = naive.end();
            state.apply(&header, marker, base, 0);
            let says = marker.map(|m| m.commit);
            naive.batches.push((producer, base, i64::from(records), bits != 0, says));
            if n == cut {
                // A snapshot brings everything back.
                let stored = state.encode(naive.end());
                prop_assert_eq!(ProducerState::decode(&stored), Ok((naive.end(), state.clone())));
            }
            let hw = hw.min(naive.end());
            prop_assert_eq!(state.last_stable(hw), naive.last_stable(hw));
        }
        let found: Vec<_> = concerning(&state.aborted, start, start + length).collect();
        prop_assert_eq!(found, naive.aborted(start, start + length));
        let opened: Vec<_> = state.table.iter().filter_map(|p| p.txn_first).collect();
        let mut expected: Vec<_> =
            naive.transactions().into_iter().filter(|t| t.2.is_none()).map(|t| (t.0, t.1)).collect();
        expected.sort_unstable();
        prop_assert_eq!(opened, expected.into_iter().map(|t| t.1).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_an_error_never_a_panic(
        steps in prop::collection::vec((0i64..5, 0u8..3), 0..40), at in 0usize..10_000, bit in 0u8..8,
    ) {
        let mut state = ProducerState::default();
        for (n, (producer, kind)) in steps.into_iter().enumerate() {
            let marker = (kind > 0).then_some(EndMarker { commit: kind == 1, coordinator_epoch: 3 });
            let bits = if kind > 0 { TRANSACTIONAL | CONTROL } else { TRANSACTIONAL };
            let sequence = if kind > 0 { -1 } else { n as i32 };
            state.apply(&header(producer, 0, sequence, 1, bits), marker, n as i64, 0);
        }
        let mut file = state.encode(100);
        let at = at % file.len();
        prop_assert!(ProducerState::decode(&file[..at]).is_err());
        file[at] ^= 1 << bit;
        prop_assert!(ProducerState::decode(&file).is_err());
    }
}

#[test]
fn a_marker_of_no_possible_coordinator_leaves_a_state_that_can_be_read_back() {
    let mut state = ProducerState::default();
    state.apply(&header(7, 0, 0, 1, TRANSACTIONAL), None, 0, 5);
    let marker = EndMarker { commit: true, coordinator_epoch: i32::MIN };
    state.apply(&header(7, 0, -1, 1, TRANSACTIONAL | CONTROL), Some(marker), 1, 5);
    state.apply(&header(8, 0, 0, 1, TRANSACTIONAL), None, 2, 5);
    assert_eq!(ProducerState::decode(&state.encode(3)), Ok((3, state)));
}
