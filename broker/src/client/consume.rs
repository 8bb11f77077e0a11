//! Reading records: one fetch at a time per leader, batches checked and unpacked within a bound.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_model::limits;
use highwater_wire::batch::{self, BatchError, Batches};
use highwater_wire::codec::{Codec, decompress_into};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::fetch_request::{FetchPartition, FetchTopic};
use highwater_wire::kafka::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use highwater_wire::kafka::messages::{BrokerId, FetchRequest, ListOffsetsRequest};
use highwater_wire::records::{HeadersRef, Records};
use highwater_wire::{BatchHeader, HEADER_BYTES};

use super::{Client, ClientError, TopicMetadata, error_code, topic_name};

const FETCH_BYTES: i32 = 16 * 1024 * 1024;
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    Latest,
    Offset(i64),
    /// The first record whose timestamp is this or later, in Unix milliseconds.
    Timestamp(i64),
}

/// One record as it came.
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Unix milliseconds, or -1 for none.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: HeadersRef<'a>,
}

/// Whether to go on after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    More,
    Enough,
}

struct Position {
    partition: i32,
    leader: i32,
    next: i64,
    /// Where to stop, if reading stops at the end that there was at the start.
    end: Option<i64>,
}

/// A reader of some partitions of one topic.
pub struct Consumer {
    client: Client,
    topic: String,
    positions: Vec<Position>,
    scratch: Vec<u8>,
}

impl Consumer {
    /// Finds where to start in each partition; `only` picks one. With `until_end`, [`Consumer::is_done`]
    /// turns true once everything that was there at this moment has been read.
    pub async fn new(
        mut client: Client,
        topic: &str,
        only: Option<i32>,
        start: StartAt,
        until_end: bool,
    ) -> Result<Consumer, ClientError> {
        let metadata = client.topic(topic, false).await?;
        let chosen: Vec<i32> = metadata
            .partitions
            .iter()
            .map(|p| p.partition)
            .filter(|p| only.is_none_or(|only| only == *p))
            .collect();
        if chosen.is_empty() {
            let unknown = ResponseError::UnknownTopicOrPartition.code();
            error_code(unknown, None, &format!("partition {} of {topic}", only.unwrap_or(-1)))?;
        }
        let ends = match until_end || matches!(start, StartAt::Latest | StartAt::Timestamp(_)) {
            true => list_offsets(&mut client, &metadata, &chosen, LATEST).await?,
            false => BTreeMap::new(),
        };
        let starts = match start {
            StartAt::Earliest => list_offsets(&mut client, &metadata, &chosen, EARLIEST).await?,
            StartAt::Latest => ends.clone(),
            StartAt::Offset(offset) => chosen.iter().map(|p| (*p, offset)).collect(),
            StartAt::Timestamp(ms) => list_offsets(&mut client, &metadata, &chosen, ms).await?,
        };
        let positions = metadata
            .partitions
            .iter()
            .filter_map(|p| {
                let start = *starts.get(&p.partition)?;
                let end = ends.get(&p.partition).copied();
                // No record is that late: start at the end.
                let next = if start < 0 { end.unwrap_or(0) } else { start };
                let end = end.filter(|_| until_end);
                Some(Position { partition: p.partition, leader: p.leader, next, end })
            })
            .collect();
        Ok(Consumer { client, topic: topic.to_owned(), positions, scratch: Vec::new() })
    }

    /// True once every partition has been read to where its end was at the start.
    pub fn is_done(&self) -> bool {
        self.positions.iter().all(|p| p.end.is_some_and(|end| p.next >= end))
    }

