//! Leadership goes back to the first replica where it is in sync again, and brokers are the first replica of
//! about as many partitions each.

use std::collections::BTreeMap;

use highwater_model::NodeId;

use super::super::command::{Command, ElectionKind};
use super::super::state::Partition;
use super::{Plan, is_moving};

impl Plan<'_> {
    pub(super) fn return_leaders(&mut self) {
        for (tp, partition) in self.state.partitions() {
            if self.elections >= self.settings.elections_max {
                return;
            }
            let Some(preferred) = partition.replicas.first().copied() else { continue };
            let is_elsewhere = partition.leader.is_some_and(|leader| leader != preferred);
            let is_free = partition.raft.is_none() && !is_moving(partition) && !self.touched.contains(&tp);
            if is_elsewhere && is_free && partition.isr.contains(&preferred) && self.may_lead(preferred) {
                self.touched.insert(tp);
                self.elections += 1;
                self.commands.push(Command::ElectLeader { tp, kind: ElectionKind::Preferred });
            }
        }
        debug_assert!(self.elections <= self.settings.elections_max);
    }

    /// Changes the order of replicas, which moves no data; the election follows in the next round.
    pub(super) fn spread_leaders(&mut self) {
        let mut preferred: BTreeMap<NodeId, usize> = self.load.keys().map(|node| (*node, 0)).collect();
        for (_, partition) in self.state.partitions() {
            if let Some(count) = partition.replicas.first().and_then(|node| preferred.get_mut(node)) {
                *count += 1;
            }
        }
        for (tp, partition) in self.state.partitions() {
            if self.elections >= self.settings.elections_max {
                return;
            }
            if partition.is_pinned || partition.raft.is_some() || is_moving(partition) {
                continue;
            }
            if self.touched.contains(&tp) {
                continue;
            }
            let Some((first, other)) = self.relief(partition, &preferred) else { continue };
            let mut replicas = partition.replicas.clone();
            replicas.retain(|node| *node != other);
            replicas.insert(0, other);
            debug_assert_eq!(replicas.len(), partition.replicas.len());
            *preferred.entry(first).or_default() -= 1;
            *preferred.entry(other).or_default() += 1;
            self.touched.insert(tp);
            self.elections += 1;
            self.commands.push(Command::MovePartition { tp, replicas: Some(replicas) });
        }
    }

    /// The first replica, and the other one that leads so many fewer that the order should change.
    fn relief(&self, partition: &Partition, preferred: &BTreeMap<NodeId, usize>) -> Option<(NodeId, NodeId)> {
        let first = partition.replicas.first().copied()?;
        let count = |node: NodeId| preferred.get(&node).copied();
        let in_sync = |node: &NodeId| partition.isr.contains(node) && self.may_lead(*node);
        let others = partition.replicas.iter().copied().skip(1).filter(in_sync);
        let (least, other) = others.filter_map(|node| Some((count(node)?, node))).min()?;
        debug_assert_ne!(first, other);
        (count(first)? >= least + 2).then_some((first, other))
    }

    /// A broker that has just come may go again.
    fn may_lead(&self, node: NodeId) -> bool {
        let broker = self.state.brokers.get(&node).filter(|broker| broker.is_active() && !broker.is_draining);
        broker.is_some_and(|b| self.now_ms.saturating_sub(b.registered_at_ms) >= self.settings.settle_ms)
    }
}
