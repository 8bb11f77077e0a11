//! Records of groups on their way from the log into a shard.

use highwater_groups::core::machine::Groups;
use highwater_model::limits::GROUP_LOAD_BATCH_BYTES_MAX;
use highwater_model::{Offset, ProducerId};

use crate::shards::LoadError;
use crate::shards::load::Sink;

impl Sink for Groups {
    const BATCH_BYTES_MAX: usize = GROUP_LOAD_BATCH_BYTES_MAX;

    fn take(
        &mut self,
        at: Offset,
        producer: Option<ProducerId>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), LoadError> {
        // Kinds of records that this broker does not know are no reason to serve nobody.
        if let Err(damage) = self.load_bytes(key, value, producer) {
            tracing::warn!(offset = at, "a record of a group cannot be read and is left out: {damage}");
        }
        Ok(())
    }

    fn ended(&mut self, producer_id: ProducerId, is_commit: bool) {
        self.load_marker(producer_id, is_commit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use highwater_groups::core::records::{Key, OffsetValue, Record, Value};
    use highwater_groups::core::settings::Settings;
    use highwater_groups::core::types::{Name, Topics};
    use highwater_wire::{BatchBuilder, BatchHeader, Codec, EndMarker, marker_batch};

    use super::*;
    use crate::groups::batch::encode;
    use crate::shards::load::take_batch as load_batch;

    fn name(text: &str) -> Name {
        Name::from(text)
    }

    fn offset(offset: i64) -> Record {
        let value = OffsetValue {
            offset,
            leader_epoch: 3,
            metadata: name("note"),
            committed_ms: 1_000,
            expires_ms: None,
            topic_id: None,
        };
        let key = Key::Offset { group: name("g"), topic: name("t"), partition: 0 };
        Record::new(key, Value::Offset(value))
    }

    fn fresh() -> Groups {
        Groups::new(Settings::default(), Arc::new(Topics::default()), 0)
    }

    fn loaded(groups: &mut Groups, batch: &[u8]) -> Result<(), LoadError> {
        let header = BatchHeader::parse(batch).expect("a batch");
        load_batch(groups, &header, batch, &mut Vec::new())
    }

    fn committed(groups: &Groups) -> Option<i64> {
        groups.offsets().get(&name("g"), &name("t"), 0).map(|value| value.offset)
    }

    #[test]
    fn batches_are_loaded_as_they_were_written() {
        let mut groups = fresh();
        let batch = encode(&[offset(5), offset(7)], None, 1_000).expect("encoded");
        assert_eq!((batch.header.record_count, batch.header.is_transactional()), (2, false));
        loaded(&mut groups, &batch.bytes).expect("loaded");
        assert_eq!(committed(&groups), Some(7));
        let (key, value) = offset(9).encode();
        let mut packed = BatchBuilder::new(Codec::Gzip);
        packed.push(1_000, Some(&key), value.as_deref(), &[]);
        // A record of another kind, and one that cannot be read, are left out.
        packed.push(1_000, Some(&[0, 99, 1, 2]), None, &[]);
        packed.push(1_000, Some(&key), Some(&[0, 99]), &[]);
        loaded(&mut groups, &packed.build()).expect("loaded");
        assert_eq!(committed(&groups), Some(9));
        let mut damaged = batch.bytes.to_vec();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        assert!(matches!(loaded(&mut groups, &damaged), Err(LoadError::Failed(_))));
    }

    #[test]
    fn offsets_of_a_transaction_count_from_its_marker_on() {
        for commit in [true, false] {
            let mut groups = fresh();
            let batch = encode(&[offset(5)], Some((77, 2)), 1_000).expect("encoded");
            assert!(batch.header.is_transactional());
            assert_eq!((batch.header.producer_id, batch.header.producer_epoch), (77, 2));
            loaded(&mut groups, &batch.bytes).expect("loaded");
            assert_eq!(committed(&groups), None);
            let marker = marker_batch(77, 2, EndMarker { commit, coordinator_epoch: 0 }, 1_001);
            loaded(&mut groups, &marker).expect("loaded");
            assert_eq!(committed(&groups), commit.then_some(5));
        }
    }
}
