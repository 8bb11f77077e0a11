//! `highwater topic`: topics through the Kafka protocol, so it works against any broker.

use clap::{Args, Subcommand};
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::create_partitions_request::CreatePartitionsTopic;
use highwater_wire::kafka::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use highwater_wire::kafka::messages::describe_configs_request::DescribeConfigsResource;
use highwater_wire::kafka::messages::describe_configs_response::DescribeConfigsResourceResult;
use highwater_wire::kafka::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use highwater_wire::kafka::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest,
};
use highwater_wire::kafka::protocol::StrBytes;
use serde_json::json;

use super::CommandError;
use super::connect::{KafkaArgs, Output};
use super::output;
use crate::client::{Client, ClientError, TopicMetadata, error_code, topic_name};

const TOPIC_RESOURCE: i8 = 2;
const SET: i8 = 0;
const DELETE: i8 = 1;
const TOPIC_OVERRIDE: i8 = 1;

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List the topics.
    List(ListArgs),
    /// Show the partitions and settings of a topic.
    Describe(DescribeArgs),
    /// Add partitions to a topic, or change its settings.
    Alter(AlterArgs),
    /// Delete topics with everything in them.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    name: String,
    /// Number of partitions; by default as the broker is set.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Number of replicas; by default as the broker is set.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replicas: Option<i16>,
    /// Setting of the topic; may be given several times.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = parse_pair)]
    configs: Vec<(String, String)>,
    /// Do nothing if the topic exists.
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    name: String,
    /// Also show settings that have their default value.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub struct AlterArgs {
    name: String,
    /// New number of partitions; it can only grow.
    #[arg(long, group = "change", value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Setting to change; may be given several times.
    #[arg(long = "config", group = "change", value_name = "NAME=VALUE", value_parser = parse_pair)]
    configs: Vec<(String, String)>,
    /// Setting to return to its default; may be given several times.
    #[arg(long = "delete-config", group = "change", value_name = "NAME")]
    delete_configs: Vec<String>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    names: Vec<String>,
    /// Do nothing about topics that do not exist.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    kafka: KafkaArgs,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is needed".to_owned()),
    }
}

fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub async fn run(command: TopicCommand) -> Result<(), CommandError> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe(args).await,
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let configs = args
        .configs
        .iter()
        .map(|(n, v)| CreatableTopicConfig::default().with_name(str_bytes(n)).with_value(Some(str_bytes(v))))
        .collect();
    let topic = CreatableTopic::default()
        .with_name(topic_name(&args.name))
        .with_num_partitions(args.partitions.unwrap_or(-1))
        .with_replication_factor(args.replicas.unwrap_or(-1))
        .with_configs(configs);
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms(&client));
    let response = client.any().await?.call(4, 7, &request).await?;
    let answer =
        response.topics.first().ok_or_else(|| ClientError::protocol("an answer without the topic"))?;
    if answer.error_code == ResponseError::TopicAlreadyExists.code() && args.if_not_exists {
        return Ok(());
    }
    let what = format!("create topic {}", args.name);
    Ok(error_code(answer.error_code, answer.error_message.as_deref(), &what)?)
}

async fn list(args: ListArgs) -> Result<(), CommandError> {
    let mut topics = args.kafka.client()?.metadata(None, false).await?;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    if args.output == Output::Json {
        let list = topics.iter().map(|t| {
            json!({"name": t.name, "topic_id": t.topic_id.to_string(), "partitions": t.partitions.len(),
                   "replicas": replicas(t), "internal": t.is_internal})
        });
        return output::json(&list.collect());
    }
    let rows: Vec<Vec<String>> = topics
        .iter()
        .map(|t| vec![t.name.clone(), t.partitions.len().to_string(), replicas(t).to_string()])
        .collect();
    output::table(&["topic", "partitions", "replicas"], &rows)
}

fn replicas(topic: &TopicMetadata) -> usize {
    topic.partitions.first().map_or(0, |p| p.replicas.len())
}

