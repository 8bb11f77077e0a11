//! The task that owns one shard: requests, commits, answers to markers and time in; records into the log,
//! markers to the partitions' leaders, answers out.
//!
//! The coordinator answers nobody before the record is committed; here it is told when that is. Whatever this
//! task cannot know, such as an append that leadership was lost over, ends the shard: another is loaded from
//! what is committed. Invariants: 3, 6, 16.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use highwater_groups::core::txn::{
    AppendFailure, Coordinator, Effect, Loader, MarkerAnswer, Markers, Reply, RequestId, RewritePart,
    TxnRecord, WriteId,
};
use highwater_groups::core::types::Name;
use highwater_model::limits::{SHARD_REWRITE_BATCH_BYTES, SHARD_REWRITE_PART_BYTES, TXN_ROUNDS_PENDING_MAX};
use highwater_wire::batch::BatchError;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::{Message, OfTransactions, Request, markers, txn_settings};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::AppendRefusal;
use crate::replica::Origin;
use crate::shards::{
    End, Fate, Kind, LoadError, Rewriter, Serve, Shard, ShardLog, SteadyClock, Task, Todo, batch, sleep_until,
};

/// A loaded shard.
pub struct Loaded {
    node: Arc<Node>,
    shard: Arc<Shard<OfTransactions>>,
    coordinator: Coordinator,
    clock: SteadyClock,
    asked: HashMap<RequestId, oneshot::Sender<Reply>>,
    next_request: RequestId,
    /// With each append the write that it is; none for a record of a pass.
    log: ShardLog<Option<WriteId>>,
    rewriter: Rewriter,
    rounds: JoinSet<MarkerAnswer>,
    /// Rounds that wait for others to end, the newest of each transactional id.
    waiting: BTreeMap<Name, Markers>,
    effects: Vec<Effect>,
}

/// Reads the shard's log and makes of it what serves.
pub(super) async fn load(task: &mut Task<OfTransactions>) -> Result<Loaded, LoadError> {
    let (began, clock) = (Instant::now(), task.clock);
    let (loader, bytes) = task.read(Loader::default()).await?;
    let mut effects = Vec::new();
    let settings = txn_settings(&task.node.settings);
    let coordinator = loader.finish(settings, task.shard.epoch, clock.now_ms(), &mut effects);
    let bytes_min = task.node.settings.transaction_state_topic_rewrite_bytes;
    let rewriter = Rewriter::new(OfTransactions::HOLDS, bytes, coordinator.live_bytes(), bytes_min);
    let mut loaded = Loaded {
        node: task.node.clone(),
        shard: task.shard.clone(),
        coordinator,
        clock,
        asked: HashMap::new(),
        next_request: 0,
        log: task.log(),
        rewriter,
        rounds: JoinSet::new(),
        waiting: BTreeMap::new(),
        effects,
    };
    if loaded.carry_out().is_err() {
        return Err(LoadError::failed("what the load has to write cannot be appended"));
    }
    let (ids, ms) = (loaded.coordinator.len(), began.elapsed().as_millis());
    tracing::debug!(partition = task.shard.partition, ids, bytes, ms, "transactions loaded");
    Ok(loaded)
}

impl Serve<OfTransactions> for Loaded {
    async fn serve(&mut self, task: &mut Task<OfTransactions>) -> End {
        loop {
            let has_room = self.log.has_room();
            let tick_at = self.coordinator.next_due().map(|due| self.clock.at(due));
            let rewrite_at = self.rewriter.due;
            let outcome = tokio::select! {
                _ = task.stop.wait_for(|stop| *stop) => Err(End::Stop),
                (write, fate) = self.log.next() => self.settled(write, fate),
                Some(round) = self.rounds.join_next(), if !self.rounds.is_empty() => self.marked(round),
                message = task.messages.recv(), if has_room => match message {
                    Some(message) => self.take(message),
                    None => Err(End::Stop),
                },
                () = sleep_until(tick_at), if has_room => {
                    self.coordinator.tick(self.clock.now_ms(), &mut self.effects);
                    self.carry_out()
                }
                () = sleep_until(rewrite_at), if has_room => self.rewrite_on(),
                raised = self.rewriter.raised() => {
                    if self.rewriter.settle(self.shard.partition, raised) {
                        self.node.metrics.transaction_rewrites.inc();
                    }
                    Ok(())
                }
            };
            self.shard.counts.store(self.coordinator.len() as u64, Ordering::Relaxed);
            if let Err(end) = outcome {
                return end;
            }
            if self.coordinator.is_fenced() {
                let (partition, epoch) = (self.shard.partition, self.shard.epoch);
                tracing::warn!(partition, epoch, "a newer coordinator of these transactions was met");
                return End::Reload;
            }
        }
    }

    fn has_served(&self) -> bool {
        !self.coordinator.is_fenced()
    }

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
        shard.counts.store(0, Ordering::Relaxed);
    }
}

impl Loaded {
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

    fn settled(&mut self, write: Option<WriteId>, fate: Result<Fate, End>) -> Result<(), End> {
        let outcome = match (fate?, write) {
            (Fate::Committed, _) => Ok(()),
            (Fate::Refused, Some(_)) => Err(AppendFailure::Unavailable),
            (Fate::Refused, None) => {
                self.rewriter.abandon();
                return Ok(());
            }
        };
        let Some(write) = write else { return Ok(()) };
        self.coordinator.appended(self.clock.now_ms(), write, outcome, &mut self.effects);
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
        let record = (record.key.clone(), record.value.clone());
        let batch = batch::encode(std::iter::once(record), None, self.node.now_ms());
        let batch = batch.map_err(|error| self.cannot_encode(&error))?;
        let appended = match self.node.disk.is_full() {
            true => {
                self.log.partition().refused_for_room(self.node.now_ms());
                Err(AppendRefusal::DiskFull)
            }
            false => self.log.append(&batch, Origin::Coordinator(None)),
        };
        if appended.is_ok() {
            self.rewriter.appended(batch.bytes.len());
        }
        match appended {
            Ok(Some(committing)) => self.log.push(Some(write), committing),
            Ok(None) => self.coordinator.appended(self.clock.now_ms(), write, Ok(()), &mut self.effects),
            Err(refusal) => {
                tracing::debug!(partition = self.shard.partition, "a record is not appended: {refusal}");
                let failure = Err(failure(&refusal));
                self.coordinator.appended(self.clock.now_ms(), write, failure, &mut self.effects);
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// The next thing to be done for the log's size.
    fn rewrite_on(&mut self) -> Result<(), End> {
        match self.rewriter.on(&self.log)? {
            Todo::Nothing => {}
            Todo::Begin => self.coordinator.begin_rewrite(),
            Todo::Part => {
                let RewritePart { records, is_last } = self.coordinator.rewrite(SHARD_REWRITE_PART_BYTES);
                // A part without records waits until a change is settled.
                let waits = records.is_empty() && !is_last;
                let records = records.into_iter().map(|record| (record.key, record.value));
                let batches = batch::encode_all(records, SHARD_REWRITE_BATCH_BYTES, self.node.now_ms());
                let batches = batches.map_err(|error| self.cannot_encode(&error))?;
                let written = self.rewriter.write(&mut self.log, &batches, (waits, is_last), || None);
                if let Err(refusal) = written {
                    let partition = self.shard.partition;
                    tracing::warn!(partition, "transactions are not written again: {refusal}");
                }
            }
        }
        Ok(())
    }

    fn cannot_encode(&self, error: &BatchError) -> End {
        tracing::error!(partition = self.shard.partition, "a record cannot be read back: {error}");
        End::Reload
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
