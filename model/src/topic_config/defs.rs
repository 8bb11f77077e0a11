//! The table of topic settings: name, type, default, rule, broker-level synonym and documentation. It is what
//! DescribeConfigs lists and what validation reads; a setting that is not here does not exist.
//!
//! Names, types and rules are those of Apache Kafka 4.1 (`TopicConfig`, `LogConfig`); defaults too, except
//! `segment.bytes` (64 MiB) and `remote.storage.enable` (true). Ours start with `highwater.`.

use super::rules::Rule;

use ConfigKind::{Boolean, Double, Int, List, Long, String};
use Rule::{Any, AtLeast, Between, ListOf, OneOf, Replicas};

/// A setting's type, numbered as DescribeConfigs sends it (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigKind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One setting of a topic.
#[derive(Clone, Copy, Debug)]
pub struct ConfigDef {
    pub name: &'static str,
    pub kind: ConfigKind,
    /// The value in force where the topic has no override, as text.
    pub default: &'static str,
    /// The broker setting of the same meaning, empty where Kafka has none (KIP-226).
    pub synonym: &'static str,
    /// One or two sentences for DescribeConfigs.
    pub documentation: &'static str,
    pub(super) rule: Rule,
}

/// The definition of a setting, if there is one of that name.
pub fn config_def(name: &str) -> Option<&'static ConfigDef> {
    CONFIG_DEFS.binary_search_by(|def| def.name.cmp(name)).ok().map(|i| &CONFIG_DEFS[i])
}

const fn def(
    name: &'static str,
    kind: ConfigKind,
    default: &'static str,
    rule: Rule,
    synonym: &'static str,
    documentation: &'static str,
) -> ConfigDef {
    ConfigDef { name, kind, default, synonym, documentation, rule }
}

const LONG_MAX: &str = "9223372036854775807";
const DAY_MS: &str = "86400000";
const WEEK_MS: &str = "604800000";

