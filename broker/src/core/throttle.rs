//! How fast replicas that have to catch up may be filled: token buckets, pure, on a monotonic clock.
//!
//! What passes is counted after the fact and may overdraw the bucket, as in Kafka (KIP-73): an answer is
//! never cut to fit a rate, it waits until the bucket has recovered from the one before. So the rate holds on
//! the average, whatever the size of answers, and a rate below one batch per second still makes progress.
//! Invariants: 16, 17 (a wrong clock makes it fill too fast or too slowly, nothing else).

use highwater_model::limits::{THROTTLE_BURST_MS, THROTTLE_LOOK_MS};

/// A bound on bytes per second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second; None lets everything through.
    rate: Option<u64>,
    /// What may still pass, in thousandths of a byte; negative where too much has.
    credit: i128,
    at_ms: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(now_ms: u64, rate: Option<u64>) -> TokenBucket {
        TokenBucket { rate, credit: burst(rate), at_ms: now_ms }
    }

    /// Another rate from now on; what was overdrawn stays so.
    pub fn set_rate(&mut self, now_ms: u64, rate: Option<u64>) {
        self.refill(now_ms);
        if self.rate.is_none() && rate.is_some() {
            self.credit = burst(rate);
        }
        self.rate = rate;
        self.credit = self.credit.min(burst(rate));
        debug_assert!(self.credit <= burst(self.rate));
    }

    /// How long until something may pass, in milliseconds; 0 is now. At most a bound after which it is to be
    /// asked again, because the rate may be another by then.
    pub fn wait_ms(&mut self, now_ms: u64) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        self.refill(now_ms);
        if self.credit > 0 {
            return 0;
        }
        if rate == 0 {
            return THROTTLE_LOOK_MS;
        }
        let missing = self.credit.unsigned_abs() + 1;
        let wait = missing.div_ceil(u128::from(rate));
        let wait = u64::try_from(wait).unwrap_or(u64::MAX).clamp(1, THROTTLE_LOOK_MS);
        assert!(wait > 0, "who has to wait is told for how long");
        wait
    }

    /// Counts what has passed.
    pub fn take(&mut self, now_ms: u64, bytes: u64) {
        if self.rate.is_some() {
            self.refill(now_ms);
            self.credit -= i128::from(bytes) * 1_000;
        }
    }

    fn refill(&mut self, now_ms: u64) {
        // Thousandths of a byte per millisecond are bytes per second.
        let elapsed = now_ms.saturating_sub(self.at_ms);
        self.at_ms = self.at_ms.max(now_ms);
        let gained = i128::from(elapsed) * i128::from(self.rate.unwrap_or(0));
        self.credit = (self.credit + gained).min(burst(self.rate));
        debug_assert!(self.credit <= burst(self.rate), "no more than a burst is saved up");
    }
}

fn burst(rate: Option<u64>) -> i128 {
    i128::from(rate.unwrap_or(0)) * i128::from(THROTTLE_BURST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends answers of `size` as fast as the bucket lets it; bytes per second over `seconds` after the
    /// first burst.
    fn sent(rate: u64, size: u64, seconds: u64) -> u64 {
        let mut bucket = TokenBucket::new(0, Some(rate));
        let (mut now_ms, mut bytes) = (0, 0);
        while now_ms < seconds * 1_000 {
            match bucket.wait_ms(now_ms) {
                0 => {
                    bucket.take(now_ms, size);
                    bytes += size;
                }
                wait => now_ms += wait,
            }
        }
        (bytes - rate.min(bytes)) / seconds
    }

    #[test]
    fn the_rate_holds_whatever_the_size_of_answers() {
        for (rate, size) in [(1_000_000, 100), (1_000_000, 64_000), (1_000_000, 10_000_000), (7, 1_000)] {
            let got = sent(rate, size, 1_000);
            let slack = rate / 50 + size / 500;
            assert!(got.abs_diff(rate) <= slack, "rate {rate}, answers of {size}: {got}");
        }
    }

    #[test]
    fn without_a_rate_nothing_waits_and_a_rate_of_nothing_stops_all() {
        let mut bucket = TokenBucket::new(0, None);
        bucket.take(0, u64::MAX);
        assert_eq!(bucket.wait_ms(0), 0);
        bucket.set_rate(5, Some(0));
        assert_eq!(bucket.wait_ms(5), THROTTLE_LOOK_MS);
        assert_eq!(bucket.wait_ms(1_000_000), THROTTLE_LOOK_MS, "however long it waits");
        bucket.set_rate(1_000_000, Some(1_000));
        assert_eq!(bucket.wait_ms(1_000_001), 0, "the new rate counts from now on");
    }

    #[test]
    fn a_greater_rate_pays_off_sooner_and_a_clock_that_goes_back_pays_nothing() {
        let mut bucket = TokenBucket::new(1_000, Some(1_000));
        bucket.take(1_000, 2_000);
        assert_eq!(bucket.wait_ms(1_000), THROTTLE_LOOK_MS, "a second is owed; it is looked at before");
        assert_eq!(bucket.wait_ms(1_900), 101);
        assert_eq!(bucket.wait_ms(0), 101, "time that was counted is not counted again");
        bucket.set_rate(1_900, Some(100_000));
        assert_eq!(bucket.wait_ms(1_900), 2);
        assert_eq!(bucket.wait_ms(1_902), 0);
    }
}
