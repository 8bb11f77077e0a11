//! OffsetCommit, OffsetFetch and OffsetDelete.

use std::sync::Arc;

use highwater_groups::core::answer::{Answer, FetchedOffset};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{
    Client, CommitOffset, CommitOffsets, DeleteOffsets, FetchOffsets, Request,
};
use highwater_groups::core::types::Name;
use highwater_model::TopicId;
use highwater_model::limits::GROUPS_PER_REQUEST_MAX;
use highwater_wire::kafka::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use highwater_wire::kafka::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use highwater_wire::kafka::messages::offset_fetch_request::OffsetFetchRequestGroup;
use highwater_wire::kafka::messages::offset_fetch_response::*;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;

use super::{MISMATCH, maybe_name, name, text};
use crate::groups::{call, read};
use crate::node::Node;

/// Since then clients know of epochs (KIP-848).
const EPOCHS_SINCE: i16 = 9;
/// Until then a commit may name how long it is kept.
const RETENTION_UNTIL: i16 = 4;
/// Since then one fetch asks for many groups.
const GROUPS_SINCE: i16 = 8;
/// Since then a fetch has one error for the group.
const GROUP_ERROR_SINCE: i16 = 2;
/// Since then a fetch tells leader epochs.
const LEADER_EPOCH_SINCE: i16 = 5;

/// The id of each partition's topic, if it has that partition.
fn find<'a>(node: &Node, wanted: impl Iterator<Item = (&'a str, i32)>) -> Vec<Result<TopicId, GroupError>> {
    node.coordinator.with_state(|state| {
        let one = |(name, partition)| {
            let topic = state.topic_by_name(name)?;
            topic.partition(partition).map(|_| topic.id)
        };
        wanted.map(|wanted| one(wanted).ok_or(GroupError::UnknownTopicOrPartition)).collect()
    })
}

/// An offset that a client wants committed.
pub(in crate::handlers) struct Wanted<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Option<&'a StrBytes>,
}

/// For each partition in order: refused here, or judged by the group, which gets the second list.
pub(in crate::handlers) fn judge<'a>(
    node: &Node,
    wanted: impl Iterator<Item = Wanted<'a>> + Clone,
) -> (Vec<Result<TopicId, GroupError>>, Vec<CommitOffset>) {
    let judged = find(node, wanted.clone().map(|one| (one.topic, one.partition)));
    let mut offsets: Vec<CommitOffset> = Vec::with_capacity(judged.len());
    for (one, found) in wanted.zip(&judged) {
        let Ok(topic_id) = found else { continue };
        let topic = match offsets.last() {
            Some(last) if *last.topic == *one.topic => last.topic.clone(),
            _ => Name::from(one.topic),
        };
        let metadata = one.metadata.map_or("", StrBytes::as_str);
        let metadata = match offsets.last() {
            Some(last) if *last.metadata == *metadata => last.metadata.clone(),
            _ => Name::from(metadata),
        };
        offsets.push(CommitOffset {
            topic,
            topic_id: Some(*topic_id),
            partition: one.partition,
            offset: one.offset,
            leader_epoch: one.leader_epoch,
            metadata,
        });
    }
    (judged, offsets)
}

