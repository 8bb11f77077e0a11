//! A classic group: members agree on a protocol, one of them leads and assigns, the group only keeps the
//! generations apart. Here: the state and what keeps it consistent. `join.rs`, `rebalance.rs` and `sync.rs`
//! have the transitions.
//!
//! Invariants: a member of a generation came through its join phase; the generation only grows (6); at most
//! one parked join and one parked sync per member; a group without members is Empty or about to be.

mod join;
mod rebalance;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::answer::{Joined, JoinedMember, Synced};
use super::error::GroupError;
use super::protocol::{CONSUMER, Subscription};
use super::records::{ClassicMemberValue, ClassicProtocol, ClassicValue, Key, Value};
use super::request::Ticket;
use super::turn::Turn;
use super::types::{Millis, Name};

/// Where a classic group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No members; it may hold offsets.
    Empty,
    /// Members are to join.
    PreparingRebalance,
    /// All have joined; the leader is to say who gets what.
    CompletingRebalance,
    Stable,
    /// Handed over to another coordinator.
    Dead,
}

impl State {
    /// As Kafka prints it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }

    fn may_become(self, next: State) -> bool {
        use State::*;
        match next {
            Empty => self == PreparingRebalance,
            PreparingRebalance => matches!(self, Empty | CompletingRebalance | Stable),
            CompletingRebalance => self == PreparingRebalance,
            Stable => self == CompletingRebalance,
            Dead => true,
        }
    }
}

/// A member of a classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMember {
    pub id: Name,
    pub instance_id: Option<Name>,
    pub client_id: Name,
    pub client_host: Name,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// Best first.
    pub protocols: Vec<ClassicProtocol>,
    pub assignment: Bytes,
    /// Its parked JoinGroup.
    join: Option<Ticket>,
    /// Its parked SyncGroup.
    sync: Option<Ticket>,
    /// Has not yet been answered to its first join.
    is_new: bool,
}

impl ClassicMember {
    /// What it says for a protocol.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|p| &*p.name == protocol);
        found.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    fn protocol_bytes(&self) -> usize {
        self.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum()
    }
}

/// A group of the classic protocol, or one that only holds offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicGroup {
    pub id: Name,
    pub state: State,
    previous: State,
    /// Since when; none in records of old.
    pub since_ms: Option<Millis>,
    pub generation: i32,
    pub protocol_type: Option<Name>,
    pub protocol: Option<Name>,
    pub leader: Option<Name>,
    pub members: BTreeMap<Name, ClassicMember>,
    /// Member ids by group instance id.
    statics: BTreeMap<Name, Name>,
    /// Member ids given out and not yet used.
    pending_join: BTreeSet<Name>,
    /// Members of this generation that have not asked for their assignment.
    pending_sync: BTreeSet<Name>,
    /// How many members offer a protocol.
    offered: BTreeMap<Name, usize>,
    protocol_bytes: usize,
    /// Members with a parked join.
    joining: usize,
    /// Someone new came during the initial delay.
    has_newcomer: bool,
    /// The initial delay that runs, and what is left of the rebalance timeout after it.
    delay_ms: (i64, i64),
    /// Of a consumer's group whose subscriptions can be read.
    pub topics: Option<BTreeSet<Name>>,
    /// Its record as last written or read.
    pub(super) stored: Option<Box<ClassicValue>>,
}

impl ClassicGroup {
    pub fn new(id: Name, now: Millis) -> Self {
        ClassicGroup {
            id,
            state: State::Empty,
            previous: State::Dead,
            since_ms: Some(now),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending_join: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            offered: BTreeMap::new(),
            protocol_bytes: 0,
            joining: 0,
            has_newcomer: false,
            delay_ms: (0, 0),
            topics: None,
            stored: None,
        }
    }

