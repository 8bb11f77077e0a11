//! The task that owns one shard: asks, commits, time and the fate of releases in; records into the journal,
//! answers and releases out.
//!
//! An entry becomes state when it is appended; what follows from it, an answer or a release, stands with the
//! append until that is committed. Whatever this task cannot know ends the shard: another is loaded from what
//! is committed. Invariants: 3, 6, 16.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use highwater_model::limits::{
    DELAYED_CLOCK_PAUSE, DELAYED_COUNT_PAUSE, DELAYED_GONE_PAUSE, DELAYED_RELEASES_MAX,
    DELAYED_RETRY_PAUSE_MAX, SHARD_REWRITE_BATCH_BYTES, SHARD_REWRITE_PART_BYTES,
};
use highwater_model::{Offset, ProducerId, TopicPartition};
use highwater_wire::AcceptedBatch;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::release::{Outcome, deliver, is_gone};
use super::{Answer, AskFailure, Message, OfDelays};
use crate::core::delayed::{self as core, CodecError, Entry, Limits, Pass, Take, TakeRefusal};
use crate::node::Node;
use crate::replica::Origin;
use crate::shards::load::Sink;
use crate::shards::{
    End, Fate, Kind, LoadError, Rewriter, Serve, Shard, ShardLog, Task, Todo, Wrote, batch, sleep_until,
};

/// What the records of one batch of the journal may take: an ask, or a part of a pass, with room to spare.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys of a millisecond, as a power of two.
const KEY_TIME_SHIFT: u32 = 20;

/// The journal on its way into a shard.
#[derive(Default)]
struct Loader(core::Shard);

impl Sink for Loader {
    const BATCH_BYTES_MAX: usize = BATCH_BYTES_MAX;

    fn take(
        &mut self,
        at: Offset,
        _producer: Option<ProducerId>,
        _key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), LoadError> {
        let Some(value) = value else { return Ok(()) };
        let entry = core::decode(value).map_err(|error| LoadError::failed(format!("at {at}: {error}")))?;
        self.0.apply(&entry);
        Ok(())
    }
}

/// What is to be done when an append is committed.
#[derive(Default)]
struct Then {
    answers: Vec<(oneshot::Sender<Answer>, Vec<u32>)>,
    release: Option<TopicPartition>,
}

/// What a task beside the shard has to say.
enum Told {
    /// The fate of a release: of the try of this number.
    Released(TopicPartition, u64, Result<Outcome, CodecError>),
    /// These targets are deleted.
    Gone(Vec<TopicPartition>),
    /// It was looked for producer ids.
    Ids,
}

/// A loaded shard.
pub struct Loaded {
    node: Arc<Node>,
    shard: Arc<Shard<OfDelays>>,
    state: core::Shard,
    limits: Limits,
    log: ShardLog<Then>,
    /// Key of the next entry: from the time of the load on, finer than entries are written.
    next_key: u64,
    rewriter: Rewriter,
    pass: Option<Pass>,
    beside: JoinSet<Told>,
    /// Releases on their way, by the number of the try.
    sending: BTreeMap<TopicPartition, u64>,
    tries: u64,
    /// Committed plans that wait for others to be carried out.
    to_send: BTreeSet<TopicPartition>,
    /// Nothing is planned or sent before: the journal took no writes.
    held_until: Option<Instant>,
    /// Nothing is planned before: a target had no producer id.
    plan_at: Option<Instant>,
    is_awaiting_ids: bool,
    gone_at: Instant,
    is_looking_for_gone: bool,
    count_at: Option<Instant>,
}

/// Reads the journal and makes of it what serves.
pub(super) async fn load(task: &mut Task<OfDelays>) -> Result<Loaded, LoadError> {
    let began = Instant::now();
    let (Loader(state), log_bytes) = task.read(Loader::default()).await?;
    let settings = &task.node.settings;
    let bytes_min = settings.delayed_topic_rewrite_bytes;
    let mut loaded = Loaded {
        node: task.node.clone(),
        shard: task.shard.clone(),
        limits: Limits::of_bytes(settings.delayed_partition_max_bytes),
        log: task.log(),
        next_key: u64::try_from(task.node.now_ms()).unwrap_or(0) << KEY_TIME_SHIFT,
        rewriter: Rewriter::new(OfDelays::HOLDS, log_bytes, state.live_bytes(), bytes_min),
        state,
        pass: None,
        beside: JoinSet::new(),
        sending: BTreeMap::new(),
        tries: 0,
        to_send: BTreeSet::new(),
        held_until: None,
        plan_at: None,
        is_awaiting_ids: false,
        gone_at: Instant::now() + DELAYED_GONE_PAUSE,
        is_looking_for_gone: false,
        count_at: None,
    };
    // What the last leader may or may not have sent: the targets know.
    loaded.to_send.extend(loaded.state.planned());
    loaded.send_on();
    loaded.count();
    let (records, ms) = (loaded.state.records(), began.elapsed().as_millis());
    let partition = task.shard.partition;
    tracing::debug!(partition, records, bytes = log_bytes, ms, "delayed records loaded");
    Ok(loaded)
}

