//! What other nodes and clients ask of this one: the gRPC service `Control`, beside Raft's own.
//!
//! The services exist before the coordinator does, so that the node's gRPC server can be up while the group
//! forms; until then they answer UNAVAILABLE. Must not: begin a command before it has looked at who asks;
//! hold a call without a deadline, or more streams than it may (invariant 16).

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::Stream;
use highwater_model::limits::{METADATA_STREAMS_MAX, PEER_MESSAGE_BYTES_MAX, SESSIONS_MAX};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use crate::core::Command;
use crate::handle::{Coordinator, WeakCoordinator};
use crate::membership;
use crate::metadata;
use crate::raft::{CoordinationDoor, MemberStatus};
use crate::route::Attempt;
use crate::rpc::proto::control_server::{Control, ControlServer};
use crate::rpc::{check_client, list_message, list_of, list_text, proto, uuid_bytes};
use crate::session;

/// The control plane's part of a node's gRPC door. Clones are the same door.
#[derive(Clone, Default)]
pub struct ControlDoor {
    coordination: CoordinationDoor,
    inside: Arc<Inside>,
}

struct Inside {
    coordinator: OnceLock<WeakCoordinator>,
    metadata: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

impl Default for Inside {
    fn default() -> Inside {
        Inside {
            coordinator: OnceLock::new(),
            metadata: Arc::new(Semaphore::new(METADATA_STREAMS_MAX)),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
        }
    }
}

impl ControlDoor {
    /// Adds the services to a gRPC server that is being built.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        routes.add_service(self.coordination.service());
        let control = ControlServer::new(self.clone())
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        routes.add_service(control);
    }

    pub(crate) fn coordination(&self) -> &CoordinationDoor {
        &self.coordination
    }

    /// From now on calls are answered.
    pub(crate) fn open(&self, coordinator: &Coordinator) {
        if self.inside.coordinator.set(coordinator.downgrade()).is_err() {
            tracing::error!("a second coordinator in one process stays without a door");
        }
    }

    fn coordinator(&self) -> Result<Coordinator, Status> {
        let starting = || Status::unavailable("the node is starting");
        let coordinator = self.inside.coordinator.get().ok_or_else(starting)?;
        let coordinator = coordinator.upgrade().ok_or_else(|| Status::unavailable("the node has stopped"))?;
        match coordinator.is_closed() {
            true => Err(Status::unavailable("the node is stopping")),
            false => Ok(coordinator),
        }
    }
}

/// Whether a call is for this cluster; a caller that does not know its cluster yet is for any.
pub(crate) fn check_cluster(coordinator: &Coordinator, from: u64, given: &str) -> Result<(), Status> {
    let own = coordinator.cluster_id();
    if given.is_empty() || own.is_empty() || given == own {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "node {from} belongs to cluster {given}, and this is a coordinator of cluster {own}; correct --coordinators \
         or --data-dir of node {from}"
    )))
}

fn check_caller(coordinator: &Coordinator, from: u64, protocol: u32, cluster: &str) -> Result<(), Status> {
    check_client(from, protocol).map_err(Status::failed_precondition)?;
    check_cluster(coordinator, from, cluster)
}

fn not_leader(coordinator: &Coordinator, leader: Option<u64>) -> proto::NotLeader {
    proto::NotLeader { leader: leader.or_else(|| coordinator.leader()).unwrap_or(0) }
}

