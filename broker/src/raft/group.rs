//! One partition's group on this node: the handle that the broker proposes through, and what peers ask of it.
//!
//! Proposals take turns, so that the sequence check and the append of a batch see the same log. Offsets come
//! from `PartitionLog::append` in that order (invariant 2). A proposal counts when the high watermark has
//! passed it in the same term; in another term its fate is unknown. Votes take turns too: one per term, so
//! that a term, which is the leader epoch of its batches, has one leader (openraft's own order would allow
//! two).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use highwater_log::{SequenceRefusal, Sequenced};
use highwater_model::limits::{RAFT_LEASE_MS, RAFT_RPC_MS_MAX};
use highwater_model::{LeaderEpoch, NodeId, Offset, TopicPartition};
use highwater_wire::batch::{BatchHeader, check_crc};
use openraft::metrics::RaftServerMetrics;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Config, Raft, ServerState, SnapshotMeta, SnapshotPolicy};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::OpenError;
use super::machine::Machine;
use super::message::{Answer, Append, AppendAnswer, SnapshotSend, Transport, VoteAsk};
use super::network::Network;
use super::storage::Log;
use super::store::Store;
use super::types::{
    Batch, Body, GroupVote, Member, Stored, TypeConfig, entry_id, log_id, members, stored_membership,
    stored_vote, vote,
};
use crate::core::raft_election::{Candidacy, Led, Peers, View};
use crate::core::raft_side::{EntryId, Members, ReplicaId};
use crate::replica::Origin;

mod change;
mod end;
mod leadership;
mod serve;

pub(super) use end::END_NODE;
pub use leadership::Leadership;

/// What this node is in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `takes_writes`: an entry of its own term is committed, the group is on record, a majority is heard.
    Leader { term: u64, takes_writes: bool },
    /// The leader's node, if there is a leader.
    Follower { leader: Option<NodeId> },
    /// The replica's part has ended: a disk that failed, or a defect.
    Ended,
}

/// Where a proposal is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub term: u64,
    pub base_offset: Offset,
    pub next_offset: Offset,
    /// Set if it was there already: its largest timestamp.
    pub duplicate_of: Option<i64>,
}

/// A proposal that is not in the log, or of which that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeRefusal {
    /// Ask there, if it is known where.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<NodeId> },
    /// It leads, but a majority is not heard, or has not yet confirmed it: later.
    #[error("the group has no majority")]
    NoMajority,
    #[error(transparent)]
    Sequence(#[from] SequenceRefusal),
    /// It may or may not be committed in the end.
    #[error("leadership was lost before the batch was committed")]
    Unknown,
    #[error("{0}")]
    Failed(String),
}

/// What openraft last said of the group, in our words.
#[derive(Clone, Debug)]
struct Known {
    members: Arc<Members>,
    term: u64,
    leader: Option<ReplicaId>,
    leads: bool,
}

struct Standing {
    known: Known,
    candidacy: Candidacy,
    led: Led,
    voted_at_ms: i64,
    /// The leader of this term has started anew and leads no more.
    deposed_term: Option<u64>,
    reported_term: Option<u64>,
    active_at_ms: i64,
    is_shed: bool,
}

pub struct RaftGroup {
    pub tp: TopicPartition,
    pub me: ReplicaId,
    pub node: NodeId,
    pub(super) store: Arc<Store>,
    raft: Raft<TypeConfig>,
    server: Mutex<watch::Receiver<RaftServerMetrics<u64, Member>>>,
    high_watermark: watch::Receiver<Offset>,
    /// One proposal at a time is between its check and its append.
    turn: Arc<Semaphore>,
    /// One vote at a time.
    votes: tokio::sync::Mutex<()>,
    /// openraft's answers to proposals: dropped once given, so that it need not say that nobody listens.
    replies: Mutex<VecDeque<ReplyReceiver>>,
    standing: Mutex<Standing>,
    hears_majority: AtomicBool,
    /// Names the group among those that the partition has had; set once it is known.
    since_epoch: AtomicI32,
    /// The coordinator knows that the group exists.
    is_on_record: AtomicBool,
    /// It takes no batches: the partition is about to be replicated in another way.
    is_paused: AtomicBool,
    /// Told when a tick finds something that bears on the role.
    review: Notify,
    proposed_at_end: AtomicI64,
}

type ReplyReceiver = oneshot::Receiver<
    Result<openraft::raft::ClientWriteResponse<TypeConfig>, openraft::error::ClientWriteError<u64, Member>>,
>;

/// How a group is opened.
pub struct GroupSettings {
    pub tp: TopicPartition,
    pub node: NodeId,
    pub store: Arc<Store>,
    pub transport: Arc<dyn Transport>,
    /// The coordinator has had a leader of this group on record.
    pub is_on_record: bool,
}

