//! Readers that go on where they stopped, and what is made ready for them.
//!
//! A stream is known by partition and next offset: Kafka consumers say no more. It holds the row group it is
//! in, those fetched ahead, the next object opened ahead, and the next batches rebuilt ahead, all bounded:
//! everything that a parked stream holds has memory from one budget that is only tried, never waited for, and
//! is given back when it is used or the reader has been silent for a while. What is ahead takes half of it at
//! most: a row group is read in many small reads, and a stream that cannot hold it between them fetches all
//! of it for each. A stream that gets none holds nothing and relies on the cache, through which two readers
//! at one offset share as well.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use highwater_model::limits::{
    TIER_AHEAD_GROUPS_MAX, TIER_AHEAD_REBUILT_BYTES_MAX, TIER_READ_MS_MAX, TIER_STREAM_IDLE_MS,
    TIER_STREAMS_MAX,
};
use highwater_model::{Offset, TopicPartition};
use highwater_wire::HEADER_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::load::{Loader, group_key, units};
use super::{Place, Room, Scope};
use crate::cache::{Chunk, GroupKey};
use crate::core::manifest::Manifest;
use crate::lane::deadline_in;

type Coming<T> = Shared<BoxFuture<'static, Option<T>>>;

/// A part of the budget; shared by a stream and by the work that goes on for it, as either may outlive the
/// other.
type Memory = Arc<Part>;

struct Part {
    _whole: OwnedSemaphorePermit,
    /// Its part of what may be ahead of readers, until the reader is there.
    ahead: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Part {
    fn reader_is_there(&self) {
        drop(self.ahead.lock().expect("no panic while a part is locked").take());
    }
}

struct AheadGroup {
    key: GroupKey,
    bytes: Coming<Bytes>,
    memory: Memory,
}

struct AheadObject {
    start: Offset,
    opened: Coming<(Place, Option<Bytes>)>,
    memory: Memory,
}

struct AheadChunk {
    upload_id: Uuid,
    offset: Offset,
    chunk: Coming<Arc<Chunk>>,
    _memory: Memory,
}

/// The row group that the reader is in.
struct Held {
    key: GroupKey,
    bytes: Bytes,
    /// None during the read that waited for it; a parked stream has it or gives up the bytes.
    memory: Option<Memory>,
    /// What that read has of the budget of those who wait.
    waited: Option<OwnedSemaphorePermit>,
}

/// One reader, as far as it is known.
#[derive(Default)]
pub(super) struct Stream {
    /// Reads in a row.
    run: u32,
    place: Option<Place>,
    current: Option<Held>,
    groups: VecDeque<AheadGroup>,
    object: Option<AheadObject>,
    chunk: Option<AheadChunk>,
}

impl Stream {
    /// The object at `offset`, when the stream is in it or has opened it ahead.
    pub(super) async fn place(&mut self, offset: Offset) -> Option<Place> {
        let within = |p: &Place| p.entry.start <= offset && offset < p.entry.end;
        if let Some(place) = self.place.as_ref().filter(|p| within(p)) {
            return Some(place.clone());
        }
        let ahead = self.object.take_if(|o| o.start == offset)?;
        let (place, first) = ahead.opened.clone().await.filter(|(p, _)| within(p))?;
        self.enter(place.clone());
        if let Some(bytes) = first {
            let key = (place.entry.upload_id, 0);
            ahead.memory.reader_is_there();
            self.current = Some(Held { key, bytes, memory: Some(ahead.memory), waited: None });
        }
        Some(place)
    }

    /// The reader is in another object now.
    pub(super) fn enter(&mut self, place: Place) {
        self.groups.retain(|g| g.key.0 == place.entry.upload_id);
        self.place = Some(place);
    }

    /// The bytes of a row group that the stream holds or that are on their way for it.
    pub(super) async fn group(&mut self, key: GroupKey) -> Option<Bytes> {
        if let Some(held) = self.current.as_ref().filter(|held| held.key == key) {
            return Some(held.bytes.clone());
        }
        let at = self.groups.iter().position(|g| g.key == key)?;
        self.groups.drain(..at);
        let ahead = self.groups.pop_front()?;
        let bytes = ahead.bytes.await?;
        ahead.memory.reader_is_there();
        self.current = Some(Held { key, bytes: bytes.clone(), memory: Some(ahead.memory), waited: None });
        Some(bytes)
    }

