//! The broker's settings: one table from which the flags of `serve`, the environment variables, the keys of
//! the configuration file and the printed reference all come.
//!
//! Owns: the table, precedence (flag > environment > file > default) and every check that needs no disk or
//! network. Must not: read the environment or a file by itself except in [`Settings::load`]; hold secrets (S3
//! credentials come from the `AWS_*` variables and are never settings). Settings are data: nothing here
//! starts anything. Invariant 16: a bound that is not in `model/limits.rs` stands here.

mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use highwater_groups::core::settings::Migration;
use highwater_model::NodeId;
use highwater_model::topic_config::CONFIG_DEFS;

pub use parse::{Address, LogFormat, Roles};

/// Prefix of the environment variables: `--data-dir` is `HIGHWATER_DATA_DIR`.
pub const ENV_PREFIX: &str = "HIGHWATER_";

/// One row of the settings reference.
#[derive(Clone, Copy, Debug)]
pub struct SettingDef {
    /// Name of the field, with underscores, as Rust sees it.
    pub field: &'static str,
    /// Name of the flag and of the TOML key: the same with dashes.
    pub key: &'static str,
    /// The field's name in capitals; with the prefix it is the environment variable.
    pub capitals: &'static str,
    /// Default, as one would write it on the command line; empty means "none".
    pub default: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

impl SettingDef {
    /// Name of the environment variable.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.capitals)
    }
}

/// The bytes of a field's name with dashes for underscores.
const fn dashed<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        let byte = name.as_bytes()[i];
        bytes[i] = if byte == b'_' { b'-' } else { byte };
        i += 1;
    }
    bytes
}

/// The bytes of a field's name in capitals.
const fn capitals<const N: usize>(name: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = name.as_bytes()[i].to_ascii_uppercase();
        i += 1;
    }
    bytes
}

const fn text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("names of fields are ASCII"),
    }
}

/// Where a value came from; in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Env,
    File,
    Default,
}

/// Why the settings cannot be used. One line, says what to change.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{place}: {value:?} is not valid: {reason}")]
    Value { place: String, value: String, reason: String },
    #[error("{file}: unknown setting {key:?}; `highwater serve --print-settings` lists the known ones")]
    UnknownKey { file: String, key: String },
    #[error("{file}: {reason}; correct the file or leave out --config")]
    File { file: String, reason: String },
    #[error("{0}")]
    Conflict(String),
}

macro_rules! settings {
    ($($field:ident: $kind:ty = $parser:path, $default:literal, $doc:literal;)*) => {
        /// Everything that an operator can choose; see [`DEFS`] for the meaning of each field.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $(#[doc = $doc] pub $field: $kind,)*
        }

        /// The reference, in the order in which it is printed.
        pub const DEFS: &[SettingDef] = &[
            $(SettingDef {
                field: stringify!($field),
                key: {
                    const BYTES: [u8; stringify!($field).len()] = dashed(stringify!($field));
                    text(&BYTES)
                },
                capitals: {
                    const BYTES: [u8; stringify!($field).len()] = capitals(stringify!($field));
                    text(&BYTES)
                },
                default: $default,
                doc: $doc,
            },)*
        ];

        impl Settings {
            /// Parses each value that `lookup` gives for a row of the table; fields alone, no cross-checks.
            fn from_lookup(
                mut lookup: impl FnMut(&SettingDef) -> (String, String),
            ) -> Result<Settings, SettingsError> {
                let mut rows = DEFS.iter();
                $(
                    let def = rows.next().expect("one row per field, from the same list");
                    let (value, place) = lookup(def);
                    let $field: $kind = $parser(&value)
                        .map_err(|reason| SettingsError::Value { place, value, reason })?;
                )*
                Ok(Settings { $($field,)* })
            }
        }
    };
}

