//! One partition on this node: the owner of its log, its high watermark, and those who wait for either.
//!
//! The log and what this node is to the partition ([`ReplicaLog`]) stand behind a `std::sync::Mutex` that is
//! held for one append, one look-up or one index search and never across an await (docs/adr/0005). What
//! waits, waits outside: fetches on a `Notify`, acknowledgements on a counter of moves, followers on the news
//! of their stream. Offsets are checked against invariant 1 whenever one of them moves; a partition that
//! breaks it stops serving.
//!
//! Must not: talk to the bucket or the coordinator (workers do), re-encode batches.
//! Invariants: 1, 2 (offsets come from `PartitionLog::append` alone), 3, 4, 5, 7, 14.

mod ack;
pub mod assign;
mod delayed;
pub mod follow;
pub mod open;
mod propose;
mod raft;
pub mod registry;
mod replicate;
mod serve;
#[cfg(test)]
mod tests;
mod transactions;
mod upkeep;
mod waiters;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use highwater_log::PartitionLog;
use highwater_model::{LeaderEpoch, NodeId, Offset, OffsetBounds, TopicConfig, TopicPartition};
use highwater_tiering::core::manifest::Manifest;
use highwater_wire::ProduceRules;
use tokio::sync::watch;

pub use ack::{AckFailure, AckWait};
pub use propose::Proposal;
pub(crate) use raft::GroupPort;
pub use raft::RaftTerms;
pub use replicate::NewsListener;
pub use serve::{AppendRefusal, Appended, Found, LocalRead, Look, ReadRefusal};
pub use transactions::{Marker, MarkerAppend, MarkerRefusal};
pub use upkeep::{LocalUse, SealTask};
pub use waiters::FetchWaiter;

use crate::core::replica::{Assignment, IsrProposal, Moves, Role};
use crate::core::room::NoRoom;
use crate::replica::{ReplicaLog, TierEnd};
use crate::workers::offload::OffloadTrouble;
use replicate::Listeners;
use waiters::Waiters;

/// What holds for a partition until the coordinator says otherwise.
#[derive(Clone, Debug)]
pub struct Terms {
    pub config: Arc<TopicConfig>,
    pub rules: ProduceRules,
    pub leader_epoch: LeaderEpoch,
    /// Who leads, if anybody does.
    pub leader: Option<NodeId>,
    pub is_leader: bool,
    /// The Raft group that replicates the partition; then it says who leads.
    pub raft: Option<RaftTerms>,
}