/// What is sent to a client piece by piece.
type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlDoor {
    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        use proto::propose_response::Outcome;
        let (coordinator, request) = (self.coordinator()?, request.into_inner());
        check_caller(&coordinator, request.from, request.protocol, &request.cluster_id)?;
        let command: Command = serde_json::from_slice(&request.command).map_err(|e| {
            Status::invalid_argument(format!(
                "a command that this release does not know: {e}; upgrade this node"
            ))
        })?;
        let wait = Duration::from_millis(request.wait_ms).min(coordinator.settings().propose_timeout);
        let json = |e: serde_json::Error| Status::internal(e.to_string());
        let (version, outcome) = match coordinator.propose_here(command, Instant::now() + wait).await {
            Attempt::Done(Ok(reply), version) => {
                (version, Outcome::Reply(serde_json::to_vec(&reply).map_err(json)?.into()))
            }
            Attempt::Done(Err(refusal), version) => {
                (version, Outcome::Refused(serde_json::to_vec(&refusal).map_err(json)?.into()))
            }
            Attempt::Elsewhere(_, leader) if !coordinator.is_leader() => {
                (0, Outcome::NotLeader(not_leader(&coordinator, leader)))
            }
            Attempt::Elsewhere(reason, _) | Attempt::Later(reason) => (0, Outcome::Failed(reason)),
            Attempt::Unknown(reason) => (0, Outcome::Unknown(reason)),
        };
        Ok(Response::new(proto::ProposeResponse { version, outcome: Some(outcome) }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        use proto::read_index_response::Outcome;
        let (coordinator, request) = (self.coordinator()?, request.into_inner());
        check_caller(&coordinator, request.from, request.protocol, &request.cluster_id)?;
        let deadline = Instant::now() + coordinator.settings().propose_timeout;
        let outcome = match coordinator.own_read_version(deadline).await {
            Attempt::Done((), version) => Outcome::Version(version),
            Attempt::Elsewhere(_, leader) if !coordinator.is_leader() => {
                Outcome::NotLeader(not_leader(&coordinator, leader))
            }
            Attempt::Elsewhere(reason, _) | Attempt::Later(reason) | Attempt::Unknown(reason) => {
                Outcome::Unavailable(reason)
            }
        };
        Ok(Response::new(proto::ReadIndexResponse { outcome: Some(outcome) }))
    }

    type SessionStream = Sent<proto::SessionAnswer>;

    async fn session(
        &self,
        request: Request<Streaming<proto::SessionReport>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let coordinator = self.coordinator()?;
        let seat = self.inside.sessions.clone().try_acquire_owned();
        let seat = seat.map_err(|_| Status::resource_exhausted("too many sessions"))?;
        let answers = session::serve(&coordinator, request.into_inner(), seat).await?;
        Ok(Response::new(Box::pin(answers)))
    }

    type WatchMetadataStream = Sent<proto::MetadataUpdate>;

    async fn watch_metadata(
        &self,
        request: Request<proto::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let (coordinator, request) = (self.coordinator()?, request.into_inner());
        check_caller(&coordinator, request.from, request.protocol, &request.cluster_id)?;
        let (theirs, own) = (list_of(&request.coordinators), coordinator.channels().addresses());
        // Lists may be ahead of the members: nodes that are to be added.
        let members = coordinator.member_ids();
        if !theirs.is_empty() && !members.iter().all(|id| theirs.contains_key(id)) {
            return Err(Status::failed_precondition(format!(
                "node {} was started with --coordinators {}, node {} with {}; give all nodes the same list",
                request.from,
                list_text(&theirs),
                coordinator.settings().node_id,
                list_text(own)
            )));
        }
        let seat = self.inside.metadata.clone().try_acquire_owned();
        let seat = seat.map_err(|_| Status::resource_exhausted("too many metadata streams"))?;
        let updates = metadata::serve(&coordinator, request.known_version, seat);
        Ok(Response::new(Box::pin(updates)))
    }

    async fn change_members(
        &self,
        request: Request<proto::ChangeMembersRequest>,
    ) -> Result<Response<proto::ChangeMembersResponse>, Status> {
        let (coordinator, request) = (self.coordinator()?, request.into_inner());
        check_caller(&coordinator, request.from, request.protocol, &request.cluster_id)?;
        let change = membership::change_of(&request)?;
        Ok(Response::new(membership::serve(&coordinator, change, request.is_forwarded).await))
    }

    async fn describe_group(
        &self,
        _request: Request<proto::DescribeGroupRequest>,
    ) -> Result<Response<proto::DescribeGroupResponse>, Status> {
        let coordinator = self.coordinator()?;
        let status = coordinator.group_status();
        let members = status.iter().flat_map(|status| status.members.iter());
        let member = |member: &MemberStatus| proto::GroupMember {
            id: member.node_id,
            matched: member.matched,
            address: member.address.clone(),
            storage: member.storage.map(uuid_bytes).unwrap_or_default(),
            is_voter: member.is_voter,
        };
        Ok(Response::new(proto::DescribeGroupResponse {
            cluster_id: coordinator.cluster_id(),
            node_id: coordinator.settings().node_id,
            leader: coordinator.leader().unwrap_or(0),
            term: status.as_ref().map_or(0, |status| status.leadership.term),
            coordinators: list_message(coordinator.channels().addresses()),
            state_version: coordinator.with_state(|state| state.version),
            applied: status.as_ref().map_or(0, |status| status.applied),
            quorum_ack_ms: status.as_ref().and_then(|status| status.quorum_ack_ms),
            members: members.map(member).collect(),
        }))
    }
}
