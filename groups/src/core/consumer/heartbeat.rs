//! ConsumerGroupHeartbeat: join, stay, leave.

use std::collections::BTreeSet;

use highwater_model::limits::{
    GROUP_INSTANCE_ID_BYTES_MAX, GROUP_MEMBERS_MAX, GROUP_NAME_BYTES_MAX, GROUP_OWNED_PARTITIONS_MAX,
    GROUP_SUBSCRIPTION_BYTES_MAX,
};

use super::assignor::Assignor;
use super::{AWAY_EPOCH, ConsumerGroup, Member, regex};
use crate::core::answer::Beat;
use crate::core::error::GroupError;
use crate::core::records::{CurrentValue, Key, Value};
use crate::core::request::{Client, ConsumerHeartbeat};
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::{Name, Partitions, contains, count_partitions, each};

/// An epoch with which a member leaves.
pub(in crate::core) const LEAVE_EPOCH: i32 = -1;

impl ConsumerHeartbeat {
    /// What can be said of a heartbeat without its group.
    pub(in crate::core) fn validate(&self) -> Result<(), GroupError> {
        use GroupError::InvalidRequest;
        let is_blank = |name: &Option<Name>| name.as_ref().is_some_and(|n| n.trim().is_empty());
        if self.group.trim().is_empty() || is_blank(&self.instance_id) || is_blank(&self.rack_id) {
            return Err(InvalidRequest);
        }
        let is_first = self.epoch == 0;
        let has_topics = self.topic_names.is_some() || self.topic_regex.is_some();
        let is_sound = match self.epoch {
            0 => {
                self.rebalance_timeout_ms.is_some()
                    && self.owned.as_ref().is_some_and(Partitions::is_empty)
                    && has_topics
            }
            AWAY_EPOCH => !self.member_id.is_empty() && self.instance_id.is_some(),
            LEAVE_EPOCH => !self.member_id.is_empty(),
            epoch => epoch > 0 && !self.member_id.is_empty(),
        };
        if !is_sound || (self.rebalance_timeout_ms.is_some_and(|ms| ms < 0) && is_first) {
            return Err(InvalidRequest);
        }
        if self.server_assignor.as_ref().is_some_and(|name| Assignor::by_name(name).is_none()) {
            return Err(GroupError::UnsupportedAssignor);
        }
        self.validate_sizes()
    }

    /// Called once all else is known to be in order.
    fn validate_sizes(&self) -> Result<(), GroupError> {
        let names = self.topic_names.iter().flatten();
        let bytes: usize = names.map(|n| n.len() + 2).sum();
        let is_long = |name: &Name| name.len() > GROUP_NAME_BYTES_MAX;
        let is_too_much = bytes > GROUP_SUBSCRIPTION_BYTES_MAX
            || self.topic_names.iter().flatten().any(is_long)
            || [&self.group, &self.member_id].into_iter().any(is_long)
            || self.rack_id.iter().any(is_long)
            || self.instance_id.as_ref().is_some_and(|id| id.len() > GROUP_INSTANCE_ID_BYTES_MAX)
            || self.owned.as_ref().is_some_and(|o| count_partitions(o) > GROUP_OWNED_PARTITIONS_MAX);
        if is_too_much { Err(GroupError::InvalidRequest) } else { Ok(()) }
    }

    /// Everything that a member says when it begins anew; it is told everything in return.
    fn is_full(&self) -> bool {
        let has_topics = self.topic_names.is_some() || self.topic_regex.is_some();
        self.rebalance_timeout_ms.is_some() && has_topics && self.owned.is_some()
    }
}

/// Whether the member may go on with the epoch that it names (KIP-848's fencing).
fn validate_epoch(member: &Member, beat: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let (named, at) = (beat.epoch, &member.at);
    if named == 0 || named == at.epoch {
        return Ok(());
    }
    // The answer with the newer epoch may have been lost; then it has no more than what it had before.
    let has_part =
        |owned: &Partitions| each(owned).all(|(topic, partition)| contains(&at.assigned, topic, partition));
    let is_behind_by_one =
        named < at.epoch && named == at.previous_epoch && beat.owned.as_ref().is_some_and(has_part);
    if is_behind_by_one { Ok(()) } else { Err(GroupError::FencedMemberEpoch) }
}

