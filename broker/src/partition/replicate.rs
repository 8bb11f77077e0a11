//! Replication by fetch, as the partition takes part in it: what a follower asks and takes, what a leader
//! serves, and who is told of news. The machine is [`crate::replica::ReplicaLog`]; streams are the shell's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_log::{LogError, LogSettings};
use highwater_model::limits::REPLICA_LISTENERS_MAX;
use highwater_model::topic_config::Replication;
use highwater_model::{Offset, TopicConfig, TopicPartition};

use super::{Inner, Partition, Terms, Unavailable, tier_end};
use crate::core::replica::{Assignment, IsrOutcome, IsrProposal, Moves, Role};
use crate::node::Node;
use crate::replica::{FetchAnswer, FollowerFetch, Served, TakeError, Taken};

/// A stream that serves a follower, to be told which partitions have news for it. Must not block.
pub trait NewsListener: Send + Sync {
    fn news(&self, tp: TopicPartition);
}

/// Those who listen; without any, news costs one load.
#[derive(Default)]
pub(super) struct Listeners {
    count: AtomicUsize,
    list: Mutex<Vec<Weak<dyn NewsListener>>>,
}

impl Listeners {
    fn add(&self, listener: &Arc<dyn NewsListener>) -> bool {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|held| held.strong_count() > 0);
        let listener = Arc::downgrade(listener);
        if !list.iter().any(|held| held.ptr_eq(&listener)) {
            if list.len() >= REPLICA_LISTENERS_MAX {
                return false;
            }
            list.push(listener);
        }
        self.count.store(list.len(), Ordering::SeqCst);
        true
    }

    pub(super) fn tell(&self, tp: TopicPartition) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for listener in self.list.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(listener) = listener.upgrade() {
                listener.news(tp);
            }
        }
    }
}

/// What a step has to have flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Everything that is appended.
    pub flush: bool,
    /// What was sealed.
    pub flush_sealed: bool,
}

impl Partition {
    /// Takes over what the control plane says by now: role, in-sync set, settings.
    pub fn take_assignment(&self, now_ms: i64, config: &Arc<TopicConfig>, assignment: &Assignment) {
        let mut inner = self.lock_any();
        // A topic that asks for a group has it begin where its leader comes to rest.
        inner.replica.set_frozen(config.replication == Replication::Raft);
        let before = inner.replica.role();
        let leads = assignment.leader == Some(self.node_id) && before != Role::Leader;
        if leads && let Err(e) = raise_to_tier(&mut inner) {
            self.fail(&mut inner, &e);
        }
        if leads && !inner.replica.agrees_with(tier_end(&inner.manifest)) {
            // After an unclean election: two histories must not follow each other in the tier.
            let reason = "the log differs from what is in the tier below its end";
            tracing::error!(topic = %self.topic, partition = self.tp.partition, "sealing has stopped: {reason}");
            inner.seal_alarm.get_or_insert_with(|| reason.into());
        }
        let assigned = inner.replica.set_assignment(now_ms, assignment);
        if assigned.is_new_epoch {
            inner.log_mut().forget_verifications();
        }
        let terms = self.terms();
        if !assigned.is_old || !Arc::ptr_eq(&terms.config, config) {
            self.set_terms(Terms::new(config.clone(), self.node_id, assignment));
        }
        self.take_moves(&mut inner, &assigned.moves);
        self.check_bounds(&mut inner);
        let role = inner.replica.role();
        self.has_lost.store(inner.replica.has_lost(), Ordering::Relaxed);
        drop(inner);
        if role != before {
            let (topic, partition, epoch) = (&self.topic, self.tp.partition, assignment.leader_epoch);
            tracing::info!(%topic, partition, epoch, "{}", describe(role));
        }
        if assigned.is_new_epoch {
            self.told();
            self.waiters.wake();
        }
        self.tell(&assigned.moves);
    }