async fn describe(args: DescribeArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let topic = client.topic(&args.name, false).await?;
    let configs = configs_of(&mut client, &args.name, args.all).await?;
    if args.output == Output::Json {
        return output::json(&describe_json(&topic, &configs));
    }
    output::text(&format!("topic {}  id {}\n\n", topic.name, topic.topic_id))?;
    let rows: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .map(|p| {
            let list = |nodes: &[i32]| nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
            vec![
                p.partition.to_string(),
                p.leader.to_string(),
                p.leader_epoch.to_string(),
                list(&p.replicas),
                list(&p.in_sync),
            ]
        })
        .collect();
    output::table(&["partition", "leader", "epoch", "replicas", "in sync"], &rows)?;
    if configs.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = configs
        .iter()
        .map(|c| {
            let source = if c.config_source == TOPIC_OVERRIDE { "topic" } else { "default" };
            vec![c.name.to_string(), value_of(c).to_owned(), source.to_owned()]
        })
        .collect();
    output::text("\n")?;
    output::table(&["setting", "value", "from"], &rows)
}

fn value_of(config: &DescribeConfigsResourceResult) -> &str {
    config.value.as_ref().map_or("", |v| v.as_str())
}

fn describe_json(topic: &TopicMetadata, configs: &[DescribeConfigsResourceResult]) -> serde_json::Value {
    let partitions = topic.partitions.iter().map(|p| {
        json!({"partition": p.partition, "leader": p.leader, "leader_epoch": p.leader_epoch,
               "replicas": p.replicas, "in_sync": p.in_sync})
    });
    let configs = configs.iter().map(|c| (c.name.to_string(), serde_json::Value::from(value_of(c))));
    json!({"name": topic.name, "topic_id": topic.topic_id.to_string(), "internal": topic.is_internal,
           "partitions": partitions.collect::<Vec<_>>(),
           "configs": configs.collect::<serde_json::Map<_, _>>()})
}

async fn configs_of(
    client: &mut Client,
    name: &str,
    all: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, ClientError> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(str_bytes(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = client.any().await?.call(1, 4, &request).await?;
    let answer = response
        .results
        .into_iter()
        .next()
        .ok_or_else(|| ClientError::protocol("an answer without the topic's settings"))?;
    error_code(answer.error_code, answer.error_message.as_deref(), &format!("settings of {name}"))?;
    let mut configs = answer.configs;
    configs.retain(|c| all || c.config_source == TOPIC_OVERRIDE);
    configs.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    Ok(configs)
}

async fn alter(args: AlterArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let set = args.configs.iter().map(|(name, value)| {
        AlterableConfig::default()
            .with_name(str_bytes(name))
            .with_config_operation(SET)
            .with_value(Some(str_bytes(value)))
    });
    let delete = args.delete_configs.iter().map(|name| {
        AlterableConfig::default().with_name(str_bytes(name)).with_config_operation(DELETE).with_value(None)
    });
    let configs: Vec<AlterableConfig> = set.chain(delete).collect();
    if !configs.is_empty() {
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(str_bytes(&args.name))
            .with_configs(configs);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = client.any().await?.call(0, 1, &request).await?;
        let answer =
            response.responses.first().ok_or_else(|| ClientError::protocol("an answer without the topic"))?;
        let what = format!("settings of {}", args.name);
        error_code(answer.error_code, answer.error_message.as_deref(), &what)?;
    }
    if let Some(count) = args.partitions {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name(&args.name))
            .with_count(count)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms(&client));
        let response = client.any().await?.call(0, 3, &request).await?;
        let answer =
            response.results.first().ok_or_else(|| ClientError::protocol("an answer without the topic"))?;
        let what = format!("partitions of {}", args.name);
        error_code(answer.error_code, answer.error_message.as_deref(), &what)?;
    }
    Ok(())
}

async fn delete(args: DeleteArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let request = DeleteTopicsRequest::default()
        .with_topic_names(args.names.iter().map(|name| topic_name(name)).collect())
        .with_timeout_ms(timeout_ms(&client));
    let response = client.any().await?.call(1, 5, &request).await?;
    for answer in response.responses {
        if answer.error_code == ResponseError::UnknownTopicOrPartition.code() && args.if_exists {
            continue;
        }
        let name = answer.name.map(|n| n.0.to_string()).unwrap_or_default();
        error_code(answer.error_code, answer.error_message.as_deref(), &format!("delete topic {name}"))?;
    }
    Ok(())
}

fn timeout_ms(client: &Client) -> i32 {
    i32::try_from(client.timeout().as_millis()).unwrap_or(i32::MAX)
}
