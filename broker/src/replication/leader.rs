//! The leader's end of a stream: holds each partition's newest position, and answers it as soon as there is
//! something to tell.
//!
//! A position is held until it is answered; news of a partition (`NewsListener`) puts it among those to be
//! looked at. A round looks at what has news, oldest news first, and makes one message of it, bounded in
//! bytes; the next round begins when the message is on its way, so that a slow follower holds one message in
//! memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt};
use highwater_model::limits::{
    REPLICA_FETCH_BYTES_MAX, REPLICA_FETCHES_PER_MESSAGE_MAX, REPLICA_HELLO_WAIT,
    REPLICA_INLINE_READ_BYTES_MAX, REPLICA_MESSAGES_PENDING, REPLICA_ROUND_BYTES_MAX,
    REPLICA_STREAM_PARTITIONS_MAX, REPLICA_STREAMS_MAX,
};
use highwater_model::{NodeId, TopicPartition};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::proto::replication_server::Replication;
use super::proto::{FollowerFetches, FollowerHello, LeaderAnswer, LeaderAnswers};
use super::throttle::{Bounds, Side};
use super::{PROTOCOL, PROTOCOL_MIN, wire};
use crate::core::replica::LeaderRefusal;
use crate::node::Node;
use crate::partition::NewsListener;
use crate::replica::{AnswerContent, FetchAnswer, FollowerFetch, Served, ServedContent};

/// Serves followers.
pub struct ReplicationService {
    node: Weak<Node>,
    seats: Arc<Semaphore>,
}

impl ReplicationService {
    pub fn new(node: &Arc<Node>) -> ReplicationService {
        let seats = Arc::new(Semaphore::new(REPLICA_STREAMS_MAX));
        ReplicationService { node: Arc::downgrade(node), seats }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<LeaderAnswers, Status>> + Send>>;

#[tonic::async_trait]
impl Replication for ReplicationService {
    type ReplicateStream = Answers;

    async fn replicate(
        &self,
        request: Request<Streaming<FollowerFetches>>,
    ) -> Result<Response<Answers>, Status> {
        let node = self.node.upgrade().ok_or_else(|| Status::unavailable("the node has stopped"))?;
        let seat = self.seats.clone().try_acquire_owned();
        let seat = seat.map_err(|_| Status::resource_exhausted("too many followers' streams"))?;
        let (answers, mut outbox) = mpsc::channel(REPLICA_MESSAGES_PENDING);
        tokio::spawn(serve(node, request.into_inner(), answers, seat));
        Ok(Response::new(Box::pin(futures::stream::poll_fn(move |context| outbox.poll_recv(context)))))
    }
}

/// Partitions with news, each once, in the order in which the news came.
#[derive(Default)]
struct News {
    state: Mutex<NewsState>,
    arrived: Notify,
}

#[derive(Default)]
struct NewsState {
    order: VecDeque<TopicPartition>,
    known: HashSet<TopicPartition>,
}

impl News {
    fn take(&self) -> Option<TopicPartition> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tp = state.order.pop_front()?;
        state.known.remove(&tp);
        Some(tp)
    }
}

impl NewsListener for News {
    fn news(&self, tp: TopicPartition) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.known.insert(tp) {
            state.order.push_back(tp);
            drop(state);
            self.arrived.notify_one();
        }
    }
}

/// One follower's stream.
struct Session {
    node: Arc<Node>,
    follower: NodeId,
    /// Positions that wait for an answer.
    waiting: HashMap<TopicPartition, FollowerFetch>,
    /// What a throttle holds back, and when that is looked at again.
    held: HashSet<TopicPartition>,
    held_until: Option<Instant>,
    news: Arc<News>,
    listener: Arc<dyn NewsListener>,
}

