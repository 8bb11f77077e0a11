//! The side files that a running log writes: indexes and producer snapshots, which can be rebuilt, and marks
//! and checkpoint, which recovery believes as far as segment files confirm them (bytes in `docs/format.md`).

use std::sync::Arc;

use highwater_model::Offset;
use tracing::warn;

use super::PartitionLog;
use crate::core::checkpoint::{Checkpoint, MARKS_SLOT_BYTES, Marks};
use crate::disk::{DiskFile, replace_side_file, write_all, write_side_file};
use crate::error::{LogError, disk_error};
use crate::names::{self, Named};

impl PartitionLog {
    /// Stores what can be rebuilt; a failure costs a rebuild.
    pub(super) fn store_derived(&self, name: &str, content: &[u8]) {
        if let Err(error) = write_side_file(&*self.disk, name, content) {
            warn!(%error, name, "not stored; it will be rebuilt when needed");
        }
    }

    /// Stores the producer table where a segment ends. The next flush makes it durable.
    pub(super) fn store_producers(&mut self, border: Offset) {
        let name = names::producers(border);
        let content = self.producers.encode(border);
        let created = self.disk.create(&name);
        match created.and_then(|file| write_all(&*file, &content, &[], 0).map(|()| file)) {
            Ok(file) => self.flush.snapshot_was_written(border, file),
            Err(error) => warn!(%error, name, "not stored; it will be rebuilt when needed"),
        }
    }

    /// Makes the producer table at a border durable before that is evicted which it could be rebuilt from: or
    /// a power failure would leave a log that takes for new what a producer sends again. As a rule a flush
    /// has done so.
    ///
    /// # Errors
    /// `Io` if it could not be stored. What cannot be read for it is in the tier and goes all the same.
    pub(super) fn keep_producers_at(&mut self, border: Offset) -> Result<(), LogError> {
        if self.flush.has_durable_snapshot(border) {
            return Ok(());
        }
        let name = names::producers(border);
        match self.producers_at(border, self.told_ms) {
            Err(error) => warn!(%error, name, "the producers of what is evicted are not known"),
            Ok(producers) if producers.is_empty() => {}
            Ok(producers) => {
                replace_side_file(&*self.disk, &name, &producers.encode(border))
                    .and_then(|()| self.disk.sync_dir())
                    .map_err(disk_error("write", &name))?;
                self.flush.snapshot_was_synced(border);
            }
        }
        Ok(())
    }

    pub(super) fn store_active_index(&self) {
        if let Some(index) = self.active.index.get() {
            self.store_derived(&names::index(self.active.start), &index.encode(&self.active.indexed()));
        }
    }

    fn marks(&self) -> Marks {
        Marks {
            log_start: self.log_start,
            recovery_point: self.flushed_end.max(self.damaged_below.unwrap_or(0)),
            active_start: self.active.start,
            first_append_ms: self.active.first_append_ms.unwrap_or(0),
        }
    }

    /// Writes the marks into their next slot, without fsync: an older slot is safe.
    pub(super) fn write_marks(&mut self) -> Result<Arc<dyn DiskFile>, LogError> {
        self.marks_sequence += 1;
        let slot = self.marks().encode_slot(self.marks_sequence);
        let position = (self.marks_sequence % 2) * MARKS_SLOT_BYTES as u64;
        let file = match self.flush.open_marks() {
            Some(file) => file,
            None => self.open_marks()?,
        };
        write_all(&*file, &slot, &[], position).map_err(disk_error("write", names::MARKS))?;
        Ok(file)
    }

    fn open_marks(&mut self) -> Result<Arc<dyn DiskFile>, LogError> {
        let file = match self.disk.open(names::MARKS) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.flush.name_was_added();
                self.disk.create(names::MARKS)
            }
            opened => opened,
        };
        file.map_err(disk_error("open", names::MARKS))
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { epochs: self.epochs.clone(), sealed: self.sealed.clone(), clean: None }
    }

    pub(super) fn store_checkpoint(&mut self) -> Result<(), LogError> {
        let content = self.checkpoint().encode();
        replace_side_file(&*self.disk, names::CHECKPOINT, &content)
            .map_err(disk_error("write", names::CHECKPOINT))
    }

    /// Removes what was derived from a log that is about to go another way: producer snapshots past `end`,
    /// and the indexes of the segment at `segment` and of later ones. Another log that has the same offsets
    /// and lengths must not find them.
    pub(super) fn remove_derived(&self, segment: Offset, end: Offset) -> Result<(), LogError> {
        let entries = self.disk.list().map_err(disk_error("list", "a partition's directory"))?;
        let is_derived = |name: &str| match names::parse(name) {
            Named::Index(start) => start >= segment,
            Named::Producers(at) => at > end,
            _ => false,
        };
        for entry in entries.iter().filter(|entry| is_derived(&entry.name)) {
            self.disk.remove(&entry.name).map_err(disk_error("remove", &entry.name))?;
        }
        Ok(())
    }
}
