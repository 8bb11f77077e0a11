//! Records of transactions on their way from the log into a shard.

use highwater_groups::core::txn::Loader;
use highwater_model::limits::TXN_LOAD_BATCH_BYTES_MAX;
use highwater_model::{Offset, ProducerId};

use crate::shards::LoadError;
use crate::shards::load::Sink;

impl Sink for Loader {
    const BATCH_BYTES_MAX: usize = TXN_LOAD_BATCH_BYTES_MAX;

    fn take(
        &mut self,
        at: Offset,
        _producer: Option<ProducerId>,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), LoadError> {
        // One that is left out could tear a transaction (invariant 19).
        self.take(key, value)
            .map_err(|damage| LoadError::Failed(format!("the record at {at} cannot be read: {damage}")))
    }
}
