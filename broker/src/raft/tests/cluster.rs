//! Three nodes in one process: an in-memory network that can be cut, simulated disks that can crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use highwater_log::disk::{Disk, SimDisk};
use highwater_model::{NodeId, TopicId, TopicPartition};
use uuid::Uuid;

use super::kit::{Home, SlowDisk, batch_of};
use crate::raft::{
    Answer, Appended, Beginning, LeadershipPort, OpenError, ProposeRefusal, RaftGroup, RaftHost, Request,
    Role, SyncQueue, Transport, Unreached,
};

/// Looks, 20 ms apart, at what has to come about: two minutes, however slow the machine is.
pub const LOOKS: usize = 6_000;

/// Calls between nodes; those of a cut pair are lost.
#[derive(Default)]
pub struct Net {
    hosts: RwLock<BTreeMap<NodeId, Arc<RaftHost>>>,
    cut: RwLock<BTreeSet<(NodeId, NodeId)>>,
    pub calls: AtomicU64,
}

pub struct Link {
    from: NodeId,
    net: Arc<Net>,
}

#[async_trait::async_trait]
impl Transport for Link {
    async fn call(&self, to: NodeId, request: Request, deadline: Duration) -> Result<Answer, Unreached> {
        let lost = |why: &str, is_lost| Unreached { node: to, why: why.to_owned(), is_lost };
        let is_cut = |a, b| self.net.cut.read().expect("cut").contains(&(a, b));
        self.net.calls.fetch_add(1, Ordering::SeqCst);
        if is_cut(self.from, to) {
            tokio::time::sleep(deadline).await;
            return Err(lost("cut", false));
        }
        let host = self.net.hosts.read().expect("hosts").get(&to).cloned();
        let Some(host) = host else { return Err(lost("down", true)) };
        let (from, asked) = (self.from, host.clone());
        // On a task of its own, as on another machine: who gives up waiting does not stop it.
        let served = tokio::spawn(async move { host.serve(from, request).await });
        let answer = tokio::time::timeout(deadline, served).await.map_err(|_| lost("late", false))?;
        if is_cut(to, self.from) {
            return Err(lost("cut", false));
        }
        // The dead say nothing: what they would have said may not be on their disk.
        let is_there = |host: &Arc<RaftHost>| Arc::ptr_eq(host, &asked);
        if !self.net.hosts.read().expect("hosts").get(&to).is_some_and(is_there) {
            return Err(lost("died", true));
        }
        answer.map_err(|_| lost("ended", true))
    }
}

/// A coordinator that takes every report; the first leader of a term wins.
#[derive(Default)]
pub struct Records {
    pub leaders: Mutex<BTreeMap<u64, NodeId>>,
}

#[async_trait::async_trait]
impl LeadershipPort for Records {
    async fn led(&self, _tp: TopicPartition, node: NodeId, term: u64) -> bool {
        *self.leaders.lock().expect("leaders").entry(term).or_insert(node) == node
    }
}

pub struct Node {
    pub disk: SimDisk,
    pub home: Arc<Home>,
    pub host: Arc<RaftHost>,
    pub group: Arc<RaftGroup>,
    syncs: Arc<SyncQueue>,
    task: tokio::task::JoinHandle<()>,
}

pub struct Cluster {
    pub net: Arc<Net>,
    pub records: Arc<Records>,
    pub nodes: BTreeMap<NodeId, Node>,
    boots: u64,
}

pub fn partition() -> TopicPartition {
    TopicPartition::new(TopicId(Uuid::from_u128(7)), 0)
}

fn members() -> BTreeMap<u64, NodeId> {
    BTreeMap::from([(1, 1), (2, 2), (3, 3)])
}

impl Cluster {
    pub async fn start() -> Cluster {
        let mut cluster =
            Cluster { net: Arc::default(), records: Arc::default(), nodes: BTreeMap::new(), boots: 0 };
        for node in [1, 2, 3] {
            cluster.open(node, SimDisk::new()).await.expect("opens");
        }
        cluster
    }

    pub async fn open(&mut self, node: NodeId, disk: SimDisk) -> Result<(), OpenError> {
        let beginning = Beginning::Group { replica: node, term: 3, offset: 0, members: members() };
        self.open_as(node, disk, beginning).await
    }

