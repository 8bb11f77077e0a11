//! What brokers and operators ask of the control plane about brokers and partitions: each method one command.

use highwater_model::{NodeId, TopicPartition};

use crate::core::{AlterPartition, Command, DamagedLog, ElectionKind, RaftLeader, Reply, Resignation};
use crate::handle::{Coordinator, WriteError, unexpected};

impl Coordinator {
    /// A leader's wish for its in-sync set (KIP-497); returns the partition's epoch that has it.
    pub async fn alter_partition(&self, alter: AlterPartition) -> Result<i32, WriteError> {
        match self.write(Command::AlterPartition(alter)).await? {
            Reply::PartitionEpoch(epoch) => Ok(epoch),
            other => Err(unexpected(&other)),
        }
    }

    /// This node's replica of a partition is damaged below what it had synced: it is not to be counted on.
    pub async fn log_damaged(&self, damaged: DamagedLog) -> Result<(), WriteError> {
        self.write(Command::LogDamaged(damaged)).await.map(|_| ())
    }

    /// Leaders without room give their place to other in-sync replicas, each on its own.
    pub async fn resign_leaders(&self, resigned: Vec<Resignation>) -> Vec<Result<(), WriteError>> {
        let commands = resigned.into_iter().map(|one| Ok(Command::ResignLeader(one))).collect();
        self.write_prepared(commands, false).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// This broker is about to stop, in order: its leaders move before this returns.
    pub async fn stop_broker(&self, node_id: NodeId, broker_epoch: u64) -> Result<(), WriteError> {
        self.write(Command::StopBroker { node_id, broker_epoch }).await.map(|_| ())
    }

    /// Takes a broker that has gone for fenced; one that has registered since is left alone.
    pub async fn fence_broker(&self, node_id: NodeId, broker_epoch: u64) -> Result<(), WriteError> {
        self.write(Command::FenceBroker { node_id, broker_epoch }).await.map(|_| ())
    }

    /// Whether a broker gives its replicas away and gets no new ones.
    pub async fn drain_broker(&self, node_id: NodeId, is_draining: bool) -> Result<(), WriteError> {
        self.write(Command::DrainBroker { node_id, is_draining }).await.map(|_| ())
    }

    /// Forgets a broker that is fenced and has no replica.
    pub async fn remove_broker(&self, node_id: NodeId) -> Result<(), WriteError> {
        self.write(Command::RemoveBroker { node_id }).await.map(|_| ())
    }

    /// Elects leaders, each partition on its own.
    pub async fn elect_leaders(
        &self,
        partitions: Vec<TopicPartition>,
        kind: ElectionKind,
    ) -> Vec<Result<(), WriteError>> {
        let commands = partitions.into_iter().map(|tp| Ok(Command::ElectLeader { tp, kind })).collect();
        self.write_prepared(commands, false).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// Moves partitions to these replicas, or takes back moves that are under way (KIP-455), each on its own.
    pub async fn reassign(
        &self,
        moves: Vec<(TopicPartition, Option<Vec<NodeId>>)>,
    ) -> Vec<Result<(), WriteError>> {
        let command = |(tp, replicas)| Ok(Command::Reassign { tp, replicas });
        let commands = moves.into_iter().map(command).collect();
        self.write_prepared(commands, false).await.into_iter().map(|r| r.map(|_| ())).collect()
    }

    /// A member of a partition's Raft group reports that it leads.
    pub async fn raft_leader(&self, report: RaftLeader) -> Result<(), WriteError> {
        self.write(Command::RaftLeader(report)).await.map(|_| ())
    }

    /// Proposes a command as it stands: the hand-over of a partition between fetch and raft.
    pub async fn hand_over(&self, command: Command) -> Result<(), WriteError> {
        debug_assert!(matches!(command, Command::RaftBegin { .. } | Command::RaftEnd { .. }));
        self.write(command).await.map(|_| ())
    }
}
