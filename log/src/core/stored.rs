//! The frame around every stored side file: magic, version, length, body, CRC-32C (invariants 18 and 19).
//!
//! Owns the byte layout shared by indexes, producer snapshots, checkpoints and marks, and the bounded reader
//! of their bodies. Must not know what a body means, and must not allocate what a length claims before it has
//! checked it.
//!
//! ```text
//! magic [u8;4] | version u16 | zero u16 | body length u32 | body | crc32c u32 of everything before it
//! ```
//! All integers are little-endian.

/// Bytes of a frame around its body.
pub const FRAME_BYTES: usize = HEAD_BYTES + CRC_BYTES;
const HEAD_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

/// Why stored bytes were not accepted. Whatever the reason, the file's content is rebuilt or ignored, never
/// guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    #[error("file is {found} bytes where {wanted} are claimed")]
    Length { found: usize, wanted: usize },
    #[error("magic bytes differ")]
    Magic,
    #[error("format version {found} is not known (newest known: {newest})")]
    Version { found: u16, newest: u16 },
    #[error("checksum differs")]
    Checksum,
    #[error("body ends early or has bytes to spare")]
    Body,
    #[error("body breaks a rule: {0}")]
    Rule(&'static str),
}

/// Wraps `body` in a frame.
pub fn frame(magic: [u8; 4], version: u16, body: &[u8]) -> Vec<u8> {
    assert!(version > 0, "version 0 would accept a zeroed page");
    let length = u32::try_from(body.len()).expect("side files are bounded far below 4 GiB");
    let mut out = Vec::with_capacity(body.len() + FRAME_BYTES);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(out.len(), body.len() + FRAME_BYTES);
    out
}

/// Checks the frame of a whole file and returns its version (1..=`newest`) and body.
pub fn unframe(magic: [u8; 4], newest: u16, file: &[u8]) -> Result<(u16, &[u8]), StoredError> {
    if file.len() < FRAME_BYTES {
        return Err(StoredError::Length { found: file.len(), wanted: FRAME_BYTES });
    }
    if file[..4] != magic {
        return Err(StoredError::Magic);
    }
    let mut head = Reader::new(&file[4..HEAD_BYTES]);
    let version = head.u16()?;
    let reserved = head.u16()?;
    let wanted = head.u32()? as usize + FRAME_BYTES;
    if file.len() != wanted {
        return Err(StoredError::Length { found: file.len(), wanted });
    }
    let (framed, crc) = file.split_at(file.len() - CRC_BYTES);
    if crc32c::crc32c(framed).to_le_bytes() != crc {
        return Err(StoredError::Checksum);
    }
    if version == 0 || version > newest || reserved != 0 {
        return Err(StoredError::Version { found: version, newest });
    }
    debug_assert!(framed.len() >= HEAD_BYTES);
    Ok((version, &framed[HEAD_BYTES..]))
}

/// Bounded little-endian reader: every method fails instead of reading past the end.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoredError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(StoredError::Body)?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, StoredError> {
        Ok(self.take::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, StoredError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub fn u32(&mut self) -> Result<u32, StoredError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub fn u64(&mut self) -> Result<u64, StoredError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub fn i16(&mut self) -> Result<i16, StoredError> {
        Ok(i16::from_le_bytes(self.take()?))
    }

    pub fn i32(&mut self) -> Result<i32, StoredError> {
        Ok(i32::from_le_bytes(self.take()?))
    }

    pub fn i64(&mut self) -> Result<i64, StoredError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    /// A count of items that each take at least `item_bytes` of what is left, and at most `max`.
    pub fn count(&mut self, item_bytes: usize, max: usize) -> Result<usize, StoredError> {
        assert!(item_bytes > 0);
        let count = self.u32()? as usize;
        if count > max || count > self.rest.len() / item_bytes {
            return Err(StoredError::Body);
        }
        debug_assert!(count * item_bytes <= self.rest.len());
        Ok(count)
    }

    /// Succeeds only when everything was read.
    pub fn finish(self) -> Result<(), StoredError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoredError::Body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 4] = *b"HWTT";

    #[test]
    fn a_frame_comes_back() {
        let file = frame(MAGIC, 3, b"body");
        assert_eq!(unframe(MAGIC, 3, &file).expect("whole"), (3, &b"body"[..]));
        assert_eq!(unframe(MAGIC, 2, &file), Err(StoredError::Version { found: 3, newest: 2 }));
        assert_eq!(unframe(*b"HWXX", 3, &file), Err(StoredError::Magic));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let file = frame(MAGIC, 1, b"some body of a side file");
        for cut in 0..file.len() {
            assert!(unframe(MAGIC, 1, &file[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unframe(MAGIC, 1, &bad).is_err(), "bit {bit}");
        }
        assert!(unframe(MAGIC, 1, &[0; 4096]).is_err(), "a zeroed page");
    }

    #[test]
    fn counts_are_checked_before_they_are_trusted() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 64]);
        assert_eq!(Reader::new(&bytes).count(8, usize::MAX), Err(StoredError::Body));
        bytes[..4].copy_from_slice(&8u32.to_le_bytes());
        assert_eq!(Reader::new(&bytes).count(8, 8), Ok(8));
        assert_eq!(Reader::new(&bytes).count(8, 7), Err(StoredError::Body));
    }
}
