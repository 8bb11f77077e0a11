//! A replica whose partition is replicated by a Raft group: who leads, in which term and how far is committed
//! is the group's word, and nothing is decided here. And the stop before a group takes over.
//!
//! Must not move the high watermark on its own. Invariants: 3, 4, 6.

use highwater_model::{LeaderEpoch, NodeId, Offset};

use super::{Ends, Moves, Replica};

/// What this node is in the group, as the group said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRole {
    /// Its leader epoch.
    pub term: LeaderEpoch,
    pub leader: Option<NodeId>,
    /// This node leads, and may take writes.
    pub leads: bool,
}

/// Everything that a Raft group begins with: all in-sync replicas have the log up to here, on their disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub leader_epoch: LeaderEpoch,
    /// The record that names these in-sync replicas.
    pub partition_epoch: i32,
    pub offset: Offset,
}

impl Replica {
    /// From now on the group says what this node is. Acknowledgements that wait are void. What is said of an
    /// older term than is known names no leader.
    pub fn follow_group(&mut self, role: GroupRole) {
        assert!(role.term >= 0, "a group has a term");
        let known = self.group.map_or(role.term, |known| known.term);
        self.leader = None;
        self.group = Some(match role.term < known {
            true => GroupRole { term: known, leader: None, leads: false },
            false => role,
        });
        assert!(self.leader_epoch() >= known, "terms only grow (invariant 6)");
    }

    /// The group has ended: the control plane's next assignment counts again.
    pub fn leave_group(&mut self) {
        self.group = None;
        assert!(self.leader.is_none(), "nobody leads before that");
    }

    pub fn group(&self) -> Option<&GroupRole> {
        self.group.as_ref()
    }

    /// The group has committed everything below `end`; of that counts what the log has.
    pub fn group_committed(&mut self, end: Offset, log_end: Offset) -> Moves {
        assert!(self.group.is_some(), "only a group says so");
        self.raise(end.min(log_end))
    }

    /// The group has begun its log anew, or cut what never was committed.
    pub fn group_moved_log(&mut self, local_start: Offset, log_end: Offset) {
        debug_assert!(local_start <= log_end);
        self.high_watermark = self.high_watermark.clamp(local_start, log_end);
    }

    /// Whether this node, while it leads, takes no more batches: a group is about to take over.
    pub fn set_frozen(&mut self, is_frozen: bool) {
        self.is_frozen = is_frozen;
    }

    /// What a group may begin with, once this leader has stopped taking batches and every replica in sync has
    /// everything on its disk; these must be more than half of all replicas.
    pub fn hand_over(&self, ends: Ends) -> Option<HandOver> {
        let (Some(leader), Some(terms), true) = (&self.leader, &self.terms, self.is_frozen) else {
            return None;
        };
        let is_whole = ends.flushed_end == ends.log_end && self.high_watermark == ends.log_end;
        let followers = leader.follower_ends();
        let has_all = |node: &NodeId| {
            let told = followers.get(node).copied().flatten();
            *node == self.node_id
                || told.is_some_and(|f| f.log_end == ends.log_end && f.flushed_end == ends.log_end)
        };
        let is_majority = 2 * terms.isr.len() > terms.replicas.len();
        let is_ready = is_whole && is_majority && terms.isr.iter().all(has_all);
        debug_assert!(!is_ready || terms.isr.contains(&self.node_id), "a leader is in sync");
        is_ready.then_some(HandOver {
            leader_epoch: terms.leader_epoch,
            partition_epoch: terms.partition_epoch,
            offset: ends.log_end,
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::core::replica::{Assignment, FollowerEnds, LeaderRefusal, Member, Role};

    use super::*;

    fn assignment(leader_epoch: LeaderEpoch) -> Assignment {
        let member = |node_id| Member { node_id, broker_epoch: 1, may_join: true };
        Assignment {
            leader: Some(1),
            leader_epoch,
            partition_epoch: leader_epoch,
            replicas: vec![member(1), member(2), member(3)],
            isr: vec![1, 2],
            min_isr: 1,
            flush_before_ack: false,
            lag_ms_max: 1_000,
        }
    }

    fn ends(log_end: Offset, flushed_end: Offset) -> Ends {
        Ends { log_end, flushed_end }
    }

    #[test]
    fn a_leader_hands_over_what_everybody_in_sync_has_on_disk() {
        let mut replica = Replica::new(1, 0);
        replica.assign(0, &assignment(4), ends(0, 0));
        replica.appended(0, 0, ends(9, 0));
        assert!(replica.hand_over(ends(9, 9)).is_none(), "it still takes batches");
        replica.set_frozen(true);
        assert_eq!(replica.check_append(false), Err(LeaderRefusal::NotLeader));
        let follower = |flushed_end| FollowerEnds { node_id: 2, broker_epoch: 1, log_end: 9, flushed_end };
        replica.follower_fetched(1, follower(5), ends(9, 9));
        assert_eq!((replica.high_watermark(), replica.hand_over(ends(9, 9))), (9, None), "not on its disk");
        replica.follower_fetched(2, follower(9), ends(9, 9));
        assert!(replica.hand_over(ends(9, 8)).is_none(), "not on the leader's own");
        let whole = HandOver { leader_epoch: 4, partition_epoch: 4, offset: 9 };
        assert_eq!(replica.hand_over(ends(9, 9)), Some(whole));
        replica.set_frozen(false);
        assert_eq!(replica.check_append(false), Ok(4), "the wish was taken back");
    }

    #[test]
    fn a_group_leads_until_it_is_left() {
        let mut replica = Replica::new(1, 3);
        replica.assign(0, &assignment(4), ends(9, 9));
        let role = |term, leads: bool| GroupRole { term, leader: leads.then_some(1), leads };
        replica.follow_group(role(5, false));
        assert_eq!((replica.role(), replica.leader_epoch()), (Role::Follower(None), 5));
        assert_eq!(replica.check_append(false), Err(LeaderRefusal::NotLeader), "batches go to the group");
        replica.follow_group(role(6, true));
        assert_eq!((replica.role(), replica.leader_epoch()), (Role::Leader, 6));
        assert_eq!(replica.group_committed(8, 7).high_watermark, Some(7), "no further than the log");
        assert_eq!(replica.group_committed(5, 9), Moves::default(), "never back");
        replica.group_moved_log(20, 20);
        assert_eq!(replica.high_watermark(), 20, "begun anew where the tier ends");
        replica.leave_group();
        replica.assign(0, &assignment(7), ends(20, 20));
        assert_eq!((replica.role(), replica.leader_epoch()), (Role::Leader, 7));
    }
}
