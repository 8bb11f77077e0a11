//! Idempotent producers: which sequence comes next, what is a duplicate, who is fenced (KIP-98, KIP-360).
//!
//! Owns one partition's table of producers and its stored form. `check` judges a batch and changes nothing;
//! `apply` records one that was appended, at produce and at recovery alike, so the table is a function of the
//! log. The rules are Kafka's: a producer without state may start at any sequence (its state may have
//! expired), a new epoch starts at 0, the last `PRODUCER_BATCHES_MAX` batches are recognised as duplicates,
//! sequences wrap from `i32::MAX` to 0. Unlike Kafka's, expiry counts from the append and not from record
//! timestamps, which may be years old.

use std::collections::BTreeMap;

use highwater_model::limits::{PRODUCER_BATCHES_MAX, PRODUCERS_PER_PARTITION_MAX};
use highwater_model::{Offset, ProducerId};
use highwater_wire::batch::BatchHeader;

use super::stored::{self, Reader, StoredError};

pub const PRODUCERS_MAGIC: [u8; 4] = *b"HWPR";
pub const PRODUCERS_VERSION: u16 = 1;
/// Stored bytes of a producer without its batches, and of a batch.
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8;

/// Kafka's error codes for the refusals.
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;

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
        ((i64::from(self.base_sequence) + i64::from(self.last_offset_delta)) % (1 << 31)) as i32
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
}

impl Producer {
    fn batches(&self) -> &[KnownBatch] {
        &self.batches[..usize::from(self.known)]
    }

