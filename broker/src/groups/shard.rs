//! The task that owns one shard: events in, records into the log, answers out when they count.
//!
//! One step at a time. What a step appends is committed in the order of the steps, so answers wait in a queue
//! of appends; an answer behind no append leaves at once. If an append fails, everything that waits is told
//! so and the shard is loaded anew. `append.rs` has what goes into the log, `rewrite.rs` how the log stays
//! bounded. Invariants: 3, 6, 16.

mod append;
mod rewrite;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_groups::core::answer::{Answer, Effect};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::machine::Groups;
use highwater_groups::core::request::{Event, Ticket};
use highwater_groups::core::types::{Name, Topics};
use highwater_log::VerificationTicket;
use highwater_model::limits::{
    GROUP_APPENDS_PENDING_MAX, GROUP_COUNT_PAUSE, GROUP_RETRY_PAUSE, GROUP_RETRY_PAUSE_MAX,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::follow::News;
use super::load::{LoadError, load};
use super::{Asked, Message, Release, Shard, batch, group_settings};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::Partition;
use append::{Pending, front};
use rewrite::Rewriter;

/// What the task works with as long as it lives.
pub(super) struct Task {
    pub node: Arc<Node>,
    pub partition: Arc<Partition>,
    pub shard: Arc<Shard>,
    pub messages: mpsc::Receiver<Message>,
    pub news: watch::Receiver<News>,
    pub stop: watch::Receiver<bool>,
}

/// Why a shard serves no longer.
#[derive(Debug)]
enum End {
    /// Another leads, or the node stops.
    Stop,
    /// The state is not what the log says: load it anew.
    Reload,
}

/// A loaded shard.
struct Loaded {
    node: Arc<Node>,
    partition: Arc<Partition>,
    shard: Arc<Shard>,
    groups: Groups,
    topics: Arc<Topics>,
    clock: SteadyClock,
    asked: HashMap<Ticket, oneshot::Sender<Result<Answer, GroupError>>>,
    next_ticket: Ticket,
    pending: VecDeque<Pending>,
    /// Appends that ever were in `pending`, and those of them that are committed.
    appended: u64,
    committed: u64,
    rewriter: Rewriter,
    effects: Vec<Effect>,
    /// No timer fires before: the partition took no writes.
    held_until: Option<Instant>,
    count_at: Option<Instant>,
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
        self.began + Duration::from_millis(u64::try_from(due_ms - self.began_ms).unwrap_or(0))
    }
}

/// Loads and serves the shard until it is told to stop.
pub(super) async fn run(mut task: Task) {
    // One clock for the shard's life: time must not go back when it is loaded anew.
    let clock = SteadyClock { began_ms: task.node.now_ms(), began: Instant::now() };
    let mut pause = GROUP_RETRY_PAUSE;
    loop {
        let partition = task.shard.partition;
        let end = match task.load(clock).await {
            Ok(mut loaded) => {
                task.shard.is_loaded.store(true, Ordering::Release);
                pause = GROUP_RETRY_PAUSE;
                let end = loaded.serve(&mut task).await;
                task.shard.is_loaded.store(false, Ordering::Release);
                loaded.give_up();
                end
            }
            Err(LoadError::NotLeader) => End::Stop,
            Err(LoadError::Failed(error)) => {
                tracing::error!(partition, "groups cannot be loaded: {error}; it is tried again");
                End::Reload
            }
        };
        task.refuse_queued();
        if matches!(end, End::Stop) || task.is_stopped() {
            break;
        }
        task.node.metrics.group_reloads.inc();
        let mut stop = task.stop.clone();
        let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await; // a pause
        pause = (pause * 2).min(GROUP_RETRY_PAUSE_MAX);
    }
    // It may be asked still, until another shard stands in its place.
    task.messages.close();
    task.refuse_queued();
}

impl Task {
    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn refuse_queued(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            refuse(message, GroupError::NotCoordinator);
        }
    }

    async fn load(&mut self, clock: SteadyClock) -> Result<Loaded, LoadError> {
        let began = Instant::now();
        let news = self.news.borrow_and_update().clone();
        let groups = Groups::new(group_settings(&self.node.settings), news.topics.clone(), news.version);
        let is_given_up = Arc::new(AtomicBool::new(false));
        let loading = load(&self.partition, self.shard.epoch, groups, &is_given_up);
        let mut stop = self.stop.clone();
        let (groups, read) = tokio::select! {
            loaded = loading => loaded?,
            _ = stop.wait_for(|stop| *stop) => {
                is_given_up.store(true, Ordering::Relaxed);
                return Err(LoadError::NotLeader);
            }
        };
        let bytes_min = self.node.settings.offsets_topic_rewrite_bytes;
        let mut loaded = Loaded {
            node: self.node.clone(),
            partition: self.partition.clone(),
            shard: self.shard.clone(),
            groups,
            topics: news.topics,
            clock,
            asked: HashMap::new(),
            next_ticket: 0,
            pending: VecDeque::new(),
            appended: 0,
            committed: 0,
            rewriter: Rewriter::new(read.log_bytes, read.live_bytes, bytes_min),
            effects: Vec::new(),
            held_until: None,
            count_at: None,
        };
        loaded.groups.loaded(clock.now_ms(), &mut loaded.effects);
        if loaded.carry_out(None).is_err() {
            return Err(LoadError::Failed("what the load has to write cannot be appended".into()));
        }
        loaded.count();
        let (groups, ms) = (loaded.shard.groups.load(Ordering::Relaxed), began.elapsed().as_millis());
        let bytes = read.log_bytes;
        tracing::debug!(partition = self.shard.partition, groups, bytes, ms, "groups loaded");
        Ok(loaded)
    }
}

