//! A whole tier over a bucket in memory and a manifest port that fails on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use highwater_log::EpochStart;
use highwater_model::topic_config::TopicConfig;
use highwater_model::{Offset, TopicId, TopicPartition};
use highwater_wire::{BatchBuilder, Batches, Codec, Records};
use uuid::Uuid;

use crate::bucket::memory::MemoryBucket;
use crate::core::lanes::Lane;
use crate::core::manifest::{EditRequest, Manifest, Node};
use crate::core::names::{Names, TopicRef};
use crate::lane::{Store, StoreSettings, deadline_in};
use crate::mirror::Mirror;
use crate::offload::{OffloadError, OffloadParts, Offloader, SegmentToOffload};
use crate::pages::{PageScope, Pages};
use crate::port::{ManifestPort, ProposeError, ReadError};
use crate::read::{ReadParts, ReadSettings, TierBatches, TierError, TierRead, TierReader};

/// How a proposal goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortTrouble {
    Failed,
    UnknownApplied,
    UnknownLost,
    /// Applied only after the next read.
    UnknownLate,
}

#[derive(Default)]
pub struct TestPort {
    manifests: Mutex<BTreeMap<TopicPartition, Arc<Manifest>>>,
    pub plan: Mutex<VecDeque<PortTrouble>>,
    late: Mutex<Option<(TopicPartition, EditRequest)>>,
    pub proposals: Mutex<Vec<EditRequest>>,
    /// Applied by someone else just before the next proposal.
    pub rival: Mutex<Option<EditRequest>>,
}

impl TestPort {
    pub fn set(&self, tp: TopicPartition, manifest: Manifest) {
        self.manifests.lock().unwrap().insert(tp, Arc::new(manifest));
    }

    pub fn get(&self, tp: TopicPartition) -> Arc<Manifest> {
        self.manifests.lock().unwrap().get(&tp).expect("known partition").clone()
    }

    pub fn apply(&self, tp: TopicPartition, request: &EditRequest) -> Result<Arc<Manifest>, ProposeError> {
        let next = Arc::new(self.get(tp).edited(0, request)?);
        self.manifests.lock().unwrap().insert(tp, next.clone());
        Ok(next)
    }
}

#[async_trait]
impl ManifestPort for TestPort {
    async fn propose(&self, tp: TopicPartition, request: EditRequest) -> Result<Arc<Manifest>, ProposeError> {
        self.proposals.lock().unwrap().push(request.clone());
        if let Some(rival) = self.rival.lock().unwrap().take() {
            self.apply(tp, &rival).expect("the rival's edit is good");
        }
        let unknown = || Err(ProposeError::Unknown("timed out".into()));
        let trouble = self.plan.lock().unwrap().pop_front();
        match trouble {
            None => self.apply(tp, &request),
            Some(PortTrouble::Failed) => Err(ProposeError::Failed("no leader".into())),
            Some(PortTrouble::UnknownLost) => unknown(),
            Some(PortTrouble::UnknownApplied) => self.apply(tp, &request).and_then(|_| unknown()),
            Some(PortTrouble::UnknownLate) => {
                *self.late.lock().unwrap() = Some((tp, request));
                unknown()
            }
        }
    }

    async fn read(&self, tp: TopicPartition) -> Result<Arc<Manifest>, ReadError> {
        let now = self.get(tp);
        if let Some((tp, request)) = self.late.lock().unwrap().take() {
            let _ = self.apply(tp, &request);
        }
        Ok(now)
    }

    fn cached(&self, tp: TopicPartition) -> Option<Arc<Manifest>> {
        self.manifests.lock().unwrap().get(&tp).cloned()
    }
}

/// What a consumer gets of one record.
pub type Record = (Offset, i64, Option<Vec<u8>>, Option<Vec<u8>>);

pub struct Tier {
    pub bucket: Arc<MemoryBucket>,
    pub store: Store,
    pub port: Arc<TestPort>,
    pub names: Arc<Names>,
    pub pages: Pages,
    pub mirror: Arc<Mirror>,
    pub offloader: Offloader,
    pub reader: TierReader,
    pub tp: TopicPartition,
    pub topic: TopicRef,
}

pub fn tier() -> Tier {
    let bucket = Arc::new(MemoryBucket::default());
    tier_over(bucket.clone(), Store::over(bucket, "memory:", StoreSettings::default()))
}

pub fn tier_over(bucket: Arc<MemoryBucket>, store: Store) -> Tier {
    let names = Arc::new(Names::new("cluster").expect("plain"));
    let port = Arc::new(TestPort::default());
    let topic = TopicRef { name: "flights".into(), id: TopicId(Uuid::from_u128(1)) };
    let tp = TopicPartition::new(topic.id, 0);
    port.set(tp, Manifest::new(0));
    let counters = Arc::default();
    let pages = Pages::new(store.clone(), names.clone(), 1 << 20, Arc::clone(&counters));
    let offloads = Arc::default();
    let mirror = Arc::new(Mirror::new(store.clone(), names.clone(), Arc::clone(&offloads)));
    let offloader = Offloader::new(OffloadParts {
        store: store.clone(),
        names: names.clone(),
        port: port.clone(),
        pages: pages.clone(),
        mirror: mirror.clone(),
        counters: offloads,
        seal_threads: 1,
    })
    .expect("threads");
    let reader = TierReader::new(ReadParts {
        store: store.clone(),
        names: names.clone(),
        port: port.clone(),
        pages: pages.clone(),
        counters,
        settings: ReadSettings::default(),
    });
    Tier { bucket, store, port, names, pages, mirror, offloader, reader, tp, topic }
}

