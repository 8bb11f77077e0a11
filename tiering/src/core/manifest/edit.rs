//! The edits of a manifest and the decision whether one may be applied: a pure function of (manifest,
//! request, now).
//!
//! An edit names the version it was made against and the writer's leader epoch. Stale, overlapping, gapped,
//! empty and repeated ones are refused, each by its own [`Refusal`], and a refused edit has changed nothing.
//! The retry of a publish that had gone through is told apart (`AlreadyPublished`), so that an unknown
//! outcome can be settled.
//!
//! Must not: change the manifest (`apply.rs` does, from an [`Outcome`] only). Invariants: 6, 8, 10, 11, 13.

use highwater_model::limits::{
    MANIFEST_INLINE_OBJECTS_MAX, MANIFEST_PAGE_REFS_MAX, MANIFEST_RETIRING_MAX, MANIFEST_SWEPT_MAX,
};
use highwater_model::{LeaderEpoch, Offset};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{EpochStart, Manifest, Node, ObjectEntry, PageRef, Retired, Totals};

/// One change, as its writer asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// List a new object at `tiered_end`, with the leader epochs of its offsets (the first may start below
    /// it).
    Publish { object: ObjectEntry, epochs: Vec<EpochStart> },
    /// Put one object in the place of neighbouring inline ones that cover the same range; retires them.
    Replace { removed: Vec<Uuid>, object: ObjectEntry },
    /// Lift `log_start` and retire what lies wholly below it, oldest first, as far as the retiring list has
    /// room; repeat it with the same `log_start` to go on. `head`: what to take from the oldest page that
    /// `log_start` cuts through, in offset order, as its proposer read it from the page (may be empty).
    Prune { log_start: Offset, head: Vec<Node> },
    /// Replace the oldest inline objects, or the oldest run of pages of one level, by a page that lists them.
    Spill { page: PageRef },
    /// Forget retired objects that have been deleted.
    Swept { upload_ids: Vec<Uuid> },
}

/// An edit with its fences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRequest {
    pub expected_version: u64,
    pub leader_epoch: LeaderEpoch,
    pub edit: Edit,
}

/// Why an edit was not applied. Determinate: nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("made against version {expected}, the manifest is at {current}")]
    StaleVersion { expected: u64, current: u64 },
    #[error("leader epoch {given} is older than generation {current}")]
    StaleEpoch { given: LeaderEpoch, current: LeaderEpoch },
    #[error("upload {upload_id} is already listed, exactly so")]
    AlreadyPublished { upload_id: Uuid },
    #[error("upload {upload_id} is already known, and differently")]
    DuplicateUpload { upload_id: Uuid },
    #[error("{start} is below the tiered end {tiered_end}")]
    Overlap { start: Offset, tiered_end: Offset },
    #[error("{start} leaves a gap after the tiered end {tiered_end}")]
    Gap { start: Offset, tiered_end: Offset },
    #[error("empty: {what}")]
    Empty { what: String },
    #[error("the object carries epoch {object} but its writer has {writer}")]
    EpochMismatch { object: LeaderEpoch, writer: LeaderEpoch },
    #[error("epochs do not continue the manifest's: {what}")]
    EpochLineage { what: String },
    #[error("does not fit what is listed: {what}")]
    Misaligned { what: String },
    #[error("not listed: {upload_id}")]
    Unlisted { upload_id: Uuid },
    #[error("log_start {given} is below {current}")]
    Backwards { given: Offset, current: Offset },
    #[error("{objects} objects inline: spill first")]
    InlineFull { objects: usize },
    #[error("{pages} pages referenced: spill pages first")]
    PagesFull { pages: usize },
    #[error("{retiring} objects are retiring: sweep first")]
    RetiringFull { retiring: usize },
    #[error("would change nothing")]
    NothingToDo,
    #[error("totals overflow")]
    Overflow,
    #[error("would break the manifest: {what}")]
    Broken { what: String },
}

/// What a decided edit does, concretely; `apply` carries it out without a further question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub at_ms: i64,
    pub leader_epoch: LeaderEpoch,
    pub(super) from_version: u64,
    pub(super) change: Change,
}

/// The effect of an edit, with everything looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Publish { object: ObjectEntry, epochs: Vec<EpochStart>, totals: Totals },
    Replace { at: usize, count: usize, object: ObjectEntry, retired: Vec<Retired>, totals: Totals },
    Prune(PrunePlan),
    Spill { at: usize, count: usize, page: PageRef },
    Swept { upload_ids: Vec<Uuid> },
}

/// What a prune takes away: `pages` and `entries` from the front, and the trimmed form of the first page that
/// stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrunePlan {
    pub log_start: Offset,
    pub pages: usize,
    pub first_page: Option<PageRef>,
    pub entries: usize,
    pub retired: Vec<Retired>,
    pub totals: Totals,
}

