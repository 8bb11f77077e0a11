//! The follower's end: one task per leader, which names positions, takes what comes, and begins anew when the
//! stream breaks.
//!
//! A position is named again when it was answered, when the leader changes, when what is on this disk has
//! moved (the leader may wait for that), and, after a pause, when it was refused. Records are written where
//! they are received, as a leader's appends are (docs/adr/0005); what syncs, on a thread for that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_model::limits::{
    REPLICA_FAILED_RETRY_MS, REPLICA_FETCHES_PER_MESSAGE_MAX, REPLICA_MESSAGE_BYTES_MAX,
    REPLICA_MESSAGES_PENDING, REPLICA_RECONNECT_MS_MAX, REPLICA_RETRY_MS,
};
use highwater_model::{LeaderEpoch, NodeId, TopicPartition};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Status;

use super::proto::replication_client::ReplicationClient;
use super::proto::{FollowerFetches, FollowerHello, LeaderAnswers};
use super::throttle::{Bounds, Side};
use super::{PROTOCOL, PROTOCOL_MIN, wire};
use crate::node::Node;
use crate::partition::{NewsListener, Partition};
use crate::replica::{AnswerContent, FetchAnswer, TakeError, Taken};

/// What is followed at one leader.
type Followed = HashMap<TopicPartition, Follows>;

/// One partition that is followed.
#[derive(Clone)]
struct Follows {
    /// Another one means to ask again.
    leader_epoch: LeaderEpoch,
    partition: Arc<Partition>,
    /// The throttles that it is under while it has to catch up.
    bounds: Bounds,
}

impl Follows {
    fn is_same_log(&self, other: &Follows) -> bool {
        self.leader_epoch == other.leader_epoch && Arc::ptr_eq(&self.partition, &other.partition)
    }
}

/// Follows every leader that this node has to, until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    let mut changes = node.watch_replicas();
    let mut leaders: HashMap<NodeId, watch::Sender<Arc<Followed>>> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        changes.mark_unchanged();
        let mut wanted = followed(&node);
        leaders.retain(|leader, partitions| {
            let now = wanted.remove(leader).unwrap_or_default();
            let is_over = now.is_empty();
            // Most changes of the metadata are none of what is followed.
            if !is_same(&partitions.borrow(), &now) {
                partitions.send_replace(Arc::new(now));
            }
            !is_over
        });
        for (leader, partitions) in wanted {
            let (tell, told) = watch::channel(Arc::new(partitions));
            tasks.spawn(follow(node.clone(), leader, told));
            leaders.insert(leader, tell);
        }
        let mut has_failed = false;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next() => {
                if let Err(panic) = ended {
                    tracing::error!("following a leader has ended by a defect: {panic}; it is begun anew");
                    has_failed = true;
                }
                forget_ended(&mut leaders);
            }
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
        if has_failed {
            tokio::time::sleep(Duration::from_millis(REPLICA_RECONNECT_MS_MAX)).await;
        }
    }
    tasks.shutdown().await;
}

/// Leaders whose task has ended are followed anew if there is anything to follow.
fn forget_ended(leaders: &mut HashMap<NodeId, watch::Sender<Arc<Followed>>>) {
    leaders.retain(|_, partitions| !partitions.is_closed());
}

/// The partitions that this node follows, by leader.
fn followed(node: &Node) -> HashMap<NodeId, Followed> {
    let mut by_leader: HashMap<NodeId, Followed> = HashMap::new();
    let (state, own) = (node.coordinator.state(), node.settings.node_id);
    for partition in node.partitions.view().partitions() {
        let terms = partition.terms();
        if let Some(leader) = terms.leader.filter(|_| !terms.is_leader && terms.raft.is_none()) {
            let bounds = Bounds::of(&state, partition.tp, own, (Side::Follower, own));
            let follows = Follows { leader_epoch: terms.leader_epoch, partition: partition.clone(), bounds };
            by_leader.entry(leader).or_default().insert(partition.tp, follows);
        }
    }
    by_leader
}

fn is_same(known: &Followed, now: &Followed) -> bool {
    let same = |(tp, follows): (&TopicPartition, &Follows)| {
        now.get(tp).is_some_and(|f| f.is_same_log(follows) && f.bounds == follows.bounds)
    };
    known.len() == now.len() && known.iter().all(same)
}

/// Partitions whose position is to be named (again).
#[derive(Default)]
struct Due {
    partitions: Mutex<HashSet<TopicPartition>>,
    arrived: Notify,
}

