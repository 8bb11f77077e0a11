//! `highwater group`: consumer groups through the Kafka protocol, so it works against any broker.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use highwater_model::limits::CLIENT_RETRY_PAUSE;
use highwater_wire::kafka::ResponseError;
use highwater_wire::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use highwater_wire::kafka::messages::offset_fetch_request::OffsetFetchRequestGroup;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;
use serde_json::json;

use super::CommandError;
use super::connect::{KafkaArgs, Output};
use super::output;
use crate::client::consume::list_offsets;
use crate::client::{Client, ClientError, error_code, topic_name};

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List the groups of the whole cluster.
    List(ListArgs),
    /// Show a group's members, its committed offsets and how far they are behind.
    Describe(DescribeArgs),
    /// Set the offsets of a group that nobody uses.
    Reset(ResetArgs),
    /// Delete groups without members, and their offsets.
    Delete(DeleteArgs),
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
    #[command(flatten)]
    kafka: KafkaArgs,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Args)]
pub struct ResetArgs {
    name: String,
    #[arg(long)]
    topic: String,
    /// Only this partition; may be given several times. By default all of them.
    #[arg(long = "partition", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Where the group goes on: earliest, latest, or an offset.
    #[arg(long, value_name = "WHERE", value_parser = parse_place)]
    to: Place,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

/// Where a group goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Earliest,
    Latest,
    Offset(i64),
}

fn parse_place(text: &str) -> Result<Place, String> {
    match (text, text.parse::<i64>()) {
        ("earliest", _) => Ok(Place::Earliest),
        ("latest", _) => Ok(Place::Latest),
        (_, Ok(offset)) if offset >= 0 => Ok(Place::Offset(offset)),
        _ => Err("earliest, latest or an offset from 0 is needed".to_owned()),
    }
}

pub async fn run(command: GroupCommand) -> Result<(), CommandError> {
    match command {
        GroupCommand::List(args) => list(args).await,
        GroupCommand::Describe(args) => describe(args).await,
        GroupCommand::Reset(args) => reset(args).await,
        GroupCommand::Delete(args) => delete(args).await,
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// The node id of the group's coordinator; waits for one that is being made or loaded.
async fn coordinator(client: &mut Client, name: &str) -> Result<i32, ClientError> {
    let deadline = tokio::time::Instant::now() + client.timeout();
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(name)]);
    client.metadata(Some(&[]), false).await?; // brokers' addresses
    loop {
        let answer = client.any().await?.call(4, 6, &request).await?;
        let found = answer.coordinators.into_iter().next();
        let found = found.ok_or_else(|| ClientError::protocol("an answer without the coordinator"))?;
        let what = format!("coordinator of group {name}");
        match error_code(found.error_code, found.error_message.as_deref(), &what) {
            Ok(()) => {
                let node = found.node_id.0;
                if is_ready(client, node, name).await? {
                    return Ok(node);
                }
            }
            Err(error) if !error.is_retriable() => return Err(error),
            Err(_) => {}
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(ClientError::Timeout { what });
        }
        tokio::time::sleep(CLIENT_RETRY_PAUSE).await;
    }
}

/// False while the coordinator loads its groups, or has just handed them over.
async fn is_ready(client: &mut Client, node: i32, name: &str) -> Result<bool, ClientError> {
    let fetched = fetch(client, node, name).await?;
    let later = [
        ResponseError::CoordinatorLoadInProgress.code(),
        ResponseError::CoordinatorNotAvailable.code(),
        ResponseError::NotCoordinator.code(),
    ];
    Ok(!later.contains(&fetched.error_code))
}

/// All offsets of a group.
async fn fetch(
    client: &mut Client,
    node: i32,
    name: &str,
) -> Result<offset_fetch_response::OffsetFetchResponseGroup, ClientError> {
    let group = OffsetFetchRequestGroup::default().with_group_id(group_id(name)).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![group]);
    let answer = client.broker(node).await?.call(8, 9, &request).await?;
    let group = answer.groups.into_iter().next();
    group.ok_or_else(|| ClientError::protocol("an answer without the group's offsets"))
}

async fn list(args: ListArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let mut groups = BTreeMap::new();
    for node in nodes(&mut client).await? {
        let answer = client.broker(node).await?.call(5, 5, &ListGroupsRequest::default()).await?;
        error_code(answer.error_code, None, &format!("groups of node {node}"))?;
        for group in answer.groups {
            groups.insert(group.group_id.to_string(), (node, group));
        }
    }
    if args.output == Output::Json {
        let list = groups.iter().map(|(name, (node, group))| {
            json!({"group": name, "type": group.group_type.as_str(), "state": group.group_state.as_str(),
                   "protocol_type": group.protocol_type.as_str(), "coordinator": node})
        });
        return output::json(&json!(list.collect::<Vec<_>>()));
    }
    let rows = groups.into_iter().map(|(name, (node, group))| {
        vec![name, group.group_type.to_string(), group.group_state.to_string(), node.to_string()]
    });
    output::table(&["group", "type", "state", "coordinator"], &rows.collect::<Vec<_>>())
}

/// Every broker by its id.
async fn nodes(client: &mut Client) -> Result<Vec<i32>, ClientError> {
    client.metadata(Some(&[]), false).await?;
    Ok(client.nodes())
}

/// A member as both protocols show it.
struct Member {
    id: String,
    client_id: String,
    host: String,
}

