//! A shard comes to life: the partition's log is read from its beginning to its end.
//!
//! What a former leader left uncommitted becomes part of the state or is cut off by an election, and until
//! that is known the shard is not loaded: reading stops at the high watermark and goes on when it has moved.
//! Invariants: 3, 19 (a batch or value that cannot be read stops the load; it is not skipped).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_groups::core::txn::Loader;
use highwater_model::limits::{TXN_LOAD_BATCH_BYTES_MAX, TXN_LOAD_CHUNK_BYTES, TXN_RELOAD_PAUSE};
use highwater_model::{LeaderEpoch, Offset};
use highwater_wire::codec::decompress_into;
use highwater_wire::{BatchHeader, Batches, Codec, HEADER_BYTES, Records};

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

fn failed(error: impl ToString) -> LoadError {
    LoadError::Failed(error.to_string())
}

fn unavailable(reason: Unavailable) -> LoadError {
    match reason {
        Unavailable::Closed => LoadError::NotLeader,
        Unavailable::Storage(_) => failed(reason),
    }
}

/// A partition's log on its way into a loader.
struct Reading {
    partition: Arc<Partition>,
    is_given_up: Arc<AtomicBool>,
    at: Offset,
    loader: Loader,
}

/// Reads the whole log, waiting for what is not yet committed. `is_given_up` stops it.
///
/// # Errors
/// [`LoadError`]
pub async fn load(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    is_given_up: &Arc<AtomicBool>,
) -> Result<Loader, LoadError> {
    let waiter = FetchWaiter::default();
    partition.wait_for_data(&waiter);
    let loaded = load_all(partition, epoch, is_given_up, &waiter).await;
    partition.forget_waiter(&waiter);
    loaded
}

async fn load_all(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    is_given_up: &Arc<AtomicBool>,
    waiter: &FetchWaiter,
) -> Result<Loader, LoadError> {
    let at = partition.bounds().map_err(unavailable)?.local_start;
    let (own, flag) = (partition.clone(), is_given_up.clone());
    let mut reading = Reading { partition: own, is_given_up: flag, at, loader: Loader::default() };
    loop {
        let bounds = partition.bounds().map_err(unavailable)?;
        let terms = partition.terms();
        if !terms.is_leader || terms.leader_epoch != epoch || is_given_up.load(Ordering::Relaxed) {
            return Err(LoadError::NotLeader);
        }
        if reading.at >= bounds.log_end && bounds.high_watermark >= bounds.log_end {
            return Ok(reading.loader);
        }
        if reading.at >= bounds.high_watermark {
            // Looked at again in any case.
            let _ = tokio::time::timeout(TXN_RELOAD_PAUSE, waiter.notified()).await;
            continue;
        }
        let read = tokio::task::spawn_blocking(move || {
            let outcome = reading.read_on();
            (reading, outcome)
        });
        let (back, outcome) = read.await.map_err(failed)?;
        reading = back;
        outcome?;
    }
}

impl Reading {
    /// Reads up to the high watermark.
    fn read_on(&mut self) -> Result<(), LoadError> {
        let mut scratch = Vec::new();
        while !self.is_given_up.load(Ordering::Relaxed) {
            let want = Want {
                fetch_offset: self.at,
                bytes_max: i32::MAX,
                current_leader_epoch: -1,
                last_fetched_epoch: -1,
            };
            let grant = Grant { bytes: TXN_LOAD_CHUNK_BYTES, is_first: true };
            let read = match self.partition.look(&want, Some(grant), true).map_err(failed)?.0 {
                Look::Local(read) if !read.slices.is_empty() => read,
                Look::Local(_) | Look::Empty => return Ok(()),
                Look::NotLeader | Look::Fenced | Look::UnknownEpoch => return Err(LoadError::NotLeader),
                Look::Tier { .. } => return Err(failed("the log's beginning is in the tier only")),
                Look::Damaged(error) => return Err(failed(error)),
                Look::OutOfRange | Look::Diverging { .. } => {
                    return Err(failed(format!("no offset {}", self.at)));
                }
            };
            let mut bytes = Vec::with_capacity(read.bytes);
            for slice in &read.slices {
                bytes.extend(slice.read().map_err(failed)?);
            }
            let from = self.at;
            for batch in Batches::new(&bytes) {
                let (header, batch) = batch.map_err(failed)?;
                if header.next_offset() > self.at {
                    take_batch(&mut self.loader, &header, batch, &mut scratch)?;
                    self.at = header.next_offset();
                }
            }
            if self.at == from {
                return Err(failed(format!("a read at {from} gave nothing")));
            }
        }
        Err(LoadError::NotLeader)
    }
}

fn take_batch(
    loader: &mut Loader,
    header: &BatchHeader,
    batch: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), LoadError> {
    if header.is_control() {
        return Ok(());
    }
    if !highwater_wire::batch::crc_matches(batch) {
        return Err(failed(format!("the batch at {} is damaged", header.base_offset)));
    }
    let section = match header.codec().map_err(failed)? {
        Codec::None => &batch[HEADER_BYTES..],
        codec => {
            let packed = &batch[HEADER_BYTES..];
            decompress_into(codec, packed, TXN_LOAD_BATCH_BYTES_MAX, scratch).map_err(failed)?;
            &scratch[..]
        }
    };
    let mut records = Records::new(section, header.record_count);
    while let Some(record) = records.next().map_err(failed)? {
        let Some(key) = record.key else { continue };
        loader.take(key, record.value).map_err(|damage| {
            let offset = header.base_offset + i64::from(record.offset_delta);
            failed(format!("the record at {offset} cannot be read: {damage}"))
        })?;
    }
    Ok(())
}
