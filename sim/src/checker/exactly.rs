//! Groups and transactions: what readers of committed data saw, what became of the group's offsets, and who
//! owned what.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::Offset;

use super::{Anomaly, Findings};
use crate::history::{History, OffsetEvent, Tag, Value};

pub(super) fn check(history: &History, findings: &mut Findings) {
    check_reads(history, findings);
    check_outcomes(history, findings);
    check_each_once(history, findings);
    check_offsets(history, findings);
    check_owners(history, findings);
}

type Seen = BTreeMap<(u32, Offset), (Value, Tag)>;

/// Everything that stands in the end, if it was read to the end.
fn finals(history: &History) -> Option<Seen> {
    let last: Vec<_> = history.committed_reads.iter().filter(|read| read.is_final).collect();
    let of = |read: &&crate::history::CommittedRead| {
        let partition = read.partition;
        let at = read.records.iter().map(move |(offset, value, tag)| ((partition, *offset), (*value, *tag)));
        at.collect::<Vec<_>>()
    };
    (!last.is_empty()).then(|| last.iter().flat_map(of).collect())
}

/// Nobody sees a transaction that was not to be committed; what was seen once stays.
fn check_reads(history: &History, findings: &mut Findings) {
    let last = finals(history);
    for read in &history.committed_reads {
        let partition = read.partition;
        for (offset, value, tag) in &read.records {
            let txn = history.txns.get(*tag as usize);
            if txn.is_none_or(|txn| !txn.asked_to_commit || txn.told == Some(false)) {
                findings.add(Anomaly::AbortedRead, || {
                    format!(
                        "partition {partition} offset {offset}: value {value} of transaction {tag}: {txn:?}"
                    )
                });
            }
            let there = last.as_ref().map(|last| last.get(&(partition, *offset)));
            if there.is_some_and(|there| there != Some(&(*value, *tag))) {
                findings.add(Anomaly::Lost, || {
                    format!(
                        "partition {partition} offset {offset}: value {value} was committed, {there:?} is"
                    )
                });
            }
        }
    }
}

/// Each transaction is there whole or not at all; one that was told to be committed is there.
fn check_outcomes(history: &History, findings: &mut Findings) {
    let Some(last) = finals(history) else { return };
    let mut seen: BTreeMap<Tag, BTreeSet<(u32, Value)>> = BTreeMap::new();
    for ((partition, _), (value, tag)) in &last {
        seen.entry(*tag).or_default().insert((*partition, *value));
    }
    let nothing = BTreeSet::new();
    for (tag, txn) in (0..).zip(&history.txns) {
        let there = seen.get(&tag).unwrap_or(&nothing);
        let missing: Vec<_> = txn.records.iter().filter(|record| !there.contains(record)).collect();
        if !there.is_empty() && !missing.is_empty() {
            findings.add(Anomaly::Torn, || {
                format!("transaction {tag}: {there:?} is there, {missing:?} is not: {txn:?}")
            });
        } else if txn.told == Some(true) && !missing.is_empty() {
            findings.add(Anomaly::Lost, || format!("transaction {tag} is not there: {txn:?}"));
        }
    }
}

/// Of each record of the input there is one record in the output.
fn check_each_once(history: &History, findings: &mut Findings) {
    let Some(last) = finals(history) else { return };
    let mut made: BTreeMap<Value, Vec<(u32, Offset)>> = BTreeMap::new();
    for (at, (value, _)) in &last {
        made.entry(*value).or_default().push(*at);
    }
    let read = history.finals.iter().flat_map(|read| &read.records);
    let inputs: BTreeSet<Value> = read.map(|(_, value)| *value).collect();
    for value in &inputs {
        let places = made.get(value).map_or(&[][..], Vec::as_slice);
        if places.len() != 1 {
            findings.add(Anomaly::NotExactlyOnce, || format!("value {value} was made at {places:?}"));
        }
    }
    for value in made.keys().filter(|value| !inputs.contains(value)) {
        findings.add(Anomaly::NotExactlyOnce, || format!("value {value} was made of nothing"));
    }
}

/// What a worker reads of the group's offsets is nothing older than what was committed when it asked.
fn check_offsets(history: &History, findings: &mut Findings) {
    let mut committed: BTreeMap<i32, Offset> = BTreeMap::new();
    let mut asked: BTreeMap<(u64, i32), Offset> = BTreeMap::new();
    let raise = |committed: &mut BTreeMap<i32, Offset>, partition: i32, offset: Offset| {
        let known = committed.entry(partition).or_default();
        *known = offset.max(*known);
    };
    for event in &history.offset_events {
        let (partition, offset, least) = match *event {
            OffsetEvent::Committed { partition, offset } => {
                raise(&mut committed, partition, offset);
                continue;
            }
            OffsetEvent::Asked { id, partition } => {
                asked.insert((id, partition), committed.get(&partition).copied().unwrap_or(0));
                continue;
            }
            OffsetEvent::Read { id, partition, offset } => {
                (partition, offset, asked.get(&(id, partition)).copied().unwrap_or(0))
            }
            OffsetEvent::Final { partition, offset } => {
                (partition, offset, committed.get(&partition).copied().unwrap_or(0))
            }
        };
        if offset < least {
            findings.add(Anomaly::LostOffset, || {
                format!("input {partition}: {offset} was read, {least} had been committed")
            });
        }
        raise(&mut committed, partition, offset);
    }
}

