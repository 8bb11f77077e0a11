//! Members of a consumer group that still speak the classic protocol: to them a member epoch is a generation,
//! and they join again whenever they have something to give up or to take.

use super::heartbeat::renamed;
use super::{ConsumerGroup, Member};
use crate::core::answer::{Joined, Synced};
use crate::core::error::GroupError;
use crate::core::protocol::{CONSUMER, Subscription, encode_assignment};
use crate::core::records::{ClassicProtocol, ClassicUse, Key, MemberState, Value};
use crate::core::request::{Client, Heartbeat, Join, Sync};
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::{Name, Partitions};

impl ConsumerGroup {
    fn supports_classic(&self, join: &Join) -> bool {
        let classic = || self.members.values().filter_map(|m| m.said.classic.as_ref());
        let offers = |used: &ClassicUse, name: &Name| used.protocols.iter().any(|p| p.name == *name);
        &*join.protocol_type == CONSUMER
            && join.protocols.iter().any(|p| classic().all(|used| offers(used, &p.name)))
    }

    /// A join of the classic protocol to a group with members. An error is for the joining member.
    pub(in crate::core) fn join_classic(
        &mut self,
        turn: &mut Turn<'_>,
        client: &Client,
        join: &Join,
    ) -> Result<Joined, GroupError> {
        let is_unknown = join.member_id.is_empty();
        self.has_room_for(turn, &join.member_id)?;
        if !self.supports_classic(join) {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        let id = if is_unknown { Name::from(client.fresh.to_string()) } else { join.member_id.clone() };
        if is_unknown && join.requires_member_id && join.instance_id.is_none() {
            return Ok(Joined::refused(GroupError::MemberIdRequired, id));
        }
        let first = join.protocols.first().ok_or(GroupError::InconsistentGroupProtocol)?;
        let subscription =
            Subscription::decode(&first.metadata).map_err(|_| GroupError::InconsistentGroupProtocol)?;
        let (before, replaced) = self.classic_member_of(&id, join)?;
        if let Some(old) = replaced {
            self.replace(turn, &old, before.clone());
        }
        let said = joined_as(&before, client, join, &subscription);
        let names_changed = said.topic_names != before.said.topic_names;
        let regex_changed = said.topic_regex != before.said.topic_regex;
        if said != before.said || !self.members.contains_key(&id) {
            let key = Key::Member { group: self.id.clone(), member: id.clone() };
            self.put(turn, key, Value::Member(said));
        }
        let was_resolved = self.settle_regexes(turn, regex_changed, &id);
        self.bump_if(turn, self.epoch == 0 || names_changed || was_resolved);
        self.update_target(turn);
        let owned: Partitions = subscription.owned_by_id(turn.topics);
        self.reconcile(turn, &id, names_changed || regex_changed, Some(&owned))?;
        self.await_sync(turn, &id, join);
        debug_assert!(self.members[&id].is_classic(), "{id} has just spoken the classic protocol");
        debug_assert!(self.members[&id].at.epoch <= self.epoch, "{id} is ahead of the group");
        Ok(Joined {
            generation: self.members[&id].at.epoch,
            protocol_type: Some(Name::from(CONSUMER)),
            protocol: Some(first.name.clone()),
            member_id: id,
            ..Joined::default()
        })
    }

    fn await_sync(&self, turn: &mut Turn<'_>, id: &Name, join: &Join) {
        let (group, member) = (self.id.clone(), id.clone());
        turn.timers.cancel(&TimerKey::MemberJoin { group: group.clone(), member: member.clone() });
        turn.timers.cancel(&TimerKey::Revoke { group: group.clone(), member: member.clone() });
        let due = turn.now + i64::from(join.rebalance_ms().max(1));
        turn.timers.set(TimerKey::MemberSync { group, member }, due);
        turn.session(&self.id, id, join.session_timeout_ms);
    }

    fn classic_member_of(&self, id: &Name, join: &Join) -> Result<(Member, Option<Name>), GroupError> {
        let or_new = |known: Option<&Member>| known.cloned().unwrap_or_else(|| Member::new(id.clone()));
        let Some(instance) = &join.instance_id else { return Ok((or_new(self.members.get(id)), None)) };
        let holder = self.static_member(instance);
        if join.member_id.is_empty() {
            return Ok(match holder {
                None => (or_new(None), None),
                Some(holder) => (renamed(holder, id), Some(holder.id.clone())),
            });
        }
        let holder = holder.ok_or(GroupError::UnknownMemberId)?;
        if holder.id != *id {
            return Err(GroupError::FencedInstanceId);
        }
        Ok((holder.clone(), None))
    }

    /// The member of a request of the classic protocol.
    fn classic_member(
        &self,
        id: &Name,
        instance_id: Option<&Name>,
        generation: i32,
    ) -> Result<(&Member, &ClassicUse), GroupError> {
        let member = self.validate(id, instance_id)?;
        let used = member.said.classic.as_ref().ok_or(GroupError::UnknownMemberId)?;
        if member.at.epoch != generation {
            return Err(GroupError::IllegalGeneration);
        }
        debug_assert!(generation <= self.epoch, "{id} is ahead of the group");
        Ok((member, used))
    }

    /// The member is told to join again; it has its rebalance timeout to do so.
    fn await_join(&self, turn: &mut Turn<'_>, member: &Member) {
        debug_assert!(member.is_classic(), "the others are told by their heartbeats");
        let key = TimerKey::MemberJoin { group: self.id.clone(), member: member.id.clone() };
        turn.timers.set_if_absent(key, turn.now + member.rebalance_timeout_ms());
    }

    pub(in crate::core) fn sync_classic(
        &self,
        turn: &mut Turn<'_>,
        sync: &Sync,
    ) -> Result<Synced, GroupError> {
        let (member, used) =
            self.classic_member(&sync.member_id, sync.instance_id.as_ref(), sync.generation)?;
        let first = used.protocols.first().ok_or(GroupError::InconsistentGroupProtocol)?;
        let is_other = sync.protocol_type.as_ref().is_some_and(|t| &**t != CONSUMER)
            || sync.protocol.as_ref().is_some_and(|p| *p != first.name);
        if is_other {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        // One that has yet to give partitions up finishes that first.
        if self.epoch > member.at.epoch && member.at.state != MemberState::UnrevokedPartitions {
            self.await_join(turn, member);
            return Err(GroupError::RebalanceInProgress);
        }
        let key = TimerKey::MemberSync { group: self.id.clone(), member: member.id.clone() };
        turn.timers.cancel(&key);
        turn.session(&self.id, &member.id, used.session_timeout_ms);
        Ok(Synced {
            error: None,
            protocol_type: sync.protocol_type.clone().or_else(|| Some(Name::from(CONSUMER))),
            protocol: Some(first.name.clone()),
            assignment: encode_assignment(version_of(first), &member.at.assigned, turn.topics),
        })
    }

    pub(in crate::core) fn heartbeat_classic(
        &self,
        turn: &mut Turn<'_>,
        beat: &Heartbeat,
    ) -> Result<(), GroupError> {
        let (member, used) =
            self.classic_member(&beat.member_id, beat.instance_id.as_ref(), beat.generation)?;
        turn.session(&self.id, &member.id, used.session_timeout_ms);
        let must_join = member.at.epoch < self.epoch
            || match member.at.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !self.waits_for_others(member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        if must_join {
            self.await_join(turn, member);
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether a partition of its target still belongs to another.
    fn waits_for_others(&self, member: &Member) -> bool {
        debug_assert_eq!(member.at.state, MemberState::UnreleasedPartitions, "it waits for nothing");
        self.target.get(&member.id).is_some_and(|target| {
            crate::core::types::each(target)
                .any(|(topic, p)| self.owner(topic, p).is_some_and(|owner| *owner != member.id))
        })
    }
}

/// The version of the subscription that a member sent.
pub(super) fn version_of(protocol: &ClassicProtocol) -> i16 {
    Subscription::decode(&protocol.metadata).map_or(0, |subscription| subscription.version)
}

fn joined_as(
    before: &Member,
    client: &Client,
    join: &Join,
    subscription: &Subscription,
) -> super::MemberValue {
    let mut said = before.said.clone();
    said.instance_id = join.instance_id.clone().or(said.instance_id);
    said.rack_id = subscription.rack_id.clone().or(said.rack_id);
    said.rebalance_timeout_ms = join.rebalance_ms();
    said.topic_names = subscription.topics.clone();
    said.topic_regex = None;
    said.client_id = client.id.clone();
    said.client_host = client.host.clone();
    said.classic = Some(ClassicUse {
        session_timeout_ms: join.session_timeout_ms,
        protocols: join.distinct_protocols(),
    });
    said
}
