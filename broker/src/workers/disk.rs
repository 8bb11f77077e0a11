//! The data disk's free space: produce is refused while there is still room for what the broker itself must
//! write.
//!
//! Looked at once per tick; between two looks a disk can lose what producers send in a second, which the
//! reserve covers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use highwater_model::limits::{DISK_FREE_BYTES_MIN, PACE_DISK_RESERVES};

/// Whether there is room to append.
pub struct DiskGuard {
    data_dir: PathBuf,
    is_full: AtomicBool,
    is_short: AtomicBool,
    free_bytes: AtomicU64,
    /// Tests pretend a full disk.
    is_forced_full: AtomicBool,
}

impl DiskGuard {
    pub fn new(data_dir: PathBuf) -> DiskGuard {
        DiskGuard {
            data_dir,
            is_full: AtomicBool::new(false),
            is_short: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
            is_forced_full: AtomicBool::new(false),
        }
    }

    /// True while produce must be refused with a retriable error.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// True while the disk is on the way to being full: what can go to the tier should.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// An append has met the end of the disk: refuse until the next look finds room.
    pub fn found_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }

    /// From now on the disk counts as full (or no longer), whatever it says.
    pub fn force_full(&self, full: bool) {
        self.is_forced_full.store(full, Ordering::Relaxed);
        self.look();
    }

    /// Reads the free space. A disk that cannot be asked keeps its last verdict.
    pub fn look(&self) {
        let Some((free, total)) = space(&self.data_dir) else {
            return;
        };
        self.free_bytes.store(free, Ordering::Relaxed);
        let (reserve, is_forced) = (reserve_bytes(total), self.is_forced_full.load(Ordering::Relaxed));
        self.is_short.store(free < reserve * PACE_DISK_RESERVES || is_forced, Ordering::Relaxed);
        let is_full = free < reserve || is_forced;
        if self.is_full.swap(is_full, Ordering::Relaxed) != is_full {
            if is_full {
                tracing::error!(
                    free_bytes = free,
                    "the data disk is full: produce is refused until there is room"
                );
            } else {
                tracing::info!(free_bytes = free, "the data disk has room again: produce goes on");
            }
        }
    }
}

/// Free space that is kept: a fixed amount, less on a small disk.
fn reserve_bytes(total: u64) -> u64 {
    DISK_FREE_BYTES_MIN.min(total / 64)
}

/// Free and total bytes of the file system of `path`.
fn space(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_disk() {
        let guard = DiskGuard::new(std::env::temp_dir());
        guard.look();
        assert!(guard.free_bytes() < u64::MAX);
        guard.force_full(true);
        assert!(guard.is_full() && guard.is_short());
        guard.force_full(false);
        let real = guard.is_full();
        guard.found_full();
        assert!(guard.is_full());
        guard.look();
        assert_eq!(guard.is_full(), real);
    }

    #[test]
    fn small_disks_keep_a_share() {
        assert_eq!(reserve_bytes(64 << 20), 1 << 20);
        assert_eq!(reserve_bytes(1 << 40), DISK_FREE_BYTES_MIN);
    }
}
