//! Frames out of one connection's bytes, with memory that follows what has arrived and not what a length
//! claims.
//!
//! Owns the read buffer and its share of the budget of all requests. A frame up to
//! `REQUEST_PREALLOCATE_BYTES_MAX` gets its buffer at once, a larger one doubles as it fills; the share of
//! the budget always covers twice what has arrived. The buffer is used again for the next frame once the
//! former one is dropped, so a produce is copied twice in all: socket to buffer, buffer to page cache. Reads
//! are few and ask for a little more than is wanted: one that comes back short has emptied the socket, and
//! none is needed to find that out. What of the next frame comes along with a large one is so little that it
//! may be moved.

use std::borrow::Cow;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use highwater_model::limits::{
    CONNECTION_BUFFER_KEPT_BYTES_MAX, REQUEST_BYTES_MAX, REQUEST_PREALLOCATE_BYTES_MAX,
    REQUEST_UNBUDGETED_BYTES_MAX,
};
use highwater_wire::api;
use tokio::sync::OwnedSemaphorePermit;

pub use super::budget::BUDGET_UNIT_BYTES;
use super::budget::Share;

const PREFIX_BYTES: usize = 4;
/// API key, version and correlation id: every request has them.
const HEAD_BYTES_MIN: usize = 8;
const READ_BYTES: usize = 16 * 1024;

/// A frame that no Kafka client sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    #[error("not the Kafka protocol: looks like {0}")]
    Foreign(&'static str),
    #[error("frame of {0} bytes: a request has {HEAD_BYTES_MIN} to {REQUEST_BYTES_MAX}")]
    Length(i32),
    #[error("request of {length} bytes for unknown API key {key}")]
    Key { key: i16, length: usize },
}

