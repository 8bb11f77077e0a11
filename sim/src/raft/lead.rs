//! The leader's half: sends followers what they lack, counts what they have, and tells what is committed no
//! further than its own disk has come.

use std::collections::{BTreeMap, BTreeSet};

use highwater_broker::core::raft_side::{EntryId, ReplicaId, StoredVote};

use super::change::END;
use super::group::{Env, Group, Op, Part, order};
use super::message::{Outcome, RaftBody};
use crate::guards::Guard;

const RESEND_MS: i64 = 600;
const APPEND_BYTES: usize = 6_000;

/// What a leader knows of its followers.
#[derive(Debug, Default)]
pub struct Leading {
    progress: BTreeMap<ReplicaId, Progress>,
}

#[derive(Debug)]
struct Progress {
    matched: Option<EntryId>,
    /// The index that is sent next.
    next: u64,
    needs_snapshot: bool,
    /// Id, when, and the commit that it tells.
    in_flight: Option<(u64, i64, Option<EntryId>)>,
    told: Option<EntryId>,
}

impl Progress {
    fn from(next: u64) -> Progress {
        Progress { matched: None, next, needs_snapshot: false, in_flight: None, told: None }
    }
}

impl Group {
    /// Looks after the followers; true if that leaves steps to be taken.
    pub(super) fn lead_on(&mut self, env: Env<'_>) -> bool {
        let (members, first_next) = (self.members(), self.next_id().index);
        let Part::Leader(leading) = &mut self.part else { return false };
        leading.progress.retain(|replica, _| members.nodes.contains_key(replica));
        let peers: Vec<ReplicaId> =
            members.nodes.keys().copied().filter(|id| *id != self.me && *id != END).collect();
        for replica in &peers {
            leading.progress.entry(*replica).or_insert_with(|| Progress::from(first_next));
        }
        for replica in peers {
            self.send_next(env, replica);
        }
        self.advance_commit();
        self.leave();
        !self.ops.is_empty()
    }

    /// A node is heard again: it may have forgotten what it was told of commits.
    pub fn heard_again(&mut self, node: u64) {
        let members = self.members();
        if let Part::Leader(leading) = &mut self.part {
            let on_it = |replica: &ReplicaId| members.nodes.get(replica) == Some(&node);
            let there = leading.progress.iter_mut().filter(|(replica, _)| on_it(replica));
            there.for_each(|(_, progress)| progress.told = None);
        }
    }

    fn told_commit(&self) -> Option<EntryId> {
        match self.guards.holds(Guard::CommitBound) {
            true => self.committed.min(self.store.durable()),
            false => self.committed,
        }
    }

    fn send_next(&mut self, env: Env<'_>, replica: ReplicaId) {
        let (committed, vote) = (self.told_commit(), self.vote);
        let base = self.store.base_id();
        let Part::Leader(leading) = &self.part else { return };
        let progress = &leading.progress[&replica];
        if progress.in_flight.is_some_and(|(_, at, _)| env.now_ms < at + RESEND_MS) {
            return;
        }
        let is_below = base.is_some_and(|base| progress.next <= base.index);
        if is_below || progress.needs_snapshot {
            return self.send_snapshot(env, replica);
        }
        let previous = progress.next.checked_sub(1).and_then(|at| self.store.id_at(at).ok().flatten());
        let entries = self.store.entries(progress.next, APPEND_BYTES).unwrap_or_default();
        let is_known = progress.matched.is_some();
        if entries.is_empty() && is_known && progress.told >= committed {
            return;
        }
        let id = self.id();
        self.note_flight(env, replica, id, committed);
        self.send(replica, id, RaftBody::Append { vote, previous, committed, entries });
    }

    fn send_snapshot(&mut self, env: Env<'_>, replica: ReplicaId) {
        let Ok(Some((at, members, bytes))) = self.store.snapshot() else { return };
        let (id, vote) = (self.id(), self.vote);
        self.note_flight(env, replica, id, None);
        self.send(replica, id, RaftBody::Snapshot { vote, at, members, bytes });
    }

    fn note_flight(&mut self, env: Env<'_>, replica: ReplicaId, id: u64, told: Option<EntryId>) {
        if let Part::Leader(leading) = &mut self.part
            && let Some(progress) = leading.progress.get_mut(&replica)
        {
            progress.in_flight = Some((id, env.now_ms, told));
        }
    }

    pub(super) fn appended(
        &mut self,
        env: Env<'_>,
        from: ReplicaId,
        id: u64,
        asked: StoredVote,
        outcome: Outcome,
    ) {
        if let Outcome::HigherVote(vote) = outcome
            && order(&vote) > order(&self.vote)
        {
            // Never as the leader that this replica may have been before it lost something.
            let is_committed = vote.is_committed && vote.replica != self.me;
            return self.take_vote(env, StoredVote { is_committed, ..vote });
        }
        let base = self.store.base_id().map_or(0, |base| base.index);
        let is_own = asked == self.vote;
        let Part::Leader(leading) = &mut self.part else { return };
        let Some(progress) = leading.progress.get_mut(&from).filter(|_| is_own) else { return };
        let answered = progress.in_flight.take_if(|(sent, _, _)| *sent == id);
        match outcome {
            Outcome::Matches(matched) => {
                progress.matched = progress.matched.max(Some(matched));
                progress.next = progress.matched.map_or(0, |id| id.index + 1);
                progress.needs_snapshot = false;
                progress.told = progress.told.max(answered.and_then(|(_, _, told)| told));
            }
            Outcome::Conflict if answered.is_some() => {
                let low = progress.matched.map_or(base + 1, |id| id.index + 1);
                progress.needs_snapshot = progress.next <= low;
                progress.next = low + progress.next.saturating_sub(low) / 2;
            }
            _ => {}
        }
        self.advance_commit();
    }

    /// The last entry that a majority of each set of voters has; this leader counts its own at once.
    fn majority_has(&self) -> Option<EntryId> {
        let Part::Leader(leading) = &self.part else { return None };
        let (members, last) = (self.members(), self.store.last());
        let of = |set: &BTreeSet<ReplicaId>| {
            let has = |replica: &ReplicaId| match *replica == self.me {
                true => last,
                false => leading.progress.get(replica).and_then(|p| p.matched),
            };
            let mut all: Vec<Option<EntryId>> = set.iter().map(has).collect();
            all.sort_unstable();
            all.get((all.len().max(1) - 1) / 2).copied().flatten()
        };
        members.voters.iter().map(of).min().flatten()
    }

    pub(super) fn advance_commit(&mut self) {
        let Some(id) = self.majority_has() else { return };
        let is_of_this_term = id.term == self.vote.term && id.leader == self.me;
        if is_of_this_term && Some(id) > self.committed {
            self.committed = Some(id);
            self.ops.push_back(Op::Commit(id));
        }
    }

    /// A leader that was voted out goes when that is committed.
    fn leave(&mut self) {
        let Some(set) = self.store.members() else { return };
        let votes = set.members.voters.iter().any(|voters| voters.contains(&self.me));
        if !votes && set.at <= self.committed {
            self.part = Part::Follower;
        }
    }

    /// How far a follower's log is known to be this leader's.
    pub(super) fn matched(&self, replica: ReplicaId) -> Option<EntryId> {
        match &self.part {
            Part::Leader(_) if replica == self.me => self.store.durable(),
            Part::Leader(leading) => leading.progress.get(&replica).and_then(|p| p.matched),
            _ => None,
        }
    }
}
