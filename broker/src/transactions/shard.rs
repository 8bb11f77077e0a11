//! The task that owns one shard: requests, commits, answers to markers and time in; records into the log,
//! markers to the partitions' leaders, answers out.
//!
//! The coordinator answers nobody before the record is committed; here it is told when that is. Whatever this
//! task cannot know, such as an append that leadership was lost over, ends the shard: another is loaded from
//! what is committed. Invariants: 3, 6, 16.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use highwater_groups::core::txn::{
    AppendFailure, Coordinator, Effect, MarkerAnswer, Markers, Reply, RequestId, TxnRecord, WriteId,
};
use highwater_groups::core::types::Name;
use highwater_model::limits::{
    TXN_APPENDS_PENDING_MAX, TXN_RELOAD_PAUSE, TXN_RELOAD_PAUSE_MAX, TXN_ROUNDS_PENDING_MAX,
};
use highwater_wire::batch::BatchError;
use highwater_wire::{AcceptedBatch, BatchBuilder, BatchHeader, Codec, HEADER_BYTES};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::load::{LoadError, load};
use super::{Message, Request, Shard, markers, txn_settings};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::{AckFailure, AppendRefusal, Partition};
use crate::raft::ProposeRefusal;
use crate::replica::Origin;

/// What the task works with as long as it lives.
pub(super) struct Task {
    pub node: Arc<Node>,
    pub partition: Arc<Partition>,
    pub shard: Arc<Shard>,
    pub messages: mpsc::Receiver<Message>,
    pub stop: watch::Receiver<bool>,
}

/// Why a shard serves no longer.
#[derive(Debug)]
enum End {
    /// Another leads, or the node stops.
    Stop,
    /// What is committed is not known any more, or a newer coordinator was met: load it anew.
    Reload,
}

/// An append on its way.
struct Pending {
    write: WriteId,
    committed: BoxFuture<'static, Result<Result<(), AppendFailure>, End>>,
}

/// A loaded shard.
struct Loaded {
    node: Arc<Node>,
    partition: Arc<Partition>,
    shard: Arc<Shard>,
    coordinator: Coordinator,
    clock: SteadyClock,
    asked: HashMap<RequestId, oneshot::Sender<Reply>>,
    next_request: RequestId,
    pending: VecDeque<Pending>,
    rounds: JoinSet<MarkerAnswer>,
    /// Rounds that wait for others to end, the newest of each transactional id.
    waiting: BTreeMap<Name, Markers>,
    effects: Vec<Effect>,
}

/// Unix milliseconds that never jump: the wall clock's once, then a monotonic clock's.
#[derive(Clone, Copy)]
struct SteadyClock {
    began_ms: i64,
    began: Instant,
}

impl SteadyClock {
    fn now_ms(&self) -> i64 {
        self.began_ms.saturating_add(i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    fn at(&self, due_ms: i64) -> Instant {
        // Never beyond what a timer can hold: it is looked at again.
        let ms = u64::try_from(due_ms.saturating_sub(self.began_ms)).unwrap_or(0);
        let wait = Duration::from_millis(ms).min(self.began.elapsed() + Duration::from_secs(3_600));
        self.began + wait
    }
}

/// Loads and serves the shard until it is told to stop.
pub(super) async fn run(mut task: Task) {
    let clock = SteadyClock { began_ms: task.node.now_ms(), began: Instant::now() };
    let mut pause = TXN_RELOAD_PAUSE;
    loop {
        let partition = task.shard.partition;
        let end = match task.load(clock).await {
            Ok(mut loaded) => {
                task.shard.is_loaded.store(true, Ordering::Release);
                let end = loaded.serve(&mut task).await;
                task.shard.is_loaded.store(false, Ordering::Release);
                if !loaded.coordinator.is_fenced() {
                    pause = TXN_RELOAD_PAUSE;
                }
                loaded.give_up();
                end
            }
            Err(LoadError::NotLeader) => End::Stop,
            Err(LoadError::Failed(error)) => {
                tracing::error!(partition, "transactions cannot be loaded: {error}; it is tried again");
                End::Reload
            }
        };
        task.refuse_queued();
        if matches!(end, End::Stop) || *task.stop.borrow() {
            break;
        }
        task.node.metrics.transaction_reloads.inc();
        let mut stop = task.stop.clone();
        let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await; // a pause
        pause = (pause * 2).min(TXN_RELOAD_PAUSE_MAX);
    }
    // It may be asked still, until another shard stands in its place.
    task.messages.close();
    task.refuse_queued();
}

impl Task {
    /// Who waits in the queue is told so by its own end of the channel.
    fn refuse_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            drop(message);
        }
    }

