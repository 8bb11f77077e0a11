//! Administration over the wire: every API in every version, and the error codes that Kafka's clients rely
//! on.

use std::collections::BTreeMap;

use highwater_broker::settings::Settings;
use highwater_wire::api;
use highwater_wire::kafka::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use highwater_wire::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_wire::kafka::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use highwater_wire::kafka::messages::delete_topics_request::DeleteTopicState;
use highwater_wire::kafka::messages::describe_configs_request::DescribeConfigsResource;
use highwater_wire::kafka::messages::describe_log_dirs_request::DescribableLogDirTopic;
use highwater_wire::kafka::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use highwater_wire::kafka::messages::metadata_request::MetadataRequestTopic;
use highwater_wire::kafka::messages::metadata_response::MetadataResponseTopic;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;
use uuid::Uuid;

use super::harness::{Client, Harness, batch, name};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn by_name(topic: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(name(topic)))
}

async fn metadata(
    client: &mut Client,
    version: i16,
    topics: Option<Vec<MetadataRequestTopic>>,
    create: bool,
) -> Vec<MetadataResponseTopic> {
    let mut request = MetadataRequest::default().with_topics(topics);
    if version >= 4 {
        request = request.with_allow_auto_topic_creation(create);
    }
    let response: MetadataResponse = client.call(api::METADATA, version, &request).await;
    assert_eq!(response.brokers.len(), 1);
    response.topics
}

fn codes(topics: &[MetadataResponseTopic]) -> BTreeMap<String, i16> {
    topics.iter().map(|t| (t.name.as_ref().map_or("", |n| n.as_str()).to_owned(), t.error_code)).collect()
}

