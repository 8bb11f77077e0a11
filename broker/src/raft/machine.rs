//! openraft's state machine: there is none but the log. Applying a batch moves the high watermark; whether a
//! batch is a duplicate was judged by its leader against a producer table that is a function of the log, the
//! same on every replica.

use std::io::{self, Cursor};
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta};

use super::store::Store;
use super::types::{
    GroupEntry, GroupLogId, GroupMembership, Member, StorageError, StorageIOError, TypeConfig, entry_id,
    log_id, set_members, stored_membership,
};
use crate::raft::store::Snapshot;

type Meta = SnapshotMeta<u64, Member>;

pub(super) struct Machine {
    store: Arc<Store>,
    applied: Option<GroupLogId>,
    membership: GroupMembership,
}

impl Machine {
    pub(super) fn new(store: Arc<Store>) -> Machine {
        let applied = store.applied_id();
        let membership = stored_membership(store.members_applied());
        Machine { store, applied: applied.map(log_id), membership }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<GroupLogId>, GroupMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = GroupEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut replies, mut end) = (Vec::new(), None);
        for entry in entries {
            self.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => end = Some(batch.header.next_offset()),
                EntryPayload::Membership(members) => {
                    self.membership = GroupMembership::new(Some(entry.log_id), members);
                }
            }
            replies.push(());
        }
        if let Some(applied) = &self.applied {
            let id = entry_id(applied);
            self.store.applied(id, end);
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let Some(last) = meta.last_log_id else { return Ok(()) };
        let (store, members) = (self.store.clone(), set_members(&meta.last_membership));
        let install = move || {
            let snapshot = Snapshot::decode(snapshot.get_ref())?;
            store.install(entry_id(&last), members, &snapshot)
        };
        let installed = tokio::task::spawn_blocking(install).await.map_err(io::Error::other);
        installed.and_then(|done| done).map_err(|e| {
            self.store.fail(&e.to_string());
            snapshot_error(&e)
        })?;
        self.applied = Some(last);
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<openraft::Snapshot<TypeConfig>>, StorageError> {
        build(self.store.clone()).await
    }
}

pub(super) struct Builder {
    store: Arc<Store>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<TypeConfig>, StorageError> {
        let built = build(self.store.clone()).await?;
        built.ok_or_else(|| snapshot_error(&io::Error::other("nothing is committed yet")))
    }
}

/// Snapshots are made when asked for: they are a place in the log and a few tables, not a copy.
async fn build(store: Arc<Store>) -> Result<Option<openraft::Snapshot<TypeConfig>>, StorageError> {
    let built = tokio::task::spawn_blocking(move || store.snapshot()).await.map_err(io::Error::other);
    let built = built.and_then(|built| built).map_err(|e| snapshot_error(&e))?;
    Ok(built.map(|(id, members, snapshot)| {
        let last_membership = stored_membership(Some(members));
        let meta = Meta { last_log_id: Some(log_id(id)), last_membership, snapshot_id: format!("{id:?}") };
        openraft::Snapshot { meta, snapshot: Box::new(Cursor::new(snapshot.encode())) }
    }))
}

fn snapshot_error(error: &io::Error) -> StorageError {
    StorageIOError::write_snapshot(None, openraft::AnyError::new(error)).into()
}
