//! FindCoordinator (KIP-699). Consumer groups and transactions are not served yet, so there is no coordinator
//! to find: the answer is COORDINATOR_NOT_AVAILABLE, which clients take as "ask again later". A consumer that
//! was assigned its partitions and told its offsets goes on reading (with auto-commit on, its close waits for
//! a coordinator in vain). Naming this node instead makes librdkafka 2.16 crash: it does not expect a
//! coordinator without OffsetFetch.

use std::sync::Arc;

use highwater_model::limits;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::find_coordinator_response::Coordinator;
use highwater_wire::kafka::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use highwater_wire::kafka::protocol::StrBytes;

use crate::node::Node;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const BATCHED_SINCE: i16 = 4;

pub async fn handle(
    _node: &Arc<Node>,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    respond(version, request)
}

fn respond(version: i16, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (code, message) = refusal(request.key_type);
    let message = Some(StrBytes::from_static_str(message));
    if version < BATCHED_SINCE {
        return FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_error_message(message)
            .with_node_id(BrokerId(-1))
            .with_port(-1);
    }
    let answer = |key| {
        Coordinator::default()
            .with_key(key)
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code)
            .with_error_message(message.clone())
    };
    let coordinators =
        request.coordinator_keys.into_iter().take(limits::COORDINATOR_KEYS_MAX).map(answer).collect();
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

fn refusal(key_type: i8) -> (i16, &'static str) {
    match key_type {
        GROUP => (ResponseError::CoordinatorNotAvailable.code(), "Consumer groups are not served yet."),
        TRANSACTION => (ResponseError::CoordinatorNotAvailable.code(), "Transactions are not served yet."),
        _ => (ResponseError::InvalidRequest.code(), "Unknown coordinator type."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_told_to_ask_later() {
        let request = FindCoordinatorRequest::default()
            .with_coordinator_keys(vec![StrBytes::from_static_str("a"), StrBytes::from_static_str("b")]);
        let answer = respond(6, request);
        assert_eq!(answer.coordinators.len(), 2);
        assert!(answer.coordinators.iter().all(|c| c.error_code == 15 && c.node_id.0 == -1 && c.port == -1));
        let old = respond(0, FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("a")));
        assert_eq!((old.error_code, old.node_id.0, old.coordinators.len()), (15, -1, 0));
        let odd = respond(2, FindCoordinatorRequest::default().with_key_type(9));
        assert_eq!(odd.error_code, 42);
    }
}
