//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup: the classic protocol.

use std::sync::Arc;

use highwater_groups::core::answer::{Answer, Joined, Synced};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::records::ClassicProtocol;
use highwater_groups::core::request::{self, Client, LeavingMember, Request};
use highwater_wire::kafka::messages::join_group_response::JoinGroupResponseMember;
use highwater_wire::kafka::messages::leave_group_response::MemberResponse;
use highwater_wire::kafka::messages::*;

use super::{MISMATCH, code, maybe_name, name, outcome_code, text};
use crate::groups::call;
use crate::node::Node;

/// Since then the rebalance timeout is said.
const REBALANCE_TIMEOUT_SINCE: i16 = 1;
/// Since then a member without an id is given one and comes again (KIP-394).
const MEMBER_ID_REQUIRED_SINCE: i16 = 4;
/// Since then an answer names the protocol's type, and its name may be missing.
const PROTOCOL_TYPE_SINCE: i16 = 7;
/// Since then a leader may be told to leave the assignment as it is (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;
/// Since then a SyncGroup names the protocol (KIP-559).
const SYNC_PROTOCOL_SINCE: i16 = 5;
/// Since then several members may leave at once (KIP-345).
const LEAVE_BATCHED_SINCE: i16 = 3;

pub async fn join(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let member_id = name(&request.member_id);
    let protocols = request.protocols.into_iter();
    let join = request::Join {
        group: name(&request.group_id.0),
        member_id: member_id.clone(),
        instance_id: maybe_name(request.group_instance_id.as_ref()),
        protocol_type: name(&request.protocol_type),
        protocols: protocols.map(|p| ClassicProtocol { name: name(&p.name), metadata: p.metadata }).collect(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match version >= REBALANCE_TIMEOUT_SINCE {
            true => request.rebalance_timeout_ms,
            false => -1,
        },
        requires_member_id: version >= MEMBER_ID_REQUIRED_SINCE,
        can_skip_assignment: version >= SKIP_ASSIGNMENT_SINCE,
    };
    let group = join.group.clone();
    let joined = match call(node, &group, client, Request::Join(join)).await {
        Ok(Answer::Join(joined)) => joined,
        Ok(_) => Joined::refused(MISMATCH, member_id),
        Err(error) => Joined::refused(error, member_id),
    };
    joined_response(version, joined)
}

fn joined_response(version: i16, joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(member.instance_id.filter(|_| version >= 5).map(|id| text(&id)))
            .with_metadata(member.metadata)
    });
    let protocol = joined.protocol.map(|name| text(&name));
    let mut response = JoinGroupResponse::default()
        .with_error_code(code(joined.error))
        .with_generation_id(joined.generation)
        .with_leader(joined.leader.map(|leader| text(&leader)).unwrap_or_default())
        .with_member_id(text(&joined.member_id))
        .with_members(members.collect());
    if version >= PROTOCOL_TYPE_SINCE {
        let protocol_type = joined.protocol_type.map(|name| text(&name));
        response = response.with_protocol_type(protocol_type).with_protocol_name(protocol);
    } else {
        response = response.with_protocol_name(Some(protocol.unwrap_or_default()));
    }
    match version >= SKIP_ASSIGNMENT_SINCE {
        true => response.with_skip_assignment(joined.is_assignment_skipped),
        false => response,
    }
}

pub async fn sync(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let assignments = request.assignments.into_iter();
    let sync = request::Sync {
        group: name(&request.group_id.0),
        generation: request.generation_id,
        member_id: name(&request.member_id),
        instance_id: maybe_name(request.group_instance_id.as_ref()),
        protocol_type: maybe_name(request.protocol_type.as_ref()),
        protocol: maybe_name(request.protocol_name.as_ref()),
        assignments: assignments.map(|a| (name(&a.member_id), a.assignment)).collect(),
    };
    let group = sync.group.clone();
    let synced = match call(node, &group, client, Request::Sync(sync)).await {
        Ok(Answer::Sync(synced)) => synced,
        Ok(_) => Synced::refused(MISMATCH),
        Err(error) => Synced::refused(error),
    };
    let response =
        SyncGroupResponse::default().with_error_code(code(synced.error)).with_assignment(synced.assignment);
    match version >= SYNC_PROTOCOL_SINCE {
        true => response
            .with_protocol_type(synced.protocol_type.map(|name| text(&name)))
            .with_protocol_name(synced.protocol.map(|name| text(&name))),
        false => response,
    }
}

pub async fn heartbeat(
    node: &Arc<Node>,
    client: Client,
    _version: i16,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let beat = request::Heartbeat {
        group: name(&request.group_id.0),
        generation: request.generation_id,
        member_id: name(&request.member_id),
        instance_id: maybe_name(request.group_instance_id.as_ref()),
    };
    let group = beat.group.clone();
    let error = match call(node, &group, client, Request::Heartbeat(beat)).await {
        Ok(Answer::Heartbeat(outcome)) => outcome.err(),
        Ok(_) => Some(MISMATCH),
        // As Kafka: sessions begin anew when the load is done, so that nobody need join again for it.
        Err(GroupError::CoordinatorLoadInProgress) => None,
        Err(error) => Some(error),
    };
    HeartbeatResponse::default().with_error_code(code(error))
}

pub async fn leave(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let is_batched = version >= LEAVE_BATCHED_SINCE;
    let members = match is_batched {
        false => vec![LeavingMember { member_id: name(&request.member_id), instance_id: None }],
        true => {
            let members = request.members.iter();
            let leaving = members.map(|member| LeavingMember {
                member_id: name(&member.member_id),
                instance_id: maybe_name(member.group_instance_id.as_ref()),
            });
            leaving.collect()
        }
    };
    let group = name(&request.group_id.0);
    let leave = request::Leave { group: group.clone(), members };
    let outcome = match call(node, &group, client, Request::Leave(leave)).await {
        Ok(Answer::Leave(outcome)) => outcome,
        Ok(_) => Err(MISMATCH),
        Err(error) => Err(error),
    };
    let response = LeaveGroupResponse::default();
    match outcome {
        Err(error) => response.with_error_code(error.code()),
        // One member's own error is the answer's.
        Ok(left) if !is_batched => {
            response.with_error_code(code(left.first().and_then(|member| member.error)))
        }
        Ok(left) => {
            let members = left.into_iter().map(|member| {
                MemberResponse::default()
                    .with_member_id(text(&member.member_id))
                    .with_group_instance_id(member.instance_id.map(|id| text(&id)))
                    .with_error_code(outcome_code(&member.error.map_or(Ok(()), Err)))
            });
            response.with_members(members.collect())
        }
    }
}
