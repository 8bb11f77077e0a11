//! One replica with its log: the synchronous machine that a partition and the simulation run alike.
//!
//! Owns a [`PartitionLog`] and the pure [`Replica`] over it, and is the only place where the two move
//! together: a leader appends and serves its followers (`serve.rs`), a follower fills and cuts its log by
//! what its leader answers (`follow.rs`). No clock, no task, no network: the time and every message are
//! arguments, and what they set going is returned.
//!
//! How a follower comes to have its leader's log. It fetches at its log's end and says which leader epoch
//! wrote the batch before it. The leader compares that with its own epochs: if they part below the follower's
//! end, the answer says where (KIP-595), the follower cuts there and asks again; never by high watermark
//! (KIP-101, KIP-279). If they do not part, the follower's log is a part of the leader's, and only then does
//! its position count. A follower below what the leader has locally, or one with nothing, begins at the start
//! of a segment of the leader's, with the epochs and the producers of that place: the tier has what lies
//! below.
//!
//! Answers are taken only at the position that was asked for, under the leader epoch that was asked: a late
//! one changes nothing.
//!
//! Invariants: 2 (a follower writes the offsets that the leader assigned), 3, 4, 6, 14, 19 (what a peer sends
//! is checked before it is written).

use bytes::Bytes;
use highwater_log::{FlushDone, LogError, PartitionLog, SequenceRefusal, Sequenced};
use highwater_model::{LeaderEpoch, NodeId, Offset};
use highwater_wire::batch::BatchHeader;

use crate::core::replica::{
    AckState, AckTicket, Assigned, Assignment, Ends, GroupRole, HandOver, IsrOutcome, IsrProposal,
    LeaderRefusal, Moves, Replica, Role,
};

mod fetch;
mod follow;
mod guards;
mod origin;
mod serve;
#[cfg(test)]
mod tests;

pub use fetch::{AnswerContent, FetchAnswer, FollowerFetch, Position};
pub use follow::{TakeError, Taken, Truncation};
pub use guards::Guards;
pub use origin::{Origin, judge};
pub use serve::{Served, ServedContent};

/// A batch that is in the leader's log, now or already before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAppended {
    pub base_offset: Offset,
    /// When the batch is committed, for those who want to know.
    pub ticket: AckTicket,
    /// Where the batch was known already: its largest timestamp there.
    pub duplicate_of: Option<i64>,
    /// Whether a segment was sealed first.
    pub rolled: bool,
    pub moves: Moves,
}

