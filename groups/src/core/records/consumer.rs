//! The values of consumer groups (KIP-848), all version 0 and flexible.

use std::collections::BTreeSet;

use bytes::Bytes;
use highwater_model::TopicId;

use crate::core::codec::{Damage, Reader, Writer};
use crate::core::types::{Millis, Name, Partitions, contains, each};

/// ConsumerGroupMetadataValue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupValue {
    pub epoch: i32,
    /// Of the subscribed topics (KIP-1101); 0 is none.
    pub metadata_hash: i64,
}

impl GroupValue {
    pub(super) fn encode(&self) -> Bytes {
        debug_assert!(self.epoch >= 0, "epoch {}", self.epoch);
        let mut writer = Writer::new(0);
        writer.int32(self.epoch);
        match self.metadata_hash {
            0 => writer.no_tags(),
            hash => writer.one_tag(0, &hash.to_be_bytes()),
        }
        writer.into_bytes()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<GroupValue, Damage> {
        let epoch = reader.int32()?;
        let mut metadata_hash = 0;
        reader.tags(|tag, field| {
            if tag == 0 {
                metadata_hash = field.int64()?;
            }
            Ok(())
        })?;
        Ok(GroupValue { epoch, metadata_hash })
    }
}

/// ConsumerGroupMemberMetadataValue: what a member said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    pub instance_id: Option<Name>,
    pub rack_id: Option<Name>,
    pub client_id: Name,
    pub client_host: Name,
    pub topic_names: BTreeSet<Name>,
    pub topic_regex: Option<Name>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<Name>,
    /// Set while the member speaks the classic protocol.
    pub classic: Option<ClassicUse>,
}

/// How a member of a consumer group that speaks the classic protocol does so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicUse {
    pub session_timeout_ms: i32,
    pub protocols: Vec<ClassicProtocol>,
}

/// One protocol that a classic member offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicProtocol {
    pub name: Name,
    pub metadata: Bytes,
}

