//! The state of one shard and its decisions.
//!
//! Each target has at most one plan, and a plan is carried out until the target has it or is gone: so what a
//! target is sent comes in the order of plans, each under a sequence number of its own that the target's log
//! takes once. `decide_*` changes nothing; `apply` cannot fail, and is all that changes state, here and when
//! the journal is read back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_model::limits::{
    DELAYED_ASK_BYTES_MAX, DELAYED_BATCHES_KNOWN_MAX, DELAYED_KNOWN_BYTES_MAX,
    DELAYED_KNOWN_OF_PRODUCER_BYTES_MAX, DELAYED_PLAN_BYTES_MAX, DELAYED_PLAN_RECORDS_MAX,
    DELAYED_PRODUCER_SILENT_MS_MAX, DELAYED_PRODUCERS_PER_SHARD_MAX,
};
use highwater_model::{ProducerId, TopicPartition};

use super::codec::{CodecError, read_record};
use super::types::{
    Ask, Entry, Identity, Known, KnownBatch, Limits, Millis, Plan, Release, Source, TakenRecord,
};

/// About how many bytes an entry takes in the journal beside the record that it holds.
const ENTRY_BYTES: u64 = 64;

/// Bytes of a record in [`Entry::Taken`] beside its own.
const TAKEN_BYTES: usize = 16;

/// Why records are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeRefusal {
    /// More would wait than may.
    #[error("{records} delayed records of {bytes} bytes wait already, as many as may")]
    Full { records: usize, bytes: u64 },
    #[error("the delayed records of one batch have {bytes} bytes, more than {max}")]
    Batch { bytes: usize, max: usize },
    /// What is kept must be read again.
    #[error("a delayed record that cannot be kept: {0}")]
    Record(CodecError),
    /// Whoever asks is late: the producer has gone on, and its batch may be long released.
    #[error("producer {producer_id} has sent newer delayed records than those of this batch")]
    Older { producer_id: ProducerId },
}

/// What becomes of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// They were taken before: these of the batch.
    Known(Vec<u32>),
    /// To be appended; then they wait.
    New(Entry),
    /// None of them is to be kept.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    target: TopicPartition,
    due_ms: Millis,
    record: Bytes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    /// What waits, those of the plan included: by time, then by arrival.
    queue: BTreeSet<(Millis, u64)>,
    identity: Option<Identity>,
    plan: Option<Plan>,
    known: BTreeMap<ProducerId, Known>,
}

/// A pass that writes the state once more: what is before `next` is written, at `end` it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    next: u64,
    end: u64,
}

/// What one shard knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shard {
    next_id: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Of `waiting`, as kept.
    bytes: u64,
    targets: BTreeMap<TopicPartition, Target>,
    /// Producers known over all targets.
    producers: usize,
    /// What is known of them, as the journal has it.
    known_bytes: usize,
}

impl Shard {
    /// Records that wait.
    pub fn records(&self) -> usize {
        self.waiting.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// About how many bytes of a journal count.
    pub fn live_bytes(&self) -> u64 {
        let entries = self.waiting.len() + self.targets.len();
        self.bytes + ENTRY_BYTES * entries as u64 + self.known_bytes as u64
    }

    pub fn targets(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.targets.keys().copied()
    }

    /// Records that wait for a target.
    pub fn records_of(&self, target: TopicPartition) -> usize {
        self.targets.get(&target).map_or(0, |of| of.queue.len())
    }

    /// When the oldest that waits is or was due, those included that are being released.
    pub fn oldest_due(&self) -> Option<Millis> {
        self.targets.values().filter_map(|of| of.queue.first()).map(|(due_ms, _)| *due_ms).min()
    }

    /// When the next plan is to be made: the oldest of a target that has none.
    pub fn next_due(&self) -> Option<Millis> {
        let idle = self.targets.values().filter(|of| of.plan.is_none());
        idle.filter_map(|of| of.queue.first()).map(|(due_ms, _)| *due_ms).min()
    }

    /// Targets of which a plan can be made now.
    pub fn due(&self, now_ms: Millis) -> Vec<TopicPartition> {
        let is_due =
            |of: &Target| of.plan.is_none() && of.queue.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms);
        self.targets.iter().filter(|(_, of)| is_due(of)).map(|(target, _)| *target).collect()
    }

    /// Targets with a plan that is not carried out yet.
    pub fn planned(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.targets.iter().filter(|(_, of)| of.plan.is_some()).map(|(target, _)| *target)
    }

