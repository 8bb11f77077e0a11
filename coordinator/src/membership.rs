//! Changes of the coordinators on their way from an operator to the leader. What they mean is decided in
//! `raft/members.rs`. Must not: pass a change on more than once, or hold it longer than a write.

use highwater_model::NodeId;
use highwater_model::limits::{HOST_BYTES_MAX, ROUTE_PAUSE};
use tokio::time::Instant;
use tonic::Status;

use crate::handle::{Coordinator, Seat};
use crate::raft::{MemberChange, ProposeFailure};
use crate::rpc::{brief, never_sent, proto, protocol_min, timed, uuid_bytes, uuid_of, within};

use proto::change_members_request::Change;
use proto::change_members_response::Outcome;

/// What a request asks for.
pub(crate) fn change_of(request: &proto::ChangeMembersRequest) -> Result<MemberChange, Status> {
    let invalid = |reason: &str| Status::invalid_argument(reason.to_owned());
    let is_node = |id: u64| i32::try_from(id).is_ok_and(|id| id > 0);
    match &request.change {
        Some(Change::Put(put)) => {
            let storage = uuid_of(&put.storage).filter(|storage| !storage.is_nil());
            let storage = storage.ok_or_else(|| invalid("a storage's name is a UUID"))?;
            if !is_node(put.id) || put.address.len() > HOST_BYTES_MAX {
                return Err(invalid("a coordinator has an id, and an address of HOST:PORT"));
            }
            let address = Some(put.address.clone()).filter(|address| !address.is_empty());
            Ok(MemberChange::Put { node_id: put.id, address, storage })
        }
        Some(Change::Remove(id)) if is_node(*id) => Ok(MemberChange::Remove { node_id: *id }),
        Some(Change::Remove(_)) => Err(invalid("a coordinator has an id")),
        None => Err(invalid("nothing is to be changed")),
    }
}

fn message(change: &MemberChange) -> Change {
    match change {
        MemberChange::Put { node_id, address, storage } => Change::Put(proto::PutMember {
            id: *node_id,
            address: address.clone().unwrap_or_default(),
            storage: uuid_bytes(*storage),
        }),
        MemberChange::Remove { node_id } => Change::Remove(*node_id),
    }
}

/// Carries the change out here, or has the leader do so.
pub(crate) async fn serve(
    coordinator: &Coordinator,
    change: MemberChange,
    is_forwarded: bool,
) -> proto::ChangeMembersResponse {
    let deadline = Instant::now() + coordinator.settings().propose_timeout;
    let outcome = loop {
        let outcome = match coordinator.leader() {
            Some(leader) if leader != coordinator.settings().node_id && !is_forwarded => {
                forward(coordinator, leader, &change, deadline).await
            }
            _ => here(coordinator, &change, deadline).await,
        };
        let is_leaderless = matches!(outcome, Outcome::NotLeader(_));
        if is_forwarded || !is_leaderless || Instant::now() + ROUTE_PAUSE >= deadline {
            break outcome;
        }
        tokio::time::sleep(ROUTE_PAUSE).await;
    };
    proto::ChangeMembersResponse { outcome: Some(outcome) }
}

async fn here(coordinator: &Coordinator, change: &MemberChange, deadline: Instant) -> Outcome {
    let not_leader =
        |leader: Option<NodeId>| Outcome::NotLeader(proto::NotLeader { leader: leader.unwrap_or(0) });
    let Seat::Member { node, .. } = coordinator.seat() else {
        return not_leader(coordinator.leader());
    };
    match tokio::time::timeout_at(deadline, node.change_members(change)).await {
        Ok(Ok(())) => Outcome::Done(true),
        Ok(Err(ProposeFailure::NotLeader(leader))) => not_leader(leader),
        Ok(Err(ProposeFailure::Refused(reason))) => Outcome::Refused(reason),
        Ok(Err(ProposeFailure::Failed(reason))) => Outcome::Failed(reason),
        Ok(Err(ProposeFailure::Unknown(reason))) => Outcome::Unknown(reason),
        Err(_) => Outcome::Unknown("no majority of coordinators has answered in time".into()),
    }
}

async fn forward(
    coordinator: &Coordinator,
    leader: NodeId,
    change: &MemberChange,
    deadline: Instant,
) -> Outcome {
    let wait = deadline.saturating_duration_since(Instant::now());
    let request = proto::ChangeMembersRequest {
        protocol: protocol_min(),
        cluster_id: coordinator.cluster_id(),
        from: coordinator.settings().node_id,
        is_forwarded: true,
        change: Some(message(change)),
    };
    let call = async {
        let mut client = coordinator.channels().control(leader)?;
        client.change_members(timed(request, wait)).await
    };
    match within(wait, call).await {
        Ok(answer) => {
            answer.outcome.unwrap_or_else(|| Outcome::Unknown(format!("node {leader} says nothing")))
        }
        Err(status) if never_sent(&status) => Outcome::Failed(format!("node {leader}: {}", brief(&status))),
        Err(status) => Outcome::Unknown(format!("node {leader}: {}", brief(&status))),
    }
}

/// What a coordinator counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlStatus {
    /// This node leads, as far as it knows.
    pub is_leader: bool,
    pub term: u64,
    /// Log index that this node has applied.
    pub applied: u64,
    /// The state's version here.
    pub state_version: u64,
    /// Coordinators, and those of them that vote.
    pub members: usize,
    pub voters: usize,
    /// Registered brokers, and those of them that are fenced.
    pub brokers: usize,
    pub brokers_fenced: usize,
    pub topics: usize,
    pub partitions: usize,
}

impl Coordinator {
    /// What there is to count, as this node knows it.
    pub fn status(&self) -> ControlStatus {
        let group = self.group_status();
        let members = group.as_ref().map_or(&[][..], |group| &group.members);
        self.with_state(|state| ControlStatus {
            is_leader: self.is_leader(),
            term: group.as_ref().map_or(0, |group| group.leadership.term),
            applied: group.as_ref().map_or(0, |group| group.applied),
            state_version: state.version,
            members: members.len(),
            voters: members.iter().filter(|member| member.is_voter).count(),
            brokers: state.brokers.len(),
            brokers_fenced: state.brokers.values().filter(|broker| broker.is_fenced).count(),
            topics: state.topics.len(),
            partitions: state.partition_count,
        })
    }

    /// The ids of the group's members; of the list where this node is none of them.
    pub(crate) fn member_ids(&self) -> Vec<NodeId> {
        match self.group_status() {
            Some(status) if !self.settings().is_lone() => {
                status.members.iter().map(|member| member.node_id).collect()
            }
            Some(_) => Vec::new(),
            None => self.channels().addresses().keys().copied().collect(),
        }
    }
}
