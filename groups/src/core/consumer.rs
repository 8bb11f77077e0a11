//! A consumer group (KIP-848): the coordinator computes who gets what and moves each member there by its
//! heartbeats. Here: the state, and `apply`, the only way it changes: what a step writes is what a reload
//! reads. `heartbeat.rs` and `classic_member.rs` have the requests, `reconcile.rs` the way of one member to
//! its target, `assignor.rs` the targets, `convert.rs` the way from and to a classic group.
//!
//! Invariants: a partition has one owner at a time, whatever the epochs; the group epoch, a target's epoch
//! and a member's epoch only grow (6), and none is ahead of the group's.

pub mod assignor;
mod classic_member;
mod convert;
mod heartbeat;
mod reconcile;
pub mod regex;
mod settle;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::TopicId;

use super::answer::Left;
use super::error::GroupError;
use super::records::{CurrentValue, GroupValue, Key, MemberState, MemberValue, Record, RegexValue, Value};
use super::request::LeavingMember;
use super::turn::Turn;
use super::types::{Millis, Name, Partitions, Topics, each};

/// A static member that left for a while has this epoch.
pub const AWAY_EPOCH: i32 = -2;

/// A member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: Name,
    pub said: MemberValue,
    pub at: CurrentValue,
}

impl Member {
    pub(super) fn new(id: Name) -> Self {
        let none = Name::from("");
        let said = MemberValue {
            instance_id: None,
            rack_id: None,
            client_id: none.clone(),
            client_host: none,
            topic_names: BTreeSet::new(),
            topic_regex: None,
            rebalance_timeout_ms: -1,
            server_assignor: None,
            classic: None,
        };
        Member { id, said, at: nowhere() }
    }

    pub fn is_classic(&self) -> bool {
        self.said.classic.is_some()
    }

    /// Whether it owns all of its target of this epoch.
    fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.at.state == MemberState::Stable && self.at.epoch == epoch
    }

    /// Its rebalance timeout, or Kafka's default where none was said, in milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        match self.said.rebalance_timeout_ms {
            ms if ms > 0 => i64::from(ms),
            _ => 300_000,
        }
    }
}

/// Where a member stands that has only just come.
fn nowhere() -> CurrentValue {
    CurrentValue {
        epoch: 0,
        previous_epoch: -1,
        state: MemberState::Stable,
        assigned: Partitions::new(),
        pending_revocation: Partitions::new(),
    }
}

/// A group of the consumer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroup {
    pub id: Name,
    pub epoch: i32,
    pub metadata_hash: i64,
    pub target_epoch: i32,
    pub members: BTreeMap<Name, Member>,
    /// Target assignments by member.
    pub target: BTreeMap<Name, Partitions>,
    /// Patterns as resolved.
    pub regexes: BTreeMap<Name, RegexValue>,
    /// Member ids by group instance id.
    statics: BTreeMap<Name, Name>,
    /// Who has a partition, or has yet to give it up.
    owners: BTreeMap<(TopicId, i32), Name>,
    /// How many members name a topic.
    named: BTreeMap<Name, usize>,
    /// How many members have a pattern.
    patterned: BTreeMap<Name, usize>,
    /// When the topics are looked at again, at the latest; not stored.
    refresh_due_ms: Millis,
    /// When the target was made; not stored.
    target_made_ms: Millis,
}

fn count(counts: &mut BTreeMap<Name, usize>, name: &Name, is_added: bool) {
    let count = counts.entry(name.clone()).or_insert(0);
    *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(name);
    }
}

impl ConsumerGroup {
    pub fn new(id: Name) -> Self {
        ConsumerGroup {
            id,
            epoch: 0,
            metadata_hash: 0,
            target_epoch: 0,
            members: BTreeMap::new(),
            target: BTreeMap::new(),
            regexes: BTreeMap::new(),
            statics: BTreeMap::new(),
            owners: BTreeMap::new(),
            named: BTreeMap::new(),
            patterned: BTreeMap::new(),
            refresh_due_ms: 0,
            target_made_ms: 0,
        }
    }

    /// An empty group that goes on from this epoch.
    pub(super) fn after(id: Name, epoch: i32) -> Self {
        ConsumerGroup { epoch, target_epoch: epoch, ..ConsumerGroup::new(id) }
    }

    /// Made for a heartbeat that came to nothing: it has no record.
    pub(super) fn is_unused(&self) -> bool {
        self.epoch == 0 && self.members.is_empty()
    }

    /// As Kafka prints it.
    pub fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().all(|m| m.is_reconciled_to(self.target_epoch)) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The topics have changed: the next heartbeat looks at them.
    pub(super) fn refresh_soon(&mut self) {
        self.refresh_due_ms = 0;
    }

    /// Every topic that some member is subscribed to, whether it exists or not.
    pub fn subscribed_topics(&self) -> BTreeSet<&Name> {
        let resolved = self.patterned.keys().filter_map(|regex| self.regexes.get(regex));
        self.named.keys().chain(resolved.flat_map(|r| r.topics.iter())).collect()
    }

