use std::os::unix::fs::FileExt;

use super::*;
use crate::kafka::messages::{self, BrokerId, ResponseHeader, TopicName, fetch_response as decoded};
use crate::kafka::protocol::Decodable;
use crate::test_support::Dice;

fn fixture() -> Arc<File> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/java-client-batches.txt");
    Arc::new(File::open(path).expect("the fixture is there"))
}

fn read(chunk: &Chunk) -> Bytes {
    match chunk {
        Chunk::Bytes(bytes) => bytes.clone(),
        Chunk::File { file, position, length } => {
            let mut bytes = vec![0; *length];
            file.read_exact_at(&mut bytes, *position).expect("within the fixture");
            Bytes::from(bytes)
        }
    }
}

fn joined(chunks: &[Chunk]) -> Bytes {
    Bytes::from(chunks.iter().flat_map(read).collect::<Vec<u8>>())
}

fn any_partition(dice: &mut Dice, index: i32, file: &Arc<File>) -> FetchedPartition {
    let records = (0..dice.below(4))
        .map(|_| match dice.below(3) {
            0 => {
                Chunk::File { file: file.clone(), position: dice.below(500) as u64, length: dice.below(900) }
            }
            1 => Chunk::Bytes(Bytes::from(vec![7; dice.below(100)])),
            _ => Chunk::Bytes(Bytes::from(vec![8; 600 + dice.below(40_000)])),
        })
        .collect();
    let aborted = (0..dice.below(3)).map(|i| AbortedTransaction { producer_id: i as i64, first_offset: 9 });
    FetchedPartition {
        error_code: dice.below(5) as i16,
        high_watermark: dice.next() as i64,
        last_stable_offset: dice.next() as i64,
        log_start_offset: dice.next() as i64,
        aborted_transactions: if dice.one_in(2) { Some(aborted.collect()) } else { None },
        preferred_read_replica: dice.below(3) as i32 - 1,
        records,
        diverging_epoch: dice.one_in(3).then_some(EpochEnd { epoch: 5, end_offset: 1 << 40 }),
        current_leader: dice.one_in(3).then_some(LeaderIdAndEpoch { leader_id: 2, leader_epoch: 6 }),
        ..FetchedPartition::error(index, 0)
    }
}

fn any_response(dice: &mut Dice) -> FetchResponse {
    let file = fixture();
    let topics = (0..dice.below(4)).map(|i| FetchedTopic {
        name: StrBytes::from_string(format!("topic-{}", "x".repeat(i * 60))),
        id: Uuid::from_u128(1 + i as u128),
        partitions: (0..dice.below(4) as i32).map(|index| any_partition(dice, index, &file)).collect(),
    });
    let topics = topics.collect();
    let endpoint = |node_id| NodeEndpoint {
        node_id,
        host: StrBytes::from_static_str("host.example"),
        port: 9092,
        rack: (node_id == 1).then_some(StrBytes::from_static_str("rack")),
    };
    FetchResponse {
        throttle_time_ms: 3,
        error_code: 70,
        session_id: 0x0a0b_0c0d,
        topics,
        node_endpoints: (0..dice.below(12) as i32).map(endpoint).collect(),
    }
}

/// What a client of `version` sees of a partition.
fn expected_partition(partition: &FetchedPartition, version: i16) -> decoded::PartitionData {
    let aborted = partition.aborted_transactions.as_ref().map(|aborted| {
        let convert = |t: &AbortedTransaction| {
            decoded::AbortedTransaction::default()
                .with_producer_id(t.producer_id.into())
                .with_first_offset(t.first_offset)
        };
        aborted.iter().map(convert).collect()
    });
    let mut data = decoded::PartitionData::default()
        .with_partition_index(partition.index)
        .with_error_code(partition.error_code)
        .with_high_watermark(partition.high_watermark)
        .with_last_stable_offset(partition.last_stable_offset)
        .with_aborted_transactions(aborted)
        .with_records(Some(joined(&partition.records)));
    if version >= 5 {
        data = data.with_log_start_offset(partition.log_start_offset);
    }
    if version >= 11 {
        data = data.with_preferred_read_replica(BrokerId(partition.preferred_read_replica));
    }
    if version >= 12 {
        if let Some(EpochEnd { epoch, end_offset }) = partition.diverging_epoch {
            let end = decoded::EpochEndOffset::default().with_epoch(epoch).with_end_offset(end_offset);
            data = data.with_diverging_epoch(end);
        }
        if let Some(LeaderIdAndEpoch { leader_id, leader_epoch }) = partition.current_leader {
            let leader = decoded::LeaderIdAndEpoch::default().with_leader_id(leader_id.into());
            data = data.with_current_leader(leader.with_leader_epoch(leader_epoch));
        }
    }
    data
}