    async fn load(&mut self, clock: SteadyClock) -> Result<Loaded, LoadError> {
        let began = Instant::now();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let mut stop = self.stop.clone();
        let loader = tokio::select! {
            loaded = load(&self.partition, self.shard.epoch, &is_given_up) => loaded?,
            _ = stop.wait_for(|stop| *stop) => {
                is_given_up.store(true, Ordering::Relaxed);
                return Err(LoadError::NotLeader);
            }
        };
        let mut effects = Vec::new();
        let settings = txn_settings(&self.node.settings);
        let coordinator = loader.finish(settings, self.shard.epoch, clock.now_ms(), &mut effects);
        let mut loaded = Loaded {
            node: self.node.clone(),
            partition: self.partition.clone(),
            shard: self.shard.clone(),
            coordinator,
            clock,
            asked: HashMap::new(),
            next_request: 0,
            pending: VecDeque::new(),
            rounds: JoinSet::new(),
            waiting: BTreeMap::new(),
            effects,
        };
        if loaded.carry_out().is_err() {
            return Err(LoadError::Failed("what the load has to write cannot be appended".into()));
        }
        let (ids, ms) = (loaded.coordinator.len(), began.elapsed().as_millis());
        tracing::debug!(partition = self.shard.partition, ids, ms, "transactions loaded");
        Ok(loaded)
    }
}

