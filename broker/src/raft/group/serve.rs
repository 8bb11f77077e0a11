//! What peers ask of a group, and its part in elections.

use super::*;
use crate::core::raft_election::Ask;
use crate::raft::storage::INSTALL_LOOK;

/// Keeps a group's state for `View`, which borrows.
macro_rules! view {
    ($group:expr, $standing:expr) => {
        View {
            me: $group.me,
            node: $group.node,
            seed: $group.seed(),
            members: &$standing.known.members,
            leader: $standing.known.leader.filter(|_| $standing.deposed_term != Some($standing.known.term)),
            term: $standing.known.term,
            last: $group.store.last().or($group.store.base_id()),
            led: $standing.led,
            voted_at_ms: $standing.voted_at_ms,
        }
    };
}

/// What a tick asks the host to do for a group.
#[derive(Debug, Default)]
pub(in crate::raft) struct Wish {
    /// Ask peers whether they would elect this replica.
    pub stands: Option<Ask>,
    /// Tell the coordinator that this node leads.
    pub report_term: Option<u64>,
    /// Tell followers of commits that were held back.
    pub heartbeat: bool,
}

impl RaftGroup {
    fn seed(&self) -> u64 {
        let (high, low) = self.tp.topic_id.0.as_u64_pair();
        high ^ low ^ u64::from(self.tp.partition as u32)
    }

    /// Looks at the group at each tick.
    pub(in crate::raft) fn tick(&self, now_ms: i64, peers: &Peers) -> Wish {
        let mut wish = Wish::default();
        if self.store.failure().is_some() || self.has_stopped() {
            return wish;
        }
        let mut standing = self.refreshed();
        let (known_term, has_leader) = (standing.known.term, standing.known.leader.is_some());
        standing.led.look(now_ms, known_term, has_leader);
        let mut candidacy = standing.candidacy;
        let view = view!(self, standing);
        let hears_majority = view.hears_majority(now_ms, peers);
        let is_news = self.hears_majority.swap(hears_majority, Ordering::SeqCst) != hears_majority;
        if candidacy.stands(now_ms, &view, peers) {
            wish.stands = Some(Ask { candidate: self.me, last: view.last });
        }
        standing.candidacy = candidacy;
        let term = standing.known.term;
        if standing.known.leads && standing.reported_term != Some(term) {
            standing.reported_term = Some(term);
            wish.report_term = Some(term);
        }
        // Until it takes writes a leader looks again each tick: not all that it waits for is told.
        if is_news || (standing.known.leads && !self.has_served(term)) {
            self.review.notify_one();
        }
        let comes_to_rest = self.rest(&mut standing, now_ms);
        // The last word on commits may have been lost, and nothing would come after it.
        wish.heartbeat = self.store.take_held_back() || (comes_to_rest && standing.known.leads);
        wish
    }

    /// openraft has stopped by itself: a storage error, or a defect.
    fn has_stopped(&self) -> bool {
        let Err(why) = self.raft.metrics().borrow().running_state.clone() else { return false };
        self.store.fail(&why.to_string());
        true
    }