impl Terms {
    pub fn new(config: Arc<TopicConfig>, node_id: NodeId, assignment: &Assignment) -> Terms {
        assert!(assignment.leader_epoch >= 0, "a partition has an epoch");
        Terms {
            rules: ProduceRules::of(&config),
            config,
            leader_epoch: assignment.leader_epoch,
            leader: assignment.leader,
            is_leader: assignment.leader == Some(node_id),
            raft: None,
        }
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

struct Inner {
    replica: ReplicaLog,
    manifest: Arc<Manifest>,
    unavailable: Option<Unavailable>,
    /// Appended since the last flush; for `flush.messages` and `flush.ms`. Offsets, as Kafka counts: a batch
    /// may have no records any more, and waits for its flush as any other does.
    unflushed_offsets: u64,
    unflushed_since_ms: i64,
    /// Where sealing found damaged data, in words; sealing has stopped there.
    seal_alarm: Option<Arc<str>>,
    /// Leader epoch and leader that the control plane has on record of a partition that a group replicates.
    recorded: Option<(LeaderEpoch, Option<NodeId>)>,
}

impl Inner {
    fn log(&self) -> &PartitionLog {
        self.replica.log()
    }

    fn log_mut(&mut self) -> &mut PartitionLog {
        self.replica.log_mut()
    }
}

/// The end of what a manifest lists, as a replica compares its log with it.
fn tier_end(manifest: &Manifest) -> TierEnd {
    let offset = manifest.tiered_end;
    let last = manifest.epochs.iter().rfind(|e| e.start_offset < offset);
    TierEnd { offset, epoch: last.map(|e| e.epoch) }
}

/// One partition of which this node has a replica.
pub struct Partition {
    pub tp: TopicPartition,
    pub topic: Arc<str>,
    node_id: NodeId,
    terms: RwLock<Arc<Terms>>,
    inner: Mutex<Inner>,
    /// Copy of the high watermark, to be read without the lock; moves only under it.
    high_watermark: AtomicI64,
    waiters: Waiters,
    /// Followers' streams that want to know of news.
    listeners: Listeners,
    /// Counts moves that acknowledgements may wait for.
    progress: watch::Sender<u64>,
    /// A change of the in-sync set that is to be proposed.
    proposal: Mutex<Option<IsrProposal>>,
    pub(crate) has_proposal: AtomicBool,
    /// Already in the queue of that name.
    pub(crate) is_flush_queued: AtomicBool,
    pub(crate) is_sealed_flush_queued: AtomicBool,
    pub(crate) is_offload_queued: AtomicBool,
    /// Bytes that clients have written and read here.
    traffic: AtomicU64,
    /// Copy of what the log says, to be read without the lock.
    has_lost: AtomicBool,
    offload_trouble: Mutex<OffloadTrouble>,
    /// Appends that were refused because the disk is full.
    no_room: Mutex<NoRoom>,
}

impl Partition {
    /// Takes over an open log, in the role that `assignment` gives this node. What of it is committed, a
    /// leader learns from its followers (at once where it is the only one in sync) and a follower from its
    /// leader; what is in the tier is committed.
    pub fn new(
        tp: TopicPartition,
        topic: Arc<str>,
        config: Arc<TopicConfig>,
        log: PartitionLog,
        manifest: Arc<Manifest>,
        (node_id, assignment): (NodeId, &Assignment),
        now_ms: i64,
    ) -> Partition {
        let mut replica = ReplicaLog::new(node_id, log, tier_end(&manifest));
        let assigned = replica.set_assignment(now_ms, assignment);
        let proposal = assigned.moves.propose;
        let has_lost = replica.has_lost();
        let partition = Partition {
            tp,
            topic,
            node_id,
            terms: RwLock::new(Arc::new(Terms::new(config, node_id, assignment))),
            high_watermark: AtomicI64::new(replica.high_watermark()),
            inner: Mutex::new(Inner {
                replica,
                manifest,
                unavailable: None,
                unflushed_offsets: 0,
                unflushed_since_ms: 0,
                seal_alarm: None,
                recorded: None,
            }),
            waiters: Waiters::default(),
            listeners: Listeners::default(),
            progress: watch::Sender::new(0),
            has_proposal: AtomicBool::new(proposal.is_some()),
            proposal: Mutex::new(proposal),
            is_flush_queued: AtomicBool::new(false),
            is_sealed_flush_queued: AtomicBool::new(false),
            is_offload_queued: AtomicBool::new(false),
            traffic: AtomicU64::new(0),
            has_lost: AtomicBool::new(has_lost),
            offload_trouble: Mutex::default(),
            no_room: Mutex::default(),
        };
        partition.check_bounds(&mut partition.lock_any());
        partition
    }

    pub fn terms(&self) -> Arc<Terms> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_terms(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// What this node is to the partition.
    pub fn role(&self) -> Role {
        self.lock_any().replica.role()
    }

    /// End of what consumers may read. Cheap: no lock.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark.load(Ordering::SeqCst)
    }

    /// Bytes that clients have written and read here since it was opened.
    pub fn traffic(&self) -> u64 {
        self.traffic.load(Ordering::Relaxed)
    }

    /// Part of what was durable here is damaged or gone. Cheap: no lock.
    pub(crate) fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn note_traffic(&self, bytes: usize) {
        self.traffic.fetch_add(bytes as u64, Ordering::Relaxed);
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
        let local_start = inner.log().local_start().max(log_start);
        // What is not local is in the tier or given up, and decided.
        let last_stable = inner.log().last_stable(high_watermark).max(local_start.min(high_watermark));
        // A follower may have begun where its leader's manifest ends, before it has heard of that manifest.
        let tiered_end = match inner.replica.role() {
            Role::Leader if inner.recorded.is_none() => inner.manifest.tiered_end,
            _ => inner.manifest.tiered_end.max(local_start),
        };
        OffsetBounds {
            log_start,
            local_start,
            // A replica that does not know yet that a transaction's marker is committed counts what the tier
            // has of it with what is local.
            tiered_end: tiered_end.min(last_stable),
            last_stable,
            high_watermark,
            log_end: inner.log().log_end(),
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
        inner.unavailable.get_or_insert(unavailable);
        self.told();
        self.waiters.wake();
        self.listeners.tell(self.tp);
    }

    /// Takes over what a step of the replica has set going. Under the lock; [`Partition::tell`] follows it
    /// off the lock.
    fn take_moves(&self, inner: &mut Inner, moves: &Moves) {
        let high_watermark = inner.replica.high_watermark();
        self.high_watermark.store(high_watermark, Ordering::SeqCst);
        inner.log_mut().high_watermark_is(high_watermark);
        if let Some(proposal) = &moves.propose {
            *self.proposal.lock().unwrap_or_else(PoisonError::into_inner) = Some(proposal.clone());
            self.has_proposal.store(true, Ordering::SeqCst);
        }
    }

    /// Wakes who waits for what has moved. Acknowledgements look for themselves ([`Partition::told`]).
    fn tell(&self, moves: &Moves) {
        if moves.high_watermark.is_some() {
            self.waiters.wake();
            self.told();
        }
        if moves.has_news {
            self.listeners.tell(self.tp);
        }
    }

    /// Something has moved that an acknowledgement may wait for. Who waits subscribes first and looks under
    /// the lock then, so that without a subscriber nobody can miss it.
    fn told(&self) {
        if self.progress.receiver_count() > 0 {
            self.progress.send_modify(|moves| *moves += 1);
        }
    }
}
