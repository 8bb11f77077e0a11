//! Fetch (versions 4 to 18): the session, the look at every partition, the wait for data, the answer.
//!
//! The session takes the request when its turn comes, so pipelined fetches stay in step. What is there is
//! answered from where the request was read; otherwise the fetch waits on its partitions, or reads from the
//! tier. Record bytes are never touched: slices of segments go out by sendfile, parts of rebuilt objects by a
//! gathering write. Only where records may expire they are sifted first (`sift`). Invariants: 3, 4 (nothing
//! at or above the high watermark leaves), 14, 15 (no partition is held while waiting).

mod answer;
mod collect;
mod sift;
mod tier;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use highwater_model::TopicId;
use highwater_model::limits::{FETCH_POLL_MS, FETCH_WAIT_MS_MAX};
use highwater_wire::kafka::messages::FetchRequest;
use highwater_wire::kafka::messages::fetch_request::FetchTopic;
use tokio::time::Instant;

use super::{Call, decode, errors};
use crate::core::fetch_plan::{FetchBudget, Isolation};
use crate::core::fetch_session::{
    Ask, FetchContext, FetchSessions, PartitionKey, SessionRefusal, TopicKey, Want,
};
use crate::net::reply::{Answer, CloseReason, Reply};
use crate::node::Node;
use crate::partition::{FetchWaiter, Partition};

use collect::{Collected, Target};
use sift::Skipped;

/// First version that names topics by id.
const IDS_SINCE: i16 = 13;
/// First version whose clients know that they may read from a follower (KIP-392).
const FOLLOWERS_SINCE: i16 = 11;
/// First version that tells who leads, and the first that tells where that node is (KIP-951).
const LEADERS_SINCE: i16 = 12;
const ENDPOINTS_SINCE: i16 = 16;

/// One fetch request on its way.
struct Fetch {
    node: Arc<Node>,
    version: i16,
    correlation_id: i32,
    context: FetchContext,
    /// In the order of the context's targets.
    targets: Vec<Target>,
    min_bytes: usize,
    max_bytes: i32,
    max_wait: Duration,
    isolation: Isolation,
    /// The client's rack; empty where it does not say.
    rack: Arc<str>,
}

/// Takes the request into its session and answers what can be answered at once.
pub fn begin(call: Call<'_>) -> Answer {
    let request = match decode::<FetchRequest>(call.body.clone(), call.version) {
        Ok(request) => request,
        Err(reason) => return Answer::Close(reason),
    };
    let max_wait = u64::try_from(i64::from(request.max_wait_ms).clamp(0, FETCH_WAIT_MS_MAX));
    let options = (request.min_bytes, request.max_bytes, request.isolation_level);
    let rack: Arc<str> = request.rack_id.as_str().into();
    let ask = ask_of(call.version, request);
    let begun = with_sessions(call.node, |sessions| sessions.begin(call.node.now_ms(), ask));
    let context = match begun {
        Ok(context) => context,
        Err(refusal) => {
            call.node.metrics.request_error(call.api_key);
            return done(answer::refused(call.version, call.correlation_id, session_code(refusal)));
        }
    };
    let (min_bytes, max_bytes, isolation) = options;
    let targets = collect::resolve(call.node, &context);
    // More than the fetch may have is never waited for.
    let bytes_max = FetchBudget::new(max_bytes, call.node.settings.fetch_bytes_max).bytes();
    let fetch = Fetch {
        node: call.node.clone(),
        version: call.version,
        correlation_id: call.correlation_id,
        context,
        targets,
        min_bytes: usize::try_from(min_bytes).unwrap_or(0).min(bytes_max),
        max_bytes,
        max_wait: Duration::from_millis(max_wait.expect("clamped at zero")),
        isolation: Isolation::asked(isolation),
        rack,
    };
    let collected = fetch.collect();
    let is_here = collected.tier.is_empty() && !collected.must_sift;
    if is_here && (fetch.is_enough(&collected) || fetch.max_wait.is_zero()) {
        return done(fetch.answer(collected));
    }
    Answer::Later(Box::pin(fetch.wait(collected)))
}

fn done(reply: Result<Reply, CloseReason>) -> Answer {
    match reply {
        Ok(reply) => Answer::Now(reply),
        Err(reason) => Answer::Close(reason),
    }
}

fn session_code(refusal: SessionRefusal) -> i16 {
    match refusal {
        SessionRefusal::NotFound => errors::FETCH_SESSION_ID_NOT_FOUND,
        SessionRefusal::InvalidEpoch => errors::INVALID_FETCH_SESSION_EPOCH,
        SessionRefusal::TopicIds => errors::FETCH_SESSION_TOPIC_ID_ERROR,
    }
}

