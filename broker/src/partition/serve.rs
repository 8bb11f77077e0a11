//! What clients do to a partition: append, read, look up. One lock each, no waiting.

use std::io::ErrorKind;
use std::sync::Arc;

use highwater_log::{AbortedTxn, LogError, LogRead, LogSlice, ReadError, SequenceRefusal, TimestampedOffset};
use highwater_model::{Expiry, LeaderEpoch, Offset, OffsetBounds};
use highwater_wire::{AcceptedBatch, TimestampType};

use super::replicate::epoch_end;
use super::{AckWait, FetchWaiter, Inner, Partition, Terms, Unavailable};
use crate::core::fetch_plan::{EpochFence, Grant, Isolation, Route, fence, route};
use crate::core::fetch_session::Want;
use crate::core::replica::{AckState, AckTicket, LeaderRefusal, Role};
use crate::handlers::admin::is_internal;
use crate::node::Node;
use crate::replica::Origin;

/// A batch that is in the log, now or already before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// -1 unless the topic takes the broker's time.
    pub log_append_time_ms: i64,
    pub log_start: Offset,
    /// The batch does not count yet: its acknowledgement waits.
    pub waits: Option<AckWait>,
    pub is_duplicate: bool,
}

/// Why a batch was not appended; nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendRefusal {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Leader(LeaderRefusal),
    #[error(transparent)]
    Sequence(SequenceRefusal),
    #[error("the disk is full")]
    DiskFull,
    #[error("{0}")]
    Storage(String),
}

/// Local data for a fetch: slices of segment files, in order.
#[derive(Debug, Default)]
pub struct LocalRead {
    pub slices: Vec<LogSlice>,
    pub bytes: usize,
    /// There is more than was granted.
    pub is_limited: bool,
    /// Aborted transactions that have batches here, for a reader of committed data.
    pub aborted: Vec<AbortedTxn>,
}