    /// The reader is in a row group that it has waited for.
    pub(super) fn hold(&mut self, key: GroupKey, bytes: Bytes, waited: Option<OwnedSemaphorePermit>) {
        self.current = Some(Held { key, bytes, memory: None, waited });
    }

    /// The row group that the reader is in was fetched again.
    pub(super) fn hold_instead(&mut self, key: GroupKey, fresh: Bytes) {
        if let Some(held) = self.current.as_mut().filter(|held| held.key == key) {
            held.bytes = fresh;
        }
    }

    /// The reader has left its row group, or the bytes turned out to be damaged.
    pub(super) fn drop_group(&mut self) {
        self.current = None;
    }

    /// Drops what is furthest ahead; false when there is nothing.
    fn give_up_ahead(&mut self) -> bool {
        self.object.take().is_some() || self.groups.pop_back().is_some() || self.chunk.take().is_some()
    }

    /// Batches that were rebuilt ahead from this offset on, if they fit.
    pub(super) async fn rebuilt(
        &mut self,
        upload_id: Uuid,
        offset: Offset,
        room: Room,
    ) -> Option<Arc<Chunk>> {
        let ahead = self.chunk.take()?;
        if ahead.upload_id != upload_id || ahead.offset != offset {
            return None;
        }
        ahead.chunk.await.filter(|chunk| match room {
            Room::AtLeastOne(bytes) => chunk.batches <= 1 || chunk.bytes.len() <= bytes,
            Room::Within(bytes) => chunk.bytes.len() <= bytes,
        })
    }
}

struct Parked {
    stream: Stream,
    since: Instant,
}

/// All streams that wait for their reader's next read.
pub(super) struct Streams {
    parked: Arc<Mutex<BTreeMap<(TopicPartition, Offset), Parked>>>,
    whole: Arc<Semaphore>,
    whole_units: u32,
    /// Half of the whole, for what is ahead of readers.
    ahead: Arc<Semaphore>,
    ahead_units: u32,
    /// Whether a task will look for silent readers.
    watched: Arc<AtomicBool>,
}

type Map = BTreeMap<(TopicPartition, Offset), Parked>;

fn lock(parked: &Mutex<Map>) -> MutexGuard<'_, Map> {
    parked.lock().expect("no panic while streams are locked")
}

/// Drops streams silent since before `idle` ago.
fn drop_silent(parked: &Mutex<Map>, idle: Duration) -> usize {
    let now = Instant::now();
    let mut parked = lock(parked);
    parked.retain(|_, p| now.duration_since(p.since) < idle);
    parked.len()
}

impl Streams {
    pub(super) fn new(bytes: usize) -> Streams {
        let whole_units = units(bytes, 1 << 30);
        let ahead_units = whole_units / 2;
        Streams {
            parked: Arc::default(),
            whole: Arc::new(Semaphore::new(whole_units as usize)),
            whole_units,
            ahead: Arc::new(Semaphore::new(ahead_units as usize)),
            ahead_units,
            watched: Arc::default(),
        }
    }

    /// The stream that stopped here, or a new one.
    pub(super) fn take(&self, tp: TopicPartition, offset: Offset) -> Stream {
        lock(&self.parked).remove(&(tp, offset)).map_or_else(Stream::default, |p| p.stream)
    }

    pub(super) fn put(&self, tp: TopicPartition, offset: Offset, stream: Stream) {
        let mut parked = lock(&self.parked);
        if parked.len() >= TIER_STREAMS_MAX {
            let oldest = parked.iter().min_by_key(|(_, p)| p.since).map(|(key, _)| *key);
            oldest.and_then(|key| parked.remove(&key));
        }
        parked.insert((tp, offset), Parked { stream, since: Instant::now() });
        drop(parked);
        if !self.watched.swap(true, AcqRel) {
            let (parked, watched) = (self.parked.clone(), self.watched.clone());
            tokio::spawn(async move {
                let idle = Duration::from_millis(TIER_STREAM_IDLE_MS);
                loop {
                    tokio::time::sleep(idle).await;
                    if drop_silent(&parked, idle) == 0 {
                        watched.store(false, Release);
                        return;
                    }
                }
            });
        }
    }

