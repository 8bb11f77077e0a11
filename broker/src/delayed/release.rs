//! Records that are due on their way to their partition: the batch, sent again and again to whoever leads the
//! partition until it is committed there, and the end that appends it.
//!
//! A partition's log takes a batch of this producer and sequence once, so that repeating is safe. A partition
//! counts as deleted only when the control plane says so now (a node may be behind). Invariants: 3, 6, 19.

use std::sync::Arc;

use bytes::Bytes;
use highwater_model::limits::{
    DELAYED_OUT_OF_ORDER_WAIT, DELAYED_RELEASE_WAIT_MAX, DELAYED_RETRY_PAUSE, DELAYED_RETRY_PAUSE_MAX,
};
use highwater_model::topic_config::TimestampType as ConfigTimestamp;
use highwater_model::{NodeId, TopicPartition};
use highwater_wire::batch::{attributes, check_crc, write_timestamps};
use highwater_wire::{AcceptedBatch, BatchBuilder, BatchHeader, Codec, HEADER_BYTES, TimestampType};
use tokio::time::Instant;

use crate::core::delayed::{CodecError, Release, read_record};
use crate::handlers::errors;
use crate::handlers::topics::{leader_of, leader_refusal_code, unavailable_code};
use crate::node::Node;
use crate::partition::{AckFailure, AppendRefusal, Partition};
use crate::raft::ProposeRefusal;
use crate::replica::Origin;

/// What became of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed.
    Done,
    /// The partition is deleted.
    Gone,
    /// The partition cannot take it under this identity.
    Anew,
}

/// Where a release goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Leader(NodeId),
    /// Nobody leads for now.
    NoLeader,
    /// The topic or partition is not known here.
    Unknown,
}

/// Sends a release until its fate is known.
///
/// # Errors
/// The records do not read: a defect.
pub async fn deliver(node: Arc<Node>, release: Release) -> Result<Outcome, CodecError> {
    let (target, batch) = (release.target, batch_of(&release)?);
    let mut pause = DELAYED_RETRY_PAUSE;
    let mut out_of_order: Option<Instant> = None;
    loop {
        let code = match place(&node, target) {
            Place::Leader(leader) if leader == node.settings.node_id => {
                let written = write_here(&node, target, batch.clone());
                let written = tokio::time::timeout(DELAYED_RELEASE_WAIT_MAX, written).await;
                written.unwrap_or(errors::REQUEST_TIMED_OUT)
            }
            Place::Leader(leader) => {
                node.delays.shared.peers.release(&node, leader, target, batch.clone()).await
            }
            Place::NoLeader => errors::LEADER_NOT_AVAILABLE,
            Place::Unknown if is_gone(&node, target).await => return Ok(Outcome::Gone),
            Place::Unknown => errors::UNKNOWN_TOPIC_OR_PARTITION,
        };
        match code {
            errors::NONE => return Ok(Outcome::Done),
            errors::INVALID_PRODUCER_EPOCH => return Ok(Outcome::Anew),
            // What came before is committed, so a leader that has all of that does not say so. One that was
            // cut off does, until it knows.
            errors::OUT_OF_ORDER_SEQUENCE_NUMBER => {
                let since = *out_of_order.get_or_insert_with(Instant::now);
                if since.elapsed() >= DELAYED_OUT_OF_ORDER_WAIT {
                    return Ok(Outcome::Anew);
                }
            }
            _ => out_of_order = None,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DELAYED_RETRY_PAUSE_MAX);
    }
}

/// Whether the control plane has deleted a partition, asked of it now.
pub(super) async fn is_gone(node: &Node, target: TopicPartition) -> bool {
    let is_known = || node.coordinator.with_state(|state| state.partition(target).is_some());
    !is_known() && node.coordinator.linearize().await.is_ok() && !is_known()
}

fn place(node: &Node, target: TopicPartition) -> Place {
    let view = node.partitions.view();
    node.coordinator.with_state(|state| match state.partition(target) {
        Some(record) => leader_of(&view, target, record).0.map_or(Place::NoLeader, Place::Leader),
        None => Place::Unknown,
    })
}

