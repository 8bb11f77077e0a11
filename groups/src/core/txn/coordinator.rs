//! The coordinator itself: transactional ids, their pending changes and what is due; requests come in here.
//!
//! Owns the one way in which state changes: `begin_write` asks for a record, `appended` applies it. Decisions
//! stand in `init`, `end` and `transaction`, markers in `markers`, what time makes due in `abort`.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::ProducerId;
use highwater_model::limits::{
    TXN_ID_BYTES_MAX, TXN_IDS_PER_PARTITION_MAX, TXN_PARTITIONS_MAX, TXN_RETRY_MS_MAX,
};

use super::end::EndPlan;
use super::init::InitPlan;
use super::markers::Marking;
use super::records::{encode_key, encode_value, fits_a_record};
use super::rewrite::Pass;
use super::transaction::Transaction;
use super::types::{
    AppendFailure, ClientVersion, Effect, Producer, Reply, RequestId, TxnError, TxnPartition, TxnRecord,
    TxnSettings, TxnState, WriteId, after,
};
use crate::core::types::{Millis, Name};

/// InitProducerId with a transactional id. Without one any broker hands out a fresh id at epoch 0, and needs
/// no coordinator for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitProducerId {
    pub transactional_id: Name,
    pub timeout_ms: i32,
    /// Who the producer was so far, if it wants to go on after an error (KIP-360).
    pub expected: Option<Producer>,
}

/// AddPartitionsToTxn for one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddPartitions {
    pub transactional_id: Name,
    pub producer: Producer,
    pub partitions: Vec<TxnPartition>,
    pub version: ClientVersion,
}

/// EndTxn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndTxn {
    pub transactional_id: Name,
    pub producer: Producer,
    pub commit: bool,
    pub version: ClientVersion,
}

/// Who is to be told when a write is committed or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Nobody,
    Init(RequestId),
    /// A producer was fenced for this request, which is to come again.
    InitAgain(RequestId),
    AddPartitions(RequestId),
    AddOffsets(RequestId),
    End(RequestId, Producer, ClientVersion),
}

/// A change whose record is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub write: WriteId,
    /// None: the id is forgotten.
    pub next: Option<Transaction>,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub txn: Transaction,
    pub pending: Option<Pending>,
    pub marking: Option<Marking>,
    /// After a write that failed, time makes nothing due for a while.
    pub not_before_ms: Millis,
    /// When it stands in `due`.
    pub due_ms: Option<Millis>,
    /// The write that the state is of; 0: it was loaded, or nothing is stored of it.
    pub written: WriteId,
}

/// The transactional ids of one partition of `__transaction_state`.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub(super) settings: TxnSettings,
    pub(super) coordinator_epoch: i32,
    pub(super) entries: BTreeMap<Name, Entry>,
    /// What time makes due, one place per id at most.
    pub(super) due: BTreeSet<(Millis, Name)>,
    pub(super) writes: BTreeMap<WriteId, Name>,
    pub(super) next_write: WriteId,
    /// A partition knows a newer coordinator: this one changes nothing any more.
    pub(super) is_fenced: bool,
    /// A pass that writes the state once more.
    pub(super) rewrite: Option<Pass>,
}

impl Coordinator {
    /// Of an empty partition. With records see `Loader`. `coordinator_epoch`: the leader epoch of the
    /// partition.
    pub fn new(settings: TxnSettings, coordinator_epoch: i32) -> Coordinator {
        assert!(coordinator_epoch >= 0);
        Coordinator {
            settings,
            coordinator_epoch,
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            writes: BTreeMap::new(),
            next_write: 0,
            is_fenced: false,
            rewrite: None,
        }
    }

    pub fn coordinator_epoch(&self) -> i32 {
        self.coordinator_epoch
    }

    /// A newer coordinator was met: the broker does not lead the partition any more and drops this one.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    /// Transactional ids that are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The committed state of a transactional id.
    pub fn transaction(&self, transactional_id: &str) -> Option<&Transaction> {
        self.entries.get(transactional_id).map(|entry| &entry.txn).filter(|txn| txn.epoch >= 0)
    }

    /// Takes effect for what becomes due from now on, and at each id's next change.
    pub fn set_settings(&mut self, settings: TxnSettings) {
        self.settings = settings;
    }

