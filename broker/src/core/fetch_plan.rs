//! What one partition of a fetch gets: from where it is read, how many bytes, and which offsets answer a
//! look-up.
//!
//! Pure arithmetic over a partition's offsets; no reading. Invariant 1 is assumed of the bounds given and
//! asserted.

use highwater_model::{LeaderEpoch, Offset, OffsetBounds};

/// Kafka's number of the isolation level.
const READ_COMMITTED: i8 = 1;

/// Where a fetch offset leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Below `log_start` or past `log_end`.
    OutOfRange,
    /// Nothing readable yet.
    Empty,
    /// In the local log, up to the high watermark.
    Local,
    /// Only in the tier, up to `end`; from there the local log goes on.
    Tier { end: Offset },
}

/// What of a partition a reader wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything that is committed by its replicas.
    Uncommitted,
    /// Nothing of a transaction that is open or was aborted.
    Committed,
}

impl Isolation {
    /// Of a request's isolation level.
    pub fn asked(level: i8) -> Isolation {
        if level == READ_COMMITTED { Isolation::Committed } else { Isolation::Uncommitted }
    }

    /// Where such a reader's records end.
    pub fn end(self, bounds: &OffsetBounds) -> Offset {
        match self {
            Isolation::Uncommitted => bounds.high_watermark,
            Isolation::Committed => bounds.last_stable,
        }
    }
}

/// Routes a consumer's fetch at `offset`.
pub fn route(offset: Offset, bounds: &OffsetBounds, isolation: Isolation) -> Route {
    debug_assert!(bounds.check().is_ok(), "{bounds:?}");
    if offset < bounds.log_start || offset > bounds.log_end {
        return Route::OutOfRange;
    }
    if offset >= isolation.end(bounds) {
        return Route::Empty;
    }
    if offset >= bounds.local_start {
        return Route::Local;
    }
    debug_assert!(offset < bounds.tiered_end, "what is not local is in the tier: {offset} {bounds:?}");
    Route::Tier { end: bounds.tiered_end }
}

/// How a client's idea of the leader epoch compares (KIP-320).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochFence {
    Current,
    /// The client knows an older leader: FENCED_LEADER_EPOCH.
    Fenced,
    /// The client knows a newer leader: UNKNOWN_LEADER_EPOCH.
    Unknown,
}

/// `given` is -1 when the client does not say.
pub fn fence(given: LeaderEpoch, current: LeaderEpoch) -> EpochFence {
    assert!(current >= 0, "a led partition has an epoch");
    match given {
        -1 => EpochFence::Current,
        given if given < current => EpochFence::Fenced,
        given if given > current => EpochFence::Unknown,
        _ => EpochFence::Current,
    }
}

/// The bytes of one fetch, shared by its partitions in their order. The first batch of the answer goes out
/// even when it is larger than every limit, so that a consumer always moves (KIP-74).
#[derive(Clone, Copy, Debug)]
pub struct FetchBudget {
    rest: usize,
    is_first: bool,
}

/// What one partition may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub bytes: usize,
    /// At least one whole batch, whatever its size.
    pub is_first: bool,
}

impl FetchBudget {
    /// `asked` is the client's limit, `limit` the broker's.
    pub fn new(asked: i32, limit: u64) -> FetchBudget {
        let asked = usize::try_from(asked).unwrap_or(0);
        FetchBudget { rest: asked.min(usize::try_from(limit).unwrap_or(usize::MAX)), is_first: true }
    }

    /// What is left.
    pub fn bytes(&self) -> usize {
        self.rest
    }

    /// What a partition with its own limit may read; None when the budget is used up.
    pub fn grant(&self, partition_max: i32) -> Option<Grant> {
        let bytes = usize::try_from(partition_max).unwrap_or(0).min(self.rest);
        (bytes > 0 || self.is_first).then_some(Grant { bytes, is_first: self.is_first })
    }

    /// Takes off what a partition got (or, for a read from the tier, was promised).
    pub fn spend(&mut self, bytes: usize) {
        if bytes > 0 {
            self.is_first = false;
            self.rest = self.rest.saturating_sub(bytes);
        }
        assert!(bytes == 0 || !self.is_first, "the exception is used once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(o: [i64; 6]) -> OffsetBounds {
        OffsetBounds {
            log_start: o[0],
            local_start: o[1],
            tiered_end: o[2],
            last_stable: o[3],
            high_watermark: o[4],
            log_end: o[5],
        }
    }

    #[test]
    fn every_offset_has_its_route() {
        let b = bounds([10, 20, 30, 40, 45, 50]);
        for (offset, expected) in [
            (9, Route::OutOfRange),
            (10, Route::Tier { end: 30 }),
            (19, Route::Tier { end: 30 }),
            (20, Route::Local),
            (39, Route::Local),
            (40, Route::Empty),
            (50, Route::Empty),
            (51, Route::OutOfRange),
            (-1, Route::OutOfRange),
        ] {
            assert_eq!(route(offset, &b, Isolation::Committed), expected, "{offset}");
        }
        for (offset, expected) in [(19, Route::Tier { end: 30 }), (44, Route::Local), (45, Route::Empty)] {
            assert_eq!(route(offset, &b, Isolation::Uncommitted), expected, "{offset}");
        }
        assert_eq!(route(0, &bounds([0; 6]), Isolation::Uncommitted), Route::Empty);
    }

    #[test]
    fn epochs_fence_both_ways() {
        assert_eq!(fence(-1, 3), EpochFence::Current);
        assert_eq!(fence(3, 3), EpochFence::Current);
        assert_eq!(fence(2, 3), EpochFence::Fenced);
        assert_eq!(fence(4, 3), EpochFence::Unknown);
    }

    #[test]
    fn the_first_batch_always_fits_and_only_the_first() {
        let mut budget = FetchBudget::new(100, 80);
        assert_eq!(budget.grant(0), Some(Grant { bytes: 0, is_first: true }));
        assert_eq!(budget.grant(1_000), Some(Grant { bytes: 80, is_first: true }));
        budget.spend(0);
        assert!(budget.grant(1).expect("still first").is_first);
        budget.spend(500);
        assert_eq!(budget.grant(10), None);
        let mut budget = FetchBudget::new(100, 1_000);
        budget.spend(60);
        assert_eq!(budget.grant(50), Some(Grant { bytes: 40, is_first: false }));
        assert_eq!(budget.grant(-5), None);
    }
}
