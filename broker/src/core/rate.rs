//! How many bytes per second pass, averaged over some minutes: pure, on a monotonic clock. For plans that
//! must not follow noise: what is told is rounded, so that a steady load tells the same number again and
//! again.

use highwater_model::limits::RATE_MEAN_MS;

/// An average that forgets: what lies `RATE_MEAN_MS` back counts a third.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    per_s: f64,
    total: u64,
    at_ms: Option<u64>,
}

impl Rate {
    /// Takes in what has passed in all by `now_ms`. The first look only remembers; a count that has gone back
    /// began anew.
    pub fn look(&mut self, now_ms: u64, total: u64) {
        let before = self.at_ms.replace(now_ms);
        let passed = total.checked_sub(self.total).unwrap_or(total);
        self.total = total;
        let Some(elapsed_ms) = before.and_then(|before| now_ms.checked_sub(before)) else { return };
        if elapsed_ms == 0 {
            return;
        }
        let now_per_s = passed as f64 * 1_000.0 / elapsed_ms as f64;
        let weight = 1.0 - (-(elapsed_ms as f64) / RATE_MEAN_MS as f64).exp();
        self.per_s += (now_per_s - self.per_s) * weight;
        debug_assert!(self.per_s.is_finite() && self.per_s >= 0.0);
    }

    /// Bytes per second, rounded to an eighth of its magnitude.
    pub fn bytes_per_s(&self) -> u64 {
        let exact = self.per_s as u64;
        let step = (exact.checked_ilog2().map_or(0, |log| 1u64 << log) / 8).max(1);
        let rounded = exact / step * step;
        assert!(rounded <= exact, "never more than there is");
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_is_found_within_minutes_and_told_alike() {
        let (mut rate, mut told) = (Rate::default(), Vec::new());
        for second in 0..1_200u64 {
            // A little more and a little less, in turn.
            rate.look(second * 1_000, second * 1_000_000 + (second % 2) * 10_000);
            if second >= 900 {
                told.push(rate.bytes_per_s());
            }
        }
        assert!((850_000..=1_000_000).contains(&told[0]), "{}", told[0]);
        assert!(told.iter().all(|now| *now == told[0]), "rounded");
        rate.look(1_260_000, 1_200_000_000);
        assert!(rate.bytes_per_s() < 850_000, "a quiet minute tells");
        rate.look(4_800_000, 1_200_000_000);
        assert_eq!(rate.bytes_per_s(), 0, "a quiet hour is rest");
    }

    #[test]
    fn a_count_that_begins_anew_and_a_clock_that_goes_back_do_no_harm() {
        let mut rate = Rate::default();
        rate.look(1_000, 5_000_000);
        assert_eq!(rate.bytes_per_s(), 0, "what was before is not counted");
        rate.look(2_000, 10);
        rate.look(500, 20);
        rate.look(500, 30);
        assert!(rate.bytes_per_s() < 10);
    }
}
