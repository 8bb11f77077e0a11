//! The control plane: the real `ClusterState` behind a model of its replicated log.
//!
//! The model takes Raft as right (the real one is tested where it lives) and plays what its users meet:
//! members that are down or cut off, a leader that is lost with proposals in flight, of which each is then
//! committed or forgotten, answers that never come, members that lag. One list of entries is the truth.
//!
//! Leader duties that are not in the core are here: sessions of brokers, and fencing when they lapse.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::core::{Batch, ClusterState, Command, RULES_VERSION, Refusal, Reply};

use highwater_tiering::core::manifest::Edit;

use crate::context::{Context, Event};
use crate::guards::Guard;
use crate::message::{Message, Metadata, Proposed};
use crate::network::{Address, MILLI, Micros};
use crate::random::Chance;

const TICK: Micros = 50 * MILLI;
/// A member that serves metadata pushes them to brokers that it has heard of within this time.
const SUBSCRIBED: Micros = 2_000 * MILLI;
/// A session whose stream broke lapses if it is not taken up again within this time.
const BROKEN_GRACE: Micros = 500 * MILLI;

#[derive(Debug)]
struct Member {
    is_up: bool,
    applied: usize,
    subscribers: BTreeMap<u64, Micros>,
}

#[derive(Debug)]
struct Proposal {
    /// Where the answer goes and under which id; none for the leader's own.
    asker: Option<(Address, u64)>,
    command: Arc<Command>,
    term: u64,
}

/// A broker's session, as the leader sees it.
#[derive(Clone, Copy, Debug)]
struct Session {
    seen: Micros,
    broke: Option<Micros>,
}

/// The group.
#[derive(Debug)]
pub struct Control {
    members: BTreeMap<u64, Member>,
    leader: Option<u64>,
    term: u64,
    /// When the lost leader is replaced, if nothing comes in between.
    election_at: Option<Micros>,
    /// The state after 0, 1, ... entries.
    states: Vec<Arc<ClusterState>>,
    in_flight: BTreeMap<u64, Proposal>,
    sessions: BTreeMap<u64, Session>,
    chance: Chance,
}

impl Control {
    /// A formed cluster with a leader and no topic.
    pub fn new(members: u64, cluster_id: &str, chance: Chance) -> Control {
        let member = || Member { is_up: true, applied: 0, subscribers: BTreeMap::new() };
        let mut control = Control {
            members: (1..=members).map(|id| (id, member())).collect(),
            leader: Some(1),
            term: 1,
            election_at: None,
            states: vec![Arc::new(ClusterState::default())],
            in_flight: BTreeMap::new(),
            sessions: BTreeMap::new(),
            chance,
        };
        let form = Command::FormCluster { cluster_id: cluster_id.into(), members: BTreeMap::new() };
        control.apply(0, &form).expect("a new cluster can be formed");
        control
    }

    pub fn begin(&self, context: &mut Context) {
        context.after(TICK, Event::ControlTick);
    }

    pub fn members(&self) -> impl Iterator<Item = u64> {
        self.members.keys().copied()
    }

    pub fn is_up(&self, member: u64) -> bool {
        self.members.get(&member).is_some_and(|m| m.is_up)
    }

    /// The newest state that a majority has: the truth.
    pub fn newest(&self) -> Metadata {
        let index = self.states.len() - 1;
        Metadata { index, state: self.states[index].clone() }
    }

    /// Applies one command as an entry of its own.
    fn apply(&mut self, at_ms: i64, command: &Command) -> Result<Reply, Refusal> {
        let mut state = (**self.states.last().expect("never empty")).clone();
        let batch = Batch { rules: RULES_VERSION, at_ms, commands: vec![command.clone()] };
        let mut replies = state.apply_batch(&batch);
        self.states.push(Arc::new(state));
        replies.pop().expect("one answer for one command")
    }

    fn metadata_of(&self, member: u64) -> Metadata {
        let index = self.members[&member].applied;
        Metadata { index, state: self.states[index].clone() }
    }

    fn has_majority(&self, context: &Context, of: u64) -> bool {
        let reached = self.members.iter().filter(|(id, m)| {
            m.is_up && (**id == of || context.network.meet(Address::Member(of), Address::Member(**id)))
        });
        reached.count() * 2 > self.members.len()
    }

    fn leads(&self, member: u64) -> bool {
        self.leader == Some(member)
    }

    // --- faults ---

    pub fn take_down(&mut self, context: &mut Context, member: u64, down_for: Micros) {
        context.note(format_args!("member {member} goes down"));
        self.members.get_mut(&member).expect("a known member").is_up = false;
        context.after(down_for, Event::MemberUp { member });
    }

