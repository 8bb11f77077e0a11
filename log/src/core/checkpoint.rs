//! The two side files of a partition that are not derived from a single segment, as bytes.
//!
//! `Checkpoint` (replaced atomically): leader epochs, the sealed segments, and how the log ended if it was
//! closed cleanly. It saves scanning; a missing, damaged or stale one costs a scan and nothing else, except
//! epochs of offsets that are no longer local. `Marks` (two slots written in place, newest valid one wins):
//! log start and recovery point. Neither may be trusted beyond what the segment files confirm; that is
//! `recovery`'s business.

use highwater_model::Offset;
use highwater_model::limits::{EPOCHS_PER_PARTITION_MAX, SEGMENTS_PER_PARTITION_MAX};

use super::epochs::{EpochStart, EpochTable};
use super::stored::{self, FRAME_BYTES, Reader, StoredError};

pub const CHECKPOINT_MAGIC: [u8; 4] = *b"HWCP";
pub const CHECKPOINT_VERSION: u16 = 1;
pub const MARKS_MAGIC: [u8; 4] = *b"HWMK";
pub const MARKS_VERSION: u16 = 1;
const EPOCH_BYTES: usize = 12;
const SEALED_BYTES: usize = 40;
const MARKS_BODY_BYTES: usize = 40;
/// Bytes of one slot of the marks file; slot n is at n times this.
pub const MARKS_SLOT_BYTES: usize = MARKS_BODY_BYTES + FRAME_BYTES;

/// A segment that takes no more appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// Largest record timestamp, Unix ms.
    pub max_timestamp: i64,
    /// When it was sealed, wall clock, Unix ms.
    pub sealed_at_ms: i64,
}

/// The active segment as a clean shutdown left it. It still holds if the file is still that long: files only
/// grow, and whatever cuts one writes a checkpoint without this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanEnd {
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    pub max_timestamp: i64,
    /// Wall clock of the segment's first append, and the largest timestamp of its first batch; meaningful if
    /// `bytes > 0`.
    pub first_append_ms: i64,
    pub first_timestamp: i64,
    /// Whether a producer snapshot was written at `end`; without one there were no producers.
    pub has_producers: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub epochs: EpochTable,
    pub sealed: Vec<SealedSegment>,
    pub clean: Option<CleanEnd>,
}

impl Checkpoint {
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.sealed.len() <= SEGMENTS_PER_PARTITION_MAX);
        assert!(self.sealed.windows(2).all(|p| p[0].end == p[1].start), "sealed segments are contiguous");
        let mut body = Vec::new();
        let epochs = self.epochs.entries();
        body.extend_from_slice(&u32::try_from(epochs.len()).expect("bounded").to_le_bytes());
        for epoch in epochs {
            body.extend_from_slice(&epoch.epoch.to_le_bytes());
            body.extend_from_slice(&epoch.start_offset.to_le_bytes());
        }
        body.extend_from_slice(&u32::try_from(self.sealed.len()).expect("bounded").to_le_bytes());
        for segment in &self.sealed {
            body.extend_from_slice(&segment.start.to_le_bytes());
            body.extend_from_slice(&segment.end.to_le_bytes());
            body.extend_from_slice(&segment.bytes.to_le_bytes());
            body.extend_from_slice(&segment.max_timestamp.to_le_bytes());
            body.extend_from_slice(&segment.sealed_at_ms.to_le_bytes());
        }
        body.push(u8::from(self.clean.is_some()));
        if let Some(clean) = &self.clean {
            body.extend_from_slice(&clean.start.to_le_bytes());
            body.extend_from_slice(&clean.end.to_le_bytes());
            body.extend_from_slice(&clean.bytes.to_le_bytes());
            body.extend_from_slice(&clean.max_timestamp.to_le_bytes());
            body.extend_from_slice(&clean.first_append_ms.to_le_bytes());
            body.extend_from_slice(&clean.first_timestamp.to_le_bytes());
            body.push(u8::from(clean.has_producers));
        }
        stored::frame(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, &body)
    }

    /// # Errors
    /// Any damage or disorder; the caller then does without a checkpoint.
    pub fn decode(file: &[u8]) -> Result<Checkpoint, StoredError> {
        let (_, body) = stored::unframe(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, file)?;
        let mut r = Reader::new(body);
        let count = r.count(EPOCH_BYTES, EPOCHS_PER_PARTITION_MAX)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(EpochStart { epoch: r.i32()?, start_offset: r.i64()? });
        }
        let epochs = EpochTable::from_entries(entries).ok_or(StoredError::Rule("epochs"))?;
        let count = r.count(SEALED_BYTES, SEGMENTS_PER_PARTITION_MAX)?;
        let mut sealed: Vec<SealedSegment> = Vec::with_capacity(count);
        for _ in 0..count {
            let segment = SealedSegment {
                start: r.i64()?,
                end: r.i64()?,
                bytes: r.u64()?,
                max_timestamp: r.i64()?,
                sealed_at_ms: r.i64()?,
            };
            let follows = sealed.last().is_none_or(|before| before.end == segment.start);
            if segment.start < 0 || segment.end <= segment.start || !follows {
                return Err(StoredError::Rule("sealed segments"));
            }
            sealed.push(segment);
        }
        let clean = match r.u8()? {
            0 => None,
            1 => Some(decode_clean(&mut r)?),
            _ => return Err(StoredError::Rule("clean flag")),
        };
        r.finish()?;
        debug_assert!(sealed.len() == count);
        Ok(Checkpoint { epochs, sealed, clean })
    }
}

