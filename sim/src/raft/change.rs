//! The next members of a group, one change at a time: learners first, then both sets of voters, then the new
//! one; and the mark of the group's end. As `broker/src/raft/group/change.rs` and `end.rs` have openraft do
//! it.

use std::collections::{BTreeMap, BTreeSet};

use highwater_broker::core::raft_side::{Members, ReplicaId};

use super::group::Group;
use crate::guards::Guard;

/// The learner that marks the end; there is no such replica.
pub const END: ReplicaId = ReplicaId::MAX;

pub fn is_end_marked(members: &Members) -> bool {
    members.nodes.contains_key(&END)
}

/// The members on the way from `now` to `target`; none if they are there. `has_caught_up`: a learner may
/// vote.
fn next_members(
    now: &Members,
    target: &BTreeMap<ReplicaId, u64>,
    has_caught_up: impl Fn(ReplicaId) -> bool,
) -> Option<Members> {
    let wanted: BTreeSet<ReplicaId> = target.keys().copied().collect();
    let mut next = now.clone();
    match now.voters.as_slice() {
        [set] if *set == wanted => {
            let is_wanted = |replica: &ReplicaId| wanted.contains(replica) || *replica == END;
            next.nodes.retain(|replica, _| is_wanted(replica));
        }
        [set] => {
            next.nodes.extend(target);
            let is_ready = |replica: &ReplicaId| set.contains(replica) || has_caught_up(*replica);
            if next == *now && wanted.iter().all(is_ready) {
                next.voters = vec![set.clone(), wanted];
            }
        }
        [_, last] => {
            let last = if now.voters.contains(&wanted) { wanted } else { last.clone() };
            next.nodes.retain(|replica, _| last.contains(replica) || *replica == END);
            next.voters = vec![last];
        }
        _ => {}
    }
    (next != *now).then_some(next)
}

impl Group {
    /// The voters and what else is in the members, if that is committed and not on its way to other voters.
    fn settled(&self) -> Option<Members> {
        let set = self.store.members()?;
        let is_settled = set.members.voters.len() == 1 && set.at <= self.committed;
        is_settled.then(|| (*set.members).clone())
    }

    /// The nodes of the voters, once they are settled.
    pub fn voters(&self) -> Option<Vec<u64>> {
        let members = self.settled()?;
        Some(members.voters[0].iter().filter_map(|replica| members.nodes.get(replica).copied()).collect())
    }

    /// The members to go on to, as the leader; one step at a time. `ends`: the group is to end; that it is
    /// not is said once the control plane has the leader on record, so that no earlier one hands over.
    pub fn wished(
        &self,
        target: &BTreeMap<ReplicaId, u64>,
        ends: bool,
        is_recorded: bool,
    ) -> Option<Members> {
        let set = self.store.members()?;
        if !self.leads() || self.is_busy() || set.at > self.committed {
            return None;
        }
        let now = &*set.members;
        if now.voters.len() == 1 && ends != is_end_marked(now) {
            let mut next = now.clone();
            match ends {
                true => next.nodes.insert(END, END),
                false if is_recorded => next.nodes.remove(&END),
                false => return None,
            };
            return Some(next);
        }
        if ends && now.voters.len() == 1 {
            return None;
        }
        let is_new = |replica: &ReplicaId| !now.nodes.contains_key(replica);
        if target.keys().any(is_new) && now.voters.len() == 1 && !self.store.is_joinable() {
            return None;
        }
        let last = self.store.last().map_or(0, |last| last.index);
        let near = |replica| self.matched(replica).is_some_and(|id| id.index + 20 >= last);
        next_members(now, target, near)
    }

    /// The nodes of voters that have everything, once the end is marked and everything is committed.
    pub fn ended(&self) -> Option<Vec<u64>> {
        let needs_mark = self.guards.holds(Guard::EndMark);
        let members = self.settled().filter(|members| is_end_marked(members) || !needs_mark)?;
        let last = self.store.last();
        if !self.leads()
            || self.is_busy()
            || !self.is_paused
            || self.committed != last
            || self.store.durable() < last
        {
            return None;
        }
        let has_all = |replica: &&ReplicaId| self.matched(**replica) >= last;
        let whole = members.voters[0].iter().filter(has_all);
        Some(whole.filter_map(|replica| members.nodes.get(replica).copied()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(nodes: &[u64]) -> BTreeMap<ReplicaId, u64> {
        nodes.iter().map(|node| (*node, *node)).collect()
    }

    #[test]
    fn a_new_voter_learns_first_and_the_old_ones_agree() {
        let mut members = Members::of_voters(group(&[1, 2, 3]));
        let target = group(&[2, 3, 4]);
        let mut steps = Vec::new();
        while let Some(next) = next_members(&members, &target, |_| true) {
            steps.push((next.voters.len(), next.nodes.keys().copied().collect::<Vec<_>>()));
            members = next;
        }
        assert_eq!(steps, [(1, vec![1, 2, 3, 4]), (2, vec![1, 2, 3, 4]), (1, vec![2, 3, 4])]);
        let learning = Members { nodes: group(&[1, 2, 3, 4]), ..Members::of_voters(group(&[1, 2, 3])) };
        assert_eq!(next_members(&learning, &target, |_| false), None, "it has not caught up");
    }
}
