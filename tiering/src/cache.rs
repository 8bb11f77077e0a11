//! What was read from the bucket and may be read again: footers, row groups as fetched, their first columns
//! for lookups by time, batches as rebuilt.
//! Bounded by bytes, one load per thing at a time however many ask for it, and admission by frequency so that
//! a long replay does not push out what many readers share.
//!
//! Everything here is immutable and keyed by upload id, so nothing is ever stale. Must not fetch by itself:
//! the caller brings the load. Counters are honest: a load is not a hit, and who joined another's load is
//! counted apart.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::Offset;
use moka::future::Cache;
use uuid::Uuid;

use crate::metrics::ReadCounters;
use crate::object::ObjectIndex;

/// Batches rebuilt in one go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub start: Offset,
    pub next_offset: Offset,
    pub batches: u32,
    pub bytes: Bytes,
}

/// A row group: upload id and number.
pub type GroupKey = (Uuid, u32);

/// The caches. `bytes` in [`TierCache::new`] bounds all of them together.
///
/// Every load is followed by the cache's own housekeeping: left to itself it evicts and turns away after 64
/// loads or 0.3 s, and until then holds what was loaded beside its capacity: dozens of MiB in a replay.
#[derive(Clone, Debug)]
pub struct TierCache {
    indexes: Cache<Uuid, Arc<ObjectIndex>>,
    groups: Cache<GroupKey, Bytes>,
    /// First bytes of row groups that are not there as a whole.
    times: Cache<GroupKey, Bytes>,
    chunks: Cache<(Uuid, Offset, usize), Arc<Chunk>>,
    counters: Arc<ReadCounters>,
    capacity: u64,
}

/// Sizes at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheSnapshot {
    pub capacity_bytes: u64,
    pub group_bytes: u64,
    pub groups: u64,
    pub index_bytes: u64,
    pub indexes: u64,
    pub rebuilt_bytes: u64,
    pub rebuilt: u64,
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl TierCache {
    pub fn new(bytes: u64, counters: Arc<ReadCounters>) -> TierCache {
        let indexes = Cache::builder()
            .max_capacity(bytes / 10)
            .weigher(|_, index: &Arc<ObjectIndex>| weight(index.memory_bytes()))
            .build();
        let groups = Cache::builder()
            .max_capacity(bytes / 20 * 13)
            .weigher(|_, group: &Bytes| weight(group.len()))
            .build();
        let times =
            Cache::builder().max_capacity(bytes / 20).weigher(|_, times: &Bytes| weight(times.len())).build();
        let chunks = Cache::builder()
            .max_capacity(bytes / 10 * 2)
            .weigher(|_, chunk: &Arc<Chunk>| weight(chunk.bytes.len()))
            .build();
        TierCache { indexes, groups, times, chunks, counters, capacity: bytes }
    }

    /// An object's index; loads it once however many ask.
    pub async fn index<E>(
        &self,
        upload_id: Uuid,
        load: impl Future<Output = Result<Arc<ObjectIndex>, E>>,
    ) -> Result<Arc<ObjectIndex>, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        let mut loaded = false;
        let counted = async {
            loaded = true;
            load.await
        };
        let got = self.indexes.try_get_with(upload_id, counted).await;
        if loaded {
            self.indexes.run_pending_tasks().await;
        }
        if loaded { &self.counters.index_loads } else { &self.counters.index_hits }.add(1);
        got
    }

    /// A row group's bytes; loads them once however many ask.
    pub async fn group<E>(
        &self,
        key: GroupKey,
        load: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        if let Some(hit) = self.groups.get(&key).await {
            self.counters.group_hits.add(1);
            return Ok(hit);
        }
        let mut loaded = false;
        let counted = async {
            loaded = true;
            load.await
        };
        let got = self.groups.try_get_with(key, counted).await;
        if loaded {
            self.groups.run_pending_tasks().await;
        }
        if loaded { &self.counters.group_loads } else { &self.counters.group_joined }.add(1);
        got
    }

    /// What a lookup by time needs of a row group: all of it, if it is here, else its first bytes; loads
    /// those once however many ask.
    pub async fn times<E>(
        &self,
        key: GroupKey,
        load: impl Future<Output = Result<Bytes, E>>,
    ) -> Result<Bytes, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        if let Some(hit) = self.groups.get(&key).await {
            self.counters.group_hits.add(1);
            return Ok(hit);
        }
        self.times.try_get_with(key, load).await
    }

    /// Batches from an offset on, within a budget; rebuilds them once however many ask with the same budget.
    pub async fn chunk<E>(
        &self,
        key: (Uuid, Offset, usize),
        load: impl Future<Output = Result<Arc<Chunk>, E>>,
    ) -> Result<Arc<Chunk>, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        let mut loaded = false;
        let counted = async {
            loaded = true;
            load.await
        };
        let got = self.chunks.try_get_with(key, counted).await;
        if loaded {
            self.chunks.run_pending_tasks().await;
        }
        got
    }

    /// Drops a row group whose bytes turned out to be damaged, so that the next read fetches it again.
    pub async fn drop_group(&self, key: GroupKey) {
        self.groups.invalidate(&key).await;
        self.times.invalidate(&key).await;
    }

    pub async fn drop_index(&self, upload_id: Uuid) {
        self.indexes.invalidate(&upload_id).await;
    }

    pub fn snapshot(&self) -> CacheSnapshot {
        CacheSnapshot {
            capacity_bytes: self.capacity,
            group_bytes: self.groups.weighted_size() + self.times.weighted_size(),
            groups: self.groups.entry_count(),
            index_bytes: self.indexes.weighted_size(),
            indexes: self.indexes.entry_count(),
            rebuilt_bytes: self.chunks.weighted_size(),
            rebuilt: self.chunks.entry_count(),
        }
    }
}
