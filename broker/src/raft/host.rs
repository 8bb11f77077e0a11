//! Every group of this node: what comes in for them, who of the other nodes lives, and elections.
//!
//! One task looks at the groups each `RAFT_TICK_MS`, another greets peers; a group at rest costs them a few
//! hundred nanoseconds and the network nothing. Candidates ask peers in one message per peer, whatever the
//! number of groups (TiKV's store that un-hibernated 300,000 regions when a peer died is the warning).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use highwater_log::disk::Disk;
use highwater_model::limits::{
    RAFT_PRE_VOTES_PER_MESSAGE, RAFT_RESIGN_TRIES, RAFT_RPC_MS_MAX, RAFT_SILENT_MS, RAFT_TICK_MS,
};
use highwater_model::{LeaderEpoch, NodeId, TopicPartition};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::OpenError;
use super::group::{END_NODE, GroupSettings, RaftGroup};
use super::message::{Answer, PreVote, Request, Resigned, Route, Transport, Unreached};
use super::port::{LeadershipPort, PartitionPort};
use super::store::{Beginning, Store};
use super::sync_queue::SyncQueue;
use crate::core::raft_election::{Ask, Greeting, Peers, is_majority};
use crate::core::raft_side::ReplicaId;

/// What the groups of one node share.
pub struct RaftHost {
    node: NodeId,
    /// Differs from start to start.
    boot: u64,
    transport: Arc<dyn Transport>,
    leadership: Arc<dyn LeadershipPort>,
    syncs: Arc<SyncQueue>,
    groups: RwLock<HashMap<TopicPartition, Arc<RaftGroup>>>,
    peers: Mutex<Peers>,
    /// Peers with a greeting under way.
    greeted: Mutex<BTreeSet<NodeId>>,
    started: Instant,
    is_stopped: AtomicBool,
}

/// One candidacy of this node.
struct Candidate {
    group: Arc<RaftGroup>,
    ask: Ask,
    yes: BTreeSet<ReplicaId>,
}

