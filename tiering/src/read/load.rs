//! Fetching and rebuilding, each once however many ask, within the budgets.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use highwater_model::Offset;
use highwater_model::limits::OBJECT_FOOTER_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::{Hit, Place, ReadParts, Scope, TierError};
use crate::cache::{Chunk, GroupKey, TierCache};
use crate::core::lanes::Lane;
use crate::core::manifest::{Manifest, ObjectEntry};
use crate::core::names::Names;
use crate::lane::Store;
use crate::metrics::ReadCounters;
use crate::object::{ObjectIndex, Rebuilder, Rebuilt, TimestampHit, cover_gap};
use crate::pages::{PageScope, Pages};

/// Budgets count in this unit, so that they fit a semaphore.
pub(super) const UNIT_BYTES: usize = 1024;

/// The part of the reader that knows no streams.
pub(super) struct Loader {
    store: Store,
    names: Arc<Names>,
    pages: Pages,
    pub(super) cache: TierCache,
    counters: Arc<ReadCounters>,
    demand: Arc<Semaphore>,
    demand_units: u32,
    rebuilds: Semaphore,
    rebuilders: Mutex<Vec<Rebuilder>>,
}

/// A budget's units for so many bytes, never more than it has.
pub(super) fn units(bytes: usize, all: u32) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(all)
}

/// An empty batch that takes a consumer over an object without records.
pub(super) fn gap(index: &ObjectIndex, offset: Offset) -> Arc<Chunk> {
    let mut out = Vec::new();
    let covered = cover_gap(index, offset, &mut out);
    let Rebuilt { next_offset, batches, .. } = covered;
    Arc::new(Chunk { start: offset, next_offset, batches, bytes: out.into() })
}

impl Loader {
    pub(super) fn new(parts: ReadParts) -> Loader {
        let settings = parts.settings;
        let demand_units = units(settings.demand_bytes, Semaphore::MAX_PERMITS.min(1 << 30) as u32).max(1);
        Loader {
            store: parts.store,
            names: parts.names,
            pages: parts.pages,
            cache: TierCache::new(settings.cache_bytes, parts.counters.clone()),
            counters: parts.counters,
            demand: Arc::new(Semaphore::new(demand_units as usize)),
            demand_units,
            rebuilds: Semaphore::new(settings.rebuild_threads.max(1)),
            rebuilders: Mutex::new(Vec::new()),
        }
    }

    /// Units of the budget of reads that wait: those left, and all.
    #[cfg(test)]
    pub(super) fn demand_units(&self) -> (usize, usize) {
        (self.demand.available_permits(), self.demand_units as usize)
    }

