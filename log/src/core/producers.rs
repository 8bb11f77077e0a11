//! Producers: which sequence comes next, what is a duplicate, who is fenced (KIP-98, KIP-360), and which
//! transaction each has open here.
//!
//! Owns one partition's table of producers. `check` judges a batch and changes nothing; `apply` records one
//! that was appended, at produce and at recovery alike, so the table is a function of the log. The rules are
//! Kafka's: a producer without state may start at any sequence (its state may have expired), a new epoch
//! starts at 0, the last `PRODUCER_BATCHES_MAX` batches are recognised as duplicates, sequences wrap from
//! `i32::MAX` to 0. What came before those without a gap is recognised too, though not where it is: a client
//! may send it again long after, when its leader was cut off with it. Unlike Kafka's, expiry counts from the
//! append and not from record timestamps, which may be years old. A producer with an open transaction is
//! never forgotten: the last stable offset hangs on it.
//!
//! A marker ends the transaction and takes its own epoch over, so that what its producer sent before and what
//! arrives after it is refused (KIP-890). A batch of a newer epoch does not join a transaction that an older
//! one has open: it is told to come again.

use std::collections::BTreeMap;

use highwater_model::limits::{
    PRODUCER_BATCHES_MAX, PRODUCER_SEQUENCES_BEFORE_MAX, PRODUCERS_PER_PARTITION_MAX,
    TXN_OPEN_PER_PARTITION_MAX,
};
use highwater_model::{Offset, ProducerId};
use highwater_wire::batch::BatchHeader;
use highwater_wire::control::EndMarker;

mod stored;

pub use stored::{PRODUCERS_MAGIC, PRODUCERS_VERSION};

/// Kafka's error codes for the refusals.
const REQUEST_TIMED_OUT: i16 = 7;
const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const TRANSACTION_COORDINATOR_FENCED: i16 = 52;
const NONE: Offset = -1;
const NO_COORDINATOR_EPOCH: i32 = -1;
/// How many sequence numbers there are before they begin anew.
const SEQUENCES: i64 = 1 << 31;

/// An appended batch, as remembered to recognise it when it is sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct KnownBatch {
    base_sequence: i32,
    last_offset_delta: i32,
    base_offset: Offset,
    max_timestamp: i64,
}

impl KnownBatch {
    fn last_sequence(&self) -> i32 {
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % SEQUENCES) as i32
    }

    /// How many sequence numbers it takes up.
    fn sequences(&self) -> u32 {
        self.last_offset_delta.unsigned_abs() + 1
    }

    fn next_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    last_append_ms: i64,
    /// The newest `known` batches, oldest first.
    batches: [KnownBatch; PRODUCER_BATCHES_MAX],
    known: u8,
    /// So many sequence numbers right before the oldest of `batches` are in the log too, each once: since the
    /// epoch's first batch, a gap or a snapshot that did not say. At most `PRODUCER_SEQUENCES_BEFORE_MAX`.
    before: u32,
    /// Of the newest marker; -1: none was seen.
    coordinator_epoch: i32,
    /// First offset of the open transaction, or -1.
    txn_first: Offset,
}

impl Producer {
    fn new(epoch: i16, now_ms: i64) -> Producer {
        let batches = Default::default();
        let (known, before, coordinator_epoch, txn_first) = (0, 0, NO_COORDINATOR_EPOCH, NONE);
        Producer { epoch, last_append_ms: now_ms, batches, known, before, coordinator_epoch, txn_first }
    }

    fn is_open(&self) -> bool {
        self.txn_first != NONE
    }

    fn batches(&self) -> &[KnownBatch] {
        &self.batches[..usize::from(self.known)]
    }

    fn push(&mut self, batch: KnownBatch) {
        if usize::from(self.known) == PRODUCER_BATCHES_MAX {
            let (gone, oldest) = (self.batches[0], self.batches[1]);
            let is_gap = oldest.base_sequence != sequence_after(gone.last_sequence());
            let before = if is_gap { 0 } else { self.before + gone.sequences() };
            self.before = before.min(PRODUCER_SEQUENCES_BEFORE_MAX);
            self.batches.rotate_left(1);
            self.batches[PRODUCER_BATCHES_MAX - 1] = batch;
        } else {
            self.batches[usize::from(self.known)] = batch;
            self.known += 1;
        }
        assert!(usize::from(self.known) <= PRODUCER_BATCHES_MAX);
    }