impl ConsumerGroup {
    pub(super) fn has_room_for(&self, turn: &Turn<'_>, id: &Name) -> Result<(), GroupError> {
        let most = turn.settings.consumer_group_size_max.min(GROUP_MEMBERS_MAX);
        let is_new = id.is_empty() || !self.members.contains_key(id);
        if is_new && self.members.len() >= most { Err(GroupError::GroupMaxSizeReached) } else { Ok(()) }
    }

    /// A heartbeat that was validated and does not leave.
    pub(in crate::core) fn heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        client: &Client,
        beat: &ConsumerHeartbeat,
    ) -> Result<Beat, GroupError> {
        self.has_room_for(turn, &beat.member_id)?;
        let id = match beat.member_id.is_empty() {
            true => Name::from(client.fresh.to_string()),
            false => beat.member_id.clone(),
        };
        let (before, replaced) = self.member_of(&id, beat)?;
        let said = updated(&before, client, beat);
        if said.topic_regex != before.said.topic_regex
            && let Some(pattern) = &said.topic_regex
            && !self.patterned.contains_key(pattern)
        {
            regex::compile(pattern)?;
        }
        // Nothing is refused from here on, except a member in a state that this version does not know.
        if before.is_classic() {
            // What it had to do under the classic protocol, it need not do any more.
            turn.forget(&self.id, &id);
        }
        if let Some(old) = replaced {
            self.replace(turn, &old, before.clone());
        }
        let names_changed = said.topic_names != before.said.topic_names;
        let regex_changed = said.topic_regex != before.said.topic_regex;
        if said != before.said || !self.members.contains_key(&id) {
            self.put(turn, Key::Member { group: self.id.clone(), member: id.clone() }, Value::Member(said));
        }
        let was_resolved = self.settle_regexes(turn, regex_changed, &id);
        self.bump_if(turn, self.epoch == 0 || names_changed || was_resolved);
        self.update_target(turn);
        self.reconcile(turn, &id, names_changed || regex_changed, beat.owned.as_ref())?;
        turn.session(&self.id, &id, turn.settings.consumer_session_ms);
        let member = &self.members[&id];
        debug_assert!(!member.is_classic(), "{id} has just spoken the consumer protocol");
        debug_assert!(member.at.epoch >= 0 && member.at.epoch <= self.epoch, "{id} at {}", member.at.epoch);
        debug_assert!(self.epoch > 0 && self.target_epoch > 0, "a target is missing");
        let is_told = beat.epoch == 0 || beat.is_full() || member.at.assigned != before.at.assigned;
        Ok(Beat {
            member_id: id.clone(),
            epoch: member.at.epoch,
            heartbeat_ms: turn.settings.consumer_heartbeat_ms,
            assignment: is_told.then(|| member.at.assigned.clone()),
        })
    }

    /// Returns whether the group's epoch has to move on because of patterns.
    pub(super) fn settle_regexes(&mut self, turn: &mut Turn<'_>, has_changed: bool, id: &Name) -> bool {
        self.drop_unused_regexes(turn);
        let was_resolved = self.resolve_regexes(turn);
        let pattern = self.members.get(id).and_then(|m| m.said.topic_regex.as_ref());
        // One that is not resolved yet moves the epoch when it is.
        was_resolved || (has_changed && pattern.is_none_or(|p| self.regexes.contains_key(p)))
    }

    /// The member as it was before this heartbeat, and whom it replaces.
    fn member_of(&self, id: &Name, beat: &ConsumerHeartbeat) -> Result<(Member, Option<Name>), GroupError> {
        let Some(instance) = &beat.instance_id else {
            let member = match self.members.get(id) {
                Some(member) => member.clone(),
                None if beat.epoch == 0 => Member::new(id.clone()),
                None => return Err(GroupError::UnknownMemberId),
            };
            validate_epoch(&member, beat)?;
            return Ok((member, None));
        };
        let holder = self.static_member(instance);
        if beat.epoch != 0 {
            let holder = holder.ok_or(GroupError::UnknownMemberId)?;
            if holder.id != *id {
                return Err(GroupError::FencedInstanceId);
            }
            validate_epoch(holder, beat)?;
            return Ok((holder.clone(), None));
        }
        let Some(holder) = holder else {
            let known = self.members.get(id).cloned();
            return Ok((known.unwrap_or_else(|| Member::new(id.clone())), None));
        };
        if !holder.is_classic() && holder.at.epoch != AWAY_EPOCH {
            return Err(GroupError::UnreleasedInstanceId);
        }
        Ok((renamed(holder, id), Some(holder.id.clone())))
    }

    /// Puts a static member under its new member id, with all that it had.
    pub(super) fn replace(&mut self, turn: &mut Turn<'_>, old: &Name, new: Member) {
        debug_assert!(self.members.contains_key(old), "nobody to replace");
        let target = self.target_of(old);
        self.write_without(turn, old);
        turn.forget(&self.id, old);
        let key = |member: &Name| (self.id.clone(), member.clone());
        let (group, member) = key(&new.id);
        self.put(turn, Key::Member { group: group.clone(), member: member.clone() }, Value::Member(new.said));
        self.set_target(turn, member.clone(), target);
        self.put(turn, Key::Current { group, member }, Value::Current(new.at));
        debug_assert!(
            self.statics.values().all(|id| id != old || *old == new.id),
            "{old} still has its name"
        );
    }

    /// The tombstones of one member.
    pub(super) fn write_without(&mut self, turn: &mut Turn<'_>, id: &Name) {
        let (group, member) = (self.id.clone(), id.clone());
        self.erase(turn, Key::Current { group: group.clone(), member: member.clone() });
        self.erase(turn, Key::TargetMember { group: group.clone(), member: member.clone() });
        self.erase(turn, Key::Member { group, member });
        debug_assert!(!self.members.contains_key(id), "{id} is still there");
    }

    /// Members are gone for good: their partitions are free, and the others get new targets.
    pub(in crate::core) fn remove_members(&mut self, turn: &mut Turn<'_>, ids: &BTreeSet<Name>) {
        for id in ids {
            self.write_without(turn, id);
            turn.forget(&self.id, id);
        }
        self.drop_unused_regexes(turn);
        self.bump(turn);
        debug_assert!(self.epoch > self.target_epoch, "the others are to get new targets");
    }

    /// The member that leaves by this heartbeat; none if it only goes away for a while.
    pub(in crate::core) fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        beat: &ConsumerHeartbeat,
    ) -> Result<Option<Name>, GroupError> {
        let member = self.validate(&beat.member_id, beat.instance_id.as_ref())?;
        if beat.epoch == LEAVE_EPOCH {
            return Ok(Some(member.id.clone()));
        }
        // A static member's partitions wait for it until its session ends (KIP-345).
        debug_assert!(
            beat.epoch == AWAY_EPOCH && member.said.instance_id.is_some(),
            "only static members go"
        );
        let at = CurrentValue {
            epoch: AWAY_EPOCH,
            previous_epoch: member.at.epoch,
            pending_revocation: Partitions::new(),
            ..member.at.clone()
        };
        let (group, member) = (self.id.clone(), member.id.clone());
        // It has given up what it had to; only the end of its session is awaited.
        turn.timers.cancel(&TimerKey::Revoke { group: group.clone(), member: member.clone() });
        self.put(turn, Key::Current { group, member }, Value::Current(at));
        Ok(None)
    }
}

/// A static member under another member id: its epoch begins anew, what it has stays its.
pub(super) fn renamed(member: &Member, id: &Name) -> Member {
    let at = CurrentValue { epoch: 0, previous_epoch: 0, ..member.at.clone() };
    Member { id: id.clone(), said: member.said.clone(), at }
}

/// What a member has said after this heartbeat.
fn updated(before: &Member, client: &Client, beat: &ConsumerHeartbeat) -> super::MemberValue {
    let mut said = before.said.clone();
    let keep = |new: &Option<Name>, old: Option<Name>| new.clone().or(old);
    said.instance_id = keep(&beat.instance_id, said.instance_id);
    said.rack_id = keep(&beat.rack_id, said.rack_id);
    said.server_assignor = keep(&beat.server_assignor, said.server_assignor);
    said.topic_regex = keep(&beat.topic_regex, said.topic_regex).filter(|regex| !regex.is_empty());
    if let Some(ms) = beat.rebalance_timeout_ms {
        said.rebalance_timeout_ms = ms;
    }
    if let Some(names) = &beat.topic_names {
        said.topic_names = names.clone();
    }
    said.client_id = client.id.clone();
    said.client_host = client.host.clone();
    said.classic = None;
    said
}
