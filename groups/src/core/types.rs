//! Plain data that every part of the core shares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::TopicId;

/// A group id, member id, topic name or other text; cheap to clone.
pub type Name = Arc<str>;

/// Milliseconds since 1970.
pub type Millis = i64;

/// Partitions by topic.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// Number of partitions over all topics.
pub fn count_partitions(partitions: &Partitions) -> usize {
    debug_assert!(partitions.values().all(|set| !set.is_empty()), "a topic without partitions is left out");
    partitions.values().map(BTreeSet::len).sum()
}

/// Whether the partition is among them.
pub fn contains(partitions: &Partitions, topic: TopicId, partition: i32) -> bool {
    partitions.get(&topic).is_some_and(|set| set.contains(&partition))
}

/// Everything in `partitions`, one by one in order.
pub fn each(partitions: &Partitions) -> impl Iterator<Item = (TopicId, i32)> + '_ {
    partitions.iter().flat_map(|(topic, set)| set.iter().map(|p| (*topic, *p)))
}

/// Adds one partition.
pub fn insert(partitions: &mut Partitions, topic: TopicId, partition: i32) {
    partitions.entry(topic).or_default().insert(partition);
}

/// Topics as the cluster's metadata has them; shared between shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_name: BTreeMap<Name, Topic>,
    by_id: BTreeMap<TopicId, Name>,
}

/// One topic of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub partitions: i32,
}

impl Topics {
    pub fn new(topics: impl IntoIterator<Item = (Name, TopicId, i32)>) -> Self {
        let mut made = Topics::default();
        for (name, id, partitions) in topics {
            debug_assert!(partitions >= 0, "a topic with {partitions} partitions");
            made.by_id.insert(id, name.clone());
            made.by_name.insert(name, Topic { id, partitions });
        }
        debug_assert_eq!(made.by_id.len(), made.by_name.len(), "names and ids differ in number");
        made
    }

    pub fn by_name(&self, name: &str) -> Option<Topic> {
        self.by_name.get(name).copied()
    }

    pub fn name_of(&self, id: TopicId) -> Option<&Name> {
        self.by_id.get(&id)
    }

    pub fn partitions_of(&self, id: TopicId) -> i32 {
        debug_assert!(id != TopicId::NONE, "no topic at all");
        self.name_of(id).and_then(|name| self.by_name(name)).map_or(0, |topic| topic.partitions)
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.by_name.keys()
    }

    /// A number that differs when the id or the partition count of one of `names` does (KIP-1101); topics
    /// that do not exist count for nothing. FNV-1a: stored beside the group epoch, never compared with
    /// Kafka's own, at worst one rebalance more after a change of hands.
    pub fn hash_of<'a>(&self, names: impl Iterator<Item = &'a Name>) -> i64 {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut feed = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        let mut is_empty = true;
        for name in names {
            if let Some(topic) = self.by_name(name) {
                is_empty = false;
                feed(topic.id.0.as_bytes());
                feed(&topic.partitions.to_be_bytes());
            }
        }
        if is_empty { 0 } else { hash as i64 }
    }
}
