//! Records below random switches between fetch and raft replication: whoever leads has what was committed,
//! and so has everybody who is held to have it.

use proptest::prelude::*;

use super::*;
use highwater_model::topic_config::Replication;

const TOPIC: &str = "t";
const NODES: [NodeId; 4] = [1, 2, 3, 4];

#[derive(Clone, Debug)]
enum Step {
    /// A record is committed, if it can be.
    Produce,
    /// Whoever is there gets what the leader has.
    CatchUp,
    Fence(NodeId),
    /// The process comes back after its session had lapsed; it has lost nothing.
    Return(NodeId),
    Wish(&'static str),
    MinIsr(u32),
    /// The fetch leader hands over.
    Begin,
    /// The group elects this node, if Raft lets it.
    Elect(NodeId),
    /// The group's leader hands back.
    End,
    /// The fetch leader keeps these in sync, and takes in who has caught up.
    Isr(Vec<NodeId>),
}

fn step() -> impl Strategy<Value = Step> {
    let node = prop::sample::select(NODES.to_vec());
    prop_oneof![
        6 => Just(Step::Produce),
        3 => Just(Step::CatchUp),
        3 => node.clone().prop_map(Step::Fence),
        4 => node.clone().prop_map(Step::Return),
        2 => prop::sample::select(vec!["fetch", "raft"]).prop_map(Step::Wish),
        1 => (1..4u32).prop_map(Step::MinIsr),
        3 => Just(Step::Begin),
        6 => node.prop_map(Step::Elect),
        3 => Just(Step::End),
        2 => prop::sample::subsequence(NODES.to_vec(), 0..=4).prop_map(Step::Isr),
    ]
}

/// What the replicas have: counts of records, all of them synced. Nothing uncommitted is modelled.
struct Plane {
    notebook: Notebook,
    ends: BTreeMap<NodeId, u64>,
    committed: u64,
}

impl Plane {
    fn new() -> Plane {
        let mut notebook = Notebook::default();
        for line in ["form plane", "register 1 9", "register 2 9", "register 3 9", "register 4 9"] {
            assert!(!notebook.line(line).starts_with("refused"), "{line}");
        }
        let create =
            format!("create {TOPIC} assign=1,2,3,4 min.insync.replicas=2 highwater.replication=raft");
        assert!(notebook.line(&create).starts_with("created"));
        Plane { notebook, ends: NODES.map(|node| (node, 0)).into(), committed: 0 }
    }

    fn partition(&self) -> Partition {
        self.topic().partitions[0].as_ref().clone()
    }

    fn topic(&self) -> std::sync::Arc<Topic> {
        self.notebook.state.topic_by_name(TOPIC).expect("there").clone()
    }

    fn is_there(&self, node: NodeId) -> bool {
        self.notebook.state.brokers[&node].is_active()
    }

    fn has_all(&self, node: NodeId) -> bool {
        self.ends[&node] == self.committed
    }

    fn take(&mut self, step: &Step) {
        let (topic, p) = (self.topic(), self.partition());
        let asks_for_raft = topic.config.replication == Replication::Raft;
        let line = match (step, p.leader) {
            (Step::Produce, Some(leader)) => return self.produce(&topic, &p, leader),
            (Step::CatchUp, Some(_)) => {
                for node in p.replicas.iter().copied().filter(|node| self.is_there(*node)).collect::<Vec<_>>()
                {
                    self.ends.insert(node, self.committed);
                }
                return;
            }
            (Step::Fence(node), _) => format!("fence {node}"),
            (Step::Return(node), _) => format!("register {node} 9"),
            (Step::Wish(way), _) => format!("alter {TOPIC} set highwater.replication={way}"),
            (Step::MinIsr(least), _) => format!("alter {TOPIC} set min.insync.replicas={least}"),
            (Step::Begin, Some(_)) if asks_for_raft && p.raft.is_none() => {
                format!("raft-begin {TOPIC} 0 offset=1000")
            }
            // A majority votes only for who has all that a majority has.
            (Step::Elect(node), _)
                if p.raft.is_some()
                    && p.isr.contains(node)
                    && self.has_all(*node)
                    && 2 * p.isr.iter().filter(|voter| self.is_there(**voter)).count() > p.isr.len() =>
            {
                format!("raft-leader {TOPIC} 0 by={node} term={}", p.leader_epoch + 1)
            }
            (Step::End, Some(leader)) if !asks_for_raft && p.raft.is_some() => {
                let isr: Vec<String> =
                    p.isr.iter().filter(|voter| self.has_all(**voter)).map(NodeId::to_string).collect();
                format!("raft-end {TOPIC} 0 {} by={leader} term={}", isr.join(","), p.leader_epoch)
            }
            (Step::Isr(wanted), Some(leader)) if p.raft.is_none() => {
                let may_stay = |node: &&NodeId| p.isr.contains(node) || self.has_all(**node);
                let kept = |node: &&NodeId| **node == leader || wanted.contains(node) && may_stay(node);
                let isr: Vec<String> = p.replicas.iter().filter(kept).map(NodeId::to_string).collect();
                format!("isr {TOPIC} 0 {}", isr.join(","))
            }
            _ => return,
        };
        self.notebook.line(&line);
    }

    /// Under fetch every in-sync replica takes a record, if they are enough; in a group a bare majority.
    /// Whoever is about to hand over takes none.
    fn produce(&mut self, topic: &Topic, p: &Partition, leader: NodeId) {
        let is_asked_for = (topic.config.replication == Replication::Raft) == p.raft.is_some();
        let there = p.isr.iter().copied().filter(|node| *node != leader && self.is_there(*node));
        let (needed, taken) = match p.raft.is_some() {
            true => (p.isr.len() / 2 + 1, p.isr.len() / 2),
            false => (topic.min_isr(p), p.isr.len()),
        };
        let takers: Vec<NodeId> = std::iter::once(leader).chain(there.take(taken)).collect();
        if is_asked_for && takers.len() >= needed {
            self.committed += 1;
            self.ends.extend(takers.into_iter().map(|node| (node, self.committed)));
        }
    }

    fn check(&self, step: &Step) {
        let p = self.partition();
        let place = || format!("{step:?}: {p:?}, ends {:?} of {}", self.ends, self.committed);
        assert!(p.leader.is_none_or(|leader| self.has_all(leader)), "who leads has everything: {}", place());
        if p.raft.is_none() {
            let counted = p.isr.iter().chain(&p.elr);
            assert!(counted.copied().all(|node| self.has_all(node)), "who is counted on: {}", place());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn switches_lose_nothing_that_was_committed(steps in prop::collection::vec(step(), 1..120)) {
        let mut plane = Plane::new();
        for step in &steps {
            plane.take(step);
            plane.check(step);
        }
    }
}
