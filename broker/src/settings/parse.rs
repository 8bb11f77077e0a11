//! One parser per kind of setting. Each takes the text and answers the value or the reason why not, in words
//! that tell what would be valid. Pure: no environment, disk or network.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use highwater_groups::core::settings::Migration;
use highwater_model::{NodeId, limits};

/// A host name or address with a port, not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl Address {
    /// True for `0.0.0.0` and `[::]`: good to listen on, useless to connect to.
    pub fn is_every_interface(&self) -> bool {
        self.host == "0.0.0.0" || self.host == "::"
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub coordinator: bool,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

pub fn text(value: &str) -> Result<String, String> {
    if value.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(value.to_owned()) }
}

pub fn path(value: &str) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from)
}

pub fn node_id(value: &str) -> Result<u64, String> {
    match value.parse::<u64>() {
        Ok(id) if (1..=i32::MAX as u64).contains(&id) => Ok(id),
        _ => Err("a number from 1 to 2147483647 is needed".to_owned()),
    }
}

pub fn roles(value: &str) -> Result<Roles, String> {
    let mut roles = Roles { broker: false, coordinator: false };
    for role in value.split(',') {
        match role.trim() {
            "broker" => roles.broker = true,
            "coordinator" => roles.coordinator = true,
            other => return Err(format!("{other:?} is no role; the roles are broker and coordinator")),
        }
    }
    Ok(roles)
}

pub fn flag(value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false is needed".to_owned()),
    }
}

pub fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err("human or json is needed".to_owned()),
    }
}

pub fn address(value: &str) -> Result<Address, String> {
    let wrong = || "HOST:PORT is needed".to_owned();
    let (host, port) = value.rsplit_once(':').ok_or_else(wrong)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
        None if host.contains(':') => return Err("an IPv6 address is written [ADDRESS]:PORT".to_owned()),
        None => host,
    };
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || host.len() > 255 || !host.chars().all(is_host_char) {
        return Err(wrong());
    }
    let port = port.parse().map_err(|_| "the port must be a number from 0 to 65535".to_owned())?;
    Ok(Address { host: host.to_owned(), port })
}

pub fn optional_address(value: &str) -> Result<Option<Address>, String> {
    if value.is_empty() { Ok(None) } else { address(value).map(Some) }
}

/// The coordinators as `ID=HOST:PORT,...`: one, three or five, each id and each address once; or none.
pub fn coordinators(value: &str) -> Result<BTreeMap<NodeId, Address>, String> {
    let mut list = BTreeMap::new();
    for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (id, at) = entry.split_once('=').ok_or_else(|| format!("{entry:?} is not ID=HOST:PORT"))?;
        let id = node_id(id).map_err(|reason| format!("{entry:?}: {reason}"))?;
        let at = address(at).map_err(|reason| format!("{entry:?}: {reason}"))?;
        if at.port == 0 || at.is_every_interface() {
            return Err(format!("{entry:?}: peers need an address that they can connect to"));
        }
        if list.values().any(|other| *other == at) {
            return Err(format!("{at} is listed twice"));
        }
        if list.insert(id, at).is_some() {
            return Err(format!("node {id} is listed twice"));
        }
    }
    match list.len() {
        0 | 1 | 3 | 5 => Ok(list),
        n => Err(format!("{n} coordinators; a group has 1, 3 or 5, so that more than half can be counted")),
    }
}

pub fn rack(value: &str) -> Result<Option<String>, String> {
    match value.len() {
        0 => Ok(None),
        1..=limits::HOST_BYTES_MAX => Ok(Some(value.to_owned())),
        _ => Err(format!("at most {} bytes", limits::HOST_BYTES_MAX)),
    }
}

pub fn replication_factor(value: &str) -> Result<i16, String> {
    match value.parse::<i16>() {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err("a number from 1 to 32767 is needed".to_owned()),
    }
}

pub fn optional_object_store(value: &str) -> Result<Option<String>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let has_place = |rest: &str| rest.chars().any(|c| c != '/');
    if value.strip_prefix("file:///").is_some_and(has_place) {
        return Ok(Some(value.to_owned()));
    }
    if value.strip_prefix("s3://").is_some_and(|rest| !rest.starts_with('/') && has_place(rest)) {
        return Ok(Some(value.to_owned()));
    }
    Err("file:///DIR or s3://BUCKET/PREFIX is needed".to_owned())
}

