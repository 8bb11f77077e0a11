//! Judging the creation, growth and deletion of topics, and placing their replicas. The order of checks and
//! the texts are those of Apache Kafka's `ReplicationControlManager`.

use highwater_model::limits::{
    DELETED_TOPICS_MAX, PARTITIONS_MAX, PARTITIONS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX, REPLICAS_MAX,
    TOPICS_MAX,
};
use highwater_model::{NodeId, TopicId, topic_name};

use super::command::{NewTopic, Reply, TopicCreated};
use super::configs::parsed;
use super::edit::{Edit, Outcome};
use super::placement::Placement;
use super::refusal::Refusal;
use super::state::{Broker, ClusterState};

impl ClusterState {
    pub(super) fn decide_create_topic(
        &self,
        rules: u16,
        now_ms: i64,
        new: &NewTopic,
    ) -> Result<Outcome, Refusal> {
        topic_name::validate(&new.name)?;
        match self.topic_colliding_with(&new.name) {
            Some(topic) if topic.name == new.name => {
                return Err(Refusal::TopicExists { name: new.name.clone() });
            }
            Some(topic) => {
                let existing = topic.name.clone();
                return Err(Refusal::TopicCollides { name: new.name.clone(), existing });
            }
            None => {}
        }
        let known = self.topics.contains_key(&new.topic_id) || self.deleted.contains_key(&new.topic_id);
        if known || new.topic_id == TopicId::NONE {
            return Err(Refusal::RequestInvalid("a topic needs an id of its own".into()));
        }
        let assignments = match new.assignments.is_empty() {
            true => self.place_topic(rules, new)?,
            false => new.assignments.clone(),
        };
        self.check_room(0, assignments.len())?;
        if self.topics.len() >= TOPICS_MAX {
            return Err(Refusal::LimitReached(format!("at most {TOPICS_MAX} topics")));
        }
        let replication_factor = self.check_assignments(rules, &assignments, None)?;
        parsed(rules, &new.configs)?;
        let created = TopicCreated {
            topic_id: new.topic_id,
            partitions: i32::try_from(assignments.len()).expect("bounded by check_room"),
            replication_factor,
        };
        debug_assert!(created.partitions >= 1 && created.replication_factor >= 1);
        let edit = Edit::TopicCreated {
            topic_id: new.topic_id,
            name: new.name.clone(),
            replication_factor,
            assignments,
            is_pinned: rules > 1 && !new.assignments.is_empty(),
            overrides: new.configs.clone(),
            at_ms: now_ms,
        };
        Ok(Outcome::one(edit, Reply::TopicCreated(created)))
    }

    pub(super) fn decide_delete_topic(&self, now_ms: i64, topic_id: TopicId) -> Result<Outcome, Refusal> {
        if !self.topics.contains_key(&topic_id) {
            return Err(Refusal::TopicUnknown);
        }
        debug_assert!(!self.deleted.contains_key(&topic_id), "alive or deleted, never both");
        if self.deleted.len() >= DELETED_TOPICS_MAX {
            let reason = format!("{DELETED_TOPICS_MAX} deleted topics wait to be swept from the bucket");
            return Err(Refusal::LimitReached(reason));
        }
        Ok(Outcome::one(Edit::TopicDeleted { topic_id, at_ms: now_ms }, Reply::Done))
    }

    pub(super) fn decide_create_partitions(
        &self,
        rules: u16,
        topic_id: TopicId,
        count: i32,
        assignments: &[Vec<NodeId>],
    ) -> Result<Outcome, Refusal> {
        let topic = self.topics.get(&topic_id).ok_or(Refusal::TopicUnknown)?;
        let current = i32::try_from(topic.partitions.len()).expect("bounded by check_room");
        if count == current {
            return Err(Refusal::PartitionsInvalid(format!("Topic already has {current} partition(s).")));
        }
        if count < current {
            return Err(Refusal::PartitionsInvalid(format!(
                "The topic {} currently has {current} partition(s); {count} would not be an increase.",
                topic.name
            )));
        }
        let added = usize::try_from(count - current).expect("an increase");
        self.check_room(topic.partitions.len(), added)?;
        let factor = usize::try_from(topic.replication_factor).expect("at least 1");
        let is_pinned = rules > 1 && !assignments.is_empty();
        let assignments = match assignments.is_empty() {
            true => self.place(rules, topic_id, topic.partitions.len(), added, factor)?,
            false if assignments.len() != added => {
                return Err(Refusal::AssignmentInvalid(format!(
                    "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                    assignments.len()
                )));
            }
            false => assignments.to_vec(),
        };
        self.check_assignments(rules, &assignments, Some(topic.replication_factor))?;
        assert_eq!(assignments.len(), added, "one assignment for each new partition");
        Ok(Outcome::one(Edit::PartitionsAdded { topic_id, assignments, is_pinned }, Reply::Done))
    }

