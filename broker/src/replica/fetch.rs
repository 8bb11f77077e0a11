//! What a follower asks of its leader for one partition, and what it is answered.

use bytes::Bytes;
use highwater_log::Beginning;
use highwater_model::{LeaderEpoch, NodeId, Offset};

use crate::core::replica::LeaderRefusal;

/// Where a follower's log ends. Two logs that end at the same position are the same log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The leader that is asked.
    pub leader_epoch: LeaderEpoch,
    pub fetch_offset: Offset,
    /// Of the last batch before `fetch_offset`; -1 where that is not known.
    pub last_fetched_epoch: LeaderEpoch,
}

/// A follower's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    pub node_id: NodeId,
    /// Of the follower's newest registration (KIP-903).
    pub broker_epoch: u64,
    pub position: Position,
    pub flushed_end: Offset,
    /// What it knows to be committed: without a newer one and without records there is no news for it.
    pub high_watermark: Offset,
    /// It has nothing locally and would rather begin where the tier ends.
    pub is_empty: bool,
    /// It cannot go on from where it is: it has to be told where to begin.
    pub needs_beginning: bool,
}

/// A leader's answer, as the follower takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchAnswer {
    /// The position that was asked for.
    pub position: Position,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub content: AnswerContent,
}

/// What the answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerContent {
    /// Whole batches from the position on; maybe none.
    Records(Bytes),
    /// The logs part: the leader's largest epoch at or below the follower's last ends here.
    Diverging {
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
    /// Begin anew here; below, the tier has it.
    Begin(Beginning),
    Refused(LeaderRefusal),
    /// The leader cannot read its log there.
    Unreadable,
}
