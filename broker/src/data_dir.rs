//! The data directory belongs to one process of one node of one cluster, and remembers which.
//!
//! Owns `lock` (held while the process lives), `identity.json`, and `clean-stop.json`, which is there only
//! between an orderly stop and the next start. Must not: touch what is in the directory otherwise. Invariant
//! 18: both files carry their format's version.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use highwater_model::NodeId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Version of the layout of the data directory (docs/format.md).
pub const DATA_DIR_FORMAT: u32 = 1;
const IDENTITY_FILE: &str = "identity.json";
const LOCK_FILE: &str = "lock";
const CLEAN_STOP_FILE: &str = "clean-stop.json";
/// Version of the token of a clean stop.
const CLEAN_STOP_FORMAT: u32 = 1;
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

/// Why the directory cannot be used. One line with what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data directory {dir}: cannot {what}: {source}; check --data-dir and its permissions")]
    Io { dir: PathBuf, what: &'static str, source: io::Error },
    #[error("data directory {dir} is in use by another process; stop it or give another --data-dir")]
    Locked { dir: PathBuf },
    #[error(
        "data directory {dir} belongs to node {found}, not to node {given}; correct --node-id or --data-dir"
    )]
    OtherNode { dir: PathBuf, found: NodeId, given: NodeId },
    #[error("data directory {dir} belongs to cluster {found}, not to {given}; give another --data-dir")]
    OtherCluster { dir: PathBuf, found: String, given: String },
    #[error(
        "data directory {dir} has format {found}, this release knows {DATA_DIR_FORMAT}; use a matching release"
    )]
    OtherFormat { dir: PathBuf, found: u32 },
    #[error("data directory {dir}: identity.json is damaged: {reason}; restore it from a backup")]
    Damaged { dir: PathBuf, reason: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    node_id: NodeId,
    cluster_id: String,
    /// Names the directory for life; directories of the first release have none until they are claimed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    storage: Option<Uuid>,
    /// The mark of the cluster's bucket, once it has been seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bucket: Option<Uuid>,
}

