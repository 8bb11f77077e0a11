//! Fetches that wait for a partition's high watermark to move.
//!
//! No wake-up is lost: a waiter registers and then looks at the high watermark; whoever moves it stores it
//! first and then looks for waiters (both sequentially consistent). Without waiters a move costs one load. A
//! waiter stays until it is removed and may be woken many times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_model::limits::FETCH_WAITERS_PER_PARTITION_MAX;
use tokio::sync::Notify;

/// One waiting fetch, registered with all its partitions.
pub type FetchWaiter = Arc<Notify>;

#[derive(Default)]
pub(super) struct Waiters {
    count: AtomicUsize,
    list: Mutex<Vec<FetchWaiter>>,
}

impl Waiters {
    /// Adds a waiter; false when there are too many: it is not woken and must look for itself.
    pub(super) fn add(&self, waiter: &FetchWaiter) -> bool {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() >= FETCH_WAITERS_PER_PARTITION_MAX {
            return false;
        }
        list.push(waiter.clone());
        self.count.store(list.len(), Ordering::SeqCst);
        true
    }

    pub(super) fn remove(&self, waiter: &FetchWaiter) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|held| !Arc::ptr_eq(held, waiter));
        self.count.store(list.len(), Ordering::SeqCst);
    }

    pub(super) fn wake(&self) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for waiter in self.list.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waiter.notify_one();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_is_woken_until_it_is_removed() {
        let waiters = Waiters::default();
        let (a, b) = (FetchWaiter::default(), FetchWaiter::default());
        assert!(waiters.add(&a) && waiters.add(&b));
        waiters.remove(&b);
        for _ in 0..2 {
            waiters.wake();
            a.notified().await;
        }
        waiters.remove(&a);
        assert_eq!(waiters.len(), 0);
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), b.notified()).await;
        assert!(none.is_err(), "a removed waiter is not woken");
    }

    #[test]
    fn one_too_many_is_told_to_look_for_itself() {
        let waiters = Waiters::default();
        for _ in 0..FETCH_WAITERS_PER_PARTITION_MAX {
            assert!(waiters.add(&FetchWaiter::default()));
        }
        assert!(!waiters.add(&FetchWaiter::default()));
        assert_eq!(waiters.len(), FETCH_WAITERS_PER_PARTITION_MAX);
    }
}
