//! A shard comes to life: the partition's log is read from its beginning to its end.
//!
//! A new leader's log may hold records that are not committed yet. They will be (nobody but the shard
//! appends), and until they are the shard is not loaded: reading stops at the high watermark and goes on when
//! it has moved. Invariants: 3, 9 (a batch that cannot be read stops the load; it is not skipped).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_groups::core::machine::Groups;
use highwater_model::limits::{GROUP_LOAD_BATCH_BYTES_MAX, GROUP_LOAD_CHUNK_BYTES, GROUP_RETRY_PAUSE};
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::codec::decompress_into;
use highwater_wire::{BatchHeader, Batches, Codec, Control, HEADER_BYTES, Records, read_control};

use crate::core::fetch_plan::Grant;
use crate::core::fetch_session::Want;
use crate::partition::{FetchWaiter, Look, Partition, Unavailable};

/// Why a shard was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Another leads, or the node stops.
    #[error("this node does not lead the partition any more")]
    NotLeader,
    #[error("{0}")]
    Failed(String),
}

fn unavailable(reason: Unavailable) -> LoadError {
    match reason {
        Unavailable::Closed => LoadError::NotLeader,
        Unavailable::Storage(_) => failed(reason),
    }
}

fn failed(error: impl ToString) -> LoadError {
    LoadError::Failed(error.to_string())
}

/// How much was read, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub log_bytes: u64,
    /// What of it counts still, about.
    pub live_bytes: u64,
}

/// Registered with the partition until it is dropped: a load may be given up at any point.
struct Waiting<'a> {
    partition: &'a Partition,
    waiter: FetchWaiter,
}

impl<'a> Waiting<'a> {
    fn new(partition: &'a Partition) -> Self {
        let waiter = FetchWaiter::default();
        partition.wait_for_data(&waiter); // if too many wait, the pause brings it here
        Waiting { partition, waiter }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.partition.forget_waiter(&self.waiter);
    }
}

/// Reads the whole log into `groups`, waiting for what is not yet committed. `stop`: give up.
///
/// # Errors
/// [`LoadError`]
pub async fn load(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    mut groups: Groups,
    stop: &Arc<AtomicBool>,
) -> Result<(Groups, Read), LoadError> {
    let waiting = Waiting::new(partition);
    let mut at = partition.bounds().map_err(unavailable)?.log_start;
    let mut log_bytes = 0;
    loop {
        let bounds = partition.bounds().map_err(unavailable)?;
        let terms = partition.terms();
        if !terms.is_leader || terms.leader_epoch != epoch || stop.load(Ordering::Relaxed) {
            return Err(LoadError::NotLeader);
        }
        if at >= bounds.log_end && bounds.high_watermark >= bounds.log_end {
            break;
        }
        if at >= bounds.high_watermark {
            let moved = waiting.waiter.notified();
            let _ = tokio::time::timeout(GROUP_RETRY_PAUSE, moved).await; // looked at in any case
            continue;
        }
        let (from, stop) = (partition.clone(), stop.clone());
        let read = tokio::task::spawn_blocking(move || {
            let end = read_on(&from, at, &mut groups, &mut log_bytes, &stop);
            (groups, log_bytes, end)
        });
        let (back, bytes, end) = read.await.map_err(failed)?;
        (groups, log_bytes) = (back, bytes);
        let end = end?;
        if end == at {
            return Err(failed(format!("nothing can be read at {at}, below the high watermark")));
        }
        at = end;
    }
    let counted = tokio::task::spawn_blocking(move || {
        let live_bytes = groups.live_bytes();
        (groups, Read { log_bytes, live_bytes })
    });
    counted.await.map_err(failed)
}

/// Reads up to the high watermark; where it has come to.
fn read_on(
    partition: &Partition,
    mut at: Offset,
    groups: &mut Groups,
    log_bytes: &mut u64,
    stop: &AtomicBool,
) -> Result<Offset, LoadError> {
    let mut scratch = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let want =
            Want { fetch_offset: at, bytes_max: i32::MAX, current_leader_epoch: -1, last_fetched_epoch: -1 };
        let grant = Grant { bytes: GROUP_LOAD_CHUNK_BYTES, is_first: true };
        let read = match partition.look(&want, Some(grant), true).map_err(failed)?.0 {
            Look::Local(read) if !read.slices.is_empty() => read,
            Look::Local(_) | Look::Empty => return Ok(at),
            Look::NotLeader | Look::Fenced | Look::UnknownEpoch => return Err(LoadError::NotLeader),
            Look::Tier { .. } => return Err(failed("the log's beginning is in the tier only")),
            Look::Damaged(error) => return Err(failed(error)),
            Look::OutOfRange | Look::Diverging { .. } => return Err(failed(format!("no offset {at}"))),
        };
        let mut bytes = Vec::with_capacity(read.bytes);
        for slice in &read.slices {
            bytes.extend(slice.read().map_err(failed)?);
        }
        let from = at;
        for batch in Batches::new(&bytes) {
            let (header, batch) = batch.map_err(failed)?;
            let end = header.base_offset + i64::from(header.last_offset_delta) + 1;
            if end > at {
                *log_bytes += batch.len() as u64;
                load_batch(groups, &header, batch, &mut scratch)?;
                at = end;
            }
        }
        if at == from {
            return Err(failed(format!("a read at {at} gave nothing")));
        }
    }
    Err(LoadError::NotLeader)
}

