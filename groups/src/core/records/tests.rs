//! Fixtures: bytes as Kafka's own classes write them must be read and written the same; any bytes at all give
//! a record or a typed error.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use highwater_model::TopicId;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn id() -> TopicId {
    TopicId(Uuid::from_u128(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f))
}

fn partitions() -> Partitions {
    Partitions::from([(id(), BTreeSet::from([1, 2]))])
}

/// Every kind of record, and `fixtures.txt` has what Kafka writes for it (`fixtures.jsh` made it).
fn every_kind() -> Vec<(&'static str, Record)> {
    let group = || Name::from("g");
    let member = || Name::from("m");
    let record = Record::new;
    let offset = |expires_ms, topic_id, leader_epoch| {
        Value::Offset(OffsetValue {
            offset: 42,
            leader_epoch,
            metadata: "meta".into(),
            committed_ms: 1_000,
            expires_ms,
            topic_id,
        })
    };
    let offset_key = || Key::Offset { group: group(), topic: "t".into(), partition: 3 };
    let classic_member = ClassicMemberValue {
        member_id: member(),
        instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 10_000,
        subscription: Bytes::from_static(&[1, 2]),
        assignment: Bytes::from_static(&[3]),
    };
    let said = MemberValue {
        instance_id: None,
        rack_id: Some("r".into()),
        client_id: "c".into(),
        client_host: "/h".into(),
        topic_names: BTreeSet::from(["t".into(), "u".into()]),
        topic_regex: Some("t.*".into()),
        rebalance_timeout_ms: 300_000,
        server_assignor: None,
        classic: None,
    };
    let classic = ClassicUse {
        session_timeout_ms: 10_000,
        protocols: vec![ClassicProtocol { name: "range".into(), metadata: Bytes::from_static(&[1, 2]) }],
    };
    let member_key = || Key::Member { group: group(), member: member() };
    let current = CurrentValue {
        epoch: 5,
        previous_epoch: 4,
        state: MemberState::UnrevokedPartitions,
        assigned: partitions(),
        pending_revocation: Partitions::from([(id(), BTreeSet::from([7]))]),
    };
    vec![
        ("offset", record(offset_key(), offset(None, Some(id()), 9))),
        ("offset-no-id", record(offset_key(), offset(None, None, -1))),
        ("offset-expires", record(offset_key(), offset(Some(2_000), None, -1))),
        (
            "classic",
            record(
                Key::Classic { group: group() },
                Value::Classic(ClassicValue {
                    protocol_type: "consumer".into(),
                    generation: 8,
                    protocol: Some("range".into()),
                    leader: Some(member()),
                    state_since_ms: 1_000,
                    members: vec![classic_member],
                }),
            ),
        ),
        (
            "classic-empty",
            record(
                Key::Classic { group: group() },
                Value::Classic(ClassicValue {
                    protocol_type: "".into(),
                    generation: 0,
                    protocol: None,
                    leader: None,
                    state_since_ms: -1,
                    members: Vec::new(),
                }),
            ),
        ),
        (
            "group",
            record(Key::Group { group: group() }, Value::Group(GroupValue { epoch: 5, metadata_hash: 0 })),
        ),
        (
            "group-hash",
            record(Key::Group { group: group() }, Value::Group(GroupValue { epoch: 5, metadata_hash: 258 })),
        ),
        ("member", record(member_key(), Value::Member(said.clone()))),
        (
            "member-classic",
            record(member_key(), Value::Member(MemberValue { classic: Some(classic), ..said })),
        ),
        ("target", record(Key::Target { group: group() }, Value::Target(5))),
        (
            "target-member",
            record(Key::TargetMember { group: group(), member: member() }, Value::TargetMember(partitions())),
        ),
        ("current", record(Key::Current { group: group(), member: member() }, Value::Current(current))),
        (
            "regex",
            record(
                Key::Regex { group: group(), regex: "t.*".into() },
                Value::Regex(RegexValue {
                    topics: BTreeSet::from(["t".into()]),
                    version: 6,
                    resolved_ms: 1_000,
                }),
            ),
        ),
    ]
}

/// Per line: name, key, value. The bytes come from Kafka's generated classes.
const FIXTURES: &str = include_str!("fixtures.txt");

#[test]
fn records_are_written_and_read_as_kafka_does() {
    let kinds = every_kind();
    let lines: Vec<Vec<&str>> = FIXTURES
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), kinds.len(), "a kind without a fixture");
    for (line, (name, record)) in lines.iter().zip(kinds) {
        let [fixture, key, value] = line[..] else { panic!("{line:?}") };
        assert_eq!(fixture, name);
        let (own_key, own_value) = record.encode();
        assert_eq!(to_hex(&own_key), key, "{name}: key");
        assert_eq!(to_hex(&own_value.expect("none is a tombstone")), value, "{name}: value");
        let read = Record::decode(&hex(key), Some(&hex(value)));
        assert_eq!(read, Ok(Some(record)), "{name}");
    }
}

