//! Limits of consumer groups, their offsets and their records.

/// Longest group id, member id or topic name in a record, in bytes: Kafka's own formats count them in an i16.
pub const GROUP_NAME_BYTES_MAX: usize = i16::MAX as usize;
/// Longest group instance id, in bytes: a member id is made of it.
pub const GROUP_INSTANCE_ID_BYTES_MAX: usize = 4 * 1024;
/// Largest record of a group, in bytes; an assignment that needs more fails as Kafka's does.
pub const GROUP_RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one unknown tagged field in a record of a group.
pub const GROUP_RECORD_TAG_BYTES_MAX: usize = GROUP_RECORD_BYTES_MAX;
/// Bytes of all protocols of one classic member.
pub const GROUP_MEMBER_PROTOCOLS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Protocols that one classic member may offer.
pub const GROUP_MEMBER_PROTOCOLS_MAX: usize = 128;
/// Bytes of the protocols of all members of one classic group, in memory.
pub const GROUP_PROTOCOLS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Member ids of one group that were given out and not yet used (KIP-394).
pub const GROUP_PENDING_MEMBERS_MAX: usize = 10_000;
/// Members of one group, whatever `group.max.size` says.
pub const GROUP_MEMBERS_MAX: usize = 20_000;
/// Groups of one partition of the internal topic.
pub const GROUPS_PER_SHARD_MAX: usize = 1_000_000;
/// Offsets that one partition of the internal topic holds, committed and pending each.
pub const GROUP_OFFSETS_PER_SHARD_MAX: usize = 10_000_000;
/// Bytes of topic names and pattern that one member of a consumer group may subscribe to.
pub const GROUP_SUBSCRIPTION_BYTES_MAX: usize = 1024 * 1024;
/// Longest pattern of topics, in bytes, and the most that a compiled one may take.
pub const GROUP_REGEX_BYTES_MAX: usize = 16 * 1024;
/// See [`GROUP_REGEX_BYTES_MAX`].
pub const GROUP_REGEX_COMPILED_BYTES_MAX: usize = 1024 * 1024;
/// Partitions in one ConsumerGroupHeartbeat as owned ones.
pub const GROUP_OWNED_PARTITIONS_MAX: usize = 200_000;
/// Timers that fire in one step; the rest fire in the next, which is due at once.
pub const GROUP_TIMERS_PER_STEP_MAX: usize = 1_000;
/// Offsets that expire in one round per step; the rest wait for the next round.
pub const GROUP_EXPIRED_OFFSETS_PER_STEP_MAX: usize = 10_000;
/// How long the metadata of a consumer group's topics counts as fresh, in milliseconds (Kafka's own).
pub const GROUP_METADATA_REFRESH_MS: i64 = 3_600_000;
/// Patterns are resolved no more often than this, in milliseconds (Kafka's own).
pub const GROUP_REGEX_REFRESH_MS_MIN: i64 = 10_000;
/// Members of a consumer group up to which every change gives a new target at once; in a larger group changes
/// are gathered for a while, because a new target costs as much as the group is large.
pub const GROUP_ASSIGN_AT_ONCE_MEMBERS_MAX: usize = 100;
/// How long a new member may wait in its first join, in milliseconds (Kafka's own).
pub const GROUP_NEW_MEMBER_JOIN_MS_MAX: i64 = 5 * 60 * 1_000;
/// Bytes of the records of one batch, decompressed, that a shard loads.
pub const GROUP_LOAD_BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How often a shard counts its groups for the metrics, while something happens in it.
pub const GROUP_COUNT_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);
/// Groups that one DescribeGroups, DeleteGroups, ConsumerGroupDescribe or OffsetFetch request is
/// answered for.
pub const GROUPS_PER_REQUEST_MAX: usize = 10_000;
