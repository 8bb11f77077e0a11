//! The log of a shard stays bounded: once it holds many times what counts, the shard writes its whole state
//! again (`highwater_groups::core::rewrite`), and when all of that is committed the log start moves up to
//! where it began.
//!
//! A crash at any point leaves a log that reads back as the same state: the old beginning is there until the
//! log start moves, and it moves only past what stands behind it once more, committed. Must not: move the
//! log start past the beginning of a transaction that is open (its marker would decide nothing), or write
//! while the partition takes no writes. Invariants: 1, 3, 12, 16.

use futures::future::BoxFuture;
use highwater_model::Offset;
use highwater_model::limits::{
    GROUP_RETRY_PAUSE, GROUP_RETRY_PAUSE_MAX, GROUP_REWRITE_BATCH_BYTES, GROUP_REWRITE_FACTOR,
    GROUP_REWRITE_PART_BYTES, GROUP_REWRITE_PAUSE,
};
use tokio::time::Instant;

use super::{End, Loaded, batch};
use crate::workers::retention::raise_log_start;

/// How far a shard's log is from being written once more, and how far that has come.
pub(super) struct Rewriter {
    /// Bytes of the log from its start.
    log_bytes: u64,
    /// How many of them the state takes, as of the last pass, or about.
    live_bytes: u64,
    /// Below so many bytes the log is let grow.
    bytes_min: u64,
    phase: Phase,
    /// When there is something to be done.
    pub due: Option<Instant>,
}

/// One pass over the state.
struct Pass {
    /// The log's end when it began.
    start: Offset,
    bytes_before: u64,
    written: u64,
    /// What it has handed out counts once so many of the shard's appends are committed.
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

/// Whether a log of so many bytes is worth a pass.
fn wants_pass(log_bytes: u64, live_bytes: u64, bytes_min: u64) -> bool {
    log_bytes >= bytes_min.max(live_bytes.saturating_mul(GROUP_REWRITE_FACTOR))
}

impl Rewriter {
    pub fn new(log_bytes: u64, live_bytes: u64, bytes_min: u64) -> Rewriter {
        let mut rewriter = Rewriter { log_bytes, live_bytes, bytes_min, phase: Phase::Idle, due: None };
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

    fn later(&mut self, pause: std::time::Duration) {
        self.due = Some(Instant::now() + pause);
    }

    /// Waits for the log start on its way; for ever if it is not.
    pub async fn raised(&mut self) -> Result<(), String> {
        match &mut self.phase {
            Phase::Raising(_, raising) => raising.as_mut().await,
            _ => std::future::pending().await,
        }
    }
}

impl Loaded {
    /// The next thing to be done for the log's size.
    pub(super) fn rewrite_on(&mut self) -> Result<(), End> {
        self.rewriter.due = None;
        if !self.may_write()? {
            self.rewriter.later(GROUP_RETRY_PAUSE);
            return Ok(());
        }
        match std::mem::replace(&mut self.rewriter.phase, Phase::Idle) {
            Phase::Idle => self.begin_pass(),
            // One part at a time is on its way.
            Phase::Writing(pass) if pass.appends > self.committed => {
                self.rewriter.phase = Phase::Writing(pass);
                self.rewriter.later(GROUP_REWRITE_PAUSE);
            }
            Phase::Writing(pass) => self.write_part(pass)?,
            Phase::Written(pass) => self.raise(pass),
            raising @ Phase::Raising(..) => self.rewriter.phase = raising,
        }
        Ok(())
    }

    fn begin_pass(&mut self) {
        let partition = self.shard.partition;
        // What is given up goes in whole segments, so the pass begins one.
        match self.partition.roll_now(self.node.now_ms()) {
            Ok(start) => {
                self.node.flush.push_sealed(&self.partition);
                self.groups.begin_rewrite();
                let (bytes_before, appends) = (self.rewriter.log_bytes, self.committed);
                self.rewriter.phase = Phase::Writing(Pass { start, bytes_before, written: 0, appends });
                self.rewriter.later(GROUP_REWRITE_PAUSE);
                tracing::debug!(partition, start, bytes_before, "groups are written once more");
            }
            Err(error) => {
                tracing::warn!(partition, "groups are not written once more: {error}");
                self.rewriter.later(GROUP_RETRY_PAUSE_MAX);
            }
        }
    }

