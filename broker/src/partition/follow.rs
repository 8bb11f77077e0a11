//! Making this node's partitions those of the coordinator's state: open what is new, close what is gone, take
//! over settings, roles, in-sync sets and manifests.
//!
//! One at a time. Opening and removing files happens on blocking threads. A directory whose topic the
//! coordinator does not know is left alone and reported: it may be all that is left of a lost control plane.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use highwater_coordinator::core::{ClusterState, Topic as TopicRecord};
use highwater_model::{NodeId, TopicId, TopicPartition};
use highwater_tiering::core::names::TopicRef;
use highwater_tiering::mirror::ClusterBody;
use serde::Serialize;

use super::Partition;
use super::assign::{assignment, is_mine};
use super::open::{OpenError, in_parallel, log_settings, open_partition, topic_dir, topics_dir};
use super::registry::{Slot, Topic, View};
use crate::node::Node;

/// Version of the document of topics in the bucket (docs/format.md).
const TOPICS_FORMAT: u8 = 1;

/// What the records are looked at with.
#[derive(Clone)]
struct Eyes {
    state: Arc<ClusterState>,
    node_id: NodeId,
    lag_ms_max: i64,
    now_ms: i64,
    /// Some broker has registered, was fenced or has gone since the last time.
    are_brokers_new: bool,
}

impl Eyes {
    fn of(node: &Node) -> Eyes {
        Eyes {
            node_id: node.settings.node_id,
            lag_ms_max: i64::try_from(node.settings.replica_lag_time_max_ms).unwrap_or(i64::MAX),
            now_ms: node.now_ms(),
            are_brokers_new: false,
            state: node.coordinator.state(),
        }
    }
}

/// Brings the registry up to the coordinator's state as of now.
///
/// # Errors
/// The data directory cannot be read or written.
pub async fn reconcile(node: &Arc<Node>) -> Result<(), OpenError> {
    let mut brokers = node.partitions.changing.lock().await;
    let mut eyes = Eyes::of(node);
    let state = eyes.state.clone();
    eyes.are_brokers_new = *brokers != state.brokers;
    let view = node.partitions.view();
    let (mut changed, mut missing) = (Vec::new(), Vec::new());
    for (id, record) in &state.topics {
        match view.by_id(*id) {
            Some(topic) if follows_already(&eyes, topic, record) => {}
            Some(topic) if is_all_open(&eyes, topic, record) => {
                changed.push(taken_over(&eyes, topic, record))
            }
            known => missing.push((record.clone(), known.cloned())),
        }
    }
    if eyes.are_brokers_new {
        brokers.clone_from(&state.brokers);
    }
    let gone: Vec<Arc<Topic>> =
        view.topics().filter(|topic| !state.topics.contains_key(&topic.id)).cloned().collect();
    let mut moved_away = Vec::new();
    if !missing.is_empty() {
        moved_away =
            missing.iter().flat_map(|(record, known)| moved(&eyes, record, known.as_deref())).collect();
        let data_dir = node.settings.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || open_topics(&data_dir, &eyes, &missing));
        changed.extend(opened.await.expect("opening logs does not panic")?);
    }
    if !changed.is_empty() || !gone.is_empty() {
        let stays = |topic: &&Arc<Topic>| {
            state.topics.contains_key(&topic.id) && changed.iter().all(|changed| changed.id != topic.id)
        };
        let topics: Vec<_> = view.topics().filter(stays).chain(&changed).cloned().collect();
        node.partitions.replace(View::new(topics));
        started(node, &changed);
        mirror_topics(node, &state);
    }
    for partition in moved_away {
        close_moved(node, &partition).await;
    }
    for topic in &gone {
        close_deleted(node, topic).await;
    }
    node.replicas_changed();
    Ok(())
}

