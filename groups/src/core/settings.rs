//! Settings of groups under Kafka's names and with Kafka's defaults. Times are in milliseconds.

use highwater_model::limits::{
    GROUP_ASSIGN_AT_ONCE_MEMBERS_MAX, GROUP_OFFSETS_PER_SHARD_MAX, GROUP_RECORD_BYTES_MAX,
};

/// Which conversions between the classic and the consumer protocol are allowed while members are there
/// (`group.consumer.migration.policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    Disabled,
    Upgrade,
    Downgrade,
    Bidirectional,
}

impl Migration {
    pub fn upgrades(self) -> bool {
        matches!(self, Migration::Upgrade | Migration::Bidirectional)
    }

    pub fn downgrades(self) -> bool {
        matches!(self, Migration::Downgrade | Migration::Bidirectional)
    }
}

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `group.min.session.timeout.ms`
    pub session_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub session_ms_max: i32,
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`
    pub group_size_max: usize,
    /// `group.consumer.max.size`
    pub consumer_group_size_max: usize,
    /// `group.consumer.session.timeout.ms`
    pub consumer_session_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`
    pub consumer_heartbeat_ms: i32,
    /// `group.consumer.migration.policy`
    pub migration: Migration,
    /// `group.consumer.regex.refresh.interval.ms`
    pub regex_refresh_ms: i64,
    /// Pause between two targets of a group with more than `assign_at_once_members_max` members
    /// (`group.consumer.assignment.interval.ms` of Kafka 4.3, KIP-1263).
    pub assignment_interval_ms: i64,
    pub assign_at_once_members_max: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_check_ms: i64,
    /// Largest record, and about the largest commit, in bytes.
    pub record_bytes_max: usize,
    /// Offsets that the shard holds, committed and undecided each.
    pub offsets_per_shard_max: usize,
}

impl Settings {
    /// What the rest relies on; the broker's own settings refuse anything else before it comes here.
    pub fn check(&self) {
        assert!(
            0 < self.session_ms_min && self.session_ms_min <= self.session_ms_max,
            "no session is allowed"
        );
        assert!(self.initial_rebalance_delay_ms >= 0, "a delay before now");
        assert!(self.group_size_max > 0 && self.consumer_group_size_max > 0, "no member is allowed");
        assert!(self.consumer_session_ms > 0, "sessions end at once");
        assert!(self.consumer_heartbeat_ms > 0, "heartbeats without a pause");
        assert!(self.consumer_heartbeat_ms < self.consumer_session_ms, "sessions end between heartbeats");
        assert!(self.regex_refresh_ms > 0, "patterns are resolved all the time");
        assert!(self.assignment_interval_ms >= 0, "a pause that ends before it begins");
        assert!(self.offsets_retention_ms > 0, "offsets expire at once");
        assert!(self.offsets_check_ms > 0, "offsets are looked through all the time");
        assert!(self.record_bytes_max <= GROUP_RECORD_BYTES_MAX, "records above the limit");
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            session_ms_min: 6_000,
            session_ms_max: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            group_size_max: usize::MAX,
            consumer_group_size_max: usize::MAX,
            consumer_session_ms: 45_000,
            consumer_heartbeat_ms: 5_000,
            migration: Migration::Bidirectional,
            regex_refresh_ms: 600_000,
            assignment_interval_ms: 1_000,
            assign_at_once_members_max: GROUP_ASSIGN_AT_ONCE_MEMBERS_MAX,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 7 * 24 * 3_600 * 1_000,
            offsets_check_ms: 600_000,
            record_bytes_max: GROUP_RECORD_BYTES_MAX,
            offsets_per_shard_max: GROUP_OFFSETS_PER_SHARD_MAX,
        }
    }
}
