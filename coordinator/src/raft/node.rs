//! One node of the group: opening its files, forming the group at the first start, proposing and reading.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, Raft, ServerState, SnapshotPolicy};

use super::OpenError;
use super::files::sync_dir;
use super::log_store::LogStore;
use super::machine::{Machine, StateCell, lone_peer};
use super::network::NoPeers;
use super::snapshot::SnapshotStore;
use super::types::{Replies, TypeConfig};
use super::writer::Writer;
use crate::core::Batch;

/// What a node needs to start.
pub(crate) struct NodeSettings {
    pub node_id: u64,
    /// The node's data directory; Raft's files lie in `raft/` below it.
    pub data_dir: PathBuf,
    /// Entries between two snapshots, and entries kept below one.
    pub snapshot_entries: u64,
    /// Longest wait until this node leads and has applied its log.
    pub start_timeout: Duration,
}

/// A running node.
pub(crate) struct RaftNode {
    raft: Raft<TypeConfig>,
    cell: Arc<StateCell>,
    writer: Arc<Writer>,
}

/// A proposal without an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeFailure {
    /// It has not entered the log.
    #[error("{0}")]
    Failed(String),
    /// It may have.
    #[error("{0}")]
    Unknown(String),
}

impl RaftNode {
    /// Opens the node's files, forms the group if there is none, and returns once this node leads with its
    /// whole log applied.
    pub(crate) async fn open(settings: NodeSettings) -> Result<RaftNode, OpenError> {
        let node_id = settings.node_id;
        let (snapshot_entries, start_timeout) = (settings.snapshot_entries, settings.start_timeout);
        let open = tokio::task::spawn_blocking(move || open_files(&settings));
        let (log, writer, machine) = open.await.map_err(|e| OpenError::Raft(e.to_string()))??;
        let cell = machine.cell();
        let config = Arc::new(lone_config(snapshot_entries));
        let raft = Raft::new(node_id, config, NoPeers, log, machine).await;
        let raft = raft.map_err(|e| OpenError::Raft(e.to_string()))?;
        let node = RaftNode { raft, cell, writer };
        match node.lead(node_id, start_timeout).await {
            Ok(()) => Ok(node),
            Err(e) => {
                node.close().await;
                Err(e)
            }
        }
    }

    /// Forms the group at the first start; elects this node where it does not lead already; waits for its
    /// log.
    async fn lead(&self, node_id: u64, timeout: Duration) -> Result<(), OpenError> {
        let fatal = |e: openraft::error::Fatal<u64>| OpenError::Raft(e.to_string());
        if self.raft.is_initialized().await.map_err(fatal)? {
            let found = self.voters().await.map_err(fatal)?;
            if found != [node_id] {
                return Err(OpenError::ForeignNode { expected: node_id, found });
            }
            if self.state().await.map_err(fatal)? != ServerState::Leader {
                self.raft.trigger().elect().await.map_err(fatal)?;
            }
        } else {
            let members = BTreeMap::from([(node_id, lone_peer())]);
            self.raft.initialize(members).await.map_err(|e| OpenError::Raft(e.to_string()))?;
        }
        let ready = |m: &openraft::RaftMetrics<u64, super::types::Peer>| {
            m.state == ServerState::Leader && m.last_applied.map(|id| id.index) >= m.last_log_index
        };
        let waited = self.raft.wait(Some(timeout)).metrics(ready, "leads with its log applied").await;
        waited.map_err(|e| OpenError::Raft(e.to_string()))?;
        self.linearize().await.map_err(OpenError::Raft)
    }

    async fn voters(&self) -> Result<Vec<u64>, openraft::error::Fatal<u64>> {
        self.raft.with_raft_state(|s| s.membership_state.effective().membership().voter_ids().collect()).await
    }

    async fn state(&self) -> Result<ServerState, openraft::error::Fatal<u64>> {
        self.raft.with_raft_state(|s| s.server_state).await
    }

    pub(crate) fn cell(&self) -> &Arc<StateCell> {
        &self.cell
    }

    /// Appends one entry; returns its answers once it is committed and applied here.
    pub(crate) async fn propose(&self, batch: Arc<Batch>) -> Result<Replies, ProposeFailure> {
        match self.raft.client_write(batch).await {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(e))) => {
                Err(ProposeFailure::Failed(e.to_string()))
            }
            Err(RaftError::APIError(e)) => Err(ProposeFailure::Failed(e.to_string())),
            Err(RaftError::Fatal(e)) => Err(ProposeFailure::Unknown(e.to_string())),
        }
    }

    /// Returns once the state here has everything that was committed before the call.
    pub(crate) async fn linearize(&self) -> Result<(), String> {
        self.raft.ensure_linearizable().await.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Stops Raft, lets the log's thread finish, and gives up the data directory.
    pub(crate) async fn close(&self) {
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %e, "Raft did not shut down cleanly");
        }
        let writer = Arc::clone(&self.writer);
        if tokio::task::spawn_blocking(move || writer.close()).await.is_err() {
            tracing::warn!("the Raft log was not closed cleanly");
        }
    }
}

fn open_files(settings: &NodeSettings) -> Result<(LogStore, Arc<Writer>, Machine), OpenError> {
    let dir = settings.data_dir.join("raft");
    fs::create_dir_all(&dir).map_err(OpenError::io(&dir))?;
    let lock_path = dir.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(OpenError::io(&lock_path))?;
    lock.try_lock().map_err(|_| OpenError::Locked { path: dir.display().to_string() })?;
    let (snapshots, loaded) = SnapshotStore::open(&dir.join("snapshots"))?;
    let machine = Machine::new(snapshots, loaded);
    let (log, writer) = LogStore::open(&dir, lock)?;
    // A power failure after the first start must not take the directories away.
    for made in [&dir, &settings.data_dir] {
        sync_dir(made).map_err(OpenError::io(made))?;
    }
    // What lies between the snapshot and the first entry is nowhere: it must not be papered over.
    if log.purged() > machine.applied() {
        let index = |id: Option<super::types::GroupLogId>| id.map_or(0, |id| id.index + 1);
        return Err(OpenError::Missing {
            path: dir.display().to_string(),
            first: index(machine.applied()),
            end: index(log.purged()),
        });
    }
    Ok((log, writer, machine))
}

/// A single voter has nobody to hear from: no ticks, no heartbeats, no election timeouts.
fn lone_config(snapshot_entries: u64) -> Config {
    Config {
        cluster_name: "highwater".into(),
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        heartbeat_interval: 60_000,
        election_timeout_min: 120_000,
        election_timeout_max: 180_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_entries),
        // The log reaches back to the older of the two snapshots that are kept.
        max_in_snapshot_log_to_keep: snapshot_entries * 2,
        purge_batch_size: snapshot_entries.div_ceil(4),
        ..Config::default()
    }
}
