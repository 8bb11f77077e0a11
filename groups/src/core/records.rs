//! The records of `__consumer_offsets` in Kafka's own formats, so that Kafka's tools read the topic and a
//! topic that Kafka wrote can be loaded. A key's version says which kind of record it is; a value carries its
//! own version. Written are the versions that Kafka 4.1 writes, read is every version that it reads.
//! Invariant 18: fixtures of each in `records/tests.rs`.

mod classic;
mod consumer;
mod offset;

use bytes::Bytes;

pub use classic::{ClassicMemberValue, ClassicValue};
pub use consumer::{
    ClassicProtocol, ClassicUse, CurrentValue, GroupValue, MemberState, MemberValue, RegexValue,
};
pub use offset::OffsetValue;

use highwater_model::limits::GROUP_NAME_BYTES_MAX;

use super::codec::{Damage, Reader, Writer};
use super::types::{Name, Partitions};

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A committed offset (kinds 0 and 1).
    Offset { group: Name, topic: Name, partition: i32 },
    /// A classic group (kind 2).
    Classic { group: Name },
    /// A consumer group's epoch (kind 3).
    Group { group: Name },
    /// A consumer group's topics as Kafka 4.0 wrote them (kind 4); read to be skipped, written as tombstone.
    GroupTopics { group: Name },
    /// A consumer group's member: what it said of itself (kind 5).
    Member { group: Name, member: Name },
    /// A consumer group's target assignment: its epoch (kind 6).
    Target { group: Name },
    /// A consumer group's target assignment: one member's part (kind 7).
    TargetMember { group: Name, member: Name },
    /// A consumer group's member: where it stands (kind 8).
    Current { group: Name, member: Name },
    /// A pattern and the topics that it matched (kind 16).
    Regex { group: Name, regex: Name },
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Offset(OffsetValue),
    Classic(ClassicValue),
    Group(GroupValue),
    /// Of kind 4; its content is not used.
    GroupTopics,
    Member(MemberValue),
    /// The epoch of the target assignment.
    Target(i32),
    TargetMember(Partitions),
    Current(CurrentValue),
    Regex(RegexValue),
}

/// One record; without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    pub value: Option<Value>,
}

impl Key {
    /// The group that the record belongs to.
    pub fn group(&self) -> &Name {
        match self {
            Key::Offset { group, .. }
            | Key::Classic { group }
            | Key::Group { group }
            | Key::GroupTopics { group }
            | Key::Member { group, .. }
            | Key::Target { group }
            | Key::TargetMember { group, .. }
            | Key::Current { group, .. }
            | Key::Regex { group, .. } => group,
        }
    }

    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Key::Offset { .. } => 1,
            Key::Classic { .. } => 2,
            Key::Group { .. } => 3,
            Key::GroupTopics { .. } => 4,
            Key::Member { .. } => 5,
            Key::Target { .. } => 6,
            Key::TargetMember { .. } => 7,
            Key::Current { .. } => 8,
            Key::Regex { .. } => 16,
        };
        debug_assert!(self.group().len() <= GROUP_NAME_BYTES_MAX, "checked where the name came in");
        let rest = match self {
            Key::Offset { topic, .. } => 2 + topic.len() + 4,
            Key::Member { member, .. } | Key::TargetMember { member, .. } | Key::Current { member, .. } => {
                2 + member.len()
            }
            Key::Regex { regex, .. } => 2 + regex.len(),
            Key::Classic { .. } | Key::Group { .. } | Key::GroupTopics { .. } | Key::Target { .. } => 0,
        };
        let mut writer = Writer::with_room(kind, 2 + self.group().len() + rest);
        writer.string(self.group());
        match self {
            Key::Offset { topic, partition, .. } => {
                writer.string(topic);
                writer.int32(*partition);
            }
            Key::Member { member, .. } | Key::TargetMember { member, .. } | Key::Current { member, .. } => {
                writer.string(member);
            }
            Key::Regex { regex, .. } => writer.string(regex),
            Key::Classic { .. } | Key::Group { .. } | Key::GroupTopics { .. } | Key::Target { .. } => {}
        }
        writer.into_bytes()
    }

    /// None: a kind of record that is not ours (share and streams groups), to be left alone.
    pub fn decode(bytes: &[u8]) -> Result<Option<Key>, Damage> {
        let mut reader = Reader::new(bytes);
        let kind = reader.int16()?;
        if !matches!(kind, 0..=8 | 16) {
            return Ok(None);
        }
        let group = reader.string()?;
        let key = match kind {
            0 | 1 => Key::Offset { group, topic: reader.string()?, partition: reader.int32()? },
            2 => Key::Classic { group },
            3 => Key::Group { group },
            4 => Key::GroupTopics { group },
            5 => Key::Member { group, member: reader.string()? },
            6 => Key::Target { group },
            7 => Key::TargetMember { group, member: reader.string()? },
            8 => Key::Current { group, member: reader.string()? },
            _ => Key::Regex { group, regex: reader.string()? },
        };
        reader.end()?;
        Ok(Some(key))
    }
}

