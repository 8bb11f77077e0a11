//! One sealed segment's way into the tier.
//!
//! ```text
//! read the manifest (linearizable) -> seal (own thread) -> put (unique key) -> verify -> propose publish ->
//! listed
//!                                        crash: nothing     crash: an orphan              crash: listed or
//!                                        an orphan
//! ```
//! - The generation (leader epoch) is captured once and stands in the key, in the footer and in the edit.
//! - An unknown outcome is settled by reading the manifest back: listed, or refused for good because the
//!   version that the proposal named has passed. Only then is an object known to be an orphan, and deleted.
//! - A segment that holds far more than its own length, compressed as it is, becomes several objects, listed
//!   one by one; each begins where the manifest ends by then.
//! - Nothing is locked meanwhile. Two offloads of one partition at a time are wasteful, not wrong: the second
//!   publish is refused. Local data may go once `offload` returns (publish before evict).
//! - What leaks: an object whose writer died between put and publish, or whose outcome stayed unknown; the
//!   sweep of a later release finds it by listing.
//!
//! Must not: evict, retry for ever (the caller does, with pauses), or list. Invariants: 6, 8, 10, 12, 19.

mod publish;
mod retain;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use highwater_log::{EpochStart, crash_point};
use highwater_model::limits::{
    OBJECT_RAW_BYTES_MAX, OFFLOAD_STEP_MS_MAX, OFFLOAD_UPLOAD_MS_MAX, STORE_BYTES_PER_S_MIN,
};
use highwater_model::topic_config::{self, TopicConfig};
use highwater_model::{Expiry, LeaderEpoch, Offset, TopicPartition};
use uuid::Uuid;

use crate::core::lanes::Lane;
use crate::core::manifest::{Manifest, Node, ObjectEntry, PageRef, Refusal};
use crate::core::names::{Names, TopicRef};
use crate::lane::{Store, StoreError, deadline_in};
use crate::metrics::OffloadCounters;
use crate::mirror::Mirror;
use crate::object::{
    AbortedRange, Compression, ObjectIdentity, SealError, SealInput, SealedObject, ValueFormat,
};
use crate::pages::{PageError, PageScope, Pages};
use crate::port::{ManifestPort, ProposeError, ReadError};
use crate::worker::SealThreads;

/// A sealed segment that is to be offloaded.
#[derive(Clone, Debug)]
pub struct SegmentToOffload {
    pub tp: TopicPartition,
    pub topic: Arc<str>,
    /// First offset of the segment.
    pub start: Offset,
    /// Where to stop: the segment's end, or the last stable offset when that is less.
    pub end: Offset,
    /// The leader epoch under which the caller leads; the generation of everything written.
    pub leader_epoch: LeaderEpoch,
    pub epochs: Vec<EpochStart>,
    pub producer_snapshot: Vec<u8>,
    /// The segment's batches; the first may start below the tiered end.
    pub segment: Bytes,
    pub config: Arc<TopicConfig>,
    /// Transactions aborted within the segment.
    pub aborted: Vec<AbortedRange>,
    /// What has expired by this is left out too.
    pub expiry: Option<Expiry>,
}

/// Why a segment is not in the tier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The segment's bytes have rotted: sealing of this partition must stop, with an alarm that names the
    /// place.
    #[error("{0}")]
    Damaged(String),
    /// Someone else writes this manifest, or has moved it on. Look again.
    #[error("stale: {0}")]
    Stale(Refusal),
    /// The manifest ends below the segment: what lies between is in neither.
    #[error("gap: the tier ends at {tiered_end}, the segment starts at {start}")]
    Gap { tiered_end: Offset, start: Offset },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("control plane: {0}")]
    Manifest(#[from] ReadError),
    #[error("the manifest refused it: {0}")]
    Refused(Refusal),
    #[error("control plane: {0}")]
    NotProposed(String),
    /// It may be listed or not; the object stays. The next offload reads the manifest first.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    #[error("{0}")]
    Internal(String),
}

/// What an offloader writes with.
pub struct OffloadParts {
    pub store: Store,
    pub names: Arc<Names>,
    pub port: Arc<dyn ManifestPort>,
    pub pages: Pages,
    pub mirror: Arc<Mirror>,
    pub counters: Arc<OffloadCounters>,
    /// Segments sealed at a time.
    pub seal_threads: usize,
}

/// Puts segments into the tier, and keeps their manifests in shape. Cloning shares everything.
#[derive(Clone)]
pub struct Offloader {
    shared: Arc<Shared>,
}

struct Shared {
    parts: OffloadParts,
    threads: SealThreads,
    raw_bytes_max: u64,
}

impl Offloader {
    /// # Errors
    /// When the system gives no threads.
    pub fn new(parts: OffloadParts) -> std::io::Result<Offloader> {
        Offloader::with_object_limit(parts, OBJECT_RAW_BYTES_MAX)
    }

    /// With another limit of an object's uncompressed bytes than `OBJECT_RAW_BYTES_MAX`.
    fn with_object_limit(parts: OffloadParts, raw_bytes_max: u64) -> std::io::Result<Offloader> {
        let threads = SealThreads::start(parts.seal_threads, parts.counters.clone())?;
        Ok(Offloader { shared: Arc::new(Shared { parts, threads, raw_bytes_max }) })
    }