    /// Gives the transactional id to the producer that asks: a new epoch, after an abort of what is open.
    /// `fresh` draws a producer id that was never used, or has none at hand.
    pub fn init_producer_id(
        &mut self,
        now: Millis,
        request: RequestId,
        asked: &InitProducerId,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
        effects: &mut Vec<Effect>,
    ) {
        let decided = self.decide_init(now, asked, fresh);
        let id = &asked.transactional_id;
        match decided {
            Err(error) => reply(effects, request, Reply::InitProducerId(Err(error))),
            Ok(InitPlan::Next(next)) => self.begin_write(id, Some(next), Answer::Init(request), effects),
            Ok(InitPlan::Fence(next)) => {
                self.begin_write(id, Some(next), Answer::InitAgain(request), effects);
            }
        }
    }

    fn decide_init(
        &mut self,
        now: Millis,
        asked: &InitProducerId,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
    ) -> Result<InitPlan, TxnError> {
        let id = &asked.transactional_id;
        check_id(id)?;
        if asked.timeout_ms <= 0 || asked.timeout_ms > self.settings.timeout_ms_max {
            return Err(TxnError::InvalidTransactionTimeout);
        }
        if self.is_fenced {
            return Err(TxnError::NotCoordinator);
        }
        if let Some(entry) = self.entries.get(id) {
            if entry.pending.is_some() {
                return Err(TxnError::ConcurrentTransactions);
            }
            return entry.txn.plan_init(asked, now, fresh);
        }
        if self.entries.len() >= TXN_IDS_PER_PARTITION_MAX {
            return Err(TxnError::PolicyViolation);
        }
        let producer_id = fresh().ok_or(TxnError::CoordinatorLoadInProgress)?;
        let created = Transaction::created(producer_id, asked.timeout_ms, now);
        let plan = created.plan_init(asked, now, fresh)?;
        self.entries.insert(id.clone(), Entry::new(created));
        Ok(plan)
    }

    /// Adds partitions to the transaction, beginning it if none is open. Answered at once if all of them are
    /// in it already.
    pub fn add_partitions(
        &mut self,
        now: Millis,
        request: RequestId,
        asked: &AddPartitions,
        effects: &mut Vec<Effect>,
    ) {
        self.add(now, asked, Answer::AddPartitions(request), effects);
    }

    /// AddOffsetsToTxn: adds the partition of `__consumer_offsets` that the caller has found for the group.
    pub fn add_offsets(
        &mut self,
        now: Millis,
        request: RequestId,
        asked: &AddPartitions,
        effects: &mut Vec<Effect>,
    ) {
        self.add(now, asked, Answer::AddOffsets(request), effects);
    }

    fn add(&mut self, now: Millis, asked: &AddPartitions, answer: Answer, effects: &mut Vec<Effect>) {
        match self.decide_add(now, asked) {
            Ok(Some(next)) => self.begin_write(&asked.transactional_id, Some(next), answer, effects),
            Ok(None) => answer.send(Ok(()), None, effects),
            Err(error) => answer.send(Err(error), None, effects),
        }
    }

    fn decide_add(&self, now: Millis, asked: &AddPartitions) -> Result<Option<Transaction>, TxnError> {
        let entry = self.entry_for(&asked.transactional_id)?;
        let txn = &entry.txn;
        txn.check_producer(asked.producer)?;
        if entry.pending.is_some() || txn.state.is_prepared() {
            return Err(TxnError::ConcurrentTransactions);
        }
        if txn.state == TxnState::Ongoing && asked.partitions.iter().all(|p| txn.partitions.contains(p)) {
            return Ok(None);
        }
        let next = txn.with_partitions(&asked.partitions, asked.version, now);
        if next.partitions.len() > TXN_PARTITIONS_MAX || !fits_a_record(&next) {
            return Err(TxnError::PolicyViolation);
        }
        Ok(Some(next))
    }

