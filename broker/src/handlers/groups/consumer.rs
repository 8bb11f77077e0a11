//! ConsumerGroupHeartbeat and ConsumerGroupDescribe (KIP-848).

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_groups::core::answer::{Answer, DescribedConsumer, DescribedConsumerMember};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{Client, ConsumerHeartbeat, Request};
use highwater_groups::core::types::Partitions;
use highwater_model::TopicId;
use highwater_model::limits::GROUPS_PER_REQUEST_MAX;
use highwater_wire::kafka::messages::consumer_group_describe_response as described;
use highwater_wire::kafka::messages::consumer_group_heartbeat_response as beaten;
use highwater_wire::kafka::messages::*;

use super::{MISMATCH, group_id, maybe_name, name, text, undescribed};
use crate::groups::{call, read};
use crate::node::Node;

/// Since then members make their own ids (KIP-1082).
const OWN_MEMBER_ID_SINCE: i16 = 1;
/// Since then a description tells which protocol a member speaks.
const MEMBER_TYPE_SINCE: i16 = 1;
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

pub async fn heartbeat(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    if version >= OWN_MEMBER_ID_SINCE && request.member_id.is_empty() {
        return refused(GroupError::InvalidRequest);
    }
    let group = name(&request.group_id.0);
    let owned = request.topic_partitions.map(|topics| {
        let mut owned = Partitions::new();
        for topic in topics.into_iter().filter(|topic| !topic.partitions.is_empty()) {
            owned.entry(TopicId(topic.topic_id)).or_default().extend(topic.partitions);
        }
        owned
    });
    let topics = request.subscribed_topic_names;
    let beat = ConsumerHeartbeat {
        group: group.clone(),
        member_id: name(&request.member_id),
        epoch: request.member_epoch,
        instance_id: maybe_name(request.instance_id.as_ref()),
        rack_id: maybe_name(request.rack_id.as_ref()),
        rebalance_timeout_ms: (request.rebalance_timeout_ms != -1).then_some(request.rebalance_timeout_ms),
        topic_names: topics.map(|names| names.iter().map(|topic| name(&topic.0)).collect::<BTreeSet<_>>()),
        topic_regex: maybe_name(request.subscribed_topic_regex.as_ref()),
        server_assignor: maybe_name(request.server_assignor.as_ref()),
        owned,
    };
    let beat = match call(node, &group, client, Request::ConsumerHeartbeat(beat)).await {
        Ok(Answer::ConsumerHeartbeat(Ok(beat))) => beat,
        Ok(Answer::ConsumerHeartbeat(Err(error))) | Err(error) => return refused(error),
        Ok(_) => return refused(MISMATCH),
    };
    let assignment = beat.assignment.map(|partitions| {
        let topics = partitions.into_iter().map(|(topic, partitions)| {
            beaten::TopicPartitions::default()
                .with_topic_id(topic.0)
                .with_partitions(partitions.into_iter().collect())
        });
        beaten::Assignment::default().with_topic_partitions(topics.collect())
    });
    ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(text(&beat.member_id)))
        .with_member_epoch(beat.epoch)
        .with_heartbeat_interval_ms(beat.heartbeat_ms)
        .with_assignment(assignment)
}

fn refused(error: GroupError) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default()
        .with_error_code(error.code())
        .with_error_message(Some(text(&error.to_string())))
}

pub async fn describe(
    node: &Arc<Node>,
    _client: Client,
    version: i16,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let mut groups = Vec::new();
    for (at, id) in request.group_ids.into_iter().enumerate() {
        let group = name(&id.0);
        let found = match at < GROUPS_PER_REQUEST_MAX {
            false => Err(GroupError::InvalidRequest),
            true if group.is_empty() => Err(GroupError::InvalidGroupId),
            true => {
                let asked = group.clone();
                read(node, &group, move |groups| groups.describe_consumer(&asked))
                    .await
                    .and_then(|found| found)
            }
        };
        groups.push(match found {
            Ok(found) => group_of(node, version, found),
            Err(error) => described::DescribedGroup::default()
                .with_error_code(error.code())
                .with_error_message(Some(undescribed(error, &id)))
                .with_group_id(id),
        });
    }
    ConsumerGroupDescribeResponse::default().with_groups(groups)
}

fn group_of(node: &Node, version: i16, found: DescribedConsumer) -> described::DescribedGroup {
    let members = found.members.into_iter().map(|member| member_of(node, version, member));
    described::DescribedGroup::default()
        .with_group_id(group_id(&found.group))
        .with_group_state(text(found.state))
        .with_group_epoch(found.epoch)
        .with_assignment_epoch(found.assignment_epoch)
        .with_assignor_name(text(&found.assignor))
        .with_members(members.collect())
}

fn member_of(node: &Node, version: i16, member: DescribedConsumerMember) -> described::Member {
    let topics = member.topic_names.iter().map(|topic| TopicName(text(topic)));
    let kind = if member.is_classic { CLASSIC } else { CONSUMER };
    let answer = described::Member::default()
        .with_member_id(text(&member.member_id))
        .with_instance_id(member.instance_id.map(|id| text(&id)))
        .with_rack_id(member.rack_id.map(|id| text(&id)))
        .with_member_epoch(member.epoch)
        .with_client_id(text(&member.client_id))
        .with_client_host(text(&member.client_host))
        .with_subscribed_topic_names(topics.collect())
        .with_subscribed_topic_regex(member.topic_regex.map(|regex| text(&regex)))
        .with_assignment(assignment_of(node, &member.assigned))
        .with_target_assignment(assignment_of(node, &member.target));
    match version >= MEMBER_TYPE_SINCE {
        true => answer.with_member_type(kind),
        false => answer,
    }
}

/// Topics that are gone have no name to show and are left out.
fn assignment_of(node: &Node, partitions: &Partitions) -> described::Assignment {
    let topics = node.coordinator.with_state(|state| {
        let named = partitions.iter().filter_map(|(id, partitions)| {
            let topic = state.topic(*id)?;
            let answer = described::TopicPartitions::default().with_topic_id(id.0);
            let answer = answer.with_topic_name(TopicName(text(&topic.name)));
            Some(answer.with_partitions(partitions.iter().copied().collect()))
        });
        named.collect()
    });
    described::Assignment::default().with_topic_partitions(topics)
}
