//! Peers over gRPC: one stream per direction between two nodes carries the calls of every group.
//!
//! Calls are numbered and answered in any order; a group has one append under way, so its order holds. Queues
//! are bounded: a call that finds its peer's full is not sent. A stream that breaks fails what waits on it,
//! and tells that the peer is lost rather than slow. A peer is dialled when there is something to say, at
//! most each `REDIAL`.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use highwater_coordinator::rpc;
use highwater_model::NodeId;
use highwater_model::limits::{RAFT_MESSAGE_BYTES_MAX, RAFT_PEER_REQUESTS_MAX, RAFT_SILENT_MS};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Request as GrpcRequest, Response, Status, Streaming};

use super::host::RaftHost;
use super::message::{Answer, Request, Transport, Unreached};
use super::wire::proto::raft_peers_client::RaftPeersClient;
use super::wire::proto::raft_peers_server::{RaftPeers, RaftPeersServer};
use super::wire::{answer_in, answer_out, proto::RaftFrame, request_in, request_out};

/// Metadata that names the caller's cluster.
const CLUSTER: &str = "highwater-cluster";
/// Pause between two attempts to reach a peer.
const REDIAL: Duration = Duration::from_millis(100);
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Where a node's gRPC door is, as far as is known.
pub trait PeerAddresses: Send + Sync + 'static {
    /// HOST:PORT.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// Calls to every peer of this node.
pub struct GrpcTransport {
    node: NodeId,
    cluster: String,
    addresses: Arc<dyn PeerAddresses>,
    /// Each with when it was dialled.
    peers: Mutex<HashMap<NodeId, (Arc<PeerLink>, Instant)>>,
}

struct PeerLink {
    frames: mpsc::Sender<RaftFrame>,
    waiting: Arc<Waiting>,
    calls: AtomicU64,
}

/// Calls without an answer yet.
#[derive(Default)]
struct Waiting {
    calls: Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Answer, String>>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails everything: the stream is gone.
    fn fail(&self, why: &str) {
        for (_, tell) in std::mem::take(&mut *self.lock()) {
            // Who waited may have given up.
            let _ = tell.send(Err(why.to_owned()));
        }
    }
}

/// Forgets a call whose caller has given up.
struct Forget<'a>(&'a Waiting, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl GrpcTransport {
    /// `cluster`: what both sides must agree on, the cluster's id.
    pub fn new(node: NodeId, cluster: String, addresses: Arc<dyn PeerAddresses>) -> Arc<GrpcTransport> {
        Arc::new(GrpcTransport { node, cluster, addresses, peers: Mutex::default() })
    }

    fn peer(&self, node: NodeId) -> Result<Arc<PeerLink>, Unreached> {
        let address = self.addresses.address(node);
        let address = address.ok_or_else(|| unreached(node, "its address is not known", false))?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get(&node) {
            Some((link, _)) if !link.frames.is_closed() => return Ok(link.clone()),
            Some((_, dialled)) if dialled.elapsed() < REDIAL => {
                return Err(unreached(node, "it could not be reached just now", true));
            }
            _ => {}
        }
        let (frames, outgoing) = mpsc::channel(RAFT_PEER_REQUESTS_MAX);
        let link = Arc::new(PeerLink { frames, waiting: Arc::default(), calls: AtomicU64::new(1) });
        let dial = Dial { address, cluster: self.cluster.clone(), waiting: link.waiting.clone() };
        tokio::spawn(dial.run(outgoing));
        peers.insert(node, (link.clone(), Instant::now()));
        Ok(link)
    }
}

fn unreached(node: NodeId, why: impl Into<String>, is_lost: bool) -> Unreached {
    Unreached { node, why: why.into(), is_lost }
}

#[async_trait::async_trait]
impl Transport for GrpcTransport {
    async fn call(&self, to: NodeId, request: Request, deadline: Duration) -> Result<Answer, Unreached> {
        let link = self.peer(to)?;
        let call = link.calls.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        link.waiting.lock().insert(call, tell);
        let _forget = Forget(&link.waiting, call);
        let frame = RaftFrame { call, from: self.node, body: Some(request_out(request)) };
        match link.frames.try_send(frame) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(unreached(to, "too much waits for it", false));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(unreached(to, "the stream broke", true)),
        }
        match tokio::time::timeout(deadline, told).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(why))) => Err(unreached(to, why, true)),
            Ok(Err(_)) => Err(unreached(to, "the stream broke", true)),
            Err(_) => Err(unreached(to, "no answer in time", false)),
        }
    }
}

