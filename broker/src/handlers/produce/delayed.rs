//! Produce requests with records that are to be delivered later (docs/adr/0020): their shard is asked to keep
//! them before the rest of their batch is appended, with the offsets and sequence numbers that the batch has.
//!
//! Only topics with `highwater.delayed.delivery` come here. A batch that the log would not take as new is not
//! asked for, and one that is repeated after a lost answer is recognised by its shard; so an idempotent
//! producer's records are kept once. Must not append anything of a batch before its delayed records are kept.
//! Invariants: 3, 14 (see the ADR).

use std::borrow::Cow;
use std::time::Duration;

use futures::future::join_all;
use highwater_log::Sequenced;
use highwater_model::limits::{
    DECOMPRESSED_BYTES_MAX, DELAYED_ASK_BYTES_MAX, DELAYED_ASK_WAIT_MAX, REQUEST_BYTES_MAX,
};
use highwater_wire::codec::decompress_into;
use highwater_wire::kafka::messages::ProduceResponse;
use highwater_wire::kafka::messages::produce_response::PartitionProduceResponse;
use highwater_wire::{AcceptedBatch, BatchHeader, Codec, HEADER_BYTES};

use super::verify::Head;
use super::{
    ACKS_ALL, Asked, Context, Judged, Refused, append_all, first_error, name_leaders, refused_append,
    refused_response, wait_for_acks,
};
use crate::core::delayed::{Ask, AskRecord, HeaderFault, HeaderRefusal, Source, marked, without};
use crate::delayed::{AskFailure, ask};
use crate::handlers::{encode, errors};
use crate::net::reply::{CloseReason, Reply};
use crate::node::Node;

/// About how many bytes a record takes in an ask beside its own.
const ASKED_BYTES: usize = 32;

/// The records of a batch that have a delay; none: nothing is to be asked.
pub(super) fn judge(
    context: &Context<'_>,
    delay_max_ms: i64,
    batch: &AcceptedBatch,
) -> Result<Option<Vec<AskRecord>>, Refused> {
    let section = section(batch).map_err(defect)?;
    let found = marked(&batch.header, &section, context.now_ms, delay_max_ms).map_err(refused)?;
    let Some(first) = found.first() else { return Ok(None) };
    let why_not = match context {
        _ if batch.header.is_transactional() || context.is_transactional => {
            Some((errors::INVALID_RECORD, "a record of a transaction cannot be delayed"))
        }
        Context { acks: 0, .. } => {
            Some((errors::INVALID_REQUIRED_ACKS, "a delayed record needs acknowledgements"))
        }
        _ => None,
    };
    if let Some((code, text)) = why_not {
        let record = i32::try_from(first.delta).ok();
        return Err(Refused { code, message: Some(text.to_owned()), record });
    }
    // They travel and are kept as one; clients that can will send them in smaller batches.
    let bytes: usize = found.iter().map(|one| one.record.len() + ASKED_BYTES).sum();
    if bytes > DELAYED_ASK_BYTES_MAX {
        let text =
            format!("{} delayed records of {bytes} bytes, more than {DELAYED_ASK_BYTES_MAX}", found.len());
        return Err(Refused::told(errors::MESSAGE_TOO_LARGE, text));
    }
    // What a shard may have kept, and is due by now, comes again only from a producer that it can recognise.
    let is_asked = batch.header.has_producer() || found.iter().any(|one| !one.is_due);
    Ok(Some(found).filter(|_| is_asked))
}

/// A batch's records, decompressed.
fn section(batch: &AcceptedBatch) -> Result<Cow<'_, [u8]>, String> {
    let packed = &batch.bytes[HEADER_BYTES..];
    match batch.header.codec().map_err(|e| e.to_string())? {
        Codec::None => Ok(Cow::Borrowed(packed)),
        codec => {
            // What validation has let in.
            let (mut plain, cap) = (Vec::new(), DECOMPRESSED_BYTES_MAX.max(REQUEST_BYTES_MAX));
            decompress_into(codec, packed, cap, &mut plain).map_err(|e| e.to_string())?;
            Ok(Cow::Owned(plain))
        }
    }
}

fn defect(error: String) -> Refused {
    tracing::error!("a batch that was validated does not read: {error}");
    Refused::told(errors::UNKNOWN_SERVER_ERROR, error)
}

