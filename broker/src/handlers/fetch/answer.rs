//! The answer to a fetch: what the session must tell, grouped by topic, with records as chunks.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use highwater_log::LogSlice;
use highwater_model::limits::FETCH_COPY_BYTES_MAX;
use highwater_wire::fetch_response::{
    self, AbortedTransaction, Chunk, FetchResponse, FetchedPartition, FetchedTopic, LeaderIdAndEpoch,
    NodeEndpoint,
};
use highwater_wire::kafka::protocol::StrBytes;
use uuid::Uuid;

use super::collect::{Collected, Finding};
use super::{ENDPOINTS_SINCE, Fetch, LEADERS_SINCE, with_sessions};
use crate::core::fetch_plan::Isolation;
use crate::core::fetch_session::{PartitionKey, Seen, TopicKey};
use crate::handlers::errors;
use crate::handlers::topics::{current_leader, names_another_leader};
use crate::net::reply::{CloseReason, Reply};
use crate::partition::LocalRead;

/// A fetch whose session cannot go on.
pub(super) fn refused(version: i16, correlation_id: i32, error_code: i16) -> Result<Reply, CloseReason> {
    encode(FetchResponse { error_code, ..FetchResponse::default() }, version, correlation_id)
}

fn encode(response: FetchResponse, version: i16, correlation_id: i32) -> Result<Reply, CloseReason> {
    let chunks = fetch_response::encode(response, version, correlation_id)
        .map_err(|e| CloseReason::new(format!("fetch cannot be answered: {e}")))?;
    Ok(Reply { chunks, memory: None })
}

impl Fetch {
    /// Encodes what was found, as far as the client must be told.
    pub(super) fn answer(&self, collected: Collected) -> Result<Reply, CloseReason> {
        let seen: Vec<Seen> = collected.findings.iter().map(seen_of).collect();
        if seen.iter().any(|seen| seen.has_error) {
            self.node.metrics.request_error(highwater_wire::api::FETCH);
        }
        let told = with_sessions(&self.node, |sessions| sessions.finish(&self.context, &seen));
        let mut topics: Vec<FetchedTopic> = Vec::new();
        let mut last: Option<&TopicKey> = None;
        let mut fetched_bytes = 0;
        let mut endpoints = BTreeMap::new();
        let found = self.context.targets.iter().zip(collected.findings).zip(told);
        for (((key, _), finding), _) in found.filter(|(_, told)| *told) {
            if last != Some(&key.topic) {
                topics.push(topic_of(&key.topic));
                last = Some(&key.topic);
            }
            let mut partition = self.partition_of(key.partition, finding);
            self.name_leader(key, &mut partition, &mut endpoints);
            fetched_bytes += partition.records_bytes();
            topics.last_mut().expect("pushed above").partitions.push(partition);
        }
        self.node.metrics.fetched_bytes.inc_by(fetched_bytes as u64);
        let node_endpoints = endpoints.into_values().collect();
        let session_id = self.context.session_id;
        let response = FetchResponse { session_id, topics, node_endpoints, ..FetchResponse::default() };
        encode(response, self.version, self.correlation_id)
    }

    /// Tells a client that asked the wrong node who leads, and where that is (KIP-951).
    fn name_leader(
        &self,
        key: &PartitionKey,
        partition: &mut FetchedPartition,
        endpoints: &mut BTreeMap<i32, NodeEndpoint>,
    ) {
        if self.version < LEADERS_SINCE || !names_another_leader(partition.error_code) {
            return;
        }
        let view = self.node.partitions.view();
        let topic = match &key.topic {
            TopicKey::Name(name) => view.by_name(name).map(|topic| topic.id),
            TopicKey::Id(id) => Some(*id),
        };
        let Some(leader) = topic.and_then(|topic| current_leader(&self.node, topic, key.partition)) else {
            return;
        };
        partition.current_leader =
            Some(LeaderIdAndEpoch { leader_id: leader.node_id, leader_epoch: leader.epoch });
        if self.version >= ENDPOINTS_SINCE {
            endpoints.entry(leader.node_id).or_insert_with(|| NodeEndpoint {
                node_id: leader.node_id,
                host: StrBytes::from_string(leader.host),
                port: leader.port,
                rack: leader.rack.map(StrBytes::from_string),
            });
        }
    }

    fn partition_of(&self, index: i32, finding: Finding) -> FetchedPartition {
        let Some(bounds) = finding.bounds.filter(|_| finding.code == errors::NONE) else {
            return FetchedPartition::error(index, finding.code);
        };
        // What the tier gave holds nothing that was aborted.
        let aborted = finding
            .local
            .aborted
            .iter()
            .map(|txn| AbortedTransaction { producer_id: txn.producer_id, first_offset: txn.first });
        let aborted: Vec<_> = aborted.collect();
        let is_committed = self.isolation == Isolation::Committed;
        let mut records = finding.rebuilt;
        if let Err(e) = push_local(&mut records, finding.local) {
            tracing::error!(partition = index, "cannot read a segment: {e}");
            return FetchedPartition::error(index, errors::KAFKA_STORAGE_ERROR);
        }
        FetchedPartition {
            index,
            error_code: errors::NONE,
            high_watermark: bounds.high_watermark,
            last_stable_offset: bounds.last_stable,
            log_start_offset: bounds.log_start,
            aborted_transactions: is_committed.then_some(aborted),
            preferred_read_replica: finding.preferred.unwrap_or(-1),
            records,
            diverging_epoch: finding.diverging,
            current_leader: None,
        }
    }
}

fn seen_of(finding: &Finding) -> Seen {
    Seen {
        has_records: finding.local.bytes > 0 || !finding.rebuilt.is_empty(),
        is_remarkable: finding.diverging.is_some() || finding.preferred.is_some(),
        has_error: finding.code != errors::NONE,
        high_watermark: finding.bounds.map_or(-1, |b| b.high_watermark),
        log_start: finding.bounds.map_or(-1, |b| b.log_start),
    }
}

fn topic_of(key: &TopicKey) -> FetchedTopic {
    let (name, id) = match key {
        TopicKey::Name(name) => (StrBytes::from_string(name.to_string()), Uuid::nil()),
        TopicKey::Id(id) => (StrBytes::default(), id.0),
    };
    FetchedTopic { name, id, partitions: Vec::new() }
}

/// Slices of segments as chunks; few bytes are copied here, which is cheaper than a sendfile of their own.
fn push_local(records: &mut Vec<Chunk>, local: LocalRead) -> io::Result<()> {
    if local.bytes > 0 && local.bytes <= FETCH_COPY_BYTES_MAX {
        records.push(Chunk::Bytes(copy(&local.slices, local.bytes)?));
        return Ok(());
    }
    records.extend(local.slices.into_iter().map(|slice| Chunk::File {
        file: Arc::clone(&slice.file),
        position: slice.position,
        length: slice.length,
    }));
    Ok(())
}

fn copy(slices: &[LogSlice], bytes: usize) -> io::Result<Bytes> {
    let mut copied = BytesMut::zeroed(bytes);
    let mut at = 0;
    for slice in slices {
        slice.file.read_exact_at(&mut copied[at..at + slice.length], slice.position)?;
        at += slice.length;
    }
    assert_eq!(at, bytes, "the slices are what was counted");
    Ok(copied.freeze())
}