    /// Judges an ask.
    ///
    /// # Errors
    /// [`TakeRefusal`]
    pub fn decide_take(&self, now_ms: Millis, ask: &Ask, limits: Limits) -> Result<Take, TakeRefusal> {
        if let Some(source) = ask.source
            && let Some(batch) = self.known_batch(ask.target, source)?
        {
            return Ok(Take::Known(batch.deltas.clone()));
        }
        // An ask may come late: the same batch has been appended by another leader, who saw it due.
        let kept = ask.records.iter().filter(|one| !one.is_due && one.due_ms > now_ms);
        let records: Vec<TakenRecord> = kept
            .map(|one| TakenRecord { delta: one.delta, due_ms: one.due_ms, record: one.record.clone() })
            .collect();
        if records.is_empty() {
            return Ok(Take::Nothing);
        }
        let bytes: usize = records.iter().map(|one| one.record.len()).sum();
        let entry_bytes = bytes + TAKEN_BYTES * records.len();
        if entry_bytes > DELAYED_ASK_BYTES_MAX {
            return Err(TakeRefusal::Batch { bytes: entry_bytes, max: DELAYED_ASK_BYTES_MAX });
        }
        records.iter().try_for_each(|one| read_record(&one.record).map(drop)).map_err(TakeRefusal::Record)?;
        let is_full = self.waiting.len() + records.len() > limits.records_max
            || self.bytes + bytes as u64 > limits.bytes_max;
        if is_full {
            return Err(TakeRefusal::Full { records: self.waiting.len(), bytes: self.bytes });
        }
        let (target, source, first_id) = (ask.target, ask.source, self.next_id);
        Ok(Take::New(Entry::Taken { target, source, now_ms, first_id, records }))
    }

    /// The batch, if it was taken; none if its producer has not sent it here before.
    ///
    /// # Errors
    /// [`TakeRefusal::Older`]: it may have been taken so long ago that it is not known any more. The target's
    /// log would not take it either.
    fn known_batch(
        &self,
        target: TopicPartition,
        source: Source,
    ) -> Result<Option<&KnownBatch>, TakeRefusal> {
        let of = self.targets.get(&target).and_then(|of| of.known.get(&source.producer_id));
        let Some(known) = of.filter(|known| known.epoch >= source.epoch) else { return Ok(None) };
        let older = TakeRefusal::Older { producer_id: source.producer_id };
        if known.epoch > source.epoch {
            return Err(older);
        }
        let same = |batch: &&KnownBatch| (batch.first, batch.last) == (source.first, source.last);
        let found = known.batches.iter().find(same);
        let is_new = known.batches.last().is_none_or(|newest| source.is_after(newest.last));
        if found.is_some() || is_new { Ok(found) } else { Err(older) }
    }

    /// What of a target is to be released now: all that is due, within the bounds of one batch. `fresh` is a
    /// producer id that nobody has had; only taken if the target has none yet.
    pub fn decide_plan(
        &self,
        now_ms: Millis,
        target: TopicPartition,
        fresh: impl FnOnce() -> Option<ProducerId>,
    ) -> Option<Entry> {
        let of = self.targets.get(&target).filter(|of| of.plan.is_none())?;
        let (mut ids, mut bytes) = (Vec::new(), 0);
        for (due_ms, id) in of.queue.iter().take(DELAYED_PLAN_RECORDS_MAX) {
            let more = self.waiting.get(id).expect("what is queued waits").record.len();
            let is_over = !ids.is_empty() && bytes + more > DELAYED_PLAN_BYTES_MAX;
            if *due_ms > now_ms || is_over {
                break;
            }
            ids.push(*id);
            bytes += more;
        }
        if ids.is_empty() {
            return None;
        }
        let identity = match of.identity {
            Some(identity) => identity,
            None => Identity { producer_id: fresh()?, sequence: 0 },
        };
        Some(Entry::Planned { target, identity, ids })
    }

    /// The target cannot take its plan under the identity that it has: it has lost what came before, or knows
    /// it as a newer one. The same records under a new one.
    pub fn decide_anew(&self, target: TopicPartition, fresh: ProducerId) -> Option<Entry> {
        let of = self.targets.get(&target)?;
        let ids = of.plan.as_ref()?.ids.clone();
        assert!(of.identity.is_some_and(|old| old.producer_id != fresh), "a new identity");
        Some(Entry::Planned { target, identity: Identity { producer_id: fresh, sequence: 0 }, ids })
    }