    /// Gives back memory when nothing was appended for a while; true when that begins.
    fn rest(&self, standing: &mut Standing, now_ms: i64) -> bool {
        let end = self.store.appended_end();
        if self.proposed_at_end.swap(end, Ordering::Relaxed) != end {
            (standing.active_at_ms, standing.is_shed) = (now_ms, false);
            return false;
        }
        let rests = !standing.is_shed && now_ms - standing.active_at_ms > 2 * RAFT_LEASE_MS as i64;
        if rests {
            standing.is_shed = true;
            self.store.shed();
            self.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        rests
    }

    /// A report of leadership was not taken: it is made again.
    pub(in crate::raft) fn reported(&self, term: u64, is_on_record: bool) {
        if is_on_record {
            self.note_on_record();
            return;
        }
        let mut standing = self.refreshed();
        if standing.reported_term == Some(term) {
            standing.reported_term = None;
        }
    }

    /// Whether a peer's candidate would get this replica's vote.
    pub(in crate::raft) fn would_vote(&self, now_ms: i64, ask: &Ask, peers: &Peers) -> bool {
        let standing = self.refreshed();
        let view = view!(self, standing);
        self.store.failure().is_none() && standing.candidacy.would_vote(now_ms, ask, &view, peers)
    }

    /// A node has started anew: a leader there leads no more.
    pub(in crate::raft) fn restarted(&self, node: NodeId) {
        let mut standing = self.refreshed();
        let leader = standing.known.leader.and_then(|leader| standing.known.members.nodes.get(&leader));
        if leader == Some(&node) && node != self.node {
            standing.deposed_term = Some(standing.known.term);
        }
    }

    /// The leader of this term has said that its part in the group has ended.
    pub(in crate::raft) fn resigned(&self, leader: ReplicaId, term: u64) {
        let mut standing = self.refreshed();
        if standing.known.leader == Some(leader) && standing.known.term == term {
            standing.deposed_term = Some(term);
        }
    }

    /// What to tell the others of a leader whose part here has ended by itself: to whom, and of which term.
    pub(in crate::raft) fn resignation(&self) -> Option<(Arc<Members>, u64)> {
        self.store.failure()?;
        Some((self.members(), self.store.led_term()?))
    }

    /// Whether a node that is heard again should hear of commits, or of this leader's end.
    pub(in crate::raft) fn leads_on(&self, node: NodeId) -> bool {
        let standing = self.refreshed();
        standing.known.leads && standing.known.members.nodes.values().any(|n| *n == node)
    }

    pub(in crate::raft) async fn heartbeat(&self) {
        // A group that has ended needs none.
        let _ = self.raft.trigger().heartbeat().await;
    }

    /// Stands for election in a new term; unless another one has come to lead since peers were asked.
    pub(in crate::raft) async fn elect(&self, now_ms: i64, peers: &Peers) {
        let _vote = self.votes.lock().await;
        if !self.still_stands(now_ms, peers) {
            return;
        }
        let triggered = self.raft.trigger().elect().await;
        if triggered.is_ok() {
            // Taken in before the next vote is looked at.
            let _ = self.raft.with_raft_state(|state| state.vote_ref().leader_id.term).await;
        }
    }

    fn still_stands(&self, now_ms: i64, peers: &Peers) -> bool {
        let mut standing = self.refreshed();
        let mut candidacy = standing.candidacy;
        let view = view!(self, standing);
        if view.hears_leader(now_ms, peers) || view.has_voted_lately(now_ms) {
            return false;
        }
        candidacy.elects(now_ms, &view);
        (standing.candidacy, standing.voted_at_ms) = (candidacy, now_ms);
        true
    }

    pub(in crate::raft) async fn serve_vote(&self, ask: VoteAsk, now_ms: i64) -> Answer {
        let _vote = self.votes.lock().await;
        let Ok(mine) = self.raft.with_raft_state(|state| *state.vote_ref()).await else {
            return self.refusal();
        };
        // openraft orders votes of one term by replica and would grant a second.
        let theirs = vote(ask.vote);
        let is_second = mine.leader_id.term == theirs.leader_id.term && mine.leader_id != theirs.leader_id;
        if is_second {
            let last = self.store.last().or(self.store.base_id());
            return Answer::Vote { vote: stored_vote(&mine), is_granted: false, last };
        }
        let request = VoteRequest::new(theirs, ask.last.map(log_id));
        match self.raft.vote(request).await {
            Ok(answer) => {
                if answer.vote_granted {
                    self.refreshed().voted_at_ms = now_ms;
                }
                Answer::Vote {
                    vote: stored_vote(&answer.vote),
                    is_granted: answer.vote_granted,
                    last: answer.last_log_id.as_ref().map(entry_id),
                }
            }
            Err(_) => self.refusal(),
        }
    }

    /// The leader of a term has sent something. What makes it known here sets this replica's vote, and takes
    /// turns with votes: between the look at it in `serve_vote` and openraft's own it must not change.
    async fn sent_by_leader(&self, term: u64) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let is_known = {
            let mut standing = self.refreshed();
            standing.led.sent(term);
            standing.known.term >= term && standing.known.leader.is_some()
        };
        match is_known {
            true => None,
            false => Some(self.votes.lock().await),
        }
    }

