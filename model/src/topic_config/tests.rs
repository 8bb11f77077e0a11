use super::*;

fn parse(overrides: &[(&str, &str)]) -> Result<TopicConfig, ConfigError> {
    let map = overrides.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    TopicConfig::from_overrides(&map)
}

fn refusal(name: &str, value: &str) -> String {
    parse(&[(name, value)]).expect_err(&format!("{name}={value}")).to_string()
}

#[test]
fn the_table_is_sorted_and_its_defaults_are_legal() {
    assert!(CONFIG_DEFS.windows(2).all(|pair| pair[0].name < pair[1].name));
    for def in CONFIG_DEFS {
        check_value(def, def.default).expect(def.name);
        assert!(!def.documentation.is_empty());
        assert_eq!(config_def(def.name).expect("found").name, def.name);
    }
}

#[test]
fn defaults_are_kafkas_but_for_the_segment_size_and_the_tier() {
    let config = TopicConfig::default();
    assert_eq!(config.segment_bytes, 64 * 1024 * 1024);
    assert_eq!(config.segment_ms, 7 * 24 * 3600 * 1000);
    assert_eq!(config.retention_ms, Some(7 * 24 * 3600 * 1000));
    assert_eq!(config.retention_bytes, None);
    assert_eq!(config.local_retention_ms, config.retention_ms);
    assert_eq!(config.local_retention_bytes, None);
    assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: false });
    assert_eq!(config.max_message_bytes, 1_048_588);
    assert_eq!(config.timestamp_after_max_ms, 3_600_000);
    assert_eq!(config.min_insync_replicas, 1);
    assert_eq!(config.value_format, ValueFormat::Bytes);
    assert_eq!(config.parquet_compression, ParquetCompression::Zstd);
    assert!(config.uploads());
}

#[test]
fn every_override_lands_in_its_field() {
    let config = parse(&[
        ("segment.bytes", " 1048576 "),
        ("retention.ms", "-1"),
        ("retention.bytes", "1000"),
        ("local.retention.ms", "5000"),
        ("local.retention.bytes", "1000"),
        ("cleanup.policy", "compact, delete"),
        ("message.timestamp.type", "LogAppendTime"),
        ("remote.log.copy.disable", "TRUE"),
        ("highwater.value.format", "json"),
        ("highwater.parquet.compression", "lz4"),
        ("highwater.replication", "fetch"),
        ("flush.messages", "1"),
        ("highwater.ttl.ms", "250"),
    ])
    .expect("legal");
    assert_eq!(config.segment_bytes, 1 << 20);
    assert_eq!(config.retention_ms, None);
    assert_eq!(config.retention_bytes, Some(1000));
    assert_eq!(config.local_retention_ms, Some(5000));
    assert_eq!(config.local_retention_bytes, Some(1000));
    assert_eq!(config.cleanup_policy, CleanupPolicy { delete: true, compact: true });
    assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
    assert!(config.tier_enabled && !config.uploads());
    assert_eq!(config.value_format, ValueFormat::Json);
    assert_eq!(config.parquet_compression, ParquetCompression::Lz4);
    assert_eq!(config.flush_messages, 1);
    assert_eq!(config.record_ttl, crate::RecordTtl::from_setting(250));
}

#[test]
fn each_refusal_names_its_setting() {
    for (name, value) in [
        ("segment.byte", "1"),
        ("message.downconversion.enable", "true"),
        ("segment.bytes", "65535"),
        ("segment.bytes", "2147483648"),
        ("segment.bytes", "64MiB"),
        ("segment.ms", "0"),
        ("retention.ms", "-2"),
        ("cleanup.policy", "compact,keep"),
        ("cleanup.policy", ""),
        ("min.cleanable.dirty.ratio", "1.1"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("min.insync.replicas", "0"),
        ("compression.type", "brotli"),
        ("compression.gzip.level", "0"),
        ("message.timestamp.type", "createtime"),
        ("preallocate", "yes"),
        ("remote.log.delete.on.disable", "true"),
        ("leader.replication.throttled.replicas", "1:2,3"),
        ("highwater.value.format", "avro"),
        ("highwater.replication", "quorum"),
        ("highwater.ttl.ms", "-2"),
        ("flush.messages", ""),
    ] {
        let message = refusal(name, value);
        assert!(message.contains(name), "{message}");
    }
    let long = "1:1,".repeat(crate::limits::TOPIC_CONFIG_VALUE_BYTES_MAX);
    assert!(refusal("leader.replication.throttled.replicas", &long).len() < 500);
}

#[test]
fn replication_is_by_fetch_unless_raft_is_asked_for() {
    use super::Replication;
    assert_eq!(parse(&[]).expect("the defaults").replication, Replication::Fetch);
    let raft = parse(&[("highwater.replication", "raft")]).expect("both kinds are served");
    assert_eq!(raft.replication, Replication::Raft);
}

#[test]
fn settings_must_agree() {
    parse(&[("local.retention.ms", "10"), ("retention.ms", "5")]).expect_err("more local than whole");
    parse(&[("local.retention.ms", "-1")]).expect_err("local without limit, whole with");
    parse(&[("local.retention.ms", "-1"), ("retention.ms", "-1")]).expect("both without limit");
    parse(&[("local.retention.bytes", "10"), ("retention.bytes", "5")]).expect_err("more local than whole");
    parse(&[("local.retention.ms", "10"), ("retention.ms", "5"), ("remote.storage.enable", "false")])
        .expect("no tier, no meaning");
    parse(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")]).expect_err("lags crossed");
}

#[test]
fn replica_lists_pass() {
    for value in ["", "*", "0:1", "0:1, 1:2"] {
        parse(&[("follower.replication.throttled.replicas", value)]).expect(value);
    }
}
