//! A shard comes to life from its log, and is given up.

use highwater_model::ProducerId;

use super::answer::Effect;
use super::classic::ClassicGroup;
use super::codec::Damage;
use super::consumer::{AWAY_EPOCH, ConsumerGroup};
use super::error::GroupError;
use super::machine::{Group, Groups};
use super::records::{Key, MemberState, Record, Value};
use super::timers::TimerKey;
use super::turn::Turn;
use super::types::{Millis, Name};

impl ConsumerGroup {
    /// Sessions of all members begin, and the time of those that have partitions to give up.
    pub(super) fn start_sessions(&self, turn: &mut Turn<'_>) {
        for (id, member) in &self.members {
            let classic_ms = member.said.classic.as_ref().map(|used| used.session_timeout_ms.max(1));
            let session_ms = classic_ms.unwrap_or(turn.settings.consumer_session_ms);
            turn.session(&self.id, id, session_ms);
            let is_away = member.at.epoch == AWAY_EPOCH;
            if classic_ms.is_none() && !is_away && member.at.state == MemberState::UnrevokedPartitions {
                let key = TimerKey::Revoke { group: self.id.clone(), member: id.clone() };
                turn.timers.set(key, turn.now + member.rebalance_timeout_ms());
            }
        }
    }
}

impl Groups {
    /// One record of the log as stored; a kind that is not ours is left alone. What cannot be read changes
    /// nothing: the caller notes its place and goes on, as Kafka does.
    pub fn load_bytes(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        producer: Option<ProducerId>,
    ) -> Result<(), Damage> {
        if let Some(record) = Record::decode(key, value)? {
            self.load(&record, producer);
        }
        Ok(())
    }

    /// One record of the log, in its order; `producer` if it is part of a transaction.
    pub fn load(&mut self, record: &Record, producer: Option<ProducerId>) {
        assert!(!self.is_loaded, "a shard is loaded once");
        match &record.key {
            Key::Offset { .. } => self.apply_offset(producer, record),
            Key::Classic { group } => match &record.value {
                Some(Value::Classic(value)) => {
                    let made = ClassicGroup::from_value(group.clone(), value);
                    self.groups.insert(group.clone(), Group::Classic(made));
                }
                _ => self.load_end(group, true),
            },
            Key::Group { group } if record.value.is_none() => self.load_end(group, false),
            key => self.load_consumer(&key.group().clone(), record),
        }
    }

    /// The tombstone of a group of one kind; a group of the other kind may have its name by now.
    fn load_end(&mut self, name: &Name, is_classic: bool) {
        let is_meant = match self.groups.get(name) {
            Some(Group::Classic(_)) => is_classic,
            Some(Group::Consumer(_)) => !is_classic,
            None => false,
        };
        if is_meant {
            self.groups.remove(name);
        }
    }

    fn load_consumer(&mut self, name: &Name, record: &Record) {
        if !matches!(self.groups.get(name), Some(Group::Consumer(_))) {
            if record.value.is_none() {
                return; // of a group that is gone
            }
            self.groups.insert(name.clone(), Group::Consumer(ConsumerGroup::new(name.clone())));
        }
        if let Some(Group::Consumer(group)) = self.groups.get_mut(name) {
            debug_assert_eq!(group.id, *name);
            group.apply(record);
        }
    }

    /// A transaction's marker in the log.
    pub fn load_marker(&mut self, producer_id: ProducerId, is_commit: bool) {
        assert!(!self.is_loaded, "a shard is loaded once");
        self.offsets.decide(producer_id, is_commit);
    }

    /// The log was read to its end: sessions begin, requests may come. What it writes is to be appended.
    pub fn loaded(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        assert!(!self.is_loaded, "a shard is loaded once");
        self.is_loaded = true;
        for name in self.offsets.groups() {
            let made = || Group::Classic(ClassicGroup::new(name.clone(), now));
            self.groups.entry(name.clone()).or_insert_with(made);
        }
        let size_max = self.settings.group_size_max;
        let (groups, mut turn) = self.split(now);
        for (name, group) in groups.iter_mut() {
            match group {
                Group::Classic(group) => {
                    for member in group.members.values() {
                        turn.session(name, &member.id, member.session_timeout_ms);
                    }
                    // The limit has shrunk: a rebalance lets members commit before some have to go.
                    if group.members.len() > size_max {
                        group.prepare_rebalance(&mut turn);
                    }
                }
                Group::Consumer(group) => {
                    group.settle_loaded();
                    group.start_sessions(&mut turn);
                }
            }
        }
        self.timers.set(TimerKey::Expiry, now + self.settings.offsets_check_ms);
        self.out.drain(effects);
    }

    /// The shard is another's now: whatever is parked is told so.
    pub fn unload(mut self, now: Millis, effects: &mut Vec<Effect>) {
        let (groups, mut turn) = self.split(now);
        for group in groups.values_mut() {
            if let Group::Classic(group) = group {
                group.refuse_parked(&mut turn, GroupError::NotCoordinator);
                group.become_state(super::classic::State::Dead, now);
                group.check();
            }
        }
        self.out.records.clear(); // nobody is there to append them
        self.out.drain(effects);
        debug_assert!(effects.iter().all(|effect| matches!(effect, Effect::Answer { .. })));
    }

    /// Every invariant of every part; for tests and simulations.
    pub fn check(&self) {
        for (name, group) in &self.groups {
            match group {
                Group::Classic(group) => {
                    assert_eq!(group.id, *name);
                    group.check();
                }
                Group::Consumer(group) => {
                    assert_eq!(group.id, *name);
                    group.check();
                }
            }
        }
        self.offsets.check();
        for name in self.offsets.groups() {
            assert!(self.groups.contains_key(&name), "offsets of {name}, which is not there");
        }
    }
}
