//! Encoding a Fetch response (versions 4 to 18) as a list of chunks, so that records go from the log to the
//! socket without passing through a buffer here.
//!
//! Owns the layout of the response. All that is not records is written into one buffer and cut around the
//! record chunks at the end; a chunk is a slice of memory or of a file. Must not read what records say
//! (invariant 14).

use std::fs::File;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use highwater_model::limits::FETCH_INLINE_BYTES_MAX;
use uuid::Uuid;

use crate::api;
use crate::frame::{ResponseTooLarge, begin_response, finish_response};
use crate::kafka::protocol::StrBytes;

/// First version with compact lengths and tagged fields.
const FLEXIBLE_SINCE: i16 = 12;
const DIVERGING_EPOCH_TAG: u8 = 0;
const CURRENT_LEADER_TAG: u8 = 1;
const NODE_ENDPOINTS_TAG: u8 = 0;

/// A piece of a response frame.
#[derive(Clone, Debug)]
pub enum Chunk {
    Bytes(Bytes),
    /// So many bytes of a file from a position on; sent by sendfile.
    File {
        file: Arc<File>,
        position: u64,
        length: usize,
    },
}

impl Chunk {
    pub fn len(&self) -> usize {
        match self {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::File { length, .. } => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A whole Fetch response. Fields that a version does not have are left out of its bytes.
#[derive(Clone, Debug, Default)]
pub struct FetchResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub session_id: i32,
    pub topics: Vec<FetchedTopic>,
    /// Where the leaders named in partitions can be reached (version 16 on, KIP-951).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// Partitions of one topic.
#[derive(Clone, Debug, Default)]
pub struct FetchedTopic {
    /// Sent below version 13.
    pub name: StrBytes,
    /// Sent from version 13 on.
    pub id: Uuid,
    pub partitions: Vec<FetchedPartition>,
}

/// What was fetched of one partition.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// `None` for readers of uncommitted records.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// -1 for none.
    pub preferred_read_replica: i32,
    /// Whole batches, in order; empty is an empty record set, not null.
    pub records: Vec<Chunk>,
    /// Where the fetcher's log departs from ours (KIP-595).
    pub diverging_epoch: Option<EpochEnd>,
    pub current_leader: Option<LeaderIdAndEpoch>,
}

impl FetchedPartition {
    /// A partition with an error and nothing else.
    pub fn error(index: i32, error_code: i16) -> FetchedPartition {
        FetchedPartition {
            index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Vec::new(),
            diverging_epoch: None,
            current_leader: None,
        }
    }

    /// Bytes of the records.
    pub fn records_bytes(&self) -> usize {
        self.records.iter().map(Chunk::len).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: i32,
    pub end_offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: StrBytes,
    pub port: i32,
    pub rack: Option<StrBytes>,
}

/// Encodes the whole frame: length prefix, header, body.
///
/// # Errors
/// When the frame would be 2 GiB or more.
///
/// # Panics
/// When `version` is not served.
pub fn encode(
    response: FetchResponse,
    version: i16,
    correlation_id: i32,
) -> Result<Vec<Chunk>, ResponseTooLarge> {
    assert!(api::is_served(api::FETCH, version), "the request was of a served version");
    let mut writer = Writer::new(version, &response);
    begin_response(&mut writer.text, api::FETCH, version, correlation_id);
    writer.body(response)?;
    writer.finish()
}

struct Writer {
    version: i16,
    is_flexible: bool,
    text: BytesMut,
    /// Record chunks, with where in `text` they belong.
    records: Vec<(usize, Chunk)>,
    records_bytes: usize,
}

impl Writer {
    fn new(version: i16, response: &FetchResponse) -> Writer {
        /// Enough for the fields of one partition without aborted transactions, and for those of a topic.
        const PARTITION_BYTES: usize = 80;
        const TOPIC_BYTES: usize = 40;
        let partitions: usize = response.topics.iter().map(|topic| topic.partitions.len()).sum();
        let names: usize = response.topics.iter().map(|topic| topic.name.len()).sum();
        let chunks =
            response.topics.iter().flat_map(|topic| &topic.partitions).map(|p| p.records.len()).sum();
        let bytes = 64 + partitions * PARTITION_BYTES + response.topics.len() * TOPIC_BYTES + names;
        Writer {
            version,
            is_flexible: version >= FLEXIBLE_SINCE,
            text: BytesMut::with_capacity(bytes),
            records: Vec::with_capacity(chunks),
            records_bytes: 0,
        }
    }

    fn body(&mut self, response: FetchResponse) -> Result<(), ResponseTooLarge> {
        self.text.put_i32(response.throttle_time_ms);
        if self.version >= 7 {
            self.text.put_i16(response.error_code);
            self.text.put_i32(response.session_id);
        }
        self.count(response.topics.len());
        for topic in response.topics {
            if self.version >= 13 {
                self.text.put_slice(topic.id.as_bytes());
            } else {
                self.string(&topic.name);
            }
            self.count(topic.partitions.len());
            for partition in topic.partitions {
                self.partition(partition)?;
            }
            self.no_tags();
        }
        if self.version >= 16 && !response.node_endpoints.is_empty() {
            self.node_endpoints(&response.node_endpoints);
        } else {
            self.no_tags();
        }
        Ok(())
    }

    fn partition(&mut self, partition: FetchedPartition) -> Result<(), ResponseTooLarge> {
        let version = self.version;
        let records_bytes = partition.records_bytes();
        self.text.put_i32(partition.index);
        self.text.put_i16(partition.error_code);
        self.text.put_i64(partition.high_watermark);
        self.text.put_i64(partition.last_stable_offset);
        if version >= 5 {
            self.text.put_i64(partition.log_start_offset);
        }
        match &partition.aborted_transactions {
            None => self.null(),
            Some(aborted) => {
                self.count(aborted.len());
                for transaction in aborted {
                    self.text.put_i64(transaction.producer_id);
                    self.text.put_i64(transaction.first_offset);
                    self.no_tags();
                }
            }
        }
        if version >= 11 {
            self.text.put_i32(partition.preferred_read_replica);
        }
        if i32::try_from(records_bytes).is_err() {
            return Err(ResponseTooLarge { bytes: records_bytes });
        }
        self.count(records_bytes);
        self.push_records(partition.records);
        if self.is_flexible {
            self.partition_tags(partition.diverging_epoch, partition.current_leader);
        }
        Ok(())
    }

    fn push_records(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks {
            match chunk {
                chunk if chunk.is_empty() => {}
                // A system call's worth of bytes is cheaper copied than gathered.
                Chunk::Bytes(bytes) if bytes.len() <= FETCH_INLINE_BYTES_MAX => self.text.put_slice(&bytes),
                chunk => {
                    self.records_bytes += chunk.len();
                    self.records.push((self.text.len(), chunk));
                }
            }
        }
    }

    fn partition_tags(&mut self, diverging: Option<EpochEnd>, leader: Option<LeaderIdAndEpoch>) {
        self.text.put_u8(u8::from(diverging.is_some()) + u8::from(leader.is_some()));
        if let Some(EpochEnd { epoch, end_offset }) = diverging {
            self.text.put_slice(&[DIVERGING_EPOCH_TAG, 13]);
            self.text.put_i32(epoch);
            self.text.put_i64(end_offset);
            self.no_tags();
        }
        if let Some(LeaderIdAndEpoch { leader_id, leader_epoch }) = leader {
            self.text.put_slice(&[CURRENT_LEADER_TAG, 9]);
            self.text.put_i32(leader_id);
            self.text.put_i32(leader_epoch);
            self.no_tags();
        }
    }

    fn node_endpoints(&mut self, endpoints: &[NodeEndpoint]) {
        let outer = std::mem::take(&mut self.text);
        self.count(endpoints.len());
        for endpoint in endpoints {
            self.text.put_i32(endpoint.node_id);
            self.string(&endpoint.host);
            self.text.put_i32(endpoint.port);
            match &endpoint.rack {
                Some(rack) => self.string(rack),
                None => self.null(),
            }
            self.no_tags();
        }
        let value = std::mem::replace(&mut self.text, outer);
        self.text.put_slice(&[1, NODE_ENDPOINTS_TAG]);
        self.uvarint(value.len());
        self.text.put_slice(&value);
    }

    fn finish(mut self) -> Result<Vec<Chunk>, ResponseTooLarge> {
        let total = self.text.len() + self.records_bytes;
        finish_response(&mut self.text, total)?;
        let mut text = self.text.freeze();
        let mut chunks = Vec::with_capacity(2 * self.records.len() + 1);
        let mut cut = 0;
        for (at, chunk) in self.records {
            if at > cut {
                chunks.push(Chunk::Bytes(text.split_to(at - cut)));
                cut = at;
            }
            chunks.push(chunk);
        }
        if !text.is_empty() {
            chunks.push(Chunk::Bytes(text));
        }
        debug_assert_eq!(chunks.iter().map(Chunk::len).sum::<usize>(), total, "the prefix tells the truth");
        Ok(chunks)
    }

    /// Count of an array or length of bytes.
    fn count(&mut self, count: usize) {
        if self.is_flexible {
            self.uvarint(count + 1);
        } else {
            self.text.put_i32(i32::try_from(count).expect("counts are below 2^31: records were checked"));
        }
    }

    /// A null array, or in flexible versions also a null string.
    fn null(&mut self) {
        if self.is_flexible { self.text.put_u8(0) } else { self.text.put_i32(-1) }
    }

    fn string(&mut self, text: &str) {
        if self.is_flexible {
            self.uvarint(text.len() + 1);
        } else {
            self.text.put_i16(i16::try_from(text.len()).expect("topic names are at most 249 bytes"));
        }
        self.text.put_slice(text.as_bytes());
    }

    fn no_tags(&mut self) {
        if self.is_flexible {
            self.text.put_u8(0);
        }
    }

    fn uvarint(&mut self, value: usize) {
        let mut value = u32::try_from(value).expect("lengths are below 2^32");
        while value >= 0x80 {
            self.text.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.text.put_u8(value as u8);
    }
}

#[cfg(test)]
mod tests;
