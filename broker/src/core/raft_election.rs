//! Who stands for election in a partition's group, and when. Pure: the time and what was heard are arguments.
//!
//! Liveness belongs to nodes: peers greet each other, groups do not, so that a thousand groups at rest cost
//! nothing. A replica stands only when its leader's node is gone or silent, or when it knows of no leader;
//! candidates of a group come one after another by a rank that every replica computes alike. openraft 0.9 has
//! no pre-vote, so a candidate asks first: peers that hear the leader, or have a longer log, say no, and no
//! term is spent; a node that comes back does not unseat a leader that others follow. Who has given its vote
//! leaves that candidate time: a term beyond the new leader's would make it stumble at its next entry.
//! Nothing here bears on safety: that is openraft's. Invariant 17.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::NodeId;
use highwater_model::limits::{RAFT_CANDIDATE_STEP_MS, RAFT_LEASE_MS, RAFT_SILENT_MS};

use super::raft_side::{EntryId, Members, ReplicaId};

/// What is known of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    at_ms: i64,
    /// Chosen anew at each start of the node's process.
    boot: u64,
    /// Its connection broke and it has not answered since.
    is_lost: bool,
}

/// Every node that was heard of.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    heard: BTreeMap<NodeId, Heard>,
}

impl Peers {
    /// A node has said something. True if it was not known, or has started anew: what it led, it leads no
    /// more.
    pub fn heard(&mut self, now_ms: i64, node: NodeId, boot: u64) -> bool {
        let before = self.heard.insert(node, Heard { at_ms: now_ms, boot, is_lost: false });
        let is_new = before.is_none_or(|before| before.boot != boot);
        debug_assert!(self.is_alive(now_ms, node));
        is_new
    }

    /// The start of a node's process that is heard now.
    pub fn boot(&self, now_ms: i64, node: NodeId) -> Option<u64> {
        self.heard.get(&node).filter(|_| self.is_alive(now_ms, node)).map(|heard| heard.boot)
    }

    /// A node's connection broke, or it cannot be reached.
    pub fn lost(&mut self, node: NodeId) {
        if let Some(heard) = self.heard.get_mut(&node) {
            heard.is_lost = true;
        }
    }

    pub fn is_alive(&self, now_ms: i64, node: NodeId) -> bool {
        let is_fresh = |heard: &Heard| !heard.is_lost && now_ms - heard.at_ms < RAFT_SILENT_MS;
        self.heard.get(&node).is_some_and(is_fresh)
    }
}

/// One replica's group as it stands.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub me: ReplicaId,
    pub node: NodeId,
    /// Differs from group to group, so that leaders spread.
    pub seed: u64,
    pub members: &'a Members,
    /// Whom this replica follows or is, if anyone.
    pub leader: Option<ReplicaId>,
    pub term: u64,
    pub last: Option<EntryId>,
    /// When the leader last sent an entry or a commit.
    pub led_at_ms: i64,
    /// When this replica last voted, be it for itself.
    pub voted_at_ms: i64,
}

impl View<'_> {
    fn is_voter(&self, replica: ReplicaId) -> bool {
        self.members.voters.iter().any(|set| set.contains(&replica))
    }

    /// A candidate that this replica voted for may be about to lead.
    pub fn has_voted_lately(&self, now_ms: i64) -> bool {
        now_ms < self.voted_at_ms.saturating_add(RAFT_LEASE_MS as i64)
    }

    /// Whether the leader's node is heard; this node always is.
    pub fn hears_leader(&self, now_ms: i64, peers: &Peers) -> bool {
        let node = self.leader.and_then(|leader| self.members.nodes.get(&leader));
        node.is_some_and(|node| *node == self.node || peers.is_alive(now_ms, *node))
    }

    /// Whether a majority of the voters is on nodes that are heard: a leader without one takes no writes.
    pub fn hears_majority(&self, now_ms: i64, peers: &Peers) -> bool {
        let is_here = |replica: &&ReplicaId| {
            let node = self.members.nodes.get(*replica);
            node.is_some_and(|node| *node == self.node || peers.is_alive(now_ms, *node))
        };
        let heard = self.members.voters.iter().flatten().filter(is_here).copied().collect();
        is_majority(self.members, &heard)
    }

    /// Candidates before this one, the leader left out.
    fn rank(&self) -> i64 {
        let key = |replica: ReplicaId| mix(self.seed ^ replica);
        let voters: BTreeSet<_> = self.members.voters.iter().flatten().copied().collect();
        let before = voters.iter().filter(|v| Some(**v) != self.leader && key(**v) < key(self.me));
        let rank = before.count();
        debug_assert!(rank <= voters.len());
        rank as i64
    }
}