    pub fn bring_up(&mut self, context: &mut Context, member: u64) {
        context.note(format_args!("member {member} is up"));
        let found = self.members.get_mut(&member).expect("a known member");
        found.is_up = true;
        found.subscribers.clear();
    }

    /// The leader steps down, for whatever reason.
    pub fn lose_leader(&mut self, context: &mut Context) {
        context.note(format_args!("control plane leader {:?} is lost", self.leader));
        self.leader = None;
        self.election_at = None;
    }

    // --- time ---

    pub fn tick(&mut self, context: &mut Context) {
        context.after(TICK, Event::ControlTick);
        let works = self.leader.is_some_and(|l| self.is_up(l) && self.has_majority(context, l));
        if works {
            self.election_at = None;
            self.expire_sessions(context);
            self.catch_up(context);
            return;
        }
        match self.election_at {
            None => {
                let wait = self.chance.between(100, 600) * MILLI;
                self.election_at = Some(context.now + wait);
            }
            Some(at) if at <= context.now => self.elect(context),
            Some(_) => {}
        }
    }

    fn elect(&mut self, context: &mut Context) {
        self.election_at = None;
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let able: Vec<u64> =
            ids.into_iter().filter(|id| self.is_up(*id) && self.has_majority(context, *id)).collect();
        let Some(leader) = self.chance.pick(&able).copied() else { return };
        self.term += 1;
        self.leader = Some(leader);
        context.note(format_args!("member {leader} leads the control plane in term {}", self.term));
        // What the old leader had not committed is on some members or on none.
        let left = std::mem::take(&mut self.in_flight);
        for proposal in left.into_values() {
            if self.chance.permille(500) {
                let _ = self.commit_now(context, &proposal);
            }
        }
        let newest = self.states.len() - 1;
        self.members.get_mut(&leader).expect("a known member").applied = newest;
        let seen = context.now;
        let brokers: Vec<u64> = self.newest().state.brokers.keys().copied().collect();
        self.sessions = brokers.into_iter().map(|b| (b, Session { seen, broke: None })).collect();
    }

    /// Members that can reach the leader learn what it has.
    fn catch_up(&mut self, context: &mut Context) {
        let (Some(leader), newest) = (self.leader, self.states.len() - 1) else { return };
        let behind: Vec<u64> =
            self.members.iter().filter(|(_, m)| m.is_up && m.applied < newest).map(|(id, _)| *id).collect();
        for member in behind {
            if context.network.meet(Address::Member(leader), Address::Member(member)) {
                let delay = self.chance.between(1, 30) * MILLI;
                context.after(delay, Event::MemberApplies { member, index: newest });
            }
        }
    }

