//! Segments in memory: the active one, and sealed ones as far as readers hold them open.
//!
//! Owns lazy opening and the loading of sparse indexes, rebuilding a missing or damaged one from batch
//! headers. Must not decide anything about offsets: it is told where a segment starts, ends and how long it
//! is.

use std::fs::File;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock};

use highwater_model::Offset;
use highwater_model::limits::{CONTROL_BATCH_BYTES_MAX, SEALED_OPEN_PER_PARTITION_MAX};
use highwater_wire::control::EndMarker;
use tracing::warn;

use crate::core::checkpoint::SealedSegment;
use crate::core::index::{IndexedSegment, SparseIndex};
use crate::disk::{Disk, DiskFile, read_side_file, read_up_to, write_side_file};
use crate::error::ReadError;
use crate::names;
use crate::scan::{HeaderScan, Located, ScanError, ScanFault, marker_of};

/// The segment that takes appends.
#[derive(Debug)]
pub(crate) struct ActiveSegment {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// Running maximum of record timestamps; `i64::MIN` while empty.
    pub max_timestamp: i64,
    pub first_append_ms: Option<i64>,
    pub first_timestamp: Option<i64>,
    pub file: OnceLock<Arc<dyn DiskFile>>,
    pub index: OnceLock<SparseIndex>,
}

impl ActiveSegment {
    /// An empty segment whose file need not exist yet.
    pub fn empty(start: Offset, interval_bytes: u32) -> ActiveSegment {
        ActiveSegment {
            start,
            end: start,
            bytes: 0,
            max_timestamp: i64::MIN,
            first_append_ms: None,
            first_timestamp: None,
            file: OnceLock::new(),
            index: OnceLock::from(SparseIndex::new(start, interval_bytes)),
        }
    }

    pub fn indexed(&self) -> IndexedSegment {
        IndexedSegment {
            start: self.start,
            end: self.end,
            bytes: self.bytes,
            max_timestamp: self.max_timestamp,
        }
    }

    /// The existing file, opened at its first use.
    pub fn open_file(&self, disk: &dyn Disk) -> Result<&Arc<dyn DiskFile>, ReadError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = disk.open(&names::log(self.start)).map_err(read_error("open", self.start))?;
        Ok(self.file.get_or_init(|| file))
    }

    pub fn load_index(&self, disk: &dyn Disk, interval_bytes: u32) -> Result<&SparseIndex, ReadError> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let file = self.open_file(disk)?;
        let index = load_index(disk, file.file(), &self.indexed(), interval_bytes)?;
        Ok(self.index.get_or_init(|| index))
    }
}

/// A segment as a reader sees it.
pub(crate) struct SegmentView<'a> {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    pub max_timestamp: i64,
    pub file: Arc<File>,
    pub index: IndexRef<'a>,
}

pub(crate) enum IndexRef<'a> {
    Active(&'a SparseIndex),
    Sealed(Arc<SparseIndex>),
}

impl Deref for IndexRef<'_> {
    type Target = SparseIndex;

    fn deref(&self) -> &SparseIndex {
        match self {
            IndexRef::Active(index) => index,
            IndexRef::Sealed(index) => index,
        }
    }
}

impl SegmentView<'_> {
    /// Headers from the batch boundary `position` on.
    pub fn scan(&self, position: u64) -> HeaderScan<'_> {
        HeaderScan::new(&self.file, position, self.bytes)
    }

    pub fn fault(&self, error: ScanError) -> ReadError {
        scan_error(self.start, error)
    }

    /// What the batch says if it is a marker.
    pub fn marker(&self, at: &Located) -> Result<Option<EndMarker>, ReadError> {
        let bytes = at.header.total_bytes();
        if !at.header.is_control() || bytes > CONTROL_BATCH_BYTES_MAX {
            return Ok(None);
        }
        let mut batch = vec![0; bytes];
        let read = read_up_to(&self.file, &mut batch, at.position).map_err(read_error("read", self.start))?;
        Ok(marker_of(&at.header, &batch[..read]))
    }

    /// The batch that holds `offset`, which must be within the segment.
    pub fn find(&self, offset: Offset) -> Result<Located, ReadError> {
        debug_assert!(self.start <= offset && offset < self.end);
        let row = self.index.floor_of_offset(offset);
        let mut scan = self.scan(u64::from(row.position));
        while let Some(located) = scan.next().map_err(|e| self.fault(e))? {
            if located.header.base_offset > offset {
                break;
            }
            if located.header.next_offset() > offset {
                return Ok(located);
            }
        }
        let position = u64::from(row.position);
        Err(ReadError::Corrupt {
            segment: self.start,
            position,
            what: "no batch holds the offset looked for",
        })
    }
}

