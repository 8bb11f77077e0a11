//! `highwater cluster`: the nodes, how evenly partitions lie on them, and moving those.

use clap::{Args, Subcommand};
use serde_json::json;
use tonic::{Code, Status};

use super::CommandError;
use super::connect::{GRPC_CALL_TIMEOUT, GrpcArgs, Output, connect};
use super::coordinators;
use super::output;
use crate::grpc::proto::{
    ClusterDrainRequest, ClusterMoveRequest, ClusterStatusRequest, ClusterStatusResponse,
};

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the brokers, who leads the control plane, and how evenly partitions lie.
    Status(StatusArgs),
    /// Move partitions of a topic to other brokers, or take moves back that are under way.
    Move(MoveArgs),
    /// Have a broker give its replicas away and get no new ones.
    Drain(DrainArgs),
    /// Show the coordinators, or change who they are.
    #[command(subcommand)]
    Coordinators(coordinators::CoordinatorsCommand),
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct MoveArgs {
    topic: String,
    /// Partitions to move, separated by commas; by default all.
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    partitions: Vec<i32>,
    /// Brokers that are to have the replicas, the preferred leader first.
    #[arg(long, value_delimiter = ',', value_name = "ID,...", required_unless_present = "cancel")]
    replicas: Vec<u64>,
    /// Take moves back that are under way.
    #[arg(long, conflicts_with = "replicas")]
    cancel: bool,
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The broker's node id.
    node_id: u64,
    /// End it: the broker takes its share again.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    grpc: GrpcArgs,
}

pub async fn run(command: ClusterCommand) -> Result<(), CommandError> {
    match command {
        ClusterCommand::Status(args) => {
            let mut client = connect(&args.grpc, GRPC_CALL_TIMEOUT).await?;
            let answer = client.cluster_status(ClusterStatusRequest {}).await;
            show(&args.grpc, &answer.map_err(|e| failed(&args.grpc, &e))?.into_inner())
        }
        ClusterCommand::Coordinators(command) => coordinators::run(command).await,
        ClusterCommand::Move(args) => {
            let mut client = connect(&args.grpc, GRPC_CALL_TIMEOUT).await?;
            let request = ClusterMoveRequest {
                topic: args.topic,
                partitions: args.partitions,
                replicas: args.replicas,
            };
            let answer = client.cluster_move(request).await;
            let moved = answer.map_err(|e| failed(&args.grpc, &e))?.into_inner().partitions;
            match args.grpc.output {
                Output::Json => output::json(&json!({ "partitions": moved })),
                Output::Table if args.cancel => output::text(&format!("{moved} moves taken back\n")),
                Output::Table => output::text(&format!(
                    "{moved} partitions are on their way; `highwater cluster status` tells when they are there\n"
                )),
            }
        }
        ClusterCommand::Drain(args) => {
            let mut client = connect(&args.grpc, GRPC_CALL_TIMEOUT).await?;
            let request = ClusterDrainRequest { node_id: args.node_id, is_draining: !args.undo };
            let answer = client.cluster_drain(request).await;
            let replicas = answer.map_err(|e| failed(&args.grpc, &e))?.into_inner().replicas;
            let node_id = args.node_id;
            match args.grpc.output {
                Output::Json => output::json(
                    &json!({ "node_id": node_id, "is_draining": !args.undo, "replicas": replicas }),
                ),
                Output::Table if args.undo => output::text(&format!("node {node_id} takes replicas again\n")),
                Output::Table => output::text(&format!(
                    "node {node_id} has {replicas} replicas to give away; `highwater cluster status` tells when \
                     it has none\n"
                )),
            }
        }
    }
}

fn failed(args: &GrpcArgs, status: &Status) -> CommandError {
    let advice = match status.code() {
        Code::NotFound => "`highwater topic list` shows what there is",
        Code::FailedPrecondition => "`highwater cluster status` shows more",
        Code::Unavailable => "no coordinator leads, or it could not be reached; call again",
        _ => "see the node's log",
    };
    CommandError::Failed(format!("{}: {}; {advice}", args.grpc, status.message()))
}

fn show(args: &GrpcArgs, status: &ClusterStatusResponse) -> Result<(), CommandError> {
    if args.output == Output::Json {
        let brokers: Vec<_> = status
            .brokers
            .iter()
            .map(|b| {
                json!({"node_id": b.node_id, "epoch": b.epoch, "kafka": b.kafka, "grpc": b.grpc, "rack": b.rack,
                       "state": b.state, "leaders": b.leaders, "replicas": b.replicas, "lagging": b.lagging})
            })
            .collect();
        return output::json(&json!({
            "cluster_id": status.cluster_id, "node_id": status.node_id,
            "coordinator_leader": status.coordinator_leader, "brokers": brokers, "topics": status.topics,
            "partitions": status.partitions, "under_replicated": status.under_replicated,
            "under_min_isr": status.under_min_isr, "leaderless": status.leaderless, "moving": status.moving,
            "leader_imbalance_percent": status.leader_imbalance_percent,
            "replica_imbalance_percent": status.replica_imbalance_percent,
            "raft": status.raft, "switching": status.switching,
        }));
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let leader = match status.coordinator_leader {
        0 => "not known".to_owned(),
        leader => format!("node {leader}"),
    };
    let rows = vec![
        row("cluster", status.cluster_id.clone()),
        row("control plane led by", leader),
        row("topics", status.topics.to_string()),
        row("partitions", status.partitions.to_string()),
        row("under-replicated", status.under_replicated.to_string()),
        row("below min.insync.replicas", status.under_min_isr.to_string()),
        row("without a leader", status.leaderless.to_string()),
        row("moving", status.moving.to_string()),
        row("replicated by raft", status.raft.to_string()),
        row("changing to or from raft", status.switching.to_string()),
        row("leaders uneven by", format!("{} %", status.leader_imbalance_percent)),
        row("replicas uneven by", format!("{} %", status.replica_imbalance_percent)),
    ];
    output::table(&["cluster", ""], &rows)?;
    output::text("\n")?;
    let rows: Vec<Vec<String>> = status
        .brokers
        .iter()
        .map(|b| {
            vec![
                b.node_id.to_string(),
                b.state.clone(),
                b.kafka.clone(),
                b.grpc.clone(),
                b.rack.clone(),
                b.leaders.to_string(),
                b.replicas.to_string(),
                b.lagging.to_string(),
            ]
        })
        .collect();
    output::table(&["node", "state", "kafka", "grpc", "rack", "leaders", "replicas", "lagging"], &rows)
}
