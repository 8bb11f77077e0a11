//! The storage's name: a UUID made with the directory, before this node says a word to its peers.
//!
//! A member that lost its disk, or runs on a copied directory of another node, would break what it has voted
//! for and acknowledged; by this name its peers notice. Lone nodes have none. See docs/format.md, "Storage
//! name". Invariant 18.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::OpenError;
use super::files::sync_dir;

const STORAGE_FILE: &str = "storage.json";
/// Version of the file.
const STORAGE_FORMAT: u32 = 1;
const STORAGE_BYTES_MAX: u64 = 4096;

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    node_id: u64,
    storage: Uuid,
}

/// The name of the storage in `dir` (Raft's directory); None where it has none yet.
pub(super) fn read(dir: &Path, node_id: u64) -> Result<Option<Uuid>, OpenError> {
    let path = dir.join(STORAGE_FILE);
    match fs::metadata(&path) {
        Ok(found) if found.len() > STORAGE_BYTES_MAX => {
            return Err(OpenError::damaged(&path, 0, "too large"));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OpenError::io(&path)(e)),
    }
    let bytes = fs::read(&path).map_err(OpenError::io(&path))?;
    let stored: Stored =
        serde_json::from_slice(&bytes).map_err(|e| OpenError::damaged(&path, 0, e.to_string()))?;
    if stored.format != STORAGE_FORMAT {
        return Err(OpenError::Newer { path: path.display().to_string(), format: stored.format });
    }
    if stored.node_id != node_id {
        return Err(OpenError::ForeignNode { expected: node_id, found: vec![stored.node_id] });
    }
    Ok(Some(stored.storage))
}

/// Gives the storage a name; durable on return.
pub(super) fn mint(dir: &Path, node_id: u64) -> Result<Uuid, OpenError> {
    let storage = Uuid::new_v4();
    let path = dir.join(STORAGE_FILE);
    let write = || -> io::Result<()> {
        let stored = Stored { format: STORAGE_FORMAT, node_id, storage };
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&stored)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_dir(dir)
    };
    write().map_err(OpenError::io(&path))?;
    Ok(storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_has_one_name_for_life_and_one_node() {
        let dir = tempfile::tempdir().expect("scratch");
        assert_eq!(read(dir.path(), 1).expect("none yet"), None);
        let name = mint(dir.path(), 1).expect("made");
        assert_eq!(read(dir.path(), 1).expect("there"), Some(name));
        assert!(matches!(read(dir.path(), 2), Err(OpenError::ForeignNode { expected: 2, .. })));
        let path = dir.path().join(STORAGE_FILE);
        fs::write(&path, format!(r#"{{"format":2,"node_id":1,"storage":"{name}"}}"#)).expect("written");
        assert!(matches!(read(dir.path(), 1), Err(OpenError::Newer { format: 2, .. })));
        fs::write(&path, "{").expect("written");
        assert!(matches!(read(dir.path(), 1), Err(OpenError::Damaged { .. })));
        let v1 = r#"{"format":1,"node_id":1,"storage":"6c1f8f1e-9f0b-4c58-9d8e-0b6a5c1d2e3f"}"#;
        fs::write(&path, v1).expect("written");
        assert!(read(dir.path(), 1).expect("the fixture of version 1 loads").is_some());
    }
}
