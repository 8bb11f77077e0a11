//! Rates of the tier over any store: seal and upload, replay, first record at a cold offset, lookups by time.
//!
//! `tier_rate URL [ENDPOINT] [MIB] [zstd|lz4|none] [VALUE_BYTES]`: writes MIB of records in 64 MiB segments
//! below `URL/<random cluster>`, reads them back with a 1 MiB budget as a consumer does, and deletes them
//! again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_log::EpochStart;
use highwater_model::topic_config::TopicConfig;
use highwater_model::{TopicId, TopicPartition};
use highwater_tiering::core::manifest::{EditRequest, Manifest};
use highwater_tiering::core::names::Names;
use highwater_tiering::lane::{Store, StoreSettings, deadline_in};
use highwater_tiering::mirror::Mirror;
use highwater_tiering::offload::{OffloadParts, Offloader, SegmentToOffload};
use highwater_tiering::pages::Pages;
use highwater_tiering::port::{ManifestPort, ProposeError, ReadError};
use highwater_tiering::read::{ReadParts, ReadSettings, TierRead, TierReader};
use highwater_wire::{BatchBuilder, Codec};
use uuid::Uuid;

struct OnePort(Mutex<Arc<Manifest>>);

#[async_trait::async_trait]
impl ManifestPort for OnePort {
    async fn propose(&self, _: TopicPartition, request: EditRequest) -> Result<Arc<Manifest>, ProposeError> {
        let mut manifest = self.0.lock().expect("lock");
        *manifest = Arc::new(manifest.edited(0, &request)?);
        Ok(manifest.clone())
    }

    async fn read(&self, _: TopicPartition) -> Result<Arc<Manifest>, ReadError> {
        Ok(self.0.lock().expect("lock").clone())
    }

    fn cached(&self, _: TopicPartition) -> Option<Arc<Manifest>> {
        Some(self.0.lock().expect("lock").clone())
    }
}

/// A batch of JSON records; the numbers in it differ from record to record.
fn batch(base: i64, count: i64, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None).base_offset(base).leader_epoch(0);
    for n in base..base + count {
        let mut value = format!("{{\"n\":{n}");
        let mut state = n as u64 ^ 0x9e37_79b9_7f4a_7c15;
        let mut field = 0;
        while value.len() + 30 < value_bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            value += &format!(",\"field{field}\":{}", (state >> 33) % 100_000);
            field += 1;
        }
        value += "}";
        builder.push(
            1_700_000_000_000 + n,
            Some(format!("key-{}", n % 1000).as_bytes()),
            Some(value.as_bytes()),
            &[],
        );
    }
    builder.build()
}

fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let get = |n: usize| arguments.get(n).map(String::as_str).filter(|a| !a.is_empty());
    let url = get(0).ok_or("a URL is needed")?;
    let mib: usize = get(2).unwrap_or("512").parse()?;
    let value_bytes: usize = get(4).unwrap_or("1024").parse()?;
    let store = Store::open(url, get(1), StoreSettings::default())?;
    let names = Arc::new(Names::new(&format!("rate-{}", Uuid::new_v4()))?);
    highwater_tiering::probe::probe(&store, &names).await?;
    let tp = TopicPartition::new(TopicId(Uuid::new_v4()), 0);
    let port = Arc::new(OnePort(Mutex::new(Arc::new(Manifest::new(0)))));
    let (reads, offloads) = (Arc::default(), Arc::default());
    let pages = Pages::new(store.clone(), names.clone(), 1 << 20, Arc::clone(&reads));
    let mirror = Arc::new(Mirror::new(store.clone(), names.clone(), Arc::clone(&offloads)));
    let offloader = Offloader::new(OffloadParts {
        store: store.clone(),
        names: names.clone(),
        port: port.clone(),
        pages: pages.clone(),
        mirror: mirror.clone(),
        counters: offloads,
        seal_threads: 1,
    })?;
    let overrides =
        BTreeMap::from([("highwater.parquet.compression".to_string(), get(3).unwrap_or("zstd").to_string())]);
    let config = Arc::new(TopicConfig::from_overrides(&overrides)?);
    let (mut end, mut raw) = (0i64, 0usize);
    let mut spent = Duration::ZERO;
    while raw < mib << 20 {
        let (start, mut segment) = (end, Vec::with_capacity(64 << 20));
        while segment.len() < 64 << 20 {
            segment.extend_from_slice(&batch(end, 100, value_bytes));
            end += 100;
        }
        raw += segment.len();
        let begun = Instant::now();
        let job = SegmentToOffload {
            tp,
            topic: "rate".into(),
            start,
            end,
            leader_epoch: 0,
            epochs: vec![EpochStart { epoch: 0, start_offset: 0 }],
            producer_snapshot: vec![],
            segment: segment.into(),
            config: config.clone(),
            aborted: vec![],
            expiry: None,
        };
        offloader.offload(job).await?;
        spent += begun.elapsed();
    }
    let c = offloader.counters().snapshot();
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "offload {:.0} MB in {:.2} s: {:.0} MB/s (seal {:.2} s, upload {:.2} s), objects {:.1} MB",
        mb(c.segment_bytes),
        spent.as_secs_f64(),
        mb(c.segment_bytes) / spent.as_secs_f64(),
        c.seal_us as f64 / 1e6,
        c.upload_us as f64 / 1e6,
        mb(c.object_bytes)
    );
    let manifest = port.cached(tp).ok_or("a manifest")?;
    let reader = || {
        TierReader::new(ReadParts {
            store: store.clone(),
            names: names.clone(),
            port: port.clone(),
            pages: pages.clone(),
            counters: Arc::default(),
            settings: ReadSettings::default(),
        })
    };
    let at = |start: i64, bytes_max: usize| TierRead {
        tp,
        topic: "rate".into(),
        manifest: manifest.clone(),
        start,
        bytes_max,
        deadline: deadline_in(30_000),
    };
    for round in 0..3 {
        let tier = reader();
        let (begun, cpu, mut bytes, mut offset) = (Instant::now(), cpu_s(), 0u64, 0);
        while offset < end {
            let got = tier.read(at(offset, 1 << 20)).await?;
            bytes += got.bytes.iter().map(|b| b.len() as u64).sum::<u64>();
            offset = got.next_offset;
        }
        let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu_s() - cpu);
        println!(
            "replay {round}: {:.0} MB at {:.0} MB/s, {:.2} CPU s per GB; {:?}",
            mb(bytes),
            mb(bytes) / took,
            cpu / (bytes as f64 / 1e9),
            tier.counters().snapshot()
        );
    }
    let mut first: Vec<f64> = Vec::new();
    for n in 0..20 {
        let tier = reader();
        let begun = Instant::now();
        tier.read(at(end / 21 * (n + 1), 1 << 20)).await?;
        first.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    first.sort_by(f64::total_cmp);
    println!("first batch at a cold offset: p50 {:.1} ms, worst {:.1} ms", first[10], first[19]);
    let tier = reader();
    let begun = Instant::now();
    let hit = tier
        .offset_for_timestamp(tp, "rate", &manifest, 1_700_000_000_000 + end / 2, deadline_in(30_000))
        .await?;
    println!("by time: {hit:?} in {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    // The upkeep of a manifest, on this store.
    let written = mirror.flush().await;
    let pruned = offloader.raise_log_start(tp, "rate", 0, end / 2).await?;
    let rewritten = mirror.flush().await;
    let swept = offloader.sweep(tp, "rate", 0, i64::MAX).await?;
    println!("mirrored {written} and again {rewritten}; pruned to {}; {swept:?}", pruned.listed_start());
    let manifest = port.cached(tp).ok_or("a manifest")?;
    offloader.delete_partition(tp, "rate", &manifest).await?;
    for lane in store.snapshot() {
        println!("{lane:?}");
    }
    Ok(())
}
