//! From the control plane's record of a partition to what the replica must know of it.

use highwater_coordinator::core::{ClusterState, Partition as Record};
use highwater_model::{NodeId, TopicConfig};

use crate::core::replica::{Assignment, Member};

/// What the control plane says of one partition. `lag_ms_max`: `replica.lag.time.max.ms`.
pub fn assignment(
    state: &ClusterState,
    record: &Record,
    config: &TopicConfig,
    lag_ms_max: i64,
) -> Assignment {
    let member = |node_id: &NodeId| {
        let broker = state.brokers.get(node_id);
        Member {
            node_id: *node_id,
            broker_epoch: broker.map_or(0, |b| b.epoch),
            may_join: broker.is_some_and(|b| !b.is_fenced),
        }
    };
    Assignment {
        leader: record.leader,
        leader_epoch: record.leader_epoch,
        partition_epoch: record.partition_epoch,
        replicas: record.replicas.iter().map(member).collect(),
        isr: record.isr.clone(),
        min_isr: usize::try_from(config.min_insync_replicas).unwrap_or(1),
        flush_before_ack: config.flush_messages == 1,
        lag_ms_max,
    }
}

/// Whether this node has a replica of the partition.
pub fn is_mine(record: &Record, node_id: NodeId) -> bool {
    record.replicas.contains(&node_id)
}