/// Whether nothing has changed but what open partitions take over as they stand: manifests, roles, in-sync
/// sets. Most edits of the state are such, and cost no new view.
fn follows_already(eyes: &Eyes, topic: &Topic, record: &Arc<TopicRecord>) -> bool {
    let known = topic.record();
    if Arc::ptr_eq(&known, record) && !eyes.are_brokers_new {
        return true;
    }
    let same = Arc::ptr_eq(&known.config, &record.config)
        && known.overrides == record.overrides
        && known.partitions.len() == record.partitions.len()
        && is_all_open(eyes, topic, record);
    if !same {
        return false;
    }
    for (index, ((known, now), slot)) in
        (0..).zip(known.partitions.iter().zip(&record.partitions).zip(topic.slots()))
    {
        if let Slot::Open(partition) = slot
            && (eyes.are_brokers_new || !Arc::ptr_eq(known, now))
        {
            take_over(eyes, partition, record, index);
        }
    }
    topic.set_record(record.clone());
    true
}

/// Whether every partition of the record that is this node's is open already, and no other: then nothing of
/// the change touches the disk. A partition that could not be opened is tried again only when its topic's
/// record changes, and at the next start.
fn is_all_open(eyes: &Eyes, topic: &Topic, record: &TopicRecord) -> bool {
    let fits = |(slot, now): (&Slot, &Arc<_>)| match slot {
        Slot::Open(_) => is_mine(now, eyes.node_id),
        Slot::Elsewhere => !is_mine(now, eyes.node_id),
        Slot::Failed(_) => false,
    };
    topic.slots().len() == record.partitions.len() && topic.slots().iter().zip(&record.partitions).all(fits)
}

fn taken_over(eyes: &Eyes, topic: &Topic, record: &Arc<TopicRecord>) -> Arc<Topic> {
    for (index, slot) in (0..).zip(topic.slots()) {
        if let Slot::Open(partition) = slot {
            take_over(eyes, partition, record, index);
        }
    }
    Arc::new(Topic::new(record.clone(), topic.name.clone(), topic.slots().to_vec()))
}

/// Open partitions whose replica here was given away.
fn moved(eyes: &Eyes, record: &TopicRecord, known: Option<&Topic>) -> Vec<Arc<Partition>> {
    let slots = known.map_or(&[][..], |topic| topic.slots());
    let moved = slots.iter().zip(&record.partitions).filter_map(|(slot, now)| match slot {
        Slot::Open(partition) if !is_mine(now, eyes.node_id) => Some(partition.clone()),
        _ => None,
    });
    moved.collect()
}

type Missing = (Arc<TopicRecord>, Option<Arc<Topic>>);

fn open_topics(data_dir: &Path, eyes: &Eyes, missing: &[Missing]) -> Result<Vec<Arc<Topic>>, OpenError> {
    let root = topics_dir(data_dir);
    std::fs::create_dir_all(&root).map_err(OpenError::at(&root))?;
    let names: Vec<Arc<str>> = missing
        .iter()
        .map(|(record, known)| known.as_ref().map_or_else(|| record.name.as_str().into(), |t| t.name.clone()))
        .collect();
    let wanted: Vec<(usize, i32)> = missing
        .iter()
        .enumerate()
        .flat_map(|(at, (record, _))| (0..).take(record.partitions.len()).map(move |index| (at, index)))
        .collect();
    let slots = in_parallel(&wanted, |(at, index)| {
        let (record, known) = &missing[*at];
        slot_for(data_dir, eyes, record, known.as_deref(), &names[*at], *index)
    });
    let mut slots = slots.into_iter();
    let topics = missing.iter().zip(&names).map(|((record, _), name)| {
        let own = slots.by_ref().take(record.partitions.len()).collect();
        Arc::new(Topic::new(record.clone(), name.clone(), own))
    });
    Ok(topics.collect())
}

