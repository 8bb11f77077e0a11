//! Messages to the other members of the group. A lone node has none, so that every other is unreachable.
//!
//! openraft bounds each call by its own deadline; a peer that cannot be reached is left alone for a moment
//! (`backoff`) instead of being called without end.

use std::sync::Arc;

use highwater_model::limits::PEER_BACKOFF;
use openraft::error::{
    Fatal, InstallSnapshotError, NetworkError, RPCError, RaftError, SnapshotMismatch, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use tonic::{Code, Status};

use super::group::Group;
use super::types::{Peer, TypeConfig};
use super::wire::{self, WireError};
use crate::rpc::{never_sent, timed, within};

type RpcError<E = RaftError<u64>> = RPCError<u64, Peer, E>;

/// Makes the way to a member.
pub(super) struct Network {
    /// None for the only member of its group.
    pub group: Option<Arc<Group>>,
}

/// The way to a member.
pub(super) struct Link {
    group: Option<Arc<Group>>,
    target: u64,
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("node {0} is not reachable: this node is the only member of its group")]
    OnlyMember(u64),
    #[error("node {0}: {1}")]
    Status(u64, Status),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &Peer) -> Link {
        Link { group: self.group.clone(), target }
    }
}

/// A peer that is away or refuses gets a pause; one that was slow does not.
fn rpc_error<E: std::error::Error>(error: &LinkError) -> RpcError<E> {
    match error {
        LinkError::Status(_, status) if status.code() == Code::DeadlineExceeded => {
            RPCError::Network(NetworkError::new(error))
        }
        LinkError::Status(node, status) => {
            if status.code() == Code::FailedPrecondition {
                tracing::warn!("node {node} refuses: {}", status.message());
            } else if !never_sent(status) {
                tracing::debug!("node {node}: {status}");
            }
            RPCError::Unreachable(Unreachable::new(error))
        }
        _ => RPCError::Unreachable(Unreachable::new(error)),
    }
}

impl Link {
    fn group(&self) -> Result<&Arc<Group>, LinkError> {
        self.group.as_ref().ok_or(LinkError::OnlyMember(self.target))
    }

    fn status(&self, status: Status) -> LinkError {
        LinkError::Status(self.target, status)
    }

    async fn append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, LinkError> {
        let group = self.group()?;
        let envelope = group.envelope(self.target).map_err(|e| self.status(e))?;
        let message = wire::append_request(request, envelope)?;
        let call = async {
            let mut client = group.channels.coordination(self.target)?;
            client.append(timed(message, option.hard_ttl())).await
        };
        let answer = within(option.hard_ttl(), call).await.map_err(|e| self.status(e))?;
        Ok(wire::append_response_of(&answer)?)
    }

    async fn ask_vote(
        &self,
        request: &VoteRequest<u64>,
        option: &RPCOption,
    ) -> Result<VoteResponse<u64>, LinkError> {
        let group = self.group()?;
        let envelope = group.envelope(self.target).map_err(|e| self.status(e))?;
        let message = wire::vote_request(request, envelope);
        let call = async {
            let mut client = group.channels.coordination(self.target)?;
            client.vote(timed(message, option.hard_ttl())).await
        };
        let answer = within(option.hard_ttl(), call).await.map_err(|e| self.status(e))?;
        Ok(wire::vote_response_of(&answer)?)
    }

    /// True for the second part if the peer wants the snapshot from its start.
    async fn chunk(
        &self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<(InstallSnapshotResponse<u64>, bool), LinkError> {
        let group = self.group()?;
        let envelope = group.envelope(self.target).map_err(|e| self.status(e))?;
        let message = wire::snapshot_chunk(request, envelope)?;
        let call = async {
            let mut client = group.channels.coordination(self.target)?;
            client.install_snapshot(timed(message, option.hard_ttl())).await
        };
        let answer = within(option.hard_ttl(), call).await.map_err(|e| self.status(e))?;
        let vote = wire::ballot_of(answer.vote.as_ref())?;
        Ok((InstallSnapshotResponse { vote }, answer.is_mismatch))
    }
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        self.append(&request, &option).await.map_err(|e| rpc_error(&e))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        let segment = |offset| openraft::SnapshotSegmentId { id: request.meta.snapshot_id.clone(), offset };
        let mismatch = SnapshotMismatch { expect: segment(0), got: segment(request.offset) };
        match self.chunk(request, &option).await {
            Ok((answer, false)) => Ok(answer),
            Ok((_, true)) => {
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RPCError::RemoteError(openraft::error::RemoteError::new(self.target, error)))
            }
            Err(e) => Err(rpc_error(&e)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        self.ask_vote(&request, &option).await.map_err(|e| rpc_error(&e))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PEER_BACKOFF))
    }
}

/// openraft has stopped for good.
pub(super) fn fatal_status(fatal: &Fatal<u64>) -> Status {
    Status::unavailable(format!("the coordinator has stopped: {fatal}"))
}