#[derive(Clone, Debug)]
struct OpenSealed {
    start: Offset,
    file: Arc<dyn DiskFile>,
    index: Arc<SparseIndex>,
}

/// The sealed segments last read, newest use at the end.
#[derive(Debug, Default)]
pub(crate) struct SealedCache {
    open: Mutex<Vec<OpenSealed>>,
}

impl SealedCache {
    pub fn view(
        &self,
        disk: &dyn Disk,
        segment: &SealedSegment,
        interval_bytes: u32,
    ) -> Result<SegmentView<'static>, ReadError> {
        let mut open = self.open.lock().expect("no holder of the cache panics");
        let opened = match open.iter().position(|o| o.start == segment.start) {
            Some(at) => open.remove(at),
            None => {
                let file = disk.open(&names::log(segment.start));
                let file = file.map_err(read_error("open", segment.start))?;
                let indexed = IndexedSegment {
                    start: segment.start,
                    end: segment.end,
                    bytes: segment.bytes,
                    max_timestamp: segment.max_timestamp,
                };
                let index = load_index(disk, file.file(), &indexed, interval_bytes)?;
                OpenSealed { start: segment.start, file, index: Arc::new(index) }
            }
        };
        let view = SegmentView {
            start: segment.start,
            end: segment.end,
            bytes: segment.bytes,
            max_timestamp: segment.max_timestamp,
            file: opened.file.file().clone(),
            index: IndexRef::Sealed(opened.index.clone()),
        };
        if open.len() >= SEALED_OPEN_PER_PARTITION_MAX {
            open.remove(0);
        }
        open.push(opened);
        Ok(view)
    }

    /// Segments that are open.
    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.open.lock().expect("no holder of the cache panics").len()
    }

    /// Closes segments outside `start..end`.
    pub fn retain(&self, start: Offset, end: Offset) {
        let mut open = self.open.lock().expect("no holder of the cache panics");
        open.retain(|o| o.start >= start && o.start < end);
    }
}

/// Reads a stored index, or rebuilds it from the log if it is missing, damaged or another segment's.
fn load_index(
    disk: &dyn Disk,
    file: &File,
    segment: &IndexedSegment,
    interval_bytes: u32,
) -> Result<SparseIndex, ReadError> {
    let name = names::index(segment.start);
    let stored = read_side_file(disk, &name).map_err(read_error("read index of", segment.start))?;
    if let Some(Ok((described, index))) = stored.as_deref().map(SparseIndex::decode)
        && described == *segment
    {
        return Ok(index);
    }
    let mut index = SparseIndex::new(segment.start, interval_bytes);
    let mut scan = HeaderScan::new(file, 0, segment.bytes);
    let mut max_before = i64::MIN;
    let mut next = segment.start;
    while let Some(at) = scan.next().map_err(|e| scan_error(segment.start, e))? {
        if at.header.base_offset != next {
            return Err(ReadError::Corrupt {
                segment: segment.start,
                position: at.position,
                what: "offsets do not follow",
            });
        }
        index.note(next, at.position, max_before);
        max_before = max_before.max(at.header.max_timestamp);
        next = at.header.next_offset();
    }
    if next != segment.end {
        let position = segment.bytes;
        return Err(ReadError::Corrupt { segment: segment.start, position, what: "segment ends early" });
    }
    if let Err(error) = write_side_file(disk, &name, &index.encode(segment)) {
        warn!(%error, name, "rebuilt index was not stored");
    }
    Ok(index)
}

pub(crate) fn read_error(what: &'static str, segment: Offset) -> impl FnOnce(std::io::Error) -> ReadError {
    move |source| ReadError::Io { what, segment, source }
}

pub(crate) fn scan_error(segment: Offset, error: ScanError) -> ReadError {
    let ScanError { position, what } = error;
    match what {
        ScanFault::Io(source) => ReadError::Io { what: "read", segment, source },
        ScanFault::Batch(what) => ReadError::Corrupt { segment, position, what },
    }
}
