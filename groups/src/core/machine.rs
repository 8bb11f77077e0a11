//! The shard of one partition of `__consumer_offsets`: its groups and their offsets, as a reactor. What a
//! step writes it has applied already, so the state is always what its log says, and a reload of the log
//! gives the same state; only timers and parked requests are lost, as with any change of coordinator.
//!
//! The one rule for the shell: an answer leaves when everything that was appended up to its step is
//! committed, and if an append fails the shard is dropped and loaded anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::limits::{GROUP_TIMERS_PER_STEP_MAX, GROUPS_PER_SHARD_MAX};
use highwater_model::{ProducerId, TopicId};

use super::answer::{Answer, Effect, Joined, Synced};
use super::classic::ClassicGroup;
use super::consumer::ConsumerGroup;
use super::consumer::regex::compile;
use super::error::GroupError;
use super::offsets::Offsets;
use super::records::{Key, Record, Value};
use super::request::{
    Client, ConsumerHeartbeat, Event, GoneTopic, Heartbeat, Join, Leave, Request, Sync, Ticket,
};
use super::rewrite::Pass;
use super::settings::Settings;
use super::timers::{TimerKey, Timers};
use super::turn::{Out, Turn};
use super::types::{Millis, Name, Topics};

/// A group of either protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Group {
    pub fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.is_empty(),
            Group::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether member ids were given out that may still come.
    pub(super) fn has_pending(&self) -> bool {
        matches!(self, Group::Classic(group) if group.has_pending())
    }

    pub fn is_subscribed_to(&self, topic: &Name) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }
}

/// All groups of one shard.
#[derive(Debug)]
pub struct Groups {
    pub(super) settings: Settings,
    pub(super) groups: BTreeMap<Name, Group>,
    pub(super) offsets: Offsets,
    pub(super) timers: Timers,
    pub(super) topics: Arc<Topics>,
    pub(super) topics_version: i64,
    pub(super) out: Out,
    /// The group at which the next round of expiry goes on.
    pub(super) expiry_cursor: Option<Name>,
    /// `loaded` was called: requests may come.
    pub(super) is_loaded: bool,
    /// The state is being written once more.
    pub(super) rewrite: Option<Pass>,
}

impl Groups {
    /// An empty shard, to be loaded.
    pub fn new(settings: Settings, topics: Arc<Topics>, topics_version: i64) -> Self {
        settings.check();
        Groups {
            settings,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
            topics,
            topics_version,
            out: Out::default(),
            expiry_cursor: None,
            is_loaded: false,
            rewrite: None,
        }
    }

    /// When the next `Event::Tick` is due, in milliseconds.
    pub fn next_due(&self) -> Option<Millis> {
        self.timers.next_due()
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.get(name)
    }

    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// Takes one event in; what has to be done comes out.
    pub fn step(&mut self, now: Millis, event: Event, effects: &mut Vec<Effect>) {
        assert!(self.is_loaded, "a shard answers only once it is loaded");
        debug_assert!(self.out.records.is_empty() && self.out.answers.is_empty());
        match event {
            Event::Request { ticket, client, request } => self.request(now, ticket, &client, request),
            Event::Topics { version, topics } => {
                debug_assert!(version >= self.topics_version, "the topics' version fell to {version}");
                self.topics = topics;
                self.topics_version = version;
                for group in self.groups.values_mut() {
                    if let Group::Consumer(group) = group {
                        group.refresh_soon();
                    }
                }
            }
            Event::TopicsDeleted(names) => self.forget_topics(&names),
            Event::TransactionEnded { producer_id, is_commit } => self.decide(producer_id, is_commit),
            Event::Tick => self.tick(now),
        }
        debug_assert!(self.out.transaction.is_none() || self.out.records.iter().all(|r| r.is_offset()));
        self.out.drain(effects);
    }