/// Whether `yes` holds a majority of each set of voters.
pub fn is_majority(members: &Members, yes: &BTreeSet<ReplicaId>) -> bool {
    let holds = |set: &BTreeSet<ReplicaId>| 2 * set.intersection(yes).count() > set.len();
    !members.voters.is_empty() && members.voters.iter().all(holds)
}

/// Whether a replica stands for election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    /// Since when it has known of no leader that lives.
    since_ms: Option<i64>,
    next_try_ms: i64,
    tries: u32,
}

impl Candidacy {
    /// To be called at each tick: whether to ask peers now if they would elect this replica.
    pub fn stands(&mut self, now_ms: i64, view: &View<'_>, peers: &Peers) -> bool {
        let leads = view.leader == Some(view.me);
        if leads || !view.is_voter(view.me) || view.hears_leader(now_ms, peers) {
            *self = Candidacy::default();
            return false;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let own_turn_ms = since_ms + view.rank() * RAFT_CANDIDATE_STEP_MS;
        debug_assert!(own_turn_ms >= since_ms);
        if now_ms < own_turn_ms.max(self.next_try_ms) || view.has_voted_lately(now_ms) {
            return false;
        }
        self.tries += 1;
        let chance =
            (mix(view.seed ^ view.me ^ u64::from(self.tries)) % RAFT_CANDIDATE_STEP_MS as u64) as i64;
        self.next_try_ms = now_ms + RAFT_CANDIDATE_STEP_MS + chance;
        true
    }

    /// Peers have said yes and an election is under way: the next try leaves it time. Two that stood at once,
    /// and took each other's votes away, do not stand at once again.
    pub fn elects(&mut self, now_ms: i64, view: &View<'_>) {
        let steps = i64::from(self.tries.min(8)) + 3 * view.rank();
        self.next_try_ms = now_ms + RAFT_LEASE_MS as i64 + RAFT_CANDIDATE_STEP_MS * steps;
        assert!(self.next_try_ms > now_ms);
    }
}

/// What a candidate says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub candidate: ReplicaId,
    pub last: Option<EntryId>,
}

/// Whether this replica would vote for a candidate: it knows no leader that lives, and lacks nothing that the
/// candidate has not.
pub fn would_vote(now_ms: i64, ask: &Ask, view: &View<'_>, peers: &Peers) -> bool {
    let leads = view.leader == Some(view.me);
    let leader_asks = view.leader == Some(ask.candidate);
    let is_led = !leader_asks && view.hears_leader(now_ms, peers);
    // openraft refuses within the lease whatever is known of the leader's node.
    let within_lease = now_ms < view.led_at_ms.saturating_add(RAFT_LEASE_MS as i64);
    !leads && !is_led && !within_lease && !view.has_voted_lately(now_ms) && ask.last >= view.last
}