    /// The offset below which the whole batch stands, if it is in the log and older than all that are known.
    fn had_below(&self, header: &BatchHeader) -> Option<Offset> {
        let oldest = self.batches().first()?;
        let back = (i64::from(oldest.base_sequence) - i64::from(header.base_sequence)).rem_euclid(SEQUENCES);
        let records = i64::from(header.last_offset_delta) + 1;
        let is_there = header.base_sequence >= 0 && records > 0;
        (is_there && records <= back && back <= i64::from(self.before)).then_some(oldest.base_offset)
    }
}

/// What to do with a batch that its producer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequenced {
    /// Append it.
    New,
    /// It is in the log already: answer with where it is, once that is as durable as the producer asked.
    Duplicate { base_offset: Offset, next_offset: Offset, max_timestamp: i64 },
}

/// Why a producer's batch is not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceRefusal {
    #[error("producer {producer_id}: sequence {given} where {expected} comes next")]
    OutOfOrder { producer_id: ProducerId, given: i32, expected: i32 },
    /// It stands below this offset; where is no longer known.
    #[error("producer {producer_id}: sequence {given} is in the log, but not known to be committed yet")]
    Earlier { producer_id: ProducerId, given: i32, below: Offset },
    #[error("producer {producer_id}: sequence {given} is committed already, it is not known where")]
    Duplicate { producer_id: ProducerId, given: i32 },
    #[error("producer {producer_id}: epoch {given} is older than {current}")]
    StaleEpoch { producer_id: ProducerId, given: i16, current: i16 },
    #[error("producer {0}: a batch outside of a transaction while one is open")]
    NotTransactional(ProducerId),
    #[error("producer {producer_id}: a transaction of the older epoch {open} is still open")]
    StillOpen { producer_id: ProducerId, open: i16 },
    #[error("producer {0}: its transaction was not verified, or ended since it was")]
    Unverified(ProducerId),
    #[error("{0} transactions are open, more than one partition may have")]
    TooManyOpen(usize),
    #[error("producer {producer_id}: a marker of coordinator epoch {given} after {current}")]
    CoordinatorFenced { producer_id: ProducerId, given: i32, current: i32 },
}

impl SequenceRefusal {
    /// The Kafka error code of a produce response.
    pub fn error_code(&self) -> i16 {
        match self {
            SequenceRefusal::OutOfOrder { .. } => OUT_OF_ORDER_SEQUENCE_NUMBER,
            // Clients send it again, and hold it possible that it lasts.
            SequenceRefusal::Earlier { .. } => NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            // Clients take it for an acknowledgement without an offset.
            SequenceRefusal::Duplicate { .. } => DUPLICATE_SEQUENCE_NUMBER,
            SequenceRefusal::StaleEpoch { .. } => INVALID_PRODUCER_EPOCH,
            SequenceRefusal::NotTransactional(_) | SequenceRefusal::Unverified(_) => INVALID_TXN_STATE,
            SequenceRefusal::StillOpen { .. } => CONCURRENT_TRANSACTIONS,
            SequenceRefusal::TooManyOpen(_) => REQUEST_TIMED_OUT,
            SequenceRefusal::CoordinatorFenced { .. } => TRANSACTION_COORDINATOR_FENCED,
        }
    }

    /// The same where everything below `high_watermark` is committed: only of what is, a producer may be told
    /// that it is a duplicate (invariant 3).
    pub fn at_high_watermark(self, high_watermark: Offset) -> SequenceRefusal {
        match self {
            SequenceRefusal::Earlier { producer_id, given, below } if below <= high_watermark => {
                SequenceRefusal::Duplicate { producer_id, given }
            }
            other => other,
        }
    }
}

/// A transaction that has ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedTxn {
    pub producer_id: ProducerId,
    /// Offset of its first batch.
    pub first: Offset,
    /// Offset of its marker.
    pub marker: Offset,
    pub commit: bool,
}

/// A producer as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    pub producer_id: ProducerId,
    pub epoch: i16,
    /// -1: none is known.
    pub last_sequence: i32,
    /// When it last appended here, Unix ms.
    pub last_append_ms: i64,
    /// -1: no marker was seen.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction.
    pub txn_first: Option<Offset>,
}

/// The producers of one partition, at most `PRODUCERS_PER_PARTITION_MAX` beside those with open transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
    /// Open transactions by their first offset.
    open: BTreeMap<Offset, ProducerId>,
}

fn sequence_after(last: i32) -> i32 {
    debug_assert!(last >= -1);
    if last == i32::MAX { 0 } else { last + 1 }
}

