//! The one inequality that states the system (invariant 1), checked wherever a partition's offsets change.

use crate::ids::Offset;

/// A partition's offsets at one instant. All are exclusive ends or inclusive starts of half-open ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetBounds {
    /// First offset that a consumer may still read, in either tier.
    pub log_start: Offset,
    /// First offset held by the local log.
    pub local_start: Offset,
    /// End of what the manifest lists; everything below is in the tier.
    pub tiered_end: Offset,
    /// First offset of an open transaction, or the high watermark.
    pub last_stable: Offset,
    /// End of what is committed and readable.
    pub high_watermark: Offset,
    /// Where the next record goes.
    pub log_end: Offset,
}

/// Which part of the inequality does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("offsets out of order: {left} is past {right}: {bounds:?}")]
pub struct BoundsBroken {
    pub left: &'static str,
    pub right: &'static str,
    pub bounds: OffsetBounds,
}

impl OffsetBounds {
    /// `log_start <= local_start <= tiered_end <= last_stable <= high_watermark <= log_end`.
    ///
    /// Before the first offload `tiered_end` equals the manifest's start, and retention or DeleteRecords may
    /// lift
    /// `log_start` over `tiered_end`; then `local_start` may exceed `tiered_end` too, but never `log_start`'s
    /// own reach: what lies between `tiered_end` and `local_start` must be below `log_start`.
    pub fn check(&self) -> Result<(), BoundsBroken> {
        let broken = |left, right| BoundsBroken { left, right, bounds: *self };
        if self.log_start > self.local_start.max(self.high_watermark) {
            return Err(broken("log_start", "high_watermark"));
        }
        if self.local_start > self.tiered_end && self.local_start > self.log_start {
            return Err(broken("local_start", "tiered_end"));
        }
        if self.tiered_end > self.last_stable {
            return Err(broken("tiered_end", "last_stable"));
        }
        if self.last_stable > self.high_watermark {
            return Err(broken("last_stable", "high_watermark"));
        }
        if self.high_watermark > self.log_end {
            return Err(broken("high_watermark", "log_end"));
        }
        if self.local_start > self.log_end {
            return Err(broken("local_start", "log_end"));
        }
        Ok(())
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
    fn ordered_offsets_pass() {
        bounds([0, 0, 0, 0, 0, 0]).check().expect("empty");
        bounds([0, 10, 20, 30, 40, 50]).check().expect("typical");
        bounds([60, 60, 20, 60, 60, 60]).check().expect("retention passed the tier");
    }

    #[test]
    fn each_disorder_is_named() {
        for (o, left) in [
            ([51, 10, 20, 30, 40, 50], "log_start"),
            ([0, 21, 20, 30, 40, 50], "local_start"),
            ([0, 10, 31, 30, 40, 50], "tiered_end"),
            ([0, 10, 20, 41, 40, 50], "last_stable"),
            ([0, 10, 20, 30, 51, 50], "high_watermark"),
        ] {
            assert_eq!(bounds(o).check().expect_err("disorder").left, left, "{o:?}");
        }
    }
}
