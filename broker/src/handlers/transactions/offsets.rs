//! TxnOffsetCommit: a group's offsets as part of a transaction. They are written by the group's coordinator,
//! which is asked like the leader of any partition that a transaction writes to (KIP-890), and count when the
//! transaction's marker says so.

use std::sync::Arc;

use highwater_groups::core::answer::Answer;
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{Client, CommitOffset, CommitTransactionOffsets, Request};
use highwater_groups::core::txn::Producer;
use highwater_groups::core::types::Name;
use highwater_log::VerificationTicket;
use highwater_model::limits::TXN_VERIFY_WAIT_MAX;
use highwater_wire::BatchHeader;
use highwater_wire::kafka::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use highwater_wire::kafka::messages::{TxnOffsetCommitRequest, TxnOffsetCommitResponse};

use super::{Versions, name, offsets_partition};
use crate::groups::call_verified;
use crate::handlers::errors;
use crate::handlers::groups::offsets::{Wanted, codes, judge};
use crate::handlers::topics::{find_led, unavailable_code};
use crate::node::Node;
use crate::shards::batch::header_of;
use crate::transactions::{Asking, ask};

/// What clients know, and what they are told that should look for the group's coordinator again.
const VERSIONS: Versions =
    Versions { add_since: 5, abortable_since: 4, again: errors::COORDINATOR_NOT_AVAILABLE };

pub async fn commit(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let wanted = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| Wanted {
            topic: topic.name.as_str(),
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_ref(),
        })
    });
    let (judged, offsets) = judge(node, wanted);
    let codes = match offsets.is_empty() {
        true => codes(judged, Ok(Vec::new())),
        false => match verified(node, version, &request).await {
            Ok(ticket) => {
                let outcome = write(node, client, &request, offsets, ticket).await;
                codes(judged, outcome)
            }
            Err(code) => judged.iter().map(|one| one.map_or_else(GroupError::code, |_| code)).collect(),
        },
    };
    let mut codes = codes.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(codes.next().unwrap_or(errors::UNKNOWN_SERVER_ERROR))
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

async fn write(
    node: &Arc<Node>,
    client: Client,
    request: &TxnOffsetCommitRequest,
    offsets: Vec<CommitOffset>,
    ticket: Option<VerificationTicket>,
) -> Result<Vec<Result<(), GroupError>>, GroupError> {
    let group = Name::from(request.group_id.as_str());
    let commit = CommitTransactionOffsets {
        group: group.clone(),
        producer_id: request.producer_id.0,
        producer_epoch: request.producer_epoch,
        member_id: Name::from(request.member_id.as_str()),
        instance_id: request.group_instance_id.as_ref().map(|id| Name::from(id.as_str())),
        generation: request.generation_id,
        offsets,
    };
    let commit = Request::CommitTransactionOffsets(commit);
    match call_verified(node, &group, client, commit, ticket).await? {
        Answer::CommitOffsets(outcome) => outcome,
        _ => Err(GroupError::UnknownServerError),
    }
}

/// The ticket to show with the offsets, once the coordinator of the transaction has said that they belong to
/// it; none where that is known here.
async fn verified(
    node: &Arc<Node>,
    version: i16,
    request: &TxnOffsetCommitRequest,
) -> Result<Option<VerificationTicket>, i16> {
    let producer = Producer { id: request.producer_id.0, epoch: request.producer_epoch };
    if producer.id < 0 || producer.epoch < 0 {
        return Err(errors::INVALID_REQUEST);
    }
    let at = offsets_partition(node, request.group_id.as_str()).await;
    let at = at.ok_or(errors::COORDINATOR_NOT_AVAILABLE)?;
    let view = node.partitions.view();
    let topic = view.by_name(&at.topic).ok_or(errors::NOT_COORDINATOR)?;
    let partition = find_led(topic, at.partition).map_err(|_| errors::NOT_COORDINATOR)?;
    let header = header(producer).ok_or(errors::UNKNOWN_SERVER_ERROR)?;
    // Offsets have no sequences: nothing is to be said of which comes first.
    let drawn = partition.verification_ticket(&header, false, node.now_ms());
    let drawn = drawn.map_err(|unavailable| unavailable_code(&unavailable))?;
    if drawn.is_none() {
        return Ok(None);
    }
    let transactional_id = name(&request.transactional_id);
    let asking =
        Asking { transactional_id, producer, partitions: vec![at], adds: VERSIONS.leave_adding(version) };
    // Where transactions share an epoch, what voids the first ticket has ended the offsets' own transaction.
    let draw = || match VERSIONS.leave_adding(version) {
        true => partition.verification_ticket(&header, false, node.now_ms()).ok().flatten(),
        false => drawn,
    };
    let told = tokio::time::timeout(TXN_VERIFY_WAIT_MAX, ask(node, &asking, draw)).await;
    let (ticket, told) = told.unwrap_or((None, Err(errors::NETWORK_EXCEPTION)));
    let code = match told {
        Ok(codes) => codes.first().copied().unwrap_or(errors::UNKNOWN_SERVER_ERROR),
        Err(code) => code,
    };
    match code {
        errors::NONE => Ok(ticket),
        code => Err(for_commit(code, version)),
    }
}

/// The head that the offsets' batch will have.
fn header(producer: Producer) -> Option<BatchHeader> {
    header_of(producer.id, producer.epoch).ok()
}

/// The coordinator's code as a client of this version understands it.
fn for_commit(code: i16, version: i16) -> i16 {
    VERSIONS.told(code, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_that_of_a_batch_of_offsets() {
        let header = header(Producer { id: 9, epoch: 3 }).expect("a head");
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 3, -1));
        assert!(header.is_transactional() && !header.is_control());
        assert_eq!(for_commit(errors::NETWORK_EXCEPTION, 3), errors::COORDINATOR_NOT_AVAILABLE);
        assert_eq!(for_commit(errors::CONCURRENT_TRANSACTIONS, 5), errors::CONCURRENT_TRANSACTIONS);
        assert_eq!(for_commit(errors::TRANSACTION_ABORTABLE, 3), errors::INVALID_TXN_STATE);
    }
}
