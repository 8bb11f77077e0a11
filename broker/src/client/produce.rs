//! Sending batches: idempotent with acks=all, so that a batch whose answer was lost can be sent again safely.

use std::time::Duration;

use highwater_model::limits;
use highwater_wire::build::BatchBuilder;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_wire::kafka::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};

use super::{Client, ClientError, TopicMetadata, error_code, topic_name};

/// Who must have a batch before it counts as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

impl Acks {
    fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// A producer to one topic.
pub struct Producer {
    client: Client,
    topic: TopicMetadata,
    acks: Acks,
    /// Producer id and epoch, with acks=all.
    identity: Option<(i64, i16)>,
    next_sequences: Vec<i32>,
}

impl Producer {
    /// Looks the topic up (it is created if the broker does that) and takes a producer id if `acks` is all.
    pub async fn new(mut client: Client, topic: &str, acks: Acks) -> Result<Producer, ClientError> {
        let topic = client.topic(topic, true).await?;
        let identity = match acks {
            Acks::All => Some(producer_id(&mut client).await?),
            Acks::None | Acks::Leader => None,
        };
        if topic.partitions.is_empty() {
            return Err(ClientError::protocol("a topic without partitions"));
        }
        let next_sequences = vec![0; topic.partitions.len()];
        Ok(Producer { client, topic, acks, identity, next_sequences })
    }

    pub fn partitions(&self) -> usize {
        self.topic.partitions.len()
    }

    /// Sends the records of `batch` to a partition and waits for the acknowledgement.
    ///
    /// # Errors
    /// The broker's refusal. With acks=all what can be repeated has been, until the client's time was up; a
    /// `Closed` or `Timeout` then means that it is not known whether the records were written.
    pub async fn send(&mut self, partition: usize, batch: BatchBuilder) -> Result<(), ClientError> {
        let count = i32::try_from(batch.count()).map_err(|_| ClientError::protocol("too many records"))?;
        let sequence = self.next_sequences[partition];
        let batch = match self.identity {
            Some((id, epoch)) => batch.producer(id, epoch, sequence),
            None => batch,
        };
        let data = PartitionProduceData::default()
            .with_index(self.topic.partitions[partition].partition)
            .with_records(Some(batch.build()));
        let timeout = self.client.timeout();
        let request = ProduceRequest::default()
            .with_acks(self.acks.code())
            .with_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![
                TopicProduceData::default()
                    .with_name(topic_name(&self.topic.name))
                    .with_partition_data(vec![data]),
            ]);
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let error = match self.send_once(partition, &request).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let is_known = matches!(error, ClientError::Refused { .. });
            let may_repeat = error.is_retriable() && (is_known || self.identity.is_some());
            if !may_repeat || tokio::time::Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(limits::CLIENT_RETRY_PAUSE).await;
            // Errors here are not the end: the next turn finds out.
            if let Ok(topic) = self.client.topic(&self.topic.name.clone(), false).await {
                if topic.partitions.len() < self.next_sequences.len() {
                    return Err(ClientError::protocol("a topic with fewer partitions than before"));
                }
                self.topic = topic;
            }
        }
        // Sequence numbers wrap to 0 after the largest (KIP-98).
        self.next_sequences[partition] = ((i64::from(sequence) + i64::from(count)) & 0x7fff_ffff) as i32;
        Ok(())
    }

    async fn send_once(&mut self, partition: usize, request: &ProduceRequest) -> Result<(), ClientError> {
        let leader = self.topic.partitions[partition].leader;
        let connection = self.client.broker(leader).await?;
        if self.acks == Acks::None {
            let version = connection.version::<ProduceRequest>(3, 12)?;
            return connection.send_only(version, request).await;
        }
        let response = connection.call_waiting(3, 12, request, Duration::from_secs(1)).await?;
        check_answer(&self.topic.name, response)
    }
}

fn check_answer(topic: &str, response: ProduceResponse) -> Result<(), ClientError> {
    let answer = response
        .responses
        .into_iter()
        .flat_map(|t| t.partition_responses)
        .next()
        .ok_or_else(|| ClientError::protocol("an answer to produce without the partition"))?;
    if answer.error_code == ResponseError::DuplicateSequenceNumber.code() {
        return Ok(());
    }
    let what = format!("produce to {topic}, partition {}", answer.index);
    let detail = answer.record_errors.iter().find_map(|e| e.batch_index_error_message.as_deref());
    error_code(answer.error_code, detail.or(answer.error_message.as_deref()), &what)
}

async fn producer_id(client: &mut Client) -> Result<(i64, i16), ClientError> {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let deadline = tokio::time::Instant::now() + client.timeout();
    loop {
        let answer = client.any().await?.call(0, 4, &request).await?;
        match error_code(answer.error_code, None, "producer id") {
            Ok(()) => return Ok((answer.producer_id.0, answer.producer_epoch)),
            Err(error) if error.is_retriable() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(limits::CLIENT_RETRY_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The partition of a key, as Kafka's own clients choose it, so that records of one key stay together whoever
/// sends.
pub fn partition_for_key(key: &[u8], partitions: usize) -> usize {
    let positive = murmur2(key) & 0x7fff_ffff;
    positive as usize % partitions.max(1)
}

/// Kafka's murmur2 (`org.apache.kafka.common.utils.Utils`): seed 0x9747b28c.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        let tail = tail.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `UtilsTest.testMurmur2` in Apache Kafka.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
