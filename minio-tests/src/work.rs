//! A test's own directory, and the turn that keeps the tests one after another.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::tools;

static TURN: Mutex<()> = Mutex::new(());

/// A directory under `target/minio-tests`, removed when the test passes and kept when it fails. Holding it is
/// holding the turn: the tests measure delays and memory, so one runs at a time whatever the runner's thread
/// count.
pub struct Work {
    path: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Work {
    pub fn new(test: &str) -> Work {
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let path = tools::root().join("target/minio-tests").join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        Work { path, _turn: turn }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::step::step(format!("files and logs are kept in {}", self.path.display()));
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
