//! The members' side of the gRPC door: greetings, votes, appends, snapshots.
//!
//! It is there before the group is: a member answers greetings from its first moment, votes and appends only
//! once it is admitted. Must not: answer a message whose envelope is not of a member (`group.rs`).

use std::sync::{Arc, OnceLock};

use highwater_model::limits::{PEER_MESSAGE_BYTES_MAX, RAFT_SNAPSHOT_BYTES_MAX};
use openraft::Raft;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::AppendEntriesResponse;
use tonic::{Request, Response, Status};

use super::election;
use super::group::Group;
use super::log_store::LogStore;
use super::members;
use super::network::fatal_status;
use super::types::TypeConfig;
use super::wire::{self, WireError};
use crate::rpc::proto;
use crate::rpc::proto::coordination_server::{Coordination, CoordinationServer};

/// What the service answers from; filled in once the node's files are open.
#[derive(Clone, Default)]
pub(crate) struct CoordinationDoor {
    member: Arc<OnceLock<Member>>,
}

/// A member that can be talked to. Clones are the same member.
#[derive(Clone)]
pub(super) struct Member {
    pub group: Arc<Group>,
    pub raft: Raft<TypeConfig>,
    pub log: LogStore,
}

impl CoordinationDoor {
    /// Opens the door for a member. A second one is ignored: one process has one.
    pub(super) fn open(&self, member: Member) {
        if self.member.set(member).is_err() {
            tracing::error!("a second coordinator in one process stays without a door");
        }
    }

    pub(crate) fn service(&self) -> CoordinationServer<CoordinationDoor> {
        CoordinationServer::new(self.clone())
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    fn member(&self) -> Result<&Member, Status> {
        let member =
            self.member.get().ok_or_else(|| Status::unavailable("no coordinator runs here (yet)"))?;
        // One that has stopped has no opinion any more, and above all votes for nobody.
        match member.raft.metrics().borrow().state {
            openraft::ServerState::Shutdown => Err(Status::unavailable("the coordinator has stopped")),
            _ => Ok(member),
        }
    }
}

fn malformed(error: WireError) -> Status {
    match error {
        // Most likely rules or a format that came with a newer release.
        WireError::Entry(_) => {
            Status::failed_precondition(format!("{error}; upgrade this node to the leader's release"))
        }
        _ => Status::invalid_argument(error.to_string()),
    }
}

#[tonic::async_trait]
impl Coordination for CoordinationDoor {
    async fn hello(
        &self,
        request: Request<proto::HelloRequest>,
    ) -> Result<Response<proto::HelloResponse>, Status> {
        let member = self.member()?;
        let is_formed = member.raft.is_initialized().await.map_err(|e| fatal_status(&e))?;
        Ok(Response::new(member.group.hello(request.get_ref(), is_formed && member.group.is_admitted())))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let (member, request) = (self.member()?, request.into_inner());
        member.group.check(request.envelope.as_ref())?;
        let request = wire::vote_request_of(&request).map_err(malformed)?;
        let answer = election::judge_pre_vote(member, &request);
        Ok(Response::new(wire::vote_response(&answer)))
    }

    async fn vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let (member, request) = (self.member()?, request.into_inner());
        member.group.check(request.envelope.as_ref())?;
        // One that does not know yet that it votes may lack what the storage before it has acknowledged.
        if !members::may_vote(member) {
            return Err(Status::unavailable("this coordinator has no vote (yet)"));
        }
        let request = wire::vote_request_of(&request).map_err(malformed)?;
        match member.raft.vote(request).await {
            Ok(answer) => Ok(Response::new(wire::vote_response(&answer))),
            Err(RaftError::Fatal(e)) => Err(fatal_status(&e)),
            Err(e) => Err(Status::internal(e.to_string())),
        }
    }

    async fn append(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        let (member, request) = (self.member()?, request.into_inner());
        member.group.check(request.envelope.as_ref())?;
        let request = wire::append_request_of(&request).map_err(malformed)?;
        match member.raft.append_entries(request).await {
            Ok(answer) => {
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    member.group.heard_leader();
                }
                Ok(Response::new(wire::append_response(&answer)))
            }
            Err(RaftError::Fatal(e)) => Err(fatal_status(&e)),
            Err(e) => Err(Status::internal(e.to_string())),
        }
    }

    async fn install_snapshot(
        &self,
        request: Request<proto::SnapshotChunk>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let (member, request) = (self.member()?, request.into_inner());
        member.group.check(request.envelope.as_ref())?;
        let end = request.offset.saturating_add(request.data.len() as u64);
        if end > RAFT_SNAPSHOT_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "a snapshot of more than {RAFT_SNAPSHOT_BYTES_MAX} bytes"
            )));
        }
        let request = wire::snapshot_chunk_of(&request).map_err(malformed)?;
        let vote = request.vote;
        match member.raft.install_snapshot(request).await {
            Ok(answer) => {
                if answer.vote <= vote {
                    member.group.heard_leader();
                }
                let vote = Some(wire::ballot_message(&answer.vote));
                Ok(Response::new(proto::SnapshotResponse { vote, is_mismatch: false }))
            }
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(_))) => {
                let vote = Some(wire::ballot_message(&vote));
                Ok(Response::new(proto::SnapshotResponse { vote, is_mismatch: true }))
            }
            Err(RaftError::Fatal(e)) => Err(fatal_status(&e)),
        }
    }
}
