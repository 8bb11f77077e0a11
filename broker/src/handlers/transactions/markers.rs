//! WriteTxnMarkers, as brokers of Kafka send it and its tools to end a transaction that hangs. Highwater's
//! own coordinators call each other by gRPC, because this message cannot say by which rules the marker's
//! epoch is newer than its batches.

use std::sync::Arc;

use highwater_groups::core::txn::TxnPartition;
use highwater_groups::core::types::Name;
use highwater_wire::control::EndMarker;
use highwater_wire::kafka::messages::write_txn_markers_request::WritableTxnMarker;
use highwater_wire::kafka::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use highwater_wire::kafka::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use crate::handlers::errors;
use crate::node::Node;
use crate::partition::Marker;
use crate::transactions::write_here;

pub async fn handle(
    node: &Arc<Node>,
    _version: i16,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let mut results = Vec::with_capacity(request.markers.len());
    for asked in request.markers {
        results.push(write(node, asked).await);
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}

async fn write(node: &Arc<Node>, asked: WritableTxnMarker) -> WritableTxnMarkerResult {
    let partitions = asked.topics.iter().flat_map(|topic| {
        let name = Name::from(topic.name.as_str());
        topic.partition_indexes.iter().map(move |partition| TxnPartition::new(name.clone(), *partition))
    });
    let partitions: Vec<TxnPartition> = partitions.collect();
    // -1: whoever asks knows of no coordinator.
    let is_possible = asked.producer_id.0 >= 0 && asked.producer_epoch >= 0 && asked.coordinator_epoch >= -1;
    let codes = match is_possible {
        true => {
            let marker = Marker {
                producer_id: asked.producer_id.0,
                producer_epoch: asked.producer_epoch,
                end: EndMarker {
                    commit: asked.transaction_result,
                    coordinator_epoch: asked.coordinator_epoch,
                },
                bumps_epoch: false,
            };
            write_here(node, &marker, &partitions).await
        }
        false => vec![errors::INVALID_REQUEST; partitions.len()],
    };
    let mut codes = codes.into_iter();
    let topics = asked.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|partition| {
            WritableTxnMarkerPartitionResult::default()
                .with_partition_index(*partition)
                .with_error_code(codes.next().unwrap_or(errors::UNKNOWN_SERVER_ERROR))
        });
        let partitions = partitions.collect();
        WritableTxnMarkerTopicResult::default().with_name(topic.name).with_partitions(partitions)
    });
    let topics = topics.collect();
    WritableTxnMarkerResult::default().with_producer_id(asked.producer_id).with_topics(topics)
}
