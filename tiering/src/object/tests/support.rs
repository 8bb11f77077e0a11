//! Records as plain values, segments made of them, and what comes back as the same plain values.

use bytes::Bytes;
use highwater_log::EpochStart;
use highwater_model::TopicId;
use highwater_wire::batch::check_crc;
use highwater_wire::{BatchBuilder, Batches, Codec, HEADER_BYTES, Records, TimestampType};
use uuid::Uuid;

use crate::object::{ObjectIdentity, ObjectIndex, Rebuilder, SealInput, SealedObject, Sealer, cover_gap};

pub type Header = (Vec<u8>, Option<Vec<u8>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
}

/// A record and what its batch says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub record: Record,
    pub epoch: i32,
    pub log_append: bool,
}

pub fn record(offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Record {
    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    Record { offset, timestamp, key: own(key), value: own(value), headers: Vec::new() }
}

/// How a batch of the segment is made.
#[derive(Clone, Debug)]
pub struct BatchOf {
    pub codec: Codec,
    pub epoch: i32,
    pub log_append: bool,
    pub producer: Option<i64>,
    pub control: bool,
    pub records: Vec<Record>,
}

impl BatchOf {
    pub fn new(records: Vec<Record>) -> BatchOf {
        BatchOf { codec: Codec::None, epoch: 0, log_append: false, producer: None, control: false, records }
    }

    pub fn build(&self) -> Bytes {
        let base = self.records[0].offset;
        let kind = if self.log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        let mut builder = BatchBuilder::new(self.codec)
            .base_offset(base)
            .leader_epoch(self.epoch)
            .attributes(kind, self.producer.is_some(), self.control);
        if let Some(id) = self.producer {
            builder = builder.producer(id, 0, 0);
        }
        for r in &self.records {
            let headers: Vec<_> = r.headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
            let delta = (r.offset - base) as i32;
            builder.push_at(delta, r.timestamp, r.key.as_deref(), r.value.as_deref(), &headers);
        }
        builder.build()
    }
}

pub fn segment(batches: &[BatchOf]) -> Bytes {
    Bytes::from(batches.iter().flat_map(|b| b.build().to_vec()).collect::<Vec<u8>>())
}

pub fn identity(start: i64, end: i64) -> ObjectIdentity {
    ObjectIdentity {
        cluster_id: "cluster".into(),
        topic: "flights".into(),
        topic_id: TopicId(Uuid::from_u128(0x1234)),
        partition: 3,
        start,
        end,
        leader_epoch: 7,
        upload_id: Uuid::from_u128(0x5678),
    }
}

pub fn input(start: i64, end: i64, batches: &[BatchOf]) -> SealInput {
    let mut epochs: Vec<EpochStart> = Vec::new();
    for batch in batches {
        if epochs.last().is_none_or(|e| e.epoch < batch.epoch) {
            let start_offset = if epochs.is_empty() { 0 } else { batch.records[0].offset };
            epochs.push(EpochStart { epoch: batch.epoch, start_offset });
        }
    }
    SealInput::new(identity(start, end), epochs, segment(batches))
}

pub fn seal(input: &SealInput) -> SealedObject {
    Sealer::new().seal(input).expect("seals")
}

/// The object as a reader sees it: parsed from its last bytes, equal to what the sealer said.
pub fn load(sealed: &SealedObject) -> (ObjectIndex, Bytes) {
    let bytes = sealed.to_bytes();
    let index = ObjectIndex::parse(&bytes, bytes.len() as u64).expect("parses");
    assert_eq!(index, sealed.index);
    (index, bytes)
}

pub fn row_group<'a>(index: &ObjectIndex, bytes: &'a [u8], number: usize) -> &'a [u8] {
    let group = &index.row_groups[number];
    &bytes[group.position as usize..][..group.length as usize]
}

/// Parses rebuilt bytes; checks what every batch must hold.
pub fn parse(bytes: &[u8]) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut next_offset = 0;
    for batch in Batches::new(bytes) {
        let (header, bytes) = batch.expect("whole batches");
        check_crc(bytes).expect("CRC");
        assert!(header.base_offset >= next_offset, "batches in order");
        next_offset = header.next_offset();
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (-1, -1, -1));
        assert_eq!(header.codec(), Ok(Codec::None));
        assert!(!header.is_control() && !header.is_transactional());
        assert!(bytes.len() <= 1024 * 1024 || header.record_count == 1, "{} bytes", bytes.len());
        let mut records = Records::new(&bytes[HEADER_BYTES..], header.record_count);
        let mut max_timestamp = None;
        while let Some(r) = records.next().expect("records") {
            let timestamp = header.record_timestamp(r.timestamp_delta);
            max_timestamp = max_timestamp.max(Some(timestamp));
            let offset = header.base_offset + i64::from(r.offset_delta);
            assert!(offset < header.next_offset());
            let headers = r.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec))).collect();
            seen.push(Seen {
                record: Record {
                    offset,
                    timestamp,
                    key: r.key.map(<[u8]>::to_vec),
                    value: r.value.map(<[u8]>::to_vec),
                    headers,
                },
                epoch: header.leader_epoch,
                log_append: header.timestamp_type() == TimestampType::LogAppendTime,
            });
        }
        assert_eq!(header.max_timestamp, max_timestamp.unwrap_or(-1));
    }
    seen
}

/// Reads the object from `from` to its end as a consumer does, `max_bytes` at a time.
pub fn replay(index: &ObjectIndex, bytes: &[u8], from: i64, max_bytes: usize) -> Vec<Seen> {
    let mut rebuilder = Rebuilder::new();
    let mut offset = from;
    let mut seen = Vec::new();
    while offset < index.identity.end {
        let mut out = b"before".to_vec();
        let rebuilt = match index.row_group_for_offset(offset) {
            None => cover_gap(index, offset, &mut out),
            Some(number) => {
                let raw = row_group(index, bytes, number);
                rebuilder.rebuild(index, number, raw, offset, max_bytes, &mut out).expect("rebuilds")
            }
        };
        assert!(out.starts_with(b"before") && rebuilt.batches > 0);
        let last = Batches::new(&out[6..]).last().expect("a batch").expect("whole").0;
        assert_eq!(last.next_offset(), rebuilt.next_offset, "a consumer gets past every gap");
        let got = parse(&out[6..]);
        assert!(out.len() - 6 <= max_bytes || got.len() <= 1, "{} of {max_bytes} bytes", out.len());
        assert_eq!(got.len() as u64, rebuilt.records);
        assert!(got.iter().all(|s| s.record.offset >= offset && s.record.offset < rebuilt.next_offset));
        assert!(rebuilt.next_offset > offset);
        offset = rebuilt.next_offset;
        seen.extend(got);
    }
    seen
}

/// What `batches` say of the records in `start..end`.
pub fn expected(batches: &[BatchOf], start: i64, end: i64) -> Vec<Seen> {
    let mut all = Vec::new();
    for batch in batches.iter().filter(|b| !b.control) {
        let max = batch.records.iter().map(|r| r.timestamp).max().unwrap_or(-1);
        for record in batch.records.iter().filter(|r| (start..end).contains(&r.offset)) {
            let mut record = record.clone();
            if batch.log_append {
                record.timestamp = max;
            }
            all.push(Seen { record, epoch: batch.epoch, log_append: batch.log_append });
        }
    }
    all
}
