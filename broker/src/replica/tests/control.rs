//! A naive control plane for one partition: sessions, elections with eligible leader replicas (KIP-966) and
//! in-sync sets (KIP-497), in as few words as possible.

use super::*;

pub const NODES: [NodeId; 3] = [1, 2, 3];
pub const MIN_ISR: usize = 2;

pub struct Control {
    pub leader: Option<NodeId>,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    pub isr: Vec<NodeId>,
    elr: Vec<NodeId>,
    last_leader: Option<NodeId>,
    fenced: Vec<NodeId>,
    broker_epochs: [u64; 3],
    flush: bool,
}

impl Control {
    pub fn new(flush: bool) -> Control {
        Control {
            leader: Some(1),
            leader_epoch: 0,
            partition_epoch: 0,
            isr: NODES.to_vec(),
            elr: Vec::new(),
            last_leader: Some(1),
            fenced: Vec::new(),
            broker_epochs: [1; 3],
            flush,
        }
    }

    pub fn broker_epoch(&self, node: NodeId) -> u64 {
        self.broker_epochs[node as usize - 1]
    }

    pub fn assignment(&self) -> Assignment {
        let member = |node_id: NodeId| Member {
            node_id,
            broker_epoch: self.broker_epoch(node_id),
            may_join: !self.fenced.contains(&node_id),
        };
        Assignment {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            replicas: NODES.map(member).to_vec(),
            isr: self.isr.clone(),
            min_isr: MIN_ISR,
            flush_before_ack: self.flush,
            lag_ms_max: LAG_MS,
        }
    }

    fn set_isr(&mut self, isr: Vec<NodeId>) {
        let left: Vec<NodeId> = self.isr.iter().filter(|n| !isr.contains(n)).copied().collect();
        if isr.len() >= MIN_ISR {
            self.elr.clear();
        } else {
            self.elr.extend(left);
            self.elr.retain(|n| !isr.contains(n));
        }
        self.isr = isr;
        self.partition_epoch += 1;
    }

    fn elect(&mut self, among: &[NodeId]) {
        let is_there = |n: &&NodeId| !self.fenced.contains(n);
        let leader = among.iter().find(is_there).or(self.isr.iter().find(is_there)).copied();
        let leader = leader.or(self.elr.iter().find(is_there).copied());
        let none_eligible = self.isr.is_empty() && self.elr.is_empty();
        let leader = leader.or(self.last_leader.filter(|n| none_eligible && is_there(&n)));
        if let Some(leader) = leader
            && !self.isr.contains(&leader)
        {
            self.set_isr(vec![leader]);
        }
        self.leader = leader;
        self.last_leader = leader.or(self.last_leader);
        self.leader_epoch += 1;
        self.partition_epoch += 1;
    }

    pub fn fence(&mut self, node: NodeId) {
        if self.fenced.contains(&node) {
            return;
        }
        self.fenced.push(node);
        self.leave(node);
    }

    fn leave(&mut self, node: NodeId) {
        if self.isr.contains(&node) {
            self.set_isr(self.isr.iter().filter(|n| **n != node).copied().collect());
        }
        if self.leader == Some(node) {
            self.elect(&[]);
        }
    }

    /// A process registers. One that did not stop cleanly may have lost what it had.
    pub fn register(&mut self, node: NodeId) -> u64 {
        self.fence(node);
        self.elr.retain(|n| *n != node);
        self.partition_epoch += 1;
        self.broker_epochs[node as usize - 1] += 1;
        self.heartbeat(node);
        self.broker_epoch(node)
    }

    /// The session of a living process is there again.
    pub fn heartbeat(&mut self, node: NodeId) {
        self.fenced.retain(|n| *n != node);
        if self.leader.is_none() {
            self.elect(&[]);
        }
    }

    pub fn prefer(&mut self, node: NodeId) {
        if self.leader != Some(node) && self.isr.contains(&node) && !self.fenced.contains(&node) {
            self.elect(&[node]);
        }
    }

    pub fn alter(&mut self, node: NodeId, proposal: &IsrProposal) -> IsrOutcome {
        let is_there = |m: &crate::core::replica::IsrMember| {
            !self.fenced.contains(&m.node_id) && self.broker_epoch(m.node_id) == m.broker_epoch
        };
        if self.leader != Some(node)
            || (proposal.leader_epoch, proposal.partition_epoch) != (self.leader_epoch, self.partition_epoch)
            || !proposal.isr.iter().all(is_there)
        {
            return IsrOutcome::Refused;
        }
        let isr: Vec<NodeId> = proposal.isr.iter().map(|m| m.node_id).collect();
        if isr != self.isr {
            self.set_isr(isr);
        }
        IsrOutcome::Accepted { partition_epoch: self.partition_epoch }
    }

    /// Whether everybody else that may be elected is needed: `node` may lose what is not on its disk only
    /// then.
    pub fn others_in_sync(&self, node: NodeId) -> Vec<NodeId> {
        self.isr.iter().chain(&self.elr).filter(|n| **n != node).copied().collect()
    }

    pub fn is_in_sync(&self, node: NodeId) -> bool {
        self.isr.contains(&node)
    }
}
