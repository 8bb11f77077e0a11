//! The stored form of producers and transactions, `<offset>.producers` and the footer of an object.
//!
//! Version 1 has producers alone and is still what is written while that tells everything; version 2 adds
//! what transactions need, version 3 how far back a producer's sequences are known (`docs/format.md`).
//! Nothing is believed that no log could have led to.

use std::collections::BTreeMap;

use highwater_model::limits::{
    PRODUCER_BATCHES_MAX, PRODUCER_SEQUENCES_BEFORE_MAX, PRODUCERS_PER_PARTITION_MAX,
    TXN_ABORTED_PER_SEGMENT_MAX, TXN_ENDED_PER_PARTITION_MAX,
};
use highwater_model::{Offset, ProducerId};

use super::{KnownBatch, NO_COORDINATOR_EPOCH, NONE, Producer, ProducerTable};
use crate::core::stored::{self, Reader, StoredError};
use crate::core::transactions::{AbortedTxn, EndedTxns, ProducerState};

pub const PRODUCERS_MAGIC: [u8; 4] = *b"HWPR";
pub const PRODUCERS_VERSION: u16 = 3;
const WITHOUT_TRANSACTIONS: u16 = 1;
const WITHOUT_SEQUENCES_BEFORE: u16 = 2;
/// Stored bytes of a producer without its batches, of a batch, and of what the later versions add.
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8;
const PRODUCER_MORE_BYTES: usize = 4 + 8 + 4;
const ENDED_BYTES: usize = 16;
const ABORTED_BYTES: usize = 24;
/// More than a table holds, as producers with open transactions come on top.
const PRODUCERS_MAX: usize = 2 * PRODUCERS_PER_PARTITION_MAX;
/// A segment is sealed when it has `TXN_ABORTED_PER_SEGMENT_MAX`; a replica may copy a larger one.
const ABORTED_MAX: usize = 4 * TXN_ABORTED_PER_SEGMENT_MAX;

impl ProducerState {
    /// The oldest version that can hold it.
    fn version(&self) -> u16 {
        let producers = || self.table.producers.values();
        if producers().any(|p| p.before > 0) {
            return PRODUCERS_VERSION;
        }
        let nothing_ended = self.ended.is_empty() && self.aborted.is_empty();
        match nothing_ended && producers().all(|p| p.coordinator_epoch < 0 && !p.is_open()) {
            true => WITHOUT_TRANSACTIONS,
            false => WITHOUT_SEQUENCES_BEFORE,
        }
    }

    /// The stored form: producers and transactions as they were when the log ended at `log_end`, for
    /// `<log_end>.producers` and for the footer of the object sealed there.
    pub fn encode(&self, log_end: Offset) -> Vec<u8> {
        assert!(log_end >= 0);
        let version = self.version();
        let producers = &self.table.producers;
        let batches: usize = producers.values().map(|p| usize::from(p.known)).sum();
        let rest = self.ended.len() * ENDED_BYTES + self.aborted.len() * ABORTED_BYTES;
        let bytes =
            20 + producers.len() * (PRODUCER_BYTES + PRODUCER_MORE_BYTES) + batches * BATCH_BYTES + rest;
        let mut body = Vec::with_capacity(bytes);
        body.extend_from_slice(&log_end.to_le_bytes());
        put_count(&mut body, producers.len());
        for (id, producer) in producers {
            put_producer(&mut body, *id, producer, version);
        }
        if version > WITHOUT_TRANSACTIONS {
            put_count(&mut body, self.ended.len());
            for (first, marker) in self.ended.iter() {
                body.extend_from_slice(&first.to_le_bytes());
                body.extend_from_slice(&marker.to_le_bytes());
            }
            put_count(&mut body, self.aborted.len());
            for aborted in &self.aborted {
                body.extend_from_slice(&aborted.producer_id.to_le_bytes());
                body.extend_from_slice(&aborted.first.to_le_bytes());
                body.extend_from_slice(&aborted.marker.to_le_bytes());
            }
        }
        stored::frame(PRODUCERS_MAGIC, version, &body)
    }

    /// Reads a stored state and the log end that it belongs to.
    ///
    /// # Errors
    /// Any damage; the caller then replays batch headers from an older snapshot.
    pub fn decode(file: &[u8]) -> Result<(Offset, ProducerState), StoredError> {
        let (version, body) = stored::unframe(PRODUCERS_MAGIC, PRODUCERS_VERSION, file)?;
        let mut r = Reader::new(body);
        let log_end = r.i64()?;
        if log_end < 0 {
            return Err(StoredError::Rule("log end"));
        }
        let count = r.count(PRODUCER_BYTES, PRODUCERS_MAX)?;
        let (mut producers, mut open) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..count {
            let id = r.i64()?;
            let producer = decode_producer(&mut r, log_end, version)?;
            let first = producer.txn_first;
            if first != NONE && open.insert(first, id).is_some() {
                return Err(StoredError::Rule("open transactions"));
            }
            if id < 0 || producers.insert(id, producer).is_some() {
                return Err(StoredError::Rule("producer ids"));
            }
        }
        let mut state =
            ProducerState { table: ProducerTable { producers, open }, ..ProducerState::default() };
        if version > WITHOUT_TRANSACTIONS {
            state.ended = decode_ended(&mut r, log_end)?;
            state.aborted = decode_aborted(&mut r, log_end)?;
        }
        r.finish()?;
        assert!(state.table.producers.len() == count);
        Ok((log_end, state))
    }
}

