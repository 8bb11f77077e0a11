//! The state written once more, so that the log before it may go. The random tests (`random.rs`) take passes
//! at any moment as well.

use super::super::machine::Group;
use super::super::records::{Record, Value};
use super::super::request::*;
use super::super::settings::Settings;
use super::super::types::Name;
use super::{Logged, Notebook, durable};

fn commit(notebook: &mut Notebook, group: &str, partition: i32, offset: i64) {
    let offset = offset_of(partition, offset);
    let request = Request::CommitOffsets(CommitOffsets {
        group: group.into(),
        member_id: "".into(),
        instance_id: None,
        generation: -1,
        retention_ms: None,
        knows_epochs: true,
        offsets: vec![offset],
    });
    notebook.request("c", request);
}

fn offset_of(partition: i32, offset: i64) -> CommitOffset {
    let topic = Name::from("a");
    CommitOffset { topic, topic_id: None, partition, offset, leader_epoch: -1, metadata: "".into() }
}

fn commit_in(notebook: &mut Notebook, producer_id: i64, group: &str, partition: i32, offset: i64) {
    let request = Request::CommitTransactionOffsets(CommitTransactionOffsets {
        group: group.into(),
        producer_id,
        producer_epoch: 0,
        member_id: "".into(),
        instance_id: None,
        generation: -1,
        offsets: vec![offset_of(partition, offset)],
    });
    notebook.request("c", request);
}

fn committed(notebook: &Notebook, group: &str, partition: i32) -> Option<i64> {
    notebook.groups.offsets().get(group, "a", partition).map(|value| value.offset)
}

/// What the log says is what the shard knows.
fn agree(notebook: &Notebook) {
    let mut read = notebook.reloaded();
    read.loaded(notebook.now, &mut Vec::new());
    assert_eq!(durable(&read), durable(&notebook.groups));
}

#[test]
fn a_log_of_many_commits_shrinks_to_what_counts() {
    let mut notebook = Notebook::new(Settings::default());
    for round in 0..100 {
        for group in ["g", "h", "i"] {
            commit(&mut notebook, group, (round % 4) as i32, round);
        }
    }
    assert_eq!(notebook.log.len(), 300);
    let live = notebook.groups.live_bytes();
    // One offset at a time, with commits between: before, at and behind the place of the pass.
    let mut parts = 0;
    while !notebook.rewrite(1) {
        parts += 1;
        let group = ["g", "h", "i"][parts % 3];
        commit(&mut notebook, group, (parts % 5) as i32, 1_000 + parts as i64);
        assert!(parts < 100, "the pass never ends");
    }
    assert!(parts >= 12, "{parts} parts of at least one offset each");
    assert!(notebook.log.len() < 50, "{} records are left", notebook.log.len());
    assert!((12 * 80..12 * 200).contains(&live), "12 offsets take {live} bytes?");
    agree(&notebook);
    // A second pass over the same finds as much.
    while !notebook.rewrite(usize::MAX) {}
    assert_eq!(notebook.log.len(), notebook.groups.offsets().committed_count());
    agree(&notebook);
}

#[test]
fn a_group_that_goes_amid_the_pass_does_not_come_back() {
    let mut notebook = Notebook::new(Settings::default());
    for partition in 0..10 {
        commit(&mut notebook, "g", partition, 5);
        commit(&mut notebook, "h", partition, 6);
    }
    assert!(!notebook.rewrite(300), "some of g");
    notebook.request("c", Request::DeleteGroup { group: "g".into() });
    while !notebook.rewrite(300) {}
    assert_eq!(committed(&notebook, "g", 0), None);
    assert_eq!(committed(&notebook, "h", 9), Some(6));
    agree(&notebook);
}

#[test]
fn an_undecided_offset_keeps_the_pass_waiting() {
    for is_commit in [true, false] {
        let mut notebook = Notebook::new(Settings::default());
        commit(&mut notebook, "g", 0, 5);
        commit_in(&mut notebook, 7, "g", 0, 8);
        commit_in(&mut notebook, 7, "g", 1, 9);
        assert!(!notebook.rewrite(usize::MAX), "the transaction is open");
        assert!(!notebook.rewrite(usize::MAX), "it still is");
        // Another commit of the same partition, written later, counts whatever the transaction does.
        commit_in(&mut notebook, 8, "g", 2, 1);
        notebook.step(Event::TransactionEnded { producer_id: 7, is_commit });
        assert!(notebook.rewrite(usize::MAX), "nothing waits: the other one began behind the pass");
        let expected = if is_commit { [Some(8), Some(9)] } else { [Some(5), None] };
        assert_eq!([committed(&notebook, "g", 0), committed(&notebook, "g", 1)], expected);
        agree(&notebook);
        notebook.step(Event::TransactionEnded { producer_id: 8, is_commit: true });
        assert_eq!(committed(&notebook, "g", 2), Some(1));
        agree(&notebook);
        assert!(notebook.log.iter().any(|logged| matches!(logged, Logged::Marker(8, true))));
    }
}

#[test]
fn transactions_without_a_pause_do_not_keep_the_pass_from_its_end() {
    let mut notebook = Notebook::new(Settings::default());
    commit_in(&mut notebook, 0, "g", 0, 0);
    assert!(!notebook.rewrite(usize::MAX));
    // At every moment but one the partition has an undecided offset.
    notebook.step(Event::TransactionEnded { producer_id: 0, is_commit: true });
    commit_in(&mut notebook, 1, "g", 0, 1);
    assert!(notebook.rewrite(usize::MAX), "what waited was written with the marker");
    agree(&notebook);
}

#[test]
fn a_rebalance_under_way_is_written_as_it_was_before() {
    let mut notebook = Notebook::new(Settings::default());
    let mut tell = |line: &str| {
        let request = notebook.parse(line);
        notebook.request("c", request);
        notebook.advance(3_000);
    };
    tell("join g v=3");
    tell("sync g member=c~1 gen=1 assign=c~1:a0.a1");
    tell("join g v=3");
    let Some(Group::Classic(group)) = notebook.groups.group("g") else { panic!("it is there") };
    assert_eq!((group.state.name(), group.members.len()), ("PreparingRebalance", 2));
    while !notebook.rewrite(usize::MAX) {}
    let [Logged::Record(None, key, value)] = &notebook.log[..] else { panic!("{:?}", notebook.log) };
    let record = Record::decode(key, value.as_deref()).expect("whole").expect("known");
    let Some(Value::Classic(value)) = record.value else { panic!("{record:?}") };
    assert_eq!((value.generation, value.members.len()), (1, 1));
    assert!(!value.members[0].assignment.is_empty(), "with what the member has");
}
