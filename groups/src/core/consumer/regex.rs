//! Patterns of topics (KIP-848): compiled within bounds, matched against whole topic names. Kafka uses RE2;
//! the syntax here is that of the `regex` crate, which has the same classes of patterns and the same linear
//! time.

use std::collections::BTreeSet;

use highwater_model::limits::{GROUP_REGEX_BYTES_MAX, GROUP_REGEX_COMPILED_BYTES_MAX};
use regex::{Regex, RegexBuilder};

use crate::core::error::GroupError;
use crate::core::types::{Name, Topics};

/// A pattern that can be matched. Refuses what does not compile or is too large.
pub fn compile(pattern: &str) -> Result<Regex, GroupError> {
    if pattern.len() > GROUP_REGEX_BYTES_MAX {
        return Err(GroupError::InvalidRegularExpression);
    }
    // Alone first: `a)(b` would be a pattern between the parentheses that make it match the whole name.
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(GROUP_REGEX_COMPILED_BYTES_MAX)
            .build()
            .map_err(|_| GroupError::InvalidRegularExpression)
    };
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

/// The topics whose names match, the cluster's own included, as Kafka has it.
pub fn resolve(pattern: &Regex, topics: &Topics) -> BTreeSet<Name> {
    topics.names().filter(|name| pattern.is_match(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use highwater_model::TopicId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let names = ["foo", "foobar", "bar", "__consumer_offsets"];
        let topics = Topics::new(
            names
                .iter()
                .enumerate()
                .map(|(i, n)| (Name::from(*n), TopicId(Uuid::from_u128(1 + i as u128)), 1)),
        );
        let found = |pattern: &str| -> Vec<String> {
            resolve(&compile(pattern).unwrap(), &topics).iter().map(|n| n.to_string()).collect()
        };
        assert_eq!(found("foo"), ["foo"]);
        assert_eq!(found("foo.*"), ["foo", "foobar"]);
        assert_eq!(found("foo|bar"), ["bar", "foo"]);
        assert_eq!(found(".*"), ["__consumer_offsets", "bar", "foo", "foobar"]);
        for bad in ["(", "a)(b", "[", &"a".repeat(GROUP_REGEX_BYTES_MAX + 1), "(a{1000}){1000}"] {
            assert_eq!(compile(bad).unwrap_err(), GroupError::InvalidRegularExpression, "{bad:.20}");
        }
    }
}
