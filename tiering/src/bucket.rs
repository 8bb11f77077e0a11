//! The port to a bucket: seven operations and what can be known when one fails. `store.rs` stands behind it
//! with the real clients, `bucket/memory.rs` with a bucket in memory that fails on demand.
//!
//! Must not retry, limit or count: `lane.rs` does. Invariants: 8 (`put_new` never overwrites), 19 (lengths
//! checked).

pub mod memory;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// What kind of failure it was; decides whether and how it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No such object. Determinate.
    NotFound,
    /// A conditional write found something there. Determinate for this attempt.
    Exists,
    /// A conditional overwrite found another version. Determinate.
    Changed,
    /// 429, 503 or SlowDown: come back later.
    SlowDown,
    /// Another 5xx. A write may have been applied.
    Server,
    /// No connection could be made; nothing was sent.
    Connect,
    /// The connection broke or time ran out. A write may have been applied.
    Interrupted,
    /// Fewer bytes than the range asked for, under a status of success.
    Truncated,
    /// The bucket itself is not there.
    NoBucket,
    /// Missing, wrong or insufficient credentials.
    Denied,
    /// The store does not implement what was asked.
    Unsupported,
    /// Anything else; not retried.
    Other,
}

/// A failed operation on the bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?}: {message}")]
pub struct Fault {
    pub kind: FaultKind,
    pub message: String,
}

impl Fault {
    pub fn new(kind: FaultKind, message: impl fmt::Display) -> Fault {
        Fault { kind, message: message.to_string() }
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        use FaultKind::*;
        matches!(self.kind, SlowDown | Server | Connect | Interrupted | Truncated)
    }

    /// Whether a write that failed so may have been applied all the same.
    pub fn is_unknown(&self) -> bool {
        matches!(self.kind, FaultKind::Server | FaultKind::Interrupted)
    }
}

/// Identifies one version of an object's content for a conditional overwrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(pub String);

/// One listed object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

/// A bucket. Keys are relative to the prefix of its URL. Each call is one attempt.
#[async_trait]
pub trait Bucket: Send + Sync + fmt::Debug {
    /// Writes an object that must not exist yet (If-None-Match: *); durable when it returns.
    async fn put_new(&self, key: &str, body: &[Bytes]) -> Result<(), Fault>;

    /// Writes an object whose version must still be `seen` (none: must not exist). For mirrors only.
    async fn put_over(&self, key: &str, body: Bytes, seen: Option<&Tag>) -> Result<Tag, Fault>;

    /// The first `bytes_max` bytes of an object, or all if it has fewer, and the version of the whole.
    async fn get_start(&self, key: &str, bytes_max: u64) -> Result<(Bytes, Tag), Fault>;

    /// Exactly `range` of an object.
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Fault>;

    /// Size of an object, in bytes.
    async fn head(&self, key: &str) -> Result<u64, Fault>;

    /// Deletes in bulk. What is not there counts as deleted.
    async fn delete(&self, keys: &[String]) -> Result<(), Fault>;

    /// Up to `limit` objects below `prefix` with keys after `after`, in order. For sweep, scrub, restore and
    /// the probe.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, Fault>;
}