    fn request(&mut self, now: Millis, ticket: Ticket, client: &Client, request: Request) {
        let answer = match request {
            Request::Join(join) => return self.join(now, ticket, client, &join),
            Request::Sync(sync) => return self.sync(now, ticket, &sync),
            Request::Heartbeat(beat) => Answer::Heartbeat(self.heartbeat(now, &beat)),
            Request::Leave(leave) => Answer::Leave(self.leave(now, &leave)),
            Request::ConsumerHeartbeat(beat) => {
                Answer::ConsumerHeartbeat(self.consumer_heartbeat(now, client, &beat))
            }
            Request::CommitOffsets(commit) => Answer::CommitOffsets(self.commit(now, &commit)),
            Request::CommitTransactionOffsets(commit) => {
                Answer::CommitOffsets(self.commit_transaction(now, &commit))
            }
            Request::DeleteOffsets(delete) => Answer::DeleteOffsets(self.delete_offsets(&delete)),
            Request::DeleteGroup { group } => Answer::DeleteGroup(self.delete_group(now, &group)),
        };
        self.out.answers.push((ticket, answer));
    }

    /// The groups, and all else that a step needs.
    pub(super) fn split(&mut self, now: Millis) -> (&mut BTreeMap<Name, Group>, Turn<'_>) {
        let turn = Turn {
            now,
            settings: &self.settings,
            topics: &self.topics,
            topics_version: self.topics_version,
            timers: &mut self.timers,
            out: &mut self.out,
        };
        (&mut self.groups, turn)
    }

    /// Writes and applies one record of an offset.
    pub(super) fn write(&mut self, producer: Option<ProducerId>, record: Record) {
        self.apply_offset(producer, &record);
        self.out.records.push(record);
    }

    /// A group that only holds offsets is made where there is none.
    pub(super) fn apply_offset(&mut self, producer: Option<ProducerId>, record: &Record) {
        let Key::Offset { group, topic, partition } = &record.key else {
            unreachable!("{:?} is not of an offset", record.key);
        };
        let value = match &record.value {
            Some(Value::Offset(value)) => {
                let made = || Group::Classic(ClassicGroup::new(group.clone(), value.committed_ms));
                self.groups.entry(group.clone()).or_insert_with(made);
                Some(value)
            }
            _ => None,
        };
        self.offsets.apply(producer, group, topic, *partition, value);
    }

    /// The group goes, with its records and timers.
    pub(super) fn erase_group(&mut self, now: Millis, name: &Name) {
        let (groups, mut turn) = self.split(now);
        let group = groups.remove(name).expect("the caller has it");
        debug_assert!(group.is_empty(), "{name} still has members");
        match group {
            Group::Classic(group) => {
                group.cancel_timers(&mut turn);
                turn.erase(Key::Classic { group: name.clone() });
            }
            Group::Consumer(group) => {
                group.cancel_timers(&mut turn);
                group.write_tombstones(&mut turn);
            }
        }
    }

    fn join(&mut self, now: Millis, ticket: Ticket, client: &Client, join: &Join) {
        let is_full = self.groups.len() >= GROUPS_PER_SHARD_MAX;
        let (groups, mut turn) = self.split(now);
        let refuse = |error| Joined::refused(error, join.member_id.clone());
        if let Err(error) = join.validate(turn.settings) {
            return turn.joined(ticket, refuse(error));
        }
        match groups.get_mut(&join.group) {
            Some(Group::Classic(group)) => group.join(&mut turn, ticket, client, join),
            Some(Group::Consumer(group)) if !group.is_empty() => {
                let joined = group.join_classic(&mut turn, client, join);
                turn.joined(ticket, joined.unwrap_or_else(refuse));
                self.downgrade_if(now, &join.group, &BTreeSet::new());
            }
            _ if !join.member_id.is_empty() => turn.joined(ticket, refuse(GroupError::UnknownMemberId)),
            None if is_full => turn.joined(ticket, refuse(GroupError::GroupMaxSizeReached)),
            other => {
                // A new group, or an empty one of the other protocol: its epoch goes on as generation.
                let mut group = ClassicGroup::new(join.group.clone(), now);
                let before = match other {
                    Some(Group::Consumer(before)) => Some(before.clone()),
                    _ => None,
                };
                let before_epoch = before.as_ref().map_or(0, |before| before.epoch);
                group.generation = before_epoch;
                group.join(&mut turn, ticket, client, join);
                if group.is_unused() {
                    return;
                }
                if let Some(before) = before {
                    before.write_tombstones(&mut turn);
                }
                debug_assert!(group.generation == 0 || before_epoch <= group.generation, "it fell");
                group.write_empty(&mut turn);
                groups.insert(join.group.clone(), Group::Classic(group));
            }
        }
    }