impl MemberValue {
    pub(super) fn encode(&self) -> Bytes {
        debug_assert!(self.topic_regex.as_deref() != Some(""), "an empty pattern is none");
        debug_assert!(self.instance_id.as_deref() != Some(""), "an empty instance id is none");
        let mut writer = Writer::new(0);
        writer.nullable_compact_string(self.instance_id.as_deref());
        writer.nullable_compact_string(self.rack_id.as_deref());
        writer.compact_string(&self.client_id);
        writer.compact_string(&self.client_host);
        writer.compact_count(self.topic_names.len());
        for name in &self.topic_names {
            writer.compact_string(name);
        }
        writer.nullable_compact_string(self.topic_regex.as_deref());
        writer.int32(self.rebalance_timeout_ms);
        writer.nullable_compact_string(self.server_assignor.as_deref());
        match &self.classic {
            None => writer.no_tags(),
            Some(classic) => writer.one_tag(0, &classic.encode()),
        }
        writer.into_bytes()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<MemberValue, Damage> {
        let instance_id = reader.nullable_compact_string()?;
        let rack_id = reader.nullable_compact_string()?;
        let client_id = reader.compact_string()?;
        let client_host = reader.compact_string()?;
        let mut topic_names = BTreeSet::new();
        for _ in 0..reader.compact_count()? {
            topic_names.insert(reader.compact_string()?);
        }
        let topic_regex = reader.nullable_compact_string()?;
        let rebalance_timeout_ms = reader.int32()?;
        let server_assignor = reader.nullable_compact_string()?;
        let mut classic = None;
        reader.tags(|tag, field| {
            if tag == 0 {
                classic = ClassicUse::decode(field)?;
            }
            Ok(())
        })?;
        Ok(MemberValue {
            instance_id,
            rack_id,
            client_id,
            client_host,
            topic_names,
            topic_regex,
            rebalance_timeout_ms,
            server_assignor,
            classic,
        })
    }
}

impl ClassicUse {
    /// As a nullable structure: a byte 1 stands before it.
    fn encode(&self) -> Vec<u8> {
        debug_assert!(!self.protocols.is_empty(), "a classic member offers something");
        let mut writer = Writer::default();
        writer.int8(1);
        writer.int32(self.session_timeout_ms);
        writer.compact_count(self.protocols.len());
        for protocol in &self.protocols {
            writer.compact_string(&protocol.name);
            writer.compact_bytes(&protocol.metadata);
            writer.no_tags();
        }
        writer.no_tags();
        writer.into_bytes().to_vec()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Option<ClassicUse>, Damage> {
        if reader.int8()? < 0 {
            return Ok(None);
        }
        let session_timeout_ms = reader.int32()?;
        let mut protocols = Vec::new();
        for _ in 0..reader.compact_count()? {
            let name = reader.compact_string()?;
            let metadata = reader.compact_bytes()?;
            reader.skip_tags()?;
            protocols.push(ClassicProtocol { name, metadata });
        }
        reader.skip_tags()?;
        Ok(Some(ClassicUse { session_timeout_ms, protocols }))
    }
}

/// Where a member stands on its way to the target assignment; Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum MemberState {
    Stable = 0,
    UnrevokedPartitions = 1,
    UnreleasedPartitions = 2,
    Unknown = 127,
}

impl MemberState {
    fn from_number(number: i8) -> Self {
        match number {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

/// ConsumerGroupCurrentMemberAssignmentValue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentValue {
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Partitions,
    pub pending_revocation: Partitions,
}

impl CurrentValue {
    fn check(&self) {
        debug_assert!(self.epoch >= -2 && self.previous_epoch >= -2, "epoch {}", self.epoch);
        debug_assert!(self.state != MemberState::Unknown, "a state of a newer version is never written");
        let is_both = each(&self.assigned).any(|(topic, p)| contains(&self.pending_revocation, topic, p));
        debug_assert!(!is_both, "a partition is owned and to be given up");
    }

    pub(super) fn encode(&self) -> Bytes {
        self.check();
        let mut writer = Writer::new(0);
        writer.int32(self.epoch);
        writer.int32(self.previous_epoch);
        writer.int8(self.state as i8);
        write_partitions(&mut writer, &self.assigned);
        write_partitions(&mut writer, &self.pending_revocation);
        writer.no_tags();
        writer.into_bytes()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<CurrentValue, Damage> {
        let epoch = reader.int32()?;
        let previous_epoch = reader.int32()?;
        let state = MemberState::from_number(reader.int8()?);
        let assigned = read_partitions(reader)?;
        let pending_revocation = read_partitions(reader)?;
        reader.skip_tags()?;
        Ok(CurrentValue { epoch, previous_epoch, state, assigned, pending_revocation })
    }
}

/// ConsumerGroupRegularExpressionValue: a pattern as it was resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegexValue {
    pub topics: BTreeSet<Name>,
    /// Of the metadata that it was resolved against.
    pub version: i64,
    pub resolved_ms: Millis,
}

impl RegexValue {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(0);
        writer.compact_count(self.topics.len());
        for topic in &self.topics {
            writer.compact_string(topic);
        }
        writer.int64(self.version);
        writer.int64(self.resolved_ms);
        writer.no_tags();
        writer.into_bytes()
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<RegexValue, Damage> {
        let mut topics = BTreeSet::new();
        for _ in 0..reader.compact_count()? {
            topics.insert(reader.compact_string()?);
        }
        let version = reader.int64()?;
        let resolved_ms = reader.int64()?;
        reader.skip_tags()?;
        Ok(RegexValue { topics, version, resolved_ms })
    }
}

pub(super) fn encode_topics() -> Bytes {
    let mut writer = Writer::new(0);
    writer.compact_count(0);
    writer.no_tags();
    writer.into_bytes()
}

pub(super) fn encode_target(epoch: i32) -> Bytes {
    debug_assert!(epoch >= 0, "epoch {epoch}");
    let mut writer = Writer::new(0);
    writer.int32(epoch);
    writer.no_tags();
    writer.into_bytes()
}

pub(super) fn decode_target(reader: &mut Reader<'_>) -> Result<i32, Damage> {
    let epoch = reader.int32()?;
    reader.skip_tags()?;
    Ok(epoch)
}

pub(super) fn encode_target_member(partitions: &Partitions) -> Bytes {
    let mut writer = Writer::new(0);
    write_partitions(&mut writer, partitions);
    writer.no_tags();
    writer.into_bytes()
}

pub(super) fn decode_target_member(reader: &mut Reader<'_>) -> Result<Partitions, Damage> {
    let partitions = read_partitions(reader)?;
    reader.skip_tags()?;
    Ok(partitions)
}

fn write_partitions(writer: &mut Writer, partitions: &Partitions) {
    writer.compact_count(partitions.len());
    for (topic, numbers) in partitions {
        debug_assert!(!numbers.is_empty(), "a topic without partitions is left out");
        writer.uuid(topic.0);
        writer.compact_count(numbers.len());
        for number in numbers {
            writer.int32(*number);
        }
        writer.no_tags();
    }
}

/// Newer versions of Kafka add a tagged list of epochs per partition; it is not used here.
fn read_partitions(reader: &mut Reader<'_>) -> Result<Partitions, Damage> {
    let mut partitions = Partitions::new();
    for _ in 0..reader.compact_count()? {
        let topic = TopicId(reader.uuid()?);
        let mut numbers = BTreeSet::new();
        for _ in 0..reader.compact_count()? {
            numbers.insert(reader.int32()?);
        }
        reader.skip_tags()?;
        if !numbers.is_empty() {
            partitions.entry(topic).or_default().extend(numbers);
        }
    }
    Ok(partitions)
}
