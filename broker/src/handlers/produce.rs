//! Produce (versions 3 to 13): batches judged, appended, acknowledged.
//!
//! A request takes effect where it is read, in the connection's task: each batch is judged without a lock,
//! then appended under its partition's lock. The answer waits only where a batch does not count yet: for the
//! other replicas in sync (acks=all), or for the disk. A request that begins a transaction in a partition
//! waits for its coordinator's word first (`verify`), one with delayed records for that of their shard
//! (`delayed`), and the connection's later requests wait behind it.
//! Errors are told per partition; who asked the wrong node is told who leads (KIP-951). Invariants: 3 (no
//! acknowledgement before its batch counts), 14 (bytes as sent).

mod delayed;
mod verify;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_log::VerificationTicket;
use highwater_model::limits::DECOMPRESSED_PER_REQUEST_BYTES_MAX;
use highwater_wire::kafka::messages::produce_request::PartitionProduceData;
use highwater_wire::kafka::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use highwater_wire::kafka::messages::{ProduceRequest, ProduceResponse};
use highwater_wire::kafka::protocol::StrBytes;
use highwater_wire::{AcceptedBatch, BatchRefusal, Codec, ProduceRules, validate_produce};

use super::admin::is_internal;
use super::topics::{
    current_leader, find_led, find_topic, leader_refusal_code, names_another_leader, unavailable_code,
};
use super::{Call, decode, encode, errors};
use crate::core::delayed::AskRecord;
use crate::metrics::RefusedKind;
use crate::net::reply::{Answer, CloseReason, Reply};
use crate::node::Node;
use crate::partition::registry::Topic;
use crate::partition::{AckFailure, AckWait, AppendRefusal, Appended, Partition, Proposal};
use crate::raft::ProposeRefusal;
use crate::replica::Origin;

/// First version that names topics by id.
const IDS_SINCE: i16 = 13;
/// First version that may carry zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;
/// First version that tells who leads.
const LEADERS_SINCE: i16 = 10;
const ACKS_ALL: i16 = -1;
/// What a refused batch is taken to have decompressed to, per byte: the most that a codec can do, about.
const DECOMPRESSED_PER_BYTE_ASSUMED: usize = 32 * 1024;

thread_local! {
    /// Where batches are decompressed to be judged; its size is bounded by `validate_produce`.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An acknowledgement that waits.
struct Waiting {
    wait: Wait,
    topic: usize,
    index: usize,
}

/// What for.
enum Wait {
    /// Replicas in sync, or the disk.
    Ack(Arc<Partition>, AckWait),
    /// The partition's Raft group.
    Group(Proposal),
}

/// A batch that was taken.
enum Taken {
    Appended(Arc<Partition>, Appended),
    Proposed(Proposal),
}

/// A refused batch.
struct Refused {
    code: i16,
    message: Option<String>,
    record: Option<i32>,
}

impl Refused {
    fn code(code: i16) -> Refused {
        Refused { code, message: None, record: None }
    }

    fn told(code: i16, message: impl ToString) -> Refused {
        Refused { code, message: Some(message.to_string()), record: None }
    }
}

/// A batch that may be appended, and its place in the answer.
struct Judged {
    topic: usize,
    index: usize,
    partition: Arc<Partition>,
    batch: AcceptedBatch,
    /// It begins a transaction here: the coordinator has to be asked first.
    ticket: Option<VerificationTicket>,
    /// Records of it are to be delivered later: their shard has to be asked first.
    delayed: Option<Vec<AskRecord>>,
}

/// What holds for all batches of a request.
struct Context<'a> {
    node: &'a Arc<Node>,
    version: i16,
    now_ms: i64,
    acks: i16,
    is_transactional: bool,
    /// The whole request is refused, e.g. for its acks.
    refusal: Option<(i16, &'static str)>,
    /// What its batches may still decompress to.
    decompress_bytes: Cell<usize>,
}

/// Appends what the request brings, in order, and answers.
pub fn begin(call: Call<'_>) -> Answer {
    let request = match decode::<ProduceRequest>(call.body.clone(), call.version) {
        Ok(request) => request,
        Err(reason) => return Answer::Close(reason),
    };
    let refusal = refuse_request(&request);
    let (acks, timeout_ms) = (request.acks, request.timeout_ms);
    let context = Context {
        node: call.node,
        version: call.version,
        now_ms: call.node.now_ms(),
        acks,
        is_transactional: request.transactional_id.is_some(),
        refusal,
        decompress_bytes: Cell::new(DECOMPRESSED_PER_REQUEST_BYTES_MAX),
    };
    let view = call.node.partitions.view();
    let mut judged = Vec::new();
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let topic = find_topic(&view, call.version >= IDS_SINCE, &data.name, data.topic_id);
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for partition in data.partition_data {
            let at = (topics.len(), partitions.len());
            let response = PartitionProduceResponse::default().with_index(partition.index);
            partitions.push(match judge_one(&context, topic, partition, at) {
                Ok(one) => {
                    judged.push(one);
                    response
                }
                Err(refused) => refused_response(response, refused),
            });
        }
        let topic = TopicProduceResponse::default().with_name(data.name).with_topic_id(data.topic_id);
        topics.push(topic.with_partition_responses(partitions));
    }
    let response = ProduceResponse::default().with_responses(topics);
    let now_ms = context.now_ms;
    if let Some(id) = request.transactional_id
        && judged.iter().any(|one| one.ticket.is_some())
    {
        let head = verify::Head::of(&call, acks, timeout_ms, now_ms);
        return Answer::Alone(Box::pin(verify::verified(head, id.as_str().into(), response, judged)));
    }
    if judged.iter().any(|one| one.delayed.is_some()) {
        let head = verify::Head::of(&call, acks, timeout_ms, now_ms);
        return Answer::Alone(Box::pin(delayed::kept(head, response, judged)));
    }
    let (mut response, waits) = append_all(call.node, acks, now_ms, response, judged);
    name_leaders(&Asked { node: call.node, version: call.version }, &mut response);
    answer(&call, acks, timeout_ms, response, waits)
}

