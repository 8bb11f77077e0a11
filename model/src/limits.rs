//! Every bound of the system by name (invariant 16). A queue, cache, loop or retry without a limit here or in the
//! settings is a defect. Units stand last in the name.

// --- wire: what one connection or request may ask for ---

/// Largest request frame, in bytes (Kafka's `socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Frames above this grow their buffer as bytes arrive instead of trusting the length prefix.
pub const REQUEST_PREALLOCATE_BYTES_MAX: usize = 2 * 1024 * 1024;

// --- broker admin: settings, administration requests, metrics, command line ---

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 100_000;
/// Largest count that a setting may ask for (threads, connections, concurrency).
pub const SETTING_COUNT_MAX: usize = 1_000_000;
/// Partitions that `/metrics` names one by one because their sealing has stopped.
pub const SEAL_ALARM_LABELS_MAX: usize = 100;

// --- model: topic settings ---

/// Longest value of one topic setting, in bytes.
pub const TOPIC_CONFIG_VALUE_BYTES_MAX: usize = 32 * 1024;