async fn serve(
    node: Arc<Node>,
    mut fetches: Streaming<FollowerFetches>,
    answers: mpsc::Sender<Result<LeaderAnswers, Status>>,
    _seat: OwnedSemaphorePermit,
) {
    let mut stop = node.stopping();
    let first = tokio::select! {
        first = hello(&mut fetches, REPLICA_HELLO_WAIT) => first,
        _ = stop.wait_for(|stopping| *stopping) => return,
    };
    let Some(first) = first else { return };
    let follower = match judge_hello(&node, first.hello.as_ref()) {
        Ok(follower) => follower,
        Err(refused) => {
            let _ = answers.send(Err(refused)).await;
            return;
        }
    };
    let news = Arc::new(News::default());
    let mut session = Session {
        node,
        follower,
        waiting: HashMap::new(),
        held: HashSet::new(),
        held_until: None,
        listener: news.clone(),
        news: news.clone(),
    };
    let mut next = Some(first);
    loop {
        if let Some(message) = next.take()
            && let Err(refused) = session.take(message)
        {
            let _ = answers.send(Err(refused)).await;
            return;
        }
        let round = session.round().await;
        if !round.is_empty() {
            tokio::select! {
                sent = answers.send(Ok(LeaderAnswers { answers: round })) => if sent.is_err() { return },
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            // More may be due: the follower's positions are taken in between all the same.
            news.arrived.notify_one();
        }
        tokio::select! {
            biased;
            message = fetches.message() => match message {
                Ok(Some(message)) => next = Some(message),
                Ok(None) | Err(_) => return,
            },
            () = news.arrived.notified() => {}
            () = until(session.held_until) => session.let_go(),
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// The first message; none if it does not come in time, or the stream has ended.
async fn hello(
    fetches: &mut (impl Stream<Item = Result<FollowerFetches, Status>> + Unpin),
    wait: Duration,
) -> Option<FollowerFetches> {
    tokio::time::timeout(wait, fetches.next()).await.ok()??.ok()
}

/// Without an end where there is none.
async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Whether the follower may be served at all; its node id.
fn judge_hello(node: &Node, hello: Option<&FollowerHello>) -> Result<NodeId, Status> {
    let hello = hello.ok_or_else(|| Status::invalid_argument("a stream begins with who asks"))?;
    check_protocol(hello).map_err(Status::failed_precondition)?;
    let own = node.coordinator.cluster_id();
    if hello.cluster_id != own {
        return Err(Status::failed_precondition(format!(
            "node {} is of cluster {}, this is cluster {own}; correct its --coordinators or --data-dir",
            hello.node_id, hello.cluster_id
        )));
    }
    Ok(hello.node_id)
}

/// Whether the two releases can be mixed; else one line that says what to do.
fn check_protocol(hello: &FollowerHello) -> Result<(), String> {
    let FollowerHello { protocol, protocol_min, node_id, .. } = hello;
    if *protocol >= PROTOCOL_MIN && *protocol_min <= PROTOCOL {
        return Ok(());
    }
    let older = if *protocol < PROTOCOL_MIN { format!("node {node_id}") } else { "this node".to_owned() };
    Err(format!(
        "node {node_id} speaks replication protocol {protocol_min} to {protocol}, this release {PROTOCOL_MIN} to \
         {PROTOCOL}; upgrade {older} (releases that follow each other can be mixed)"
    ))
}

impl Session {
    /// Takes the follower's new positions, each of which is looked at in the next round.
    fn take(&mut self, message: FollowerFetches) -> Result<(), Status> {
        let malformed = |e: wire::Malformed| Status::invalid_argument(e.to_string());
        if message.fetches.len() > REPLICA_FETCHES_PER_MESSAGE_MAX {
            return Err(Status::invalid_argument("too many positions in one message"));
        }
        for dropped in message.dropped {
            self.waiting.remove(&wire::tp(Some(dropped)).map_err(malformed)?);
        }
        for fetch in message.fetches {
            let (tp, fetch) = wire::fetch(self.follower, fetch).map_err(malformed)?;
            if self.waiting.insert(tp, fetch).is_none() && self.waiting.len() > REPLICA_STREAM_PARTITIONS_MAX
            {
                return Err(Status::resource_exhausted("too many partitions on one stream"));
            }
            self.news.news(tp);
        }
        Ok(())
    }

    /// Answers what has news, up to the bytes of a message.
    async fn round(&mut self) -> Vec<LeaderAnswer> {
        let (mut served, mut bytes) = (Vec::new(), 0);
        while bytes < REPLICA_ROUND_BYTES_MAX
            && let Some(tp) = self.news.take()
        {
            if self.held.contains(&tp) {
                continue;
            }
            let Some(fetch) = self.waiting.get(&tp).copied() else { continue };
            let left = (REPLICA_ROUND_BYTES_MAX - bytes).min(REPLICA_FETCH_BYTES_MAX);
            if let Some(found) = self.look(tp, &fetch, left)
                && !self.is_held(tp, &found)
            {
                self.waiting.remove(&tp);
                bytes += found.bytes();
                served.push((tp, found));
            }
        }
        if served.is_empty() {
            return Vec::new();
        }
        let read =
            move || served.into_iter().map(|(tp, found)| wire::answer_message(tp, found.read())).collect();
        match bytes > REPLICA_INLINE_READ_BYTES_MAX {
            false => read(),
            true => tokio::task::spawn_blocking(read).await.expect("reading slices does not panic"),
        }
    }

    /// Whether a throttle holds records back from a replica that is not in sync; what passes is counted.
    fn is_held(&mut self, tp: TopicPartition, found: &Found) -> bool {
        let bytes = found.bytes() as u64;
        if bytes == 0 || matches!(found, Found::Served(served) if served.is_in_sync) {
            return false;
        }
        let (follower, side) = (self.follower, (Side::Leader, self.node.settings.node_id));
        let bounds = self.node.coordinator.with_state(|state| Bounds::of(state, tp, follower, side));
        let throttle = &self.node.throttle;
        match throttle.wait(&self.node, Side::Leader, bounds) {
            Some(wait) => {
                let end = Instant::now() + wait;
                self.held_until = Some(self.held_until.map_or(end, |known| known.min(end)));
                self.held.insert(tp);
                true
            }
            None => {
                throttle.passed(Side::Leader, bounds, bytes);
                false
            }
        }
    }

    /// What was held back is looked at again.
    fn let_go(&mut self) {
        self.held_until = None;
        for tp in self.held.drain() {
            self.news.news(tp);
        }
    }

    /// What there is to tell a follower at its position; None while there is nothing.
    fn look(&self, tp: TopicPartition, fetch: &FollowerFetch, bytes_max: usize) -> Option<Found> {
        let refused = |refusal| Some(Found::Answer(refusal_to(fetch, refusal)));
        let view = self.node.partitions.view();
        let Some(partition) = view.partition(tp) else {
            return refused(LeaderRefusal::NotLeader);
        };
        // Listening first and looking second: news in between is told.
        if !partition.listen(&self.listener) {
            return refused(LeaderRefusal::NotLeader);
        }
        match partition.serve_follower(&self.node, self.node.now_ms(), fetch, bytes_max) {
            Err(_) => refused(LeaderRefusal::NotLeader),
            Ok(served) if served.is_empty() && !has_moved(&served, fetch) => None,
            Ok(served) => Some(Found::Served(served)),
        }
    }
}

/// Whether the follower learns of a newer high watermark or log start.
fn has_moved(served: &Served, fetch: &FollowerFetch) -> bool {
    fetch.high_watermark < served.high_watermark.min(fetch.position.fetch_offset)
}

enum Found {
    Served(Served),
    Answer(FetchAnswer),
}

impl Found {
    fn bytes(&self) -> usize {
        match self {
            Found::Served(Served { content: ServedContent::Records { slices, .. }, .. }) => {
                slices.iter().map(|slice| slice.length).sum()
            }
            _ => 0,
        }
    }

    fn read(self) -> FetchAnswer {
        match self {
            Found::Answer(answer) => answer,
            Found::Served(served) => {
                let (position, high_watermark, log_start) =
                    (served.position, served.high_watermark, served.log_start);
                served.into_answer().unwrap_or_else(|error| {
                    tracing::error!(%error, "a follower cannot be served");
                    FetchAnswer { position, high_watermark, log_start, content: AnswerContent::Unreadable }
                })
            }
        }
    }
}

fn refusal_to(fetch: &FollowerFetch, refusal: LeaderRefusal) -> FetchAnswer {
    FetchAnswer {
        position: fetch.position,
        high_watermark: 0,
        log_start: 0,
        content: AnswerContent::Refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use highwater_model::TopicId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn neighbouring_releases_replicate_and_others_are_told_what_to_do() {
        let hello = |protocol_min, protocol| {
            let node_id = 2;
            check_protocol(&FollowerHello { protocol, protocol_min, node_id, ..FollowerHello::default() })
        };
        assert_eq!(hello(PROTOCOL_MIN, PROTOCOL), Ok(()));
        assert_eq!(hello(PROTOCOL, PROTOCOL + 1), Ok(()), "one release ahead, which understands this one");
        let ahead = hello(PROTOCOL + 1, PROTOCOL + 2).expect_err("two ahead");
        assert!(ahead.contains("upgrade this node") && ahead.lines().count() == 1, "{ahead}");
        let behind = hello(0, PROTOCOL_MIN - 1).expect_err("too old");
        assert!(behind.contains("upgrade node 2"), "{behind}");
    }

    #[tokio::test]
    async fn who_opens_a_stream_and_says_nothing_gives_the_seat_back() {
        assert!(hello(&mut futures::stream::pending(), Duration::from_millis(10)).await.is_none());
        let mut told = futures::stream::iter([Ok(FollowerFetches::default())]);
        assert!(hello(&mut told, Duration::from_secs(60)).await.is_some());
    }

    #[test]
    fn news_of_a_partition_is_kept_once_and_in_order() {
        let news = News::default();
        let tp = |partition| TopicPartition::new(TopicId(Uuid::from_u128(1)), partition);
        for partition in [3, 1, 3, 2, 1] {
            news.news(tp(partition));
        }
        let taken: Vec<i32> = std::iter::from_fn(|| news.take()).map(|tp| tp.partition).collect();
        assert_eq!(taken, [3, 1, 2]);
        news.news(tp(1));
        assert_eq!(news.take(), Some(tp(1)), "what comes after is news again");
    }
}
