//! What peers ask of a replica, and its answers: votes, entries, snapshots. As openraft's engine judges them,
//! with the product's one vote per term before it.

use highwater_broker::core::raft_side::{EntryId, SetMembers, StoredVote};
use highwater_broker::raft::Stored;
use highwater_model::limits::RAFT_LEASE_MS;

use super::group::{Env, Group, Op, Part, order};
use super::message::{Outcome, RaftBody, RaftMessage};
use crate::guards::Guard;

impl Group {
    pub(super) fn take(&mut self, env: Env<'_>, message: RaftMessage) {
        let from = message.from;
        match &message.body {
            RaftBody::PreVote(ask) => {
                let members = self.members();
                let yes = self.candidacy.would_vote(env.now_ms, ask, &self.view(&members), env.peers);
                self.answer(&message, None, RaftBody::PreVoted(yes));
            }
            RaftBody::PreVoted(yes) => {
                if *yes {
                    self.pre_voted(env, message.id, from);
                }
            }
            RaftBody::Vote { vote, last } => {
                let is_granted = self.grants(env, *vote, *last);
                let vote = self.vote;
                self.answer(&message, None, RaftBody::Voted { vote, is_granted });
            }
            RaftBody::Voted { vote, is_granted } => self.voted(env, from, *vote, *is_granted),
            RaftBody::Append { vote, previous, committed, entries } => {
                self.led.sent(vote.term);
                let (outcome, durable) = match order(vote) >= order(&self.vote) {
                    true => self.append(env, *vote, *previous, *committed, entries),
                    false => (Outcome::HigherVote(self.vote), None),
                };
                self.answer(&message, durable, RaftBody::Appended { vote: *vote, outcome });
            }
            RaftBody::Appended { vote, outcome } => {
                self.appended(env, from, message.id, *vote, *outcome);
            }
            RaftBody::Snapshot { vote, at, members, bytes } => {
                self.led.sent(vote.term);
                let outcome = match order(vote) >= order(&self.vote) {
                    true => self.snapshot(env, *vote, *at, members, bytes),
                    false => Outcome::HigherVote(self.vote),
                };
                self.answer(&message, None, RaftBody::Appended { vote: *vote, outcome });
            }
        }
    }

    /// After the steps that are to be taken before.
    fn answer(&mut self, asked: &RaftMessage, durable: Option<EntryId>, body: RaftBody) {
        let (partition, from, from_node) = (self.partition, self.me, self.node);
        let message = RaftMessage { partition, from, from_node, to: asked.from, id: asked.id, body };
        self.ops.push_back(Op::Answer { node: asked.from_node, message, durable });
    }

    fn grants(&mut self, env: Env<'_>, vote: StoredVote, last: Option<EntryId>) -> bool {
        let is_second = self.vote.term == vote.term && self.vote.replica != vote.replica;
        if is_second && self.guards.holds(Guard::OneVotePerTerm) {
            return false;
        }
        let within_lease = env.now_ms <= self.touched_ms.saturating_add(RAFT_LEASE_MS as i64);
        if (self.vote.is_committed && within_lease) || last < self.store.last() {
            return false;
        }
        let is_taken = order(&vote) >= order(&self.vote);
        if is_taken {
            self.voted_at_ms = env.now_ms;
            self.take_vote(env, vote);
        }
        is_taken
    }

    fn voted(&mut self, env: Env<'_>, from: u64, vote: StoredVote, is_granted: bool) {
        if !matches!(self.part, Part::Candidate(_)) {
            return;
        }
        if is_granted && vote == self.vote {
            return self.granted(from);
        }
        let vote = StoredVote { is_committed: false, ..vote };
        if order(&vote) > order(&self.vote) {
            self.take_vote(env, vote);
        }
    }

    /// Whether the log has this entry; what is committed is the same everywhere.
    fn has(&self, id: EntryId) -> bool {
        let is_committed = self.committed.is_some_and(|committed| id.index <= committed.index);
        is_committed || self.store.id_at(id.index).ok().flatten() == Some(id)
    }

    fn cut_from(&mut self, index: u64) {
        if self.store.id_at(index).ok().flatten().is_some() {
            self.ops.push_back(Op::Truncate(index));
        }
    }

    fn append(
        &mut self,
        env: Env<'_>,
        vote: StoredVote,
        previous: Option<EntryId>,
        committed: Option<EntryId>,
        entries: &[Stored],
    ) -> (Outcome, Option<EntryId>) {
        self.take_vote(env, vote);
        self.led.taken(env.now_ms);
        let Some(previous) = previous else { return (Outcome::Conflict, None) };
        if !self.has(previous) {
            self.cut_from(previous.index);
            return (Outcome::Conflict, None);
        }
        let since = entries.iter().position(|entry| !self.has(entry.id)).unwrap_or(entries.len());
        if let Some(first) = entries.get(since) {
            self.cut_from(first.id.index);
            self.ops.extend(entries[since..].iter().cloned().map(Op::Append));
            self.ops.push_back(Op::Flush);
        }
        let matched = entries.last().map_or(previous, |entry| entry.id);
        let committed = committed.map(|id| id.min(matched));
        if committed > self.committed {
            self.committed = committed;
            self.ops.extend(committed.map(Op::Commit));
        }
        (Outcome::Matches(matched), Some(matched))
    }

    fn snapshot(
        &mut self,
        env: Env<'_>,
        vote: StoredVote,
        at: EntryId,
        members: &SetMembers,
        bytes: &[u8],
    ) -> Outcome {
        self.take_vote(env, vote);
        self.led.taken(env.now_ms);
        if Some(at) > self.committed {
            let local = self.store.id_at(at.index).ok().flatten();
            if local.is_some_and(|local| local != at) {
                self.cut_from(self.committed.map_or(0, |id| id.index + 1));
            }
            self.committed = Some(at);
            self.ops.push_back(Op::Install { at, members: members.clone(), bytes: bytes.to_vec() });
        }
        Outcome::Matches(at)
    }
}
