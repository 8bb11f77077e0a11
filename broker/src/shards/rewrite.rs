//! The log of a shard stays bounded: once it holds many times what counts, the shard writes its whole state
//! again, and when all of that is committed the log start moves up to where it began. This drives such a
//! pass; the shard writes the parts.
//!
//! A crash at any point leaves a log that reads back as the same state: the old beginning is there until the
//! log start moves, and it moves only past what stands behind it once more, committed. Must not: move the
//! log start past the beginning of a transaction that is open (its marker would decide nothing), or write
//! while the partition takes no writes. Invariants: 1, 3, 12, 16.

use std::time::Duration;

use futures::future::BoxFuture;
use highwater_model::Offset;
use highwater_model::limits::{
    SHARD_RETRY_PAUSE, SHARD_RETRY_PAUSE_MAX, SHARD_REWRITE_FACTOR, SHARD_REWRITE_PAUSE,
};
use highwater_wire::AcceptedBatch;
use tokio::time::Instant;

use super::{End, ShardLog};
use crate::partition::AppendRefusal;
use crate::replica::Origin;
use crate::workers::retention::raise_log_start;

/// How far a shard's log is from being written once more, and how far that has come.
pub struct Rewriter {
    /// What is written, in the plural, for the log.
    holds: &'static str,
    /// Bytes of the log from its start.
    log_bytes: u64,
    /// How many of them the state takes, as of the last pass, or about.
    live_bytes: u64,
    /// Below so many bytes the log is let grow.
    bytes_min: u64,
    phase: Phase,
    /// Until the next pass, should this one be given up.
    pause: Duration,
    /// When there is something to be done.
    pub due: Option<Instant>,
}

/// One pass over the state.
struct Pass {
    /// The log's end when it began.
    start: Offset,
    bytes_before: u64,
    written: u64,
    /// What it has handed out counts once the fate of so many of the shard's appends is known.
    appends: u64,
}

enum Phase {
    Idle,
    Writing(Pass),
    /// All is handed out.
    Written(Pass),
    /// The log start is on its way.
    Raising(Pass, BoxFuture<'static, Result<(), String>>),
}

/// What the shard is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    Nothing,
    /// A pass begins: whatever is appended from now on belongs to it.
    Begin,
    /// Append the next part of the state, and say so by [`Rewriter::wrote`].
    Part,
}

/// A part of the state that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// Of its batches.
    pub bytes: u64,
    /// Nothing can be written before something else has happened.
    pub waits: bool,
    /// The pass is over.
    pub is_last: bool,
}

/// Whether a log of so many bytes is worth a pass.
fn wants_pass(log_bytes: u64, live_bytes: u64, bytes_min: u64) -> bool {
    log_bytes >= bytes_min.max(live_bytes.saturating_mul(SHARD_REWRITE_FACTOR))
}

impl Rewriter {
    pub fn new(holds: &'static str, log_bytes: u64, live_bytes: u64, bytes_min: u64) -> Rewriter {
        let (phase, pause) = (Phase::Idle, SHARD_RETRY_PAUSE);
        let mut rewriter = Rewriter { holds, log_bytes, live_bytes, bytes_min, phase, pause, due: None };
        rewriter.appended(0);
        rewriter
    }

    /// The log has grown.
    pub fn appended(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
        let is_idle = matches!(self.phase, Phase::Idle);
        if is_idle && self.due.is_none() && wants_pass(self.log_bytes, self.live_bytes, self.bytes_min) {
            self.due = Some(Instant::now());
        }
    }

    fn later(&mut self, pause: Duration) {
        self.due = Some(Instant::now() + pause);
    }

    /// The next thing to be done for the log's size.
    ///
    /// # Errors
    /// As [`ShardLog::may_write`].
    pub fn on<T>(&mut self, log: &ShardLog<T>) -> Result<Todo, End> {
        self.due = None;
        // A log start may move even then: it is what makes room on a full disk.
        let writes = matches!(self.phase, Phase::Idle | Phase::Writing(_));
        if writes && !log.may_write()? {
            self.later(SHARD_RETRY_PAUSE);
            return Ok(Todo::Nothing);
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => return Ok(self.begin(log)),
            // One part at a time is on its way.
            Phase::Writing(pass) if pass.appends > log.settled() => {
                self.phase = Phase::Writing(pass);
                self.later(SHARD_REWRITE_PAUSE);
            }
            writing @ Phase::Writing(_) => {
                self.phase = writing;
                return Ok(Todo::Part);
            }
            Phase::Written(pass) => self.raise(log, pass),
            raising @ Phase::Raising(..) => self.phase = raising,
        }
        Ok(Todo::Nothing)
    }

    fn begin<T>(&mut self, log: &ShardLog<T>) -> Todo {
        let (node, partition) = (log.node(), log.partition());
        let number = partition.tp.partition;
        // What is given up goes in whole segments, so the pass begins one.
        match partition.roll_now(node.now_ms()) {
            Ok(start) => {
                node.flush.push_sealed(partition);
                let (bytes_before, appends) = (self.log_bytes, log.settled());
                self.phase = Phase::Writing(Pass { start, bytes_before, written: 0, appends });
                self.later(SHARD_REWRITE_PAUSE);
                tracing::debug!(partition = number, start, bytes_before, "{} are written again", self.holds);
                Todo::Begin
            }
            Err(error) => {
                tracing::warn!(partition = number, "{} are not written again: {error}", self.holds);
                self.later(SHARD_RETRY_PAUSE_MAX);
                Todo::Nothing
            }
        }
    }

