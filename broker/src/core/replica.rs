//! One replica of a fetch-replicated partition: who leads, who is in sync, and how far everything is
//! committed.
//!
//! Pure: it is told what the control plane decided, what followers have and how far its own log reaches, and
//! says where the high watermark is and which in-sync set to propose. It follows Kafka 4: the high watermark
//! is the least of what the members of the largest in-sync set that may be in force have (KIP-497), frozen
//! while that set is smaller than `min.insync.replicas` (KIP-966); a set names the incarnation of each member
//! (KIP-903); a follower leaves after `replica.lag.time.max.ms` behind the leader's end and joins when it has
//! everything that is committed and everything from before this leader's time.
//!
//! Must not know of files, bytes or tasks; the log is cut and filled in `crate::replica`.
//! Invariants: 3 (nothing counts as committed before every member has it), 4 (the high watermark never moves
//! back on its own), 6 (every door names its leader epoch), 17 (time decides when, never whether).

use std::collections::BTreeMap;

use highwater_model::{LeaderEpoch, NodeId, Offset};

mod group;
mod leader;
mod proof;
#[cfg(test)]
mod tests;

pub use group::{GroupRole, HandOver};
use leader::Leader;

/// One replica as the control plane knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub node_id: NodeId,
    /// Of its newest registration.
    pub broker_epoch: u64,
    /// Neither fenced nor shutting down: it may join the in-sync set.
    pub may_join: bool,
}

/// What the control plane says of one partition, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of the partition's record.
    pub partition_epoch: i32,
    /// In any order; without this node it is none of its replicas.
    pub replicas: Vec<Member>,
    pub isr: Vec<NodeId>,
    /// `min.insync.replicas`, not yet bounded by the number of replicas.
    pub min_isr: usize,
    /// `flush.messages=1`: what a replica has counts only once it is on its disk.
    pub flush_before_ack: bool,
    /// `replica.lag.time.max.ms`.
    pub lag_ms_max: i64,
}

/// How far this node's log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub log_end: Offset,
    pub flushed_end: Offset,
}

/// A member of a proposed in-sync set, by its incarnation (KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IsrMember {
    pub node_id: NodeId,
    pub broker_epoch: u64,
}

/// A change of the in-sync set, to be decided by the control plane (KIP-497).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    pub leader_epoch: LeaderEpoch,
    /// The record that it was made against.
    pub partition_epoch: i32,
    pub isr: Vec<IsrMember>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsrOutcome {
    /// It holds, as of this partition epoch; the epoch that it was made against if nothing had to change.
    Accepted { partition_epoch: i32 },
    /// It was not and will not be carried out.
    Refused,
    /// No answer: it may have been carried out, or may yet be.
    Unknown,
}

/// What a call has set going.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// The high watermark has moved to here: fetches and acknowledgements that wait look again.
    pub high_watermark: Option<Offset>,
    /// Followers have something to fetch, if only a new high watermark.
    pub has_news: bool,
    /// To be proposed; its outcome is handed back with [`Replica::isr_settled`].
    pub propose: Option<IsrProposal>,
}

impl Moves {
    /// Both; the later one's proposal and high watermark win.
    pub fn and(self, later: Moves) -> Moves {
        Moves {
            high_watermark: later.high_watermark.or(self.high_watermark),
            has_news: self.has_news || later.has_news,
            propose: later.propose.or(self.propose),
        }
    }
}

/// What taking over an assignment has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Older than what is known, or the same: nothing was done.
    pub is_old: bool,
    /// Another leader epoch: acknowledgements that wait for the old one's are void.
    pub is_new_epoch: bool,
    pub moves: Moves,
}

/// What this node is to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    /// Of this leader; of none while there is none.
    Follower(Option<NodeId>),
    /// No replica of it.
    Stranger,
}

/// A leader's promise to answer when a batch is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckTicket {
    /// Offset after the batch.
    pub end: Offset,
    /// Of the leader that took the batch.
    pub leader_epoch: LeaderEpoch,
}

/// What became of an [`AckTicket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckState {
    Committed,
    Waiting,
    /// Nobody can say whether it will be: a member of the in-sync set is silent, and another leader may have
    /// been elected.
    Unproven,
    /// The leader that took it is none any more: NOT_LEADER_OR_FOLLOWER, and whether the batch lasts is
    /// unknown.
    NotLeader,
}

