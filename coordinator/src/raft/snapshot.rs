//! Snapshot files: the whole state as JSON behind a checksum (docs/format.md, "Raft snapshot"). A snapshot
//! appears by rename, whole or not at all. The newest two are kept; the log reaches back to the older one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_model::limits::{RAFT_SNAPSHOT_BYTES_MAX, RAFT_SNAPSHOTS_KEPT};
use openraft::SnapshotMeta;
use serde::{Deserialize, Serialize};

use super::OpenError;
use super::files::sync_dir;
use super::frame::Position;
use super::room::Room;
use super::types::{GroupMembership, Peer, StoredMembers, log_id, position};
use crate::core::ClusterState;

const MAGIC: &[u8; 8] = b"HWRAFTSN";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 32;

pub(super) type Meta = SnapshotMeta<u64, Peer>;

/// The snapshots of this node.
pub(super) struct SnapshotStore {
    dir: PathBuf,
    current: Mutex<Option<(Meta, PathBuf)>>,
    /// Held while a snapshot is written, so that two do not share a temporary name.
    writing: Mutex<()>,
    received: AtomicU64,
    room: Room,
}

/// What a snapshot says of itself.
#[derive(Serialize, Deserialize)]
struct StoredMeta {
    /// None for a snapshot of nothing.
    last: Option<Position>,
    members_at: Option<Position>,
    members: StoredMembers,
    id: String,
}

/// Why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("shorter than it says")]
    Short,
    #[error("not a snapshot")]
    Magic,
    #[error("checksum")]
    Checksum,
    #[error("format {0} is newer than this release knows")]
    Newer(u32),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

impl SnapshotStore {
    /// Opens the snapshots in `dir` and loads the newest that is whole. A damaged one is set aside; whether
    /// an older one will do is decided by how far the log reaches back.
    pub(super) fn open(dir: &Path) -> Result<(SnapshotStore, Option<(Meta, ClusterState)>), OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
        let store = SnapshotStore {
            dir: dir.to_path_buf(),
            current: Mutex::new(None),
            writing: Mutex::new(()),
            received: AtomicU64::new(0),
            room: Room::default(),
        };
        store.remove_leftovers().map_err(OpenError::io(dir))?;
        let mut fault = None;
        for path in store.list().map_err(OpenError::io(dir))? {
            let bytes = fs::read(&path).map_err(OpenError::io(&path))?;
            match decode(&bytes) {
                Ok((meta, state)) => {
                    *store.current() = Some((meta.clone(), path));
                    return Ok((store, Some((meta, state))));
                }
                Err(Fault::Newer(format)) => {
                    return Err(OpenError::Newer { path: path.display().to_string(), format });
                }
                Err(e) => {
                    tracing::error!(path = %path.display(), error = %e, "set a damaged snapshot aside");
                    fs::rename(&path, path.with_extension("damaged")).map_err(OpenError::io(&path))?;
                    fault = Some(OpenError::damaged(&path, 0, e.to_string()));
                }
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok((store, None)),
        }
    }

    /// From now on its writes wait for room where those of the log do.
    pub(super) fn share_room(&mut self, room: &Room) {
        self.room = room.clone();
    }

    /// The newest snapshot, opened for reading.
    pub(super) fn newest(&self) -> std::io::Result<Option<(Meta, File)>> {
        let current = self.current();
        let Some((meta, path)) = current.as_ref() else { return Ok(None) };
        Ok(Some((meta.clone(), File::open(path)?)))
    }

    /// Writes a snapshot of `state`; durable on return.
    pub(super) fn write(&self, meta: &Meta, state: &ClusterState) -> std::io::Result<File> {
        let bytes = encode(meta, state)?;
        self.keep(meta, &bytes)
    }

