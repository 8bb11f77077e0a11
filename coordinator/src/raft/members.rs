//! Changing who the coordinators are: what an operator asks for, and what follows from it by itself (ADR
//! 0011).
//!
//! A member is a node id with a storage. One whose disk is lost has forgotten what it voted for and
//! acknowledged, so the new disk never takes its place in one step: the old storage leaves the group, which a
//! majority has to agree to, then the new one joins without a vote, is filled, and votes once it has what the
//! others have. A storage votes only where its own log names it as a voter (`service.rs`); so an empty one
//! never does, whoever asks. Must not: change anything on a node that does not lead; take a member out unless
//! an operator says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_model::limits::{COORDINATORS_MAX, LEARNER_LAG_ENTRIES_MAX, MEMBERS_LOOK, METADATA_LEADERLESS};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Raft, ServerState};
use uuid::Uuid;

use super::OpenError;
use super::group::{Members, MembersAt};
use super::node::{ProposeFailure, RaftNode};
use super::service::Member;
use super::types::{GroupMembership, Peer, TypeConfig};

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// The node is a member with this storage; one that it had before is out for good. The address is only
    /// needed for a node that is not known.
    Put {
        node_id: u64,
        address: Option<String>,
        storage: Uuid,
    },
    Remove {
        node_id: u64,
    },
}

/// The members as the log has them.
pub(super) struct Found {
    pub nodes: BTreeMap<u64, Peer>,
    voters: BTreeSet<u64>,
    at: MembersAt,
}

impl Found {
    fn of(stored: &GroupMembership) -> Found {
        let at = stored.log_id().map(|id| MembersAt { term: id.leader_id.term, index: id.index });
        let membership = stored.membership();
        Found {
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            voters: membership.voter_ids().collect(),
            at: at.unwrap_or_default(),
        }
    }

    /// None unless every one has a storage.
    pub(super) fn members(&self) -> Option<Members> {
        let storage = |(id, peer): (&u64, &Peer)| Some((*id, peer.storage?));
        let storages = self.nodes.iter().map(storage).collect::<Option<_>>()?;
        Some(Members { storages, voters: self.voters.clone(), at: self.at })
    }
}

pub(super) async fn of_raft(raft: &Raft<TypeConfig>) -> Result<Found, OpenError> {
    let look = raft.with_raft_state(|state| {
        let effective = state.membership_state.effective();
        Found::of(&GroupMembership::new(*effective.log_id(), effective.membership().clone()))
    });
    look.await.map_err(|e| OpenError::Raft(e.to_string()))
}

fn now(raft: &Raft<TypeConfig>) -> Found {
    Found::of(&raft.server_metrics().borrow().membership_config)
}

/// Whether this storage may vote: its own log says so, or it is one that the group is being formed with.
pub(super) fn may_vote(member: &Member) -> bool {
    let group = &member.group;
    let found = now(&member.raft);
    match found.nodes.get(&group.node_id) {
        Some(peer) => peer.storage == Some(group.storage) && found.voters.contains(&group.node_id),
        None => found.nodes.is_empty() && group.is_founding(),
    }
}

/// Follows the log in who the members are; on the leader, also finishes what was begun. For the life of the
/// member.
pub(super) async fn run(member: Member) {
    let Member { group, raft, .. } = &member;
    let mut metrics = raft.server_metrics();
    loop {
        let (found, is_joint, leads) = {
            let known = metrics.borrow_and_update();
            let is_joint = known.membership_config.membership().get_joint_config().len() > 1;
            (Found::of(&known.membership_config), is_joint, known.state == ServerState::Leader)
        };
        if let Some(members) = found.members() {
            group.note_members(members);
        }
        for (id, peer) in &found.nodes {
            group.channels.learn(*id, &peer.address);
        }
        let is_settled = !is_joint && found.nodes.len() == found.voters.len();
        let pause = match leads && !is_settled {
            true => MEMBERS_LOOK,
            false => Duration::from_secs(3600),
        };
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => settle(raft, &found, is_joint).await,
        }
    }
}

