//! The time of a shard.

use std::time::Duration;

use highwater_model::limits::SHARD_TIMER_MAX;
use tokio::time::Instant;

/// Unix milliseconds that never jump: the wall clock's once, then a monotonic clock's.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    began_ms: i64,
    began: Instant,
}

impl SteadyClock {
    pub fn starting(now_ms: i64) -> SteadyClock {
        SteadyClock { began_ms: now_ms, began: Instant::now() }
    }

    pub fn now_ms(&self) -> i64 {
        self.began_ms.saturating_add(i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// When it is `due_ms`, but never beyond what a timer can hold: then it is looked at again.
    pub fn at(&self, due_ms: i64) -> Instant {
        let ms = u64::try_from(due_ms.saturating_sub(self.began_ms)).unwrap_or(0);
        self.began + Duration::from_millis(ms).min(self.began.elapsed() + SHARD_TIMER_MAX)
    }
}

/// For ever if there is nothing to wait for.
pub async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_where_it_began_and_the_end_of_time_is_a_while_away() {
        let clock = SteadyClock::starting(5_000);
        assert!(clock.now_ms() >= 5_000);
        assert_eq!(clock.at(7_000), clock.began + Duration::from_secs(2));
        assert_eq!(clock.at(i64::MIN), clock.began);
        let farthest = clock.at(i64::MAX);
        assert!(farthest >= clock.began + SHARD_TIMER_MAX && farthest <= Instant::now() + SHARD_TIMER_MAX);
    }
}
