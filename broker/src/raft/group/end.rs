//! The end of a group whose partition goes back to fetch replication.
//!
//! The end is in the log itself, as a membership entry that adds a learner which is none: whoever leads after
//! it was committed has it, and takes no batches. So the log's end stands still, whatever elections there
//! are, until the coordinator has taken the partition over, or the mark is taken away again. Invariant 4.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;

use super::*;

/// The learner that marks the end, and its node: neither exists.
const END: ReplicaId = ReplicaId::MAX;
/// See [`END`].
pub(in crate::raft) const END_NODE: NodeId = NodeId::MAX;

pub(super) fn is_marked(members: &Members) -> bool {
    members.nodes.contains_key(&END)
}

impl RaftGroup {
    /// Takes no more batches, and returns once the last one that was taken is in the log.
    pub async fn pause(&self) {
        self.is_paused.store(true, Ordering::SeqCst);
        self.review.notify_one();
        // Fails only when the group closes, and then nothing more is taken either.
        drop(self.turn.clone().acquire_owned().await);
    }

    /// Takes batches again, unless the end is marked.
    pub fn resume(&self) {
        if self.is_paused.swap(false, Ordering::SeqCst) {
            self.review.notify_one();
        }
    }

    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    /// Whether the log of this replica has the mark of the group's end.
    pub fn is_end_marked(&self) -> bool {
        is_marked(&self.members())
    }

    /// Marks the end, on the leader; on return the mark and all that came before it is committed.
    ///
    /// # Errors
    /// `NotLeader`; `Failed` when it did not come through in `deadline`. The mark may be in the log all the
    /// same.
    pub async fn mark_end(&self, deadline: Duration) -> Result<(), ProposeRefusal> {
        let mark = ChangeMembers::AddNodes(BTreeMap::from([(END, Member { node: END_NODE })]));
        self.change(mark, deadline).await
    }

    /// Takes the mark away: the group goes on.
    ///
    /// # Errors
    /// As `mark_end`.
    pub async fn unmark_end(&self, deadline: Duration) -> Result<(), ProposeRefusal> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([END])), deadline).await
    }

    pub(super) async fn change(
        &self,
        change: ChangeMembers<u64, Member>,
        deadline: Duration,
    ) -> Result<(), ProposeRefusal> {
        if !matches!(self.role(), Role::Leader { .. }) {
            return Err(ProposeRefusal::NotLeader { leader: self.leader() });
        }
        let failed = |e: &dyn std::fmt::Display| ProposeRefusal::Failed(e.to_string());
        match tokio::time::timeout(deadline, self.raft.change_membership(change, true)).await {
            Ok(changed) => changed.map(drop).map_err(|e| failed(&e)),
            Err(_) => Err(ProposeRefusal::Failed("it was not committed in time".to_owned())),
        }
    }
}