settings! {
    node_id: u64 = parse::node_id, "1",
        "This node's id, 1 to 2147483647; a data directory remembers it.";
    roles: Roles = parse::roles, "broker,coordinator",
        "What this process does: broker, coordinator or both. A broker alone needs `coordinators`.";
    data_dir: PathBuf = parse::path, "./data",
        "Directory of the local log, the coordinator's log and the lock file; one process per directory.";
    kafka: Address = parse::address, "127.0.0.1:9092",
        "HOST:PORT where Kafka clients connect; port 0 takes a free one.";
    grpc: Address = parse::address, "127.0.0.1:9093",
        "HOST:PORT of gRPC: administration, the control plane, replication; port 0 takes a free one.";
    http: Address = parse::address, "127.0.0.1:9094",
        "HOST:PORT of /metrics, /healthz and /readyz; port 0 takes a free one.";
    advertise: Option<Address> = parse::optional_address, "",
        "HOST:PORT that clients are told to connect to; by default the address of `kafka`. Needed when `kafka` binds every interface.";
    advertise_grpc: Option<Address> = parse::optional_address, "",
        "HOST:PORT at which other nodes reach this one's gRPC; by default its address in `coordinators`, else that of `grpc`.";
    coordinators: BTreeMap<NodeId, Address> = parse::coordinators, "",
        "The 1, 3 or 5 coordinators of the cluster as ID=HOST:PORT (gRPC), separated by commas, the same on every node; none: this node alone.";
    rack: Option<String> = parse::rack, "",
        "Where this node stands; replicas of a partition are spread over racks.";
    object_store: Option<String> = parse::optional_object_store, "",
        "Where sealed segments go: file:///DIR or s3://BUCKET/PREFIX; by default the directory `objects` in `data-dir`.";
    s3_endpoint: Option<String> = parse::optional_endpoint, "",
        "URL of an S3-compatible store such as MinIO (path style); by default AWS.";
    auto_create_topics: bool = parse::flag, "true",
        "Create a topic when a client asks for its metadata or produces to it.";
    default_partitions: i32 = parse::partitions, "1",
        "Partitions of a topic that is created without saying how many.";
    default_replication_factor: i16 = parse::replication_factor, "1",
        "Replicas of a partition of a topic that is created without saying how many.";
    broker_session_timeout_ms: u64 = parse::millis, "6s",
        "A broker that the leading coordinator has not heard for so long is fenced; set it alike on all coordinators.";
    broker_dead_timeout_ms: u64 = parse::millis, "10min",
        "A broker that has been away for so long gives its replicas to others; set it alike on all coordinators.";
    log_format: LogFormat = parse::log_format, "human",
        "Format of the log on standard error: human or json.";
    log_level: String = parse::text, "info",
        "What is logged: error, warn, info, debug, trace, or a list such as info,highwater_broker=debug.";
    threads: usize = parse::count, "0",
        "Threads that serve requests; 0 means one per core.";
    cache_bytes: u64 = parse::bytes, "128MiB",
        "Memory for parts of objects read back from the tier: a cache, and what readers hold and have ready ahead.";
    read_memory_bytes: u64 = parse::bytes, "64MiB",
        "Memory that reads from the tier may hold at once, besides the cache.";
    request_memory_bytes: u64 = parse::bytes, "256MiB",
        "Memory that requests being received or answered may hold at once; connections wait when it is used up.";
    connections_max: usize = parse::positive, "10000",
        "Connections of Kafka clients at a time; more are closed at once.";
    connection_idle_ms: u64 = parse::millis, "10min",
        "A connection that has been silent for this long is closed.";
    fetch_bytes_max: u64 = parse::bytes, "55MiB",
        "Most bytes of records in one answer to a fetch, whatever the client asks (Kafka's fetch.max.bytes).";
    offload_concurrency: usize = parse::positive, "2",
        "Segments being sealed and uploaded at a time.";
    offload_backlog_bytes_max: u64 = parse::bytes_or_zero, "1GiB",
        "Sealed bytes not yet in the tier, up to which sealing and uploading make way for clients that need the cores; above it they take their share. 0: they never make way.";
    offload_backlog_ms_max: u64 = parse::millis, "10s",
        "Age of the oldest sealed segment not yet in the tier, up to which they make way.";
    replica_lag_time_max_ms: u64 = parse::millis, "10s",
        "A follower that has not reached its leader's end for so long leaves the in-sync set (Kafka's replica.lag.time.max.ms).";
    move_bytes_per_second: u64 = parse::bytes_or_zero, "100MiB",
        "Most bytes per second that this node sends, and takes, for replicas that a move adds; 0 means no limit. Kafka's throttled rates come on top.";
    offsets_topic_num_partitions: i32 = parse::partitions, "50",
        "Partitions of __consumer_offsets, which is created when a client first asks for a group's coordinator; they cannot be changed later.";
    offsets_topic_replication_factor: i16 = parse::replication_factor, "3",
        "Replicas of each partition of __consumer_offsets; as many as there are brokers, if those are fewer when it is created.";
    offsets_topic_rewrite_bytes: u64 = parse::some_bytes, "16MiB",
        "A partition of __consumer_offsets is written anew, and its old part given up, once it holds this much and four times what counts of it.";
    offsets_retention_minutes: u64 = parse::positive_number, "10080",
        "How long the offsets of a group without members are kept, in minutes.";
    offsets_retention_check_interval_ms: u64 = parse::millis, "10min",
        "How often offsets are looked through for those that have expired.";
    offset_metadata_max_bytes: usize = parse::positive, "4096",
        "Longest metadata that may be committed with an offset, in bytes.";
    group_initial_rebalance_delay_ms: i32 = parse::delay, "3s",
        "How long the first rebalance of an empty classic group waits for more members; 0: not at all.";
    group_min_session_timeout_ms: i32 = parse::timeout, "6s",
        "Shortest session timeout that a classic member may ask for.";
    group_max_session_timeout_ms: i32 = parse::timeout, "30min",
        "Longest session timeout that a classic member may ask for.";
    group_max_size: usize = parse::positive, "20000",
        "Members of one classic group.";
    group_consumer_max_size: usize = parse::positive, "20000",
        "Members of one consumer group (KIP-848).";
    group_consumer_session_timeout_ms: i32 = parse::timeout, "45s",
        "Session timeout of the members of consumer groups.";
    group_consumer_heartbeat_interval_ms: i32 = parse::timeout, "5s",
        "How often the members of consumer groups are told to send a heartbeat.";
    group_consumer_migration_policy: Migration = parse::migration, "bidirectional",
        "Which changes between the classic and the consumer protocol a group with members may make: disabled, upgrade, downgrade or bidirectional.";
    group_consumer_regex_refresh_interval_ms: u64 = parse::millis, "10min",
        "How often the topics of consumers that subscribe by a pattern are looked for anew.";
    transaction_state_topic_num_partitions: i32 = parse::partitions, "50",
        "Partitions of __transaction_state, which is created when a client first asks for a transaction's coordinator; they cannot be changed later.";
    transaction_state_topic_replication_factor: i16 = parse::replication_factor, "3",
        "Replicas of each partition of __transaction_state; as many as there are brokers, if those are fewer when it is created.";
    transaction_state_topic_rewrite_bytes: u64 = parse::some_bytes, "16MiB",
        "A partition of __transaction_state is written anew, and its old part given up, once it holds this much and four times what counts of it.";
    delayed_topic_num_partitions: i32 = parse::partitions, "16",
        "Partitions of __highwater_delayed, which is created with the first delayed record; they cannot be changed later.";
    delayed_topic_replication_factor: i16 = parse::replication_factor, "3",
        "Replicas of each partition of __highwater_delayed; as many as there are brokers, if those are fewer when it is created.";
    delayed_topic_rewrite_bytes: u64 = parse::some_bytes, "16MiB",
        "A partition of __highwater_delayed is written anew, and its old part given up, once it holds this much and four times what waits of it.";
    delayed_partition_max_bytes: u64 = parse::some_bytes, "64MiB",
        "Bytes of delayed records that may wait in one partition of __highwater_delayed, and in the memory of its leader; more are refused.";
    transaction_max_timeout_ms: i32 = parse::timeout, "15min",
        "Longest transaction timeout that a producer may ask for.";
    transactional_id_expiration_ms: u64 = parse::millis, "168h",
        "How long a transactional id is remembered that nobody uses.";
    retention_check_ms: u64 = parse::millis, "30s",
        "How often retention is checked.";
    drain_timeout_ms: u64 = parse::millis, "10s",
        "How long a stopping node waits for requests in flight.";
    store_upload_concurrency: usize = parse::positive, "8",
        "Requests of uploads to the object store at a time.";
    store_read_concurrency: usize = parse::positive, "64",
        "Requests of reads from the object store at a time.";
    store_requests_per_second: u32 = parse::per_second, "0",
        "Most requests per second to the object store, in each lane; 0 means no limit.";
    store_upload_bytes_per_second: u64 = parse::bytes_or_zero, "0",
        "Most bytes per second uploaded to the object store; 0 means no limit.";
    store_timeout_ms: u64 = parse::millis, "10s",
        "Time that one request to the object store gets, beside the time that its bytes need; then it is repeated.";
}

