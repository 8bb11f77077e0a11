//! Keys of everything the tier writes, and nothing else: pure text (invariant 8: every key carries its
//! writer's generation and a unique id).
//!
//! ```text
//! <cluster>/<topic>/<topic-id>/partition=<p>/<start:020>-<end:020>-<epoch>-<upload id>.parquet
//! <cluster>/<topic>/<topic-id>/partition=<p>/_manifest/page-<end:020>-<level>-<epoch>-<upload id>.json
//! <cluster>/<topic>/<topic-id>/partition=<p>/_manifest/mirror.json
//! <cluster>/_cluster/<name>.json
//! <cluster>/_probe/<upload id>
//! ```
//! All stand below the prefix of the store's URL, which only the store knows. Names with a leading `_` are
//! skipped by readers of hive-partitioned directories, and only objects end in `.parquet`.

use highwater_model::{LeaderEpoch, Offset, TopicId};
use uuid::Uuid;

use super::manifest::{ObjectEntry, PageRef, Retired};

/// A topic as keys need it. The name was validated when the topic was created (no `/`, not `.` or `..`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicRef {
    pub name: String,
    pub id: TopicId,
}

/// Keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    cluster: String,
}

impl Names {
    /// `cluster` is the cluster id: letters, digits, `-` and `_` (22 characters of base64 in Kafka).
    ///
    /// # Errors
    /// Says what is wrong with an id that could not be part of a key.
    pub fn new(cluster: &str) -> Result<Names, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if cluster.is_empty() || cluster.len() > 64 || !cluster.chars().all(plain) || cluster.starts_with('_')
        {
            return Err(format!("cluster id {cluster:?} is not 1 to 64 letters, digits, '-' or '_'"));
        }
        Ok(Names { cluster: cluster.to_string() })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The directory of a partition, with a trailing slash.
    pub fn partition(&self, topic: &TopicRef, partition: i32) -> String {
        debug_assert!(!topic.name.contains('/') && topic.name != "..", "validated at creation");
        debug_assert!(partition >= 0);
        format!("{}/{}/{}/partition={partition}/", self.cluster, topic.name, topic.id)
    }

    pub fn object(&self, topic: &TopicRef, partition: i32, entry: &ObjectEntry) -> String {
        self.object_key(topic, partition, (entry.start, entry.end), entry.epoch, entry.upload_id)
    }

    fn object_key(
        &self,
        topic: &TopicRef,
        partition: i32,
        (start, end): (Offset, Offset),
        epoch: LeaderEpoch,
        upload_id: Uuid,
    ) -> String {
        assert!(0 <= start && start < end, "an object has a range");
        format!("{}{start:020}-{end:020}-{epoch}-{upload_id}.parquet", self.partition(topic, partition))
    }

    pub fn page(&self, topic: &TopicRef, partition: i32, page: &PageRef) -> String {
        let PageRef { level, end, epoch, upload_id, .. } = page;
        let dir = self.partition(topic, partition);
        debug_assert!(*end > 0, "a page lists something");
        format!("{dir}_manifest/page-{end:020}-{level}-{epoch}-{upload_id}.json")
    }

    /// The key of a retired thing's own file.
    pub fn retired(&self, topic: &TopicRef, partition: i32, retired: &Retired) -> String {
        match retired {
            Retired::Object { start, end, epoch, upload_id } => {
                self.object_key(topic, partition, (*start, *end), *epoch, *upload_id)
            }
            Retired::Page(page) => self.page(topic, partition, page),
        }
    }

    pub fn mirror(&self, topic: &TopicRef, partition: i32) -> String {
        format!("{}_manifest/mirror.json", self.partition(topic, partition))
    }

    /// Cluster metadata such as topics and their settings; `name` is ours, never a user's.
    pub fn cluster_document(&self, name: &str) -> String {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "a fixed name");
        format!("{}/_cluster/{name}.json", self.cluster)
    }

    pub fn probe(&self, id: Uuid) -> String {
        format!("{}/_probe/{id}", self.cluster)
    }

    /// Below which everything of this cluster stands.
    pub fn root(&self) -> String {
        format!("{}/", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_documented() {
        let names = Names::new("kZ8q-Yt_0").expect("plain");
        let topic = TopicRef { name: "flights".into(), id: TopicId(Uuid::from_u128(7)) };
        let upload_id = Uuid::from_u128(9);
        let retired = Retired::Object { start: 0, end: 64, epoch: 3, upload_id };
        let dir = "kZ8q-Yt_0/flights/00000000-0000-0000-0000-000000000007/partition=2/";
        let id = "00000000-0000-0000-0000-000000000009";
        assert_eq!(
            names.retired(&topic, 2, &retired),
            format!("{dir}00000000000000000000-00000000000000000064-3-{id}.parquet")
        );
        assert_eq!(names.mirror(&topic, 2), format!("{dir}_manifest/mirror.json"));
        assert_eq!(names.cluster_document("topics"), "kZ8q-Yt_0/_cluster/topics.json");
    }

    #[test]
    fn ids_that_would_break_a_key_are_refused() {
        for bad in ["", "a/b", "..", "_x", "a b", &"x".repeat(65)] {
            assert!(Names::new(bad).is_err(), "{bad:?}");
        }
    }
}
