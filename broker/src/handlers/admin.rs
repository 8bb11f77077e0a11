//! What the administration handlers share: views of the control plane's state in the protocol's types,
//! refusals as error codes, and the one way in which a request with many items is carried out. Pure but for
//! [`carry_out`] and [`follow`], which bring what was decided into effect on this node.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use highwater_coordinator::WriteError;
use highwater_coordinator::core::{ClusterState, Partition};
use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::{BrokerId, TopicName};
use highwater_wire::kafka::protocol::StrBytes;

use super::topics::leader_of;
use crate::delayed::DELAYED_TOPIC;
use crate::groups::OFFSETS_TOPIC;
use crate::metrics::RefusedKind;
use crate::node::Node;
use crate::partition::registry::View;
use crate::transactions::STATE_TOPIC;

/// Topics that belong to the protocol itself (Kafka's `Topic.INTERNAL_TOPICS`), and ours.
const INTERNAL_TOPICS: [&str; 4] = [OFFSETS_TOPIC, STATE_TOPIC, DELAYED_TOPIC, "__share_group_state"];

pub fn is_internal(topic: &str) -> bool {
    INTERNAL_TOPICS.contains(&topic)
}

/// An error code with the text for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub code: i16,
    pub message: String,
}

impl Denied {
    pub fn new(error: ResponseError, message: impl Into<String>) -> Denied {
        Denied { code: error.code(), message: message.into() }
    }

    /// A write that the control plane did not do, or may not have done.
    pub fn from_write(error: &WriteError) -> Denied {
        match error {
            WriteError::Refused(refusal) => {
                Denied { code: refusal.kafka_error_code(), message: refusal.to_string() }
            }
            // Clients look for the controller again and repeat the request.
            WriteError::Failed(_) => Denied::new(ResponseError::NotController, error.to_string()),
            WriteError::Unknown(_) => Denied::new(ResponseError::RequestTimedOut, error.to_string()),
        }
    }

    /// Error code and text of an item's answer; 0 and none when nothing was refused.
    pub fn answer(outcome: Result<(), Denied>) -> (i16, Option<StrBytes>) {
        outcome.map_or_else(|denied| (denied.code, denied.text()), |()| (0, None))
    }

    /// The text as the protocol's type.
    pub fn text(&self) -> Option<StrBytes> {
        Some(StrBytes::from_string(self.message.clone()))
    }
}

pub fn broker_id(node: NodeId) -> BrokerId {
    BrokerId(i32::try_from(node).unwrap_or(-1))
}

pub fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.to_owned()))
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A partition as Metadata and DescribeTopicPartitions show it.
pub struct PartitionView {
    pub error_code: i16,
    pub leader: BrokerId,
    pub leader_epoch: i32,
    pub replicas: Vec<BrokerId>,
    pub in_sync: Vec<BrokerId>,
    pub offline: Vec<BrokerId>,
}

impl PartitionView {
    /// `tp`: the partition, whose Raft group may know more of its leader than the record.
    pub fn new(
        state: &ClusterState,
        view: &View,
        tp: TopicPartition,
        partition: &Partition,
    ) -> PartitionView {
        let (leader, leader_epoch) = leader_of(view, tp, partition);
        let ids = |nodes: &[NodeId]| nodes.iter().copied().map(broker_id).collect::<Vec<_>>();
        let leader = leader.map_or(BrokerId(-1), broker_id);
        let error = if leader.0 < 0 { ResponseError::LeaderNotAvailable.code() } else { 0 };
        let is_alive = |node: &&NodeId| state.brokers.get(node).is_some_and(|broker| !broker.is_fenced);
        let offline = partition.replicas.iter().filter(|node| !is_alive(node));
        PartitionView {
            error_code: error,
            leader,
            leader_epoch,
            replicas: ids(&partition.replicas),
            in_sync: ids(&partition.isr),
            offline: offline.copied().map(broker_id).collect(),
        }
    }
}

/// The node that answers for the cluster: this one, or the lowest that is alive. Any node forwards what
/// clients ask of a controller.
pub fn controller(state: &ClusterState, own: NodeId) -> BrokerId {
    let mut alive = state.brokers.values().filter(|broker| !broker.is_fenced).map(|broker| broker.node_id);
    let known = alive.clone().find(|node| *node == own);
    known.or_else(|| alive.next()).map_or(BrokerId(-1), broker_id)
}