    fn page_scope<'a>(&self, scope: &'a Scope) -> PageScope<'a> {
        let Scope { tp, topic, deadline } = scope;
        PageScope { topic, partition: tp.partition, lane: Lane::Read, deadline: *deadline }
    }

    fn key(&self, scope: &Scope, entry: &ObjectEntry) -> String {
        self.names.object(&scope.topic, scope.tp.partition, entry)
    }

    /// The object that lists `offset`, with its index.
    pub(super) async fn open(
        &self,
        scope: &Scope,
        manifest: &Manifest,
        offset: Offset,
    ) -> Result<Place, TierError> {
        let found = self.pages.entry_at(self.page_scope(scope), manifest, offset).await?;
        let Manifest { log_start, tiered_end, .. } = *manifest;
        let entry = found.ok_or(TierError::OutOfRange { offset, log_start, tiered_end })?;
        let index = self.index(scope, &entry).await?;
        Ok(Place { entry, index })
    }

    /// One GET: the manifest says how long the footer is.
    async fn index(&self, scope: &Scope, entry: &ObjectEntry) -> Result<Arc<ObjectIndex>, TierError> {
        let began = AtomicBool::new(false);
        let load = || async {
            began.store(true, Relaxed);
            let key = self.key(scope, entry);
            let what = |what: String| TierError::Damaged { key: key.clone(), offset: entry.start, what };
            let footer = u64::from(entry.footer_bytes);
            if footer > entry.bytes || footer > OBJECT_FOOTER_BYTES_MAX as u64 {
                return Err(what(format!("a footer of {footer} bytes")));
            }
            let range = entry.bytes - footer..entry.bytes;
            let tail = self.store.get_range(Lane::Read, &key, range, scope.deadline).await?;
            let index = ObjectIndex::parse(&tail, entry.bytes).map_err(|e| {
                self.counters.corrupt.add(1);
                what(e.to_string())
            })?;
            let identity = &index.identity;
            let same = identity.upload_id == entry.upload_id
                && (identity.start, identity.end) == (entry.start, entry.end)
                && identity.topic_id == scope.tp.topic_id
                && identity.partition == scope.tp.partition;
            if same { Ok(Arc::new(index)) } else { Err(what("another object's footer".to_string())) }
        };
        patient(&began, scope.deadline, || self.cache.index(entry.upload_id, load())).await
    }

    /// A row group's bytes for a read that waits for them, with their memory: the read keeps it as long as it
    /// keeps them, and holds none when it calls. Bytes that the cache has or another read loads have theirs.
    pub(super) async fn group(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), TierError> {
        let (began, memory) = (AtomicBool::new(false), Mutex::new(None));
        let load = || async {
            began.store(true, Relaxed);
            let length = place.index.row_groups[group].length as usize;
            let taken = self.demand.clone().acquire_many_owned(units(length, self.demand_units));
            let taken = timeout_at(scope.deadline, taken).await.map_err(|_| TierError::Late)?;
            let bytes = self.fetch(scope, place, group, length as u64).await?;
            *memory.lock().expect("no panic while it is locked") = Some(taken.expect("never closed"));
            Ok(bytes)
        };
        let bytes = patient(&began, scope.deadline, || self.cache.group(group_key(place, group), load()));
        let bytes = bytes.await?;
        Ok((bytes, memory.into_inner().expect("no panic while it was locked")))
    }

    /// The same for one who has the memory for it.
    async fn group_paid(&self, scope: &Scope, place: &Place, group: usize) -> Result<Bytes, TierError> {
        let began = AtomicBool::new(false);
        let load = || async {
            began.store(true, Relaxed);
            self.fetch(scope, place, group, place.index.row_groups[group].length).await
        };
        patient(&began, scope.deadline, || self.cache.group(group_key(place, group), load())).await
    }

    /// What a lookup by time needs of a row group, most often a small part of it.
    async fn times(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), TierError> {
        let info = &place.index.row_groups[group];
        let bytes = info.lookup_bytes();
        if bytes == info.length {
            return self.group(scope, place, group).await;
        }
        let began = AtomicBool::new(false);
        let load = || async {
            began.store(true, Relaxed);
            let units = units(bytes as usize, self.demand_units);
            let _memory = permit(&self.demand, units, scope.deadline).await?;
            self.fetch(scope, place, group, bytes).await
        };
        let times = patient(&began, scope.deadline, || self.cache.times(group_key(place, group), load()));
        Ok((times.await?, None))
    }

    /// As [`Loader::group`] for a reader that is not there yet; the caller has the memory for it.
    pub(super) async fn group_ahead(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
    ) -> Result<Bytes, TierError> {
        self.counters.prefetched.add(1);
        self.group_paid(scope, place, group).await
    }

    /// The first `bytes` of a row group.
    async fn fetch(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
        bytes: u64,
    ) -> Result<Bytes, TierError> {
        let position = place.index.row_groups[group].position;
        let range = position..position + bytes;
        let key = self.key(scope, &place.entry);
        Ok(self.store.get_range(Lane::Read, &key, range, scope.deadline).await?)
    }

    /// Batches from `offset` on out of `raw`. Damaged bytes are fetched anew once, for the cache and for the
    /// caller, who gets them beside the batches.
    pub(super) async fn chunk(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
        raw: Bytes,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<(Arc<Chunk>, Option<Bytes>), TierError> {
        let (began, fresh) = (AtomicBool::new(false), OnceLock::new());
        let load = || async {
            began.store(true, Relaxed);
            let first = self.rebuild(scope, place, group, raw.clone(), offset, bytes_max).await;
            let Err(TierError::Damaged { what, .. }) = first else { return first };
            self.counters.corrupt.add(1);
            tracing::warn!(
                key = self.key(scope, &place.entry),
                offset,
                what,
                "damaged bytes are fetched again"
            );
            self.cache.drop_group(group_key(place, group)).await;
            let raw = self.group_paid(scope, place, group).await?;
            let again = self.rebuild(scope, place, group, raw.clone(), offset, bytes_max).await;
            match &again {
                Ok(_) => drop(fresh.set(raw)),
                Err(_) => self.cache.drop_group(group_key(place, group)).await,
            }
            again
        };
        let key = (place.entry.upload_id, offset, bytes_max);
        let chunk = patient(&began, scope.deadline, || self.cache.chunk(key, load())).await?;
        Ok((chunk, fresh.into_inner()))
    }

    async fn rebuild(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
        raw: Bytes,
        offset: Offset,
        bytes_max: usize,
    ) -> Result<Arc<Chunk>, TierError> {
        let index = place.index.clone();
        let rebuilt = self.with_rebuilder(scope.deadline, move |rebuilder| {
            let begun = std::time::Instant::now();
            let mut out = Vec::new();
            let rebuilt = rebuilder.rebuild(&index, group, &raw, offset, bytes_max, &mut out)?;
            let (next_offset, batches) = (rebuilt.next_offset, rebuilt.batches);
            let chunk = Chunk { start: offset, next_offset, batches, bytes: out.into() };
            Ok((chunk, begun.elapsed()))
        });
        let (chunk, took) = rebuilt.await?.map_err(|e: crate::object::ObjectError| TierError::Damaged {
            key: self.key(scope, &place.entry),
            offset,
            what: e.to_string(),
        })?;
        self.counters.stripes_rebuilt.add(u64::from(chunk.batches));
        self.counters.rebuilt_bytes.add(chunk.bytes.len() as u64);
        self.counters.rebuild_us.add(took.as_micros() as u64);
        Ok(Arc::new(chunk))
    }

    /// Runs on a thread for computing, with one of a few rebuilders that keep their buffers.
    async fn with_rebuilder<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&mut Rebuilder) -> T + Send + 'static,
    ) -> Result<T, TierError> {
        let _turn = permit(&self.rebuilds, 1, deadline).await?;
        let kept = self.rebuilders.lock().expect("no panic while the list is locked").pop();
        let mut rebuilder = kept.unwrap_or_default();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut rebuilder);
            (done, rebuilder)
        });
        // A panic of the rebuild is passed on to the task that asked for it; its buffers are gone with it.
        let (done, rebuilder) = match done.await {
            Ok(done) => done,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => return Err(TierError::Late),
        };
        self.rebuilders.lock().expect("no panic while the list is locked").push(rebuilder);
        Ok(done)
    }

    pub(super) async fn find_timestamp(
        &self,
        scope: &Scope,
        manifest: &Manifest,
        timestamp: i64,
    ) -> Result<Option<Hit>, TierError> {
        let mut from = manifest.log_start;
        loop {
            let pages = self.page_scope(scope);
            let Some(entry) = self.pages.entry_by_time(pages, manifest, from, timestamp).await? else {
                return Ok(None);
            };
            let place = Place { index: self.index(scope, &entry).await?, entry };
            for group in 0..place.index.row_groups.len() {
                let info = &place.index.row_groups[group];
                if info.end_offset <= from || info.max_timestamp < timestamp {
                    continue;
                }
                if let Some(hit) = self.find_in_group(scope, &place, group, timestamp, from).await? {
                    let leader_epoch = place.index.epoch_at(hit.offset);
                    return Ok(Some(Hit { offset: hit.offset, timestamp: hit.timestamp, leader_epoch }));
                }
            }
            // An object whose only such records lie below log_start.
            from = from.max(place.entry.end);
        }
    }

    /// The first record of a row group that is late enough. Damaged bytes are fetched anew once.
    async fn find_in_group(
        &self,
        scope: &Scope,
        place: &Place,
        group: usize,
        timestamp: i64,
        from: Offset,
    ) -> Result<Option<TimestampHit>, TierError> {
        let mut is_first = true;
        loop {
            let (raw, _memory) = self.times(scope, place, group).await?;
            let index = place.index.clone();
            let found = self
                .with_rebuilder(scope.deadline, move |rebuilder| {
                    rebuilder.find_timestamp(&index, group, &raw, timestamp, from)
                })
                .await?;
            let error = match found {
                Ok(hit) => return Ok(hit),
                Err(error) => error,
            };
            self.counters.corrupt.add(1);
            self.cache.drop_group(group_key(place, group)).await;
            if !std::mem::take(&mut is_first) {
                let key = self.key(scope, &place.entry);
                return Err(TierError::Damaged { key, offset: from, what: error.to_string() });
            }
        }
    }
}

