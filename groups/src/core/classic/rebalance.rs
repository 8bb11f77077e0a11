//! The join phase: it begins, waits for members, ends with a new generation.

use super::{ClassicGroup, State, Synced};
use crate::core::answer::Joined;
use crate::core::error::GroupError;
use crate::core::timers::TimerKey;
use crate::core::turn::Turn;
use crate::core::types::Name;

impl ClassicGroup {
    fn join_key(&self) -> TimerKey {
        TimerKey::Join { group: self.id.clone() }
    }

    pub(super) fn sync_key(&self) -> TimerKey {
        TimerKey::Sync { group: self.id.clone() }
    }

    /// Something has changed: a rebalance begins, or one that is under way may end.
    pub(in crate::core) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::Empty | State::Stable | State::CompletingRebalance => self.prepare_rebalance(turn),
            State::PreparingRebalance | State::Dead => self.maybe_complete_join(turn),
        }
    }

    pub(in crate::core) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::CompletingRebalance {
            self.refuse_syncs(turn, GroupError::RebalanceInProgress);
        }
        debug_assert!(self.members.values().all(|m| m.sync.is_none()), "a sync stays parked");
        self.pending_sync.clear();
        turn.timers.cancel(&self.sync_key());
        let is_initial = self.state == State::Empty;
        self.become_state(State::PreparingRebalance, turn.now);
        if is_initial {
            // The group is new: others are likely to come at about the same time.
            let delay = i64::from(turn.settings.initial_rebalance_delay_ms);
            self.delay_ms = (delay, (self.rebalance_timeout_ms() - delay).max(0));
            self.has_newcomer = false;
            turn.timers.set(self.join_key(), turn.now + delay);
        } else if self.has_all_joined() {
            self.complete_join(turn);
        } else {
            turn.timers.set(self.join_key(), turn.now + self.rebalance_timeout_ms());
        }
    }

    /// The join phase ends early if all are there, except in the initial delay.
    pub(super) fn maybe_complete_join(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::PreparingRebalance && self.previous != State::Empty && self.has_all_joined() {
            self.complete_join(turn);
        }
    }

    /// The timer of the join phase has fired.
    pub(in crate::core) fn join_due(&mut self, turn: &mut Turn<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        let (delay, remaining) = self.delay_ms;
        debug_assert!(delay >= 0 && remaining >= 0, "a delay of {delay} ms and {remaining}");
        if self.previous == State::Empty && self.has_newcomer && remaining != 0 {
            self.has_newcomer = false;
            let next = i64::from(turn.settings.initial_rebalance_delay_ms).min(remaining);
            self.delay_ms = (next, (remaining - delay).max(0));
            turn.timers.set(self.join_key(), turn.now + next);
        } else {
            self.complete_join(turn);
        }
    }

    /// Ends the join phase: who has not come is out, except static members; the rest are the new generation.
    pub(super) fn complete_join(&mut self, turn: &mut Turn<'_>) {
        assert_eq!(self.state, State::PreparingRebalance, "no join phase to end");
        turn.timers.cancel(&self.join_key());
        let is_missing = |m: &&super::ClassicMember| m.join.is_none() && m.instance_id.is_none();
        let missing: Vec<Name> = self.members.values().filter(is_missing).map(|m| m.id.clone()).collect();
        for id in missing {
            self.remove(&id);
            turn.forget(&self.id, &id);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members are left and none has come: they stay until their sessions end.
            turn.timers.set(self.join_key(), turn.now + self.rebalance_timeout_ms().max(1));
            return;
        }
        let before = self.generation;
        self.generation = before.checked_add(1).unwrap_or(1);
        debug_assert!(self.generation > before || before == i32::MAX, "the generation grows");
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.become_state(State::Empty, turn.now);
            self.topics = self.subscribed_topics();
            return self.write(turn);
        }
        self.protocol = self.select_protocol();
        debug_assert!(self.protocol.is_some(), "members that have no protocol in common");
        self.become_state(State::CompletingRebalance, turn.now);
        self.topics = self.subscribed_topics();
        self.answer_joins(turn);
        debug_assert_eq!(self.pending_sync.len(), self.members.len(), "everyone is to ask for its part");
        turn.timers.set(self.sync_key(), turn.now + self.rebalance_timeout_ms());
    }

    fn answer_joins(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(ticket) = self.park_join(&id, None) {
                let joined = self.joined(&id);
                turn.joined(ticket, joined);
            }
            let member = self.members.get_mut(&id).expect("of the list above");
            member.is_new = false;
            turn.session(&self.id, &id, member.session_timeout_ms);
            self.pending_sync.insert(id);
        }
        debug_assert_eq!(self.joining, 0, "every join is answered");
    }

    /// Whether the leader has joined; if it has not, the first who has takes over.
    fn elect_joined_leader(&mut self) -> bool {
        let has_joined = |id: &Name| self.members.get(id).is_some_and(|m| m.join.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let next = self.members.values().find(|m| m.join.is_some()).map(|m| m.id.clone());
        match next {
            Some(id) => {
                debug_assert!(!self.is_leader(&id), "the leader has joined");
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// Nobody gets an assignment in this generation.
    pub(super) fn refuse_syncs(&mut self, turn: &mut Turn<'_>, error: GroupError) {
        assert_eq!(self.state, State::CompletingRebalance, "no sync is parked");
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(ticket) = self.park_sync(&id, None) {
                turn.synced(ticket, Synced::refused(error));
                let session_ms = self.members.get(&id).expect("of the list above").session_timeout_ms;
                turn.session(&self.id, &id, session_ms);
            }
            let member = self.members.get_mut(&id).expect("of the list above");
            member.assignment = Default::default();
        }
    }

    /// Answers everything that is parked, when the group changes protocol or coordinator.
    pub(in crate::core) fn refuse_parked(&mut self, turn: &mut Turn<'_>, error: GroupError) {
        let ids: Vec<Name> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(ticket) = self.park_join(&id, None) {
                turn.joined(ticket, Joined::refused(error, id.clone()));
            }
            if let Some(ticket) = self.park_sync(&id, None) {
                turn.synced(ticket, Synced::refused(error));
            }
        }
        debug_assert_eq!(self.joining, 0, "every join is answered");
    }

    /// Drops the group's own timers and those of its members.
    pub(in crate::core) fn cancel_timers(&self, turn: &mut Turn<'_>) {
        turn.timers.cancel(&self.join_key());
        turn.timers.cancel(&self.sync_key());
        for id in self.members.keys().chain(&self.pending_join) {
            turn.forget(&self.id, id);
        }
    }
}