/// The partition of that topic name and number.
///
/// # Errors
/// UNKNOWN_TOPIC_OR_PARTITION.
pub fn find_record(state: &ClusterState, topic: &str, partition: i32) -> Result<TopicPartition, Denied> {
    let found = state.topic_by_name(topic).filter(|topic| topic.partition(partition).is_some());
    found.map(|topic| TopicPartition::new(topic.id, partition)).ok_or_else(|| {
        let text = "This server does not host this topic-partition.";
        Denied::new(ResponseError::UnknownTopicOrPartition, text)
    })
}

/// Items that stand more than once.
pub fn duplicates<'a, T: Ord + Clone + 'a>(items: impl IntoIterator<Item = &'a T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            twice.insert(item.clone());
        }
    }
    twice
}

/// Has the items that were judged well carried out by `run`, which answers for each of them in order. One
/// outcome for each item of `judged`, in order: what it was refused for, or what `run` says. Refusals are
/// counted, and what has changed is in effect here on return.
pub async fn carry_out<T, R, F>(
    node: &Arc<Node>,
    judged: impl IntoIterator<Item = Result<T, Denied>>,
    validate_only: bool,
    run: impl FnOnce(Vec<T>) -> F,
) -> Vec<Result<R, Denied>>
where
    F: Future<Output = Vec<Result<R, WriteError>>>,
{
    let mut wanted = Vec::new();
    let judged: Vec<Result<(), Denied>> =
        judged.into_iter().map(|item| item.map(|item| wanted.push(item))).collect();
    let outcomes = run(wanted).await;
    if !validate_only && outcomes.iter().any(Result::is_ok) {
        follow(node).await;
    }
    let results = merge(judged, outcomes);
    for _ in results.iter().filter(|result| result.is_err()) {
        node.metrics.refused(RefusedKind::Admin);
    }
    results
}

/// The outcomes of those that were not refused, at their places among those that were.
fn merge<R>(judged: Vec<Result<(), Denied>>, outcomes: Vec<Result<R, WriteError>>) -> Vec<Result<R, Denied>> {
    let mut outcomes = outcomes.into_iter();
    let results = judged
        .into_iter()
        .map(|judged| {
            judged?;
            let outcome = outcomes.next().expect("one outcome for each item that was judged well");
            outcome.map_err(|error| Denied::from_write(&error))
        })
        .collect();
    assert!(outcomes.next().is_none(), "every outcome has its item");
    results
}

/// Brings what the control plane has decided into effect here, so that the client can use it at once.
pub async fn follow(node: &Arc<Node>) {
    if let Err(error) = node.follow_topics().await {
        tracing::error!(
            "partitions could not be opened or closed: {error}; it is tried again at the next change"
        );
    }
}

/// The topic of a request that names it by id, if it names one.
pub fn topic_id(id: uuid::Uuid) -> Option<TopicId> {
    (!id.is_nil()).then_some(TopicId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_found_once_each() {
        assert_eq!(duplicates(&["a", "b", "a", "a", "c"]), BTreeSet::from(["a"]));
        assert!(duplicates(&["a", "b"]).is_empty());
    }

    #[test]
    fn each_item_gets_its_own_outcome_in_order() {
        let denied = |text: &str| Denied::new(ResponseError::InvalidRequest, text);
        let judged = vec![Err(denied("first")), Ok(()), Ok(()), Err(denied("fourth")), Ok(())];
        let lost = WriteError::Unknown("lost".to_owned());
        let unknown = Denied::from_write(&lost);
        let merged = merge(judged, vec![Ok('b'), Err(lost), Ok('e')]);
        assert_eq!(merged, [Err(denied("first")), Ok('b'), Err(unknown), Err(denied("fourth")), Ok('e')]);
        assert_eq!(Denied::answer(Ok(())), (0, None));
        let (code, text) = Denied::answer(Err(denied("why")));
        assert_eq!((code, text.as_deref()), (42, Some("why")));
    }
}
