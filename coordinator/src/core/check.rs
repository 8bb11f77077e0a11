//! The invariants of the state, executed: at every load, before every snapshot in debug builds, and in the
//! tests after every command.

use highwater_model::NodeId;
use highwater_model::topic_name::collision_key;

use super::holdings::Holdings;
use super::state::{ClusterState, Partition, Topic};

/// Which rule of the state does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("control plane state, {place}: {rule}")]
pub struct StateBroken {
    pub rule: String,
    pub place: String,
}

fn broken(place: impl Into<String>, rule: impl Into<String>) -> StateBroken {
    StateBroken { rule: rule.into(), place: place.into() }
}

impl ClusterState {
    /// Whether the state is whole.
    pub fn check(&self) -> Result<(), StateBroken> {
        let empty = self.topics.is_empty() && self.brokers.is_empty() && self.deleted.is_empty();
        if self.cluster_id.is_empty() && !empty {
            return Err(broken("cluster", "nothing exists before the cluster is formed"));
        }
        if self.producer_ids_end < 0 {
            return Err(broken("producer ids", "never negative"));
        }
        if self.by_key.len() != self.topics.len() {
            return Err(broken("topics", "names are unique, `.` and `_` alike"));
        }
        for (id, topic) in &self.topics {
            let place = || format!("topic {}", topic.name);
            if topic.id != *id || self.by_key.get(&collision_key(&topic.name)) != Some(id) {
                return Err(broken(place(), "is listed under its own id and name"));
            }
            if self.deleted.contains_key(id) {
                return Err(broken(place(), "is not deleted"));
            }
            topic.check().map_err(|rule| broken(place(), rule))?;
            for partition in &topic.partitions {
                self.check_brokers(partition).map_err(|rule| broken(place(), rule))?;
            }
        }
        for (node, broker) in &self.brokers {
            if broker.node_id != *node || (!broker.is_fenced && broker.fenced_at_ms != 0) {
                return Err(broken(format!("broker {node}"), "is listed under its own id, fenced or not"));
            }
        }
        let partitions: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        if partitions != self.partition_count {
            return Err(broken("cluster", "partitions are counted"));
        }
        if Holdings::counted(&self.topics) != self.holdings {
            return Err(broken("cluster", "replicas are counted by broker"));
        }
        for (id, topic) in &self.deleted {
            if topic.id != *id {
                return Err(broken(format!("deleted topic {id}"), "is listed under its own id"));
            }
            for manifest in &topic.manifests {
                manifest.check().map_err(|e| broken(format!("deleted topic {id}"), e.to_string()))?;
            }
        }
        Ok(())
    }

    /// What a partition says of brokers that the state knows.
    fn check_brokers(&self, partition: &Partition) -> Result<(), String> {
        let is_fenced = |node: &NodeId| self.brokers.get(node).is_some_and(|broker| broker.is_fenced);
        if partition.leader.as_ref().is_some_and(is_fenced) {
            return Err("who leads is not fenced".into());
        }
        if partition.raft.is_some() {
            return Ok(());
        }
        if partition.isr.iter().any(is_fenced) {
            return Err("who is in sync is not fenced".into());
        }
        match partition.leader.is_none() && !partition.isr.is_empty() {
            true => Err("somebody leads where somebody is in sync".into()),
            false => Ok(()),
        }
    }
}

impl Topic {
    /// Whether the topic is whole, as far as it can be told without the others.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.partitions.is_empty() {
            return Err("has a partition".into());
        }
        for (number, partition) in self.partitions.iter().enumerate() {
            partition.check().map_err(|rule| format!("partition {number}: {rule}"))?;
        }
        Ok(())
    }
}

impl Partition {
    /// Whether the partition is whole.
    pub(super) fn check(&self) -> Result<(), String> {
        let replicas = &self.replicas;
        if replicas.is_empty() || !is_set(replicas, replicas) {
            return Err("has replicas, each once".into());
        }
        if !is_set(&self.isr, replicas) {
            return Err("in-sync replicas are replicas".into());
        }
        if !is_set(&self.elr, replicas) || self.elr.iter().any(|node| self.isr.contains(node)) {
            return Err("eligible leader replicas are replicas that are not in sync".into());
        }
        if !is_set(&self.lost, replicas) || self.lost.iter().any(|node| self.isr.contains(node)) {
            return Err("replicas that lost their logs are replicas that are not in sync".into());
        }
        if !is_set(&self.adding, replicas) || !is_set(&self.removing, replicas) {
            return Err("replicas that come or go are replicas".into());
        }
        if self.adding.iter().any(|node| self.removing.contains(node)) {
            return Err("a replica comes or goes".into());
        }
        if self.leader.is_some_and(|leader| !self.isr.contains(&leader)) {
            return Err("the leader is in sync".into());
        }
        if self.last_known_leader.is_some_and(|leader| self.leader.is_some() || !replicas.contains(&leader)) {
            return Err("who led last is a replica, and nobody leads now".into());
        }
        if self.leader_epoch < 0 || self.partition_epoch < 0 {
            return Err("epochs are not negative".into());
        }
        if let Some(group) = &self.raft
            && (group.since_epoch > self.leader_epoch || group.voters.is_empty() || !self.elr.is_empty())
        {
            return Err("a Raft group has voters, terms after its beginning, and elects by itself".into());
        }
        if self.manifest.generation > self.leader_epoch {
            return Err("the manifest's generation is at most the leader epoch".into());
        }
        self.manifest.check().map_err(|e| e.to_string())
    }
}

/// Whether the nodes are among `all`, each once.
fn is_set(nodes: &[NodeId], all: &[NodeId]) -> bool {
    let is_new = |(i, node): (usize, &NodeId)| all.contains(node) && !nodes[..i].contains(node);
    nodes.iter().enumerate().all(is_new)
}
