//! A partition without a broker: a log on a simulated disk, and what its group told it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use highwater_log::disk::{Disk, DiskFile, Entry, SimDisk};
use highwater_log::{LogSettings, PartitionLog};
use highwater_model::Offset;
use highwater_wire::batch::{BatchHeader, NO_PRODUCER_ID};

use crate::raft::{PartitionPort, TierPoint};

pub struct Home {
    pub log: Mutex<PartitionLog>,
    pub high_watermark: AtomicI64,
    pub tier: Mutex<TierPoint>,
    pub failure: Mutex<Option<String>>,
    pub is_closed: AtomicBool,
}

pub fn settings() -> LogSettings {
    LogSettings { segment_bytes: 8 * 1024, index_interval_bytes: 1_024, ..LogSettings::default() }
}

/// A disk whose syncs take a while, as real ones do: what is written and not yet durable is at stake so long.
#[derive(Debug)]
pub struct SlowDisk(pub SimDisk);

const SYNC: Duration = Duration::from_millis(4);

#[derive(Debug)]
struct SlowFile(Arc<dyn DiskFile>);

impl Disk for SlowDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.0.open(name)?)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.0.create(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

impl DiskFile for SlowFile {
    fn file(&self) -> &Arc<File> {
        self.0.file()
    }

    fn write_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.0.write_at(parts, position)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.0.forget_cached()
    }

    #[allow(clippy::disallowed_methods)] // stands for the time that a disk takes
    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(SYNC);
        self.0.sync()
    }
}

impl Home {
    pub fn open(disk: &SimDisk) -> Arc<Home> {
        Home::open_on(Arc::new(disk.clone()))
    }

    pub fn open_on(disk: Arc<dyn Disk>) -> Arc<Home> {
        let (log, _) = PartitionLog::open_on(disk, settings(), 1_000).expect("opens");
        Home::of(log)
    }

    pub fn of(log: PartitionLog) -> Arc<Home> {
        Arc::new(Home {
            log: Mutex::new(log),
            high_watermark: AtomicI64::new(0),
            tier: Mutex::default(),
            failure: Mutex::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Every byte of the log, segment after segment.
    pub fn bytes(&self) -> Vec<u8> {
        let log = self.log.lock().expect("log");
        let (mut from, end) = (log.local_start(), log.log_end());
        let mut bytes = Vec::new();
        while from < end {
            // A read has only so many slices.
            let read = log.read(from, usize::MAX, end, true).expect("reads");
            let mut last = bytes.len();
            bytes.extend(read.slices.iter().flat_map(|slice| slice.read().expect("reads")));
            while last < bytes.len() {
                let header = BatchHeader::parse(&bytes[last..]).expect("a batch");
                (last, from) = (last + header.total_bytes(), header.next_offset());
            }
        }
        bytes
    }

    pub fn log_end(&self) -> Offset {
        self.log.lock().expect("log").log_end()
    }
}

impl PartitionPort for Home {
    fn with_log(&self, work: &mut dyn FnMut(&mut PartitionLog)) -> bool {
        let mut log = self.log.lock().expect("log");
        let is_open = !self.is_closed.load(Ordering::SeqCst);
        if is_open {
            work(&mut log);
        }
        is_open
    }

    fn now_ms(&self) -> i64 {
        1_000
    }

    fn advance(&self, high_watermark: Offset) {
        let before = self.high_watermark.fetch_max(high_watermark, Ordering::SeqCst);
        assert!(before <= high_watermark, "the high watermark does not go back");
    }

    fn tier(&self) -> TierPoint {
        *self.tier.lock().expect("tier")
    }

    fn begun(&self, offset: Offset) {
        assert!(self.log.lock().expect("log").log_end() >= offset);
    }

    fn failed(&self, why: &str) {
        self.failure.lock().expect("failure").get_or_insert_with(|| why.to_owned());
    }
}

/// A batch of `records` records with this text in each.
pub fn batch(text: &str, records: i32) -> (BatchHeader, Bytes) {
    batch_of(text, records, NO_PRODUCER_ID, -1)
}

/// As `batch`, of an idempotent producer.
pub fn batch_of(text: &str, records: i32, producer_id: i64, base_sequence: i32) -> (BatchHeader, Bytes) {
    use highwater_wire::batch::{CRC_START, HEADER_BYTES};
    let mut body = Vec::new();
    for delta in 0..records {
        let mut record = vec![0, 0];
        varint(&mut record, delta);
        varint(&mut record, -1);
        varint(&mut record, text.len() as i32);
        record.extend_from_slice(text.as_bytes());
        record.push(0);
        varint(&mut body, record.len() as i32);
        body.extend_from_slice(&record);
    }
    let mut header = BatchHeader {
        base_offset: 0,
        batch_length: (HEADER_BYTES - 12 + body.len()) as i32,
        leader_epoch: -1,
        magic: 2,
        crc: 0,
        attributes: 0,
        last_offset_delta: records - 1,
        base_timestamp: 5,
        max_timestamp: 5,
        producer_id,
        producer_epoch: if producer_id < 0 { -1 } else { 0 },
        base_sequence,
        record_count: records,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(&body);
    header.crc = crc32c::crc32c(&bytes[CRC_START..]);
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    (header, bytes.into())
}

fn varint(out: &mut Vec<u8>, value: i32) {
    let mut rest = ((value << 1) ^ (value >> 31)) as u32;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
