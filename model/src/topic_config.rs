//! The settings of a topic: parsed and validated in one place, from the overrides the control plane stores.
//!
//! Owns the table `CONFIG_DEFS`, the checks of single values and those across settings. A `TopicConfig`
//! exists only if every override is known and legal. Durations are milliseconds, sizes bytes; `None` means
//! without limit.

use std::collections::BTreeMap;

mod defs;
mod rules;

use crate::{NodeId, RecordTtl};

pub use defs::{CONFIG_DEFS, ConfigDef, ConfigKind, config_def};
pub use rules::{ConfigError, check_value, list_items};

/// Whose clock a record's timestamp comes from (KIP-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// What becomes of old data; at least one of the two holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// How replicas follow the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    Fetch,
    Raft,
}

/// Compression of pages in this topic's objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParquetCompression {
    Zstd,
    Lz4,
    None,
}

/// Replicas that a topic has throttled on one side (KIP-73).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ThrottledReplicas {
    #[default]
    None,
    All,
    /// Partition and broker of each, sorted.
    Some(Vec<(i32, NodeId)>),
}

impl ThrottledReplicas {
    /// From the text of a setting, which has passed its check; numbers that no partition or broker can have
    /// name nothing.
    fn parse(text: &str) -> ThrottledReplicas {
        if text == "*" {
            return ThrottledReplicas::All;
        }
        let pair = |item: &str| {
            let (partition, broker) = item.split_once(':')?;
            Some((partition.parse().ok()?, broker.parse().ok()?))
        };
        let mut pairs: Vec<(i32, NodeId)> = list_items(text).filter_map(pair).collect();
        pairs.sort_unstable();
        match pairs.is_empty() {
            true => ThrottledReplicas::None,
            false => ThrottledReplicas::Some(pairs),
        }
    }

    /// Whether the replica of `partition` on `broker` is one of them.
    pub fn contains(&self, partition: i32, broker: NodeId) -> bool {
        match self {
            ThrottledReplicas::None => false,
            ThrottledReplicas::All => true,
            ThrottledReplicas::Some(pairs) => pairs.binary_search(&(partition, broker)).is_ok(),
        }
    }
}

/// What values are; anything but bytes is enforced at produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFormat {
    Bytes,
    Utf8,
    Json,
}

/// The settings of one topic in force: overrides over defaults, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u64,
    pub index_interval_bytes: u64,
    /// An fdatasync at least every this many records; 1 means before each acknowledgement.
    pub flush_messages: u64,
    pub flush_ms: i64,
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
    /// Local retention with `-2` (as the whole) resolved.
    pub local_retention_ms: Option<i64>,
    pub local_retention_bytes: Option<u64>,
    pub cleanup_policy: CleanupPolicy,
    pub delete_retention_ms: i64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub min_insync_replicas: u32,
    pub max_message_bytes: u64,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub unclean_leader_election: bool,
    pub preallocate: bool,
    pub file_delete_delay_ms: i64,
    /// `remote.storage.enable`: the topic has a tier.
    pub tier_enabled: bool,
    /// `remote.log.copy.disable`: nothing new goes to the tier.
    pub tier_uploads_paused: bool,
    pub replication: Replication,
    /// `leader.replication.throttled.replicas`.
    pub leader_throttled: ThrottledReplicas,
    /// `follower.replication.throttled.replicas`.
    pub follower_throttled: ThrottledReplicas,
    pub parquet_compression: ParquetCompression,
    pub value_format: ValueFormat,
    /// `highwater.delay.max.ms` where `highwater.delayed.delivery` is on; `None`: no header is looked at.
    pub delay_max_ms: Option<i64>,
    /// `highwater.ttl.ms`; `None`: records are not looked at.
    pub record_ttl: Option<RecordTtl>,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig::from_overrides(&BTreeMap::new()).expect("the defaults are legal")
    }
}

impl TopicConfig {
    /// Validates every override and the settings together, and returns what is in force.
    ///
    /// # Errors
    /// An unknown name, an illegal value, or contradicting settings; the message names the setting.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<TopicConfig, ConfigError> {
        for (name, value) in overrides {
            let def = config_def(name).ok_or_else(|| ConfigError::Unknown { name: name.clone() })?;
            check_value(def, value)?;
        }
        let values = Values { overrides };
        values.check_together()?;
        Ok(values.parse())
    }

    /// Whether sealed segments are uploaded now.
    pub fn uploads(&self) -> bool {
        self.tier_enabled && !self.tier_uploads_paused
    }
}

/// The text in force for each name; every override has passed `check_value`.
struct Values<'a> {
    overrides: &'a BTreeMap<String, String>,
}