/// What a fetch finds at its offset.
#[derive(Debug)]
pub enum Look {
    Empty,
    Local(LocalRead),
    /// Only the tier has it.
    Tier {
        end: Offset,
    },
    /// What is here cannot be read; the tier has it too.
    Damaged(ReadRefusal),
    OutOfRange,
    Fenced,
    UnknownEpoch,
    /// Only the leader may answer, and this node is not it.
    NotLeader,
    /// The client's log went another way from here (KIP-320, KIP-595).
    Diverging {
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadRefusal {
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Log(#[from] ReadError),
    /// Which transactions were aborted cannot be told.
    #[error("aborted transactions: {0}")]
    Aborted(LogError),
}

impl ReadRefusal {
    /// Whether the local bytes are at fault, so that another copy helps.
    pub fn is_damage(&self) -> bool {
        matches!(self, ReadRefusal::Log(ReadError::Corrupt { .. } | ReadError::Io { .. }))
    }
}

/// What a look-up by time found.
pub type Found = Option<TimestampedOffset>;

impl Partition {
    /// Appends one validated batch, or finds that it is in the log already (idempotent producers, KIP-98).
    /// Offsets are assigned in `PartitionLog::append` alone (invariant 2). `needs_all`: acks=all.
    ///
    /// # Errors
    /// [`AppendRefusal`]; the log is unchanged.
    pub fn append(
        self: &Arc<Self>,
        node: &Node,
        batch: &AcceptedBatch,
        needs_all: bool,
        now_ms: i64,
    ) -> Result<Appended, AppendRefusal> {
        self.append_as(node, batch, Origin::Client(None), needs_all, now_ms, None)
    }

    /// As [`Partition::append`], from whoever writes it, and in no other leader epoch than `epoch`, if one is
    /// given.
    ///
    /// # Errors
    /// As [`Partition::append`]; `FencedEpoch` if another epoch has begun.
    pub fn append_as(
        self: &Arc<Self>,
        node: &Node,
        batch: &AcceptedBatch,
        origin: Origin,
        needs_all: bool,
        now_ms: i64,
        epoch: Option<LeaderEpoch>,
    ) -> Result<Appended, AppendRefusal> {
        let header = &batch.header;
        let terms = self.terms();
        let mut inner = self.lock()?;
        let current = inner.replica.leader_epoch();
        if let Some(given) = epoch.filter(|epoch| *epoch != current) {
            return Err(AppendRefusal::Leader(LeaderRefusal::FencedEpoch { given, current }));
        }
        let log_start = inner.manifest.log_start;
        let appended = match inner.replica.append_from(header, &batch.bytes, origin, needs_all, now_ms) {
            Ok(appended) => appended,
            Err(e) => return Err(self.append_failed(node, e)),
        };
        self.take_moves(&mut inner, &appended.moves);
        let waits = waits(&inner, &terms, appended.ticket, needs_all);
        let is_log_append = header.timestamp_type() == TimestampType::LogAppendTime;
        if let Some(max_timestamp) = appended.duplicate_of {
            return Ok(Appended {
                base_offset: appended.base_offset,
                log_append_time_ms: if is_log_append { max_timestamp } else { -1 },
                log_start,
                waits,
                is_duplicate: true,
            });
        }
        if inner.unflushed_offsets == 0 {
            inner.unflushed_since_ms = now_ms;
        }
        inner.unflushed_offsets += header.offsets();
        let sealed = if appended.rolled { inner.log().sealed().last().map(|s| s.bytes) } else { None };
        let wants_flush = inner.unflushed_offsets >= terms.config.flush_messages;
        debug_assert!(self.bounds_of(&inner).check().is_ok(), "{:?}", self.bounds_of(&inner));
        drop(inner);
        self.note_traffic(batch.bytes.len());
        self.tell(&appended.moves);
        if wants_flush {
            node.flush.push(self);
        }
        if let Some(bytes) = sealed {
            node.pacer.sealed(bytes);
            node.flush.push_sealed(self);
            node.offloads.push(self);
        }
        Ok(Appended {
            base_offset: appended.base_offset,
            log_append_time_ms: if is_log_append { header.max_timestamp } else { -1 },
            log_start,
            waits,
            is_duplicate: false,
        })
    }

    fn append_failed(&self, node: &Node, refusal: crate::replica::AppendRefusal) -> AppendRefusal {
        use crate::replica::AppendRefusal as Refused;
        match refusal {
            Refused::Leader(refusal) => AppendRefusal::Leader(refusal),
            Refused::Sequence(refusal) => AppendRefusal::Sequence(refusal),
            Refused::Log(LogError::Io { ref source, .. }) if is_disk_full(source) => {
                node.disk.found_full();
                self.refused_for_room(node.now_ms());
                AppendRefusal::DiskFull
            }
            // Said once, when it happened; what is there stays readable.
            Refused::Log(error @ LogError::Poisoned(_)) => AppendRefusal::Storage(error.to_string()),
            Refused::Log(error) => {
                tracing::error!(topic = %self.topic, partition = self.tp.partition, "cannot append: {error}");
                AppendRefusal::Storage(error.to_string())
            }
        }
    }

    /// What a fetch finds, and the offsets at that moment. Without a grant nothing is read. Consumers that
    /// know of it may read from any replica (KIP-392); the others set `needs_leader`.
    ///
    /// # Errors
    /// The partition does not serve, or its segment cannot be read.
    pub fn look(
        &self,
        want: &Want,
        grant: Option<Grant>,
        needs_leader: bool,
    ) -> Result<(Look, OffsetBounds), ReadRefusal> {
        self.look_as(want, grant, needs_leader, Isolation::Uncommitted)
    }

    /// As [`Partition::look`], for a reader of this isolation.
    ///
    /// # Errors
    /// As [`Partition::look`].
    pub fn look_as(
        &self,
        want: &Want,
        grant: Option<Grant>,
        needs_leader: bool,
        isolation: Isolation,
    ) -> Result<(Look, OffsetBounds), ReadRefusal> {
        let inner = self.lock()?;
        let bounds = self.bounds_of(&inner);
        let leader_epoch = inner.replica.leader_epoch();
        if needs_leader && inner.replica.role() != Role::Leader {
            return Ok((Look::NotLeader, bounds));
        }
        match fence(want.current_leader_epoch, leader_epoch) {
            EpochFence::Current => {}
            EpochFence::Fenced => return Ok((Look::Fenced, bounds)),
            EpochFence::Unknown => return Ok((Look::UnknownEpoch, bounds)),
        }
        if want.last_fetched_epoch >= 0 {
            let end = epoch_end(&inner, want.last_fetched_epoch);
            match end {
                None => return Ok((Look::OutOfRange, bounds)),
                Some((epoch, end_offset))
                    if epoch < want.last_fetched_epoch || end_offset < want.fetch_offset =>
                {
                    return Ok((Look::Diverging { epoch, end_offset }, bounds));
                }
                Some(_) => {}
            }
        }
        let look = match route(want.fetch_offset, &bounds, isolation) {
            Route::OutOfRange => Look::OutOfRange,
            Route::Empty => Look::Empty,
            Route::Tier { end } => Look::Tier { end },
            Route::Local => match grant {
                None => Look::Empty,
                Some(grant) => match read_slices(&inner, want.fetch_offset, grant, &bounds, isolation) {
                    Err(damage) if want.fetch_offset < bounds.tiered_end && damage.is_damage() => {
                        Look::Damaged(damage)
                    }
                    read => {
                        let read = read?;
                        self.note_traffic(read.bytes);
                        Look::Local(read)
                    }
                },
            },
        };
        Ok((look, bounds))
    }

    /// Local data from `start` on, behind what came from the tier.
    ///
    /// # Errors
    /// As [`Partition::look`].
    pub fn read_on(
        &self,
        start: Offset,
        bytes: usize,
        isolation: Isolation,
    ) -> Result<LocalRead, ReadRefusal> {
        let inner = self.lock()?;
        let bounds = self.bounds_of(&inner);
        if start < bounds.local_start || start >= isolation.end(&bounds) {
            return Ok(LocalRead::default());
        }
        match read_slices(&inner, start, Grant { bytes, is_first: false }, &bounds, isolation) {
            // The next fetch reads it from the tier.
            Err(damage) if start < bounds.tiered_end && damage.is_damage() => Ok(LocalRead::default()),
            read => read,
        }
    }

    /// What clients are not shown of this partition, as of `now_ms`; `None`: its records do not expire. Those
    /// of coordinators never do.
    pub fn expiry(&self, now_ms: i64) -> Option<Expiry> {
        let ttl = self.terms().config.record_ttl?;
        (!is_internal(&self.topic)).then(|| ttl.at(now_ms))
    }

    /// Registers a fetch for the moves of the high watermark; false if too many wait already, and this one
    /// must look for itself.
    pub fn wait_for_data(&self, waiter: &FetchWaiter) -> bool {
        self.waiters.add(waiter)
    }

    pub fn forget_waiter(&self, waiter: &FetchWaiter) {
        self.waiters.remove(waiter);
    }

    pub fn wake_waiters(&self) {
        self.waiters.wake();
    }

    /// First local record at or after a time, below the high watermark.
    ///
    /// # Errors
    /// As [`Partition::look`].
    pub fn local_offset_for_timestamp(&self, timestamp: i64) -> Result<Found, ReadRefusal> {
        let inner = self.lock()?;
        let end = self.high_watermark();
        Ok(inner.log().offset_for_timestamp(timestamp, end)?)
    }

    /// The local record with the largest timestamp below the high watermark.
    ///
    /// # Errors
    /// As [`Partition::look`].
    pub fn local_max_timestamp(&self) -> Result<Found, ReadRefusal> {
        let inner = self.lock()?;
        let end = self.high_watermark();
        Ok(inner.log().max_timestamp_offset(end)?)
    }

    /// Largest epoch not above `epoch`, and where it ends.
    ///
    /// # Errors
    /// The partition does not serve.
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Result<Option<(LeaderEpoch, Offset)>, Unavailable> {
        let inner = self.lock()?;
        Ok(epoch_end(&inner, epoch))
    }

    /// The leader epoch under which `offset` was written; -1 where that is not known any more.
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let inner = self.lock_any();
        let local = inner.log().epochs().iter().map(|e| (e.epoch, e.start_offset));
        let tiered = inner.manifest.epochs.iter().map(|e| (e.epoch, e.start_offset));
        let known = tiered.chain(local).filter(|(_, start)| *start <= offset);
        known.map(|(epoch, _)| epoch).max().unwrap_or(-1)
    }
}

/// What an acknowledgement of the batch waits for, if it waits.
fn waits(inner: &Inner, terms: &Terms, ticket: AckTicket, needs_all: bool) -> Option<AckWait> {
    let is_done = match needs_all {
        true => inner.replica.ack(&ticket) == AckState::Committed,
        false => !terms.flushes_before_ack() || inner.log().flushed_end() >= ticket.end,
    };
    (!is_done).then_some(AckWait { ticket, needs_all })
}

fn read_slices(
    inner: &Inner,
    start: Offset,
    grant: Grant,
    bounds: &OffsetBounds,
    isolation: Isolation,
) -> Result<LocalRead, ReadRefusal> {
    let read = inner.log().read(start, grant.bytes, isolation.end(bounds), grant.is_first)?;
    let LogRead { slices, is_limited, upto } = read;
    let aborted = match isolation {
        Isolation::Committed if !slices.is_empty() => {
            inner.log().aborted_in(start, upto).map_err(ReadRefusal::Aborted)?
        }
        _ => Vec::new(),
    };
    let bytes = slices.iter().map(|s| s.length).sum();
    Ok(LocalRead { slices, bytes, is_limited, aborted })
}

pub(super) fn is_disk_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
