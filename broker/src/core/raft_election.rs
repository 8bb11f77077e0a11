//! Who stands for election in a partition's group, and when. Pure: the time and what was heard are arguments.
//!
//! Liveness belongs to nodes: peers greet each other, groups do not, so that a thousand groups at rest cost
//! nothing. A replica stands only when its leader's node is gone or silent, or when it knows of no leader;
//! candidates of a group come one after another by a rank that every replica computes alike. openraft 0.9 has
//! no pre-vote, so a candidate asks first: peers that hear the leader, or have a longer log, say no, and no
//! term is spent; a node that comes back does not unseat a leader that others follow. Who has given its vote
//! leaves that candidate time: a term beyond the new leader's would make it stumble at its next entry.
//! A node says in its greetings whom it does not hear: a leader that hears no majority is heard in vain, and
//! its followers count it as gone. So they do one that is known by others' answers only and sends nothing
//! itself: its node may have come back without it. Nothing here bears on safety: that is openraft's.
//! Invariant 17.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::NodeId;
use highwater_model::limits::{RAFT_CANDIDATE_STEP_MS, RAFT_LEASE_MS, RAFT_PREFERENCE_MS, RAFT_SILENT_MS};

use super::raft_side::{EntryId, Members, ReplicaId};

/// What a node says of itself when it greets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Chosen anew at each start of the node's process.
    pub boot: u64,
    /// Nodes of its groups of which it has heard nothing for `RAFT_SILENT_MS`.
    pub unheard: BTreeSet<NodeId>,
}

/// What is known of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    at_ms: i64,
    said: Greeting,
    /// Its connection broke and it has not answered since.
    is_lost: bool,
}

/// Every node that was heard of.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    heard: BTreeMap<NodeId, Heard>,
    /// Nodes that share a group with this one, each since when it is listened for.
    wanted: BTreeMap<NodeId, i64>,
    listened_at_ms: Option<i64>,
}

impl Peers {
    /// A node has greeted, or answered. True if it has started anew since it was heard last: what it led, it
    /// leads no more. One that is heard for the first time may have come to lead before.
    pub fn heard(&mut self, now_ms: i64, node: NodeId, said: Greeting) -> bool {
        let boot = said.boot;
        let before = self.heard.insert(node, Heard { at_ms: now_ms, said, is_lost: false });
        let is_new = before.is_some_and(|before| before.said.boot != boot);
        debug_assert!(self.is_alive(now_ms, node));
        is_new
    }

    /// To be called at each tick with the nodes that share a group with this one. Who was not listened for,
    /// be it that this process slept, is given time to be heard.
    pub fn listen(&mut self, now_ms: i64, nodes: &BTreeSet<NodeId>) {
        let slept = self.listened_at_ms.is_none_or(|at| now_ms - at > RAFT_LEASE_MS as i64);
        self.listened_at_ms = Some(now_ms);
        self.wanted.retain(|node, _| !slept && nodes.contains(node));
        for node in nodes {
            self.wanted.entry(*node).or_insert(now_ms);
        }
        debug_assert_eq!(self.wanted.len(), nodes.len());
    }

    /// What this node is to say of itself.
    pub fn greeting(&self, now_ms: i64, boot: u64) -> Greeting {
        let is_silent = |node: NodeId, since_ms: i64| {
            let heard_ms = self.heard.get(&node).map_or(since_ms, |heard| heard.at_ms);
            now_ms - heard_ms.max(since_ms) >= RAFT_SILENT_MS
        };
        let unheard = self.wanted.iter().filter(|(node, since_ms)| is_silent(**node, **since_ms));
        Greeting { boot, unheard: unheard.map(|(node, _)| *node).collect() }
    }

    /// The start of a node's process that is heard now.
    pub fn boot(&self, now_ms: i64, node: NodeId) -> Option<u64> {
        self.heard.get(&node).filter(|_| self.is_alive(now_ms, node)).map(|heard| heard.said.boot)
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

    /// Whether a node has said that it hears no majority of these members: what it leads of them it leads in
    /// vain.
    fn is_deaf(&self, node: NodeId, members: &Members) -> bool {
        let Some(unheard) = self.heard.get(&node).map(|heard| &heard.said.unheard) else { return false };
        let hears = |replica: &ReplicaId| members.nodes.get(replica).is_some_and(|on| !unheard.contains(on));
        !unheard.is_empty() && !has_majority(members, hears)
    }
}

/// What a replica has of its leader itself. A term and its leader are learned from answers of others too,
/// which may come late: after that leader's node started anew, or came back without its disk. A leader that
/// lives sends its followers an entry when its term begins, and answers a candidate's question with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The newest term in which its leader sent something.
    sent_term: u64,
    /// The newest term that is known to have a leader, and since when; there is none while there is no
    /// leader.
    known: Option<(u64, i64)>,
    /// When what a leader sent was last taken.
    taken_at_ms: i64,
}

