//! Every bound of the system by name (invariant 16). A queue, cache, loop or retry without a limit here or in the
//! settings is a defect. Units stand last in the name.

// --- wire: what one connection or request may ask for ---

/// Largest request frame, in bytes (Kafka's `socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Frames above this grow their buffer as bytes arrive instead of trusting the length prefix.
pub const REQUEST_PREALLOCATE_BYTES_MAX: usize = 2 * 1024 * 1024;
