//! The bytes of one Raft log record, and the decision what the end of a file means after a crash. No I/O.
//!
//! A frame is a head of 48 bytes, little-endian, and a JSON body (docs/format.md, "Raft log"). Each head
//! tells how far the log was known to be synced when the frame was written. That is what tells a torn tail,
//! which nobody was told about, from damage to what was acknowledged.

use highwater_model::limits::RAFT_ENTRY_BYTES_MAX;

/// Length of a frame's head.
pub(super) const HEAD_BYTES: usize = 48;
/// Version of the frame, in each head.
pub(super) const FRAME_VERSION: u8 = 1;
/// The head's length and checksum fields, which neither covers.
const UNCOVERED_BYTES: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry without content; a new leader writes one.
    Blank = 0,
    /// An entry with a batch of commands.
    Commands = 1,
    /// An entry with the members of the group.
    Membership = 2,
    /// Not an entry: everything up to this position is committed. Never synced for its own sake.
    Committed = 3,
}

/// A place in the log: the leader's term and node id, and the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    pub at: Position,
    pub body: Vec<u8>,
}

/// A record as it stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameRef<'a> {
    pub kind: Kind,
    pub at: Position,
    /// Every entry below this index was synced when the frame was written.
    pub durable_end: u64,
    pub body: &'a [u8],
}

/// Why there is no frame at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    Short,
    Length,
    Checksum,
    /// Whole, but of a version that this program does not know.
    Newer(u8),
    Kind,
}

/// Appends the bytes of a frame to `out`.
pub(super) fn encode(frame: &Frame, durable_end: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(HEAD_BYTES - UNCOVERED_BYTES + frame.body.len()).expect("entries are bounded");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[FRAME_VERSION, frame.kind as u8, 0, 0, 0, 0, 0, 0]);
    for number in [frame.at.term, frame.at.node, frame.at.index, durable_end] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&frame.body);
    let crc = crc32c::crc32c(&out[start + UNCOVERED_BYTES..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at the start of `bytes`; returns it and its length.
pub(super) fn parse(bytes: &[u8]) -> Result<(FrameRef<'_>, usize), FrameError> {
    if bytes.len() < HEAD_BYTES {
        return Err(FrameError::Short);
    }
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let covered = u32_at(0) as usize;
    if !(HEAD_BYTES - UNCOVERED_BYTES..=RAFT_ENTRY_BYTES_MAX).contains(&covered) {
        return Err(FrameError::Length);
    }
    let total = UNCOVERED_BYTES + covered;
    let covered = bytes.get(UNCOVERED_BYTES..total).ok_or(FrameError::Short)?;
    if crc32c::crc32c(covered) != u32_at(4) {
        return Err(FrameError::Checksum);
    }
    if bytes[8] != FRAME_VERSION {
        return Err(FrameError::Newer(bytes[8]));
    }
    let kind = match bytes[9] {
        0 => Kind::Blank,
        1 => Kind::Commands,
        2 => Kind::Membership,
        3 => Kind::Committed,
        _ => return Err(FrameError::Kind),
    };
    let at = Position { term: u64_at(16), node: u64_at(24), index: u64_at(32) };
    Ok((FrameRef { kind, at, durable_end: u64_at(40), body: &bytes[HEAD_BYTES..total] }, total))
}

/// What stands in a file from its first frame on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan<'a> {
    /// The entries, each with where its frame starts.
    pub entries: Vec<(usize, FrameRef<'a>)>,
    /// The last position known to be committed.
    pub committed: Option<Position>,
    /// End of the last whole frame.
    pub end: usize,
    pub tail: Tail,
}

/// What follows the last whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    Clean,
    /// Bytes that were being written when the machine stopped: nobody was told that they were kept.
    Torn,
    /// An entry that had been synced is damaged.
    Damaged(FrameError),
    Newer(u8),
}

/// Reads all frames of `bytes`; the first entry must have index `first` unless that is None.
pub(super) fn scan(bytes: &[u8], first: Option<u64>) -> Scan<'_> {
    let mut scan = Scan { entries: Vec::new(), committed: None, end: 0, tail: Tail::Clean };
    let mut next = first;
    while scan.end < bytes.len() {
        let fault = match parse(&bytes[scan.end..]) {
            Ok((frame, total)) if frame.kind == Kind::Committed => {
                scan.committed = Some(frame.at);
                scan.end += total;
                continue;
            }
            Ok((frame, total)) if next.is_none_or(|index| index == frame.at.index) => {
                next = Some(frame.at.index + 1);
                scan.entries.push((scan.end, frame));
                scan.end += total;
                continue;
            }
            Ok(_) => FrameError::Kind,
            Err(FrameError::Newer(version)) => {
                scan.tail = Tail::Newer(version);
                return scan;
            }
            Err(fault) => fault,
        };
        let proven = proves_synced(&bytes[scan.end + 1..], next.unwrap_or(0));
        scan.tail = if proven { Tail::Damaged(fault) } else { Tail::Torn };
        return scan;
    }
    scan
}

