//! Every broker takes its share: moves from the one with the most to the one with the least, as long as that
//! makes the gap between them clearly smaller.

use highwater_model::{NodeId, TopicPartition};

use super::super::placement::affinity;
use super::super::state::Partition;
use super::{Plan, REPLICA_WEIGHT, is_moving};

impl Plan<'_> {
    pub(super) fn share_out(&mut self) {
        // One partition of an idle cluster, or a tenth of a share, is not worth a move.
        let tolerated = (2 * REPLICA_WEIGHT).max(self.fair_load() / 10);
        while self.moves < self.settings.moves_max {
            let Some((from, to, gap)) = self.widest() else { return };
            if gap < tolerated {
                return;
            }
            let Some((tp, replicas)) = self.best_move(from, to, gap) else { return };
            let partition = self.state.partition(tp).expect("chosen from the state");
            let before = self.moves;
            self.reassign(tp, partition, replicas);
            debug_assert_eq!(self.moves, before + 1);
        }
    }

    /// The brokers with the most and the least load, and the gap between them.
    fn widest(&self) -> Option<(NodeId, NodeId, u64)> {
        let settled = |node: &NodeId| {
            let broker = self.state.brokers.get(node);
            broker.is_some_and(|b| self.now_ms.saturating_sub(b.registered_at_ms) >= self.settings.settle_ms)
        };
        let (from, most) = self.load.iter().max_by_key(|(node, load)| (**load, **node))?;
        let (to, least) =
            self.load.iter().filter(|(node, _)| settled(node)).min_by_key(|(_, load)| **load)?;
        assert!(most >= least, "the most of all");
        Some((*from, *to, most.saturating_sub(*least)))
    }

    /// The partition whose move closes most of the gap without opening another one; among equals the one that
    /// likes the new broker most, so that the same cluster is always laid out alike.
    fn best_move(&self, from: NodeId, to: NodeId, gap: u64) -> Option<(TopicPartition, Vec<NodeId>)> {
        let candidates = self.state.partitions().filter(|(tp, partition)| {
            let weight = self.weights.get(tp).copied().unwrap_or(REPLICA_WEIGHT);
            weight < gap && !self.touched.contains(tp) && self.may_move(partition, from, to)
        });
        let (tp, partition) = candidates.min_by_key(|(tp, _)| {
            let weight = self.weights.get(tp).copied().unwrap_or(REPLICA_WEIGHT);
            let number = usize::try_from(tp.partition).unwrap_or(0);
            ((gap / 2).abs_diff(weight), std::cmp::Reverse(affinity(tp.topic_id, number, to)))
        })?;
        let swapped = |node: &NodeId| if *node == from { to } else { *node };
        let replicas: Vec<NodeId> = partition.replicas.iter().map(swapped).collect();
        assert!(replicas.contains(&to) && !replicas.contains(&from));
        Some((tp, replicas))
    }

    /// Only what is whole and was not placed by hand is moved for balance, and never closer together.
    fn may_move(&self, partition: &Partition, from: NodeId, to: NodeId) -> bool {
        let is_whole = partition.isr.len() == partition.replicas.len() && !is_moving(partition);
        if partition.is_pinned
            || !is_whole
            || !partition.replicas.contains(&from)
            || partition.replicas.contains(&to)
        {
            return false;
        }
        let shared_with = |node: NodeId| {
            let others = partition.replicas.iter().filter(|other| **other != from);
            others.filter(|other| self.is_same_rack(**other, node)).count()
        };
        debug_assert_ne!(from, to);
        shared_with(to) <= shared_with(from)
    }
}