/// The batch of a release: the same bytes whenever it is sent.
fn batch_of(release: &Release) -> Result<Bytes, CodecError> {
    let identity = release.identity;
    let mut builder = BatchBuilder::new(Codec::None).producer(identity.producer_id, 0, identity.sequence);
    for (_, record) in &release.records {
        let record = read_record(record)?;
        builder.push(record.timestamp, record.key, record.value, &record.headers);
    }
    Ok(builder.build())
}

/// Appends a release to a partition that this node leads; Kafka's code, once it is committed.
pub(super) async fn write_here(node: &Arc<Node>, target: TopicPartition, batch: Bytes) -> i16 {
    let view = node.partitions.view();
    let Some(partition) = view.partition(target) else { return errors::NOT_LEADER_OR_FOLLOWER };
    let partition = partition.clone();
    drop(view);
    if !partition.terms().is_leader {
        return errors::NOT_LEADER_OR_FOLLOWER;
    }
    if node.disk.is_full() {
        partition.refused_for_room(node.now_ms());
        return errors::KAFKA_STORAGE_ERROR;
    }
    let Some(batch) = accept(&partition, batch, node.now_ms()) else { return errors::CORRUPT_MESSAGE };
    append(node, &partition, &batch).await.map_or_else(|code| code, |()| errors::NONE)
}

/// As the partition's topic wants it stamped; none if the batch is damaged.
fn accept(partition: &Partition, mut bytes: Bytes, now_ms: i64) -> Option<AcceptedBatch> {
    let mut header = BatchHeader::parse(&bytes).ok()?;
    if header.total_bytes() != bytes.len() || check_crc(&bytes).is_err() || !header.has_producer() {
        return None;
    }
    if partition.terms().config.timestamp_type == ConfigTimestamp::LogAppendTime {
        let mut copy = bytes.to_vec();
        let bits = attributes(Codec::None, TimestampType::LogAppendTime, false, false);
        write_timestamps(&mut copy, header.attributes | bits, now_ms);
        header = BatchHeader::parse(&copy).ok()?;
        bytes = Bytes::from(copy);
    }
    let records_bytes = bytes.len() - HEADER_BYTES;
    Some(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
}

async fn append(node: &Arc<Node>, partition: &Arc<Partition>, batch: &AcceptedBatch) -> Result<(), i16> {
    let origin = Origin::Client(None);
    if let Some(raft) = &partition.terms().raft {
        let proposal = partition.propose_as(node, raft, batch, origin, true).map_err(|e| code(&e))?;
        return match proposal.outcome().await {
            Ok(_) => Ok(()),
            Err(ProposeRefusal::Sequence(refusal)) => sequence(refusal.error_code()),
            Err(_) => Err(errors::NOT_LEADER_OR_FOLLOWER),
        };
    }
    let appended = match partition.append_as(node, batch, origin, true, node.now_ms(), None) {
        Ok(appended) => appended,
        Err(AppendRefusal::Sequence(refusal)) => return sequence(refusal.error_code()),
        Err(refusal) => return Err(code(&refusal)),
    };
    if !appended.is_duplicate {
        node.metrics.produced_records.inc_by(u64::from(batch.header.record_count.unsigned_abs()));
        node.metrics.produced_bytes.inc_by(batch.bytes.len() as u64);
    }
    let Some(wait) = appended.waits else { return Ok(()) };
    match partition.wait_acked(&wait).await {
        // Committed is committed, with however few replicas.
        Ok(()) | Err(AckFailure::NotEnoughReplicas) => Ok(()),
        Err(AckFailure::NotLeader) => Err(errors::NOT_LEADER_OR_FOLLOWER),
        Err(AckFailure::Unavailable(reason)) => Err(unavailable_code(&reason)),
    }
}

/// A duplicate that is known to be committed is done.
fn sequence(code: i16) -> Result<(), i16> {
    if code == errors::DUPLICATE_SEQUENCE_NUMBER { Ok(()) } else { Err(code) }
}

fn code(refusal: &AppendRefusal) -> i16 {
    match refusal {
        AppendRefusal::Unavailable(unavailable) => unavailable_code(unavailable),
        AppendRefusal::Leader(refusal) => leader_refusal_code(refusal),
        AppendRefusal::Sequence(refusal) => refusal.error_code(),
        AppendRefusal::DiskFull | AppendRefusal::Storage(_) => errors::KAFKA_STORAGE_ERROR,
    }
}
