//! The records of `__transaction_state`, byte for byte Kafka's: `TransactionLogKey` version 0 and
//! `TransactionLogValue` versions 0 and 1 (flexible since 1; tags 0 previous id, 1 next id, 2 client
//! version).
//!
//! Reading is bounded by the bytes at hand and refuses what no coordinator writes; an unknown tag is left
//! out. Written is version 1, as Kafka does from `transaction.version` 1 on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_model::limits::{TXN_PARTITIONS_MAX, TXN_RECORD_BYTES_MAX};

use super::transaction::Transaction;
use super::types::{ClientVersion, NO_EPOCH, NO_PRODUCER_ID, TxnPartition, TxnState};
use crate::core::codec::{Damage, Reader, Writer};
use crate::core::types::Name;

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const PREVIOUS_PRODUCER_ID: u32 = 0;
const NEXT_PRODUCER_ID: u32 = 1;
const CLIENT_VERSION: u32 = 2;

/// The key under which a transactional id's records are compacted. The id is at most 32,767 bytes long.
pub fn encode_key(transactional_id: &str) -> Bytes {
    let mut w = Writer::new(KEY_VERSION);
    w.string(transactional_id);
    debug_assert_eq!(w.len(), 4 + transactional_id.len());
    w.into_bytes()
}

/// The transactional id of a key.
///
/// # Errors
/// `Version` for a kind of record that is not known, which a reader skips; any other for damage.
pub fn decode_key(key: &[u8]) -> Result<Name, Damage> {
    let mut r = Reader::new(key);
    match r.int16()? {
        KEY_VERSION => {}
        version => return Err(Damage::Version(version)),
    }
    let id = r.string()?;
    r.end()?;
    Ok(id)
}

/// The value of a transaction's state.
pub fn encode_value(txn: &Transaction) -> Bytes {
    assert!(txn.producer_id >= 0 && txn.epoch >= 0, "only what a client may hold is stored");
    let mut w = Writer::new(VALUE_VERSION);
    w.int64(txn.producer_id);
    w.int16(txn.epoch);
    w.int32(txn.timeout_ms);
    w.int8(txn.state.id());
    put_partitions(&mut w, txn);
    w.int64(txn.updated_ms);
    w.int64(txn.started_ms);
    put_tags(&mut w, txn);
    w.into_bytes()
}

/// Whether the value is within what a record may be; to be asked before partitions are added.
pub(super) fn fits_a_record(txn: &Transaction) -> bool {
    // As if each partition named its topic: never less than what is written, and cheap to know.
    let bound: usize = txn.partitions.iter().map(|at| at.topic.len() + 12).sum();
    bound < TXN_RECORD_BYTES_MAX || encode_value(txn).len() < TXN_RECORD_BYTES_MAX
}

fn put_partitions(w: &mut Writer, txn: &Transaction) {
    if txn.state == TxnState::Empty {
        assert!(txn.partitions.is_empty(), "nothing is open");
        return w.varint(0);
    }
    let mut by_topic: BTreeMap<&Name, Vec<i32>> = BTreeMap::new();
    for at in &txn.partitions {
        by_topic.entry(&at.topic).or_default().push(at.partition);
    }
    w.compact_count(by_topic.len());
    for (topic, partitions) in by_topic {
        w.compact_string(topic);
        w.compact_count(partitions.len());
        for partition in partitions {
            w.int32(partition);
        }
        w.no_tags();
    }
}

/// Tagged fields that are not at their default, in the order of their tags.
fn put_tags(w: &mut Writer, txn: &Transaction) {
    let mut tags: Vec<(u32, Vec<u8>)> = Vec::new();
    if txn.previous_producer_id != NO_PRODUCER_ID {
        tags.push((PREVIOUS_PRODUCER_ID, txn.previous_producer_id.to_be_bytes().to_vec()));
    }
    if txn.next_producer_id != NO_PRODUCER_ID {
        tags.push((NEXT_PRODUCER_ID, txn.next_producer_id.to_be_bytes().to_vec()));
    }
    if txn.version != ClientVersion::V0 {
        tags.push((CLIENT_VERSION, (txn.version as i16).to_be_bytes().to_vec()));
    }
    w.varint(tags.len() as u32);
    for (tag, bytes) in tags {
        w.varint(tag);
        w.varint(bytes.len() as u32);
        w.raw(&bytes);
    }
}

