//! What a partition's directory has kept of a group, and of which: a partition may go from one group to
//! fetch replication and to another group, while this node is down.
//!
//! `raft.group` names the group by the leader epoch since which it is (docs/format.md). It is durable before
//! the side file is begun, and goes after it; so a side file without it, or with another one, is of a group
//! that is no more. Invariant 12.

use std::io::{self, IoSlice};
use std::sync::Arc;

use highwater_log::disk::Disk;
use highwater_model::LeaderEpoch;

const NAME: &str = "raft.group";
const SIDE_FILE: &str = "raft";
const BEGINNING: &str = "raft.beginning";
const MAGIC: &[u8; 4] = b"HWRG";
const VERSION: u16 = 1;
/// Magic, version, two zero bytes, the epoch, and the CRC32C of all that.
const BYTES: usize = 16;

/// Whether the directory has a side file of the group that is since this leader epoch.
///
/// # Errors
/// Of the disk.
pub fn kept_of(disk: &Arc<dyn Disk>, since_epoch: LeaderEpoch) -> io::Result<bool> {
    Ok(has(&**disk, SIDE_FILE)? && read(&**disk)? == Some(since_epoch))
}

/// Names the group that the side file, which is begun next, will be of. Durable on return.
///
/// # Errors
/// Of the disk.
pub fn keep_group(disk: &Arc<dyn Disk>, since_epoch: LeaderEpoch) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&since_epoch.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let temporary = format!("{NAME}.tmp");
    let file = disk.create(&temporary)?;
    if file.write_at(&[IoSlice::new(&bytes)], 0)? != BYTES {
        return Err(io::ErrorKind::WriteZero.into());
    }
    file.sync()?;
    disk.rename(&temporary, NAME)?;
    disk.sync_dir()
}

/// Removes what is kept of any group, if there is something. Durable on return.
///
/// # Errors
/// Of the disk.
pub fn forget(disk: &Arc<dyn Disk>) -> io::Result<()> {
    if !has(&**disk, SIDE_FILE)? && !has(&**disk, BEGINNING)? && !has(&**disk, NAME)? {
        return Ok(());
    }
    disk.remove(SIDE_FILE)?;
    disk.remove(BEGINNING)?;
    disk.sync_dir()?;
    disk.remove(NAME)?;
    disk.sync_dir()
}

fn has(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    match disk.open(name) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The group that is named; none where there is none, or what is there is damaged: then the replica joins
/// anew.
fn read(disk: &dyn Disk) -> io::Result<Option<LeaderEpoch>> {
    use std::os::unix::fs::FileExt;
    let file = match disk.open(NAME) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = [0; BYTES];
    match file.file().read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let (body, crc) = bytes.split_at(BYTES - 4);
    let is_whole = crc == crc32c::crc32c(body).to_le_bytes();
    let is_ours = &body[..4] == MAGIC && body[4..6] == VERSION.to_le_bytes();
    let epoch = body[8..].try_into().map(LeaderEpoch::from_le_bytes).expect("4 bytes");
    Ok((is_whole && is_ours).then_some(epoch))
}

#[cfg(test)]
mod tests {
    use highwater_log::disk::SimDisk;

    use super::*;

    fn disk(disk: &SimDisk) -> Arc<dyn Disk> {
        Arc::new(disk.clone())
    }

    #[test]
    fn a_side_file_is_of_the_group_that_was_named_before_it() {
        let sim = SimDisk::new();
        let on = disk(&sim);
        assert!(!kept_of(&on, 3).expect("reads"));
        keep_group(&on, 3).expect("writes");
        assert!(!kept_of(&on, 3).expect("reads"), "named, not begun");
        on.create(SIDE_FILE).expect("writes");
        on.sync_dir().expect("syncs");
        let crashed = disk(&sim.crash(1).expect("memory"));
        assert!(kept_of(&crashed, 3).expect("reads") && !kept_of(&crashed, 4).expect("reads"));
        forget(&crashed).expect("removes");
        assert!(!kept_of(&crashed, 3).expect("reads"));
        assert!(crashed.list().expect("lists").is_empty());
    }

    #[test]
    fn damage_names_no_group() {
        let on = disk(&SimDisk::new());
        keep_group(&on, 3).expect("writes");
        on.create(SIDE_FILE).expect("writes");
        let file = on.open(NAME).expect("there");
        for at in 0..BYTES as u64 {
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&**file.file(), &mut byte, at).expect("reads");
            file.write_at(&[IoSlice::new(&[byte[0] ^ 0x40])], at).expect("writes");
            assert!(!kept_of(&on, 3).expect("reads"), "byte {at}");
            file.write_at(&[IoSlice::new(&byte)], at).expect("writes");
        }
        assert!(kept_of(&on, 3).expect("reads"));
    }
}