impl Values<'_> {
    fn text(&self, name: &str) -> &str {
        match self.overrides.get(name) {
            Some(value) => value.trim(),
            None => config_def(name).expect("only defined names are asked for").default,
        }
    }

    fn long(&self, name: &str) -> i64 {
        self.text(name).parse().expect("checked by its definition")
    }

    fn unsigned(&self, name: &str) -> u64 {
        u64::try_from(self.long(name)).expect("the definition's rule excludes negative values")
    }

    fn flag(&self, name: &str) -> bool {
        rules::parse_bool(self.text(name)).expect("checked by its definition")
    }

    fn limit_ms(&self, name: &str) -> Option<i64> {
        Some(self.long(name)).filter(|limit| *limit >= 0)
    }

    fn limit_bytes(&self, name: &str) -> Option<u64> {
        u64::try_from(self.long(name)).ok()
    }

    /// Checks across settings, as Kafka's `LogConfig.validateValues` and its remote storage checks.
    fn check_together(&self) -> Result<(), ConfigError> {
        let (min_lag, max_lag) = (self.long("min.compaction.lag.ms"), self.long("max.compaction.lag.ms"));
        if min_lag > max_lag {
            let reason = format!("Value must not be more than max.compaction.lag.ms value: {max_lag}");
            return Err(ConfigError::invalid("min.compaction.lag.ms", &min_lag.to_string(), reason));
        }
        if self.flag("remote.storage.enable") {
            self.check_local("local.retention.ms", "retention.ms")?;
            self.check_local("local.retention.bytes", "retention.bytes")?;
        }
        Ok(())
    }

    /// What is kept locally is at most what is kept at all.
    fn check_local(&self, local_name: &str, whole_name: &str) -> Result<(), ConfigError> {
        let (local, whole) = (self.long(local_name), self.long(whole_name));
        if whole < 0 || local == -2 {
            return Ok(());
        }
        let refuse = |reason: String| Err(ConfigError::invalid(local_name, &local.to_string(), reason));
        if local == -1 {
            return refuse(format!("Value must not be -1 as {whole_name} value is set as {whole}."));
        }
        if local > whole {
            return refuse(format!("Value must not be more than {whole_name} property value: {whole}"));
        }
        Ok(())
    }

    fn local(&self, local_name: &str, whole_name: &str) -> i64 {
        match self.long(local_name) {
            -2 => self.long(whole_name),
            local => local,
        }
    }

    fn parse(&self) -> TopicConfig {
        TopicConfig {
            segment_bytes: self.unsigned("segment.bytes"),
            segment_ms: self.long("segment.ms"),
            segment_jitter_ms: self.long("segment.jitter.ms"),
            segment_index_bytes: self.unsigned("segment.index.bytes"),
            index_interval_bytes: self.unsigned("index.interval.bytes"),
            flush_messages: self.unsigned("flush.messages"),
            flush_ms: self.long("flush.ms"),
            retention_ms: self.limit_ms("retention.ms"),
            retention_bytes: self.limit_bytes("retention.bytes"),
            local_retention_ms: Some(self.local("local.retention.ms", "retention.ms")).filter(|ms| *ms >= 0),
            local_retention_bytes: u64::try_from(self.local("local.retention.bytes", "retention.bytes")).ok(),
            cleanup_policy: CleanupPolicy {
                delete: list_items(self.text("cleanup.policy")).any(|item| item == "delete"),
                compact: list_items(self.text("cleanup.policy")).any(|item| item == "compact"),
            },
            delete_retention_ms: self.long("delete.retention.ms"),
            min_compaction_lag_ms: self.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: self.long("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: self
                .text("min.cleanable.dirty.ratio")
                .parse()
                .expect("checked by its definition"),
            min_insync_replicas: u32::try_from(self.unsigned("min.insync.replicas"))
                .expect("an INT of at least 1"),
            max_message_bytes: self.unsigned("max.message.bytes"),
            timestamp_type: match self.text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: self.long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: self.long("message.timestamp.after.max.ms"),
            unclean_leader_election: self.flag("unclean.leader.election.enable"),
            preallocate: self.flag("preallocate"),
            file_delete_delay_ms: self.long("file.delete.delay.ms"),
            tier_enabled: self.flag("remote.storage.enable"),
            tier_uploads_paused: self.flag("remote.log.copy.disable"),
            replication: match self.text("highwater.replication") {
                "raft" => Replication::Raft,
                _ => Replication::Fetch,
            },
            leader_throttled: ThrottledReplicas::parse(self.text("leader.replication.throttled.replicas")),
            follower_throttled: ThrottledReplicas::parse(
                self.text("follower.replication.throttled.replicas"),
            ),
            parquet_compression: match self.text("highwater.parquet.compression") {
                "lz4" => ParquetCompression::Lz4,
                "none" => ParquetCompression::None,
                _ => ParquetCompression::Zstd,
            },
            value_format: match self.text("highwater.value.format") {
                "json" => ValueFormat::Json,
                "utf8" => ValueFormat::Utf8,
                _ => ValueFormat::Bytes,
            },
            delay_max_ms: self
                .flag("highwater.delayed.delivery")
                .then(|| self.long("highwater.delay.max.ms")),
            record_ttl: RecordTtl::from_setting(self.long("highwater.ttl.ms")),
        }
    }
}

#[cfg(test)]
mod tests;