fn slot_for(
    data_dir: &Path,
    eyes: &Eyes,
    record: &Arc<TopicRecord>,
    known: Option<&Topic>,
    name: &Arc<str>,
    index: i32,
) -> Slot {
    let Some(now) = record.partition(index).filter(|now| is_mine(now, eyes.node_id)) else {
        return Slot::Elsewhere;
    };
    if let Some(Slot::Open(partition)) = known.and_then(|topic| topic.slot(index)) {
        take_over(eyes, partition, record, index);
        return Slot::Open(partition.clone());
    }
    let mut assignment = assignment(&eyes.state, now, &record.config, eyes.lag_ms_max);
    if now.raft.is_some() {
        // Its group says who leads.
        assignment.leader = None;
    }
    match open_partition(data_dir, record, name, index, (eyes.node_id, &assignment), eyes.now_ms) {
        Ok(partition) => {
            take_over(eyes, &partition, record, index);
            Slot::Open(Arc::new(partition))
        }
        Err(reason) => {
            tracing::error!(topic = %name, partition = index, "the log cannot be opened: {reason}");
            Slot::Failed(reason.into())
        }
    }
}

/// Gives an open partition what has changed in its record.
fn take_over(eyes: &Eyes, partition: &Partition, record: &TopicRecord, index: i32) {
    let Some(now) = record.partition(index) else { return };
    let terms = partition.terms();
    if !Arc::ptr_eq(&terms.config, &record.config) {
        partition.set_log_settings(log_settings(&record.config, index));
    }
    partition.set_manifest(now.manifest.clone());
    match (&now.raft, &terms.raft) {
        (Some(_), _) => partition.take_raft_record(&record.config, now),
        // What is open of its group is closed first: `workers::raft` comes back to this.
        (None, Some(_)) => {}
        (None, None) => {
            let assignment = assignment(&eyes.state, now, &record.config, eyes.lag_ms_max);
            partition.take_assignment(eyes.now_ms, &record.config, &assignment);
        }
    }
}

/// Gives a partition its record as it is now.
pub(crate) fn take_over_now(node: &Node, partition: &Partition) {
    let mut eyes = Eyes::of(node);
    eyes.are_brokers_new = true;
    let topic = eyes.state.topic(partition.tp.topic_id).cloned();
    if let Some(record) = topic {
        take_over(&eyes, partition, &record, partition.tp.partition);
    }
}

/// The topics and their settings go to the bucket: with the manifests' mirrors they are what a restore needs.
fn mirror_topics(node: &Node, state: &Arc<ClusterState>) {
    node.mirror.note_cluster("topics", state.version, Arc::new(TopicsDocument(state.clone())));
}

/// What `_cluster/topics.json` says (docs/format.md).
#[derive(Debug)]
struct TopicsDocument(Arc<ClusterState>);

impl ClusterBody for TopicsDocument {
    fn to_json(&self) -> Vec<u8> {
        let topics = self.0.topics.values().map(|topic| TopicEntry {
            id: topic.id,
            name: &topic.name,
            partitions: topic.partitions.len(),
            replication_factor: topic.replication_factor,
            created_at_ms: topic.created_at_ms,
            settings: &topic.overrides,
        });
        let document = TopicsBody { format: TOPICS_FORMAT, topics: topics.collect() };
        serde_json::to_vec(&document).expect("text keys only")
    }
}

#[derive(Serialize)]
struct TopicsBody<'a> {
    format: u8,
    topics: Vec<TopicEntry<'a>>,
}

#[derive(Serialize)]
struct TopicEntry<'a> {
    id: TopicId,
    name: &'a str,
    partitions: usize,
    replication_factor: i16,
    created_at_ms: i64,
    settings: &'a BTreeMap<String, String>,
}

/// At start: what the bucket has of topics and manifests may be older than what the coordinator has, if the
/// last stop was not clean. A look settles it where nothing has changed.
pub(crate) fn mirror_all(node: &Node) {
    let state = node.coordinator.state();
    mirror_topics(node, &state);
    for topic in state.topics.values() {
        let name = TopicRef { name: topic.name.clone(), id: topic.id };
        for (index, partition) in (0..).zip(&topic.partitions) {
            if partition.manifest.version > 0 {
                node.mirror.note(TopicPartition::new(topic.id, index), &name, &partition.manifest);
            }
        }
    }
}