fn refuse_request(request: &ProduceRequest) -> Option<(i16, &'static str)> {
    if !(ACKS_ALL..=1).contains(&request.acks) {
        return Some((errors::INVALID_REQUIRED_ACKS, "acks must be -1, 0 or 1"));
    }
    None
}

fn judge_one(
    context: &Context<'_>,
    topic: Result<&Arc<Topic>, i16>,
    data: PartitionProduceData,
    (topic_at, index): (usize, usize),
) -> Result<Judged, Refused> {
    let node = context.node;
    if let Some((code, message)) = context.refusal {
        return Err(Refused::told(code, message));
    }
    if topic.is_ok_and(|topic| is_internal(&topic.name)) {
        let text = "Cannot append to internal topic.";
        return Err(Refused::told(errors::INVALID_TOPIC_EXCEPTION, text));
    }
    let partition = topic.and_then(|topic| find_led(topic, data.index)).map_err(Refused::code)?;
    if node.disk.is_full() {
        partition.refused_for_room(context.now_ms);
        return Err(Refused::told(errors::KAFKA_STORAGE_ERROR, "the broker's disk is full"));
    }
    let terms = partition.terms();
    let batch = judge(context, terms.rules, &data.records.unwrap_or_default())?;
    let mut ticket = None;
    if batch.header.is_transactional() {
        if !context.is_transactional {
            let text = "a batch of a transaction in a request without a transactional id";
            return Err(Refused::told(errors::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, text));
        }
        let bumps_epoch = verify::VERSIONS.leave_adding(context.version);
        let drawn = partition.verification_ticket(&batch.header, bumps_epoch, context.now_ms);
        ticket = drawn.map_err(|unavailable| Refused::code(unavailable_code(&unavailable)))?;
    }
    let delayed = match terms.config.delay_max_ms {
        None => None,
        Some(delay_max_ms) => delayed::judge(context, delay_max_ms, &batch)?,
    };
    Ok(Judged { topic: topic_at, index, partition: partition.clone(), batch, ticket, delayed })
}

/// Appends what was judged, in order, and notes where each batch is; what waits is left to wait for.
fn append_all(
    node: &Arc<Node>,
    acks: i16,
    now_ms: i64,
    mut response: ProduceResponse,
    judged: Vec<Judged>,
) -> (ProduceResponse, Vec<Waiting>) {
    let mut waits = Vec::new();
    for one in judged {
        let (topic, index) = (one.topic, one.index);
        let slot = &mut response.responses[topic].partition_responses[index];
        let empty = PartitionProduceResponse::default().with_index(slot.index);
        match append_one(node, acks, now_ms, one) {
            Ok(Taken::Appended(partition, appended)) => {
                if let Some(wait) = appended.waits {
                    waits.push(Waiting { wait: Wait::Ack(partition, wait), topic, index });
                }
                *slot = accepted(empty, &appended);
            }
            Ok(Taken::Proposed(proposal)) => {
                waits.push(Waiting { wait: Wait::Group(proposal), topic, index });
            }
            Err(refused) => *slot = refused_response(empty, refused),
        }
    }
    (response, waits)
}