impl Default for Settings {
    fn default() -> Self {
        Settings::from_lookup(|def| (def.default.to_owned(), def.key.to_owned()))
            .expect("every default parses")
    }
}

impl Settings {
    /// Settings from the flags given, this process's environment and the configuration file, checked.
    pub fn load(flags: &BTreeMap<String, String>, config: Option<&Path>) -> Result<Settings, SettingsError> {
        let file = match config {
            Some(path) => {
                let name = path.display().to_string();
                let text = std::fs::read_to_string(path).map_err(|e| SettingsError::File {
                    file: name.clone(),
                    reason: format!("cannot read: {e}"),
                })?;
                parse_file(&name, &text)?
            }
            None => BTreeMap::new(),
        };
        Settings::resolve(flags, |name| std::env::var(name).ok(), &file)
    }

    /// The precedence, pure: `flags` and `file` by field name (underscores).
    pub fn resolve(
        flags: &BTreeMap<String, String>,
        env: impl Fn(&str) -> Option<String>,
        file: &BTreeMap<String, String>,
    ) -> Result<Settings, SettingsError> {
        let settings = Settings::from_lookup(|def| {
            if let Some(value) = flags.get(def.field) {
                return (value.clone(), format!("--{}", def.key));
            }
            if let Some(value) = env(&def.env()) {
                return (value, def.env());
            }
            if let Some(value) = file.get(def.field) {
                return (value.clone(), format!("setting {}", def.key));
            }
            (def.default.to_owned(), format!("default of {}", def.key))
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// What no single field can tell.
    fn check(&self) -> Result<(), SettingsError> {
        let conflict = |text: String| Err(SettingsError::Conflict(text));
        let (listed, ids) = (self.coordinators.contains_key(&self.node_id), self.coordinator_ids());
        if !self.roles.coordinator && self.coordinators.is_empty() {
            return conflict(
                "roles: a broker alone follows coordinators; set coordinators ID=HOST:PORT".into(),
            );
        }
        if !self.roles.coordinator && listed {
            return conflict(format!(
                "coordinators: names node {}, which has no such role; give it the role or take it off the list",
                self.node_id
            ));
        }
        if self.roles.coordinator && !listed && !self.coordinators.is_empty() {
            return conflict(format!(
                "coordinators: names the nodes {ids}, and this coordinator is node {}; correct node-id or the list",
                self.node_id
            ));
        }
        let is_found = listed || self.coordinators.is_empty() || self.advertise_grpc.is_some();
        if self.grpc.is_every_interface() && !is_found {
            return conflict(format!(
                "grpc: {} is every interface, which no node can connect to by name; set advertise-grpc HOST:PORT",
                self.grpc
            ));
        }
        if self.advertise_grpc.as_ref().is_some_and(Address::is_every_interface) {
            return conflict(
                "advertise-grpc: nodes cannot connect to every interface; give a host name".into(),
            );
        }
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms {
            return conflict(
                "group-min-session-timeout-ms: must not be above group-max-session-timeout-ms".into(),
            );
        }
        if self.group_consumer_heartbeat_interval_ms >= self.group_consumer_session_timeout_ms {
            let text =
                "group-consumer-heartbeat-interval-ms: must be below group-consumer-session-timeout-ms";
            return conflict(text.into());
        }
        let is_s3 = self.object_store.as_deref().is_some_and(|url| url.starts_with("s3://"));
        if self.s3_endpoint.is_some() && !is_s3 {
            return conflict(
                "s3-endpoint: needs object-store s3://BUCKET/PREFIX; set it or drop s3-endpoint".into(),
            );
        }
        if self.advertise.is_none() && self.kafka.is_every_interface() {
            return conflict(format!(
                "kafka: {} is every interface, which no client can connect to by name; set advertise HOST:PORT",
                self.kafka
            ));
        }
        if self.advertise.as_ref().is_some_and(Address::is_every_interface) {
            return conflict("advertise: clients cannot connect to every interface; give a host name".into());
        }
        Ok(())
    }

    fn coordinator_ids(&self) -> String {
        self.coordinators.keys().map(u64::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The URL of the object store, the default filled in. `data_dir` is made absolute against the working
    /// directory.
    pub fn object_store_url(&self) -> String {
        self.object_store.clone().unwrap_or_else(|| {
            let dir = std::path::absolute(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
            format!("file://{}", dir.join("objects").display())
        })
    }

    /// Threads of the runtime.
    pub fn worker_threads(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }
}

/// The configuration file as field name -> text. Keys may be written with `-` or `_`; unknown ones are
/// refused.
pub fn parse_file(file: &str, text: &str) -> Result<BTreeMap<String, String>, SettingsError> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| SettingsError::File {
        file: file.to_owned(),
        reason: one_line(e.message()),
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        let field = key.replace('-', "_");
        if !DEFS.iter().any(|def| def.field == field) {
            return Err(SettingsError::UnknownKey { file: file.to_owned(), key });
        }
        let text = toml_text(&value).ok_or_else(|| SettingsError::File {
            file: file.to_owned(),
            reason: format!("{key} must be a text, a number, true or false, or a list of texts"),
        })?;
        if values.insert(field, text).is_some() {
            return Err(SettingsError::File {
                file: file.to_owned(),
                reason: format!("{key} is given twice"),
            });
        }
    }
    Ok(values)
}

fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|i| i.as_str().map(str::to_owned)).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The settings reference as a Markdown table, as `docs/settings.md` holds it.
pub struct Reference;

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Settings of `highwater serve`\n")?;
        writeln!(
            f,
            "Precedence: flag, then environment variable, then the file of `--config`, then default."
        )?;
        writeln!(f, "The TOML key is the flag's name. Sizes take KiB, MiB, GiB; times take ms, s, min, h.")?;
        writeln!(f, "S3 credentials come from the usual `AWS_*` variables and are never settings.\n")?;
        writeln!(f, "| flag | environment | default | meaning |\n|---|---|---|---|")?;
        for def in DEFS {
            let default = if def.default.is_empty() { "".to_owned() } else { format!("`{}`", def.default) };
            writeln!(f, "| `--{}` | `{}` | {default} | {} |", def.key, def.env(), def.doc)?;
        }
        writeln!(f, "\n## Settings of topics that Kafka does not have\n")?;
        writeln!(f, "They are set and described as Kafka's are, by any client's administration.\n")?;
        writeln!(f, "| name | default | meaning |\n|---|---|---|")?;
        for def in CONFIG_DEFS.iter().filter(|def| def.name.starts_with("highwater.")) {
            writeln!(f, "| `{}` | `{}` | {} |", def.name, def.default, def.documentation)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
