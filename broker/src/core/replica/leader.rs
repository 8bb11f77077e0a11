//! What a leader knows of its followers: how far each is, who is in sync, which change of that is under way.
//!
//! Everything here lives as long as one leader epoch. A proposal whose outcome is unknown is in doubt until
//! the partition's record has another epoch: its members count for the high watermark all that time, as it
//! may have been carried out, or may still be. Invariants: 3, 6, 17.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::limits::{ISR_RETRY_MS, ISR_SILENT_MS_MAX};
use highwater_model::{NodeId, Offset};

use super::{Assignment, Ends, FollowerEnds, IsrMember, IsrOutcome, IsrProposal, LeaderRefusal};

/// What a leader knows of one follower.
#[derive(Clone, Debug)]
struct Progress {
    /// From its newest fetch in this leader epoch; None before the first.
    ends: Option<FollowerEnds>,
    /// When it last had everything that the leader had; None if it never had.
    caught_up_ms: Option<i64>,
    /// Its newest fetch, and where the leader's log ended then.
    last_fetch: Option<(i64, Offset)>,
}

#[derive(Clone, Debug)]
pub(super) struct Leader {
    node_id: NodeId,
    /// Where this leader epoch begins.
    epoch_start: Offset,
    followers: BTreeMap<NodeId, Progress>,
    /// The committed set, sorted.
    isr: Vec<NodeId>,
    /// Sent, without an outcome so far.
    in_flight: Option<IsrProposal>,
    /// Members of proposals against the present partition epoch whose outcome is not known.
    in_doubt: BTreeSet<NodeId>,
    has_doubt: bool,
    /// No proposal before this, after one that failed.
    retry_at_ms: i64,
}

impl Progress {
    fn new(caught_up_ms: Option<i64>) -> Progress {
        Progress { ends: None, caught_up_ms, last_fetch: None }
    }

    fn counted(&self, terms: &Assignment) -> Option<Offset> {
        self.ends.map(|ends| terms.counted(ends.log_end, ends.flushed_end))
    }

    /// Whether it has fetched within the lag that is allowed, or has nothing to fetch. Else one that fell
    /// silent would leave and join for ever while nothing more is committed.
    fn is_there(&self, now_ms: i64, terms: &Assignment, leader_end: Offset) -> bool {
        self.counted(terms) == Some(leader_end)
            || self.last_fetch.is_some_and(|(at, _)| now_ms.saturating_sub(at) <= terms.lag_ms_max)
    }

    /// Whether it had, within the lag that is allowed, everything that the leader had.
    fn is_caught_up(&self, now_ms: i64, terms: &Assignment, leader_end: Offset) -> bool {
        self.counted(terms) == Some(leader_end)
            || self.caught_up_ms.is_some_and(|at| now_ms.saturating_sub(at) <= terms.lag_ms_max)
    }
}

fn sorted(nodes: &[NodeId]) -> Vec<NodeId> {
    let set: BTreeSet<NodeId> = nodes.iter().copied().collect();
    set.into_iter().collect()
}

impl Leader {
    /// Members of the in-sync set get the time of one lag to fetch for the first time.
    pub(super) fn new(now_ms: i64, terms: &Assignment, node_id: NodeId, log_end: Offset) -> Leader {
        assert_eq!(terms.leader, Some(node_id));
        let others = terms.replicas.iter().filter(|m| m.node_id != node_id);
        let followers = others.map(|m| {
            let in_sync = terms.isr.contains(&m.node_id);
            (m.node_id, Progress::new(in_sync.then_some(now_ms)))
        });
        Leader {
            node_id,
            epoch_start: log_end,
            followers: followers.collect(),
            isr: sorted(&terms.isr),
            in_flight: None,
            in_doubt: BTreeSet::new(),
            has_doubt: false,
            retry_at_ms: i64::MIN,
        }
    }

    /// The same leader epoch with another record, or the same one with other settings.
    pub(super) fn reassigned(mut self, terms: &Assignment, is_new_record: bool) -> Leader {
        let node_id = self.node_id;
        assert_eq!(terms.leader, Some(node_id));
        let is_replica = |id: &NodeId| terms.member(*id).is_some();
        self.followers.retain(|id, _| is_replica(id));
        for member in terms.replicas.iter().filter(|m| m.node_id != node_id) {
            self.followers.entry(member.node_id).or_insert_with(|| Progress::new(None));
        }
        self.isr = sorted(&terms.isr);
        if is_new_record {
            self.record_moved();
        }
        assert!(!self.followers.contains_key(&node_id), "nobody follows itself");
        self
    }

