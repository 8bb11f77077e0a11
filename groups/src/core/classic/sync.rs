//! SyncGroup, Heartbeat, LeaveGroup, and members that are lost.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ClassicGroup, State, Synced};
use crate::core::answer::{Joined, Left};
use crate::core::error::GroupError;
use crate::core::request::{Heartbeat, LeavingMember, Sync, Ticket};
use crate::core::turn::Turn;
use crate::core::types::Name;

/// Whether a name that was given is another than the group's.
fn differs(given: Option<&Name>, own: Option<&Name>) -> bool {
    matches!((given, own), (Some(given), Some(own)) if given != own)
}

impl ClassicGroup {
    fn validate_sync(&self, sync: &Sync) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.validate(&sync.member_id, sync.instance_id.as_ref())?;
        if sync.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let is_other = differs(sync.protocol_type.as_ref(), self.protocol_type.as_ref())
            || differs(sync.protocol.as_ref(), self.protocol.as_ref());
        if is_other { Err(GroupError::InconsistentGroupProtocol) } else { Ok(()) }
    }

    pub(in crate::core) fn sync(&mut self, turn: &mut Turn<'_>, ticket: Ticket, sync: &Sync) {
        if let Err(error) = self.validate_sync(sync) {
            return turn.synced(ticket, Synced::refused(error));
        }
        match self.state {
            State::PreparingRebalance => {
                debug_assert!(
                    self.pending_sync.is_empty(),
                    "a sync is awaited before the join phase is over"
                );
                turn.synced(ticket, Synced::refused(GroupError::RebalanceInProgress));
            }
            State::CompletingRebalance => {
                if let Some(older) = self.park_sync(&sync.member_id, Some(ticket)) {
                    turn.synced(older, Synced::refused(GroupError::RebalanceInProgress));
                }
                self.has_synced(turn, &sync.member_id);
                if self.is_leader(&sync.member_id) {
                    self.assign(turn, &sync.assignments);
                }
            }
            State::Stable => {
                self.has_synced(turn, &sync.member_id);
                let synced = self.synced(&sync.member_id);
                turn.synced(ticket, synced);
            }
            State::Empty | State::Dead => turn.synced(ticket, Synced::refused(GroupError::UnknownMemberId)),
        }
    }

    fn synced(&self, id: &str) -> Synced {
        debug_assert_eq!(self.state, State::Stable, "an assignment before its time");
        let assignment = self.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default();
        Synced {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment,
        }
    }

    fn has_synced(&mut self, turn: &mut Turn<'_>, id: &str) {
        self.pending_sync.remove(id);
        if self.pending_sync.is_empty() {
            turn.timers.cancel(&self.sync_key());
        }
    }

    /// The leader has spoken: the generation is stored and everyone who waits gets its part.
    fn assign(&mut self, turn: &mut Turn<'_>, assignments: &[(Name, Bytes)]) {
        let by_member: BTreeMap<&Name, &Bytes> = assignments.iter().map(|(id, bytes)| (id, bytes)).collect();
        for member in self.members.values_mut() {
            member.assignment = by_member.get(&member.id).map(|b| (*b).clone()).unwrap_or_default();
        }
        if self.record_bytes() > turn.settings.record_bytes_max {
            // Kafka fails to append such a record: the same error, and a new attempt.
            self.refuse_syncs(turn, GroupError::UnknownServerError);
            return self.rebalance_or_complete(turn);
        }
        self.become_state(State::Stable, turn.now);
        debug_assert!(self.pending_join.is_empty() || !self.members.is_empty(), "stable without members");
        self.write(turn);
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(ticket) = self.park_sync(&id, None) {
                let synced = self.synced(&id);
                turn.synced(ticket, synced);
                let session_ms = self.members.get(&id).expect("of the list above").session_timeout_ms;
                turn.session(&self.id, &id, session_ms);
            }
        }
        debug_assert!(
            self.members.values().all(|m| m.sync.is_none()),
            "a sync stays parked in a stable group"
        );
    }

    pub(in crate::core) fn heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        beat: &Heartbeat,
    ) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.validate(&beat.member_id, beat.instance_id.as_ref())?;
        if beat.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.touch(turn, &beat.member_id);
        match self.state {
            State::Empty | State::Dead => Err(GroupError::UnknownMemberId),
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// A member was heard of: its session begins anew.
    pub(in crate::core) fn touch(&self, turn: &mut Turn<'_>, id: &Name) {
        if let Some(member) = self.members.get(id) {
            turn.session(&self.id, id, member.session_timeout_ms);
        }
    }

    pub(in crate::core) fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        leaving: &[LeavingMember],
    ) -> Result<Vec<Left>, GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let mut left = Vec::with_capacity(leaving.len());
        for member in leaving {
            let error = self.leave_one(turn, member).err();
            left.push(Left {
                member_id: member.member_id.clone(),
                instance_id: member.instance_id.clone(),
                error,
            });
        }
        debug_assert_eq!(left.len(), leaving.len(), "a leaving member without an answer");
        if left.iter().any(|l| l.error.is_none()) {
            match self.state {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete(turn),
                State::PreparingRebalance => self.maybe_complete_join(turn),
                State::Empty | State::Dead => {}
            }
        }
        Ok(left)
    }

    fn leave_one(&mut self, turn: &mut Turn<'_>, leaving: &LeavingMember) -> Result<(), GroupError> {
        let id = if leaving.member_id.is_empty() {
            // An operator removes a static member without knowing its member id (KIP-345).
            let instance = leaving.instance_id.as_ref().ok_or(GroupError::UnknownMemberId)?;
            self.statics.get(instance).cloned().ok_or(GroupError::UnknownMemberId)?
        } else if self.pending_join.contains(&leaving.member_id) {
            leaving.member_id.clone()
        } else {
            self.validate(&leaving.member_id, leaving.instance_id.as_ref())?;
            leaving.member_id.clone()
        };
        self.take_out(turn, &id);
        Ok(())
    }

    /// Removes a member; what of it is parked is told that it is not known, so that it joins anew if it
    /// lives.
    fn take_out(&mut self, turn: &mut Turn<'_>, id: &Name) {
        if let Some(ticket) = self.park_join(id, None) {
            turn.joined(ticket, Joined::refused(GroupError::UnknownMemberId, Name::from("")));
        }
        if let Some(ticket) = self.park_sync(id, None) {
            turn.synced(ticket, Synced::refused(GroupError::UnknownMemberId));
        }
        self.remove(id);
        turn.forget(&self.id, id);
        debug_assert!(
            !self.members.contains_key(id) && !self.pending_join.contains(id),
            "{id} is still there"
        );
        debug_assert!(self.statics.values().all(|holder| holder != id), "{id} still has its name");
    }

    /// A member's session has ended, or nobody came with a member id that was given out.
    pub(in crate::core) fn session_due(&mut self, turn: &mut Turn<'_>, id: &Name) {
        if self.state == State::Dead {
            return;
        }
        if let Some(member) = self.members.get(id) {
            debug_assert!(!self.pending_join.contains(id), "{id} has joined");
            let waits = member.join.is_some() || member.sync.is_some();
            if waits && !member.is_new {
                return; // its session begins anew when it is answered
            }
        } else if !self.pending_join.contains(id) {
            return;
        }
        self.take_out(turn, id);
        match self.state {
            State::Stable | State::CompletingRebalance => self.rebalance_or_complete(turn),
            State::PreparingRebalance if self.has_all_joined() => self.complete_join(turn),
            State::PreparingRebalance | State::Empty | State::Dead => {}
        }
    }

    /// The sync phase is over: who has not asked for its assignment is out.
    pub(in crate::core) fn sync_due(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.state, State::Stable | State::CompletingRebalance) || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.take_out(turn, &id);
        }
        debug_assert!(self.pending_sync.is_empty(), "someone is waited for after the end");
        self.prepare_rebalance(turn);
    }
}
