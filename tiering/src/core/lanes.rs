//! What a lane may do and when: token buckets, pauses between attempts, and the deadline. Pure; the caller
//! brings the time (monotonic microseconds) and the random bits.
//!
//! Must not sleep, count or know what is requested. Invariants: 13, 16 (every retry is bounded, by the
//! deadline).

/// Uploads, reads and housekeeping have separate budgets so that none can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    Upload,
    Read,
    Housekeeping,
}

impl Lane {
    pub const ALL: [Lane; 3] = [Lane::Upload, Lane::Read, Lane::Housekeeping];

    pub fn name(self) -> &'static str {
        match self {
            Lane::Upload => "upload",
            Lane::Read => "read",
            Lane::Housekeeping => "housekeeping",
        }
    }

    pub fn index(self) -> usize {
        let index = self as usize;
        debug_assert!(index < Lane::ALL.len());
        index
    }
}

/// A token bucket that may go into debt: one large request is let through and the next ones wait for it to be
/// paid.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_s: u64,
    /// Millionths of a token; negative is debt.
    level: i128,
    at_us: u64,
}

const MILLION: i128 = 1_000_000;

impl TokenBucket {
    /// `per_s` tokens a second, at most one second's worth saved up. None: no limit.
    pub fn new(per_s: u64, now_us: u64) -> Option<TokenBucket> {
        let full = i128::from(per_s) * MILLION;
        (per_s > 0).then_some(TokenBucket { per_s, level: full, at_us: now_us })
    }

    /// Microseconds to wait before anything may start; 0 when the bucket is not in debt. Takes nothing.
    pub fn wait_us(&mut self, now_us: u64) -> u64 {
        self.refill(now_us);
        if self.level > 0 {
            return 0;
        }
        let missing = (1 - self.level) as u128;
        let wait = missing.div_ceil(u128::from(self.per_s));
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// Takes `tokens`; the caller has waited.
    pub fn take(&mut self, now_us: u64, tokens: u64) {
        self.refill(now_us);
        self.level -= i128::from(tokens) * MILLION;
        debug_assert!(self.level <= i128::from(self.per_s) * MILLION);
    }

    fn refill(&mut self, now_us: u64) {
        let elapsed = now_us.saturating_sub(self.at_us);
        let full = i128::from(self.per_s) * MILLION;
        self.level = (self.level + i128::from(elapsed) * i128::from(self.per_s)).min(full);
        self.at_us = self.at_us.max(now_us);
        debug_assert!(self.level <= full, "at most one second is saved up");
    }
}

/// Exponential backoff with full jitter, bounded by a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first_ms: u64,
    pub last_ms: u64,
}

impl Backoff {
    /// The pause before attempt `attempt + 1` (attempts count from 1), or None when it would end past
    /// `left_ms`. `random` is any 32 random bits. Half of the pause is fixed so that a burst does not come
    /// straight back.
    pub fn pause_ms(&self, attempt: u32, random: u32, left_ms: u64) -> Option<u64> {
        assert!(attempt > 0, "attempts count from 1");
        let doubled = self.first_ms.saturating_mul(1u64 << (attempt - 1).min(20));
        let whole = doubled.min(self.last_ms).max(1);
        let jitter = whole / 2 * u64::from(random) / u64::from(u32::MAX);
        let pause = whole - whole / 2 + jitter;
        debug_assert!(pause <= whole.max(1));
        (pause < left_ms).then_some(pause)
    }
}

/// How long one attempt may take: a base, and more for many bytes, never past the deadline.
pub fn attempt_ms(base_ms: u64, bytes: u64, bytes_per_s_min: u64, left_ms: u64) -> u64 {
    assert!(bytes_per_s_min > 0);
    let transfer = bytes.saturating_mul(1000) / bytes_per_s_min;
    let attempt = base_ms.saturating_add(transfer).min(left_ms);
    debug_assert!(attempt <= left_ms);
    attempt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_take_is_paid_back_before_the_next() {
        let mut bucket = TokenBucket::new(100, 0).expect("limited");
        assert_eq!(bucket.wait_us(0), 0);
        bucket.take(0, 300);
        assert_eq!(bucket.wait_us(0), 2_000_001, "200 in debt at 100 a second");
        assert_eq!(bucket.wait_us(2_000_100), 0);
        assert!(TokenBucket::new(0, 0).is_none(), "0 is no limit");
    }

    #[test]
    fn over_a_long_time_the_rate_holds() {
        let mut bucket = TokenBucket::new(1_000, 0).expect("limited");
        let (mut now, mut taken) = (0u64, 0u64);
        while now < 10_000_000 {
            let wait = bucket.wait_us(now);
            now += wait;
            if wait == 0 {
                bucket.take(now, 37);
                taken += 37;
            }
        }
        assert!((10_900..=11_100).contains(&taken), "10 s at 1,000 and one second saved up: {taken}");
    }

    #[test]
    fn pauses_grow_stay_jittered_and_respect_the_deadline() {
        let backoff = Backoff { first_ms: 100, last_ms: 5_000 };
        assert_eq!(backoff.pause_ms(1, 0, 10_000), Some(50));
        assert_eq!(backoff.pause_ms(1, u32::MAX, 10_000), Some(100));
        assert_eq!(backoff.pause_ms(3, u32::MAX, 10_000), Some(400));
        assert_eq!(backoff.pause_ms(40, u32::MAX, 10_000), Some(5_000));
        assert_eq!(backoff.pause_ms(3, u32::MAX, 300), None);
    }

    #[test]
    fn attempts_grow_with_bytes() {
        assert_eq!(attempt_ms(5_000, 64 << 20, 1 << 20, 100_000), 69_000);
        assert_eq!(attempt_ms(5_000, 64 << 20, 1 << 20, 7_000), 7_000);
    }
}