    pub async fn open_as(
        &mut self,
        node: NodeId,
        disk: SimDisk,
        beginning: Beginning,
    ) -> Result<(), OpenError> {
        self.boots += 1;
        let link = Arc::new(Link { from: node, net: self.net.clone() });
        let syncs = Arc::new(SyncQueue::start().expect("threads"));
        let host = RaftHost::new(node, self.boots, link, self.records.clone(), syncs.clone());
        let raw: Arc<dyn Disk> = Arc::new(SlowDisk(disk.clone()));
        let home = Home::open_on(raw.clone());
        let group = host.open_group(partition(), raw, home.clone(), beginning, false).await?;
        self.net.hosts.write().expect("hosts").insert(node, host.clone());
        let task = tokio::spawn(host.clone().run());
        self.nodes.insert(node, Node { disk, home, host, group, syncs, task });
        Ok(())
    }

    /// The node's process dies; what its disk has not synced is lost if `power` fails too.
    pub async fn kill(&mut self, node: NodeId, power: Option<u64>) -> SimDisk {
        self.net.hosts.write().expect("hosts").remove(&node);
        let gone = self.nodes.remove(&node).expect("it runs");
        // Nothing more reaches the disk that will be opened again.
        gone.home.is_closed.store(true, Ordering::SeqCst);
        gone.group.store.fail("killed");
        // Whoever is at the log is done with it.
        drop(gone.home.log.lock().expect("log"));
        if power.is_none() {
            gone.syncs.stop();
        }
        let disk = match power {
            Some(seed) => gone.disk.crash(seed).expect("memory"),
            None => gone.disk.clone(),
        };
        gone.task.abort();
        tokio::spawn(async move { gone.host.stop().await });
        disk
    }

    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.net.cut.write().expect("cut").extend([(a, b), (b, a)]);
    }

    /// `to` hears nothing of what `from` says, neither calls nor answers.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.net.cut.write().expect("cut").insert((from, to));
    }

    pub fn heal(&self) {
        self.net.cut.write().expect("cut").clear();
    }

    pub fn group(&self, node: NodeId) -> &Arc<RaftGroup> {
        &self.nodes[&node].group
    }

    /// The node that leads and takes writes, among those of `nodes`.
    pub async fn leader_of(&self, nodes: &[NodeId]) -> (NodeId, u64) {
        for _ in 0..LOOKS {
            let leads = nodes.iter().filter(|n| self.nodes.contains_key(n)).find_map(|n| {
                match self.group(*n).role() {
                    Role::Leader { term, takes_writes: true } => Some((*n, term)),
                    _ => None,
                }
            });
            // A leader that was cut off may not know yet: the newest term counts.
            let newest =
                |term| nodes.iter().all(|n| self.nodes.get(n).is_none_or(|n| n.group.store.term() <= term));
            if let Some((node, term)) = leads.filter(|(_, term)| newest(*term)) {
                return (node, term);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no leader: {:?}", nodes.iter().map(|n| self.group(*n).role()).collect::<Vec<_>>());
    }

    pub async fn leader(&self) -> (NodeId, u64) {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        self.leader_of(&nodes).await
    }

    /// Proposes through `node` and waits for the commit.
    pub async fn produce(&self, node: NodeId, text: &str, sequence: i32) -> Result<Appended, ProposeRefusal> {
        let (header, bytes) = batch_of(text, 2, 77, sequence);
        let group = self.group(node).clone();
        let appended = group.propose(&header, bytes).await?;
        group.committed(&appended).await?;
        Ok(appended)
    }

    /// Waits until every node has the same bytes, all of them committed.
    pub async fn converged(&self) -> Vec<u8> {
        let look = || {
            let mut logs: Vec<_> = self.nodes.values().map(|n| (n.home.bytes(), n.home.log_end())).collect();
            let marks: BTreeSet<_> = self.nodes.values().map(|n| n.group.high_watermark()).collect();
            logs.dedup();
            let end = logs[0].1;
            (logs.len() == 1 && marks == BTreeSet::from([end])).then(|| logs.remove(0).0)
        };
        for _ in 0..LOOKS {
            if let Some(bytes) = look() {
                return bytes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ends: Vec<_> = self
            .nodes
            .iter()
            .map(|(n, node)| (*n, node.home.log_end(), node.group.high_watermark(), node.group.role()))
            .collect();
        panic!("no convergence: {ends:?}");
    }

    pub async fn stop(self) {
        for node in self.nodes.into_values() {
            node.host.stop().await;
            node.task.abort();
        }
    }
}
