//! FindCoordinator (KIP-699): which broker coordinates a group or a transactional id. It is the leader of its
//! partition of `__consumer_offsets` or `__transaction_state`, which is created when it is first asked for.

use std::sync::Arc;

use highwater_model::limits;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::find_coordinator_response::Coordinator as Answer;
use highwater_wire::kafka::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use highwater_wire::kafka::protocol::StrBytes;

use crate::groups;
use crate::node::Node;
use crate::shards::Coordinator;
use crate::transactions;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const BATCHED_SINCE: i16 = 4;

type Found = Result<Coordinator, (ResponseError, &'static str)>;

pub async fn handle(
    node: &Arc<Node>,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let is_batched = version >= BATCHED_SINCE;
    let keys = match is_batched {
        true => request.coordinator_keys,
        false => vec![request.key],
    };
    let now = keys.len().min(limits::COORDINATOR_KEYS_MAX);
    let mut found = find(node, request.key_type, &keys[..now]).await;
    put_off(&mut found, keys.len());
    respond(is_batched, keys, found)
}

/// Keys beyond those that were looked for are to be asked for again.
fn put_off(found: &mut Vec<Found>, keys: usize) {
    let later =
        (ResponseError::CoordinatorLoadInProgress, "Too many keys in one request: ask for this one again.");
    found.resize(keys, Err(later));
}

async fn find(node: &Arc<Node>, key_type: i8, keys: &[StrBytes]) -> Vec<Found> {
    let names: Vec<&str> = keys.iter().map(StrBytes::as_str).collect();
    let found = match key_type {
        GROUP => groups::find(node, &names).await,
        TRANSACTION => transactions::find(node, &names).await,
        _ => {
            let refusal = (ResponseError::InvalidRequest, "Unknown coordinator type.");
            return keys.iter().map(|_| Err(refusal)).collect();
        }
    };
    let unavailable = (ResponseError::CoordinatorNotAvailable, "The coordinator is not available.");
    found.into_iter().map(|one| one.ok_or(unavailable)).collect()
}

fn respond(is_batched: bool, keys: Vec<StrBytes>, found: Vec<Found>) -> FindCoordinatorResponse {
    let answers = keys.into_iter().zip(found).map(|(key, found)| {
        let answer = Answer::default().with_key(key);
        match found {
            Ok(at) => answer
                .with_node_id(BrokerId(at.node_id))
                .with_host(StrBytes::from_string(at.host))
                .with_port(at.port),
            Err((error, text)) => answer
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(error.code())
                .with_error_message(Some(StrBytes::from_static_str(text))),
        }
    });
    let mut answers: Vec<Answer> = answers.collect();
    if is_batched {
        return FindCoordinatorResponse::default().with_coordinators(answers);
    }
    let one = answers.pop().expect("one key, one answer");
    FindCoordinatorResponse::default()
        .with_error_code(one.error_code)
        .with_error_message(one.error_message)
        .with_node_id(one.node_id)
        .with_host(one.host)
        .with_port(one.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_answer() {
        let keys = || vec![StrBytes::from_static_str("a"), StrBytes::from_static_str("b")];
        let at = Coordinator { node_id: 7, host: "h".into(), port: 9 };
        let missing = (ResponseError::CoordinatorNotAvailable, "why");
        let answer = respond(true, keys(), vec![Ok(at.clone()), Err(missing)]);
        let told: Vec<_> = answer.coordinators.iter().map(|c| (c.error_code, c.node_id.0, c.port)).collect();
        assert_eq!(told, [(0, 7, 9), (15, -1, -1)]);
        let old = respond(false, vec![StrBytes::from_static_str("a")], vec![Ok(at)]);
        assert_eq!((old.error_code, old.node_id.0, old.host.as_str()), (0, 7, "h"));
    }

    #[test]
    fn no_key_is_left_without_an_answer() {
        let at = Coordinator { node_id: 7, host: "h".into(), port: 9 };
        let mut found = vec![Ok(at)];
        put_off(&mut found, 3);
        let keys = ["a", "b", "c"].map(StrBytes::from_static_str).to_vec();
        let answer = respond(true, keys, found);
        let told: Vec<_> = answer.coordinators.iter().map(|c| (c.key.as_str(), c.error_code)).collect();
        assert_eq!(told, [("a", 0), ("b", 14), ("c", 14)]);
    }
}
