//! Requests decoded, handed to their handler, and answers encoded: the only place besides `client/` that sees
//! the generated messages of the Kafka protocol.
//!
//! Every body has passed `wire::shape` before it comes here. Handlers on the data path (`produce`, `fetch`)
//! take effect at once and may answer later; the rest run alone on their connection, as every request does in
//! Kafka.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use highwater_wire::api;
use highwater_wire::frame::{self, RequestHead};
use highwater_wire::kafka::messages::api_versions_response::ApiVersion;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::{Decodable, Encodable};

use crate::net::reply::{Answer, CloseReason, Reply};
use crate::node::Node;

pub mod delete_records;
pub mod errors;
pub mod fetch;
pub mod groups;
pub mod init_producer_id;
pub mod list_offsets;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod topics;
pub mod transactions;

// --- administration ---
pub mod admin;
pub mod alter_configs;
pub mod api_versions;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_log_dirs;
pub mod describe_topic_partitions;
pub mod elect_leaders;
pub mod find_coordinator;
pub mod incremental_alter_configs;
pub mod metadata;
pub mod reassignments;

/// Length prefix, correlation id and the count of tagged fields.
const RESPONSE_HEADER_BYTES_MAX: usize = 9;

/// A request on its way to its handler.
pub struct Call<'a> {
    pub node: &'a Arc<Node>,
    pub peer: IpAddr,
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    /// As the client calls itself.
    pub client_id: Option<Bytes>,
    pub body: Bytes,
}

/// Decodes `R` and runs `$handler(&node, version, request).await` alone on the connection.
macro_rules! alone {
    ($call:expr, $request:ty, $response:ty, $handler:path) => {{
        let call: Call<'_> = $call;
        match decode::<$request>(call.body, call.version) {
            Ok(request) => {
                let (node, version) = (call.node.clone(), call.version);
                let (api_key, correlation_id) = (call.api_key, call.correlation_id);
                Answer::Alone(Box::pin(async move {
                    let response: $response = $handler(&node, version, request).await;
                    encode(api_key, correlation_id, version, &response)
                }))
            }
            Err(reason) => Answer::Close(reason),
        }
    }};
}

/// As `alone`, for handlers that have to know who asks: `$handler(&node, client, version, request).await`.
macro_rules! of_client {
    ($call:expr, $request:ty, $response:ty, $handler:path) => {{
        let call: Call<'_> = $call;
        match decode::<$request>(call.body, call.version) {
            Ok(request) => {
                let (node, version) = (call.node.clone(), call.version);
                let (api_key, correlation_id) = (call.api_key, call.correlation_id);
                let client_id = call.client_id.unwrap_or_default();
                let client = groups::client(call.peer, &String::from_utf8_lossy(&client_id));
                Answer::Alone(Box::pin(async move {
                    let response: $response = $handler(&node, client, version, request).await;
                    encode(api_key, correlation_id, version, &response)
                }))
            }
            Err(reason) => Answer::Close(reason),
        }
    }};
}

/// Begins the request that `head` announces. The API and version are served and the body has the right shape.
pub fn begin(node: &Arc<Node>, peer: IpAddr, head: &RequestHead, body: Bytes) -> Answer {
    let (api_key, version, correlation_id) = (head.api_key, head.api_version, head.correlation_id);
    let client_id = head.client_id.clone();
    let call = Call { node, peer, api_key, version, correlation_id, client_id, body };
    let Ok(key) = ApiKey::try_from(head.api_key) else {
        return Answer::Close(CloseReason::new(format!("API key {} is unknown", head.api_key)));
    };
    match key {
        ApiKey::Produce => produce::begin(call),
        ApiKey::Fetch => fetch::begin(call),
        ApiKey::ListOffsets => {
            alone!(call, ListOffsetsRequest, ListOffsetsResponse, list_offsets::handle)
        }
        ApiKey::OffsetForLeaderEpoch => alone!(
            call,
            OffsetForLeaderEpochRequest,
            OffsetForLeaderEpochResponse,
            offset_for_leader_epoch::handle
        ),
        ApiKey::DeleteRecords => {
            alone!(call, DeleteRecordsRequest, DeleteRecordsResponse, delete_records::handle)
        }
        _ => begin_group(key, call),
    }
}

