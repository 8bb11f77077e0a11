//! Changing a group: its members, and where its log begins.

use std::collections::BTreeMap;

use super::*;

impl RaftGroup {
    /// Whether a new replica may be added: it begins where the tier ends, so that must not be below where the
    /// group's log begins.
    pub fn is_joinable(&self) -> bool {
        self.store.is_joinable()
    }

    /// Makes `target` the group's voters: new replicas first catch up as learners, from the tier where they
    /// can. Only on the leader; to be called again until it succeeds, by whoever holds the wish (the
    /// coordinator).
    ///
    /// # Errors
    /// `NotLeader`; `Failed` when the change did not come through in `deadline`.
    pub async fn set_voters(
        &self,
        target: &BTreeMap<ReplicaId, NodeId>,
        deadline: Duration,
    ) -> Result<(), ProposeRefusal> {
        if !matches!(self.role(), Role::Leader { .. }) {
            return Err(ProposeRefusal::NotLeader { leader: self.leader() });
        }
        let now = self.members();
        let failed = |e: &dyn std::fmt::Display| ProposeRefusal::Failed(e.to_string());
        if target.keys().any(|replica| !now.nodes.contains_key(replica)) && !self.is_joinable() {
            let why = "what the group began with is not in the tier yet: a new replica would lack it";
            return Err(ProposeRefusal::Failed(why.to_owned()));
        }
        let change = async {
            for (replica, node) in target.iter().filter(|(replica, _)| !now.nodes.contains_key(replica)) {
                self.raft
                    .add_learner(*replica, Member { node: *node }, true)
                    .await
                    .map_err(|e| failed(&e))?;
            }
            let voters: std::collections::BTreeSet<_> = target.keys().copied().collect();
            self.raft.change_membership(voters, false).await.map_err(|e| failed(&e))?;
            Ok(())
        };
        let changed = tokio::time::timeout(deadline, change).await;
        changed.map_err(|_| ProposeRefusal::Failed("a new replica has not caught up".to_owned()))?
    }

    /// Takes away learners that never became voters. Only on the leader.
    ///
    /// # Errors
    /// As `set_voters`.
    pub async fn drop_learners(&self, deadline: Duration) -> Result<(), ProposeRefusal> {
        let set = self.members();
        let votes = |id: &ReplicaId| set.voters.iter().any(|voters| voters.contains(id));
        let gone = set.nodes.keys().copied().filter(|id| !votes(id)).collect();
        self.change(openraft::ChangeMembers::RemoveNodes(gone), deadline).await
    }

    /// Lets Raft's log begin at the last segment that starts at or below `offset` and is in the tier; what
    /// lies below may then be evicted. Returns `released_end`.
    ///
    /// # Errors
    /// The group has ended.
    pub async fn release_to(&self, offset: Offset) -> Result<Offset, ProposeRefusal> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || store.releasable(offset)).await;
        let found = found.map_err(|e| ProposeRefusal::Failed(e.to_string()))?;
        let Some(upto) = found.map_err(|e| ProposeRefusal::Failed(e.to_string()))? else {
            return Ok(self.released_end());
        };
        let deadline = Some(Duration::from_millis(RAFT_RPC_MS_MAX));
        // openraft's own words have all of its metrics in them.
        let late = |what: &str| ProposeRefusal::Failed(format!("{what} took too long"));
        self.raft.trigger().snapshot().await.map_err(|_| self.ended())?;
        let is_built =
            |m: &openraft::RaftMetrics<u64, Member>| m.snapshot.is_some_and(|at| at.index >= upto.index);
        let built = self.raft.wait(deadline).metrics(is_built, "a snapshot at what is released").await;
        built.map_err(|_| late("its snapshot"))?;
        self.raft.trigger().purge_log(upto.index).await.map_err(|_| self.ended())?;
        let is_purged =
            |m: &openraft::RaftMetrics<u64, Member>| m.purged.is_some_and(|at| at.index >= upto.index);
        let purged =
            self.raft.wait(deadline).metrics(is_purged, "the log begins where it was released").await;
        purged.map_err(|_| late("the purge"))?;
        Ok(self.released_end())
    }
}
