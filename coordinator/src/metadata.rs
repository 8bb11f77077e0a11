//! The cluster's metadata as a stream: a snapshot, then what has changed, one update after another.
//!
//! Server: nothing is queued for a client but the update that is being sent. What happens meanwhile is in the
//! next one, however many versions that are; a client that takes longer than `METADATA_BEHIND` for one update
//! gets a snapshot next, so that it does not keep an old state alive here. A member that has lost its leader
//! ends its streams, so that those who follow go to one that has not.
//! Client: applies updates to its own copy, never goes back to an older version, and comes again from another
//! coordinator when a stream ends. While none is there, what is known stays and is served (DESIGN section 2).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use highwater_model::limits::{
    METADATA_BEHIND, METADATA_BYTES_MAX, METADATA_LEADERLESS, METADATA_PIECE_BYTES, METADATA_PIECES_PENDING,
    METADATA_RETRY, METADATA_SILENCE, METADATA_STALL,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::core::{ClusterState, StateDelta};
use crate::handle::Coordinator;
use crate::rpc::{brief, list_message, proto, protocol_min, within};

type Piece = Result<proto::MetadataUpdate, Status>;

/// The updates for one client that has `known_version` (0 for none).
pub(crate) fn serve(
    coordinator: &Coordinator,
    known_version: u64,
    seat: OwnedSemaphorePermit,
) -> impl Stream<Item = Piece> + Send + 'static {
    let (pieces, mut outbox) = mpsc::channel(METADATA_PIECES_PENDING);
    let source = Source { coordinator: coordinator.clone(), pieces, sent: None };
    coordinator.spawn(async move {
        source.run(known_version).await;
        drop(seat);
    });
    futures::stream::poll_fn(move |context| outbox.poll_recv(context))
}

struct Source {
    coordinator: Coordinator,
    pieces: mpsc::Sender<Piece>,
    /// What the client has; None where it needs a snapshot.
    sent: Option<Arc<ClusterState>>,
}

/// Why a stream ends here.
struct Ended;

impl Source {
    async fn run(mut self, known_version: u64) {
        let mut versions = self.coordinator.watch();
        let mut closed = self.coordinator.closed();
        let client = self.pieces.clone();
        let mut leaderless = Instant::now();
        loop {
            versions.mark_unchanged();
            let state = Arc::clone(&self.coordinator.state());
            if self.sent.is_none() && known_version > 0 && known_version == state.version {
                self.sent = Some(Arc::clone(&state));
            }
            // A client that knows more than this node waits until this node knows it too.
            if state.version >= known_version && self.update(state).await.is_err() {
                return;
            }
            if self.coordinator.leader().is_some() {
                leaderless = Instant::now();
            } else if leaderless.elapsed() > METADATA_LEADERLESS {
                let _ = self.pieces.try_send(Err(Status::unavailable("this node has lost the leader")));
                return;
            }
            // The leader is looked for now and then; without one nothing changes.
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(METADATA_LEADERLESS / 2) => {}
                () = client.closed() => return,
                _ = closed.wait_for(|closed| *closed) => return,
            }
        }
    }

    /// Sends what brings the client to `state`.
    async fn update(&mut self, state: Arc<ClusterState>) -> Result<(), Ended> {
        if self.sent.as_ref().is_some_and(|sent| sent.version == state.version) || state.cluster_id.is_empty()
        {
            return Ok(());
        }
        let begun = Instant::now();
        let (base_version, body) = match self.sent.take() {
            Some(sent) => (sent.version, encoded(Arc::clone(&state), Some(sent)).await?),
            None => (0, encoded(Arc::clone(&state), None).await?),
        };
        let is_snapshot = base_version == 0;
        let mut rest = body;
        loop {
            let piece = rest.split_to(rest.len().min(METADATA_PIECE_BYTES));
            let is_last = rest.is_empty();
            let message = proto::MetadataUpdate {
                version: state.version,
                base_version,
                is_snapshot,
                is_last,
                body: piece,
            };
            match tokio::time::timeout(METADATA_STALL, self.pieces.send(Ok(message))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Ended),
            }
            if is_last {
                break;
            }
        }
        // One that is slow gets a snapshot next: what it has is not kept for its sake.
        self.sent = (begun.elapsed() < METADATA_BEHIND).then_some(state);
        Ok(())
    }
}

/// The JSON of a snapshot, or of what has changed since `base`; off the runtime's threads, as it may be
/// large.
async fn encoded(state: Arc<ClusterState>, base: Option<Arc<ClusterState>>) -> Result<Bytes, Ended> {
    let encode = move || match base {
        Some(base) => serde_json::to_vec(&state.delta_since(&base)),
        None => serde_json::to_vec(&*state),
    };
    let encoded = tokio::task::spawn_blocking(encode).await;
    match encoded {
        Ok(Ok(body)) => Ok(Bytes::from(body)),
        Ok(Err(e)) => {
            tracing::error!("metadata cannot be encoded: {e}");
            Err(Ended)
        }
        Err(_) => Err(Ended),
    }
}