fn misaligned(what: impl Into<String>) -> Refusal {
    Refusal::Misaligned { what: what.into() }
}

fn empty(what: &str) -> Refusal {
    Refusal::Empty { what: what.to_string() }
}

impl Manifest {
    /// Whether `request` may be applied now. Changes nothing.
    pub fn decide(&self, now_ms: i64, request: &EditRequest) -> Result<Outcome, Refusal> {
        if let Edit::Publish { object, .. } = &request.edit {
            self.refuse_known(object)?;
        }
        if request.leader_epoch < self.generation {
            return Err(Refusal::StaleEpoch { given: request.leader_epoch, current: self.generation });
        }
        if request.expected_version != self.version {
            return Err(Refusal::StaleVersion { expected: request.expected_version, current: self.version });
        }
        let change = match &request.edit {
            Edit::Publish { object, epochs } => self.decide_publish(request.leader_epoch, object, epochs),
            Edit::Replace { removed, object } => self.decide_replace(request.leader_epoch, removed, object),
            Edit::Prune { log_start, head } => self.decide_prune(*log_start, head),
            Edit::Spill { page } => self.decide_spill(request.leader_epoch, page),
            Edit::Swept { upload_ids } => self.decide_swept(upload_ids),
        }?;
        debug_assert!(request.leader_epoch >= self.generation, "the fence was checked above");
        Ok(Outcome { at_ms: now_ms, leader_epoch: request.leader_epoch, from_version: self.version, change })
    }

    /// The manifest after `request`, checked (invariant 11). What a Raft state machine calls when it applies
    /// an entry.
    pub fn edited(&self, now_ms: i64, request: &EditRequest) -> Result<Manifest, Refusal> {
        let outcome = self.decide(now_ms, request)?;
        let mut next = self.clone();
        next.apply(&outcome);
        next.check().map_err(|broken| Refusal::Broken { what: broken.to_string() })?;
        Ok(next)
    }

    fn refuse_known(&self, object: &ObjectEntry) -> Result<(), Refusal> {
        let upload_id = object.upload_id;
        match self.entry_of(upload_id) {
            Some(listed) if listed == object => return Err(Refusal::AlreadyPublished { upload_id }),
            Some(_) => return Err(Refusal::DuplicateUpload { upload_id }),
            None => {}
        }
        let retiring = self.retiring.iter().any(|r| r.what.upload_id() == upload_id);
        let paged = self.pages.iter().any(|p| p.upload_id == upload_id);
        if retiring || paged { Err(Refusal::DuplicateUpload { upload_id }) } else { Ok(()) }
    }

    fn check_object(writer: LeaderEpoch, object: &ObjectEntry) -> Result<(), Refusal> {
        if object.epoch != writer {
            return Err(Refusal::EpochMismatch { object: object.epoch, writer });
        }
        if object.start < 0 || object.start >= object.end {
            return Err(empty("range of offsets"));
        }
        if object.bytes == 0 || object.footer_bytes == 0 {
            return Err(empty("object"));
        }
        if u64::from(object.footer_bytes) > object.bytes {
            return Err(misaligned("footer longer than the object"));
        }
        let span = object.end.abs_diff(object.start);
        if object.records > span {
            return Err(misaligned(format!("{} records in {span} offsets", object.records)));
        }
        if object.min_timestamp > object.max_timestamp {
            return Err(misaligned("least timestamp is past the greatest"));
        }
        Ok(())
    }

    fn decide_publish(
        &self,
        writer: LeaderEpoch,
        object: &ObjectEntry,
        epochs: &[EpochStart],
    ) -> Result<Change, Refusal> {
        Self::check_object(writer, object)?;
        let (start, tiered_end) = (object.start, self.tiered_end);
        if start < tiered_end {
            return Err(Refusal::Overlap { start, tiered_end });
        }
        if start > tiered_end {
            return Err(Refusal::Gap { start, tiered_end });
        }
        if self.entries.len() >= MANIFEST_INLINE_OBJECTS_MAX {
            return Err(Refusal::InlineFull { objects: self.entries.len() });
        }
        let epochs = self.epochs_to_add(writer, object, epochs)?;
        let totals = self.totals.plus(&Totals::of(object)).ok_or(Refusal::Overflow)?;
        assert!(object.end > self.tiered_end, "an accepted object moves the tiered end");
        Ok(Change::Publish { object: object.clone(), epochs, totals })
    }

