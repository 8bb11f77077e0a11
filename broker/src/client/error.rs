//! What can go wrong for a client, each in one line that ends with what to do.

use highwater_wire::kafka::ResponseError;

/// Characters of a broker's own text that are shown.
const TEXT_CHARS_MAX: usize = 1_000;

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{address:?} is no broker address; give --kafka HOST:PORT")]
    Address { address: String },
    #[error("cannot connect to {address}: {reason}; is a broker running there? (--kafka HOST:PORT)")]
    Connect { address: String, reason: String },
    #[error("{address} closed the connection: {reason}; see the broker's log")]
    Closed { address: String, reason: String },
    #[error("{address} does not answer in the Kafka protocol: {reason}; check --kafka")]
    Protocol { address: String, reason: String },
    #[error("{address} does not serve {api} in a version that this command can use; use a matching release")]
    Version { address: String, api: String },
    #[error("timed out waiting for {what}; raise --timeout-ms or see the broker's log")]
    Timeout { what: String },
    #[error("{what}: {message} ({name})")]
    Refused { what: String, code: i16, name: String, message: String },
}

impl ClientError {
    /// An answer that makes no sense.
    pub fn protocol(reason: impl Into<String>) -> ClientError {
        ClientError::Protocol { address: "the broker".to_owned(), reason: reason.into() }
    }

    /// True if the same request may succeed a little later.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Closed { .. } | ClientError::Timeout { .. } => true,
            ClientError::Refused { code, .. } => {
                ResponseError::try_from_code(*code).is_some_and(|e| e.is_retriable())
            }
            _ => false,
        }
    }
}

/// An error of the answer `code` about `what`; code 0 is none. `message` is the broker's own text, if it gave
/// one.
pub fn error_code(code: i16, message: Option<&str>, what: &str) -> Result<(), ClientError> {
    if code == 0 {
        return Ok(());
    }
    let name = match ResponseError::try_from_code(code) {
        Some(ResponseError::Unknown(_)) | None => format!("code {code}"),
        Some(error) => format!("{error:?}"),
    };
    let message = match message.filter(|text| !text.is_empty()) {
        Some(text) => text.trim_end_matches('.').to_owned(),
        None => explain(code),
    };
    Err(ClientError::Refused { what: one_line(what), code, name, message: one_line(&message) })
}

/// A broker's words as a terminal can take them: one line, no control characters, not endless.
fn one_line(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn explain(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(ResponseError::UnknownTopicOrPartition) => "there is no such topic or partition".to_owned(),
        Some(ResponseError::OffsetOutOfRange) => {
            "the offset is outside of what the partition holds".to_owned()
        }
        Some(ResponseError::Unknown(_)) | None => "the broker refused".to_owned(),
        Some(error) => error.to_string().trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_one_line() {
        error_code(0, None, "x").expect("no error");
        let plain = error_code(3, None, "topic t").expect_err("unknown");
        assert_eq!(
            plain.to_string(),
            "topic t: there is no such topic or partition (UnknownTopicOrPartition)"
        );
        assert!(plain.is_retriable());
        let own = error_code(40, Some("segment.bytes is too small."), "topic t").expect_err("config");
        assert_eq!(own.to_string(), "topic t: segment.bytes is too small (InvalidConfig)");
        assert!(!own.is_retriable());
        let rude =
            error_code(40, Some(&format!("\x1b[2J\r\n{}", "x".repeat(5_000))), "a\nb").expect_err("no");
        let rude = rude.to_string();
        assert!(rude.len() < 1_100 && !rude.contains(char::is_control), "{rude:?}");
        assert_eq!(
            error_code(9999, None, "topic t").expect_err("new").to_string(),
            "topic t: the broker refused (code 9999)"
        );
    }
}
