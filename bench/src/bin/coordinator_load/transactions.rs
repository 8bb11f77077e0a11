//! Producers whose transactions follow each other, each with a transactional id, a connection and a partition
//! of its own. As Java's client from 4.0 (KIP-890): no AddPartitionsToTxn, an epoch per transaction. A
//! producer that is told CONCURRENT_TRANSACTIONS asks again after [`crate::connection::PAUSE`]; that wait
//! counts.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use highwater_wire::build::BatchBuilder;
use highwater_wire::kafka::messages::produce_request::{PartitionProduceData, TopicProduceData};
use highwater_wire::kafka::messages::{
    EndTxnRequest, InitProducerIdRequest, ProduceRequest, ProducerId, TopicName, TransactionalId,
};
use highwater_wire::kafka::protocol::StrBytes;
use highwater_wire::{Codec, TimestampType};

use crate::commits::topic_name;
use crate::connection::{Connection, KeyType, PATIENCE, check_ready};
use crate::{Took, figures};

const TIMEOUT_MS: i32 = 60_000;
const VALUE: [u8; 100] = [b'x'; 100];
const TIMESTAMP_MS: i64 = 1_700_000_000_000;

struct Producer {
    connection: Connection,
    id: TransactionalId,
    topic: TopicName,
    partition: i32,
    producer_id: ProducerId,
    epoch: i16,
}

impl Producer {
    fn open(address: &str, topic: &str, number: usize) -> Result<Producer, String> {
        let mut connection = Connection::open(address)?;
        let name = format!("transactions-{number}");
        connection.find_coordinators(std::slice::from_ref(&name), KeyType::Transaction)?;
        let id = TransactionalId(StrBytes::from_string(name));
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let until = Instant::now() + PATIENCE;
        let given = loop {
            let response = connection.call(5, &request)?;
            if response.error_code == 0 {
                break response;
            }
            check_ready("InitProducerId", response.error_code, until)?;
        };
        let (topic, partition) = (topic_name(topic), number as i32);
        Ok(Producer {
            connection,
            id,
            topic,
            partition,
            producer_id: given.producer_id,
            epoch: given.producer_epoch,
        })
    }

    fn transaction(&mut self, records: usize) -> Result<(), String> {
        self.produce(records)?;
        self.commit()
    }

    fn produce(&mut self, records: usize) -> Result<(), String> {
        // The broker begins a new epoch with each transaction, and that begins at sequence 0.
        let mut batch = BatchBuilder::new(Codec::None)
            .attributes(TimestampType::CreateTime, true, false)
            .producer(self.producer_id.0, self.epoch, 0);
        for _ in 0..records {
            batch.push(TIMESTAMP_MS, None, Some(&VALUE), &[]);
        }
        let data =
            PartitionProduceData::default().with_index(self.partition).with_records(Some(batch.build()));
        let data = TopicProduceData::default().with_name(self.topic.clone()).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.id.clone()))
            .with_acks(-1)
            .with_timeout_ms(TIMEOUT_MS)
            .with_topic_data(vec![data]);
        let until = Instant::now() + PATIENCE;
        loop {
            let response = self.connection.call(12, &request)?;
            let answered = response.responses.first().and_then(|topic| topic.partition_responses.first());
            match answered.map(|partition| partition.error_code) {
                Some(0) => return Ok(()),
                Some(code) => check_ready("Produce", code, until)?,
                None => return Err("Produce: no answer for the partition".to_owned()),
            }
        }
    }

    fn commit(&mut self) -> Result<(), String> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer_id)
            .with_producer_epoch(self.epoch)
            .with_committed(true);
        let until = Instant::now() + PATIENCE;
        loop {
            let response = self.connection.call(5, &request)?;
            if response.error_code == 0 {
                (self.producer_id, self.epoch) = (response.producer_id, response.producer_epoch);
                return Ok(());
            }
            check_ready("EndTxn", response.error_code, until)?;
        }
    }
}

/// The topic has a partition for each producer.
pub fn run(
    address: &str,
    topic: &str,
    producers: usize,
    records: usize,
    duration: Duration,
) -> Result<String, String> {
    let opened = (0..producers).map(|number| Producer::open(address, topic, number));
    let opened = opened.collect::<Result<Vec<Producer>, String>>()?;
    let (barrier, began) = (Barrier::new(producers), Instant::now());
    let took = thread::scope(|scope| {
        let work = |mut producer: Producer| {
            let barrier = &barrier;
            scope.spawn(move || -> Result<Took, String> {
                let mut took = Took::default();
                barrier.wait();
                while began.elapsed() < duration {
                    let sent = Instant::now();
                    producer.transaction(records)?;
                    took.since(sent);
                }
                Ok(took)
            })
        };
        let threads: Vec<_> = opened.into_iter().map(work).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(figures(took, began.elapsed().as_secs_f64()))
}
