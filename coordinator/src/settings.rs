//! What a coordinator needs to start. Data only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::{
    BALANCE_ELECTIONS_MAX, BALANCE_MOVES_MAX, BALANCE_SETTLE_MS, BROKER_DEAD_TIMEOUT_MS,
    BROKER_SESSION_TIMEOUT_MS, RAFT_SNAPSHOT_ENTRIES,
};
use highwater_model::{Clock, NodeId};

use crate::core::BalanceSettings;
use crate::door::ControlDoor;

/// What a coordinator needs to start.
#[derive(Clone)]
pub struct CoordinatorSettings {
    pub node_id: NodeId,
    /// The node's data directory; the coordinator's files lie in `raft/` below it.
    pub data_dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    /// Longest wait for a write's answer; after it the outcome is unknown.
    pub propose_timeout: Duration,
    /// Longest wait at start until a lone node leads with its log applied.
    pub start_timeout: Duration,
    /// Raft entries between two snapshots.
    pub snapshot_entries: u64,
    /// Partitions of a topic created without a count (-1).
    pub default_partitions: i32,
    /// Replicas of a topic created without a factor (-1).
    pub default_replication_factor: i16,
    /// The coordinators' gRPC addresses, one, three or five of them; empty for a lone node.
    pub coordinators: BTreeMap<NodeId, String>,
    /// A broker whose session is silent for so long is fenced.
    pub session_timeout: Duration,
    /// How replicas and leaders are shared out; used while this node leads.
    pub balance: BalanceSettings,
    /// Where peers and brokers reach this node: its services go into the node's gRPC server before the start.
    pub door: ControlDoor,
}

impl CoordinatorSettings {
    /// The defaults of a single node.
    pub fn new(node_id: NodeId, data_dir: PathBuf, clock: Arc<dyn Clock>) -> CoordinatorSettings {
        CoordinatorSettings {
            node_id,
            data_dir,
            clock,
            propose_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
            snapshot_entries: RAFT_SNAPSHOT_ENTRIES,
            default_partitions: 1,
            default_replication_factor: 1,
            coordinators: BTreeMap::new(),
            session_timeout: Duration::from_millis(BROKER_SESSION_TIMEOUT_MS),
            balance: BalanceSettings {
                dead_timeout_ms: BROKER_DEAD_TIMEOUT_MS,
                moves_max: BALANCE_MOVES_MAX,
                elections_max: BALANCE_ELECTIONS_MAX,
                settle_ms: BALANCE_SETTLE_MS,
            },
            door: ControlDoor::default(),
        }
    }

    /// This node is the whole control plane.
    pub(crate) fn is_lone(&self) -> bool {
        self.coordinators.len() <= 1
    }
}
