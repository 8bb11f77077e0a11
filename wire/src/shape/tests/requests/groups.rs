//! Random requests of consumer groups and their offsets.

use super::*;
use crate::kafka::messages::{
    consumer_group_heartbeat_request as beat, join_group_request as join, leave_group_request as leave,
    offset_commit_request as commit, offset_delete_request as forget, offset_fetch_request as fetched,
    sync_group_request as sync,
};

pub fn any_request(dice: &mut Dice, key: i16, version: i16) -> RequestKind {
    match key {
        api::OFFSET_COMMIT => RequestKind::OffsetCommit(any_commit(dice, version)),
        api::OFFSET_FETCH => RequestKind::OffsetFetch(any_offset_fetch(dice, version)),
        api::JOIN_GROUP => RequestKind::JoinGroup(any_join(dice, version)),
        api::HEARTBEAT => RequestKind::Heartbeat(any_heartbeat(dice, version)),
        api::LEAVE_GROUP => RequestKind::LeaveGroup(any_leave(dice, version)),
        api::SYNC_GROUP => RequestKind::SyncGroup(any_sync(dice, version)),
        api::DESCRIBE_GROUPS => {
            let request = DescribeGroupsRequest::default().with_groups(some(dice, group));
            let operations = version >= 3 && dice.one_in(2);
            let request = request.with_include_authorized_operations(operations);
            RequestKind::DescribeGroups(tags!(dice, version >= 5, request))
        }
        api::LIST_GROUPS => {
            let mut request = ListGroupsRequest::default();
            if version >= 4 {
                request = request.with_states_filter(some(dice, text));
            }
            if version >= 5 {
                request = request.with_types_filter(some(dice, text));
            }
            RequestKind::ListGroups(tags!(dice, version >= 3, request))
        }
        api::DELETE_GROUPS => {
            let request = DeleteGroupsRequest::default().with_groups_names(some(dice, group));
            RequestKind::DeleteGroups(tags!(dice, version >= 2, request))
        }
        api::OFFSET_DELETE => RequestKind::OffsetDelete(any_offset_delete(dice)),
        api::CONSUMER_GROUP_HEARTBEAT => RequestKind::ConsumerGroupHeartbeat(any_beat(dice, version)),
        api::CONSUMER_GROUP_DESCRIBE => {
            let request = ConsumerGroupDescribeRequest::default()
                .with_group_ids(some(dice, group))
                .with_include_authorized_operations(dice.one_in(2));
            RequestKind::ConsumerGroupDescribe(tags!(dice, true, request))
        }
        _ => transactions::any_request(dice, key, version),
    }
}

fn group(dice: &mut Dice) -> GroupId {
    GroupId(text(dice))
}

fn any_commit(dice: &mut Dice, version: i16) -> OffsetCommitRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            let partition = commit::OffsetCommitRequestPartition::default()
                .with_partition_index(number(dice))
                .with_committed_offset(dice.next() as i64)
                .with_committed_metadata(maybe(dice, text));
            let epoch = if version >= 6 { number(dice) } else { -1 };
            tags!(dice, version >= 8, partition.with_committed_leader_epoch(epoch))
        });
        let of_topic = commit::OffsetCommitRequestTopic::default().with_name(topic(dice));
        tags!(dice, version >= 8, of_topic.with_partitions(partitions))
    });
    let mut request = OffsetCommitRequest::default()
        .with_group_id(group(dice))
        .with_generation_id_or_member_epoch(number(dice))
        .with_member_id(text(dice))
        .with_topics(topics);
    if version <= 4 {
        request = request.with_retention_time_ms(dice.next() as i64);
    }
    if version >= 7 {
        request = request.with_group_instance_id(maybe(dice, text));
    }
    tags!(dice, version >= 8, request)
}

fn any_offset_fetch(dice: &mut Dice, version: i16) -> OffsetFetchRequest {
    let mut request = OffsetFetchRequest::default();
    if version <= 7 {
        let topics = some(dice, |dice| {
            let of_topic = fetched::OffsetFetchRequestTopic::default().with_name(topic(dice));
            tags!(dice, version >= 6, of_topic.with_partition_indexes(some(dice, number)))
        });
        let topics = if version >= 2 && dice.one_in(3) { None } else { Some(topics) };
        request = request.with_group_id(group(dice)).with_topics(topics);
    } else {
        request = request.with_groups(some(dice, |dice| {
            let topics = maybe(dice, |dice| {
                some(dice, |dice| {
                    let of_topic = fetched::OffsetFetchRequestTopics::default().with_name(topic(dice));
                    of_topic.with_partition_indexes(some(dice, number))
                })
            });
            let of_group = fetched::OffsetFetchRequestGroup::default();
            let mut of_group = of_group.with_group_id(group(dice)).with_topics(topics);
            if version >= 9 {
                of_group = of_group.with_member_id(maybe(dice, text)).with_member_epoch(number(dice));
            }
            tags!(dice, true, of_group)
        }));
    }
    if version >= 7 {
        request = request.with_require_stable(dice.one_in(2));
    }
    tags!(dice, version >= 6, request)
}