/// Why a batch was not appended; nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendRefusal {
    #[error(transparent)]
    Leader(#[from] LeaderRefusal),
    #[error(transparent)]
    Sequence(#[from] SequenceRefusal),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The end of what a manifest lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierEnd {
    pub offset: Offset,
    /// The leader epoch of the last record below, if there is one.
    pub epoch: Option<LeaderEpoch>,
}

/// One leader writes each epoch: logs that have the same epoch at an offset are the same up to there.
fn is_part_of_tier(log: &PartitionLog, tier: TierEnd) -> bool {
    let last = log.epochs().iter().rfind(|e| e.start_offset < tier.offset).map(|e| e.epoch);
    tier.offset <= log.log_end() && last.is_some() && last == tier.epoch
}

/// See the module's text.
#[derive(Debug)]
pub struct ReplicaLog {
    log: PartitionLog,
    replica: Replica,
    guards: Guards,
    /// The log was begun at a leader's segment in this process: it may be empty and know no epochs.
    has_begun: bool,
    /// The leader epoch in which this node led last; only a removed guard asks for it.
    last_led: LeaderEpoch,
}

impl ReplicaLog {
    /// Takes over an open log. What of it is committed, as far as a manifest can tell: what lies in the tier,
    /// if the log has it from the same leader, and else nothing that is local. A node that comes back may
    /// have records of its own below the tier's end that lost against those in the tier.
    pub fn new(node_id: NodeId, log: PartitionLog, tier: TierEnd) -> ReplicaLog {
        let committed_end = match is_part_of_tier(&log, tier) {
            true => tier.offset.max(log.local_start()),
            false => log.local_start(),
        };
        let replica = Replica::new(node_id, committed_end.min(log.log_end()));
        ReplicaLog { log, replica, guards: Guards::default(), has_begun: false, last_led: -1 }
    }

    /// Whether this log has the records below the tier's end that the tier has. A leader of an unclean
    /// election may not.
    pub fn agrees_with(&self, tier: TierEnd) -> bool {
        tier.offset <= self.log.local_start() || is_part_of_tier(&self.log, tier)
    }

    /// For the simulation alone: works without some of the guards, to prove that their absence is noticed.
    #[doc(hidden)]
    pub fn set_guards(&mut self, guards: Guards) {
        self.guards = guards;
    }

    pub fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// For what leaves both ends of the log where they are: roll, evict, log start, settings, poison, close.
    pub fn log_mut(&mut self) -> &mut PartitionLog {
        &mut self.log
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn role(&self) -> Role {
        self.replica.role()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.replica.leader_epoch()
    }

    pub fn high_watermark(&self) -> Offset {
        self.replica.high_watermark()
    }

    /// Where consumers' reads end (invariant 4).
    pub fn readable_end(&self) -> Offset {
        match self.guards.high_watermark_bound {
            true => self.replica.high_watermark(),
            false => self.log.log_end(),
        }
    }

    fn ends(&self) -> Ends {
        let log_end = self.log.log_end();
        let flushed_end = if self.guards.flush_before_ack { self.log.flushed_end() } else { log_end };
        Ends { log_end, flushed_end: flushed_end.min(log_end) }
    }

    /// Takes over what the control plane says of the partition.
    pub fn set_assignment(&mut self, now_ms: i64, assignment: &Assignment) -> Assigned {
        let assigned = self.replica.assign(now_ms, assignment, self.ends());
        if self.role() == Role::Leader {
            self.last_led = self.leader_epoch();
        }
        assert!(self.high_watermark() <= self.log.log_end());
        assigned
    }

    /// Appends one validated batch of a client, or finds that it is in the log already (KIP-98): after a
    /// change of leader too, as the table of producers is that of the log. `needs_all`: the client waits for
    /// every replica in sync (acks=all).
    ///
    /// # Errors
    /// [`AppendRefusal`]; the log is unchanged.
    pub fn append_as_leader(
        &mut self,
        header: &BatchHeader,
        bytes: &Bytes,
        needs_all: bool,
        now_ms: i64,
    ) -> Result<LeaderAppended, AppendRefusal> {
        self.append_from(header, bytes, Origin::Client(None), needs_all, now_ms)
    }

    /// As [`ReplicaLog::append_as_leader`], from whoever writes it.
    ///
    /// # Errors
    /// [`AppendRefusal`]; the log is unchanged.
    pub fn append_from(
        &mut self,
        header: &BatchHeader,
        bytes: &Bytes,
        origin: Origin,
        needs_all: bool,
        now_ms: i64,
    ) -> Result<LeaderAppended, AppendRefusal> {
        let leader_epoch = match self.replica.check_append(needs_all) {
            Err(LeaderRefusal::NotLeader) if !self.guards.epoch_fence && self.last_led >= 0 => {
                self.last_led.max(self.log.latest_epoch().unwrap_or(0))
            }
            judged => judged?,
        };
        let committed = |refusal: SequenceRefusal| refusal.at_high_watermark(self.high_watermark());
        if self.guards.sequence_check
            && let Sequenced::Duplicate { base_offset, next_offset, max_timestamp } =
                judge(&self.log, header, origin).map_err(committed)?
        {
            return Ok(LeaderAppended {
                base_offset,
                ticket: AckTicket { end: next_offset, leader_epoch },
                duplicate_of: Some(max_timestamp),
                rolled: false,
                moves: Moves::default(),
            });
        }
        let before = self.log.log_end();
        let appended = self.log.append(header, bytes, leader_epoch, now_ms)?;
        let moves = self.replica.appended(now_ms, before, self.ends());
        Ok(LeaderAppended {
            base_offset: appended.base_offset,
            ticket: AckTicket { end: appended.next_offset, leader_epoch },
            duplicate_of: None,
            rolled: appended.rolled,
            moves,
        })
    }

    /// Begins anew where the tier ends: what lies below is committed, and no longer local.
    ///
    /// # Errors
    /// Of the disk.
    pub fn begin_at_tier(&mut self, tiered_end: Offset) -> Result<(), LogError> {
        self.log.reset_to(tiered_end)?;
        self.replica.log_begun_at(tiered_end);
        Ok(())
    }

    /// From now on a Raft group says what this node is to the partition, and writes the log.
    pub fn follow_group(&mut self, role: GroupRole) {
        self.replica.follow_group(role);
    }

    /// The group has ended; the next assignment counts again.
    pub fn leave_group(&mut self) {
        self.replica.leave_group();
    }

    /// The group has committed everything below `end`.
    pub fn group_committed(&mut self, end: Offset) -> Moves {
        self.replica.group_committed(end, self.log.log_end())
    }

    /// The group has written to the log: it may have begun anew, or have lost what was never committed.
    pub fn group_wrote(&mut self) {
        self.replica.group_moved_log(self.log.local_start(), self.log.log_end());
    }

    /// Whether this node, while it leads, takes no more batches because a group is about to take over.
    pub fn set_frozen(&mut self, is_frozen: bool) {
        self.replica.set_frozen(is_frozen);
    }

    /// What a group may begin with, once there is such.
    pub fn hand_over(&self) -> Option<HandOver> {
        let log_end = self.log.log_end();
        self.replica.hand_over(Ends { log_end, flushed_end: self.log.flushed_end().min(log_end) })
    }

    /// What became of a batch whose acknowledgement waits.
    pub fn ack(&self, ticket: &AckTicket) -> AckState {
        if !self.guards.epoch_fence {
            let is_committed = self.high_watermark() >= ticket.end;
            return if is_committed { AckState::Committed } else { AckState::Waiting };
        }
        self.replica.ack(ticket)
    }

    /// Takes in what a flush has made durable. A follower then fetches again, to say so.
    pub fn flushed(&mut self, now_ms: i64, done: FlushDone) -> Moves {
        self.log.flushed(done);
        self.replica.flushed(now_ms, self.ends())
    }

    /// Part of what was durable here is damaged or gone. Such a log takes no appends; as a leader's it serves
    /// no followers and changes no in-sync set, so that whoever has more keeps it and may lead instead.
    pub fn has_lost(&self) -> bool {
        self.log.damaged_below().is_some()
    }

    /// What time alone makes due on a leader; see [`Replica::tick`].
    pub fn tick(&mut self, now_ms: i64) -> Moves {
        if self.has_lost() {
            return Moves::default();
        }
        self.replica.tick(now_ms, self.ends())
    }

    /// See [`Replica::set_lapsed`].
    pub fn set_lapsed(&mut self, is_lapsed: bool) {
        self.replica.set_lapsed(is_lapsed);
    }

    /// The outcome of a proposal that a [`Moves`] carried.
    pub fn isr_settled(&mut self, now_ms: i64, proposal: &IsrProposal, outcome: IsrOutcome) -> Moves {
        self.replica.isr_settled(now_ms, proposal, outcome, self.ends())
    }

    /// The largest known epoch at or below `epoch` and where it ended (OffsetForLeaderEpoch). A leader's own
    /// epoch counts from its beginning, before it has written anything.
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let known = self.log.epoch_end(epoch);
        let Some(start) = self.replica.epoch_start() else {
            return known;
        };
        match epoch.cmp(&self.leader_epoch()) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some((epoch, self.log.log_end())),
            std::cmp::Ordering::Less if epoch < 0 => None,
            std::cmp::Ordering::Less => known.or(Some((self.log.latest_epoch().unwrap_or(epoch), start))),
        }
    }
}