    fn sync(&mut self, now: Millis, ticket: Ticket, sync: &Sync) {
        let (groups, mut turn) = self.split(now);
        match groups.get_mut(&sync.group) {
            _ if sync.group.is_empty() => turn.synced(ticket, Synced::refused(GroupError::InvalidGroupId)),
            Some(group) if group.is_empty() => {
                turn.synced(ticket, Synced::refused(GroupError::UnknownMemberId));
            }
            Some(Group::Classic(group)) => group.sync(&mut turn, ticket, sync),
            Some(Group::Consumer(group)) => {
                let synced = group.sync_classic(&mut turn, sync);
                turn.synced(ticket, synced.unwrap_or_else(Synced::refused));
            }
            None => turn.synced(ticket, Synced::refused(GroupError::UnknownMemberId)),
        }
    }

    fn heartbeat(&mut self, now: Millis, beat: &Heartbeat) -> Result<(), GroupError> {
        if beat.group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let (groups, mut turn) = self.split(now);
        match groups.get_mut(&beat.group).ok_or(GroupError::UnknownMemberId)? {
            Group::Classic(group) => group.heartbeat(&mut turn, beat),
            Group::Consumer(group) => group.heartbeat_classic(&mut turn, beat),
        }
    }

    fn leave(&mut self, now: Millis, leave: &Leave) -> Result<Vec<super::answer::Left>, GroupError> {
        if leave.group.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let (groups, mut turn) = self.split(now);
        match groups.get_mut(&leave.group).ok_or(GroupError::UnknownMemberId)? {
            Group::Classic(group) => group.leave(&mut turn, &leave.members),
            Group::Consumer(group) => {
                let (left, gone) = group.leaving(&leave.members);
                self.fence(now, &leave.group, &gone);
                Ok(left)
            }
        }
    }

    fn consumer_heartbeat(
        &mut self,
        now: Millis,
        client: &Client,
        beat: &ConsumerHeartbeat,
    ) -> Result<super::answer::Beat, GroupError> {
        beat.validate()?;
        if beat.epoch < 0 {
            return self.consumer_leave(now, beat);
        }
        let mut is_new = false;
        if beat.epoch == 0 {
            // All that can refuse a newcomer comes before a classic group changes for it.
            beat.topic_regex.iter().try_for_each(|regex| compile(regex).map(drop))?;
            is_new = self.make_consumer_group(now, &beat.group)?;
        }
        let (groups, mut turn) = self.split(now);
        let Some(Group::Consumer(group)) = groups.get_mut(&beat.group) else {
            return Err(GroupError::GroupIdNotFound);
        };
        let answer = group.heartbeat(&mut turn, client, beat);
        if is_new && group.is_unused() {
            groups.remove(&beat.group); // its first member was refused
        }
        answer
    }

    fn consumer_leave(
        &mut self,
        now: Millis,
        beat: &ConsumerHeartbeat,
    ) -> Result<super::answer::Beat, GroupError> {
        let (groups, mut turn) = self.split(now);
        let Some(Group::Consumer(group)) = groups.get_mut(&beat.group) else {
            return Err(GroupError::GroupIdNotFound);
        };
        if let Some(member) = group.leave(&mut turn, beat)? {
            self.fence(now, &beat.group, &BTreeSet::from([member]));
        }
        let member_id = beat.member_id.clone();
        Ok(super::answer::Beat { member_id, epoch: beat.epoch, heartbeat_ms: 0, assignment: None })
    }

    /// Makes a consumer group of that name, of nothing or of a classic group. True if there was nothing.
    fn make_consumer_group(&mut self, now: Millis, name: &Name) -> Result<bool, GroupError> {
        let is_full = self.groups.len() >= GROUPS_PER_SHARD_MAX;
        let (groups, mut turn) = self.split(now);
        let made = match groups.get_mut(name) {
            Some(Group::Consumer(_)) => return Ok(false),
            None if is_full => return Err(GroupError::GroupMaxSizeReached),
            None => ConsumerGroup::new(name.clone()),
            Some(Group::Classic(classic)) => {
                let is_empty = classic.is_empty();
                let made = match is_empty {
                    // The generation goes on as epoch.
                    true => ConsumerGroup::after(name.clone(), classic.generation.max(1)),
                    false if classic.members.len() >= turn.settings.consumer_group_size_max => {
                        return Err(GroupError::GroupMaxSizeReached);
                    }
                    false => ConsumerGroup::from_classic(classic, turn.topics, turn.settings)?,
                };
                classic.refuse_parked(&mut turn, GroupError::RebalanceInProgress);
                classic.cancel_timers(&mut turn);
                turn.erase(Key::Classic { group: name.clone() });
                turn.out.records.extend(made.records());
                made.start_sessions(&mut turn);
                debug_assert!(made.epoch >= classic.generation, "the epoch fell behind the generation");
                made
            }
        };
        Ok(groups.insert(name.clone(), Group::Consumer(made)).is_none())
    }