/// Why this replica does not do what only a leader may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaderRefusal {
    /// NOT_LEADER_OR_FOLLOWER.
    #[error("this node does not lead the partition")]
    NotLeader,
    /// The caller knows an older leader: FENCED_LEADER_EPOCH.
    #[error("leader epoch {given} is over, {current} leads")]
    FencedEpoch { given: LeaderEpoch, current: LeaderEpoch },
    /// The caller knows a newer leader: UNKNOWN_LEADER_EPOCH.
    #[error("leader epoch {given} is not known here yet")]
    UnknownEpoch { given: LeaderEpoch },
    /// NOT_ENOUGH_REPLICAS.
    #[error("{isr} replicas in sync, {min_isr} are needed")]
    NotEnoughReplicas { isr: usize, min_isr: usize },
    /// A follower's earlier incarnation (KIP-903).
    #[error("broker epoch {given} of node {node_id} is over")]
    StaleBroker { node_id: NodeId, given: u64 },
    #[error("node {node_id} has no replica of the partition")]
    NoReplica { node_id: NodeId },
}

/// How far a follower is, as its fetch tells after its log was found to be a part of the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerEnds {
    pub node_id: NodeId,
    pub broker_epoch: u64,
    /// Where its log ends, which is where it fetches.
    pub log_end: Offset,
    pub flushed_end: Offset,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Replica {
    node_id: NodeId,
    high_watermark: Offset,
    /// None until the first assignment.
    terms: Option<Assignment>,
    /// While this node leads.
    leader: Option<Leader>,
    /// While a Raft group replicates the partition.
    group: Option<GroupRole>,
    /// It leads and takes no batches.
    is_frozen: bool,
    /// See `proof.rs`.
    is_lapsed: bool,
    is_unproven: bool,
}

impl Replica {
    /// A replica that was told nothing yet. `high_watermark`: what is known to be committed, not above the
    /// log's end.
    pub fn new(node_id: NodeId, high_watermark: Offset) -> Replica {
        assert!(high_watermark >= 0);
        let (terms, leader, group) = (None, None, None);
        let (is_frozen, is_lapsed, is_unproven) = (false, false, false);
        Replica { node_id, high_watermark, terms, leader, group, is_frozen, is_lapsed, is_unproven }
    }

    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Everything below is committed, as far as this node knows.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub fn assignment(&self) -> Option<&Assignment> {
        self.terms.as_ref()
    }

