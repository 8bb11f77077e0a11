//! Reading back: batches of any offset below the tiered end, rebuilt from objects.
//!
//! ```text
//! offset -> manifest (and pages) -> object -> footer (1 GET, then cached) -> row group (1 ranged GET) ->
//! stripes -> batches
//! ```
//! - A read gives at least one batch and then whole ones up to its budget, over the borders of row groups and
//!   objects.
//! - A reader that goes on where it stopped is recognised (`stream.rs`): the next row groups, the next object
//!   and the next batches are made while the client is busy with the last ones. What is fetched ahead for it
//!   is held for it, so a long replay does not depend on the cache and the cache not on a long replay.
//! - Bytes in flight are bounded: demand reads by one budget, which a read keeps a part of while it is in the
//!   row group, what is held between reads by another that is only ever tried. No memory is held across a
//!   wait for more. Rebuilding is bounded by the number of cores.
//! - An object that is gone has been replaced or pruned: the read goes on with a fresh manifest. Objects and
//!   pages are deleted only after a grace longer than a read's deadline, so this is rare.
//! - Every page is checked against its checksum when it is rebuilt. Damaged bytes are fetched once more, then
//!   that read ends with the place of the damage; nothing else does.
//!
//! Must not hold a partition's lock or wait without the read's deadline. Invariants: 9, 15, 16, 19.

mod load;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use highwater_model::limits::{TIER_CHUNKS_PER_READ_MAX, TIER_REOPENS_MAX};
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use highwater_wire::HEADER_BYTES;
use tokio::time::{Instant, timeout_at};

use crate::cache::{CacheSnapshot, Chunk};
use crate::core::manifest::{Manifest, ObjectEntry};
use crate::core::names::{Names, TopicRef};
use crate::core::plan::inline_at;
use crate::lane::{Store, StoreError};
use crate::metrics::ReadCounters;
use crate::object::ObjectIndex;
use crate::pages::{PageError, Pages};
use crate::port::{ManifestPort, ReadError};
use load::Loader;
use stream::{Stream, Streams};

/// Budgets of the reader, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSettings {
    /// All caches together.
    pub cache_bytes: u64,
    /// Row groups on their way for reads that wait for them.
    pub demand_bytes: usize,
    /// What readers hold between two reads: the row group they are in and, up to half, what was made ready.
    pub ahead_bytes: usize,
    /// Rebuilds at a time.
    pub rebuild_threads: usize,
}

impl Default for ReadSettings {
    fn default() -> Self {
        let mib = 1024 * 1024;
        ReadSettings {
            cache_bytes: 64 * mib as u64,
            demand_bytes: 48 * mib,
            ahead_bytes: 48 * mib,
            rebuild_threads: 2,
        }
    }
}

/// What a reader reads with.
pub struct ReadParts {
    pub store: Store,
    pub names: Arc<Names>,
    pub port: Arc<dyn ManifestPort>,
    pub pages: Pages,
    pub counters: Arc<ReadCounters>,
    pub settings: ReadSettings,
}

/// One read of one partition.
#[derive(Clone, Debug)]
pub struct TierRead {
    pub tp: TopicPartition,
    pub topic: Arc<str>,
    pub manifest: Arc<Manifest>,
    pub start: Offset,
    /// Kept unless the first batch alone is larger.
    pub bytes_max: usize,
    pub deadline: Instant,
}

/// Batches in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierBatches {
    pub bytes: Vec<Bytes>,
    /// Where to read on: after the last offset that the batches cover.
    pub next_offset: Offset,
}

/// A record found by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    pub offset: Offset,
    /// Unix milliseconds.
    pub timestamp: i64,
    pub leader_epoch: LeaderEpoch,
}

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// The deadline passed. What was fetched by then is cached; ask again.
    #[error("not read by the deadline")]
    Late,
    #[error("offset {offset} is not in the tier, which has {log_start}..{tiered_end}")]
    OutOfRange { offset: Offset, log_start: Offset, tiered_end: Offset },
    /// The manifest lists it, the bucket does not have it.
    #[error("{key} is listed but gone from the bucket")]
    Gone { key: String },
    #[error("{key} is damaged at offset {offset}: {what}")]
    Damaged { key: String, offset: Offset, what: String },
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("control plane: {0}")]
    Manifest(#[from] ReadError),
}

