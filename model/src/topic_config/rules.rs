//! How one value is checked: parse by type, then by the setting's rule. Messages follow Kafka's `ConfigDef`.

use super::defs::{ConfigDef, ConfigKind};
use crate::limits::TOPIC_CONFIG_VALUE_BYTES_MAX;

/// Why settings are refused; the text names the setting and is what a client sees (INVALID_CONFIG).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("Unknown topic config name: {name}")]
    Unknown { name: String },
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    Invalid { name: String, value: String, reason: String },
}

impl ConfigError {
    pub(super) fn invalid(name: &str, value: &str, reason: impl Into<String>) -> ConfigError {
        // A refusal is echoed to the client and logged; a megabyte of value is not.
        let shown: String = value.chars().take(200).collect();
        ConfigError::Invalid { name: name.to_owned(), value: shown, reason: reason.into() }
    }
}

/// What a value must satisfy beyond its type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Any,
    AtLeast(i64),
    Between(i64, i64),
    /// 0 to 1.
    Ratio,
    OneOf(&'static [&'static str]),
    /// At least one of the listed values, none other.
    ListOf(&'static [&'static str]),
    /// `*`, or `partition:broker` pairs.
    Replicas,
    GzipLevel,
    /// A boolean that only has its default so far.
    FalseOnly,
}

/// The items of a comma-separated list, trimmed; the empty text is the empty list.
pub fn list_items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Checks one value alone; what depends on several settings is checked by `TopicConfig::from_overrides`.
pub fn check_value(def: &ConfigDef, value: &str) -> Result<(), ConfigError> {
    if value.len() > TOPIC_CONFIG_VALUE_BYTES_MAX {
        let reason = format!("Value must be at most {TOPIC_CONFIG_VALUE_BYTES_MAX} bytes");
        return Err(ConfigError::invalid(def.name, value, reason));
    }
    let refuse = |reason: String| Err(ConfigError::invalid(def.name, value, reason));
    let trimmed = value.trim();
    match def.kind {
        ConfigKind::Boolean => {
            let Some(flag) = parse_bool(trimmed) else {
                return refuse("Expected value to be either true or false".into());
            };
            match def.rule {
                Rule::FalseOnly if flag => refuse("only false is supported".into()),
                _ => Ok(()),
            }
        }
        ConfigKind::Int | ConfigKind::Long => {
            let parsed = match def.kind {
                ConfigKind::Int => trimmed.parse::<i32>().map(i64::from),
                _ => trimmed.parse::<i64>(),
            };
            match parsed {
                Ok(number) => check_number(def.rule, number).or_else(refuse),
                Err(_) => refuse(format!("Not a number of type {}", def.kind.name())),
            }
        }
        ConfigKind::Double => match trimmed.parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
            Ok(_) => refuse("Value must be between 0 and 1".into()),
            Err(_) => refuse("Not a number of type DOUBLE".into()),
        },
        ConfigKind::String => check_word(def.rule, trimmed).or_else(refuse),
        ConfigKind::List => check_list(def.rule, trimmed).or_else(refuse),
    }
}

pub(super) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        v if v.eq_ignore_ascii_case("true") => Some(true),
        v if v.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn check_number(rule: Rule, number: i64) -> Result<(), String> {
    match rule {
        Rule::AtLeast(least) if number < least => Err(format!("Value must be at least {least}")),
        Rule::Between(low, high) if number < low => {
            Err(format!("Value must be at least {low} and at most {high}"))
        }
        Rule::Between(_, high) if number > high => Err(format!("Value must be no more than {high}")),
        Rule::GzipLevel if number != -1 && !(1..=9).contains(&number) => {
            Err("Value must be between 1 and 9 or equal to -1".into())
        }
        _ => Ok(()),
    }
}

fn check_word(rule: Rule, word: &str) -> Result<(), String> {
    match rule {
        Rule::OneOf(words) if !words.contains(&word) => {
            Err(format!("String must be one of: {}", words.join(", ")))
        }
        _ => Ok(()),
    }
}

fn check_list(rule: Rule, value: &str) -> Result<(), String> {
    match rule {
        Rule::ListOf(words) => {
            if list_items(value).next().is_none() {
                return Err(format!("Value must name at least one of: {}", words.join(", ")));
            }
            match list_items(value).find(|item| !words.contains(item)) {
                Some(item) => Err(format!("String must be one of: {}, not {item}", words.join(", "))),
                None => Ok(()),
            }
        }
        Rule::Replicas => {
            let pair = |item: &str| {
                let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
                item.split_once(':').is_some_and(|(partition, broker)| digits(partition) && digits(broker))
            };
            match value == "*" || list_items(value).all(pair) {
                true => Ok(()),
                false => Err("Value must be * or a list of partition:broker pairs".into()),
            }
        }
        _ => Ok(()),
    }
}

impl ConfigKind {
    /// The type's name as Kafka writes it in messages.
    pub fn name(self) -> &'static str {
        match self {
            ConfigKind::Boolean => "BOOLEAN",
            ConfigKind::String => "STRING",
            ConfigKind::Int => "INT",
            ConfigKind::Long => "LONG",
            ConfigKind::Double => "DOUBLE",
            ConfigKind::List => "LIST",
        }
    }
}