fn refused(refusal: HeaderRefusal) -> Refused {
    match refusal {
        HeaderRefusal::Batch(error) => defect(error.to_string()),
        HeaderRefusal::Record { index, ref fault } => {
            let code = match fault {
                HeaderFault::TooLarge { .. } => errors::MESSAGE_TOO_LARGE,
                HeaderFault::Both | HeaderFault::Unreadable(_) | HeaderFault::TooLong { .. } => {
                    errors::INVALID_RECORD
                }
            };
            Refused { code, message: Some(refusal.to_string()), record: Some(index) }
        }
    }
}

/// Has records kept, appends what is left of their batches, waits until it may be acknowledged.
pub(super) async fn kept(
    head: Head,
    mut response: ProduceResponse,
    judged: Vec<Judged>,
) -> Result<Reply, CloseReason> {
    let node = &head.node;
    let wait = DELAYED_ASK_WAIT_MAX.min(head.timeout);
    let left = join_all(judged.iter().map(|one| left_of(node, &head, one, wait))).await;
    let mut allowed = Vec::with_capacity(judged.len());
    for (mut one, left) in judged.into_iter().zip(left) {
        match left {
            Ok(None) => allowed.push(one),
            Ok(Some(batch)) => {
                one.batch = batch;
                allowed.push(one);
            }
            Err(refused) => {
                let slot = &mut response.responses[one.topic].partition_responses[one.index];
                let empty = PartitionProduceResponse::default().with_index(slot.index);
                *slot = refused_response(empty, refused);
            }
        }
    }
    let (response, waits) = append_all(node, head.acks, head.now_ms, response, allowed);
    let mut response = wait_for_acks(node, response, waits, head.timeout).await;
    if first_error(&response).is_some() {
        node.metrics.request_error(head.api_key);
    }
    name_leaders(&Asked { node, version: head.version }, &mut response);
    encode(head.api_key, head.correlation_id, head.version, &response)
}

/// What is to be appended of a batch now that its delayed records are kept; none: all of it.
async fn left_of(
    node: &std::sync::Arc<Node>,
    head: &Head,
    one: &Judged,
    wait: Duration,
) -> Result<Option<AcceptedBatch>, Refused> {
    let Some(records) = &one.delayed else { return Ok(None) };
    let header = &one.batch.header;
    let sequenced = one.partition.sequenced(header, head.acks == ACKS_ALL);
    let deltas = match sequenced.map_err(|refusal| refused_append(node, &refusal))? {
        // The log finds it, whatever its bytes are now.
        Sequenced::Duplicate { .. } => {
            records.iter().filter(|record| !record.is_due).map(|record| record.delta).collect()
        }
        Sequenced::New => {
            let source = header.has_producer().then(|| Source {
                producer_id: header.producer_id,
                epoch: header.producer_epoch,
                first: header.base_sequence,
                last: header.last_sequence(),
            });
            let asking = Ask { target: one.partition.tp, source, records: records.clone() };
            ask(node, &asking, wait).await.map_err(not_kept)?
        }
    };
    rest(&one.batch, deltas).map_err(defect)
}

fn rest(batch: &AcceptedBatch, deltas: Vec<u32>) -> Result<Option<AcceptedBatch>, String> {
    if deltas.is_empty() {
        return Ok(None);
    }
    let section = section(batch)?;
    let bytes = without(&batch.header, &section, &deltas).map_err(|e| e.to_string())?;
    let header = BatchHeader::parse(&bytes).map_err(|e| e.to_string())?;
    let records_bytes = bytes.len() - HEADER_BYTES;
    Ok(Some(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes }))
}

fn not_kept(failure: AskFailure) -> Refused {
    match failure {
        AskFailure::Full(text) => Refused::told(errors::THROTTLING_QUOTA_EXCEEDED, text),
        AskFailure::Unfit(text) => Refused::told(errors::INVALID_RECORD, text),
        // Told in ways that clients try again without looking for another leader.
        AskFailure::NotNow => {
            let text = "delayed records cannot be kept now: their shard has no leader, or is being loaded";
            Refused::told(errors::NOT_ENOUGH_REPLICAS, text)
        }
        // Most likely this node leads no more and does not know yet: whoever does has the batch.
        AskFailure::Older(text) => Refused::told(errors::NOT_ENOUGH_REPLICAS, text),
        AskFailure::Unknown => {
            let text = "it is not known whether the delayed records are kept";
            Refused::told(errors::NOT_ENOUGH_REPLICAS_AFTER_APPEND, text)
        }
    }
}