impl ProducerTable {
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Judges a client's batch; batches without a producer are always new.
    ///
    /// # Errors
    /// The refusal, which has Kafka's error code; `Earlier` is to be looked at again with the high watermark
    /// ([`SequenceRefusal::at_high_watermark`]).
    pub fn check(&self, header: &BatchHeader) -> Result<Sequenced, SequenceRefusal> {
        if !header.has_producer() {
            return Ok(Sequenced::New);
        }
        let producer_id = header.producer_id;
        let Some(producer) = self.producers.get(&producer_id) else {
            return self.check_room(header);
        };
        if header.producer_epoch < producer.epoch {
            let (given, current) = (header.producer_epoch, producer.epoch);
            return Err(SequenceRefusal::StaleEpoch { producer_id, given, current });
        }
        let mut expected = 0;
        if header.producer_epoch == producer.epoch {
            let same = |b: &&KnownBatch| {
                b.base_sequence == header.base_sequence && b.last_offset_delta == header.last_offset_delta
            };
            if let Some(known) = producer.batches().iter().find(same) {
                return Ok(Sequenced::Duplicate {
                    base_offset: known.base_offset,
                    next_offset: known.next_offset(),
                    max_timestamp: known.max_timestamp,
                });
            }
            let last = producer.batches().last().map_or(-1, KnownBatch::last_sequence);
            expected = sequence_after(last);
        }
        let given = header.base_sequence;
        if given != expected {
            let had = producer.had_below(header).filter(|_| header.producer_epoch == producer.epoch);
            return Err(match had {
                Some(below) => SequenceRefusal::Earlier { producer_id, given, below },
                None => SequenceRefusal::OutOfOrder { producer_id, given, expected },
            });
        }
        match (producer.is_open(), header.is_transactional()) {
            (false, false) => Ok(Sequenced::New),
            (false, true) => self.check_room(header),
            (true, false) => Err(SequenceRefusal::NotTransactional(producer_id)),
            (true, true) if header.producer_epoch > producer.epoch => {
                Err(SequenceRefusal::StillOpen { producer_id, open: producer.epoch })
            }
            (true, true) => Ok(Sequenced::New),
        }
    }

    /// Judges a batch that a coordinator writes for a producer, such as the offsets of a group: it has no
    /// sequence, so that nothing is a duplicate.
    ///
    /// # Errors
    /// `StaleEpoch`, `StillOpen`, `NotTransactional`, `TooManyOpen`.
    pub fn check_unsequenced(&self, header: &BatchHeader) -> Result<(), SequenceRefusal> {
        let producer_id = header.producer_id;
        let Some(producer) = self.producers.get(&producer_id).filter(|_| header.has_producer()) else {
            return self.check_room(header).map(drop);
        };
        let (given, current) = (header.producer_epoch, producer.epoch);
        match (producer.is_open(), header.is_transactional()) {
            _ if given < current => Err(SequenceRefusal::StaleEpoch { producer_id, given, current }),
            (true, false) => Err(SequenceRefusal::NotTransactional(producer_id)),
            (true, true) if given > current => Err(SequenceRefusal::StillOpen { producer_id, open: current }),
            (true, true) => Ok(()),
            (false, _) => self.check_room(header).map(drop),
        }
    }

    fn check_room(&self, header: &BatchHeader) -> Result<Sequenced, SequenceRefusal> {
        if header.is_transactional() && self.open.len() >= TXN_OPEN_PER_PARTITION_MAX {
            return Err(SequenceRefusal::TooManyOpen(self.open.len()));
        }
        Ok(Sequenced::New)
    }

    /// Judges a marker before it is appended. `bumps_epoch`: by its coordinator's rules its epoch is newer
    /// than every batch of its transaction (KIP-890); one that is not was written here before, and its
    /// transaction has ended.
    ///
    /// # Errors
    /// `StaleEpoch`; `CoordinatorFenced`.
    pub fn check_marker(
        &self,
        producer_id: ProducerId,
        epoch: i16,
        marker: EndMarker,
        bumps_epoch: bool,
    ) -> Result<(), SequenceRefusal> {
        let Some(producer) = self.producers.get(&producer_id) else {
            return Ok(());
        };
        let (given, current) = (marker.coordinator_epoch, producer.coordinator_epoch);
        if given < current {
            return Err(SequenceRefusal::CoordinatorFenced { producer_id, given, current });
        }
        let (given, current) = (epoch, producer.epoch);
        if given < current || (bumps_epoch && given == current) {
            return Err(SequenceRefusal::StaleEpoch { producer_id, given, current });
        }
        Ok(())
    }

    /// Whether the producer has a transaction open here under this epoch: its next batch joins it.
    pub fn is_open(&self, producer_id: ProducerId, epoch: i16) -> bool {
        self.producers.get(&producer_id).is_some_and(|p| p.is_open() && p.epoch == epoch)
    }

