//! The whole state written once more, so that the log before it may go: how the log of a coordinator stays
//! bounded (as `crate::core::rewrite` does for groups).
//!
//! A pass goes through the ids in their order and hands out a record of each one's committed state, a part at
//! a time. A log that begins where the pass began and holds all of it reads back as the same state, because
//! the last word on each id stands in it: the pass's, or that of a change since. Nothing of the state changes
//! by it.
//!
//! An id with a pending change cannot be written: the record of that change may stand in the log already, and
//! what is written later counts. It waits until the change is settled. If that was appended after the pass
//! began, its record is in the pass's part of the log, and nothing more is to be written.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use super::coordinator::{Coordinator, Entry};
use super::records::{encode_key, encode_value};
use super::transaction::Transaction;
use super::types::{TxnRecord, WriteId};
use crate::core::types::Name;

/// Bytes that a record takes beside its texts, about.
const RECORD_BYTES: usize = 80;

/// A pass under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// What was asked for up to this number stands before the pass in the log.
    began: WriteId,
    /// The last id whose turn has come.
    behind: Option<Name>,
    is_through: bool,
    /// Ids whose change was not settled when their turn came.
    later: BTreeSet<Name>,
}

/// What a pass hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewritePart {
    /// To be appended before anything else happens, in as many batches as the caller likes.
    pub records: Vec<TxnRecord>,
    /// The pass is over.
    pub is_last: bool,
}

/// What a pass has to do for an id now.
enum Turn {
    Write(TxnRecord),
    /// A change of it is on its way.
    Wait,
    /// What the log says behind the pass's beginning is all.
    Nothing,
}

fn bytes_of(id: &Name, txn: &Transaction) -> usize {
    let partitions = txn.partitions.iter().map(|at| at.topic.len() + 8).sum::<usize>();
    RECORD_BYTES + id.len() + partitions
}

impl Entry {
    fn turn(&self, id: &Name, began: WriteId) -> Turn {
        if self.written > began {
            return Turn::Nothing;
        }
        if self.pending.is_some() {
            return Turn::Wait;
        }
        assert!(self.txn.epoch >= 0, "an id without a record has a change on its way");
        Turn::Write(TxnRecord { key: encode_key(id), value: Some(encode_value(&self.txn)) })
    }
}

impl Coordinator {
    /// About how many bytes a pass would write now.
    pub fn live_bytes(&self) -> u64 {
        self.entries.iter().map(|(id, entry)| bytes_of(id, &entry.txn) as u64).sum()
    }

    /// A pass begins, from the start if one was under way. What is appended from now on belongs to it.
    pub fn begin_rewrite(&mut self) {
        debug_assert!(self.writes.keys().all(|write| *write <= self.next_write), "numbers only grow");
        let (began, later) = (self.next_write, BTreeSet::new());
        self.rewrite = Some(Pass { began, behind: None, is_through: false, later });
    }

    /// The next part of the pass: about `bytes_max`, more where one id takes more. A part that is empty and
    /// not the last waits for changes to be settled, so ask again later.
    ///
    /// # Panics
    /// If no pass was begun, or it is over.
    pub fn rewrite(&mut self, bytes_max: usize) -> RewritePart {
        let mut pass = self.rewrite.take().expect("a pass was begun");
        let (mut records, mut bytes) = (Vec::new(), 0);
        for id in std::mem::take(&mut pass.later) {
            // One that is gone has its tombstone in the log, or had no record.
            let Some(entry) = self.entries.get(&id) else { continue };
            if bytes >= bytes_max {
                pass.later.insert(id);
                continue;
            }
            match entry.turn(&id, pass.began) {
                Turn::Nothing => {}
                Turn::Wait => {
                    pass.later.insert(id);
                }
                Turn::Write(record) => {
                    bytes += bytes_of(&id, &entry.txn);
                    records.push(record);
                }
            }
        }
        while bytes < bytes_max && !pass.is_through {
            let from = pass.behind.clone().map_or(Unbounded, Excluded);
            let Some((id, entry)) = self.entries.range((from, Unbounded)).next() else {
                pass.is_through = true;
                break;
            };
            bytes += bytes_of(id, &entry.txn); // looking at one costs as well
            match entry.turn(id, pass.began) {
                Turn::Nothing => {}
                Turn::Wait => {
                    pass.later.insert(id.clone());
                }
                Turn::Write(record) => records.push(record),
            }
            pass.behind = Some(id.clone());
        }
        let is_last = pass.is_through && pass.later.is_empty();
        if !is_last {
            self.rewrite = Some(pass);
        }
        RewritePart { records, is_last }
    }
}
