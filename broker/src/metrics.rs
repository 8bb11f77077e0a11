//! Everything that the broker counts, and its rendering as OpenMetrics text.
//!
//! Owns: the registry and the names of the metrics (a contract with dashboards). Counters on hot paths are
//! plain atomics found by index, never by hashing labels; what only needs to be known when somebody looks
//! (log sizes, backlog, store and cache totals, the process) is set by the caller of [`Metrics::render`] just
//! before rendering, so an idle broker does no work for its metrics. Must not: hold labels whose number grows
//! with clients or records. Partitions in alarm are the only per-partition labels, and those are capped.

mod delayed;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_model::limits;
use highwater_tiering::metrics::{LaneSnapshot, OffloadSnapshot, ReadSnapshot};
use highwater_wire::api;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::core::pace::Pace;

pub use delayed::Delayed;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiLabel {
    api: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabel {
    lane: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabel {
    topic: String,
    partition: i32,
}

/// Why something was turned away; one counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RefusedKind {
    /// Bytes that are not a Kafka request: a bad length, HTTP, TLS.
    Frame,
    /// A request whose lengths and counts do not fit its body.
    Shape,
    /// An API key that is not served.
    Api,
    /// A version of a served API that is not served.
    Version,
    /// A batch that breaks the format, its CRC, a size or the topic's rules.
    Batch,
    /// A sequence number or producer epoch out of turn.
    Sequence,
    /// More connections than the setting allows.
    Connection,
    /// An administration request that was refused.
    Admin,
}

const REFUSED_KINDS: [(RefusedKind, &str); 8] = [
    (RefusedKind::Frame, "frame"),
    (RefusedKind::Shape, "shape"),
    (RefusedKind::Api, "api"),
    (RefusedKind::Version, "version"),
    (RefusedKind::Batch, "batch"),
    (RefusedKind::Sequence, "sequence"),
    (RefusedKind::Connection, "connection"),
    (RefusedKind::Admin, "admin"),
];

struct ApiMetrics {
    count: Counter,
    errors: Counter,
    seconds: Histogram,
}

/// The broker's metrics. Cheap to update from any thread.
pub struct Metrics {
    registry: Registry,
    apis: Vec<ApiMetrics>,
    refused: Vec<Counter>,
    /// Bytes of requests received and of answers sent, frames included.
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub connections: Gauge,
    pub connections_opened: Counter,
    /// Records accepted by produce, and bytes of records by produce and fetch.
    pub produced_records: Counter,
    pub produced_bytes: Counter,
    pub fetched_bytes: Counter,
    /// Expired records that fetches have left out.
    pub hidden_records: Counter,
    /// Offsets committed by consumers; groups and members whose coordinator this node is.
    pub offset_commits: Counter,
    pub groups: Gauge,
    pub group_members: Gauge,
    /// Shards of groups that were given up and loaded anew because an append failed.
    pub group_reloads: Counter,
    /// Times that a shard's state was written once more and the log before it given up.
    pub group_rewrites: Counter,
    /// Transactional ids whose coordinator this node is, and shards of them that were loaded anew.
    pub transactional_ids: Gauge,
    pub transaction_reloads: Counter,
    /// Times that such a shard's state was written once more and the log before it given up.
    pub transaction_rewrites: Counter,
    pub delayed: Delayed,
    /// One fdatasync of the local log.
    pub fsync_seconds: Histogram,
    /// One segment from seal to publish.
    pub offload_seconds: Histogram,
    pub offloaded_segments: Counter,
    pub local_damage: Counter,
    pub offload_failures: Counter,
    pub topics: Gauge,
    pub partitions: Gauge,
    pub log_bytes: Gauge,
    pub tier_bytes: Gauge,
    pub tier_objects: Gauge,
    pub offload_backlog_bytes: Gauge,
    pub offload_backlog_segments: Gauge,
    pub offload_lag_ms: Gauge,
    offload_pace: Family<KindLabel, Gauge>,
    offload_seals: Family<KindLabel, Counter>,
    /// Mirrors of manifests in the bucket that are not of the newest version.
    pub mirrors_waiting: Gauge,
    pub seal_alarms: Gauge,
    seal_alarm: Family<PartitionLabel, Gauge>,
    store_requests: Family<LaneLabel, Counter>,
    store_bytes: Family<LaneLabel, Counter>,
    store_trouble: Family<LaneLabel, Counter>,
    tier_reads: Family<KindLabel, Counter>,
    tier_read_bytes: Counter,
    cache: Family<KindLabel, Counter>,
    cache_bytes: Gauge,
    process_memory: Gauge,
    process_cpu: Counter<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// Metrics with one line per served API key; any other key counts as `Other`.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("highwater");
        let api_metrics = register_apis(&mut registry);
        let refused = register_refused(&mut registry);
        let mut r = Registrar { registry };
        Metrics {
            apis: api_metrics,
            refused,
            bytes_in: r.counter("received_bytes", "Bytes of requests received from Kafka clients"),
            bytes_out: r.counter("sent_bytes", "Bytes of answers sent to Kafka clients"),
            connections: r.gauge("connections", "Connections of Kafka clients now"),
            connections_opened: r.counter("connections_opened", "Connections of Kafka clients since start"),
            produced_records: r.counter("produced_records", "Records accepted"),
            produced_bytes: r.counter("produced_bytes", "Bytes of record batches accepted"),
            fetched_bytes: r.counter("fetched_bytes", "Bytes of record batches sent to consumers"),
            hidden_records: r.counter("hidden_records", "Expired records left out of answers to fetches"),
            offset_commits: r.counter("offset_commits", "Offsets committed by consumer groups"),
            groups: r.gauge("groups", "Groups whose coordinator this node is"),
            group_members: r.gauge("group_members", "Members of those groups"),
            group_reloads: r.counter("group_reloads", "Loads of groups anew because an append failed"),
            group_rewrites: r.counter("group_rewrites", "Partitions of groups written anew"),
            transactional_ids: r.gauge("transactional_ids", "Transactional ids coordinated by this node"),
            delayed: Delayed::new(&mut r),
            transaction_rewrites: r
                .counter("transaction_rewrites", "Partitions of transactions written anew"),
            transaction_reloads: r
                .counter("transaction_reloads", "Loads of transactions anew because an append failed"),
            fsync_seconds: r.histogram("fsync", "Time of one fdatasync of the local log"),
            offload_seconds: r.histogram("offload", "Time of one segment from seal to publish"),
            offloaded_segments: r.counter("offloaded_segments", "Segments published in a manifest"),
            local_damage: r.counter("local_damage", "Fetches served by the tier as local bytes are damaged"),
            offload_failures: r.counter("offload_failures", "Attempts to offload a segment that failed"),
            topics: r.gauge("topics", "Topics"),
            partitions: r.gauge("partitions", "Partitions on this node"),
            log_bytes: r.gauge("log_bytes", "Bytes of the local log"),
            tier_bytes: r.gauge("tier_bytes", "Bytes of the objects that the manifests list"),
            tier_objects: r.gauge("tier_objects", "Objects that the manifests list"),
            offload_backlog_bytes: r.gauge("offload_backlog_bytes", "Bytes sealed but not yet in the tier"),
            offload_backlog_segments: r
                .gauge("offload_backlog_segments", "Segments sealed but not yet in the tier"),
            offload_lag_ms: r.gauge("offload_lag_ms", "Age of the oldest segment that waits for its upload"),
            offload_pace: r.family(
                "offload_pace",
                "1 for how tier work runs now: it waits, takes what others leave, or its full share",
            ),
            offload_seals: r
                .family("offload_seals", "Seals by how they ran, and those begun anew in a hurry"),
            mirrors_waiting: r.gauge("mirrors_waiting", "Manifests whose mirror in the bucket is late"),
            seal_alarms: r.gauge("seal_alarms", "Partitions whose sealing has stopped on damaged data"),
            seal_alarm: r.family("seal_alarm", "1 for a partition whose sealing has stopped"),
            store_requests: r.family("store_requests", "Requests to the object store"),
            store_bytes: r.family("store_bytes", "Bytes to and from the object store"),
            store_trouble: r
                .family("store_trouble", "Requests to the object store that failed, by what came of it"),
            tier_reads: r.family("tier_reads", "Reads from the tier, by outcome and event"),
            tier_read_bytes: r.counter("tier_read_bytes", "Bytes of record batches rebuilt from the tier"),
            cache: r.family("cache", "Look-ups in the cache of the tier, by outcome"),
            cache_bytes: r.gauge("cache_bytes", "Bytes held by the cache of the tier"),
            process_memory: r.gauge("process_resident_memory_bytes", "Resident memory of this process"),
            process_cpu: r.float_counter("process_cpu_seconds", "CPU time of this process"),
            registry: r.registry,
        }
    }

    /// One request of an API, from the last byte received to the answer ready to send.
    pub fn request(&self, api_key: i16, elapsed: Duration) {
        let api = self.api(api_key);
        api.count.inc();
        api.seconds.observe(elapsed.as_secs_f64());
    }

    /// One request that was answered with an error code.
    pub fn request_error(&self, api_key: i16) {
        self.api(api_key).errors.inc();
    }

    fn api(&self, api_key: i16) -> &ApiMetrics {
        let last = self.apis.len() - 1;
        let index = usize::try_from(api_key).unwrap_or(last).min(last);
        &self.apis[index]
    }

    /// Something was turned away.
    pub fn refused(&self, kind: RefusedKind) {
        self.refused[kind as usize].inc();
    }

    /// The partitions whose sealing has stopped; replaces the former list, the first ones if there are many.
    pub fn set_seal_alarms(&self, alarms: &[(String, i32)]) {
        self.seal_alarms.set(i64::try_from(alarms.len()).unwrap_or(i64::MAX));
        self.seal_alarm.clear();
        for (topic, partition) in alarms.iter().take(limits::SEAL_ALARM_LABELS_MAX) {
            let label = PartitionLabel { topic: topic.clone(), partition: *partition };
            self.seal_alarm.get_or_create(&label).set(1);
        }
    }

    /// Totals of one lane of the object store.
    pub fn set_store(&self, lane: &LaneSnapshot) {
        let set = |family: &Family<LaneLabel, Counter>, kind: &'static str, total: u64| {
            let label = LaneLabel { lane: lane.lane, kind };
            family.get_or_create(&label).inner().store(total, Ordering::Relaxed);
        };
        for (kind, total) in &lane.requests {
            set(&self.store_requests, kind, *total);
        }
        set(&self.store_bytes, "sent", lane.bytes_sent);
        set(&self.store_bytes, "received", lane.bytes_received);
        set(&self.store_trouble, "error", lane.errors);
        set(&self.store_trouble, "retry", lane.retries);
        set(&self.store_trouble, "expired", lane.expired);
    }

    /// How tier work runs, and how it has run.
    pub fn set_pace(&self, now: Pace, offloads: &OffloadSnapshot) {
        for pace in Pace::ALL {
            let gauge = self.offload_pace.get_or_create(&KindLabel { kind: pace.name() });
            gauge.set(i64::from(pace == now));
        }
        for (kind, total) in [
            (Pace::Background.name(), offloads.sealed_in_background),
            (Pace::Full.name(), offloads.sealed_in_hurry),
            ("begun_anew", offloads.seals_begun_anew),
        ] {
            self.offload_seals.get_or_create(&KindLabel { kind }).inner().store(total, Ordering::Relaxed);
        }
    }

    /// Totals of reads from the tier, and what its cache holds.
    pub fn set_reads(&self, reads: &ReadSnapshot, cache_bytes: u64) {
        for (kind, total) in [
            ("group_hit", reads.group_hits),
            ("group_load", reads.group_loads),
            ("group_joined", reads.group_joined),
            ("index_hit", reads.index_hits),
            ("index_load", reads.index_loads),
        ] {
            self.cache.get_or_create(&KindLabel { kind }).inner().store(total, Ordering::Relaxed);
        }
        for (kind, total) in [
            ("done", reads.reads - reads.failed.min(reads.reads)),
            ("failed", reads.failed),
            ("expired", reads.expired),
            ("reopened", reads.reopened),
            ("prefetched", reads.prefetched),
            ("corrupt", reads.corrupt),
        ] {
            self.tier_reads.get_or_create(&KindLabel { kind }).inner().store(total, Ordering::Relaxed);
        }
        self.tier_read_bytes.inner().store(reads.bytes, Ordering::Relaxed);
        self.cache_bytes.set(i64::try_from(cache_bytes).unwrap_or(i64::MAX));
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        if let Some((memory_bytes, cpu_seconds)) = process_usage() {
            self.process_memory.set(memory_bytes);
            self.process_cpu.inner().store(cpu_seconds.to_bits(), Ordering::Relaxed);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string cannot fail");
        text
    }
}

