//! A damaged log that ends below the tier's end: what the tier has need not be local, so the damage is
//! dropped rather than the partition.
//!
//! Nothing is removed that was durable and that the tier lacks: then the files stay as they are, and the log
//! shows nothing local and refuses appends. Invariants: 2 (no offset is used twice), 10 (what is dropped lies
//! below the end that the manifest lists).

use highwater_model::Offset;

use super::PartitionLog;
use crate::core::transactions::ProducerState;
use crate::error::{LogError, disk_error};
use crate::names::{self, Named};
use crate::segment::{ActiveSegment, SealedCache};

/// What became of a damaged log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The segments before this one were dropped; the log goes on from it.
    BeginsAt(Offset),
    /// Nothing durable lay above the tier's end: the log is empty there and takes appends.
    Reset,
    /// Something durable above the tier's end cannot be read: the files are as they were, the log is empty at
    /// the tier's end and refuses appends.
    SetAside,
}

impl PartitionLog {
    /// Makes the best of a log that refuses appends and ends below `tiered_end`, the end of what the tier's
    /// manifest lists. The log that comes back ends there or later. To be called before anyone reads it.
    ///
    /// # Errors
    /// `Io`; opening again comes to the same end.
    pub fn repair_below(self, tiered_end: Offset, now_ms: i64) -> Result<(PartitionLog, Repair), LogError> {
        assert!(self.refusal().is_some(), "a sound log needs no repair");
        assert!(self.log_end() < tiered_end, "what the tier lacks is not touched");
        if self.damaged_below.is_none() {
            return Ok((self.set_aside(tiered_end), Repair::SetAside));
        }
        let starts = self.segment_files()?;
        // The newest that may lead on from the tier's end. One that begins where the log ends is the damaged
        // one.
        let next = starts.iter().copied().rfind(|s| *s > self.log_end() && *s <= tiered_end);
        let Some(next) = next else {
            return self.reset_or_set_aside(tiered_end);
        };
        for start in starts.into_iter().filter(|s| *s < next) {
            self.remove_segment(start)?;
        }
        let (log, _) = PartitionLog::open_on(self.disk.clone(), self.settings, now_ms)?;
        debug_assert!(log.first_segment_start() >= next || log.log_start() > next);
        match log.log_end() < tiered_end {
            false => Ok((log, Repair::BeginsAt(next))),
            true => log.reset_or_set_aside(tiered_end),
        }
    }

    fn reset_or_set_aside(mut self, tiered_end: Offset) -> Result<(PartitionLog, Repair), LogError> {
        if self.refusal().is_some() && self.damaged_below.is_none_or(|durable_end| durable_end > tiered_end) {
            return Ok((self.set_aside(tiered_end), Repair::SetAside));
        }
        self.refuses = None;
        self.damaged_below = None;
        self.reset_to(tiered_end)?;
        // Segments behind the damage are in the directory and not in the log. The log start is past them, so
        // a crash here leaves them to the next open.
        for start in self.segment_files()?.into_iter().filter(|s| *s != tiered_end) {
            self.remove_segment(start)?;
        }
        self.disk.sync_dir().map_err(disk_error("fsync directory of", names::MARKS))?;
        assert_eq!(self.log_end(), tiered_end);
        Ok((self, Repair::Reset))
    }

    /// Empty at `end` in memory alone; the files wait for someone who can read them.
    fn set_aside(mut self, end: Offset) -> PartitionLog {
        self.refuses.get_or_insert("the log is damaged");
        self.sealed.clear();
        self.unflushed.clear();
        self.cache = SealedCache::default();
        self.producers = ProducerState::default();
        self.sealed_txns = Default::default();
        self.active = ActiveSegment::empty(end, self.settings.index_interval_bytes);
        self.log_start = self.log_start.min(end);
        self.flushed_end = end;
        assert_eq!(self.local_start(), end);
        self
    }

    /// Starts of the segment files in the directory, in order.
    pub(super) fn segment_files(&self) -> Result<Vec<Offset>, LogError> {
        let entries = self.disk.list().map_err(disk_error("list", "a partition's directory"))?;
        let starts = entries.iter().filter_map(|entry| match names::parse(&entry.name) {
            Named::Log(start) => Some(start),
            _ => None,
        });
        let mut starts: Vec<Offset> = starts.collect();
        starts.sort_unstable();
        Ok(starts)
    }

    pub(super) fn remove_segment(&self, start: Offset) -> Result<(), LogError> {
        let name = names::log(start);
        self.disk.remove(&name).map_err(disk_error("remove", &name))
    }
}
