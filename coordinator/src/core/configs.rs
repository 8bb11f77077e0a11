//! Judging changes of a topic's settings. The settings that result are validated as a whole, so that no order
//! of changes leads to a topic that could not have been created.

use std::collections::BTreeMap;

use highwater_model::topic_config::{ConfigKind, Replication, config_def, list_items};
use highwater_model::{TopicConfig, TopicId, TopicPartition};

use super::command::{ConfigOp, ConfigOpKind, Reply};
use super::draft::{Brokers, Draft};
use super::edit::{Edit, Outcome, PartitionChange};
use super::refusal::Refusal;
use super::state::{ClusterState, Topic};

impl ClusterState {
    pub(super) fn decide_replace_configs(
        &self,
        rules: u16,
        topic_id: TopicId,
        overrides: &BTreeMap<String, String>,
    ) -> Result<Outcome, Refusal> {
        let topic = self.topics.get(&topic_id).ok_or(Refusal::TopicUnknown)?;
        let config = parsed(rules, overrides)?;
        if *overrides == topic.overrides {
            return Ok(Outcome::unchanged(Reply::Done));
        }
        // What is in the log and in the tier was checked against the format of its day, and objects name one.
        if config.value_format != topic.config.value_format {
            let name = "highwater.value.format";
            let def = config_def(name).expect("a setting of every topic");
            let now = topic.overrides.get(name).map_or(def.default, String::as_str);
            let reason = format!("{name} is fixed when a topic is created; this topic has {now}.");
            return Err(Refusal::ConfigInvalid(reason));
        }
        assert!(overrides.keys().all(|name| config_def(name).is_some()), "validated");
        let partitions = match rules {
            1 => Vec::new(),
            _ => self.partitions_under(topic, &config),
        };
        let overrides = overrides.clone();
        Ok(Outcome::one(Edit::OverridesReplaced { topic_id, overrides, partitions }, Reply::Done))
    }

    /// What other settings do to the topic's partitions. Under another `min.insync.replicas` the epoch of
    /// each is raised: a leader that still counts by the old one, and has moved its high watermark
    /// accordingly, must not have a smaller in-sync set recorded as if it had counted by the new one (ADR
    /// 0012). Likewise under another replication: the end of a switch that was asked for before it was taken
    /// back must not come true after it was asked for again, as the leader has appended in between (ADR
    /// 0014).
    fn partitions_under(&self, topic: &Topic, config: &TopicConfig) -> Vec<PartitionChange> {
        let brokers = Brokers::of(self);
        let is_counted_anew = config.min_insync_replicas != topic.config.min_insync_replicas
            || config.replication != topic.config.replication;
        let mut changes = Vec::new();
        for (number, partition) in (0i32..).zip(&topic.partitions) {
            let mut draft = Draft::new(config, TopicPartition::new(topic.id, number), partition);
            if is_counted_anew {
                draft.touch();
            }
            changes.extend(draft.finish(&brokers));
        }
        debug_assert!(changes.len() <= topic.partitions.len());
        changes
    }

    pub(super) fn decide_alter_configs(
        &self,
        rules: u16,
        topic_id: TopicId,
        ops: &[ConfigOp],
    ) -> Result<Outcome, Refusal> {
        let topic = self.topics.get(&topic_id).ok_or(Refusal::TopicUnknown)?;
        let mut overrides = topic.overrides.clone();
        for ConfigOp { name, op } in ops {
            match op {
                ConfigOpKind::Set(value) => {
                    overrides.insert(name.clone(), value.clone());
                }
                ConfigOpKind::Delete => {
                    overrides.remove(name);
                }
                ConfigOpKind::Append(value) => {
                    let items = edit_list(&overrides, name, "APPEND", |items| {
                        items.extend(list_items(value).map(str::to_owned));
                    })?;
                    overrides.insert(name.clone(), items);
                }
                ConfigOpKind::Subtract(value) => {
                    let items = edit_list(&overrides, name, "SUBTRACT", |items| {
                        items.retain(|item| !list_items(value).any(|gone| gone == item));
                    })?;
                    overrides.insert(name.clone(), items);
                }
            }
        }
        debug_assert!(overrides.len() <= topic.overrides.len() + ops.len());
        self.decide_replace_configs(rules, topic_id, &overrides)
    }
}

/// The settings in force, if the rules know them: before rules 3 no topic could be replicated by raft.
pub(super) fn parsed(rules: u16, overrides: &BTreeMap<String, String>) -> Result<TopicConfig, Refusal> {
    let config = TopicConfig::from_overrides(overrides)?;
    debug_assert!(overrides.keys().all(|name| config_def(name).is_some()), "validated");
    if rules < 3 && config.replication == Replication::Raft {
        let reason = "raft replication needs the clustered release of Highwater; until then use fetch";
        let reason = format!("Invalid value raft for configuration highwater.replication: {reason}");
        return Err(Refusal::ConfigInvalid(reason));
    }
    Ok(config)
}

/// The value in force of a list setting, changed, each item once, as text.
fn edit_list(
    overrides: &BTreeMap<String, String>,
    name: &str,
    verb: &str,
    change: impl FnOnce(&mut Vec<String>),
) -> Result<String, Refusal> {
    let Some(def) = config_def(name) else {
        return Err(Refusal::ConfigInvalid(format!("Unknown topic config name: {name}")));
    };
    if def.kind != ConfigKind::List {
        let reason = format!("Can't {verb} to key {name} because its type is not LIST.");
        return Err(Refusal::ConfigInvalid(reason));
    }
    let value = overrides.get(name).map_or(def.default, String::as_str);
    let mut items: Vec<String> = list_items(value).map(str::to_owned).collect();
    change(&mut items);
    let mut once: Vec<String> = Vec::with_capacity(items.len());
    for item in items {
        if !once.contains(&item) {
            once.push(item);
        }
    }
    debug_assert!(once.iter().all(|item| !item.is_empty() && !item.contains(',')));
    Ok(once.join(","))
}