/// The record at an offset: its timestamp rises by 1,000 per offset, every 7th has no key, every 11th no
/// value.
pub fn record(offset: Offset, value_bytes: usize) -> Record {
    let key = (offset % 7 != 0).then(|| format!("key-{}", offset % 100).into_bytes());
    let value = (offset % 11 != 0).then(|| {
        let text = format!("value {offset} ");
        text.bytes().cycle().take(value_bytes.max(1)).collect()
    });
    (offset, 1_700_000_000_000 + offset * 1_000, key, value)
}

pub fn batches(start: Offset, end: Offset, value_bytes: usize) -> Bytes {
    let mut out = Vec::new();
    for base in (start..end).step_by(10) {
        let mut builder = BatchBuilder::new(Codec::None).base_offset(base).leader_epoch(0);
        for offset in base..end.min(base + 10) {
            let (_, timestamp, key, value) = record(offset, value_bytes);
            builder.push(timestamp, key.as_deref(), value.as_deref(), &[]);
        }
        out.extend_from_slice(&builder.build());
    }
    out.into()
}

/// What a consumer that starts at `from` sees of batches.
pub fn records_of(batches: &[Bytes], from: Offset) -> Vec<Record> {
    let mut seen = Vec::new();
    for bytes in batches {
        for batch in Batches::new(bytes) {
            let (header, batch) = batch.expect("whole batches");
            assert!(highwater_wire::batch::crc_matches(batch), "a rebuilt batch has a good checksum");
            let mut records = Records::new(&batch[highwater_wire::HEADER_BYTES..], header.record_count);
            while let Some(r) = records.next().expect("whole records") {
                let offset = header.base_offset + i64::from(r.offset_delta);
                if offset >= from {
                    let timestamp = header.base_timestamp + r.timestamp_delta;
                    seen.push((offset, timestamp, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec)));
                }
            }
        }
    }
    seen
}

impl Tier {
    pub fn manifest(&self) -> Arc<Manifest> {
        self.port.get(self.tp)
    }

    pub fn segment(&self, start: Offset, end: Offset, value_bytes: usize) -> SegmentToOffload {
        SegmentToOffload {
            tp: self.tp,
            topic: self.topic.name.as_str().into(),
            start,
            end,
            leader_epoch: 0,
            epochs: vec![EpochStart { epoch: 0, start_offset: 0 }],
            producer_snapshot: vec![1, 2, 3],
            segment: batches(start, end, value_bytes),
            config: Arc::new(TopicConfig::from_overrides(&BTreeMap::new()).expect("defaults")),
            aborted: vec![],
            expiry: None,
        }
    }

    pub async fn offload(&self, start: Offset, end: Offset) -> Result<Arc<Manifest>, OffloadError> {
        self.offloader.offload(self.segment(start, end, 20)).await
    }

    pub fn read_at(&self, manifest: Arc<Manifest>, start: Offset, bytes_max: usize) -> TierRead {
        let topic = self.topic.name.as_str().into();
        TierRead { tp: self.tp, topic, manifest, start, bytes_max, deadline: deadline_in(5_000) }
    }

    pub async fn read(&self, start: Offset, bytes_max: usize) -> Result<TierBatches, TierError> {
        self.reader.read(self.read_at(self.manifest(), start, bytes_max)).await
    }

    /// Reads on from `start` to the end of the tier and checks every record; returns the number of reads.
    pub async fn replay(&self, start: Offset, bytes_max: usize, value_bytes: usize) -> usize {
        let (mut at, mut reads, end) = (start, 0, self.manifest().tiered_end);
        while at < end {
            let got = self.read(at, bytes_max).await.expect("readable");
            let size: usize = got.bytes.iter().map(Bytes::len).sum();
            let seen = records_of(&got.bytes, at);
            assert!(size <= bytes_max || seen.len() == 1, "{size} bytes of {bytes_max}");
            let expected: Vec<Record> = (at..got.next_offset).map(|o| record(o, value_bytes)).collect();
            assert!(seen == expected, "records {at}..{} differ", got.next_offset);
            (at, reads) = (got.next_offset, reads + 1);
        }
        assert_eq!(at, end);
        reads
    }

    pub fn scope(&self) -> PageScope<'_> {
        let deadline = deadline_in(5_000);
        PageScope { topic: &self.topic, partition: self.tp.partition, lane: Lane::Read, deadline }
    }

    /// Every key that the manifest leads to: objects, pages, what is retiring.
    pub async fn known_keys(&self) -> BTreeSet<String> {
        let manifest = self.manifest();
        let retired = manifest.retiring.iter().map(|r| r.what.clone());
        let mut ahead: Vec<_> = manifest.nodes().map(|n| n.retired()).chain(retired).collect();
        let mut keys = BTreeSet::new();
        while let Some(what) = ahead.pop() {
            keys.insert(self.names.retired(&self.topic, self.tp.partition, &what));
            if let crate::core::manifest::Retired::Page(page) = &what {
                let below = self.pages.live_nodes(self.scope(), page).await.expect("a page");
                ahead.extend(below.iter().map(Node::retired));
            }
        }
        keys
    }

    /// Keys in the bucket, without mirrors.
    pub fn stored_keys(&self) -> BTreeSet<String> {
        self.bucket.keys().into_iter().filter(|k| !k.ends_with("mirror.json")).collect()
    }
}
