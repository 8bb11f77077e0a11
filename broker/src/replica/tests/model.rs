//! Three replicas with a lossy network, processes that die, power that fails and a control plane that changes
//! its mind, against a naive model: what was acknowledged is there, once, where it was said to be; what was
//! read never changes; and once all is well the logs are the same bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::control::{Control, NODES};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// By a producer; to a node or, past the last one, to whoever leads.
    Produce(usize, usize),
    /// The client asks no more and will send again.
    GiveUp(usize),
    Fetch(usize),
    Deliver(usize),
    Drop(usize),
    Twice(usize),
    Tell(usize),
    Flush(usize),
    Read(usize),
    Wait(i64),
    Fence(usize),
    Prefer(usize),
    Kill(usize),
    Power(usize, u64),
    Start(usize),
    Tier,
    Evict(usize),
    PowerEverywhere(u64),
    /// For a moment all goes well between all nodes, or all but one; with or without a flush.
    Round(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0usize..3;
    let nth = || 0usize..4;
    prop_oneof![
        20 => (0usize..2, 0usize..8).prop_map(|(producer, node)| Step::Produce(producer, node)),
        1 => (0usize..2).prop_map(Step::GiveUp),
        10 => node().prop_map(Step::Fetch),
        18 => nth().prop_map(Step::Deliver),
        1 => nth().prop_map(Step::Drop),
        1 => nth().prop_map(Step::Twice),
        5 => node().prop_map(Step::Tell),
        5 => node().prop_map(Step::Flush),
        4 => node().prop_map(Step::Read),
        2 => (0i64..12_000).prop_map(Step::Wait),
        1 => node().prop_map(Step::Fence),
        1 => node().prop_map(Step::Prefer),
        1 => node().prop_map(Step::Kill),
        1 => (node(), any::<u64>()).prop_map(|(node, seed)| Step::Power(node, seed)),
        3 => node().prop_map(Step::Start),
        1 => Just(Step::Tier),
        1 => node().prop_map(Step::Evict),
        1 => any::<u64>().prop_map(Step::PowerEverywhere),
        16 => (0usize..6, any::<bool>()).prop_map(|(but, flush)| Step::Round(but, flush)),
    ]
}

/// On its way between two parties.
#[derive(Clone, Debug)]
enum Message {
    Fetch { to: NodeId, fetch: FollowerFetch },
    Answer { to: NodeId, broker_epoch: u64, answer: FetchAnswer },
    Proposal { from: NodeId, broker_epoch: u64, proposal: IsrProposal },
    Outcome { to: NodeId, broker_epoch: u64, proposal: IsrProposal, outcome: IsrOutcome },
}

struct Node {
    id: NodeId,
    disk: SimDisk,
    broker_epoch: u64,
    replica: Option<ReplicaLog>,
    /// It may have lost what the others need, and is not in sync again.
    lost_power: bool,
}

/// An idempotent producer with one batch under way.
#[derive(Default)]
struct Producer {
    sequence: i32,
    /// Of the batch under way; 0 if there is none.
    records: usize,
    waits: Option<(usize, u64, AckTicket, Offset)>,
}

struct World {
    control: Control,
    nodes: Vec<Node>,
    wire: Vec<Message>,
    producers: [Producer; 2],
    now_ms: i64,
    flush: bool,
    guards: Guards,
    tiered: BTreeMap<Offset, Bytes>,
    tier: TierEnd,
    acked: Vec<(usize, i32, Offset)>,
    seen: BTreeMap<Offset, Bytes>,
    /// The first thing that was found to be wrong.
    wrong: Option<String>,
}

