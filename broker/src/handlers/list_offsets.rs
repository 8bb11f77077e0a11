//! ListOffsets (versions 1 to 10): the ends of a partition by name, and offsets by time, in the tier and the
//! local log.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::OffsetBounds;
use highwater_model::limits::TIER_READ_MS_MAX;
use highwater_tiering::core::manifest::Manifest;
use highwater_wire::kafka::messages::list_offsets_request::ListOffsetsPartition;
use highwater_wire::kafka::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use highwater_wire::kafka::messages::{ListOffsetsRequest, ListOffsetsResponse};
use tokio::time::Instant;
use uuid::Uuid;

use super::errors;
use super::topics::{find_led, find_topic, unavailable_code};
use crate::core::fetch_plan::{EpochFence, Isolation, fence};
use crate::node::Node;
use crate::partition::registry::Topic;
use crate::partition::{Partition, ReadRefusal};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// KIP-734, version 7.
const MAX_TIMESTAMP: i64 = -3;
/// KIP-405, version 8.
const EARLIEST_LOCAL: i64 = -4;
/// KIP-1005, version 9.
const LATEST_TIERED: i64 = -5;

/// An offset, its timestamp and leader epoch; -1 where there is none.
struct Listed {
    offset: i64,
    timestamp: i64,
    leader_epoch: i32,
}

/// Older answers have no leader epoch.
const LEADER_EPOCH_SINCE: i16 = 4;
/// Older clients know another word for it.
const OFFSET_NOT_AVAILABLE_SINCE: i16 = 5;
const NOTHING: Listed = Listed { offset: -1, timestamp: -1, leader_epoch: -1 };

