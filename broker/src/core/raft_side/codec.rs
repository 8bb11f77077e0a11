//! The bytes of a side file's head and frames.
//!
//! Must not know what marks add up to. What does not read is told from what reads and is of another release.

use std::sync::Arc;

use highwater_model::Offset;
use highwater_model::limits::RAFT_SIDE_FRAME_BYTES_MAX;

use super::{Anchor, Base, EntryId, Mark, Members, ReplicaId, SetMembers, SideEntry, SideError, StoredVote};

const MAGIC: &[u8; 4] = b"HWRS";
const VERSION: u16 = 1;
/// Bytes of the file's head.
pub(super) const HEAD_BYTES: usize = 24;
/// Bytes of a frame before its body.
const FRAME_HEAD_BYTES: usize = 13;

/// Whether a frame behind `from` says that the bytes there were durable when it was written.
pub(super) fn frames_after(file: &[u8], from: usize) -> bool {
    let starts = from + 1..file.len().saturating_sub(FRAME_HEAD_BYTES);
    starts.into_iter().any(|at| parse_frame(&file[at..]).is_some_and(|(_, _, synced)| synced > from))
}

pub(super) fn encode_head(replica: ReplicaId, begun: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(MAGIC);
    head[4..6].copy_from_slice(&VERSION.to_le_bytes());
    head[8..16].copy_from_slice(&replica.to_le_bytes());
    head[16..20].copy_from_slice(&begun.to_le_bytes());
    let crc = crc32c::crc32c(&head[..20]);
    head[20..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The replica, and the length with which the file appeared.
pub(super) fn parse_head(file: &[u8]) -> Result<(ReplicaId, usize), SideError> {
    let head = file.get(..HEAD_BYTES).ok_or(SideError::Head)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    if &head[..4] != MAGIC || u32_at(20) != crc32c::crc32c(&head[..20]) {
        return Err(SideError::Head);
    }
    let version = u16::from_le_bytes([head[4], head[5]]);
    if version != VERSION {
        return Err(SideError::Newer(version));
    }
    Ok((u64::from_le_bytes(head[8..16].try_into().expect("8 bytes")), u32_at(16) as usize))
}

/// Appends a mark's frame to `out`. `synced`: bytes of the file that are durable.
pub fn encode_mark(mark: &Mark, synced: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&synced.to_le_bytes());
    match mark {
        Mark::Vote(vote) => {
            out.push(1);
            put(out, &[vote.term, vote.replica, u64::from(vote.is_committed)]);
        }
        Mark::Entry(entry) => {
            out.push(2);
            put_id(out, entry.id);
            put(out, &[entry.offset as u64]);
            put_members(out, entry.members.as_deref());
        }
        Mark::Row(anchor) | Mark::Cut(anchor) => {
            out.push(if matches!(mark, Mark::Row(_)) { 3 } else { 4 });
            put(out, &[anchor.index, anchor.offset as u64]);
        }
        Mark::Base(base) => {
            out.push(5);
            put_optional_id(out, base.at);
            put(out, &[base.offset as u64]);
            put_optional_id(out, base.members.as_ref().and_then(|set| set.at));
            put_members(out, base.members.as_ref().map(|set| &*set.members));
        }
        Mark::Committed(id) => {
            out.push(6);
            put_id(out, *id);
        }
    }
    let length = out.len() - start - FRAME_HEAD_BYTES;
    assert!(length <= RAFT_SIDE_FRAME_BYTES_MAX, "members are few");
    out[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn put_id(out: &mut Vec<u8>, id: EntryId) {
    put(out, &[id.term, id.leader, id.index]);
}

fn put_optional_id(out: &mut Vec<u8>, id: Option<EntryId>) {
    put(out, &[u64::from(id.is_some())]);
    put_id(out, id.unwrap_or(EntryId { term: 0, leader: 0, index: 0 }));
}

/// Members as JSON; nothing at all for none.
fn put_members(out: &mut Vec<u8>, members: Option<&Members>) {
    if let Some(members) = members {
        out.extend(serde_json::to_vec(members).expect("numbers always serialise"));
    }
}

/// The frame at the start of `bytes`: its mark, length, and what it says was synced. None: not a whole frame.
/// A mark of None: a whole frame of another release, or with another body than its kind has.
pub(super) fn parse_frame(bytes: &[u8]) -> Option<(Option<Mark>, usize, usize)> {
    let head = bytes.get(..FRAME_HEAD_BYTES)?;
    let length = u32::from_le_bytes(head[..4].try_into().expect("4 bytes")) as usize;
    if length > RAFT_SIDE_FRAME_BYTES_MAX {
        return None;
    }
    let end = FRAME_HEAD_BYTES + length;
    let checked = bytes.get(8..end)?;
    if crc32c::crc32c(checked) != u32::from_le_bytes(head[4..8].try_into().expect("4 bytes")) {
        return None;
    }
    let synced = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
    Some((parse_mark(head[12], &bytes[FRAME_HEAD_BYTES..end]), end, synced))
}

fn parse_mark(kind: u8, body: &[u8]) -> Option<Mark> {
    let mut rest = body;
    let mut next = || {
        let (number, after) = rest.split_first_chunk::<8>()?;
        rest = after;
        Some(u64::from_le_bytes(*number))
    };
    let mark = match kind {
        1 => Mark::Vote(StoredVote { term: next()?, replica: next()?, is_committed: next()? == 1 }),
        2 => {
            let id = EntryId { term: next()?, leader: next()?, index: next()? };
            let offset = offset(next()?)?;
            return Some(Mark::Entry(SideEntry { id, offset, members: parse_members(rest)? }));
        }
        3 => Mark::Row(Anchor { index: next()?, offset: offset(next()?)? }),
        4 => Mark::Cut(Anchor { index: next()?, offset: offset(next()?)? }),
        5 => {
            let has_at = next()? == 1;
            let at = EntryId { term: next()?, leader: next()?, index: next()? };
            let offset = offset(next()?)?;
            let has_set = next()? == 1;
            let set = EntryId { term: next()?, leader: next()?, index: next()? };
            let members = parse_members(rest)?;
            let members = members.map(|members| SetMembers { at: has_set.then_some(set), members });
            return Some(Mark::Base(Base { at: has_at.then_some(at), offset, members }));
        }
        6 => Mark::Committed(EntryId { term: next()?, leader: next()?, index: next()? }),
        _ => return None,
    };
    rest.is_empty().then_some(mark)
}

fn offset(number: u64) -> Option<Offset> {
    Offset::try_from(number).ok()
}

fn parse_members(bytes: &[u8]) -> Option<Option<Arc<Members>>> {
    if bytes.is_empty() {
        return Some(None);
    }
    serde_json::from_slice(bytes).ok().map(|members| Some(Arc::new(members)))
}
