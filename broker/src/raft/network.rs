//! openraft's way to its peers, over a `Transport`.
//!
//! A leader tells of commits only as far as its own disk has come: its own appends count for openraft before
//! they are synced (see `store`), and must not for anyone else.

use std::future::Future;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::RAFT_RPC_MS_MAX;
use highwater_model::{NodeId, TopicPartition};
use openraft::error::{
    Fatal, InstallSnapshotError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, RaftNetwork, RaftNetworkFactory, Snapshot};

use super::message::{
    Answer, Append, AppendAnswer, Request, Route, SnapshotSend, Transport, Unreached, VoteAsk,
};
use super::store::Store;
use super::types::{
    Body, GroupEntry, GroupVote, Member, Stored, TypeConfig, entry_id, log_id, members, set_members,
    stored_vote, vote,
};
use crate::core::raft_side::ReplicaId;

type RpcError<E = RaftError<u64>> = RPCError<u64, Member, E>;

/// Pause before a peer that cannot be reached is tried again.
const BACKOFF: Duration = Duration::from_millis(300);

/// Makes the peers of one replica.
#[derive(Clone)]
pub(super) struct Network {
    pub tp: TopicPartition,
    pub me: ReplicaId,
    pub store: Arc<Store>,
    pub transport: Arc<dyn Transport>,
}

pub(super) struct Peer {
    network: Network,
    replica: ReplicaId,
    node: NodeId,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer { network: self.clone(), replica: target, node: member.node }
    }
}

impl Peer {
    fn route(&self) -> Route {
        Route { tp: self.network.tp, from: self.network.me, to: self.replica }
    }

    async fn call(&self, request: Request) -> Result<Answer, Unreached> {
        let deadline = Duration::from_millis(RAFT_RPC_MS_MAX);
        match self.network.transport.call(self.node, request, deadline).await? {
            Answer::Refused(why) => Err(self.unreached(why)),
            answer => Ok(answer),
        }
    }

    fn unreached(&self, why: impl Into<String>) -> Unreached {
        Unreached { node: self.node, why: why.into(), is_lost: false }
    }

    /// The commit to tell of.
    fn told_commit(
        &self,
        committed: Option<super::types::GroupLogId>,
    ) -> Option<crate::core::raft_side::EntryId> {
        let committed = committed.as_ref().map(entry_id)?;
        let durable = self.network.store.durable();
        if durable.is_none_or(|durable| durable < committed) {
            self.network.store.hold_back_commit();
            return durable;
        }
        Some(committed)
    }
}

fn failed<E: std::error::Error>(error: &Unreached) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

pub(super) fn stored(entry: GroupEntry) -> Stored {
    let id = entry_id(&entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Stored { id, offset: 0, body: Body::Blank },
        EntryPayload::Membership(set) => {
            Stored { id, offset: 0, body: Body::Members(Arc::new(members(&set))) }
        }
        EntryPayload::Normal(batch) => {
            let body = Body::Batch { header: batch.header, bytes: batch.bytes };
            Stored { id, offset: batch.header.base_offset, body }
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let append = Append {
            route: self.route(),
            vote: stored_vote(&request.vote),
            previous: request.prev_log_id.as_ref().map(entry_id),
            committed: self.told_commit(request.leader_commit),
            entries: request.entries.into_iter().map(stored).collect(),
        };
        match self.call(Request::Append(append)).await.map_err(|e| failed(&e))? {
            Answer::Append(AppendAnswer::Success) => Ok(AppendEntriesResponse::Success),
            Answer::Append(AppendAnswer::Partial(upto)) => {
                Ok(AppendEntriesResponse::PartialSuccess(upto.map(log_id)))
            }
            Answer::Append(AppendAnswer::HigherVote(higher)) => {
                Ok(AppendEntriesResponse::HigherVote(vote(higher)))
            }
            Answer::Append(AppendAnswer::Conflict) => Ok(AppendEntriesResponse::Conflict),
            other => Err(failed(&self.unreached(format!("an answer to something else: {other:?}")))),
        }
    }

    async fn install_snapshot(
        &mut self,
        _request: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<RaftError<u64, InstallSnapshotError>>> {
        Err(failed(&self.unreached("snapshots are sent whole")))
    }

    async fn full_snapshot(
        &mut self,
        vote_now: GroupVote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let unreachable = |e: &Unreached| StreamingError::Unreachable(Unreachable::new(e));
        let Some(last) = &snapshot.meta.last_log_id else {
            return Err(unreachable(&self.unreached("a snapshot of nothing")));
        };
        let send = SnapshotSend {
            route: self.route(),
            vote: stored_vote(&vote_now),
            at: entry_id(last),
            members: set_members(&snapshot.meta.last_membership),
            bytes: Cursor::into_inner(*snapshot.snapshot),
        };
        let answer = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = self.call(Request::Snapshot(send)) => answer.map_err(|e| unreachable(&e))?,
        };
        match answer {
            Answer::Snapshot { vote: answered } => Ok(SnapshotResponse { vote: vote(answered) }),
            other => Err(unreachable(&self.unreached(format!("an answer to something else: {other:?}")))),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let ask = VoteAsk {
            route: self.route(),
            vote: stored_vote(&request.vote),
            last: request.last_log_id.as_ref().map(entry_id),
        };
        match self.call(Request::Vote(ask)).await.map_err(|e| failed(&e))? {
            Answer::Vote { vote: answered, is_granted, last } => Ok(VoteResponse {
                vote: vote(answered),
                vote_granted: is_granted,
                last_log_id: last.map(log_id),
            }),
            other => Err(failed(&self.unreached(format!("an answer to something else: {other:?}")))),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
