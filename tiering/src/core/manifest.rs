//! One partition's manifest: the list of its objects in the bucket, and the only truth about what is tiered.
//!
//! It holds the newest objects inline, older ones in immutable *pages* in the bucket, and what is being
//! retired. Pages form levels like the digits of a counter: 64 objects make a page of level 0, 32 pages of
//! one level make a page of the next, so the state kept in Raft is O(log objects) (under 64 KiB at 100,000
//! objects; a test holds it).
//!
//! ```text
//!   oldest                                                          newest
//!   [level 2 page][level 1 page][level 1 page][level 0 page][object][object] tiered_end
//! ```
//!
//! A page never changes. When retention eats into the oldest page, its reference here is trimmed (`start` and
//! `totals` say what of it is still listed) until nothing is left of it.
//!
//! `tiered_end` follows `log_start`: when DeleteRecords or retention lifts `log_start` over what was tiered,
//! the next object starts there. Gaps between objects are therefore legal below `log_start` and nowhere else.
//!
//! Must not: read a clock, a file or the bucket; change except through [`Manifest::apply`] of a decided
//! [`edit::Outcome`]. Invariants: 6 (generation only grows), 8 (upload ids unique), 9, 10 (prune before
//! sweep), 11 ([`Manifest::check`]), 13.

mod apply;
mod check;
pub mod edit;
#[cfg(test)]
mod tests;

pub use highwater_log::EpochStart;
use highwater_model::{LeaderEpoch, Offset};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use check::Broken;
pub use edit::{Edit, EditRequest, Outcome, Refusal};

/// Version of the manifest's stored form (docs/format.md, "Manifest").
pub const MANIFEST_FORMAT: u8 = 1;
/// The generation of a manifest that nobody has written yet.
pub const NO_GENERATION: LeaderEpoch = -1;

/// One object as the manifest lists it. With the topic's and cluster's names it gives the object's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEntry {
    pub start: Offset,
    pub end: Offset,
    /// Generation: leader epoch of the writer, captured once per upload.
    pub epoch: LeaderEpoch,
    #[serde(rename = "upload")]
    pub upload_id: Uuid,
    /// Size of the object, in bytes.
    pub bytes: u64,
    /// Length of the tail that holds the whole Parquet footer, so that opening costs exactly one GET.
    #[serde(rename = "footer")]
    pub footer_bytes: u32,
    /// Uncompressed bytes of keys, values and headers.
    #[serde(rename = "raw")]
    pub raw_bytes: u64,
    pub records: u64,
    /// Least and greatest record timestamp, in ms; -1 when there is no record.
    #[serde(rename = "min_ts")]
    pub min_timestamp: i64,
    #[serde(rename = "max_ts")]
    pub max_timestamp: i64,
    /// CRC-32C of the whole object.
    #[serde(rename = "crc")]
    pub crc32c: u32,
}

/// Sums over objects; exact at every level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub objects: u64,
    pub bytes: u64,
    #[serde(rename = "raw")]
    pub raw_bytes: u64,
    pub records: u64,
}

/// A reference to an immutable page in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// 0: the page lists objects; n: it lists pages of level n - 1.
    pub level: u8,
    /// First offset still listed; what the page holds below it has been retired.
    pub start: Offset,
    pub end: Offset,
    pub epoch: LeaderEpoch,
    #[serde(rename = "upload")]
    pub upload_id: Uuid,
    /// Size and CRC-32C of the page's own file.
    #[serde(rename = "size")]
    pub page_bytes: u32,
    #[serde(rename = "crc")]
    pub crc32c: u32,
    #[serde(rename = "min_ts")]
    pub min_timestamp: i64,
    /// An upper bound once the page has been trimmed.
    #[serde(rename = "max_ts")]
    pub max_timestamp: i64,
    /// Of what is still listed.
    #[serde(flatten)]
    pub totals: Totals,
}

/// What a page lists, and what an edit may name: an object or a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    Object(ObjectEntry),
    Page(PageRef),
}

/// What has left the manifest and waits for its deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retired {
    Object {
        start: Offset,
        end: Offset,
        epoch: LeaderEpoch,
        upload_id: Uuid,
    },
    /// The page's file and everything below it from `start` on.
    Page(PageRef),
}

/// One retired thing and when it was retired (Unix ms); deleted only after a grace longer than any read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    pub what: Retired,
    #[serde(rename = "since")]
    pub since_ms: i64,
}

/// The manifest of one partition. Fields are public for reading; only `apply` writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u8,
    /// Grows by one with every edit.
    pub version: u64,
    /// Leader epoch of the last writer; only grows.
    pub generation: LeaderEpoch,
    pub log_start: Offset,
    /// Everything below is either in the tier or below `log_start`. Never below `log_start`.
    pub tiered_end: Offset,
    /// Epochs of what is tiered, oldest first, trimmed with `log_start`, at most `MANIFEST_EPOCHS_MAX` (the
    /// newest).
    pub epochs: Vec<EpochStart>,
    /// Oldest first; levels never grow towards the newer end.
    pub pages: Vec<PageRef>,
    /// Oldest first; newer than every page.
    pub entries: Vec<ObjectEntry>,
    pub retiring: Vec<Retiring>,
    /// Over everything listed (pages and entries), without what is retiring.
    pub totals: Totals,
}

