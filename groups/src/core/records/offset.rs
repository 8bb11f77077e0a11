//! OffsetCommitValue, versions 0 to 4.

use bytes::Bytes;
use highwater_model::TopicId;

use crate::core::codec::{Damage, Reader, Writer};
use crate::core::types::{Millis, Name};

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetValue {
    pub offset: i64,
    /// Of the last record consumed; -1 if not known (KIP-320).
    pub leader_epoch: i32,
    pub metadata: Name,
    pub committed_ms: Millis,
    /// When it expires, if the committer named a retention of its own (OffsetCommit 2 to 4).
    pub expires_ms: Option<Millis>,
    /// The topic's id, if it was known.
    pub topic_id: Option<TopicId>,
}

impl OffsetValue {
    /// Version 1 if it expires at a time of its own, else 4, as Kafka.
    pub(super) fn encode(&self) -> Bytes {
        debug_assert!(self.topic_id != Some(TopicId::NONE), "no id is none at all");
        if let Some(expires_ms) = self.expires_ms {
            debug_assert!(self.leader_epoch == -1 && self.topic_id.is_none(), "version 1 has no room for it");
            let mut writer = Writer::new(1);
            writer.int64(self.offset);
            writer.string(&self.metadata);
            writer.int64(self.committed_ms);
            writer.int64(expires_ms);
            return writer.into_bytes();
        }
        // Exact where the metadata is short, as almost always.
        let tags = self.topic_id.map_or(1, |_| 1 + 2 + 16);
        let mut writer = Writer::with_room(4, 8 + 4 + 1 + self.metadata.len() + 8 + tags);
        writer.int64(self.offset);
        writer.int32(self.leader_epoch);
        writer.compact_string(&self.metadata);
        writer.int64(self.committed_ms);
        match self.topic_id {
            Some(id) => writer.one_tag(0, id.0.as_bytes()),
            None => writer.no_tags(),
        }
        writer.into_bytes()
    }

    pub(super) fn decode(version: i16, reader: &mut Reader<'_>) -> Result<OffsetValue, Damage> {
        if !(0..=4).contains(&version) {
            return Err(Damage::Version(version));
        }
        let offset = reader.int64()?;
        let leader_epoch = if version >= 3 { reader.int32()? } else { -1 };
        let metadata = if version >= 4 { reader.compact_string()? } else { reader.string()? };
        let committed_ms = reader.int64()?;
        let expires_ms = if version == 1 { Some(reader.int64()?).filter(|ms| *ms != -1) } else { None };
        let mut topic_id = None;
        if version >= 4 {
            reader.tags(|tag, field| {
                if tag == 0 {
                    topic_id = Some(TopicId(field.uuid()?)).filter(|id| *id != TopicId::NONE);
                }
                Ok(())
            })?;
        }
        Ok(OffsetValue { offset, leader_epoch, metadata, committed_ms, expires_ms, topic_id })
    }
}
