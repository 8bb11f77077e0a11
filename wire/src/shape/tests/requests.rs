//! Random requests of every served API and version, built with the generated messages.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::api;
use crate::kafka::messages::{
    alter_configs_request as alter, alter_partition_reassignments_request as reassign,
    create_partitions_request as partitions, create_topics_request as create,
    delete_records_request as records, delete_topics_request as delete, describe_configs_request as configs,
    describe_log_dirs_request as dirs, describe_topic_partitions_request as describe,
    elect_leaders_request as elect, fetch_request as fetch, incremental_alter_configs_request as incremental,
    list_offsets_request as offsets, list_partition_reassignments_request as moves,
    metadata_request as metadata, offset_for_leader_epoch_request as epochs, produce_request as produce, *,
};
use crate::kafka::protocol::StrBytes;
use crate::test_support::Dice;

pub fn any_request(dice: &mut Dice, key: i16, version: i16) -> RequestKind {
    match key {
        api::PRODUCE => RequestKind::Produce(any_produce(dice, version)),
        api::FETCH => RequestKind::Fetch(any_fetch(dice, version)),
        api::LIST_OFFSETS => RequestKind::ListOffsets(any_list_offsets(dice, version)),
        api::METADATA => RequestKind::Metadata(any_metadata(dice, version)),
        api::FIND_COORDINATOR => RequestKind::FindCoordinator(any_find_coordinator(dice, version)),
        api::API_VERSIONS => RequestKind::ApiVersions(any_api_versions(dice, version)),
        api::CREATE_TOPICS => RequestKind::CreateTopics(any_create_topics(dice)),
        api::DELETE_TOPICS => RequestKind::DeleteTopics(any_delete_topics(dice, version)),
        api::DELETE_RECORDS => RequestKind::DeleteRecords(any_delete_records(dice)),
        api::INIT_PRODUCER_ID => RequestKind::InitProducerId(any_init_producer_id(dice, version)),
        api::OFFSET_FOR_LEADER_EPOCH => RequestKind::OffsetForLeaderEpoch(any_epochs(dice, version)),
        api::DESCRIBE_CONFIGS => RequestKind::DescribeConfigs(any_describe_configs(dice, version)),
        api::ALTER_CONFIGS => RequestKind::AlterConfigs(any_alter_configs(dice)),
        api::DESCRIBE_LOG_DIRS => RequestKind::DescribeLogDirs(any_log_dirs(dice)),
        api::CREATE_PARTITIONS => RequestKind::CreatePartitions(any_create_partitions(dice)),
        api::ELECT_LEADERS => RequestKind::ElectLeaders(any_elect_leaders(dice, version)),
        api::ALTER_PARTITION_REASSIGNMENTS => {
            RequestKind::AlterPartitionReassignments(any_reassignments(dice, version))
        }
        api::LIST_PARTITION_REASSIGNMENTS => {
            RequestKind::ListPartitionReassignments(any_list_reassignments(dice))
        }
        api::INCREMENTAL_ALTER_CONFIGS => RequestKind::IncrementalAlterConfigs(any_incremental(dice)),
        api::DESCRIBE_CLUSTER => RequestKind::DescribeCluster(any_describe_cluster(dice, version)),
        api::DESCRIBE_TOPIC_PARTITIONS => RequestKind::DescribeTopicPartitions(any_describe_topics(dice)),
        _ => groups::any_request(dice, key, version),
    }
}

pub fn encode(request: &RequestKind, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes, version).expect("only fields of the version are set");
    bytes.freeze()
}

fn text(dice: &mut Dice) -> StrBytes {
    let length = if dice.one_in(20) { 200 + dice.below(2_000) } else { dice.below(12) };
    StrBytes::from_string((0..length).map(|_| (b'a' + dice.below(26) as u8) as char).collect())
}

fn topic(dice: &mut Dice) -> TopicName {
    TopicName(text(dice))
}

fn maybe<T>(dice: &mut Dice, make: impl FnOnce(&mut Dice) -> T) -> Option<T> {
    if dice.one_in(3) { None } else { Some(make(dice)) }
}

fn some<T>(dice: &mut Dice, mut make: impl FnMut(&mut Dice) -> T) -> Vec<T> {
    let count = if dice.one_in(30) { 130 } else { dice.below(4) };
    (0..count).map(|_| make(dice)).collect()
}

fn number(dice: &mut Dice) -> i32 {
    dice.next() as i32
}

fn broker(dice: &mut Dice) -> BrokerId {
    BrokerId(number(dice))
}

fn uuid(dice: &mut Dice) -> Uuid {
    Uuid::from_u128(u128::from(dice.next()) << 64 | u128::from(dice.next()))
}

