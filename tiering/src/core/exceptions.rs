//! Timestamps that the `_timestamp` column cannot hold: null there, exact here.
//!
//! Microseconds since 1970 in 64 bits hold milliseconds up to 292,000 years either way; -1 is Kafka's "none".
//! What is left over is kept per stripe as runs of consecutive rows whose timestamps grow by a constant step,
//! so a whole segment without timestamps costs a few bytes per stripe. Owns that encoding. Must not allocate
//! by a claimed count.

use super::layout_codec::{Varints, put_signed, put_unsigned};

/// Kafka's timestamp that means "none".
pub const NO_TIMESTAMP: i64 = -1;

/// The column's value for a timestamp in milliseconds; `None` when it is an exception.
#[inline]
pub fn to_micros(timestamp: i64) -> Option<i64> {
    if timestamp == NO_TIMESTAMP {
        return None;
    }
    timestamp.checked_mul(1000)
}

/// Rows `row..row + count` of a stripe have the timestamps `first`, `first + step`, ... (wrapping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    row: u32,
    count: u32,
    first: i64,
    step: i64,
}

/// Collects the exceptions of one stripe.
#[derive(Clone, Debug, Default)]
pub struct ExceptionRuns {
    bytes: Vec<u8>,
    open: Option<Run>,
    /// Row after the last run written.
    written_to: u32,
}

impl ExceptionRuns {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.open = None;
        self.written_to = 0;
    }

    /// Adds the exception of `row`; rows come in order.
    pub fn push(&mut self, row: u32, timestamp: i64) {
        debug_assert!(to_micros(timestamp).is_none(), "the column holds {timestamp}");
        if let Some(run) = &mut self.open {
            assert!(row >= run.row + run.count, "rows come in order");
            if row == run.row + run.count {
                if run.count == 1 {
                    run.step = timestamp.wrapping_sub(run.first);
                    run.count = 2;
                    return;
                }
                if timestamp == run.first.wrapping_add(run.step.wrapping_mul(i64::from(run.count))) {
                    run.count += 1;
                    return;
                }
            }
        }
        self.flush();
        self.open = Some(Run { row, count: 1, first: timestamp, step: 0 });
    }

    fn flush(&mut self) {
        let Some(run) = self.open.take() else {
            return;
        };
        debug_assert!(run.row >= self.written_to && run.count > 0, "runs come in order");
        put_unsigned(&mut self.bytes, u64::from(run.row - self.written_to));
        put_unsigned(&mut self.bytes, u64::from(run.count));
        put_signed(&mut self.bytes, run.first);
        put_signed(&mut self.bytes, run.step);
        self.written_to = run.row + run.count;
    }

    /// The encoded runs; empty without exceptions.
    pub fn finish(&mut self) -> &[u8] {
        self.flush();
        &self.bytes
    }
}

/// Writes the exceptions in `bytes` into `timestamps`, one per row of the stripe. Returns how many rows they
/// were, or `None` when the bytes are cut short, overlap, or go past the rows.
pub fn fill(bytes: &[u8], timestamps: &mut [i64]) -> Option<usize> {
    let mut varints = Varints::new(bytes);
    let (mut row, mut filled) = (0usize, 0usize);
    while varints.remaining() > 0 {
        let gap = usize::try_from(varints.unsigned()?).ok()?;
        let count = usize::try_from(varints.unsigned()?).ok()?;
        let (first, step) = (varints.signed()?, varints.signed()?);
        let start = row.checked_add(gap)?;
        let end = start.checked_add(count)?;
        let mut timestamp = first;
        for slot in timestamps.get_mut(start..end)? {
            *slot = timestamp;
            timestamp = timestamp.wrapping_add(step);
        }
        row = end;
        filled += count;
    }
    debug_assert!(filled <= timestamps.len(), "runs do not overlap");
    Some(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(rows: &[(u32, i64)]) -> Vec<u8> {
        let mut runs = ExceptionRuns::default();
        rows.iter().for_each(|(row, timestamp)| runs.push(*row, *timestamp));
        runs.finish().to_vec()
    }

    #[test]
    fn a_stripe_without_timestamps_costs_a_few_bytes() {
        let rows: Vec<(u32, i64)> = (0..30_000).map(|row| (row, NO_TIMESTAMP)).collect();
        let bytes = encode(&rows);
        assert!(bytes.len() <= 6, "{} bytes", bytes.len());
        let mut timestamps = vec![7; 30_000];
        assert_eq!(fill(&bytes, &mut timestamps), Some(30_000));
        assert!(timestamps.iter().all(|t| *t == NO_TIMESTAMP));
    }

    #[test]
    fn only_what_microseconds_cannot_hold_is_an_exception() {
        let max = i64::MAX / 1000;
        for held in [0, 1, -2, max, -max, 1_700_000_000_000] {
            assert_eq!(to_micros(held), Some(held * 1000));
        }
        for exception in [-1, max + 1, -max - 1, i64::MAX, i64::MIN] {
            assert_eq!(to_micros(exception), None);
        }
    }

    proptest! {
        #[test]
        fn any_exceptions_read_back(
            rows in prop::collection::btree_map(0u32..500, prop_oneof![
                Just(-1i64),
                Just(i64::MAX),
                i64::MAX - 20..i64::MAX,
                (i64::MIN..i64::MIN / 1000 - 1),
            ], 0..200)
        ) {
            let rows: Vec<(u32, i64)> = rows.into_iter().collect();
            let mut timestamps = vec![5; 500];
            prop_assert_eq!(fill(&encode(&rows), &mut timestamps), Some(rows.len()));
            let mut expected = vec![5; 500];
            rows.iter().for_each(|(row, timestamp)| expected[*row as usize] = *timestamp);
            prop_assert_eq!(timestamps, expected);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = fill(&bytes, &mut [0; 50]);
        }
    }
}
