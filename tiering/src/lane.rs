//! The store as the tier uses it: every request goes through a lane (upload, read, housekeeping) with its own
//! concurrency and optional requests/s and bytes/s, has a deadline, is retried with jittered backoff while
//! that makes sense, and is counted.
//!
//! A permit of a lane is held only while its request is in flight: never during a pause, never while waiting
//! for another permit. A put whose outcome is unknown is settled by looking at its key, which nobody else
//! writes, and comparing what is there (size and CRC-32C); never guessed.
//!
//! Must not know what objects mean. Invariants: 8, 16, 19.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use highwater_model::limits::{
    STORE_BACKOFF_FIRST_MS, STORE_BACKOFF_LAST_MS, STORE_BYTES_PER_S_MIN, STORE_COMPARE_BYTES,
    STORE_DELETE_KEYS_MAX,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::bucket::{Bucket, Fault, FaultKind, Listed, Tag};
use crate::core::lanes::{Backoff, Lane, TokenBucket, attempt_ms};
use crate::metrics::{LaneCounters, LaneSnapshot, RequestKind};

/// Budget of one lane. 0 means no limit for the two rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// Requests in flight at a time.
    pub concurrency: usize,
    pub requests_per_s: u64,
    pub bytes_per_s: u64,
    /// Time that one attempt gets, beside the time its bytes need.
    pub attempt_ms: u64,
}

/// Budgets of all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    pub upload: LaneSettings,
    pub read: LaneSettings,
    pub housekeeping: LaneSettings,
}

impl Default for StoreSettings {
    fn default() -> Self {
        let lane = |concurrency, attempt_ms| LaneSettings {
            concurrency,
            requests_per_s: 0,
            bytes_per_s: 0,
            attempt_ms,
        };
        StoreSettings { upload: lane(8, 10_000), read: lane(64, 5_000), housekeeping: lane(4, 10_000) }
    }
}

/// Why a request on the store did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{key}: {fault}")]
    Fault { key: String, fault: Fault },
    /// The deadline passed; the text says what the last attempt met.
    #[error("{key}: not done by its deadline ({last})")]
    Expired { key: String, last: String },
    /// The key holds other bytes than were to be written.
    #[error("{key}: exists with other content")]
    Conflict { key: String },
}

impl StoreError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Fault { fault, .. } if fault.kind == FaultKind::NotFound)
    }

    pub fn is_changed(&self) -> bool {
        use FaultKind::{Changed, Exists};
        matches!(self, StoreError::Fault { fault, .. } if matches!(fault.kind, Changed | Exists))
    }

    pub fn is_expired(&self) -> bool {
        matches!(self, StoreError::Expired { .. })
    }
}

#[derive(Debug)]
struct LaneState {
    settings: LaneSettings,
    permits: Semaphore,
    requests: Option<Mutex<TokenBucket>>,
    bytes: Option<Mutex<TokenBucket>>,
    counters: LaneCounters,
}

/// A bucket behind its lanes. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Arc<dyn Bucket>,
    url: String,
    lanes: [LaneState; 3],
    started: Instant,
}

/// One request on its way: what it is, for its budget and its counters.
struct Request<'a> {
    lane: Lane,
    kind: RequestKind,
    key: &'a str,
    sent: u64,
    received: u64,
    deadline: Instant,
}

impl Store {
    /// A store over any bucket; `url` is for people.
    pub fn over(bucket: Arc<dyn Bucket>, url: &str, settings: StoreSettings) -> Store {
        let lane = |settings: LaneSettings| LaneState {
            settings,
            permits: Semaphore::new(settings.concurrency.max(1)),
            requests: TokenBucket::new(settings.requests_per_s, 0).map(Mutex::new),
            bytes: TokenBucket::new(settings.bytes_per_s, 0).map(Mutex::new),
            counters: LaneCounters::default(),
        };
        let lanes = [lane(settings.upload), lane(settings.read), lane(settings.housekeeping)];
        let shared = Shared { bucket, url: url.to_string(), lanes, started: Instant::now() };
        Store { shared: Arc::new(shared) }
    }

    /// The URL that the store was opened with.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Counters of every lane.
    pub fn snapshot(&self) -> Vec<LaneSnapshot> {
        Lane::ALL.iter().map(|l| self.lane(*l).counters.snapshot(*l)).collect()
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        &self.shared.lanes[lane.index()]
    }

    fn now_us(&self) -> u64 {
        self.shared.started.elapsed().as_micros() as u64
    }