/// Waits for a load that many may share. Who has only joined one that ended at its first caller's deadline,
/// and has time left, calls once more; `began` tells whether the load was the caller's own.
async fn patient<T, F>(began: &AtomicBool, deadline: Instant, call: impl Fn() -> F) -> Result<T, TierError>
where
    F: Future<Output = Result<T, Arc<TierError>>>,
{
    let got = match call().await {
        Err(e) if *e == TierError::Late && !began.load(Relaxed) && Instant::now() < deadline => call().await,
        got => got,
    };
    got.map_err(|e| (*e).clone())
}

pub(super) fn group_key(place: &Place, group: usize) -> GroupKey {
    (place.entry.upload_id, group as u32)
}

async fn permit(budget: &Semaphore, units: u32, deadline: Instant) -> Result<SemaphorePermit<'_>, TierError> {
    let taken = timeout_at(deadline, budget.acquire_many(units)).await.map_err(|_| TierError::Late)?;
    Ok(taken.expect("never closed"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::lane::deadline_in;

    /// A load whose first caller has little time; one that joined it has more.
    #[tokio::test]
    async fn who_joined_a_load_that_ran_out_of_time_calls_once_more() {
        let cache = TierCache::new(1 << 20, Arc::default());
        let key = (Uuid::from_u128(1), 0);
        let read = |deadline: Instant, ends: Result<Bytes, TierError>| {
            let cache = cache.clone();
            async move {
                let began = AtomicBool::new(false);
                let load = || async {
                    began.store(true, Relaxed);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    ends.clone()
                };
                patient(&began, deadline, || cache.group(key, load())).await
            }
        };
        let here = Bytes::from_static(b"here");
        let hasty = read(deadline_in(30), Err(TierError::Late));
        let patient = read(deadline_in(5_000), Ok(here.clone()));
        let third = read(deadline_in(10), Ok(here.clone()));
        let got = tokio::join!(hasty, patient, third);
        assert_eq!(got, (Err(TierError::Late), Ok(here), Err(TierError::Late)));
    }
}