fn append_one(node: &Arc<Node>, acks: i16, now_ms: i64, judged: Judged) -> Result<Taken, Refused> {
    let Judged { partition, batch, ticket, .. } = judged;
    let (origin, needs_all) = (Origin::Client(ticket), acks == ACKS_ALL);
    if let Some(raft) = &partition.terms().raft {
        partition.note_traffic(batch.bytes.len());
        let proposed = partition.propose_as(node, raft, &batch, origin, needs_all);
        return proposed.map(Taken::Proposed).map_err(|e| refused_append(node, &e));
    }
    let appended = partition
        .append_as(node, &batch, origin, needs_all, now_ms, None)
        .map_err(|e| refused_append(node, &e))?;
    if !appended.is_duplicate {
        node.metrics.produced_records.inc_by(u64::from(batch.header.record_count.unsigned_abs()));
        node.metrics.produced_bytes.inc_by(batch.bytes.len() as u64);
    }
    Ok(Taken::Appended(partition, appended))
}

/// Judges one batch. All compressed batches of a request share what they may decompress to, so that many
/// small bombs cannot keep a thread busy for minutes.
fn judge(context: &Context<'_>, mut rules: ProduceRules, records: &Bytes) -> Result<AcceptedBatch, Refused> {
    let left = context.decompress_bytes.get();
    rules.zstd_allowed = context.version >= ZSTD_SINCE;
    rules.decompressed_bytes_max = rules.decompressed_bytes_max.min(left);
    let judged =
        SCRATCH.with_borrow_mut(|scratch| validate_produce(records, &rules, context.now_ms, scratch));
    let spent = match &judged {
        Ok(batch) if batch.header.codec() == Ok(Codec::None) => 0,
        Ok(batch) => batch.records_bytes,
        Err(_) => {
            rules.decompressed_bytes_max.min(records.len().saturating_mul(DECOMPRESSED_PER_BYTE_ASSUMED))
        }
    };
    context.decompress_bytes.set(left.saturating_sub(spent));
    judged.map_err(|refusal| refused_batch(context.node, &refusal))
}

fn refused_batch(node: &Node, refusal: &BatchRefusal) -> Refused {
    node.metrics.refused(RefusedKind::Batch);
    let record = refusal.record_index();
    Refused { code: refusal.error_code(), message: Some(refusal.to_string()), record }
}

fn refused_append(node: &Node, refusal: &AppendRefusal) -> Refused {
    let code = match refusal {
        AppendRefusal::Unavailable(unavailable) => unavailable_code(unavailable),
        AppendRefusal::Leader(refusal) => leader_refusal_code(refusal),
        AppendRefusal::Sequence(sequence) => {
            node.metrics.refused(RefusedKind::Sequence);
            sequence.error_code()
        }
        AppendRefusal::DiskFull | AppendRefusal::Storage(_) => errors::KAFKA_STORAGE_ERROR,
    };
    Refused::told(code, refusal)
}

fn accepted(response: PartitionProduceResponse, appended: &Appended) -> PartitionProduceResponse {
    response
        .with_base_offset(appended.base_offset)
        .with_log_append_time_ms(appended.log_append_time_ms)
        .with_log_start_offset(appended.log_start)
}

fn refused_response(response: PartitionProduceResponse, refused: Refused) -> PartitionProduceResponse {
    let message = refused.message.map(StrBytes::from_string);
    let records = refused.record.map(|index| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(index)
            .with_batch_index_error_message(message.clone())
    });
    response
        .with_error_code(refused.code)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1)
        .with_error_message(message)
        .with_record_errors(records.into_iter().collect())
}

fn first_error(response: &ProduceResponse) -> Option<i16> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    partitions.map(|partition| partition.error_code).find(|code| *code != errors::NONE)
}

fn answer(
    call: &Call<'_>,
    acks: i16,
    timeout_ms: i32,
    response: ProduceResponse,
    waits: Vec<Waiting>,
) -> Answer {
    if let Some(code) = first_error(&response) {
        call.node.metrics.request_error(call.api_key);
        if acks == 0 {
            return Answer::Close(unanswered(code));
        }
    }
    if acks == 0 {
        return Answer::Silent;
    }
    let (api_key, correlation_id, version) = (call.api_key, call.correlation_id, call.version);
    if waits.is_empty() {
        return match encode(api_key, correlation_id, version, &response) {
            Ok(reply) => Answer::Now(reply),
            Err(reason) => Answer::Close(reason),
        };
    }
    let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
    let node = call.node.clone();
    Answer::Later(Box::pin(async move {
        let mut response = wait_for_acks(&node, response, waits, timeout).await;
        name_leaders(&Asked { node: &node, version }, &mut response);
        let reply: Result<Reply, CloseReason> = encode(api_key, correlation_id, version, &response);
        reply
    }))
}

