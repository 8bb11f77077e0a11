//! The partitions of this node, by topic name and topic id.
//!
//! Readers take a view that does not change under them; the one writer ([`super::follow`]) puts a new view in
//! its place.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use highwater_coordinator::core::{Broker, Topic as TopicRecord};
use highwater_model::{NodeId, TopicId, TopicPartition};

use super::Partition;

/// A partition's place in its topic.
#[derive(Clone)]
pub enum Slot {
    Open(Arc<Partition>),
    /// Its log could not be opened; the reason is logged. Tried again when topics change and at the next
    /// start.
    Failed(Arc<str>),
    /// This node has no replica of it.
    Elsewhere,
}

/// A topic as this node serves it.
pub struct Topic {
    pub id: TopicId,
    pub name: Arc<str>,
    /// The coordinator's record that the partitions follow.
    record: RwLock<Arc<TopicRecord>>,
    slots: Vec<Slot>,
}

impl Topic {
    pub(super) fn new(record: Arc<TopicRecord>, name: Arc<str>, slots: Vec<Slot>) -> Topic {
        assert_eq!(slots.len(), record.partitions.len(), "one slot per partition");
        Topic { id: record.id, name, record: RwLock::new(record), slots }
    }

    pub fn record(&self) -> Arc<TopicRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The partitions follow a newer record of the same shape.
    pub(super) fn set_record(&self, record: Arc<TopicRecord>) {
        assert_eq!(self.slots.len(), record.partitions.len(), "one slot per partition");
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = record;
    }

    pub fn slot(&self, partition: i32) -> Option<&Slot> {
        self.slots.get(usize::try_from(partition).ok()?)
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The open partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Open(partition) => Some(partition),
            Slot::Failed(_) | Slot::Elsewhere => None,
        })
    }
}

/// All topics at one moment.
#[derive(Default)]
pub struct View {
    by_name: HashMap<Arc<str>, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
}

impl View {
    pub(super) fn new(topics: impl IntoIterator<Item = Arc<Topic>>) -> View {
        let mut view = View::default();
        for topic in topics {
            view.by_name.insert(topic.name.clone(), topic.clone());
            view.by_id.insert(topic.id, topic);
        }
        assert_eq!(view.by_name.len(), view.by_id.len(), "names and ids are one to one");
        view
    }

    pub fn by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    pub fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_id.values()
    }

    /// Every open partition.
    pub fn partitions(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.by_id.values().flat_map(|topic| topic.partitions())
    }

    pub fn partition(&self, tp: TopicPartition) -> Option<&Arc<Partition>> {
        match self.by_id(tp.topic_id)?.slot(tp.partition)? {
            Slot::Open(partition) => Some(partition),
            Slot::Failed(_) | Slot::Elsewhere => None,
        }
    }
}

/// Holder of the present view.
#[derive(Default)]
pub struct Registry {
    view: RwLock<Arc<View>>,
    /// Held by the one who is changing the view; the brokers as they were when it was changed last.
    pub(super) changing: tokio::sync::Mutex<BTreeMap<NodeId, Broker>>,
}

impl Registry {
    /// The topics as they are now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn replace(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// While it is held, this node's partitions follow no change of the control plane; for tests of what a
    /// leader does that has not heard of its successor.
    #[doc(hidden)]
    pub async fn hold(&self) -> impl Drop + '_ {
        self.changing.lock().await
    }

    /// Wakes every waiting fetch; for the stop of the node.
    pub fn wake_all(&self) {
        for partition in self.view().partitions() {
            partition.wake_waiters();
        }
    }

    /// Flushes and closes every log; takes as long as the disk does. False if one was not closed clean.
    pub(crate) fn close_all(&self) -> bool {
        let view = self.view();
        let partitions: Vec<_> = view.partitions().collect();
        let closed = super::open::in_parallel(&partitions, |partition| partition.close(true));
        closed.into_iter().all(|is_clean| is_clean)
    }
}
