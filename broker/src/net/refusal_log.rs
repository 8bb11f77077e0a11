//! One line for each refused connection or frame, but never more than a few per second.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use highwater_model::limits::REFUSAL_LOG_LINES_PER_SECOND_MAX;

/// Counts the lines of the current second.
pub struct RefusalLog {
    started: Instant,
    second: AtomicU64,
    lines: AtomicU32,
    suppressed: AtomicU64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        RefusalLog {
            started: Instant::now(),
            second: AtomicU64::new(0),
            lines: AtomicU32::new(0),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl RefusalLog {
    /// Whether a line may be written at `second`, and how many were not since the last one.
    fn admit(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) < REFUSAL_LOG_LINES_PER_SECOND_MAX {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Says that a connection from `peer` is closed, and why.
    pub fn closed(&self, peer: IpAddr, reason: &dyn fmt::Display) {
        if let Some(suppressed) = self.admit(self.started.elapsed().as_secs()) {
            tracing::warn!(%peer, suppressed, "connection closed: {reason}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_next_second_speaks_again() {
        let log = RefusalLog::default();
        let spoken = (0..1_000).filter(|_| log.admit(7).is_some()).count();
        assert_eq!(spoken, REFUSAL_LOG_LINES_PER_SECOND_MAX as usize);
        assert_eq!(log.admit(8), Some(1_000 - u64::from(REFUSAL_LOG_LINES_PER_SECOND_MAX)));
        assert_eq!(log.admit(8), Some(0));
    }
}
