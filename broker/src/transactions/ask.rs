//! The coordinator's word on a transaction, for the leader of a partition that a batch would begin it in
//! (KIP-890): to have the partition added, or, for older clients, to look whether it was.
//!
//! Right after the end of a transaction its successor is told CONCURRENT_TRANSACTIONS until all markers are
//! written; that is waited for here for a moment, which spares clients a round (as Kafka does). Each question
//! has tickets of its own, drawn before it: a marker that comes meanwhile voids them.

use std::sync::Arc;
use std::time::Duration;

use highwater_groups::core::txn::{AddPartitions, ClientVersion, Producer, Reply, TxnError, TxnPartition};
use highwater_groups::core::types::Name;
use tokio::time::Instant;

use super::{OfTransactions, Request, call, read};
use crate::handlers::errors;
use crate::node::Node;
use crate::shards::coordinator_of;

/// How long, and how often, a transaction that is being ended is waited for (Kafka's
/// `add.partitions.to.txn.retry.backoff.max.ms` and `.retry.backoff.ms`). Most take a moment: the first
/// pauses are short, and each is twice as long as the one before.
const CONCURRENT_WAIT: Duration = Duration::from_millis(100);
const CONCURRENT_PAUSE_MIN: Duration = Duration::from_millis(1);
const CONCURRENT_PAUSE_MAX: Duration = Duration::from_millis(20);
/// How often a ticket may be voided while its question is on its way.
const VOIDED_MAX: usize = 3;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    pub transactional_id: Name,
    pub producer: Producer,
    pub partitions: Vec<TxnPartition>,
    /// Adds the partitions instead of only looking.
    pub adds: bool,
}

/// Kafka's code for all partitions, or for each in order; 0: it is in the transaction.
pub type Asked = Result<Vec<i16>, i16>;

/// Asks the coordinator, wherever it is; `draw` draws the tickets to be shown with what it allows. Where the
/// epoch is new with each transaction, a ticket that was voided meanwhile was voided by the transaction
/// before, and the question is put again; before that, it may have been the end of this very one.
pub async fn ask<T: PartialEq>(node: &Arc<Node>, asking: &Asking, draw: impl Fn() -> T) -> (T, Asked) {
    let until = Instant::now() + CONCURRENT_WAIT;
    let (mut voided, mut pause) = (0, CONCURRENT_PAUSE_MIN);
    loop {
        let shown = draw();
        let asked = ask_once(node, asking).await;
        if !asking.adds {
            return (shown, asked);
        }
        if asked.is_ok() && voided < VOIDED_MAX && draw() != shown {
            voided += 1;
            continue;
        }
        if !is_concurrent(&asked) || Instant::now() + pause > until {
            return (shown, asked);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(CONCURRENT_PAUSE_MAX);
    }
}

fn is_concurrent(asked: &Asked) -> bool {
    *asked == Err(TxnError::ConcurrentTransactions.code())
}

async fn ask_once(node: &Arc<Node>, asking: &Asking) -> Asked {
    match coordinator_of::<OfTransactions>(node, &asking.transactional_id) {
        Some(coordinator) if coordinator == node.settings.node_id => answer(node, asking).await,
        Some(coordinator) => node.transactions.shared.ask(node, coordinator, asking).await,
        None => Err(errors::COORDINATOR_NOT_AVAILABLE),
    }
}

/// The word of a coordinator on this node.
pub(super) async fn answer(node: &Node, asking: &Asking) -> Asked {
    let version = if asking.adds { ClientVersion::V2 } else { ClientVersion::V0 };
    let asked = AddPartitions {
        transactional_id: asking.transactional_id.clone(),
        producer: asking.producer,
        partitions: asking.partitions.clone(),
        version,
    };
    let id = &asking.transactional_id;
    if asking.adds {
        return match call(node, id, Request::AddPartitions(asked)).await {
            Ok(Reply::AddPartitions(Ok(()))) => Ok(vec![errors::NONE; asking.partitions.len()]),
            Ok(Reply::AddPartitions(Err(error))) | Err(error) => Err(error.code()),
            Ok(_) => Err(errors::UNKNOWN_SERVER_ERROR),
        };
    }
    match read(node, id, move |coordinator, _| coordinator.verify(&asked)).await {
        Ok(Ok(each)) => Ok(each.iter().map(|one| one.map_or_else(TxnError::code, |()| 0)).collect()),
        Ok(Err(error)) | Err(error) => Err(error.code()),
    }
}