/// Sets going what newly opened or changed partitions may need.
fn started(node: &Arc<Node>, changed: &[Arc<Topic>]) {
    let view = node.partitions.view();
    for partition in changed.iter().flat_map(|topic| topic.partitions()) {
        if partition.terms().flushes_before_ack() {
            node.flush.push(partition);
        }
        if partition.wants_offload(node.now_ms()) {
            node.offloads.push(partition);
        }
    }
    node.metrics.topics.set(i64::try_from(view.topics().count()).unwrap_or(i64::MAX));
    node.metrics.partitions.set(i64::try_from(view.partitions().count()).unwrap_or(i64::MAX));
}

/// Closes a partition whose replica here was given away, and removes its files: the others have it.
async fn close_moved(node: &Arc<Node>, partition: &Arc<Partition>) {
    node.raft.close(node, partition.tp, false).await;
    partition.close(false);
    let (name, index) = (partition.topic.clone(), partition.tp.partition);
    let dir = topic_dir(&node.settings.data_dir, partition.tp.topic_id).join(index.to_string());
    let removed = tokio::task::spawn_blocking(move || remove_dir(&dir)).await;
    match removed.expect("removing files does not panic") {
        Ok(()) => tracing::info!(topic = %name, partition = index, "moved away, its local files are gone"),
        Err(e) => {
            tracing::error!(topic = %name, partition = index, "local files of a moved partition stay: {e}");
        }
    }
}

/// Closes the partitions of a deleted topic and removes their files; its objects are the sweeper's.
async fn close_deleted(node: &Arc<Node>, topic: &Arc<Topic>) {
    for partition in topic.partitions() {
        node.raft.close(node, partition.tp, false).await;
        partition.close(false);
    }
    let dir = topic_dir(&node.settings.data_dir, topic.id);
    let name = topic.name.clone();
    let removed = tokio::task::spawn_blocking(move || remove_dir(&dir)).await;
    match removed.expect("removing files does not panic") {
        Ok(()) => tracing::info!(topic = %name, "topic deleted, its local files are gone"),
        Err(e) => {
            tracing::error!(topic = %name, "local files of a deleted topic stay until the next start: {e}")
        }
    }
}

fn remove_dir(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Removes the replicas below a topic's directory that moved away while this node was gone.
fn remove_moved(dir: &Path, node_id: NodeId, topic: &TopicRecord) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let index = entry.file_name().to_string_lossy().parse().ok();
        let moved = index.filter(|index| topic.partition(*index).is_some_and(|now| !is_mine(now, node_id)));
        let Some(partition) = moved else { continue };
        match remove_dir(&entry.path()) {
            Ok(()) => tracing::info!(topic = %topic.name, partition, "moved away, its local files are gone"),
            Err(e) => {
                tracing::error!(topic = %topic.name, partition, "local files of a moved partition stay: {e}");
            }
        }
    }
}

/// At start: removes what deleted topics and replicas that moved away have left, and reports directories that
/// belong to nothing.
pub(crate) fn remove_leftovers(data_dir: &Path, node_id: NodeId, state: &ClusterState) {
    let Ok(entries) = std::fs::read_dir(topics_dir(data_dir)) else { return };
    let mut strays = HashSet::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.parse().ok().map(TopicId) else {
            strays.insert(name);
            continue;
        };
        if let Some(topic) = state.topics.get(&id) {
            remove_moved(&entry.path(), node_id, topic);
            continue;
        }
        if !state.deleted.contains_key(&id) {
            strays.insert(name);
        } else if let Err(e) = remove_dir(&entry.path()) {
            tracing::warn!(%id, "files of a deleted topic cannot be removed: {e}");
        }
    }
    if let Some(example) = strays.iter().min() {
        let count = strays.len();
        tracing::warn!(
            count,
            example,
            "directories of topics that the coordinator does not know were left alone"
        );
    }
}
