//! When this member asks to lead, and what it answers to one that wants to: heartbeats, timeouts, pre-votes.
//!
//! openraft's own timers are off. A member whose leader is silent first asks the others whether they would
//! vote for it, which changes nothing anywhere; only if more than half would, it raises its term. So a member
//! that was paused or cut off and comes back does not unseat a leader that the others hear (openraft has no
//! pre-vote; a term raised in vain would). Times decide when, never whether it is safe (invariant 17): that
//! is openraft's votes.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use highwater_model::limits::{
    ELECTION_SPREAD, HEARTBEAT_INTERVAL, LEADER_LEASE, LEADER_VETO, PRE_VOTE_WAIT, START_SPREAD,
};
use openraft::error::Fatal;
use openraft::raft::{VoteRequest, VoteResponse};
use openraft::{Raft, ServerState, Vote};
use tokio::time::Instant;

use super::group::Group;
use super::members;
use super::service::Member;
use super::types::TypeConfig;
use super::wire;
use crate::rpc::{timed, within};

/// Runs for the life of the member; ends when openraft has stopped.
pub(super) async fn run(member: Member) {
    let Member { group, raft, .. } = &member;
    let mut metrics = raft.server_metrics();
    // At the start nobody leads: members that come up together need not wait for a silent leader.
    let mut quiet_until = Instant::now() + spread(START_SPREAD);
    loop {
        let state = metrics.borrow_and_update().state;
        let wake = match state {
            ServerState::Leader => Instant::now() + HEARTBEAT_INTERVAL,
            ServerState::Shutdown => return,
            _ => quiet_until.max(Instant::now()),
        };
        tokio::select! {
            () = tokio::time::sleep_until(wake) => {}
            changed = metrics.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        match state {
            ServerState::Leader => {
                if raft.trigger().heartbeat().await.is_err() {
                    return;
                }
                quiet_until = Instant::now() + LEADER_LEASE + spread(ELECTION_SPREAD);
            }
            ServerState::Follower | ServerState::Candidate => {
                // Drawn anew each time, so that two members do not stand against each other for ever.
                let timeout = LEADER_LEASE + spread(ELECTION_SPREAD);
                let heard = group.last_heard().map_or(quiet_until, |heard| heard + timeout);
                if heard > Instant::now() {
                    quiet_until = heard;
                    continue;
                }
                if stand(&member).await.is_err() {
                    return;
                }
                quiet_until = Instant::now() + timeout;
            }
            _ => quiet_until = Instant::now() + LEADER_LEASE,
        }
    }
}

fn spread(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

/// Stands for election if more than half would vote for this member.
async fn stand(member: &Member) -> Result<(), Fatal<u64>> {
    if !members::may_vote(member) {
        return Ok(());
    }
    let own = member.raft.metrics().borrow().vote;
    let vote = Vote::new(own.leader_id.term + 1, member.group.node_id);
    let request = VoteRequest::new(vote, member.log.last());
    let peers = member.group.peers();
    let mut answers: FuturesUnordered<_> =
        peers.into_iter().map(|peer| ask(&member.group, peer, &request)).collect();
    let mut granted = 1;
    while granted < member.group.quorum() {
        match answers.next().await {
            Some(true) => granted += 1,
            Some(false) => {}
            None => return Ok(()),
        }
    }
    if member.group.hears_leader() {
        return Ok(());
    }
    member.raft.trigger().elect().await
}

/// Whether a peer would vote for this member; a peer that is away would not.
async fn ask(group: &Group, peer: u64, request: &VoteRequest<u64>) -> bool {
    let call = async {
        let message = wire::vote_request(request, group.envelope(peer)?);
        let mut client = group.channels.coordination(peer)?;
        client.pre_vote(timed(message, PRE_VOTE_WAIT)).await
    };
    match within(PRE_VOTE_WAIT, call).await {
        Ok(answer) => answer.is_granted,
        Err(status) => {
            tracing::debug!("node {peer} gives no opinion: {status}");
            false
        }
    }
}

/// Whether this member would vote for who asks: no leader is heard, and its log is not the shorter one. Terms
/// do not matter: they are settled by the vote itself.
pub(super) fn judge_pre_vote(member: &Member, request: &VoteRequest<u64>) -> VoteResponse<u64> {
    let last = member.log.last();
    let would = members::may_vote(member)
        && !member.group.hears_leader()
        && !leads(&member.raft)
        && request.last_log_id >= last;
    VoteResponse::new(member.raft.metrics().borrow().vote, last, would)
}

/// This member leads, and a majority has said so lately.
pub(super) fn leads(raft: &Raft<TypeConfig>) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let veto_ms = u64::try_from(LEADER_VETO.as_millis()).unwrap_or(u64::MAX);
    metrics.state == ServerState::Leader && metrics.millis_since_quorum_ack.is_some_and(|ms| ms < veto_ms)
}