    /// The record has another epoch: proposals against the old one can no longer be carried out.
    fn record_moved(&mut self) {
        debug_assert!(self.isr.is_sorted(), "each member once, in order");
        self.in_flight = None;
        self.in_doubt.clear();
        self.has_doubt = false;
        self.retry_at_ms = i64::MIN;
    }

    pub(super) fn isr(&self) -> &[NodeId] {
        &self.isr
    }

    pub(super) fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    pub(super) fn follower_ends(&self) -> BTreeMap<NodeId, Option<FollowerEnds>> {
        self.followers.iter().map(|(id, progress)| (*id, progress.ends)).collect()
    }

    /// Whether the node counts for the high watermark: in the committed set, or in one that may come to hold.
    fn may_be_in_sync(&self, id: NodeId) -> bool {
        self.isr.contains(&id)
            || self.in_doubt.contains(&id)
            || self.in_flight.as_ref().is_some_and(|p| p.isr.iter().any(|m| m.node_id == id))
    }

    /// Registered as what it fetched as, and neither fenced nor stopping.
    fn may_join(&self, terms: &Assignment, id: NodeId) -> bool {
        let ends = self.followers.get(&id).and_then(|progress| progress.ends);
        terms.member(id).is_some_and(|member| {
            member.may_join && ends.is_some_and(|ends| ends.broker_epoch == member.broker_epoch)
        })
    }

    /// End of what every member has; None where that is not known, or too few are in sync (KIP-966).
    pub(super) fn committed_end(&self, now_ms: i64, terms: &Assignment, ends: Ends) -> Option<Offset> {
        if self.isr.len() < terms.min_isr_effective() || !self.isr.contains(&self.node_id) {
            return None;
        }
        let mut end = terms.counted(ends.log_end, ends.flushed_end);
        for id in self.isr.iter().filter(|id| **id != self.node_id) {
            // A member that is no replica any more cannot be asked.
            end = end.min(self.followers.get(id)?.counted(terms)?);
        }
        for (id, progress) in &self.followers {
            if self.isr.contains(id) {
                continue;
            }
            // One that keeps up is waited for, or the end would run away from it for ever and it could
            // never join.
            let joins = || progress.is_caught_up(now_ms, terms, ends.log_end) && self.may_join(terms, *id);
            if self.may_be_in_sync(*id) {
                end = end.min(progress.counted(terms)?);
            } else if joins() {
                end = end.min(progress.counted(terms).unwrap_or(end));
            }
        }
        debug_assert!(end <= ends.log_end, "committed is what the leader has too");
        Some(end)
    }

    /// Whether a member of the committed set has taken nothing for a while of what there is for it.
    pub(super) fn has_silent_member(&self, now_ms: i64, terms: &Assignment, leader_end: Offset) -> bool {
        let is_silent = |progress: &Progress| {
            let is_old = |at: i64| now_ms.saturating_sub(at) > ISR_SILENT_MS_MAX;
            progress.counted(terms) != Some(leader_end) && progress.caught_up_ms.is_none_or(is_old)
        };
        let mut others = self.isr.iter().filter(|id| **id != self.node_id);
        others.any(|id| self.followers.get(id).is_none_or(is_silent))
    }

    /// Followers at the old end were caught up until now.
    pub(super) fn own_log_grew(&mut self, now_ms: i64, terms: &Assignment, before: Offset) {
        debug_assert!(before >= self.epoch_start);
        for progress in self.followers.values_mut() {
            if progress.counted(terms).is_some_and(|end| end >= before) {
                progress.caught_up_ms = progress.caught_up_ms.max(Some(now_ms));
            }
        }
    }

    pub(super) fn judge_follower(
        &self,
        terms: &Assignment,
        node_id: NodeId,
        broker_epoch: u64,
    ) -> Result<(), LeaderRefusal> {
        let member = terms.member(node_id).filter(|_| node_id != self.node_id);
        let (Some(member), Some(progress)) = (member, self.followers.get(&node_id)) else {
            return Err(LeaderRefusal::NoReplica { node_id });
        };
        let newest = progress.ends.map_or(0, |ends| ends.broker_epoch).max(member.broker_epoch);
        if broker_epoch < newest {
            return Err(LeaderRefusal::StaleBroker { node_id, given: broker_epoch });
        }
        Ok(())
    }

