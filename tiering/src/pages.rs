//! Pages of a manifest in the bucket: written once, verified on every load, found through a small cache.
//!
//! A page is JSON (docs/format.md, "Manifest page"). It never changes, so a reader that holds a manifest of
//! any age sees one consistent list (a page is deleted only after the grace). Must not decide: `core::plan`
//! does. Invariants: 8, 11, 18, 19.

use std::sync::Arc;

use bytes::Bytes;
use highwater_model::limits::{MANIFEST_BYTES_MAX, MANIFEST_PAGE_LEVELS_MAX, MANIFEST_PAGE_NODES_MAX};
use highwater_model::{LeaderEpoch, Offset, TopicId};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::core::lanes::Lane;
use crate::core::manifest::edit::Summary;
use crate::core::manifest::{Manifest, Node, ObjectEntry, PageRef};
use crate::core::names::{Names, TopicRef};
use crate::core::plan;
use crate::lane::{Store, StoreError};
use crate::metrics::ReadCounters;

/// Version of a page's stored form.
pub const PAGE_FORMAT: u8 = 1;

/// A page as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    pub format: u8,
    pub cluster: String,
    pub topic: String,
    pub topic_id: TopicId,
    pub partition: i32,
    pub level: u8,
    /// Oldest first.
    pub nodes: Vec<Node>,
}

/// Why a page could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("manifest page {key}: {what}")]
    Damaged { key: String, what: String },
}

impl PageError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, PageError::Store(e) if e.is_not_found())
    }
}

/// Whose pages, and until when a call may take.
#[derive(Clone, Copy, Debug)]
pub struct PageScope<'a> {
    pub topic: &'a TopicRef,
    pub partition: i32,
    pub lane: Lane,
    pub deadline: Instant,
}

/// Reads and writes pages. Cloning shares the cache.
#[derive(Clone, Debug)]
pub struct Pages {
    store: Store,
    names: Arc<Names>,
    cache: Cache<Uuid, Arc<Page>>,
    counters: Arc<ReadCounters>,
}

impl Page {
    fn damage(&self, page: &PageRef) -> Option<&'static str> {
        if self.format != PAGE_FORMAT {
            return Some("unknown format");
        }
        if self.level != page.level || self.level > MANIFEST_PAGE_LEVELS_MAX {
            return Some("another level");
        }
        if self.nodes.is_empty() || self.nodes.len() > MANIFEST_PAGE_NODES_MAX {
            return Some("number of nodes");
        }
        let kind = |n: &Node| match n {
            Node::Object(_) => self.level == 0,
            Node::Page(p) => p.level < self.level,
        };
        if !self.nodes.iter().all(|n| kind(n) && n.start() < n.end()) {
            return Some("a node out of place");
        }
        if self.nodes.windows(2).any(|w| w[0].end() > w[1].start()) {
            return Some("nodes overlap");
        }
        let (first, last) = (self.nodes[0].start(), self.nodes[self.nodes.len() - 1].end());
        (first > page.start || last != page.end).then_some("another range")
    }
}

impl Pages {
    /// `cache_bytes` bounds what the cache of decoded pages holds.
    pub fn new(store: Store, names: Arc<Names>, cache_bytes: u64, counters: Arc<ReadCounters>) -> Pages {
        let weigh = |_: &Uuid, page: &Arc<Page>| (page.nodes.len() * size_of::<Node>()) as u32;
        let cache = Cache::builder().max_capacity(cache_bytes).weigher(weigh).build();
        Pages { store, names, cache, counters }
    }

    /// The page behind a reference, verified.
    pub async fn load(&self, scope: PageScope<'_>, page: &PageRef) -> Result<Arc<Page>, PageError> {
        let mut loaded = false;
        let load = async {
            loaded = true;
            self.fetch(scope, page).await
        };
        let got = self.cache.try_get_with(page.upload_id, load).await.map_err(|e| (*e).clone());
        let counter = if loaded { &self.counters.index_loads } else { &self.counters.index_hits };
        counter.add(1);
        got
    }

