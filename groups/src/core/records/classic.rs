//! GroupMetadataValue, versions 0 to 4.

use bytes::Bytes;

use crate::core::codec::{Damage, Reader, Writer};
use crate::core::types::{Millis, Name};

/// A classic group as of its last finished rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicValue {
    /// Empty: none yet.
    pub protocol_type: Name,
    pub generation: i32,
    pub protocol: Option<Name>,
    pub leader: Option<Name>,
    /// When the group came into its state; -1 in old records.
    pub state_since_ms: Millis,
    pub members: Vec<ClassicMemberValue>,
}

/// One of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMemberValue {
    pub member_id: Name,
    pub instance_id: Option<Name>,
    pub client_id: Name,
    pub client_host: Name,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// Of the protocol that was chosen.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

impl ClassicValue {
    pub(super) fn encode(&self) -> Bytes {
        debug_assert!(self.generation >= 0, "generation {}", self.generation);
        debug_assert!(self.members.is_empty() || self.leader.is_some(), "members without a leader");
        let mut writer = Writer::new(3);
        writer.string(&self.protocol_type);
        writer.int32(self.generation);
        writer.nullable_string(self.protocol.as_deref());
        writer.nullable_string(self.leader.as_deref());
        writer.int64(self.state_since_ms);
        writer.count(self.members.len());
        for member in &self.members {
            debug_assert!(!member.member_id.is_empty(), "a member without an id");
            debug_assert!(member.session_timeout_ms > 0, "a member whose session is over");
            writer.string(&member.member_id);
            writer.nullable_string(member.instance_id.as_deref());
            writer.string(&member.client_id);
            writer.string(&member.client_host);
            writer.int32(member.rebalance_timeout_ms);
            writer.int32(member.session_timeout_ms);
            writer.bytes(&member.subscription);
            writer.bytes(&member.assignment);
        }
        writer.into_bytes()
    }

    pub(super) fn decode(version: i16, reader: &mut Reader<'_>) -> Result<ClassicValue, Damage> {
        if !(0..=4).contains(&version) {
            return Err(Damage::Version(version));
        }
        let compact = version >= 4;
        let string = |r: &mut Reader<'_>| if compact { r.compact_string() } else { r.string() };
        let nullable =
            |r: &mut Reader<'_>| if compact { r.nullable_compact_string() } else { r.nullable_string() };
        let protocol_type = string(reader)?;
        let generation = reader.int32()?;
        let protocol = nullable(reader)?;
        let leader = nullable(reader)?;
        let state_since_ms = if version >= 2 { reader.int64()? } else { -1 };
        let count = if compact { reader.compact_count()? } else { reader.count()? };
        let mut members = Vec::new();
        for _ in 0..count {
            let member_id = string(reader)?;
            let instance_id = if version >= 3 { nullable(reader)? } else { None };
            let client_id = string(reader)?;
            let client_host = string(reader)?;
            let rebalance = if version >= 1 { reader.int32()? } else { -1 };
            let session_timeout_ms = reader.int32()?;
            let subscription = if compact { reader.compact_bytes()? } else { reader.bytes()? };
            let assignment = if compact { reader.compact_bytes()? } else { reader.bytes()? };
            let rebalance_timeout_ms = if rebalance == -1 { session_timeout_ms } else { rebalance };
            if compact {
                reader.skip_tags()?;
            }
            members.push(ClassicMemberValue {
                member_id,
                instance_id,
                client_id,
                client_host,
                rebalance_timeout_ms,
                session_timeout_ms,
                subscription,
                assignment,
            });
        }
        if compact {
            reader.skip_tags()?;
        }
        Ok(ClassicValue { protocol_type, generation, protocol, leader, state_since_ms, members })
    }
}
