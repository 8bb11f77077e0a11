//! A shard comes to life: the partition's log is read from its beginning to its end.
//!
//! A new leader's log may hold records that are not committed yet. They will be, or are cut off by an
//! election (nobody but the shard appends), and until that is known the shard is not loaded: reading stops at
//! the high watermark and goes on when it has moved. Invariants: 3, 19 (a batch that cannot be read stops the
//! load; it is not skipped).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use highwater_model::limits::{SHARD_LOAD_CHUNK_BYTES, SHARD_RETRY_PAUSE};
use highwater_model::{LeaderEpoch, Offset, ProducerId};
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

impl LoadError {
    pub fn failed(error: impl ToString) -> LoadError {
        LoadError::Failed(error.to_string())
    }
}

impl From<Unavailable> for LoadError {
    fn from(reason: Unavailable) -> LoadError {
        match reason {
            Unavailable::Closed => LoadError::NotLeader,
            Unavailable::Storage(_) => LoadError::failed(reason),
        }
    }
}

/// What a log is read into.
pub trait Sink: Send + 'static {
    /// What the records of one batch may take, decompressed.
    const BATCH_BYTES_MAX: usize;

    /// A record with a key, at an offset; of a producer's transaction if it is one.
    ///
    /// # Errors
    /// It cannot be read, and without it the state would be wrong.
    fn take(
        &mut self,
        at: Offset,
        producer: Option<ProducerId>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), LoadError>;

    /// A producer's transaction has ended.
    fn ended(&mut self, _producer_id: ProducerId, _is_commit: bool) {}
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

/// A partition's log on its way into a sink.
struct Reading<S> {
    partition: Arc<Partition>,
    is_given_up: Arc<AtomicBool>,
    at: Offset,
    log_bytes: u64,
    sink: S,
}

/// Reads the whole log into `sink`, waiting for what is not yet committed; with it, how many bytes that were.
/// `is_given_up` stops it.
///
/// # Errors
/// [`LoadError`]
pub async fn load<S: Sink>(
    partition: &Arc<Partition>,
    epoch: LeaderEpoch,
    sink: S,
    is_given_up: &Arc<AtomicBool>,
) -> Result<(S, u64), LoadError> {
    let waiting = Waiting::new(partition);
    let at = partition.bounds()?.log_start;
    let (own, flag) = (partition.clone(), is_given_up.clone());
    let mut reading = Reading { partition: own, is_given_up: flag, at, log_bytes: 0, sink };
    loop {
        let bounds = partition.bounds()?;
        let terms = partition.terms();
        if !terms.is_leader || terms.leader_epoch != epoch || is_given_up.load(Ordering::Relaxed) {
            return Err(LoadError::NotLeader);
        }
        let at = reading.at;
        if at >= bounds.log_end && bounds.high_watermark >= bounds.log_end {
            return Ok((reading.sink, reading.log_bytes));
        }
        if at >= bounds.high_watermark {
            let moved = waiting.waiter.notified();
            let _ = tokio::time::timeout(SHARD_RETRY_PAUSE, moved).await; // looked at in any case
            continue;
        }
        let read = tokio::task::spawn_blocking(move || {
            let outcome = reading.read_on();
            (reading, outcome)
        });
        let (back, outcome) = read.await.map_err(LoadError::failed)?;
        outcome?;
        if back.at == at {
            let error = format!("nothing can be read at {at}, below the high watermark");
            return Err(LoadError::Failed(error));
        }
        reading = back;
    }
}

impl<S: Sink> Reading<S> {
    /// Reads up to the high watermark.
    fn read_on(&mut self) -> Result<(), LoadError> {
        let mut scratch = Vec::new();
        while !self.is_given_up.load(Ordering::Relaxed) {
            let bytes = self.chunk()?;
            if bytes.is_empty() {
                return Ok(());
            }
            let from = self.at;
            for batch in Batches::new(&bytes) {
                let (header, batch) = batch.map_err(LoadError::failed)?;
                if header.next_offset() > self.at {
                    take_batch(&mut self.sink, &header, batch, &mut scratch)?;
                    self.log_bytes += batch.len() as u64;
                    self.at = header.next_offset();
                }
            }
            if self.at == from {
                return Err(LoadError::Failed(format!("a read at {from} gave nothing")));
            }
        }
        Err(LoadError::NotLeader)
    }

    /// The next batches; none at the high watermark.
    fn chunk(&self) -> Result<Vec<u8>, LoadError> {
        let at = self.at;
        let want =
            Want { fetch_offset: at, bytes_max: i32::MAX, current_leader_epoch: -1, last_fetched_epoch: -1 };
        let grant = Grant { bytes: SHARD_LOAD_CHUNK_BYTES, is_first: true };
        let read = match self.partition.look(&want, Some(grant), true).map_err(LoadError::failed)?.0 {
            Look::Local(read) => read,
            Look::Empty => return Ok(Vec::new()),
            Look::NotLeader | Look::Fenced | Look::UnknownEpoch => return Err(LoadError::NotLeader),
            Look::Tier { .. } => return Err(LoadError::failed("the log's beginning is in the tier only")),
            Look::Damaged(error) => return Err(LoadError::failed(error)),
            Look::OutOfRange | Look::Diverging { .. } => {
                return Err(LoadError::Failed(format!("no offset {at}")));
            }
        };
        let mut bytes = Vec::with_capacity(read.bytes);
        for slice in &read.slices {
            bytes.extend(slice.read().map_err(LoadError::failed)?);
        }
        Ok(bytes)
    }
}

/// Reads one batch into `sink`; `scratch` is for what has to be decompressed.
///
/// # Errors
/// `Failed`: it is damaged, or the sink does not take one of its records.
pub fn take_batch<S: Sink>(
    sink: &mut S,
    header: &BatchHeader,
    batch: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), LoadError> {
    if header.is_control() {
        if header.is_transactional()
            && let Control::End(marker) = read_control(header, batch).map_err(LoadError::failed)?
        {
            sink.ended(header.producer_id, marker.commit);
        }
        return Ok(());
    }
    if !highwater_wire::batch::crc_matches(batch) {
        return Err(LoadError::Failed(format!("the batch at {} is damaged", header.base_offset)));
    }
    let producer = header.is_transactional().then_some(header.producer_id);
    let section = match header.codec().map_err(LoadError::failed)? {
        Codec::None => &batch[HEADER_BYTES..],
        codec => {
            let packed = &batch[HEADER_BYTES..];
            decompress_into(codec, packed, S::BATCH_BYTES_MAX, scratch).map_err(LoadError::failed)?;
            &scratch[..]
        }
    };
    let mut records = Records::new(section, header.record_count);
    while let Some(record) = records.next().map_err(LoadError::failed)? {
        let Some(key) = record.key else { continue };
        let at = header.base_offset + i64::from(record.offset_delta);
        sink.take(at, producer, key, record.value)?;
    }
    Ok(())
}
