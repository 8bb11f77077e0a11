//! The journal of `core::raft_side` on a disk: appended to, synced by whoever needs it durable, replaced
//! whole when it has grown.
//!
//! Synchronous; one owner (`store`). After a failed write or sync nothing more is written (invariant 5).

use std::io::{self, IoSlice};
use std::sync::Arc;

use highwater_log::disk::{Disk, DiskFile};
use highwater_model::limits::{RAFT_SIDE_FILE_BYTES, SIDE_FILE_BYTES_MAX};

use super::OpenError;
use crate::core::raft_side::{Mark, SideState, encode_mark};

const NAME: &str = "raft";
/// What a replica begins with that was sent a snapshot, kept until its log has begun there.
const BEGINNING: &str = "raft.beginning";

#[derive(Debug)]
pub(super) struct SideFile {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    state: SideState,
    length: u64,
    synced: u64,
    is_failed: bool,
    buffer: Vec<u8>,
}

/// The work of one sync of the journal, off its owner's lock.
pub(super) struct SideSync {
    file: Arc<dyn DiskFile>,
    length: u64,
}

impl SideSync {
    /// # Errors
    /// The sync failed: the owner must be told by `SideFile::failed`.
    pub(super) fn run(self) -> io::Result<u64> {
        self.file.sync()?;
        Ok(self.length)
    }
}

impl SideFile {
    /// Opens the journal, if there is one; a torn tail is cut, durably.
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Option<SideFile>, OpenError> {
        let Some(bytes) = read_whole(&**disk, NAME).map_err(OpenError::io)? else { return Ok(None) };
        let loaded = SideState::load(&bytes)?;
        let file = disk.open(NAME).map_err(OpenError::io)?;
        let length = loaded.end as u64;
        if loaded.torn_bytes > 0 {
            file.truncate(length).map_err(OpenError::io)?;
        }
        // What was found may be in the page cache alone.
        file.sync().map_err(OpenError::io)?;
        Ok(Some(SideFile::of(disk.clone(), file, loaded.state, length)))
    }

    /// Writes a new journal; durable on return.
    pub(super) fn create(disk: &Arc<dyn Disk>, state: SideState) -> io::Result<SideFile> {
        let (file, length) = replace(&**disk, NAME, &state.encode())?;
        Ok(SideFile::of(disk.clone(), file, state, length))
    }

    fn of(disk: Arc<dyn Disk>, file: Arc<dyn DiskFile>, state: SideState, length: u64) -> SideFile {
        SideFile { disk, file, state, length, synced: length, is_failed: false, buffer: Vec::new() }
    }

    pub(super) fn state(&self) -> &SideState {
        &self.state
    }

    /// Forgets, in memory, what the log has lost; to be followed by `rewrite`.
    pub(super) fn state_mut(&mut self) -> &mut SideState {
        &mut self.state
    }

    /// Takes in a mark and writes it; durable after the next `sync`.
    ///
    /// # Errors
    /// The mark breaks a rule and nothing was done; or of the disk, which ends all writing.
    pub(super) fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.check()?;
        self.state.apply(mark).map_err(io::Error::other)?;
        self.buffer.clear();
        encode_mark(mark, u32::try_from(self.synced).unwrap_or(u32::MAX), &mut self.buffer);
        let written = write_all(&*self.file, &self.buffer, self.length);
        self.is_failed = written.is_err();
        written?;
        self.length += self.buffer.len() as u64;
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.is_failed {
            false => Ok(()),
            true => Err(io::Error::other("the Raft side file failed before")),
        }
    }

    /// The work that makes everything written durable.
    pub(super) fn draw_sync(&self) -> SideSync {
        SideSync { file: self.file.clone(), length: self.length }
    }

    pub(super) fn synced(&mut self, length: u64) {
        self.synced = self.synced.max(length.min(self.length));
    }

    pub(super) fn failed(&mut self) {
        self.is_failed = true;
    }

    /// Writes and syncs at once.
    pub(super) fn write_durably(&mut self, mark: &Mark) -> io::Result<()> {
        self.write(mark)?;
        let synced = self.draw_sync().run();
        self.is_failed |= synced.is_err();
        self.synced(synced?);
        Ok(())
    }

    /// Replaces a journal that has grown to much more than its state takes.
    pub(super) fn tidy(&mut self) -> io::Result<()> {
        let is_long = self.length as usize > RAFT_SIDE_FILE_BYTES;
        match is_long && self.length as usize > 2 * self.state.encode().len() {
            true => self.rewrite(),
            false => Ok(()),
        }
    }

    /// Replaces the journal by one of its state; durable on return.
    pub(super) fn rewrite(&mut self) -> io::Result<()> {
        self.check()?;
        let replaced = replace(&*self.disk, NAME, &self.state.encode());
        self.is_failed = replaced.is_err();
        (self.file, self.length) = replaced?;
        self.synced = self.length;
        Ok(())
    }

    /// Keeps what the log is about to begin with; durable on return.
    pub(super) fn keep_beginning(&self, bytes: &[u8]) -> io::Result<()> {
        replace(&*self.disk, BEGINNING, bytes).map(|_| ())
    }

    pub(super) fn beginning(&self) -> io::Result<Option<Vec<u8>>> {
        read_whole(&*self.disk, BEGINNING)
    }

    pub(super) fn drop_beginning(&self) -> io::Result<()> {
        self.disk.remove(BEGINNING)
    }
}

fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    use std::os::unix::fs::FileExt;
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = file.file().metadata()?.len();
    if length > SIDE_FILE_BYTES_MAX {
        return Err(io::Error::other("larger than a side file can be"));
    }
    let mut bytes = vec![0; length as usize];
    file.file().read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

fn write_all(file: &dyn DiskFile, bytes: &[u8], position: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&[IoSlice::new(&bytes[done..])], position + done as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            wrote => done += wrote,
        }
    }
    Ok(())
}

/// Replaces a file, whole or not at all; durable on return.
fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    write_all(&*file, bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()?;
    Ok((file, bytes.len() as u64))
}