    /// As Kafka: who fetches the leader's end is caught up now; who fetches what was the leader's end at its
    /// fetch before was caught up then.
    pub(super) fn follower_fetched(
        &mut self,
        now_ms: i64,
        terms: &Assignment,
        follower: FollowerEnds,
        leader_end: Offset,
    ) {
        let Some(progress) = self.followers.get_mut(&follower.node_id) else {
            return;
        };
        let counted = terms.counted(follower.log_end, follower.flushed_end);
        if counted >= leader_end {
            progress.caught_up_ms = progress.caught_up_ms.max(Some(now_ms));
        } else if let Some((at_ms, end)) = progress.last_fetch
            && counted >= end
        {
            progress.caught_up_ms = progress.caught_up_ms.max(Some(at_ms));
        }
        progress.ends = Some(follower);
        progress.last_fetch = Some((now_ms, leader_end));
        debug_assert!(progress.counted(terms).is_some_and(|end| end <= leader_end));
    }

    /// The set to propose, if it is another than the committed one or clears a doubt. One proposal at a time.
    pub(super) fn propose(
        &mut self,
        now_ms: i64,
        terms: &Assignment,
        ends: Ends,
        high_watermark: Offset,
    ) -> Option<IsrProposal> {
        if self.in_flight.is_some() || now_ms < self.retry_at_ms || !self.isr.contains(&self.node_id) {
            return None;
        }
        let stays = |id: &NodeId| {
            *id == self.node_id
                || self.followers.get(id).is_some_and(|p| p.is_caught_up(now_ms, terms, ends.log_end))
        };
        // It is there, has everything that is committed, and everything from before this leader's time.
        let joins = |id: &NodeId, progress: &Progress| {
            let has = progress.counted(terms);
            self.may_join(terms, *id)
                && progress.is_there(now_ms, terms, ends.log_end)
                && has.is_some_and(|end| end >= high_watermark && end >= self.epoch_start)
        };
        let is_joiner = |(id, progress): &(&NodeId, &Progress)| !self.isr.contains(id) && joins(id, progress);
        let is_same = self.isr.iter().all(stays) && !self.followers.iter().any(|f| is_joiner(&f));
        if is_same && !self.has_doubt {
            return None;
        }
        let stay = self.isr.iter().filter(|id| stays(id));
        let wanted: BTreeSet<NodeId> =
            stay.chain(self.followers.iter().filter(is_joiner).map(|(id, _)| id)).copied().collect();
        assert!(wanted.contains(&self.node_id), "a leader does not vote itself out");
        let proposal = IsrProposal {
            leader_epoch: terms.leader_epoch,
            partition_epoch: terms.partition_epoch,
            isr: wanted.into_iter().map(|id| self.incarnation(terms, id)).collect(),
        };
        assert!(proposal.isr.is_sorted(), "each member once, in order");
        self.in_flight = Some(proposal.clone());
        Some(proposal)
    }

    /// The incarnation that fetched; of one that has not, the registered one.
    fn incarnation(&self, terms: &Assignment, node_id: NodeId) -> IsrMember {
        let fetched = self.followers.get(&node_id).and_then(|progress| progress.ends);
        let registered = terms.member(node_id).map_or(0, |member| member.broker_epoch);
        IsrMember { node_id, broker_epoch: fetched.map_or(registered, |ends| ends.broker_epoch) }
    }

    /// `is_new_record`: it was accepted and changed the partition's record.
    pub(super) fn isr_settled(
        &mut self,
        now_ms: i64,
        proposal: &IsrProposal,
        outcome: IsrOutcome,
        is_new_record: bool,
    ) {
        match outcome {
            IsrOutcome::Accepted { .. } if is_new_record => {
                let members: Vec<NodeId> = proposal.isr.iter().map(|m| m.node_id).collect();
                self.isr = sorted(&members);
                self.record_moved();
                return;
            }
            // What is in doubt may still come, as long as the record is the same.
            IsrOutcome::Accepted { .. } | IsrOutcome::Refused => {}
            IsrOutcome::Unknown => {
                self.in_doubt.extend(proposal.isr.iter().map(|m| m.node_id));
                self.has_doubt = true;
            }
        }
        if self.in_flight.as_ref() == Some(proposal) {
            self.in_flight = None;
            self.retry_at_ms = now_ms.saturating_add(ISR_RETRY_MS);
        }
        assert!(self.in_flight.is_none() || self.in_flight.as_ref() != Some(proposal));
    }
}
