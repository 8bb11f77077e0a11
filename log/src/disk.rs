//! The file port: one partition's directory and its files, real or simulated.
//!
//! Owns the trait and what is built from it (side files replaced atomically, bounded reads). The log reaches
//! the file system only through here, so a simulated disk can lose unsynced writes, tear them and fail
//! (DESIGN section 4). Reads go to the `File` itself: slices are handed to sendfile and mmap, which need one,
//! and a simulated file has one too.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use highwater_model::limits::SIDE_FILE_BYTES_MAX;

mod dir;
mod sim;

pub use dir::DirDisk;
pub use sim::{Fault, SimDisk};

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub bytes: u64,
}

/// One partition's directory. Names have no path in them.
pub trait Disk: Send + Sync + Debug {
    /// Every file; a directory that does not exist yet is empty.
    fn list(&self) -> io::Result<Vec<Entry>>;
    /// An existing file, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// A new empty file; what had the name before is emptied. Creates the directory if need be.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames atomically, over `to` if it exists.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name; a missing one is not an error. Open files stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// The file, for reading, mapping and sendfile. Never written through.
    fn file(&self) -> &Arc<File>;
    /// One write call at `position`; may write less than all.
    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Gives back what the disk holds for the file past its end; called when no more is appended.
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
    /// Cuts the file to `bytes`.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Drops what the page cache holds of the file and the disk has too, so that the next reads are from the
    /// disk: after a failed sync, pages that never reached it count as clean.
    fn forget_cached(&self) -> io::Result<()>;
    /// Makes the content durable (fdatasync). After a failure nothing written since the last success may be
    /// believed.
    fn sync(&self) -> io::Result<()>;
}

/// Writes all of `head` and `rest` at `position`: one call, more only after a short write.
pub(crate) fn write_all(file: &dyn DiskFile, head: &[u8], rest: &[u8], position: u64) -> io::Result<()> {
    let total = head.len() + rest.len();
    let mut done = file.write_at(&[IoSlice::new(head), IoSlice::new(rest)], position)?;
    while done < total {
        let (a, b) = (&head[done.min(head.len())..], &rest[done.saturating_sub(head.len())..]);
        let wrote = file.write_at(&[IoSlice::new(a), IoSlice::new(b)], position + done as u64)?;
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += wrote;
    }
    assert_eq!(done, total);
    Ok(())
}

/// Reads at `position` until `buffer` is full or the file ends; returns the bytes read.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], position + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The whole of a side file; `None` if there is none. One larger than `SIDE_FILE_BYTES_MAX` is none of ours.
pub(crate) fn read_side_file(disk: &dyn Disk, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let bytes = file.file().metadata()?.len();
    if bytes > SIDE_FILE_BYTES_MAX {
        return Ok(None);
    }
    let mut content = vec![0; bytes as usize];
    let read = read_up_to(file.file(), &mut content, 0)?;
    content.truncate(read);
    Ok(Some(content))
}

/// Writes a side file that may be lost or torn by a crash because it can be rebuilt.
pub(crate) fn write_side_file(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let file = disk.create(name)?;
    write_all(&*file, content, &[], 0)
}

/// Replaces a side file so that a crash leaves the old or the new one. The caller syncs the directory if it
/// must be the new.
pub(crate) fn replace_side_file(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    write_all(&*file, content, &[], 0)?;
    file.sync()?;
    disk.rename(&temporary, name)
}
