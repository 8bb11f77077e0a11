use super::*;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, leader: 7, index }
}

fn blank(term: u64, index: u64, offset: Offset) -> Mark {
    Mark::Entry(SideEntry { id: id(term, index), offset, members: None })
}

fn members(ids: &[u64]) -> Arc<Members> {
    Arc::new(Members::of_voters(ids.iter().map(|id| (*id, *id & 0xff)).collect()))
}

fn journal(marks: &[Mark]) -> Vec<u8> {
    let mut file = encode_head(7, 0).to_vec();
    for mark in marks {
        let synced = file.len() as u32;
        encode_mark(mark, synced, &mut file);
    }
    file
}

fn story() -> Vec<Mark> {
    let first = SetMembers { at: None, members: members(&[1, 2, 3]) };
    vec![
        Mark::Base(Base { at: Some(id(4, 0)), offset: 100, members: Some(first) }),
        Mark::Vote(StoredVote { term: 5, replica: 7, is_committed: false }),
        Mark::Vote(StoredVote { term: 5, replica: 7, is_committed: true }),
        blank(5, 1, 100),
        Mark::Row(Anchor { index: 40, offset: 500 }),
        Mark::Committed(id(5, 39)),
        Mark::Entry(SideEntry { id: id(5, 50), offset: 600, members: Some(members(&[1, 2, 4])) }),
        Mark::Row(Anchor { index: 90, offset: 1_000 }),
    ]
}

#[test]
fn a_journal_adds_up_and_comes_back() {
    let loaded = SideState::load(&journal(&story())).expect("whole");
    let state = loaded.state;
    assert_eq!((state.first_index(), loaded.torn_bytes), (1, 0));
    assert_eq!(state.anchor_for_index(1), Some(Anchor { index: 1, offset: 100 }));
    assert_eq!(state.anchor_for_index(30), Some(Anchor { index: 2, offset: 100 }));
    assert_eq!(state.anchor_for_index(50), Some(Anchor { index: 40, offset: 500 }));
    assert_eq!(state.anchor_for_index(51), Some(Anchor { index: 51, offset: 600 }));
    assert_eq!(state.anchor_for_index(0), None);
    assert_eq!(state.anchor_for_offset(999), Some(Anchor { index: 51, offset: 600 }));
    assert_eq!(state.leader_of(1), Some((4, 7)));
    assert_eq!(state.leader_of(60), Some((5, 7)));
    assert_eq!(state.members_at(49).and_then(|m| m.at), None);
    assert_eq!(state.members_at(50).and_then(|m| m.at), Some(id(5, 50)));
    let again = SideState::load(&state.encode()).expect("whole").state;
    assert_eq!(again, state);
}

/// Written by hand from docs/format.md, once and for all.
#[test]
fn the_first_version_still_loads() {
    let file = include_bytes!("../../../tests/fixtures/raft-side-v1/raft");
    let loaded = SideState::load(file).expect("whole");
    assert_eq!(loaded.state, SideState::load(&journal(&story())).expect("whole").state);
    assert_eq!(file[..], journal(&story())[..]);
}

#[test]
fn a_torn_tail_is_a_shorter_journal_and_rot_is_damage() {
    let marks = story();
    let file = journal(&marks);
    for cut in HEAD_BYTES..file.len() {
        let loaded = SideState::load(&file[..cut]);
        if cut < journal(&marks[..1]).len() {
            assert!(loaded.is_err(), "a journal without its base, {cut} bytes");
            continue;
        }
        let loaded = loaded.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let whole = (1..=marks.len()).rev().find(|n| journal(&marks[..*n]).len() <= cut).expect("some");
        assert_eq!(loaded.state, SideState::load(&journal(&marks[..whole])).expect("whole").state);
        assert_eq!(loaded.torn_bytes, cut - journal(&marks[..whole]).len());
    }
    let begun = SideState::load(&file).expect("whole").state.encode();
    assert!(SideState::load(&begun[..begun.len() - 1]).is_err(), "a file that appeared whole is not torn");
    let before_last = journal(&marks[..marks.len() - 1]).len();
    for (file, durable) in [(&file, before_last), (&begun, begun.len())] {
        for bit in 0..durable * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SideState::load(&bad).is_err(), "bit {bit} of what was durable");
        }
    }
}

#[test]
fn a_newer_release_is_told_from_damage() {
    let mut file = journal(&story());
    file[4] = 9;
    let crc = crc32c::crc32c(&file[..20]);
    file[20..24].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(SideState::load(&file).map(|l| l.end), Err(SideError::Newer(9)));
    assert!(matches!(SideState::load(b"HWRS"), Err(SideError::Head)));
}

#[test]
fn a_cut_takes_entries_rows_and_what_was_committed_above_it() {
    let mut state = SideState::load(&journal(&story())).expect("whole").state;
    state.apply(&Mark::Cut(Anchor { index: 50, offset: 600 })).expect("above the base");
    assert!(state.entry(50).is_none() && state.entry(1).is_some());
    assert_eq!(state.last_anchor(), Anchor { index: 40, offset: 500 });
    state.apply(&blank(6, 50, 600)).expect("follows");
    assert_eq!(state.leader_of(51), Some((6, 7)));
    state.apply(&Mark::Cut(Anchor { index: 2, offset: 100 })).expect("above the base");
    assert_eq!((state.last_anchor(), state.committed), (Anchor { index: 2, offset: 100 }, None));
    assert!(state.apply(&Mark::Cut(Anchor { index: 0, offset: 100 })).is_err());
}

#[test]
fn what_stood_past_the_logs_end_is_forgotten() {
    let mut state = SideState::load(&journal(&story())).expect("whole").state;
    assert!(!state.drop_past(1_000));
    assert!(state.drop_past(599));
    assert_eq!(state.last_anchor(), Anchor { index: 40, offset: 500 });
    assert!(state.entry(50).is_none());
}

#[test]
fn a_base_moves_up_and_keeps_the_members_of_its_place() {
    let mut state = SideState::load(&journal(&story())).expect("whole").state;
    let members = state.members_at(60);
    let base = Base { at: Some(id(5, 60)), offset: 700, members: members.clone() };
    state.apply(&Mark::Base(base)).expect("moves up");
    assert_eq!((state.first_index(), state.members_at(60)), (61, members));
    assert_eq!(state.anchor_for_index(61), Some(Anchor { index: 61, offset: 700 }));
    assert_eq!(state.anchor_for_index(95), Some(Anchor { index: 90, offset: 1_000 }));
    assert_eq!(state.leader_of(61), Some((5, 7)));
    let back = Base { at: Some(id(5, 59)), offset: 690, members: None };
    assert!(state.apply(&Mark::Base(back)).is_err());
}

#[test]
fn a_broken_rule_changes_nothing() {
    let mut state = SideState::load(&journal(&story())).expect("whole").state;
    let before = state.clone();
    for mark in [
        blank(5, 90, 999),
        blank(5, 92, 1_000),
        Mark::Row(Anchor { index: 89, offset: 2_000 }),
        Mark::Vote(StoredVote { term: 4, replica: 9, is_committed: false }),
        Mark::Vote(StoredVote { term: 5, replica: 9, is_committed: true }),
    ] {
        assert!(state.apply(&mark).is_err(), "{mark:?}");
    }
    assert_eq!(state, before);
}