impl Loaded {
    async fn serve(&mut self, task: &mut Task) -> End {
        loop {
            let has_room = self.pending.len() < TXN_APPENDS_PENDING_MAX;
            let tick_at = self.coordinator.next_due().map(|due| self.clock.at(due));
            let outcome = tokio::select! {
                _ = task.stop.wait_for(|stop| *stop) => Err(End::Stop),
                (write, committed) = front(&mut self.pending) => self.committed(write, committed),
                Some(round) = self.rounds.join_next(), if !self.rounds.is_empty() => self.marked(round),
                message = task.messages.recv(), if has_room => match message {
                    Some(message) => self.take(message),
                    None => Err(End::Stop),
                },
                () = sleep(tick_at), if has_room => {
                    self.coordinator.tick(self.clock.now_ms(), &mut self.effects);
                    self.carry_out()
                }
            };
            self.shard.ids.store(self.coordinator.len() as u64, Ordering::Relaxed);
            if let Err(end) = outcome {
                return end;
            }
            if self.coordinator.is_fenced() {
                tracing::warn!(
                    partition = self.shard.partition,
                    epoch = self.shard.epoch,
                    "a newer coordinator of these transactions was met"
                );
                return End::Reload;
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), End> {
        let now = self.clock.now_ms();
        let (request, answer) = match message {
            Message::Read(look) => {
                look(&self.coordinator, now);
                return Ok(());
            }
            Message::Request { request, answer } => (request, answer),
        };
        let id = self.next_request;
        self.next_request += 1;
        self.asked.insert(id, answer);
        let (coordinator, effects, node) = (&mut self.coordinator, &mut self.effects, &self.node);
        let mut fresh = || node.producer_ids.take();
        match request {
            Request::InitProducerId(asked) => {
                coordinator.init_producer_id(now, id, &asked, &mut fresh, effects);
            }
            Request::AddPartitions(asked) => coordinator.add_partitions(now, id, &asked, effects),
            Request::AddOffsets(asked) => coordinator.add_offsets(now, id, &asked, effects),
            Request::EndTxn(asked) => coordinator.end_txn(now, id, &asked, &mut fresh, effects),
        }
        self.carry_out()
    }

    fn committed(
        &mut self,
        write: WriteId,
        outcome: Result<Result<(), AppendFailure>, End>,
    ) -> Result<(), End> {
        self.pending.pop_front();
        self.coordinator.appended(self.clock.now_ms(), write, outcome?, &mut self.effects);
        self.carry_out()
    }

    fn marked(&mut self, round: Result<MarkerAnswer, JoinError>) -> Result<(), End> {
        match round {
            Ok(answer) => self.coordinator.marked(self.clock.now_ms(), &answer, &mut self.effects),
            // It is sent again when its time has come.
            Err(panic) => tracing::error!("a round of markers has ended by a defect: {panic}"),
        }
        while self.rounds.len() < TXN_ROUNDS_PENDING_MAX
            && let Some((_, markers)) = self.waiting.pop_first()
        {
            self.rounds.spawn(markers::send(self.node.clone(), markers));
        }
        self.carry_out()
    }

    fn carry_out(&mut self) -> Result<(), End> {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Append { write, record } => self.append(write, &record)?,
                    Effect::Reply { request, reply } => {
                        if let Some(asked) = self.asked.remove(&request) {
                            let _ = asked.send(reply); // who asked may be gone
                        }
                    }
                    Effect::Mark(markers) if self.rounds.len() < TXN_ROUNDS_PENDING_MAX => {
                        self.rounds.spawn(markers::send(self.node.clone(), markers));
                    }
                    Effect::Mark(markers) => {
                        self.waiting.insert(markers.transactional_id.clone(), markers);
                    }
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, write: WriteId, record: &TxnRecord) -> Result<(), End> {
        let now_ms = self.node.now_ms();
        let (partition, epoch) = (self.partition.clone(), self.shard.epoch);
        let batch = encode(record, now_ms).map_err(|error| {
            tracing::error!(partition = self.shard.partition, "a record cannot be read back: {error}");
            End::Reload
        })?;
        let appended = match (&partition.terms().raft, self.node.disk.is_full()) {
            (_, true) => Err(AppendRefusal::DiskFull),
            (Some(raft), false) => {
                let origin = Origin::Coordinator(None);
                let proposed = partition.propose_as(&self.node, raft, &batch, origin, true);
                proposed.map(|proposal| {
                    let partition = partition.clone();
                    let committed: BoxFuture<'static, _> = Box::pin(async move {
                        match proposal.outcome().await {
                            // A proposal cannot name its term; one that waited may have come into another.
                            Ok(appended) if partition.epoch_at(appended.base_offset) == epoch => Ok(Ok(())),
                            Err(ProposeRefusal::NoMajority) => Ok(Err(AppendFailure::Unavailable)),
                            Ok(_) | Err(_) => Err(End::Reload),
                        }
                    });
                    Some(committed)
                })
            }
            (None, false) => {
                let appended = partition.append_in(&self.node, &batch, true, now_ms, Some(epoch));
                appended.map(|appended| {
                    let (wait, partition) = (appended.waits?, partition.clone());
                    let committed: BoxFuture<'static, _> = Box::pin(async move {
                        match partition.wait_acked(&wait).await {
                            // Committed is committed, with however few replicas.
                            Ok(()) | Err(AckFailure::NotEnoughReplicas) => Ok(Ok(())),
                            Err(AckFailure::NotLeader | AckFailure::Unavailable(_)) => Err(End::Stop),
                        }
                    });
                    Some(committed)
                })
            }
        };
        match appended {
            Ok(Some(committed)) => self.pending.push_back(Pending { write, committed }),
            Ok(None) => self.coordinator.appended(self.clock.now_ms(), write, Ok(()), &mut self.effects),
            Err(refusal) => {
                tracing::debug!(partition = self.shard.partition, "a record is not appended: {refusal}");
                let failure = Err(failure(&refusal));
                self.coordinator.appended(self.clock.now_ms(), write, failure, &mut self.effects);
            }
        }
        Ok(())
    }

    /// Everybody who waits is told that this is over.
    fn give_up(self) {
        let Loaded { coordinator, mut asked, shard, .. } = self;
        let mut effects = Vec::new();
        coordinator.resign(&mut effects);
        for effect in effects {
            if let Effect::Reply { request, reply } = effect
                && let Some(asked) = asked.remove(&request)
            {
                let _ = asked.send(reply); // who asked may be gone
            }
        }
        shard.ids.store(0, Ordering::Relaxed);
    }
}

/// Nothing of it was appended.
fn failure(refusal: &AppendRefusal) -> AppendFailure {
    match refusal {
        AppendRefusal::Leader(LeaderRefusal::NotEnoughReplicas { .. })
        | AppendRefusal::DiskFull
        | AppendRefusal::Unavailable(_)
        | AppendRefusal::Storage(_) => AppendFailure::Unavailable,
        AppendRefusal::Leader(_) => AppendFailure::NotLeader,
        AppendRefusal::Sequence(_) => AppendFailure::Refused,
    }
}

fn encode(record: &TxnRecord, now_ms: i64) -> Result<AcceptedBatch, BatchError> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    let bytes: Bytes = builder.build();
    let header = BatchHeader::parse(&bytes)?;
    let records_bytes = bytes.len() - HEADER_BYTES;
    Ok(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
}

/// Waits for the first append on its way; for ever if there is none.
async fn front(pending: &mut VecDeque<Pending>) -> (WriteId, Result<Result<(), AppendFailure>, End>) {
    match pending.front_mut() {
        Some(pending) => (pending.write, pending.committed.as_mut().await),
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
