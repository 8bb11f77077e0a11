//! One replica of a group: its state, and the carrying out of steps one after another. A step that waits for
//! the disk holds up all that comes after it, as openraft's does.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_broker::core::raft_election::{Ask, Candidacy, Led, Peers, View, is_majority};
use highwater_broker::core::raft_side::{EntryId, Members, ReplicaId, SetMembers, StoredVote};
use highwater_broker::raft::{Body, DrivenStore, Stored, side_entry};
use highwater_log::Sequenced;
use highwater_model::Offset;
use highwater_wire::batch::BatchHeader;

use super::change::is_end_marked;
use super::lead::Leading;
use super::message::{RaftBody, RaftMessage};
use crate::guards::{Guard, Guards};

/// What a group is told with every call.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    pub now_ms: i64,
    pub peers: &'a Peers,
}

/// What a group asks its shell for.
#[derive(Debug)]
pub enum Out {
    Send {
        node: u64,
        message: RaftMessage,
    },
    /// A sync of the side file, with `synced` after it.
    Sync,
    /// A flush of the log, some time.
    Flush,
    /// It leads in this term.
    Led {
        term: u64,
    },
}

/// What this replica is.
#[derive(Debug)]
pub(super) enum Part {
    Follower,
    Candidate(BTreeSet<ReplicaId>),
    Leader(Leading),
}

/// One step.
#[derive(Debug)]
pub(super) enum Op {
    Vote(StoredVote),
    /// Asks the voters; the own vote is on the disk.
    Campaign,
    Truncate(u64),
    Append(Stored),
    Install {
        at: EntryId,
        members: SetMembers,
        bytes: Vec<u8>,
    },
    Commit(EntryId),
    Flush,
    Answer {
        node: u64,
        message: RaftMessage,
        /// Once this entry is on the disk.
        durable: Option<EntryId>,
    },
}

/// Where a proposal is.
#[derive(Clone, Copy, Debug)]
pub struct Placing {
    pub term: u64,
    pub base_offset: Offset,
    pub next_offset: Offset,
}

/// Why a proposal is not in the log.
#[derive(Debug)]
pub enum Refusal {
    NotLeader,
    OutOfOrder,
    Storage,
}

/// See the module's text.
pub struct Group {
    pub store: DrivenStore,
    pub me: ReplicaId,
    pub node: u64,
    pub partition: u32,
    /// Names the group, among those that the partition has had.
    pub since_epoch: i32,
    seed: u64,
    pub(super) guards: Guards,
    pub(super) vote: StoredVote,
    pub(super) committed: Option<EntryId>,
    pub(super) part: Part,
    pub(super) candidacy: Candidacy,
    /// When the vote was changed or confirmed last.
    pub(super) touched_ms: i64,
    pub(super) led: Led,
    pub(super) voted_at_ms: i64,
    deposed_term: Option<u64>,
    pre: Option<(u64, BTreeSet<ReplicaId>)>,
    hears_majority: bool,
    pub is_on_record: bool,
    /// Takes no batches: the partition is about to be replicated by fetch.
    pub is_paused: bool,
    pub(super) ops: VecDeque<Op>,
    inbox: VecDeque<RaftMessage>,
    is_syncing: bool,
    unanswered: Vec<(EntryId, u64, RaftMessage)>,
    ids: u64,
    pub(super) out: Vec<Out>,
}

impl Group {
    pub fn new(store: DrivenStore, node: u64, partition: u32, since_epoch: i32, guards: Guards) -> Group {
        let none = StoredVote { term: 0, replica: 0, is_committed: false };
        Group {
            me: store.replica(),
            node,
            partition,
            since_epoch,
            seed: u64::from(partition),
            guards,
            vote: store.vote().unwrap_or(none),
            committed: store.applied(),
            part: Part::Follower,
            candidacy: Candidacy::default(),
            touched_ms: i64::MIN / 2,
            led: Led::default(),
            voted_at_ms: i64::MIN / 2,
            deposed_term: None,
            pre: None,
            hears_majority: false,
            is_on_record: false,
            is_paused: false,
            ops: VecDeque::new(),
            inbox: VecDeque::new(),
            is_syncing: false,
            unanswered: Vec::new(),
            ids: 0,
            out: Vec::new(),
            store,
        }
    }