    /// What `take` gives, now or after readers that have been silent gave theirs back.
    fn memory(&self, take: impl Fn() -> Option<Memory>) -> Option<Memory> {
        take().or_else(|| {
            drop_silent(&self.parked, Duration::from_millis(TIER_STREAM_IDLE_MS / 5));
            take()
        })
    }

    /// Memory for what a reader is in.
    fn memory_here(&self, bytes: usize) -> Option<Memory> {
        if self.whole_units == 0 {
            return None;
        }
        let whole = self.whole.clone().try_acquire_many_owned(units(bytes, self.whole_units)).ok()?;
        Some(Arc::new(Part { _whole: whole, ahead: Mutex::default() }))
    }

    /// Memory for something ahead of a reader.
    fn memory_ahead(&self, bytes: usize) -> Option<Memory> {
        if self.ahead_units == 0 {
            return None;
        }
        let ahead = self.ahead.clone().try_acquire_many_owned(units(bytes, self.ahead_units)).ok()?;
        let whole = self.whole.clone().try_acquire_many_owned(units(bytes, self.whole_units)).ok()?;
        Some(Arc::new(Part { _whole: whole, ahead: Mutex::new(Some(ahead)) }))
    }

    /// Finds memory for the row group that the reader is in, also by giving up what is ahead of it, or gives
    /// it up. A reader that is not known to go on takes it from nobody.
    fn keep(&self, stream: &mut Stream) {
        let Some(held) = stream.current.as_ref().filter(|held| held.memory.is_none()) else { return };
        let bytes = held.bytes.len();
        let mut memory = match stream.run > 1 {
            true => self.memory(|| self.memory_here(bytes)),
            false => self.memory_here(bytes),
        };
        while memory.is_none() && stream.give_up_ahead() {
            memory = self.memory_here(bytes);
        }
        stream.current = stream.current.take().filter(|_| memory.is_some());
        if let Some(held) = &mut stream.current {
            (held.memory, held.waited) = (memory, None);
        }
    }

    /// Starts what the reader will want after `next`, the more of it the longer it has been reading on.
    pub(super) fn go_on(
        &self,
        loader: &Arc<Loader>,
        scope: &Scope,
        manifest: &Arc<Manifest>,
        stream: &mut Stream,
        next: Offset,
        bytes_max: usize,
    ) {
        stream.run = stream.run.saturating_add(1);
        self.keep(stream);
        let Some(place) = stream.place.clone() else { return };
        // A single read is most often a lookup; only what follows it is a replay.
        if stream.run < 2 {
            return;
        }
        let scope = Scope { deadline: deadline_in(TIER_READ_MS_MAX), ..scope.clone() };
        let depth = match stream.run {
            0..=3 => 1,
            4..=15 => 2,
            _ => TIER_AHEAD_GROUPS_MAX,
        };
        if next >= place.entry.end {
            self.open_ahead(loader, &scope, manifest, stream, &place);
            return;
        }
        let Some(group) = place.index.row_group_for_offset(next) else { return };
        let groups = place.index.row_groups.len();
        for ahead in group..groups.min(group + 1 + depth) {
            self.fetch_ahead(loader, &scope, stream, &place, ahead);
        }
        if group + depth >= groups {
            self.open_ahead(loader, &scope, manifest, stream, &place);
        }
        let bytes_max = bytes_max.min(TIER_AHEAD_REBUILT_BYTES_MAX);
        self.rebuild_ahead(loader, &scope, stream, &place, group, next, bytes_max);
    }

    fn fetch_ahead(
        &self,
        loader: &Arc<Loader>,
        scope: &Scope,
        stream: &mut Stream,
        place: &Place,
        group: usize,
    ) {
        let key = group_key(place, group);
        let held = stream.current.as_ref().is_some_and(|held| held.key == key);
        if held || stream.groups.iter().any(|g| g.key == key) {
            return;
        }
        let length = place.index.row_groups[group].length as usize;
        let Some(memory) = self.memory(|| self.memory_ahead(length)) else { return };
        let (loader, scope, place) = (loader.clone(), scope.clone(), place.clone());
        let working = memory.clone();
        let bytes = coming(async move {
            let _memory = working;
            loader.group_ahead(&scope, &place, group).await.ok()
        });
        stream.groups.push_back(AheadGroup { key, bytes, memory });
    }