    fn push(&mut self, batch: KnownBatch) {
        if usize::from(self.known) == PRODUCER_BATCHES_MAX {
            self.batches.rotate_left(1);
            self.batches[PRODUCER_BATCHES_MAX - 1] = batch;
        } else {
            self.batches[usize::from(self.known)] = batch;
            self.known += 1;
        }
        assert!(usize::from(self.known) <= PRODUCER_BATCHES_MAX);
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
    #[error("producer {producer_id}: epoch {given} is older than {current}")]
    StaleEpoch { producer_id: ProducerId, given: i16, current: i16 },
}

impl SequenceRefusal {
    /// The Kafka error code of a produce response.
    pub fn error_code(&self) -> i16 {
        match self {
            SequenceRefusal::OutOfOrder { .. } => OUT_OF_ORDER_SEQUENCE_NUMBER,
            SequenceRefusal::StaleEpoch { .. } => INVALID_PRODUCER_EPOCH,
        }
    }
}

/// The producers of one partition, at most `PRODUCERS_PER_PARTITION_MAX`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
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
    /// The refusal, which has Kafka's error code.
    pub fn check(&self, header: &BatchHeader) -> Result<Sequenced, SequenceRefusal> {
        if !header.has_producer() {
            return Ok(Sequenced::New);
        }
        let producer_id = header.producer_id;
        let Some(producer) = self.producers.get(&producer_id) else {
            return Ok(Sequenced::New);
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
        if header.base_sequence == expected {
            return Ok(Sequenced::New);
        }
        Err(SequenceRefusal::OutOfOrder { producer_id, given: header.base_sequence, expected })
    }

    /// Records a batch that stands in the log at `base_offset`. Accepts whatever the log holds: it was judged
    /// when it was produced, here or on another node. `now_ms` is when it was appended, or when it was
    /// recovered.
    pub fn apply(&mut self, header: &BatchHeader, base_offset: Offset, now_ms: i64) {
        assert!(base_offset >= 0);
        if !header.has_producer() {
            return;
        }
        if self.producers.len() >= PRODUCERS_PER_PARTITION_MAX
            && !self.producers.contains_key(&header.producer_id)
        {
            self.forget_silent();
        }
        let entry = self.producers.entry(header.producer_id).or_insert(Producer {
            epoch: header.producer_epoch,
            last_append_ms: now_ms,
            batches: Default::default(),
            known: 0,
        });
        if header.producer_epoch != entry.epoch {
            entry.epoch = header.producer_epoch;
            (entry.batches, entry.known) = Default::default();
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
        assert!(self.producers.len() <= PRODUCERS_PER_PARTITION_MAX);
    }

    /// Forgets the eighth of the producers that has been silent for longest.
    fn forget_silent(&mut self) {
        let mut by_age: Vec<_> = self.producers.iter().map(|(id, p)| (p.last_append_ms, *id)).collect();
        by_age.sort_unstable();
        let forgotten = (by_age.len() / 8).max(1);
        for (_, id) in &by_age[..forgotten.min(by_age.len())] {
            self.producers.remove(id);
        }
        assert!(self.producers.len() < PRODUCERS_PER_PARTITION_MAX);
    }

    /// Forgets producers that have appended nothing for `producer.id.expiration.ms`; returns how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        assert!(expiration_ms > 0);
        let before = self.producers.len();
        self.producers.retain(|_, p| now_ms.saturating_sub(p.last_append_ms) < expiration_ms);
        debug_assert!(self.producers.len() <= before);
        before - self.producers.len()
    }

    /// The stored form: the table as it was when the log ended at `log_end`, for `<log_end>.producers` and
    /// for the footer of the object sealed there.
    pub fn encode(&self, log_end: Offset) -> Vec<u8> {
        assert!(log_end >= 0);
        let batches: usize = self.producers.values().map(|p| usize::from(p.known)).sum();
        let mut body = Vec::with_capacity(12 + self.producers.len() * PRODUCER_BYTES + batches * BATCH_BYTES);
        body.extend_from_slice(&log_end.to_le_bytes());
        let count = u32::try_from(self.producers.len()).expect("bounded by PRODUCERS_PER_PARTITION_MAX");
        body.extend_from_slice(&count.to_le_bytes());
        for (id, producer) in &self.producers {
            body.extend_from_slice(&id.to_le_bytes());
            body.extend_from_slice(&producer.epoch.to_le_bytes());
            body.extend_from_slice(&producer.last_append_ms.to_le_bytes());
            body.push(producer.known);
            for batch in producer.batches() {
                body.extend_from_slice(&batch.base_sequence.to_le_bytes());
                body.extend_from_slice(&batch.last_offset_delta.to_le_bytes());
                body.extend_from_slice(&batch.base_offset.to_le_bytes());
                body.extend_from_slice(&batch.max_timestamp.to_le_bytes());
            }
        }
        stored::frame(PRODUCERS_MAGIC, PRODUCERS_VERSION, &body)
    }

    /// Reads a stored table and the log end that it belongs to.
    ///
    /// # Errors
    /// Any damage; the caller then replays batch headers from an older snapshot.
    pub fn decode(file: &[u8]) -> Result<(Offset, ProducerTable), StoredError> {
        let (_, body) = stored::unframe(PRODUCERS_MAGIC, PRODUCERS_VERSION, file)?;
        let mut r = Reader::new(body);
        let log_end = r.i64()?;
        if log_end < 0 {
            return Err(StoredError::Rule("log end"));
        }
        let count = r.count(PRODUCER_BYTES, PRODUCERS_PER_PARTITION_MAX)?;
        let mut producers = BTreeMap::new();
        for _ in 0..count {
            let id = r.i64()?;
            let producer = decode_producer(&mut r, log_end)?;
            if id < 0 || producers.insert(id, producer).is_some() {
                return Err(StoredError::Rule("producer ids"));
            }
        }
        r.finish()?;
        assert!(producers.len() == count);
        Ok((log_end, ProducerTable { producers }))
    }
}

fn decode_producer(r: &mut Reader<'_>, log_end: Offset) -> Result<Producer, StoredError> {
    let (epoch, last_append_ms, known) = (r.i16()?, r.i64()?, r.u8()?);
    if epoch < 0 || usize::from(known) > PRODUCER_BATCHES_MAX {
        return Err(StoredError::Rule("producer"));
    }
    let mut producer = Producer { epoch, last_append_ms, batches: Default::default(), known };
    for slot in 0..usize::from(known) {
        let batch = KnownBatch {
            base_sequence: r.i32()?,
            last_offset_delta: r.i32()?,
            base_offset: r.i64()?,
            max_timestamp: r.i64()?,
        };
        if batch.base_sequence < 0 || batch.last_offset_delta < 0 || batch.base_offset < 0 {
            return Err(StoredError::Rule("producer's batch"));
        }
        let room = log_end - batch.base_offset;
        if room <= i64::from(batch.last_offset_delta) {
            return Err(StoredError::Rule("batch past the log's end"));
        }
        producer.batches[slot] = batch;
    }
    debug_assert!(producer.batches().iter().all(|b| b.next_offset() <= log_end));
    Ok(producer)
}

#[cfg(test)]
#[path = "producers/tests.rs"]
mod tests;