fn put_count(body: &mut Vec<u8>, count: usize) {
    body.extend_from_slice(&u32::try_from(count).expect("bounded by the limits of the log").to_le_bytes());
}

fn put_producer(body: &mut Vec<u8>, id: ProducerId, producer: &Producer, version: u16) {
    body.extend_from_slice(&id.to_le_bytes());
    body.extend_from_slice(&producer.epoch.to_le_bytes());
    body.extend_from_slice(&producer.last_append_ms.to_le_bytes());
    body.push(producer.known);
    if version > WITHOUT_TRANSACTIONS {
        body.extend_from_slice(&producer.coordinator_epoch.to_le_bytes());
        body.extend_from_slice(&producer.txn_first.to_le_bytes());
    }
    if version > WITHOUT_SEQUENCES_BEFORE {
        body.extend_from_slice(&producer.before.to_le_bytes());
    }
    for batch in producer.batches() {
        body.extend_from_slice(&batch.base_sequence.to_le_bytes());
        body.extend_from_slice(&batch.last_offset_delta.to_le_bytes());
        body.extend_from_slice(&batch.base_offset.to_le_bytes());
        body.extend_from_slice(&batch.max_timestamp.to_le_bytes());
    }
}

fn decode_producer(r: &mut Reader<'_>, log_end: Offset, version: u16) -> Result<Producer, StoredError> {
    let (epoch, last_append_ms, known) = (r.i16()?, r.i64()?, r.u8()?);
    if epoch < 0 || usize::from(known) > PRODUCER_BATCHES_MAX {
        return Err(StoredError::Rule("producer"));
    }
    let mut producer = Producer { known, ..Producer::new(epoch, last_append_ms) };
    if version > WITHOUT_TRANSACTIONS {
        (producer.coordinator_epoch, producer.txn_first) = (r.i32()?, r.i64()?);
        if producer.coordinator_epoch < NO_COORDINATOR_EPOCH
            || producer.txn_first < NONE
            || producer.txn_first >= log_end
        {
            return Err(StoredError::Rule("producer's transaction"));
        }
    }
    if version > WITHOUT_SEQUENCES_BEFORE {
        producer.before = r.u32()?;
        let is_full = usize::from(known) == PRODUCER_BATCHES_MAX;
        if producer.before > PRODUCER_SEQUENCES_BEFORE_MAX || producer.before > 0 && !is_full {
            return Err(StoredError::Rule("producer's sequences"));
        }
    }
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

fn decode_ended(r: &mut Reader<'_>, log_end: Offset) -> Result<EndedTxns, StoredError> {
    let mut ended = EndedTxns::default();
    for _ in 0..r.count(ENDED_BYTES, TXN_ENDED_PER_PARTITION_MAX)? {
        let (first, marker) = (r.i64()?, r.i64()?);
        let in_order = ended.iter().last().is_none_or(|(_, before)| before < marker);
        if first < 0 || marker <= first || marker >= log_end || !in_order {
            return Err(StoredError::Rule("ended transactions"));
        }
        ended.note(first, marker);
    }
    debug_assert!(ended.len() <= TXN_ENDED_PER_PARTITION_MAX);
    Ok(ended)
}

fn decode_aborted(r: &mut Reader<'_>, log_end: Offset) -> Result<Vec<AbortedTxn>, StoredError> {
    let count = r.count(ABORTED_BYTES, ABORTED_MAX)?;
    let mut aborted: Vec<AbortedTxn> = Vec::with_capacity(count);
    for _ in 0..count {
        let txn = AbortedTxn { producer_id: r.i64()?, first: r.i64()?, marker: r.i64()? };
        let in_order = aborted.last().is_none_or(|before| before.marker < txn.marker);
        let in_log = txn.first >= 0 && txn.first < txn.marker && txn.marker < log_end;
        if txn.producer_id < 0 || !in_log || !in_order {
            return Err(StoredError::Rule("aborted transactions"));
        }
        aborted.push(txn);
    }
    debug_assert!(aborted.windows(2).all(|pair| pair[0].marker < pair[1].marker));
    Ok(aborted)
}