    pub fn is_subscribed_to(&self, topic: &Name) -> bool {
        let resolved = self.patterned.keys().filter_map(|regex| self.regexes.get(regex));
        self.named.contains_key(topic) || resolved.into_iter().any(|r| r.topics.contains(topic))
    }

    /// The ids of the topics that a member is subscribed to and that exist.
    fn topics_of(&self, said: &MemberValue, topics: &Topics) -> BTreeSet<TopicId> {
        let resolved = said.topic_regex.as_ref().and_then(|regex| self.regexes.get(regex));
        let names = said.topic_names.iter().chain(resolved.into_iter().flat_map(|r| r.topics.iter()));
        names.filter_map(|name| topics.by_name(name)).map(|topic| topic.id).collect()
    }

    pub fn target_of(&self, member: &Name) -> Partitions {
        self.target.get(member).cloned().unwrap_or_default()
    }

    pub fn static_member(&self, instance: &Name) -> Option<&Member> {
        self.statics.get(instance).and_then(|id| self.members.get(id))
    }

    /// The member of a request, by its instance id if it has one.
    pub(super) fn validate(&self, id: &Name, instance_id: Option<&Name>) -> Result<&Member, GroupError> {
        let Some(instance) = instance_id else {
            return self.members.get(id).ok_or(GroupError::UnknownMemberId);
        };
        let member = self.static_member(instance).ok_or(GroupError::UnknownMemberId)?;
        if member.id == *id { Ok(member) } else { Err(GroupError::FencedInstanceId) }
    }

    /// Writes and applies one change.
    fn put(&mut self, turn: &mut Turn<'_>, key: Key, value: Value) {
        debug_assert_eq!(*key.group(), self.id, "a record of another group");
        let record = Record::new(key, value);
        self.apply(&record);
        turn.out.records.push(record);
    }

    fn erase(&mut self, turn: &mut Turn<'_>, key: Key) {
        let record = Record::tombstone(key);
        self.apply(&record);
        turn.out.records.push(record);
    }

    /// One change of this group, as written now or read back. Cannot fail; a tombstone of the group itself is
    /// the owner's matter.
    pub fn apply(&mut self, record: &Record) {
        match (&record.key, &record.value) {
            (Key::Group { .. }, Some(Value::Group(value))) => {
                self.epoch = self.epoch.max(value.epoch);
                self.metadata_hash = value.metadata_hash;
            }
            (Key::Member { member, .. }, Some(Value::Member(said))) => self.set_said(member, said),
            (Key::Member { member, .. }, None) => self.remove_member(member),
            (Key::Target { .. }, Some(Value::Target(epoch))) => self.target_epoch = *epoch,
            (Key::TargetMember { member, .. }, Some(Value::TargetMember(partitions))) => {
                self.target.insert(member.clone(), partitions.clone());
            }
            (Key::TargetMember { member, .. }, None) => {
                self.target.remove(member);
            }
            (Key::Current { member, .. }, Some(Value::Current(at))) => self.set_at(member, at.clone()),
            (Key::Current { member, .. }, None) if self.members.contains_key(member) => {
                self.set_at(member, nowhere());
            }
            (Key::Regex { regex, .. }, Some(Value::Regex(value))) => {
                self.regexes.insert(regex.clone(), value.clone());
            }
            (Key::Regex { regex, .. }, None) => {
                self.regexes.remove(regex);
            }
            _ => {}
        }
    }

    fn count_said(&mut self, id: &Name, said: &MemberValue, is_added: bool) {
        for name in &said.topic_names {
            count(&mut self.named, name, is_added);
        }
        if let Some(regex) = &said.topic_regex {
            count(&mut self.patterned, regex, is_added);
        }
        match &said.instance_id {
            Some(instance) if is_added => {
                self.statics.insert(instance.clone(), id.clone());
            }
            Some(instance) if self.statics.get(instance) == Some(id) => {
                self.statics.remove(instance);
            }
            _ => {}
        }
    }

    fn set_said(&mut self, id: &Name, said: &MemberValue) {
        let mut said = said.clone();
        said.topic_regex = said.topic_regex.filter(|regex| !regex.is_empty());
        if let Some(before) = self.members.get(id).map(|m| m.said.clone()) {
            self.count_said(id, &before, false);
        }
        self.count_said(id, &said, true);
        self.members.entry(id.clone()).or_insert_with(|| Member::new(id.clone())).said = said;
    }

    fn release(&mut self, id: &Name, at: &CurrentValue) {
        for partition in each(&at.assigned).chain(each(&at.pending_revocation)) {
            if self.owners.get(&partition) == Some(id) {
                self.owners.remove(&partition);
            }
        }
    }

    /// A compacted log may show a member before another that gave its partitions up: the later one has them.
    fn set_at(&mut self, id: &Name, at: CurrentValue) {
        if let Some(before) = self.members.get(id).map(|m| m.at.clone()) {
            self.release(id, &before);
        }
        for partition in each(&at.assigned).chain(each(&at.pending_revocation)) {
            self.owners.insert(partition, id.clone());
        }
        self.members.entry(id.clone()).or_insert_with(|| Member::new(id.clone())).at = at;
    }

