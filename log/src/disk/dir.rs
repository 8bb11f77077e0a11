//! The file port on a real directory.
//!
//! A file that grows has disk space reserved ahead of it, past its end: its length is what was written, as
//! without. ext4 then writes to the page cache with a quarter less CPU, as it need not find room for each
//! block, and segments that grow together do not interleave on the disk. A hint: where the file system has no
//! such thing, or no room, writes go on without it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use highwater_model::limits::{RESERVE_AHEAD_BYTES_MAX, RESERVE_FROM_BYTES};
use rustix::fs::FallocateFlags;

use super::{Disk, DiskFile, Entry};

/// A directory of the file system; created with its first file.
#[derive(Debug)]
pub struct DirDisk {
    dir: PathBuf,
    /// Directories that have got a new one in them and are not synced since.
    changed_above: Mutex<Vec<PathBuf>>,
}

#[derive(Debug)]
struct RealFile {
    file: Arc<File>,
    /// Disk space is reserved up to here, as far as this process knows; `RESERVES_NO_MORE` for good.
    reserved: AtomicU64,
}

const RESERVES_NO_MORE: u64 = u64::MAX;

impl RealFile {
    /// Makes sure that a write of `bytes` at `position` finds its space reserved, if the file is worth it.
    fn reserve(&self, position: u64, bytes: usize) {
        // Writes are serialised by the file's owner, and a lost update costs one call.
        let reserved = self.reserved.load(Ordering::Relaxed);
        let end = position.saturating_add(bytes as u64);
        if position < RESERVE_FROM_BYTES || end <= reserved {
            return;
        }
        let from = reserved.max(position);
        let until = end.saturating_add(position.min(RESERVE_AHEAD_BYTES_MAX));
        let done = rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, from, until - from);
        let reserved = if done.is_ok() { until } else { RESERVES_NO_MORE };
        self.reserved.store(reserved, Ordering::Relaxed);
    }
}

impl DirDisk {
    pub fn new(dir: PathBuf) -> DirDisk {
        DirDisk { dir, changed_above: Mutex::default() }
    }

    /// Creates the directory and those above it, and notes whose names must be made durable.
    fn create_dirs(&self) -> io::Result<()> {
        let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
        let missing: Vec<_> = self.dir.ancestors().take_while(is_missing).collect();
        let parents = missing.iter().filter_map(|dir| dir.parent()).map(|parent| match parent.as_os_str() {
            name if name.is_empty() => PathBuf::from("."),
            _ => parent.to_owned(),
        });
        // Before they are there: whatever is noted in vain is synced in vain.
        self.changed_above.lock().expect("no holder panics").extend(parents);
        fs::create_dir_all(&self.dir)
    }

    fn open_with(&self, name: &str, options: &OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = options.open(self.dir.join(name))?;
        Ok(Arc::new(RealFile { file: Arc::new(file), reserved: AtomicU64::new(0) }))
    }
}

impl Disk for DirDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            // Directories and names that are not UTF-8 are none of ours.
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                found.push(Entry { name, bytes: metadata.len() });
            }
        }
        Ok(found)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(name, OpenOptions::new().read(true).write(true))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        match self.open_with(name, &options) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.create_dirs()?;
                self.open_with(name, &options)
            }
            done => done,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut changed = self.changed_above.lock().expect("no holder panics");
        while let Some(above) = changed.last() {
            File::open(above)?.sync_all()?;
            changed.pop();
        }
        drop(changed);
        File::open(&self.dir)?.sync_all()
    }
}

impl DiskFile for RealFile {
    fn file(&self) -> &Arc<File> {
        &self.file
    }

    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.reserve(position, parts.iter().map(|part| part.len()).sum());
        loop {
            match rustix::io::pwritev(&*self.file, parts, position) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(Into::into),
            }
        }
    }

    fn finish(&self) -> io::Result<()> {
        self.reserved.store(RESERVES_NO_MORE, Ordering::Relaxed);
        // Cut at its end, a file loses what is reserved past it, by a former process too.
        self.file.set_len(self.file.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.reserved.store(0, Ordering::Relaxed);
        self.file.set_len(bytes)
    }

    fn forget_cached(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&*self.file, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_directories_are_synced_into_those_above_once() {
        let root = tempfile::tempdir().expect("temporary");
        let topic = root.path().join("topics").join("t");
        let disk = DirDisk::new(topic.join("0"));
        let changed = || disk.changed_above.lock().expect("fine").clone();
        disk.create("a").expect("created");
        assert_eq!(changed(), [topic.clone(), root.path().join("topics"), root.path().to_owned()]);
        disk.sync_dir().expect("synced");
        assert!(changed().is_empty());
        disk.create("b").expect("created");
        assert!(changed().is_empty(), "nothing is new");
    }

    #[test]
    fn a_growing_file_has_space_ahead_of_its_end_until_it_is_finished() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().expect("temporary");
        let disk = DirDisk::new(root.path().to_owned());
        let file = disk.create("a").expect("created");
        let held =
            || fs::metadata(root.path().join("a")).map(|m| (m.len(), m.blocks() * 512)).expect("there");
        let piece = vec![7; 512 * 1024];
        let mut end = 0;
        let append = |end: &mut u64| {
            assert_eq!(file.write_at(&[IoSlice::new(&piece)], *end).expect("written"), piece.len());
            *end += piece.len() as u64;
        };
        (0..2).for_each(|_| append(&mut end));
        assert!(held().1 <= RESERVE_FROM_BYTES + 65_536, "a small file holds what is in it");
        append(&mut end);
        let (length, blocks) = held();
        assert_eq!(length, end, "reserving does not make it longer");
        // Not every file system can; ext4, xfs, btrfs and tmpfs can.
        assert!(blocks >= end + RESERVE_FROM_BYTES, "{blocks} bytes held");
        while end < 4 * RESERVE_AHEAD_BYTES_MAX {
            append(&mut end);
            assert!(held().1 <= end + RESERVE_AHEAD_BYTES_MAX + 65_536, "no more than that ahead");
        }
        file.finish().expect("finished");
        let (length, blocks) = held();
        assert_eq!(length, end);
        assert!(blocks <= end + 65_536, "given back: {blocks} bytes held");
        assert!(fs::read(root.path().join("a")).expect("there").iter().all(|byte| *byte == 7));
        append(&mut end);
        assert!(held().1 <= end + 65_536, "a finished file reserves no more");
    }

    #[test]
    fn forgetting_the_cache_loses_nothing() {
        let root = tempfile::tempdir().expect("temporary");
        let disk = DirDisk::new(root.path().to_owned());
        let file = disk.create("a").expect("created");
        file.write_at(&[IoSlice::new(b"abc")], 0).expect("written");
        file.forget_cached().expect("advised");
        assert_eq!(fs::read(root.path().join("a")).expect("there"), b"abc");
    }
}