/// One counter for each kind, in their order.
fn register_refused(registry: &mut Registry) -> Vec<Counter> {
    let family = Family::<KindLabel, Counter>::default();
    registry.register("refused", "What was turned away, by kind", family.clone());
    let one = |(i, (kind, name)): (usize, &(RefusedKind, &'static str))| {
        assert_eq!(i, *kind as usize, "the table is in the order of the enum");
        family.get_or_create_owned(&KindLabel { kind: name })
    };
    REFUSED_KINDS.iter().enumerate().map(one).collect()
}

fn register_apis(registry: &mut Registry) -> Vec<ApiMetrics> {
    let counts = Family::<ApiLabel, Counter>::default();
    let errors = Family::<ApiLabel, Counter>::default();
    let seconds = Family::<ApiLabel, Histogram>::new_with_constructor(latency_histogram);
    registry.register("requests", "Requests of Kafka clients", counts.clone());
    registry.register("request_errors", "Requests answered with an error code", errors.clone());
    registry.register_with_unit("request", "Time to answer a request", Unit::Seconds, seconds.clone());
    let entry = |name: &'static str| {
        let label = ApiLabel { api: name };
        ApiMetrics {
            count: counts.get_or_create_owned(&label),
            errors: errors.get_or_create_owned(&label),
            seconds: seconds.get_or_create_owned(&label),
        }
    };
    let keys_end = api::SERVED.iter().map(|range| range.key).max().unwrap_or(0) + 1;
    (0..=keys_end).map(|key| entry(api::find(key).map_or("Other", |range| range.name))).collect()
}