    /// Checks and keeps a snapshot that was received.
    pub(super) fn install(&self, meta: &Meta, bytes: &[u8]) -> std::io::Result<ClusterState> {
        let (found, state) = decode(bytes).map_err(std::io::Error::other)?;
        if found.last_log_id != meta.last_log_id {
            return Err(std::io::Error::other("the snapshot received is not the one announced"));
        }
        self.keep(meta, bytes)?;
        Ok(state)
    }

    /// A nameless file to receive a snapshot into.
    pub(super) fn receive(&self) -> std::io::Result<File> {
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("receiving-{number}.tmp"));
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    fn keep(&self, meta: &Meta, bytes: &[u8]) -> std::io::Result<File> {
        let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
        let path = self.dir.join(format!("{index:020}-{term:020}.snapshot"));
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let temporary = path.with_extension("tmp");
        let file = self.room.wait_out(|| {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            Ok(file)
        })?;
        file.sync_all()?;
        self.room.wait_out(|| fs::rename(&temporary, &path))?;
        sync_dir(&self.dir)?;
        let mut current = self.current();
        let newer = current.as_ref().is_none_or(|(now, _)| now.last_log_id <= meta.last_log_id);
        if newer {
            *current = Some((meta.clone(), path.clone()));
        }
        for old in self.list()?.into_iter().skip(RAFT_SNAPSHOTS_KEPT) {
            fs::remove_file(old)?;
        }
        File::open(&path)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<(Meta, PathBuf)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshot files, newest first.
    fn list(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "snapshot") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.reverse();
        Ok(paths)
    }

    /// Removes what interrupted writes left behind.
    fn remove_leftovers(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Reads a received snapshot from its start.
pub(super) fn read_all(mut file: File) -> std::io::Result<Vec<u8>> {
    use std::io::Seek;
    let length = file.metadata()?.len();
    if length > RAFT_SNAPSHOT_BYTES_MAX {
        return Err(std::io::Error::other(format!("a snapshot of {length} bytes")));
    }
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(meta: &Meta, state: &ClusterState) -> std::io::Result<Vec<u8>> {
    let members = meta.last_membership.membership();
    let stored = StoredMeta {
        last: meta.last_log_id.as_ref().map(position),
        members_at: meta.last_membership.log_id().as_ref().map(position),
        members: StoredMembers::of(members),
        id: meta.snapshot_id.clone(),
    };
    let mut bytes = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut bytes, &stored)?;
    let meta_bytes = bytes.len() - HEAD_BYTES;
    serde_json::to_writer(&mut bytes, state)?;
    let body_bytes = (bytes.len() - HEAD_BYTES - meta_bytes) as u64;
    let meta_bytes = u32::try_from(meta_bytes).map_err(std::io::Error::other)?;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..20].copy_from_slice(&meta_bytes.to_le_bytes());
    bytes[24..32].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<(Meta, ClusterState), Fault> {
    let head = bytes.get(..HEAD_BYTES).ok_or(Fault::Short)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    if &head[..8] != MAGIC {
        return Err(Fault::Magic);
    }
    if crc32c::crc32c(&bytes[16..]) != u32_at(12) {
        return Err(Fault::Checksum);
    }
    if u32_at(8) != VERSION {
        return Err(Fault::Newer(u32_at(8)));
    }
    let body_bytes = u64::from_le_bytes(head[24..32].try_into().expect("8 bytes"));
    let (meta, body) = bytes[HEAD_BYTES..].split_at_checked(u32_at(16) as usize).ok_or(Fault::Short)?;
    if body.len() as u64 != body_bytes {
        return Err(Fault::Short);
    }
    let stored: StoredMeta = serde_json::from_slice(meta)?;
    let membership = GroupMembership::new(stored.members_at.map(log_id), stored.members.membership());
    let meta =
        Meta { last_log_id: stored.last.map(log_id), last_membership: membership, snapshot_id: stored.id };
    Ok((meta, serde_json::from_slice(body)?))
}

/// Shared by the state machine and its snapshot builders.
pub(super) type SharedSnapshots = Arc<SnapshotStore>;