/// A transaction's state from its value.
///
/// # Errors
/// Damage, or a version or state that is not known; nothing of the value may be used.
pub fn decode_value(value: &[u8]) -> Result<Transaction, Damage> {
    let mut r = Reader::new(value);
    let version = r.int16()?;
    if version != 0 && version != VALUE_VERSION {
        return Err(Damage::Version(version));
    }
    let is_flexible = version == VALUE_VERSION;
    let producer_id = r.int64()?;
    let epoch = r.int16()?;
    let timeout_ms = r.int32()?;
    let state = TxnState::from_id(r.int8()?).ok_or(Damage::Length)?;
    let partitions = partitions(&mut r, is_flexible)?;
    let mut txn = Transaction {
        producer_id,
        previous_producer_id: NO_PRODUCER_ID,
        next_producer_id: NO_PRODUCER_ID,
        epoch,
        last_epoch: NO_EPOCH,
        timeout_ms,
        state,
        partitions,
        updated_ms: r.int64()?,
        started_ms: r.int64()?,
        version: ClientVersion::V0,
    };
    if is_flexible {
        r.tags(|tag, field| {
            match tag {
                PREVIOUS_PRODUCER_ID => txn.previous_producer_id = field.int64()?,
                NEXT_PRODUCER_ID => txn.next_producer_id = field.int64()?,
                CLIENT_VERSION => {
                    let level = field.int16()?;
                    txn.version = ClientVersion::from_level(level).ok_or(Damage::Version(level))?;
                }
                _ => {}
            }
            Ok(())
        })?;
    }
    r.end()?;
    check(txn)
}

/// Refuses what no coordinator writes: it would break the rules that decisions rely on.
fn check(mut txn: Transaction) -> Result<Transaction, Damage> {
    let ids = [txn.previous_producer_id, txn.next_producer_id];
    let is_possible = txn.producer_id >= 0 && txn.epoch >= 0 && txn.timeout_ms >= 0;
    let is_possible = is_possible && txn.next_producer_id != txn.producer_id;
    if !is_possible || ids.iter().any(|id| *id < NO_PRODUCER_ID) {
        return Err(Damage::Length);
    }
    if txn.state == TxnState::Empty && !txn.partitions.is_empty() {
        return Err(Damage::Length);
    }
    if txn.state.is_idle() {
        // Kafka writes none into a complete one; an older coordinator may have.
        txn.partitions.clear();
    }
    if !txn.state.is_prepared() {
        txn.next_producer_id = NO_PRODUCER_ID;
    }
    debug_assert!(txn.last_epoch == NO_EPOCH);
    Ok(txn)
}

fn partitions(r: &mut Reader<'_>, is_flexible: bool) -> Result<BTreeSet<TxnPartition>, Damage> {
    let mut found = BTreeSet::new();
    let topics = if is_flexible { r.compact_count()? } else { r.count()? };
    for _ in 0..topics {
        let topic = if is_flexible { r.compact_string()? } else { r.string()? };
        let count = if is_flexible { r.compact_count()? } else { r.count()? };
        for _ in 0..count {
            let partition = r.int32()?;
            if partition < 0 || found.len() >= TXN_PARTITIONS_MAX {
                return Err(Damage::Length);
            }
            found.insert(TxnPartition { topic: topic.clone(), partition });
        }
        if is_flexible {
            r.skip_tags()?;
        }
    }
    debug_assert!(found.len() <= TXN_PARTITIONS_MAX);
    Ok(found)
}