    /// Whether the transaction is open and has these partitions (AddPartitionsToTxn, verify only). Changes
    /// nothing. A pending change does not count: the log looks again when it appends.
    ///
    /// # Errors
    /// For all partitions alike; in the list, `TransactionAbortable` for one that is not in the transaction.
    pub fn verify(&self, asked: &AddPartitions) -> Result<Vec<Result<(), TxnError>>, TxnError> {
        let txn = &self.entry_for(&asked.transactional_id)?.txn;
        txn.check_producer(asked.producer)?;
        if txn.state.is_prepared() {
            return Err(TxnError::ConcurrentTransactions);
        }
        let is_in = |p: &TxnPartition| txn.state == TxnState::Ongoing && txn.partitions.contains(p);
        let judged = asked.partitions.iter().map(|p| match is_in(p) {
            true => Ok(()),
            false => Err(TxnError::TransactionAbortable),
        });
        Ok(judged.collect())
    }

    /// Ends the transaction. Answered when the decision is committed; the markers follow.
    pub fn end_txn(
        &mut self,
        now: Millis,
        request: RequestId,
        asked: &EndTxn,
        fresh: &mut dyn FnMut() -> Option<ProducerId>,
        effects: &mut Vec<Effect>,
    ) {
        let decided = self.entry_for(&asked.transactional_id).and_then(|entry| {
            let is_pending = entry.pending.is_some();
            entry.txn.plan_end(asked, is_pending, now, fresh)
        });
        match decided {
            Err(error) => reply(effects, request, Reply::EndTxn(Err(error))),
            Ok(EndPlan::Already(producer)) => reply(effects, request, Reply::EndTxn(Ok(producer))),
            Ok(EndPlan::Next(next)) => {
                let answer = Answer::End(request, asked.producer, asked.version);
                self.begin_write(&asked.transactional_id, Some(next), answer, effects);
            }
        }
    }

    pub(super) fn entry_for(&self, id: &Name) -> Result<&Entry, TxnError> {
        check_id(id)?;
        if self.is_fenced {
            return Err(TxnError::NotCoordinator);
        }
        let entry = self.entries.get(id).filter(|entry| entry.txn.epoch >= 0);
        entry.ok_or(TxnError::InvalidProducerIdMapping)
    }

    /// Asks for the record of a decided change; nobody else may change the id until it is known.
    pub(super) fn begin_write(
        &mut self,
        id: &Name,
        next: Option<Transaction>,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        assert!(!self.is_fenced, "a fenced coordinator writes nothing");
        let write = self.number();
        let entry = self.entries.get_mut(id).expect("the caller has found it");
        assert!(entry.pending.is_none(), "one change at a time");
        if let Some(next) = &next {
            next.check_follows(&entry.txn);
        }
        let value = next.as_ref().map(encode_value);
        entry.pending = Some(Pending { write, next, answer });
        self.writes.insert(write, id.clone());
        self.reschedule(id);
        effects.push(Effect::Append { write, record: TxnRecord { key: encode_key(id), value } });
        assert!(self.writes.len() <= self.entries.len(), "one write per id");
    }

    pub(super) fn number(&mut self) -> WriteId {
        self.next_write += 1;
        self.next_write
    }

    /// The record of `write` is committed, or certainly was not appended. An unknown write is ignored.
    pub fn appended(
        &mut self,
        now: Millis,
        write: WriteId,
        outcome: Result<(), AppendFailure>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(id) = self.writes.remove(&write) else {
            return;
        };
        let entry = self.entries.get_mut(&id).expect("an id with a write is not forgotten");
        let pending = entry.pending.take().expect("an id with a write has a pending change");
        assert_eq!(pending.write, write);
        if let Err(failure) = outcome {
            pending.answer.send(Err(failure.error()), None, effects);
            return self.write_failed(now, &id);
        }
        let Some(next) = pending.next else {
            self.entries.remove(&id);
            return;
        };
        (entry.txn, entry.written, entry.not_before_ms) = (next, write, 0);
        pending.answer.send(Ok(()), Some(&entry.txn), effects);
        entry.marking = None;
        if entry.txn.state.is_prepared() && !self.is_fenced {
            self.begin_marking(now, &id, effects);
        }
        self.reschedule(&id);
    }

    /// The old state stands. What must be tried again is due a little later.
    fn write_failed(&mut self, now: Millis, id: &Name) {
        let entry = self.entries.get_mut(id).expect("the caller has found it");
        if entry.txn.epoch < 0 {
            // Nobody was told of the producer id that was drawn for it.
            self.entries.remove(id);
            return;
        }
        entry.not_before_ms = after(now, TXN_RETRY_MS_MAX);
        if let Some(marking) = &mut entry.marking {
            marking.pause(now);
        }
        self.reschedule(id);
        debug_assert!(self.entries.contains_key(id));
    }