/// Answers for each partition on its own.
pub async fn handle(node: &Arc<Node>, version: i16, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let view = node.partitions.view();
    let mut topics = Vec::with_capacity(request.topics.len());
    let isolation = Isolation::asked(request.isolation_level);
    for asked in request.topics {
        let topic = find_topic(&view, false, &asked.name, Uuid::nil());
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let listed = list(node, version, topic, (partition, isolation)).await;
            partitions.push(response(version, partition.partition_index, listed));
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(asked.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn response(version: i16, index: i32, listed: Result<Listed, i16>) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match listed {
        Ok(listed) => response.with_offset(listed.offset).with_timestamp(listed.timestamp).with_leader_epoch(
            if version >= LEADER_EPOCH_SINCE { listed.leader_epoch } else { NOTHING.leader_epoch },
        ),
        Err(code) => response.with_error_code(code).with_offset(-1).with_timestamp(-1).with_leader_epoch(-1),
    }
}

async fn list(
    node: &Arc<Node>,
    version: i16,
    topic: Result<&Arc<Topic>, i16>,
    (asked, isolation): (&ListOffsetsPartition, Isolation),
) -> Result<Listed, i16> {
    let partition = find_led(topic?, asked.partition_index)?;
    let bounds = partition.bounds().map_err(|e| unavailable_code(&e))?;
    match fence(asked.current_leader_epoch, partition.terms().leader_epoch) {
        EpochFence::Current => {}
        EpochFence::Fenced => return Err(errors::FENCED_LEADER_EPOCH),
        EpochFence::Unknown => return Err(errors::UNKNOWN_LEADER_EPOCH),
    }
    let at = |offset| Listed { offset, timestamp: -1, leader_epoch: partition.epoch_at(offset) };
    // Where this reader's records end.
    let end = isolation.end(&bounds);
    let below_end = |listed: Listed| if listed.offset < end { listed } else { NOTHING };
    match asked.timestamp {
        // A new leader may not know yet how much of what it has is committed (KIP-207).
        timestamp
            if (timestamp >= 0 || timestamp == LATEST || timestamp == MAX_TIMESTAMP)
                && !partition.is_settled() =>
        {
            match version < OFFSET_NOT_AVAILABLE_SINCE {
                true => Err(errors::LEADER_NOT_AVAILABLE),
                false => Err(errors::OFFSET_NOT_AVAILABLE),
            }
        }
        LATEST => Ok(at(end)),
        EARLIEST => Ok(at(bounds.log_start)),
        MAX_TIMESTAMP if version >= 7 => newest(node, partition, &bounds).await.map(below_end),
        EARLIEST_LOCAL if version >= 8 => Ok(at(bounds.local_start)),
        LATEST_TIERED if version >= 9 => Ok(match bounds.tiered_end > bounds.log_start {
            true => at(bounds.tiered_end - 1),
            false => NOTHING,
        }),
        timestamp if timestamp < 0 => Err(errors::UNSUPPORTED_VERSION),
        timestamp => first_at(node, partition, &bounds, timestamp).await.map(below_end),
    }
}

/// The first record at or after a time: the tier's, if it is not local, else the local log's.
async fn first_at(
    node: &Arc<Node>,
    partition: &Partition,
    bounds: &OffsetBounds,
    timestamp: i64,
) -> Result<Listed, i16> {
    if bounds.log_start < bounds.local_start
        && let Some(found) =
            in_tier(node, partition, &partition.manifest(), timestamp, tier_deadline()).await?
        && found.offset < bounds.local_start
    {
        return Ok(found);
    }
    let found = match partition.local_offset_for_timestamp(timestamp) {
        Ok(found) => found,
        Err(damage) => {
            let code = refused(partition, &damage);
            // What is damaged here may be whole in the tier.
            let in_both = bounds.local_start < bounds.tiered_end && damage.is_damage();
            let elsewhere = match in_both {
                true => in_tier(node, partition, &partition.manifest(), timestamp, tier_deadline()).await?,
                false => None,
            };
            return elsewhere.ok_or(code);
        }
    };
    Ok(found.map_or(NOTHING, |f| Listed {
        offset: f.offset,
        timestamp: f.timestamp,
        leader_epoch: f.leader_epoch,
    }))
}

/// The first record with the largest timestamp, wherever it is.
async fn newest(node: &Arc<Node>, partition: &Partition, bounds: &OffsetBounds) -> Result<Listed, i16> {
    let local = partition.local_max_timestamp().map_err(|e| refused(partition, &e))?;
    if bounds.log_start < bounds.local_start {
        let least = local.map_or(0, |l| l.timestamp.max(0));
        if let Some(found) = newest_in_tier(node, partition, least).await?
            && found.offset < bounds.local_start
        {
            return Ok(found);
        }
    }
    Ok(local.map_or(NOTHING, |f| Listed {
        offset: f.offset,
        timestamp: f.timestamp,
        leader_epoch: f.leader_epoch,
    }))
}

/// The first of the tier's records with the largest timestamp, if that is `least` or more. What a node lists
/// is an upper bound: the log start may have cut the record that set it. Then the truth lies between the next
/// lower bound and this one, and is searched for; each step reads parts that mostly are in the cache.
async fn newest_in_tier(node: &Arc<Node>, partition: &Partition, least: i64) -> Result<Option<Listed>, i16> {
    let deadline = tier_deadline();
    let manifest = partition.manifest();
    let at = |timestamp| in_tier(node, partition, &manifest, timestamp, deadline);
    let mut bounds: Vec<i64> = manifest.nodes().map(|node| node.timestamps().1).collect();
    // The floor comes last: below it nothing is asked for.
    bounds.retain(|bound| *bound > least);
    bounds.push(least);
    bounds.sort_unstable_by(|a, b| b.cmp(a));
    bounds.dedup();
    // No record is at `above` or later.
    let mut above = bounds[0].saturating_add(1);
    let mut best = None;
    for bound in bounds {
        best = at(bound).await?;
        if best.is_some() {
            break;
        }
        above = bound;
    }
    let Some(mut best) = best else { return Ok(None) };
    while best.timestamp + 1 < above {
        let middle = best.timestamp + 1 + (above - best.timestamp - 1) / 2;
        match at(middle).await? {
            Some(found) => best = found,
            None => above = middle,
        }
    }
    Ok(Some(best))
}

fn refused(partition: &Partition, refusal: &ReadRefusal) -> i16 {
    match refusal {
        ReadRefusal::Unavailable(unavailable) => unavailable_code(unavailable),
        e => {
            tracing::error!(topic = %partition.topic, partition = partition.tp.partition, "cannot read: {e}");
            errors::KAFKA_STORAGE_ERROR
        }
    }
}

fn tier_deadline() -> Instant {
    Instant::now() + Duration::from_millis(TIER_READ_MS_MAX)
}

/// The tier's first record at or after a time.
async fn in_tier(
    node: &Arc<Node>,
    partition: &Partition,
    manifest: &Manifest,
    timestamp: i64,
    deadline: Instant,
) -> Result<Option<Listed>, i16> {
    match node.tier.offset_for_timestamp(partition.tp, &partition.topic, manifest, timestamp, deadline).await
    {
        Ok(hit) => {
            Ok(hit.map(|h| Listed { offset: h.offset, timestamp: h.timestamp, leader_epoch: h.leader_epoch }))
        }
        Err(e) => {
            tracing::warn!(topic = %partition.topic, partition = partition.tp.partition, timestamp, "tier: {e}");
            Err(errors::KAFKA_STORAGE_ERROR)
        }
    }
}