fn with_sessions<T>(node: &Node, with: impl FnOnce(&mut FetchSessions) -> T) -> T {
    // A defect inside leaves at worst a session that its client must renew.
    with(&mut node.fetch_sessions.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The request as the session machine sees it.
fn ask_of(version: i16, request: FetchRequest) -> Ask {
    let uses_ids = version >= IDS_SINCE;
    let mut added = Vec::with_capacity(request.topics.iter().map(|t| t.partitions.len()).sum());
    for topic in &request.topics {
        let key = topic_key(uses_ids, topic);
        for partition in &topic.partitions {
            let want = Want {
                fetch_offset: partition.fetch_offset,
                bytes_max: partition.partition_max_bytes,
                current_leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
            };
            added.push((PartitionKey { topic: key.clone(), partition: partition.partition }, want));
        }
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let key = match uses_ids {
            true => TopicKey::Id(TopicId(topic.topic_id)),
            false => TopicKey::Name(topic.topic.as_str().into()),
        };
        forgotten.extend(topic.partitions.iter().map(|p| PartitionKey { topic: key.clone(), partition: *p }));
    }
    Ask { session_id: request.session_id, session_epoch: request.session_epoch, uses_ids, added, forgotten }
}

fn topic_key(uses_ids: bool, topic: &FetchTopic) -> TopicKey {
    match uses_ids {
        true => TopicKey::Id(TopicId(topic.topic_id)),
        false => TopicKey::Name(topic.topic.as_str().into()),
    }
}

/// A waiter registered with the partitions of a fetch; leaves them when dropped, also when the client has
/// gone.
struct Registered<'a> {
    waiter: FetchWaiter,
    /// Some partition has too many waiters already.
    must_poll: bool,
    targets: &'a [Target],
}

impl<'a> Registered<'a> {
    fn new(targets: &'a [Target]) -> Registered<'a> {
        let waiter = FetchWaiter::default();
        let mut must_poll = false;
        for partition in partitions(targets) {
            must_poll |= !partition.wait_for_data(&waiter);
        }
        Registered { waiter, must_poll, targets }
    }

    /// Waits for news, or until it is time to look again.
    async fn news(&self, deadline: Instant) {
        let poll = Instant::now() + Duration::from_millis(FETCH_POLL_MS);
        let until = if self.must_poll { deadline.min(poll) } else { deadline };
        // Whether woken or not, the caller looks.
        let _ = tokio::time::timeout_at(until, self.waiter.notified()).await;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        for partition in partitions(self.targets) {
            partition.forget_waiter(&self.waiter);
        }
    }
}

fn partitions(targets: &[Target]) -> impl Iterator<Item = &Arc<Partition>> {
    targets.iter().filter_map(|target| target.as_ref().ok())
}

impl Fetch {
    /// Whether the answer need not wait: enough bytes, or something that the client must know.
    fn is_enough(&self, collected: &Collected) -> bool {
        collected.bytes >= self.min_bytes || collected.is_urgent || self.targets.is_empty()
    }

    /// Waits until there is enough, the client's time is up or the node stops.
    async fn wait(mut self, mut collected: Collected) -> Result<Reply, CloseReason> {
        let deadline = Instant::now() + self.max_wait;
        let mut skipped = Skipped::default();
        loop {
            if collected.tier.is_empty() && !self.is_enough(&collected) {
                collected = self.gather(deadline).await;
            }
            let mut memory = self.read_tier(&mut collected, deadline).await;
            if collected.must_sift
                && self.sift(&mut collected, &mut memory, &mut skipped, deadline).await
                && !self.node.is_stopping()
            {
                // Nothing that was found may be shown: on to what follows.
                collected = self.collect();
                continue;
            }
            skipped.tell(&mut collected);
            let mut reply = self.answer(collected)?;
            reply.memory = memory;
            return Ok(reply);
        }
    }

    /// Looks until there is enough or the time is up.
    async fn gather(&self, deadline: Instant) -> Collected {
        let registered = Registered::new(&self.targets);
        loop {
            // After registering and after every wake-up: whatever moved before is seen here.
            let collected = self.collect();
            let is_done = !collected.tier.is_empty() || self.is_enough(&collected);
            if is_done || self.node.is_stopping() || Instant::now() >= deadline {
                return collected;
            }
            registered.news(deadline).await;
        }
    }
}
