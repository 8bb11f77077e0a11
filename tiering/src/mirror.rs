//! Manifests and cluster metadata mirrored to the bucket within seconds of a change, so that the bucket alone
//! can rebuild the cluster.
//!
//! A mirror is one JSON document per partition (docs/format.md, "Manifest mirror") that is overwritten only
//! by a newer version: the write names the version of the content that it replaces (`If-Match`), and who
//! finds a newer document leaves it. To find that out, only the first bytes of a document are read, so a
//! document may be as large as what it tells of. Changes of one document that come quickly are written once.
//! A bucket that is away only makes mirrors late.
//!
//! Must not be read by the running cluster: the truth is in Raft (invariant 9). What waits is one document
//! per partition (invariant 16).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use highwater_model::limits::{
    MIRROR_ATTEMPTS_MAX, MIRROR_CONCURRENCY_MAX, MIRROR_DELAY_MS, MIRROR_HEAD_BYTES, OFFLOAD_STEP_MS_MAX,
    STORE_BYTES_PER_S_MIN,
};
use highwater_model::{TopicId, TopicPartition};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bucket::Tag;
use crate::core::lanes::Lane;
use crate::core::manifest::Manifest;
use crate::core::names::{Names, TopicRef};
use crate::lane::{Store, StoreError, deadline_in};
use crate::metrics::OffloadCounters;

/// Version of a mirror's stored form.
pub const MIRROR_FORMAT: u8 = 1;

/// A partition's mirror as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestMirror {
    pub format: u8,
    /// The manifest's version; a document is only replaced by one with a greater version.
    pub version: u64,
    pub cluster: String,
    pub topic: String,
    pub topic_id: TopicId,
    pub partition: i32,
    pub manifest: Manifest,
}

/// A document of the cluster (topics and their settings, say) as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMirror {
    pub format: u8,
    pub version: u64,
    pub cluster: String,
    pub body: serde_json::Value,
}

/// What a document of the cluster says; put into words only when it is written.
pub trait ClusterBody: fmt::Debug + Send + Sync {
    /// The `body` of a [`ClusterMirror`], as JSON.
    fn to_json(&self) -> Vec<u8>;
}

/// The fields of any mirror that stand first and tell which is newer.
#[derive(Serialize)]
struct Head<'a> {
    format: u8,
    version: u64,
    cluster: &'a str,
}

/// Format and version of a mirror of which `start` is the beginning, if they stand there.
fn versioned(start: &[u8]) -> Option<(u8, u64)> {
    // No document ends in a digit: a number there may have been cut.
    let digits = start.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let start = &start[..start.len() - digits];
    let mut seen = (None, None);
    // What follows is cut off or not looked at, so that this ends with an error even when it has found both.
    let _ = Seen(&mut seen).deserialize(&mut serde_json::Deserializer::from_slice(start));
    seen.0.zip(seen.1)
}

struct Seen<'a>(&'a mut (Option<u8>, Option<u64>));

