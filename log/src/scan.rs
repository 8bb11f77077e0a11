//! Walking the batches of a segment file: by headers only for reads, and with every checksum for recovery.
//!
//! Both walks are bounded by the file's known end and check each length against it before they read or
//! allocate.

use std::fs::File;
use std::io;

use highwater_model::limits::{HEADER_WINDOW_BYTES, RECOVERY_WINDOW_BYTES};
use highwater_wire::batch::{BatchHeader, HEADER_BYTES, check_crc};
use highwater_wire::control::{Control, EndMarker, read_control};

use crate::disk::read_up_to;
use crate::error::batch_fault;

/// Why a walk ended early, with its place (invariant 19).
#[derive(Debug)]
pub(crate) struct ScanError {
    pub position: u64,
    pub what: ScanFault,
}

#[derive(Debug)]
pub(crate) enum ScanFault {
    Io(io::Error),
    /// The bytes are no batch.
    Batch(&'static str),
}

/// A batch's header and where the batch starts in its segment file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located {
    pub position: u64,
    pub header: BatchHeader,
}

impl Located {
    /// Position after the batch.
    pub fn end(&self) -> u64 {
        self.position + self.header.total_bytes() as u64
    }
}

/// Parses the header in `bytes` of the batch at `position`, which must end at or before `end`.
fn parse(bytes: &[u8], position: u64, end: u64) -> Result<Located, ScanError> {
    let fault = |what| ScanError { position, what: ScanFault::Batch(what) };
    let header = BatchHeader::parse(bytes).map_err(|e| fault(batch_fault(&e)))?;
    let located = Located { position, header };
    if located.end() > end {
        return Err(fault("batch cut short"));
    }
    Ok(located)
}

/// The end of a transaction that a whole batch stands for. A control batch that cannot be read is none: it
/// was never appended as one.
pub(crate) fn marker_of(header: &BatchHeader, batch: &[u8]) -> Option<EndMarker> {
    if !header.is_control() {
        return None;
    }
    match read_control(header, batch) {
        Ok(Control::End(marker)) => Some(marker),
        Ok(Control::Other(_)) | Err(_) => None,
    }
}

/// Walks headers from a batch boundary, reading a small window at a time.
pub(crate) struct HeaderScan<'a> {
    file: &'a File,
    position: u64,
    end: u64,
    window: [u8; HEADER_WINDOW_BYTES],
    window_start: u64,
    window_bytes: usize,
}

impl<'a> HeaderScan<'a> {
    /// `position` is a batch boundary, `end` the end of the file's valid bytes.
    pub fn new(file: &'a File, position: u64, end: u64) -> HeaderScan<'a> {
        let window = [0; HEADER_WINDOW_BYTES];
        HeaderScan { file, position, end, window, window_start: position, window_bytes: 0 }
    }

    pub fn next(&mut self) -> Result<Option<Located>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let mut skip = (self.position - self.window_start).min(self.window_bytes as u64) as usize;
        if self.window_bytes - skip < HEADER_BYTES {
            self.fill()?;
            skip = 0;
        }
        let located = parse(&self.window[skip..self.window_bytes], self.position, self.end)?;
        self.position = located.end();
        Ok(Some(located))
    }

    fn fill(&mut self) -> Result<(), ScanError> {
        let left = (self.end - self.position).min(self.window.len() as u64) as usize;
        let read = read_up_to(self.file, &mut self.window[..left], self.position);
        let position = self.position;
        self.window_bytes = read.map_err(|e| ScanError { position, what: ScanFault::Io(e) })?;
        self.window_start = position;
        Ok(())
    }
}

/// Walks whole batches and checks each CRC; the caller checks that offsets follow.
pub(crate) struct BatchScan<'a> {
    file: &'a File,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> BatchScan<'a> {
    pub fn new(file: &'a File, end: u64) -> BatchScan<'a> {
        BatchScan { file, position: 0, end, window: Vec::new(), window_start: 0 }
    }

    /// The next batch, and what it says if it is a marker.
    pub fn next(&mut self) -> Result<Option<(Located, Option<EndMarker>)>, ScanError> {
        if self.position >= self.end {
            return Ok(None);
        }
        self.fill(HEADER_BYTES)?;
        let located = parse(self.at_position(), self.position, self.end)?;
        let bytes = located.header.total_bytes();
        self.fill(bytes)?;
        let position = self.position;
        let fault = |what| ScanError { position, what: ScanFault::Batch(what) };
        let batch = self.at_position().get(..bytes).ok_or_else(|| fault("batch cut short"))?;
        check_crc(batch).map_err(|e| fault(batch_fault(&e)))?;
        let marker = marker_of(&located.header, batch);
        self.position = located.end();
        Ok(Some((located, marker)))
    }

    fn at_position(&self) -> &[u8] {
        let skip = (self.position - self.window_start).min(self.window.len() as u64) as usize;
        &self.window[skip..]
    }

    /// Reads on if fewer than `need` bytes are at hand; `parse` has checked that a batch fits the file.
    fn fill(&mut self, need: usize) -> Result<(), ScanError> {
        let left = self.end - self.position;
        let need = need.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.at_position().len() >= need {
            return Ok(());
        }
        let want = need.max(RECOVERY_WINDOW_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
        self.window.resize(want, 0);
        let position = self.position;
        let read = read_up_to(self.file, &mut self.window, position);
        let read = read.map_err(|e| ScanError { position, what: ScanFault::Io(e) })?;
        self.window.truncate(read);
        self.window_start = position;
        Ok(())
    }
}
