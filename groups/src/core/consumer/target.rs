//! Who is to get what: the group's epoch moves on when subscriptions or topics change, and a new target
//! assignment follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_model::TopicId;
use highwater_model::limits::{GROUP_METADATA_REFRESH_MS, GROUP_REGEX_REFRESH_MS_MIN};

use super::assignor::{Assignor, Spec, SpecMember};
use super::{ConsumerGroup, regex};
use crate::core::records::{GroupValue, Key, MemberValue, RegexValue, Value};
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::{Millis, Name, Partitions};

impl ConsumerGroup {
    fn hash(&self, turn: &Turn<'_>) -> i64 {
        turn.topics.hash_of(self.subscribed_topics().into_iter())
    }

    /// Moves the group's epoch on.
    pub(super) fn bump(&mut self, turn: &mut Turn<'_>) {
        let value = GroupValue { epoch: self.epoch.saturating_add(1), metadata_hash: self.hash(turn) };
        debug_assert!(value.epoch > self.epoch || self.epoch == i32::MAX, "the epoch grows");
        self.put(turn, Key::Group { group: self.id.clone() }, Value::Group(value));
        self.refresh_due_ms = turn.now + GROUP_METADATA_REFRESH_MS;
    }

    /// Moves the group's epoch on if it must, or if the topics have changed since they were last looked at.
    pub(super) fn bump_if(&mut self, turn: &mut Turn<'_>, must: bool) {
        if must || (turn.now >= self.refresh_due_ms && self.hash(turn) != self.metadata_hash) {
            self.bump(turn);
        } else if turn.now >= self.refresh_due_ms {
            self.refresh_due_ms = turn.now + GROUP_METADATA_REFRESH_MS;
        }
    }

    /// The assignor that most members ask for.
    pub fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(assignor) = member.said.server_assignor.as_deref().and_then(Assignor::by_name) {
                *votes.entry(assignor).or_default() += 1;
            }
        }
        let most = votes.values().max().copied();
        let chosen = votes.into_iter().find(|(_, count)| Some(*count) == most);
        chosen.map_or(Assignor::Uniform, |(assignor, _)| assignor)
    }

    fn spec(&self, turn: &Turn<'_>) -> Spec<'_> {
        let mut spec = Spec::default();
        let mut last: Option<(&MemberValue, Arc<BTreeSet<TopicId>>)> = None;
        for (id, member) in &self.members {
            let said = &member.said;
            let is_same = |other: &MemberValue| {
                other.topic_names == said.topic_names && other.topic_regex == said.topic_regex
            };
            let topics = match last.take() {
                Some((other, topics)) if is_same(other) => topics,
                _ => {
                    let topics = self.topics_of(said, turn.topics);
                    spec.topics
                        .extend(topics.iter().map(|topic| (*topic, turn.topics.partitions_of(*topic))));
                    Arc::new(topics)
                }
            };
            last = Some((said, topics.clone()));
            let instance_id = said.instance_id.as_ref();
            spec.members.push(SpecMember { id, instance_id, topics, before: self.target.get(id) });
        }
        spec
    }

    pub(super) fn assign_key(&self) -> TimerKey {
        TimerKey::Assign { group: self.id.clone() }
    }

    /// A new target if the group's epoch has moved on. Only what differs is written. Members of a large group
    /// go on with the target before until it is time.
    pub(in crate::core) fn update_target(&mut self, turn: &mut Turn<'_>) {
        if self.epoch <= self.target_epoch {
            return;
        }
        let due = self.target_made_ms + turn.settings.assignment_interval_ms;
        let is_large = self.members.len() > turn.settings.assign_at_once_members_max;
        if is_large && self.target_epoch > 0 && turn.now < due {
            return turn.timers.set_if_absent(self.assign_key(), due);
        }
        self.target_made_ms = turn.now;
        turn.timers.cancel(&self.assign_key());
        let spec = self.spec(turn);
        let made = self.assignor().assign(&spec);
        debug_assert!(
            super::assignor::is_allowed(&spec, &made),
            "a member gets what it is not subscribed to"
        );
        let differs = |(member, new): &(&SpecMember<'_>, Partitions)| member.before != Some(new);
        let changed: Vec<(Name, Partitions)> =
            spec.members.iter().zip(made).filter(differs).map(|(m, new)| (m.id.clone(), new)).collect();
        let gone: Vec<Name> =
            self.target.keys().filter(|id| !self.members.contains_key(*id)).cloned().collect();
        for member in gone {
            self.erase(turn, Key::TargetMember { group: self.id.clone(), member });
        }
        for (member, partitions) in changed {
            self.set_target(turn, member, partitions);
        }
        let epoch = self.epoch;
        self.put(turn, Key::Target { group: self.id.clone() }, Value::Target(epoch));
        debug_assert_eq!(self.target.len(), self.members.len(), "a target without a member");
    }

    pub(super) fn set_target(&mut self, turn: &mut Turn<'_>, member: Name, partitions: Partitions) {
        let key = Key::TargetMember { group: self.id.clone(), member };
        self.put(turn, key, Value::TargetMember(partitions));
    }

    /// A member's pattern is another now: what nobody asks for goes.
    pub(super) fn drop_unused_regexes(&mut self, turn: &mut Turn<'_>) {
        let unused = |regex: &&Name| !self.patterned.contains_key(*regex);
        let unused: Vec<Name> = self.regexes.keys().filter(unused).cloned().collect();
        for regex in unused {
            self.erase(turn, Key::Regex { group: self.id.clone(), regex });
        }
    }

    /// Resolves all patterns again if one is new, if there are new topics, or if it is long ago; but not
    /// twice in a short time. Returns whether what members are subscribed to has changed.
    pub(super) fn resolve_regexes(&mut self, turn: &mut Turn<'_>) -> bool {
        let resolved_ms: Millis = self.regexes.values().map(|r| r.resolved_ms).max().unwrap_or(Millis::MIN);
        let version = self.regexes.values().map(|r| r.version).min();
        let is_due = self.patterned.len() != self.regexes.len()
            || version.is_some_and(|version| version < turn.topics_version)
            || turn.now.saturating_sub(resolved_ms) > turn.settings.regex_refresh_ms;
        let is_soon = resolved_ms != Millis::MIN && turn.now <= resolved_ms + GROUP_REGEX_REFRESH_MS_MIN;
        if self.patterned.is_empty() || !is_due || is_soon {
            return false;
        }
        let mut has_changed = false;
        let patterns: Vec<Name> = self.patterned.keys().cloned().collect();
        for pattern in patterns {
            // One that does not compile came from a log: it matches nothing.
            let topics =
                regex::compile(&pattern).map(|r| regex::resolve(&r, turn.topics)).unwrap_or_default();
            let before = self.regexes.get(&pattern).map(|r| &r.topics);
            has_changed |= before.map_or(!topics.is_empty(), |before| *before != topics);
            let value = RegexValue { topics, version: turn.topics_version, resolved_ms: turn.now };
            self.put(turn, Key::Regex { group: self.id.clone(), regex: pattern }, Value::Regex(value));
        }
        debug_assert!(self.patterned.keys().all(|p| self.regexes.contains_key(p)), "a pattern is unresolved");
        has_changed
    }
}