impl World {
    fn new(flush: bool, guards: Guards) -> World {
        let node = |id| Node { id, disk: SimDisk::new(), broker_epoch: 1, replica: None, lost_power: false };
        let mut world = World {
            control: Control::new(flush),
            nodes: NODES.map(node).into_iter().collect(),
            wire: Vec::new(),
            producers: Default::default(),
            now_ms: NOW,
            flush,
            guards,
            tiered: BTreeMap::new(),
            tier: TierEnd::default(),
            acked: Vec::new(),
            seen: BTreeMap::new(),
            wrong: None,
        };
        for node in 0..3 {
            world.open(node);
        }
        world
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    fn open(&mut self, at: usize) {
        let assignment = self.control.assignment();
        let node = &mut self.nodes[at];
        let mut log = open(&node.disk);
        assert!(log.refusal().is_none());
        if log.log_end() < self.tier.offset {
            log.reset_to(self.tier.offset).expect("begins anew");
        }
        let mut replica = ReplicaLog::new(node.id, log, self.tier);
        replica.set_guards(self.guards);
        replica.set_assignment(self.now_ms, &assignment);
        node.replica = Some(replica);
    }

    fn note(&mut self, at: usize, moves: Moves) {
        if let Some(proposal) = moves.propose {
            let (from, broker_epoch) = (self.nodes[at].id, self.nodes[at].broker_epoch);
            self.wire.push(Message::Proposal { from, broker_epoch, proposal });
        }
    }

    fn produce(&mut self, producer: usize, at: usize) {
        let now_ms = self.now_ms;
        let client = &mut self.producers[producer];
        if client.waits.is_some() {
            return;
        }
        if client.records == 0 {
            client.records = 1 + client.sequence as usize % 3;
        }
        let (header, bytes) = batch(producer as i64 + 1, client.sequence, client.records);
        let Some(replica) = &mut self.nodes[at].replica else { return };
        if let Ok(appended) = replica.append_as_leader(&header, &bytes, true, now_ms) {
            client.waits = Some((at, self.nodes[at].broker_epoch, appended.ticket, appended.base_offset));
            self.note(at, appended.moves);
        }
    }

    /// Clients hear what became of their batches.
    fn settle_clients(&mut self) {
        for producer in 0..2 {
            let Some((at, broker_epoch, ticket, base)) = self.producers[producer].waits else { continue };
            let node = &self.nodes[at];
            let is_same = node.broker_epoch == broker_epoch;
            let state = node.replica.as_ref().filter(|_| is_same).map(|r| r.ack(&ticket));
            let client = &mut self.producers[producer];
            match state {
                Some(AckState::Waiting) => {}
                Some(AckState::Committed) => {
                    self.acked.push((producer, client.sequence, base));
                    client.sequence += client.records as i32;
                    (client.records, client.waits) = (0, None);
                }
                Some(AckState::NotLeader | AckState::Unproven) | None => client.waits = None,
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Fetch { to, fetch } => {
                let at = to as usize - 1;
                let (now_ms, tiered_end) = (self.now_ms, self.tier.offset);
                let Some(replica) = &mut self.nodes[at].replica else { return };
                let mut served = replica.serve_fetch(now_ms, &fetch, tiered_end, 300);
                let moves = std::mem::take(&mut served.moves);
                let answer = served.into_answer().expect("reads");
                self.note(at, moves);
                let (to, broker_epoch) = (fetch.node_id, fetch.broker_epoch);
                self.wire.push(Message::Answer { to, broker_epoch, answer });
            }
            Message::Answer { to, broker_epoch, answer } => self.take(to as usize - 1, broker_epoch, &answer),
            Message::Proposal { from, broker_epoch, proposal } => {
                let outcome = match self.control.broker_epoch(from) == broker_epoch {
                    true => self.control.alter(from, &proposal),
                    false => IsrOutcome::Refused,
                };
                self.wire.push(Message::Outcome { to: from, broker_epoch, proposal, outcome });
            }
            Message::Outcome { to, broker_epoch, proposal, outcome } => {
                let at = to as usize - 1;
                let (now_ms, is_same) = (self.now_ms, self.nodes[at].broker_epoch == broker_epoch);
                let Some(replica) = self.nodes[at].replica.as_mut().filter(|_| is_same) else { return };
                let moves = replica.isr_settled(now_ms, &proposal, outcome);
                self.note(at, moves);
            }
        }
    }

    fn take(&mut self, at: usize, broker_epoch: u64, answer: &FetchAnswer) {
        let (now_ms, is_same) = (self.now_ms, self.nodes[at].broker_epoch == broker_epoch);
        let Some(replica) = self.nodes[at].replica.as_mut().filter(|_| is_same) else { return };
        match replica.take_answer(now_ms, answer) {
            Ok(taken) => {
                if taken.truncated.is_some_and(|cut| cut.is_below_high_watermark) {
                    self.is_wrong(format!("node {} cut what was committed: {taken:?}", at + 1));
                }
            }
            Err(TakeError::Refused(_)) => {}
            Err(error) => self.is_wrong(format!("node {}: {error}", at + 1)),
        }
    }

    /// A message is lost; who waits for an outcome learns that it is not known.
    fn lose(&mut self, message: Message) {
        if let Message::Proposal { from, broker_epoch, proposal }
        | Message::Outcome { to: from, broker_epoch, proposal, .. } = message
        {
            let outcome = IsrOutcome::Unknown;
            self.deliver(Message::Outcome { to: from, broker_epoch, proposal, outcome });
        }
    }

    fn read(&mut self, at: usize) {
        let Some(replica) = &self.nodes[at].replica else { return };
        let end = replica.readable_end();
        let read: Vec<_> =
            stored(replica.log()).into_iter().filter(|(header, _)| header.next_offset() <= end).collect();
        for (header, bytes) in read {
            let first = self.seen.entry(header.base_offset).or_insert_with(|| bytes.clone());
            if *first != bytes {
                self.is_wrong(format!("node {} changed what was read at {}", at + 1, header.base_offset));
            }
        }
    }

    /// The leader of now lists what it has sealed and knows to be committed.
    fn tier(&mut self) {
        let Some(leader) = self.control.leader else { return };
        let now_ms = self.now_ms;
        let tiered_end = self.tier.offset;
        let Some(replica) = &mut self.nodes[leader as usize - 1].replica else { return };
        if replica.role() != Role::Leader || replica.leader_epoch() != self.control.leader_epoch {
            return;
        }
        replica.log_mut().roll(now_ms).expect("rolls");
        let end =
            replica.log().sealed().iter().map(|s| s.end).filter(|e| *e <= replica.high_watermark()).max();
        let Some(end) = end.filter(|end| *end > tiered_end) else { return };
        for (header, bytes) in stored(replica.log()) {
            if (tiered_end..end).contains(&header.base_offset) {
                self.tier = TierEnd { offset: end, epoch: Some(header.leader_epoch) };
                self.tiered.insert(header.base_offset, bytes);
            }
        }
        assert_eq!(self.tier.offset, end);
    }

    fn down(&mut self, at: usize, power: Option<u64>) {
        if self.nodes[at].replica.is_none() {
            return;
        }
        let id = self.nodes[at].id;
        if !self.flush {
            // The promise without fsync: of those that may be elected, one at a time loses its memory, and
            // nobody else dies before it is in sync again.
            let others = self.control.others_in_sync(id);
            let is_up = |n: &NodeId| self.nodes[*n as usize - 1].replica.is_some();
            let one_is_gone = self.nodes.iter().any(|n| n.lost_power && !self.control.is_in_sync(n.id));
            if one_is_gone || power.is_some() && (others.is_empty() || !others.iter().all(is_up)) {
                return;
            }
        }
        let node = &mut self.nodes[at];
        node.replica = None;
        if let Some(seed) = power {
            node.disk = node.disk.crash(seed).expect("crashes");
            node.lost_power = true;
            self.control.fence(id);
        } else {
            node.disk = node.disk.kill();
        }
    }

    fn start(&mut self, at: usize) {
        let id = self.nodes[at].id;
        if self.nodes[at].replica.is_some() {
            self.control.heartbeat(id);
            return;
        }
        self.nodes[at].broker_epoch = self.control.register(id);
        self.open(at);
    }

    fn flush(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let Some(replica) = &mut self.nodes[at].replica else { return };
        let done = replica.log().flush_ticket().run().expect("syncs");
        let moves = replica.flushed(now_ms, done);
        self.note(at, moves);
    }

    fn fetch(&mut self, at: usize) {
        let node = &self.nodes[at];
        let Some(replica) = &node.replica else { return };
        if let (Some(fetch), Role::Follower(Some(to))) =
            (replica.next_fetch(node.broker_epoch), replica.role())
        {
            self.wire.push(Message::Fetch { to, fetch });
        }
    }

    fn tell(&mut self, at: usize) {
        let (now_ms, assignment) = (self.now_ms, self.control.assignment());
        let Some(replica) = &mut self.nodes[at].replica else { return };
        let moves = replica.set_assignment(now_ms, &assignment).moves;
        self.note(at, moves);
    }

    fn pick(&mut self, nth: usize) -> Option<Message> {
        (!self.wire.is_empty()).then(|| self.wire.remove(nth % self.wire.len()))
    }

    fn tick(&mut self, at: usize) {
        let now_ms = self.now_ms;
        let Some(replica) = &mut self.nodes[at].replica else { return };
        let moves = replica.tick(now_ms);
        self.note(at, moves);
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Produce(producer, node) => {
                let leader = self.control.leader.map_or(0, |leader| leader as usize - 1);
                self.produce(producer, if node < 3 { node } else { leader });
            }
            Step::GiveUp(producer) => self.producers[producer].waits = None,
            Step::Fetch(node) => self.fetch(node),
            Step::Deliver(nth) => {
                if let Some(message) = self.pick(nth) {
                    self.deliver(message);
                }
            }
            Step::Drop(nth) => {
                if let Some(message) = self.pick(nth) {
                    self.lose(message);
                }
            }
            Step::Twice(nth) => {
                let Some(message) = self.pick(nth) else { return };
                self.wire.push(message.clone());
                // The sender of a proposal hears nothing of the first, which may still arrive.
                match message {
                    Message::Proposal { .. } => self.lose(message),
                    _ => self.wire.push(message),
                }
            }
            Step::Tell(node) => self.tell(node),
            Step::Flush(node) => self.flush(node),
            Step::Read(node) => self.read(node),
            Step::Wait(ms) => {
                self.now_ms += ms;
                (0..3).for_each(|at| self.tick(at));
            }
            Step::Fence(node) => self.control.fence(self.nodes[node].id),
            Step::Prefer(node) => self.control.prefer(self.nodes[node].id),
            Step::Kill(node) => self.down(node, None),
            Step::Power(node, seed) => self.down(node, Some(seed)),
            Step::Start(node) => self.start(node),
            Step::Tier => self.tier(),
            Step::Evict(node) => {
                let tiered_end = self.tier.offset;
                if let Some(replica) = &mut self.nodes[node].replica {
                    let end = tiered_end.min(replica.high_watermark());
                    drop(replica.log_mut().evict_below(end).expect("evicts"));
                }
            }
            Step::PowerEverywhere(seed) => (0..3).for_each(|at| self.down(at, Some(seed ^ at as u64))),
            Step::Round(but, flush) => {
                for at in (0..3).filter(|at| *at != but) {
                    self.tell(at);
                    self.fetch(at);
                    if flush {
                        self.flush(at);
                    }
                }
                for message in std::mem::take(&mut self.wire) {
                    self.deliver(message);
                }
            }
        }
        self.settle_clients();
        for at in 0..3 {
            let id = self.nodes[at].id;
            self.nodes[at].lost_power &= !self.control.is_in_sync(id);
        }
    }

    /// All faults end; within a bounded time everybody is in sync and every client has its answer.
    fn heal(&mut self) {
        for message in std::mem::take(&mut self.wire) {
            self.lose(message);
        }
        for _ in 0..120 {
            self.now_ms += 600;
            for at in 0..3 {
                self.start(at);
                self.tell(at);
                self.fetch(at);
                self.flush(at);
                self.tick(at);
            }
            for message in std::mem::take(&mut self.wire) {
                self.deliver(message);
            }
            for producer in 0..2 {
                let leader = self.control.leader.expect("somebody leads") as usize - 1;
                if self.producers[producer].records > 0 {
                    self.produce(producer, leader);
                }
            }
            self.settle_clients();
            if self.is_well() {
                return;
            }
        }
        let states: Vec<String> =
            self.nodes.iter().map(|n| format!("{:?}", n.replica.as_ref().map(|r| r.replica()))).collect();
        self.is_wrong(format!("it does not become well: {}", states.join("\n")));
    }

    fn is_well(&self) -> bool {
        let ends: Vec<Offset> =
            self.nodes.iter().filter_map(|n| Some(n.replica.as_ref()?.log().log_end())).collect();
        let marks = self.nodes.iter().filter_map(|n| Some(n.replica.as_ref()?.high_watermark()));
        self.control.isr.len() == 3
            && marks.chain(ends.iter().copied()).all(|end| end == ends[0])
            && self.producers.iter().all(|p| p.records == 0)
    }

    /// What is wrong after all is over.
    fn verdict(mut self) -> Option<String> {
        self.heal();
        for at in 0..3 {
            self.read(at);
        }
        let mut all = self.tiered.clone();
        for node in &self.nodes {
            let replica = node.replica.as_ref().expect("started");
            for (header, bytes) in stored(replica.log()) {
                let first = all.entry(header.base_offset).or_insert_with(|| bytes.clone());
                if *first != bytes {
                    let at = header.base_offset;
                    return self.wrong.or(Some(format!("node {} differs at {at}", node.id)));
                }
            }
        }
        let mut next = 0;
        let mut found: BTreeMap<(i64, i32), Offset> = BTreeMap::new();
        for (base, bytes) in &all {
            let header = BatchHeader::parse(bytes).expect("whole");
            if *base != next {
                return self.wrong.or(Some(format!("a gap before {base}")));
            }
            next = header.next_offset();
            if let Some(before) = found.insert((header.producer_id, header.base_sequence), *base) {
                return self.wrong.or(Some(format!("the same batch at {before} and {base}")));
            }
        }
        for (producer, sequence, base) in &self.acked {
            if found.get(&(*producer as i64 + 1, *sequence)) != Some(base) {
                return self
                    .wrong
                    .or(Some(format!("lost: producer {producer} sequence {sequence} at {base}")));
            }
        }
        for (base, bytes) in &self.seen {
            if all.get(base) != Some(bytes) {
                return self.wrong.or(Some(format!("lost: what was read at {base}")));
            }
        }
        self.wrong
    }
}

fn run(flush: bool, guards: Guards, steps: &[Step]) -> Option<String> {
    let mut world = World::new(flush, guards);
    for step in steps {
        world.act(step);
        if world.wrong.is_some() {
            return world.wrong;
        }
    }
    world.verdict()
}

/// Schedules per property; `HIGHWATER_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("HIGHWATER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_is_acknowledged_survives_every_power_failure(steps in prop::collection::vec(step(), 1..220)) {
        prop_assert_eq!(run(true, Guards::default(), &steps), None);
    }

    #[test]
    fn what_is_acknowledged_survives_as_kafka_promises(steps in prop::collection::vec(step(), 1..220)) {
        prop_assert_eq!(run(false, Guards::default(), &steps), None);
    }
}