pub async fn commit(
    node: &Arc<Node>,
    client: Client,
    version: i16,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
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
    let group = name(&request.group_id.0);
    let commit = CommitOffsets {
        group: group.clone(),
        member_id: name(&request.member_id),
        instance_id: maybe_name(request.group_instance_id.as_ref()),
        generation: request.generation_id_or_member_epoch,
        retention_ms: (version <= RETENTION_UNTIL).then_some(request.retention_time_ms),
        knows_epochs: version >= EPOCHS_SINCE,
        offsets,
    };
    // A commit of nothing that exists says nothing of the group, as in Kafka.
    let outcome = match commit.offsets.is_empty() && !judged.is_empty() {
        true => Ok(Vec::new()),
        false => match call(node, &group, client, Request::CommitOffsets(commit)).await {
            Ok(Answer::CommitOffsets(outcome)) => outcome,
            Ok(_) => Err(MISMATCH),
            Err(error) => Err(error),
        },
    };
    let mut codes = codes(judged, outcome).into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(codes.next().unwrap_or_else(|| MISMATCH.code()))
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// One code for each partition: what it was refused for, or what the group says of it, or of all.
pub(in crate::handlers) fn codes(
    judged: Vec<Result<TopicId, GroupError>>,
    outcome: Result<Vec<Result<(), GroupError>>, GroupError>,
) -> Vec<i16> {
    let (mut each, all) = match outcome {
        Ok(each) => (each.into_iter(), MISMATCH),
        Err(error) => (Vec::new().into_iter(), error),
    };
    let code = |one: Result<TopicId, GroupError>| match one {
        Err(error) => error.code(),
        Ok(_) => match each.next() {
            Some(Ok(())) => 0,
            Some(Err(error)) => error.code(),
            None => all.code(),
        },
    };
    judged.into_iter().map(code).collect()
}

/// What one group is asked for.
fn wanted(group: OffsetFetchRequestGroup, version: i16, is_stable_required: bool) -> FetchOffsets {
    let partitions = group.topics.map(|topics| {
        let each = topics.iter().flat_map(|topic| {
            let topic_name = name(&topic.name.0);
            topic.partition_indexes.iter().map(move |partition| (topic_name.clone(), *partition))
        });
        each.collect()
    });
    let knows_epochs = version >= EPOCHS_SINCE;
    FetchOffsets {
        group: name(&group.group_id.0),
        member_id: maybe_name(group.member_id.as_ref()).filter(|_| knows_epochs),
        epoch: if knows_epochs { group.member_epoch } else { -1 },
        partitions,
        is_stable_required,
    }
}

type Fetched = Result<Vec<FetchedOffset>, GroupError>;

async fn fetch_one(node: &Node, wanted: &FetchOffsets) -> Fetched {
    let asked = wanted.clone();
    read(node, &wanted.group, move |groups| groups.fetch_offsets(&asked)).await?
}

pub async fn fetch(
    node: &Arc<Node>,
    _client: Client,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if version < GROUPS_SINCE {
        return fetch_single(node, version, request).await;
    }
    let mut groups = Vec::new();
    for (at, group) in request.groups.into_iter().enumerate() {
        let group_id = group.group_id.clone();
        let wanted = wanted(group, version, request.require_stable);
        let fetched = match at < GROUPS_PER_REQUEST_MAX {
            true => fetch_one(node, &wanted).await,
            false => Err(GroupError::InvalidRequest),
        };
        let answer = OffsetFetchResponseGroup::default().with_group_id(group_id);
        groups.push(match fetched {
            Err(error) => answer.with_error_code(error.code()),
            Ok(offsets) => answer.with_topics(by_topic(offsets).into_iter().map(topic_of_group).collect()),
        });
    }
    OffsetFetchResponse::default().with_groups(groups)
}

/// Offsets by topic, in the order in which topics are met.
fn by_topic(offsets: Vec<FetchedOffset>) -> Vec<(Name, Vec<FetchedOffset>)> {
    let mut topics: Vec<(Name, Vec<FetchedOffset>)> = Vec::new();
    for offset in offsets {
        match topics.last_mut() {
            Some((topic, list)) if *topic == offset.topic => list.push(offset),
            _ => topics.push((offset.topic.clone(), vec![offset])),
        }
    }
    topics
}

fn topic_of_group((topic, offsets): (Name, Vec<FetchedOffset>)) -> OffsetFetchResponseTopics {
    let partitions = offsets.into_iter().map(|offset| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(offset.partition)
            .with_committed_offset(offset.offset)
            .with_committed_leader_epoch(offset.leader_epoch)
            .with_metadata(Some(text(&offset.metadata)))
            .with_error_code(offset.error.map_or(0, GroupError::code))
    });
    let partitions = partitions.collect();
    OffsetFetchResponseTopics::default().with_name(TopicName(text(&topic))).with_partitions(partitions)
}

/// Versions below 8, which ask for one group.
async fn fetch_single(node: &Node, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let topics = request.topics.map(|topics| {
        let topics = topics.into_iter().map(|topic| {
            offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        topics.collect()
    });
    let group = OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_topics(topics);
    let wanted = wanted(group, version, request.require_stable);
    let response = OffsetFetchResponse::default();
    let offsets = match fetch_one(node, &wanted).await {
        Ok(offsets) => offsets,
        Err(error) if version >= GROUP_ERROR_SINCE => return response.with_error_code(error.code()),
        Err(error) => {
            let none = |(topic, partition)| FetchedOffset {
                topic,
                partition,
                offset: -1,
                leader_epoch: -1,
                metadata: Name::from(""),
                error: Some(error),
            };
            wanted.partitions.unwrap_or_default().into_iter().map(none).collect()
        }
    };
    let topics = by_topic(offsets).into_iter().map(|(topic, offsets)| {
        let partitions = offsets.into_iter().map(|offset| {
            let partition = OffsetFetchResponsePartition::default()
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset)
                .with_metadata(Some(text(&offset.metadata)))
                .with_error_code(offset.error.map_or(0, GroupError::code));
            match version >= LEADER_EPOCH_SINCE {
                true => partition.with_committed_leader_epoch(offset.leader_epoch),
                false => partition,
            }
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopic::default().with_name(TopicName(text(&topic))).with_partitions(partitions)
    });
    response.with_topics(topics.collect())
}

pub async fn delete(
    node: &Arc<Node>,
    client: Client,
    _version: i16,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let wanted = || {
        request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.name.as_str(), partition.partition_index))
        })
    };
    let judged = find(node, wanted());
    let known = wanted().zip(&judged).filter(|(_, found)| found.is_ok());
    let partitions = known.map(|((topic, partition), _)| (Name::from(topic), partition)).collect();
    let group = name(&request.group_id.0);
    let delete = DeleteOffsets { group: group.clone(), partitions };
    let outcome = match call(node, &group, client, Request::DeleteOffsets(delete)).await {
        Ok(Answer::DeleteOffsets(Ok(outcome))) => outcome,
        Ok(Answer::DeleteOffsets(Err(error))) | Err(error) => {
            return OffsetDeleteResponse::default().with_error_code(error.code());
        }
        Ok(_) => return OffsetDeleteResponse::default().with_error_code(MISMATCH.code()),
    };
    let mut codes = codes(judged, Ok(outcome)).into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(codes.next().unwrap_or_else(|| MISMATCH.code()))
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_gets_its_own_code() {
        let (gone, large) = (GroupError::UnknownTopicOrPartition, GroupError::OffsetMetadataTooLarge);
        let there = Ok(TopicId::NONE);
        let judged = vec![there, Err(gone), there, there];
        assert_eq!(codes(judged.clone(), Ok(vec![Ok(()), Err(large), Ok(())])), [0, 3, 12, 0]);
        assert_eq!(codes(judged, Err(GroupError::IllegalGeneration)), [22, 3, 22, 22]);
        assert_eq!(codes(vec![Err(gone)], Ok(Vec::new())), [3]);
    }
}
