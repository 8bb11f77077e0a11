//! The invariants of the state, executed: at every load, before every snapshot in debug builds, and in the
//! tests after every command.

use highwater_model::topic_name::collision_key;

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
        }
        let partitions: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        if partitions != self.partition_count {
            return Err(broken("cluster", "partitions are counted"));
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
}

impl Topic {
    fn check(&self) -> Result<(), String> {
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
    fn check(&self) -> Result<(), String> {
        let replicas = &self.replicas;
        if replicas.is_empty() || replicas.iter().enumerate().any(|(i, node)| replicas[..i].contains(node)) {
            return Err("has replicas, each once".into());
        }
        if !self.isr.iter().all(|node| replicas.contains(node)) {
            return Err("in-sync replicas are replicas".into());
        }
        if self.leader.is_some_and(|leader| !self.isr.contains(&leader)) {
            return Err("the leader is in sync".into());
        }
        if self.leader_epoch < 0 || self.partition_epoch < 0 {
            return Err("epochs are not negative".into());
        }
        if self.manifest.generation > self.leader_epoch {
            return Err("the manifest's generation is at most the leader epoch".into());
        }
        self.manifest.check().map_err(|e| e.to_string())
    }
}
