//! DeleteRecords: raises a partition's log start, in the manifest first and then in the local log.

use std::sync::Arc;
use std::time::Duration;

use highwater_wire::kafka::messages::delete_records_request::DeleteRecordsPartition;
use highwater_wire::kafka::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use highwater_wire::kafka::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use uuid::Uuid;

use super::errors;
use super::topics::{find_led, find_topic, unavailable_code};
use crate::node::Node;
use crate::partition::Partition;
use crate::partition::registry::Topic;
use crate::workers::retention::raise_log_start;

/// Stands for the high watermark.
const TO_HIGH_WATERMARK: i64 = -1;

/// Deletes partition by partition; each tells its new low watermark.
pub async fn handle(node: &Arc<Node>, _version: i16, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let view = node.partitions.view();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = tokio::time::Instant::now() + timeout;
    let mut topics = Vec::with_capacity(request.topics.len());
    for asked in request.topics {
        let topic = find_topic(&view, false, &asked.name, Uuid::nil());
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let result =
                DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
            let deleted = tokio::time::timeout_at(deadline, delete(node, topic, partition)).await;
            partitions.push(match deleted.unwrap_or(Err(errors::REQUEST_TIMED_OUT)) {
                Ok(low_watermark) => result.with_low_watermark(low_watermark),
                Err(code) => result.with_low_watermark(-1).with_error_code(code),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(asked.name).with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete(
    node: &Arc<Node>,
    topic: Result<&Arc<Topic>, i16>,
    asked: &DeleteRecordsPartition,
) -> Result<i64, i16> {
    let partition: &Arc<Partition> = find_led(topic?, asked.partition_index)?;
    let policy = partition.terms().config.cleanup_policy;
    if policy.compact && !policy.delete {
        return Err(errors::POLICY_VIOLATION);
    }
    let bounds = partition.bounds().map_err(|e| unavailable_code(&e))?;
    let offset = match asked.offset {
        TO_HIGH_WATERMARK => bounds.high_watermark,
        offset => offset,
    };
    if offset < 0 || offset > bounds.high_watermark {
        return Err(errors::OFFSET_OUT_OF_RANGE);
    }
    if offset <= bounds.log_start {
        return Ok(bounds.log_start);
    }
    raise_log_start(node, partition, offset).await.map_err(|e| {
        tracing::warn!(topic = %partition.topic, partition = partition.tp.partition, "records not deleted: {e}");
        errors::KAFKA_STORAGE_ERROR
    })?;
    Ok(partition.bounds().map_err(|e| unavailable_code(&e))?.log_start)
}