    /// Opens the object after `place` and fetches its first row group.
    fn open_ahead(
        &self,
        loader: &Arc<Loader>,
        scope: &Scope,
        manifest: &Arc<Manifest>,
        stream: &mut Stream,
        place: &Place,
    ) {
        let start = place.entry.end;
        if start >= manifest.tiered_end || stream.object.as_ref().is_some_and(|o| o.start == start) {
            return;
        }
        // The next object's row groups are likely as long as this one's.
        let length = place.index.row_groups.first().map_or(0, |g| g.length as usize);
        let Some(memory) = self.memory(|| self.memory_ahead(length)) else { return };
        let (loader, scope, manifest) = (loader.clone(), scope.clone(), manifest.clone());
        let working = memory.clone();
        let opened = coming(async move {
            let _memory = working;
            let place = loader.open(&scope, &manifest, start).await.ok()?;
            let first = match place.index.row_groups.is_empty() {
                true => None,
                false => loader.group_ahead(&scope, &place, 0).await.ok(),
            };
            Some((place, first))
        });
        stream.object = Some(AheadObject { start, opened, memory });
    }

    /// Rebuilds the next batches out of a row group that the stream has memory for.
    #[expect(clippy::too_many_arguments, reason = "one caller")]
    fn rebuild_ahead(
        &self,
        loader: &Arc<Loader>,
        scope: &Scope,
        stream: &mut Stream,
        place: &Place,
        group: usize,
        offset: Offset,
        bytes_max: usize,
    ) {
        stream.chunk = None;
        let key = group_key(place, group);
        let held = stream.current.as_ref().filter(|held| held.key == key);
        let held = held.and_then(|held| Some((held.bytes.clone(), held.memory.clone()?)));
        let fetching = stream.groups.iter().find(|g| g.key == key);
        let fetching = fetching.map(|g| (g.bytes.clone(), g.memory.clone()));
        if held.is_none() && fetching.is_none() {
            return;
        }
        let row_group = &place.index.row_groups[group];
        let stripe = row_group.stripe_for_offset(offset).map(|s| row_group.stripes[s].records_bytes);
        // At least one batch comes back, which has no more than a stripe.
        let bytes = bytes_max.max(stripe.map_or(0, |bytes| bytes as usize + HEADER_BYTES));
        let Some(memory) = self.memory(|| self.memory_ahead(bytes)) else { return };
        let (loader, scope, place) = (loader.clone(), scope.clone(), place.clone());
        let (upload_id, working) = (place.entry.upload_id, memory.clone());
        let chunk = coming(async move {
            let _memory = working;
            let (raw, _raw_memory) = match (held, fetching) {
                (Some(held), _) => held,
                (None, Some((fetching, memory))) => (fetching.await?, memory),
                (None, None) => return None,
            };
            let rebuilt = loader.chunk(&scope, &place, group, raw, offset, bytes_max).await;
            rebuilt.ok().map(|(chunk, _)| chunk)
        });
        stream.chunk = Some(AheadChunk { upload_id, offset, chunk, _memory: memory });
    }

    /// Bytes that parked streams hold, as far as they have arrived.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> (usize, usize) {
        let parked = lock(&self.parked);
        let of = |p: &Parked| {
            let stream = &p.stream;
            let current = stream.current.as_ref().map_or(0, |held| held.bytes.len());
            let groups = stream.groups.iter().filter_map(|g| g.bytes.peek()?.as_ref().map(Bytes::len));
            let chunk = stream.chunk.as_ref().and_then(|c| c.chunk.peek()?.as_ref().map(|c| c.bytes.len()));
            let first =
                stream.object.as_ref().and_then(|o| o.opened.peek()?.as_ref()?.1.as_ref().map(Bytes::len));
            current + groups.sum::<usize>() + chunk.unwrap_or(0) + first.unwrap_or(0)
        };
        (parked.len(), parked.values().map(of).sum())
    }
}

/// Work that goes on by itself and whose result can be waited for. An error is told by None: the read that
/// needs it tries by itself and gets its own error.
fn coming<T: Clone + Send + Sync + 'static>(
    work: impl Future<Output = Option<T>> + Send + 'static,
) -> Coming<T> {
    let shared = work.boxed().shared();
    tokio::spawn(shared.clone());
    shared
}
