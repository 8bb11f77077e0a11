//! The stored records: Kafka's own bytes, round trips, damage.

use proptest::prelude::*;

use super::*;
use crate::core::codec::Damage;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(text, 16).expect("hex")
    };
    digits.chunks(2).map(pair).collect()
}

fn transaction(state: TxnState) -> Transaction {
    Transaction {
        producer_id: 4_000,
        previous_producer_id: 4_000,
        next_producer_id: -1,
        epoch: 7,
        last_epoch: -1,
        timeout_ms: 60_000,
        state,
        partitions: Default::default(),
        started_ms: -1,
        updated_ms: 1_700_000_000_123,
        version: ClientVersion::V0,
    }
}

/// Written by Kafka's own `TransactionLogValue` and `TransactionLogKey`: see `Fixtures.java` beside this
/// file.
#[test]
fn kafkas_own_records_are_read_and_written() {
    let fixtures = include_str!("kafka-records.txt");
    let lines: Vec<(&str, Vec<u8>)> = fixtures
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(' ').map(|(name, bytes)| (name, hex(bytes))).expect("name bytes"))
        .collect();
    let bytes = |name: &str| &lines.iter().find(|(n, _)| *n == name).expect(name).1[..];
    assert_eq!(decode_key(bytes("key")).as_deref(), Ok("my-app-0"));
    assert_eq!(encode_key("my-app-0"), bytes("key"));

    let empty = transaction(TxnState::Empty);
    assert_eq!(decode_value(bytes("empty-v1")), Ok(empty.clone()));
    assert_eq!(encode_value(&empty), bytes("empty-v1"));

    let partitions = [("orders", 0), ("orders", 11), ("__consumer_offsets", 42)];
    let ongoing = Transaction {
        partitions: partitions.iter().map(|(t, p)| TxnPartition::new(*t, *p)).collect(),
        started_ms: 1_700_000_000_001,
        version: ClientVersion::V2,
        ..transaction(TxnState::Ongoing)
    };
    assert_eq!(decode_value(bytes("ongoing-v1")), Ok(ongoing.clone()));
    assert_eq!(encode_value(&ongoing), bytes("ongoing-v1"));

    let out_of_epochs = Transaction {
        epoch: i16::MAX,
        next_producer_id: 5_000,
        state: TxnState::PrepareCommit,
        ..ongoing.clone()
    };
    assert_eq!(decode_value(bytes("prepare-commit-v1")), Ok(out_of_epochs.clone()));
    assert_eq!(encode_value(&out_of_epochs), bytes("prepare-commit-v1"));

    let complete = Transaction {
        started_ms: 1_700_000_000_001,
        version: ClientVersion::V2,
        ..transaction(TxnState::CompleteAbort)
    };
    assert_eq!(decode_value(bytes("complete-abort-v1")), Ok(complete.clone()));
    assert_eq!(encode_value(&complete), bytes("complete-abort-v1"));

    let old = Transaction { previous_producer_id: -1, version: ClientVersion::V0, ..ongoing };
    assert_eq!(decode_value(bytes("ongoing-v0")), Ok(old), "as brokers wrote it before version 1");
    let old = Transaction { previous_producer_id: -1, ..empty };
    assert_eq!(decode_value(bytes("empty-v0")), Ok(old));
}

#[test]
fn unknown_kinds_and_versions() {
    assert_eq!(decode_key(&[0, 1, 0, 0]), Err(Damage::Version(1)));
    assert_eq!(decode_value(&[0, 2]), Err(Damage::Version(2)));
    let mut loader = Loader::default();
    assert_eq!(loader.take(&[0, 1, 0, 0], Some(&[])), Ok(()), "another kind of record is left out");
    assert_eq!((loader.unknown_keys(), loader.len()), (1, 0));
    assert!(loader.take(&encode_key("a"), Some(&[0, 2])).is_err(), "the last state of an id is not known");
    // States that only memory has, and a transaction without an epoch.
    for (at, value) in [(16, 6), (16, 7), (16, 99), (10, 0xff)] {
        let mut bytes = encode_value(&transaction(TxnState::Empty)).to_vec();
        bytes[at] = value;
        assert!(decode_value(&bytes).is_err(), "byte {at} = {value}");
    }
}

pub(super) fn any_transaction() -> impl Strategy<Value = Transaction> {
    let partitions = prop::collection::btree_set(("[a-c]{1,3}", 0i32..40), 0..30);
    let ids = (0i64..1 << 40, -1i64..1 << 40, -1i64..1 << 40);
    let epochs = prop_oneof![0i16..=i16::MAX, i16::MAX - 3..=i16::MAX];
    let times = (any::<i64>(), any::<i64>(), 1i32..i32::MAX);
    (ids, epochs, times, 0usize..6, partitions, 0i16..3).prop_map(
        |(ids, epoch, (updated_ms, started_ms, timeout_ms), state, partitions, level)| {
            let state = TxnState::ALL[state];
            let has = |yes: bool| usize::from(yes) * partitions.len();
            let count = has(!state.is_idle());
            Transaction {
                producer_id: ids.0,
                previous_producer_id: ids.1,
                next_producer_id: if state.is_prepared() && ids.2 != ids.0 { ids.2 } else { -1 },
                epoch,
                last_epoch: -1,
                timeout_ms,
                state,
                partitions: partitions
                    .into_iter()
                    .take(count)
                    .map(|(topic, partition)| TxnPartition::new(topic, partition))
                    .collect(),
                started_ms,
                updated_ms,
                version: ClientVersion::from_level(level).expect("0 to 2"),
            }
        },
    )
}

proptest! {
    #[test]
    fn values_come_back(txn in any_transaction()) {
        prop_assert_eq!(decode_value(&encode_value(&txn)), Ok(txn));
    }

    #[test]
    fn damage_is_an_error_or_another_transaction_never_a_panic(
        txn in any_transaction(), at in 0usize..10_000, bit in 0u8..8,
        noise in prop::collection::vec(any::<u8>(), 0..300), id in ".{0,50}",
    ) {
        let mut bytes = encode_value(&txn).to_vec();
        let at = at % bytes.len();
        prop_assert!(decode_value(&bytes[..at]).is_err(), "cut at {}", at);
        bytes[at] ^= 1 << bit;
        if let Ok(other) = decode_value(&bytes) {
            prop_assert_eq!(decode_value(&encode_value(&other)), Ok(other));
        }
        let _ = decode_value(&noise);
        let _ = decode_key(&noise);
        let versioned = [&[0, 1][..], &noise].concat();
        let _ = decode_value(&versioned);
        let name: Name = id.as_str().into();
        prop_assert_eq!(decode_key(&encode_key(&id)), Ok(name));
    }
}

/// The count of an array is checked before anything is kept for it.
#[test]
fn a_claimed_count_allocates_nothing() {
    let mut value = encode_value(&transaction(TxnState::Ongoing)).to_vec();
    // Version, id, epoch, timeout and state lie before the count.
    value.truncate(2 + 8 + 2 + 4 + 1);
    value.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(decode_value(&Bytes::from(value)), Err(Damage::Length));
}
