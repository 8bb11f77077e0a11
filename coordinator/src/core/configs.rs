//! Judging changes of a topic's settings. The settings that result are validated as a whole, so that no order
//! of changes leads to a topic that could not have been created.

use std::collections::BTreeMap;

use highwater_model::topic_config::{ConfigKind, config_def, list_items};
use highwater_model::{TopicConfig, TopicId};

use super::command::{ConfigOp, ConfigOpKind, Edit, Outcome, Reply};
use super::refusal::Refusal;
use super::state::ClusterState;

impl ClusterState {
    pub(super) fn decide_replace_configs(
        &self,
        topic_id: TopicId,
        overrides: &BTreeMap<String, String>,
    ) -> Result<Outcome, Refusal> {
        let topic = self.topics.get(&topic_id).ok_or(Refusal::TopicUnknown)?;
        let config = TopicConfig::from_overrides(overrides)?;
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
        let overrides = overrides.clone();
        Ok(Outcome::one(Edit::OverridesReplaced { topic_id, overrides }, Reply::Done))
    }

    pub(super) fn decide_alter_configs(
        &self,
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
        self.decide_replace_configs(topic_id, &overrides)
    }
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