pub fn optional_endpoint(value: &str) -> Result<Option<String>, String> {
    if value.is_empty() {
        return Ok(None);
    }
    let rest = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(Some(value.to_owned())),
        _ => Err("http://HOST:PORT or https://HOST:PORT is needed".to_owned()),
    }
}

pub fn partitions(value: &str) -> Result<i32, String> {
    match value.parse::<i32>() {
        Ok(n) if n >= 1 && n as usize <= limits::PARTITIONS_PER_TOPIC_MAX => Ok(n),
        _ => Err(format!("a number from 1 to {} is needed", limits::PARTITIONS_PER_TOPIC_MAX)),
    }
}

pub fn count(value: &str) -> Result<usize, String> {
    match value.parse::<usize>() {
        Ok(n) if n <= limits::SETTING_COUNT_MAX => Ok(n),
        _ => Err(format!("a number from 0 to {} is needed", limits::SETTING_COUNT_MAX)),
    }
}

pub fn positive(value: &str) -> Result<usize, String> {
    match count(value) {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        other => other,
    }
}

pub fn per_second(value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| "a whole number is needed".to_owned())
}

/// A size in bytes, at least 4 KiB.
pub fn some_bytes(value: &str) -> Result<u64, String> {
    match bytes_or_zero(value)? {
        n if n >= 4 << 10 => Ok(n),
        _ => Err("at least 4KiB is needed".to_owned()),
    }
}

/// A size in bytes, at least 1 MiB: less than that cannot hold one page or one default batch.
pub fn bytes(value: &str) -> Result<u64, String> {
    match bytes_or_zero(value)? {
        n if n >= 1 << 20 => Ok(n),
        _ => Err("at least 1MiB is needed".to_owned()),
    }
}

pub fn bytes_or_zero(value: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| value.strip_suffix(unit).map(|digits| (digits.trim_end(), *shift)))
        .unwrap_or((value, 0));
    let number: u64 =
        digits.parse().map_err(|_| "bytes such as 1048576, 512KiB, 64MiB or 2GiB are needed")?;
    number
        .checked_mul(1 << shift)
        .filter(|n| *n <= i64::MAX as u64)
        .ok_or_else(|| "it is too large".to_owned())
}

/// A time as [`millis`] takes it that Kafka's protocol can carry.
pub fn timeout(value: &str) -> Result<i32, String> {
    i32::try_from(millis(value)?).map_err(|_| "at most 2147483647ms is possible".to_owned())
}

/// As [`timeout`], or none at all.
pub fn delay(value: &str) -> Result<i32, String> {
    match value {
        "0" | "0ms" | "0s" => Ok(0),
        _ => timeout(value),
    }
}

/// A number from 1 on.
pub fn positive_number(value: &str) -> Result<u64, String> {
    match value.parse::<u32>() {
        Ok(number) if number > 0 => Ok(u64::from(number)),
        _ => Err("a number from 1 to 4294967295 is needed".to_owned()),
    }
}

/// `group.consumer.migration.policy`
pub fn migration(value: &str) -> Result<Migration, String> {
    match value.to_ascii_lowercase().as_str() {
        "disabled" => Ok(Migration::Disabled),
        "upgrade" => Ok(Migration::Upgrade),
        "downgrade" => Ok(Migration::Downgrade),
        "bidirectional" => Ok(Migration::Bidirectional),
        _ => Err("disabled, upgrade, downgrade or bidirectional is needed".to_owned()),
    }
}

/// A time in milliseconds, at least 1 and at most 30 days.
pub fn millis(value: &str) -> Result<u64, String> {
    // "ms" before "s", or 10ms would be read as 10m seconds.
    let units = [("ms", 1), ("min", 60_000), ("s", 1_000), ("h", 3_600_000)];
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| value.strip_suffix(unit).map(|digits| (digits.trim_end(), *factor)))
        .unwrap_or((value, 1));
    let number: u64 = digits.parse().map_err(|_| "a time such as 500, 500ms, 10s, 5min or 2h is needed")?;
    match number.checked_mul(factor) {
        Some(0) => Err("at least 1ms is needed".to_owned()),
        Some(n) if n <= 30 * 24 * 3_600_000 => Ok(n),
        _ => Err("at most 720h is possible".to_owned()),
    }
}
