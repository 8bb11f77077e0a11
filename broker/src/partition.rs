//! One partition on this node: the owner of its log, its high watermark, and those who wait for either.
//!
//! The log stands behind a `std::sync::Mutex` that is held for one append, one look-up or one index search
//! and never across an await (docs/adr/0005). What waits, waits outside: fetches on a `Notify`,
//! acknowledgements on the flushed end. Offsets are checked against invariant 1 whenever one of them moves; a
//! partition that breaks it stops serving.
//!
//! Must not: talk to the bucket or the coordinator (workers do), re-encode batches.
//! Invariants: 1, 2 (offsets come from `PartitionLog::append` alone), 3, 4, 5, 7, 14.

pub mod follow;
pub mod open;
pub mod registry;
mod serve;
#[cfg(test)]
mod tests;
mod upkeep;
mod waiters;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use highwater_log::PartitionLog;
use highwater_model::{LeaderEpoch, Offset, OffsetBounds, TopicConfig, TopicPartition};
use highwater_tiering::core::manifest::Manifest;
use highwater_wire::ProduceRules;
use tokio::sync::watch;

pub use serve::{AppendRefusal, Appended, Found, LocalRead, Look, ReadRefusal};
pub use upkeep::{LocalUse, SealTask};
pub use waiters::FetchWaiter;

use crate::workers::offload::OffloadTrouble;
use waiters::Waiters;

/// What holds for a partition until the coordinator says otherwise.
#[derive(Clone, Debug)]
pub struct Terms {
    pub config: Arc<TopicConfig>,
    pub rules: ProduceRules,
    pub leader_epoch: LeaderEpoch,
}

impl Terms {
    pub fn new(config: Arc<TopicConfig>, leader_epoch: LeaderEpoch) -> Terms {
        assert!(leader_epoch >= 0, "a led partition has an epoch");
        Terms { rules: ProduceRules::of(&config), config, leader_epoch }
    }

    /// Whether a batch must be on the disk before it counts (`flush.messages=1`).
    pub fn flushes_before_ack(&self) -> bool {
        self.config.flush_messages == 1
    }
}

/// Why a partition does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Deleted, or the node stops: NOT_LEADER_OR_FOLLOWER.
    #[error("closed")]
    Closed,
    /// KAFKA_STORAGE_ERROR.
    #[error("{0}")]
    Storage(Arc<str>),
}

/// How far the log is on the disk, for those whose acknowledgement waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    pub end: Offset,
    pub failed: Option<Unavailable>,
}

struct Inner {
    log: PartitionLog,
    manifest: Arc<Manifest>,
    unavailable: Option<Unavailable>,
    /// Appended since the last flush; for `flush.messages` and `flush.ms`.
    unflushed_records: u64,
    unflushed_since_ms: i64,
    /// Where sealing found damaged data, in words; sealing has stopped there.
    seal_alarm: Option<Arc<str>>,
}

/// One partition that this node leads.
pub struct Partition {
    pub tp: TopicPartition,
    pub topic: Arc<str>,
    terms: RwLock<Arc<Terms>>,
    inner: Mutex<Inner>,
    /// Copy of the high watermark, to be read without the lock; moves only under it.
    high_watermark: AtomicI64,
    waiters: Waiters,
    flushed: watch::Sender<Flushed>,
    /// Already in the queue of that name.
    pub(crate) is_flush_queued: AtomicBool,
    pub(crate) is_sealed_flush_queued: AtomicBool,
    pub(crate) is_offload_queued: AtomicBool,
    offload_trouble: Mutex<OffloadTrouble>,
}

impl Partition {
    /// Takes over an open log. Everything recovered counts as committed: this node is the only replica. Where
    /// a batch counts only once it is on the disk, that holds for what was recovered too.
    pub fn new(
        tp: TopicPartition,
        topic: Arc<str>,
        terms: Terms,
        log: PartitionLog,
        manifest: Arc<Manifest>,
    ) -> Partition {
        let end = if terms.flushes_before_ack() { log.flushed_end() } else { log.log_end() };
        let partition = Partition {
            tp,
            topic,
            terms: RwLock::new(Arc::new(terms)),
            high_watermark: AtomicI64::new(end),
            flushed: watch::Sender::new(Flushed { end: log.flushed_end(), failed: None }),
            inner: Mutex::new(Inner {
                log,
                manifest,
                unavailable: None,
                unflushed_records: 0,
                unflushed_since_ms: 0,
                seal_alarm: None,
            }),
            waiters: Waiters::default(),
            is_flush_queued: AtomicBool::new(false),
            is_sealed_flush_queued: AtomicBool::new(false),
            is_offload_queued: AtomicBool::new(false),
            offload_trouble: Mutex::default(),
        };
        partition.check_bounds(&mut partition.lock_any());
        partition
    }

    pub fn terms(&self) -> Arc<Terms> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_terms(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// End of what consumers may read. Cheap: no lock.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark.load(Ordering::SeqCst)
    }

    pub fn manifest(&self) -> Arc<Manifest> {
        self.lock_any().manifest.clone()
    }

    /// Offsets now.
    ///
    /// # Errors
    /// The partition does not serve.
    pub fn bounds(&self) -> Result<OffsetBounds, Unavailable> {
        let inner = self.lock()?;
        Ok(self.bounds_of(&inner))
    }

    fn bounds_of(&self, inner: &Inner) -> OffsetBounds {
        let high_watermark = self.high_watermark.load(Ordering::Relaxed);
        // The manifest's log start rules: it moves first, and a log that was begun anew does not know it.
        let log_start = inner.manifest.log_start.min(high_watermark);
        OffsetBounds {
            log_start,
            local_start: inner.log.local_start().max(log_start),
            tiered_end: inner.manifest.tiered_end.min(high_watermark),
            last_stable: high_watermark,
            high_watermark,
            log_end: inner.log.log_end(),
        }
    }

    /// The lock, whatever the partition's state.
    fn lock_any(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            let reason = "a defect interrupted an operation on the log; restart to recover it";
            inner.unavailable.get_or_insert_with(|| Unavailable::Storage(reason.into()));
            inner
        })
    }

    fn lock(&self) -> Result<MutexGuard<'_, Inner>, Unavailable> {
        let inner = self.lock_any();
        match &inner.unavailable {
            None => Ok(inner),
            Some(unavailable) => Err(unavailable.clone()),
        }
    }

    /// Invariant 1 after a move; a partition that breaks it serves no more.
    fn check_bounds(&self, inner: &mut Inner) {
        if let Err(broken) = self.bounds_of(inner).check() {
            tracing::error!(topic = %self.topic, partition = self.tp.partition, "{broken}; the partition stops");
            self.fail(inner, &broken);
        }
    }

    /// The partition serves no more; who waits is told.
    fn fail(&self, inner: &mut Inner, reason: &dyn std::fmt::Display) {
        let unavailable = Unavailable::Storage(reason.to_string().into());
        self.end_service(inner, unavailable);
    }

    fn end_service(&self, inner: &mut Inner, unavailable: Unavailable) {
        let first = inner.unavailable.get_or_insert(unavailable).clone();
        self.flushed.send_modify(|flushed| flushed.failed = Some(first));
        self.waiters.wake();
    }
}
