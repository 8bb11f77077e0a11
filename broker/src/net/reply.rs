//! What a request is answered with.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use highwater_wire::fetch_response::Chunk;
use tokio::sync::OwnedSemaphorePermit;

/// One whole response frame, length prefix included.
pub struct Reply {
    pub chunks: Vec<Chunk>,
    /// Memory of the tier's read budget; given back when the answer is in the socket.
    pub memory: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// Nothing is sent: the client expects no answer.
    pub fn nothing() -> Reply {
        Reply { chunks: Vec::new(), memory: None }
    }

    /// Bytes that it holds in memory; those of segment files are not.
    pub fn memory_bytes(&self) -> usize {
        let in_memory = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Bytes(bytes) => bytes.len(),
            Chunk::File { .. } => 0,
        });
        in_memory.sum()
    }

    /// Length of the frame, in bytes.
    pub fn bytes(&self) -> u64 {
        let lengths = self.chunks.iter().map(|chunk| match chunk {
            Chunk::Bytes(bytes) => bytes.len() as u64,
            Chunk::File { length, .. } => *length as u64,
        });
        lengths.sum()
    }
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Reply {
        Reply { chunks: vec![Chunk::Bytes(bytes)], memory: None }
    }
}

/// Why a connection is closed; goes into one log line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CloseReason(pub Cow<'static, str>);

impl CloseReason {
    pub fn new(reason: impl Into<Cow<'static, str>>) -> CloseReason {
        CloseReason(reason.into())
    }
}

/// The rest of a request that has begun: its answer, once there is one.
pub type Later = Pin<Box<dyn Future<Output = Result<Reply, CloseReason>> + Send>>;

/// What became of a request when its turn came.
pub enum Answer {
    Now(Reply),
    /// Nothing is sent (produce with acks=0).
    Silent,
    /// The request has taken effect; its answer waits for something (a flush, data, a deadline). Later
    /// requests of the connection may take effect meanwhile; their answers queue behind.
    Later(Later),
    /// The request takes effect only while its future runs; nothing of the connection may begin before it is
    /// answered.
    Alone(Later),
    Close(CloseReason),
}