/// What an orderly stop leaves behind: everything that the broker of that epoch had is on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct CleanStop {
    format: u32,
    broker_epoch: u64,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    dir: PathBuf,
    identity: Option<Identity>,
    /// The lock goes with the file handle, however the process ends.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be, takes its lock and checks whose it is.
    pub fn open(dir: &Path, node_id: NodeId) -> Result<DataDir, DataDirError> {
        let failed = |what, source| DataDirError::Io { dir: dir.to_owned(), what, source };
        fs::create_dir_all(dir).map_err(|e| failed("create it", e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(|e| failed("open the lock file", e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::Locked { dir: dir.to_owned() }),
            Err(errno) => return Err(failed("lock it", errno.into())),
        }
        let identity = read_identity(dir)?;
        if let Some(identity) = &identity {
            if identity.format != DATA_DIR_FORMAT {
                return Err(DataDirError::OtherFormat { dir: dir.to_owned(), found: identity.format });
            }
            if identity.node_id != node_id {
                let found = identity.node_id;
                return Err(DataDirError::OtherNode { dir: dir.to_owned(), found, given: node_id });
            }
        }
        Ok(DataDir { dir: dir.to_owned(), identity, _lock: lock })
    }

    /// True until the directory has been claimed for a cluster.
    pub fn is_new(&self) -> bool {
        self.identity.is_none()
    }

    /// Checks that the directory belongs to the cluster, if it belongs to any.
    pub fn check(&self, cluster_id: &str) -> Result<(), DataDirError> {
        match &self.identity {
            Some(identity) if identity.cluster_id != cluster_id => Err(DataDirError::OtherCluster {
                dir: self.dir.clone(),
                found: identity.cluster_id.clone(),
                given: cluster_id.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Notes for good that the directory belongs to the node and the cluster; returns the directory's own
    /// name.
    pub fn claim(&mut self, node_id: NodeId, cluster_id: &str) -> Result<Uuid, DataDirError> {
        self.check(cluster_id)?;
        if let Some(storage) = self.identity.as_ref().and_then(|identity| identity.storage) {
            return Ok(storage);
        }
        let storage = Uuid::new_v4();
        let identity = Identity {
            format: DATA_DIR_FORMAT,
            node_id,
            cluster_id: cluster_id.to_owned(),
            storage: Some(storage),
            bucket: None,
        };
        self.keep(identity)?;
        Ok(storage)
    }

    /// Takes a claim back that came to nothing, so that the directory is as new again.
    pub fn unclaim(&mut self) {
        let path = self.dir.join(IDENTITY_FILE);
        if let Err(e) = fs::remove_file(&path).and_then(|()| File::open(&self.dir)?.sync_all()) {
            tracing::warn!("{} stays: {e}", path.display());
        }
        self.identity = None;
    }

    /// The mark of the cluster's bucket that was noted.
    pub fn bucket(&self) -> Option<Uuid> {
        self.identity.as_ref().and_then(|identity| identity.bucket)
    }

    /// Notes the mark of the cluster's bucket. The directory has been claimed.
    pub fn note_bucket(&mut self, bucket: Uuid) -> Result<(), DataDirError> {
        match self.identity.take() {
            Some(identity) if identity.bucket != Some(bucket) => {
                self.keep(Identity { bucket: Some(bucket), ..identity })
            }
            identity => {
                self.identity = identity;
                Ok(())
            }
        }
    }

    fn keep(&mut self, identity: Identity) -> Result<(), DataDirError> {
        let written = write_json(&self.dir, IDENTITY_FILE, &identity);
        self.identity = Some(identity);
        written.map_err(|source| DataDirError::Io {
            dir: self.dir.clone(),
            what: "write identity.json",
            source,
        })
    }

    /// The broker epoch that stopped in order, if the last process did. The token is gone for good on return:
    /// what happens from now on is not covered by it.
    pub fn take_clean_stop(&self) -> Result<Option<u64>, DataDirError> {
        let path = self.dir.join(CLEAN_STOP_FILE);
        let failed = |source| DataDirError::Io {
            dir: self.dir.clone(),
            what: "read and remove clean-stop.json",
            source,
        };
        let token = match fs::read(&path) {
            // One that cannot be read proves nothing, which costs a catch-up.
            Ok(bytes) => serde_json::from_slice::<CleanStop>(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        fs::remove_file(&path).and_then(|()| File::open(&self.dir)?.sync_all()).map_err(failed)?;
        Ok(token.filter(|token| token.format == CLEAN_STOP_FORMAT).map(|token| token.broker_epoch))
    }

    /// Leaves the token of a clean stop: logs are flushed and closed, and nothing is written after it.
    pub fn leave_clean_stop(&self, broker_epoch: u64) -> Result<(), DataDirError> {
        let token = CleanStop { format: CLEAN_STOP_FORMAT, broker_epoch };
        write_json(&self.dir, CLEAN_STOP_FILE, &token).map_err(|source| DataDirError::Io {
            dir: self.dir.clone(),
            what: "write clean-stop.json",
            source,
        })
    }
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, DataDirError> {
    let path = dir.join(IDENTITY_FILE);
    let damaged = |reason: String| DataDirError::Damaged { dir: dir.to_owned(), reason };
    let failed = |source| DataDirError::Io { dir: dir.to_owned(), what: "read identity.json", source };
    match fs::metadata(&path) {
        Ok(found) if found.len() > IDENTITY_BYTES_MAX => return Err(damaged("it is too large".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let text = fs::read_to_string(&path).map_err(failed)?;
    serde_json::from_str(&text).map(Some).map_err(|e| damaged(e.to_string()))
}

/// Written beside and renamed, so that a crash leaves the old state or the new one.
fn write_json(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let beside = dir.join(format!("{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_process_one_node_and_one_cluster() {
        let temp = tempfile::tempdir().expect("scratch");
        let dir = temp.path().join("deep/data");
        let mut first = DataDir::open(&dir, 1).expect("new");
        assert!(matches!(DataDir::open(&dir, 1), Err(DataDirError::Locked { .. })));
        assert!(first.is_new());
        let storage = first.claim(1, "abc").expect("unclaimed");
        assert_eq!(first.claim(1, "abc").expect("its own"), storage);
        assert!(!first.is_new());
        assert!(matches!(first.claim(1, "xyz"), Err(DataDirError::OtherCluster { .. })));
        drop(first);
        let other = DataDir::open(&dir, 2).expect_err("another node");
        assert!(other.to_string().contains("belongs to node 1, not to node 2"), "{other}");
        let mut again = DataDir::open(&dir, 1).expect("free again");
        assert!(matches!(again.claim(1, "xyz"), Err(DataDirError::OtherCluster { .. })));
        assert_eq!(again.claim(1, "abc").expect("its own"), storage);
        again.unclaim();
        assert!(again.is_new());
        drop(again);
        DataDir::open(&dir, 2).expect("anybody's").claim(2, "xyz").expect("anybody's");
    }

    #[test]
    fn the_token_of_a_clean_stop_serves_once() {
        let temp = tempfile::tempdir().expect("scratch");
        let dir = DataDir::open(temp.path(), 1).expect("new");
        assert_eq!(dir.take_clean_stop().expect("none"), None);
        dir.leave_clean_stop(7).expect("left");
        assert_eq!(dir.take_clean_stop().expect("there"), Some(7));
        assert_eq!(dir.take_clean_stop().expect("gone"), None);
        let token = temp.path().join(CLEAN_STOP_FILE);
        for proves_nothing in ["{", r#"{"format":2,"broker_epoch":7}"#] {
            fs::write(&token, proves_nothing).expect("write");
            assert_eq!(dir.take_clean_stop().expect("removed"), None);
            assert!(!token.exists());
        }
        fs::write(&token, r#"{"format":1,"broker_epoch":3}"#).expect("write");
        assert_eq!(dir.take_clean_stop().expect("the fixture of version 1"), Some(3));
    }

    #[test]
    fn other_formats_and_damage_are_refused() {
        let temp = tempfile::tempdir().expect("scratch");
        let file = temp.path().join(IDENTITY_FILE);
        fs::write(&file, r#"{"format":2,"node_id":1,"cluster_id":"abc"}"#).expect("write");
        assert!(matches!(DataDir::open(temp.path(), 1), Err(DataDirError::OtherFormat { found: 2, .. })));
        fs::write(&file, "{").expect("write");
        assert!(matches!(DataDir::open(temp.path(), 1), Err(DataDirError::Damaged { .. })));
        fs::write(&file, r#"{"format":1,"node_id":1,"cluster_id":"abc"}"#).expect("write");
        let mut old = DataDir::open(temp.path(), 1).expect("the fixture of version 1 loads");
        // It had no name yet: it gets one, and keeps it.
        let storage = old.claim(1, "abc").expect("its own");
        drop(old);
        let mut named = DataDir::open(temp.path(), 1).expect("opens");
        assert_eq!(named.claim(1, "abc").expect("its own"), storage);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = DataDir::open(Path::new("/proc/none/data"), 1).expect_err("cannot").to_string();
        assert!(error.contains("/proc/none/data") && error.contains("--data-dir"), "{error}");
    }
}
