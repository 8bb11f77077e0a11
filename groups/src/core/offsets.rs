//! Committed offsets, and those of transactions that are not decided yet. Changed only by `apply` and
//! `decide`, at run time and at load alike.
//!
//! Invariants: a transaction's offsets count for nobody before its marker; of two commits of a partition the
//! one that was written later counts, whatever the order of their markers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};

use highwater_model::{ProducerId, TopicId};

use super::records::OffsetValue;
use super::types::Name;

/// An offset and its place in the order of writing.
#[derive(Clone, Debug)]
struct Entry {
    value: OffsetValue,
    written: u64,
}

type ByTopic = BTreeMap<Name, BTreeMap<i32, Entry>>;

/// The offsets of all groups of a shard.
#[derive(Clone, Debug, Default)]
pub struct Offsets {
    committed: BTreeMap<Name, ByTopic>,
    pending: BTreeMap<ProducerId, BTreeMap<Name, ByTopic>>,
    /// Producers with undecided offsets, by group.
    open: BTreeMap<Name, BTreeSet<ProducerId>>,
    committed_count: usize,
    pending_count: usize,
    written: u64,
}

fn lookup<'a>(
    groups: &'a BTreeMap<Name, ByTopic>,
    group: &str,
    topic: &str,
    partition: i32,
) -> Option<&'a Entry> {
    groups.get(group)?.get(topic)?.get(&partition)
}

/// Takes one out, and what is empty with it.
fn take(groups: &mut BTreeMap<Name, ByTopic>, group: &str, topic: &str, partition: i32) -> Option<Entry> {
    let topics = groups.get_mut(group)?;
    let partitions = topics.get_mut(topic)?;
    let entry = partitions.remove(&partition)?;
    if partitions.is_empty() {
        topics.remove(topic);
    }
    if topics.is_empty() {
        groups.remove(group);
    }
    Some(entry)
}

impl Offsets {
    /// One record of an offset: a commit, of a transaction or not, or a tombstone.
    pub fn apply(
        &mut self,
        producer: Option<ProducerId>,
        group: &Name,
        topic: &Name,
        partition: i32,
        value: Option<&OffsetValue>,
    ) {
        self.written += 1;
        let Some(value) = value else { return self.remove(group, topic, partition) };
        let entry = Entry { value: value.clone(), written: self.written };
        match producer {
            None => self.commit(group, topic, partition, entry),
            Some(producer) => {
                self.open.entry(group.clone()).or_default().insert(producer);
                let groups = self.pending.entry(producer).or_default();
                let partitions = groups.entry(group.clone()).or_default().entry(topic.clone()).or_default();
                if partitions.insert(partition, entry).is_none() {
                    self.pending_count += 1;
                }
            }
        }
    }

    fn commit(&mut self, group: &Name, topic: &Name, partition: i32, entry: Entry) {
        let topics = self.committed.entry(group.clone()).or_default();
        let partitions = topics.entry(topic.clone()).or_default();
        if partitions.insert(partition, entry).is_none() {
            self.committed_count += 1;
        }
    }

    /// A tombstone takes undecided offsets with it.
    fn remove(&mut self, group: &Name, topic: &Name, partition: i32) {
        if take(&mut self.committed, group, topic, partition).is_some() {
            self.committed_count -= 1;
        }
        for producer in self.open.get(group).cloned().unwrap_or_default() {
            let groups = self.pending.get_mut(&producer).expect("an open transaction has offsets");
            if take(groups, group, topic, partition).is_some() {
                self.pending_count -= 1;
            }
            if !groups.contains_key(group) {
                self.close(group, producer);
            }
            if self.pending.get(&producer).is_some_and(BTreeMap::is_empty) {
                self.pending.remove(&producer);
            }
        }
    }

    fn close(&mut self, group: &Name, producer: ProducerId) {
        if let Some(open) = self.open.get_mut(group) {
            open.remove(&producer);
            if open.is_empty() {
                self.open.remove(group);
            }
        }
    }

    /// A transaction's marker: its offsets count from now on, or never.
    pub fn decide(&mut self, producer: ProducerId, is_commit: bool) {
        let Some(groups) = self.pending.remove(&producer) else { return };
        for (group, topics) in groups {
            self.close(&group, producer);
            for (topic, partitions) in topics {
                self.pending_count -= partitions.len();
                for (partition, entry) in partitions {
                    let before = lookup(&self.committed, &group, &topic, partition);
                    if is_commit && before.is_none_or(|before| before.written < entry.written) {
                        self.commit(&group, &topic, partition, entry);
                    }
                }
            }
        }
        debug_assert!(self.open.values().all(|open| !open.contains(&producer)), "{producer} is still open");
    }

