//! Named crash points: the process kills itself there when a test says so, as `kill -9` would.
//!
//! `HIGHWATER_TEST_CRASH_AT=name` or `name:n` (the n-th time). Unset, a crash point costs one atomic load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const VARIABLE: &str = "HIGHWATER_TEST_CRASH_AT";

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    name: String,
    at_hit: u64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
static HITS: AtomicU64 = AtomicU64::new(0);

fn parse(value: &str) -> Option<Armed> {
    if value.is_empty() {
        return None;
    }
    let (name, at_hit) = match value.rsplit_once(':') {
        Some((name, n)) => (name, n.parse().ok().filter(|n| *n > 0)?),
        None => (value, 1),
    };
    Some(Armed { name: name.to_owned(), at_hit })
}

/// Kills the process if a test armed this point and this is the hit it asked for.
#[inline]
pub fn crash_point(name: &str) {
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().as_deref().and_then(parse));
    if let Some(armed) = armed
        && armed.name == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == armed.at_hit
    {
        kill_self();
    }
}

#[cold]
fn kill_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal ends the process before this returns to any caller; if it could not be sent, do not go on.
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_reads_as_name_and_hit() {
        let armed = |name: &str, at_hit| Some(Armed { name: name.to_owned(), at_hit });
        assert_eq!(parse("append-written"), armed("append-written", 1));
        assert_eq!(parse("before-upload:3"), armed("before-upload", 3));
        assert_eq!(parse("before-upload:0"), None);
        assert_eq!(parse("before-upload:x"), None);
        assert_eq!(parse(""), None);
    }
}