impl Value {
    pub fn encode(&self) -> Bytes {
        match self {
            Value::Offset(value) => value.encode(),
            Value::Classic(value) => value.encode(),
            Value::Group(value) => value.encode(),
            Value::GroupTopics => consumer::encode_topics(),
            Value::Member(value) => value.encode(),
            Value::Target(epoch) => consumer::encode_target(*epoch),
            Value::TargetMember(partitions) => consumer::encode_target_member(partitions),
            Value::Current(value) => value.encode(),
            Value::Regex(value) => value.encode(),
        }
    }

    /// Reads the value of a record with this key.
    pub fn decode(key: &Key, bytes: &[u8]) -> Result<Value, Damage> {
        let mut reader = Reader::new(bytes);
        let version = reader.int16()?;
        let value = match key {
            Key::Offset { .. } => Value::Offset(OffsetValue::decode(version, &mut reader)?),
            Key::Classic { .. } => Value::Classic(ClassicValue::decode(version, &mut reader)?),
            // Not read, so not judged: Kafka 4.0's summary of topics, made anew from the metadata.
            Key::GroupTopics { .. } => return Ok(Value::GroupTopics),
            _ if version != 0 => return Err(Damage::Version(version)),
            Key::Group { .. } => Value::Group(GroupValue::decode(&mut reader)?),
            Key::Member { .. } => Value::Member(MemberValue::decode(&mut reader)?),
            Key::Target { .. } => Value::Target(consumer::decode_target(&mut reader)?),
            Key::TargetMember { .. } => Value::TargetMember(consumer::decode_target_member(&mut reader)?),
            Key::Current { .. } => Value::Current(CurrentValue::decode(&mut reader)?),
            Key::Regex { .. } => Value::Regex(RegexValue::decode(&mut reader)?),
        };
        reader.end()?;
        debug_assert!(value.fits(key), "{key:?} has a value of another kind");
        Ok(value)
    }
}

impl Record {
    pub fn new(key: Key, value: Value) -> Self {
        debug_assert!(value.fits(&key), "{key:?} does not go with its value");
        Record { key, value: Some(value) }
    }

    pub(super) fn is_offset(&self) -> bool {
        matches!(self.key, Key::Offset { .. })
    }

    pub fn tombstone(key: Key) -> Self {
        Record { key, value: None }
    }

    /// Key and value as stored.
    pub fn encode(&self) -> (Bytes, Option<Bytes>) {
        let stored = (self.key.encode(), self.value.as_ref().map(Value::encode));
        debug_assert_eq!(
            Record::decode(&stored.0, stored.1.as_deref()).as_ref(),
            Ok(&Some(self.clone())),
            "what was written is not what is read"
        );
        stored
    }

    /// None: a kind of record that is not ours.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Record>, Damage> {
        let Some(key) = Key::decode(key)? else { return Ok(None) };
        let value = value.map(|value| Value::decode(&key, value)).transpose()?;
        Ok(Some(Record { key, value }))
    }
}

impl Value {
    fn fits(&self, key: &Key) -> bool {
        matches!(
            (key, self),
            (Key::Offset { .. }, Value::Offset(_))
                | (Key::Classic { .. }, Value::Classic(_))
                | (Key::Group { .. }, Value::Group(_))
                | (Key::GroupTopics { .. }, Value::GroupTopics)
                | (Key::Member { .. }, Value::Member(_))
                | (Key::Target { .. }, Value::Target(_))
                | (Key::TargetMember { .. }, Value::TargetMember(_))
                | (Key::Current { .. }, Value::Current(_))
                | (Key::Regex { .. }, Value::Regex(_))
        )
    }
}

#[cfg(test)]
mod tests;
