//! Beginning anew where a leader's log or the tier goes on, and letting go of damage that a leader can
//! replace.
//!
//! Crash: the log start is past every local offset before anything is removed, and neither epochs nor
//! producers are believed before they are durable; so a log that was interrupted opens empty, without epochs,
//! and is begun again by whoever leads. Invariants: 2, 12.

use highwater_model::Offset;
use tracing::warn;

use super::PartitionLog;
use super::trim::is_out_of_room;
use crate::core::epochs::{EpochStart, EpochTable};
use crate::core::transactions::ProducerState;
use crate::disk::write_all;
use crate::error::{LogError, disk_error};
use crate::names;
use crate::segment::ActiveSegment;

/// What a log that begins at an offset has to know of everything before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The first batch will have this offset; below, everything is in the tier or given up.
    pub offset: Offset,
    /// The leader epochs that wrote what lies below.
    pub epochs: Vec<EpochStart>,
    /// The producer table at `offset`, encoded; empty where none is known.
    pub producers: Vec<u8>,
}

impl Beginning {
    fn parse(&self) -> Result<(EpochTable, ProducerState), LogError> {
        let epochs = EpochTable::from_entries(self.epochs.clone())
            .filter(|epochs| epochs.entries().last().is_none_or(|last| last.start_offset < self.offset))
            .ok_or(LogError::Beginning("epochs do not lie below it in order"))?;
        if self.offset < 0 {
            return Err(LogError::Beginning("a negative offset"));
        }
        if self.producers.is_empty() {
            return Ok((epochs, ProducerState::default()));
        }
        match ProducerState::decode(&self.producers) {
            Ok((at, producers)) if at == self.offset => Ok((epochs, producers)),
            Ok(_) => Err(LogError::Beginning("producers of another offset")),
            Err(_) => Err(LogError::Beginning("producers cannot be read")),
        }
    }
}

impl PartitionLog {
    /// The start of the local segment that holds `offset`, or of the newest one if `offset` is the log's end;
    /// None below the first.
    pub fn segment_start_of(&self, offset: Offset) -> Option<Offset> {
        if offset > self.log_end() {
            return None;
        }
        let starts = self.sealed.iter().map(|s| s.start).chain([self.active.start]);
        starts.rev().find(|start| *start <= offset)
    }

    /// What a replica has to know that begins at the start of one of this log's segments.
    ///
    /// # Errors
    /// `NoSegment`; `Io` and `Corrupt` if the producers had to be rebuilt and could not.
    pub fn beginning_at(&self, start: Offset) -> Result<Beginning, LogError> {
        if self.segment_start_of(start) != Some(start) {
            return Err(LogError::NoSegment(start));
        }
        let epochs = self.epochs().iter().filter(|e| e.start_offset < start).copied().collect();
        let producers = self.producers_at(start, self.told_ms)?.encode(start);
        Ok(Beginning { offset: start, epochs, producers })
    }

    /// Starts over, empty: the local log is of no use to what the partition has become, or there was none.
    ///
    /// # Errors
    /// `Beginning` when it contradicts itself, `Io` where there was no room to begin with: the log is then as
    /// before. Any other `Io` poisons the log.
    pub fn begin_at(&mut self, beginning: &Beginning) -> Result<(), LogError> {
        self.check_writable()?;
        let (epochs, producers) = beginning.parse()?;
        let done = match self.find_room(beginning) {
            Err(error) if is_out_of_room(&error) => return Err(error),
            found => found.and_then(|()| self.begin_files(beginning, epochs, producers)),
        };
        if done.is_err() {
            self.refuses = Some("a new beginning failed half way");
        }
        done
    }

    /// As `begin_at`, with nothing known of what lies before.
    ///
    /// # Errors
    /// As `begin_at`.
    pub fn reset_to(&mut self, offset: Offset) -> Result<(), LogError> {
        assert!(offset >= 0);
        self.begin_at(&Beginning { offset, ..Beginning::default() })
    }