    /// What is to be sent to carry out a target's plan.
    pub fn release(&self, target: TopicPartition) -> Option<Release> {
        let of = self.targets.get(&target)?;
        let plan = of.plan.as_ref()?;
        let waiting = plan.ids.iter().filter_map(|id| self.waiting.get(id));
        let records: Vec<_> = waiting.map(|one| (one.due_ms, one.record.clone())).collect();
        assert_eq!(records.len(), plan.ids.len(), "what is planned waits until it is released");
        Some(Release { target, identity: of.identity.expect("a plan has an identity"), records })
    }

    /// An appended entry takes effect; what follows from it may leave once it is committed.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Taken { target, source, now_ms, first_id, records } => {
                let records_before = self.waiting.len();
                for (id, one) in (*first_id..).zip(records) {
                    self.keep(*target, id, one.due_ms, &one.record);
                }
                assert!(self.waiting.len() <= records_before + records.len());
                if let Some(source) = source {
                    let deltas = records.iter().map(|one| one.delta).collect();
                    self.remember(*target, *source, *now_ms, deltas);
                }
            }
            Entry::Planned { target, identity, ids } => {
                let of = self.targets.entry(*target).or_default();
                of.identity = Some(*identity);
                of.plan = Some(Plan { ids: ids.clone() });
            }
            Entry::Released { target } => self.released(*target),
            Entry::Gone { target } => self.forget(*target),
            Entry::Begun { next_id } => self.next_id = self.next_id.max(*next_id),
            Entry::State { target, identity, planned, known } => {
                let of = self.targets.entry(*target).or_default();
                of.identity = *identity;
                of.plan = (!planned.is_empty()).then(|| Plan { ids: planned.clone() });
                let before = std::mem::take(&mut of.known);
                of.known = known.iter().map(|one| (one.producer_id, one.clone())).collect();
                self.producers = self.producers + of.known.len() - before.len();
                self.known_bytes = self.known_bytes + bytes_of(&of.known) - bytes_of(&before);
            }
            Entry::Kept { target, id, due_ms, record } => self.keep(*target, *id, *due_ms, record),
        }
        debug_assert!(self.is_sound());
    }

    fn keep(&mut self, target: TopicPartition, id: u64, due_ms: Millis, record: &Bytes) {
        self.next_id = self.next_id.max(id + 1);
        // A pass repeats what a reader of the whole journal has met already.
        if self.waiting.contains_key(&id) {
            return;
        }
        self.bytes += record.len() as u64;
        self.waiting.insert(id, Waiting { target, due_ms, record: record.clone() });
        let is_new = self.targets.entry(target).or_default().queue.insert((due_ms, id));
        assert!(is_new, "an id waits once");
    }

    fn drop_waiting(&mut self, id: u64) -> Option<Waiting> {
        let gone = self.waiting.remove(&id)?;
        self.bytes -= gone.record.len() as u64;
        Some(gone)
    }

    fn released(&mut self, target: TopicPartition) {
        let Some(plan) = self.targets.get_mut(&target).and_then(|of| of.plan.take()) else { return };
        // Where a journal begins with a pass, a planned record may not have been read yet: the pass, which
        // comes to it later, leaves it out.
        for id in &plan.ids {
            if let Some(gone) = self.drop_waiting(*id) {
                let of = self.targets.get_mut(&target).expect("it had the plan");
                let was_queued = of.queue.remove(&(gone.due_ms, *id));
                assert!(was_queued, "what waits is queued");
            }
        }
        let of = self.targets.get_mut(&target).expect("it had the plan");
        of.identity = of.identity.map(|identity| identity.after(plan.ids.len()));
    }

    fn forget(&mut self, target: TopicPartition) {
        let Some(of) = self.targets.remove(&target) else { return };
        for (_, id) in &of.queue {
            let gone = self.drop_waiting(*id);
            assert!(gone.is_some_and(|gone| gone.target == target), "what is queued waits");
        }
        self.producers -= of.known.len();
        self.known_bytes -= bytes_of(&of.known);
    }

    fn remember(&mut self, target: TopicPartition, source: Source, now_ms: Millis, deltas: Vec<u32>) {
        let of = self.targets.entry(target).or_default();
        let known = of.known.entry(source.producer_id).or_insert_with(|| {
            let Source { producer_id, epoch, .. } = source;
            let known = Known { producer_id, epoch, seen_ms: now_ms, batches: Vec::new() };
            self.producers += 1;
            self.known_bytes += known.bytes();
            known
        });
        self.known_bytes -= known.bytes();
        if known.epoch != source.epoch {
            known.epoch = source.epoch;
            known.batches.clear();
        }
        known.seen_ms = known.seen_ms.max(now_ms);
        known.batches.push(KnownBatch { first: source.first, last: source.last, deltas });
        while known.batches.len() > DELAYED_BATCHES_KNOWN_MAX
            || known.batches.len() > 1 && known.bytes() > DELAYED_KNOWN_OF_PRODUCER_BYTES_MAX
        {
            known.batches.remove(0);
        }
        self.known_bytes += known.bytes();
        if self.producers > DELAYED_PRODUCERS_PER_SHARD_MAX || self.known_bytes > DELAYED_KNOWN_BYTES_MAX {
            self.forget_silent((target, source.producer_id));
        }
        assert!(self.producers <= DELAYED_PRODUCERS_PER_SHARD_MAX);
        assert!(self.known_bytes <= DELAYED_KNOWN_BYTES_MAX, "{} bytes of producers", self.known_bytes);
    }

    /// Forgets the eighth of the producers that has been silent for longest, and more until an eighth of the
    /// room for what is known of them is free; not the one that has just come.
    fn forget_silent(&mut self, newest: (TopicPartition, ProducerId)) {
        let all = self.targets.iter().flat_map(|(target, of)| {
            of.known.values().map(|known| (known.seen_ms, *target, known.producer_id))
        });
        let mut by_age: Vec<_> = all.filter(|(_, target, id)| (*target, *id) != newest).collect();
        by_age.sort_unstable();
        let few = self.producers - (self.producers / 8).max(1);
        for (_, target, producer_id) in by_age {
            if self.producers <= few && self.known_bytes <= DELAYED_KNOWN_BYTES_MAX / 8 * 7 {
                break;
            }
            let of = self.targets.get_mut(&target).expect("it was listed");
            let gone = of.known.remove(&producer_id).expect("it was listed");
            self.producers -= 1;
            self.known_bytes -= gone.bytes();
        }
    }

    /// Begins to write the state once more: the entries to be appended first, and the way to the rest. What
    /// is entered between its parts stands behind its beginning too, so that the journal reads back as the
    /// same state from there on. Producers that have been silent for long are left out, and forgotten with
    /// it; so are those for which an older journal has more room than there is.
    pub fn begin_pass(&self, now_ms: Millis) -> (Vec<Entry>, Pass) {
        let mut entries = vec![Entry::Begun { next_id: self.next_id }];
        let mut room = DELAYED_KNOWN_BYTES_MAX;
        let mut is_known = |known: &&Known| {
            let is_silent = now_ms.saturating_sub(known.seen_ms) >= DELAYED_PRODUCER_SILENT_MS_MAX;
            let left = room.checked_sub(known.bytes()).filter(|_| !is_silent);
            room = left.unwrap_or(room);
            left.is_some()
        };
        for (target, of) in &self.targets {
            entries.push(Entry::State {
                target: *target,
                identity: of.identity,
                planned: of.plan.as_ref().map_or(Vec::new(), |plan| plan.ids.clone()),
                known: of.known.values().filter(&mut is_known).cloned().collect(),
            });
        }
        (entries, Pass { next: 0, end: self.next_id })
    }

    /// The next part of a pass, about so many bytes of records; where it goes on, unless it was the last.
    pub fn pass_part(&self, pass: Pass, bytes_max: usize) -> (Vec<Entry>, Option<Pass>) {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for (id, one) in self.waiting.range(pass.next..pass.end) {
            if bytes >= bytes_max {
                return (entries, Some(Pass { next: *id, end: pass.end }));
            }
            let Waiting { target, due_ms, ref record } = *one;
            entries.push(Entry::Kept { target, id: *id, due_ms, record: record.clone() });
            bytes += record.len() + ENTRY_BYTES as usize;
        }
        (entries, None)
    }

    /// Bytes of what is known of producers, as the journal has it; no more than
    /// [`DELAYED_KNOWN_BYTES_MAX`] once one has come.
    pub fn known_bytes(&self) -> usize {
        self.known_bytes
    }

    /// What must hold at all times, as far as it is cheap to look at.
    fn is_sound(&self) -> bool {
        let last = self.waiting.last_key_value();
        last.is_none_or(|(id, _)| *id < self.next_id) && (self.bytes == 0 || !self.waiting.is_empty())
    }
}

fn bytes_of(known: &BTreeMap<ProducerId, Known>) -> usize {
    known.values().map(Known::bytes).sum()
}