fn expected(response: &FetchResponse, version: i16) -> messages::FetchResponse {
    let topic = |topic: &FetchedTopic| {
        let partitions = topic.partitions.iter().map(|p| expected_partition(p, version)).collect();
        let fetched = decoded::FetchableTopicResponse::default().with_partitions(partitions);
        if version >= 13 {
            fetched.with_topic_id(topic.id)
        } else {
            fetched.with_topic(TopicName(topic.name.clone()))
        }
    };
    let mut all = messages::FetchResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_responses(response.topics.iter().map(topic).collect());
    if version >= 7 {
        all = all.with_error_code(response.error_code).with_session_id(response.session_id);
    }
    if version >= 16 {
        let endpoint = |e: &NodeEndpoint| {
            decoded::NodeEndpoint::default()
                .with_node_id(e.node_id.into())
                .with_host(e.host.clone())
                .with_port(e.port)
                .with_rack(e.rack.clone())
        };
        all = all.with_node_endpoints(response.node_endpoints.iter().map(endpoint).collect());
    }
    all
}

#[test]
fn every_version_is_read_by_the_generated_decoder() {
    let mut dice = Dice::new(3);
    for version in 4..=18 {
        for _ in 0..60 {
            let response = any_response(&mut dice);
            let expected = expected(&response, version);
            let mut frame = joined(&encode(response, version, 99).expect("small"));
            let length = i32::from_be_bytes(*frame.first_chunk().expect("a prefix"));
            assert_eq!(length as usize, frame.len() - 4);
            let _ = frame.split_to(4);
            let header = ResponseHeader::decode(&mut frame, i16::from(version >= 12)).expect("a header");
            assert_eq!(header.correlation_id, 99);
            let read = messages::FetchResponse::decode(&mut frame, version).expect("a body");
            assert_eq!(read, expected, "version {version}");
            assert!(frame.is_empty(), "version {version}: {} bytes left", frame.len());
        }
    }
}

#[test]
fn records_are_passed_on_and_not_copied() {
    let file = fixture();
    let records = Bytes::from(vec![1; 100_000]);
    let mut partition = FetchedPartition::error(0, 0);
    partition.records = vec![
        Chunk::Bytes(records.clone()),
        Chunk::File { file: file.clone(), position: 10, length: 5_000 },
        Chunk::File { file: file.clone(), position: 6_000, length: 0 },
    ];
    let topic = FetchedTopic { partitions: vec![partition; 2], ..FetchedTopic::default() };
    let response = FetchResponse { topics: vec![topic], ..FetchResponse::default() };
    let chunks = encode(response, 13, 1).expect("small");
    let own: Vec<_> =
        chunks.iter().filter(|chunk| matches!(chunk, Chunk::Bytes(b) if b.len() < 200)).collect();
    assert_eq!((chunks.len(), own.len()), (7, 3), "fields, memory, file, fields, memory, file, fields");
    for at in [1, 4] {
        assert!(matches!(&chunks[at], Chunk::Bytes(bytes) if bytes.as_ptr() == records.as_ptr()));
        assert!(matches!(&chunks[at + 1], Chunk::File { position: 10, length: 5_000, .. }));
    }
}

#[test]
fn an_idle_answer_is_one_chunk() {
    let chunks = encode(FetchResponse::default(), 18, 1).expect("small");
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].len(), 4 + 5 + 10 + 1 + 1);
}

#[test]
fn what_a_length_cannot_say_is_refused() {
    let file = fixture();
    let slice = |length| Chunk::File { file: file.clone(), position: 0, length };
    let response = |partitions: Vec<Vec<Chunk>>| {
        let partition = |records| FetchedPartition { records, ..FetchedPartition::error(0, 0) };
        let partitions = partitions.into_iter().map(partition).collect();
        let topics = vec![FetchedTopic { partitions, ..FetchedTopic::default() }];
        FetchResponse { topics, ..FetchResponse::default() }
    };
    let half = 1usize << 30;
    assert!(encode(response(vec![vec![slice(half)]]), 18, 1).is_ok());
    assert!(encode(response(vec![vec![slice(half), slice(half)]]), 18, 1).is_err(), "one partition");
    assert!(encode(response(vec![vec![slice(half)], vec![slice(half)]]), 18, 1).is_err(), "the whole");
}
