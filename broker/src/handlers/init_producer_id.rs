//! InitProducerId: ids for idempotent producers (KIP-98), from blocks that the coordinator hands out.
//!
//! An id is never given twice: a block belongs to this process, and what is left of it at a restart is lost.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_model::limits::PRODUCER_ID_BLOCK;
use highwater_wire::kafka::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::errors;
use crate::node::Node;

/// The ids of the present block.
#[derive(Default)]
pub struct ProducerIds {
    block: Mutex<Range<i64>>,
    /// Held by the one who is getting the next block.
    refilling: tokio::sync::Mutex<()>,
}

impl ProducerIds {
    /// An id at once, or none.
    pub fn take(&self) -> Option<i64> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Sees to it that there is an id to take.
    pub async fn prepare(&self, node: &Node) {
        if self.block.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            && let Some(id) = self.next(node).await
        {
            // Put back at the front: ids of a block follow each other.
            let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
            if block.start == id + 1 {
                block.start = id;
            }
        }
    }

    async fn next(&self, node: &Node) -> Option<i64> {
        if let Some(id) = self.take() {
            return Some(id);
        }
        let _refilling = self.refilling.lock().await;
        if let Some(id) = self.take() {
            return Some(id);
        }
        match node.coordinator.allocate_producer_ids(PRODUCER_ID_BLOCK).await {
            Ok(mut block) => {
                let id = block.next();
                *self.block.lock().unwrap_or_else(PoisonError::into_inner) = block;
                id
            }
            Err(e) => {
                tracing::warn!("no producer ids: {e}");
                None
            }
        }
    }
}

/// Hands out an id at epoch 0; for a transactional id, its coordinator does.
pub async fn handle(
    node: &Arc<Node>,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |code| {
        InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
    };
    match &request.transactional_id {
        // As Kafka: an empty id is a mistake of the client, not a wish for none.
        Some(id) if id.is_empty() => return refused(errors::INVALID_REQUEST),
        Some(_) => return super::transactions::init(node, version, &request).await,
        None => {}
    }
    match node.producer_ids.next(node).await {
        Some(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        None => refused(errors::COORDINATOR_NOT_AVAILABLE),
    }
}
