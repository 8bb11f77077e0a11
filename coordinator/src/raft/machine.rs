//! openraft's state machine: the pure state behind a lock, applied in place, and its snapshots.
//!
//! Readers take an `Arc` of the state; the next apply then copies what it changes (one pointer per topic).
//! The lock is held for the length of a batch, never across an await (invariant 7).

use std::sync::{Arc, PoisonError, RwLock};

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::watch;

use super::snapshot::{Meta, SharedSnapshots, SnapshotStore, read_all};
use super::types::{
    GroupEntry, GroupLogId, GroupMembership, Peer, Replies, StorageError, StorageIOError, TypeConfig,
};
use crate::core::ClusterState;

/// The state as this node has applied it.
pub(crate) struct StateCell {
    state: RwLock<Arc<ClusterState>>,
    /// The state's version.
    version: watch::Sender<u64>,
}

impl StateCell {
    pub(crate) fn new(state: ClusterState) -> StateCell {
        let version = watch::Sender::new(state.version);
        StateCell { state: RwLock::new(Arc::new(state)), version }
    }

    /// The state of now, unchanging.
    pub(crate) fn get(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the state without keeping it; `look` must be short.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&ClusterState) -> R) -> R {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Puts another state in the place of this one.
    pub(crate) fn replace(&self, state: Arc<ClusterState>) {
        self.update(|current| *current = state);
    }

    fn update<R>(&self, change: impl FnOnce(&mut Arc<ClusterState>) -> R) -> R {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let answer = change(&mut state);
        let version = state.version;
        drop(state);
        self.version.send_if_modified(|known| std::mem::replace(known, version) != version);
        answer
    }
}

/// What openraft drives.
pub(super) struct Machine {
    cell: Arc<StateCell>,
    snapshots: SharedSnapshots,
    applied: Option<GroupLogId>,
    membership: GroupMembership,
}

impl Machine {
    pub(super) fn new(snapshots: SnapshotStore, loaded: Option<(Meta, ClusterState)>) -> Machine {
        let (meta, state) = loaded.unwrap_or_default();
        Machine {
            cell: Arc::new(StateCell::new(state)),
            snapshots: Arc::new(snapshots),
            applied: meta.last_log_id,
            membership: meta.last_membership,
        }
    }

    pub(super) fn cell(&self) -> Arc<StateCell> {
        Arc::clone(&self.cell)
    }

    /// The last entry that the state holds.
    pub(super) fn applied(&self) -> Option<GroupLogId> {
        self.applied
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<GroupLogId>, GroupMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = GroupEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (applied, membership) = (&mut self.applied, &mut self.membership);
        Ok(self.cell.update(|state| {
            let apply = |entry: GroupEntry| {
                *applied = Some(entry.log_id);
                match entry.payload {
                    EntryPayload::Blank => Replies::new(),
                    EntryPayload::Normal(batch) => Arc::make_mut(state).apply_batch(&batch),
                    EntryPayload::Membership(members) => {
                        *membership = GroupMembership::new(Some(entry.log_id), members);
                        Replies::new()
                    }
                }
            };
            entries.into_iter().map(apply).collect()
        }))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.cell.get(),
            snapshots: Arc::clone(&self.snapshots),
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<tokio::fs::File>, StorageError> {
        let file = self.snapshots.receive().map_err(|e| snapshot_error(&e))?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<tokio::fs::File>,
    ) -> Result<(), StorageError> {
        let file = snapshot.into_std().await;
        let (snapshots, announced) = (Arc::clone(&self.snapshots), meta.clone());
        let install = move || snapshots.install(&announced, &read_all(file)?);
        let state = blocking(install).await.map_err(|e| snapshot_error(&e))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.cell.update(|current| *current = Arc::new(state));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let newest = self.snapshots.newest().map_err(|e| snapshot_error(&e))?;
        Ok(newest.map(|(meta, file)| snapshot(meta, file)))
    }
}

/// Writes a snapshot of the state as it was when the builder was made; the machine goes on meanwhile.
pub(super) struct Builder {
    state: Arc<ClusterState>,
    snapshots: SharedSnapshots,
    applied: Option<GroupLogId>,
    membership: GroupMembership,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let id = self.applied.map_or_else(|| "empty".to_string(), |id| id.to_string());
        let meta =
            Meta { last_log_id: self.applied, last_membership: self.membership.clone(), snapshot_id: id };
        let (snapshots, state, written) =
            (Arc::clone(&self.snapshots), Arc::clone(&self.state), meta.clone());
        let file =
            blocking(move || snapshots.write(&written, &state)).await.map_err(|e| snapshot_error(&e))?;
        Ok(snapshot(meta, file))
    }
}

fn snapshot(meta: Meta, file: std::fs::File) -> Snapshot<TypeConfig> {
    Snapshot { meta, snapshot: Box::new(tokio::fs::File::from_std(file)) }
}

fn snapshot_error(error: &std::io::Error) -> StorageError {
    StorageIOError::write_snapshot(None, openraft::AnyError::new(error)).into()
}

/// Runs file work off the runtime's threads.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<R> + Send + 'static,
) -> std::io::Result<R> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// A single member of a group, without an address.
pub(super) fn lone_peer() -> Peer {
    Peer::default()
}
