//! `highwater tier`: what is in the bucket and what is not, by the gRPC door of a node.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tonic::{Code, Status};

use super::CommandError;
use super::connect::{GRPC_CALL_TIMEOUT as CALL_TIMEOUT, GrpcArgs, Output, connect};
use super::output;
use crate::grpc::proto::{
    TierDescribeRequest, TierDescribeResponse, TierOffloadRequest, TierOffloadResponse, TierPartition,
    TierStatusRequest, TierStatusResponse,
};

#[derive(Debug, Subcommand)]
pub enum TierCommand {
    /// Show the totals of a node's tier.
    Status(StatusArgs),
    /// Show what of a topic is in the tier, what is local, and why.
    Describe(DescribeArgs),
    /// Seal and upload what a topic holds now; returns when the manifest lists it.
    Offload(OffloadArgs),
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    topic: String,
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct OffloadArgs {
    topic: String,
    /// Also drop the local copies of what is in the tier.
    #[arg(long)]
    evict: bool,
    /// How long to wait.
    #[arg(long, default_value_t = 600_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
    #[command(flatten)]
    grpc: GrpcArgs,
}

pub async fn run(command: TierCommand) -> Result<(), CommandError> {
    match command {
        TierCommand::Status(args) => {
            let mut client = connect(&args.grpc, CALL_TIMEOUT).await?;
            let answer = client.tier_status(TierStatusRequest {}).await;
            show_status(&args.grpc, &answer.map_err(|e| failed(&args.grpc, &e))?.into_inner())
        }
        TierCommand::Describe(args) => {
            let mut client = connect(&args.grpc, CALL_TIMEOUT).await?;
            let answer = client.tier_describe(TierDescribeRequest { topic: args.topic }).await;
            show_topic(&args.grpc, &answer.map_err(|e| failed(&args.grpc, &e))?.into_inner())
        }
        TierCommand::Offload(args) => {
            let wait = Duration::from_millis(args.timeout_ms);
            let mut client = connect(&args.grpc, wait + CALL_TIMEOUT).await?;
            let request = TierOffloadRequest {
                topic: args.topic,
                evict: args.evict,
                deadline_ms: args.timeout_ms,
                local_only: false,
            };
            let answer = client.tier_offload(request).await;
            show_offload(&args.grpc, &answer.map_err(|e| failed(&args.grpc, &e))?.into_inner())
        }
    }
}

fn failed(args: &GrpcArgs, status: &Status) -> CommandError {
    let message = status.message();
    let advice = match status.code() {
        Code::NotFound => "`highwater topic list` shows what there is",
        Code::DeadlineExceeded => "the work goes on; call again or raise --timeout-ms",
        Code::FailedPrecondition => "`highwater tier describe` shows more",
        Code::ResourceExhausted => "the node serves as many connections as it may; try again later",
        _ => "see the node's log",
    };
    CommandError::Failed(format!("{}: {message}; {advice}", args.grpc))
}

fn show_status(args: &GrpcArgs, status: &TierStatusResponse) -> Result<(), CommandError> {
    if args.output == Output::Json {
        let alarms: Vec<_> = status
            .alarms
            .iter()
            .map(|a| json!({"topic": a.topic, "partition": a.partition, "reason": a.reason}))
            .collect();
        return output::json(&json!({
            "cluster_id": status.cluster_id, "node_id": status.node_id, "object_store": status.object_store,
            "topics": status.topics, "partitions": status.partitions, "objects": status.objects,
            "object_bytes": status.object_bytes, "raw_bytes": status.raw_bytes,
            "local_bytes": status.local_bytes, "backlog_segments": status.backlog_segments,
            "backlog_bytes": status.backlog_bytes, "lag_ms": status.lag_ms, "alarms": alarms,
        }));
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("cluster", status.cluster_id.clone()),
        row("node", status.node_id.to_string()),
        row("object store", status.object_store.clone()),
        row("topics", status.topics.to_string()),
        row("partitions", status.partitions.to_string()),
        row("objects", status.objects.to_string()),
        row("in the tier", output::bytes(status.object_bytes)),
        row("of records", output::bytes(status.raw_bytes)),
        row("local", output::bytes(status.local_bytes)),
        row(
            "waiting",
            format!("{} in {} segments", output::bytes(status.backlog_bytes), status.backlog_segments),
        ),
        row("oldest waits", format!("{} ms", status.lag_ms)),
    ];
    for alarm in &status.alarms {
        rows.push(row("ALARM", format!("{}-{}: {}", alarm.topic, alarm.partition, alarm.reason)));
    }
    output::table(&["tier", ""], &rows)
}

fn show_topic(args: &GrpcArgs, topic: &TierDescribeResponse) -> Result<(), CommandError> {
    if args.output == Output::Json {
        let partitions: Vec<_> = topic.partitions.iter().map(partition_json).collect();
        return output::json(
            &json!({"topic": topic.topic, "topic_id": topic.topic_id, "partitions": partitions}),
        );
    }
    output::text(&format!("topic {}  id {}\n\n", topic.topic, topic.topic_id))?;
    let rows: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .map(|p| {
            let offsets = [p.log_start, p.local_start, p.tiered_end, p.high_watermark, p.log_end];
            let mut row = vec![p.partition.to_string()];
            row.extend(offsets.iter().map(i64::to_string));
            row.extend([p.objects.to_string(), output::bytes(p.object_bytes), output::bytes(p.local_bytes)]);
            row
        })
        .collect();
    let headings = [
        "partition",
        "log start",
        "local start",
        "tiered end",
        "high watermark",
        "log end",
        "objects",
        "tier",
        "local",
    ];
    output::table(&headings, &rows)?;
    let rows: Vec<Vec<String>> = topic
        .partitions
        .iter()
        .flat_map(|p| p.local.iter().map(move |range| (p.partition, range)))
        .map(|(partition, range)| {
            vec![
                partition.to_string(),
                format!("{}..{}", range.start, range.end),
                output::bytes(range.bytes),
                range.reason.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    output::text("\n")?;
    output::table(&["partition", "local offsets", "bytes", "why"], &rows)
}

fn partition_json(p: &TierPartition) -> serde_json::Value {
    let local: Vec<_> = p
        .local
        .iter()
        .map(|r| json!({"start": r.start, "end": r.end, "bytes": r.bytes, "reason": r.reason}))
        .collect();
    json!({
        "partition": p.partition, "log_start": p.log_start, "local_start": p.local_start,
        "tiered_end": p.tiered_end, "last_stable": p.last_stable, "high_watermark": p.high_watermark,
        "log_end": p.log_end, "leader_epoch": p.leader_epoch, "manifest_version": p.manifest_version,
        "objects": p.objects, "object_bytes": p.object_bytes, "raw_bytes": p.raw_bytes,
        "local_bytes": p.local_bytes, "pages": p.pages, "retiring": p.retiring, "local": local,
    })
}

fn show_offload(args: &GrpcArgs, answer: &TierOffloadResponse) -> Result<(), CommandError> {
    if args.output == Output::Json {
        let partitions: Vec<_> = answer
            .partitions
            .iter()
            .map(|p| {
                json!({"partition": p.partition, "tiered_end": p.tiered_end, "local_start": p.local_start,
                       "log_end": p.log_end, "objects": p.objects, "object_bytes": p.object_bytes})
            })
            .collect();
        return output::json(&json!({"topic": answer.topic, "partitions": partitions}));
    }
    let rows: Vec<Vec<String>> = answer
        .partitions
        .iter()
        .map(|p| {
            vec![
                p.partition.to_string(),
                p.tiered_end.to_string(),
                p.local_start.to_string(),
                p.log_end.to_string(),
                p.objects.to_string(),
                output::bytes(p.object_bytes),
            ]
        })
        .collect();
    output::table(&["partition", "tiered end", "local start", "log end", "new objects", "new bytes"], &rows)
}
