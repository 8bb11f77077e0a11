//! Plans over a manifest and its pages: when to spill what, where to go on in a page, what of a page is dead.
//! Pure.
//!
//! Must not load pages: `pages.rs` does and asks again. Invariants: 11, 16 (the inline state stays bounded).

use highwater_model::Offset;
use highwater_model::limits::{MANIFEST_PAGE_FANOUT, MANIFEST_PAGE_OBJECTS, MANIFEST_SPILL_AT_OBJECTS};

use super::manifest::edit::Summary;
use super::manifest::{Manifest, Node, ObjectEntry, PageRef};

/// A page to write and to publish by a spill edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpillPlan {
    pub level: u8,
    pub nodes: Vec<Node>,
}

/// The spill that is due, if any: the oldest inline objects first, then the oldest pages of a level that has
/// many.
pub fn spill_due(manifest: &Manifest) -> Option<SpillPlan> {
    if manifest.entries.len() >= MANIFEST_SPILL_AT_OBJECTS {
        let nodes: Vec<Node> =
            manifest.entries[..MANIFEST_PAGE_OBJECTS].iter().cloned().map(Node::Object).collect();
        debug_assert_eq!(nodes.len(), MANIFEST_PAGE_OBJECTS);
        return Some(SpillPlan { level: 0, nodes });
    }
    let top = manifest.pages.first().map(|p| p.level)?;
    for level in 0..=top {
        let run: Vec<Node> = manifest
            .pages
            .iter()
            .filter(|p| p.level == level)
            .take(MANIFEST_PAGE_FANOUT)
            .cloned()
            .map(Node::Page)
            .collect();
        if run.len() == MANIFEST_PAGE_FANOUT {
            assert!(Summary::of(&run).is_some(), "a full run has sums");
            return Some(SpillPlan { level: level + 1, nodes: run });
        }
    }
    None
}

/// The child that lists `offset`, among the nodes of a page of which `live_from` on is still listed.
pub fn child_at(nodes: &[Node], live_from: Offset, offset: Offset) -> Option<&Node> {
    debug_assert!(offset >= live_from, "what is asked for is listed");
    let at = nodes.partition_point(|n| n.end() <= offset);
    nodes.get(at).filter(|n| n.start() <= offset && n.end() > live_from)
}

/// Whether a node may hold a record at or past `from` with a timestamp of at least `timestamp`.
pub fn may_hold(node: &Node, from: Offset, timestamp: i64) -> bool {
    debug_assert!(node.start() < node.end());
    node.end() > from && node.timestamps().1 >= timestamp
}

/// `page` as it is once everything below `from` is gone; `live` are its nodes from `from` on, as they are
/// then.
pub fn trimmed(page: &PageRef, from: Offset, live: &[Node]) -> Option<PageRef> {
    assert!(from < page.end, "something is left");
    let summary = Summary::of(live)?;
    debug_assert!(summary.start >= from && summary.end == page.end);
    Some(PageRef { start: from.max(page.start), totals: summary.totals, ..page.clone() })
}

/// What an object lists at an offset, when it is inline; the common case needs no page.
pub fn inline_at(manifest: &Manifest, offset: Offset) -> Option<&ObjectEntry> {
    let at = manifest.entries.partition_point(|e| e.end <= offset);
    let entry = manifest.entries.get(at).filter(|e| e.start <= offset && offset >= manifest.log_start)?;
    debug_assert!(entry.end > offset);
    Some(entry)
}
