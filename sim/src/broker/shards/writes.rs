//! Batches and offsets that begin a transaction in a partition: a ticket is drawn, the coordinator adds the
//! partition, and only then they are written (KIP-890). And what readers of committed data are given.

use bytes::Bytes;
use highwater_broker::replica::{AppendRefusal, Origin};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::CommitTransactionOffsets;
use highwater_groups::core::txn::{AddPartitions, ClientVersion, Producer, TxnError};
use highwater_groups::core::types::Name;
use highwater_log::{SequenceRefusal, VerificationTicket};
use highwater_model::Offset;
use highwater_wire::batch::BatchHeader;
use highwater_wire::{Batches, HEADER_BYTES, Records};

use super::groups::header_of;
use super::{Broker, CALL_TIMEOUT};
use crate::broker::held::Waiting;
use crate::context::Context;
use crate::exactly::{Between, Committed, OFFSETS, TRANSACTIONS, Told, name_of};
use crate::guards::Guard;
use crate::history::{Tag, Value};
use crate::message::{ClientError, Message};
use crate::network::{Address, Micros};

const READ_BYTES: usize = 4_096;

/// A write that waits for the coordinator's word.
pub(super) struct Asking {
    client: Address,
    id: u64,
    at: Micros,
    ticket: VerificationTicket,
    write: Write,
}

enum Write {
    Batch { partition: u32, batch: Bytes },
    Offsets(CommitTransactionOffsets),
}

/// What is passing.
fn is_retriable(error: TxnError) -> bool {
    matches!(
        error,
        TxnError::ConcurrentTransactions
            | TxnError::CoordinatorLoadInProgress
            | TxnError::CoordinatorNotAvailable
            | TxnError::NotCoordinator
    )
}

fn produce_error(refusal: &AppendRefusal) -> ClientError {
    match refusal {
        AppendRefusal::Leader(highwater_broker::core::replica::LeaderRefusal::NotEnoughReplicas {
            ..
        }) => ClientError::NotEnoughReplicas,
        AppendRefusal::Leader(_) => ClientError::NotLeader,
        AppendRefusal::Log(_) => ClientError::Storage,
        AppendRefusal::Sequence(sequence) => match sequence {
            SequenceRefusal::Earlier { .. }
            | SequenceRefusal::StillOpen { .. }
            | SequenceRefusal::TooManyOpen(_) => ClientError::NotEnoughReplicas,
            SequenceRefusal::OutOfOrder { .. } => ClientError::OutOfOrder,
            _ => ClientError::Fenced,
        },
    }
}

impl Write {
    /// How a refusal of the coordinator is told.
    fn refused(&self, id: u64, error: TxnError) -> Message {
        let passes = is_retriable(error);
        match self {
            Write::Batch { .. } => {
                let error = if passes { ClientError::NotEnoughReplicas } else { ClientError::Fenced };
                Message::Produced { id, outcome: Err(error) }
            }
            Write::Offsets(_) => {
                let error = if passes {
                    GroupError::ConcurrentTransactions
                } else {
                    GroupError::InvalidProducerEpoch
                };
                Message::Told { id, told: Told::Committed(Err(error)) }
            }
        }
    }
}

impl Broker {
    pub(super) fn verify_produce(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        transactional_id: Name,
        partition: u32,
        batch: Bytes,
    ) {
        let now_ms = self.now_ms(context);
        let header = BatchHeader::parse(&batch).expect("sound batches");
        let here = self.address();
        let Some(held) = self.held(partition).filter(|held| held.leads()) else {
            let outcome = Err(ClientError::NotLeader);
            return context.send(here, client, Message::Produced { id, outcome });
        };
        let ticket = held.machine_mut().log_mut().verification_ticket(&header, true, now_ms);
        match ticket.filter(|_| context.guards.holds(Guard::VerifiedTransaction)) {
            Some(ticket) => {
                let write = Write::Batch { partition, batch };
                let producer = Producer { id: header.producer_id, epoch: header.producer_epoch };
                let asking = Asking { client, id, at: context.now, ticket, write };
                self.ask_coordinator(context, asking, transactional_id, producer, partition);
            }
            None => self.append_transactional(context, client, id, partition, &batch, ticket),
        }
    }

    pub(super) fn verify_commit(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        transactional_id: Name,
        commit: CommitTransactionOffsets,
    ) {
        let now_ms = self.now_ms(context);
        let header = header_of(commit.producer_id, commit.producer_epoch);
        let Some(held) = self.held(OFFSETS).filter(|held| held.leads()) else {
            let told = Told::Committed(Err(GroupError::NotCoordinator));
            return self.tell(context, client, id, told);
        };
        // What coordinators write has no sequences that begin at 0.
        let ticket = held.machine_mut().log_mut().verification_ticket(&header, false, now_ms);
        match ticket.filter(|_| context.guards.holds(Guard::VerifiedTransaction)) {
            Some(ticket) => {
                let producer = Producer { id: commit.producer_id, epoch: commit.producer_epoch };
                let write = Write::Offsets(commit);
                let asking = Asking { client, id, at: context.now, ticket, write };
                self.ask_coordinator(context, asking, transactional_id, producer, OFFSETS);
            }
            None => self.commit_offsets(context, client, id, commit, ticket),
        }
    }