impl Serve<OfDelays> for Loaded {
    async fn serve(&mut self, task: &mut Task<OfDelays>) -> End {
        loop {
            let has_room = self.log.has_room();
            let (tick_at, rewrite_at, count_at) = (self.next_tick(), self.rewriter.due, self.count_at);
            let outcome = tokio::select! {
                _ = task.stop.wait_for(|stop| *stop) => Err(End::Stop),
                (then, fate) = self.log.next() => self.settled(then, fate),
                Some(told) = self.beside.join_next(), if has_room && !self.beside.is_empty() => {
                    self.hear(told)
                }
                message = task.messages.recv(), if has_room => match message {
                    Some(message) => self.take(message),
                    None => Err(End::Stop),
                },
                () = sleep_until(tick_at), if has_room => self.tick(),
                () = sleep_until(rewrite_at), if has_room => self.rewrite_on(),
                raised = self.rewriter.raised() => {
                    self.rewriter.settle(self.shard.partition, raised);
                    Ok(())
                }
                () = tokio::time::sleep_until(self.gone_at) => {
                    self.look_for_gone();
                    Ok(())
                }
                () = sleep_until(count_at) => {
                    self.count();
                    Ok(())
                }
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    fn give_up(mut self) {
        // Who waits for an answer hears it from the end of the channel.
        self.log.abandon().for_each(drop);
        self.beside.abort_all();
        self.state = core::Shard::default();
        self.count();
    }
}

impl Loaded {
    /// When a plan is to be made, or the clock looked at again.
    fn next_tick(&self) -> Option<Instant> {
        if !self.to_send.is_empty() && self.held_until.is_some() {
            return self.held_until;
        }
        let wait_ms = self.state.next_due()?.saturating_sub(self.node.now_ms());
        let wait = std::time::Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        let at = Instant::now() + wait.min(DELAYED_CLOCK_PAUSE);
        // None is before any time.
        self.held_until.max(self.plan_at).max(Some(at))
    }

    /// An entry is appended and becomes state. False: nothing of it is in the log, and nothing has changed.
    fn enter(&mut self, entry: &Entry, then: Then) -> Result<bool, End> {
        if !self.log.may_write()? {
            return Ok(false);
        }
        let batch = self.batch(std::slice::from_ref(entry), usize::MAX)?.pop().expect("one entry");
        match self.log.append(&batch, Origin::Coordinator(None)) {
            Ok(committing) => {
                self.state.apply(entry);
                self.rewriter.appended(batch.bytes.len());
                self.count_at.get_or_insert_with(|| Instant::now() + DELAYED_COUNT_PAUSE);
                match committing {
                    Some(committing) => self.log.push(then, committing),
                    None => self.then(then),
                }
                Ok(true)
            }
            Err(refusal) => {
                tracing::debug!(partition = self.shard.partition, "the journal takes no entry: {refusal}");
                Ok(false)
            }
        }
    }

    /// Entries as batches of about so many bytes. Their keys are all different: the topic says "compact", and
    /// nothing of it may go before the shard says so.
    fn batch(&mut self, entries: &[Entry], bytes_max: usize) -> Result<Vec<AcceptedBatch>, End> {
        let first = self.next_key;
        self.next_key += entries.len() as u64;
        let one = |(key, entry): (u64, &Entry)| {
            (Bytes::copy_from_slice(&key.to_be_bytes()), Some(Bytes::from(core::encode(entry))))
        };
        let batches = batch::encode_all((first..).zip(entries).map(one), bytes_max, self.node.now_ms());
        batches.map_err(|error| {
            tracing::error!(partition = self.shard.partition, "an entry cannot be read back: {error}");
            End::Reload
        })
    }

    fn settled(&mut self, then: Then, fate: Result<Fate, End>) -> Result<(), End> {
        match fate? {
            Fate::Committed => self.then(then),
            // It is part of the state, and not of the log.
            Fate::Refused => return Err(End::Reload),
        }
        Ok(())
    }

    fn then(&mut self, then: Then) {
        for (answer, deltas) in then.answers {
            let _ = answer.send(Ok(deltas)); // who asked may be gone
        }
        if let Some(target) = then.release {
            self.to_send.insert(target);
            self.send_on();
        }
    }

    fn take(&mut self, Message { ask, answer }: Message) -> Result<(), End> {
        if !self.log.may_write()? {
            let _ = answer.send(Err(AskFailure::NotNow)); // who asked may be gone
            return Ok(());
        }
        match self.state.decide_take(self.node.now_ms(), &ask, self.limits) {
            Err(refusal) => {
                let text = refusal.to_string();
                let failure = match refusal {
                    TakeRefusal::Older { .. } => AskFailure::Older(text),
                    TakeRefusal::Full { .. } | TakeRefusal::Batch { .. } => AskFailure::Full(text),
                    TakeRefusal::Record(_) => AskFailure::Unfit(text),
                };
                let _ = answer.send(Err(failure)); // who asked may be gone
            }
            // What it says may not be committed yet.
            Ok(Take::Known(deltas)) => match self.log.last_mut() {
                Some(last) => last.answers.push((answer, deltas)),
                None => self.then(Then { answers: vec![(answer, deltas)], release: None }),
            },
            Ok(Take::Nothing) => {
                let _ = answer.send(Ok(Vec::new())); // who asked may be gone
            }
            Ok(Take::New(entry)) => {
                let Entry::Taken { records, .. } = &entry else { unreachable!("what an ask enters") };
                let deltas = records.iter().map(|one| one.delta).collect();
                let then = Then { answers: vec![(answer, deltas)], release: None };
                // Refused, its end of the answer is dropped.
                self.enter(&entry, then)?;
            }
        }
        Ok(())
    }

    /// Plans what is due.
    fn tick(&mut self) -> Result<(), End> {
        (self.held_until, self.plan_at) = (None, None);
        self.send_on();
        let now_ms = self.node.now_ms();
        for target in self.state.due(now_ms) {
            if !self.log.has_room() {
                break;
            }
            match self.state.decide_plan(now_ms, target, || self.node.producer_ids.take()) {
                Some(entry) => {
                    let then = Then { answers: Vec::new(), release: Some(target) };
                    if !self.enter(&entry, then)? {
                        self.held_until = Some(Instant::now() + DELAYED_RETRY_PAUSE_MAX);
                        return Ok(());
                    }
                }
                // It has no producer id, and there is none for now. Others have theirs.
                None => self.await_ids(),
            }
        }
        Ok(())
    }

    /// Looks for producer ids, and lets plans wait a moment; what is planned goes on.
    fn await_ids(&mut self) {
        self.plan_at = Some(Instant::now() + DELAYED_RETRY_PAUSE_MAX);
        if std::mem::replace(&mut self.is_awaiting_ids, true) {
            return;
        }
        let node = self.node.clone();
        self.beside.spawn(async move {
            node.producer_ids.prepare(&node).await;
            Told::Ids
        });
    }

    /// Sends committed plans, as many as may be on their way.
    fn send_on(&mut self) {
        if self.held_until.is_some() {
            return;
        }
        while self.sending.len() < DELAYED_RELEASES_MAX
            && let Some(target) = self.to_send.pop_first()
        {
            let Some(release) = self.state.release(target) else { continue };
            let (node, number) = (self.node.clone(), self.tries);
            self.tries += 1;
            self.sending.insert(target, number);
            self.beside.spawn(async move { Told::Released(target, number, deliver(node, release).await) });
        }
    }

    fn hear(&mut self, told: Result<Told, JoinError>) -> Result<(), End> {
        let told = told.map_err(|panic| {
            tracing::error!("a release of delayed records has ended by a defect: {panic}");
            End::Reload
        })?;
        match told {
            Told::Ids => self.is_awaiting_ids = false,
            Told::Gone(targets) => {
                self.is_looking_for_gone = false;
                targets.into_iter().try_for_each(|target| self.gone(target))?;
            }
            Told::Released(target, number, outcome) => {
                // What was dropped meanwhile has no try.
                if self.sending.get(&target) != Some(&number) {
                    return Ok(());
                }
                self.sending.remove(&target);
                self.released(target, outcome)?;
                self.send_on();
            }
        }
        Ok(())
    }

    fn released(&mut self, target: TopicPartition, outcome: Result<Outcome, CodecError>) -> Result<(), End> {
        let partition = self.shard.partition;
        match outcome {
            Ok(Outcome::Done) => {
                let count = self.state.release(target).map_or(0, |release| release.records.len());
                if self.enter(&Entry::Released { target }, Then::default())? {
                    self.node.metrics.delayed.released.inc_by(count as u64);
                } else {
                    self.again(target);
                }
            }
            Ok(Outcome::Gone) => self.gone(target)?,
            Ok(Outcome::Anew) => {
                tracing::warn!(partition, %target, "delayed records are sent under a new producer id");
                let fresh = self.node.producer_ids.take();
                let entry = fresh.and_then(|fresh| self.state.decide_anew(target, fresh));
                let then = Then { answers: Vec::new(), release: Some(target) };
                let entered = match entry {
                    Some(entry) => self.enter(&entry, then)?,
                    None => false,
                };
                if !entered {
                    self.await_ids();
                    self.again(target);
                }
            }
            Err(error) => {
                tracing::error!(partition, %target, "delayed records do not read: {error}");
                return Err(End::Reload);
            }
        }
        Ok(())
    }

    /// The outcome cannot be entered: the release is sent once more, which changes nothing at the target.
    fn again(&mut self, target: TopicPartition) {
        self.to_send.insert(target);
        self.held_until = Some(Instant::now() + DELAYED_RETRY_PAUSE_MAX);
    }

    fn gone(&mut self, target: TopicPartition) -> Result<(), End> {
        let records = self.state.records_of(target) as u64;
        if self.enter(&Entry::Gone { target }, Then::default())? {
            self.sending.remove(&target);
            self.to_send.remove(&target);
            self.node.metrics.delayed.dropped.inc_by(records);
            tracing::info!(%target, records, "delayed records of a deleted topic are dropped");
        } else if self.state.planned().any(|planned| planned == target) && !self.sending.contains_key(&target)
        {
            self.again(target);
        }
        Ok(())
    }

    /// Looks for targets that are deleted though nothing of theirs is due.
    fn look_for_gone(&mut self) {
        self.gone_at = Instant::now() + DELAYED_GONE_PAUSE;
        self.count();
        self.send_on();
        let targets = self.state.targets().collect::<Vec<_>>();
        let unknown = self.node.coordinator.with_state(|state| {
            let unknown = targets.into_iter().filter(|target| state.partition(*target).is_none());
            unknown.collect::<Vec<_>>()
        });
        if unknown.is_empty() || self.is_looking_for_gone {
            return;
        }
        self.is_looking_for_gone = true;
        let node = self.node.clone();
        self.beside.spawn(async move {
            let mut gone = Vec::new();
            for target in unknown {
                if is_gone(&node, target).await {
                    gone.push(target);
                }
            }
            Told::Gone(gone)
        });
    }

    /// The next thing to be done for the journal's size.
    fn rewrite_on(&mut self) -> Result<(), End> {
        let (entries, next) = match self.rewriter.on(&self.log)? {
            Todo::Nothing => return Ok(()),
            Todo::Begin => {
                self.pass = None;
                return Ok(());
            }
            Todo::Part => match self.pass {
                None => {
                    let (entries, pass) = self.state.begin_pass(self.node.now_ms());
                    (entries, Some(pass))
                }
                Some(pass) => self.state.pass_part(pass, SHARD_REWRITE_PART_BYTES),
            },
        };
        let mut wrote = Wrote { bytes: 0, waits: false, is_last: next.is_none() };
        for batch in self.batch(&entries, SHARD_REWRITE_BATCH_BYTES)? {
            let committing = self.log.append(&batch, Origin::Coordinator(None)).map_err(|refusal| {
                let partition = self.shard.partition;
                tracing::warn!(partition, "delayed records cannot be written again: {refusal}");
                End::Reload
            })?;
            wrote.bytes += batch.bytes.len() as u64;
            self.rewriter.appended(batch.bytes.len());
            if let Some(committing) = committing {
                self.log.push(Then::default(), committing);
            }
        }
        entries.iter().for_each(|entry| self.state.apply(entry));
        self.pass = next;
        self.rewriter.wrote(&self.log, wrote);
        Ok(())
    }

    fn count(&mut self) {
        self.count_at = None;
        let counts = &self.shard.counts;
        counts.records.store(self.state.records() as u64, Ordering::Relaxed);
        counts.bytes.store(self.state.bytes(), Ordering::Relaxed);
        counts.oldest_due_ms.store(self.state.oldest_due().unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}
