//! How many replicas every broker holds: kept as partitions change, so that placing a topic does not have to
//! look at all of them. Derived: counted anew at every load, and checked there.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::{NodeId, TopicId};

use super::state::Topic;

/// What a broker holds, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub replicas: usize,
    /// Partitions that prefer it as their leader.
    pub leaders: usize,
}

impl Held {
    pub(super) fn add(&mut self, is_leader: bool) {
        self.replicas += 1;
        self.leaders += usize::from(is_leader);
    }

    pub(super) fn join(&mut self, other: Held) {
        self.replicas += other.replicas;
        self.leaders += other.leaders;
        debug_assert!(self.leaders <= self.replicas, "who leads is a replica");
    }
}

/// What all brokers hold; who holds nothing is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    of: BTreeMap<NodeId, Held>,
}

impl Holdings {
    /// Counted by looking at everything.
    pub(super) fn counted(topics: &BTreeMap<TopicId, Arc<Topic>>) -> Holdings {
        let mut holdings = Holdings::default();
        for topic in topics.values() {
            holdings.changed(None, Some(topic));
        }
        holdings
    }

    pub(super) fn of(&self, node: NodeId) -> Held {
        self.of.get(&node).copied().unwrap_or_default()
    }

    /// A topic has come, changed or gone.
    pub(super) fn changed(&mut self, before: Option<&Topic>, after: Option<&Topic>) {
        let partitions = |topic: Option<&Topic>| topic.map_or(0, |topic| topic.partitions.len());
        for number in 0..partitions(before).max(partitions(after)) {
            let before = before.and_then(|topic| topic.partitions.get(number));
            let after = after.and_then(|topic| topic.partitions.get(number));
            match (before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
                _ => self.moved(
                    before.map_or(&[], |partition| &partition.replicas),
                    after.map_or(&[], |partition| &partition.replicas),
                ),
            }
        }
    }

    /// A partition's replicas, the preferred leader first, are others now.
    pub(super) fn moved(&mut self, before: &[NodeId], after: &[NodeId]) {
        if before == after {
            return;
        }
        for (i, node) in after.iter().enumerate() {
            self.of.entry(*node).or_default().add(i == 0);
        }
        for (i, node) in before.iter().enumerate() {
            let held = self.of.get_mut(node).expect("what a replica was is counted");
            assert!(held.replicas > 0 && held.leaders >= usize::from(i == 0), "counted once each");
            held.replicas -= 1;
            held.leaders -= usize::from(i == 0);
            if held.replicas == 0 {
                self.of.remove(node);
            }
        }
    }
}
