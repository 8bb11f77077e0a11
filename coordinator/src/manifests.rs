//! The tier's port on manifests, served by the control plane; and the raising of `log_start` for
//! DeleteRecords.

use std::sync::Arc;

use async_trait::async_trait;
use highwater_model::limits::LOG_START_ATTEMPTS_MAX;
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use highwater_tiering::core::manifest::{Edit, EditRequest, Manifest, Refusal as ManifestRefusal};
use highwater_tiering::port::{ManifestPort, ProposeError, ReadError};

use crate::core::{Command, Refusal};
use crate::handle::{Coordinator, WriteError};

#[async_trait]
impl ManifestPort for Coordinator {
    async fn propose(&self, tp: TopicPartition, request: EditRequest) -> Result<Arc<Manifest>, ProposeError> {
        self.write(Command::EditManifest { tp, request }).await.map_err(propose_error)?;
        // Deleting the topic may have overtaken the answer.
        self.cached(tp).ok_or_else(|| ProposeError::Unknown("the topic was deleted meanwhile".into()))
    }

    async fn read(&self, tp: TopicPartition) -> Result<Arc<Manifest>, ReadError> {
        self.linearize().await.map_err(|e| ReadError::Unavailable(e.0))?;
        self.cached(tp).ok_or(ReadError::UnknownPartition)
    }

    fn cached(&self, tp: TopicPartition) -> Option<Arc<Manifest>> {
        self.with_state(|state| state.manifest(tp).cloned())
    }
}

impl Coordinator {
    /// Raises `log_start` of a partition (DeleteRecords, retention) and retires the objects below it, as far
    /// as they are listed inline. Returns the manifest after it; one that is there already changes nothing.
    pub async fn raise_log_start(
        &self,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        log_start: Offset,
    ) -> Result<Arc<Manifest>, ProposeError> {
        let mut attempts = 0;
        loop {
            let manifest = self.cached(tp).ok_or_else(|| ProposeError::Failed("no such partition".into()))?;
            if manifest.log_start >= log_start {
                return Ok(manifest);
            }
            let edit = Edit::Prune { log_start, head: Vec::new() };
            let request = EditRequest { expected_version: manifest.version, leader_epoch, edit };
            match self.propose(tp, request).await {
                // The offloader edits the same manifest; the one that comes second looks again.
                Err(ProposeError::Refused(ManifestRefusal::StaleVersion { .. }))
                    if attempts < LOG_START_ATTEMPTS_MAX =>
                {
                    attempts += 1;
                }
                other => return other,
            }
        }
    }
}

fn propose_error(error: WriteError) -> ProposeError {
    match error {
        WriteError::Refused(Refusal::Manifest(refusal)) => ProposeError::Refused(refusal),
        WriteError::Refused(refusal) => ProposeError::Failed(refusal.to_string()),
        WriteError::Failed(reason) => ProposeError::Failed(reason),
        WriteError::Unknown(reason) => ProposeError::Unknown(reason),
    }
}