    /// A group as its record has it.
    pub fn from_value(id: Name, value: &ClassicValue) -> Self {
        let mut group = ClassicGroup::new(id, value.state_since_ms);
        group.since_ms = Some(value.state_since_ms).filter(|ms| *ms >= 0);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type.clone()).filter(|t| !t.is_empty());
        group.protocol = value.protocol.clone();
        let protocol = value.protocol.clone().unwrap_or_else(|| Name::from(""));
        for member in &value.members {
            if group.members.contains_key(&member.member_id) {
                continue; // the record is not ours to trust
            }
            let mut made = ClassicMember::from_value(member);
            made.protocols =
                vec![ClassicProtocol { name: protocol.clone(), metadata: member.subscription.clone() }];
            group.insert(made);
        }
        if value.leader.as_ref().is_some_and(|leader| group.members.contains_key(leader)) {
            group.leader = value.leader.clone();
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
            group.protocol = Some(protocol);
        }
        group.topics = group.subscribed_topics();
        group.stored = Some(Box::new(value.clone()));
        group.check();
        group
    }

    /// A group of consumers that comes from the consumer protocol, stable with the assignments given.
    pub(super) fn of_consumers(
        id: Name,
        generation: i32,
        now: Millis,
        members: Vec<(ClassicMemberValue, Vec<ClassicProtocol>)>,
    ) -> Self {
        let mut group = ClassicGroup::new(id, now);
        group.generation = generation;
        group.protocol_type = Some(Name::from(CONSUMER));
        for (value, protocols) in members {
            group.insert(ClassicMember::idle(value, protocols));
        }
        // Members that came together have one in common; a log that says otherwise is not ours to trust.
        let first =
            || group.members.values().next().and_then(|m| m.protocols.first()).map(|p| p.name.clone());
        group.protocol = group.select_protocol().or_else(first);
        group.state = State::Stable;
        group.topics = group.subscribed_topics();
        group
    }

    pub fn value(&self) -> ClassicValue {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let member = |m: &ClassicMember| ClassicMemberValue {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            subscription: m.metadata(protocol),
            assignment: m.assignment.clone(),
        };
        ClassicValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Name::from("")),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.since_ms.unwrap_or(-1),
            members: self.members.values().map(member).collect(),
        }
    }

    pub(super) fn write(&mut self, turn: &mut Turn<'_>) {
        let value = self.value();
        self.store(turn, value);
    }

    fn store(&mut self, turn: &mut Turn<'_>, value: ClassicValue) {
        self.stored = Some(Box::new(value.clone()));
        turn.write(Key::Classic { group: self.id.clone() }, Value::Classic(value));
    }

    /// A group whose first members are still to join.
    pub(super) fn write_empty(&mut self, turn: &mut Turn<'_>) {
        let value = ClassicValue {
            protocol_type: Name::from(""),
            generation: self.generation,
            protocol: None,
            leader: None,
            state_since_ms: self.since_ms.unwrap_or(-1),
            members: Vec::new(),
        };
        self.store(turn, value);
    }

    /// About how large its record is, in bytes.
    fn record_bytes(&self) -> usize {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let bytes = |m: &ClassicMember| {
            let texts = m.id.len() + m.client_id.len() + m.client_host.len();
            let instance = m.instance_id.as_ref().map_or(0, |id| id.len());
            texts + instance + m.metadata(protocol).len() + m.assignment.len() + 32
        };
        64 + self.id.len() + self.members.values().map(bytes).sum::<usize>()
    }

    pub(super) fn become_state(&mut self, next: State, now: Millis) {
        assert!(self.state.may_become(next), "a group went from {:?} to {next:?}", self.state);
        self.previous = self.state;
        self.state = next;
        self.since_ms = Some(now);
    }

    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Whether it only holds offsets and has no record of its own.
    pub fn is_simple(&self) -> bool {
        self.is_empty() && self.protocol_type.is_none() && self.pending_join.is_empty()
    }

    /// Made for a join that came to nothing.
    pub(super) fn is_unused(&self) -> bool {
        self.is_empty() && self.pending_join.is_empty()
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending_join.is_empty()
    }

    pub fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    pub fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    pub fn static_member(&self, instance: &str) -> Option<&Name> {
        self.statics.get(instance)
    }

    pub(super) fn has_all_joined(&self) -> bool {
        self.joining == self.members.len() && self.pending_join.is_empty()
    }

    /// The longest of its members', in milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether someone with these protocols may join.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[ClassicProtocol]) -> bool {
        if self.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|p| self.is_offered_by_all(&p.name))
    }

    fn is_offered_by_all(&self, protocol: &Name) -> bool {
        self.offered.get(protocol).copied().unwrap_or(0) == self.members.len()
    }

    fn count_protocols(&mut self, member: &ClassicMember, is_added: bool) {
        for protocol in &member.protocols {
            let count = self.offered.entry(protocol.name.clone()).or_insert(0);
            *count = if is_added { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.offered.remove(&protocol.name);
            }
        }
        let bytes = member.protocol_bytes();
        self.protocol_bytes =
            if is_added { self.protocol_bytes + bytes } else { self.protocol_bytes.saturating_sub(bytes) };
    }

    fn insert(&mut self, member: ClassicMember) {
        debug_assert!(!self.members.contains_key(&member.id), "{} is there already", member.id);
        if let Some(instance) = &member.instance_id {
            self.statics.insert(instance.clone(), member.id.clone());
        }
        self.leader.get_or_insert_with(|| member.id.clone());
        self.pending_join.remove(&member.id);
        self.count_protocols(&member, true);
        self.joining += usize::from(member.join.is_some());
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member or a member id that was given out away.
    fn remove(&mut self, id: &str) -> Option<ClassicMember> {
        self.pending_join.remove(id);
        self.pending_sync.remove(id);
        let member = self.members.remove(id)?;
        self.count_protocols(&member, false);
        self.joining -= usize::from(member.join.is_some());
        if let Some(instance) = &member.instance_id
            && self.statics.get(instance) == Some(&member.id)
        {
            self.statics.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        debug_assert!(self.leader.is_some() || self.members.is_empty(), "members without a leader");
        Some(member)
    }

    /// Parks a join, or takes the parked one out.
    fn park_join(&mut self, id: &str, join: Option<Ticket>) -> Option<Ticket> {
        let member = self.members.get_mut(id)?;
        self.joining = self.joining + usize::from(join.is_some()) - usize::from(member.join.is_some());
        let before = std::mem::replace(&mut member.join, join);
        debug_assert!(self.joining <= self.members.len());
        before
    }

    fn park_sync(&mut self, id: &str, sync: Option<Ticket>) -> Option<Ticket> {
        let member = self.members.get_mut(id)?;
        std::mem::replace(&mut member.sync, sync)
    }

    /// Whether the member is there and its group instance id is its own.
    pub(super) fn validate(&self, member_id: &str, instance_id: Option<&Name>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(GroupError::UnknownMemberId),
                Some(holder) if &**holder != member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    /// The protocol that every member offers and most put first.
    fn select_protocol(&self) -> Option<Name> {
        let mut votes: BTreeMap<&Name, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote = member.protocols.iter().find(|p| self.is_offered_by_all(&p.name));
            *votes.entry(&vote?.name).or_default() += 1;
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.clone())
    }

    /// None if it is not a consumers' group or a subscription cannot be read.
    pub(super) fn subscribed_topics(&self) -> Option<BTreeSet<Name>> {
        if !self.is_of_consumers() {
            return None;
        }
        let mut topics = BTreeSet::new();
        let Some(protocol) = &self.protocol else {
            return self.members.is_empty().then_some(topics);
        };
        for member in self.members.values() {
            topics.extend(Subscription::decode(&member.metadata(protocol)).ok()?.topics);
        }
        Some(topics)
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topics.as_ref().is_some_and(|topics| topics.contains(topic))
    }

    /// The answer to a member's join in the present generation.
    fn joined(&self, id: &Name) -> Joined {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let seen = |m: &ClassicMember| JoinedMember {
            member_id: m.id.clone(),
            instance_id: m.instance_id.clone(),
            metadata: m.metadata(protocol),
        };
        let members = if self.is_leader(id) { self.members.values().map(seen).collect() } else { Vec::new() };
        Joined {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            is_assignment_skipped: false,
            member_id: id.clone(),
            members,
        }
    }

    /// The invariants of the file's head.
    pub fn check(&self) {
        assert_eq!(self.joining, self.members.values().filter(|m| m.join.is_some()).count(), "parked joins");
        assert!(self.leader.as_ref().is_none_or(|l| self.members.contains_key(l)), "the leader left");
        assert!(self.pending_sync.iter().all(|id| self.members.contains_key(id)), "waits for a stranger");
        assert!(self.pending_join.iter().all(|id| !self.members.contains_key(id)), "joined twice");
        for (instance, id) in &self.statics {
            let holder = self.members.get(id).expect("a static member is a member");
            assert_eq!(holder.instance_id.as_ref(), Some(instance), "a static member under another name");
        }
        match self.state {
            State::Empty => assert!(self.members.is_empty(), "an empty group with members"),
            State::CompletingRebalance | State::Stable => {
                assert_eq!(self.joining, 0, "a join is parked in {:?}", self.state);
                assert!(self.protocol.is_some() || self.members.is_empty(), "no protocol");
            }
            State::PreparingRebalance | State::Dead => {}
        }
        let syncs = self.members.values().any(|m| m.sync.is_some());
        assert!(!syncs || self.state == State::CompletingRebalance, "a sync is parked in {:?}", self.state);
    }
}

impl ClassicMember {
    /// A member of a stable group.
    fn idle(value: ClassicMemberValue, protocols: Vec<ClassicProtocol>) -> Self {
        ClassicMember { protocols, ..ClassicMember::from_value(&value) }
    }

    fn from_value(value: &ClassicMemberValue) -> Self {
        ClassicMember {
            id: value.member_id.clone(),
            instance_id: value.instance_id.clone(),
            client_id: value.client_id.clone(),
            client_host: value.client_host.clone(),
            rebalance_timeout_ms: value.rebalance_timeout_ms.max(1),
            session_timeout_ms: value.session_timeout_ms.max(1),
            protocols: Vec::new(),
            assignment: value.assignment.clone(),
            join: None,
            sync: None,
            is_new: false,
        }
    }
}
