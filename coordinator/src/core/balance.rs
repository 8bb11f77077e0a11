//! Which replicas should move, and who should lead: a pure plan, made again in every round from the state and
//! the load that brokers report (ADR 0012). Nothing here is replicated: the plan is a handful of commands,
//! and the state machine judges each of them.
//!
//! A round looks, in this order, for: moves that cannot end (to brokers that died meanwhile), replicas on
//! brokers that drain or are dead for long, brokers that have less than their share, partitions that are not
//! led by their first replica, and brokers that are the first replica of too many. Bounded: so many moves at
//! a time in the cluster, so many elections per round. It comes to rest: every move makes the gap between two
//! brokers smaller by more than a threshold. Invariant 16.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::{NodeId, TopicPartition};
use serde::{Deserialize, Serialize};

use super::command::Command;
use super::placement::affinity;
use super::state::{Broker, ClusterState, Partition};

mod leaders;
mod share;

/// What a broker reports of itself from time to time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerReport {
    /// Of the partitions that it leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionReport>,
    /// Free and whole size of its data disk, in bytes; 0 where unknown.
    #[serde(default)]
    pub disk_free_bytes: u64,
    #[serde(default)]
    pub disk_bytes: u64,
}

/// What a leader reports of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    pub tp: TopicPartition,
    pub log_end: i64,
    /// Bytes of the local log.
    pub local_bytes: u64,
    /// Bytes in and out per second, averaged over some minutes, so that the plan does not follow noise.
    pub bytes_per_s: u64,
}

/// The load of partitions. One without a report counts as idle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    partitions: BTreeMap<TopicPartition, Load>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    local_bytes: u64,
    bytes_per_s: u64,
}

/// How a plan is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceSettings {
    /// A broker that is fenced for longer gives its replicas away (`broker.dead.timeout`), in ms.
    pub dead_timeout_ms: i64,
    /// Partitions that move at a time in the whole cluster.
    pub moves_max: usize,
    /// Elections and changes of order asked for in one round.
    pub elections_max: usize,
    /// A broker is left alone for so long after it registered, in ms: it may not stay.
    pub settle_ms: i64,
}

/// A broker's part of the whole, for an overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerShare {
    pub node_id: NodeId,
    pub replicas: usize,
    pub leaders: usize,
    /// Preferred to lead so many partitions.
    pub preferred: usize,
    /// Load in thousandths of the fair share; 0 for a broker that gets none.
    pub load_permille: u64,
}

impl Loads {
    pub fn from_reports<'a>(reports: impl IntoIterator<Item = &'a BrokerReport>) -> Loads {
        let mut loads = Loads::default();
        for partition in reports.into_iter().flat_map(|report| &report.partitions) {
            let load = loads.partitions.entry(partition.tp).or_default();
            load.local_bytes = load.local_bytes.max(partition.local_bytes);
            load.bytes_per_s = load.bytes_per_s.max(partition.bytes_per_s);
        }
        loads
    }

    fn of(&self, tp: TopicPartition) -> Load {
        self.partitions.get(&tp).copied().unwrap_or_default()
    }
}

/// The commands of one round.
pub fn plan_moves(
    state: &ClusterState,
    loads: &Loads,
    settings: &BalanceSettings,
    now_ms: i64,
) -> Vec<Command> {
    let mut plan = Plan::new(state, loads, settings, now_ms);
    plan.take_back_dead_ends();
    plan.evacuate();
    plan.share_out();
    plan.return_leaders();
    plan.spread_leaders();
    debug_assert!(plan.moves <= settings.moves_max.max(plan.moving), "bounded");
    plan.commands
}

/// Each broker's part of the whole.
pub fn shares(
    state: &ClusterState,
    loads: &Loads,
    settings: &BalanceSettings,
    now_ms: i64,
) -> Vec<BrokerShare> {
    let plan = Plan::new(state, loads, settings, now_ms);
    let fair = plan.fair_load();
    let share = |broker: &Broker| {
        let node_id = broker.node_id;
        let count = |is: &dyn Fn(&Partition) -> bool| state.partitions().filter(|(_, p)| is(p)).count();
        let load = plan.load.get(&node_id).copied().unwrap_or(0);
        BrokerShare {
            node_id,
            replicas: count(&|p| p.replicas.contains(&node_id)),
            leaders: count(&|p| p.leader == Some(node_id)),
            preferred: count(&|p| p.replicas.first() == Some(&node_id)),
            load_permille: (load * 1_000).checked_div(fair).unwrap_or(0),
        }
    };
    state.brokers.values().map(share).collect()
}

/// A plan in the making.
struct Plan<'a> {
    state: &'a ClusterState,
    settings: &'a BalanceSettings,
    now_ms: i64,
    /// What one replica of each partition counts.
    weights: BTreeMap<TopicPartition, u64>,
    /// The brokers that get replicas, with what they have, the moves of this plan already made.
    load: BTreeMap<NodeId, u64>,
    /// Partitions that were moving before the plan, and with those of the plan.
    moving: usize,
    moves: usize,
    /// Partitions that this plan has a command for.
    touched: BTreeSet<TopicPartition>,
    elections: usize,
    commands: Vec<Command>,
}

/// What a replica counts for being one; traffic and bytes count as much again each, on the average.
const REPLICA_WEIGHT: u64 = 1_000;