/// A field that an answer sets but its version does not have would close the connection.
#[tokio::test]
async fn every_version_of_every_administration_api_is_answered() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[("retention.ms", "5000")]).await;
    let mut client = harness.client().await;
    for version in 0..=4 {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request =
                request.with_client_software_name(text("test")).with_client_software_version(text("1.0"));
        }
        let answer: ApiVersionsResponse = client.call(api::API_VERSIONS, version, &request).await;
        assert_eq!((answer.error_code, answer.api_keys.len()), (0, api::SERVED.len()), "v{version}");
        assert!(answer.api_keys.iter().any(|k| k.api_key == 0 && k.min_version == 0 && k.max_version == 13));
    }
    for version in 0..=13 {
        let asked = vec![by_name("t"), by_name("missing"), by_name("bad/name")];
        let found = codes(&metadata(&mut client, version, Some(asked), false).await);
        // Before version 4 asking always creates.
        let missing = if version < 4 { 0 } else { found["missing"] };
        assert_eq!(
            (found["t"], missing == 0 || missing == 3, found["bad/name"]),
            (0, true, 17),
            "v{version}"
        );
    }
    for version in 0..=2 {
        let request = DescribeClusterRequest::default();
        let answer: DescribeClusterResponse = client.call(api::DESCRIBE_CLUSTER, version, &request).await;
        assert_eq!(
            (answer.error_code, answer.brokers.len(), answer.controller_id.0),
            (0, 1, 1),
            "v{version}"
        );
    }
    for version in 0..=6 {
        let mut request = FindCoordinatorRequest::default();
        request = match version {
            0..=3 => request.with_key(text("g")),
            _ => request.with_coordinator_keys(vec![text("g"), text("h")]),
        };
        let answer: FindCoordinatorResponse = client.call(api::FIND_COORDINATOR, version, &request).await;
        let codes: Vec<i16> = answer.coordinators.iter().map(|c| c.error_code).collect();
        match version {
            0..=3 => assert_eq!((answer.error_code, answer.node_id.0), (0, 1), "v{version}"),
            _ => assert_eq!(codes, [0, 0], "v{version}"),
        }
    }
    for version in 1..=4 {
        let answer = describe_configs(&mut client, version, TOPIC, "t").await;
        assert_eq!(answer.error_code, 0, "v{version}");
    }
    for version in 1..=4 {
        let request = DescribeLogDirsRequest::default().with_topics(None);
        let answer: DescribeLogDirsResponse = client.call(api::DESCRIBE_LOG_DIRS, version, &request).await;
        assert_eq!(answer.results[0].topics.iter().filter(|t| t.name == name("t")).count(), 1, "v{version}");
        assert_eq!(answer.results[0].total_bytes > 0, version >= 4, "v{version}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn topics_are_created_altered_grown_and_deleted_in_every_version() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    for version in 2..=7 {
        let topic = CreatableTopic::default()
            .with_name(name(&format!("c{version}")))
            .with_num_partitions(2)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
        let answer: CreateTopicsResponse = client.call(api::CREATE_TOPICS, version, &request).await;
        let created = &answer.topics[0];
        assert_eq!(created.error_code, 0, "v{version}: {:?}", created.error_message);
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (2, 1), "v{version}");
            assert!(created.configs.as_ref().is_some_and(|c| c.len() > 20), "v{version}");
        }
        assert_eq!(!created.topic_id.is_nil(), version >= 7, "v{version}");
        // It can be used at once.
        assert_eq!(client.put(&format!("c{version}"), 1, batch(&[b"x"])).await, 0);
    }
    for version in 0..=3 {
        let topic = CreatePartitionsTopic::default()
            .with_name(name("c2"))
            .with_count(i32::from(version) + 3)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
        let answer: CreatePartitionsResponse = client.call(api::CREATE_PARTITIONS, version, &request).await;
        assert_eq!(answer.results[0].error_code, 0, "v{version}: {:?}", answer.results[0].error_message);
        assert_eq!(client.put("c2", i32::from(version) + 2, batch(&[b"x"])).await, 0);
    }
    for version in 0..=2 {
        let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("77")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("c2"))
            .with_configs(vec![config]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let answer: AlterConfigsResponse = client.call(api::ALTER_CONFIGS, version, &request).await;
        assert_eq!(answer.responses[0].error_code, 0, "v{version}");
    }
    for version in 1..=6 {
        let topic = format!("c{}", version + 1);
        let mut request = DeleteTopicsRequest::default().with_timeout_ms(5_000);
        request = match version {
            1..=5 => request.with_topic_names(vec![name(&topic)]),
            _ => request.with_topics(vec![DeleteTopicState::default().with_name(Some(name(&topic)))]),
        };
        let answer: DeleteTopicsResponse = client.call(api::DELETE_TOPICS, version, &request).await;
        assert_eq!(answer.responses[0].error_code, 0, "v{version}");
    }
    assert!(metadata(&mut client, 12, None, false).await.is_empty());
    harness.stop().await;
}

#[tokio::test]
async fn metadata_means_all_none_or_some_by_version() {
    let harness = Harness::start().await;
    let a = harness.create_topic("a", 3, &[]).await;
    harness.create_topic("b", 1, &[]).await;
    let mut client = harness.client().await;
    assert_eq!(metadata(&mut client, 0, Some(vec![]), false).await.len(), 2, "empty is all in version 0");
    assert_eq!(metadata(&mut client, 1, Some(vec![]), false).await.len(), 0);
    assert_eq!(metadata(&mut client, 1, None, false).await.len(), 2);
    assert_eq!(metadata(&mut client, 13, None, false).await.len(), 2);
    let twice = metadata(&mut client, 9, Some(vec![by_name("a"), by_name("a")]), false).await;
    assert_eq!(twice.len(), 1);
    assert_eq!(twice[0].partitions.len(), 3);
    assert_eq!(twice[0].partitions[2].partition_index, 2);
    assert_eq!(twice[0].partitions[2].leader_id.0, 1);
    let by_id = |id: Uuid| MetadataRequestTopic::default().with_name(None).with_topic_id(id);
    let known = metadata(&mut client, 12, Some(vec![by_id(a.0)]), false).await;
    assert_eq!((codes(&known)["a"], known[0].topic_id), (0, a.0));
    let unknown = Uuid::from_u128(5);
    let missing = metadata(&mut client, 12, Some(vec![by_id(unknown)]), false).await;
    assert_eq!((missing[0].error_code, missing[0].topic_id, missing[0].name.is_none()), (100, unknown, true));
    let named = by_name("a").with_topic_id(a.0);
    assert_eq!(metadata(&mut client, 10, Some(vec![named]), false).await[0].error_code, 42);
    harness.stop().await;
}