/// A change that lost its leader half-way is finished; who has caught up gets its vote.
async fn settle(raft: &Raft<TypeConfig>, found: &Found, is_joint: bool) {
    let change = match is_joint {
        // Goes on to the last set that was asked for.
        true => ChangeMembers::AddVoterIds(BTreeSet::new()),
        false => {
            let ready = caught_up(raft, found);
            if ready.is_empty() {
                return;
            }
            tracing::info!("coordinators {ready:?} have caught up and vote from now on");
            ChangeMembers::AddVoterIds(ready)
        }
    };
    // Without a majority there is no answer; who the members are is followed meanwhile.
    match tokio::time::timeout(METADATA_LEADERLESS, raft.change_membership(change, false)).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::warn!("the change of coordinators goes on later: {e}"),
        Err(_) => tracing::warn!("the change of coordinators goes on later: no majority has answered"),
    }
}

/// Members without a vote that have all but the newest entries.
fn caught_up(raft: &Raft<TypeConfig>, found: &Found) -> BTreeSet<u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let last = metrics.last_log_index.unwrap_or(0);
    let has = |id: &u64| {
        let matched = metrics.replication.as_ref().and_then(|known| *known.get(id)?);
        matched.is_some_and(|at| at.index + LEARNER_LAG_ENTRIES_MAX >= last && at.index >= found.at.index)
    };
    found.nodes.keys().filter(|id| !found.voters.contains(id) && has(id)).copied().collect()
}

impl RaftNode {
    /// Carries a change out as far as it does not have to wait for the member itself; only on the leader.
    /// Asked again, it goes on where it was.
    pub(crate) async fn change_members(&self, change: &MemberChange) -> Result<(), ProposeFailure> {
        let refuse = |reason: String| Err(ProposeFailure::Refused(reason));
        let Some(group) = &self.group else {
            return refuse("a coordinator that was formed alone stays alone".into());
        };
        let leadership = *self.leadership().borrow();
        if leadership.leader != Some(group.node_id) {
            return Err(ProposeFailure::NotLeader(leadership.leader));
        }
        let found = now(&self.raft);
        let node_id = match change {
            MemberChange::Put { node_id, .. } | MemberChange::Remove { node_id } => *node_id,
        };
        let known = found.nodes.get(&node_id);
        if let MemberChange::Put { storage, .. } = change
            && known.is_some_and(|peer| peer.storage == Some(*storage))
        {
            return Ok(());
        }
        if node_id == group.node_id {
            return refuse(format!(
                "node {node_id} leads the control plane; stop it, so that another one leads, and call again"
            ));
        }
        match change {
            MemberChange::Remove { .. } if known.is_none() => {
                refuse(format!("node {node_id} is no coordinator"))
            }
            MemberChange::Remove { .. } => self.take_out(node_id, &found).await,
            MemberChange::Put { address, storage, .. } => {
                let address = address.clone().or_else(|| known.map(|peer| peer.address.clone()));
                let Some(address) = address.filter(|address| !address.is_empty()) else {
                    return refuse(format!("node {node_id} is no coordinator; add it with its address"));
                };
                if known.is_none() && found.nodes.len() >= COORDINATORS_MAX {
                    return refuse(format!("a cluster has at most {COORDINATORS_MAX} coordinators"));
                }
                if known.is_some() {
                    self.take_out(node_id, &found).await?;
                }
                let peer = Peer { address, storage: Some(*storage) };
                self.change(ChangeMembers::AddNodes([(node_id, peer)].into())).await
            }
        }
    }

    /// Whoever is taken out has no part in votes, and is not filled any more.
    async fn take_out(&self, node_id: u64, found: &Found) -> Result<(), ProposeFailure> {
        let is_voter = found.voters.contains(&node_id);
        if is_voter && found.voters.len() == 1 {
            return Err(ProposeFailure::Refused("the last coordinator cannot go".into()));
        }
        let out = BTreeSet::from([node_id]);
        match is_voter {
            true => self.change(ChangeMembers::RemoveVoters(out)).await,
            false => self.change(ChangeMembers::RemoveNodes(out)).await,
        }
    }

    async fn change(&self, change: ChangeMembers<u64, Peer>) -> Result<(), ProposeFailure> {
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(e))) => {
                Err(ProposeFailure::Unknown(format!("another node leads by now: {:?}", e.leader_id)))
            }
            Err(RaftError::APIError(e)) => Err(ProposeFailure::Failed(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeFailure::Unknown(e.to_string())),
        }
    }
}