    pub fn drain(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn members(&self) -> Arc<Members> {
        self.store.members().map(|set| set.members).unwrap_or_default()
    }

    pub fn term(&self) -> u64 {
        self.vote.term
    }

    pub fn leads(&self) -> bool {
        matches!(self.part, Part::Leader(_))
    }

    pub fn hears_majority(&self) -> bool {
        self.hears_majority
    }

    pub fn takes_writes(&self) -> bool {
        self.leads()
            && self.store.failure().is_none()
            && self.store.has_begun(self.vote.term)
            && self.is_on_record
            && self.hears_majority
            && !self.is_paused
            && !is_end_marked(&self.members())
    }

    fn leader(&self) -> Option<ReplicaId> {
        match self.part {
            Part::Leader(_) => Some(self.me),
            _ => Some(self.vote.replica).filter(|leader| self.vote.is_committed && *leader != self.me),
        }
    }

    pub fn leader_node(&self) -> Option<u64> {
        self.leader().and_then(|leader| self.members().nodes.get(&leader).copied())
    }

    pub(super) fn view<'a>(&self, members: &'a Members) -> View<'a> {
        View {
            me: self.me,
            node: self.node,
            seed: self.seed,
            members,
            leader: self.leader().filter(|_| self.deposed_term != Some(self.vote.term)),
            term: self.vote.term,
            last: self.store.last(),
            led: self.led,
            voted_at_ms: self.voted_at_ms,
        }
    }

    // --- what makes it work ---

    pub fn tick(&mut self, env: Env<'_>) {
        if self.store.failure().is_some() {
            return;
        }
        let members = self.members();
        self.led.look(env.now_ms, self.vote.term, self.leader().is_some());
        let mut candidacy = self.candidacy;
        let view = self.view(&members);
        self.hears_majority = view.hears_majority(env.now_ms, env.peers);
        let stands = !self.is_syncing && candidacy.stands(env.now_ms, &view, env.peers);
        self.candidacy = candidacy;
        if stands {
            let ask = Ask { candidate: self.me, last: view.last };
            let id = self.id();
            self.pre = Some((id, BTreeSet::new()));
            for replica in others(&members, self.me) {
                self.send(replica, id, RaftBody::PreVote(ask));
            }
            self.pre_voted(env, id, self.me);
        }
        self.run(env);
    }

    pub fn receive(&mut self, env: Env<'_>, message: RaftMessage) {
        if self.store.failure().is_none() {
            self.inbox.push_back(message);
            self.run(env);
        }
    }

    /// A node has started anew: a leader there leads no more.
    pub fn restarted(&mut self, node: u64) {
        if node != self.node && self.leader_node() == Some(node) {
            self.deposed_term = Some(self.vote.term);
        }
    }

    /// The sync that was asked for is done.
    pub fn sync(&mut self, env: Env<'_>) {
        if std::mem::take(&mut self.is_syncing) && self.store.sync_side().is_ok() {
            self.run(env);
        }
    }

    /// Flushes the log, and tells those who wait for it.
    pub fn flush(&mut self, env: Env<'_>) {
        self.store.flush();
        let durable = self.store.durable();
        let waiting = std::mem::take(&mut self.unanswered);
        for (id, node, message) in waiting {
            match Some(id) <= durable {
                true => self.out.push(Out::Send { node, message }),
                false => self.unanswered.push((id, node, message)),
            }
        }
        self.run(env);
    }

    /// Appends a batch as the leader.
    pub fn propose(&mut self, env: Env<'_>, header: &BatchHeader, bytes: &Bytes) -> Result<Placing, Refusal> {
        if !self.takes_writes() || self.is_busy() {
            return Err(Refusal::NotLeader);
        }
        let term = self.vote.term;
        if header.has_producer() && self.guards.holds(Guard::SequenceOnApply) {
            let judged = self.store.check_sequence(header).map_err(|_| Refusal::Storage)?;
            match judged.map_err(|_| Refusal::OutOfOrder)? {
                Sequenced::Duplicate { base_offset, next_offset, .. } => {
                    return Ok(Placing { term, base_offset, next_offset });
                }
                Sequenced::New => {}
            }
        }
        let id = self.next_id();
        let placed = self.store.propose(id, *header, bytes.clone()).map_err(|e| {
            self.store.fail(&e.to_string());
            Refusal::Storage
        })?;
        self.out.push(Out::Flush);
        self.advance_commit();
        self.run(env);
        Ok(Placing { term, base_offset: placed.base_offset, next_offset: placed.next_offset })
    }

    /// Puts a membership entry into the log, as the leader.
    pub fn change(&mut self, env: Env<'_>, members: Members) {
        if self.leads() && !self.is_busy() {
            let id = self.next_id();
            self.ops.push_back(Op::Append(side_entry(id, Some(members))));
            self.ops.push_back(Op::Flush);
            self.run(env);
        }
    }

    pub(super) fn next_id(&self) -> EntryId {
        let index = self.store.last().map_or(0, |last| last.index + 1);
        EntryId { term: self.vote.term, leader: self.me, index }
    }

    pub fn is_busy(&self) -> bool {
        self.is_syncing || !self.ops.is_empty() || !self.inbox.is_empty()
    }

    // --- steps ---

    pub(super) fn run(&mut self, env: Env<'_>) {
        while !self.is_syncing && self.store.failure().is_none() {
            if let Some(op) = self.ops.pop_front() {
                if let Err(e) = self.perform(op) {
                    self.store.fail(&e.to_string());
                }
            } else if let Some(message) = self.inbox.pop_front() {
                self.take(env, message);
            } else if !self.lead_on(env) {
                return;
            }
        }
    }

    fn perform(&mut self, op: Op) -> io::Result<()> {
        match op {
            Op::Vote(vote) => {
                self.store.write_vote(vote)?;
                self.is_syncing = self.guards.holds(Guard::FsyncBeforeVote);
            }
            Op::Append(entry) => {
                self.store.append(&entry)?;
                self.is_syncing = !matches!(entry.body, Body::Batch { .. });
            }
            Op::Campaign => self.campaign(),
            Op::Truncate(index) => {
                // What is cut was claimed by nobody, and is not to be.
                self.unanswered.retain(|(id, _, _)| id.index < index);
                self.store.truncate(index)?;
            }
            Op::Install { at, members, bytes } => {
                self.store.install(at, members, &bytes)?;
                self.store.purge(at)?;
            }
            Op::Commit(id) => self.store.commit(id)?,
            Op::Flush => self.out.push(Out::Flush),
            Op::Answer { node, message, durable } => {
                let is_there = |id: EntryId| {
                    Some(id) <= self.store.durable()
                        || self.store.base_id().is_some_and(|base| base.index >= id.index)
                };
                match durable.filter(|id| self.guards.holds(Guard::FsyncBeforeAck) && !is_there(*id)) {
                    Some(id) => self.unanswered.push((id, node, message)),
                    None => self.out.push(Out::Send { node, message }),
                }
            }
        }
        if self.is_syncing {
            self.out.push(Out::Sync);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, to: ReplicaId, id: u64, body: RaftBody) {
        let Some(node) = self.members().nodes.get(&to).copied().filter(|node| *node != self.node) else {
            return;
        };
        let (partition, from, from_node) = (self.partition, self.me, self.node);
        let message = RaftMessage { partition, from, from_node, to, id, body };
        self.out.push(Out::Send { node, message });
    }

    // --- elections ---

    pub(super) fn pre_voted(&mut self, env: Env<'_>, id: u64, from: ReplicaId) {
        let members = self.members();
        let Some((asked, yes)) = &mut self.pre else { return };
        if *asked != id {
            return;
        }
        yes.insert(from);
        if is_majority(&members, yes) {
            self.pre = None;
            // Another one may have come to lead since peers were asked.
            let view = self.view(&members);
            if !view.hears_leader(env.now_ms, env.peers) && !view.has_voted_lately(env.now_ms) {
                self.elect(env);
            }
        }
    }

    /// Stands for election in a new term.
    fn elect(&mut self, env: Env<'_>) {
        let (members, mut candidacy) = (self.members(), self.candidacy);
        candidacy.elects(env.now_ms, &self.view(&members));
        (self.candidacy, self.voted_at_ms) = (candidacy, env.now_ms);
        self.vote = StoredVote { term: self.vote.term + 1, replica: self.me, is_committed: false };
        self.touched_ms = env.now_ms;
        self.part = Part::Candidate(BTreeSet::new());
        self.ops.push_back(Op::Vote(self.vote));
        self.ops.push_back(Op::Campaign);
    }

    fn campaign(&mut self) {
        let members = self.members();
        let (vote, last) = (self.vote, self.store.last());
        if !matches!(self.part, Part::Candidate(_)) {
            return;
        }
        for replica in others(&members, self.me) {
            let id = self.id();
            self.send(replica, id, RaftBody::Vote { vote, last });
        }
        self.granted(self.me);
    }

    pub(super) fn granted(&mut self, by: ReplicaId) {
        let members = self.members();
        let Part::Candidate(yes) = &mut self.part else { return };
        yes.insert(by);
        if is_majority(&members, yes) {
            self.vote.is_committed = true;
            self.part = Part::Leader(Leading::default());
            self.out.push(Out::Led { term: self.vote.term });
            self.ops.push_back(Op::Vote(self.vote));
            self.ops.push_back(Op::Append(side_entry(self.next_id(), None)));
            self.ops.push_back(Op::Flush);
        }
    }

    /// Takes a vote that is at least as great as the own one.
    pub(super) fn take_vote(&mut self, env: Env<'_>, vote: StoredVote) {
        if order(&vote) > order(&self.vote) {
            self.vote = vote;
            self.ops.push_back(Op::Vote(vote));
            if vote.replica != self.me {
                self.part = Part::Follower;
            }
        }
        self.touched_ms = env.now_ms;
    }
}

/// openraft's order of votes.
pub(super) fn order(vote: &StoredVote) -> (u64, ReplicaId, bool) {
    (vote.term, vote.replica, vote.is_committed)
}

fn others(members: &Members, me: ReplicaId) -> Vec<ReplicaId> {
    let voters: BTreeSet<ReplicaId> = members.voters.iter().flatten().copied().collect();
    voters.into_iter().filter(|replica| *replica != me).collect()
}
