//! Fixtures and helpers of this crate's tests.

use std::sync::LazyLock;

use bytes::Bytes;

use crate::{BatchHeader, HEADER_BYTES, Records, codec};

/// Batches that Kafka's own Java client built, by name.
pub static JAVA_BATCHES: LazyLock<Vec<(&'static str, Vec<u8>)>> = LazyLock::new(|| {
    let lines = include_str!("../tests/fixtures/java-client-batches.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("name and bytes"))
        .map(|(name, hex)| {
            let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
            (name, (0..hex.len()).step_by(2).map(digit).collect())
        })
        .collect()
});

pub fn java_batch(name: &str) -> Vec<u8> {
    JAVA_BATCHES.iter().find(|(other, _)| *other == name).expect("a fixture of that name").1.clone()
}

/// A record with everything owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Every record of one good batch.
pub fn read_all(batch: &[u8]) -> Vec<OwnedRecord> {
    let header = BatchHeader::parse(batch).expect("a good header");
    let mut section = Vec::new();
    let codec = header.codec().expect("a known codec");
    codec::decompress_into(codec, &batch[HEADER_BYTES..], 64 << 20, &mut section).expect("good compression");
    let mut records = Records::new(&section, header.record_count);
    let mut all = Vec::new();
    while let Some(record) = records.next().expect("a good record") {
        let headers = record.headers.iter().map(|h| (h.key.to_vec(), h.value.map(<[u8]>::to_vec)));
        all.push(OwnedRecord {
            offset: header.base_offset + i64::from(record.offset_delta),
            timestamp: header.record_timestamp(record.timestamp_delta),
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers.collect(),
        });
    }
    all
}

/// How many inputs a fuzz test tries: its share of `HIGHWATER_FUZZ_INPUTS`, a million by default.
pub fn fuzz_inputs(share_percent: u64) -> u64 {
    let total = std::env::var("HIGHWATER_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok());
    total.unwrap_or(1_000_000) * share_percent / 100
}

/// xorshift64*: the same inputs on every run, so a failure is repeated by running again.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Damages `bytes`: flips, overwrites with telling values, cuts, doubles or inserts.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u8; 10] = [0, 1, 2, 0x7f, 0x80, 0xff, 0xfe, 0x0f, 0x10, 0x40];
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                bytes.push(self.next() as u8);
            }
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 | 3 => bytes[at] = TELLING[self.below(TELLING.len())],
                4 => {
                    let value = [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff; 4], &[0x80, 0, 0, 0]][self.below(3)];
                    let end = bytes.len().min(at + value.len());
                    bytes[at..end].copy_from_slice(&value[..end - at]);
                }
                5 => bytes.truncate(at),
                6 => {
                    let more = 1 + self.below(8);
                    let extra = self.bytes(more);
                    bytes.splice(at..at, extra);
                }
                _ => {
                    let end = bytes.len().min(at + 1 + self.below(16));
                    bytes.drain(at..end);
                }
            }
        }
    }
}

pub fn shared(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
