//! What a shard is asked, what it writes down, and what it hands out. Data only.

use bytes::Bytes;
use highwater_model::limits::DELAYED_RECORDS_PER_SHARD_MAX;
use highwater_model::{ProducerId, TopicPartition};

/// Unix milliseconds.
pub type Millis = i64;

/// How many sequence numbers there are before they begin anew.
const SEQUENCES: i64 = 1 << 31;

/// What may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub records_max: usize,
    /// Of the records as kept.
    pub bytes_max: u64,
}

impl Limits {
    pub fn of_bytes(bytes_max: u64) -> Limits {
        Limits { records_max: DELAYED_RECORDS_PER_SHARD_MAX, bytes_max }
    }
}

/// Which batch of an idempotent producer records came in: its sequence numbers, the last one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub producer_id: ProducerId,
    pub epoch: i16,
    pub first: i32,
    pub last: i32,
}

impl Source {
    /// Whether the batch lies after the one that ends with `last`: by less than half of all sequence numbers,
    /// as they begin anew.
    pub fn is_after(&self, last: i32) -> bool {
        let ahead = (i64::from(self.first) - i64::from(last)).rem_euclid(SEQUENCES);
        (1..SEQUENCES / 2).contains(&ahead)
    }
}

/// A record of a batch that has a delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskRecord {
    /// Its place in the batch.
    pub delta: u32,
    pub due_ms: Millis,
    /// It was due when its leader looked: it is not to be kept, unless it has been.
    pub is_due: bool,
    /// As [`super::write_record`] writes it.
    pub record: Bytes,
}

/// The leader of `target` asks to have records kept, before it appends the rest of their batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub target: TopicPartition,
    /// None: a producer that is not idempotent.
    pub source: Option<Source>,
    pub records: Vec<AskRecord>,
}

/// A record that was taken; its id is the entry's first plus its place among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenRecord {
    pub delta: u32,
    pub due_ms: Millis,
    pub record: Bytes,
}

/// Records of a target that are being released, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub ids: Vec<u64>,
}

/// As whom a shard writes to a target, and the sequence number of its next (or planned) batch. The producer
/// epoch is always 0: a new beginning takes a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub producer_id: ProducerId,
    pub sequence: i32,
}

impl Identity {
    /// After a batch of so many records.
    pub fn after(self, records: usize) -> Identity {
        let next = i64::from(self.sequence) + i64::try_from(records).expect("a bounded plan");
        let sequence = i32::try_from(next % SEQUENCES).expect("below 2^31");
        assert!(sequence >= 0, "sequence numbers begin anew at 0");
        Identity { sequence, ..self }
    }
}

/// A batch of a producer of which records were taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBatch {
    pub first: i32,
    pub last: i32,
    /// Which of its records.
    pub deltas: Vec<u32>,
}

impl KnownBatch {
    /// As in the journal.
    fn bytes(&self) -> usize {
        12 + 4 * self.deltas.len()
    }
}

/// A producer and its newest batches, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub producer_id: ProducerId,
    pub epoch: i16,
    /// When the newest came.
    pub seen_ms: Millis,
    pub batches: Vec<KnownBatch>,
}

impl Known {
    /// As in the journal.
    pub fn bytes(&self) -> usize {
        22 + self.batches.iter().map(KnownBatch::bytes).sum::<usize>()
    }
}

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Records of one batch wait from now on.
    Taken {
        target: TopicPartition,
        source: Option<Source>,
        now_ms: Millis,
        first_id: u64,
        records: Vec<TakenRecord>,
    },
    /// These are released, under this identity. It may replace a plan that could not be carried out.
    Planned { target: TopicPartition, identity: Identity, ids: Vec<u64> },
    /// The target has them.
    Released { target: TopicPartition },
    /// The target is no more; what waited for it is dropped.
    Gone { target: TopicPartition },
    /// What counts is written once more from here on.
    Begun { next_id: u64 },
    /// All that is known of a target, but for the records that wait.
    State { target: TopicPartition, identity: Option<Identity>, planned: Vec<u64>, known: Vec<Known> },
    /// A record that still waits.
    Kept { target: TopicPartition, id: u64, due_ms: Millis, record: Bytes },
}

impl Entry {
    /// The target, if it is of one.
    pub fn target(&self) -> Option<TopicPartition> {
        match self {
            Entry::Begun { .. } => None,
            Entry::Taken { target, .. }
            | Entry::Planned { target, .. }
            | Entry::Released { target }
            | Entry::Gone { target }
            | Entry::State { target, .. }
            | Entry::Kept { target, .. } => Some(*target),
        }
    }
}

/// A batch to be sent to a target, again and again until it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub target: TopicPartition,
    pub identity: Identity,
    /// As [`super::write_record`] wrote them, and when each was due, in order.
    pub records: Vec<(Millis, Bytes)>,
}
