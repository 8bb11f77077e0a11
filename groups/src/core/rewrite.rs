//! The whole state written once more, so that the log before it may go: how the log of a shard stays bounded.
//!
//! A pass goes through the groups in their order and hands out the records that say what they are, a part at
//! a time. What changes meanwhile is written as ever, before or behind. A log that begins where the pass
//! began and holds all of it reads back as the same state, because the last word on each key stands in it:
//! the pass's, or that of a change since. Nothing of the state changes by it.
//!
//! Two things cannot be written at every moment. A classic group amid a rebalance is written as it was last
//! stored. An offset that a transaction has overwritten, undecided, waits for the marker: what is written
//! later counts (`offsets.rs`), so the pass would take the transaction's effect away.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use highwater_model::ProducerId;

use super::classic::ClassicGroup;
use super::machine::{Group, Groups};
use super::records::{ClassicValue, Key, OffsetValue, Record, Value};
use super::types::{Name, Partitions, count_partitions};

/// Bytes that a record takes beside its texts, about.
pub(super) const RECORD_BYTES: usize = 80;

/// Where a pass goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Start,
    /// At the first group behind this one.
    Behind(Name),
    /// In the offsets of this group, behind this partition.
    Within(Name, (Name, i32)),
    End,
}

/// A pass under way.
#[derive(Debug)]
pub(super) struct Pass {
    place: Place,
    /// Offsets that were undecided when their turn came: group, topic, partition.
    later: BTreeSet<(Name, Name, i32)>,
}

/// What a pass hands out.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// To be appended before the next step, in as many batches as the caller likes.
    pub records: Vec<Record>,
    /// The pass is over.
    pub is_last: bool,
}

impl Record {
    /// About how many bytes of the log it takes.
    pub fn about_bytes(&self) -> usize {
        bytes_of(self)
    }
}

/// About how many bytes of the log a record takes.
fn bytes_of(record: &Record) -> usize {
    let of_partitions = |partitions: &Partitions| partitions.len() * 20 + count_partitions(partitions) * 4;
    let value = match &record.value {
        Some(Value::Offset(value)) => value.metadata.len(),
        Some(Value::Classic(value)) => bytes_of_classic(value),
        Some(Value::Member(said)) => {
            let classic = said.classic.iter().flat_map(|used| &used.protocols);
            said.topic_names.iter().map(|name| name.len() + 2).sum::<usize>()
                + classic.map(|p| p.name.len() + p.metadata.len()).sum::<usize>()
        }
        Some(Value::TargetMember(partitions)) => of_partitions(partitions),
        Some(Value::Current(at)) => of_partitions(&at.assigned) + of_partitions(&at.pending_revocation),
        Some(Value::Regex(value)) => value.topics.iter().map(|name| name.len() + 2).sum(),
        Some(Value::Group(_) | Value::Target(_) | Value::GroupTopics) | None => 0,
    };
    let key = match &record.key {
        Key::Offset { topic, .. } => topic.len(),
        Key::Member { member, .. } | Key::TargetMember { member, .. } | Key::Current { member, .. } => {
            member.len()
        }
        Key::Regex { regex, .. } => regex.len(),
        Key::Classic { .. } | Key::Group { .. } | Key::GroupTopics { .. } | Key::Target { .. } => 0,
    };
    let bytes = RECORD_BYTES + record.key.group().len() + key + value;
    debug_assert!(bytes >= RECORD_BYTES, "a record without a head");
    bytes
}

fn bytes_of_classic(value: &ClassicValue) -> usize {
    let of_member = |m: &super::records::ClassicMemberValue| {
        RECORD_BYTES + m.member_id.len() + m.client_id.len() + m.subscription.len() + m.assignment.len()
    };
    value.members.iter().map(of_member).sum()
}

fn offset_record(group: &Name, topic: &Name, partition: i32, value: &OffsetValue) -> Record {
    let key = Key::Offset { group: group.clone(), topic: topic.clone(), partition };
    Record::new(key, Value::Offset(value.clone()))
}

impl ClassicGroup {
    /// The group's record as it stands in the log, if there is one.
    fn stored_record(&self) -> Option<Record> {
        let value = self.stored.as_deref()?.clone();
        debug_assert!(value.generation >= 0, "generation {}", value.generation);
        Some(Record::new(Key::Classic { group: self.id.clone() }, Value::Classic(value)))
    }
}

impl Group {
    /// Everything that the log says of the group itself.
    fn stored_records(&self) -> Vec<Record> {
        match self {
            Group::Classic(group) => group.stored_record().into_iter().collect(),
            Group::Consumer(group) => group.records(),
        }
    }
}

