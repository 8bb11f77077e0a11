//! The leader's half: judge a follower's fetch, compare the logs, count its position, find what to send.

use std::io;

use bytes::Bytes;
use highwater_log::{Beginning, LogSlice};
use highwater_model::Offset;

use super::{AnswerContent, FetchAnswer, FollowerFetch, Position, ReplicaLog};
use crate::core::replica::{FollowerEnds, LeaderRefusal, Moves};

/// An answer whose records are still in the segment files, so that they are read off the partition's lock.
#[derive(Debug)]
pub struct Served {
    pub position: Position,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub content: ServedContent,
    /// The follower is in the in-sync set.
    pub is_in_sync: bool,
    pub moves: Moves,
}

/// See [`AnswerContent`].
#[derive(Debug)]
pub enum ServedContent {
    /// Slices in order, and whether there is more.
    Records {
        slices: Vec<LogSlice>,
        is_limited: bool,
    },
    Other(AnswerContent),
}

impl Served {
    /// Whether the follower learns nothing by it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.content, ServedContent::Records { slices, .. } if slices.is_empty())
    }

    /// Reads the records into memory.
    ///
    /// # Errors
    /// Of the read. A leader's segments are not cut while it leads, so a short file means that it does no
    /// more, or that the disk fails.
    pub fn into_answer(self) -> io::Result<FetchAnswer> {
        let content = match self.content {
            ServedContent::Other(content) => content,
            ServedContent::Records { slices, .. } => match slices.as_slice() {
                [] => AnswerContent::Records(Bytes::new()),
                [one] => AnswerContent::Records(one.read()?.into()),
                many => {
                    let parts = many.iter().map(LogSlice::read).collect::<io::Result<Vec<_>>>()?;
                    AnswerContent::Records(parts.concat().into())
                }
            },
        };
        let Served { position, high_watermark, log_start, .. } = self;
        Ok(FetchAnswer { position, high_watermark, log_start, content })
    }
}

impl ReplicaLog {
    /// Serves a follower's fetch. `tiered_end`: the end of what the manifest lists, where a replica that has
    /// nothing may begin. At most `bytes_max` of records, or one batch.
    pub fn serve_fetch(
        &mut self,
        now_ms: i64,
        fetch: &FollowerFetch,
        tiered_end: Offset,
        bytes_max: usize,
    ) -> Served {
        let mut moves = Moves::default();
        let content = match self.judge_fetch(fetch) {
            Err(refusal) => ServedContent::Other(AnswerContent::Refused(refusal)),
            Ok(()) => self.compare_and_read(now_ms, fetch, tiered_end, bytes_max, &mut moves),
        };
        Served {
            position: fetch.position,
            high_watermark: self.high_watermark(),
            log_start: self.log.log_start(),
            content,
            is_in_sync: self.replica.isr().contains(&fetch.node_id),
            moves,
        }
    }

    /// Whether serving this fetch, which was served before, would tell the follower anything more; asked
    /// whenever there is news. A fetch that says anything new is to be served first.
    pub fn has_news_for(&self, fetch: &FollowerFetch) -> bool {
        let position = &fetch.position;
        self.judge_fetch(fetch).is_err()
            || position.fetch_offset != self.log.log_end()
            || fetch.high_watermark < self.high_watermark().min(position.fetch_offset)
    }

    fn judge_fetch(&self, fetch: &FollowerFetch) -> Result<(), LeaderRefusal> {
        // A follower may have what is lost here; compared with what is left, it would cut that off.
        if self.has_lost() {
            return Err(LeaderRefusal::NotLeader);
        }
        let asked = match self.guards.epoch_fence {
            true => fetch.position.leader_epoch,
            false => self.leader_epoch(),
        };
        self.replica.judge_fetch(fetch.node_id, fetch.broker_epoch, asked)
    }

    fn compare_and_read(
        &mut self,
        now_ms: i64,
        fetch: &FollowerFetch,
        tiered_end: Offset,
        bytes_max: usize,
        moves: &mut Moves,
    ) -> ServedContent {
        if let Some(diverging) = self.diverging(&fetch.position) {
            return ServedContent::Other(diverging);
        }
        match self.beginning_for(fetch, tiered_end) {
            Err(content) => return ServedContent::Other(content),
            Ok(Some(beginning)) => return ServedContent::Other(AnswerContent::Begin(beginning)),
            Ok(None) => {}
        }
        let log_end = fetch.position.fetch_offset;
        let follower = FollowerEnds {
            node_id: fetch.node_id,
            broker_epoch: fetch.broker_epoch,
            log_end,
            flushed_end: if self.guards.flush_before_ack { fetch.flushed_end.min(log_end) } else { log_end },
        };
        let ends = self.ends();
        *moves = self.replica.follower_fetched(now_ms, follower, ends);
        match self.log.read_for_replica(log_end, bytes_max) {
            Ok(read) => ServedContent::Records { slices: read.slices, is_limited: read.is_limited },
            Err(error) => {
                tracing::error!(%error, "a follower cannot be served");
                ServedContent::Other(AnswerContent::Unreadable)
            }
        }
    }

    /// Where the follower's log parts from this one, if it does below its end.
    fn diverging(&self, position: &Position) -> Option<AnswerContent> {
        let log_end = self.log.log_end();
        let (last, fetch_offset) = (position.last_fetched_epoch, position.fetch_offset);
        if last >= 0
            && self.guards.truncate_by_epoch
            && let Some((epoch, end_offset)) = self.epoch_end(last)
            && (epoch < last || end_offset < fetch_offset)
        {
            return Some(AnswerContent::Diverging { epoch, end_offset });
        }
        let epoch = self.log.latest_epoch().unwrap_or(-1);
        (fetch_offset > log_end).then_some(AnswerContent::Diverging { epoch, end_offset: log_end })
    }

    /// Where the follower has to begin, or had better: the start of the segment where the tier ends, or,
    /// where the log start is past that, of the segment that holds it.
    fn beginning_for(
        &self,
        fetch: &FollowerFetch,
        tiered_end: Offset,
    ) -> Result<Option<Beginning>, AnswerContent> {
        let log = &self.log;
        let best = tiered_end.min(self.high_watermark()).max(log.local_start());
        let start = log.segment_start_of(best).expect("a local offset is in a segment");
        let fetch_offset = fetch.position.fetch_offset;
        let first = log.segment_start_of(log.local_start()).expect("a local offset is in a segment");
        let begins = fetch_offset < first || fetch.is_empty && fetch_offset < start || fetch.needs_beginning;
        if !begins {
            return Ok(None);
        }
        log.beginning_at(start).map(Some).map_err(|error| {
            tracing::error!(%error, start, "a new replica cannot be told where to begin");
            AnswerContent::Unreadable
        })
    }
}