    async fn fetch(&self, scope: PageScope<'_>, page: &PageRef) -> Result<Arc<Page>, PageError> {
        let key = self.names.page(scope.topic, scope.partition, page);
        let damaged = |what: String| PageError::Damaged { key: key.clone(), what };
        let size = u64::from(page.page_bytes);
        if size == 0 || size > MANIFEST_BYTES_MAX as u64 {
            return Err(damaged(format!("{size} bytes")));
        }
        let body = self.store.get_range(scope.lane, &key, 0..size, scope.deadline).await?;
        if crc32c::crc32c(&body) != page.crc32c {
            self.counters.corrupt.add(1);
            return Err(damaged("checksum".to_string()));
        }
        let decoded: Page = serde_json::from_slice(&body).map_err(|e| damaged(e.to_string()))?;
        match decoded.damage(page) {
            Some(what) => Err(damaged(what.to_string())),
            None => Ok(Arc::new(decoded)),
        }
    }

    /// Writes a page over `nodes` and returns its reference, to be published by a spill edit.
    pub async fn write(
        &self,
        scope: PageScope<'_>,
        epoch: LeaderEpoch,
        plan: plan::SpillPlan,
    ) -> Result<PageRef, PageError> {
        let summary = Summary::of(&plan.nodes).expect("a plan has nodes whose sums the manifest has checked");
        let page = Page {
            format: PAGE_FORMAT,
            cluster: self.names.cluster().to_string(),
            topic: scope.topic.name.clone(),
            topic_id: scope.topic.id,
            partition: scope.partition,
            level: plan.level,
            nodes: plan.nodes,
        };
        let body =
            Bytes::from(serde_json::to_vec(&page).expect("a page has no map with keys that are not text"));
        let reference = PageRef {
            level: plan.level,
            start: summary.start,
            end: summary.end,
            epoch,
            upload_id: Uuid::new_v4(),
            page_bytes: body.len() as u32,
            crc32c: crc32c::crc32c(&body),
            min_timestamp: summary.timestamps.0,
            max_timestamp: summary.timestamps.1,
            totals: summary.totals,
        };
        let key = self.names.page(scope.topic, scope.partition, &reference);
        debug_assert_eq!(page.damage(&reference), None, "what is written can be read");
        self.store.put_new(scope.lane, &key, &[body], scope.deadline).await?;
        self.cache.insert(reference.upload_id, Arc::new(page)).await;
        Ok(reference)
    }

    /// The object that lists `offset`; None when the manifest lists it nowhere.
    pub async fn entry_at(
        &self,
        scope: PageScope<'_>,
        manifest: &Manifest,
        offset: Offset,
    ) -> Result<Option<ObjectEntry>, PageError> {
        if let Some(entry) = plan::inline_at(manifest, offset) {
            return Ok(Some(entry.clone()));
        }
        let at = manifest.pages.partition_point(|p| p.end <= offset);
        let Some(mut page) = manifest.pages.get(at).filter(|p| p.start <= offset).cloned() else {
            return Ok(None);
        };
        for _ in 0..=MANIFEST_PAGE_LEVELS_MAX {
            let loaded = self.load(scope, &page).await?;
            match plan::child_at(&loaded.nodes, page.start, offset) {
                None => return Ok(None),
                Some(Node::Object(entry)) => return Ok(Some(entry.clone())),
                Some(Node::Page(child)) => page = child.clone(),
            }
        }
        unreachable!("levels fall with every step, and a page's level was checked at load")
    }

    /// The oldest object that may hold a record at or past `from` with a timestamp of at least `timestamp`.
    pub async fn entry_by_time(
        &self,
        scope: PageScope<'_>,
        manifest: &Manifest,
        from: Offset,
        timestamp: i64,
    ) -> Result<Option<ObjectEntry>, PageError> {
        let mut ahead: Vec<Node> = manifest.nodes().filter(|n| plan::may_hold(n, from, timestamp)).collect();
        ahead.reverse();
        while let Some(node) = ahead.pop() {
            match node {
                Node::Object(entry) => return Ok(Some(entry)),
                Node::Page(page) => {
                    let loaded = self.load(scope, &page).await?;
                    let from = from.max(page.start);
                    let inside = loaded.nodes.iter().filter(|n| plan::may_hold(n, from, timestamp));
                    ahead.extend(inside.rev().cloned());
                }
            }
        }
        Ok(None)
    }

    /// The nodes of a page that are still listed; one that is listed in part is given as it is then.
    pub async fn live_nodes(&self, scope: PageScope<'_>, page: &PageRef) -> Result<Vec<Node>, PageError> {
        let loaded = self.load(scope, page).await?;
        let mut live = Vec::with_capacity(loaded.nodes.len());
        for node in loaded.nodes.iter().filter(|n| n.end() > page.start) {
            match node {
                Node::Page(child) if child.start < page.start => {
                    live.push(Node::Page(self.trim(scope, child, page.start).await?));
                }
                // An object across the cut is gone for good or not at all: cuts are at objects' borders.
                other => live.push(other.clone()),
            }
        }
        Ok(live)
    }

