//! The bytes of the journal's entries and of records as they are kept (docs/format.md).
//!
//! Everything that is read is checked; what does not read, or is of a newer release, is an error and never a
//! guess. Invariants: 13, 18, 19.

use bytes::Bytes;
use highwater_model::limits::{DELAYED_ENTRY_BYTES_MAX, DELAYED_RECORDS_PER_SHARD_MAX};
use highwater_model::{TopicId, TopicPartition};
use highwater_wire::RecordRef;
use uuid::Uuid;

use super::types::{Entry, Identity, Known, KnownBatch, Source, TakenRecord};

/// First byte of every entry.
const VERSION: u8 = 1;

const TAKEN: u8 = 1;
const PLANNED: u8 = 2;
const RELEASED: u8 = 3;
const GONE: u8 = 4;
const BEGUN: u8 = 5;
const STATE: u8 = 6;
const KEPT: u8 = 7;

/// Why bytes are no entry or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("an entry of version {0}, which a newer release has written")]
    Newer(u8),
    #[error("an entry that ends in {0}")]
    Cut(&'static str),
    #[error("an entry with a wrong {0}")]
    Wrong(&'static str),
}

/// An entry's bytes.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let mut out = vec![VERSION];
    match entry {
        Entry::Taken { target, source, now_ms, first_id, records } => {
            put_head(&mut out, TAKEN, *target);
            out.push(u8::from(source.is_some()));
            if let Some(Source { producer_id, epoch, first, last }) = source {
                out.extend_from_slice(&producer_id.to_le_bytes());
                out.extend_from_slice(&epoch.to_le_bytes());
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&last.to_le_bytes());
            }
            out.extend_from_slice(&now_ms.to_le_bytes());
            out.extend_from_slice(&first_id.to_le_bytes());
            put_count(&mut out, records.len());
            for TakenRecord { delta, due_ms, record } in records {
                out.extend_from_slice(&delta.to_le_bytes());
                out.extend_from_slice(&due_ms.to_le_bytes());
                put_bytes(&mut out, record);
            }
        }
        Entry::Planned { target, identity, ids } => {
            put_head(&mut out, PLANNED, *target);
            put_identity(&mut out, *identity);
            put_ids(&mut out, ids);
        }
        Entry::Released { target } => put_head(&mut out, RELEASED, *target),
        Entry::Gone { target } => put_head(&mut out, GONE, *target),
        Entry::Begun { next_id } => {
            out.push(BEGUN);
            out.extend_from_slice(&next_id.to_le_bytes());
        }
        Entry::State { target, identity, planned, known } => {
            put_head(&mut out, STATE, *target);
            out.push(u8::from(identity.is_some()));
            if let Some(identity) = identity {
                put_identity(&mut out, *identity);
            }
            put_ids(&mut out, planned);
            put_count(&mut out, known.len());
            known.iter().for_each(|one| put_known(&mut out, one));
        }
        Entry::Kept { target, id, due_ms, record } => {
            put_head(&mut out, KEPT, *target);
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&due_ms.to_le_bytes());
            put_bytes(&mut out, record);
        }
    }
    assert!(out.len() <= DELAYED_ENTRY_BYTES_MAX, "an entry that cannot be replicated: {} bytes", out.len());
    debug_assert_eq!(decode(&out).as_ref(), Ok(entry), "an entry reads back as it was written");
    out
}