#[tokio::test]
async fn asking_creates_a_topic_only_where_that_is_wanted() {
    let harness = Harness::start_with(|settings: &mut Settings| settings.default_partitions = 1).await;
    let mut client = harness.client().await;
    let ask = |topic: &str| Some(vec![by_name(topic)]);
    assert_eq!(metadata(&mut client, 12, ask("no"), false).await[0].error_code, 3);
    let created = metadata(&mut client, 12, ask("yes"), true).await;
    assert_eq!((created[0].error_code, created[0].partitions.len()), (0, 1), "it is there at once");
    assert_eq!(client.put("yes", 0, batch(&[b"x"])).await, 0);
    assert_eq!(metadata(&mut client, 1, ask("old-clients-always-do"), true).await[0].error_code, 0);
    for (topic, code) in [("", 17), ("a/b", 17), ("..", 17), ("__consumer_offsets", 3)] {
        assert_eq!(metadata(&mut client, 12, ask(topic), true).await[0].error_code, code, "{topic:?}");
    }
    assert!(metadata(&mut client, 12, ask("__consumer_offsets"), true).await[0].is_internal);
    harness.stop().await;
    let harness = Harness::start_with(|settings| settings.auto_create_topics = false).await;
    let mut client = harness.client().await;
    assert_eq!(metadata(&mut client, 12, ask("yes"), true).await[0].error_code, 3);
    harness.stop().await;
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_as_in_kafka() {
    let harness = Harness::start().await;
    harness.create_topic("there", 1, &[]).await;
    harness.create_topic("a.b", 1, &[]).await;
    let mut client = harness.client().await;
    let topic = |topic: &str| {
        CreatableTopic::default().with_name(name(topic)).with_num_partitions(1).with_replication_factor(1)
    };
    let assigned = |partition: i32, node: i32| {
        CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(vec![BrokerId(node)])
    };
    let manual = |name: &str, assignments| {
        topic(name).with_num_partitions(-1).with_replication_factor(-1).with_assignments(assignments)
    };
    let config = |name: &str, value: Option<&str>| {
        vec![CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text))]
    };
    let cases = vec![
        (topic("there"), 36),
        (topic("a_b"), 17),
        (topic("a/b"), 17),
        (topic("zero").with_num_partitions(0), 37),
        (topic("negative").with_num_partitions(-2), 37),
        (topic("rf0").with_replication_factor(0), 38),
        (topic("rf2").with_replication_factor(2), 38),
        (topic("unknown-config").with_configs(config("nope", Some("1"))), 40),
        (topic("bad-config").with_configs(config("retention.ms", Some("x"))), 40),
        (topic("null-config").with_configs(config("retention.ms", None)), 40),
        (manual("gap", vec![assigned(1, 1)]), 39),
        (manual("stranger", vec![assigned(0, 9)]), 39),
        (manual("both", vec![assigned(0, 1)]).with_num_partitions(1), 42),
        (manual("manual", vec![assigned(1, 1), assigned(0, 1)]), 0),
        (topic("defaults").with_num_partitions(-1).with_replication_factor(-1), 0),
    ];
    let request = CreateTopicsRequest::default()
        .with_topics(
            cases.iter().map(|(topic, _)| topic.clone()).chain([topic("twice"), topic("twice")]).collect(),
        )
        .with_timeout_ms(5_000);
    for validate_only in [true, false] {
        let request = request.clone().with_validate_only(validate_only);
        let answer: CreateTopicsResponse = client.call(api::CREATE_TOPICS, 7, &request).await;
        let found: BTreeMap<&str, i16> =
            answer.topics.iter().map(|t| (t.name.as_str(), t.error_code)).collect();
        for (topic, code) in &cases {
            assert_eq!(found[topic.name.as_str()], *code, "{} {validate_only}", topic.name.as_str());
        }
        assert_eq!(found["twice"], 42);
        assert_eq!(answer.topics.len(), cases.len() + 1, "what stands twice is answered once");
        let exists = metadata(&mut client, 12, Some(vec![by_name("manual")]), false).await[0].error_code == 0;
        assert_eq!(exists, !validate_only);
    }
    harness.stop().await;
}