/// A partition has one owner in a generation.
fn check_owners(history: &History, findings: &mut Findings) {
    let mut owners: BTreeMap<(i32, i32), &str> = BTreeMap::new();
    for owner in &history.owners {
        let key = (owner.partition, owner.generation);
        let first = *owners.entry(key).or_insert(&owner.member);
        if first != owner.member {
            findings.add(Anomaly::TwoOwners, || {
                let (partition, generation) = key;
                format!("input {partition} in generation {generation}: {first} and {}", owner.member)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::check;
    use crate::history::{CommittedRead, FinalRead, OffsetEvent::*, Owner, Txn};

    fn txn(asked_to_commit: bool, told: Option<bool>, records: &[(u32, Value)]) -> Txn {
        Txn { asked_to_commit, told, records: records.to_vec() }
    }

    fn read(partition: u32, is_final: bool, records: &[(Offset, Value, Tag)]) -> CommittedRead {
        CommittedRead { partition, is_final, records: records.to_vec() }
    }

    /// Two inputs, one transaction over two outputs; a second one was aborted and tried again.
    fn sound() -> History {
        let finals = FinalRead { partition: 2, is_after_eviction: false, records: vec![(0, 11), (1, 12)] };
        let owner = |generation, member: &str| Owner { partition: 0, generation, member: member.into() };
        History {
            finals: vec![FinalRead { records: vec![(0, 11), (1, 12), (2, 13)], ..finals }],
            txns: vec![
                txn(true, Some(true), &[(4, 12), (5, 11)]),
                txn(false, Some(false), &[(5, 13)]),
                txn(true, None, &[(5, 13)]),
                txn(true, None, &[(4, 14)]),
            ],
            committed_reads: vec![
                read(5, false, &[(0, 11, 0)]),
                read(4, true, &[(0, 12, 0)]),
                read(5, true, &[(0, 11, 0), (4, 13, 2)]),
            ],
            offset_events: vec![
                Asked { id: 1, partition: 0 },
                Committed { partition: 0, offset: 2 },
                Read { id: 1, partition: 0, offset: 0 },
                Asked { id: 2, partition: 0 },
                Read { id: 2, partition: 0, offset: 3 },
                Final { partition: 0, offset: 3 },
            ],
            owners: vec![owner(1, "a"), owner(1, "a"), owner(2, "b")],
            ..History::default()
        }
    }

    fn finds(plant: impl FnOnce(&mut History), anomaly: Anomaly) {
        let mut history = sound();
        plant(&mut history);
        let found = check(&history);
        assert!(found.iter().any(|finding| finding.anomaly == anomaly), "{anomaly:?} not in {found:?}");
    }

    #[test]
    fn a_sound_history_is_sound() {
        assert_eq!(check(&sound()), []);
    }

    #[test]
    fn an_aborted_record_that_was_read_is_found() {
        let aborted = |tag| move |h: &mut History| h.committed_reads.push(read(5, false, &[(2, 13, tag)]));
        finds(aborted(1), Anomaly::AbortedRead);
        finds(aborted(77), Anomaly::AbortedRead);
        finds(|h| h.txns[2].asked_to_commit = false, Anomaly::AbortedRead);
    }

    #[test]
    fn a_torn_transaction_is_found() {
        finds(|h| h.committed_reads[1].records.clear(), Anomaly::Torn);
        finds(|h| h.txns[2].records.push((4, 99)), Anomaly::Torn);
    }

    #[test]
    fn what_was_committed_and_is_gone_is_found() {
        finds(|h| h.txns[3].told = Some(true), Anomaly::Lost);
        finds(|h| h.committed_reads[2].records.truncate(0), Anomaly::Lost);
        finds(|h| h.committed_reads[2].records[0].1 = 12, Anomaly::Lost);
    }

    #[test]
    fn a_record_made_twice_or_not_at_all_is_found() {
        finds(|h| h.committed_reads[2].records.push((9, 13, 2)), Anomaly::NotExactlyOnce);
        finds(|h| h.finals[0].records.push((3, 14)), Anomaly::NotExactlyOnce);
        finds(|h| h.committed_reads[2].records.push((9, 15, 2)), Anomaly::NotExactlyOnce);
    }

    #[test]
    fn an_offset_that_goes_back_is_found() {
        finds(|h| h.offset_events[4] = Read { id: 2, partition: 0, offset: 1 }, Anomaly::LostOffset);
        finds(|h| h.offset_events[5] = Final { partition: 0, offset: 2 }, Anomaly::LostOffset);
    }

    #[test]
    fn two_owners_in_one_generation_are_found() {
        finds(|h| h.owners[1].member = "b".into(), Anomaly::TwoOwners);
    }
}