impl RaftHost {
    /// A node without groups. `boot` must differ from that of the node's earlier starts.
    pub fn new(
        node: NodeId,
        boot: u64,
        transport: Arc<dyn Transport>,
        leadership: Arc<dyn LeadershipPort>,
        syncs: Arc<SyncQueue>,
    ) -> Arc<RaftHost> {
        Arc::new(RaftHost {
            node,
            boot,
            transport,
            leadership,
            syncs,
            groups: RwLock::default(),
            peers: Mutex::default(),
            greeted: Mutex::default(),
            started: Instant::now(),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// Looks after peers and groups until `stop`.
    pub async fn run(self: Arc<RaftHost>) {
        // On a task of its own: a group may hold a look at it up for as long as its disk takes, and the node
        // is not to fall silent for that.
        let mut greetings = JoinSet::new();
        greetings.spawn(self.clone().greet_peers());
        let mut ticks = ticks();
        while !self.is_stopped.load(Ordering::SeqCst) {
            ticks.tick().await;
            self.tick();
        }
    }

    async fn greet_peers(self: Arc<RaftHost>) {
        let mut ticks = ticks();
        while !self.is_stopped.load(Ordering::SeqCst) {
            ticks.tick().await;
            let groups: Vec<_> = self.groups().values().cloned().collect();
            let mut nodes = BTreeSet::new();
            for group in groups {
                nodes.extend(group.members().nodes.values().copied().filter(|node| self.is_peer(*node)));
            }
            self.peers().listen(self.now_ms(), &nodes);
            for node in nodes {
                self.greet(node);
            }
        }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn group(&self, tp: TopicPartition) -> Option<Arc<RaftGroup>> {
        self.groups().get(&tp).cloned()
    }

    /// Which replicas another node has of these partitions, in their order, each in the group that is since
    /// the leader epoch.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn replicas_on(
        &self,
        node: NodeId,
        asked: Vec<(TopicPartition, LeaderEpoch)>,
    ) -> Result<Vec<Option<ReplicaId>>, Unreached> {
        let (deadline, wanted) = (Duration::from_millis(RAFT_RPC_MS_MAX), asked.len());
        match self.transport.call(node, Request::Replicas(asked), deadline).await? {
            Answer::Replicas(found) if found.len() == wanted => Ok(found),
            other => Err(Unreached {
                node,
                why: format!("an answer to something else: {other:?}"),
                is_lost: false,
            }),
        }
    }

    /// Differs from start to start of another node; none while it is not heard.
    pub fn boot_of(&self, node: NodeId) -> Option<u64> {
        self.peers().boot(self.now_ms(), node)
    }

    /// Opens a partition's group. `is_on_record`: the coordinator has had a leader of it.
    ///
    /// # Errors
    /// As `Store::open`; storage that openraft does not accept.
    pub async fn open_group(
        &self,
        tp: TopicPartition,
        disk: Arc<dyn Disk>,
        port: Arc<dyn PartitionPort>,
        beginning: Beginning,
        is_on_record: bool,
    ) -> Result<Arc<RaftGroup>, OpenError> {
        let syncs = self.syncs.clone();
        let open = move || Store::open(&disk, port, syncs, &beginning);
        let store = tokio::task::spawn_blocking(open).await.map_err(|e| OpenError::Raft(e.to_string()))??;
        let (node, transport) = (self.node, self.transport.clone());
        let group = RaftGroup::start(GroupSettings { tp, node, store, transport, is_on_record }).await?;
        let group = Arc::new(group);
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(tp, group.clone());
        Ok(group)
    }

    /// Ends a group's part on this node; its files stay.
    pub async fn close_group(&self, tp: TopicPartition) {
        let group = self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&tp);
        if let Some(group) = group {
            // This node lives, and by that the others would take it to lead on.
            if let Some((members, term)) = group.resignation() {
                for (to, node) in members.nodes.iter().filter(|(_, node)| self.is_peer(**node)) {
                    let resigned = Resigned { route: Route { tp, from: group.me, to: *to }, term };
                    tokio::spawn(resign(self.transport.clone(), *node, resigned));
                }
            }
            group.close().await;
        }
    }

    /// Ends every group.
    pub async fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        let groups = std::mem::take(&mut *self.groups.write().unwrap_or_else(PoisonError::into_inner));
        let closing: FuturesUnordered<_> = groups.values().map(|group| group.close()).collect();
        closing.collect::<Vec<()>>().await;
    }

    /// As if the process had died: no more is answered or written.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.groups().values().for_each(|group| group.store.fail("killed"));
    }

    /// Answers what another node asks.
    pub async fn serve(self: &Arc<RaftHost>, from: NodeId, request: Request) -> Answer {
        if self.is_stopped.load(Ordering::SeqCst) {
            return Answer::Refused("the node stops".to_owned());
        }
        match request {
            Request::Greeting(said) => {
                self.heard(from, said);
                Answer::Greeting(self.greeting())
            }
            Request::Append(append) => match self.addressed(append.route.tp, append.route.to) {
                Ok(group) => group.serve_append(append, self.now_ms()).await,
                Err(refused) => refused,
            },
            Request::Vote(ask) => match self.addressed(ask.route.tp, ask.route.to) {
                Ok(group) => group.serve_vote(ask, self.now_ms()).await,
                Err(refused) => refused,
            },
            Request::Snapshot(send) => match self.addressed(send.route.tp, send.route.to) {
                Ok(group) => group.serve_snapshot(send).await,
                Err(refused) => refused,
            },
            Request::PreVotes(asks) => self.serve_pre_votes(from, &asks),
            Request::Resigned(Resigned { route, term }) => match self.addressed(route.tp, route.to) {
                Ok(group) => {
                    group.resigned(route.from, term);
                    Answer::Greeting(self.greeting())
                }
                Err(refused) => refused,
            },
            Request::Replicas(asked) => {
                let groups = self.groups();
                let of = |(tp, since_epoch): &(TopicPartition, LeaderEpoch)| {
                    let its = groups.get(tp).filter(|group| group.is_since(*since_epoch));
                    its.map(|group| group.me)
                };
                Answer::Replicas(asked.iter().map(of).collect())
            }
        }
    }

