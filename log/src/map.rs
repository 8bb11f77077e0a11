//! Memory maps of sealed segments: the one file of this crate with `unsafe` in it.

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps the first `bytes` of a sealed segment for reading. The map outlives eviction: an unlinked file keeps
/// its data while it is mapped.
///
/// # Errors
/// Of mmap, and if the file is shorter than `bytes`: touching pages past its end would kill the process.
#[allow(unsafe_code)]
pub(crate) fn map_sealed(file: &File, bytes: u64) -> io::Result<Bytes> {
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    if file.metadata()?.len() < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the mapped bytes must not change or vanish while the map lives. A sealed segment is never
    // written again, and this crate shortens one only by `truncate_to` and recovery, which its owner runs
    // only while no reader of the cut range exists; eviction unlinks the name and leaves the data. Other
    // processes are kept out of the data directory by its owner.
    let map = unsafe { memmap2::MmapOptions::new().len(length).map(file)? };
    let _ = map.advise(memmap2::Advice::Sequential);
    Ok(Bytes::from_owner(map))
}
