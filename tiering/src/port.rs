//! The port through which the tier reads and edits manifests; the coordinator stands behind it. The tier
//! never sees Raft.

use std::sync::Arc;

use async_trait::async_trait;
use highwater_model::TopicPartition;

use crate::core::manifest::{EditRequest, Manifest, Refusal};

/// What is known after a proposal that did not simply succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Determinate: the manifest says no and nothing has changed.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// Determinate: the proposal never entered the log.
    #[error("failed: {0}")]
    Failed(String),
    /// It may have been applied, or may still be; read the manifest back before the next write.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why a manifest could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no such partition")]
    UnknownPartition,
    #[error("control plane not available: {0}")]
    Unavailable(String),
}

/// Manifests of all partitions, as one writer or reader of the tier needs them.
#[async_trait]
pub trait ManifestPort: Send + Sync {
    /// Applies one edit; returns the manifest after it.
    async fn propose(&self, tp: TopicPartition, request: EditRequest) -> Result<Arc<Manifest>, ProposeError>;

    /// A linearizable read.
    async fn read(&self, tp: TopicPartition) -> Result<Arc<Manifest>, ReadError>;

    /// What this node last heard, without waiting; None when it knows nothing of the partition.
    fn cached(&self, tp: TopicPartition) -> Option<Arc<Manifest>>;
}