    /// The epochs of `object` that the manifest does not have yet. Refuses a lineage that goes backwards.
    fn epochs_to_add(
        &self,
        writer: LeaderEpoch,
        object: &ObjectEntry,
        epochs: &[EpochStart],
    ) -> Result<Vec<EpochStart>, Refusal> {
        let lineage = |what: &str| Refusal::EpochLineage { what: what.to_string() };
        let first = epochs.first().ok_or_else(|| lineage("none given"))?;
        if first.start_offset > object.start {
            return Err(lineage("the first offset has no epoch"));
        }
        let ascending = |w: &[EpochStart]| w[0].epoch < w[1].epoch && w[0].start_offset < w[1].start_offset;
        if !epochs.windows(2).all(ascending) {
            return Err(lineage("not ascending"));
        }
        let last = epochs.last().expect("not empty: first exists");
        if last.start_offset >= object.end || last.epoch > writer {
            return Err(lineage("past the object or the writer"));
        }
        let known = self.epochs.last().map_or(-1, |e| e.epoch);
        if first.epoch < known && last.epoch < known {
            return Err(lineage("older than what is tiered"));
        }
        let added: Vec<EpochStart> = epochs
            .iter()
            .filter(|e| e.epoch > known)
            .map(|e| EpochStart { epoch: e.epoch, start_offset: e.start_offset.max(object.start) })
            .collect();
        debug_assert!(added.iter().all(|e| e.start_offset >= object.start && e.start_offset < object.end));
        Ok(added)
    }

    fn decide_replace(
        &self,
        writer: LeaderEpoch,
        removed: &[Uuid],
        object: &ObjectEntry,
    ) -> Result<Change, Refusal> {
        self.refuse_known(object)?;
        Self::check_object(writer, object)?;
        let first = *removed.first().ok_or_else(|| empty("nothing to replace"))?;
        let at = self.entries.iter().position(|e| e.upload_id == first);
        let at = at.ok_or(Refusal::Unlisted { upload_id: first })?;
        let count = removed.len();
        let run = self.entries.get(at..at + count).ok_or_else(|| misaligned("more than is inline"))?;
        if let Some((_, id)) = run.iter().zip(removed).find(|(e, id)| e.upload_id != **id) {
            return Err(Refusal::Unlisted { upload_id: *id });
        }
        assert!(!run.is_empty(), "removed is not empty");
        if object.start != run[0].start || object.end != run[count - 1].end {
            return Err(misaligned(format!(
                "{}..{} is not the range of {count} objects",
                object.start, object.end
            )));
        }
        if self.retiring.len() + count > MANIFEST_RETIRING_MAX {
            return Err(Refusal::RetiringFull { retiring: self.retiring.len() });
        }
        let mut gone = Totals::default();
        for entry in run {
            gone = gone.plus(&Totals::of(entry)).ok_or(Refusal::Overflow)?;
        }
        if object.records > gone.records {
            return Err(misaligned("a rewrite cannot add records"));
        }
        let left = self.totals.minus(&gone).ok_or(Refusal::Overflow)?;
        let totals = left.plus(&Totals::of(object)).ok_or(Refusal::Overflow)?;
        let retired = run.iter().map(ObjectEntry::retired).collect();
        Ok(Change::Replace { at, count, object: object.clone(), retired, totals })
    }

    fn decide_prune(&self, log_start: Offset, head: &[Node]) -> Result<Change, Refusal> {
        if log_start < self.log_start {
            return Err(Refusal::Backwards { given: log_start, current: self.log_start });
        }
        let room = MANIFEST_RETIRING_MAX.saturating_sub(self.retiring.len());
        let pages = self.pages.iter().take(room).take_while(|p| p.end <= log_start).count();
        let mut plan = PrunePlan {
            log_start,
            pages,
            first_page: None,
            entries: 0,
            retired: self.pages[..pages].iter().map(|p| Retired::Page(p.clone())).collect(),
            totals: self.totals,
        };
        for page in &self.pages[..pages] {
            plan.totals = plan.totals.minus(&page.totals).ok_or(Refusal::Overflow)?;
        }
        if !head.is_empty() {
            let page = self.pages.get(pages).ok_or_else(|| misaligned("no page for the head"))?;
            self.plan_head(page, head, room - pages, &mut plan)?;
        }
        if pages == self.pages.len() {
            let dead = self.entries.iter().take(room - pages).take_while(|e| e.end <= log_start);
            for entry in dead {
                plan.totals = plan.totals.minus(&Totals::of(entry)).ok_or(Refusal::Overflow)?;
                plan.retired.push(entry.retired());
                plan.entries += 1;
            }
        }
        assert!(plan.retired.len() <= room, "the retiring list stays bounded");
        if log_start == self.log_start && plan.retired.is_empty() {
            return Err(if room == 0 && self.listed_start() < log_start {
                Refusal::RetiringFull { retiring: self.retiring.len() }
            } else {
                Refusal::NothingToDo
            });
        }
        Ok(Change::Prune(plan))
    }