/// Unknown tagged fields, which every flexible structure may carry.
macro_rules! tags {
    ($dice:expr, $flexible:expr, $message:expr) => {
        if $flexible && $dice.one_in(6) {
            let (tag, length) = (100 + $dice.below(1_000) as i32, $dice.below(40));
            $message.with_unknown_tagged_field(tag, Bytes::from($dice.bytes(length)))
        } else {
            $message
        }
    };
}

mod groups;
mod transactions;

fn any_produce(dice: &mut Dice, version: i16) -> ProduceRequest {
    let topics = some(dice, |dice| {
        let data = some(dice, |dice| {
            let length = dice.below(300);
            let bytes = maybe(dice, |dice| Bytes::from(dice.bytes(length)));
            produce::PartitionProduceData::default().with_index(number(dice)).with_records(bytes)
        });
        let of_topic = produce::TopicProduceData::default().with_partition_data(data);
        let of_topic = tags!(dice, version >= 9, of_topic);
        if version >= 13 { of_topic.with_topic_id(uuid(dice)) } else { of_topic.with_name(topic(dice)) }
    });
    let request = ProduceRequest::default()
        .with_transactional_id(maybe(dice, |dice| TransactionalId(text(dice))))
        .with_acks(number(dice) as i16)
        .with_timeout_ms(number(dice))
        .with_topic_data(topics);
    tags!(dice, version >= 9, request)
}

fn any_fetch_partition(dice: &mut Dice, version: i16) -> fetch::FetchPartition {
    let mut partition = fetch::FetchPartition::default()
        .with_partition(number(dice))
        .with_fetch_offset(dice.next() as i64)
        .with_partition_max_bytes(number(dice));
    if version >= 5 {
        partition = partition.with_log_start_offset(dice.next() as i64);
    }
    if version >= 9 {
        partition = partition.with_current_leader_epoch(number(dice));
    }
    if version >= 12 {
        partition = partition.with_last_fetched_epoch(number(dice));
    }
    if version >= 17 && dice.one_in(2) {
        partition = partition.with_replica_directory_id(uuid(dice));
    }
    if version >= 18 && dice.one_in(2) {
        partition = partition.with_high_watermark(dice.next() as i64);
    }
    tags!(dice, version >= 12, partition)
}

fn any_fetch(dice: &mut Dice, version: i16) -> FetchRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| any_fetch_partition(dice, version));
        let of_topic = fetch::FetchTopic::default().with_partitions(partitions);
        if version >= 13 { of_topic.with_topic_id(uuid(dice)) } else { of_topic.with_topic(topic(dice)) }
    });
    let mut request = FetchRequest::default()
        .with_max_wait_ms(number(dice))
        .with_min_bytes(number(dice))
        .with_max_bytes(number(dice))
        .with_isolation_level(dice.below(2) as i8)
        .with_topics(topics);
    if version <= 14 {
        request = request.with_replica_id(broker(dice));
    } else if dice.one_in(2) {
        let state = fetch::ReplicaState::default().with_replica_id(broker(dice));
        request = request.with_replica_state(state.with_replica_epoch(dice.next() as i64));
    }
    if version >= 7 {
        let forgotten = some(dice, |dice| {
            let forgotten = fetch::ForgottenTopic::default().with_partitions(some(dice, number));
            if version >= 13 {
                forgotten.with_topic_id(uuid(dice))
            } else {
                forgotten.with_topic(topic(dice))
            }
        });
        request = request.with_session_id(number(dice)).with_session_epoch(number(dice));
        request = request.with_forgotten_topics_data(forgotten);
    }
    if version >= 11 {
        request = request.with_rack_id(text(dice));
    }
    if version >= 12 {
        request = request.with_cluster_id(maybe(dice, text));
    }
    tags!(dice, version >= 12, request)
}

fn any_list_offsets(dice: &mut Dice, version: i16) -> ListOffsetsRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            let partition = offsets::ListOffsetsPartition::default()
                .with_partition_index(number(dice))
                .with_timestamp(dice.next() as i64);
            if version >= 4 { partition.with_current_leader_epoch(number(dice)) } else { partition }
        });
        offsets::ListOffsetsTopic::default().with_name(topic(dice)).with_partitions(partitions)
    });
    let mut request = ListOffsetsRequest::default().with_replica_id(broker(dice)).with_topics(topics);
    if version >= 2 {
        request = request.with_isolation_level(1);
    }
    if version >= 10 {
        request = request.with_timeout_ms(number(dice));
    }
    tags!(dice, version >= 6, request)
}

