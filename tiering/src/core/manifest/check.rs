//! Invariant 11, executed: a manifest's ranges are contiguous, disjoint and increasing, and its totals are
//! the sums of what it lists. Runs at every edit and at every load.

use highwater_model::Offset;
use highwater_model::limits::{
    MANIFEST_EPOCHS_MAX, MANIFEST_INLINE_OBJECTS_MAX, MANIFEST_PAGE_REFS_MAX, MANIFEST_RETIRING_MAX,
};

use super::{MANIFEST_FORMAT, Manifest, NO_GENERATION, Totals};

/// Which rule of a manifest does not hold, and at which offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("manifest version {version}: {rule} (at offset {at})")]
pub struct Broken {
    pub version: u64,
    pub rule: &'static str,
    pub at: Offset,
}

impl Manifest {
    /// Whether the manifest is whole. Call it on everything that was read from outside.
    pub fn check(&self) -> Result<(), Broken> {
        let broken = |rule, at| Err(Broken { version: self.version, rule, at });
        if self.format != MANIFEST_FORMAT {
            return broken("unknown format", 0);
        }
        if self.log_start < 0 || self.tiered_end < self.log_start {
            return broken("0 <= log_start <= tiered_end", self.log_start);
        }
        if self.generation < NO_GENERATION {
            return broken("generation", 0);
        }
        if self.entries.len() > MANIFEST_INLINE_OBJECTS_MAX
            || self.pages.len() > MANIFEST_PAGE_REFS_MAX
            || self.retiring.len() > MANIFEST_RETIRING_MAX
            || self.epochs.len() > MANIFEST_EPOCHS_MAX
        {
            return broken("within its limits", self.log_start);
        }
        self.check_ranges()?;
        self.check_totals()?;
        self.check_ids()?;
        let ascending = self
            .epochs
            .windows(2)
            .find(|w| w[0].epoch >= w[1].epoch || w[0].start_offset >= w[1].start_offset);
        if let Some(w) = ascending {
            return broken("epochs ascend", w[1].start_offset);
        }
        Ok(())
    }

    fn check_ranges(&self) -> Result<(), Broken> {
        let broken = |rule, at| Err(Broken { version: self.version, rule, at });
        let mut cursor = self.listed_start();
        for node in self.nodes() {
            let (start, end) = (node.start(), node.end());
            if start < cursor {
                return broken("objects do not overlap", start);
            }
            if start > cursor && start > self.log_start {
                return broken("no gap above log_start", cursor);
            }
            if start >= end {
                return broken("no empty object", start);
            }
            cursor = end;
        }
        let lifted = cursor < self.tiered_end && self.tiered_end <= self.log_start;
        if cursor != self.tiered_end && !lifted {
            return broken("the list ends at tiered_end", cursor);
        }
        match self.pages.windows(2).find(|w| w[0].level < w[1].level) {
            Some(w) => broken("levels do not grow towards the newer end", w[1].start),
            None => Ok(()),
        }
    }

    fn check_totals(&self) -> Result<(), Broken> {
        let mut sum = Some(Totals::default());
        for node in self.nodes() {
            let empty = node.totals().objects == 0 || node.totals().bytes == 0;
            if empty {
                return Err(Broken {
                    version: self.version,
                    rule: "every node holds bytes",
                    at: node.start(),
                });
            }
            sum = sum.and_then(|s| s.plus(&node.totals()));
        }
        if sum == Some(self.totals) {
            Ok(())
        } else {
            Err(Broken {
                version: self.version,
                rule: "totals are the sums of what is listed",
                at: self.log_start,
            })
        }
    }

    /// A key is never used twice (invariant 8); sorting keeps it n log n.
    fn check_ids(&self) -> Result<(), Broken> {
        let mut ids: Vec<_> = self.nodes().map(|n| n.upload_id()).collect();
        ids.extend(self.retiring.iter().map(|r| r.what.upload_id()));
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) {
            return Err(Broken { version: self.version, rule: "upload ids are unique", at: self.log_start });
        }
        Ok(())
    }
}