impl Due {
    fn take(&self) -> HashSet<TopicPartition> {
        std::mem::take(&mut *self.partitions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl NewsListener for Due {
    fn news(&self, tp: TopicPartition) {
        if self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(tp) {
            self.arrived.notify_one();
        }
    }
}

/// Follows one leader until nothing is to be followed there any more.
async fn follow(node: Arc<Node>, leader: NodeId, mut partitions: watch::Receiver<Arc<Followed>>) {
    let mut pause_ms = REPLICA_RETRY_MS;
    loop {
        if partitions.borrow().is_empty() || partitions.has_changed().is_err() {
            return;
        }
        let mut follower = Follower::new(&node, &partitions);
        match follower.stream(leader, &mut partitions).await {
            Ok(()) => return,
            Err(broken) => {
                let reason = broken.message();
                tracing::debug!(leader, reason, "replication stream ended");
                if broken.code() == tonic::Code::FailedPrecondition {
                    tracing::error!(leader, "cannot replicate: {reason}");
                }
            }
        }
        if follower.has_received {
            pause_ms = REPLICA_RETRY_MS;
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        pause_ms = (pause_ms * 2).min(REPLICA_RECONNECT_MS_MAX);
    }
}

/// One stream to a leader.
struct Follower {
    node: Arc<Node>,
    partitions: Arc<Followed>,
    due: Arc<Due>,
    listener: Arc<dyn NewsListener>,
    /// Refused, or held back by a throttle: to be asked again at the next tick.
    refused: HashSet<TopicPartition>,
    /// What came could not be taken: to be asked again after a longer while.
    failed: HashSet<TopicPartition>,
    has_received: bool,
}

impl Follower {
    fn new(node: &Arc<Node>, partitions: &watch::Receiver<Arc<Followed>>) -> Follower {
        let due = Arc::new(Due::default());
        let mut follower = Follower {
            node: node.clone(),
            partitions: Arc::default(),
            listener: due.clone(),
            due,
            refused: HashSet::new(),
            failed: HashSet::new(),
            has_received: false,
        };
        follower.take_over(partitions.borrow().clone());
        follower
    }

    /// Follows these partitions from now on; what is new or has another leader epoch is named. Returns what
    /// is no longer followed.
    fn take_over(&mut self, partitions: Arc<Followed>) -> Vec<TopicPartition> {
        let dropped = self.partitions.keys().filter(|tp| !partitions.contains_key(tp)).copied().collect();
        for (tp, follows) in partitions.iter() {
            if self.partitions.get(tp).is_none_or(|known| !known.is_same_log(follows)) {
                follows.partition.listen(&self.listener);
                self.due.news(*tp);
            }
        }
        self.partitions = partitions;
        dropped
    }

    /// Ok when there is nothing to follow any more.
    async fn stream(
        &mut self,
        leader: NodeId,
        partitions: &mut watch::Receiver<Arc<Followed>>,
    ) -> Result<(), Status> {
        let (requests, inbox) = mpsc::channel(REPLICA_MESSAGES_PENDING);
        let mut inbox = inbox;
        let outgoing = futures::stream::poll_fn(move |context| inbox.poll_recv(context));
        let channel = connect(&self.node, leader)?;
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(REPLICA_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(REPLICA_MESSAGE_BYTES_MAX);
        let hello = FollowerHello {
            protocol: PROTOCOL,
            protocol_min: PROTOCOL_MIN,
            cluster_id: self.node.coordinator.cluster_id(),
            node_id: self.node.settings.node_id,
        };
        let first = FollowerFetches { hello: Some(hello), ..FollowerFetches::default() };
        let mut outbox = VecDeque::from([first]);
        // The stream is answered once it has begun.
        requests.try_send(outbox.pop_front().expect("put there")).expect("an empty channel has room");
        let mut answers = client.replicate(outgoing).await?.into_inner();
        let (mut retry, mut retry_failed) = (every(REPLICA_RETRY_MS), every(REPLICA_FAILED_RETRY_MS));
        loop {
            if outbox.is_empty() {
                outbox.extend(self.due_fetches());
            }
            // Sending never keeps from receiving: else each side could wait for the other to read.
            tokio::select! {
                permit = requests.reserve(), if !outbox.is_empty() => {
                    let permit = permit.map_err(|_| Status::unavailable("the stream has ended"))?;
                    permit.send(outbox.pop_front().expect("not empty"));
                }
                answered = answers.message() => match answered? {
                    Some(message) => self.take(message).await?,
                    None => return Err(Status::unavailable("the leader ended the stream")),
                },
                () = self.due.arrived.notified(), if outbox.is_empty() => {}
                _ = retry.tick(), if !self.refused.is_empty() => {
                    for tp in std::mem::take(&mut self.refused) {
                        self.due.news(tp);
                    }
                }
                _ = retry_failed.tick(), if !self.failed.is_empty() => {
                    for tp in std::mem::take(&mut self.failed) {
                        self.due.news(tp);
                    }
                }
                changed = partitions.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = partitions.borrow_and_update().clone();
                    if now.is_empty() {
                        return Ok(());
                    }
                    let dropped: Vec<_> = self.take_over(now).into_iter().map(wire::key).collect();
                    if !dropped.is_empty() {
                        outbox.push_back(FollowerFetches { dropped, ..FollowerFetches::default() });
                    }
                }
            }
        }
    }

    /// The positions that are due, in messages of bounded size. What a throttle holds back is due again at
    /// the next tick.
    fn due_fetches(&mut self) -> Vec<FollowerFetches> {
        let due = self.due.take();
        if due.is_empty() {
            return Vec::new();
        }
        let broker_epoch = self.node.isr.broker_epoch();
        let fetches: Vec<_> = due
            .into_iter()
            .filter_map(|tp| {
                let follows = self.partitions.get(&tp)?;
                // What is lost here may be filled once nobody counts on it (`workers/damage.rs`). And who has
                // no room waits outside the in-sync set, or acknowledgements would wait for it.
                if follows.partition.has_lost() && counts_on_this(&self.node, tp)
                    || self.node.disk.is_full() && !is_in_sync(&self.node, tp)
                {
                    self.refused.insert(tp);
                    return None;
                }
                if self.node.throttle.wait(&self.node, Side::Follower, follows.bounds).is_some() {
                    self.refused.insert(tp);
                    return None;
                }
                let fetch = follows.partition.next_fetch(broker_epoch)?;
                Some(wire::fetch_message(tp, &fetch))
            })
            .collect();
        let messages = fetches.chunks(REPLICA_FETCHES_PER_MESSAGE_MAX);
        messages
            .map(|part| FollowerFetches { fetches: part.to_vec(), ..FollowerFetches::default() })
            .collect()
    }

    /// Takes the leader's answers; what was answered is named again.
    async fn take(&mut self, message: LeaderAnswers) -> Result<(), Status> {
        self.has_received = true;
        for answer in message.answers {
            let (tp, answer) = wire::answer(answer).map_err(|e| Status::internal(e.to_string()))?;
            let Some(follows) = self.partitions.get(&tp).cloned() else { continue };
            match take_one(&self.node, &follows.partition, answer).await {
                Ok(taken) => {
                    self.node.throttle.passed(Side::Follower, follows.bounds, taken.appended_bytes);
                    self.due.news(tp);
                }
                Err(error) => {
                    tell(&follows.partition, &error);
                    match error {
                        TakeError::Refused(_) => self.refused.insert(tp),
                        _ => self.failed.insert(tp),
                    };
                }
            }
        }
        Ok(())
    }
}

/// Ticks that nobody waited for do not come all at once: each is a pause.
fn every(pause_ms: u64) -> Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(pause_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Whether the control plane holds this node's replica to have everything that is committed.
fn counts_on_this(node: &Node, tp: TopicPartition) -> bool {
    let own = node.settings.node_id;
    node.coordinator.with_state(|state| state.partition(tp).is_some_and(|record| record.counts_on(own)))
}

fn is_in_sync(node: &Node, tp: TopicPartition) -> bool {
    let own = node.settings.node_id;
    node.coordinator.with_state(|state| state.partition(tp).is_some_and(|record| record.isr.contains(&own)))
}

async fn take_one(
    node: &Arc<Node>,
    partition: &Arc<Partition>,
    answer: FetchAnswer,
) -> Result<Taken, TakeError> {
    let now_ms = node.now_ms();
    if matches!(answer.content, AnswerContent::Records(_) | AnswerContent::Refused(_)) {
        return partition.take_answer(node, now_ms, &answer);
    }
    let (node, partition) = (node.clone(), partition.clone());
    let took = tokio::task::spawn_blocking(move || partition.take_answer(&node, now_ms, &answer));
    took.await.expect("a replica's step does not panic")
}

/// Refusals come and go with elections; the rest an operator has to see.
fn tell(partition: &Partition, error: &TakeError) {
    let (topic, index) = (&partition.topic, partition.tp.partition);
    match error {
        TakeError::Refused(refusal) => tracing::debug!(%topic, partition = index, "leader: {refusal}"),
        error => tracing::warn!(%topic, partition = index, "replication: {error}"),
    }
}

fn connect(node: &Node, leader: NodeId) -> Result<tonic::transport::Channel, Status> {
    let address = node.coordinator.with_state(|state| state.brokers.get(&leader).map(|b| b.grpc.clone()));
    let address = address.filter(|address| !address.is_empty());
    let address = address.ok_or_else(|| Status::unavailable("the leader's gRPC address is not known"))?;
    Ok(highwater_coordinator::rpc::endpoint(&address)?.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn after_a_rest_retries_are_paused_all_the_same() {
        assert_eq!(every(REPLICA_RETRY_MS).missed_tick_behavior(), MissedTickBehavior::Delay);
    }

    #[test]
    fn a_leader_whose_task_has_ended_is_followed_anew() {
        let (alive, _told) = watch::channel(Arc::new(Followed::new()));
        let (ended, told) = watch::channel(Arc::new(Followed::new()));
        drop(told);
        let mut leaders = HashMap::from([(1, alive), (2, ended)]);
        forget_ended(&mut leaders);
        assert_eq!(leaders.into_keys().collect::<Vec<_>>(), [1]);
    }
}