fn begin_group(key: ApiKey, call: Call<'_>) -> Answer {
    use groups::{admin as listed, classic, consumer, offsets};
    match key {
        ApiKey::FindCoordinator => {
            alone!(call, FindCoordinatorRequest, FindCoordinatorResponse, find_coordinator::handle)
        }
        ApiKey::JoinGroup => of_client!(call, JoinGroupRequest, JoinGroupResponse, classic::join),
        ApiKey::SyncGroup => of_client!(call, SyncGroupRequest, SyncGroupResponse, classic::sync),
        ApiKey::Heartbeat => of_client!(call, HeartbeatRequest, HeartbeatResponse, classic::heartbeat),
        ApiKey::LeaveGroup => of_client!(call, LeaveGroupRequest, LeaveGroupResponse, classic::leave),
        ApiKey::OffsetCommit => of_client!(call, OffsetCommitRequest, OffsetCommitResponse, offsets::commit),
        ApiKey::OffsetFetch => of_client!(call, OffsetFetchRequest, OffsetFetchResponse, offsets::fetch),
        ApiKey::OffsetDelete => of_client!(call, OffsetDeleteRequest, OffsetDeleteResponse, offsets::delete),
        ApiKey::ListGroups => of_client!(call, ListGroupsRequest, ListGroupsResponse, listed::list),
        ApiKey::DescribeGroups => {
            of_client!(call, DescribeGroupsRequest, DescribeGroupsResponse, listed::describe)
        }
        ApiKey::DeleteGroups => of_client!(call, DeleteGroupsRequest, DeleteGroupsResponse, listed::delete),
        ApiKey::ConsumerGroupHeartbeat => of_client!(
            call,
            ConsumerGroupHeartbeatRequest,
            ConsumerGroupHeartbeatResponse,
            consumer::heartbeat
        ),
        ApiKey::ConsumerGroupDescribe => {
            of_client!(call, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, consumer::describe)
        }
        _ => begin_transaction(key, call),
    }
}

fn begin_transaction(key: ApiKey, call: Call<'_>) -> Answer {
    use transactions::{admin as listed, markers, offsets};
    match key {
        ApiKey::InitProducerId => {
            alone!(call, InitProducerIdRequest, InitProducerIdResponse, init_producer_id::handle)
        }
        ApiKey::AddPartitionsToTxn => {
            alone!(call, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, transactions::add_partitions)
        }
        ApiKey::AddOffsetsToTxn => {
            alone!(call, AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, transactions::add_offsets)
        }
        ApiKey::TxnOffsetCommit => {
            of_client!(call, TxnOffsetCommitRequest, TxnOffsetCommitResponse, offsets::commit)
        }
        ApiKey::EndTxn => alone!(call, EndTxnRequest, EndTxnResponse, transactions::end),
        ApiKey::WriteTxnMarkers => {
            alone!(call, WriteTxnMarkersRequest, WriteTxnMarkersResponse, markers::handle)
        }
        ApiKey::DescribeTransactions => {
            alone!(call, DescribeTransactionsRequest, DescribeTransactionsResponse, listed::describe)
        }
        ApiKey::ListTransactions => {
            alone!(call, ListTransactionsRequest, ListTransactionsResponse, listed::list)
        }
        ApiKey::DescribeProducers => {
            alone!(call, DescribeProducersRequest, DescribeProducersResponse, listed::producers)
        }
        _ => begin_administration(key, call),
    }
}