fn decode_clean(r: &mut Reader<'_>) -> Result<CleanEnd, StoredError> {
    let clean = CleanEnd {
        start: r.i64()?,
        end: r.i64()?,
        bytes: r.u64()?,
        max_timestamp: r.i64()?,
        first_append_ms: r.i64()?,
        first_timestamp: r.i64()?,
        has_producers: r.u8()? == 1,
    };
    if clean.start < 0 || clean.end < clean.start || (clean.bytes == 0) != (clean.end == clean.start) {
        return Err(StoredError::Rule("clean end"));
    }
    Ok(clean)
}

/// Small facts that change often. They are written in place and without fsync of their own, so a power
/// failure may bring back an older slot: each is safe to be older than the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub log_start: Offset,
    /// Everything below has been fsynced: damage there is corruption, not a torn tail.
    pub recovery_point: Offset,
    /// The segment whose first append is dated below.
    pub active_start: Offset,
    pub first_append_ms: i64,
}

impl Marks {
    /// One slot. `sequence` grows with every write; slot `sequence % 2` takes it.
    pub fn encode_slot(&self, sequence: u64) -> Vec<u8> {
        assert!(self.log_start >= 0 && self.recovery_point >= 0);
        let mut body = Vec::with_capacity(MARKS_BODY_BYTES);
        body.extend_from_slice(&sequence.to_le_bytes());
        body.extend_from_slice(&self.log_start.to_le_bytes());
        body.extend_from_slice(&self.recovery_point.to_le_bytes());
        body.extend_from_slice(&self.active_start.to_le_bytes());
        body.extend_from_slice(&self.first_append_ms.to_le_bytes());
        let slot = stored::frame(MARKS_MAGIC, MARKS_VERSION, &body);
        assert_eq!(slot.len(), MARKS_SLOT_BYTES);
        slot
    }

    /// The newest valid slot of a marks file and its sequence; `None` if there is no valid one.
    pub fn decode(file: &[u8]) -> Option<(u64, Marks)> {
        let slots = file.chunks(MARKS_SLOT_BYTES).take(2);
        slots.filter_map(|slot| decode_slot(slot).ok()).max_by_key(|(sequence, _)| *sequence)
    }
}

fn decode_slot(slot: &[u8]) -> Result<(u64, Marks), StoredError> {
    let (_, body) = stored::unframe(MARKS_MAGIC, MARKS_VERSION, slot)?;
    let mut r = Reader::new(body);
    let sequence = r.u64()?;
    let marks = Marks {
        log_start: r.i64()?,
        recovery_point: r.i64()?,
        active_start: r.i64()?,
        first_append_ms: r.i64()?,
    };
    r.finish()?;
    if marks.log_start < 0 || marks.recovery_point < 0 || marks.active_start < 0 || sequence == u64::MAX {
        return Err(StoredError::Rule("marks"));
    }
    Ok((sequence, marks))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn checkpoint(segments: i64, clean: bool) -> Checkpoint {
        let mut epochs = EpochTable::default();
        let mut sealed = Vec::new();
        for n in 0..segments {
            epochs.assign(n as i32 * 2, n * 10);
            let (start, end) = (n * 10, n * 10 + 10);
            sealed.push(SealedSegment { start, end, bytes: 700, max_timestamp: n, sealed_at_ms: 5 });
        }
        let end = CleanEnd {
            start: segments * 10,
            end: segments * 10 + 3,
            bytes: 99,
            max_timestamp: -1,
            first_append_ms: 4,
            first_timestamp: 3,
            has_producers: true,
        };
        Checkpoint { epochs, sealed, clean: clean.then_some(end) }
    }

    #[test]
    fn checkpoints_come_back() {
        for (segments, clean) in [(0, false), (0, true), (3, false), (5, true)] {
            let c = checkpoint(segments, clean);
            assert_eq!(Checkpoint::decode(&c.encode()), Ok(c));
        }
    }

    #[test]
    fn the_newest_valid_slot_wins() {
        let marks = |log_start| Marks { log_start, recovery_point: 9, active_start: 3, first_append_ms: 4 };
        let mut file = marks(1).encode_slot(4);
        file.extend(marks(2).encode_slot(5));
        assert_eq!(Marks::decode(&file), Some((5, marks(2))));
        file[MARKS_SLOT_BYTES + 20] ^= 1;
        assert_eq!(Marks::decode(&file), Some((4, marks(1))), "a torn slot leaves the other");
        file[20] ^= 1;
        assert_eq!(Marks::decode(&file), None);
        assert_eq!(Marks::decode(&[]), None);
        assert_eq!(Marks::decode(&vec![0; 4_096]), None);
    }

    proptest! {
        #[test]
        fn damage_is_an_error_never_a_panic(
            segments in 0i64..6, clean in any::<bool>(), at in 0usize..10_000, bit in 0u8..8,
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut file = checkpoint(segments, clean).encode();
            let at = at % file.len();
            file[at] ^= 1 << bit;
            prop_assert!(Checkpoint::decode(&file).is_err());
            prop_assert!(Checkpoint::decode(&file[..at]).is_err());
            let _ = Checkpoint::decode(&stored::frame(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, &noise));
            let _ = Marks::decode(&noise);
        }
    }
}