    fn expire_sessions(&mut self, context: &mut Context) {
        let timeout = context.params.session_timeout_ms as u64 * MILLI;
        let now = context.now;
        let state = self.newest().state;
        let lapsed: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| now - s.seen > timeout || s.broke.is_some_and(|at| now - at > BROKEN_GRACE))
            .map(|(id, _)| *id)
            .collect();
        for node in lapsed {
            self.sessions.remove(&node);
            let Some(broker) = state.brokers.get(&node).filter(|b| !b.is_fenced) else { continue };
            context.note(format_args!("the session of broker {node} has lapsed"));
            let command = Command::FenceBroker { node_id: node, broker_epoch: broker.epoch };
            self.propose(context, None, Arc::new(command));
        }
    }

    // --- messages ---

    pub fn receive(&mut self, context: &mut Context, member: u64, from: Address, message: Message) {
        let to_asker = |context: &mut Context, message| context.send(Address::Member(member), from, message);
        match message {
            Message::Heartbeat { node, epoch, known } => {
                let newer = self.heartbeat(context, member, node, epoch, known);
                let leader = self.hint(context, member);
                to_asker(context, Message::HeartbeatTaken { leader, newer });
            }
            Message::SessionBroke { node, epoch } if self.leads(member) => {
                let current = self.newest().state.brokers.get(&node).map(|b| b.epoch);
                if let Some(session) = self.sessions.get_mut(&node).filter(|_| current == Some(epoch)) {
                    session.broke.get_or_insert(context.now);
                }
            }
            Message::Propose { id, command } if self.leads(member) => {
                self.propose(context, Some((from, id)), command);
            }
            Message::Propose { id, .. } => {
                let outcome = Proposed::NotLeader(self.hint(context, member));
                to_asker(context, Message::ProposeDone { id, outcome });
            }
            Message::Read { id } => {
                let newest =
                    (self.leads(member) && self.has_majority(context, member)).then(|| self.newest());
                to_asker(context, Message::ReadDone { id, newest });
            }
            _ => {}
        }
    }

    /// An operator asks, of whichever member leads.
    pub fn administer(&mut self, context: &mut Context, command: Command) {
        self.propose(context, None, Arc::new(command));
    }

    fn hint(&self, context: &Context, member: u64) -> Option<u64> {
        let known = |l: &u64| context.network.meet(Address::Member(member), Address::Member(*l));
        self.leader.filter(known)
    }

    fn heartbeat(
        &mut self,
        context: &Context,
        member: u64,
        node: u64,
        epoch: u64,
        known: usize,
    ) -> Option<Metadata> {
        let now = context.now;
        if self.leads(member) {
            let current = self.newest().state.brokers.get(&node).map(|b| b.epoch);
            if current == Some(epoch) {
                self.sessions.insert(node, Session { seen: now, broke: None });
            }
        }
        self.members.get_mut(&member).expect("a known member").subscribers.insert(node, now);
        Some(self.metadata_of(member)).filter(|metadata| metadata.index > known)
    }

    fn propose(&mut self, context: &mut Context, asker: Option<(Address, u64)>, command: Arc<Command>) {
        let proposal = context.id();
        self.in_flight.insert(proposal, Proposal { asker, command, term: self.term });
        let delay = self.chance.between(1, 8) * MILLI;
        context.after(delay, Event::Commit { proposal });
    }

    /// A majority may have a proposal now, if there is one that its leader can reach.
    pub fn commit(&mut self, context: &mut Context, id: u64) {
        let (Some(leader), Some(proposal)) = (self.leader, self.in_flight.get(&id)) else { return };
        if proposal.term != self.term || !self.is_up(leader) || !self.has_majority(context, leader) {
            return;
        }
        let proposal = self.in_flight.remove(&id).expect("it was found");
        let (reply, metadata) = self.commit_now(context, &proposal);
        self.member_applies(context, leader, metadata.index);
        for member in self.members.keys().copied().filter(|m| *m != leader).collect::<Vec<_>>() {
            let delay = self.chance.between(1, 30) * MILLI;
            context.after(delay, Event::MemberApplies { member, index: metadata.index });
        }
        if let Some((asker, id)) = proposal.asker {
            let outcome = Proposed::Done(reply, metadata);
            context.send(Address::Member(leader), asker, Message::ProposeDone { id, outcome });
        }
    }

    fn commit_now(
        &mut self,
        context: &mut Context,
        proposal: &Proposal,
    ) -> (Result<Reply, Refusal>, Metadata) {
        let at_ms = (context.now / MILLI) as i64;
        let is_fenced = context.guards.holds(Guard::EpochOnManifest);
        let forged = if is_fenced { None } else { self.as_leader_of_now(&proposal.command) };
        let reply = self.apply(at_ms, forged.as_ref().unwrap_or(&proposal.command));
        let metadata = self.newest();
        context.note(format_args!("entry {}: {:?} -> {reply:?}", metadata.index, proposal.command));
        (reply, metadata)
    }

    /// An edit of a manifest as if the leader of now had asked for it: what passes where nobody looks at epochs.
    fn as_leader_of_now(&self, command: &Command) -> Option<Command> {
        let Command::EditManifest { tp, request } = command else { return None };
        let leader_epoch = self.newest().state.partition(*tp)?.leader_epoch;
        let mut request = request.clone();
        request.leader_epoch = leader_epoch;
        if let Edit::Publish { object, .. } = &mut request.edit {
            object.epoch = leader_epoch;
        }
        Some(Command::EditManifest { tp: *tp, request })
    }

    pub fn member_applies(&mut self, context: &mut Context, member: u64, index: usize) {
        let reaches = self.leader.is_some_and(|l| {
            l == member || context.network.meet(Address::Member(l), Address::Member(member))
        });
        let found = self.members.get_mut(&member).expect("a known member");
        if !found.is_up || !reaches || found.applied >= index {
            return;
        }
        found.applied = index;
        let recent = context.now.saturating_sub(SUBSCRIBED);
        found.subscribers.retain(|_, at| *at >= recent);
        let subscribers: Vec<u64> = found.subscribers.keys().copied().collect();
        let metadata = self.metadata_of(member);
        for node in subscribers {
            context.send(Address::Member(member), Address::Broker(node), Message::Pushed(metadata.clone()));
        }
    }
}