    /// The topic's settings have changed in what the log takes of them.
    pub(crate) fn set_log_settings(&self, settings: LogSettings) {
        self.lock_any().log_mut().set_settings(settings);
    }

    /// What to ask the leader next; None unless this node follows one and serves.
    pub fn next_fetch(&self, broker_epoch: u64) -> Option<FollowerFetch> {
        self.lock().ok()?.replica.next_fetch(broker_epoch)
    }

    /// Takes the leader's answer. Writes to the disk; truncating syncs it.
    ///
    /// # Errors
    /// [`TakeError`]; what was taken before it stays.
    pub fn take_answer(
        self: &Arc<Self>,
        node: &Node,
        now_ms: i64,
        answer: &FetchAnswer,
    ) -> Result<Taken, TakeError> {
        let (taken, wants) = self.take(now_ms, answer);
        if wants.flush {
            node.flush.push(self);
        }
        if wants.flush_sealed {
            node.flush.push_sealed(self);
        }
        if let Ok(Taken { truncated: Some(cut), .. }) = &taken {
            let (topic, partition) = (&self.topic, self.tp.partition);
            match cut.is_below_high_watermark {
                false => {
                    tracing::info!(%topic, partition, from = cut.from, to = cut.to, "cut to follow its leader")
                }
                true => tracing::warn!(
                    %topic, partition, from = cut.from, to = cut.to,
                    "committed records were cut: a replica out of sync was elected leader"
                ),
            }
        }
        taken
    }

    /// As [`Partition::take_answer`], without the queues. What was written before an error wants its flush
    /// too: the leader may wait for that.
    pub(super) fn take(&self, now_ms: i64, answer: &FetchAnswer) -> (Result<Taken, TakeError>, Wants) {
        let Ok(mut inner) = self.lock() else {
            return (Ok(Taken { is_stale: true, ..Taken::default() }), Wants::default());
        };
        let (end, active) = (inner.log().log_end(), inner.log().active_start());
        let taken = inner.replica.take_answer(now_ms, answer);
        let moves = taken.as_ref().map_or_else(|_| Moves::default(), |taken| taken.moves.clone());
        self.take_moves(&mut inner, &moves);
        self.has_lost.store(inner.replica.has_lost(), Ordering::Relaxed);
        if inner.unflushed_offsets == 0 {
            inner.unflushed_since_ms = now_ms;
        }
        let appended = match &taken {
            Ok(taken) => taken.appended_offsets,
            Err(_) => u64::try_from(inner.log().log_end() - end).unwrap_or(0),
        };
        inner.unflushed_offsets += appended;
        let wants = Wants {
            flush: appended > 0 && inner.unflushed_offsets >= self.terms().config.flush_messages,
            flush_sealed: inner.log().active_start() > active,
        };
        self.check_bounds(&mut inner);
        drop(inner);
        self.tell(&moves);
        (taken, wants)
    }

    /// Serves a follower's fetch.
    ///
    /// # Errors
    /// The partition does not serve.
    pub fn serve_follower(
        self: &Arc<Self>,
        node: &Node,
        now_ms: i64,
        fetch: &FollowerFetch,
        bytes_max: usize,
    ) -> Result<Served, Unavailable> {
        let mut inner = self.lock()?;
        let tiered_end = inner.manifest.tiered_end;
        let served = inner.replica.serve_fetch(now_ms, fetch, tiered_end, bytes_max);
        self.take_moves(&mut inner, &served.moves);
        self.check_bounds(&mut inner);
        drop(inner);
        self.tell(&served.moves);
        node.isr.push_if_wanted(self);
        Ok(served)
    }

    /// Whether a follower that asked this would be told anything by now.
    pub fn has_news_for(&self, fetch: &FollowerFetch) -> bool {
        self.lock().is_ok_and(|inner| inner.replica.has_news_for(fetch))
    }

    /// Has `listener` told of news until it is dropped; false if too many listen already.
    pub fn listen(&self, listener: &Arc<dyn NewsListener>) -> bool {
        self.listeners.add(listener)
    }