/// Every topic setting, sorted by name.
#[rustfmt::skip]
pub static CONFIG_DEFS: &[ConfigDef] = &[
    def("cleanup.policy", List, "delete", ListOf(&["compact", "delete"]), "log.cleanup.policy",
        "Fate of old data: delete drops it by retention, compact keeps each key's last record; or both."),
    def("compression.gzip.level", Int, "-1", Rule::GzipLevel, "compression.gzip.level",
        "Accepted for compatibility: batches are kept as the producer compressed them."),
    def("compression.lz4.level", Int, "9", Between(1, 17), "compression.lz4.level",
        "Accepted for compatibility: batches are kept as the producer compressed them."),
    def("compression.type", String, "producer",
        OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]), "compression.type",
        "Batches are kept as the producer compressed them; the other values are accepted and act alike."),
    def("compression.zstd.level", Int, "3", Between(-131072, 22), "compression.zstd.level",
        "Accepted for compatibility: batches are kept as the producer compressed them."),
    def("delete.retention.ms", Long, DAY_MS, AtLeast(0), "log.cleaner.delete.retention.ms",
        "How long a tombstone of a compacted topic is kept, in milliseconds."),
    def("file.delete.delay.ms", Long, "60000", AtLeast(0), "log.segment.delete.delay.ms",
        "How long to wait before a dropped local file is removed, in milliseconds."),
    def("flush.messages", Long, LONG_MAX, AtLeast(1), "log.flush.interval.messages",
        "How many records may be appended before an fdatasync; 1 means before every acknowledgement."),
    def("flush.ms", Long, LONG_MAX, AtLeast(0), "log.flush.interval.ms",
        "How long appended records may stay without an fdatasync, in milliseconds."),
    def("follower.replication.throttled.replicas", List, "", Replicas, "",
        "Replicas whose replication is throttled on followers: partition:broker pairs, or * for all."),
    def("highwater.delay.max.ms", Long, WEEK_MS, AtLeast(0), "",
        "Longest delay that a record may ask for, in milliseconds; more is refused."),
    def("highwater.delayed.delivery", Boolean, "false", Any, "",
        "Whether records with a header highwater-deliver-at (Unix ms) or highwater-delay-ms wait for their time."),
    def("highwater.parquet.compression", String, "zstd", OneOf(&["zstd", "lz4", "none"]), "",
        "Compression of the pages of this topic's Parquet objects."),
    def("highwater.replication", String, "fetch", OneOf(&["fetch", "raft"]), "",
        "How replicas follow the leader: fetch (they pull, as in Kafka) or raft (majority-fsynced writes)."),
    def("highwater.ttl.ms", Long, "-1", AtLeast(-1), "",
        "How long a record lives, from its timestamp, in milliseconds: then it is hidden from reads and left out of \
         new objects. A record's header highwater-ttl-ms is over it; 0: by header alone; -1: off."),
    def("highwater.value.format", String, "bytes", OneOf(&["bytes", "utf8", "json"]), "",
        "What values are: utf8 and json annotate the Parquet column and refuse a produce that is not."),
    def("index.interval.bytes", Int, "4096", AtLeast(0), "log.index.interval.bytes",
        "How many bytes of log lie between two entries of the sparse offset index."),
    def("leader.replication.throttled.replicas", List, "", Replicas, "",
        "Replicas whose replication is throttled on the leader: partition:broker pairs, or * for all."),
    def("local.retention.bytes", Long, "-2", AtLeast(-2), "log.local.retention.bytes",
        "Bytes of a partition that stay on local disk too once tiered; -2 means as retention.bytes."),
    def("local.retention.ms", Long, "-2", AtLeast(-2), "log.local.retention.ms",
        "How long tiered records stay on local disk too, in milliseconds; -2 means as retention.ms."),
    def("max.compaction.lag.ms", Long, LONG_MAX, AtLeast(1), "log.cleaner.max.compaction.lag.ms",
        "The longest time a record may stay uncompacted, in milliseconds."),
    def("max.message.bytes", Int, "1048588", AtLeast(0), "message.max.bytes",
        "Largest record batch accepted, in bytes, after compression."),
    def("message.timestamp.after.max.ms", Long, "3600000", AtLeast(0), "log.message.timestamp.after.max.ms",
        "How far a record's timestamp may be ahead of the broker, in milliseconds (CreateTime only)."),
    def("message.timestamp.before.max.ms", Long, LONG_MAX, AtLeast(0), "log.message.timestamp.before.max.ms",
        "How far a record's timestamp may be behind the broker, in milliseconds (CreateTime only)."),
    def("message.timestamp.type", String, "CreateTime", OneOf(&["CreateTime", "LogAppendTime"]),
        "log.message.timestamp.type",
        "Whether a record keeps the producer's timestamp or takes the broker's at append."),
    def("min.cleanable.dirty.ratio", Double, "0.5", Rule::Ratio, "log.cleaner.min.cleanable.ratio",
        "Share of a compacted partition that must be uncompacted before it is compacted again."),
    def("min.compaction.lag.ms", Long, "0", AtLeast(0), "log.cleaner.min.compaction.lag.ms",
        "The shortest time a record stays uncompacted, in milliseconds."),
    def("min.insync.replicas", Int, "1", AtLeast(1), "min.insync.replicas",
        "How many in-sync replicas an acks=all produce needs."),
    def("preallocate", Boolean, "false", Any, "log.preallocate",
        "Whether the file of a new segment is allocated in full when it is created."),
    def("remote.log.copy.disable", Boolean, "false", Any, "",
        "Stops uploads to the tier; what is there stays readable."),
    def("remote.log.delete.on.disable", Boolean, "false", Rule::FalseOnly, "",
        "Whether disabling remote.storage.enable deletes the tier; only false is supported."),
    def("remote.storage.enable", Boolean, "true", Any, "",
        "Whether sealed segments of this topic go to the tier."),
    def("retention.bytes", Long, "-1", Any, "log.retention.bytes",
        "Bytes of a partition kept in all; -1 means no limit."),
    def("retention.ms", Long, WEEK_MS, AtLeast(-1), "log.retention.ms",
        "How long records are kept in all, in milliseconds; -1 means no limit."),
    def("segment.bytes", Int, "67108864", AtLeast(64 * 1024), "log.segment.bytes",
        "Size at which a segment is sealed, in bytes."),
    def("segment.index.bytes", Int, "10485760", AtLeast(4), "log.index.size.max.bytes",
        "Largest size of a segment's offset index, in bytes."),
    def("segment.jitter.ms", Long, "0", AtLeast(0), "log.roll.jitter.ms",
        "Largest random time taken off segment.ms so that segments do not roll at once, in milliseconds."),
    def("segment.ms", Long, WEEK_MS, AtLeast(1), "log.roll.ms",
        "Age at which a segment is sealed though it is not full, in milliseconds."),
    def("unclean.leader.election.enable", Boolean, "false", Any, "unclean.leader.election.enable",
        "Whether a replica not in sync may lead when no other is left, at the price of lost records."),
];