/// A number that differs from group to group and from replica to replica (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: i64 = RAFT_SILENT_MS;

    fn members() -> Members {
        Members::of_voters([(1, 1), (2, 2), (3, 3)].into())
    }

    fn view(members: &Members, me: u64, leader: Option<u64>) -> View<'_> {
        let (led_at_ms, voted_at_ms) = (-10_000, -10_000);
        View { me, node: me, seed: 7, members, leader, term: 1, last: None, led_at_ms, voted_at_ms }
    }

    fn peers(now_ms: i64, nodes: &[u64]) -> Peers {
        let mut peers = Peers::default();
        for node in nodes {
            assert!(peers.heard(now_ms, *node, 1));
        }
        peers
    }

    #[test]
    fn nobody_stands_while_the_leader_lives() {
        let members = members();
        let mut candidacy = Candidacy::default();
        let mut peers = peers(0, &[1, 3]);
        assert!(!candidacy.stands(SILENT - 1, &view(&members, 2, Some(1)), &peers));
        assert!(!peers.heard(SILENT, 1, 1), "the same start");
        for now in (0..SILENT).step_by(100) {
            assert!(!candidacy.stands(SILENT + now, &view(&members, 2, Some(1)), &peers));
        }
        assert!(!Candidacy::default().stands(9, &view(&members, 2, Some(2)), &peers), "it leads itself");
    }

    #[test]
    fn candidates_come_one_after_another() {
        let members = members();
        let peers = peers(0, &[2, 3]);
        let mut first = Vec::new();
        for me in [2, 3] {
            let mut candidacy = Candidacy::default();
            let stands = |now: &i64| candidacy.stands(*now, &view(&members, me, Some(1)), &peers);
            first.push((0..5_000).find(stands).expect("stands in the end"));
        }
        first.sort_unstable();
        assert_eq!(first[1] - first[0], RAFT_CANDIDATE_STEP_MS);
    }

    #[test]
    fn a_candidate_leaves_an_election_time_and_a_learner_never_stands() {
        let members = members();
        let peers = peers(0, &[2]);
        let mut candidacy = Candidacy::default();
        let at =
            (0..5_000).find(|now| candidacy.stands(*now, &view(&members, 2, None), &peers)).expect("stands");
        candidacy.elects(at, &view(&members, 2, None));
        let again = (at + 1..at + 9_000).find(|now| candidacy.stands(*now, &view(&members, 2, None), &peers));
        assert!(again.expect("tries again") >= at + RAFT_LEASE_MS as i64);
        let mut learner = Candidacy::default();
        assert!((0..9_000).all(|now| !learner.stands(now, &view(&members, 9, None), &peers)));
    }

    #[test]
    fn a_vote_is_promised_only_where_it_unseats_nobody() {
        let members = members();
        let id = |term, index| Some(EntryId { term, leader: 1, index });
        let ask = Ask { candidate: 2, last: id(1, 5) };
        let mut all = peers(0, &[1, 2]);
        assert!(!would_vote(9, &ask, &view(&members, 3, Some(1)), &all), "the leader is heard");
        all.lost(1);
        assert!(would_vote(9, &ask, &view(&members, 3, Some(1)), &all));
        let lately = View { led_at_ms: 0, ..view(&members, 3, Some(1)) };
        assert!(!would_vote(9, &ask, &lately, &all), "openraft's lease");
        let longer = View { last: id(1, 6), ..view(&members, 3, Some(1)) };
        assert!(!would_vote(9, &ask, &longer, &all), "it would lose entries");
        assert!(!would_vote(9, &ask, &view(&members, 3, Some(3)), &all), "it leads itself");
        let returned = Ask { candidate: 1, last: None };
        assert!(
            would_vote(9, &returned, &view(&members, 3, Some(1)), &peers(0, &[1])),
            "the leader itself asks"
        );
    }

    #[test]
    fn two_that_stood_at_once_do_not_do_so_again() {
        let members = members();
        let peers = peers(0, &[2, 3]);
        let next = |me| {
            let mut candidacy = Candidacy { tries: 1, ..Candidacy::default() };
            candidacy.elects(0, &view(&members, me, None));
            candidacy.next_try_ms
        };
        let mut tries = [next(1), next(2), next(3)];
        tries.sort_unstable();
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] >= 3 * RAFT_CANDIDATE_STEP_MS), "{tries:?}");
        assert!(tries[0] >= RAFT_LEASE_MS as i64);
        let stood = View { voted_at_ms: 0, ..view(&members, 3, None) };
        assert!(!would_vote(1, &Ask { candidate: 2, last: None }, &stood, &peers), "it stands itself");
    }

    #[test]
    fn who_has_voted_leaves_that_candidate_time() {
        let members = members();
        let peers = peers(0, &[1, 2]);
        let lease = RAFT_LEASE_MS as i64;
        let voted = View { voted_at_ms: 0, ..view(&members, 3, None) };
        let ask = Ask { candidate: 1, last: None };
        let mut candidacy = Candidacy::default();
        assert!((0..lease).all(|now| !candidacy.stands(now, &voted, &peers)));
        assert!(!would_vote(lease - 1, &ask, &voted, &peers));
        assert!(would_vote(lease, &ask, &voted, &peers), "it did not come to lead");
        assert!(candidacy.stands(lease, &voted, &peers));
    }

    #[test]
    fn a_majority_is_one_of_every_set() {
        let mut members = members();
        assert!(is_majority(&members, &[1, 2].into()) && !is_majority(&members, &[2, 9].into()));
        members.voters.push([1, 4, 5].into());
        assert!(!is_majority(&members, &[1, 2].into()) && is_majority(&members, &[1, 2, 4].into()));
        assert!(!is_majority(&Members::default(), &[1].into()));
        let members = super::tests::members();
        assert!(!view(&members, 1, Some(1)).hears_majority(0, &peers(0, &[])));
        assert!(view(&members, 1, Some(1)).hears_majority(0, &peers(0, &[3])));
        assert!(!view(&members, 1, Some(1)).hears_majority(SILENT, &peers(0, &[3])));
    }

    #[test]
    fn a_node_that_started_anew_is_told_apart() {
        let mut peers = peers(0, &[4]);
        assert!(!peers.heard(5, 4, 1) && peers.heard(6, 4, 2));
        peers.lost(4);
        assert!(!peers.is_alive(7, 4));
        peers.heard(8, 4, 2);
        assert!(peers.is_alive(9, 4) && !peers.is_alive(8 + SILENT, 4));
    }
}
