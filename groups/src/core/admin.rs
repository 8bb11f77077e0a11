//! ListGroups, DescribeGroups, ConsumerGroupDescribe, DeleteGroups.

use std::collections::BTreeMap;

use super::answer::{
    DescribedClassic, DescribedClassicMember, DescribedConsumer, DescribedConsumerMember, ListedGroup,
};
use super::classic::{ClassicGroup, State};
use super::consumer::ConsumerGroup;
use super::error::GroupError;
use super::machine::{Group, Groups};
use super::types::{Millis, Name};

impl Group {
    fn listed(&self, id: &Name) -> ListedGroup {
        let none = || Name::from("");
        match self {
            Group::Classic(group) => ListedGroup {
                group: id.clone(),
                protocol_type: group.protocol_type.clone().unwrap_or_else(none),
                state: group.state.name(),
                kind: "classic",
            },
            Group::Consumer(group) => ListedGroup {
                group: id.clone(),
                protocol_type: Name::from(super::protocol::CONSUMER),
                state: group.state(),
                kind: "consumer",
            },
        }
    }
}

impl ClassicGroup {
    fn described(&self) -> DescribedClassic {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.clone().filter(|_| is_stable).unwrap_or_else(|| Name::from(""));
        let members = self.members.values().map(|m| DescribedClassicMember {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: if is_stable { m.metadata(&protocol) } else { Default::default() },
            assignment: if is_stable { m.assignment.clone() } else { Default::default() },
        });
        debug_assert!(is_stable || protocol.is_empty(), "a protocol that may still change");
        DescribedClassic {
            group: self.id.clone(),
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Name::from("")),
            members: members.collect(),
            protocol,
        }
    }
}

impl ConsumerGroup {
    fn described(&self) -> DescribedConsumer {
        let members = self.members.values().map(|m| DescribedConsumerMember {
            member_id: m.id.clone(),
            instance_id: m.said.instance_id.clone(),
            rack_id: m.said.rack_id.clone(),
            epoch: m.at.epoch,
            client_id: m.said.client_id.clone(),
            client_host: m.said.client_host.clone(),
            topic_names: m.said.topic_names.iter().cloned().collect(),
            topic_regex: m.said.topic_regex.clone(),
            state: m.at.state,
            is_classic: m.is_classic(),
            assigned: m.at.assigned.clone(),
            target: self.target_of(&m.id),
        });
        debug_assert!(self.target_epoch <= self.epoch, "a target ahead of the group");
        DescribedConsumer {
            group: self.id.clone(),
            state: self.state(),
            epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor: Name::from(self.assignor().name()),
            members: members.collect(),
        }
    }
}

impl Groups {
    /// Every group whose state and kind are among those named, whatever their case; no names mean all.
    pub fn list(&self, states: &[Name], kinds: &[Name]) -> Vec<ListedGroup> {
        let among = |names: &[Name], one: &str| {
            names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(one))
        };
        debug_assert!(self.is_loaded, "a list before all is known");
        let listed = self.groups.iter().map(|(id, group)| group.listed(id));
        listed.filter(|group| among(states, group.state) && among(kinds, group.kind)).collect()
    }

    /// How many groups there are of each kind and state; for metrics.
    pub fn counts(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let mut counts = BTreeMap::new();
        for (id, group) in &self.groups {
            let listed = group.listed(id);
            *counts.entry((listed.kind, listed.state)).or_default() += 1;
        }
        debug_assert_eq!(counts.values().sum::<usize>(), self.groups.len(), "a group that is not counted");
        counts
    }

    /// Groups, and the members of all of them; for metrics.
    pub fn totals(&self) -> (usize, usize) {
        let members = self.groups.values().map(|group| match group {
            Group::Classic(group) => group.members.len(),
            Group::Consumer(group) => group.members.len(),
        });
        let totals = (self.groups.len(), members.sum());
        debug_assert!(totals.0 > 0 || totals.1 == 0, "members without a group");
        totals
    }

    /// DescribeGroups: classic groups only. Older versions show what is not there as a dead group.
    pub fn describe_classic(&self, group: &str) -> Result<DescribedClassic, GroupError> {
        match self.groups.get(group) {
            Some(Group::Classic(group)) => Ok(group.described()),
            Some(Group::Consumer(_)) | None => Err(GroupError::GroupIdNotFound),
        }
    }

    /// ConsumerGroupDescribe: consumer groups only.
    pub fn describe_consumer(&self, group: &str) -> Result<DescribedConsumer, GroupError> {
        match self.groups.get(group) {
            Some(Group::Consumer(group)) => Ok(group.described()),
            Some(Group::Classic(_)) | None => Err(GroupError::GroupIdNotFound),
        }
    }

    pub(super) fn delete_group(&mut self, now: Millis, name: &Name) -> Result<(), GroupError> {
        let group = self.groups.get(name).ok_or(GroupError::GroupIdNotFound)?;
        if !group.is_empty() {
            return Err(GroupError::NonEmptyGroup);
        }
        for (topic, partition) in self.offsets.partitions_of(name) {
            self.erase_offset(name, &topic, partition);
        }
        self.erase_group(now, name);
        debug_assert!(!self.groups.contains_key(name), "{name} is still there");
        Ok(())
    }
}
