//! Records by timestamp (ListOffsets): exact to the record, by the sparse index, then headers, then one
//! decoded batch.

use highwater_model::limits::{DECOMPRESSED_BYTES_MAX, REQUEST_BYTES_MAX};
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::batch::{HEADER_BYTES, check_crc};
use highwater_wire::codec::{Codec, decompress_into};
use highwater_wire::records::Records;

use super::PartitionLog;
use crate::disk::read_up_to;
use crate::error::{ReadError, batch_fault};
use crate::scan::Located;
use crate::segment::{SegmentView, read_error};

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub offset: Offset,
    /// Unix ms.
    pub timestamp: i64,
    pub leader_epoch: LeaderEpoch,
}

/// Where the largest timestamp seen so far is.
enum Newest<'a> {
    Record(TimestampedOffset),
    /// In some batch that is wholly within the range; in `view` at or after `from`.
    Batch {
        view: SegmentView<'a>,
        from: u64,
        timestamp: i64,
    },
}

impl Newest<'_> {
    fn timestamp(&self) -> i64 {
        match self {
            Newest::Record(record) => record.timestamp,
            Newest::Batch { timestamp, .. } => *timestamp,
        }
    }
}

impl PartitionLog {
    /// The first local record below `end_bound` whose timestamp is at least `timestamp` (Unix ms).
    ///
    /// # Errors
    /// `Io` and `Corrupt` of what it had to read.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
        end_bound: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        let range = (self.local_start(), end_bound.min(self.log_end()));
        for view in self.views_where(range.0, |s| s.max_timestamp >= timestamp && s.start < range.1) {
            let view = view?;
            if view.max_timestamp < timestamp {
                continue;
            }
            let by_time = view.index.floor_of_timestamp(timestamp).position;
            let by_offset = view.index.floor_of_offset(range.0).position;
            let mut scan = view.scan(u64::from(by_time.max(by_offset)));
            while let Some(at) = scan.next().map_err(|e| view.fault(e))? {
                if at.header.base_offset >= range.1 {
                    return Ok(None);
                }
                if at.header.next_offset() <= range.0 || at.header.max_timestamp < timestamp {
                    continue;
                }
                let mut found = None;
                each_record(&view, &at, range, |record| {
                    if record.timestamp >= timestamp {
                        found = Some(record);
                    }
                    found.is_none()
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// The first local record below `end_bound` that has the largest timestamp (KIP-734); `None` if no record
    /// has one.
    ///
    /// # Errors
    /// As `offset_for_timestamp`.
    pub fn max_timestamp_offset(&self, end_bound: Offset) -> Result<Option<TimestampedOffset>, ReadError> {
        let range = (self.local_start(), end_bound.min(self.log_end()));
        let mut newest: Option<Newest<'_>> = None;
        let least = self.whole_segments_max(range);
        for view in self.views_where(range.0, |s| s.max_timestamp >= least && s.start < range.1) {
            let view = view?;
            if view.start >= range.1 {
                break;
            }
            let best = newest.as_ref().map_or(-1, Newest::timestamp);
            if view.max_timestamp <= best {
                continue;
            }
            let found = if view.start >= range.0 && view.end <= range.1 {
                let from = u64::from(view.index.floor_of_timestamp(view.max_timestamp).position);
                let timestamp = view.max_timestamp;
                Some(Newest::Batch { view, from, timestamp })
            } else {
                newest_within(view, range, best)?
            };
            newest = found.or(newest);
        }
        match newest {
            None => Ok(None),
            Some(Newest::Record(record)) => Ok(Some(record)),
            Some(Newest::Batch { view, from, timestamp }) => first_with(&view, from, timestamp, range),
        }
    }
}

impl PartitionLog {
    /// The largest timestamp of the segments that are wholly within `range`, as far as it is known without
    /// looking into files: what is newest in `range` is at least as new.
    fn whole_segments_max(&self, range: (Offset, Offset)) -> i64 {
        let within = |start, end| start >= range.0 && end <= range.1;
        let active = Some(&self.active).filter(|a| a.bytes > 0 && within(a.start, a.end));
        let sealed = self.sealed.iter().filter(|s| within(s.start, s.end)).map(|s| s.max_timestamp);
        sealed.chain(active.map(|a| a.max_timestamp)).max().unwrap_or(i64::MIN)
    }
}

/// The largest timestamp above `best` of a segment that is only partly within `range`.
fn newest_within(
    view: SegmentView<'_>,
    range: (Offset, Offset),
    best: i64,
) -> Result<Option<Newest<'_>>, ReadError> {
    let from = u64::from(view.index.floor_of_offset(range.0).position);
    let mut record_best: Option<TimestampedOffset> = None;
    let mut batch_best: Option<(u64, i64)> = None;
    let mut best = best;
    let mut scan = view.scan(from);
    while let Some(at) = scan.next().map_err(|e| view.fault(e))? {
        if at.header.base_offset >= range.1 {
            break;
        }
        if at.header.next_offset() <= range.0 || at.header.max_timestamp <= best {
            continue;
        }
        if at.header.base_offset >= range.0 && at.header.next_offset() <= range.1 {
            best = at.header.max_timestamp;
            batch_best = Some((at.position, best));
            continue;
        }
        each_record(&view, &at, range, |record| {
            if record.timestamp > best {
                best = record.timestamp;
                batch_best = None;
                record_best = Some(record);
            }
            true
        })?;
    }
    Ok(match batch_best {
        Some((from, timestamp)) => Some(Newest::Batch { view, from, timestamp }),
        None => record_best.map(Newest::Record),
    })
}

/// The first record with exactly `timestamp` from the batch boundary `from` on, which is known to be there.
fn first_with(
    view: &SegmentView<'_>,
    from: u64,
    timestamp: i64,
    range: (Offset, Offset),
) -> Result<Option<TimestampedOffset>, ReadError> {
    let mut scan = view.scan(from);
    while let Some(at) = scan.next().map_err(|e| view.fault(e))? {
        if at.header.max_timestamp < timestamp {
            continue;
        }
        let mut found = None;
        each_record(view, &at, range, |record| {
            if record.timestamp == timestamp {
                found = Some(record);
            }
            found.is_none()
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Decodes one batch and shows its records within `range` in offset order while `visit` says to go on.
fn each_record(
    view: &SegmentView<'_>,
    at: &Located,
    range: (Offset, Offset),
    mut visit: impl FnMut(TimestampedOffset) -> bool,
) -> Result<(), ReadError> {
    let header = &at.header;
    let corrupt = |what| ReadError::Corrupt { segment: view.start, position: at.position, what };
    // The header scan has checked that the batch ends within the file.
    let mut batch = vec![0; header.total_bytes()];
    let read = read_up_to(&view.file, &mut batch, at.position).map_err(read_error("read", view.start))?;
    batch.truncate(read);
    check_crc(&batch).map_err(|e| corrupt(batch_fault(&e)))?;
    let body = batch.get(HEADER_BYTES..).ok_or_else(|| corrupt("batch cut short"))?;
    let codec = header.codec().map_err(|e| corrupt(batch_fault(&e)))?;
    let mut decompressed = Vec::new();
    let records = if codec == Codec::None {
        body
    } else {
        // What validation may have let in.
        let cap = DECOMPRESSED_BYTES_MAX.max(REQUEST_BYTES_MAX);
        decompress_into(codec, body, cap, &mut decompressed)
            .map_err(|_| corrupt("records do not decompress"))?;
        &decompressed
    };
    let mut records = Records::new(records, header.record_count);
    while let Some(record) = records.next().map_err(|e| corrupt(batch_fault(&e)))? {
        let found = TimestampedOffset {
            offset: header.base_offset.saturating_add(i64::from(record.offset_delta)),
            timestamp: header.record_timestamp(record.timestamp_delta),
            leader_epoch: header.leader_epoch,
        };
        if found.offset >= range.0 && found.offset < range.1 && !visit(found) {
            break;
        }
    }
    Ok(())
}
