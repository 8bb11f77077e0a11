//! The follower's half: what to ask next, and what an answer does to the log.

use bytes::Bytes;
use highwater_log::{Beginning, LogError};
use highwater_model::Offset;
use highwater_model::limits::REPLICA_ANSWER_BYTES_MAX;
use highwater_wire::BatchError;
use highwater_wire::batch::{BatchHeader, Batches, check_crc};

use super::{AnswerContent, FetchAnswer, FollowerFetch, Position, ReplicaLog};
use crate::core::replica::{LeaderRefusal, Moves, Role};

/// A log that was cut because its leader's goes another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    pub from: Offset,
    pub to: Offset,
    /// What had counted as committed was cut: only after an unclean election.
    pub is_below_high_watermark: bool,
}

/// What an answer has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// It was not for the position where the log is, or not from its leader of now: nothing was done.
    pub is_stale: bool,
    pub appended_batches: u64,
    pub appended_offsets: u64,
    pub appended_bytes: u64,
    /// A segment was sealed.
    pub rolled: bool,
    pub truncated: Option<Truncation>,
    /// The log was begun anew here.
    pub began_at: Option<Offset>,
    /// A damaged log was cut, to be filled again by the leader.
    pub damage_cut: bool,
    pub moves: Moves,
}

/// Why an answer was not taken, or not wholly; what the log took before stays.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("the leader refuses: {0}")]
    Refused(#[from] LeaderRefusal),
    #[error("the leader cannot read its log at this replica's end")]
    Unreadable,
    /// Invariant 19: what a peer sends is checked like what the disk holds.
    #[error("a batch from the leader: {0}")]
    Batch(#[from] BatchError),
    #[error("{0}")]
    Answer(&'static str),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl ReplicaLog {
    /// What to ask the leader next; None unless this node follows one. `broker_epoch`: of its registration.
    pub fn next_fetch(&self, broker_epoch: u64) -> Option<FollowerFetch> {
        let (Role::Follower(Some(_)), None) = (self.role(), self.replica.group()) else {
            return None;
        };
        let log = &self.log;
        let is_empty = log.local_bytes() == 0;
        let knows_nothing = log.latest_epoch().is_none() && log.log_end() > 0;
        Some(FollowerFetch {
            node_id: self.replica.node_id(),
            broker_epoch,
            position: self.position(),
            flushed_end: self.ends().flushed_end,
            high_watermark: self.high_watermark(),
            is_empty,
            needs_beginning: is_empty && knows_nothing && !self.has_begun,
        })
    }

    fn position(&self) -> Position {
        let by_epoch = self.guards.truncate_by_epoch;
        let last_fetched_epoch = self.log.latest_epoch().filter(|_| by_epoch).unwrap_or(-1);
        let (leader_epoch, fetch_offset) = (self.leader_epoch(), self.log.log_end());
        Position { leader_epoch, fetch_offset, last_fetched_epoch }
    }

    /// Takes a leader's answer to [`ReplicaLog::next_fetch`]. Truncates and begins anew with fsyncs, which
    /// may take a while; readers must not hold slices of what is cut.
    ///
    /// # Errors
    /// [`TakeError`]; a poisoned log stays so until it is opened again.
    pub fn take_answer(&mut self, now_ms: i64, answer: &FetchAnswer) -> Result<Taken, TakeError> {
        let own = self.position();
        let asked = match self.guards.epoch_fence {
            true => answer.position,
            false => Position { leader_epoch: own.leader_epoch, ..answer.position },
        };
        let follows = matches!(self.role(), Role::Follower(Some(_))) && self.replica.group().is_none();
        if !follows || asked != own {
            return Ok(Taken { is_stale: true, ..Taken::default() });
        }
        let mut taken = Taken::default();
        match &answer.content {
            AnswerContent::Refused(refusal) => return Err((*refusal).into()),
            AnswerContent::Unreadable => return Err(TakeError::Unreadable),
            AnswerContent::Diverging { epoch, end_offset } => {
                let known = self.log.epoch_end(*epoch).map_or(*end_offset, |(_, end)| end);
                self.cut(known.min(*end_offset), now_ms, answer, &mut taken)?;
                return Ok(taken);
            }
            AnswerContent::Begin(beginning) => self.begin(beginning, answer, &mut taken)?,
            AnswerContent::Records(bytes) => self.fill(bytes, now_ms, answer, &mut taken)?,
        }
        taken.moves = self.replica.leader_told(answer.high_watermark, self.log.log_end());
        let log_start = answer.log_start.min(self.high_watermark());
        if log_start > self.log.log_start() {
            self.log.raise_log_start(log_start)?;
        }
        Ok(taken)
    }

    /// Drops damage that the leader can replace: where nobody counts on this replica, as whatever else it may
    /// have was not committed, or is given up by an unclean election; and what the leader has committed.
    fn drop_damage(&mut self, answer: &FetchAnswer, taken: &mut Taken) -> Result<(), LogError> {
        let is_counted = self.replica.isr().contains(&self.replica.node_id());
        if self.log.damaged_below().is_some_and(|end| !is_counted || end <= answer.high_watermark) {
            self.log.cut_damage()?;
            taken.damage_cut = true;
        }
        Ok(())
    }

    fn cut(
        &mut self,
        to: Offset,
        now_ms: i64,
        answer: &FetchAnswer,
        taken: &mut Taken,
    ) -> Result<(), TakeError> {
        let from = self.log.log_end();
        if to < 0 || to >= from {
            return Err(TakeError::Answer("the leader says that the logs part, and not where"));
        }
        self.drop_damage(answer, taken)?;
        match self.log.truncate_to(to, now_ms) {
            Err(LogError::OutOfRange { .. }) => {
                self.log.reset_to(to)?;
                self.has_begun = false;
            }
            done => done?,
        }
        let to = self.log.log_end();
        assert!(to < from, "a log that parts from its leader's gets shorter");
        let is_below_high_watermark = self.replica.truncated(to);
        taken.truncated = Some(Truncation { from, to, is_below_high_watermark });
        Ok(())
    }

    fn begin(
        &mut self,
        beginning: &Beginning,
        answer: &FetchAnswer,
        taken: &mut Taken,
    ) -> Result<(), TakeError> {
        self.drop_damage(answer, taken)?;
        self.log.begin_at(beginning)?;
        self.has_begun = true;
        self.replica.truncated(beginning.offset);
        // What lies below is in the tier or given up: committed.
        taken.moves = self.replica.leader_told(beginning.offset, beginning.offset);
        taken.began_at = Some(beginning.offset);
        Ok(())
    }

    fn fill(
        &mut self,
        bytes: &Bytes,
        now_ms: i64,
        answer: &FetchAnswer,
        taken: &mut Taken,
    ) -> Result<(), TakeError> {
        if bytes.len() > REPLICA_ANSWER_BYTES_MAX {
            return Err(TakeError::Answer("an answer larger than any"));
        }
        self.drop_damage(answer, taken)?;
        let mut at = 0;
        for item in Batches::new(bytes) {
            let (header, batch) = item?;
            let batch_bytes = bytes.slice(at..at + batch.len());
            at += batch.len();
            self.fill_one(&header, &batch_bytes, now_ms, taken)?;
        }
        Ok(())
    }

    fn fill_one(
        &mut self,
        header: &BatchHeader,
        batch: &Bytes,
        now_ms: i64,
        taken: &mut Taken,
    ) -> Result<(), TakeError> {
        check_crc(batch)?;
        if header.leader_epoch > self.leader_epoch() && self.guards.epoch_fence {
            return Err(TakeError::Answer("a batch from a leader epoch to come"));
        }
        match self.log.append_replicated(header, batch, now_ms) {
            Ok(appended) => {
                taken.appended_batches += 1;
                taken.appended_offsets += header.offsets();
                taken.appended_bytes += batch.len() as u64;
                taken.rolled |= appended.rolled;
                Ok(())
            }
            Err(error) => {
                // An empty log that was begun inside a batch has to be told where to begin.
                let is_misplaced = matches!(error, LogError::Misplaced { .. });
                if is_misplaced && self.log.local_bytes() == 0 {
                    self.has_begun = false;
                }
                Err(error.into())
            }
        }
    }
}
