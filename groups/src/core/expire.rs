//! Offsets that nobody has used for long, and groups that have nothing left, go.

use highwater_model::limits::GROUP_EXPIRED_OFFSETS_PER_STEP_MAX;

use super::classic::State;
use super::machine::{Group, Groups};
use super::records::OffsetValue;
use super::timers::TimerKey;
use super::types::{Millis, Name};

impl Group {
    /// Since when an offset of the group counts as unused; none if it is in use.
    fn unused_since(&self, value: &OffsetValue) -> Option<Millis> {
        match self {
            // Without a protocol type the group only holds offsets: each counts for itself.
            Group::Classic(group) if group.protocol_type.is_none() => Some(value.committed_ms),
            Group::Classic(group) if group.is_empty() => Some(group.since_ms.unwrap_or(value.committed_ms)),
            Group::Classic(group) => {
                let is_known = group.state == State::Stable && group.topics.is_some();
                (is_known && group.is_of_consumers()).then_some(value.committed_ms)
            }
            Group::Consumer(_) => Some(value.committed_ms),
        }
    }
}

impl Groups {
    /// Looks through the groups from where the last round stopped, no more than a step may.
    pub(super) fn expire(&mut self, now: Millis) {
        let mut looked_at = 0;
        let from = self.expiry_cursor.take();
        let start = from.clone().unwrap_or_else(|| Name::from(""));
        let most = GROUP_EXPIRED_OFFSETS_PER_STEP_MAX + 1; // each group counts for one at least
        let names: Vec<Name> = self.groups.range(start..).take(most).map(|(name, _)| name.clone()).collect();
        for name in names {
            if looked_at >= GROUP_EXPIRED_OFFSETS_PER_STEP_MAX {
                self.expiry_cursor = Some(name);
                break;
            }
            looked_at += 1 + self.expire_group(now, &name);
        }
        debug_assert!(
            self.expiry_cursor.as_ref().is_none_or(|at| from.as_ref().is_none_or(|from| from < at))
        );
        let pause = if self.expiry_cursor.is_some() { 0 } else { self.settings.offsets_check_ms };
        self.timers.set(TimerKey::Expiry, now + pause);
    }

    /// Returns how many offsets were looked at.
    fn expire_group(&mut self, now: Millis, name: &Name) -> usize {
        let group = self.groups.get(name).expect("of the list of groups");
        debug_assert!(self.settings.offsets_retention_ms > 0, "offsets expire at once");
        let (mut looked_at, mut has_left) = (0, false);
        let mut expired = Vec::new();
        for (topic, partition, value) in self.offsets.of_group(name) {
            looked_at += 1;
            let is_unused = !group.is_subscribed_to(topic)
                && !self.offsets.is_pending(name, topic, partition)
                && match (value.expires_ms, group.unused_since(value)) {
                    (_, None) => false,
                    (Some(expires_ms), Some(_)) => now >= expires_ms,
                    (None, Some(since)) => now.saturating_sub(since) >= self.settings.offsets_retention_ms,
                };
            if is_unused {
                expired.push((topic.clone(), partition));
            } else {
                has_left = true;
            }
        }
        let is_done = !has_left && !self.offsets.has_open(name) && group.is_empty() && !group.has_pending();
        for (topic, partition) in expired {
            self.erase_offset(name, &topic, partition);
        }
        if is_done {
            self.erase_group(now, name);
        }
        debug_assert!(!is_done || self.offsets.partitions_of(name).is_empty(), "{name} has offsets left");
        looked_at
    }
}