impl Groups {
    /// About how many bytes a pass would write now.
    pub fn live_bytes(&self) -> u64 {
        let (mut bytes, mut offsets) = (0, 0);
        for (name, group) in &self.groups {
            bytes += group.stored_records().iter().map(bytes_of).sum::<usize>();
            for (topic, _, value) in self.offsets.of_group(name) {
                bytes += RECORD_BYTES + name.len() + topic.len() + value.metadata.len();
                offsets += 1;
            }
        }
        debug_assert_eq!(offsets, self.offsets.committed_count(), "an offset of no group");
        bytes as u64
    }

    /// A pass begins, from the start if one was under way. What is appended from now on belongs to it.
    pub fn begin_rewrite(&mut self) {
        assert!(self.is_loaded, "a shard writes only once it is loaded");
        self.rewrite = Some(Pass { place: Place::Start, later: BTreeSet::new() });
    }

    /// The next part of the pass: about `bytes_max`, more where one group takes more. A part that is empty
    /// and not the last waits for transactions: `step` writes what they decide, so ask again later.
    pub fn rewrite(&mut self, bytes_max: usize) -> Part {
        let mut pass = self.rewrite.take().expect("a pass was begun");
        debug_assert!(self.out.records.is_empty(), "a step has not handed out what it wrote");
        let (mut records, mut bytes) = (Vec::new(), 0);
        while pass.place != Place::End && bytes < bytes_max {
            bytes += self.rewrite_some(&mut pass, bytes_max - bytes, &mut records);
        }
        if pass.place == Place::End {
            // A tombstone or an abort may have decided them as well.
            let decided = |(group, topic, p): &(Name, Name, i32)| !self.offsets.is_pending(group, topic, *p);
            let settled: Vec<_> = pass.later.iter().filter(|key| decided(key)).cloned().collect();
            for key in settled {
                pass.later.remove(&key);
                records.extend(self.settled_record(&key));
            }
        }
        let is_last = pass.place == Place::End && pass.later.is_empty();
        if !is_last {
            self.rewrite = Some(pass);
        }
        Part { records, is_last }
    }

    /// One group, or some offsets of a large one; the bytes it took.
    fn rewrite_some(&self, pass: &mut Pass, bytes_max: usize, records: &mut Vec<Record>) -> usize {
        let next = match &pass.place {
            Place::End => return 0,
            Place::Start => self.groups.iter().next().map(|(name, _)| (name, None)),
            Place::Behind(name) => {
                let behind = (Excluded(name.clone()), Unbounded);
                self.groups.range(behind).next().map(|(name, _)| (name, None))
            }
            // The group may be gone, with its offsets: then there is nothing behind.
            Place::Within(name, after) => Some((name, Some(after.clone()))),
        };
        let Some((name, after)) = next else {
            pass.place = Place::End;
            return 0;
        };
        let name = name.clone();
        let mut bytes = RECORD_BYTES; // looking at a group that has nothing costs as well
        if after.is_none() {
            let own = self.groups[&name].stored_records();
            bytes += own.iter().map(bytes_of).sum::<usize>();
            records.extend(own);
            let undecided = self.offsets.pending_of(&name);
            pass.later.extend(undecided.map(|(topic, p)| (name.clone(), topic.clone(), p)));
        }
        for (topic, partition, value) in self.offsets.of_group_behind(&name, after.as_ref()) {
            if self.offsets.is_pending(&name, topic, partition) {
                pass.later.insert((name.clone(), topic.clone(), partition));
            } else {
                let record = offset_record(&name, topic, partition, value);
                bytes += bytes_of(&record);
                records.push(record);
            }
            if bytes >= bytes_max {
                pass.place = Place::Within(name.clone(), (topic.clone(), partition));
                return bytes;
            }
        }
        pass.place = Place::Behind(name);
        bytes
    }

    fn settled_record(&self, (group, topic, partition): &(Name, Name, i32)) -> Option<Record> {
        debug_assert!(!self.offsets.is_pending(group, topic, *partition), "its transaction is undecided");
        let value = self.offsets.get(group, topic, *partition)?;
        Some(offset_record(group, topic, *partition, value))
    }

    /// A transaction's marker: what it decides counts, and what a pass has waited with is written.
    pub(super) fn decide(&mut self, producer: ProducerId, is_commit: bool) {
        let has_waiting = self.rewrite.as_ref().is_some_and(|pass| !pass.later.is_empty());
        let keys = if has_waiting { self.offsets.pending_by(producer) } else { Vec::new() };
        self.offsets.decide(producer, is_commit);
        let Some(mut pass) = self.rewrite.take() else { return };
        for key in keys {
            // Another transaction may have one there too.
            if !self.offsets.is_pending(&key.0, &key.1, key.2) && pass.later.remove(&key) {
                self.out.records.extend(self.settled_record(&key));
            }
        }
        self.rewrite = Some(pass);
    }
}
