//! Logs that this program did not write, or that lost records: whatever they say, the shard loads and goes
//! on.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::records::{
    ClassicMemberValue, ClassicProtocol, ClassicUse, ClassicValue, CurrentValue, GroupValue, Key,
    MemberState, MemberValue, OffsetValue, RegexValue, Value,
};
use super::super::types::Millis;
use super::*;

fn group(n: u8) -> Name {
    Name::from(["g", "h"][usize::from(n % 2)])
}

fn member(n: u8) -> Name {
    Name::from(["m0", "m1", "m2", "m3"][usize::from(n % 4)])
}

fn some_partitions(n: u8) -> Partitions {
    partitions(["", "a0", "a1.b0", "a0.a1.b1", "z9"][usize::from(n % 5)])
}

fn current((a, b, c): (u8, u8, u8)) -> Value {
    let states = [MemberState::Stable, MemberState::UnrevokedPartitions, MemberState::UnreleasedPartitions];
    Value::Current(CurrentValue {
        epoch: i32::from(a % 9) - 2,
        previous_epoch: i32::from(b % 7) - 2,
        state: states[usize::from(c % 3)],
        assigned: some_partitions(a / 8),
        pending_revocation: some_partitions(b / 8),
    })
}

fn said((a, b, c): (u8, u8, u8)) -> Value {
    let protocols = vec![ClassicProtocol {
        name: ["range", "sticky"][usize::from(b % 2)].into(),
        metadata: if c % 5 == 0 { Bytes::from_static(&[9]) } else { subscription("a,b") },
    }];
    Value::Member(MemberValue {
        instance_id: (a % 3 == 0).then(|| Name::from("i")),
        rack_id: None,
        client_id: "c".into(),
        client_host: "/h".into(),
        topic_names: if b % 2 == 0 { BTreeSet::from(["a".into()]) } else { BTreeSet::new() },
        topic_regex: [None, Some("a|b".into()), Some("(".into())][usize::from(c % 3)].clone(),
        rebalance_timeout_ms: i32::from(a) - 1,
        server_assignor: Some(["range", "nonsense"][usize::from(a % 2)].into()),
        classic: (c % 2 == 0)
            .then(|| ClassicUse { session_timeout_ms: i32::from(a) - 5, protocols: protocols.clone() }),
    })
}

fn classic((a, b, c): (u8, u8, u8)) -> Value {
    let one = |n: u8| ClassicMemberValue {
        member_id: member(n),
        instance_id: n.is_multiple_of(3).then(|| Name::from("i")),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: i32::from(b) - 3,
        session_timeout_ms: i32::from(b) - 3,
        subscription: if c % 4 == 0 { Bytes::new() } else { subscription("a") },
        assignment: if c % 3 == 0 { Bytes::from_static(&[1]) } else { Bytes::new() },
    };
    Value::Classic(ClassicValue {
        protocol_type: ["consumer", "", "connect"][usize::from(c % 3)].into(),
        generation: i32::from(a % 9),
        protocol: (b % 3 != 0).then(|| Name::from("range")),
        leader: (a % 2 == 0).then(|| member(a / 2)),
        state_since_ms: Millis::from(b) - 1,
        members: [a, b, c].into_iter().take(usize::from(c % 4)).map(one).collect(),
    })
}

/// Any record with a name of few, so that they meet.
fn record(kind: u8, who: u8, is_tombstone: bool, draw: (u8, u8, u8)) -> Record {
    let (group, member) = (group(who), member(who / 2));
    let epoch = i32::from(draw.0 % 9);
    let (key, value) = match kind % 8 {
        0 => {
            let value = OffsetValue {
                offset: i64::from(draw.0) - 1,
                leader_epoch: -1,
                metadata: "".into(),
                committed_ms: Millis::from(draw.1),
                expires_ms: draw.2.is_multiple_of(2).then(|| Millis::from(draw.2)),
                topic_id: None,
            };
            (Key::Offset { group, topic: "a".into(), partition: i32::from(draw.0 % 3) }, Value::Offset(value))
        }
        1 => (Key::Classic { group }, classic(draw)),
        2 => (Key::Group { group }, Value::Group(GroupValue { epoch, metadata_hash: i64::from(draw.1) })),
        3 => (Key::Member { group, member }, said(draw)),
        4 => (Key::Target { group }, Value::Target(epoch)),
        5 => (Key::TargetMember { group, member }, Value::TargetMember(some_partitions(draw.0))),
        6 => (Key::Current { group, member }, current(draw)),
        _ => {
            let topics = BTreeSet::from(["a".into()]);
            let value = RegexValue { topics, version: i64::from(draw.0), resolved_ms: Millis::from(draw.1) };
            (Key::Regex { group, regex: "a|b".into() }, Value::Regex(value))
        }
    };
    if is_tombstone { Record::tombstone(key) } else { Record { key, value: Some(value) } }
}

fn ask(notebook: &mut Notebook, what: u8, who: u8, epoch: i32) {
    let (group, member) = (group(who), member(who / 2));
    let lines = [
        format!("join {group} v=3 protocols=range:a"),
        format!("join {group} v=3 member={member} protocols=range:a|sticky:a"),
        format!("join {group} instance=i protocols=sticky:a"),
        format!("sync {group} gen={epoch} member={member}"),
        format!("heartbeat {group} gen={epoch} member={member}"),
        format!("leave {group} members={member}"),
        format!("beat {group} member={member} epoch=0 rebalance=100 topics=a,b owned="),
        format!("beat {group} member={member} epoch={epoch} owned=a0"),
        format!("beat {group} member={member} instance=i epoch=0 rebalance=100 regex=a owned="),
        format!("beat {group} member={member} epoch=-1"),
        format!("commit {group} member={member} gen={epoch} offsets=a0:1"),
        format!("commit-txn {group} offsets=a1:1"),
        format!("delete-offsets {group} offsets=a0,b0"),
        format!("delete-group {group}"),
    ];
    let request = notebook.parse(&lines[usize::from(what) % lines.len()]);
    notebook.ticket += 1;
    let client =
        Client { id: "c".into(), host: "/h".into(), fresh: Uuid::from_u128(u128::from(notebook.ticket)) };
    let event = Event::Request { ticket: notebook.ticket, client, request };
    notebook.groups.step(notebook.now, event, &mut Vec::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_log_is_loaded_and_lived_with(
        log in prop::collection::vec(any::<(u8, u8, u8, (u8, u8, u8), bool)>(), 0..60),
        events in prop::collection::vec(any::<(u8, u8, u8)>(), 0..40),
    ) {
        let mut notebook = Notebook::new(Settings::default());
        notebook.groups = Groups::new(Settings::default(), notebook.topics.clone(), 1);
        for (kind, who, rare, draw, is_pending) in log {
            let record = record(kind, who, rare < 50, draw);
            notebook.groups.load(&record, is_pending.then_some(1));
        }
        notebook.groups.loaded(0, &mut Vec::new());
        notebook.groups.check();
        for (what, who, how) in events {
            if what % 8 == 0 {
                notebook.now += Millis::from(how) * 200;
                for _ in 0..20 {
                    notebook.groups.step(notebook.now, Event::Tick, &mut Vec::new());
                }
            } else {
                ask(&mut notebook, what, who, i32::from(how % 12) - 2);
            }
        }
        notebook.groups.check();
        let listed = notebook.groups.list(&[], &[]).len();
        assert_eq!(notebook.groups.counts().values().sum::<usize>(), listed);
        notebook.groups.unload(notebook.now, &mut Vec::new());
    }
}