    pub fn counters(&self) -> &OffloadCounters {
        &self.shared.parts.counters
    }

    /// Whether sealing takes its share of the cores, or makes way for everything else.
    pub fn hurry(&self, hurry: bool) {
        self.shared.threads.hurry(hurry);
    }

    fn parts(&self) -> &OffloadParts {
        &self.shared.parts
    }

    fn scope<'a>(&self, topic: &'a TopicRef, tp: TopicPartition, lane: Lane) -> PageScope<'a> {
        PageScope { topic, partition: tp.partition, lane, deadline: deadline_in(OFFLOAD_STEP_MS_MAX) }
    }

    /// Offloads one segment; when it returns, the committed manifest lists everything up to `end`.
    ///
    /// # Errors
    /// See [`OffloadError`]; after any of them the segment is to be kept and offered again.
    pub async fn offload(&self, segment: SegmentToOffload) -> Result<Arc<Manifest>, OffloadError> {
        let done = self.try_offload(segment).await;
        if done.is_err() {
            self.counters().failed.add(1);
        }
        done
    }

    /// One object after another: what a segment holds once it is decompressed may be more than one may have.
    async fn try_offload(&self, segment: SegmentToOffload) -> Result<Arc<Manifest>, OffloadError> {
        let mut tiered_end = segment.start;
        loop {
            let manifest = self.offload_object(segment.clone()).await?;
            if manifest.tiered_end >= segment.end {
                return Ok(manifest);
            }
            assert!(manifest.tiered_end > tiered_end, "every object moves the tiered end");
            tiered_end = manifest.tiered_end;
        }
    }

    /// Seals and lists one object with what of the segment is not in the tier, as much as fits.
    async fn offload_object(&self, segment: SegmentToOffload) -> Result<Arc<Manifest>, OffloadError> {
        let (tp, leader_epoch) = (segment.tp, segment.leader_epoch);
        let topic = TopicRef { name: segment.topic.to_string(), id: tp.topic_id };
        let manifest = self.parts().port.read(tp).await?;
        if manifest.generation > leader_epoch {
            let current = manifest.generation;
            return Err(OffloadError::Stale(Refusal::StaleEpoch { given: leader_epoch, current }));
        }
        if manifest.tiered_end >= segment.end {
            return Ok(manifest);
        }
        if manifest.tiered_end < segment.start {
            return Err(OffloadError::Gap { tiered_end: manifest.tiered_end, start: segment.start });
        }
        let manifest = self.spill(&topic, tp, leader_epoch, manifest).await?;
        let (segment_end, segment_bytes) = (segment.end, segment.segment.len() as u64);
        let epochs_of_segment = segment.epochs.clone();
        let sealed = self.seal(&topic, &manifest, segment).await?;
        let entry = entry_of(&sealed, leader_epoch)?;
        assert!(entry.start == manifest.tiered_end && entry.start < entry.end && entry.end <= segment_end);
        let epochs = epochs_within(&epochs_of_segment, entry.start, entry.end);
        crash_point("before-upload");
        let begun = Instant::now();
        self.upload(&topic, tp, &entry, &sealed).await?;
        self.counters().upload_us.add(begun.elapsed().as_micros() as u64);
        crash_point("after-upload");
        crash_point("before-publish");
        let published = self.publish(&topic, tp, leader_epoch, &entry, epochs, manifest).await?;
        crash_point("after-publish");
        let counters = self.counters();
        counters.published.add(1);
        counters.segment_bytes.add(if entry.end == segment_end { segment_bytes } else { 0 });
        counters.object_bytes.add(entry.bytes);
        let published = self.spill_quietly(&topic, tp, leader_epoch, published).await;
        self.parts().mirror.note(tp, &topic, &published);
        Ok(published)
    }

    async fn seal(
        &self,
        topic: &TopicRef,
        manifest: &Manifest,
        segment: SegmentToOffload,
    ) -> Result<SealedObject, OffloadError> {
        let identity = ObjectIdentity {
            cluster_id: self.parts().names.cluster().to_string(),
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition: segment.tp.partition,
            start: manifest.tiered_end,
            end: segment.end,
            leader_epoch: segment.leader_epoch,
            upload_id: Uuid::new_v4(),
        };
        let input = SealInput {
            identity,
            epochs: segment.epochs,
            producer_snapshot: segment.producer_snapshot,
            segment: segment.segment,
            value_format: value_format(&segment.config),
            compression: compression(&segment.config),
            compacted: segment.config.cleanup_policy.compact,
            aborted: segment.aborted,
            expiry: segment.expiry,
            gaps_allowed: false,
            raw_bytes_max: self.shared.raw_bytes_max,
        };
        let begun = Instant::now();
        let sealed = self.shared.threads.seal(input).await;
        self.counters().seal_us.add(begun.elapsed().as_micros() as u64);
        match sealed {
            None => Err(OffloadError::Internal("sealing panicked".to_string())),
            Some(Ok(sealed)) => Ok(sealed),
            Some(Err(rotten @ SealError::Rotten { .. })) => Err(OffloadError::Damaged(rotten.to_string())),
            Some(Err(other)) => Err(OffloadError::Internal(other.to_string())),
        }
    }

    /// Puts the object and looks at what arrived. On a thread of its own: the client hashes the body while it
    /// signs it, and a runtime thread that serves produce requests must not wait for that.
    async fn upload(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        entry: &ObjectEntry,
        sealed: &SealedObject,
    ) -> Result<(), OffloadError> {
        let key = self.parts().names.object(topic, tp.partition, entry);
        let (store, parts, put_key) = (self.parts().store.clone(), sealed.parts.clone(), key.clone());
        let transfer_ms = entry.bytes.saturating_mul(1_000) / STORE_BYTES_PER_S_MIN;
        let deadline = deadline_in(OFFLOAD_UPLOAD_MS_MAX + transfer_ms);
        let runtime = tokio::runtime::Handle::current();
        let put = tokio::task::spawn_blocking(move || {
            runtime.block_on(async { store.put_new(Lane::Upload, &put_key, &parts, deadline).await })
        });
        put.await.map_err(|e| OffloadError::Internal(format!("upload: {e}")))??;
        let stored = self.parts().store.head(Lane::Upload, &key, deadline_in(OFFLOAD_STEP_MS_MAX)).await?;
        if stored != entry.bytes {
            return Err(OffloadError::Internal(format!("{key}: {stored} bytes arrived of {}", entry.bytes)));
        }
        Ok(())
    }

    /// The nodes of a page that are still listed.
    pub async fn read_page(
        &self,
        tp: TopicPartition,
        topic: &str,
        page: &PageRef,
    ) -> Result<Vec<Node>, OffloadError> {
        let topic = TopicRef { name: topic.to_string(), id: tp.topic_id };
        Ok(self.parts().pages.live_nodes(self.scope(&topic, tp, Lane::Housekeeping), page).await?)
    }
}

