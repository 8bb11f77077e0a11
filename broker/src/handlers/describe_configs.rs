//! DescribeConfigs v1 to v4: settings of topics, and of this broker: flags of `serve`, which are read-only,
//! and what the control plane keeps.

use std::sync::Arc;

use highwater_coordinator::core::{BROKER_CONFIGS, BrokerConfigs, ClusterState, Topic};
use highwater_model::topic_config::{CONFIG_DEFS, ConfigDef, ConfigKind};
use highwater_model::{NodeId, limits, topic_name};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::create_topics_response::CreatableTopicConfigs;
use highwater_wire::kafka::messages::describe_configs_request::DescribeConfigsResource;
use highwater_wire::kafka::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use highwater_wire::kafka::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::admin::{self, Denied};
use crate::node::Node;
use crate::settings::Settings;

pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;

/// Where a value comes from (KIP-226).
const TOPIC_SOURCE: i8 = 1;
const DYNAMIC_BROKER_SOURCE: i8 = 2;
const DYNAMIC_DEFAULT_BROKER_SOURCE: i8 = 3;
const STATIC_BROKER_SOURCE: i8 = 4;
const DEFAULT_SOURCE: i8 = 5;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let state = node.coordinator.state();
    let asked = Asked { synonyms: request.include_synonyms, documentation: request.include_documentation };
    let results = request.resources.into_iter().enumerate().map(|(i, resource)| {
        let found = match resource.resource_type {
            _ if i >= limits::DESCRIBE_CONFIGS_RESOURCES_MAX => {
                Err(Denied::new(ResponseError::PolicyViolation, "Too many resources in one request."))
            }
            TOPIC => topic_configs(&state, &resource, asked),
            BROKER => broker_configs(&node.settings, &state.broker_configs, &resource, asked),
            other => {
                Err(Denied::new(ResponseError::InvalidRequest, format!("Unsupported resource type: {other}")))
            }
        };
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name);
        match found {
            Ok(configs) => result.with_configs(configs),
            Err(denied) => result.with_error_code(denied.code).with_error_message(denied.text()),
        }
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

#[derive(Clone, Copy)]
struct Asked {
    synonyms: bool,
    documentation: bool,
}

/// Whether the resource asks for the setting; no list and an empty one ask for all.
fn wants(resource: &DescribeConfigsResource, name: &str) -> bool {
    match resource.configuration_keys.as_deref() {
        None | Some([]) => true,
        Some(keys) => keys.iter().any(|key| key.as_str() == name),
    }
}

fn topic_configs(
    state: &ClusterState,
    resource: &DescribeConfigsResource,
    asked: Asked,
) -> Result<Vec<DescribeConfigsResourceResult>, Denied> {
    let name = resource.resource_name.as_str();
    topic_name::validate(name)
        .map_err(|e| Denied::new(ResponseError::InvalidTopicException, e.to_string()))?;
    let topic = state.topic_by_name(name).ok_or_else(|| {
        Denied::new(ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.")
    })?;
    let wanted = CONFIG_DEFS.iter().filter(|def| wants(resource, def.name));
    Ok(wanted.map(|def| topic_config(topic, def, asked)).collect())
}

fn topic_config(topic: &Topic, def: &ConfigDef, asked: Asked) -> DescribeConfigsResourceResult {
    let given = topic.overrides.get(def.name).map(String::as_str);
    let synonym = |name: &str, value: &str, source: i8| {
        DescribeConfigsSynonym::default()
            .with_name(admin::text(name))
            .with_value(Some(admin::text(value)))
            .with_source(source)
    };
    let mut synonyms = Vec::new();
    if asked.synonyms {
        synonyms.extend(given.map(|value| synonym(def.name, value, TOPIC_SOURCE)));
        let broker_name = if def.synonym.is_empty() { def.name } else { def.synonym };
        synonyms.push(synonym(broker_name, def.default, DEFAULT_SOURCE));
    }
    DescribeConfigsResourceResult::default()
        .with_name(admin::text(def.name))
        .with_value(Some(admin::text(given.unwrap_or(def.default))))
        .with_config_source(if given.is_some() { TOPIC_SOURCE } else { DEFAULT_SOURCE })
        .with_synonyms(synonyms)
        .with_config_type(def.kind as i8)
        .with_documentation(asked.documentation.then(|| admin::text(def.documentation)))
}

/// The settings of a topic as CreateTopics answers them (KIP-525).
pub fn created_configs(overrides: &std::collections::BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    let entry = |def: &ConfigDef| {
        let given = overrides.get(def.name).map(String::as_str);
        CreatableTopicConfigs::default()
            .with_name(admin::text(def.name))
            .with_value(Some(admin::text(given.unwrap_or(def.default))))
            .with_config_source(if given.is_some() { TOPIC_SOURCE } else { DEFAULT_SOURCE })
    };
    CONFIG_DEFS.iter().map(entry).collect()
}

struct BrokerConfig {
    name: &'static str,
    value: String,
    kind: ConfigKind,
    is_default: bool,
    /// Where the value was set while brokers ran, if it was.
    altered: Option<i8>,
    is_read_only: bool,
    documentation: &'static str,
}

fn broker_configs(
    settings: &Settings,
    kept: &BrokerConfigs,
    resource: &DescribeConfigsResource,
    asked: Asked,
) -> Result<Vec<DescribeConfigsResourceResult>, Denied> {
    let name = resource.resource_name.as_str();
    if name.is_empty() {
        // What was set for all brokers together.
        let set = kept_configs(kept, None).into_iter().filter(|config| config.altered.is_some());
        return Ok(set.filter(|c| wants(resource, c.name)).map(|c| broker_config(&c, asked)).collect());
    }
    if name != settings.node_id.to_string() {
        let own = settings.node_id;
        let text = format!("Unexpected broker id, expected {own} or empty string, but received {name}");
        return Err(Denied::new(ResponseError::InvalidRequest, text));
    }
    let mut configs = all_broker_configs(settings);
    configs.extend(kept_configs(kept, Some(settings.node_id)));
    let wanted = configs.iter().filter(|config| wants(resource, config.name));
    Ok(wanted.map(|config| broker_config(config, asked)).collect())
}

fn broker_config(config: &BrokerConfig, asked: Asked) -> DescribeConfigsResourceResult {
    let given = if config.is_default { DEFAULT_SOURCE } else { STATIC_BROKER_SOURCE };
    let source = config.altered.unwrap_or(given);
    let value = Some(admin::text(&config.value));
    let synonym = DescribeConfigsSynonym::default()
        .with_name(admin::text(config.name))
        .with_value(value.clone())
        .with_source(source);
    DescribeConfigsResourceResult::default()
        .with_name(admin::text(config.name))
        .with_value(value)
        .with_read_only(config.is_read_only)
        .with_config_source(source)
        .with_synonyms(if asked.synonyms { vec![synonym] } else { Vec::new() })
        .with_config_type(config.kind as i8)
        .with_documentation(asked.documentation.then(|| admin::text(config.documentation)))
}

/// This broker's settings by Kafka's names, and the defaults of topics by their broker-level names.
fn all_broker_configs(settings: &Settings) -> Vec<BrokerConfig> {
    let mut configs = own_configs(settings);
    for (config, default) in configs.iter_mut().zip(own_configs(&Settings::default())) {
        // What names the node is given, whatever its value.
        config.is_default = config.value == default.value && !config.name.ends_with(".id");
    }
    let mut names: Vec<&str> = configs.iter().map(|config| config.name).collect();
    for def in CONFIG_DEFS.iter().filter(|def| !def.synonym.is_empty()) {
        if !names.contains(&def.synonym) {
            names.push(def.synonym);
            configs.push(row(def.synonym, def.kind, def.default, def.documentation));
        }
    }
    configs
}

fn row(
    name: &'static str,
    kind: ConfigKind,
    value: impl ToString,
    documentation: &'static str,
) -> BrokerConfig {
    let value = value.to_string();
    BrokerConfig { name, value, kind, is_default: true, altered: None, is_read_only: true, documentation }
}

/// What the control plane keeps of brokers' settings, for one broker or for all.
fn kept_configs(kept: &BrokerConfigs, node: Option<NodeId>) -> Vec<BrokerConfig> {
    let entry = |(name, documentation): &(&'static str, &'static str)| {
        let own = node.and_then(|node| kept.own(node, name)).map(|value| (value, DYNAMIC_BROKER_SOURCE));
        let shared = || kept.all.get(*name).map(|value| (value.as_str(), DYNAMIC_DEFAULT_BROKER_SOURCE));
        let found = own.or_else(shared);
        let altered = found.map(|(_, source)| source);
        let value = found.map_or_else(|| i64::MAX.to_string(), |(value, _)| value.to_owned());
        BrokerConfig { altered, is_read_only: false, ..row(name, ConfigKind::Long, value, documentation) }
    };
    BROKER_CONFIGS.iter().map(entry).collect()
}

/// What of `settings` has a name in Kafka.
fn own_configs(settings: &Settings) -> Vec<BrokerConfig> {
    use ConfigKind::{Boolean, Int, Long, String};
    let log_dir = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    let (auto_create, partitions) = (settings.auto_create_topics, settings.default_partitions);
    let (fetch_bytes, idle_ms) = (settings.fetch_bytes_max, settings.connection_idle_ms);
    vec![
        row("node.id", Int, settings.node_id, "This node's id."),
        row("broker.id", Int, settings.node_id, "This node's id."),
        row("process.roles", String, "broker,controller", "What this process does."),
        row("log.dirs", String, log_dir.display(), "Directory of the local log."),
        row("auto.create.topics.enable", Boolean, auto_create, "Whether asking for a topic creates it."),
        row("num.partitions", Int, partitions, "Partitions of a topic that is created without a count."),
        row(
            "default.replication.factor",
            Int,
            settings.default_replication_factor,
            "Replicas of a topic by default.",
        ),
        row("fetch.max.bytes", Int, fetch_bytes, "Most bytes of records in one answer to a fetch."),
        row("connections.max.idle.ms", Long, idle_ms, "A connection silent for this long is closed."),
        row("socket.request.max.bytes", Int, limits::REQUEST_BYTES_MAX, "Largest request."),
        row("delete.topic.enable", Boolean, true, "Whether topics can be deleted."),
        row("remote.log.storage.system.enable", Boolean, true, "Whether there is a tier."),
    ]
}
