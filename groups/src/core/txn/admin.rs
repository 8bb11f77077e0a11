//! DescribeTransactions and ListTransactions: what operators see. Changes nothing.

use highwater_model::limits::TXN_PATTERN_BYTES_MAX;
use regex::{Regex, RegexBuilder};

use super::coordinator::Coordinator;
use super::transaction::Transaction;
use super::types::{Producer, TxnError, TxnPartition, TxnState};
use crate::core::types::{Millis, Name};
use highwater_model::ProducerId;

/// One transactional id in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub producer: Producer,
    pub state: TxnState,
    pub timeout_ms: i32,
    /// -1 outside of a transaction.
    pub started_ms: Millis,
    pub partitions: Vec<TxnPartition>,
}

/// What ListTransactions asks for; empty lists and None ask for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Kafka's names of states.
    pub states: Vec<String>,
    pub producer_ids: Vec<ProducerId>,
    /// Only transactions that have run for longer than this, in milliseconds; below 0 all.
    pub running_ms_min: i64,
    /// A pattern that the whole transactional id must match (KIP-1152).
    pub pattern: Option<String>,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTransaction {
    pub transactional_id: Name,
    pub producer_id: ProducerId,
    pub state: TxnState,
}

/// The answer, in the order of the ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Asked for and no name of a state.
    pub unknown_states: Vec<String>,
    pub transactions: Vec<ListedTransaction>,
}

impl Coordinator {
    /// # Errors
    /// `InvalidRequest` for an empty id, `TransactionalIdNotFound`, `NotCoordinator`.
    pub fn describe(&self, transactional_id: &Name) -> Result<Described, TxnError> {
        let entry = match self.entry_for(transactional_id) {
            Err(TxnError::InvalidProducerIdMapping) => return Err(TxnError::TransactionalIdNotFound),
            found => found?,
        };
        let txn = &entry.txn;
        Ok(Described {
            producer: txn.producer(),
            state: txn.state,
            timeout_ms: txn.timeout_ms,
            started_ms: txn.started_ms,
            partitions: txn.partitions.iter().cloned().collect(),
        })
    }

    /// # Errors
    /// `InvalidRegularExpression`; `NotCoordinator`.
    pub fn list(&self, now: Millis, asked: &Listing) -> Result<Listed, TxnError> {
        if self.is_fenced() {
            return Err(TxnError::NotCoordinator);
        }
        let pattern = asked.pattern.as_deref().filter(|p| !p.is_empty()).map(whole).transpose()?;
        let (mut states, mut unknown_states) = (Vec::new(), Vec::new());
        for name in &asked.states {
            match TxnState::from_name(name) {
                Some(state) => states.push(state),
                None => unknown_states.push(name.clone()),
            }
        }
        let is_asked = |id: &Name, txn: &Transaction| {
            let runs = asked.running_ms_min < 0 || now.saturating_sub(txn.started_ms) > asked.running_ms_min;
            (asked.states.is_empty() || states.contains(&txn.state))
                && (asked.producer_ids.is_empty() || asked.producer_ids.contains(&txn.producer_id))
                && (runs && (asked.running_ms_min < 0 || txn.started_ms >= 0))
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        };
        let known = self.entries.iter().filter(|(_, entry)| entry.txn.epoch >= 0);
        let found = known.filter(|(id, entry)| is_asked(id, &entry.txn));
        let transactions = found.map(|(id, entry)| ListedTransaction {
            transactional_id: id.clone(),
            producer_id: entry.txn.producer_id,
            state: entry.txn.state,
        });
        Ok(Listed { unknown_states, transactions: transactions.collect() })
    }
}

/// A pattern for the whole text, within bounds.
fn whole(pattern: &str) -> Result<Regex, TxnError> {
    if pattern.len() > TXN_PATTERN_BYTES_MAX {
        return Err(TxnError::InvalidRegularExpression);
    }
    // Judged by itself first, or a stray bracket could close the one around it.
    let build = |text: &str| RegexBuilder::new(text).size_limit(TXN_PATTERN_BYTES_MAX).build();
    let compiled = build(pattern).and_then(|_| build(&format!("^(?:{pattern})$")));
    compiled.map_err(|_| TxnError::InvalidRegularExpression)
}