impl<'a> Plan<'a> {
    fn new(state: &'a ClusterState, loads: &Loads, settings: &'a BalanceSettings, now_ms: i64) -> Plan<'a> {
        let count = state.partition_count.max(1) as u128;
        let (mut bytes, mut rate) = (0u128, 0u128);
        for load in loads.partitions.values() {
            bytes += u128::from(load.local_bytes);
            rate += u128::from(load.bytes_per_s);
        }
        let part = |value: u64, total: u128| {
            let scaled = u128::from(value) * u128::from(REPLICA_WEIGHT) * count;
            u64::try_from(scaled.checked_div(total).unwrap_or(0)).unwrap_or(u64::MAX / 2)
        };
        let (mut weights, mut load) = (BTreeMap::new(), BTreeMap::new());
        for broker in state.brokers.values().filter(|broker| broker.is_active() && !broker.is_draining) {
            load.insert(broker.node_id, 0u64);
        }
        let mut moving = 0;
        for (tp, partition) in state.partitions() {
            let of = loads.of(tp);
            let weight = REPLICA_WEIGHT + part(of.local_bytes, bytes) + part(of.bytes_per_s, rate);
            weights.insert(tp, weight);
            moving += usize::from(is_moving(partition));
            for node in partition.replicas.iter().filter(|node| !partition.removing.contains(node)) {
                if let Some(load) = load.get_mut(node) {
                    *load += weight;
                }
            }
        }
        debug_assert_eq!(weights.len(), state.partition_count);
        Plan {
            state,
            settings,
            now_ms,
            weights,
            load,
            moving,
            moves: moving,
            touched: BTreeSet::new(),
            elections: 0,
            commands: Vec::new(),
        }
    }

    fn fair_load(&self) -> u64 {
        self.load.values().sum::<u64>() / (self.load.len() as u64).max(1)
    }

    /// Whether the broker's replicas are to go elsewhere.
    fn gives_away(&self, node: NodeId) -> bool {
        let Some(broker) = self.state.brokers.get(&node) else { return true };
        let fenced_ms = self.now_ms.saturating_sub(broker.fenced_at_ms);
        broker.is_draining || (broker.is_fenced && fenced_ms >= self.settings.dead_timeout_ms)
    }

    /// Moves to brokers that were to get replicas, and will not catch up any more.
    fn take_back_dead_ends(&mut self) {
        for (tp, partition) in self.state.partitions() {
            if partition.adding.iter().any(|node| self.gives_away(*node)) {
                self.commands.push(Command::MovePartition { tp, replicas: None });
                self.touched.insert(tp);
            }
        }
        debug_assert!(self.touched.len() <= self.moving);
    }

    /// Every replica on a broker that gives its own away gets another place, if there is one.
    fn evacuate(&mut self) {
        for (tp, partition) in self.state.partitions() {
            if self.moves >= self.settings.moves_max {
                return;
            }
            let has_to = partition.replicas.iter().any(|node| self.gives_away(*node));
            if !has_to || partition.leader.is_none() || is_moving(partition) || self.touched.contains(&tp) {
                continue;
            }
            let mut replicas = partition.replicas.clone();
            for i in 0..replicas.len() {
                if self.gives_away(replicas[i])
                    && let Some(node) = self.place_for(tp, &replicas, i)
                {
                    replicas[i] = node;
                }
            }
            if replicas != partition.replicas {
                self.reassign(tp, partition, replicas);
            }
        }
    }

    /// The broker that should have the replica at `slot` instead: in a rack of its own where there is one,
    /// the one with the least load, and where that is alike the one that the partition likes.
    fn place_for(&self, tp: TopicPartition, replicas: &[NodeId], slot: usize) -> Option<NodeId> {
        let number = usize::try_from(tp.partition).unwrap_or(0);
        let weight = self.weights.get(&tp).copied().unwrap_or(REPLICA_WEIGHT);
        let others = || replicas.iter().enumerate().filter(|(i, _)| *i != slot).map(|(_, node)| *node);
        let candidates = self.load.iter().filter(|(node, _)| !replicas.contains(node));
        let chosen = candidates.min_by_key(|(node, load)| {
            let shared = others().filter(|other| self.is_same_rack(*other, **node)).count();
            (shared, **load / weight.max(1), std::cmp::Reverse(affinity(tp.topic_id, number, **node)))
        });
        debug_assert!(chosen.is_none_or(|(node, _)| !self.gives_away(*node)));
        chosen.map(|(node, _)| *node)
    }

    /// Brokers without a rack share none.
    fn is_same_rack(&self, a: NodeId, b: NodeId) -> bool {
        let rack = |node| self.state.brokers.get(&node).and_then(|broker| broker.rack.as_deref());
        rack(a).is_some() && rack(a) == rack(b)
    }

    fn reassign(&mut self, tp: TopicPartition, partition: &Partition, replicas: Vec<NodeId>) {
        let weight = self.weights.get(&tp).copied().unwrap_or(REPLICA_WEIGHT);
        for node in replicas.iter().filter(|node| !partition.replicas.contains(node)) {
            *self.load.entry(*node).or_default() += weight;
        }
        for node in partition.replicas.iter().filter(|node| !replicas.contains(node)) {
            if let Some(load) = self.load.get_mut(node) {
                *load = load.saturating_sub(weight);
            }
        }
        self.moves += 1;
        let is_new = self.touched.insert(tp);
        assert!(is_new, "one command for each partition in a round");
        self.commands.push(Command::MovePartition { tp, replicas: Some(replicas) });
    }
}

fn is_moving(partition: &Partition) -> bool {
    !partition.adding.is_empty() || !partition.removing.is_empty()
}