    /// Trims the page that `log_start` cuts through by the nodes its proposer read from it.
    fn plan_head(
        &self,
        page: &PageRef,
        head: &[Node],
        room: usize,
        plan: &mut PrunePlan,
    ) -> Result<(), Refusal> {
        if head.len() > room {
            return Err(Refusal::RetiringFull { retiring: self.retiring.len() });
        }
        let mut left = page.clone();
        for node in head {
            // A gap is where `log_start` was lifted over what was tiered: never above it.
            let follows =
                node.start() == left.start || (left.start < node.start() && node.start() <= self.log_start);
            if !follows || node.start() >= node.end() || node.end() > plan.log_start {
                return Err(misaligned(format!("head node {}..{}", node.start(), node.end())));
            }
            if matches!(node, Node::Page(p) if p.level >= page.level) {
                return Err(misaligned("a page cannot hold its own level"));
            }
            let totals = node.totals();
            left.totals =
                left.totals.minus(&totals).ok_or_else(|| misaligned("head larger than its page"))?;
            plan.totals = plan.totals.minus(&totals).ok_or(Refusal::Overflow)?;
            left.start = node.end();
            plan.retired.push(node.retired());
        }
        if left.start >= left.end || left.totals.objects == 0 {
            return Err(misaligned("head leaves nothing of its page"));
        }
        debug_assert!(left.start <= plan.log_start && left.end == page.end);
        plan.first_page = Some(left);
        Ok(())
    }

    fn decide_spill(&self, writer: LeaderEpoch, page: &PageRef) -> Result<Change, Refusal> {
        if page.epoch != writer {
            return Err(Refusal::EpochMismatch { object: page.epoch, writer });
        }
        if page.start >= page.end || page.page_bytes == 0 || page.totals.objects == 0 {
            return Err(empty("page"));
        }
        let id = page.upload_id;
        let known = self.pages.iter().any(|p| p.upload_id == id) || self.entry_of(id).is_some();
        if known || self.retiring.iter().any(|r| r.what.upload_id() == id) {
            return Err(Refusal::DuplicateUpload { upload_id: id });
        }
        let (at, run) = if page.level == 0 {
            if self.pages.len() >= MANIFEST_PAGE_REFS_MAX {
                return Err(Refusal::PagesFull { pages: self.pages.len() });
            }
            let count = self.entries.iter().take_while(|e| e.end <= page.end).count();
            (0, self.entries[..count].iter().cloned().map(Node::Object).collect::<Vec<_>>())
        } else {
            let below = page.level - 1;
            let at = self.pages.iter().take_while(|p| p.level > below).count();
            let run = self.pages[at..].iter().take_while(|p| p.level == below && p.end <= page.end);
            (at, run.cloned().map(Node::Page).collect())
        };
        let summary = Summary::of(&run).ok_or_else(|| misaligned("the page matches no run of the list"))?;
        if summary.start != page.start || summary.end != page.end || summary.totals != page.totals {
            return Err(misaligned(format!("page {}..{} is not what is listed", page.start, page.end)));
        }
        if summary.timestamps != (page.min_timestamp, page.max_timestamp) {
            return Err(misaligned("timestamps of the page are not those of its objects"));
        }
        assert!(!run.is_empty(), "a summary has at least one node");
        Ok(Change::Spill { at, count: run.len(), page: page.clone() })
    }

    fn decide_swept(&self, upload_ids: &[Uuid]) -> Result<Change, Refusal> {
        if upload_ids.len() > MANIFEST_SWEPT_MAX {
            return Err(misaligned("more uploads than a manifest can retire"));
        }
        let known = |id: &Uuid| self.retiring.iter().any(|r| r.what.upload_id() == *id);
        let upload_ids: Vec<Uuid> = upload_ids.iter().copied().filter(known).collect();
        if upload_ids.is_empty() { Err(Refusal::NothingToDo) } else { Ok(Change::Swept { upload_ids }) }
    }
}

/// What a page says about the nodes it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub start: Offset,
    pub end: Offset,
    pub timestamps: (i64, i64),
    pub totals: Totals,
}

impl Summary {
    /// None for no nodes, or totals that overflow.
    pub fn of(nodes: &[Node]) -> Option<Summary> {
        let (first, last) = (nodes.first()?, nodes.last()?);
        let mut totals = Totals::default();
        let mut timestamps = first.timestamps();
        for node in nodes {
            totals = totals.plus(&node.totals())?;
            let (least, greatest) = node.timestamps();
            timestamps = (timestamps.0.min(least), timestamps.1.max(greatest));
        }
        debug_assert!(timestamps.0 <= timestamps.1 && totals.objects > 0);
        Some(Summary { start: first.start(), end: last.end(), timestamps, totals })
    }
}
