//! Switches that take single guards away.

/// What protects a replica, each by itself. All hold in the product; the simulation takes one away at a time
/// to prove that its absence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Where a batch counts once it is on the disk, it counts no sooner.
    pub flush_before_ack: bool,
    /// Appends, fetches, answers and acknowledgements of another leader epoch are refused.
    pub epoch_fence: bool,
    /// Consumers read below the high watermark.
    pub high_watermark_bound: bool,
    /// A batch that an idempotent producer sends again is found in the log.
    pub sequence_check: bool,
    /// A follower's log is compared with its leader's by epochs, and cut where they part.
    pub truncate_by_epoch: bool,
}

impl Default for Guards {
    fn default() -> Guards {
        Guards {
            flush_before_ack: true,
            epoch_fence: true,
            high_watermark_bound: true,
            sequence_check: true,
            truncate_by_epoch: true,
        }
    }
}