fn any_metadata(dice: &mut Dice, version: i16) -> MetadataRequest {
    let topics = some(dice, |dice| {
        let wanted = metadata::MetadataRequestTopic::default();
        let wanted = tags!(dice, version >= 9, wanted);
        if version >= 10 && dice.one_in(2) {
            wanted.with_topic_id(uuid(dice)).with_name(maybe(dice, topic))
        } else {
            wanted.with_name(Some(topic(dice)))
        }
    });
    let all = version >= 1 && dice.one_in(4);
    let mut request = MetadataRequest::default().with_topics(if all { None } else { Some(topics) });
    if version >= 4 {
        request = request.with_allow_auto_topic_creation(dice.one_in(2));
    }
    if version >= 8 {
        request = request.with_include_topic_authorized_operations(dice.one_in(2));
    }
    if (8..=10).contains(&version) {
        request = request.with_include_cluster_authorized_operations(dice.one_in(2));
    }
    tags!(dice, version >= 9, request)
}

fn any_find_coordinator(dice: &mut Dice, version: i16) -> FindCoordinatorRequest {
    let mut request = FindCoordinatorRequest::default();
    request = if version >= 4 {
        request.with_coordinator_keys(some(dice, text))
    } else {
        request.with_key(text(dice))
    };
    if version >= 1 {
        request = request.with_key_type(dice.below(3) as i8);
    }
    tags!(dice, version >= 3, request)
}

fn any_api_versions(dice: &mut Dice, version: i16) -> ApiVersionsRequest {
    let request = ApiVersionsRequest::default();
    if version < 3 {
        return request;
    }
    let request = request.with_client_software_name(text(dice)).with_client_software_version(text(dice));
    tags!(dice, true, request)
}

fn any_create_topics(dice: &mut Dice) -> CreateTopicsRequest {
    let topics = some(dice, |dice| {
        let assignments = some(dice, |dice| {
            let assignment = create::CreatableReplicaAssignment::default().with_partition_index(number(dice));
            assignment.with_broker_ids(some(dice, broker))
        });
        let settings = some(dice, |dice| {
            create::CreatableTopicConfig::default().with_name(text(dice)).with_value(maybe(dice, text))
        });
        create::CreatableTopic::default()
            .with_name(topic(dice))
            .with_num_partitions(number(dice))
            .with_replication_factor(number(dice) as i16)
            .with_assignments(assignments)
            .with_configs(settings)
    });
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(number(dice)).with_validate_only(true)
}

fn any_delete_topics(dice: &mut Dice, version: i16) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default().with_timeout_ms(number(dice));
    if version < 6 {
        return request.with_topic_names(some(dice, topic));
    }
    request.with_topics(some(dice, |dice| {
        delete::DeleteTopicState::default().with_name(maybe(dice, topic)).with_topic_id(uuid(dice))
    }))
}

fn any_delete_records(dice: &mut Dice) -> DeleteRecordsRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            let partition = records::DeleteRecordsPartition::default().with_partition_index(number(dice));
            partition.with_offset(dice.next() as i64)
        });
        records::DeleteRecordsTopic::default().with_name(topic(dice)).with_partitions(partitions)
    });
    DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(number(dice))
}

fn any_init_producer_id(dice: &mut Dice, version: i16) -> InitProducerIdRequest {
    let mut request = InitProducerIdRequest::default()
        .with_transactional_id(maybe(dice, |dice| TransactionalId(text(dice))))
        .with_transaction_timeout_ms(number(dice));
    if version >= 3 {
        let id = ProducerId(dice.next() as i64);
        request = request.with_producer_id(id).with_producer_epoch(number(dice) as i16);
    }
    tags!(dice, version >= 2, request)
}

fn any_epochs(dice: &mut Dice, version: i16) -> OffsetForLeaderEpochRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            epochs::OffsetForLeaderPartition::default()
                .with_partition(number(dice))
                .with_current_leader_epoch(number(dice))
                .with_leader_epoch(number(dice))
        });
        epochs::OffsetForLeaderTopic::default().with_topic(topic(dice)).with_partitions(partitions)
    });
    let request = OffsetForLeaderEpochRequest::default().with_topics(topics);
    if version >= 3 { request.with_replica_id(broker(dice)) } else { request }
}

fn any_describe_configs(dice: &mut Dice, version: i16) -> DescribeConfigsRequest {
    let resources = some(dice, |dice| {
        configs::DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(dice))
            .with_configuration_keys(maybe(dice, |dice| some(dice, text)))
    });
    let request = DescribeConfigsRequest::default().with_resources(resources).with_include_synonyms(true);
    if version >= 3 { request.with_include_documentation(true) } else { request }
}