    /// Members of a consumer group are gone; if only classic ones are left it becomes a classic group.
    fn fence(&mut self, now: Millis, name: &Name, gone: &BTreeSet<Name>) {
        if gone.is_empty() || self.downgrade_if(now, name, gone) {
            return;
        }
        let (groups, mut turn) = self.split(now);
        if let Some(Group::Consumer(group)) = groups.get_mut(name) {
            group.remove_members(&mut turn, gone);
            debug_assert!(gone.iter().all(|id| !group.members.contains_key(id)), "a fenced member stays");
        }
    }

    fn downgrade_if(&mut self, now: Millis, name: &Name, gone: &BTreeSet<Name>) -> bool {
        let (groups, mut turn) = self.split(now);
        let Some(Group::Consumer(group)) = groups.get(name) else { return false };
        if !group.may_downgrade(turn.settings, gone) {
            return false;
        }
        let mut classic = group.to_classic(now, turn.topics, gone);
        group.cancel_timers(&mut turn);
        group.write_tombstones(&mut turn);
        classic.write(&mut turn);
        for member in classic.members.values() {
            turn.session(name, &member.id, member.session_timeout_ms);
        }
        classic.prepare_rebalance(&mut turn);
        debug_assert!(classic.generation >= group.epoch, "the generation fell behind the epoch");
        groups.insert(name.clone(), Group::Classic(classic));
        true
    }

    /// Offsets of topics that are gone; those of a topic that has such a name by now stay.
    fn forget_topics(&mut self, gone: &[GoneTopic]) {
        let gone: BTreeMap<&Name, Option<TopicId>> =
            gone.iter().map(|topic| (&topic.name, topic.now)).collect();
        for group in self.offsets.groups() {
            for (topic, partition) in self.offsets.partitions_of(&group) {
                let Some(now) = gone.get(&topic) else { continue };
                if !now.is_some_and(|id| self.offsets.is_of_topic(&group, &topic, partition, id)) {
                    self.erase_offset(&group, &topic, partition);
                    debug_assert!(!self.offsets.is_pending(&group, &topic, partition), "undecided for good");
                }
            }
        }
    }

    fn tick(&mut self, now: Millis) {
        for _ in 0..GROUP_TIMERS_PER_STEP_MAX {
            let Some(key) = self.timers.pop(now) else { return };
            self.due(now, key);
        }
    }

    fn due(&mut self, now: Millis, key: TimerKey) {
        let (name, member) = match &key {
            TimerKey::Expiry => return self.expire(now),
            TimerKey::Join { group } | TimerKey::Sync { group } | TimerKey::Assign { group } => {
                (group.clone(), None)
            }
            TimerKey::Session { group, member }
            | TimerKey::Revoke { group, member }
            | TimerKey::MemberJoin { group, member }
            | TimerKey::MemberSync { group, member } => (group.clone(), Some(member.clone())),
        };
        let (groups, mut turn) = self.split(now);
        match (groups.get_mut(&name), member) {
            (Some(Group::Classic(group)), Some(member)) => group.session_due(&mut turn, &member),
            (Some(Group::Classic(group)), None) if matches!(key, TimerKey::Join { .. }) => {
                group.join_due(&mut turn);
            }
            (Some(Group::Classic(group)), None) if matches!(key, TimerKey::Sync { .. }) => {
                group.sync_due(&mut turn);
            }
            (Some(Group::Consumer(group)), None) if matches!(key, TimerKey::Assign { .. }) => {
                group.update_target(&mut turn);
            }
            (Some(Group::Consumer(group)), Some(member)) if group.members.contains_key(&member) => {
                self.fence(now, &name, &BTreeSet::from([member]));
            }
            _ => {}
        }
    }
}