    /// Writes the producers of a beginning, and for a moment as much as the other side files will take, while
    /// nothing is given up yet: later there is no way back.
    fn find_room(&self, beginning: &Beginning) -> Result<(), LogError> {
        let (name, producers) = (names::producers_to_be(beginning.offset), &beginning.producers);
        let others = vec![0; self.checkpoint().encode().len()];
        let write = || {
            let file = self.disk.create(&name).map_err(disk_error("create", &name))?;
            write_all(&*file, producers, &others, 0).map_err(disk_error("write", &name))?;
            file.sync().map_err(disk_error("fsync", &name))?;
            file.truncate(producers.len() as u64).map_err(disk_error("truncate", &name))?;
            file.sync().map_err(disk_error("fsync", &name))
        };
        let written = write();
        if (written.is_err() || producers.is_empty())
            && let Err(error) = self.disk.remove(&name)
        {
            warn!(%error, name, "not removed; the next start will");
        }
        written
    }

    fn begin_files(
        &mut self,
        beginning: &Beginning,
        epochs: EpochTable,
        producers: ProducerState,
    ) -> Result<(), LogError> {
        let offset = beginning.offset;
        // With the log start past every local offset first, a crash from here on comes to the same end.
        self.log_start = offset.max(self.log_end());
        self.epochs = EpochTable::default();
        self.end_moves_back(0)?;
        while !self.sealed.is_empty() {
            self.drop_active_segment()?;
        }
        let name = names::log(self.active.start);
        self.disk.remove(&name).map_err(disk_error("remove", &name))?;
        self.remove_derived(0, -1)?;
        // A segment that came back after a power failure might fit what is appended from here on.
        self.disk.sync_dir().map_err(disk_error("fsync directory of", &name))?;
        self.log_start = offset;
        self.flushed_end = offset;
        self.unflushed.clear();
        self.sealed_txns.retain(offset, offset);
        self.verifications.clear();
        self.active = ActiveSegment::empty(offset, self.settings.index_interval_bytes);
        if !beginning.producers.is_empty() {
            let (written, name) = (names::producers_to_be(offset), names::producers(offset));
            self.disk.rename(&written, &name).map_err(disk_error("rename", &written))?;
        }
        self.end_moves_back(offset)?;
        self.prepare_active()?;
        self.disk.sync_dir().map_err(disk_error("fsync directory of", &names::log(offset)))?;
        (self.epochs, self.producers) = (epochs, producers);
        self.producers.begin_segment();
        self.store_checkpoint()?;
        self.disk.sync_dir().map_err(disk_error("fsync directory of", names::CHECKPOINT))
    }

    /// Where what was durable ends, if the log refuses appends because some of it cannot be read any more.
    pub fn damaged_below(&self) -> Option<Offset> {
        self.damaged_below
    }

    /// Cuts a damaged log where the damage begins, for a replica whose leader has everything that was durable
    /// here: the log goes on from there. Does nothing to a sound log.
    ///
    /// # Errors
    /// `Io`; the log refuses appends as before.
    pub fn cut_damage(&mut self) -> Result<(), LogError> {
        let Some(damaged_below) = self.damaged_below else {
            return Ok(());
        };
        let refused = self.refuses.take();
        self.damaged_below = None;
        let cut = self.cut_damaged_files();
        if cut.is_err() {
            (self.damaged_below, self.refuses) = (Some(damaged_below), refused);
        }
        cut
    }

    fn cut_damaged_files(&mut self) -> Result<(), LogError> {
        let (start, end) = (self.active.start, self.active.end);
        self.end_moves_back(end)?;
        for later in self.segment_files()?.into_iter().rev().filter(|at| *at > start) {
            self.remove_segment(later)?;
        }
        self.remove_derived(start, end)?;
        self.disk.sync_dir().map_err(disk_error("fsync directory of", names::MARKS))?;
        self.prepare_active()?;
        let file = self.active.file.get().expect("prepared above");
        file.truncate(self.active.bytes).map_err(disk_error("truncate", &names::log(start)))?;
        file.sync().map_err(disk_error("fsync", &names::log(start)))?;
        self.store_checkpoint()
    }
}