    fn place_topic(&self, rules: u16, new: &NewTopic) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let Some(partitions) = usize::try_from(new.partitions).ok().filter(|count| *count > 0) else {
            let reason = "Number of partitions was set to an invalid non-positive value.";
            return Err(Refusal::PartitionsInvalid(reason.into()));
        };
        let Some(factor) = usize::try_from(new.replication_factor).ok().filter(|factor| *factor > 0) else {
            let reason = "Replication factor was set to an invalid non-positive value.";
            return Err(Refusal::ReplicationFactorInvalid(reason.into()));
        };
        self.check_room(0, partitions)?;
        self.place(rules, new.topic_id, 0, partitions, factor)
    }

    /// Replicas of `count` partitions from number `first` on.
    fn place(
        &self,
        rules: u16,
        topic_id: TopicId,
        first: usize,
        count: usize,
        factor: usize,
    ) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if factor > self.brokers.len() {
            return Err(Refusal::ReplicationFactorInvalid(format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} \
                 cannot be reached because only {} broker(s) are registered.",
                self.brokers.len()
            )));
        }
        if rules > 1 && !self.brokers.values().any(Broker::is_active) {
            let reason = "Unable to place the partition: all brokers are fenced.";
            return Err(Refusal::ReplicationFactorInvalid(reason.into()));
        }
        assert!(factor >= 1 && !self.brokers.is_empty());
        let placed = match rules {
            1 => self.place_round(topic_id, first, count, factor),
            _ => Placement::new(self, topic_id).place(first, count, factor),
        };
        debug_assert!(placed.len() == count && placed.iter().all(|replicas| replicas.len() == factor));
        Ok(placed)
    }

    /// As rules 1 placed: round the registered brokers, from a place that depends on the topic.
    fn place_round(&self, topic_id: TopicId, first: usize, count: usize, factor: usize) -> Vec<Vec<NodeId>> {
        let nodes: Vec<NodeId> = self.brokers.keys().copied().collect();
        let offset = usize::from(topic_id.0.as_bytes()[0]) * 256 + usize::from(topic_id.0.as_bytes()[1]);
        let replicas = |partition: usize| {
            (0..factor).map(|i| nodes[(offset + partition + i) % nodes.len()]).collect::<Vec<NodeId>>()
        };
        debug_assert!(factor <= nodes.len());
        (first..first + count).map(replicas).collect()
    }

    /// Checks given or made assignments; returns their replication factor.
    fn check_assignments(
        &self,
        rules: u16,
        assignments: &[Vec<NodeId>],
        factor: Option<i16>,
    ) -> Result<i16, Refusal> {
        let first = assignments.first().expect("at least one partition");
        let expected = match factor {
            Some(factor) => usize::try_from(factor).expect("at least 1"),
            None => first.len(),
        };
        let refuse = |reason: String| Err(Refusal::AssignmentInvalid(reason));
        if expected == 0 || expected > self.brokers.len().max(1) {
            return refuse("The manual partition assignment has an empty or too long replica list.".into());
        }
        if rules > 1 && expected > REPLICAS_MAX {
            return refuse(format!("A partition has at most {REPLICAS_MAX} replicas."));
        }
        for replicas in assignments {
            if replicas.len() != expected {
                return refuse(format!(
                    "The manual partition assignment includes a partition with {} replica(s), but this is not \
                     consistent with previous partitions, which have {expected} replica(s).",
                    replicas.len()
                ));
            }
            if let Some(node) = replicas.iter().find(|node| !self.brokers.contains_key(node)) {
                return refuse(format!(
                    "The manual partition assignment includes broker {node}, but no such broker is registered."
                ));
            }
            if replicas.iter().enumerate().any(|(i, node)| replicas[..i].contains(node)) {
                return refuse("The manual partition assignment includes a broker more than once.".into());
            }
            let is_active = |node: &NodeId| self.brokers.get(node).is_some_and(Broker::is_active);
            if rules > 1 && !replicas.iter().any(is_active) {
                return refuse("All brokers of a partition in the manual assignment are fenced.".into());
            }
        }
        assert!(expected <= self.brokers.len(), "each replica is a broker of its own");
        i16::try_from(expected).map_err(|_| Refusal::AssignmentInvalid("Too many replicas.".into()))
    }

    /// Whether `added` partitions more have room in a topic that has `current` and in the cluster.
    fn check_room(&self, current: usize, added: usize) -> Result<(), Refusal> {
        debug_assert!(current <= self.partition_count);
        if added > PARTITIONS_PER_REQUEST_MAX {
            return Err(Refusal::LimitReached("Excessively large number of partitions per request.".into()));
        }
        if current + added > PARTITIONS_PER_TOPIC_MAX {
            return Err(Refusal::LimitReached(format!(
                "at most {PARTITIONS_PER_TOPIC_MAX} partitions per topic"
            )));
        }
        if self.partition_count + added > PARTITIONS_MAX {
            return Err(Refusal::LimitReached(format!("at most {PARTITIONS_MAX} partitions in the cluster")));
        }
        Ok(())
    }
}
