//! Where replicas go: rendezvous hashing over brokers with bounded load, spread over racks (ADR 0012).
//!
//! Every partition has its own order of all brokers, by hash. It takes the first ones of that order that have
//! room, from as many racks as there are; so a broker that joins or leaves changes little, and no broker gets
//! more than its share: of the topic first, because its partitions are busy together, then of all. Integers
//! only: the same entry must place alike on every machine.

use std::cmp::Reverse;

use highwater_model::{NodeId, TopicId};

use super::holdings::Held;
use super::state::{Broker, ClusterState};

/// How willingly a broker is given replicas, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Active,
    Draining,
    /// Only where too few others are there: it may come back.
    Fenced,
}

/// A broker as placement sees it.
#[derive(Clone, Debug)]
struct Candidate<'a> {
    node: NodeId,
    rack: Option<&'a str>,
    standing: Standing,
    held: Held,
    /// The same of the topic alone.
    of_topic: Held,
}

/// The brokers with what they hold, counted once for a whole request.
pub(super) struct Placement<'a> {
    candidates: Vec<Candidate<'a>>,
    active: usize,
    topic_id: TopicId,
    /// What active brokers hold, and will hold with what is placed now.
    total: Held,
    /// The same of the topic alone.
    total_of_topic: Held,
}

impl<'a> Placement<'a> {
    /// Takes what the brokers hold, and counts what they hold of the topic that is to be placed.
    pub(super) fn new(state: &'a ClusterState, topic_id: TopicId) -> Placement<'a> {
        let candidate = |broker: &'a Broker| {
            let standing = match (broker.is_fenced, broker.is_draining) {
                (true, _) => Standing::Fenced,
                (false, true) => Standing::Draining,
                (false, false) => Standing::Active,
            };
            let (node, rack) = (broker.node_id, broker.rack.as_deref());
            Candidate { node, rack, standing, held: state.holdings.of(node), of_topic: Held::default() }
        };
        // In the order of node ids, which the search below relies on.
        let mut candidates: Vec<Candidate<'a>> = state.brokers.values().map(candidate).collect();
        for partition in state.topics.get(&topic_id).iter().flat_map(|topic| &topic.partitions) {
            for (i, node) in partition.replicas.iter().enumerate() {
                if let Ok(at) = candidates.binary_search_by_key(node, |candidate| candidate.node) {
                    candidates[at].of_topic.add(i == 0);
                }
            }
        }
        let (mut active, mut total, mut total_of_topic) = (0, Held::default(), Held::default());
        for candidate in candidates.iter().filter(|candidate| candidate.standing == Standing::Active) {
            active += 1;
            total.join(candidate.held);
            total_of_topic.join(candidate.of_topic);
        }
        debug_assert!(total_of_topic.replicas <= total.replicas, "a part of all");
        Placement { candidates, active, topic_id, total, total_of_topic }
    }

    /// Replicas of `count` partitions from number `first` on, the preferred leader first.
    pub(super) fn place(mut self, first: usize, count: usize, factor: usize) -> Vec<Vec<NodeId>> {
        assert!(factor <= self.candidates.len(), "each replica is a broker of its own");
        let placed = Held { replicas: count * factor, leaders: count };
        self.total.join(placed);
        self.total_of_topic.join(placed);
        (first..first + count).map(|number| self.place_one(number, factor)).collect()
    }

    fn place_one(&mut self, number: usize, factor: usize) -> Vec<NodeId> {
        let hash = |candidate: &Candidate<'_>| Reverse(affinity(self.topic_id, number, candidate.node));
        let hashes: Vec<_> = self.candidates.iter().map(hash).collect();
        let (fair, fair_of_topic) = (self.fair(self.total), self.fair(self.total_of_topic));
        let candidates = &self.candidates;
        let mut chosen: Vec<usize> = Vec::with_capacity(factor);
        while chosen.len() < factor {
            let in_rack = |at: usize| {
                let rack = candidates[at].rack;
                chosen.iter().filter(|taken| rack.is_some() && candidates[**taken].rack == rack).count()
            };
            let next = (0..candidates.len()).filter(|at| !chosen.contains(at)).min_by_key(|at| {
                let (held, of_topic) = (candidates[*at].held, candidates[*at].of_topic);
                let excess = (held.replicas + 1).saturating_sub(fair.replicas);
                let excess_of_topic = (of_topic.replicas + 1).saturating_sub(fair_of_topic.replicas);
                (candidates[*at].standing, in_rack(*at), excess_of_topic, excess, hashes[*at])
            });
            chosen.push(next.expect("there are at least as many brokers as replicas"));
        }
        let leader = chosen.iter().copied().min_by_key(|at| {
            let (held, of_topic) = (candidates[*at].held, candidates[*at].of_topic);
            let excess = (held.leaders + 1).saturating_sub(fair.leaders);
            let excess_of_topic = (of_topic.leaders + 1).saturating_sub(fair_of_topic.leaders);
            (candidates[*at].standing, excess_of_topic, excess, hashes[*at])
        });
        let leader = leader.expect("at least one replica");
        chosen.sort_by_key(|at| (*at != leader, candidates[*at].standing, hashes[*at]));
        debug_assert_eq!(chosen.first(), Some(&leader), "the preferred leader first");
        let nodes = chosen.iter().map(|at| candidates[*at].node).collect();
        for at in chosen {
            self.candidates[at].held.add(at == leader);
            self.candidates[at].of_topic.add(at == leader);
        }
        nodes
    }

    /// An active broker's share, rounded up.
    fn fair(&self, total: Held) -> Held {
        debug_assert!(self.active <= self.candidates.len());
        let share = |count: usize| count.div_ceil(self.active.max(1));
        Held { replicas: share(total.replicas), leaders: share(total.leaders) }
    }
}

/// How much a partition likes a broker: the greatest wins.
pub(super) fn affinity(topic_id: TopicId, number: usize, node: NodeId) -> u64 {
    let topic = topic_id.0.as_u128();
    let words = [(topic >> 64) as u64, topic as u64, number as u64, node];
    let hash = words.into_iter().fold(0, |hash, word| mixed(hash ^ word));
    debug_assert_eq!(mixed(0), 0xe220_a839_7b1d_cdaf, "placement depends on these very values");
    hash
}

/// SplitMix64's step and output function.
fn mixed(seed: u64) -> u64 {
    let word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