/// Why a stream was left.
enum Left {
    /// The cluster says that this node is wrong here: one line.
    Refused(String),
    Broken(String),
}

/// Follows the metadata for the life of the observer. A refusal before anything was received is told.
pub(crate) async fn follow(coordinator: Coordinator, tell: watch::Sender<Option<String>>) {
    let ids: Vec<u64> = coordinator.channels().addresses().keys().copied().collect();
    // Observers that start together do not all go to the same coordinator.
    let mut next = usize::try_from(coordinator.settings().node_id).unwrap_or(0);
    let mut told = Instant::now();
    while !coordinator.is_closed() {
        let node = ids[next % ids.len()];
        next += 1;
        match listen(&coordinator, node).await {
            Left::Refused(reason) => {
                tracing::error!("node {node}: {reason}");
                tell.send_replace(Some(reason));
            }
            Left::Broken(reason) => {
                tracing::debug!("metadata of node {node}: {reason}");
                if told.elapsed() > Duration::from_secs(10) {
                    told = Instant::now();
                    tracing::warn!(
                        "no metadata from the coordinators; the last is from node {node}: {reason}"
                    );
                }
            }
        }
        tokio::time::sleep(METADATA_RETRY).await;
    }
}

/// Waits for the first metadata.
pub(crate) async fn first(
    coordinator: &Coordinator,
    mut refused: watch::Receiver<Option<String>>,
) -> Result<(), String> {
    let mut versions = coordinator.watch();
    tokio::select! {
        _ = versions.wait_for(|version| *version > 0) => Ok(()),
        told = refused.wait_for(Option::is_some) => {
            Err(told.ok().and_then(|told| told.clone()).unwrap_or_else(|| "the observer has stopped".into()))
        }
    }
}

/// Follows one stream until it ends.
async fn listen(coordinator: &Coordinator, node: u64) -> Left {
    let request = proto::WatchMetadataRequest {
        protocol: protocol_min(),
        from: coordinator.settings().node_id,
        coordinators: list_message(coordinator.channels().addresses()),
        cluster_id: coordinator.cluster_id(),
        known_version: coordinator.with_state(|state| state.version),
    };
    let call = async { coordinator.channels().control(node)?.watch_metadata(request).await };
    let mut updates = match within(METADATA_SILENCE, call).await {
        Ok(updates) => updates,
        Err(status) => return left(&status),
    };
    let mut body = Vec::new();
    loop {
        // Silence is no fault: the connection itself is probed.
        let piece = match updates.message().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Left::Broken("the stream has ended".into()),
            Err(status) => return left(&status),
        };
        if body.len() + piece.body.len() > METADATA_BYTES_MAX {
            return Left::Broken(format!("an update of more than {METADATA_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&piece.body);
        if !piece.is_last {
            continue;
        }
        let update = std::mem::take(&mut body);
        let base = coordinator.state();
        let taken = tokio::task::spawn_blocking(move || take(&base, &piece, &update)).await;
        match taken {
            Ok(Ok(Some(state))) => coordinator.cell().replace(state),
            Ok(Ok(None)) => {}
            Ok(Err(reason)) => return Left::Broken(reason),
            Err(e) => return Left::Broken(e.to_string()),
        }
    }
}

fn left(status: &Status) -> Left {
    match status.code() {
        Code::FailedPrecondition => Left::Refused(status.message().to_owned()),
        _ => Left::Broken(brief(status)),
    }
}

/// The state after an update; None where the update is older than the state.
fn take(
    base: &Arc<ClusterState>,
    update: &proto::MetadataUpdate,
    body: &[u8],
) -> Result<Option<Arc<ClusterState>>, String> {
    let invalid = |e: &dyn std::fmt::Display| format!("an update that cannot be used: {e}");
    let state = if update.is_snapshot {
        serde_json::from_slice::<ClusterState>(body).map_err(|e| invalid(&e))?
    } else if update.base_version != base.version {
        return Err(format!("a delta to version {}, and {} is known", update.base_version, base.version));
    } else {
        let delta: StateDelta = serde_json::from_slice(body).map_err(|e| invalid(&e))?;
        let mut state = ClusterState::clone(base);
        state.apply_delta(&delta).map_err(|e| invalid(&e))?;
        state
    };
    if !base.cluster_id.is_empty() && state.cluster_id != base.cluster_id {
        return Err(format!("the metadata of cluster {}, not of {}", state.cluster_id, base.cluster_id));
    }
    Ok((state.version > base.version).then(|| Arc::new(state)))
}