    /// Puts the id at its place in `due`.
    pub(super) fn reschedule(&mut self, id: &Name) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // The end of time, where `after` stops, never comes.
        let due_ms = entry.due(&self.settings).filter(|due| !self.is_fenced && *due < Millis::MAX);
        let before = std::mem::replace(&mut entry.due_ms, due_ms);
        if before == due_ms {
            return;
        }
        if let Some(before) = before {
            let was_there = self.due.remove(&(before, id.clone()));
            assert!(was_there, "{id} stood in one table only");
        }
        if let Some(due_ms) = due_ms {
            self.due.insert((due_ms, id.clone()));
        }
        assert!(self.due.len() <= self.entries.len(), "one place per id");
    }
}

impl Entry {
    pub fn new(txn: Transaction) -> Entry {
        Entry { txn, pending: None, marking: None, not_before_ms: 0, due_ms: None, written: 0 }
    }

    /// When time alone makes something due for it.
    fn due(&self, settings: &TxnSettings) -> Option<Millis> {
        if self.pending.is_some() {
            return None;
        }
        let due_ms = match self.txn.state {
            // Without a timeout: KIP-939's two-phase commit.
            TxnState::Ongoing if self.txn.timeout_ms == i32::MAX => None,
            TxnState::Ongoing => Some(after(self.txn.started_ms, i64::from(self.txn.timeout_ms) + 1)),
            TxnState::PrepareCommit | TxnState::PrepareAbort => {
                return self.marking.as_ref().map(|m| m.again_ms);
            }
            TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort => {
                Some(after(self.txn.updated_ms, settings.id_expiration_ms))
            }
        };
        due_ms.map(|due_ms| due_ms.max(self.not_before_ms))
    }
}

impl Transaction {
    /// Whether `producer` is the one that may write under this id now.
    fn check_producer(&self, producer: Producer) -> Result<(), TxnError> {
        if producer != self.producer() && self.state.is_prepared() && producer == self.goes_on_as() {
            return Err(TxnError::ConcurrentTransactions);
        }
        if producer.id != self.producer_id {
            return Err(TxnError::InvalidProducerIdMapping);
        }
        if producer.epoch != self.epoch {
            return Err(TxnError::ProducerFenced);
        }
        Ok(())
    }
}

impl Answer {
    /// Answers whoever waits; `txn` is the state that was committed.
    fn send(self, outcome: Result<(), TxnError>, txn: Option<&Transaction>, effects: &mut Vec<Effect>) {
        let producer = |outcome: Result<(), TxnError>| {
            outcome.map(|()| txn.expect("a committed change has a state").producer())
        };
        match self {
            Answer::Nobody => {}
            Answer::Init(request) => reply(effects, request, Reply::InitProducerId(producer(outcome))),
            Answer::InitAgain(request) => {
                let again = outcome.and(Err(TxnError::ConcurrentTransactions));
                reply(effects, request, Reply::InitProducerId(again));
            }
            Answer::AddPartitions(request) => reply(effects, request, Reply::AddPartitions(outcome)),
            Answer::AddOffsets(request) => reply(effects, request, Reply::AddOffsets(outcome)),
            Answer::End(request, asked, version) => {
                let told = outcome.map(|()| match version.bumps_epoch() {
                    true => txn.expect("a committed change has a state").goes_on_as(),
                    false => asked,
                });
                reply(effects, request, Reply::EndTxn(told));
            }
        }
    }

    /// As `send`, when the coordinator goes.
    pub(super) fn refuse(self, error: TxnError, effects: &mut Vec<Effect>) {
        self.send(Err(error), None, effects);
    }
}

fn check_id(id: &Name) -> Result<(), TxnError> {
    if id.is_empty() || id.len() > TXN_ID_BYTES_MAX {
        return Err(TxnError::InvalidRequest);
    }
    Ok(())
}

fn reply(effects: &mut Vec<Effect>, request: RequestId, reply: Reply) {
    effects.push(Effect::Reply { request, reply });
}
