//! OffsetForLeaderEpoch (KIP-320): where the client's last epoch ends in this log.

use std::sync::Arc;

use highwater_wire::kafka::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use highwater_wire::kafka::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use highwater_wire::kafka::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use uuid::Uuid;

use super::errors;
use super::topics::{find_led, find_topic, unavailable_code};
use crate::core::fetch_plan::{EpochFence, fence};
use crate::node::Node;
use crate::partition::registry::Topic;

/// Answers for each partition on its own.
pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let view = node.partitions.view();
    let topics = request.topics.into_iter().map(|asked| {
        let topic = find_topic(&view, false, &asked.topic, Uuid::nil());
        let partitions = asked.partitions.iter().map(|p| {
            let end = EpochEndOffset::default()
                .with_partition(p.partition)
                .with_leader_epoch(-1)
                .with_end_offset(-1);
            match look_up(topic, p) {
                Ok(Some((epoch, offset))) => end.with_leader_epoch(epoch).with_end_offset(offset),
                Ok(None) => end,
                Err(code) => end.with_error_code(code),
            }
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(asked.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn look_up(
    topic: Result<&Arc<Topic>, i16>,
    asked: &OffsetForLeaderPartition,
) -> Result<Option<(i32, i64)>, i16> {
    let partition = find_led(topic?, asked.partition)?;
    match fence(asked.current_leader_epoch, partition.terms().leader_epoch) {
        EpochFence::Current => {}
        EpochFence::Fenced => return Err(errors::FENCED_LEADER_EPOCH),
        EpochFence::Unknown => return Err(errors::UNKNOWN_LEADER_EPOCH),
    }
    partition.epoch_end(asked.leader_epoch).map_err(|e| unavailable_code(&e))
}
