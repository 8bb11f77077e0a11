//! OffsetCommit, TxnOffsetCommit, OffsetFetch and OffsetDelete: who may, and what is written.

use highwater_model::ProducerId;
use highwater_model::limits::{GROUP_NAME_BYTES_MAX, GROUPS_PER_SHARD_MAX};

use super::answer::FetchedOffset;
use super::classic::{ClassicGroup, State};
use super::consumer::ConsumerGroup;
use super::error::GroupError;
use super::machine::{Group, Groups};
use super::records::{Key, OffsetValue, Record, Value};
use super::request::{CommitOffset, CommitOffsets, CommitTransactionOffsets, DeleteOffsets, FetchOffsets};
use super::rewrite::RECORD_BYTES;
use super::types::{Millis, Name};

/// Who commits.
struct Committer<'a> {
    member_id: &'a Name,
    instance_id: Option<&'a Name>,
    generation: i32,
    is_transactional: bool,
    knows_epochs: bool,
}

impl ClassicGroup {
    fn validate_commit(&self, who: &Committer<'_>) -> Result<(), GroupError> {
        if self.state == State::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        // A consumer without membership, or an operator: only while nobody else uses the group.
        if who.generation < 0 && self.is_empty() {
            return Ok(());
        }
        if who.generation >= 0 || !who.member_id.is_empty() || who.instance_id.is_some() {
            self.validate(who.member_id, who.instance_id)?;
            if who.generation != self.generation {
                return Err(GroupError::IllegalGeneration);
            }
        } else if !who.is_transactional {
            return Err(GroupError::UnknownMemberId);
        }
        if !who.is_transactional && self.state == State::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }
}

impl ConsumerGroup {
    fn validate_commit(&self, who: &Committer<'_>) -> Result<(), GroupError> {
        if who.generation < 0 && self.is_empty() {
            return Ok(());
        }
        let is_nobody = who.generation < 0 && who.member_id.is_empty() && who.instance_id.is_none();
        if who.is_transactional && is_nobody {
            return Ok(()); // older versions name no member
        }
        let member = self.members.get(who.member_id).ok_or(GroupError::UnknownMemberId)?;
        if !who.is_transactional && !member.is_classic() && !who.knows_epochs {
            return Err(GroupError::UnsupportedVersion);
        }
        if member.at.epoch == who.generation {
            Ok(())
        } else if member.is_classic() || who.is_transactional {
            Err(GroupError::IllegalGeneration)
        } else {
            Err(GroupError::StaleMemberEpoch)
        }
    }

    fn validate_fetch(&self, fetch: &FetchOffsets) -> Result<(), GroupError> {
        let id = fetch.member_id.as_ref().filter(|id| !id.is_empty());
        if id.is_none() && fetch.epoch < 0 {
            return Ok(());
        }
        let member = id.and_then(|id| self.members.get(id)).ok_or(GroupError::UnknownMemberId)?;
        match member.at.epoch == fetch.epoch {
            true => Ok(()),
            false if member.is_classic() => Err(GroupError::IllegalGeneration),
            false => Err(GroupError::StaleMemberEpoch),
        }
    }
}

impl Groups {
    fn validate_commit(&self, group: &Name, who: &Committer<'_>) -> Result<(), GroupError> {
        if group.len() > GROUP_NAME_BYTES_MAX || (who.is_transactional && group.is_empty()) {
            return Err(GroupError::InvalidGroupId);
        }
        match self.groups.get(group) {
            Some(Group::Classic(group)) => group.validate_commit(who),
            Some(Group::Consumer(group)) => group.validate_commit(who),
            // No such group: one that only holds offsets is made for who names no generation.
            None if who.generation < 0 && self.groups.len() < GROUPS_PER_SHARD_MAX => Ok(()),
            None if who.generation < 0 => Err(GroupError::GroupMaxSizeReached),
            None if who.knows_epochs && !who.is_transactional => Err(GroupError::GroupIdNotFound),
            None => Err(GroupError::IllegalGeneration),
        }
    }

    /// Writes what may be written of a commit; the answers are in the order of the request.
    fn write_offsets(
        &mut self,
        group: &Name,
        producer: Option<ProducerId>,
        offsets: &[CommitOffset],
        now: Millis,
        expires_ms: Option<Millis>,
    ) -> Vec<Result<(), GroupError>> {
        let mut answers = Vec::with_capacity(offsets.len());
        for offset in offsets {
            let answer = self.validate_offset(group, producer, offset);
            answers.push(answer);
            if answer.is_err() {
                continue;
            }
            let key = Key::Offset {
                group: group.clone(),
                topic: offset.topic.clone(),
                partition: offset.partition,
            };
            // The version with an expiry of its own has no room for the rest.
            let is_plain = expires_ms.is_none();
            debug_assert!(expires_ms.is_none() || producer.is_none(), "a transaction names no retention");
            let value = OffsetValue {
                offset: offset.offset,
                leader_epoch: if is_plain { offset.leader_epoch } else { -1 },
                metadata: offset.metadata.clone(),
                committed_ms: now,
                expires_ms,
                topic_id: offset.topic_id.filter(|_| is_plain),
            };
            self.write(producer, Record::new(key, Value::Offset(value)));
        }
        debug_assert_eq!(answers.len(), offsets.len(), "an offset without an answer");
        answers
    }

