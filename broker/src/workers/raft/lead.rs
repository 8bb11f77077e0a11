//! What the leader of a group owes the control plane: that its leadership and voters are on record, and that
//! the voters become those that the record asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use highwater_model::limits::{RAFT_ASK_MS, RAFT_CATCH_UP_MS_MAX};
use highwater_model::topic_config::Replication;
use highwater_model::{LeaderEpoch, NodeId};

use super::Subject;
use super::groups::{Open, report};
use super::{groups, switch};
use crate::core::raft_side::ReplicaId;

/// What is due next; one thing at a time, another look follows it.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    /// The topic asks for fetch replication.
    End,
    /// It does so no more.
    GoOn,
    /// The record has another leader, term or voters.
    Report(Vec<NodeId>),
    /// Nodes are to be asked for their replicas.
    Ask(Vec<NodeId>),
    SetVoters(BTreeMap<ReplicaId, NodeId>),
    DropLearners,
    /// This replica was voted out: the others elect when it is silent. openraft would step down at its next
    /// tick, and has none.
    StepDown,
}

/// Whether a leader has anything to do.
pub(super) fn is_due(subject: &Subject, open: &Open, term: u64) -> bool {
    duty(subject, open, term, true).is_some()
}

/// Does what is due.
pub(super) async fn lead(subject: Subject, open: Arc<Open>, term: u64) {
    let Some(subject) = subject.again() else { return };
    let (node, tp) = (&subject.node, subject.partition.tp);
    let Some(mut next) = duty(&subject, &open, term, true) else { return };
    if let Duty::Report(voters) = next {
        let by = Some(subject.record.partition_epoch);
        if report(node, tp, node.settings.node_id, term, voters, by).await {
            return;
        }
        // The control plane is away or knows better; the group's own needs do not wait for it.
        let Some(after) = duty(&subject, &open, term, false) else { return };
        next = after;
    }
    let deadline = Duration::from_millis(RAFT_CATCH_UP_MS_MAX);
    let done = match next {
        Duty::End => {
            switch::end_group(subject, open, term).await;
            return;
        }
        Duty::GoOn => {
            switch::go_on(&subject, &open).await;
            return;
        }
        Duty::Report(_) => return,
        Duty::StepDown => {
            groups::reopen_later(subject).await;
            return;
        }
        Duty::Ask(nodes) => {
            ask(&subject, &open, nodes).await;
            return;
        }
        Duty::SetVoters(target) => open.group.set_voters(&target, deadline).await,
        Duty::DropLearners => open.group.drop_learners(deadline).await,
    };
    let (topic, partition) = (&subject.partition.topic, tp.partition);
    match done {
        Ok(()) => {
            tracing::info!(%topic, partition, voters = ?open.group.settled_voters(), "group changed");
            node.raft.review();
        }
        Err(e) => {
            tracing::warn!(%topic, partition, "the group is not changed yet: {e}");
            // A replica that does not catch up may be one that is no more.
            open.peers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// `reports`: whether reports count among what is due.
fn duty(subject: &Subject, open: &Open, term: u64, reports: bool) -> Option<Duty> {
    let Subject { node, config, record, .. } = subject;
    if record.raft.as_ref()?.since_epoch != open.since_epoch {
        return None;
    }
    let own = node.settings.node_id;
    let settled = open.group.settled_voters();
    let on_record = LeaderEpoch::try_from(term) == Ok(record.leader_epoch) && record.leader == Some(own);
    if settled.as_ref().is_some_and(|voters| !voters.contains_key(&open.group.me)) {
        return Some(Duty::StepDown);
    }
    if let Some(voters) = settled.as_ref().filter(|_| reports) {
        let voters: BTreeSet<NodeId> = voters.values().copied().collect();
        // Who is to go may go once the leader says that it has no vote.
        let stays = record.replicas.iter().copied().filter(|node| !record.removing.contains(node));
        let may_go = !record.removing.is_empty() && voters == stays.collect();
        if may_go || !on_record || voters != record.isr.iter().copied().collect() {
            return Some(Duty::Report(voters.into_iter().collect()));
        }
    }
    let is_ended = open.group.is_paused() || open.group.is_end_marked();
    match config.replication {
        Replication::Fetch => return on_record.then_some(Duty::End),
        Replication::Raft if is_ended => return on_record.then_some(Duty::GoOn),
        Replication::Raft => {}
    }
    let wanted = record.replicas.iter().copied().filter(|node| !record.removing.contains(node));
    voters_duty(subject, open, settled.as_ref(), wanted.collect())
}

/// The group's voters are to be one replica on each of `wanted`, the one that the node has now.
fn voters_duty(
    subject: &Subject,
    open: &Open,
    settled: Option<&BTreeMap<ReplicaId, NodeId>>,
    wanted: Vec<NodeId>,
) -> Option<Duty> {
    let (own, host) = (subject.node.settings.node_id, &subject.node.raft.host);
    let members = open.group.members();
    let known = open.peers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let in_step = open.group.nodes_in_step();
    let (mut target, mut to_ask, mut is_whole) = (BTreeMap::new(), Vec::new(), true);
    for node in wanted {
        if node == own {
            target.insert(open.group.me, own);
            continue;
        }
        let member = members.nodes.iter().find(|(_, on)| **on == node).map(|(id, _)| *id);
        let told = known.get(&node).copied();
        let heard = host.boot_of(node);
        let boot = heard.or(told.map(|(boot, _)| boot));
        let told = told.filter(|(told_by, _)| Some(*told_by) == boot).map(|(_, id)| id);
        // Who lags may have lost its replica without a restart; who is a member and away is not asked.
        let is_there = heard.is_some() || member.is_none();
        if is_there && (told.is_none() || (!in_step.contains(&node) && told == member)) {
            to_ask.push(node);
        }
        match told.or(member) {
            Some(id) => {
                target.insert(id, node);
            }
            None => is_whole = false,
        }
    }
    let votes = settled.is_some_and(|settled| *settled == target);
    // Who joins begins where the group's log does, and what lies below must be in the tier by then.
    let joins = target.keys().any(|id| !members.nodes.contains_key(id));
    if is_whole && !votes && (!joins || open.group.is_joinable()) {
        return Some(Duty::SetVoters(target));
    }
    if votes && members.nodes.len() > target.len() {
        return Some(Duty::DropLearners);
    }
    let asked_at = *open.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
    let pause = Duration::from_millis(RAFT_ASK_MS);
    let may_ask = asked_at.is_none_or(|at| at.elapsed() >= pause);
    (!to_ask.is_empty() && may_ask).then_some(Duty::Ask(to_ask))
}

/// Asks nodes which replica of the partition they have.
async fn ask(subject: &Subject, open: &Open, nodes: Vec<NodeId>) {
    let host = &subject.node.raft.host;
    *open.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    for node in nodes {
        let boot = host.boot_of(node);
        let Ok(found) = host.replicas_on(node, vec![(subject.partition.tp, open.since_epoch)]).await else {
            continue;
        };
        if let Some(Some(id)) = found.first().copied() {
            // A node that is in no group with this one is not heard yet; then it is asked again once it is.
            let boot = boot.or(host.boot_of(node)).unwrap_or(0);
            open.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(node, (boot, id));
            subject.node.raft.review();
        }
    }
}
