//! `highwater cluster coordinators`: who the coordinators are, and changing that.
//!
//! Spoken with the control plane itself, so that it works at a coordinator without a broker too.

use clap::{Args, Subcommand};
use highwater_coordinator::rpc::{proto, protocol_min};
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;
use uuid::Uuid;

use super::CommandError;
use super::connect::{GRPC_CALL_TIMEOUT, GrpcArgs, Output, channel};
use super::output;

use proto::change_members_request::Change;
use proto::change_members_response::Outcome;
use proto::control_client::ControlClient;

#[derive(Debug, Subcommand)]
pub enum CoordinatorsCommand {
    /// Show the coordinators as the node knows them.
    List(ListArgs),
    /// Give a coordinator whose disk is lost for good its place back, with an empty disk.
    ///
    /// Start it once with an empty data directory: it says the name of its storage. Then run this against
    /// another node, and start it again. Never do so while the old disk may come back.
    Replace(ReplaceArgs),
    /// Add a coordinator. Give all nodes the longer --coordinators first, one after another.
    Add(AddArgs),
    /// Take a coordinator out; then give all nodes the shorter --coordinators.
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// The coordinator's node id.
    node_id: u64,
    /// Name of the new storage, as the node says it when it starts.
    #[arg(long, value_name = "UUID")]
    storage: Uuid,
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The node and its gRPC address.
    #[arg(value_name = "ID=HOST:PORT", value_parser = member)]
    member: (u64, String),
    /// Name of its storage, as the node says it when it starts.
    #[arg(long, value_name = "UUID")]
    storage: Uuid,
    #[command(flatten)]
    grpc: GrpcArgs,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The coordinator's node id.
    node_id: u64,
    #[command(flatten)]
    grpc: GrpcArgs,
}

fn member(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("ID=HOST:PORT is needed")?;
    let id = id.parse().map_err(|_| format!("{id:?} is no node id"))?;
    let has_port =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if has_port { Ok((id, address.to_owned())) } else { Err(format!("{address:?} is not HOST:PORT")) }
}

pub async fn run(command: CoordinatorsCommand) -> Result<(), CommandError> {
    let put = |id: u64, address: String, storage: Uuid| {
        let storage = storage.as_bytes().to_vec().into();
        Change::Put(proto::PutMember { id, address, storage })
    };
    match command {
        CoordinatorsCommand::List(args) => list(&args.grpc).await,
        CoordinatorsCommand::Replace(args) => {
            let id = args.node_id;
            let next = format!("start node {id} now; it votes when it has caught up");
            change(&args.grpc, put(id, String::new(), args.storage), &next).await
        }
        CoordinatorsCommand::Add(args) => {
            let (id, address) = args.member;
            let next = format!("start node {id} now; it votes when it has caught up");
            change(&args.grpc, put(id, address, args.storage), &next).await
        }
        CoordinatorsCommand::Remove(args) => {
            let next = format!("node {} is no coordinator any more", args.node_id);
            change(&args.grpc, Change::Remove(args.node_id), &next).await
        }
    }
}

async fn client(args: &GrpcArgs) -> Result<ControlClient<Channel>, CommandError> {
    Ok(ControlClient::new(channel(args, GRPC_CALL_TIMEOUT).await?))
}

fn failed(args: &GrpcArgs, status: &Status) -> CommandError {
    CommandError::Failed(format!("{}: {}; see the node's log", args.grpc, status.message()))
}

async fn change(args: &GrpcArgs, change: Change, next: &str) -> Result<(), CommandError> {
    let request =
        proto::ChangeMembersRequest { protocol: protocol_min(), change: Some(change), ..Default::default() };
    let answer = client(args).await?.change_members(request).await;
    let outcome = answer.map_err(|e| failed(args, &e))?.into_inner().outcome;
    let reason = match outcome {
        Some(Outcome::Done(_)) => {
            return match args.output {
                Output::Json => output::json(&json!({ "done": true })),
                Output::Table => output::text(&format!("{next}\n")),
            };
        }
        Some(Outcome::Refused(reason)) => reason,
        Some(Outcome::Failed(reason)) => format!("nothing has changed: {reason}; call again"),
        Some(Outcome::Unknown(reason)) => {
            format!("{reason}; `highwater cluster coordinators list` shows what has changed, then call again")
        }
        Some(Outcome::NotLeader(_)) | None => "no coordinator leads; call again".to_owned(),
    };
    Err(CommandError::Failed(format!("{}: {reason}", args.grpc)))
}

async fn list(args: &GrpcArgs) -> Result<(), CommandError> {
    let answer = client(args).await?.describe_group(proto::DescribeGroupRequest {}).await;
    let group = answer.map_err(|e| failed(args, &e))?.into_inner();
    let storage = |bytes: &[u8]| Uuid::from_slice(bytes).map(|id| id.to_string()).unwrap_or_default();
    let role = |member: &proto::GroupMember| match (member.id == group.leader, member.is_voter) {
        (true, _) => "leads",
        (false, true) => "votes",
        (false, false) => "catches up",
    };
    if args.output == Output::Json {
        let members: Vec<_> = group
            .members
            .iter()
            .map(|m| {
                json!({"node_id": m.id, "address": m.address, "storage": storage(&m.storage), "role": role(m),
                       "matched": m.matched})
            })
            .collect();
        return output::json(&json!({
            "cluster_id": group.cluster_id, "node_id": group.node_id, "leader": group.leader, "term": group.term,
            "members": members,
        }));
    }
    let rows: Vec<Vec<String>> = group
        .members
        .iter()
        .map(|m| vec![m.id.to_string(), role(m).to_owned(), m.address.clone(), storage(&m.storage)])
        .collect();
    output::table(&["node", "role", "grpc", "storage"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_an_id_and_an_address() {
        assert_eq!(member("4=host:9093"), Ok((4, "host:9093".to_owned())));
        for wrong in ["4", "host:9093", "x=host:9093", "4=host", "4=:9093", "4=host:port"] {
            assert!(member(wrong).is_err(), "{wrong}");
        }
    }
}