    /// A commit is one batch, and names its group in every record: one that is too large for a batch is
    /// refused whole, as Kafka's is.
    fn validate_size(&self, group: &Name, offsets: &[CommitOffset]) -> Result<(), GroupError> {
        let metadata_max = self.settings.offset_metadata_bytes_max;
        let bytes_of = |offset: &CommitOffset| {
            RECORD_BYTES + group.len() + offset.topic.len() + offset.metadata.len().min(metadata_max)
        };
        let bytes: usize = offsets.iter().map(bytes_of).sum();
        debug_assert!(bytes >= offsets.len() * RECORD_BYTES, "a record without a head");
        if bytes > self.settings.record_bytes_max { Err(GroupError::InvalidCommitOffsetSize) } else { Ok(()) }
    }

    fn validate_offset(
        &self,
        group: &Name,
        producer: Option<ProducerId>,
        offset: &CommitOffset,
    ) -> Result<(), GroupError> {
        // A full shard still lets its groups go on with what they have.
        let is_new = || self.offsets.get(group, &offset.topic, offset.partition).is_none();
        let most = self.settings.offsets_per_shard_max;
        let is_full = self.offsets.pending_count() >= most && producer.is_some()
            || self.offsets.committed_count() >= most && is_new();
        if offset.metadata.len() > self.settings.offset_metadata_bytes_max.min(GROUP_NAME_BYTES_MAX) {
            Err(GroupError::OffsetMetadataTooLarge)
        } else if offset.topic.len() > GROUP_NAME_BYTES_MAX || offset.partition < 0 {
            Err(GroupError::UnknownTopicOrPartition)
        } else if is_full {
            Err(GroupError::CoordinatorNotAvailable)
        } else {
            Ok(())
        }
    }

    pub(super) fn commit(
        &mut self,
        now: Millis,
        commit: &CommitOffsets,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let who = Committer {
            member_id: &commit.member_id,
            instance_id: commit.instance_id.as_ref(),
            generation: commit.generation,
            is_transactional: false,
            knows_epochs: commit.knows_epochs,
        };
        self.validate_commit(&commit.group, &who)?;
        self.validate_size(&commit.group, &commit.offsets)?;
        // A commit is a sign of life of a classic member.
        let (groups, mut turn) = self.split(now);
        if let Some(Group::Classic(group)) = groups.get(&commit.group)
            && matches!(group.state, State::Stable | State::PreparingRebalance)
        {
            group.touch(&mut turn, &commit.member_id);
        }
        let expires_ms = commit.retention_ms.filter(|ms| *ms >= 0).map(|ms| now.saturating_add(ms));
        Ok(self.write_offsets(&commit.group, None, &commit.offsets, now, expires_ms))
    }

    pub(super) fn commit_transaction(
        &mut self,
        now: Millis,
        commit: &CommitTransactionOffsets,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let who = Committer {
            member_id: &commit.member_id,
            instance_id: commit.instance_id.as_ref(),
            generation: commit.generation,
            is_transactional: true,
            knows_epochs: true,
        };
        self.validate_commit(&commit.group, &who)?;
        self.validate_size(&commit.group, &commit.offsets)?;
        debug_assert!(self.out.records.is_empty(), "one batch has one producer");
        self.out.transaction = Some((commit.producer_id, commit.producer_epoch));
        Ok(self.write_offsets(&commit.group, Some(commit.producer_id), &commit.offsets, now, None))
    }

    pub(super) fn delete_offsets(
        &mut self,
        delete: &DeleteOffsets,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        match self.groups.get(&delete.group) {
            None => return Err(GroupError::GroupIdNotFound),
            Some(Group::Classic(group)) if !group.is_empty() && !group.is_of_consumers() => {
                return Err(GroupError::NonEmptyGroup);
            }
            Some(_) => {}
        }
        let mut answers = Vec::with_capacity(delete.partitions.len());
        for (topic, partition) in &delete.partitions {
            if self.groups.get(&delete.group).is_some_and(|group| group.is_subscribed_to(topic)) {
                answers.push(Err(GroupError::GroupSubscribedToTopic));
                continue;
            }
            answers.push(Ok(()));
            self.erase_offset(&delete.group, topic, *partition);
        }
        Ok(answers)
    }

    /// A tombstone if there is anything to delete.
    pub(super) fn erase_offset(&mut self, group: &Name, topic: &Name, partition: i32) {
        let is_there = self.offsets.get(group, topic, partition).is_some();
        if is_there || self.offsets.is_pending(group, topic, partition) {
            let key = Key::Offset { group: group.clone(), topic: topic.clone(), partition };
            self.write(None, Record::tombstone(key));
        }
        debug_assert!(self.offsets.get(group, topic, partition).is_none());
    }

    /// OffsetFetch for one group, answered from the state as it stands. The answer counts once everything
    /// appended so far is committed.
    pub fn fetch_offsets(&self, fetch: &FetchOffsets) -> Result<Vec<FetchedOffset>, GroupError> {
        if let Some(Group::Consumer(group)) = self.groups.get(&fetch.group) {
            group.validate_fetch(fetch)?;
        }
        let one = |topic: &Name, partition: i32| {
            let error = (fetch.is_stable_required && self.offsets.is_pending(&fetch.group, topic, partition))
                .then_some(GroupError::UnstableOffsetCommit);
            let found = self.offsets.get(&fetch.group, topic, partition).filter(|_| error.is_none());
            FetchedOffset {
                topic: topic.clone(),
                partition,
                offset: found.map_or(-1, |value| value.offset),
                leader_epoch: found.map_or(-1, |value| value.leader_epoch),
                metadata: found.map_or_else(|| Name::from(""), |value| value.metadata.clone()),
                error,
            }
        };
        Ok(match &fetch.partitions {
            Some(partitions) => partitions.iter().map(|(topic, partition)| one(topic, *partition)).collect(),
            None => self.offsets.of_group(&fetch.group).map(|(topic, p, _)| one(topic, p)).collect(),
        })
    }
}