    pub fn get(&self, group: &str, topic: &str, partition: i32) -> Option<&OffsetValue> {
        lookup(&self.committed, group, topic, partition).map(|entry| &entry.value)
    }

    /// Whether a transaction has an undecided offset of the partition.
    pub fn is_pending(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.open.get(group).is_some_and(|open| {
            open.iter().any(|producer| {
                let groups = self.pending.get(producer).expect("an open transaction has offsets");
                lookup(groups, group, topic, partition).is_some()
            })
        })
    }

    /// Whether a committed or an undecided offset of the partition is of the topic of this id, not of one
    /// that had its name before.
    pub fn is_of_topic(&self, group: &str, topic: &str, partition: i32, id: TopicId) -> bool {
        let is_of = |entry: &Entry| entry.value.topic_id == Some(id);
        let open = self.open.get(group).into_iter().flatten();
        lookup(&self.committed, group, topic, partition).is_some_and(is_of)
            || open
                .filter_map(|producer| lookup(self.pending.get(producer)?, group, topic, partition))
                .any(is_of)
    }

    /// Whether some transaction has undecided offsets of the group.
    pub fn has_open(&self, group: &str) -> bool {
        self.open.contains_key(group)
    }

    /// The committed offsets of a group in order.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&Name, i32, &OffsetValue)> {
        self.of_group_behind(group, None)
    }

    /// As [`Offsets::of_group`], behind this topic and partition if they are given.
    pub fn of_group_behind(
        &self,
        group: &str,
        behind: Option<&(Name, i32)>,
    ) -> impl Iterator<Item = (&Name, i32, &OffsetValue)> {
        let from = behind.map_or(Unbounded, |(topic, _)| Included(topic.clone()));
        let topics = self.committed.get(group).map(|topics| topics.range((from, Unbounded)));
        topics.into_iter().flatten().flat_map(move |(topic, partitions)| {
            let from = match behind {
                Some((at, partition)) if at == topic => Excluded(*partition),
                _ => Unbounded,
            };
            let partitions = partitions.range((from, Unbounded));
            partitions.map(move |(partition, entry)| (topic, *partition, &entry.value))
        })
    }

    /// Topics and partitions of a group that have undecided offsets, once for each transaction.
    pub fn pending_of(&self, group: &str) -> impl Iterator<Item = (&Name, i32)> {
        let open = self.open.get(group).into_iter().flatten();
        let topics = open.filter_map(move |producer| self.pending.get(producer)?.get(group)).flatten();
        topics.flat_map(|(topic, partitions)| partitions.keys().map(move |partition| (topic, *partition)))
    }

    /// Groups, topics and partitions of which a producer has undecided offsets.
    pub fn pending_by(&self, producer: ProducerId) -> Vec<(Name, Name, i32)> {
        let mut found = Vec::new();
        for (group, topics) in self.pending.get(&producer).into_iter().flatten() {
            for (topic, partitions) in topics {
                found.extend(partitions.keys().map(|p| (group.clone(), topic.clone(), *p)));
            }
        }
        debug_assert!(found.len() <= self.pending_count, "more than there are");
        found
    }

    /// Every partition of a group that has a committed or an undecided offset.
    pub fn partitions_of(&self, group: &str) -> BTreeSet<(Name, i32)> {
        let committed = self.of_group(group).map(|(topic, partition, _)| (topic, partition));
        committed.chain(self.pending_of(group)).map(|(topic, p)| (topic.clone(), p)).collect()
    }

    /// Groups that have committed or undecided offsets.
    pub fn groups(&self) -> BTreeSet<Name> {
        self.committed.keys().chain(self.open.keys()).cloned().collect()
    }

    pub fn committed_count(&self) -> usize {
        self.committed_count
    }

    pub fn pending_count(&self) -> usize {
        self.pending_count
    }

    /// The counts and tables agree.
    pub fn check(&self) {
        let count = |groups: &BTreeMap<Name, ByTopic>| -> usize {
            groups.values().flat_map(|t| t.values()).map(BTreeMap::len).sum()
        };
        assert_eq!(self.committed_count, count(&self.committed), "committed offsets");
        assert_eq!(self.pending_count, self.pending.values().map(count).sum::<usize>(), "undecided offsets");
        for (group, open) in &self.open {
            for producer in open {
                let groups = self.pending.get(producer).expect("an open transaction has offsets");
                assert!(groups.contains_key(group), "{producer} is open for {group} without offsets");
            }
        }
        for (producer, groups) in &self.pending {
            assert!(!groups.is_empty(), "{producer} has no offsets");
            assert!(groups.keys().all(|g| self.open.get(g).is_some_and(|o| o.contains(producer))));
        }
    }
}