/// State and members, of either protocol.
async fn members(client: &mut Client, node: i32, name: &str) -> Result<(String, Vec<Member>), ClientError> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(name)]);
    let answer = client.broker(node).await?.call(0, 1, &request).await?;
    if let Some(group) = answer.groups.into_iter().find(|group| group.error_code == 0) {
        let members = group.members.into_iter().map(|member| Member {
            id: member.member_id.to_string(),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
        });
        return Ok((group.group_state.to_string(), members.collect()));
    }
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(name)]);
    let answer = client.broker(node).await?.call(0, 5, &request).await?;
    let group = answer.groups.into_iter().next();
    let group = group.ok_or_else(|| ClientError::protocol("an answer without the group"))?;
    error_code(group.error_code, None, &format!("group {name}"))?;
    let members = group.members.into_iter().map(|member| Member {
        id: member.member_id.to_string(),
        client_id: member.client_id.to_string(),
        host: member.client_host.to_string(),
    });
    Ok((group.group_state.to_string(), members.collect()))
}

/// A committed offset, and where its partition ends; none if that is not known.
struct Standing {
    topic: String,
    partition: i32,
    offset: i64,
    end: Option<i64>,
}

impl Standing {
    fn lag(&self) -> Option<i64> {
        self.end.map(|end| (end - self.offset).max(0))
    }
}

async fn standings(client: &mut Client, node: i32, name: &str) -> Result<Vec<Standing>, ClientError> {
    let fetched = fetch(client, node, name).await?;
    error_code(fetched.error_code, None, &format!("offsets of group {name}"))?;
    let mut standings = Vec::new();
    for topic in fetched.topics {
        let partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        let ends = match client.topic(&topic.name, false).await {
            Ok(known) => list_offsets(client, &known, &partitions, LATEST).await.unwrap_or_default(),
            Err(_) => BTreeMap::new(), // it is gone; the offsets are still of interest
        };
        standings.extend(topic.partitions.into_iter().map(|partition| Standing {
            topic: topic.name.to_string(),
            partition: partition.partition_index,
            offset: partition.committed_offset,
            end: ends.get(&partition.partition_index).copied(),
        }));
    }
    standings.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(standings)
}

async fn describe(args: DescribeArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let node = coordinator(&mut client, &args.name).await?;
    let (state, members) = members(&mut client, node, &args.name).await?;
    let standings = standings(&mut client, node, &args.name).await?;
    if args.output == Output::Json {
        let members = members.iter().map(|m| json!({"id": m.id, "client_id": m.client_id, "host": m.host}));
        let offsets = standings.iter().map(|s| {
            json!({"topic": s.topic, "partition": s.partition, "offset": s.offset, "end": s.end,
                   "lag": s.lag()})
        });
        return output::json(&json!({"group": args.name, "state": state, "coordinator": node,
            "members": members.collect::<Vec<_>>(), "offsets": offsets.collect::<Vec<_>>()}));
    }
    output::text(&format!("group {}  state {state}  coordinator {node}\n", args.name))?;
    if !members.is_empty() {
        let rows: Vec<_> = members.into_iter().map(|m| vec![m.id, m.client_id, m.host]).collect();
        output::text("\n")?;
        output::table(&["member", "client", "host"], &rows)?;
    }
    if standings.is_empty() {
        return Ok(());
    }
    let number = |known: Option<i64>| known.map_or_else(|| "?".to_owned(), |known| known.to_string());
    let rows = standings.iter().map(|s| {
        let (partition, offset) = (s.partition.to_string(), s.offset.to_string());
        vec![s.topic.clone(), partition, offset, number(s.end), number(s.lag())]
    });
    output::text("\n")?;
    output::table(&["topic", "partition", "offset", "end", "lag"], &rows.collect::<Vec<_>>())
}

async fn reset(args: ResetArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    let node = coordinator(&mut client, &args.name).await?;
    let topic = client.topic(&args.topic, false).await?;
    let mut chosen = args.partitions;
    if chosen.is_empty() {
        chosen = topic.partitions.iter().map(|p| p.partition).collect();
    }
    let places: BTreeMap<i32, i64> = match args.to {
        Place::Earliest => list_offsets(&mut client, &topic, &chosen, EARLIEST).await?,
        Place::Latest => list_offsets(&mut client, &topic, &chosen, LATEST).await?,
        Place::Offset(offset) => chosen.iter().map(|partition| (*partition, offset)).collect(),
    };
    let missing = chosen.iter().find(|partition| !places.contains_key(partition));
    if let Some(partition) = missing {
        let text = format!("topic {} has no partition {partition}", args.topic);
        return Err(CommandError::Failed(text));
    }
    let partitions = places.iter().map(|(partition, offset)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
    });
    let of_topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(&args.topic))
        .with_partitions(partitions.collect());
    let request =
        OffsetCommitRequest::default().with_group_id(group_id(&args.name)).with_topics(vec![of_topic]);
    let answer = client.broker(node).await?.call(6, 9, &request).await?;
    for partition in answer.topics.iter().flat_map(|topic| &topic.partitions) {
        let index = partition.partition_index;
        let what = format!("group {}, {} partition {index}", args.name, args.topic);
        // A commit from outside is refused like this while the group has members.
        if partition.error_code == ResponseError::UnknownMemberId.code() {
            let text = format!("{what}: the group is in use; stop its members first");
            return Err(CommandError::Failed(text));
        }
        error_code(partition.error_code, None, &what)?;
    }
    Ok(())
}

async fn delete(args: DeleteArgs) -> Result<(), CommandError> {
    let mut client = args.kafka.client()?;
    for name in &args.names {
        let node = coordinator(&mut client, name).await?;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(name)]);
        let answer = client.broker(node).await?.call(0, 2, &request).await?;
        let code = answer.results.first().map_or(-1, |result| result.error_code);
        error_code(code, None, &format!("group {name}"))?;
    }
    Ok(())
}
