//! What the broker follows of a group: who leads, who votes, who has everything.

use std::collections::BTreeMap;

use super::*;

/// What a replica knows of leadership at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub role: Role,
    /// The leader's node; this one only while it takes writes.
    pub leader: Option<NodeId>,
    /// The newest that is known; the leader's, if there is a leader.
    pub term: u64,
}

impl RaftGroup {
    pub fn leadership(&self) -> Leadership {
        let known = self.refreshed().known.clone();
        let role = self.role_of(&known);
        let leader = match role {
            Role::Leader { takes_writes, .. } => Some(self.node).filter(|_| takes_writes),
            Role::Follower { leader } => leader,
            Role::Ended => None,
        };
        Leadership { role, leader, term: known.term }
    }

    /// Returns when the leadership is not `known` any more; false when the group has ended here, and nothing
    /// more will be told.
    pub async fn leadership_changed(&self, known: Leadership) -> bool {
        let mut server = self.raft.server_metrics();
        let mut applied = self.raft.metrics();
        let mut marks = self.high_watermark.clone();
        loop {
            server.mark_unchanged();
            applied.mark_unchanged();
            marks.mark_unchanged();
            if self.leadership() != known {
                return true;
            }
            let is_beginning = matches!(known.role, Role::Leader { takes_writes: false, .. });
            let ended = tokio::select! {
                changed = server.changed() => changed.is_err(),
                // Each commit tells these two; they matter only to a leader that has yet to begin.
                changed = applied.changed(), if is_beginning => changed.is_err(),
                changed = marks.changed(), if is_beginning => changed.is_err(),
                () = self.review.notified() => false,
            };
            if ended {
                return false;
            }
        }
    }

    /// The coordinator has had a leader of this group: it exists, whoever leads it next.
    pub fn note_on_record(&self) {
        if !self.is_on_record.swap(true, Ordering::SeqCst) {
            self.review.notify_one();
        }
    }

    /// Whether a leader of this term has nothing to wait for but its majority and the wish of its owner.
    pub(super) fn has_served(&self, term: u64) -> bool {
        self.is_on_record.load(Ordering::SeqCst) && self.store.has_begun(term)
    }

    /// The voters with their nodes, once no change of them is under way and the last one is committed.
    pub fn settled_voters(&self) -> Option<BTreeMap<ReplicaId, NodeId>> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow();
        let set = members(now.membership_config.membership());
        let is_applied = *now.membership_config.log_id() <= now.last_applied;
        let [voters] = set.voters.as_slice() else { return None };
        let voters = voters.iter().map(|id| Some((*id, *set.nodes.get(id)?)));
        voters.collect::<Option<_>>().filter(|_| is_applied)
    }

    /// On a leader: the nodes whose replicas have everything up to `index` on their disks, its own too.
    fn nodes_with(&self, index: u64) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow();
        let Some(replication) = &now.replication else { return Vec::new() };
        let set = members(now.membership_config.membership());
        let has_it = |id: &ReplicaId| {
            let matched = replication.get(id).copied().flatten();
            *id == self.me || matched.is_some_and(|at| at.index >= index)
        };
        let voters = set.voters.iter().flatten().filter(|id| has_it(id));
        let nodes: std::collections::BTreeSet<_> =
            voters.filter_map(|id| set.nodes.get(id).copied()).collect();
        nodes.into_iter().collect()
    }

    /// On a leader: the nodes that have everything that is committed.
    pub fn nodes_in_step(&self) -> Vec<NodeId> {
        self.nodes_with(self.store.applied_id().map_or(0, |id| id.index))
    }

    /// On a leader: the nodes that have everything there is.
    pub fn nodes_with_all(&self) -> Vec<NodeId> {
        self.nodes_with(self.store.next_index().saturating_sub(1))
    }
}
