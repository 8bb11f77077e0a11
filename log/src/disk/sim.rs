//! A simulated disk: keeps what a crash would leave apart from what was written, and fails when told to.
//!
//! For the tests of this crate and of those above it. Files are anonymous memory files, so a slice of one can
//! be mapped or sent like any other. A crash keeps what was synced; of the rest it keeps, per file and by the
//! seed, nothing, everything, a prefix cut at any byte, or a prefix with a zeroed hole, and of the
//! directory's changes a prefix in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, Entry, read_up_to};

/// What goes wrong next, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write fails and writes nothing.
    WriteFails(io::ErrorKind),
    /// The next write writes this many bytes; the one after it fails.
    WriteTears { bytes: usize },
    /// The next truncation fails.
    TruncateFails,
    /// The next sync fails; what was not yet durable is forgotten by the next crash.
    SyncFails,
}

/// A handle to one simulated directory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Arc<Inode>>,
    durable_names: BTreeMap<String, Arc<Inode>>,
    unsynced_changes: Vec<NameChange>,
    faults: Vec<Fault>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, Arc<Inode>),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug)]
struct Inode {
    file: Arc<File>,
    durable: Mutex<Vec<u8>>,
    /// A sync has failed since the last one that did not: what is cached passes for clean.
    passes_for_clean: AtomicBool,
}

#[derive(Debug)]
struct SimFile {
    inode: Arc<Inode>,
    disk: SimDisk,
}

fn memory_file() -> io::Result<File> {
    let fd = rustix::fs::memfd_create("highwater-sim", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(File::from(fd))
}

fn content(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    read_up_to(file, &mut bytes, 0)?;
    Ok(bytes)
}

fn write_whole(file: &File, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.set_len(0)?;
    file.write_all_at(bytes, 0)
}

fn apply(names: &mut BTreeMap<String, Arc<Inode>>, change: &NameChange) {
    match change {
        NameChange::Set(name, inode) => {
            names.insert(name.clone(), inode.clone());
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

/// A small deterministic generator (splitmix64): the same seed loses the same bytes.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the simulated disk panics")
    }

    /// Adds a fault; faults of one kind happen in the order they were added.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Takes back the faults that have not happened.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    fn take_fault(&self, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut state = self.lock();
        let at = state.faults.iter().position(is)?;
        Some(state.faults.remove(at))
    }

    /// Power fails: a new disk with what is left of this one. Handles of the old one keep working on the old
    /// one.
    ///
    /// # Errors
    /// Only if the host cannot make memory files.
    pub fn crash(&self, seed: u64) -> io::Result<SimDisk> {
        let mut random = Seeded(seed);
        let state = self.lock();
        let mut names = state.durable_names.clone();
        let kept = random.below(state.unsynced_changes.len() + 1);
        for change in &state.unsynced_changes[..kept] {
            apply(&mut names, change);
        }
        let mut after = State::default();
        for (name, inode) in names {
            let durable = inode.durable.lock().expect("not poisoned").clone();
            let left = what_is_left(&durable, &content(&inode.file)?, &mut random);
            let file = memory_file()?;
            write_whole(&file, &left)?;
            let inode = Arc::new(Inode {
                file: Arc::new(file),
                durable: Mutex::new(left),
                passes_for_clean: AtomicBool::default(),
            });
            after.names.insert(name, inode);
        }
        after.durable_names = after.names.clone();
        Ok(SimDisk { state: Arc::new(Mutex::new(after)) })
    }

    /// The process is killed but the machine lives: everything written is still there.
    pub fn kill(&self) -> SimDisk {
        self.clone()
    }
}

fn what_is_left(durable: &[u8], written: &[u8], random: &mut Seeded) -> Vec<u8> {
    let common = durable.len().min(written.len());
    let mut left = durable.to_vec();
    match random.below(4) {
        0 => {}
        1 => left = written.to_vec(),
        2 => {
            // In-place changes up to some byte, then appended bytes up to some byte.
            let changed = random.below(common + 1);
            left[..changed].copy_from_slice(&written[..changed]);
            if written.len() > durable.len() {
                let end = durable.len() + random.below(written.len() - durable.len() + 1);
                left.extend_from_slice(&written[durable.len()..end]);
            }
        }
        _ if written.len() > durable.len() => {
            left.extend_from_slice(&written[durable.len()..]);
            let hole = durable.len() + random.below(written.len() - durable.len());
            let end = (hole + 4_096).min(left.len());
            left[hole..end].fill(0);
        }
        _ => {}
    }
    left
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let state = self.lock();
        let entry = |(name, inode): (&String, &Arc<Inode>)| {
            Ok(Entry { name: name.clone(), bytes: inode.file.metadata()?.len() })
        };
        state.names.iter().map(entry).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.lock().names.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { inode, disk: self.clone() }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if let Some(inode) = state.names.get(name).cloned() {
            inode.file.set_len(0)?;
            return Ok(Arc::new(SimFile { inode, disk: self.clone() }));
        }
        let inode = Arc::new(Inode {
            file: Arc::new(memory_file()?),
            durable: Mutex::default(),
            passes_for_clean: AtomicBool::default(),
        });
        state.names.insert(name.to_owned(), inode.clone());
        state.unsynced_changes.push(NameChange::Set(name.to_owned(), inode.clone()));
        Ok(Arc::new(SimFile { inode, disk: self.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        apply(&mut state.names, &change);
        state.unsynced_changes.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.names.remove(name).is_some() {
            state.unsynced_changes.push(NameChange::Remove(name.to_owned()));
        }
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.durable_names = state.names.clone();
        state.unsynced_changes.clear();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn file(&self) -> &Arc<File> {
        &self.inode.file
    }

    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let mut bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        match self.disk.take_fault(|f| matches!(f, Fault::WriteFails(_) | Fault::WriteTears { .. })) {
            Some(Fault::WriteFails(kind)) => return Err(kind.into()),
            Some(Fault::WriteTears { bytes: torn }) => {
                bytes.truncate(torn);
                self.disk.lock().faults.insert(0, Fault::WriteFails(io::ErrorKind::StorageFull));
            }
            _ => {}
        }
        self.inode.file.write_all_at(&bytes, position)?;
        Ok(bytes.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        if self.disk.take_fault(|f| *f == Fault::TruncateFails).is_some() {
            return Err(io::Error::other("simulated"));
        }
        self.inode.file.set_len(bytes)
    }

    fn forget_cached(&self) -> io::Result<()> {
        if self.inode.passes_for_clean.swap(false, Ordering::SeqCst) {
            let durable = self.inode.durable.lock().expect("not poisoned").clone();
            write_whole(&self.inode.file, &durable)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.take_fault(|f| *f == Fault::SyncFails).is_some() {
            self.inode.passes_for_clean.store(true, Ordering::SeqCst);
            return Err(io::Error::other("simulated"));
        }
        let written = content(&self.inode.file)?;
        *self.inode.durable.lock().expect("not poisoned") = written;
        Ok(())
    }
}