fn put_head(out: &mut Vec<u8>, kind: u8, target: TopicPartition) {
    out.push(kind);
    out.extend_from_slice(target.topic_id.0.as_bytes());
    out.extend_from_slice(&target.partition.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("counts are bounded");
    out.extend_from_slice(&count.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_identity(out: &mut Vec<u8>, identity: Identity) {
    assert!(identity.sequence >= 0, "a batch of a producer has a sequence number");
    out.extend_from_slice(&identity.producer_id.to_le_bytes());
    out.extend_from_slice(&identity.sequence.to_le_bytes());
}

fn put_ids(out: &mut Vec<u8>, ids: &[u64]) {
    put_count(out, ids.len());
    ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
}

fn put_known(out: &mut Vec<u8>, known: &Known) {
    out.extend_from_slice(&known.producer_id.to_le_bytes());
    out.extend_from_slice(&known.epoch.to_le_bytes());
    out.extend_from_slice(&known.seen_ms.to_le_bytes());
    put_count(out, known.batches.len());
    for KnownBatch { first, last, deltas } in &known.batches {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
        put_count(out, deltas.len());
        deltas.iter().for_each(|delta| out.extend_from_slice(&delta.to_le_bytes()));
    }
}

/// The entry that bytes are.
///
/// # Errors
/// [`CodecError`]
pub fn decode(bytes: &[u8]) -> Result<Entry, CodecError> {
    let mut r = Reader { rest: bytes };
    let version = r.u8("version")?;
    if version > VERSION {
        return Err(CodecError::Newer(version));
    }
    if version == 0 {
        return Err(CodecError::Wrong("version"));
    }
    let kind = r.u8("kind")?;
    if kind == BEGUN {
        let entry = Entry::Begun { next_id: r.u64("id")? };
        return r.end(entry);
    }
    let target = r.target()?;
    let entry = match kind {
        TAKEN => r.taken(target)?,
        PLANNED => Entry::Planned { target, identity: r.identity()?, ids: r.ids()? },
        RELEASED => Entry::Released { target },
        GONE => Entry::Gone { target },
        STATE => {
            let identity = if r.flag()? { Some(r.identity()?) } else { None };
            let planned = r.ids()?;
            if identity.is_none() && !planned.is_empty() {
                return Err(CodecError::Wrong("plan"));
            }
            let known = (0..r.count(22)?).map(|_| r.known()).collect::<Result<_, _>>()?;
            Entry::State { target, identity, planned, known }
        }
        KEPT => {
            let (id, due_ms) = (r.id()?, r.i64("time")?);
            Entry::Kept { target, id, due_ms, record: r.record()? }
        }
        _ => return Err(CodecError::Wrong("kind")),
    };
    r.end(entry)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Cut(what))?;
        self.rest = rest;
        debug_assert_eq!(taken.len(), count);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        Ok(*self.take(N, what)?.first_chunk().expect("as many were taken"))
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.array::<1>(what)?[0])
    }

    fn i16(&mut self, what: &'static str) -> Result<i16, CodecError> {
        self.array(what).map(i16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn i32(&mut self, what: &'static str) -> Result<i32, CodecError> {
        self.array(what).map(i32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        self.array(what).map(i64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, CodecError> {
        match self.u8("flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Wrong("flag")),
        }
    }

    /// An id, which has a successor.
    fn id(&mut self) -> Result<u64, CodecError> {
        let id = self.u64("id")?;
        if id == u64::MAX { Err(CodecError::Wrong("id")) } else { Ok(id) }
    }

    /// A number of items of at least so many bytes, as many as there can be.
    fn count(&mut self, item_bytes_min: usize) -> Result<usize, CodecError> {
        let count = self.u32("count")? as usize;
        let fits = count <= DELAYED_RECORDS_PER_SHARD_MAX && count * item_bytes_min <= self.rest.len();
        if fits { Ok(count) } else { Err(CodecError::Wrong("count")) }
    }

    fn target(&mut self) -> Result<TopicPartition, CodecError> {
        let topic = Uuid::from_bytes(self.array("topic")?);
        let partition = self.i32("partition")?;
        if partition < 0 {
            return Err(CodecError::Wrong("partition"));
        }
        Ok(TopicPartition::new(TopicId(topic), partition))
    }

    fn identity(&mut self) -> Result<Identity, CodecError> {
        let identity = Identity { producer_id: self.i64("producer")?, sequence: self.i32("sequence")? };
        let is_one = identity.producer_id >= 0 && identity.sequence >= 0;
        if is_one { Ok(identity) } else { Err(CodecError::Wrong("identity")) }
    }

    fn ids(&mut self) -> Result<Vec<u64>, CodecError> {
        (0..self.count(8)?).map(|_| self.id()).collect()
    }

    /// A copy: what waits must not hold on to what it was read from.
    fn record(&mut self) -> Result<Bytes, CodecError> {
        let length = self.u32("record")? as usize;
        let record = Bytes::copy_from_slice(self.take(length, "record")?);
        read_record(&record)?;
        Ok(record)
    }

    fn source(&mut self) -> Result<Source, CodecError> {
        let (producer_id, epoch) = (self.i64("producer")?, self.i16("epoch")?);
        let (first, last) = (self.i32("sequence")?, self.i32("sequence")?);
        if producer_id < 0 || epoch < 0 || first < 0 || last < 0 {
            return Err(CodecError::Wrong("producer"));
        }
        Ok(Source { producer_id, epoch, first, last })
    }

    fn taken(&mut self, target: TopicPartition) -> Result<Entry, CodecError> {
        let source = if self.flag()? { Some(self.source()?) } else { None };
        let (now_ms, first_id) = (self.i64("time")?, self.id()?);
        let count = self.count(16)?;
        let one = |_| {
            let (delta, due_ms) = (self.u32("place")?, self.i64("time")?);
            Ok(TakenRecord { delta, due_ms, record: self.record()? })
        };
        let records = (0..count).map(one).collect::<Result<Vec<_>, CodecError>>()?;
        if first_id.checked_add(count as u64).is_none() {
            return Err(CodecError::Wrong("id"));
        }
        Ok(Entry::Taken { target, source, now_ms, first_id, records })
    }

    fn known(&mut self) -> Result<Known, CodecError> {
        let (producer_id, epoch) = (self.i64("producer")?, self.i16("epoch")?);
        let seen_ms = self.i64("time")?;
        let count = self.count(12)?;
        let one = |_| {
            let (first, last) = (self.i32("sequence")?, self.i32("sequence")?);
            let deltas = (0..self.count(4)?).map(|_| self.u32("place")).collect::<Result<_, _>>()?;
            Ok(KnownBatch { first, last, deltas })
        };
        let batches = (0..count).map(one).collect::<Result<_, CodecError>>()?;
        Ok(Known { producer_id, epoch, seen_ms, batches })
    }

    fn nullable(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, CodecError> {
        match self.i32(what)? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| CodecError::Wrong(what))?;
                self.take(length, what).map(Some)
            }
        }
    }

    fn end<T>(self, read: T) -> Result<T, CodecError> {
        if self.rest.is_empty() { Ok(read) } else { Err(CodecError::Wrong("end")) }
    }
}

/// A record as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord<'a> {
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// A record of a batch, as it is kept: its own timestamp, key, value and all headers.
pub fn write_record(timestamp: i64, record: &RecordRef<'_>) -> Bytes {
    let mut out =
        Vec::with_capacity(24 + record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len));
    out.extend_from_slice(&timestamp.to_le_bytes());
    put_nullable(&mut out, record.key);
    put_nullable(&mut out, record.value);
    put_count(&mut out, record.headers.len());
    for header in record.headers {
        put_bytes(&mut out, header.key);
        put_nullable(&mut out, header.value);
    }
    debug_assert!(read_record(&out).is_ok(), "a record reads back as it was written");
    Bytes::from(out)
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let length = bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).expect("a field of a batch"));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// A record that was kept.
///
/// # Errors
/// [`CodecError`]
pub fn read_record(bytes: &[u8]) -> Result<KeptRecord<'_>, CodecError> {
    let mut r = Reader { rest: bytes };
    let timestamp = r.i64("timestamp")?;
    let (key, value) = (r.nullable("key")?, r.nullable("value")?);
    // As many as there is room for: a batch bounds them by its bytes alone, too.
    let count = r.u32("count")? as usize;
    if count.saturating_mul(8) > r.rest.len() {
        return Err(CodecError::Wrong("count"));
    }
    let one = |_| {
        let length = r.u32("header")? as usize;
        Ok((r.take(length, "header")?, r.nullable("header")?))
    };
    let headers = (0..count).map(one).collect::<Result<_, CodecError>>()?;
    r.end(KeptRecord { timestamp, key, value, headers })
}
