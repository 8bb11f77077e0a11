//! Consumers that commit one after another, each on its own connection.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use highwater_wire::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use highwater_wire::kafka::messages::{GroupId, OffsetCommitRequest, TopicName};
use highwater_wire::kafka::protocol::StrBytes;

use crate::connection::{Connection, KeyType, PATIENCE, check_ready};
use crate::{Took, figures};

pub fn group_id(text: String) -> GroupId {
    GroupId(StrBytes::from_string(text))
}

pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A commit of these partitions at one offset, by a consumer that chose its partitions itself.
pub fn commit(group: &GroupId, topic: &TopicName, partitions: &[i32], offset: i64) -> OffsetCommitRequest {
    let partitions = partitions.iter().map(|&partition| {
        let committed = OffsetCommitRequestPartition::default().with_partition_index(partition);
        committed.with_committed_offset(offset).with_committed_metadata(Some(StrBytes::default()))
    });
    let topic = OffsetCommitRequestTopic::default().with_name(topic.clone());
    OffsetCommitRequest::default()
        .with_group_id(group.clone())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic.with_partitions(partitions.collect())])
}

/// Sends the commit; asked again while the coordinator is not ready.
pub fn send(connection: &mut Connection, request: &OffsetCommitRequest) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let response = connection.call(9, request)?;
        let codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| p.error_code));
        let Some(code) = codes.into_iter().find(|&code| code != 0) else {
            return Ok(());
        };
        check_ready("OffsetCommit", code, until)?;
    }
}

struct Consumer {
    connection: Connection,
    group: GroupId,
    topic: TopicName,
    partitions: Vec<i32>,
}

impl Consumer {
    fn open(address: &str, topic: &str, group: String, partitions: Vec<i32>) -> Result<Consumer, String> {
        let mut connection = Connection::open(address)?;
        connection.find_coordinators(std::slice::from_ref(&group), KeyType::Group)?;
        let mut consumer =
            Consumer { connection, group: group_id(group), topic: topic_name(topic), partitions };
        consumer.commit(0)?;
        Ok(consumer)
    }

    fn commit(&mut self, offset: i64) -> Result<(), String> {
        let request = commit(&self.group, &self.topic, &self.partitions, offset);
        send(&mut self.connection, &request)
    }
}

/// `consumers` of `groups` groups commit `offsets` offsets at a time. Each has partitions of its own where a
/// group is shared; the topic has at least `consumers / groups * offsets` partitions.
pub fn run(
    address: &str,
    topic: &str,
    consumers: usize,
    groups: usize,
    offsets: usize,
    duration: Duration,
) -> Result<String, String> {
    let opened = (0..consumers).map(|n| {
        let first = n / groups * offsets;
        let partitions = (first..first + offsets).map(|partition| partition as i32);
        Consumer::open(address, topic, format!("commits-{}", n % groups), partitions.collect())
    });
    let opened = opened.collect::<Result<Vec<Consumer>, String>>()?;
    let (barrier, began) = (Barrier::new(consumers), Instant::now());
    let took = thread::scope(|scope| {
        let work = |mut consumer: Consumer| {
            let barrier = &barrier;
            scope.spawn(move || -> Result<Took, String> {
                let mut took = Took::default();
                barrier.wait();
                for offset in 1.. {
                    let sent = Instant::now();
                    if sent >= began + duration {
                        break;
                    }
                    consumer.commit(offset)?;
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