fn any_join(dice: &mut Dice, version: i16) -> JoinGroupRequest {
    let protocols = some(dice, |dice| {
        let length = dice.below(200);
        let protocol = join::JoinGroupRequestProtocol::default().with_name(text(dice));
        tags!(dice, version >= 6, protocol.with_metadata(Bytes::from(dice.bytes(length))))
    });
    let mut request = JoinGroupRequest::default()
        .with_group_id(group(dice))
        .with_session_timeout_ms(number(dice))
        .with_member_id(text(dice))
        .with_protocol_type(text(dice))
        .with_protocols(protocols);
    if version >= 1 {
        request = request.with_rebalance_timeout_ms(number(dice));
    }
    if version >= 5 {
        request = request.with_group_instance_id(maybe(dice, text));
    }
    if version >= 8 {
        request = request.with_reason(maybe(dice, text));
    }
    tags!(dice, version >= 6, request)
}

fn any_heartbeat(dice: &mut Dice, version: i16) -> HeartbeatRequest {
    let mut request = HeartbeatRequest::default()
        .with_group_id(group(dice))
        .with_generation_id(number(dice))
        .with_member_id(text(dice));
    if version >= 3 {
        request = request.with_group_instance_id(maybe(dice, text));
    }
    tags!(dice, version >= 4, request)
}

fn any_leave(dice: &mut Dice, version: i16) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(group(dice));
    if version <= 2 {
        return request.with_member_id(text(dice));
    }
    let members = some(dice, |dice| {
        let member = leave::MemberIdentity::default().with_member_id(text(dice));
        let member = member.with_group_instance_id(maybe(dice, text));
        let reason = if version >= 5 { maybe(dice, text) } else { None };
        tags!(dice, version >= 4, member.with_reason(reason))
    });
    tags!(dice, version >= 4, request.with_members(members))
}

fn any_sync(dice: &mut Dice, version: i16) -> SyncGroupRequest {
    let assignments = some(dice, |dice| {
        let length = dice.below(200);
        let assignment = sync::SyncGroupRequestAssignment::default().with_member_id(text(dice));
        tags!(dice, version >= 4, assignment.with_assignment(Bytes::from(dice.bytes(length))))
    });
    let mut request = SyncGroupRequest::default()
        .with_group_id(group(dice))
        .with_generation_id(number(dice))
        .with_member_id(text(dice))
        .with_assignments(assignments);
    if version >= 3 {
        request = request.with_group_instance_id(maybe(dice, text));
    }
    if version >= 5 {
        request = request.with_protocol_type(maybe(dice, text)).with_protocol_name(maybe(dice, text));
    }
    tags!(dice, version >= 4, request)
}

fn any_offset_delete(dice: &mut Dice) -> OffsetDeleteRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            forget::OffsetDeleteRequestPartition::default().with_partition_index(number(dice))
        });
        forget::OffsetDeleteRequestTopic::default().with_name(topic(dice)).with_partitions(partitions)
    });
    OffsetDeleteRequest::default().with_group_id(group(dice)).with_topics(topics)
}

fn any_beat(dice: &mut Dice, version: i16) -> ConsumerGroupHeartbeatRequest {
    let owned = maybe(dice, |dice| {
        some(dice, |dice| {
            let of_topic = beat::TopicPartitions::default().with_topic_id(uuid(dice));
            tags!(dice, true, of_topic.with_partitions(some(dice, number)))
        })
    });
    let regex = if version >= 1 { maybe(dice, text) } else { None };
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group(dice))
        .with_member_id(text(dice))
        .with_member_epoch(number(dice))
        .with_instance_id(maybe(dice, text))
        .with_rack_id(maybe(dice, text))
        .with_rebalance_timeout_ms(number(dice))
        .with_subscribed_topic_names(maybe(dice, |dice| some(dice, topic)))
        .with_subscribed_topic_regex(regex)
        .with_server_assignor(maybe(dice, text))
        .with_topic_partitions(owned);
    tags!(dice, true, request)
}