    fn remove_member(&mut self, id: &Name) {
        if let Some(member) = self.members.remove(id) {
            self.release(id, &member.at);
            self.count_said(id, &member.said, false);
            debug_assert!(self.statics.values().all(|holder| holder != id), "{id} still has its name");
        }
    }

    /// Who has a partition, or has yet to give it up.
    pub fn owner(&self, topic: TopicId, partition: i32) -> Option<&Name> {
        self.owners.get(&(topic, partition))
    }

    /// Tombstones of everything that is stored of the group, which is gone then.
    pub(super) fn write_tombstones(&self, turn: &mut Turn<'_>) {
        let group = || self.id.clone();
        for member in self.members.keys() {
            turn.erase(Key::Current { group: group(), member: member.clone() });
        }
        let targets: BTreeSet<_> = self.members.keys().chain(self.target.keys()).collect();
        for member in targets {
            turn.erase(Key::TargetMember { group: group(), member: member.clone() });
        }
        turn.erase(Key::Target { group: group() });
        for member in self.members.keys() {
            turn.erase(Key::Member { group: group(), member: member.clone() });
        }
        for regex in self.regexes.keys() {
            turn.erase(Key::Regex { group: group(), regex: regex.clone() });
        }
        turn.erase(Key::Group { group: group() });
    }

    /// Everything that is stored of the group, in the order in which it can be read back.
    pub fn records(&self) -> Vec<Record> {
        let group = || self.id.clone();
        let mut records = Vec::new();
        for (id, member) in &self.members {
            let key = Key::Member { group: group(), member: id.clone() };
            records.push(Record::new(key, Value::Member(member.said.clone())));
        }
        for (regex, value) in &self.regexes {
            let key = Key::Regex { group: group(), regex: regex.clone() };
            records.push(Record::new(key, Value::Regex(value.clone())));
        }
        let value = GroupValue { epoch: self.epoch, metadata_hash: self.metadata_hash };
        records.push(Record::new(Key::Group { group: group() }, Value::Group(value)));
        for (id, partitions) in &self.target {
            let key = Key::TargetMember { group: group(), member: id.clone() };
            records.push(Record::new(key, Value::TargetMember(partitions.clone())));
        }
        records.push(Record::new(Key::Target { group: group() }, Value::Target(self.target_epoch)));
        for (id, member) in &self.members {
            let key = Key::Current { group: group(), member: id.clone() };
            records.push(Record::new(key, Value::Current(member.at.clone())));
        }
        records
    }

    /// LeaveGroup: what each is told, and who is to go.
    pub(super) fn leaving(&self, leaving: &[LeavingMember]) -> (Vec<Left>, BTreeSet<Name>) {
        let mut gone = BTreeSet::new();
        let mut one = |member: &LeavingMember| -> Result<(), GroupError> {
            let is_by_operator = member.member_id.is_empty() && member.instance_id.is_some();
            let id = if is_by_operator {
                let holder = member.instance_id.as_ref().and_then(|instance| self.static_member(instance));
                holder.ok_or(GroupError::UnknownMemberId)?.id.clone()
            } else {
                self.validate(&member.member_id, member.instance_id.as_ref())?.id.clone()
            };
            gone.insert(id);
            Ok(())
        };
        let left = leaving.iter().map(|member| Left {
            error: one(member).err(),
            member_id: member.member_id.clone(),
            instance_id: member.instance_id.clone(),
        });
        (left.collect(), gone)
    }

    pub(super) fn cancel_timers(&self, turn: &mut Turn<'_>) {
        turn.timers.cancel(&self.assign_key());
        for id in self.members.keys() {
            turn.forget(&self.id, id);
        }
    }

    /// The invariants of the file's head.
    pub fn check(&self) {
        assert!(self.target_epoch <= self.epoch, "a target of {} > {}", self.target_epoch, self.epoch);
        let mut seen = BTreeMap::new();
        for (id, member) in &self.members {
            assert!(member.at.epoch <= self.epoch, "{id} is ahead of the group");
            for partition in each(&member.at.assigned).chain(each(&member.at.pending_revocation)) {
                let before = seen.insert(partition, id);
                assert!(before.is_none(), "{partition:?} belongs to {before:?} and {id}");
                assert_eq!(self.owners.get(&partition), Some(id), "{partition:?} has another owner");
            }
        }
        assert_eq!(seen.len(), self.owners.len(), "an owner without a partition");
        for (instance, id) in &self.statics {
            let holder = self.members.get(id).expect("a static member is a member");
            assert_eq!(holder.said.instance_id.as_ref(), Some(instance), "a static member by another name");
        }
        let mut targets = BTreeSet::new();
        for partition in self.target.values().flat_map(each) {
            assert!(targets.insert(partition), "{partition:?} is the target of two members");
        }
    }
}