fn any_alter_configs(dice: &mut Dice) -> AlterConfigsRequest {
    let resources = some(dice, |dice| {
        let settings = some(dice, |dice| {
            alter::AlterableConfig::default().with_name(text(dice)).with_value(maybe(dice, text))
        });
        alter::AlterConfigsResource::default().with_resource_name(text(dice)).with_configs(settings)
    });
    AlterConfigsRequest::default().with_resources(resources).with_validate_only(true)
}

fn any_incremental(dice: &mut Dice) -> IncrementalAlterConfigsRequest {
    let resources = some(dice, |dice| {
        let settings = some(dice, |dice| {
            let setting = incremental::AlterableConfig::default().with_name(text(dice));
            setting.with_config_operation(dice.below(4) as i8).with_value(maybe(dice, text))
        });
        incremental::AlterConfigsResource::default().with_resource_name(text(dice)).with_configs(settings)
    });
    IncrementalAlterConfigsRequest::default().with_resources(resources)
}

fn any_log_dirs(dice: &mut Dice) -> DescribeLogDirsRequest {
    DescribeLogDirsRequest::default().with_topics(maybe(dice, |dice| {
        some(dice, |dice| {
            let of_topic = dirs::DescribableLogDirTopic::default().with_topic(topic(dice));
            of_topic.with_partitions(some(dice, number))
        })
    }))
}

fn any_create_partitions(dice: &mut Dice) -> CreatePartitionsRequest {
    let topics = some(dice, |dice| {
        let assignments = maybe(dice, |dice| {
            some(dice, |dice| {
                partitions::CreatePartitionsAssignment::default().with_broker_ids(some(dice, broker))
            })
        });
        let of_topic = partitions::CreatePartitionsTopic::default().with_name(topic(dice));
        of_topic.with_count(number(dice)).with_assignments(assignments)
    });
    CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(number(dice))
}

fn any_elect_leaders(dice: &mut Dice, version: i16) -> ElectLeadersRequest {
    let wanted = maybe(dice, |dice| {
        some(dice, |dice| {
            let of_topic = elect::TopicPartitions::default().with_topic(topic(dice));
            of_topic.with_partitions(some(dice, number))
        })
    });
    let mut request = ElectLeadersRequest::default().with_topic_partitions(wanted);
    if version >= 1 {
        request = request.with_election_type(1);
    }
    tags!(dice, version >= 2, request.with_timeout_ms(number(dice)))
}

fn any_reassignments(dice: &mut Dice, version: i16) -> AlterPartitionReassignmentsRequest {
    let topics = some(dice, |dice| {
        let partitions = some(dice, |dice| {
            let of_partition = reassign::ReassignablePartition::default().with_partition_index(number(dice));
            of_partition.with_replicas(maybe(dice, |dice| some(dice, broker)))
        });
        reassign::ReassignableTopic::default().with_name(topic(dice)).with_partitions(partitions)
    });
    let mut request = AlterPartitionReassignmentsRequest::default().with_topics(topics);
    if version >= 1 {
        request = request.with_allow_replication_factor_change(dice.one_in(2));
    }
    tags!(dice, true, request.with_timeout_ms(number(dice)))
}

fn any_list_reassignments(dice: &mut Dice) -> ListPartitionReassignmentsRequest {
    let topics = maybe(dice, |dice| {
        some(dice, |dice| {
            let of_topic = moves::ListPartitionReassignmentsTopics::default().with_name(topic(dice));
            of_topic.with_partition_indexes(some(dice, number))
        })
    });
    let request = ListPartitionReassignmentsRequest::default().with_topics(topics);
    tags!(dice, true, request.with_timeout_ms(number(dice)))
}

fn any_describe_cluster(dice: &mut Dice, version: i16) -> DescribeClusterRequest {
    let mut request = DescribeClusterRequest::default();
    request = request.with_include_cluster_authorized_operations(dice.one_in(2));
    if version >= 1 {
        request = request.with_endpoint_type(2);
    }
    if version >= 2 {
        request = request.with_include_fenced_brokers(true);
    }
    tags!(dice, true, request)
}

fn any_describe_topics(dice: &mut Dice) -> DescribeTopicPartitionsRequest {
    let topics = some(dice, |dice| describe::TopicRequest::default().with_name(topic(dice)));
    let cursor = maybe(dice, |dice| {
        describe::Cursor::default().with_topic_name(topic(dice)).with_partition_index(number(dice))
    });
    let request = DescribeTopicPartitionsRequest::default().with_topics(topics);
    tags!(dice, true, request.with_response_partition_limit(number(dice)).with_cursor(cursor))
}