    fn serve_pre_votes(&self, from: NodeId, asks: &[PreVote]) -> Answer {
        let (now_ms, peers) = (self.now_ms(), self.peers().clone());
        let mut unheard = Vec::new();
        let judge = |pre: &PreVote| match self.addressed(pre.tp, pre.to) {
            Ok(group) => {
                let is_yes = group.would_vote(now_ms, &pre.ask, &peers);
                if group.leads_on(from) {
                    unheard.push(group);
                }
                is_yes
            }
            Err(_) => false,
        };
        let said = asks.iter().map(judge).collect();
        // Who asks does not know who leads. In a group at rest nothing else would tell it; and if it is in a
        // later term, that is better found now than by the next write.
        heartbeat_all(unheard);
        Answer::PreVotes(said)
    }

    /// The group here, if the replica that is spoken to is the one that this node has now.
    fn addressed(&self, tp: TopicPartition, to: ReplicaId) -> Result<Arc<RaftGroup>, Answer> {
        match self.group(tp) {
            Some(group) if group.me == to => Ok(group),
            Some(group) => Err(Answer::Refused(format!("replica {to} is no more, {} is here", group.me))),
            None => Err(Answer::Refused("no such group here".to_owned())),
        }
    }

    fn is_peer(&self, node: NodeId) -> bool {
        node != self.node && node != END_NODE
    }

    fn groups(&self) -> std::sync::RwLockReadGuard<'_, HashMap<TopicPartition, Arc<RaftGroup>>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since this node started; only differences count.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// What this node says of itself.
    fn greeting(&self) -> Greeting {
        self.peers().greeting(self.now_ms(), self.boot)
    }

    fn heard(self: &Arc<RaftHost>, node: NodeId, said: Greeting) {
        let now_ms = self.now_ms();
        let (is_new, was_away) = {
            let mut peers = self.peers();
            let was_away = !peers.is_alive(now_ms, node);
            (peers.heard(now_ms, node, said), was_away)
        };
        if !is_new && !was_away {
            return;
        }
        let groups: Vec<_> = self.groups().values().cloned().collect();
        let mut leading = Vec::new();
        for group in groups {
            if is_new {
                group.restarted(node);
            }
            if group.leads_on(node) {
                leading.push(group);
            }
        }
        heartbeat_all(leading);
    }

    fn tick(self: &Arc<RaftHost>) {
        let now_ms = self.now_ms();
        let groups: Vec<_> = self.groups().values().cloned().collect();
        let peers = self.peers().clone();
        let mut candidates = Vec::new();
        for group in groups {
            let wish = group.tick(now_ms, &peers);
            if let Some(ask) = wish.stands {
                candidates.push(Candidate { group: group.clone(), ask, yes: BTreeSet::from([group.me]) });
            }
            if let Some(term) = wish.report_term {
                tokio::spawn(report(self.leadership.clone(), group.clone(), self.node, term));
            }
            if wish.heartbeat {
                tokio::spawn(async move { group.heartbeat().await });
            }
        }
        if !candidates.is_empty() {
            tokio::spawn(self.clone().stand(candidates));
        }
    }

