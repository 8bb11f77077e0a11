//! Records to measure with: the same every time, shaped like real ones, compressing like real ones.

use bytes::Bytes;
use highwater_wire::{BatchBuilder, Codec};

/// A small deterministic generator (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    #[allow(clippy::should_implement_trait)] // it never ends
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

const CARRIERS: [&str; 16] =
    ["UA", "AA", "B6", "DL", "EV", "MQ", "US", "WN", "VX", "FL", "AS", "9E", "F9", "HA", "YV", "OO"];
const AIRPORTS: [&str; 14] =
    ["EWR", "LGA", "JFK", "IAH", "MIA", "BQN", "ATL", "ORD", "FLL", "IAD", "MCO", "PBI", "TPA", "LAX"];
const REMARKS: [&str; 8] = [
    "on time, no irregularities reported by the crew",
    "late inbound aircraft, connection time recovered en route",
    "ground stop at destination due to convective weather",
    "gate change after maintenance released the aircraft",
    "de-icing required, two trucks, holdover time observed",
    "diverted briefly for fuel, resumed with amended release",
    "crew duty limit reached, reserve crew called in",
    "late baggage loading at the origin station",
];

/// A flight as about 1 KiB of JSON; zstd-1 makes it about 5 times smaller.
pub fn flight_json(n: u64, numbers: &mut Numbers) -> String {
    let (origin, destination) = (numbers.pick(&AIRPORTS), numbers.pick(&AIRPORTS));
    let mut json = format!(
        "{{\"id\":{n},\"year\":2013,\"month\":{},\"day\":{},\"dep_time\":{},\
         \"sched_dep_time\":{},\"dep_delay\":{},\
         \"arr_time\":{},\"sched_arr_time\":{},\"arr_delay\":{},\"carrier\":\"{}\",\
         \"flight\":{},\"tailnum\":\"N{}\",\
         \"origin\":\"{origin}\",\"dest\":\"{destination}\",\"air_time\":{},\"distance\":{},\
         \"time_hour\":\"2013-{:02}-{:02}T{:02}:00:00Z\",\"legs\":[",
        1 + numbers.below(12),
        1 + numbers.below(28),
        numbers.below(2400),
        numbers.below(2400),
        numbers.below(120),
        numbers.below(2400),
        numbers.below(2400),
        numbers.below(120),
        numbers.pick(&CARRIERS),
        numbers.below(9000),
        10_000 + numbers.below(4000),
        numbers.below(600),
        numbers.below(5000),
        1 + numbers.below(12),
        1 + numbers.below(28),
        numbers.below(24),
    );
    let mut first = true;
    while json.len() < 880 {
        if !first {
            json.push(',');
        }
        first = false;
        json.push_str(&format!(
            "{{\"station\":\"{}\",\"temp\":{}.{:02},\"dewp\":{}.{:02},\"humid\":{}.{:02},\"wind_dir\":{},\
             \"wind_speed\":{}.{:05},\"pressure\":{}.{},\"remark\":\"{}\"}}",
            numbers.pick(&AIRPORTS),
            numbers.below(100),
            numbers.below(100),
            numbers.below(80),
            numbers.below(100),
            numbers.below(100),
            numbers.below(100),
            numbers.below(36) * 10,
            numbers.below(40),
            numbers.below(100_000),
            980 + numbers.below(60),
            numbers.below(10),
            numbers.pick(&REMARKS),
        ));
    }
    json.push_str("]}");
    json
}

/// A reading of about 100 bytes of JSON.
pub fn reading_json(n: u64, numbers: &mut Numbers) -> String {
    format!(
        "{{\"seq\":{n},\"sensor\":\"s-{:04}\",\"celsius\":{}.{:02},\"humidity\":{},\"state\":\"{}\"}}",
        numbers.below(2000),
        numbers.below(40),
        numbers.below(100),
        numbers.below(100),
        numbers.pick(&["nominal", "degraded", "calibrating", "offline"]),
    )
}

/// What the records of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Flight1KiB,
    Reading100B,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Shape::Flight1KiB => "1KiB",
            Shape::Reading100B => "100B",
        }
    }

    fn value(self, n: u64, numbers: &mut Numbers) -> String {
        match self {
            Shape::Flight1KiB => flight_json(n, numbers),
            Shape::Reading100B => reading_json(n, numbers),
        }
    }
}

/// A segment of about `bytes` bytes in batches of 16 KiB as a producer makes them.
pub struct Segment {
    pub bytes: Bytes,
    pub records: u64,
    /// Bytes of keys and values.
    pub payload_bytes: u64,
}

pub fn segment(shape: Shape, bytes: usize) -> Segment {
    let mut numbers = Numbers(7);
    let mut segment = Vec::with_capacity(bytes + 64 * 1024);
    let (mut offset, mut payload_bytes) = (0u64, 0u64);
    while segment.len() < bytes {
        let mut builder = BatchBuilder::new(Codec::None).base_offset(offset as i64).leader_epoch(0);
        let mut size = 0;
        while size < 16 * 1024 {
            let key = format!("N{}", 10_000 + numbers.below(4000));
            let value = shape.value(offset, &mut numbers);
            let timestamp = 1_357_000_000_000 + offset as i64 * 7 + numbers.below(5) as i64;
            builder.push(timestamp, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
            size += key.len() + value.len() + 10;
            payload_bytes += (key.len() + value.len()) as u64;
            offset += 1;
        }
        segment.extend_from_slice(&builder.build());
    }
    Segment { bytes: Bytes::from(segment), records: offset, payload_bytes }
}
