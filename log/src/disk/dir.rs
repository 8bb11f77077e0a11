//! The file port on a real directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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
        Ok(Arc::new(RealFile { file: Arc::new(file) }))
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
        loop {
            match rustix::io::pwritev(&*self.file, parts, position) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(Into::into),
            }
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
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
    fn forgetting_the_cache_loses_nothing() {
        let root = tempfile::tempdir().expect("temporary");
        let disk = DirDisk::new(root.path().to_owned());
        let file = disk.create("a").expect("created");
        file.write_at(&[IoSlice::new(b"abc")], 0).expect("written");
        file.forget_cached().expect("advised");
        assert_eq!(fs::read(root.path().join("a")).expect("there"), b"abc");
    }
}