    fn write_part(&mut self, mut pass: Pass) -> Result<(), End> {
        let part = self.groups.rewrite(GROUP_REWRITE_PART_BYTES);
        let batches = batch::encode_all(&part.records, GROUP_REWRITE_BATCH_BYTES, self.node.now_ms());
        for batch in batches.map_err(|error| self.cannot_encode(&error))? {
            pass.written += batch.bytes.len() as u64;
            self.append_batch(&batch, None)?;
        }
        pass.appends = self.appended;
        // A part without records waits for the end of a transaction.
        let waits = part.records.is_empty() && !part.is_last;
        self.rewriter.later(if waits { GROUP_RETRY_PAUSE } else { GROUP_REWRITE_PAUSE });
        self.rewriter.phase = if part.is_last { Phase::Written(pass) } else { Phase::Writing(pass) };
        Ok(())
    }

    /// Moves the log start, once the pass is committed and no transaction from before it is open.
    fn raise(&mut self, pass: Pass) {
        let is_committed = pass.appends <= self.committed;
        let is_decided = self.partition.bounds().is_ok_and(|bounds| bounds.last_stable >= pass.start);
        if !(is_committed && is_decided) {
            self.rewriter.later(if is_committed { GROUP_RETRY_PAUSE } else { GROUP_REWRITE_PAUSE });
            self.rewriter.phase = Phase::Written(pass);
            return;
        }
        let (node, partition, start) = (self.node.clone(), self.partition.clone(), pass.start);
        let raising = Box::pin(async move {
            raise_log_start(&node, &partition, start).await?;
            match partition.bounds() {
                Ok(bounds) if bounds.log_start >= start => Ok(()),
                Ok(bounds) => Err(format!("it is still at {}", bounds.log_start)),
                Err(reason) => Err(reason.to_string()),
            }
        });
        self.rewriter.phase = Phase::Raising(pass, raising);
    }

    /// The log start has moved, or not.
    pub(super) fn raised(&mut self, outcome: Result<(), String>) {
        let Phase::Raising(pass, _) = std::mem::replace(&mut self.rewriter.phase, Phase::Idle) else {
            unreachable!("only what is on its way arrives");
        };
        let partition = self.shard.partition;
        if let Err(error) = outcome {
            tracing::warn!(partition, to = pass.start, "the log start of groups did not move: {error}");
            self.rewriter.phase = Phase::Written(pass);
            self.rewriter.later(GROUP_RETRY_PAUSE_MAX);
            return;
        }
        let rewriter = &mut self.rewriter;
        rewriter.log_bytes = rewriter.log_bytes.saturating_sub(pass.bytes_before);
        rewriter.live_bytes = pass.written;
        self.node.metrics.group_rewrites.inc();
        let (gone, left) = (pass.bytes_before, rewriter.log_bytes);
        tracing::debug!(partition, log_start = pass.start, gone, left, "groups were written once more");
        rewriter.appended(0); // it may have grown by as much again meanwhile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_written_again_when_it_is_large_and_little_of_it_counts() {
        assert!(!wants_pass(999, 0, 1_000) && wants_pass(1_000, 0, 1_000));
        let live = 1_000;
        assert!(!wants_pass(live * GROUP_REWRITE_FACTOR - 1, live, 1_000));
        assert!(wants_pass(live * GROUP_REWRITE_FACTOR, live, 1_000));
        assert!(!wants_pass(u64::MAX - 1, u64::MAX, 1));
    }

    #[tokio::test]
    async fn growth_asks_for_a_pass_once() {
        let mut rewriter = Rewriter::new(500, 100, 1_000);
        assert!(rewriter.due.is_none());
        rewriter.appended(499);
        assert!(rewriter.due.is_none());
        rewriter.appended(1);
        let due = rewriter.due.expect("large enough");
        rewriter.appended(1);
        assert_eq!(rewriter.due, Some(due));
        assert!(Rewriter::new(1_000, 100, 1_000).due.is_some(), "a log that was loaded large");
    }
}
