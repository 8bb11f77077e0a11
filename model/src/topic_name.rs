//! Which topic names are legal, and which two would collide (Kafka's `Topic` class).

/// Longest legal topic name, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Why a topic name is refused; the text is what a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("Topic name is invalid: '.' and '..' are not allowed")]
    Dots,
    #[error("Topic name is invalid: the length is longer than the max allowed length {TOPIC_NAME_BYTES_MAX}")]
    TooLong,
    #[error("Topic name is invalid: it contains characters other than ASCII alphanumerics, '.', '_' and '-'")]
    Characters,
}

/// Checks a name by Kafka's rules: 1 to 249 of `[a-zA-Z0-9._-]`, and neither `.` nor `..`.
pub fn validate(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong);
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(TopicNameError::Characters);
    }
    Ok(())
}

/// The form under which names that differ only in `.` and `_` are the same (metrics cannot tell them apart).
pub fn collision_key(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_pass() {
        let longest = "a".repeat(TOPIC_NAME_BYTES_MAX);
        for name in ["a", "flights", "A.b_c-9", "...", "__consumer_offsets", longest.as_str()] {
            assert_eq!(validate(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn illegal_names_are_refused_each_with_its_reason() {
        let long = "a".repeat(TOPIC_NAME_BYTES_MAX + 1);
        for (name, reason) in [
            ("", TopicNameError::Empty),
            (".", TopicNameError::Dots),
            ("..", TopicNameError::Dots),
            (long.as_str(), TopicNameError::TooLong),
            ("../etc/passwd", TopicNameError::Characters),
            ("a/b", TopicNameError::Characters),
            ("a b", TopicNameError::Characters),
            ("a\0", TopicNameError::Characters),
            ("é", TopicNameError::Characters),
        ] {
            assert_eq!(validate(name), Err(reason), "{name:?}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a-b"));
    }
}
