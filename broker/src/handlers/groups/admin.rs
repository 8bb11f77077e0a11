//! ListGroups, DescribeGroups and DeleteGroups.

use std::sync::Arc;

use highwater_groups::core::answer::{Answer, DescribedClassic};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{Client, Request};
use highwater_model::limits::GROUPS_PER_REQUEST_MAX;
use highwater_wire::kafka::messages::delete_groups_response::DeletableGroupResult;
use highwater_wire::kafka::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use highwater_wire::kafka::messages::list_groups_response::ListedGroup;
use highwater_wire::kafka::messages::*;
use uuid::Uuid;

use super::{MISMATCH, group_id, name, names, outcome_code, text, undescribed};
use crate::groups::{call, read, read_all};
use crate::node::Node;

/// Since then a list tells states.
const STATES_SINCE: i16 = 4;
/// Since then a list tells which protocol a group uses.
const TYPES_SINCE: i16 = 5;
/// Since then a group that is not there is an error and not a dead group (KIP-1043).
const NOT_FOUND_SINCE: i16 = 6;
/// Since then a description of a member has its instance id.
const INSTANCE_ID_SINCE: i16 = 4;
const DEAD: &str = "Dead";

pub async fn list(
    node: &Arc<Node>,
    _client: Client,
    version: i16,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let (states, kinds) = (names(&request.states_filter), names(&request.types_filter));
    let listed = match read_all(node, move |groups| groups.list(&states, &kinds)).await {
        Ok(listed) => listed,
        Err(error) => return ListGroupsResponse::default().with_error_code(error.code()),
    };
    let groups = listed.into_iter().flatten().map(|group| {
        let mut answer = ListedGroup::default()
            .with_group_id(group_id(&group.group))
            .with_protocol_type(text(&group.protocol_type));
        if version >= STATES_SINCE {
            answer = answer.with_group_state(text(group.state));
        }
        if version >= TYPES_SINCE {
            answer = answer.with_group_type(text(group.kind));
        }
        answer
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

pub async fn describe(
    node: &Arc<Node>,
    _client: Client,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::new();
    for (at, id) in request.groups.into_iter().enumerate() {
        let group = name(&id.0);
        let found = match at < GROUPS_PER_REQUEST_MAX {
            false => Err(GroupError::InvalidRequest),
            true => {
                let asked = group.clone();
                read(node, &group, move |groups| groups.describe_classic(&asked))
                    .await
                    .and_then(|found| found)
            }
        };
        groups.push(described(version, id, found));
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

fn described(version: i16, id: GroupId, found: Result<DescribedClassic, GroupError>) -> DescribedGroup {
    let answer = DescribedGroup::default().with_group_id(id.clone());
    let group = match found {
        Ok(group) => group,
        Err(GroupError::GroupIdNotFound) if version < NOT_FOUND_SINCE => {
            return answer.with_group_state(text(DEAD));
        }
        Err(error) => {
            let answer = answer.with_error_code(error.code());
            let is_dead = error == GroupError::GroupIdNotFound;
            let answer = if is_dead { answer.with_group_state(text(DEAD)) } else { answer };
            return match version >= NOT_FOUND_SINCE {
                true => answer.with_error_message(Some(undescribed(error, &id))),
                false => answer,
            };
        }
    };
    let members = group.members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(&member.member_id))
            .with_group_instance_id(
                member.instance_id.filter(|_| version >= INSTANCE_ID_SINCE).map(|id| text(&id)),
            )
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    answer
        .with_group_state(text(group.state))
        .with_protocol_type(text(&group.protocol_type))
        .with_protocol_data(text(&group.protocol))
        .with_members(members.collect())
}

pub async fn delete(
    node: &Arc<Node>,
    client: Client,
    _version: i16,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::new();
    for (at, id) in request.groups_names.into_iter().enumerate() {
        let group = name(&id.0);
        let outcome = match at < GROUPS_PER_REQUEST_MAX {
            false => Err(GroupError::InvalidRequest),
            true => {
                let client = Client { fresh: Uuid::new_v4(), ..client.clone() };
                let request = Request::DeleteGroup { group: group.clone() };
                match call(node, &group, client, request).await {
                    Ok(Answer::DeleteGroup(outcome)) => outcome,
                    Ok(_) => Err(MISMATCH),
                    Err(error) => Err(error),
                }
            }
        };
        let code = outcome_code(&outcome);
        results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code));
    }
    DeleteGroupsResponse::default().with_results(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_not_there_is_dead_or_an_error() {
        let not_found = |version| described(version, group_id("g"), Err(GroupError::GroupIdNotFound));
        assert_eq!((not_found(5).error_code, not_found(5).group_state.as_str()), (0, DEAD));
        assert_eq!((not_found(6).error_code, not_found(6).group_state.as_str()), (69, DEAD));
        let elsewhere = described(5, group_id("g"), Err(GroupError::NotCoordinator));
        assert_eq!((elsewhere.error_code, elsewhere.group_state.as_str()), (16, ""));
    }
}