    /// First offset of the oldest open transaction.
    pub fn first_open(&self) -> Option<Offset> {
        self.open.first_key_value().map(|(first, _)| *first)
    }

    /// Whether batches of the producer under this epoch are known.
    pub fn has_batches(&self, producer_id: ProducerId, epoch: i16) -> bool {
        self.producers.get(&producer_id).is_some_and(|p| p.epoch == epoch && p.known > 0)
    }

    /// All producers, by id.
    pub fn iter(&self) -> impl Iterator<Item = ProducerInfo> + '_ {
        self.producers.iter().map(|(id, p)| ProducerInfo {
            producer_id: *id,
            epoch: p.epoch,
            last_sequence: p.batches().last().map_or(-1, KnownBatch::last_sequence),
            last_append_ms: p.last_append_ms,
            coordinator_epoch: p.coordinator_epoch,
            txn_first: p.is_open().then_some(p.txn_first),
        })
    }

    /// Records a batch that stands in the log at `base_offset`. Accepts whatever the log holds: it was judged
    /// when it was produced, here or on another node. `marker`: what it says if it is one. `now_ms` is when
    /// it was appended, or when it was recovered. Returns the transaction that it ended.
    pub fn apply(
        &mut self,
        header: &BatchHeader,
        marker: Option<EndMarker>,
        base_offset: Offset,
        now_ms: i64,
    ) -> Option<EndedTxn> {
        assert!(base_offset >= 0);
        if !header.has_producer() {
            return None;
        }
        if self.producers.len() >= PRODUCERS_PER_PARTITION_MAX
            && !self.producers.contains_key(&header.producer_id)
        {
            self.forget_silent();
        }
        let fresh = Producer::new(header.producer_epoch, now_ms);
        let entry = self.producers.entry(header.producer_id).or_insert(fresh);
        if header.producer_epoch != entry.epoch {
            entry.epoch = header.producer_epoch;
            (entry.batches, entry.known, entry.before) = Default::default();
        }
        entry.last_append_ms = now_ms;
        if header.base_sequence >= 0 && !header.is_control() {
            entry.push(KnownBatch {
                base_sequence: header.base_sequence,
                last_offset_delta: header.last_offset_delta,
                base_offset,
                max_timestamp: header.max_timestamp,
            });
        }
        let ended = if header.is_control() {
            marker.and_then(|marker| self.end(header.producer_id, marker, base_offset))
        } else {
            if header.is_transactional() && !entry.is_open() {
                entry.txn_first = base_offset;
                self.open.insert(base_offset, header.producer_id);
            }
            None
        };
        assert!(self.producers.len() <= PRODUCERS_PER_PARTITION_MAX + self.open.len());
        ended
    }

    /// A marker of the producer: whatever it has open ends at `offset`.
    fn end(&mut self, producer_id: ProducerId, marker: EndMarker, offset: Offset) -> Option<EndedTxn> {
        let producer = self.producers.get_mut(&producer_id).expect("its marker was just recorded");
        // Below it nothing is stored; no broker writes that, but a log may have it.
        producer.coordinator_epoch = marker.coordinator_epoch.max(NO_COORDINATOR_EPOCH);
        if !producer.is_open() {
            return None;
        }
        let first = std::mem::replace(&mut producer.txn_first, NONE);
        let removed = self.open.remove(&first);
        assert_eq!(removed, Some(producer_id), "an open transaction stands in both tables");
        assert!(first < offset);
        Some(EndedTxn { producer_id, first, marker: offset, commit: marker.commit })
    }

    /// Forgets the eighth of the producers that has been silent for longest and has nothing open.
    fn forget_silent(&mut self) {
        let idle = self.producers.iter().filter(|(_, p)| !p.is_open());
        let mut by_age: Vec<_> = idle.map(|(id, p)| (p.last_append_ms, *id)).collect();
        by_age.sort_unstable();
        let forgotten = (by_age.len() / 8).max(1);
        for (_, id) in &by_age[..forgotten.min(by_age.len())] {
            self.producers.remove(id);
        }
        assert!(self.producers.len() < PRODUCERS_PER_PARTITION_MAX + self.open.len());
    }

    /// Forgets producers that have appended nothing for `producer.id.expiration.ms` and have nothing open;
    /// returns how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        assert!(expiration_ms > 0);
        let before = self.producers.len();
        self.producers.retain(|_, p| p.is_open() || now_ms.saturating_sub(p.last_append_ms) < expiration_ms);
        debug_assert!(self.producers.len() <= before);
        before - self.producers.len()
    }
}

#[cfg(test)]
#[path = "producers/tests.rs"]
mod tests;