fn load_batch(
    groups: &mut Groups,
    header: &BatchHeader,
    batch: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), LoadError> {
    if header.is_control() {
        if header.is_transactional()
            && let Control::End(marker) = read_control(header, batch).map_err(failed)?
        {
            groups.load_marker(header.producer_id, marker.commit);
        }
        return Ok(());
    }
    if !highwater_wire::batch::crc_matches(batch) {
        return Err(failed(format!("the batch at {} is damaged", header.base_offset)));
    }
    let producer = header.is_transactional().then_some(header.producer_id);
    let codec = header.codec().map_err(failed)?;
    let section = match codec {
        Codec::None => &batch[HEADER_BYTES..],
        codec => {
            let packed = &batch[HEADER_BYTES..];
            decompress_into(codec, packed, GROUP_LOAD_BATCH_BYTES_MAX, scratch).map_err(failed)?;
            &scratch[..]
        }
    };
    let mut records = Records::new(section, header.record_count);
    while let Some(record) = records.next().map_err(failed)? {
        let Some(key) = record.key else { continue };
        if let Err(damage) = groups.load_bytes(key, record.value, producer) {
            let offset = header.base_offset + i64::from(record.offset_delta);
            tracing::warn!(offset, "a record of a group cannot be read and is left out: {damage}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater_groups::core::records::{Key, OffsetValue, Record, Value};
    use highwater_groups::core::settings::Settings;
    use highwater_groups::core::types::{Name, Topics};
    use highwater_wire::{BatchBuilder, EndMarker, marker_batch};

    use super::*;
    use crate::groups::batch::encode;

    fn name(text: &str) -> Name {
        Name::from(text)
    }

    fn offset(offset: i64) -> Record {
        let value = OffsetValue {
            offset,
            leader_epoch: 3,
            metadata: name("note"),
            committed_ms: 1_000,
            expires_ms: None,
            topic_id: None,
        };
        let key = Key::Offset { group: name("g"), topic: name("t"), partition: 0 };
        Record::new(key, Value::Offset(value))
    }

    fn fresh() -> Groups {
        Groups::new(Settings::default(), Arc::new(Topics::default()), 0)
    }

    fn loaded(groups: &mut Groups, batch: &[u8]) -> Result<(), LoadError> {
        let header = BatchHeader::parse(batch).expect("a batch");
        load_batch(groups, &header, batch, &mut Vec::new())
    }

    fn committed(groups: &Groups) -> Option<i64> {
        groups.offsets().get(&name("g"), &name("t"), 0).map(|value| value.offset)
    }

    #[test]
    fn batches_are_loaded_as_they_were_written() {
        let mut groups = fresh();
        let batch = encode(&[offset(5), offset(7)], None, 1_000).expect("encoded");
        assert_eq!((batch.header.record_count, batch.header.is_transactional()), (2, false));
        loaded(&mut groups, &batch.bytes).expect("loaded");
        assert_eq!(committed(&groups), Some(7));
        let (key, value) = offset(9).encode();
        let mut packed = BatchBuilder::new(Codec::Gzip);
        packed.push(1_000, Some(&key), value.as_deref(), &[]);
        // A record of another kind, and one that cannot be read, are left out.
        packed.push(1_000, Some(&[0, 99, 1, 2]), None, &[]);
        packed.push(1_000, Some(&key), Some(&[0, 99]), &[]);
        loaded(&mut groups, &packed.build()).expect("loaded");
        assert_eq!(committed(&groups), Some(9));
        let mut damaged = batch.bytes.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        assert!(matches!(loaded(&mut groups, &damaged), Err(LoadError::Failed(_))));
    }

    #[test]
    fn offsets_of_a_transaction_count_from_its_marker_on() {
        for commit in [true, false] {
            let mut groups = fresh();
            let batch = encode(&[offset(5)], Some((77, 2)), 1_000).expect("encoded");
            assert!(batch.header.is_transactional());
            assert_eq!((batch.header.producer_id, batch.header.producer_epoch), (77, 2));
            loaded(&mut groups, &batch.bytes).expect("loaded");
            assert_eq!(committed(&groups), None);
            let marker = marker_batch(77, 2, EndMarker { commit, coordinator_epoch: 0 }, 1_001);
            loaded(&mut groups, &marker).expect("loaded");
            assert_eq!(committed(&groups), commit.then_some(5));
        }
    }
}
