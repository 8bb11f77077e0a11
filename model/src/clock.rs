//! The clock port. Wall-clock time decides when something happens, never whether it is correct (invariant
//! 17).

/// Source of time for the shells; pure cores take the time as an argument instead.
pub trait Clock: Send + Sync {
    /// Unix time in milliseconds.
    fn now_ms(&self) -> i64;
}