/// Versions that this program never writes, computed by hand from Kafka's schemas.
#[test]
fn older_and_newer_versions_are_read() {
    let key = |kind: &str| hex(&format!("{kind} 0001 67 0001 74 00000003"));
    let offset = |bytes: &str| match Record::decode(&key("0001"), Some(&hex(bytes))).unwrap().unwrap().value {
        Some(Value::Offset(value)) => value,
        other => panic!("{other:?}"),
    };
    let plain = offset("0000 000000000000002a 0001 78 00000000000003e8");
    assert_eq!((plain.offset, plain.leader_epoch, &*plain.metadata), (42, -1, "x"));
    let never = offset("0001 000000000000002a 0000 00000000000003e8 ffffffffffffffff");
    assert_eq!(never.expires_ms, None);
    let third = offset("0003 000000000000002a 00000009 0000 00000000000003e8");
    assert_eq!((third.leader_epoch, third.committed_ms), (9, 1_000));
    let legacy = Record::decode(&key("0000"), None).unwrap().unwrap();
    assert!(matches!(legacy.key, Key::Offset { partition: 3, .. }), "kind 0 is an offset too");

    let classic =
        |bytes: &str| match Record::decode(&hex("0002 0001 67"), Some(&hex(bytes))).unwrap().unwrap().value {
            Some(Value::Classic(value)) => value,
            other => panic!("{other:?}"),
        };
    let first = classic(
        "0000 0001 78 00000002 ffff ffff 00000001 0001 6d 0001 63 0001 68 00002710 00000000 00000001 09",
    );
    assert_eq!((first.members[0].rebalance_timeout_ms, first.state_since_ms), (10_000, -1));
    assert_eq!(first.members[0].assignment, Bytes::from_static(&[9]));
    let fourth = classic(
        "0004 02 78 00000002 00 00 0000000000000001 02 026d 00 0263 0268 00000001 00002710 01 0209 00 00",
    );
    assert_eq!((fourth.generation, fourth.members.len()), (2, 1));

    // Kafka 4.3 adds tagged fields; they are skipped.
    let target = Record::decode(&hex("0006 0001 67"), Some(&hex("0000 00000005 01 00 08 0000000000000001")));
    assert_eq!(target.unwrap().unwrap().value, Some(Value::Target(5)));
    // A kind of another sort of group is left alone.
    assert_eq!(Record::decode(&hex("000a 0001 67"), Some(&hex("0000"))), Ok(None));
    let summary = Record::decode(&hex("0004 0001 67"), Some(&hex("0000 01 00"))).unwrap().unwrap();
    assert_eq!(summary.value, Some(Value::GroupTopics));
}

#[test]
fn damage_is_named() {
    let offset_key = hex("0001 0001 67 0001 74 00000003");
    assert_eq!(Record::decode(&[], None), Err(Damage::Short));
    assert_eq!(Record::decode(&hex("0002 0005 67"), None), Err(Damage::Short));
    assert_eq!(Record::decode(&hex("0002 fffe"), None), Err(Damage::Length));
    assert_eq!(Record::decode(&hex("0002 ffff"), None), Err(Damage::Null));
    assert_eq!(Record::decode(&hex("0002 0001 ff"), None), Err(Damage::Utf8));
    assert_eq!(Record::decode(&hex("0002 0001 67 00"), None), Err(Damage::Trailing));
    assert_eq!(Record::decode(&offset_key, Some(&hex("0005"))), Err(Damage::Version(5)));
    let group = hex("0003 0001 67");
    assert_eq!(Record::decode(&group, Some(&hex("0001 00000001 00"))), Err(Damage::Version(1)));
    // A count that no bytes stand for allocates nothing.
    let target = hex("0007 0001 67 0001 6d");
    assert_eq!(Record::decode(&target, Some(&hex("0000 ffffffff0f"))), Err(Damage::Length));
}

proptest! {
    #[test]
    fn any_bytes_give_a_record_or_an_error(
        kind in 0i16..20,
        key in prop::collection::vec(any::<u8>(), 0..40),
        value in prop::collection::vec(any::<u8>(), 0..120),
        version in 0i16..5,
    ) {
        let keys = [[&kind.to_be_bytes()[..], &key].concat(), [&kind.to_be_bytes()[..], &hex("0001 67 0001 6d")].concat()];
        let value = [&version.to_be_bytes()[..], &value].concat();
        for key in keys {
            if let Ok(Some(record)) = Record::decode(&key, Some(&value)) {
                prop_assert!(record.value.is_some());
            }
        }
    }

    #[test]
    fn a_flipped_byte_is_another_record_or_an_error(at in any::<prop::sample::Index>(), with in 1u8..) {
        for (name, record) in every_kind() {
            let (key, value) = record.encode();
            let mut value = value.unwrap().to_vec();
            let place = at.index(value.len());
            value[place] ^= with;
            if let Ok(read) = Record::decode(&key, Some(&value)) {
                // Null arrays read as empty ones, so bytes may differ and mean the same; never a panic.
                prop_assert!(read.is_some(), "{}", name);
            }
        }
    }
}
