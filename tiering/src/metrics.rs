//! Counters of the tier as plain atomics, read by the broker's `/metrics`. Counts are of what was really
//! done: every attempt is a request, a failed one too, and a load is never counted as a hit.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::core::lanes::Lane;

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What a request asked of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Put,
    Get,
    Head,
    Delete,
    List,
}

impl RequestKind {
    pub const ALL: [RequestKind; 5] =
        [RequestKind::Put, RequestKind::Get, RequestKind::Head, RequestKind::Delete, RequestKind::List];

    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Put => "put",
            RequestKind::Get => "get",
            RequestKind::Head => "head",
            RequestKind::Delete => "delete",
            RequestKind::List => "list",
        }
    }
}

/// Counters of one lane.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Attempts sent, by [`RequestKind`].
    pub requests: [Counter; RequestKind::ALL.len()],
    pub errors: Counter,
    pub retries: Counter,
    /// Requests given up at their deadline.
    pub expired: Counter,
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    /// Time from the start of an attempt to its end, summed.
    pub latency_us: Counter,
    /// Time spent waiting for the lane's budget.
    pub waited_us: Counter,
}

/// One lane at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSnapshot {
    pub lane: &'static str,
    /// (kind, attempts)
    pub requests: Vec<(&'static str, u64)>,
    pub errors: u64,
    pub retries: u64,
    pub expired: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub latency_us: u64,
    pub waited_us: u64,
}

impl LaneCounters {
    pub fn snapshot(&self, lane: Lane) -> LaneSnapshot {
        let requests =
            RequestKind::ALL.iter().map(|k| (k.name(), self.requests[*k as usize].get())).collect();
        LaneSnapshot {
            lane: lane.name(),
            requests,
            errors: self.errors.get(),
            retries: self.retries.get(),
            expired: self.expired.get(),
            bytes_sent: self.bytes_sent.get(),
            bytes_received: self.bytes_received.get(),
            latency_us: self.latency_us.get(),
            waited_us: self.waited_us.get(),
        }
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: Counter,)* }

        /// The same at one instant.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: u64,)* }

        impl $name {
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* }
            }
        }
    };
}

counters! {
    /// The way of a segment into the tier.
    OffloadCounters, OffloadSnapshot {
        /// Objects published.
        published,
        /// Objects uploaded and then refused by the manifest: left over, deleted where that is safe.
        orphans,
        /// Publishes whose outcome had to be read back.
        unknown,
        /// Attempts that ended in an error.
        failed,
        /// Pages written.
        pages_spilled,
        /// Bytes of segments sealed, and of the objects made from them.
        segment_bytes,
        object_bytes,
        /// Segments sealed below everything else in priority, and at everything else's.
        sealed_in_background,
        sealed_in_hurry,
        /// Seals of the first kind that were given up to be done as the second.
        seals_begun_anew,
        /// Time spent sealing and uploading.
        seal_us,
        upload_us,
        /// Manifests written to their mirror, and writes that failed.
        mirrored,
        mirror_failed,
        /// Objects and pages deleted after their grace.
        swept,
    }
}

counters! {
    /// The way back.
    ReadCounters, ReadSnapshot {
        reads,
        /// Bytes of rebuilt batches handed out.
        bytes,
        /// Reads that ended with an error, and those among them that ran into their deadline.
        failed,
        expired,
        /// Reads that found their object replaced or gone and went on with a fresh manifest.
        reopened,
        /// Stripes rebuilt and their bytes.
        stripes_rebuilt,
        rebuilt_bytes,
        rebuild_us,
        /// Row groups fetched ahead of a reader.
        prefetched,
        /// Checksums that did not match.
        corrupt,
        /// Row groups: found in the cache, fetched, fetched by someone else at the same time.
        group_hits,
        group_loads,
        group_joined,
        /// Footers and pages: found in the cache, fetched.
        index_hits,
        index_loads,
    }
}