/// Where an offset is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Object(&'a ObjectEntry),
    Page(&'a PageRef),
}

impl Totals {
    pub fn of(entry: &ObjectEntry) -> Totals {
        Totals { objects: 1, bytes: entry.bytes, raw_bytes: entry.raw_bytes, records: entry.records }
    }

    /// None on overflow.
    pub fn plus(&self, other: &Totals) -> Option<Totals> {
        Some(Totals {
            objects: self.objects.checked_add(other.objects)?,
            bytes: self.bytes.checked_add(other.bytes)?,
            raw_bytes: self.raw_bytes.checked_add(other.raw_bytes)?,
            records: self.records.checked_add(other.records)?,
        })
    }

    /// None where `other` is not contained in `self`.
    pub fn minus(&self, other: &Totals) -> Option<Totals> {
        Some(Totals {
            objects: self.objects.checked_sub(other.objects)?,
            bytes: self.bytes.checked_sub(other.bytes)?,
            raw_bytes: self.raw_bytes.checked_sub(other.raw_bytes)?,
            records: self.records.checked_sub(other.records)?,
        })
    }
}

impl Node {
    pub fn start(&self) -> Offset {
        match self {
            Node::Object(o) => o.start,
            Node::Page(p) => p.start,
        }
    }

    pub fn end(&self) -> Offset {
        match self {
            Node::Object(o) => o.end,
            Node::Page(p) => p.end,
        }
    }

    pub fn totals(&self) -> Totals {
        match self {
            Node::Object(o) => Totals::of(o),
            Node::Page(p) => p.totals,
        }
    }

    pub fn timestamps(&self) -> (i64, i64) {
        match self {
            Node::Object(o) => (o.min_timestamp, o.max_timestamp),
            Node::Page(p) => (p.min_timestamp, p.max_timestamp),
        }
    }

    pub fn upload_id(&self) -> Uuid {
        match self {
            Node::Object(o) => o.upload_id,
            Node::Page(p) => p.upload_id,
        }
    }

    /// What is left of the node in the world once it is unlisted.
    pub fn retired(&self) -> Retired {
        match self {
            Node::Object(o) => o.retired(),
            Node::Page(p) => Retired::Page(p.clone()),
        }
    }
}

impl ObjectEntry {
    pub fn retired(&self) -> Retired {
        Retired::Object { start: self.start, end: self.end, epoch: self.epoch, upload_id: self.upload_id }
    }
}

impl Retired {
    pub fn upload_id(&self) -> Uuid {
        match self {
            Retired::Object { upload_id, .. } => *upload_id,
            Retired::Page(page) => page.upload_id,
        }
    }
}

impl Manifest {
    /// The manifest of a partition whose log starts at `log_start` and that has nothing in the tier.
    pub fn new(log_start: Offset) -> Manifest {
        assert!(log_start >= 0, "offsets are not negative");
        Manifest {
            format: MANIFEST_FORMAT,
            version: 0,
            generation: NO_GENERATION,
            log_start,
            tiered_end: log_start,
            epochs: Vec::new(),
            pages: Vec::new(),
            entries: Vec::new(),
            retiring: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Whether anything is listed.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.entries.is_empty()
    }

    /// First offset listed, or `tiered_end` when nothing is. May lie below `log_start` until the next prune.
    pub fn listed_start(&self) -> Offset {
        let inline = self.entries.first().map_or(self.tiered_end, |e| e.start);
        self.pages.first().map_or(inline, |p| p.start)
    }

    /// Where `offset` is listed. None when it is below `log_start`, at or past `tiered_end`.
    pub fn find(&self, offset: Offset) -> Option<Found<'_>> {
        if offset < self.log_start || offset >= self.tiered_end {
            return None;
        }
        let at = self.entries.partition_point(|e| e.end <= offset);
        if let Some(entry) = self.entries.get(at).filter(|e| e.start <= offset) {
            debug_assert!(entry.start <= offset && offset < entry.end);
            return Some(Found::Object(entry));
        }
        let at = self.pages.partition_point(|p| p.end <= offset);
        let page = self.pages.get(at).filter(|p| p.start <= offset)?;
        debug_assert!(page.start <= offset && offset < page.end);
        Some(Found::Page(page))
    }

    /// The inline entry of an upload.
    pub fn entry_of(&self, upload_id: Uuid) -> Option<&ObjectEntry> {
        self.entries.iter().rev().find(|e| e.upload_id == upload_id)
    }

    /// Everything listed, oldest first.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        let pages = self.pages.iter().cloned().map(Node::Page);
        pages.chain(self.entries.iter().cloned().map(Node::Object))
    }
}