    fn ask_coordinator(
        &mut self,
        context: &mut Context,
        asking: Asking,
        transactional_id: Name,
        producer: Producer,
        partition: u32,
    ) {
        let from = self.address();
        let Some(leader) = self.leader_of(context, TRANSACTIONS) else {
            let message = asking.write.refused(asking.id, TxnError::NotCoordinator);
            return context.send(from, asking.client, message);
        };
        let partitions = vec![name_of(partition)];
        let asked = AddPartitions { transactional_id, producer, partitions, version: ClientVersion::V2 };
        let id = context.id();
        self.process.as_mut().expect("alive").shards.asking.insert(id, asking);
        context.send(from, Address::Broker(leader), Message::Between(Between::Add { id, asked }));
    }

    pub(super) fn added(&mut self, context: &mut Context, id: u64, outcome: Result<(), TxnError>) {
        let Some(asking) = self.process.as_mut().and_then(|p| p.shards.asking.remove(&id)) else { return };
        let Asking { client, id, ticket, write, .. } = asking;
        if let Err(error) = outcome {
            return context.send(self.address(), client, write.refused(id, error));
        }
        match write {
            Write::Batch { partition, batch } => {
                self.append_transactional(context, client, id, partition, &batch, Some(ticket));
            }
            Write::Offsets(commit) => self.commit_offsets(context, client, id, commit, Some(ticket)),
        }
    }

    pub(super) fn time_out_asking(&mut self, context: &mut Context) {
        let (from, now) = (self.address(), context.now);
        let Some(process) = &mut self.process else { return };
        let asking = &mut process.shards.asking;
        let late: Vec<u64> =
            asking.iter().filter(|(_, a)| now >= a.at + CALL_TIMEOUT).map(|(id, _)| *id).collect();
        for id in late {
            let asking = asking.remove(&id).expect("just found");
            let message = asking.write.refused(asking.id, TxnError::NotCoordinator);
            context.send(from, asking.client, message);
        }
    }

    fn append_transactional(
        &mut self,
        context: &mut Context,
        client: Address,
        id: u64,
        partition: u32,
        batch: &Bytes,
        ticket: Option<VerificationTicket>,
    ) {
        let header = BatchHeader::parse(batch).expect("sound batches");
        match self.append_in(context, partition, None, (&header, batch), Origin::Client(ticket)) {
            Ok(appended) => {
                let (base_offset, ticket) = (appended.base_offset, appended.ticket);
                if let Some(held) = self.held(partition) {
                    held.waiting.push(Waiting { client, id, base_offset, ticket });
                }
                self.answer_waiting(context, partition);
            }
            // It is in the log, and committed; where is not known.
            Err(AppendRefusal::Sequence(SequenceRefusal::Duplicate { .. })) => {
                context.send(self.address(), client, Message::Produced { id, outcome: Ok(-1) });
            }
            Err(refusal) => {
                let outcome = Err(produce_error(&refusal));
                context.send(self.address(), client, Message::Produced { id, outcome });
            }
        }
    }

    /// Records below the last stable offset, those of aborted transactions left out.
    pub fn read_committed(&self, partition: u32, offset: Offset) -> Result<Committed, ClientError> {
        let held = self.process.as_ref().and_then(|p| p.held.get(&partition));
        let held = held.ok_or(ClientError::NotLeader)?;
        let log = held.log();
        let end = log.last_stable(held.machine().readable_end());
        let mut found = Committed { records: Vec::new(), next: offset };
        if offset >= end {
            return Ok(found);
        }
        let aborted = log.aborted_in(offset, end).map_err(|_| ClientError::Storage)?;
        let read = log.read(offset, READ_BYTES, end, true).map_err(|_| ClientError::OutOfRange)?;
        for slice in read.slices {
            let bytes = slice.read().expect("memory files can be read");
            for item in Batches::new(&bytes) {
                let (header, batch) = item.expect("whole batches");
                found.next = header.next_offset();
                let base = header.base_offset;
                let is_aborted = aborted.iter().any(|txn| {
                    txn.producer_id == header.producer_id && txn.first <= base && base < txn.marker
                });
                if !header.is_control() && !is_aborted {
                    let records = tagged(&header, batch);
                    found.records.extend(records.into_iter().filter(|(at, _, _)| *at >= offset));
                }
            }
        }
        Ok(found)
    }

    /// Whether nothing is undecided in a partition of this leader.
    pub fn is_decided(&self, partition: u32) -> bool {
        let held = self.process.as_ref().and_then(|p| p.held.get(&partition));
        held.is_some_and(|held| held.log().last_stable(held.high_watermark()) == held.log().log_end())
    }
}

/// Offset, value and transaction of each record of a worker's batch.
fn tagged(header: &BatchHeader, batch: &[u8]) -> Vec<(Offset, Value, Tag)> {
    let mut found = Vec::new();
    let mut records = Records::new(&batch[HEADER_BYTES..], header.record_count);
    while let Some(record) = records.next().expect("sound records") {
        let bytes = record.value.expect("a value");
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        found.push((header.base_offset + i64::from(record.offset_delta), number(0), number(8)));
    }
    found
}