impl Default for Led {
    fn default() -> Led {
        Led { sent_term: 0, known: None, taken_at_ms: i64::MIN / 2 }
    }
}

impl Led {
    /// The leader of a term has sent entries, a commit or a snapshot, be it taken or not.
    pub fn sent(&mut self, term: u64) {
        self.sent_term = self.sent_term.max(term);
    }

    /// What was sent last was taken.
    pub fn taken(&mut self, now_ms: i64) {
        self.taken_at_ms = self.taken_at_ms.max(now_ms);
    }

    /// To be called at each tick: whether this replica knows of a leader in its term.
    pub fn look(&mut self, now_ms: i64, term: u64, has_leader: bool) {
        let since = self.known.filter(|(known, _)| *known == term).unwrap_or((term, now_ms));
        self.known = Some(since).filter(|_| has_leader);
        debug_assert!(self.known.is_none_or(|(known, since_ms)| known == term && since_ms <= now_ms));
    }

    /// Whether the leader of a term has shown itself, or may still.
    fn is_believed(&self, now_ms: i64, term: u64) -> bool {
        let has_had_time =
            self.known.is_some_and(|(known, since_ms)| known == term && now_ms - since_ms >= RAFT_SILENT_MS);
        self.sent_term >= term || !has_had_time
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
    pub led: Led,
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

    /// Whether the leader's node is heard, hears a majority itself, and led in this term as far as this
    /// replica can tell; this node always is.
    pub fn hears_leader(&self, now_ms: i64, peers: &Peers) -> bool {
        let node = self.leader.and_then(|leader| self.members.nodes.get(&leader));
        let leads = |node: NodeId| {
            peers.is_alive(now_ms, node)
                && !peers.is_deaf(node, self.members)
                && self.led.is_believed(now_ms, self.term)
        };
        node.is_some_and(|node| *node == self.node || leads(*node))
    }

    /// Whether a majority of the voters is on nodes that are heard: a leader without one takes no writes.
    pub fn hears_majority(&self, now_ms: i64, peers: &Peers) -> bool {
        let is_here = |replica: &ReplicaId| {
            let node = self.members.nodes.get(replica);
            node.is_some_and(|node| *node == self.node || peers.is_alive(now_ms, *node))
        };
        has_majority(self.members, is_here)
    }

    /// Candidates before this one, the leader left out.
    fn rank(&self) -> i64 {
        let voters: BTreeSet<_> = self.members.voters.iter().flatten().copied().collect();
        let rank = voters.iter().filter(|v| Some(**v) != self.leader && self.is_before(**v, self.me)).count();
        debug_assert!(rank <= voters.len());
        rank as i64
    }

    fn is_before(&self, one: ReplicaId, other: ReplicaId) -> bool {
        mix(self.seed ^ one) < mix(self.seed ^ other)
    }
}

/// Whether `yes` holds a majority of each set of voters.
pub fn is_majority(members: &Members, yes: &BTreeSet<ReplicaId>) -> bool {
    has_majority(members, |replica| yes.contains(replica))
}

/// Whether more than half of each set of voters are `counted`.
fn has_majority(members: &Members, counted: impl Fn(&ReplicaId) -> bool) -> bool {
    let holds = |set: &BTreeSet<ReplicaId>| 2 * set.iter().filter(|id| counted(id)).count() > set.len();
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

    /// Whether this replica would vote for a candidate. Of two that ask each other at once and have the same
    /// log only the one that comes first gets a yes: else both would stand, and take each other's votes away.
    /// Who comes first and is not elected in `RAFT_PREFERENCE_MS` makes way.
    pub fn would_vote(&self, now_ms: i64, ask: &Ask, view: &View<'_>, peers: &Peers) -> bool {
        let goes_first =
            ask.last == view.last && view.is_voter(view.me) && view.is_before(view.me, ask.candidate);
        let is_preferred = self.since_ms.is_some_and(|since_ms| now_ms < since_ms + RAFT_PREFERENCE_MS);
        !(goes_first && is_preferred) && would_vote(now_ms, ask, view, peers)
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
fn would_vote(now_ms: i64, ask: &Ask, view: &View<'_>, peers: &Peers) -> bool {
    let leads = view.leader == Some(view.me);
    let leader_asks = view.leader == Some(ask.candidate);
    let is_led = !leader_asks && view.hears_leader(now_ms, peers);
    // openraft refuses within the lease whatever is known of the leader's node.
    let within_lease = now_ms < view.led.taken_at_ms.saturating_add(RAFT_LEASE_MS as i64);
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
mod tests;
