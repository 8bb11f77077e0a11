//! Reading a partition of `__transaction_state` after an election: the last record of each id counts.

use std::collections::BTreeMap;

use super::coordinator::{Coordinator, Entry};
use super::records::{decode_key, decode_value};
use super::transaction::Transaction;
use super::types::{Effect, TxnSettings};
use crate::core::codec::Damage;
use crate::core::types::{Millis, Name};

/// Collects the records of a partition, in the order of the log, up to the high watermark.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    found: BTreeMap<Name, Transaction>,
    unknown_keys: u64,
}

impl Loader {
    /// Takes one record in; a kind of record that is not known is counted and left out.
    ///
    /// # Errors
    /// Damage, or a value of a newer format: the last state of an id is then not known, and nothing may be
    /// decided by the one before it. The partition stays unavailable.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Damage> {
        let id = match decode_key(key) {
            Err(Damage::Version(_)) => {
                self.unknown_keys += 1;
                return Ok(());
            }
            decoded => decoded?,
        };
        match value {
            Some(value) => {
                let txn = decode_value(value)?;
                self.found.insert(id, txn);
            }
            None => {
                self.found.remove(&id);
            }
        }
        Ok(())
    }

    /// Transactional ids so far.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Records that were left out.
    pub fn unknown_keys(&self) -> u64 {
        self.unknown_keys
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Takes up the work where the last coordinator left it: decided transactions get their markers, open
    /// ones their timeouts.
    pub fn finish(
        self,
        settings: TxnSettings,
        coordinator_epoch: i32,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Coordinator {
        let mut coordinator = Coordinator::new(settings, coordinator_epoch);
        for (id, txn) in self.found {
            let is_prepared = txn.state.is_prepared();
            coordinator.entries.insert(id.clone(), Entry::new(txn));
            match is_prepared {
                true => coordinator.begin_marking(now, &id, effects),
                false => coordinator.reschedule(&id),
            }
        }
        let pending = coordinator.entries.values().filter(|entry| entry.pending.is_some()).count();
        assert_eq!(pending, coordinator.writes.len(), "only what needs no markers is completed at once");
        coordinator
    }
}
