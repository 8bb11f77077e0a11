//! The way of delayed records to the shard that keeps them, wherever it is.
//!
//! An ask is repeated until it is answered or its time is over: where nothing was kept at all, or where the
//! shard recognises the batch. Must not decide anything. Invariant 16.

use std::sync::Arc;
use std::time::Duration;

use highwater_model::limits::{DELAYED_RETRY_PAUSE, DELAYED_RETRY_PAUSE_MAX};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Answer, Message, OfDelays};
use crate::core::delayed::Ask;
use crate::node::Node;
use crate::shards::{coordinator_of, shard_of, topic};

/// Why records are not known to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskFailure {
    /// There is no room for them, in words; nothing was kept.
    Full(String),
    /// Their producer has gone on, in words; nothing was kept now. The target's log knows what became of the
    /// batch.
    Older(String),
    /// One of them cannot be kept, in words; nothing was.
    Unfit(String),
    /// Nothing was kept: there is no shard now.
    NotNow,
    /// They may be kept.
    Unknown,
}

/// The key of a target, which says which shard keeps its records.
fn key(ask: &Ask) -> String {
    ask.target.to_string()
}

/// Has the records of `ask` kept; which of the batch are, once that is committed.
///
/// # Errors
/// [`AskFailure`]
pub async fn ask(node: &Arc<Node>, ask: &Ask, wait: Duration) -> Result<Vec<u32>, AskFailure> {
    let deadline = Instant::now() + wait;
    let mut pause = DELAYED_RETRY_PAUSE;
    loop {
        let asked = tokio::time::timeout_at(deadline, ask_once(node, ask)).await;
        let failure = match asked {
            Ok(Ok(deltas)) => return Ok(deltas),
            Ok(Err(failure)) => failure,
            Err(_) => return Err(AskFailure::Unknown),
        };
        let may_repeat = match failure {
            AskFailure::Full(_) | AskFailure::Older(_) | AskFailure::Unfit(_) => false,
            AskFailure::NotNow => true,
            // A shard knows only batches of idempotent producers again.
            AskFailure::Unknown => ask.source.is_some(),
        };
        if !may_repeat || Instant::now() + pause >= deadline || node.is_stopping() {
            return Err(failure);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DELAYED_RETRY_PAUSE_MAX);
    }
}

async fn ask_once(node: &Arc<Node>, ask: &Ask) -> Result<Vec<u32>, AskFailure> {
    if topic::<OfDelays>(node).await.is_none() {
        return Err(AskFailure::NotNow);
    }
    match coordinator_of::<OfDelays>(node, &key(ask)) {
        Some(leader) if leader == node.settings.node_id => answer(node, ask.clone()).await,
        Some(leader) => {
            let shared = &node.delays.shared;
            let Ok(_seat) = shared.asking.acquire().await else { return Err(AskFailure::NotNow) };
            shared.peers.take(node, leader, ask).await
        }
        None => Err(AskFailure::NotNow),
    }
}

/// The word of a shard on this node.
pub(super) async fn answer(node: &Node, ask: Ask) -> Result<Vec<u32>, AskFailure> {
    let shard = shard_of::<OfDelays>(node, &key(&ask)).map_err(|_| AskFailure::NotNow)?;
    let (tell, told) = oneshot::channel::<Answer>();
    shard.send(Message { ask, answer: tell }).await.map_err(|_| AskFailure::NotNow)?;
    match told.await {
        Ok(told) => told,
        // It may have been appended before the shard's end.
        Err(_) => Err(AskFailure::Unknown),
    }
}