    /// Writes an object under a key that nobody else ever writes. Succeeds when exactly these bytes are
    /// there, also when an attempt was applied and its answer lost.
    ///
    /// # Errors
    /// `Conflict` when the key holds other bytes; otherwise as the store says, or `Expired`, after which the
    /// object may or may not be there.
    pub async fn put_new(
        &self,
        lane: Lane,
        key: &str,
        body: &[Bytes],
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let bytes: u64 = body.iter().map(|b| b.len() as u64).sum();
        let request = Request { lane, kind: RequestKind::Put, key, sent: bytes, received: 0, deadline };
        let mut attempt = 0;
        let mut unknown = false;
        loop {
            attempt += 1;
            let fault = match self.attempt(&request, || self.shared.bucket.put_new(key, body)).await? {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            unknown |= fault.is_unknown();
            let settle = unknown && (fault.is_unknown() || fault.kind == FaultKind::Exists);
            if settle {
                match self.holds(lane, key, body, deadline).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(StoreError::Conflict { key: key.to_string() }),
                    // Not there (yet): try again; a late first attempt is met as `Exists` above.
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(e),
                }
            } else if !fault.is_transient() {
                return Err(StoreError::Fault { key: key.to_string(), fault });
            }
            self.pause(&request, attempt, &fault).await?;
        }
    }

    /// Whether the object under `key` has exactly this content: size first, then its CRC-32C, range by range.
    async fn holds(
        &self,
        lane: Lane,
        key: &str,
        body: &[Bytes],
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let bytes: u64 = body.iter().map(|b| b.len() as u64).sum();
        if self.head(lane, key, deadline).await? != bytes {
            return Ok(false);
        }
        let expected = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        let (mut crc, mut at) = (0, 0);
        while at < bytes {
            let end = bytes.min(at + STORE_COMPARE_BYTES);
            let part = self.get_range(lane, key, at..end, deadline).await?;
            crc = crc32c::crc32c_append(crc, &part);
            at = end;
        }
        Ok(crc == expected)
    }

    /// Writes a mirror over the version `seen` (none: it must not exist yet). Not retried when the version is
    /// another.
    ///
    /// # Errors
    /// [`StoreError::is_changed`] when someone else wrote; after other errors the write may have been
    /// applied.
    pub async fn put_over(
        &self,
        key: &str,
        body: Bytes,
        seen: Option<&Tag>,
        deadline: Instant,
    ) -> Result<Tag, StoreError> {
        let lane = Lane::Housekeeping;
        let sent = body.len() as u64;
        let request = Request { lane, kind: RequestKind::Put, key, sent, received: 0, deadline };
        self.retried(&request, || self.shared.bucket.put_over(key, body.clone(), seen)).await
    }

    /// The first `bytes_max` bytes of an object, or all if it has fewer, with the version of the whole.
    pub async fn get_start(
        &self,
        lane: Lane,
        key: &str,
        bytes_max: u64,
        deadline: Instant,
    ) -> Result<(Bytes, Tag), StoreError> {
        let request = Request { lane, kind: RequestKind::Get, key, sent: 0, received: bytes_max, deadline };
        let got = self.retried(&request, || self.shared.bucket.get_start(key, bytes_max)).await?;
        self.lane(lane).counters.bytes_received.add(got.0.len() as u64);
        Ok(got)
    }

