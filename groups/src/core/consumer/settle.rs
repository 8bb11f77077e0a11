//! After the load: a log of another program, or one that lost records, may say what cannot be. It is set
//! right here, the same way on every load, so that all else can rely on the invariants.

use std::collections::BTreeSet;

use super::ConsumerGroup;
use crate::core::types::{Name, Partitions, contains, each, insert};

impl ConsumerGroup {
    /// Nothing is written: the next heartbeat moves the epoch on if anything had to be changed.
    pub(in crate::core) fn settle_loaded(&mut self) {
        let mut has_changed = false;
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in &ids {
            let member = &self.members[id];
            // It was told where it stands, but never who it is: its record was lost, or is not there yet.
            if member.said.client_id.is_empty() && member.said.client_host.is_empty() {
                self.remove_member(id);
                has_changed = true;
            } else {
                has_changed |= self.settle_member(id);
            }
        }
        let strangers = self.target.keys().filter(|id| !self.members.contains_key(*id)).count();
        has_changed |= strangers > 0;
        let members = &self.members;
        self.target.retain(|id, _| members.contains_key(id));
        has_changed |= self.settle_targets();
        let furthest = self.members.values().map(|m| m.at.epoch).chain([self.target_epoch, self.epoch]).max();
        self.epoch = furthest.unwrap_or(0).max(0);
        if has_changed {
            self.metadata_hash = !self.metadata_hash; // differs from any topics' own
            self.refresh_soon();
        }
        self.check();
    }

    /// A partition with two owners is the later one's.
    fn settle_member(&mut self, id: &Name) -> bool {
        let member = &self.members[id];
        let is_own = |topic, partition| self.owners.get(&(topic, partition)) == Some(id);
        let mut at = member.at.clone();
        let keep = |partitions: &Partitions, other: &Partitions| {
            let mut kept = Partitions::new();
            for (topic, partition) in each(partitions) {
                if is_own(topic, partition) && !contains(other, topic, partition) {
                    insert(&mut kept, topic, partition);
                }
            }
            kept
        };
        at.assigned = keep(&member.at.assigned, &Partitions::new());
        at.pending_revocation = keep(&member.at.pending_revocation, &at.assigned);
        at.epoch = at.epoch.max(super::AWAY_EPOCH);
        let mut said = member.said.clone();
        said.classic = said.classic.filter(|used| !used.protocols.is_empty());
        let has_changed = at != member.at || said != member.said;
        if has_changed {
            self.set_said(id, &said);
            self.set_at(id, at);
        }
        has_changed
    }

    /// A partition is the target of one member only.
    fn settle_targets(&mut self) -> bool {
        let mut seen = BTreeSet::new();
        let mut has_changed = false;
        for partitions in self.target.values_mut() {
            for (topic, set) in partitions.iter_mut() {
                let before = set.len();
                set.retain(|partition| seen.insert((*topic, *partition)));
                has_changed |= set.len() != before;
            }
            partitions.retain(|_, set| !set.is_empty());
        }
        debug_assert_eq!(seen.len(), self.target.values().flat_map(each).count(), "a target of two members");
        has_changed
    }
}