    /// What time alone makes due: followers that lag leave the in-sync set, proposals are made again, and
    /// nobody waits on for a leader that is cut off.
    pub(crate) fn tick_replica(self: &Arc<Self>, node: &Node, now_ms: i64) {
        self.tick(now_ms, node.isr.is_lapsed());
        node.isr.push_if_wanted(self);
    }

    /// `is_lapsed`: this node's session with the control plane.
    pub(super) fn tick(&self, now_ms: i64, is_lapsed: bool) {
        if !self.terms().is_leader {
            return;
        }
        let Ok(mut inner) = self.lock() else { return };
        inner.replica.set_lapsed(is_lapsed);
        let moves = inner.replica.tick(now_ms);
        let is_unproven = inner.replica.replica().is_unproven();
        self.take_moves(&mut inner, &moves);
        drop(inner);
        self.tell(&moves);
        if is_unproven {
            self.told();
        }
    }

    /// The change of the in-sync set that waits to be proposed.
    pub(crate) fn take_proposal(&self) -> Option<IsrProposal> {
        let mut proposal = self.proposal.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_proposal.store(false, Ordering::SeqCst);
        proposal.take()
    }

    /// What became of a proposal.
    pub(crate) fn isr_settled(&self, now_ms: i64, proposal: &IsrProposal, outcome: IsrOutcome) {
        let Ok(mut inner) = self.lock() else { return };
        let moves = inner.replica.isr_settled(now_ms, proposal, outcome);
        self.take_moves(&mut inner, &moves);
        self.check_bounds(&mut inner);
        drop(inner);
        self.tell(&moves);
    }

    /// Whether everything from before this leader's time is known to be committed (KIP-207).
    pub fn is_settled(&self) -> bool {
        self.lock_any().replica.replica().is_settled()
    }

    /// How far followers are, on their leader: node and log end, -1 where it is not known yet.
    pub fn follower_ends(&self) -> Vec<(u64, Offset)> {
        let terms = self.terms();
        if let Some(group) = terms.raft.as_ref().and_then(|raft| raft.group.as_ref()) {
            let log_end = self.lock_any().log().log_end();
            return group.nodes_in_step().into_iter().map(|node| (node, log_end)).collect();
        }
        let ends = self.lock_any().replica.replica().follower_ends();
        ends.into_iter().map(|(node, ends)| (node, ends.map_or(-1, |ends| ends.log_end))).collect()
    }
}

/// A replica that is to lead and has less than the tier: it was elected although it was not in sync. Offsets
/// are never used twice, so it goes on where the tier ends.
pub(super) fn raise_to_tier(inner: &mut Inner) -> Result<(), LogError> {
    let tiered_end = inner.manifest.tiered_end;
    match inner.log().log_end() < tiered_end {
        true => inner.replica.begin_at_tier(tiered_end),
        false => Ok(()),
    }
}

fn describe(role: Role) -> String {
    match role {
        Role::Leader => "leads".to_owned(),
        Role::Follower(Some(leader)) => format!("follows node {leader}"),
        Role::Follower(None) => "waits for a leader".to_owned(),
        Role::Stranger => "no replica any more".to_owned(),
    }
}

/// The epoch table's view for look-ups, for the leader's own epoch counts from its beginning.
pub(super) fn epoch_end(inner: &Inner, epoch: i32) -> Option<(i32, Offset)> {
    if let Some(found) = inner.replica.epoch_end(epoch) {
        return Some(found);
    }
    let tiered = &inner.manifest.epochs;
    let at = tiered.partition_point(|e| e.epoch <= epoch).checked_sub(1)?;
    let first_local = inner.log().epochs().first().map_or(inner.log().log_end(), |e| e.start_offset);
    let end = tiered.get(at + 1).map_or(first_local, |next| next.start_offset);
    Some((tiered[at].epoch, end))
}
