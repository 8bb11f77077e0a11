//! Carries out a decided edit: the only code that changes a manifest (invariant 9). Infallible.

use highwater_model::Offset;
use highwater_model::limits::{MANIFEST_EPOCHS_MAX, MANIFEST_RETIRING_MAX};

use super::edit::{Change, Outcome, PrunePlan};
use super::{EpochStart, Manifest, Retired, Retiring};

impl Manifest {
    /// Applies what [`Manifest::decide`] decided on this very version.
    pub fn apply(&mut self, outcome: &Outcome) {
        assert_eq!(outcome.from_version, self.version, "an outcome applies to the version it was decided on");
        assert!(outcome.leader_epoch >= self.generation, "the generation only grows");
        match &outcome.change {
            Change::Publish { object, epochs, totals } => {
                assert_eq!(object.start, self.tiered_end, "an object is published at the tiered end");
                self.tiered_end = object.end;
                self.entries.push(object.clone());
                self.epochs.extend(epochs.iter().cloned());
                self.totals = *totals;
                self.trim_epochs();
            }
            Change::Replace { at, count, object, retired, totals } => {
                self.entries.splice(*at..*at + *count, [object.clone()]);
                self.retire(outcome.at_ms, retired);
                self.totals = *totals;
            }
            Change::Prune(plan) => self.apply_prune(outcome.at_ms, plan),
            Change::Spill { at, count, page } if page.level == 0 => {
                debug_assert_eq!(*at, 0);
                self.entries.drain(..*count);
                self.pages.push(page.clone());
            }
            Change::Spill { at, count, page } => {
                self.pages.splice(*at..*at + *count, [page.clone()]);
            }
            Change::Swept { upload_ids } => {
                self.retiring.retain(|r| !upload_ids.contains(&r.what.upload_id()));
            }
        }
        self.version += 1;
        self.generation = outcome.leader_epoch;
        debug_assert_eq!(self.check(), Ok(()), "invariant 11 after every edit");
    }

    fn apply_prune(&mut self, at_ms: i64, plan: &PrunePlan) {
        assert!(plan.log_start >= self.log_start, "log_start only grows");
        self.pages.drain(..plan.pages);
        if let Some(trimmed) = &plan.first_page {
            let first = self.pages.first_mut().expect("decide found the page that it trimmed");
            assert_eq!(first.upload_id, trimmed.upload_id, "the trimmed page is the first that stays");
            *first = trimmed.clone();
        }
        self.entries.drain(..plan.entries);
        self.retire(at_ms, &plan.retired);
        self.totals = plan.totals;
        self.log_start = plan.log_start;
        self.tiered_end = self.tiered_end.max(plan.log_start);
        self.trim_epochs();
    }

    fn retire(&mut self, since_ms: i64, retired: &[Retired]) {
        self.retiring.extend(retired.iter().map(|what| Retiring { what: what.clone(), since_ms }));
        assert!(self.retiring.len() <= MANIFEST_RETIRING_MAX, "decide left room for what is retired");
    }

    /// Drops epochs that ended at or below `log_start`, and the oldest ones beyond the bound.
    fn trim_epochs(&mut self) {
        let dead = ended_by(&self.epochs, self.log_start);
        let excess = self.epochs.len().saturating_sub(MANIFEST_EPOCHS_MAX);
        self.epochs.drain(..dead.max(excess));
        debug_assert!(self.epochs.len() <= MANIFEST_EPOCHS_MAX);
    }
}

/// How many leading epochs end at or below `offset`; the last one never ends.
fn ended_by(epochs: &[EpochStart], offset: Offset) -> usize {
    epochs.windows(2).take_while(|w| w[1].start_offset <= offset).count()
}