    /// -1 before the first assignment.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        if let Some(group) = &self.group {
            return group.term;
        }
        self.terms.as_ref().map_or(-1, |terms| terms.leader_epoch)
    }

    pub fn role(&self) -> Role {
        if let Some(group) = &self.group {
            return if group.leads { Role::Leader } else { Role::Follower(group.leader) };
        }
        match &self.terms {
            _ if self.leader.is_some() => Role::Leader,
            Some(terms) if terms.replicas.iter().any(|m| m.node_id == self.node_id) => {
                Role::Follower(terms.leader)
            }
            _ => Role::Stranger,
        }
    }

    /// The in-sync set that holds, as far as this node knows.
    pub fn isr(&self) -> &[NodeId] {
        match (&self.leader, &self.terms) {
            (Some(leader), _) => leader.isr(),
            (None, Some(terms)) => &terms.isr,
            (None, None) => &[],
        }
    }

    /// On a leader: where its epoch began.
    pub fn epoch_start(&self) -> Option<Offset> {
        self.leader.as_ref().map(Leader::epoch_start)
    }

    /// Whether everything from before this leader's time is known to be committed. Until then the newest
    /// offset is not told to clients (KIP-207: OFFSET_NOT_AVAILABLE).
    pub fn is_settled(&self) -> bool {
        self.epoch_start().is_none_or(|start| self.high_watermark >= start)
    }

    /// Takes over what the control plane says. What is older than what is known is left alone.
    pub fn assign(&mut self, now_ms: i64, given: &Assignment, ends: Ends) -> Assigned {
        assert!(given.leader_epoch >= 0 && given.partition_epoch >= 0);
        assert!(self.high_watermark <= ends.log_end, "what is committed is in the log");
        assert!(self.group.is_none(), "a group is left first");
        let known = self.terms.as_ref();
        let is_old = known.is_some_and(|known| {
            given == known
                || given.leader_epoch < known.leader_epoch
                || given.partition_epoch < known.partition_epoch
        });
        if is_old {
            return Assigned { is_old, ..Assigned::default() };
        }
        let is_new_epoch = known.is_none_or(|known| known.leader_epoch < given.leader_epoch);
        let is_new_record = known.is_none_or(|known| known.partition_epoch < given.partition_epoch);
        let is_replica = given.replicas.iter().any(|m| m.node_id == self.node_id);
        let leads = given.leader == Some(self.node_id) && is_replica;
        self.leader = match self.leader.take() {
            _ if !leads => None,
            Some(leader) if !is_new_epoch => Some(leader.reassigned(given, is_new_record)),
            _ => Some(Leader::new(now_ms, given, self.node_id, ends.log_end)),
        };
        self.terms = Some(given.clone());
        assert_eq!(self.leader.is_some(), leads, "a leader is one by its assignment");
        let mut moves = self.settle(now_ms, ends);
        moves.has_news |= leads;
        Assigned { is_old, is_new_epoch, moves }
    }

    /// Whether this node may append a client's batch, and in which leader epoch. `needs_all`: the client
    /// wants it on every replica in sync.
    ///
    /// # Errors
    /// `NotLeader`, `NotEnoughReplicas`.
    pub fn check_append(&self, needs_all: bool) -> Result<LeaderEpoch, LeaderRefusal> {
        let (Some(leader), Some(terms)) = (&self.leader, &self.terms) else {
            return Err(LeaderRefusal::NotLeader);
        };
        if self.is_frozen || needs_all && self.is_unproven {
            return Err(LeaderRefusal::NotLeader);
        }
        let (isr, min_isr) = (leader.isr().len(), terms.min_isr_effective());
        if needs_all && isr < min_isr {
            return Err(LeaderRefusal::NotEnoughReplicas { isr, min_isr });
        }
        Ok(terms.leader_epoch)
    }

    /// The leader's log has grown from `before`.
    pub fn appended(&mut self, now_ms: i64, before: Offset, ends: Ends) -> Moves {
        assert!(before <= ends.log_end);
        let (Some(leader), Some(terms)) = (&mut self.leader, &self.terms) else {
            return Moves::default();
        };
        leader.own_log_grew(now_ms, terms, before);
        let mut moves = self.settle(now_ms, ends);
        moves.has_news = true;
        moves
    }

    /// This node's flushed end has moved.
    pub fn flushed(&mut self, now_ms: i64, ends: Ends) -> Moves {
        assert!(ends.flushed_end <= ends.log_end);
        self.settle(now_ms, ends)
    }

    /// Judges a follower's fetch before its log is looked at; every door names its epoch (invariant 6).
    ///
    /// # Errors
    /// [`LeaderRefusal`]
    pub fn judge_fetch(
        &self,
        node_id: NodeId,
        broker_epoch: u64,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), LeaderRefusal> {
        let (Some(leader), Some(terms)) = (&self.leader, &self.terms) else {
            return Err(LeaderRefusal::NotLeader);
        };
        let (given, current) = (leader_epoch, terms.leader_epoch);
        if given < current {
            return Err(LeaderRefusal::FencedEpoch { given, current });
        }
        if given > current {
            return Err(LeaderRefusal::UnknownEpoch { given });
        }
        leader.judge_follower(terms, node_id, broker_epoch)
    }

    /// A follower whose log is a part of this leader's up to `follower.log_end` has fetched there. To be
    /// called after [`Replica::judge_fetch`] and after its log was compared.
    pub fn follower_fetched(&mut self, now_ms: i64, follower: FollowerEnds, ends: Ends) -> Moves {
        assert!(follower.log_end <= ends.log_end, "a part of the leader's log does not reach past it");
        assert!(follower.flushed_end <= follower.log_end);
        let (Some(leader), Some(terms)) = (&mut self.leader, &self.terms) else {
            return Moves::default();
        };
        leader.follower_fetched(now_ms, terms, follower, ends.log_end);
        let moves = self.settle(now_ms, ends);
        moves.and(self.propose(now_ms, ends))
    }

    /// What time alone makes due: followers that have fallen behind leave, proposals without an answer are
    /// made again. To be called a few times per `replica.lag.time.max.ms`.
    pub fn tick(&mut self, now_ms: i64, ends: Ends) -> Moves {
        let moves = self.settle(now_ms, ends);
        moves.and(self.propose(now_ms, ends))
    }

    /// The outcome of a proposal; one that no longer matters is ignored.
    pub fn isr_settled(
        &mut self,
        now_ms: i64,
        proposal: &IsrProposal,
        outcome: IsrOutcome,
        ends: Ends,
    ) -> Moves {
        let (Some(leader), Some(terms)) = (&mut self.leader, &mut self.terms) else {
            return Moves::default();
        };
        if proposal.leader_epoch != terms.leader_epoch || proposal.partition_epoch != terms.partition_epoch {
            return Moves::default();
        }
        let is_new_record = match outcome {
            IsrOutcome::Accepted { partition_epoch } => partition_epoch > terms.partition_epoch,
            _ => false,
        };
        leader.isr_settled(now_ms, proposal, outcome, is_new_record);
        if let IsrOutcome::Accepted { partition_epoch } = outcome
            && is_new_record
        {
            terms.partition_epoch = partition_epoch;
            terms.isr = leader.isr().to_vec();
        }
        let moves = self.settle(now_ms, ends);
        moves.and(self.propose(now_ms, ends))
    }

    /// A follower learns from its leader what is committed; of that it has what its log has.
    pub fn leader_told(&mut self, high_watermark: Offset, log_end: Offset) -> Moves {
        assert!(self.leader.is_none(), "a leader is told by nobody");
        self.raise(high_watermark.min(log_end))
    }

    /// The log was cut or begun anew and ends at `log_end`. True if something was cut that had counted as
    /// committed, which only an unclean election may do.
    pub fn truncated(&mut self, log_end: Offset) -> bool {
        assert!(self.leader.is_none(), "a leader's log only grows");
        let is_regress = log_end < self.high_watermark;
        self.high_watermark = self.high_watermark.min(log_end);
        is_regress
    }

    /// The log was begun anew at `offset`, and everything below is committed.
    pub fn log_begun_at(&mut self, offset: Offset) {
        assert!(self.leader.is_none() && offset >= self.high_watermark, "before it leads");
        self.high_watermark = offset;
    }

    /// What became of a batch that waits to be committed.
    pub fn ack(&self, ticket: &AckTicket) -> AckState {
        assert!(ticket.leader_epoch >= 0 && ticket.end >= 0, "a leader has given it out");
        if self.leader.is_none() || self.leader_epoch() != ticket.leader_epoch {
            return AckState::NotLeader;
        }
        match self.high_watermark >= ticket.end {
            true => AckState::Committed,
            false if self.is_unproven => AckState::Unproven,
            false => AckState::Waiting,
        }
    }

    /// How far a follower is, on its leader; for status.
    pub fn follower_ends(&self) -> BTreeMap<NodeId, Option<FollowerEnds>> {
        self.leader.as_ref().map(Leader::follower_ends).unwrap_or_default()
    }

    /// Moves a leader's high watermark to where it may be by now.
    fn settle(&mut self, now_ms: i64, ends: Ends) -> Moves {
        self.prove(now_ms, ends);
        let (Some(leader), Some(terms)) = (&self.leader, &self.terms) else {
            return Moves::default();
        };
        match leader.committed_end(now_ms, terms, ends) {
            None => Moves::default(),
            Some(end) => {
                debug_assert!(end <= ends.log_end);
                self.raise(end)
            }
        }
    }

    fn propose(&mut self, now_ms: i64, ends: Ends) -> Moves {
        let (Some(leader), Some(terms)) = (&mut self.leader, &self.terms) else {
            return Moves::default();
        };
        let propose = leader.propose(now_ms, terms, ends, self.high_watermark);
        Moves { propose, ..Moves::default() }
    }

    fn raise(&mut self, end: Offset) -> Moves {
        if end <= self.high_watermark {
            return Moves::default();
        }
        self.high_watermark = end;
        Moves { high_watermark: Some(end), has_news: true, propose: None }
    }
}

impl Assignment {
    /// `min.insync.replicas`, bounded by how many replicas there are.
    pub fn min_isr_effective(&self) -> usize {
        self.min_isr.min(self.replicas.len()).max(1)
    }

    fn member(&self, node_id: NodeId) -> Option<&Member> {
        self.replicas.iter().find(|m| m.node_id == node_id)
    }

    /// Of what a replica has, the part that counts.
    fn counted(&self, log_end: Offset, flushed_end: Offset) -> Offset {
        debug_assert!(flushed_end <= log_end);
        if self.flush_before_ack { flushed_end } else { log_end }
    }
}
