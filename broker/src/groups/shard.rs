//! The task that owns one shard: events in, records into the log, answers out when they count.
//!
//! One step at a time. What a step appends is committed in the order of the steps, so answers wait in a queue
//! of appends; an answer behind no append leaves at once. If an append fails, everything that waits is told
//! so and the shard is loaded anew. `append.rs` has what goes into the log. Invariants: 3, 6, 16.

mod append;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use highwater_groups::core::answer::{Answer, Effect};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::machine::Groups;
use highwater_groups::core::request::{Event, GoneTopic, Ticket};
use highwater_groups::core::types::{Name, Topics};
use highwater_log::VerificationTicket;
use highwater_model::limits::{
    GROUP_COUNT_PAUSE, SHARD_RETRY_PAUSE, SHARD_REWRITE_BATCH_BYTES, SHARD_REWRITE_PART_BYTES,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::topics::News;
use super::{Asked, Message, OfGroups, Release, batch, group_settings};
use crate::node::Node;
use crate::partition::Partition;
use crate::shards::{
    End, Fate, Kind, LoadError, Rewriter, Serve, Shard, ShardLog, SteadyClock, Task, Todo, sleep_until,
};

/// A loaded shard.
pub struct Loaded {
    node: Arc<Node>,
    partition: Arc<Partition>,
    shard: Arc<Shard<OfGroups>>,
    groups: Groups,
    topics: Arc<Topics>,
    news: watch::Receiver<News>,
    clock: SteadyClock,
    asked: HashMap<Ticket, oneshot::Sender<Result<Answer, GroupError>>>,
    next_ticket: Ticket,
    /// With each append the answers behind it.
    log: ShardLog<Vec<Release>>,
    rewriter: Rewriter,
    effects: Vec<Effect>,
    /// No timer fires before: the partition took no writes.
    held_until: Option<Instant>,
    count_at: Option<Instant>,
}

/// Reads the shard's log and makes of it what serves.
pub(super) async fn load(task: &mut Task<OfGroups>) -> Result<Loaded, LoadError> {
    let (began, clock) = (Instant::now(), task.clock);
    let mut receiver = task.node.groups.shared.subscribe();
    let news = receiver.borrow_and_update().clone();
    let groups = Groups::new(group_settings(&task.node.settings), news.topics.clone(), news.version);
    let (groups, log_bytes) = task.read(groups).await?;
    let counted = tokio::task::spawn_blocking(move || (groups.live_bytes(), groups)).await;
    let (live_bytes, groups) = counted.map_err(LoadError::failed)?;
    let bytes_min = task.node.settings.offsets_topic_rewrite_bytes;
    let mut loaded = Loaded {
        node: task.node.clone(),
        partition: task.partition.clone(),
        shard: task.shard.clone(),
        groups,
        topics: news.topics,
        news: receiver,
        clock,
        asked: HashMap::new(),
        next_ticket: 0,
        log: task.log(),
        rewriter: Rewriter::new(OfGroups::HOLDS, log_bytes, live_bytes, bytes_min),
        effects: Vec::new(),
        held_until: None,
        count_at: None,
    };
    loaded.groups.loaded(clock.now_ms(), &mut loaded.effects);
    if loaded.carry_out(None).is_err() {
        return Err(LoadError::failed("what the load has to write cannot be appended"));
    }
    loaded.count();
    let (groups, ms) = (loaded.shard.counts.groups.load(Ordering::Relaxed), began.elapsed().as_millis());
    tracing::debug!(partition = task.shard.partition, groups, bytes = log_bytes, ms, "groups loaded");
    Ok(loaded)
}

pub(super) fn refuse(message: Message, error: GroupError) {
    match message {
        Message::Request(asked) => {
            let _ = asked.answer.send(Err(error)); // who asked may be gone
        }
        Message::Marker { answer, .. } => {
            let _ = answer.send(Err(error.into())); // who asked may be gone
        }
        // What it would see does not count; the look itself needs a shard. Dropping it says the same.
        Message::Read(read) => drop(read),
    }
}

impl Serve<OfGroups> for Loaded {
    async fn serve(&mut self, task: &mut Task<OfGroups>) -> End {
        loop {
            let has_room = self.log.has_room();
            let tick_at = self.next_tick();
            let (count_at, rewrite_at) = (self.count_at, self.rewriter.due);
            let outcome = tokio::select! {
                _ = task.stop.wait_for(|stop| *stop) => Err(End::Stop),
                (answers, fate) = self.log.next() => release(answers, fate),
                message = task.messages.recv(), if has_room => match message {
                    Some(message) => self.take(message),
                    None => Err(End::Stop),
                },
                () = sleep_until(tick_at), if has_room => self.tick(),
                () = sleep_until(rewrite_at), if has_room => self.rewrite_on(),
                raised = self.rewriter.raised() => {
                    if self.rewriter.settle(self.shard.partition, raised) {
                        self.node.metrics.group_rewrites.inc();
                    }
                    Ok(())
                }
                () = sleep_until(count_at) => {
                    self.count();
                    Ok(())
                }
                _ = self.news.changed(), if self.held_until.is_none() => self.hear(),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    fn give_up(mut self) {
        for release in self.log.abandon().flatten() {
            release(Err(GroupError::NotCoordinator));
        }
        let mut effects = Vec::new();
        self.groups.unload(self.clock.now_ms(), &mut effects);
        for effect in effects {
            if let Effect::Answer { ticket, answer } = effect
                && let Some(asked) = self.asked.remove(&ticket)
            {
                let _ = asked.send(Ok(answer)); // who asked may be gone
            }
        }
        for (_, asked) in self.asked.drain() {
            let _ = asked.send(Err(GroupError::NotCoordinator));
        }
        self.shard.counts.groups.store(0, Ordering::Relaxed);
        self.shard.counts.members.store(0, Ordering::Relaxed);
    }
}

/// Answers that waited for an append leave once it is committed.
fn release(answers: Vec<Release>, fate: Result<Fate, End>) -> Result<(), End> {
    let outcome = match fate {
        Ok(Fate::Committed) => Ok(()),
        // The state has what the log has not.
        Ok(Fate::Refused) => Err(End::Reload),
        Err(end) => Err(end),
    };
    for release in answers {
        release(outcome.map_err(|_| GroupError::NotCoordinator));
    }
    outcome
}

impl Loaded {
    /// When a timer is to fire.
    fn next_tick(&self) -> Option<Instant> {
        let due = self.groups.next_due().map(|due| self.clock.at(due));
        match (due, self.held_until) {
            (Some(due), Some(held)) => Some(due.max(held)),
            (None, held) => held,
            (due, None) => due,
        }
    }

    fn take(&mut self, message: Message) -> Result<(), End> {
        self.count_at.get_or_insert_with(|| Instant::now() + GROUP_COUNT_PAUSE);
        if let Message::Read(read) = message {
            let release = read(&self.groups);
            self.answer(release);
            return Ok(());
        }
        match self.log.may_write() {
            Ok(true) => {}
            Ok(false) => {
                refuse(message, GroupError::CoordinatorNotAvailable);
                return Ok(());
            }
            Err(end) => {
                refuse(message, GroupError::NotCoordinator);
                return Err(end);
            }
        }
        match message {
            Message::Request(asked) => self.request(asked),
            Message::Marker { marker, answer } => self.end_transaction(&marker, answer),
            Message::Read(_) => unreachable!("answered above"),
        }
    }

    fn request(&mut self, asked: Asked) -> Result<(), End> {
        let Asked { client, request, ticket: shown, answer } = asked;
        if let Err(error) = self.check_producer(&request, shown) {
            // What it rests on may not be committed yet.
            self.answer(Box::new(move |outcome: Result<(), GroupError>| {
                let _ = answer.send(Err(outcome.err().unwrap_or(error))); // who asked may be gone
            }));
            return Ok(());
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.asked.insert(ticket, answer);
        self.step(Event::Request { ticket, client, request }, shown)
    }

    fn tick(&mut self) -> Result<(), End> {
        self.held_until = None;
        if !self.log.may_write()? {
            self.held_until = Some(Instant::now() + SHARD_RETRY_PAUSE);
            return Ok(());
        }
        self.step(Event::Tick, None)
    }

    /// The cluster's topics have changed.
    fn hear(&mut self) -> Result<(), End> {
        if !self.log.may_write()? {
            self.news.mark_changed();
            self.held_until = Some(Instant::now() + SHARD_RETRY_PAUSE);
            return Ok(());
        }
        let News { version, topics } = self.news.borrow_and_update().clone();
        let gone = |name: &Name| {
            let now = topics.by_name(name).map(|topic| topic.id);
            let is_gone = self.topics.by_name(name).map(|topic| topic.id) != now;
            is_gone.then(|| GoneTopic { name: name.clone(), now })
        };
        let deleted: Vec<GoneTopic> = self.topics.names().filter_map(gone).collect();
        self.topics = topics.clone();
        if !deleted.is_empty() {
            self.step(Event::TopicsDeleted(deleted), None)?;
        }
        self.step(Event::Topics { version, topics }, None)
    }

    /// `shown`: with the transactional batch of this step.
    fn step(&mut self, event: Event, shown: Option<VerificationTicket>) -> Result<(), End> {
        self.groups.step(self.clock.now_ms(), event, &mut self.effects);
        self.carry_out(shown)
    }

    fn carry_out(&mut self, shown: Option<VerificationTicket>) -> Result<(), End> {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Append { records, transaction } => self.append(&records, transaction, shown)?,
                Effect::Answer { ticket, answer } => {
                    let Some(asked) = self.asked.remove(&ticket) else { continue };
                    if let Answer::CommitOffsets(Ok(offsets)) = &answer {
                        let committed = offsets.iter().filter(|offset| offset.is_ok()).count();
                        self.node.metrics.offset_commits.inc_by(committed as u64);
                    }
                    self.answer(Box::new(move |outcome: Result<(), GroupError>| {
                        let _ = asked.send(outcome.map(|()| answer)); // who asked may be gone
                    }));
                }
            }
        }
        Ok(())
    }

    /// An answer leaves when everything that was appended up to now is committed.
    fn answer(&mut self, release: Release) {
        match self.log.last_mut() {
            Some(answers) => answers.push(release),
            None => release(Ok(())),
        }
    }

    /// The next thing to be done for the log's size.
    fn rewrite_on(&mut self) -> Result<(), End> {
        match self.rewriter.on(&self.log)? {
            Todo::Nothing => {}
            Todo::Begin => self.groups.begin_rewrite(),
            Todo::Part => {
                let part = self.groups.rewrite(SHARD_REWRITE_PART_BYTES);
                let now_ms = self.node.now_ms();
                let batches = batch::encode_all(&part.records, SHARD_REWRITE_BATCH_BYTES, now_ms);
                let batches = batches.map_err(|error| self.cannot_encode(&error))?;
                // A part without records waits for the end of a transaction.
                let waits = part.records.is_empty() && !part.is_last;
                let written = self.rewriter.write(&mut self.log, &batches, (waits, part.is_last), Vec::new);
                written.map_err(|refusal| self.refused(&refusal))?;
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        self.count_at = None;
        let (groups, members) = self.groups.totals();
        self.shard.counts.groups.store(groups as u64, Ordering::Relaxed);
        self.shard.counts.members.store(members as u64, Ordering::Relaxed);
    }
}