    /// Asks each leader once, waiting up to `wait` for something new, and hands each record to `sink`.
    pub async fn poll<E: From<ClientError>>(
        &mut self,
        wait: Duration,
        sink: &mut impl FnMut(&Record<'_>) -> Result<Flow, E>,
    ) -> Result<Flow, E> {
        let mut leaders: Vec<i32> = self.positions.iter().map(|p| p.leader).collect();
        leaders.sort_unstable();
        leaders.dedup();
        for leader in leaders {
            for (partition, records) in self.fetch(leader, wait).await? {
                let at = self.positions.iter().position(|p| p.partition == partition);
                let Some(position) = at.map(|i| &mut self.positions[i]) else {
                    return Err(ClientError::protocol("an answer for a partition not asked for").into());
                };
                if unpack(&records, position, &mut self.scratch, sink)? == Flow::Enough {
                    return Ok(Flow::Enough);
                }
            }
        }
        Ok(Flow::More)
    }

    async fn fetch(&mut self, leader: i32, wait: Duration) -> Result<Vec<(i32, bytes::Bytes)>, ClientError> {
        let partitions = self
            .positions
            .iter()
            .filter(|p| p.leader == leader && p.end.is_none_or(|end| p.next < end))
            .map(|p| {
                FetchPartition::default()
                    .with_partition(p.partition)
                    .with_fetch_offset(p.next)
                    .with_partition_max_bytes(FETCH_BYTES)
            })
            .collect::<Vec<_>>();
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let topic = FetchTopic::default().with_topic(topic_name(&self.topic)).with_partitions(partitions);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_topics(vec![topic]);
        let response = self.client.broker(leader).await?.call_waiting(4, 12, &request, wait).await?;
        error_code(response.error_code, None, &format!("fetch from {}", self.topic))?;
        let mut found = Vec::new();
        for data in response.responses.into_iter().flat_map(|t| t.partitions) {
            let what = format!("fetch from {}, partition {}", self.topic, data.partition_index);
            error_code(data.error_code, None, &what)?;
            if let Some(records) = data.records.filter(|r| !r.is_empty()) {
                found.push((data.partition_index, records));
            }
        }
        Ok(found)
    }
}

/// Hands the records of whole batches to `sink` and moves the position behind them.
fn unpack<E: From<ClientError>>(
    bytes: &[u8],
    position: &mut Position,
    scratch: &mut Vec<u8>,
    sink: &mut impl FnMut(&Record<'_>) -> Result<Flow, E>,
) -> Result<Flow, E> {
    let start = position.next;
    for batch in Batches::new(bytes) {
        let (header, batch) = match batch {
            Ok(found) => found,
            // The answer was cut to fit; what is left comes with the next fetch.
            Err(BatchError::Truncated { .. }) if position.next > start => return Ok(Flow::More),
            Err(error) => return Err(damaged(position, &error).into()),
        };
        if !batch::crc_matches(batch) {
            return Err(damaged(position, &"its checksum does not match").into());
        }
        if !header.is_control() {
            let flow = unpack_batch(&header, batch, position, scratch, sink)?;
            if flow == Flow::Enough {
                return Ok(flow);
            }
        }
        position.next = position.next.max(header.next_offset());
    }
    if position.next == start {
        // Asking again would go on for ever.
        return Err(damaged(position, &"it ends before that").into());
    }
    Ok(Flow::More)
}

fn unpack_batch<E: From<ClientError>>(
    header: &BatchHeader,
    batch: &[u8],
    position: &Position,
    scratch: &mut Vec<u8>,
    sink: &mut impl FnMut(&Record<'_>) -> Result<Flow, E>,
) -> Result<Flow, E> {
    let codec = header.codec().map_err(|e| damaged(position, &e))?;
    let body = &batch[HEADER_BYTES..];
    let records = match codec {
        Codec::None => body,
        packed => {
            scratch.clear();
            decompress_into(packed, body, limits::CLIENT_BATCH_BYTES_MAX, scratch)
                .map_err(|e| damaged(position, &e))?;
            scratch.as_slice()
        }
    };
    let mut records = Records::new(records, header.record_count);
    while let Some(record) = records.next().map_err(|e| damaged(position, &e))? {
        let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
        if offset < position.next || position.end.is_some_and(|end| offset >= end) {
            continue;
        }
        let record = Record {
            partition: position.partition,
            offset,
            timestamp: header.record_timestamp(record.timestamp_delta),
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        if sink(&record)? == Flow::Enough {
            return Ok(Flow::Enough);
        }
    }
    Ok(Flow::More)
}

fn damaged(position: &Position, reason: &dyn std::fmt::Display) -> ClientError {
    let (partition, next) = (position.partition, position.next);
    ClientError::protocol(format!("the batch at partition {partition}, offset {next} is damaged: {reason}"))
}

/// The offset of a moment (or of one of the ends) in each partition; -1 where no record is that late.
pub async fn list_offsets(
    client: &mut Client,
    topic: &TopicMetadata,
    chosen: &[i32],
    timestamp: i64,
) -> Result<BTreeMap<i32, i64>, ClientError> {
    let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for partition in topic.partitions.iter().filter(|p| chosen.contains(&p.partition)) {
        by_leader.entry(partition.leader).or_default().push(
            ListOffsetsPartition::default()
                .with_partition_index(partition.partition)
                .with_timestamp(timestamp),
        );
    }
    let mut offsets = BTreeMap::new();
    for (leader, partitions) in by_leader {
        let asked =
            ListOffsetsTopic::default().with_name(topic_name(&topic.name)).with_partitions(partitions);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![asked]);
        let response = client.broker(leader).await?.call(1, 8, &request).await?;
        for answer in response.topics.into_iter().flat_map(|t| t.partitions) {
            let what = format!("offsets of {}, partition {}", topic.name, answer.partition_index);
            error_code(answer.error_code, None, &what)?;
            offsets.insert(answer.partition_index, answer.offset);
        }
    }
    Ok(offsets)
}