#[tokio::test]
async fn topics_are_deleted_by_name_or_id_but_not_by_both() {
    let harness = Harness::start().await;
    let a = harness.create_topic("a", 1, &[]).await;
    harness.create_topic("b", 1, &[]).await;
    harness.create_topic("c", 1, &[]).await;
    let mut client = harness.client().await;
    let state = |topic: Option<&str>, id: Uuid| {
        DeleteTopicState::default().with_name(topic.map(name)).with_topic_id(id)
    };
    let asked = vec![
        state(None, a.0),
        state(Some("b"), Uuid::nil()),
        state(Some("c"), Uuid::nil()),
        state(Some("c"), Uuid::nil()),
        state(Some("missing"), Uuid::nil()),
        state(None, Uuid::from_u128(7)),
        state(None, Uuid::nil()),
        state(Some("b"), a.0),
    ];
    let request = DeleteTopicsRequest::default().with_topics(asked).with_timeout_ms(5_000);
    let answer: DeleteTopicsResponse = client.call(api::DELETE_TOPICS, 6, &request).await;
    let codes: Vec<i16> = answer.responses.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [0, 0, 42, 42, 3, 100, 42, 42]);
    assert_eq!((answer.responses[0].name.clone(), answer.responses[0].topic_id), (Some(name("a")), a.0));
    let left: Vec<String> = codes_of_all(&mut client).await;
    assert_eq!(left, ["c"]);
    harness.stop().await;
}

async fn codes_of_all(client: &mut Client) -> Vec<String> {
    codes(&metadata(client, 12, None, false).await).into_keys().collect()
}

#[tokio::test]
async fn partitions_only_grow() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    let grow = |topic: &str, count: i32| {
        CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None)
    };
    for (topics, validate_only, expected) in [
        (vec![grow("t", 2)], false, vec![37]),
        (vec![grow("t", 1)], false, vec![37]),
        (vec![grow("missing", 3)], false, vec![3]),
        (vec![grow("t", 3), grow("t", 4)], false, vec![42, 42]),
        (vec![grow("t", 3)], true, vec![0]),
        (vec![grow("t", 3)], false, vec![0]),
        (vec![grow("t", 3)], false, vec![37]),
    ] {
        let request = CreatePartitionsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(5_000)
            .with_validate_only(validate_only);
        let answer: CreatePartitionsResponse = client.call(api::CREATE_PARTITIONS, 3, &request).await;
        let codes: Vec<i16> = answer.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, expected, "{request:?}");
    }
    harness.stop().await;
}

#[tokio::test]
async fn partitions_are_described_page_by_page() {
    let harness = Harness::start().await;
    for (topic, partitions) in [("a", 3), ("b", 1), ("c", 4)] {
        harness.create_topic(topic, partitions, &[]).await;
    }
    let mut client = harness.client().await;
    let mut seen = Vec::new();
    let mut cursor: Option<Cursor> = None;
    for page in 0.. {
        assert!(page < 20, "paging ends");
        let request = DescribeTopicPartitionsRequest::default()
            .with_response_partition_limit(2)
            .with_cursor(cursor.clone());
        let answer: DescribeTopicPartitionsResponse =
            client.call(api::DESCRIBE_TOPIC_PARTITIONS, 0, &request).await;
        let count: usize = answer.topics.iter().map(|t| t.partitions.len()).sum();
        assert!(count <= 2);
        for topic in &answer.topics {
            let topic_name = topic.name.as_ref().expect("named").to_string();
            seen.extend(topic.partitions.iter().map(|p| (topic_name.clone(), p.partition_index)));
        }
        let Some(next) = answer.next_cursor else { break };
        cursor = Some(
            Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index),
        );
    }
    let expected: Vec<(String, i32)> =
        [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)]
            .map(|(topic, partition)| (topic.to_owned(), partition))
            .into();
    assert_eq!(seen, expected);
    let asked = ["missing", "a/b", "b"].map(|t| TopicRequest::default().with_name(name(t)));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(asked.to_vec())
        .with_response_partition_limit(100);
    let answer: DescribeTopicPartitionsResponse =
        client.call(api::DESCRIBE_TOPIC_PARTITIONS, 0, &request).await;
    let codes: Vec<i16> = answer.topics.iter().map(|t| t.error_code).collect();
    assert_eq!(codes, [17, 0, 3], "in the order of their names");
    harness.stop().await;
}

