//! One partition's way into the tier, on its leader: read the manifest, seal, put, verify, publish; outcomes
//! that are not known are settled by reading the manifest back. The steps are those of the product's
//! offloader, taken one message at a time; sealing, keys and edits are the product's own.

use bytes::Bytes;
use highwater_coordinator::core::{Command, Refusal, Reply};
use highwater_log::{EpochStart, PartitionLog};
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use highwater_tiering::core::manifest::{
    Edit, EditRequest, Manifest, ObjectEntry, Refusal as ManifestRefusal,
};
use highwater_tiering::core::names::TopicRef;
use highwater_tiering::object::{ObjectIdentity, SealInput, Sealer};
use uuid::Uuid;

use crate::bucket::{Answer, Ask};
use crate::params::Params;

/// What an upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The manifest, before anything is sealed.
    Look,
    Put,
    Verify,
    /// The manifest again, as the outcome of a proposal is not known or it was refused.
    Settle,
    Publish,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Read the manifest, linearizable.
    Read,
    Ask(Ask),
    Propose(Command),
    /// Ask for the same again after a while.
    Later,
    Done,
    /// It is not listed and never will be.
    GaveUp(&'static str),
}

/// An upload under way. `epoch` is captured once and named to the end (redpanda#11892).
#[derive(Debug)]
pub struct Upload {
    tp: TopicPartition,
    pub epoch: LeaderEpoch,
    pub stage: Stage,
    /// Id of the message that is waited for, and when it was sent.
    pub waits: Option<(u64, u64)>,
    object: Option<Sealed>,
}

#[derive(Debug)]
struct Sealed {
    entry: ObjectEntry,
    epochs: Vec<EpochStart>,
    body: Bytes,
    key: String,
    against: u64,
}

/// Footer length and end of a Parquet file.
fn footer_bytes(body: &[u8]) -> u32 {
    const END_BYTES: usize = 8;
    let length: [u8; 4] = body[body.len() - END_BYTES..][..4].try_into().expect("four bytes");
    u32::from_le_bytes(length) + END_BYTES as u32
}

pub fn topic_ref(params: &Params) -> TopicRef {
    TopicRef { name: Params::TOPIC.into(), id: params.topic_id }
}

/// Epochs that a range of offsets needs.
fn epochs_within(epochs: &[EpochStart], start: Offset, end: Offset) -> Vec<EpochStart> {
    let first = epochs.partition_point(|e| e.start_offset <= start).saturating_sub(1);
    epochs[first.min(epochs.len())..].iter().take_while(|e| e.start_offset < end).copied().collect()
}

impl Upload {
    pub fn new(tp: TopicPartition, epoch: LeaderEpoch) -> (Upload, Step) {
        (Upload { tp, epoch, stage: Stage::Look, waits: None, object: None }, Step::Read)
    }

    /// Says again what is waited for, after time has run out.
    pub fn timed_out(&mut self) -> Step {
        self.waits = None;
        match (self.stage, &self.object) {
            (Stage::Look, _) | (_, None) => Step::GaveUp("no manifest to start from"),
            // The proposal may be applied yet.
            (Stage::Publish | Stage::Settle, _) => {
                self.stage = Stage::Settle;
                Step::Read
            }
            (Stage::Put, Some(object)) => Step::Ask(object.put()),
            (Stage::Verify, Some(object)) => Step::Ask(Ask::Head { key: object.key.clone() }),
        }
    }

