//! Timers as data: what is due when. One timer per key; setting it again moves it.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{Millis, Name};

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKey {
    /// A member, or a member id given out and not yet used, was last heard of a session ago.
    Session { group: Name, member: Name },
    /// A consumer group's member has not given up its partitions in time.
    Revoke { group: Name, member: Name },
    /// A consumer group's member of the classic protocol was told to join again and has not.
    MemberJoin { group: Name, member: Name },
    /// A consumer group's member of the classic protocol has joined and not asked for its assignment.
    MemberSync { group: Name, member: Name },
    /// The join phase of a classic group ends, or its initial delay.
    Join { group: Name },
    /// The sync phase of a classic group ends.
    Sync { group: Name },
    /// A large consumer group gets the target that has waited.
    Assign { group: Name },
    /// Offsets are looked through for what has expired.
    Expiry,
}

/// All timers of a shard.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    due: BTreeMap<TimerKey, Millis>,
    order: BTreeSet<(Millis, TimerKey)>,
}

impl Timers {
    pub fn set(&mut self, key: TimerKey, due: Millis) {
        self.cancel(&key);
        self.order.insert((due, key.clone()));
        self.due.insert(key, due);
        debug_assert_eq!(self.due.len(), self.order.len(), "a timer stands twice");
    }

    pub fn set_if_absent(&mut self, key: TimerKey, due: Millis) {
        if !self.due.contains_key(&key) {
            self.set(key, due);
        }
    }

    pub fn cancel(&mut self, key: &TimerKey) {
        if let Some(due) = self.due.remove(key) {
            let was_there = self.order.remove(&(due, key.clone()));
            debug_assert!(was_there, "{key:?} stood in one table only");
        }
    }

    /// Takes the earliest timer that is due.
    pub fn pop(&mut self, now: Millis) -> Option<TimerKey> {
        if self.order.first()?.0 > now {
            return None;
        }
        let (due, key) = self.order.pop_first()?;
        let known = self.due.remove(&key);
        debug_assert_eq!(known, Some(due), "{key:?} stood in one table only");
        Some(key)
    }

    /// When the next one is due.
    pub fn next_due(&self) -> Option<Millis> {
        self.order.first().map(|(due, _)| *due)
    }

    pub fn due_of(&self, key: &TimerKey) -> Option<Millis> {
        self.due.get(key).copied()
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_again_moves_and_a_cancelled_one_is_gone() {
        let mut timers = Timers::default();
        let join = TimerKey::Join { group: "g".into() };
        let sync = TimerKey::Sync { group: "g".into() };
        timers.set(join.clone(), 10);
        timers.set(sync.clone(), 20);
        timers.set(join.clone(), 30);
        timers.set_if_absent(join.clone(), 5);
        assert_eq!((timers.next_due(), timers.len()), (Some(20), 2));
        assert_eq!(timers.pop(19), None);
        assert_eq!(timers.pop(20), Some(sync));
        timers.cancel(&join);
        assert!(timers.is_empty() && timers.pop(100).is_none());
    }
}
