//! The control plane: the real `ClusterState` behind a model of its replicated log.
//!
//! The model takes Raft as right (the real one is tested where it lives) and plays what its users meet:
//! members that are down or cut off, a leader that is lost with proposals in flight, of which each is then
//! committed or forgotten, answers that never come, members that lag. One list of entries is the truth.
//!
//! The leader's duties run on the product's own cores: sessions of brokers, and rounds of balance.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_coordinator::core::{
    BalanceSettings, Batch, ClusterState, Command, Loads, RULES_VERSION, Refusal, Reply, SessionEffect,
    SessionEvent, SessionTimes, Sessions, plan_moves,
};

use highwater_tiering::core::manifest::Edit;

use crate::context::{Context, Event};
use crate::guards::Guard;
use crate::message::{Message, Metadata, Proposed};
use crate::network::{Address, MILLI, Micros};
use crate::random::Chance;

const TICK: Micros = 50 * MILLI;
/// A member that serves metadata pushes them to brokers that it has heard of within this time.
const SUBSCRIBED: Micros = 2_000 * MILLI;
const BALANCE_EVERY: Micros = 1_000 * MILLI;
const BALANCE: BalanceSettings =
    BalanceSettings { dead_timeout_ms: 4_000, moves_max: 2, elections_max: 4, settle_ms: 500 };
const SESSION_TIMES: SessionTimes = SessionTimes { timeout_ms: 1_500, reopen_ms: 500, again_ms: 300 };

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
    sessions: Sessions,
    /// The open stream of each broker, with the epoch that it was opened for.
    streams: BTreeMap<u64, (u64, u64)>,
    next_balance: Micros,
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
            sessions: Sessions::new(SESSION_TIMES),
            streams: BTreeMap::new(),
            next_balance: 0,
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
            self.session_event(context, &SessionEvent::Tick);
            self.balance(context);
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
        // Every broker has a fresh timeout with a new leader.
        self.sessions = Sessions::new(SESSION_TIMES);
        self.streams.clear();
        self.next_balance = context.now + BALANCE_EVERY;
        self.follow_brokers(context);
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

    /// Steps the sessions; whoever lapses is to be fenced.
    fn session_event(&mut self, context: &mut Context, event: &SessionEvent) {
        let mut effects = Vec::new();
        self.sessions.step(context.now / MILLI, event, &mut effects);
        for SessionEffect::Fence { node_id, broker_epoch } in effects {
            context.note(format_args!("the session of broker {node_id} has lapsed"));
            self.streams.remove(&node_id);
            self.propose(context, None, Arc::new(Command::FenceBroker { node_id, broker_epoch }));
        }
    }

    fn follow_brokers(&mut self, context: &mut Context) {
        let state = self.newest().state;
        let active = state.brokers.values().filter(|b| b.is_active());
        let brokers = active.map(|b| (b.node_id, b.epoch)).collect();
        self.session_event(context, &SessionEvent::Brokers(brokers));
    }

    fn heard(&mut self, context: &mut Context, node_id: u64, broker_epoch: u64) {
        let open = self.streams.get(&node_id).filter(|(epoch, _)| *epoch == broker_epoch);
        let event = match open {
            Some((_, stream)) => SessionEvent::Heartbeat { node_id, stream: *stream },
            None => {
                let stream = context.id();
                self.streams.insert(node_id, (broker_epoch, stream));
                SessionEvent::Hello { node_id, broker_epoch, stream }
            }
        };
        self.session_event(context, &event);
    }

    /// A round of moves and elections.
    fn balance(&mut self, context: &mut Context) {
        if !context.params.balances || context.now < self.next_balance {
            return;
        }
        self.next_balance = context.now + BALANCE_EVERY;
        let state = self.newest().state;
        let plan = plan_moves(&state, &Loads::default(), &BALANCE, (context.now / MILLI) as i64);
        for command in plan {
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
                if let Some((_, stream)) = self.streams.get(&node).copied().filter(|(e, _)| *e == epoch) {
                    self.streams.remove(&node);
                    self.session_event(context, &SessionEvent::StreamClosed { node_id: node, stream });
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
        context: &mut Context,
        member: u64,
        node: u64,
        epoch: u64,
        known: usize,
    ) -> Option<Metadata> {
        let now = context.now;
        if self.leads(member) && self.has_majority(context, member) {
            self.heard(context, node, epoch);
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
        self.follow_brokers(context);
        (reply, metadata)
    }

    /// An edit of a manifest as if the leader of now had asked for it: what passes where nobody looks at
    /// epochs.
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