impl RaftGroup {
    /// Starts the group's part on this node.
    ///
    /// # Errors
    /// Storage that cannot be read.
    pub(super) async fn start(settings: GroupSettings) -> Result<RaftGroup, OpenError> {
        let GroupSettings { tp, node, store, transport, is_on_record } = settings;
        let me = store.replica();
        let machine = Machine::new(store.clone());
        let network = Network { tp, me, store: store.clone(), transport };
        let config = Arc::new(config());
        let raft = Raft::new(me, config, network, Log::new(store.clone()), machine).await;
        let raft = raft.map_err(|e| OpenError::Raft(e.to_string()))?;
        let initial = raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            (members(membership), state.vote_ref().leader_id.term)
        });
        let (members, term) = initial.await.map_err(|e| OpenError::Raft(e.to_string()))?;
        let known = Known { members: Arc::new(members), term, leader: None, leads: false };
        Ok(RaftGroup {
            tp,
            me,
            node,
            server: Mutex::new(raft.server_metrics()),
            high_watermark: store.watch_high_watermark(),
            store,
            raft,
            turn: Arc::new(Semaphore::new(1)),
            votes: tokio::sync::Mutex::new(()),
            replies: Mutex::default(),
            standing: Mutex::new(Standing {
                known,
                candidacy: Candidacy::default(),
                led: Led::default(),
                voted_at_ms: i64::MIN / 2,
                deposed_term: None,
                reported_term: None,
                active_at_ms: 0,
                is_shed: false,
            }),
            hears_majority: AtomicBool::new(false),
            since_epoch: AtomicI32::new(-1),
            is_on_record: AtomicBool::new(is_on_record),
            is_paused: AtomicBool::new(false),
            review: Notify::new(),
            proposed_at_end: AtomicI64::new(0),
        })
    }

    /// Appends a batch that was validated; it counts once `committed` says so.
    ///
    /// # Errors
    /// `NotLeader`, `NoMajority`, `Sequence`, `Failed`: it is not in the log.
    pub async fn propose(&self, header: &BatchHeader, bytes: Bytes) -> Result<Appended, ProposeRefusal> {
        self.propose_as(header, bytes, Origin::Client(None)).await
    }

    /// As [`RaftGroup::propose`], of whoever writes it.
    ///
    /// # Errors
    /// As [`RaftGroup::propose`].
    pub async fn propose_as(
        &self,
        header: &BatchHeader,
        bytes: Bytes,
        origin: Origin,
    ) -> Result<Appended, ProposeRefusal> {
        let turn = self
            .turn
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ProposeRefusal::Failed("closed".to_owned()))?;
        let term = match self.role() {
            Role::Leader { term, takes_writes: true } => term,
            Role::Leader { .. } => return Err(ProposeRefusal::NoMajority),
            Role::Follower { leader } => return Err(ProposeRefusal::NotLeader { leader }),
            Role::Ended => return Err(self.ended()),
        };
        if header.has_producer() {
            let judged =
                self.store.judge(header, origin).map_err(|e| ProposeRefusal::Failed(e.to_string()))?;
            let judged = judged.map_err(|refusal| refusal.at_high_watermark(self.high_watermark()));
            // What another leader's log has cut off here is missing from the sequences: to say "out of order" of
            // it has a client begin a new epoch, and send again what the log has.
            if judged.is_err() && self.store.term() != term {
                return Err(ProposeRefusal::NotLeader {
                    leader: self.leader().filter(|node| *node != self.node),
                });
            }
            if let Sequenced::Duplicate { base_offset, next_offset, max_timestamp } = judged? {
                return Ok(Appended { term, base_offset, next_offset, duplicate_of: Some(max_timestamp) });
            }
        }
        let (batch, told) = Batch::proposed(*header, bytes, turn);
        let reply = self.raft.client_write_ff(batch).await.map_err(|_| self.ended())?;
        self.keep_reply(reply);
        let refused = |_| ProposeRefusal::NotLeader { leader: self.leader() };
        let placed = told.await.map_err(refused)?;
        self.proposed_at_end.store(placed.next_offset, Ordering::Relaxed);
        let (base_offset, next_offset) = (placed.base_offset, placed.next_offset);
        Ok(Appended { term: placed.term, base_offset, next_offset, duplicate_of: None })
    }

    /// Returns once the batch is committed and on the disks of a majority.
    ///
    /// # Errors
    /// `Unknown` if leadership was lost first, or the majority.
    pub async fn committed(&self, appended: &Appended) -> Result<(), ProposeRefusal> {
        let mut watch = self.high_watermark.clone();
        loop {
            let is_passed = *watch.borrow_and_update() >= appended.next_offset;
            // A later vote precedes every change that another leader could make to this log.
            if self.store.term() != appended.term || self.store.failure().is_some() {
                return Err(ProposeRefusal::Unknown);
            }
            if is_passed {
                return Ok(());
            }
            if !self.hears_majority.load(Ordering::SeqCst) {
                return Err(ProposeRefusal::Unknown);
            }
            // Looked at now and then too: a lost leadership moves no high watermark.
            let look = Duration::from_millis(RAFT_LEASE_MS / 4);
            if let Ok(Err(_)) = tokio::time::timeout(look, watch.changed()).await {
                return Err(ProposeRefusal::Unknown);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Says which of the partition's groups this is: the one since this leader epoch.
    pub(crate) fn name(&self, since_epoch: LeaderEpoch) {
        self.since_epoch.store(since_epoch, Ordering::SeqCst);
    }

    pub(super) fn is_since(&self, epoch: LeaderEpoch) -> bool {
        self.since_epoch.load(Ordering::SeqCst) == epoch
    }

    /// End of what is committed and durable, as this replica knows.
    pub fn high_watermark(&self) -> Offset {
        *self.high_watermark.borrow()
    }

    pub fn watch_high_watermark(&self) -> watch::Receiver<Offset> {
        self.high_watermark.clone()
    }

    /// Segments below may be evicted and the log start raised to here: Raft's log begins there. See
    /// `release_to`.
    pub fn released_end(&self) -> Offset {
        self.store.released_end()
    }

    pub fn role(&self) -> Role {
        let known = self.refreshed().known.clone();
        self.role_of(&known)
    }

    fn role_of(&self, known: &Known) -> Role {
        if self.store.failure().is_some() {
            return Role::Ended;
        }
        if !known.leads {
            let leader = known.leader.and_then(|leader| known.members.nodes.get(&leader).copied());
            return Role::Follower { leader };
        }
        // The high watermark of a new leader holds only once an entry of its own term is committed.
        let has_begun = self.store.has_begun(known.term);
        let is_on_record = self.is_on_record.load(Ordering::SeqCst);
        let has_ended = self.is_paused.load(Ordering::SeqCst) || end::is_marked(&known.members);
        let hears_majority = self.hears_majority.load(Ordering::SeqCst);
        let takes_writes = has_begun && is_on_record && hears_majority && !has_ended;
        Role::Leader { term: known.term, takes_writes }
    }

    /// The leader's node, if it is known.
    pub fn leader(&self) -> Option<NodeId> {
        match self.role() {
            Role::Leader { .. } => Some(self.node),
            Role::Follower { leader } => leader,
            Role::Ended => None,
        }
    }

    /// Returns once everything that was committed anywhere before the call is below the high watermark here.
    ///
    /// # Errors
    /// This node does not lead, or has no majority to ask.
    pub async fn linearize(&self) -> Result<Offset, ProposeRefusal> {
        let deadline = Duration::from_millis(RAFT_RPC_MS_MAX);
        let asked = tokio::time::timeout(deadline, self.raft.ensure_linearizable()).await;
        match asked {
            Ok(Ok(_)) => Ok(self.high_watermark()),
            Ok(Err(_)) => Err(ProposeRefusal::NotLeader { leader: self.leader() }),
            Err(_) => Err(ProposeRefusal::NoMajority),
        }
    }

    /// The group's replicas, learners too, by the node that holds them.
    pub fn members(&self) -> Arc<Members> {
        self.refreshed().known.members.clone()
    }

    /// Ends the group's part here; what it holds stays.
    pub async fn close(&self) {
        self.turn.close();
        // Who waits for a commit gives up.
        self.hears_majority.store(false, Ordering::SeqCst);
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %e, "a Raft group did not shut down cleanly");
        }
        let store = self.store.clone();
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::warn!("a Raft group was not closed cleanly");
        }
    }

    fn ended(&self) -> ProposeRefusal {
        ProposeRefusal::Failed(self.store.failure().unwrap_or_else(|| "the group is closed".to_owned()))
    }

    fn keep_reply(&self, reply: ReplyReceiver) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = replies.front_mut() {
            match first.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => break,
                _ => drop(replies.pop_front()),
            }
        }
        replies.push_back(reply);
    }

    /// Takes in what openraft has changed.
    fn refreshed(&self) -> MutexGuard<'_, Standing> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if server.has_changed().unwrap_or(false) {
            let now = server.borrow_and_update();
            standing.known = Known {
                members: Arc::new(members(now.membership_config.membership())),
                term: now.vote.leader_id.term,
                leader: now.current_leader,
                leads: now.state == ServerState::Leader,
            };
        }
        standing
    }
}

/// No timers: elections come from `host`, heartbeats are not needed. What looks like one is the lease within
/// which openraft refuses to unseat a leader, and the deadline of a vote.
fn config() -> Config {
    Config {
        cluster_name: String::new(),
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        // Also openraft's deadline of an append: ours, in the transport, is shorter.
        heartbeat_interval: 24 * 3_600_000,
        election_timeout_min: RAFT_LEASE_MS - 1,
        election_timeout_max: RAFT_LEASE_MS,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        // How near a new replica must be to count as caught up.
        replication_lag_threshold: 1_000,
        max_payload_entries: 4_096,
        ..Config::default()
    }
}