/// What a frame may use of the memory of all requests; given back when dropped.
#[derive(Debug, Default)]
pub struct FrameMemory {
    units: Option<OwnedSemaphorePermit>,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl FrameMemory {
    fn units(&self) -> usize {
        self.units.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// One request, without its length prefix, and its share of the budget.
pub struct Frame {
    pub bytes: Bytes,
    pub memory: FrameMemory,
}

/// Reader of one connection's frames.
#[derive(Default)]
pub struct FrameReader {
    buffer: BytesMut,
    memory: FrameMemory,
    /// Length of the last frame: the next one may well be like it.
    last_length: usize,
    /// The most that the buffer has held since it was last given back: what its capacity tells may be the
    /// rest of something larger.
    held_bytes: usize,
}

impl FrameReader {
    /// Length of the frame at the front, prefix included, once it is known and legal.
    fn length(&self) -> Result<Option<usize>, BadFrame> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let claimed = i32::from_be_bytes(*prefix);
        let length = usize::try_from(claimed).unwrap_or(0);
        if !(HEAD_BYTES_MIN..=REQUEST_BYTES_MAX).contains(&length) {
            return Err(foreign(prefix).map_or(BadFrame::Length(claimed), BadFrame::Foreign));
        }
        if let Some(key) = self.buffer.get(PREFIX_BYTES..PREFIX_BYTES + 2) {
            let key = i16::from_be_bytes([key[0], key[1]]);
            if length > REQUEST_UNBUDGETED_BYTES_MAX && api::find(key).is_none() {
                return Err(BadFrame::Key { key, length });
            }
        }
        Ok(Some(PREFIX_BYTES + length))
    }

    /// The next whole frame, if it is there.
    pub fn take(&mut self) -> Result<Option<Frame>, BadFrame> {
        match self.length()? {
            Some(length) if self.buffer.len() >= length => {
                let mut bytes = self.buffer.split_to(length).freeze();
                bytes::Buf::advance(&mut bytes, PREFIX_BYTES);
                self.last_length = length;
                Ok(Some(Frame { bytes, memory: std::mem::take(&mut self.memory) }))
            }
            _ => Ok(None),
        }
    }

    /// Whether part of a frame has arrived.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes of the frame at the front, as far as known; for its deadline.
    pub fn expected_bytes(&self) -> usize {
        self.length().ok().flatten().unwrap_or(PREFIX_BYTES)
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Units of the budget that must be added before the next read.
    pub fn wanted_units(&self) -> u32 {
        let Ok(Some(length)) = self.length() else { return 0 };
        if length <= REQUEST_UNBUDGETED_BYTES_MAX || self.memory.overdraft.is_some() {
            return 0;
        }
        let units = self.covered(length).div_ceil(BUDGET_UNIT_BYTES);
        u32::try_from(units.saturating_sub(self.memory.units()))
            .expect("a frame has at most REQUEST_BYTES_MAX bytes")
    }

    /// Bytes that a frame of `length` may have for now: twice what has arrived.
    fn covered(&self, length: usize) -> usize {
        length.min((self.buffer.len() * 2).max(REQUEST_UNBUDGETED_BYTES_MAX))
    }

    /// Whether the frame at the front has a share of the budget.
    pub fn holds_memory(&self) -> bool {
        self.memory.units() > 0
    }

    pub fn add_memory(&mut self, share: Share) {
        match share {
            Share::Overdraft(permit) => self.memory.overdraft = Some(permit),
            Share::Units(permit) => match &mut self.memory.units {
                Some(held) => held.merge(permit),
                None => self.memory.units = Some(permit),
            },
        }
    }

    /// Room for the next read; call only when [`FrameReader::wanted_units`] is zero.
    pub fn room(&mut self) -> Limit<&mut BytesMut> {
        let have = self.buffer.len();
        let length = self.length().ok().flatten();
        let read = match length {
            Some(length) if length > REQUEST_UNBUDGETED_BYTES_MAX => {
                let held = match self.memory.overdraft {
                    Some(_) => self.covered(length),
                    None => self.memory.units() * BUDGET_UNIT_BYTES,
                };
                let until = length.min(held.max(have + 1));
                until - have + if until == length { READ_BYTES } else { 0 }
            }
            Some(length) if length > have => READ_BYTES + length - have,
            _ if self.last_length > READ_BYTES => REQUEST_UNBUDGETED_BYTES_MAX,
            _ => READ_BYTES,
        };
        // Room for the whole frame at once, while there is next to nothing to be moved.
        let expected = length.unwrap_or(self.last_length);
        let whole = match (READ_BYTES..=REQUEST_PREALLOCATE_BYTES_MAX).contains(&expected) {
            true => (expected + READ_BYTES).saturating_sub(have),
            false => 0,
        };
        if self.buffer.capacity() - have < read.max(whole) {
            self.buffer.reserve(read.max(whole));
            self.held_bytes = self.held_bytes.max(self.buffer.capacity());
        }
        (&mut self.buffer).limit(read)
    }

    /// Gives a large buffer back; nothing may have arrived.
    pub fn shrink(&mut self) {
        if self.buffer.is_empty() && self.held_bytes > CONNECTION_BUFFER_KEPT_BYTES_MAX {
            self.buffer = BytesMut::new();
            (self.last_length, self.held_bytes) = (0, 0);
        }
    }
}

/// What the first bytes are, if they are something well known.
fn foreign(prefix: &[u8; 4]) -> Option<&'static str> {
    match prefix {
        [0x16, 0x03, ..] => Some("TLS"),
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"DELE" | b"OPTI" | b"PATC" | b"CONN" => Some("HTTP"),
        b"PRI " => Some("HTTP/2 or gRPC"),
        b"SSH-" => Some("SSH"),
        _ => None,
    }
}

impl From<BadFrame> for super::reply::CloseReason {
    fn from(bad: BadFrame) -> Self {
        super::reply::CloseReason(Cow::Owned(bad.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::budget::RequestBudget;

    fn frame(key: i16, length: usize) -> Vec<u8> {
        let mut bytes = (length as i32).to_be_bytes().to_vec();
        bytes.extend(key.to_be_bytes());
        bytes.resize(4 + length, 7);
        bytes
    }

    fn feed(
        reader: &mut FrameReader,
        budget: &RequestBudget,
        mut bytes: &[u8],
    ) -> Result<Vec<usize>, BadFrame> {
        let mut lengths = Vec::new();
        loop {
            while let Some(frame) = reader.take()? {
                lengths.push(frame.bytes.len());
            }
            if bytes.is_empty() {
                return Ok(lengths);
            }
            let wanted = reader.wanted_units();
            if wanted > 0 {
                reader.add_memory(budget.try_take(wanted).expect("budget"));
            }
            let mut room = reader.room();
            let n = room.remaining_mut().min(bytes.len());
            assert!(n > 0, "room for at least a byte");
            room.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let budget = RequestBudget::new(0);
        let units = budget.free_units();
        let lengths = [8, 100, 70_000, 9, 3_000_000, 8];
        let bytes: Vec<u8> = lengths.iter().flat_map(|l| frame(0, *l)).collect();
        for step in [1_000, 4_096, bytes.len()] {
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for part in bytes.chunks(step) {
                found.extend(feed(&mut reader, &budget, part).expect("good frames"));
            }
            assert_eq!(found, lengths);
            assert!(!reader.is_partial());
            assert_eq!(budget.free_units(), units, "the budget is whole again");
        }
    }

    #[test]
    fn frames_of_a_like_size_take_two_reads_each_and_are_not_moved() {
        let budget = RequestBudget::new(0);
        let mut reader = FrameReader::default();
        let mut places = std::collections::HashSet::new();
        for turn in 0..50 {
            let bytes = frame(0, 118_000 + turn * 37 % 900);
            let (mut rest, mut reads) = (&bytes[..], 0);
            let taken = loop {
                if let Some(taken) = reader.take().expect("a good frame") {
                    break taken;
                }
                let wanted = reader.wanted_units();
                if wanted > 0 {
                    reader.add_memory(budget.try_take(wanted).expect("budget"));
                }
                let mut room = reader.room();
                let n = room.remaining_mut().min(rest.len());
                assert!(n < rest.len() || n < room.remaining_mut(), "the last read comes back short");
                room.put_slice(&rest[..n]);
                (rest, reads) = (&rest[n..], reads + 1);
                if turn > 10 && reads == 1 {
                    places.insert(reader.buffer.as_ptr() as usize);
                }
                assert!(turn < 2 || reads <= 2, "turn {turn}: {reads} reads");
            };
            if turn > 10 {
                assert!(places.contains(&(taken.bytes.as_ptr() as usize - PREFIX_BYTES)), "it was moved");
            }
        }
        let (first, last) = (places.iter().min().expect("some"), places.iter().max().expect("some"));
        assert!(last - first < 3 * 118_000, "the buffer is used again: {places:?}");
        assert!(reader.held_bytes < 3 * 118_000, "and does not grow: {}", reader.held_bytes);
    }

    #[test]
    fn a_claimed_length_costs_nothing_until_bytes_arrive() {
        let budget = RequestBudget::new(0);
        let mut reader = FrameReader::default();
        feed(&mut reader, &budget, &frame(0, REQUEST_BYTES_MAX)[..1_000]).expect("not yet bad");
        assert!(reader.buffer.capacity() < 256 * 1024, "{}", reader.buffer.capacity());
        assert!(reader.wanted_units() as usize * BUDGET_UNIT_BYTES <= REQUEST_UNBUDGETED_BYTES_MAX);
    }

    #[test]
    fn bad_lengths_and_foreign_protocols_are_named() {
        let budget = RequestBudget::new(0);
        for (bytes, bad) in [
            (&b"GET / HTTP/1.1\r\n"[..], BadFrame::Foreign("HTTP")),
            (&[0x16, 0x03, 0x01, 0x02, 0x00][..], BadFrame::Foreign("TLS")),
            (&[0xff, 0xff, 0xff, 0xff][..], BadFrame::Length(-1)),
            (&[0, 0, 0, 0][..], BadFrame::Length(0)),
            (&[0x7f, 0xff, 0xff, 0xff][..], BadFrame::Length(i32::MAX)),
            (&[0, 2, 0, 0, 0x7f, 0, 0, 0][..], BadFrame::Key { key: 0x7f00, length: 131_072 }),
        ] {
            assert_eq!(feed(&mut FrameReader::default(), &budget, bytes), Err(bad), "{bytes:?}");
        }
    }

    #[test]
    fn a_quiet_connection_gives_its_buffer_back() {
        let budget = RequestBudget::new(0);
        let mut reader = FrameReader::default();
        feed(&mut reader, &budget, &frame(0, 1_000_000)).expect("good");
        reader.shrink();
        assert_eq!(reader.buffer.capacity(), 0);
        // Also when small frames came last, in what was left of a large buffer.
        feed(&mut reader, &budget, &frame(0, 1_000_000)).expect("good");
        for _ in 0..3 {
            feed(&mut reader, &budget, &frame(0, 100)).expect("good");
        }
        reader.shrink();
        assert_eq!(reader.buffer.capacity(), 0);
    }

    /// Reads until the frame is whole, waiting for memory as a connection does.
    async fn feed_waiting(reader: &mut FrameReader, budget: &RequestBudget, mut bytes: &[u8]) -> usize {
        loop {
            if let Some(frame) = reader.take().expect("a good frame") {
                return frame.bytes.len();
            }
            let wanted = reader.wanted_units();
            if wanted > 0 {
                let share = match budget.try_take(wanted) {
                    Some(share) => share,
                    None => budget.take(wanted, reader.holds_memory()).await.expect("open"),
                };
                reader.add_memory(share);
            }
            let mut room = reader.room();
            let n = room.remaining_mut().min(bytes.len());
            room.put_slice(&bytes[..n]);
            bytes = &bytes[n..];
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn frames_that_hold_all_memory_and_need_more_do_not_wait_for_each_other() {
        let budget = RequestBudget::new(0);
        let units = budget.free_units();
        let bytes = frame(0, 60_000_000);
        let mut readers: [FrameReader; 4] = Default::default();
        let all = readers.iter_mut().map(|reader| feed_waiting(reader, &budget, &bytes));
        let done = tokio::time::timeout(std::time::Duration::from_secs(120), futures::future::join_all(all));
        assert_eq!(done.await.expect("they end"), [60_000_000; 4]);
        assert_eq!(budget.free_units(), units, "the budget is whole again");
    }
}