    /// A part was appended; the next one comes when it is committed.
    pub fn wrote<T>(&mut self, log: &ShardLog<T>, wrote: Wrote) {
        let Phase::Writing(mut pass) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            unreachable!("only a pass under way writes");
        };
        pass.written += wrote.bytes;
        pass.appends = log.appended();
        self.later(if wrote.waits { SHARD_RETRY_PAUSE } else { SHARD_REWRITE_PAUSE });
        self.phase = if wrote.is_last { Phase::Written(pass) } else { Phase::Writing(pass) };
    }

    /// Appends the batches of a part, each with `with()`.
    ///
    /// # Errors
    /// Not all of it is in the log. The pass is given up and begun anew a while later; the log is as good as
    /// before.
    pub fn write<T>(
        &mut self,
        log: &mut ShardLog<T>,
        batches: &[AcceptedBatch],
        (waits, is_last): (bool, bool),
        with: impl Fn() -> T,
    ) -> Result<(), AppendRefusal> {
        let mut bytes = 0;
        for batch in batches {
            match log.append(batch, Origin::Coordinator(None)) {
                Ok(committing) => {
                    if let Some(committing) = committing {
                        log.push(with(), committing);
                    }
                }
                Err(refusal) => {
                    self.abandon();
                    return Err(refusal);
                }
            }
            bytes += batch.bytes.len() as u64;
            self.appended(batch.bytes.len());
        }
        self.wrote(log, Wrote { bytes, waits, is_last });
        Ok(())
    }

    /// Something of the pass did not come into the log: it is begun anew a while later, after twice as long
    /// each time, as what a pass leaves behind makes the log longer.
    pub fn abandon(&mut self) {
        debug_assert!(!matches!(self.phase, Phase::Raising(..)), "all of it was committed");
        self.phase = Phase::Idle;
        self.later(self.pause);
        self.pause = (self.pause * 2).min(SHARD_RETRY_PAUSE_MAX);
    }

    /// Moves the log start, once the pass is committed and no transaction from before it is open.
    fn raise<T>(&mut self, log: &ShardLog<T>, pass: Pass) {
        let is_committed = pass.appends <= log.settled();
        let is_decided = log.partition().bounds().is_ok_and(|bounds| bounds.last_stable >= pass.start);
        if !(is_committed && is_decided) {
            self.later(if is_committed { SHARD_RETRY_PAUSE } else { SHARD_REWRITE_PAUSE });
            self.phase = Phase::Written(pass);
            return;
        }
        let (node, partition, start) = (log.node().clone(), log.partition().clone(), pass.start);
        let raising = Box::pin(async move {
            raise_log_start(&node, &partition, start).await?;
            match partition.bounds() {
                Ok(bounds) if bounds.log_start >= start => Ok(()),
                Ok(bounds) => Err(format!("it is still at {}", bounds.log_start)),
                Err(reason) => Err(reason.to_string()),
            }
        });
        self.phase = Phase::Raising(pass, raising);
    }

    /// Waits for the log start on its way; for ever if it is not.
    pub async fn raised(&mut self) -> Result<(), String> {
        match &mut self.phase {
            Phase::Raising(_, raising) => raising.as_mut().await,
            _ => std::future::pending().await,
        }
    }

    /// The log start has moved, or not (`outcome` is what [`Rewriter::raised`] gave). Whether a pass is done.
    pub fn settle(&mut self, partition: i32, outcome: Result<(), String>) -> bool {
        let Phase::Raising(pass, _) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            unreachable!("only what is on its way arrives");
        };
        let (holds, log_start) = (self.holds, pass.start);
        self.pause = SHARD_RETRY_PAUSE; // all of it was committed
        if let Err(error) = outcome {
            tracing::warn!(partition, log_start, "the log start of {holds} did not move: {error}");
            self.phase = Phase::Written(pass);
            self.later(SHARD_RETRY_PAUSE_MAX);
            return false;
        }
        self.log_bytes = self.log_bytes.saturating_sub(pass.bytes_before);
        self.live_bytes = pass.written;
        let (gone, left) = (pass.bytes_before, self.log_bytes);
        tracing::debug!(partition, log_start, gone, left, "{holds} were written again");
        self.appended(0); // it may have grown by as much again meanwhile
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_written_again_when_it_is_large_and_little_of_it_counts() {
        assert!(!wants_pass(999, 0, 1_000) && wants_pass(1_000, 0, 1_000));
        let live = 1_000;
        assert!(!wants_pass(live * SHARD_REWRITE_FACTOR - 1, live, 1_000));
        assert!(wants_pass(live * SHARD_REWRITE_FACTOR, live, 1_000));
        assert!(!wants_pass(u64::MAX - 1, u64::MAX, 1));
    }

    #[tokio::test]
    async fn growth_asks_for_a_pass_once() {
        let mut rewriter = Rewriter::new("things", 500, 100, 1_000);
        assert!(rewriter.due.is_none());
        rewriter.appended(499);
        assert!(rewriter.due.is_none());
        rewriter.appended(1);
        let due = rewriter.due.expect("large enough");
        rewriter.appended(1);
        assert_eq!(rewriter.due, Some(due));
        assert!(Rewriter::new("things", 1_000, 100, 1_000).due.is_some(), "a log that was loaded large");
    }

    #[tokio::test]
    async fn passes_that_are_given_up_come_ever_more_seldom() {
        let mut rewriter = Rewriter::new("things", 2_000, 100, 1_000);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let (before, pause) = (Instant::now(), rewriter.pause);
            rewriter.abandon();
            assert!(rewriter.due.expect("begun anew") >= before + pause);
            pauses.push(pause);
        }
        assert_eq!(pauses[..3], [1, 2, 4].map(|times| SHARD_RETRY_PAUSE * times));
        assert_eq!(pauses[8], SHARD_RETRY_PAUSE_MAX);
    }
}