/// Whether a whole frame somewhere in `bytes` says that the entry `index` had been synced or committed.
fn proves_synced(bytes: &[u8], index: u64) -> bool {
    (0..bytes.len().saturating_sub(HEAD_BYTES - 1)).any(|at| {
        // The version and kind are compared before the checksum is computed.
        bytes[at + 8] == FRAME_VERSION
            && bytes[at + 9] <= Kind::Committed as u8
            && parse(&bytes[at..]).is_ok_and(|(frame, _)| {
                frame.durable_end > index || (frame.kind == Kind::Committed && frame.at.index >= index)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(index: u64, body: &[u8]) -> Frame {
        Frame { kind: Kind::Commands, at: Position { term: 3, node: 1, index }, body: body.to_vec() }
    }

    /// Entries 5 to 9, each written after the one before it was synced.
    fn log() -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for index in 5..10u64 {
            starts.push(bytes.len());
            encode(&frame(index, format!("{{\"n\":{index}}}").as_bytes()), index, &mut bytes);
        }
        (bytes, starts)
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, starts) = log();
        let scan = scan(&bytes, Some(5));
        assert_eq!(scan.tail, Tail::Clean);
        assert_eq!(scan.end, bytes.len());
        assert_eq!(scan.entries.iter().map(|(at, _)| *at).collect::<Vec<_>>(), starts);
        assert_eq!(scan.entries[2].1.body, b"{\"n\":7}");
        assert_eq!(scan.entries[2].1.durable_end, 7);
    }

    #[test]
    fn every_cut_is_a_torn_tail() {
        let (bytes, starts) = log();
        for cut in 0..bytes.len() {
            let scan = scan(&bytes[..cut], Some(5));
            let whole = starts.iter().skip(1).chain([&bytes.len()]).filter(|end| **end <= cut).count();
            assert_eq!(scan.entries.len(), whole, "cut at {cut}");
            let at_border = starts.contains(&cut);
            assert_eq!(scan.tail, if at_border { Tail::Clean } else { Tail::Torn }, "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_told_from_a_torn_tail() {
        let (bytes, starts) = log();
        for at in 0..bytes.len() {
            for bit in [0u8, 3, 7] {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let scan = scan(&damaged, Some(5));
                let entry = starts.iter().rposition(|start| *start <= at).expect("within the log");
                assert_eq!(scan.entries.len(), entry, "byte {at}");
                // The last entry has nothing after it that could prove that it was synced.
                match entry {
                    4 => assert_eq!(scan.tail, Tail::Torn, "byte {at}"),
                    _ => assert!(matches!(scan.tail, Tail::Damaged(_)), "byte {at}: {:?}", scan.tail),
                }
            }
        }
    }

    #[test]
    fn a_commit_mark_proves_the_last_entry() {
        let (mut bytes, starts) = log();
        let mark =
            Frame { kind: Kind::Committed, at: Position { term: 3, node: 1, index: 9 }, body: Vec::new() };
        encode(&mark, 10, &mut bytes);
        assert_eq!(scan(&bytes, Some(5)).committed, Some(mark.at));
        bytes[starts[4] + 50] ^= 1;
        assert!(matches!(scan(&bytes, Some(5)).tail, Tail::Damaged(FrameError::Checksum)));
    }

    #[test]
    fn zeros_after_the_end_are_a_torn_tail() {
        let (mut bytes, _) = log();
        let end = bytes.len();
        bytes.resize(end + 4096, 0);
        let scan = scan(&bytes, Some(5));
        assert_eq!((scan.tail, scan.end), (Tail::Torn, end));
    }

    #[test]
    fn a_hole_between_entries_is_damage_once_synced() {
        let mut bytes = Vec::new();
        encode(&frame(5, b"{}"), 5, &mut bytes);
        encode(&frame(7, b"{}"), 7, &mut bytes);
        let scan = scan(&bytes, Some(5));
        assert_eq!(scan.entries.len(), 1);
        assert_eq!(scan.tail, Tail::Torn, "nothing proves 6");
        encode(&frame(8, b"{}"), 8, &mut bytes);
        assert!(matches!(super::scan(&bytes, Some(5)).tail, Tail::Damaged(_)));
    }
}