/// With acks=0 the producer reads no answer; a closed connection is how it learns of an error (as in Kafka).
fn unanswered(code: i16) -> CloseReason {
    CloseReason::new(format!("produce with acks=0 failed with error {code}"))
}

/// Who is asked, and in which version.
struct Asked<'a> {
    node: &'a Arc<Node>,
    version: i16,
}

/// Tells those who asked the wrong node who leads, and where it is (KIP-951).
fn name_leaders(asked: &Asked<'_>, response: &mut ProduceResponse) {
    if asked.version < LEADERS_SINCE {
        return;
    }
    let view = asked.node.partitions.view();
    let mut endpoints = BTreeMap::new();
    for data in &mut response.responses {
        let wrong = data.partition_responses.iter_mut().filter(|p| names_another_leader(p.error_code));
        let topic = find_topic(&view, asked.version >= IDS_SINCE, &data.name, data.topic_id);
        let Ok(topic) = topic else { continue };
        for partition in wrong {
            let Some(leader) = current_leader(asked.node, topic.id, partition.index) else { continue };
            partition.current_leader = LeaderIdAndEpoch::default()
                .with_leader_id(leader.node_id.into())
                .with_leader_epoch(leader.epoch);
            endpoints.entry(leader.node_id).or_insert_with(|| {
                NodeEndpoint::default()
                    .with_node_id(leader.node_id.into())
                    .with_host(StrBytes::from_string(leader.host))
                    .with_port(leader.port)
                    .with_rack(leader.rack.map(StrBytes::from_string))
            });
        }
    }
    response.node_endpoints = endpoints.into_values().collect();
}

async fn wait_for_acks(
    node: &Node,
    mut response: ProduceResponse,
    waits: Vec<Waiting>,
    timeout: Duration,
) -> ProduceResponse {
    let deadline = tokio::time::Instant::now() + timeout;
    for Waiting { wait, topic, index } in waits {
        let waited = tokio::time::timeout_at(deadline, acked(node, wait)).await;
        let outcome = waited.unwrap_or_else(|_| Err(Refused::code(errors::REQUEST_TIMED_OUT)));
        let slot = &mut response.responses[topic].partition_responses[index];
        let empty = PartitionProduceResponse::default().with_index(slot.index);
        match outcome {
            Ok(None) => {}
            Ok(Some(appended)) => *slot = accepted(empty, &appended),
            Err(refused) => *slot = refused_response(empty, refused),
        }
    }
    response
}

/// Waits until one batch may be acknowledged; where it is, if that was not known before.
async fn acked(node: &Node, wait: Wait) -> Result<Option<Appended>, Refused> {
    match wait {
        Wait::Ack(partition, wait) => {
            let acked = partition.wait_acked(&wait).await;
            acked.map(|()| None).map_err(|failure| Refused::told(failure_code(&failure), &failure))
        }
        Wait::Group(proposal) => {
            let proposed = proposal.outcome().await;
            proposed.map(Some).map_err(|refusal| refused_proposal(node, &refusal))
        }
    }
}

fn refused_proposal(node: &Node, refusal: &ProposeRefusal) -> Refused {
    let code = match refusal {
        // Without a majority here, there may be a leader elsewhere.
        ProposeRefusal::NotLeader { .. } | ProposeRefusal::NoMajority | ProposeRefusal::Unknown => {
            errors::NOT_LEADER_OR_FOLLOWER
        }
        ProposeRefusal::Sequence(sequence) => {
            node.metrics.refused(RefusedKind::Sequence);
            sequence.error_code()
        }
        ProposeRefusal::Failed(_) => errors::KAFKA_STORAGE_ERROR,
    };
    Refused::told(code, refusal)
}

fn failure_code(failure: &AckFailure) -> i16 {
    match failure {
        AckFailure::Unavailable(unavailable) => unavailable_code(unavailable),
        AckFailure::NotLeader => errors::NOT_LEADER_OR_FOLLOWER,
        AckFailure::NotEnoughReplicas => errors::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
}