    /// Greets a peer, unless a greeting is under way.
    fn greet(self: &Arc<RaftHost>, node: NodeId) {
        if !self.greeted.lock().unwrap_or_else(PoisonError::into_inner).insert(node) {
            return;
        }
        let host = self.clone();
        tokio::spawn(async move {
            let deadline = Duration::from_millis(RAFT_SILENT_MS as u64 / 2);
            let answer = host.transport.call(node, Request::Greeting(host.greeting()), deadline).await;
            match answer {
                Ok(Answer::Greeting(said)) => host.heard(node, said),
                // It stops, and leads no more.
                Ok(Answer::Refused(_)) => host.peers().lost(node),
                Ok(_) => {}
                Err(e) if e.is_lost => host.peers().lost(node),
                Err(_) => {}
            }
            // A greeting or two per silence is enough; one that was lost is tried again at once.
            tokio::time::sleep(Duration::from_millis(2 * RAFT_TICK_MS)).await;
            host.greeted.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        });
    }

    /// Asks peers for their votes beforehand, in one message per peer; those who would win stand for
    /// election.
    async fn stand(self: Arc<RaftHost>, mut candidates: Vec<Candidate>) {
        let mut asks: BTreeMap<NodeId, Vec<(usize, PreVote)>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            let members = candidate.group.members();
            for replica in members.voters.iter().flatten().collect::<BTreeSet<_>>() {
                if let Some(node) = members.nodes.get(replica).filter(|node| **node != self.node) {
                    let pre = PreVote { tp: candidate.group.tp, to: *replica, ask: candidate.ask };
                    asks.entry(*node).or_default().push((at, pre));
                }
            }
        }
        let mut answers = FuturesUnordered::new();
        for (node, asks) in asks {
            for part in asks.chunks(RAFT_PRE_VOTES_PER_MESSAGE) {
                let (at, pre): (Vec<_>, Vec<_>) = part.iter().cloned().unzip();
                let to: Vec<_> = pre.iter().map(|pre| pre.to).collect();
                let host = self.clone();
                answers.push(async move {
                    let deadline = Duration::from_millis(RAFT_RPC_MS_MAX / 10);
                    let answer = host.transport.call(node, Request::PreVotes(pre), deadline).await;
                    (at, to, answer)
                });
            }
        }
        // Who stands alone in its group needs nobody's word.
        for candidate in &mut candidates {
            self.elect_if_won(candidate);
        }
        while let Some((at, to, answer)) = answers.next().await {
            let Ok(Answer::PreVotes(said)) = answer else { continue };
            for ((at, replica), yes) in at.into_iter().zip(to).zip(said) {
                if yes {
                    candidates[at].yes.insert(replica);
                    self.elect_if_won(&mut candidates[at]);
                }
            }
        }
    }

    fn elect_if_won(self: &Arc<RaftHost>, candidate: &mut Candidate) {
        if candidate.yes.is_empty() || !is_majority(&candidate.group.members(), &candidate.yes) {
            return;
        }
        candidate.yes.clear();
        let (host, group) = (self.clone(), candidate.group.clone());
        tokio::spawn(async move {
            let peers = host.peers().clone();
            group.elect(host.now_ms(), &peers).await;
        });
    }
}

/// Tells one of a group that its leader leads no more, until that has been heard; who cannot be reached for
/// so long takes the node to be gone anyway.
async fn resign(transport: Arc<dyn Transport>, node: NodeId, resigned: Resigned) {
    for _ in 0..RAFT_RESIGN_TRIES {
        let deadline = Duration::from_millis(RAFT_SILENT_MS as u64 / 2);
        if transport.call(node, Request::Resigned(resigned), deadline).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(RAFT_TICK_MS)).await;
    }
}

/// When groups are looked at, and peers greeted.
fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(RAFT_TICK_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Leaders say that they lead, one after another.
fn heartbeat_all(groups: Vec<Arc<RaftGroup>>) {
    if groups.is_empty() {
        return;
    }
    tokio::spawn(async move {
        for group in groups {
            group.heartbeat().await;
        }
    });
}

/// Tells the coordinator who leads, and the group whether that is on record.
async fn report(port: Arc<dyn LeadershipPort>, group: Arc<RaftGroup>, node: NodeId, term: u64) {
    let is_on_record = port.led(group.tp, node, term).await;
    if !is_on_record {
        // Not more often than that while the coordinator is away.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    group.reported(term, is_on_record);
}