    /// Exactly `range` of an object: a shorter body, whatever its status, is an error that is retried.
    pub async fn get_range(
        &self,
        lane: Lane,
        key: &str,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Bytes, StoreError> {
        assert!(range.start < range.end, "a range has bytes");
        let wanted = range.end - range.start;
        let request = Request { lane, kind: RequestKind::Get, key, sent: 0, received: wanted, deadline };
        self.retried(&request, || async {
            let body = self.shared.bucket.get_range(key, range.clone()).await?;
            self.lane(lane).counters.bytes_received.add(body.len() as u64);
            if body.len() as u64 == wanted {
                Ok(body)
            } else {
                Err(Fault::new(FaultKind::Truncated, format!("{} of {wanted} bytes", body.len())))
            }
        })
        .await
    }

    /// Size of an object, in bytes.
    pub async fn head(&self, lane: Lane, key: &str, deadline: Instant) -> Result<u64, StoreError> {
        let request = Request { lane, kind: RequestKind::Head, key, sent: 0, received: 0, deadline };
        self.retried(&request, || self.shared.bucket.head(key)).await
    }

    /// Deletes in bulk, in the housekeeping lane. What is not there is success.
    pub async fn delete(&self, keys: &[String], deadline: Instant) -> Result<(), StoreError> {
        for part in keys.chunks(STORE_DELETE_KEYS_MAX) {
            let (lane, key) = (Lane::Housekeeping, part[0].as_str());
            let request = Request { lane, kind: RequestKind::Delete, key, sent: 0, received: 0, deadline };
            self.retried(&request, || self.shared.bucket.delete(part)).await?;
        }
        Ok(())
    }

    /// Objects below `prefix`, for sweep, scrub, restore and the probe; never on a read or write path
    /// (invariant 9).
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Listed>, StoreError> {
        let (lane, kind) = (Lane::Housekeeping, RequestKind::List);
        let request = Request { lane, kind, key: prefix, sent: 0, received: 0, deadline };
        self.retried(&request, || self.shared.bucket.list(prefix, after, limit)).await
    }

    async fn retried<T, F>(&self, request: &Request<'_>, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(request, &call).await? {
                Ok(done) => return Ok(done),
                Err(fault) if fault.is_transient() => self.pause(request, attempt, &fault).await?,
                Err(fault) => return Err(StoreError::Fault { key: request.key.to_string(), fault }),
            }
        }
    }

    /// One attempt within the lane's budget. The outer error is the deadline.
    async fn attempt<T, F>(
        &self,
        request: &Request<'_>,
        call: impl FnOnce() -> F,
    ) -> Result<Result<T, Fault>, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let lane = self.lane(request.lane);
        let counters = &lane.counters;
        let arrived = Instant::now();
        let expired = |last: &str| {
            counters.expired.add(1);
            StoreError::Expired { key: request.key.to_string(), last: last.to_string() }
        };
        // The budget first: who waits for it takes no place from requests that could be in flight.
        self.wait_for_budget(lane, request).await.map_err(|()| expired("waiting for the lane's budget"))?;
        let permit = timeout_at(request.deadline, lane.permits.acquire()).await;
        let _permit = permit.map_err(|_| expired("waiting for its lane"))?.expect("never closed");
        let begun = Instant::now();
        counters.waited_us.add((begun - arrived).as_micros() as u64);
        counters.requests[request.kind as usize].add(1);
        let left = request.deadline.saturating_duration_since(begun).as_millis() as u64;
        let bytes = request.sent + request.received;
        let allowed = attempt_ms(lane.settings.attempt_ms, bytes, STORE_BYTES_PER_S_MIN, left);
        let result = match timeout(Duration::from_millis(allowed), call()).await {
            Ok(result) => result,
            Err(_) => Err(Fault::new(FaultKind::Interrupted, format!("no answer in {allowed} ms"))),
        };
        counters.latency_us.add(begun.elapsed().as_micros() as u64);
        match &result {
            Ok(_) => counters.bytes_sent.add(request.sent),
            Err(fault) => {
                counters.errors.add(1);
                tracing::debug!(key = request.key, lane = request.lane.name(), %fault, "store request failed");
            }
        }
        Ok(result)
    }

    /// Waits until the lane's rates allow another request, and takes it from them.
    async fn wait_for_budget(&self, lane: &LaneState, request: &Request<'_>) -> Result<(), ()> {
        let budgets = [(&lane.requests, 1), (&lane.bytes, request.sent + request.received)];
        for (budget, tokens) in budgets {
            let Some(budget) = budget else { continue };
            loop {
                let wait = {
                    let mut bucket = budget.lock().expect("no panic while a budget is locked");
                    let now = self.now_us();
                    let wait = bucket.wait_us(now);
                    if wait == 0 {
                        bucket.take(now, tokens);
                    }
                    wait
                };
                if wait == 0 {
                    break;
                }
                let wake = Instant::now() + Duration::from_micros(wait);
                if wake >= request.deadline {
                    return Err(());
                }
                tokio::time::sleep_until(wake).await;
            }
        }
        Ok(())
    }

    async fn pause(&self, request: &Request<'_>, attempt: u32, fault: &Fault) -> Result<(), StoreError> {
        let counters = &self.lane(request.lane).counters;
        let backoff = Backoff { first_ms: STORE_BACKOFF_FIRST_MS, last_ms: STORE_BACKOFF_LAST_MS };
        let left = request.deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        match backoff.pause_ms(attempt, rand::random(), left) {
            Some(pause) => {
                counters.retries.add(1);
                sleep(Duration::from_millis(pause)).await;
                Ok(())
            }
            None => {
                counters.expired.add(1);
                Err(StoreError::Expired { key: request.key.to_string(), last: fault.to_string() })
            }
        }
    }
}

/// The deadline `ms` from now.
pub fn deadline_in(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}

#[cfg(test)]
mod tests;