impl TierError {
    /// Whether asking again may help.
    pub fn is_retriable(&self) -> bool {
        !matches!(self, TierError::OutOfRange { .. } | TierError::Damaged { .. } | TierError::Gone { .. })
    }

    fn is_missing(&self) -> bool {
        match self {
            TierError::Gone { .. } => true,
            TierError::Page(page) => page.is_not_found(),
            _ => false,
        }
    }
}

impl From<StoreError> for TierError {
    fn from(error: StoreError) -> TierError {
        match error {
            StoreError::Expired { .. } => TierError::Late,
            StoreError::Fault { ref key, .. } if error.is_not_found() => TierError::Gone { key: key.clone() },
            other => TierError::Store(other),
        }
    }
}

/// Whose data a call is about, and until when.
#[derive(Clone, Debug)]
struct Scope {
    tp: TopicPartition,
    topic: Arc<TopicRef>,
    deadline: Instant,
}

/// An object that a reader is in.
#[derive(Clone, Debug)]
struct Place {
    entry: ObjectEntry,
    index: Arc<ObjectIndex>,
}

/// Reads from the tier. Cloning shares everything.
#[derive(Clone)]
pub struct TierReader {
    shared: Arc<Shared>,
}

struct Shared {
    loader: Arc<Loader>,
    port: Arc<dyn ManifestPort>,
    streams: Streams,
    counters: Arc<ReadCounters>,
}

impl TierReader {
    pub fn new(parts: ReadParts) -> TierReader {
        let (port, counters) = (parts.port.clone(), parts.counters.clone());
        let streams = Streams::new(parts.settings.ahead_bytes);
        let loader = Arc::new(Loader::new(parts));
        TierReader { shared: Arc::new(Shared { loader, port, streams, counters }) }
    }

    pub fn counters(&self) -> &ReadCounters {
        &self.shared.counters
    }

    pub fn cache(&self) -> CacheSnapshot {
        self.shared.loader.cache.snapshot()
    }

    /// Batches from `start` on: what is ready by the deadline, at least one batch.
    ///
    /// # Errors
    /// See [`TierError`]; only when not even one batch could be read.
    pub async fn read(&self, read: TierRead) -> Result<TierBatches, TierError> {
        let counters = &self.shared.counters;
        counters.reads.add(1);
        let mut out = TierBatches { bytes: Vec::new(), next_offset: read.start };
        let result = match timeout_at(read.deadline, self.read_into(&read, &mut out)).await {
            Ok(result) => result,
            Err(_) => Err(TierError::Late),
        };
        match result {
            Err(error) if out.bytes.is_empty() => {
                counters.failed.add(1);
                counters.expired.add(u64::from(error == TierError::Late));
                Err(error)
            }
            _ => {
                counters.bytes.add(out.bytes.iter().map(|b| b.len() as u64).sum());
                Ok(out)
            }
        }
    }

