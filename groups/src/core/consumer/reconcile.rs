//! The way of one member from what it has to its target: first it gives up what is not in its target, then it
//! takes what is free. Its epoch moves on when it has given up everything. (Kafka's
//! CurrentAssignmentBuilder.)

use std::collections::BTreeSet;

use highwater_model::TopicId;

use super::{ConsumerGroup, Member};
use crate::core::error::GroupError;
use crate::core::records::{CurrentValue, Key, MemberState, Value};
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::{Name, Partitions, contains, each, insert};

/// What is asked of one step of a member.
pub(super) struct Toward<'a> {
    pub epoch: i32,
    pub target: &'a Partitions,
    /// What it is subscribed to now.
    pub topics: &'a BTreeSet<TopicId>,
    /// Its subscription has just changed: what it is not subscribed to is taken away at once.
    pub is_changed: bool,
    /// What the member says it has; none: as before.
    pub owned: Option<&'a Partitions>,
}

fn owns_any(owned: Option<&Partitions>, pending: &Partitions) -> bool {
    // A member that says nothing has what it had.
    owned.is_none_or(|owned| each(owned).any(|(topic, partition)| contains(pending, topic, partition)))
}

fn advanced(at: &CurrentValue, epoch: i32) -> CurrentValue {
    debug_assert!(epoch >= at.epoch, "a member's epoch fell from {} to {epoch}", at.epoch);
    CurrentValue { epoch, previous_epoch: at.epoch, ..at.clone() }
}

impl ConsumerGroup {
    /// One step of a member. Refused only if its stored state is one that this version does not know.
    pub(super) fn next_of(&self, member: &Member, toward: &Toward<'_>) -> Result<CurrentValue, GroupError> {
        let at = &member.at;
        match at.state {
            MemberState::Stable if at.epoch != toward.epoch => Ok(self.step_of(member, at.epoch, toward)),
            MemberState::Stable if toward.is_changed => Ok(strip(at, toward)),
            MemberState::Stable => Ok(at.clone()),
            MemberState::UnrevokedPartitions if owns_any(toward.owned, &at.pending_revocation) => {
                Ok(if toward.is_changed { strip(at, toward) } else { at.clone() })
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                Ok(self.step_of(member, at.epoch, toward))
            }
            MemberState::Unknown if toward.owned.is_none_or(|owned| !owned.is_empty()) => {
                Err(GroupError::FencedMemberEpoch)
            }
            MemberState::Unknown => Ok(self.step_of(member, toward.epoch, toward)),
        }
    }

    fn step_of(&self, member: &Member, epoch: i32, toward: &Toward<'_>) -> CurrentValue {
        debug_assert!(epoch <= toward.epoch, "a member of {epoch} is to go back to {}", toward.epoch);
        let (mut kept, mut to_revoke, mut to_take) =
            (Partitions::new(), Partitions::new(), Partitions::new());
        let is_wanted =
            |topic, partition| toward.topics.contains(&topic) && contains(toward.target, topic, partition);
        for (topic, partition) in each(&member.at.assigned) {
            let side = if is_wanted(topic, partition) { &mut kept } else { &mut to_revoke };
            insert(side, topic, partition);
        }
        let mut has_unreleased = false;
        for (topic, partition) in each(toward.target) {
            if !toward.topics.contains(&topic) || contains(&kept, topic, partition) {
                continue;
            }
            // One that this member itself has yet to give up is as good as free.
            if self.owner(topic, partition).is_some_and(|owner| *owner != member.id) {
                has_unreleased = true;
            } else {
                insert(&mut to_take, topic, partition);
            }
        }
        if !to_revoke.is_empty() && owns_any(toward.owned, &to_revoke) {
            return CurrentValue {
                state: MemberState::UnrevokedPartitions,
                assigned: kept,
                pending_revocation: to_revoke,
                ..advanced(&member.at, epoch)
            };
        }
        debug_assert!(each(&to_take).all(|(topic, p)| !contains(&kept, topic, p)), "taken twice");
        for (topic, partition) in each(&to_take) {
            insert(&mut kept, topic, partition);
        }
        let state = if has_unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        CurrentValue {
            state,
            assigned: kept,
            pending_revocation: Partitions::new(),
            ..advanced(&member.at, toward.epoch)
        }
    }

    /// Moves a member on as far as it can go, and watches over what it is to give up.
    pub(super) fn reconcile(
        &mut self,
        turn: &mut Turn<'_>,
        id: &Name,
        is_changed: bool,
        owned: Option<&Partitions>,
    ) -> Result<(), GroupError> {
        let member = self.members.get(id).expect("the caller has just written it");
        if !is_changed && member.is_reconciled_to(self.target_epoch) {
            return Ok(());
        }
        let topics = self.topics_of(&member.said, turn.topics);
        let target = self.target_of(id);
        let toward = Toward { epoch: self.target_epoch, target: &target, topics: &topics, is_changed, owned };
        let next = self.next_of(member, &toward)?;
        debug_assert!(next.epoch <= self.epoch, "{id} would be ahead of the group");
        if next == member.at {
            return Ok(());
        }
        let (is_classic, timeout_ms) = (member.is_classic(), member.rebalance_timeout_ms());
        let must_revoke = next.state == MemberState::UnrevokedPartitions;
        let key = Key::Current { group: self.id.clone(), member: id.clone() };
        self.put(turn, key, Value::Current(next));
        // Members of the classic protocol have timers of their own for joining and syncing.
        if !is_classic {
            let timer = TimerKey::Revoke { group: self.id.clone(), member: id.clone() };
            if must_revoke {
                turn.timers.set(timer, turn.now + timeout_ms);
            } else {
                turn.timers.cancel(&timer);
            }
        }
        Ok(())
    }
}

/// Takes away what the member is no longer subscribed to, and nothing else.
fn strip(at: &CurrentValue, toward: &Toward<'_>) -> CurrentValue {
    let mut assigned = at.assigned.clone();
    let mut pending = at.pending_revocation.clone();
    assigned.retain(|topic, set| {
        let is_kept = toward.topics.contains(topic);
        if !is_kept {
            pending.entry(*topic).or_default().extend(set.iter());
        }
        is_kept
    });
    if assigned == at.assigned {
        return at.clone();
    }
    if owns_any(toward.owned, &pending) {
        let state = MemberState::UnrevokedPartitions;
        CurrentValue { state, assigned, pending_revocation: pending, ..advanced(at, at.epoch) }
    } else {
        // They were given up already.
        CurrentValue { assigned, ..advanced(at, at.epoch) }
    }
}