    pub(in crate::raft) async fn serve_append(&self, append: Append, now_ms: i64) -> Answer {
        let Append { vote: theirs, previous, committed, entries, .. } = append;
        // Whatever is claimed to match must be on this disk.
        let last = entries.last().map(|entry| entry.id).or(previous);
        for entry in &entries {
            if let Err(why) = check(entry) {
                return Answer::Refused(why);
            }
        }
        let request = AppendEntriesRequest {
            vote: vote(theirs),
            prev_log_id: previous.map(log_id),
            entries: entries.into_iter().map(Stored::into_entry).collect(),
            leader_commit: committed.map(log_id),
        };
        let turn = self.sent_by_leader(theirs.term).await;
        let appended = self.raft.append_entries(request).await;
        drop(turn);
        let answer = match appended {
            Ok(AppendEntriesResponse::Success) => AppendAnswer::Success,
            Ok(AppendEntriesResponse::PartialSuccess(upto)) => {
                AppendAnswer::Partial(upto.as_ref().map(entry_id))
            }
            Ok(AppendEntriesResponse::HigherVote(higher)) => AppendAnswer::HigherVote(stored_vote(&higher)),
            Ok(AppendEntriesResponse::Conflict) => AppendAnswer::Conflict,
            Err(_) => return self.refusal(),
        };
        if !matches!(answer, AppendAnswer::HigherVote(_)) {
            self.refreshed().led.taken(now_ms);
        }
        let claims = matches!(answer, AppendAnswer::Success | AppendAnswer::Partial(_));
        if claims
            && let Some(id) = last
            && self.durable(id).await.is_err()
        {
            return self.refusal();
        }
        Answer::Append(answer)
    }

    /// A leader that was: entries it appended itself may not be synced yet, and must be before they are
    /// claimed.
    async fn durable(&self, id: EntryId) -> std::io::Result<()> {
        if self.store.base_id().is_some_and(|base| base.index >= id.index) {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = tell.send(outcome);
        });
        self.store.when_durable(id.index, done);
        let lost = |_| std::io::Error::other("the disk's queue has ended");
        told.await.map_err(lost)?
    }

    /// Answers once the snapshot is on the disk: openraft would say yes before, and appends would come.
    pub(in crate::raft) async fn serve_snapshot(&self, send: SnapshotSend) -> Answer {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(send.at)),
            last_membership: stored_membership(Some(send.members)),
            snapshot_id: format!("{:?}", send.at),
        };
        let snapshot = openraft::Snapshot { meta, snapshot: Box::new(std::io::Cursor::new(send.bytes)) };
        let sender: GroupVote = vote(send.vote);
        let turn = self.sent_by_leader(send.vote.term).await;
        self.store.begin_installing(send.at);
        // The vote is taken long before the snapshot is: what is asked of openraft next finds it.
        let taken = async {
            let _ = self.raft.with_raft_state(|state| state.vote_ref().leader_id.term).await;
            drop(turn);
        };
        let (answer, ()) = tokio::join!(self.raft.install_full_snapshot(sender, snapshot), taken);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(RAFT_RPC_MS_MAX);
        let is_taken = answer.as_ref().is_ok_and(|answer| answer.vote <= sender);
        if !is_taken {
            self.store.abandon_installing(send.at);
        }
        let has_come = || self.store.applied_id() >= Some(send.at) || self.store.failure().is_some();
        while is_taken && !has_come() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(INSTALL_LOOK).await;
        }
        // Past the deadline it goes on being installed, and what follows goes on waiting for it.
        match answer {
            Ok(_) if is_taken && !has_come() => Answer::Refused("the snapshot takes too long".to_owned()),
            Ok(answer) => Answer::Snapshot { vote: stored_vote(&answer.vote) },
            Err(_) => self.refusal(),
        }
    }

    fn refusal(&self) -> Answer {
        Answer::Refused(self.store.failure().unwrap_or_else(|| "the group is closed".to_owned()))
    }
}

/// What a peer sent must be whole (invariant 19).
fn check(entry: &Stored) -> Result<(), String> {
    match &entry.body {
        Body::Batch { bytes, .. } => check_crc(bytes).map_err(|e| format!("entry {}: {e}", entry.id.index)),
        Body::Blank | Body::Members(_) => Ok(()),
    }
}