fn refuse(message: Message, error: GroupError) {
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

impl Loaded {
    async fn serve(&mut self, task: &mut Task) -> End {
        loop {
            let has_room = self.pending.len() < GROUP_APPENDS_PENDING_MAX;
            let tick_at = self.next_tick();
            let (count_at, rewrite_at) = (self.count_at, self.rewriter.due);
            let outcome = tokio::select! {
                _ = task.stop.wait_for(|stop| *stop) => Err(End::Stop),
                committed = front(&mut self.pending) => match committed {
                    Ok(()) => {
                        self.release_front();
                        Ok(())
                    }
                    Err(end) => Err(end),
                },
                message = task.messages.recv(), if has_room => match message {
                    Some(message) => self.take(message),
                    None => Err(End::Stop),
                },
                () = sleep(tick_at), if has_room => self.tick(),
                () = sleep(rewrite_at), if has_room => self.rewrite_on(),
                raised = self.rewriter.raised() => {
                    self.raised(raised);
                    Ok(())
                }
                () = sleep(count_at) => {
                    self.count();
                    Ok(())
                }
                _ = task.news.changed(), if self.held_until.is_none() => self.hear(&mut task.news),
            };
            if let Err(end) = outcome {
                return end;
            }
        }
    }

    /// When a timer is to fire.
    fn next_tick(&self) -> Option<Instant> {
        let due = self.groups.next_due().map(|due| self.clock.at(due));
        match (due, self.held_until) {
            (Some(due), Some(held)) => Some(due.max(held)),
            (None, held) => held,
            (due, None) => due,
        }
    }

    /// Whether a step may write now. `Err`: this shard's time is over.
    fn may_write(&mut self) -> Result<bool, End> {
        if self.node.disk.is_full() {
            self.partition.refused_for_room(self.node.now_ms());
            return Ok(false);
        }
        match self.partition.takes_writes(self.shard.epoch) {
            Ok(()) => Ok(true),
            Err(LeaderRefusal::NotEnoughReplicas { .. }) => Ok(false),
            Err(_) => {
                // While it hands over, it still leads; the shard ends with the epoch.
                let terms = self.partition.terms();
                let is_over = !terms.is_leader || terms.leader_epoch != self.shard.epoch;
                if is_over { Err(End::Stop) } else { Ok(false) }
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), End> {
        self.count_at.get_or_insert_with(|| Instant::now() + GROUP_COUNT_PAUSE);
        if let Message::Read(read) = message {
            let release = read(&self.groups);
            self.answer(release);
            return Ok(());
        }
        match self.may_write() {
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
        if !self.may_write()? {
            self.held_until = Some(Instant::now() + GROUP_RETRY_PAUSE);
            return Ok(());
        }
        self.step(Event::Tick, None)
    }

    /// The cluster's topics have changed.
    fn hear(&mut self, news: &mut watch::Receiver<News>) -> Result<(), End> {
        if !self.may_write()? {
            news.mark_changed();
            self.held_until = Some(Instant::now() + GROUP_RETRY_PAUSE);
            return Ok(());
        }
        let News { version, topics } = news.borrow_and_update().clone();
        let is_gone = |name: &&Name| {
            self.topics.by_name(name).map(|topic| topic.id) != topics.by_name(name).map(|topic| topic.id)
        };
        let deleted: Vec<Name> = self.topics.names().filter(is_gone).cloned().collect();
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
        match self.pending.back_mut() {
            Some(pending) => pending.answers.push(release),
            None => release(Ok(())),
        }
    }

    fn release_front(&mut self) {
        let done = self.pending.pop_front().expect("the front was waited for");
        self.committed += 1;
        for release in done.answers {
            release(Ok(()));
        }
    }

    /// Everybody who waits is told that this is over.
    fn give_up(mut self) {
        for release in self.pending.drain(..).flat_map(|pending| pending.answers) {
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
        self.shard.groups.store(0, Ordering::Relaxed);
        self.shard.members.store(0, Ordering::Relaxed);
    }

    fn count(&mut self) {
        self.count_at = None;
        let (groups, members) = self.groups.totals();
        self.shard.groups.store(groups as u64, Ordering::Relaxed);
        self.shard.members.store(members as u64, Ordering::Relaxed);
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