impl<'de> DeserializeSeed<'de> for Seen<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seen<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a mirror")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while self.0.0.is_none() || self.0.1.is_none() {
            match map.next_key::<&str>()? {
                Some("format") => self.0.0 = Some(map.next_value()?),
                Some("version") => self.0.1 = Some(map.next_value()?),
                Some(_) => drop(map.next_value::<IgnoredAny>()?),
                None => break,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Document {
    Partition(TopicPartition),
    Cluster(String),
}

#[derive(Clone, Debug)]
enum Content {
    Manifest { topic: TopicRef, manifest: Arc<Manifest> },
    Cluster { version: u64, body: Arc<dyn ClusterBody> },
}

impl Content {
    fn version(&self) -> u64 {
        match self {
            Content::Manifest { manifest, .. } => manifest.version,
            Content::Cluster { version, .. } => *version,
        }
    }
}

/// What was found where a mirror is to be written.
enum Look {
    Nothing,
    Older(Tag),
    /// As new as what is to be written, or newer: nothing is left to do.
    Newer,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<Document, Content>,
    /// What this process wrote last: version and tag of the stored document.
    written: BTreeMap<Document, (u64, Tag)>,
}

/// Takes changes and writes them. `run` is the task that does it.
#[derive(Debug)]
pub struct Mirror {
    store: Store,
    names: Arc<Names>,
    counters: Arc<OffloadCounters>,
    state: Mutex<State>,
    changed: Notify,
    waiting: AtomicI64,
}

impl Mirror {
    pub fn new(store: Store, names: Arc<Names>, counters: Arc<OffloadCounters>) -> Mirror {
        let (state, changed, waiting) = Default::default();
        Mirror { store, names, counters, state, changed, waiting }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while mirrors are locked")
    }

    /// Documents that wait to be written.
    pub fn waiting(&self) -> i64 {
        self.waiting.load(Relaxed)
    }

    /// A partition's manifest has changed. Older news than what waits or was written is ignored.
    pub fn note(&self, tp: TopicPartition, topic: &TopicRef, manifest: &Arc<Manifest>) {
        let content = Content::Manifest { topic: topic.clone(), manifest: manifest.clone() };
        self.enqueue(Document::Partition(tp), content);
    }

    /// A document of the cluster has changed. `name` is a fixed one such as `topics`; `version` only grows.
    pub fn note_cluster(&self, name: &str, version: u64, body: Arc<dyn ClusterBody>) {
        self.enqueue(Document::Cluster(name.to_string()), Content::Cluster { version, body });
    }

    /// The partition is being deleted: nothing of it is to be written any more.
    pub fn forget(&self, tp: TopicPartition) {
        let mut state = self.state();
        state.pending.remove(&Document::Partition(tp));
        state.written.remove(&Document::Partition(tp));
        self.waiting.store(state.pending.len() as i64, Relaxed);
    }

    fn enqueue(&self, document: Document, content: Content) {
        let mut state = self.state();
        let newer = |version: u64| content.version() > version;
        let waits = state.pending.get(&document).is_none_or(|c| newer(c.version()));
        let written = state.written.get(&document).is_none_or(|(version, _)| newer(*version));
        if waits && written {
            state.pending.insert(document, content);
            self.waiting.store(state.pending.len() as i64, Relaxed);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Writes changes until the process ends (or the task is dropped): each within a few seconds, together
    /// with what else has changed by then.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(Duration::from_millis(MIRROR_DELAY_MS)).await;
            self.flush().await;
        }
    }

    /// Writes everything that waits now. What fails waits for the next round. Returns whether nothing failed.
    pub async fn flush(&self) -> bool {
        let taken = std::mem::take(&mut self.state().pending);
        let failures = futures::stream::iter(taken)
            .map(|(document, content)| async move {
                let done = self.write(&document, &content).await;
                (document, content, done)
            })
            .buffer_unordered(MIRROR_CONCURRENCY_MAX)
            .filter_map(|(document, content, done)| async move {
                let error = done.err()?;
                tracing::warn!("a mirror in the bucket is late: {error}");
                Some((document, content))
            })
            .collect::<Vec<_>>()
            .await;
        let ok = failures.is_empty();
        for (document, content) in failures {
            self.counters.mirror_failed.add(1);
            self.enqueue(document, content);
        }
        self.waiting.store(self.state().pending.len() as i64, Relaxed);
        ok
    }

    fn key_and_body(&self, document: &Document, content: &Content) -> (String, Bytes) {
        let cluster = self.names.cluster().to_string();
        let (key, body) = match (document, content) {
            (Document::Partition(tp), Content::Manifest { topic, manifest }) => {
                let mirror = ManifestMirror {
                    format: MIRROR_FORMAT,
                    version: manifest.version,
                    cluster,
                    topic: topic.name.clone(),
                    topic_id: topic.id,
                    partition: tp.partition,
                    manifest: (**manifest).clone(),
                };
                (self.names.mirror(topic, tp.partition), serde_json::to_vec(&mirror))
            }
            (Document::Cluster(name), Content::Cluster { version, body }) => {
                (self.names.cluster_document(name), cluster_mirror(*version, &cluster, &**body))
            }
            _ => unreachable!("`note` and `note_cluster` pair them"),
        };
        (key, body.expect("text keys only").into())
    }

    async fn write(&self, document: &Document, content: &Content) -> Result<(), StoreError> {
        let (key, body) = self.key_and_body(document, content);
        let version = content.version();
        let deadline = deadline_in(OFFLOAD_STEP_MS_MAX + body.len() as u64 * 1_000 / STORE_BYTES_PER_S_MIN);
        let known = self.state().written.get(document).map(|(_, tag)| tag.clone());
        // After a start nothing is known: most often the document is there and as new, and one look settles
        // it.
        let mut seen = match known {
            Some(tag) => Some(tag),
            None => match self.look(document, &key, version, deadline).await? {
                Look::Newer => return Ok(()),
                Look::Older(tag) => Some(tag),
                Look::Nothing => None,
            },
        };
        for _ in 0..MIRROR_ATTEMPTS_MAX {
            if let Some(result) = self.write_over(&key, &body, seen.as_ref(), deadline).await? {
                self.counters.mirrored.add(1);
                self.state().written.insert(document.clone(), (version, result));
                return Ok(());
            }
            // Someone else wrote, or we did and the answer was lost: look at what is there.
            seen = match self.look(document, &key, version, deadline).await? {
                Look::Newer => return Ok(()),
                Look::Older(tag) => Some(tag),
                Look::Nothing => None,
            };
        }
        Err(StoreError::Conflict { key })
    }

    /// What is stored under the document's key, compared with `version`.
    async fn look(
        &self,
        document: &Document,
        key: &str,
        version: u64,
        deadline: Instant,
    ) -> Result<Look, StoreError> {
        let start = self.store.get_start(Lane::Housekeeping, key, MIRROR_HEAD_BYTES, deadline).await;
        let (start, tag) = match start {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(Look::Nothing),
            Err(e) => return Err(e),
        };
        match versioned(&start).filter(|(format, stored)| *stored >= version || *format > MIRROR_FORMAT) {
            Some((_, stored)) => {
                self.state().written.insert(document.clone(), (stored.max(version), tag));
                Ok(Look::Newer)
            }
            None => Ok(Look::Older(tag)),
        }
    }

    /// None when what is there is not what was `seen`.
    async fn write_over(
        &self,
        key: &str,
        body: &Bytes,
        seen: Option<&Tag>,
        deadline: Instant,
    ) -> Result<Option<Tag>, StoreError> {
        match self.store.put_over(key, body.clone(), seen, deadline).await {
            Ok(tag) => Ok(Some(tag)),
            Err(e) if e.is_changed() || e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A [`ClusterMirror`] as JSON, without a tree of its body in memory.
fn cluster_mirror(version: u64, cluster: &str, body: &dyn ClusterBody) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = serde_json::to_vec(&Head { format: MIRROR_FORMAT, version, cluster })?;
    assert_eq!(json.pop(), Some(b'}'), "an object");
    json.extend_from_slice(b",\"body\":");
    json.extend(body.to_json());
    json.push(b'}');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::{MemoryBucket, Op, Trouble};
    use crate::core::manifest::{Edit, EditRequest};
    use crate::lane::StoreSettings;

    struct Bench {
        bucket: Arc<MemoryBucket>,
        mirror: Mirror,
        topic: TopicRef,
        tp: TopicPartition,
    }

    fn bench(bucket: Arc<MemoryBucket>) -> Bench {
        let store = Store::over(bucket.clone(), "memory:", StoreSettings::default());
        let names = Arc::new(Names::new("c").expect("plain"));
        let topic = TopicRef { name: "t".into(), id: TopicId(uuid::Uuid::from_u128(1)) };
        let tp = TopicPartition::new(topic.id, 0);
        Bench { bucket, mirror: Mirror::new(store, names, Arc::default()), topic, tp }
    }

    fn manifest(version: u64) -> Arc<Manifest> {
        let mut m = Manifest::new(0);
        for log_start in 1..=version as i64 {
            let edit = Edit::Prune { log_start, head: vec![] };
            let request = EditRequest { expected_version: m.version, leader_epoch: 0, edit };
            m = m.edited(0, &request).expect("accepted");
        }
        Arc::new(m)
    }

    async fn stored(b: &Bench) -> u64 {
        let key = b.mirror.names.mirror(&b.topic, 0);
        let (body, _) =
            b.mirror.store.get_start(Lane::Read, &key, 10_000, deadline_in(1_000)).await.expect("there");
        serde_json::from_slice::<ManifestMirror>(&body).expect("a mirror").version
    }

    #[tokio::test]
    async fn changes_are_written_once_and_never_go_back() {
        let b = bench(Arc::default());
        for version in [1, 2, 3, 2] {
            b.mirror.note(b.tp, &b.topic, &manifest(version));
        }
        assert!(b.mirror.flush().await);
        assert_eq!((stored(&b).await, b.bucket.calls(Op::Put)), (3, 1));
        b.mirror.note(b.tp, &b.topic, &manifest(3));
        assert_eq!(b.mirror.waiting(), 0, "old news");
        // Another process has lost its memory of what it wrote, and has older news.
        let other = bench(b.bucket.clone());
        other.mirror.note(b.tp, &b.topic, &manifest(2));
        assert!(other.mirror.flush().await);
        assert_eq!(stored(&b).await, 3);
        other.mirror.note(b.tp, &b.topic, &manifest(5));
        assert!(other.mirror.flush().await);
        b.mirror.note(b.tp, &b.topic, &manifest(4));
        assert!(b.mirror.flush().await);
        assert_eq!(stored(&b).await, 5);
    }

    /// So many topics with a line for each.
    #[derive(Debug)]
    struct Topics(usize);

    impl ClusterBody for Topics {
        fn to_json(&self) -> Vec<u8> {
            let topics: Vec<_> = (0..self.0)
                .map(|i| serde_json::json!({"name": format!("topic-{i}"), "settings": {"retention.ms": "1"}}))
                .collect();
            serde_json::to_vec(&serde_json::json!({"format": 1, "topics": topics})).expect("plain")
        }
    }

    #[tokio::test]
    async fn a_document_of_many_topics_is_written_over_by_who_knows_nothing_of_it() {
        let bucket: Arc<MemoryBucket> = Arc::default();
        let key = "c/_cluster/topics.json";
        let stored = async |b: &Bench| {
            let (body, _) =
                b.mirror.store.get_start(Lane::Read, key, u64::MAX, deadline_in(1_000)).await.expect("there");
            let mirror: ClusterMirror = serde_json::from_slice(&body).expect("a mirror");
            let topics = mirror.body["topics"].as_array().expect("a list").len();
            (mirror.version, mirror.cluster, topics, body.len())
        };
        // Each time another process, so that what is there has to be looked at.
        for (version, topics, kept) in
            [(3, 20_000, (3, 20_000)), (2, 5, (3, 20_000)), (4, 20_001, (4, 20_001))]
        {
            let b = bench(bucket.clone());
            b.mirror.note_cluster("topics", version, Arc::new(Topics(topics)));
            assert!(b.mirror.flush().await, "{version}");
            let (version, cluster, topics, bytes) = stored(&b).await;
            assert_eq!(((version, topics), cluster.as_str()), (kept, "c"));
            assert!(bytes > 1024 * 1024, "{bytes}");
        }
    }

    #[test]
    fn the_version_is_read_from_the_first_bytes() {
        let body = cluster_mirror(7, "c", &Topics(1_000)).expect("plain");
        for end in [40, 1_000, body.len()] {
            assert_eq!(versioned(&body[..end]), Some((1, 7)), "{end}");
        }
        assert_eq!(versioned(br#"{ "cluster": "c", "version": 12, "format": 2, "bo"#), Some((2, 12)));
        for cut in
            [&b""[..], b"[1", b"{", br#"{"format":1,"#, br#"{"format":1,"version":"x"}"#, br#"{"version":1}"#]
        {
            assert_eq!(versioned(cut), None, "{}", cut.escape_ascii());
        }
        // A number that is cut off is not taken for a whole one.
        assert_eq!(versioned(br#"{"format":1,"version":12"#), None);
    }

    #[tokio::test]
    async fn a_lost_answer_and_an_outage_are_survived() {
        let b = bench(Arc::default());
        b.mirror.note(b.tp, &b.topic, &manifest(1));
        b.bucket.trouble(Op::Put, Trouble::AppliedButLost, 1);
        assert!(b.mirror.flush().await);
        assert_eq!(stored(&b).await, 1);
        b.mirror.note(b.tp, &b.topic, &manifest(2));
        b.bucket.trouble(Op::Put, Trouble::Refused(crate::bucket::FaultKind::Denied), 1);
        assert!(!b.mirror.flush().await);
        assert_eq!(b.mirror.waiting(), 1, "it waits for the next round");
        assert!(b.mirror.flush().await);
        assert_eq!(stored(&b).await, 2);
    }
}