    async fn trim(&self, scope: PageScope<'_>, page: &PageRef, from: Offset) -> Result<PageRef, PageError> {
        let cut = PageRef { start: from, ..page.clone() };
        let live = Box::pin(self.live_nodes(scope, &cut)).await?;
        let empty = || PageError::Damaged { key: page.upload_id.to_string(), what: "nothing is left".into() };
        plan::trimmed(page, from, &live).ok_or_else(empty)
    }

    /// What of the page that `log_start` cuts through lies wholly below it, at most `room` nodes: the `head`
    /// of a prune.
    pub async fn dead_head(
        &self,
        scope: PageScope<'_>,
        manifest: &Manifest,
        log_start: Offset,
        room: usize,
    ) -> Result<Vec<Node>, PageError> {
        let mut head = Vec::new();
        let mut cut = manifest.pages.iter().find(|p| p.end > log_start).cloned();
        while let Some(page) = cut.take().filter(|p| p.start < log_start) {
            for node in self.live_nodes(scope, &page).await? {
                if head.len() >= room {
                    return Ok(head);
                }
                match node {
                    node if node.end() <= log_start => head.push(node),
                    Node::Page(child) => {
                        cut = Some(child);
                        break;
                    }
                    Node::Object(_) => break,
                }
            }
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::manifest::Totals;
    use crate::mirror::ManifestMirror;
    use crate::test_support::tier;

    fn fixture() -> Page {
        serde_json::from_str(include_str!("../fixtures/manifest-page-v1.json")).expect("version 1 loads")
    }

    fn reference(start: Offset) -> PageRef {
        PageRef {
            level: 0,
            start,
            end: 40,
            epoch: 1,
            upload_id: Uuid::from_u128(5),
            page_bytes: 1,
            crc32c: 0,
            min_timestamp: 0,
            max_timestamp: 39_999,
            totals: Totals::default(),
        }
    }

    #[test]
    fn stored_forms_still_load() {
        let page = fixture();
        assert_eq!((page.format, page.nodes.len()), (PAGE_FORMAT, 4));
        assert_eq!(page.damage(&reference(0)), None);
        assert_eq!(page.damage(&reference(20)), None, "a trimmed reference");
        let again: Page = serde_json::from_slice(&serde_json::to_vec(&page).expect("JSON")).expect("loads");
        assert_eq!(again, page);
        let mirror: ManifestMirror =
            serde_json::from_str(include_str!("../fixtures/manifest-mirror-v1.json"))
                .expect("version 1 loads");
        assert_eq!((mirror.format, mirror.version, mirror.manifest.check()), (1, 9, Ok(())));
    }

    #[test]
    fn a_page_that_is_not_what_was_referred_to_is_told() {
        type Change = fn(&mut Page);
        let cases: [(&str, Change); 6] = [
            ("unknown format", |p| p.format = 2),
            ("another level", |p| p.level = 1),
            ("number of nodes", |p| p.nodes.clear()),
            ("a node out of place", |p| p.nodes[1] = Node::Page(reference(10))),
            ("nodes overlap", |p| p.nodes.swap(0, 1)),
            ("another range", |p| p.nodes.truncate(3)),
        ];
        for (what, change) in cases {
            let mut page = fixture();
            change(&mut page);
            assert_eq!(page.damage(&reference(0)), Some(what));
        }
    }

    #[tokio::test]
    async fn a_damaged_page_stops_what_needs_it_and_nothing_else() {
        let t = tier();
        for i in 0..100 {
            t.offload(i * 2, i * 2 + 2).await.expect("offloaded");
        }
        let manifest = t.manifest();
        let page = manifest.pages[0].clone();
        let key = t.names.page(&t.topic, 0, &page);
        t.bucket.corrupt(&key, |bytes| bytes[100] ^= 1);
        let fresh = Pages::new(t.store.clone(), t.names.clone(), 1 << 20, Arc::default());
        let error = fresh.entry_at(t.scope(), &manifest, 5).await.expect_err("damaged");
        assert_eq!(error, PageError::Damaged { key, what: "checksum".into() });
        assert!(fresh.entry_at(t.scope(), &manifest, 199).await.expect("inline").is_some());
        assert_eq!(fresh.entry_at(t.scope(), &manifest, 200).await, Ok(None));
    }
}