/// Schedules drawn from one seed, for the tests that count.
fn schedules(count: usize, steps: usize) -> impl Iterator<Item = Vec<Step>> {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let strategy = prop::collection::vec(step(), steps);
    (0..count).map(move |_| strategy.new_tree(&mut runner).expect("a schedule").current())
}

#[test]
fn the_absence_of_each_guard_is_noticed() {
    let all = Guards::default();
    for (name, flush, guards) in [
        ("flush before ack", true, Guards { flush_before_ack: false, ..all }),
        ("epoch fence", false, Guards { epoch_fence: false, ..all }),
        ("high watermark bound", false, Guards { high_watermark_bound: false, ..all }),
        ("sequence check", false, Guards { sequence_check: false, ..all }),
        ("truncate by epoch", false, Guards { truncate_by_epoch: false, ..all }),
    ] {
        let is_noticed = |steps: Vec<Step>| {
            std::panic::catch_unwind(|| run(flush, guards, &steps)).map_or(true, |wrong| wrong.is_some())
        };
        assert!(schedules(200, 200).any(is_noticed), "{name}");
    }
}

/// Else the properties above would say little.
#[test]
fn schedules_get_somewhere() {
    let (mut acked, mut read, mut tiered, mut epochs) = (0, 0, 0, 0);
    for steps in schedules(100, 200) {
        let mut world = World::new(true, Guards::default());
        steps.iter().for_each(|step| world.act(step));
        acked += world.acked.len();
        read += world.seen.len();
        tiered += usize::from(world.tier.offset > 0);
        epochs += world.control.leader_epoch;
    }
    assert!(acked > 100 && read > 100 && tiered > 10 && epochs > 100, "{acked} {read} {tiered} {epochs}");
}