    /// The manifest as it is now. `high_watermark`: nothing above may be sealed.
    pub fn manifest_read(
        &mut self,
        params: &Params,
        sealer: &mut Sealer,
        log: &PartitionLog,
        high_watermark: Offset,
        manifest: &Manifest,
        upload_id: Uuid,
    ) -> Step {
        if self.stage == Stage::Settle {
            return self.settle(manifest);
        }
        let names = super::names();
        if manifest.generation > self.epoch {
            return Step::GaveUp("another leads");
        }
        let Some(segment) = log.sealed().iter().find(|s| s.end > manifest.tiered_end) else {
            return Step::GaveUp("nothing is sealed");
        };
        if segment.end > high_watermark || segment.start > manifest.tiered_end {
            return Step::GaveUp("not committed yet, or not here any more");
        }
        let identity = ObjectIdentity {
            cluster_id: names.cluster().to_owned(),
            topic: Params::TOPIC.into(),
            topic_id: self.tp.topic_id,
            partition: self.tp.partition,
            start: manifest.tiered_end,
            end: segment.end,
            leader_epoch: self.epoch,
            upload_id,
        };
        let Ok(bytes) = log.map_sealed(segment.start) else { return Step::GaveUp("the segment has gone") };
        let mut input = SealInput::new(identity, log.epochs().to_vec(), bytes);
        input.producer_snapshot = log.producer_snapshot_at_seal(segment.start).unwrap_or_default();
        let sealed = sealer.seal(&input).expect("what a leader committed can be sealed");
        let body = sealed.to_bytes();
        let summary = &sealed.summary;
        let entry = ObjectEntry {
            start: summary.start,
            end: summary.end,
            epoch: self.epoch,
            upload_id,
            bytes: summary.object_bytes,
            footer_bytes: footer_bytes(&body),
            raw_bytes: summary.raw_bytes,
            records: summary.records,
            min_timestamp: summary.min_timestamp,
            max_timestamp: summary.max_timestamp,
            crc32c: summary.crc32c,
        };
        let epochs = epochs_within(log.epochs(), entry.start, entry.end);
        let key = names.object(&topic_ref(params), self.tp.partition, &entry);
        let object = Sealed { entry, epochs, body, key, against: manifest.version };
        let step = Step::Ask(object.put());
        self.object = Some(object);
        self.stage = Stage::Put;
        step
    }

    /// Where a publish stands, by the manifest read back.
    fn settle(&mut self, manifest: &Manifest) -> Step {
        let object = self.object.as_mut().expect("an object was proposed");
        if manifest.entry_of(object.entry.upload_id).is_some() {
            return Step::Done;
        }
        if manifest.generation > self.epoch || manifest.tiered_end != object.entry.start {
            return Step::GaveUp("another has published there");
        }
        object.against = manifest.version;
        self.publish()
    }

    fn publish(&mut self) -> Step {
        self.stage = Stage::Publish;
        let object = self.object.as_ref().expect("an object was put");
        let edit = Edit::Publish { object: object.entry.clone(), epochs: object.epochs.clone() };
        let request = EditRequest { expected_version: object.against, leader_epoch: self.epoch, edit };
        Step::Propose(Command::EditManifest { tp: self.tp, request })
    }

    pub fn answered(&mut self, answer: &Answer) -> Step {
        let object = self.object.as_ref().expect("an object was put");
        match (self.stage, answer) {
            (_, Answer::SlowDown) => Step::Later,
            (Stage::Put, Answer::Written | Answer::Exists) => {
                self.stage = Stage::Verify;
                Step::Ask(Ask::Head { key: object.key.clone() })
            }
            (Stage::Verify, Answer::Size(bytes)) if *bytes == object.entry.bytes => self.publish(),
            (Stage::Verify, Answer::Missing) => {
                self.stage = Stage::Put;
                Step::Ask(object.put())
            }
            _ => Step::GaveUp("the bucket answered something else"),
        }
    }

    pub fn proposed(&mut self, outcome: &Result<Reply, Refusal>) -> Step {
        match outcome {
            Ok(_) => Step::Done,
            Err(Refusal::Manifest(ManifestRefusal::AlreadyPublished { .. })) => Step::Done,
            Err(Refusal::Manifest(ManifestRefusal::StaleVersion { .. })) => {
                self.stage = Stage::Settle;
                Step::Read
            }
            Err(_) => Step::GaveUp("refused"),
        }
    }
}

impl Sealed {
    fn put(&self) -> Ask {
        Ask::Put { key: self.key.clone(), body: self.body.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_of_a_range_begin_with_the_one_in_force() {
        let epochs =
            [(0, 0), (2, 10), (5, 20)].map(|(epoch, start_offset)| EpochStart { epoch, start_offset });
        assert_eq!(epochs_within(&epochs, 12, 20), epochs[1..2]);
        assert_eq!(epochs_within(&epochs, 10, 21), epochs[1..]);
        assert_eq!(epochs_within(&epochs, 0, 10), epochs[..1]);
    }
}