    async fn read_into(&self, read: &TierRead, out: &mut TierBatches) -> Result<(), TierError> {
        let shared = &self.shared;
        let topic = Arc::new(TopicRef { name: read.topic.to_string(), id: read.tp.topic_id });
        let scope = Scope { tp: read.tp, topic, deadline: read.deadline };
        let mut manifest = read.manifest.clone();
        let mut stream = shared.streams.take(read.tp, read.start);
        let mut left = read.bytes_max;
        let mut reopens = 0;
        while out.bytes.len() < TIER_CHUNKS_PER_READ_MAX {
            let offset = out.next_offset;
            if offset < manifest.log_start || offset >= manifest.tiered_end {
                if out.bytes.is_empty() {
                    let Manifest { log_start, tiered_end, .. } = *manifest;
                    return Err(TierError::OutOfRange { offset, log_start, tiered_end });
                }
                break;
            }
            let room = if out.bytes.is_empty() { Room::AtLeastOne(left) } else { Room::Within(left) };
            match self.next_chunk(&scope, &manifest, &mut stream, offset, room).await {
                Ok(Some(chunk)) => {
                    assert!(chunk.next_offset > offset, "a chunk moves its reader on");
                    left = left.saturating_sub(chunk.bytes.len());
                    out.next_offset = chunk.next_offset;
                    out.bytes.push(chunk.bytes.clone());
                }
                Ok(None) => break,
                Err(missing) if missing.is_missing() && reopens < TIER_REOPENS_MAX => {
                    reopens += 1;
                    manifest = self.reopen(&scope, &manifest, missing).await?;
                    stream = Stream::default();
                }
                Err(_) if !out.bytes.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        shared.streams.go_on(&shared.loader, &scope, &manifest, &mut stream, out.next_offset, read.bytes_max);
        shared.streams.put(read.tp, out.next_offset, stream);
        Ok(())
    }

    /// A manifest that is newer than the one that led to something missing.
    async fn reopen(
        &self,
        scope: &Scope,
        stale: &Manifest,
        missing: TierError,
    ) -> Result<Arc<Manifest>, TierError> {
        let fresh = self.shared.port.read(scope.tp).await?;
        if fresh.version == stale.version {
            return Err(missing);
        }
        self.shared.counters.reopened.add(1);
        Ok(fresh)
    }

    /// The next batches at `offset`; None when not even one stripe fits into the room that is left.
    async fn next_chunk(
        &self,
        scope: &Scope,
        manifest: &Manifest,
        stream: &mut Stream,
        offset: Offset,
        room: Room,
    ) -> Result<Option<Arc<Chunk>>, TierError> {
        let loader = &self.shared.loader;
        let place = self.place(scope, manifest, stream, offset).await?;
        let Some(group) = place.index.row_group_for_offset(offset) else {
            return Ok(Some(load::gap(&place.index, offset)));
        };
        if let Room::Within(left) = room {
            let stripes = &place.index.row_groups[group];
            let next = stripes.stripe_for_offset(offset).map(|s| stripes.stripes[s].records_bytes as usize);
            if next.is_some_and(|bytes| bytes + HEADER_BYTES > left) {
                return Ok(None);
            }
        }
        if let Some(chunk) = stream.rebuilt(place.entry.upload_id, offset, room).await {
            return Ok(Some(chunk));
        }
        let key = (place.entry.upload_id, group as u32);
        let raw = match stream.group(key).await {
            Some(raw) => raw,
            None => {
                // Who waits for memory holds none.
                stream.drop_group();
                let (raw, memory) = loader.group(scope, &place, group).await?;
                stream.hold(key, raw.clone(), memory);
                raw
            }
        };
        match loader.chunk(scope, &place, group, raw, offset, room.bytes()).await {
            Ok((chunk, fresh)) => {
                if let Some(fresh) = fresh {
                    stream.hold_instead(key, fresh);
                }
                Ok(Some(chunk))
            }
            Err(e) => {
                stream.drop_group();
                Err(e)
            }
        }
    }

    /// The object that has `offset`: the one the stream is in or has opened ahead, or by the manifest.
    async fn place(
        &self,
        scope: &Scope,
        manifest: &Manifest,
        stream: &mut Stream,
        offset: Offset,
    ) -> Result<Place, TierError> {
        let listed = inline_at(manifest, offset);
        if let Some(place) = stream.place(offset).await {
            // An inline entry is compared; a page's entry can only be gone, which the bucket then says.
            if listed.is_none_or(|entry| entry.upload_id == place.entry.upload_id) {
                return Ok(place);
            }
        }
        let place = self.shared.loader.open(scope, manifest, offset).await?;
        stream.enter(place.clone());
        Ok(place)
    }

    /// The first record at or past `log_start` with a timestamp of at least `timestamp` (Unix ms); None when
    /// the tier has none. Exact.
    pub async fn offset_for_timestamp(
        &self,
        tp: TopicPartition,
        topic: &str,
        manifest: &Manifest,
        timestamp: i64,
        deadline: Instant,
    ) -> Result<Option<Hit>, TierError> {
        let topic = Arc::new(TopicRef { name: topic.to_string(), id: tp.topic_id });
        let scope = Scope { tp, topic, deadline };
        match timeout_at(deadline, self.shared.loader.find_timestamp(&scope, manifest, timestamp)).await {
            Ok(found) => found,
            Err(_) => Err(TierError::Late),
        }
    }
}

/// How many bytes may still be added.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// The first chunk of a read: one batch even if it is larger.
    AtLeastOne(usize),
    Within(usize),
}

impl Room {
    fn bytes(self) -> usize {
        match self {
            Room::AtLeastOne(bytes) | Room::Within(bytes) => bytes,
        }
    }
}