async fn describe_configs(
    client: &mut Client,
    version: i16,
    kind: i8,
    resource: &str,
) -> describe_configs_response::DescribeConfigsResult {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(None);
    let mut request =
        DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    if version >= 3 {
        request = request.with_include_documentation(true);
    }
    let mut answer: DescribeConfigsResponse = client.call(api::DESCRIBE_CONFIGS, version, &request).await;
    answer.results.remove(0)
}

#[tokio::test]
async fn settings_say_where_they_come_from() {
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("retention.ms", "5000")]).await;
    let mut client = harness.client().await;
    let topic = describe_configs(&mut client, 4, TOPIC, "t").await;
    let entry = |wanted: &str| {
        topic.configs.iter().find(|c| c.name.as_str() == wanted).unwrap_or_else(|| panic!("{wanted}"))
    };
    let retention = entry("retention.ms");
    assert_eq!(
        (retention.value.as_deref(), retention.config_source, retention.config_type),
        (Some("5000"), 1, 5)
    );
    let synonyms: Vec<(&str, i8)> = retention.synonyms.iter().map(|s| (s.name.as_str(), s.source)).collect();
    assert_eq!(synonyms, [("retention.ms", 1), ("log.retention.ms", 5)]);
    assert!(retention.documentation.as_ref().is_some_and(|d| !d.is_empty()));
    assert_eq!(entry("segment.bytes").config_source, 5);
    assert_eq!(entry("highwater.parquet.compression").value.as_deref(), Some("zstd"));
    let broker = describe_configs(&mut client, 4, BROKER, "1").await;
    assert_eq!(broker.error_code, 0);
    assert!(broker.configs.iter().all(|c| c.read_only || c.name.as_str().ends_with("throttled.rate")));
    assert!(broker.configs.iter().any(|c| c.name.as_str() == "num.partitions"));
    for (kind, resource, code) in
        [(TOPIC, "missing", 3), (TOPIC, "a/b", 17), (BROKER, "2", 42), (99, "x", 42)]
    {
        assert_eq!(
            describe_configs(&mut client, 4, kind, resource).await.error_code,
            code,
            "{kind} {resource}"
        );
    }
    harness.stop().await;
}

#[tokio::test]
async fn settings_are_altered_one_by_one_or_as_a_whole() {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[("retention.ms", "5000")]).await;
    let mut client = harness.client().await;
    let config = |name: &str, operation: i8, value: Option<&str>| {
        AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(text))
    };
    let resource = |kind: i8, name: &str, configs: Vec<AlterableConfig>| {
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(configs)
    };
    let t = |configs| vec![resource(TOPIC, "t", configs)];
    for (resources, expected) in [
        (t(vec![config("cleanup.policy", 2, Some("compact"))]), vec![0]),
        (t(vec![config("segment.ms", 0, Some("9000")), config("retention.ms", 1, None)]), vec![0]),
        (t(vec![config("retention.ms", 2, Some("1"))]), vec![40]),
        (t(vec![config("nope", 0, Some("1"))]), vec![40]),
        (t(vec![config("retention.ms", 0, None)]), vec![42]),
        (t(vec![config("retention.ms", 9, Some("1"))]), vec![42]),
        (t(vec![config("segment.ms", 0, Some("1")), config("segment.ms", 1, None)]), vec![42]),
        (vec![resource(TOPIC, "missing", vec![])], vec![3]),
        (vec![resource(BROKER, "1", vec![])], vec![0]),
        (vec![resource(BROKER, "7", vec![])], vec![102]),
        (vec![resource(BROKER, "one", vec![])], vec![42]),
        (vec![resource(BROKER, "1", vec![config("num.io.threads", 0, Some("8"))])], vec![40]),
        (vec![resource(TOPIC, "t", vec![]), resource(TOPIC, "t", vec![])], vec![42, 42]),
    ] {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let answer: IncrementalAlterConfigsResponse =
            client.call(api::INCREMENTAL_ALTER_CONFIGS, 1, &request).await;
        let codes: Vec<i16> = answer.responses.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, expected, "{request:?}");
    }
    let state = harness.node.coordinator.state();
    let overrides = &state.topic_by_name("t").expect("there").overrides;
    let expected = [("cleanup.policy", "delete,compact"), ("segment.ms", "9000")];
    let expected: BTreeMap<String, String> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(*overrides, expected);
    harness.stop().await;
}