fn begin_administration(key: ApiKey, call: Call<'_>) -> Answer {
    match key {
        ApiKey::ApiVersions => {
            alone!(call, ApiVersionsRequest, ApiVersionsResponse, api_versions::handle)
        }
        ApiKey::Metadata => alone!(call, MetadataRequest, MetadataResponse, metadata::handle),
        ApiKey::DescribeCluster => {
            alone!(call, DescribeClusterRequest, DescribeClusterResponse, describe_cluster::handle)
        }
        ApiKey::CreateTopics => {
            alone!(call, CreateTopicsRequest, CreateTopicsResponse, create_topics::handle)
        }
        ApiKey::DeleteTopics => {
            alone!(call, DeleteTopicsRequest, DeleteTopicsResponse, delete_topics::handle)
        }
        ApiKey::CreatePartitions => {
            alone!(call, CreatePartitionsRequest, CreatePartitionsResponse, create_partitions::handle)
        }
        ApiKey::ElectLeaders => {
            alone!(call, ElectLeadersRequest, ElectLeadersResponse, elect_leaders::handle)
        }
        ApiKey::AlterPartitionReassignments => alone!(
            call,
            AlterPartitionReassignmentsRequest,
            AlterPartitionReassignmentsResponse,
            reassignments::alter
        ),
        ApiKey::ListPartitionReassignments => alone!(
            call,
            ListPartitionReassignmentsRequest,
            ListPartitionReassignmentsResponse,
            reassignments::list
        ),
        ApiKey::DescribeTopicPartitions => alone!(
            call,
            DescribeTopicPartitionsRequest,
            DescribeTopicPartitionsResponse,
            describe_topic_partitions::handle
        ),
        ApiKey::DescribeConfigs => {
            alone!(call, DescribeConfigsRequest, DescribeConfigsResponse, describe_configs::handle)
        }
        ApiKey::AlterConfigs => {
            alone!(call, AlterConfigsRequest, AlterConfigsResponse, alter_configs::handle)
        }
        ApiKey::IncrementalAlterConfigs => alone!(
            call,
            IncrementalAlterConfigsRequest,
            IncrementalAlterConfigsResponse,
            incremental_alter_configs::handle
        ),
        ApiKey::DescribeLogDirs => {
            alone!(call, DescribeLogDirsRequest, DescribeLogDirsResponse, describe_log_dirs::handle)
        }
        other => Answer::Close(CloseReason::new(format!("API {other:?} is listed but has no handler"))),
    }
}

/// Decodes a body whose shape has been checked.
///
/// # Errors
/// The reason to close the connection: the shape check and the decoder disagree, or a value is out of its
/// type.
pub fn decode<R: Decodable>(mut body: Bytes, version: i16) -> Result<R, CloseReason> {
    R::decode(&mut body, version)
        .map_err(|e| CloseReason::new(format!("{} v{version} cannot be decoded: {e}", short_name::<R>())))
}

/// A whole response frame.
///
/// # Errors
/// The reason to close the connection: a field is set that the version does not have (a defect of the
/// handler).
pub fn encode<R: Encodable>(
    api_key: i16,
    correlation_id: i32,
    version: i16,
    response: &R,
) -> Result<Reply, CloseReason> {
    let failed = |e: &dyn std::fmt::Display| {
        tracing::error!("{} v{version} cannot be encoded: {e}", short_name::<R>());
        CloseReason::new(format!("{} v{version} cannot be encoded", short_name::<R>()))
    };
    let size = response.compute_size(version).map_err(|e| failed(&e))?;
    let mut out = BytesMut::with_capacity(size + RESPONSE_HEADER_BYTES_MAX);
    frame::begin_response(&mut out, api_key, version, correlation_id);
    response.encode(&mut out, version).map_err(|e| failed(&e))?;
    let total = out.len();
    frame::finish_response(&mut out, total).map_err(|e| failed(&e))?;
    Ok(Reply::from(out.freeze()))
}

/// The answer to an ApiVersions request of a version that is not served: version 0 with what is served
/// (KIP-511).
pub fn unsupported_api_versions(correlation_id: i32) -> Result<Reply, CloseReason> {
    let keys = api::SERVED
        .iter()
        .map(|range| {
            ApiVersion::default()
                .with_api_key(range.key)
                .with_min_version(range.advertised_min)
                .with_max_version(range.max)
        })
        .collect();
    let response =
        ApiVersionsResponse::default().with_error_code(errors::UNSUPPORTED_VERSION).with_api_keys(keys);
    encode(api::API_VERSIONS, correlation_id, 0, &response)
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}