/// 100 microseconds to about 26 seconds, each bucket four times the one before.
fn latency_histogram() -> Histogram {
    Histogram::new([0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1024, 0.4096, 1.6384, 6.5536, 26.2144])
}

/// Ticks per second in `/proc/PID/stat`: fixed at 100 for user space on Linux, whatever the kernel's own
/// rate.
const CPU_TICKS_PER_SECOND: f64 = 100.0;

/// Resident bytes and CPU seconds of this process, from `/proc`; none where there is no such thing.
pub(crate) fn process_usage() -> Option<(i64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let resident_kib: i64 = resident.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold spaces; the fields are counted from the parenthesis that closes it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((resident_kib * 1024, (user + system) / CPU_TICKS_PER_SECOND))
}

/// Registers a metric and hands it back.
struct Registrar {
    registry: Registry,
}

impl Registrar {
    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn float_counter(&mut self, name: &str, help: &str) -> Counter<f64, AtomicU64> {
        let metric = Counter::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn histogram(&mut self, name: &str, help: &str) -> Histogram {
        let metric = latency_histogram();
        self.registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    fn family<L, M>(&mut self, name: &str, help: &str) -> Family<L, M>
    where
        L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
        M: Default + prometheus_client::registry::Metric + prometheus_client::metrics::TypedMetric + Clone,
    {
        let metric = Family::<L, M>::default();
        self.registry.register(name, help, metric.clone());
        metric
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_under_their_names() {
        let metrics = Metrics::new();
        metrics.request(0, Duration::from_millis(1));
        metrics.request(0, Duration::from_millis(2));
        metrics.request_error(1);
        metrics.request(77, Duration::ZERO);
        metrics.request(-1, Duration::ZERO);
        metrics.refused(RefusedKind::Version);
        metrics.bytes_in.inc_by(10);
        let lane = |puts| LaneSnapshot {
            lane: "upload",
            requests: vec![("put", puts)],
            errors: 1,
            retries: 1,
            expired: 0,
            bytes_sent: puts * 10,
            bytes_received: 0,
            latency_us: 0,
            waited_us: 0,
        };
        metrics.set_store(&lane(3));
        metrics.set_store(&lane(4));
        metrics
            .set_reads(&ReadSnapshot { group_hits: 7, reads: 9, failed: 2, ..ReadSnapshot::default() }, 100);
        let offloads = OffloadSnapshot { sealed_in_hurry: 3, ..OffloadSnapshot::default() };
        metrics.set_pace(Pace::Wait, &offloads);
        metrics.set_pace(Pace::Full, &offloads);
        let text = metrics.render();
        for line in [
            "highwater_requests_total{api=\"Produce\"} 2",
            "highwater_requests_total{api=\"Other\"} 2",
            "highwater_request_seconds_count{api=\"Produce\"} 2",
            "highwater_request_errors_total{api=\"Fetch\"} 1",
            "highwater_refused_total{kind=\"version\"} 1",
            "highwater_received_bytes_total 10",
            "highwater_store_requests_total{lane=\"upload\",kind=\"put\"} 4",
            "highwater_store_bytes_total{lane=\"upload\",kind=\"sent\"} 40",
            "highwater_store_trouble_total{lane=\"upload\",kind=\"retry\"} 1",
            "highwater_cache_total{kind=\"group_hit\"} 7",
            "highwater_tier_reads_total{kind=\"done\"} 7",
            "highwater_cache_bytes 100",
            "highwater_offload_pace{kind=\"full\"} 1",
            "highwater_offload_pace{kind=\"wait\"} 0",
            "highwater_offload_seals_total{kind=\"full\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn alarms_come_go_and_are_capped() {
        let metrics = Metrics::new();
        let many: Vec<(String, i32)> =
            (0..limits::SEAL_ALARM_LABELS_MAX as i32 + 5).map(|p| ("t".to_owned(), p)).collect();
        metrics.set_seal_alarms(&many);
        let lines = |text: String| text.lines().filter(|l| l.starts_with("highwater_seal_alarm{")).count();
        assert_eq!(lines(metrics.render()), limits::SEAL_ALARM_LABELS_MAX);
        assert!(metrics.render().contains(&format!("highwater_seal_alarms {}", many.len())));
        metrics.set_seal_alarms(&[]);
        assert_eq!(lines(metrics.render()), 0);
    }

    #[test]
    fn the_process_is_measured() {
        let (memory, cpu) = process_usage().expect("Linux has /proc");
        assert!(memory > 1 << 20 && cpu >= 0.0, "{memory} {cpu}");
    }
}