/// One connection to a peer, from the first frame until it breaks; the next call dials anew.
struct Dial {
    address: String,
    cluster: String,
    waiting: Arc<Waiting>,
}

impl Dial {
    async fn run(self, outgoing: mpsc::Receiver<RaftFrame>) {
        let why = match self.connected(outgoing).await {
            Ok(()) => "the stream ended".to_owned(),
            Err(e) => format!("{}: {e}", self.address),
        };
        // The queue is closed by now: nothing comes to wait after this.
        self.waiting.fail(&why);
    }

    async fn connected(&self, outgoing: mpsc::Receiver<RaftFrame>) -> Result<(), String> {
        // A connection on which nothing arrives any more is given up: TCP alone tries again ever more seldom,
        // and would keep a node that was cut off waiting about as long again as the cut has lasted.
        let endpoint = rpc::endpoint(&self.address).map_err(|e| e.message().to_owned())?;
        let endpoint = endpoint
            .connect_timeout(Duration::from_millis(RAFT_SILENT_MS as u64 / 2))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = endpoint.connect().await.map_err(|e| full(&e))?;
        let mut client = RaftPeersClient::new(channel).max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX);
        let frames = futures::stream::unfold(outgoing, |mut outgoing| async move {
            let frame = outgoing.recv().await?;
            Some((frame, outgoing))
        });
        let mut request = GrpcRequest::new(frames);
        let cluster = self.cluster.parse().map_err(|_| "a cluster id that is no metadata".to_owned())?;
        request.metadata_mut().insert(CLUSTER, cluster);
        let mut answers = client.link(request).await.map_err(|e| e.to_string())?.into_inner();
        while let Some(frame) = answers.message().await.map_err(|e| e.to_string())? {
            let Some(tell) = self.waiting.lock().remove(&frame.call) else { continue };
            let answer = frame.body.ok_or("an empty answer".to_owned());
            let answer = answer.and_then(|body| answer_in(body).map_err(|e| e.to_string()));
            let _ = tell.send(Ok(answer.unwrap_or_else(Answer::Refused)));
        }
        Ok(())
    }
}

/// An error with what caused it: tonic's own text says little.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The service that answers peers.
pub struct RaftService {
    host: Arc<RaftHost>,
    cluster: String,
}

impl RaftService {
    /// To be added to the node's gRPC door.
    pub fn server(host: Arc<RaftHost>, cluster: String) -> RaftPeersServer<RaftService> {
        RaftPeersServer::new(RaftService { host, cluster }).max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<RaftFrame, Status>> + Send>>;

#[tonic::async_trait]
impl RaftPeers for RaftService {
    type LinkStream = Answers;

    async fn link(&self, request: GrpcRequest<Streaming<RaftFrame>>) -> Result<Response<Answers>, Status> {
        let theirs = request.metadata().get(CLUSTER).and_then(|id| id.to_str().ok()).unwrap_or("none");
        if theirs != self.cluster {
            let text = format!("this node is of cluster {}, the caller of {theirs}", self.cluster);
            return Err(Status::failed_precondition(text));
        }
        let (answers, outgoing) = mpsc::channel(RAFT_PEER_REQUESTS_MAX);
        tokio::spawn(answer_all(self.host.clone(), request.into_inner(), answers));
        let stream = futures::stream::unfold(outgoing, |mut outgoing| async move {
            let frame = outgoing.recv().await?;
            Some((Ok(frame), outgoing))
        });
        Ok(Response::new(stream.boxed()))
    }
}

/// Serves calls as they come, at most so many at once, until the stream ends.
async fn answer_all(host: Arc<RaftHost>, mut calls: Streaming<RaftFrame>, answers: mpsc::Sender<RaftFrame>) {
    let seats = Arc::new(Semaphore::new(RAFT_PEER_REQUESTS_MAX));
    while let Ok(Some(frame)) = calls.message().await {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        let (host, answers) = (host.clone(), answers.clone());
        tokio::spawn(async move {
            let request = frame.body.map(request_in);
            let answer = match request {
                Some(Ok(request)) => host.serve(frame.from, request).await,
                Some(Err(e)) => Answer::Refused(e.to_string()),
                None => Answer::Refused("an empty call".to_owned()),
            };
            let reply = RaftFrame { call: frame.call, from: host.node(), body: Some(answer_out(answer)) };
            // The caller may be gone.
            let _ = answers.send(reply).await;
            drop(seat);
        });
    }
}