/// What `kafka-reassign-partitions --throttle` does, and what it undoes when it verifies.
#[tokio::test]
async fn throttles_of_moves_are_kept_and_told() {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    const RATES: [&str; 2] = ["follower.replication.throttled.rate", "leader.replication.throttled.rate"];
    const LISTS: [&str; 2] =
        ["follower.replication.throttled.replicas", "leader.replication.throttled.replicas"];
    let harness = Harness::start().await;
    harness.create_topic("t", 1, &[]).await;
    let mut client = harness.client().await;
    let set = |kind: i8, name: &str, names: &[&str], operation: i8, value: Option<&str>| {
        let config = |name: &&str| {
            AlterableConfig::default()
                .with_name(text(name))
                .with_config_operation(operation)
                .with_value(value.map(text))
        };
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(names.iter().map(config).collect())
    };
    let log_dirs = "replica.alter.log.dirs.io.max.bytes.per.second";
    let undone = [RATES[0], RATES[1], log_dirs];
    for (resources, rate, source) in [
        (vec![set(TOPIC, "t", &LISTS, 0, Some("0:1,0:2")), set(BROKER, "1", &RATES, 0, Some("5"))], "5", 2),
        (vec![set(BROKER, "", &RATES, 0, Some("7")), set(BROKER, "1", &RATES, 1, None)], "7", 3),
        (
            vec![
                set(TOPIC, "t", &LISTS, 1, None),
                set(BROKER, "1", &undone, 1, None),
                set(BROKER, "", &undone, 1, None),
            ],
            "9223372036854775807",
            5,
        ),
    ] {
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources);
        let answer: IncrementalAlterConfigsResponse =
            client.call(api::INCREMENTAL_ALTER_CONFIGS, 1, &request).await;
        assert!(answer.responses.iter().all(|r| r.error_code == 0), "{answer:?}");
        let broker = describe_configs(&mut client, 4, BROKER, "1").await;
        for name in RATES {
            let entry = broker.configs.iter().find(|c| c.name.as_str() == name).expect("listed");
            assert_eq!((entry.value.as_deref(), entry.config_source), (Some(rate), source), "{name}");
        }
        let shared = describe_configs(&mut client, 4, BROKER, "").await;
        assert_eq!(shared.configs.len(), if source == 3 { 2 } else { 0 }, "what was set for all");
    }
    harness.stop().await;
}

#[tokio::test]
async fn log_dirs_know_the_sizes_of_partitions() {
    let harness = Harness::start().await;
    harness.create_topic("t", 2, &[]).await;
    let mut client = harness.client().await;
    client.put("t", 1, batch(&[b"some bytes"])).await;
    let asked = DescribableLogDirTopic::default().with_topic(name("t")).with_partitions(vec![1, 1, 7]);
    let missing = DescribableLogDirTopic::default().with_topic(name("missing")).with_partitions(vec![0]);
    let request = DescribeLogDirsRequest::default().with_topics(Some(vec![asked, missing]));
    let answer: DescribeLogDirsResponse = client.call(api::DESCRIBE_LOG_DIRS, 4, &request).await;
    let dir = &answer.results[0];
    assert!(dir.log_dir.starts_with('/') && dir.usable_bytes > 0 && dir.usable_bytes <= dir.total_bytes);
    assert_eq!(dir.topics.len(), 1);
    assert_eq!(dir.topics[0].partitions.len(), 1);
    assert!(dir.topics[0].partitions[0].partition_size > 60);
    harness.stop().await;
}
