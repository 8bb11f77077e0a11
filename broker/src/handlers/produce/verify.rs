//! Produce requests that begin a transaction in a partition: the coordinator is asked before anything is
//! appended (KIP-890), to add the partitions for clients that leave that to brokers, else whether the client
//! has added them.
//!
//! Tickets are drawn before each question; a batch whose transaction ended while the question was on its way
//! finds its ticket void and is refused by the log. Codes are those that clients of each version take as
//! Kafka's producer means them.

use std::sync::Arc;
use std::time::Duration;

use highwater_groups::core::txn::{Producer, TxnPartition};
use highwater_groups::core::types::Name;
use highwater_log::VerificationTicket;
use highwater_model::limits::TXN_VERIFY_WAIT_MAX;
use highwater_wire::kafka::messages::ProduceResponse;
use highwater_wire::kafka::messages::produce_response::PartitionProduceResponse;

use super::{Asked, Judged, Refused, append_all, name_leaders, refused_response, unanswered, wait_for_acks};
use crate::handlers::transactions::Versions;
use crate::handlers::{Call, encode, errors};
use crate::net::reply::{CloseReason, Reply};
use crate::node::Node;
use crate::transactions::{self, Asking};

/// What clients know; what may pass is told in a way that they try again without looking for another leader.
pub(super) const VERSIONS: Versions =
    Versions { add_since: 12, abortable_since: 11, again: errors::NOT_ENOUGH_REPLICAS };

/// What is known of the request.
pub(super) struct Head {
    pub(super) node: Arc<Node>,
    pub(super) api_key: i16,
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) acks: i16,
    pub(super) timeout: Duration,
    pub(super) now_ms: i64,
}

impl Head {
    pub fn of(call: &Call<'_>, acks: i16, timeout_ms: i32, now_ms: i64) -> Head {
        Head {
            node: call.node.clone(),
            api_key: call.api_key,
            version: call.version,
            correlation_id: call.correlation_id,
            acks,
            timeout: Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)),
            now_ms,
        }
    }
}

/// Asks, appends what may be, waits until it may be acknowledged.
pub(super) async fn verified(
    head: Head,
    id: Name,
    mut response: ProduceResponse,
    mut judged: Vec<Judged>,
) -> Result<Reply, CloseReason> {
    let node = &head.node;
    let codes = ask(&head, id, &mut judged).await;
    let mut allowed = Vec::with_capacity(judged.len());
    for (one, code) in judged.into_iter().zip(codes) {
        if code == errors::NONE {
            allowed.push(one);
            continue;
        }
        let slot = &mut response.responses[one.topic].partition_responses[one.index];
        let empty = PartitionProduceResponse::default().with_index(slot.index);
        let text = "the partition is not known to be in the producer's transaction";
        *slot = refused_response(empty, Refused::told(for_produce(code, head.version), text));
    }
    let (mut response, waits) = append_all(node, head.acks, head.now_ms, response, allowed);
    if head.acks != 0 {
        response = wait_for_acks(node, response, waits, head.timeout).await;
    }
    let error = super::first_error(&response);
    if error.is_some() {
        node.metrics.request_error(head.api_key);
    }
    if head.acks == 0 {
        return error.map_or_else(|| Ok(Reply::nothing()), |code| Err(unanswered(code)));
    }
    name_leaders(&Asked { node, version: head.version }, &mut response);
    encode(head.api_key, head.correlation_id, head.version, &response)
}

/// The coordinator's code for each batch; 0 for those of which there is nothing to ask.
async fn ask(head: &Head, id: Name, judged: &mut [Judged]) -> Vec<i16> {
    let mut codes = vec![errors::NONE; judged.len()];
    // One producer writes a request; if it names several, each is asked for.
    let mut open: Vec<usize> = (0..judged.len()).filter(|at| judged[*at].ticket.is_some()).collect();
    while let Some(first) = open.first() {
        let header = &judged[*first].batch.header;
        let producer = Producer { id: header.producer_id, epoch: header.producer_epoch };
        let is_its = |at: &usize| {
            let header = &judged[*at].batch.header;
            Producer { id: header.producer_id, epoch: header.producer_epoch } == producer
        };
        let (asked, left): (Vec<usize>, Vec<usize>) = open.iter().copied().partition(is_its);
        open = left;
        let at = |at: &usize| {
            let partition = &judged[*at].partition;
            TxnPartition::new(partition.topic.clone(), partition.tp.partition)
        };
        let asking = Asking {
            transactional_id: id.clone(),
            producer,
            partitions: asked.iter().map(at).collect(),
            adds: VERSIONS.leave_adding(head.version),
        };
        let draw = || asked.iter().map(|at| ticket(head, &judged[*at])).collect::<Vec<_>>();
        // The request's timeout is for acknowledgements; without them it may be 0.
        let wait = if head.acks == 0 { TXN_VERIFY_WAIT_MAX } else { TXN_VERIFY_WAIT_MAX.min(head.timeout) };
        let told = tokio::time::timeout(wait, transactions::ask(&head.node, &asking, draw)).await;
        let Ok((tickets, told)) = told else {
            asked.iter().for_each(|at| codes[*at] = errors::NETWORK_EXCEPTION);
            continue;
        };
        for (n, (at, ticket)) in asked.iter().zip(tickets).enumerate() {
            judged[*at].ticket = ticket;
            codes[*at] = match &told {
                Ok(each) => each.get(n).copied().unwrap_or(errors::UNKNOWN_SERVER_ERROR),
                Err(code) => *code,
            };
        }
    }
    codes
}

/// A ticket for the batch as things are now; none where there is nothing to ask any more. Where transactions
/// share an epoch, only the one that was drawn when the request was read: what has voided that has ended the
/// batch's own transaction.
fn ticket(head: &Head, one: &Judged) -> Option<VerificationTicket> {
    if !VERSIONS.leave_adding(head.version) {
        return one.ticket;
    }
    // A partition that does not serve any more takes no batch either.
    one.partition.verification_ticket(&one.batch.header, true, head.now_ms).ok().flatten()
}

/// The coordinator's code as a producer of this version understands it.
fn for_produce(code: i16, version: i16) -> i16 {
    VERSIONS.told(code, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_kafka() {
        for (code, [v9, v11, v12]) in [
            (errors::NOT_COORDINATOR, [19, 19, 19]),
            (errors::NETWORK_EXCEPTION, [19, 19, 19]),
            (errors::CONCURRENT_TRANSACTIONS, [19, 19, 51]),
            (errors::PRODUCER_FENCED, [47, 47, 47]),
            (errors::TRANSACTION_ABORTABLE, [48, 120, 120]),
            (49, [49, 49, 49]),
        ] {
            let told = [9, 11, 12].map(|version| for_produce(code, version));
            assert_eq!(told, [v9, v11, v12], "{code}");
        }
    }
}
