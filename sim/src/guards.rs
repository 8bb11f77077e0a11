//! The guards that the simulation can take away, to show that it would notice.
//!
//! Of the eight of fetch replication five are switches of the replica core
//! (`highwater_broker::replica::Guards`), which nothing but this crate turns off. Three are taken away by the
//! harness itself: an edit of a manifest is given the epoch that it ought to have, the bucket overwrites, the
//! evictor does not look at the manifest. Those of Raft groups stand around the product's store, in
//! `crate::raft` as in `broker/src/raft`, and are taken away there; those of coordinators in their shell here
//! (`crate::broker::shards`), as in `broker/src/shards`.

use std::fmt;

use highwater_broker::replica;

use crate::params::Mode;

/// A rule without which the promises do not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// What is acknowledged with `flush.messages=1` was synced. Without: it counts once it is written.
    FsyncBeforeAck,
    /// Only the leader of the current epoch appends and counts. Without: who has led goes on.
    EpochOnAppend,
    /// Only the leader of the current epoch edits a manifest. Without: any edit passes as the leader's.
    EpochOnManifest,
    /// A consumer reads below the high watermark. Without: to the log's end.
    HighWatermarkOnFetch,
    /// A key is written once. Without: the bucket overwrites.
    IfNoneMatch,
    /// Local data goes once the manifest lists it. Without: once it is uploaded, or not even that.
    PublishBeforeEvict,
    /// A batch that stands in the log is not appended again. Without: nobody looks.
    SequenceOnApply,
    /// A follower cuts what its leader does not have. Without: only their ends are compared.
    TruncateByEpoch,
    /// A vote is given once it is on the disk. Without: once it is written.
    FsyncBeforeVote,
    /// A replica votes for one candidate in a term. Without: for a greater one too, as openraft's order of
    /// votes allows.
    OneVotePerTerm,
    /// Commits are told no further than the leader's own disk has come. Without: as soon as a majority has
    /// the entry, the leader's memory counted.
    CommitBound,
    /// A leader asks nodes for their replicas of its own group. Without: of any that the partition has had.
    GroupNamed,
    /// A group hands its partition over once the mark of its end is committed. Without: once it rests.
    EndMark,
    /// A partition takes a marker only of an epoch that it has not gone past. Without: any, so that one that
    /// comes twice ends the next transaction.
    MarkerEpoch,
    /// A batch begins a transaction in a partition once the coordinator has added it. Without: nobody asks.
    VerifiedTransaction,
    /// What a coordinator decides is told once its records are committed. Without: once they are written.
    CommitBeforeAnswer,
    /// Offsets of a transaction count from its marker on. Without: as soon as they are written.
    OffsetsAtMarker,
    /// A member commits in the group's generation. Without: whoever asks.
    GenerationOnCommit,
}

impl Guard {
    pub const ALL: [Guard; 18] = [
        Guard::FsyncBeforeAck,
        Guard::EpochOnAppend,
        Guard::EpochOnManifest,
        Guard::HighWatermarkOnFetch,
        Guard::IfNoneMatch,
        Guard::PublishBeforeEvict,
        Guard::SequenceOnApply,
        Guard::TruncateByEpoch,
        Guard::FsyncBeforeVote,
        Guard::OneVotePerTerm,
        Guard::CommitBound,
        Guard::GroupNamed,
        Guard::EndMark,
        Guard::MarkerEpoch,
        Guard::VerifiedTransaction,
        Guard::CommitBeforeAnswer,
        Guard::OffsetsAtMarker,
        Guard::GenerationOnCommit,
    ];

    /// Those whose absence a mode must notice. Not among them, as it takes more seeds than a test has:
    /// `FsyncBeforeVote` (power must fail between two candidates of one term), `GroupNamed`, `MarkerEpoch` (a
    /// marker must come twice, and late), and `GenerationOnCommit` (a worker must stop for longer than its
    /// session, and for less than its transaction's time).
    pub fn of_mode(mode: Mode) -> &'static [Guard] {
        match mode {
            Mode::Fetch => &Guard::ALL[..8],
            Mode::Raft => {
                &[Guard::FsyncBeforeAck, Guard::OneVotePerTerm, Guard::CommitBound, Guard::SequenceOnApply]
            }
            Mode::Switching => &[Guard::EndMark],
            Mode::Groups => &[Guard::VerifiedTransaction, Guard::CommitBeforeAnswer, Guard::OffsetsAtMarker],
        }
    }

    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Guard::FsyncBeforeAck => "fsync-before-ack",
            Guard::EpochOnAppend => "epoch-on-append",
            Guard::EpochOnManifest => "epoch-on-manifest",
            Guard::HighWatermarkOnFetch => "high-watermark-on-fetch",
            Guard::IfNoneMatch => "if-none-match",
            Guard::PublishBeforeEvict => "publish-before-evict",
            Guard::SequenceOnApply => "sequence-on-apply",
            Guard::TruncateByEpoch => "truncate-by-epoch",
            Guard::FsyncBeforeVote => "fsync-before-vote",
            Guard::OneVotePerTerm => "one-vote-per-term",
            Guard::CommitBound => "commit-bound",
            Guard::GroupNamed => "group-named",
            Guard::EndMark => "end-mark",
            Guard::MarkerEpoch => "marker-epoch",
            Guard::VerifiedTransaction => "verified-transaction",
            Guard::CommitBeforeAnswer => "commit-before-answer",
            Guard::OffsetsAtMarker => "offsets-at-marker",
            Guard::GenerationOnCommit => "generation-on-commit",
        }
    }

    pub fn of_name(name: &str) -> Option<Guard> {
        Guard::ALL.into_iter().find(|guard| guard.name() == name)
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which guards hold: all, or all but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    pub removed: Option<Guard>,
}

impl Guards {
    pub fn without(guard: Guard) -> Guards {
        Guards { removed: Some(guard) }
    }

    pub fn holds(self, guard: Guard) -> bool {
        self.removed != Some(guard)
    }

    /// Those of the replica core.
    pub fn of_replica(self) -> replica::Guards {
        replica::Guards {
            flush_before_ack: self.holds(Guard::FsyncBeforeAck),
            epoch_fence: self.holds(Guard::EpochOnAppend),
            high_watermark_bound: self.holds(Guard::HighWatermarkOnFetch),
            sequence_check: self.holds(Guard::SequenceOnApply),
            truncate_by_epoch: self.holds(Guard::TruncateByEpoch),
        }
    }
}
