//! Settings of brokers that change while they run (KIP-226): the rates at which replicas are throttled
//! (KIP-73), for all brokers or for one. They are kept here, and obeyed by the brokers as they follow the
//! metadata.
//!
//! Names and rules are those of Apache Kafka 4.1 (`QuotaConfig`). Everything else that a broker can be told
//! is a flag of `serve`, and refused here.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_model::NodeId;
use serde::{Deserialize, Serialize};

use super::command::{ConfigOp, ConfigOpKind, Reply};
use super::edit::{Edit, Outcome};
use super::refusal::Refusal;
use super::state::ClusterState;

/// Most bytes per second that a leader sends to throttled replicas that are not in sync.
pub const LEADER_THROTTLED_RATE: &str = "leader.replication.throttled.rate";
/// Most bytes per second that a follower takes for throttled replicas that are not in sync.
pub const FOLLOWER_THROTTLED_RATE: &str = "follower.replication.throttled.rate";
/// Of Kafka's brokers with several log directories; kafka-reassign-partitions deletes it with the others.
const LOG_DIRS_THROTTLED_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";

/// The settings of brokers that are kept here, with what they mean.
pub const BROKER_CONFIGS: [(&str, &str); 2] = [
    (
        FOLLOWER_THROTTLED_RATE,
        "Most bytes per second that this broker takes for replicas that follower.replication.throttled.replicas \
         names, while they are not in sync.",
    ),
    (
        LEADER_THROTTLED_RATE,
        "Most bytes per second that this broker sends to replicas that leader.replication.throttled.replicas \
         names, while they are not in sync.",
    ),
];

/// What was set, as text; every value is legal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerConfigs {
    /// For every broker that has nothing of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub all: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub of: BTreeMap<NodeId, BTreeMap<String, String>>,
}

impl BrokerConfigs {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.of.is_empty()
    }

    /// What was set for that broker alone.
    pub fn own(&self, node: NodeId, name: &str) -> Option<&str> {
        self.of.get(&node)?.get(name).map(String::as_str)
    }

    /// A rate in force for a broker, in bytes per second; none where it is without limit.
    pub fn rate(&self, node: NodeId, name: &str) -> Option<u64> {
        debug_assert!(BROKER_CONFIGS.iter().any(|(known, _)| *known == name), "a setting that is kept here");
        let text = self.own(node, name).or_else(|| self.all.get(name).map(String::as_str))?;
        // Kafka's default stands for no limit.
        text.trim().parse().ok().filter(|rate| *rate < i64::MAX.unsigned_abs())
    }

    /// Without a broker that is no more.
    pub(super) fn without(&self, node: NodeId) -> BrokerConfigs {
        let mut left = self.clone();
        left.of.remove(&node);
        left
    }

    /// With `ops` carried out, in order, for one broker or for all.
    fn altered(&self, node: Option<NodeId>, ops: &[ConfigOp]) -> Result<BrokerConfigs, Refusal> {
        let mut next = self.clone();
        let set = match node {
            Some(node) => next.of.entry(node).or_default(),
            None => &mut next.all,
        };
        for ConfigOp { name, op } in ops {
            match op {
                ConfigOpKind::Set(value) => {
                    check(name, value)?;
                    set.insert(name.clone(), value.trim().to_owned());
                }
                ConfigOpKind::Delete if name == LOG_DIRS_THROTTLED_RATE => {}
                ConfigOpKind::Delete => {
                    check_known(name)?;
                    set.remove(name);
                }
                ConfigOpKind::Append(_) | ConfigOpKind::Subtract(_) => {
                    let reason = format!("{name} is not a list: it can be set or deleted.");
                    return Err(Refusal::ConfigInvalid(reason));
                }
            }
        }
        debug_assert!(set.len() <= BROKER_CONFIGS.len(), "known names only");
        next.of.retain(|_, set| !set.is_empty());
        Ok(next)
    }
}

fn check_known(name: &str) -> Result<(), Refusal> {
    match BROKER_CONFIGS.iter().any(|(known, _)| *known == name) {
        true => Ok(()),
        false => Err(Refusal::ConfigInvalid(format!(
            "{name} cannot be altered while a broker runs: restart it with another flag of `highwater serve`."
        ))),
    }
}

fn check(name: &str, value: &str) -> Result<(), Refusal> {
    check_known(name)?;
    let shown: String = value.chars().take(100).collect();
    match value.trim().parse::<i64>() {
        Ok(rate) if rate >= 0 => Ok(()),
        Ok(_) => Err(Refusal::ConfigInvalid(format!(
            "Invalid value {shown} for configuration {name}: Value must be at least 0"
        ))),
        Err(_) => Err(Refusal::ConfigInvalid(format!(
            "Invalid value {shown} for configuration {name}: Not a number of type LONG"
        ))),
    }
}

impl ClusterState {
    pub(super) fn decide_alter_broker_configs(
        &self,
        node: Option<NodeId>,
        ops: &[ConfigOp],
    ) -> Result<Outcome, Refusal> {
        if let Some(node) = node.filter(|node| !self.brokers.contains_key(node)) {
            return Err(Refusal::BrokerUnknown(node));
        }
        let next = self.broker_configs.altered(node, ops)?;
        if next == *self.broker_configs {
            return Ok(Outcome::unchanged(Reply::Done));
        }
        assert!(next.of.keys().all(|node| self.brokers.contains_key(node)), "of registered brokers");
        Ok(Outcome::one(Edit::BrokerConfigsChanged { configs: Arc::new(next) }, Reply::Done))
    }
}