impl From<ProposeError> for OffloadError {
    fn from(error: ProposeError) -> OffloadError {
        match error {
            ProposeError::Refused(
                stale @ (Refusal::StaleEpoch { .. } | Refusal::StaleVersion { .. } | Refusal::Overlap { .. }),
            ) => OffloadError::Stale(stale),
            ProposeError::Refused(refusal) => OffloadError::Refused(refusal),
            ProposeError::Failed(why) => OffloadError::NotProposed(why),
            ProposeError::Unknown(why) => OffloadError::Unknown(why),
        }
    }
}

/// The part of an epoch table that a range of offsets needs: the epoch in force at `start`, and those that
/// begin before `end`.
fn epochs_within(epochs: &[EpochStart], start: Offset, end: Offset) -> Vec<EpochStart> {
    let first = epochs.partition_point(|e| e.start_offset <= start).saturating_sub(1);
    epochs[first.min(epochs.len())..].iter().take_while(|e| e.start_offset < end).copied().collect()
}

fn entry_of(sealed: &SealedObject, epoch: LeaderEpoch) -> Result<ObjectEntry, OffloadError> {
    let summary = &sealed.summary;
    let footer_bytes = footer_bytes(&sealed.parts)
        .ok_or_else(|| OffloadError::Internal("the sealed object has no footer".to_string()))?;
    Ok(ObjectEntry {
        start: summary.start,
        end: summary.end,
        epoch,
        upload_id: sealed.index.identity.upload_id,
        bytes: summary.object_bytes,
        footer_bytes,
        raw_bytes: summary.raw_bytes,
        records: summary.records,
        min_timestamp: summary.min_timestamp,
        max_timestamp: summary.max_timestamp,
        crc32c: summary.crc32c,
    })
}

/// Length of a Parquet file's footer with its end (length and magic), read from the file's last eight bytes.
fn footer_bytes(parts: &[Bytes]) -> Option<u32> {
    const END_BYTES: usize = 8;
    let mut end = [0u8; END_BYTES];
    let tail = parts.iter().rev().flat_map(|part| part.iter().rev());
    let mut filled = 0;
    for (to, from) in end.iter_mut().rev().zip(tail) {
        *to = *from;
        filled += 1;
    }
    let length = u32::from_le_bytes(end[..4].try_into().expect("four bytes"));
    if filled == END_BYTES { length.checked_add(END_BYTES as u32) } else { None }
}

fn value_format(config: &TopicConfig) -> ValueFormat {
    match config.value_format {
        topic_config::ValueFormat::Bytes => ValueFormat::Bytes,
        topic_config::ValueFormat::Utf8 => ValueFormat::Utf8,
        topic_config::ValueFormat::Json => ValueFormat::Json,
    }
}

fn compression(config: &TopicConfig) -> Compression {
    match config.parquet_compression {
        topic_config::ParquetCompression::Zstd => Compression::Zstd,
        topic_config::ParquetCompression::Lz4 => Compression::Lz4,
        topic_config::ParquetCompression::None => Compression::None,
    }
}

#[cfg(test)]
mod tests;
