//! The throttles of replication on this node: what moves may use (`move-bytes-per-second`), and what Kafka's
//! throttled replicas may (KIP-73, `kafka-reassign-partitions --throttle`).
//!
//! Only replicas that are not in sync wait; those that are must not, or a throttle would cost
//! acknowledgements. Each side keeps its own count of what it sends or takes. Rates are read as the metadata
//! has them now. Must not: hold its lock while anything waits (invariant 7).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_coordinator::core::{
    BrokerConfigs, ClusterState, FOLLOWER_THROTTLED_RATE, LEADER_THROTTLED_RATE,
};
use highwater_model::{NodeId, TopicConfig, TopicPartition};
use tokio::time::Instant;

use crate::core::throttle::TokenBucket;
use crate::node::Node;

/// Which end of the stream this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Leader,
    Follower,
}

/// Which bounds a replica that has to catch up is under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// A move adds it.
    pub is_moving: bool,
    /// The topic lists this node for the partition, on this side: a leader lists itself, whoever follows.
    pub is_listed: bool,
}

impl Bounds {
    /// Those under which `follower` is filled, by node `own`; none where it is in sync.
    pub fn of(
        state: &ClusterState,
        tp: TopicPartition,
        follower: NodeId,
        (side, own): (Side, NodeId),
    ) -> Bounds {
        let Some(topic) = state.topic(tp.topic_id) else { return Bounds::default() };
        let Some(partition) = topic.partition(tp.partition) else { return Bounds::default() };
        if partition.isr.contains(&follower) {
            return Bounds::default();
        }
        let is_listed = is_listed(&topic.config, tp.partition, side, own);
        Bounds { is_moving: partition.adding.contains(&follower), is_listed }
    }

    fn is_free(self) -> bool {
        self == Bounds::default()
    }
}

/// As in Kafka: `kafka-reassign-partitions --throttle` lists the replicas that lead, or may, for the leader's
/// side, and those that are added for the follower's.
fn is_listed(config: &TopicConfig, partition: i32, side: Side, own: NodeId) -> bool {
    let listed = match side {
        Side::Leader => &config.leader_throttled,
        Side::Follower => &config.follower_throttled,
    };
    listed.contains(partition, own)
}

/// The counts of one side.
struct Buckets {
    moves: TokenBucket,
    listed: TokenBucket,
}

struct Inner {
    /// The settings that the rates were read from.
    configs: Arc<BrokerConfigs>,
    leader: Buckets,
    follower: Buckets,
}

/// See the module's text.
pub struct Throttle {
    began: Instant,
    node_id: NodeId,
    inner: Mutex<Inner>,
}

impl Throttle {
    /// `move_rate`: bytes per second, 0 for no limit.
    pub fn new(node_id: NodeId, move_rate: u64) -> Throttle {
        let side = || Buckets {
            moves: TokenBucket::new(0, Some(move_rate).filter(|rate| *rate > 0)),
            listed: TokenBucket::new(0, None),
        };
        let inner = Inner { configs: Arc::default(), leader: side(), follower: side() };
        Throttle { began: Instant::now(), node_id, inner: Mutex::new(inner) }
    }

    /// How long a replica under these bounds has to wait; none if it need not.
    pub fn wait(&self, node: &Node, side: Side, bounds: Bounds) -> Option<Duration> {
        if bounds.is_free() {
            return None;
        }
        let configs = node.coordinator.with_state(|state| state.broker_configs.clone());
        let wait_ms = self.wait_ms(self.now_ms(), &configs, side, bounds);
        (wait_ms > 0).then(|| Duration::from_millis(wait_ms))
    }

    /// Counts what was sent or taken.
    pub fn passed(&self, side: Side, bounds: Bounds, bytes: u64) {
        if bounds.is_free() || bytes == 0 {
            return;
        }
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = inner.side(side);
        if bounds.is_moving {
            buckets.moves.take(now_ms, bytes);
        }
        if bounds.is_listed {
            buckets.listed.take(now_ms, bytes);
        }
    }

    fn wait_ms(&self, now_ms: u64, configs: &Arc<BrokerConfigs>, side: Side, bounds: Bounds) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&inner.configs, configs) {
            inner.configs = configs.clone();
            let rate = |name| configs.rate(self.node_id, name);
            inner.leader.listed.set_rate(now_ms, rate(LEADER_THROTTLED_RATE));
            inner.follower.listed.set_rate(now_ms, rate(FOLLOWER_THROTTLED_RATE));
        }
        let buckets = inner.side(side);
        let moves = if bounds.is_moving { buckets.moves.wait_ms(now_ms) } else { 0 };
        let listed = if bounds.is_listed { buckets.listed.wait_ms(now_ms) } else { 0 };
        moves.max(listed)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Inner {
    fn side(&mut self, side: Side) -> &mut Buckets {
        match side {
            Side::Leader => &mut self.leader,
            Side::Follower => &mut self.follower,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(rate: &str) -> Arc<BrokerConfigs> {
        let own = [(FOLLOWER_THROTTLED_RATE.to_owned(), rate.to_owned())].into();
        Arc::new(BrokerConfigs { of: [(2, own)].into(), ..BrokerConfigs::default() })
    }

    #[test]
    fn each_side_and_each_bound_counts_for_itself() {
        let throttle = Throttle::new(2, 1_000);
        let none = Arc::new(BrokerConfigs::default());
        let (moving, listed) =
            (Bounds { is_moving: true, is_listed: false }, Bounds { is_moving: false, is_listed: true });
        throttle.passed(Side::Leader, moving, 1_000_000);
        throttle.passed(Side::Leader, listed, 1_000_000);
        let wait = |configs: &Arc<BrokerConfigs>, side, bounds| throttle.wait_ms(100, configs, side, bounds);
        assert!(wait(&none, Side::Leader, moving) > 0);
        assert_eq!(wait(&none, Side::Leader, listed), 0, "no rate was set");
        assert_eq!(wait(&none, Side::Follower, moving), 0);
        assert_eq!(wait(&configs("10"), Side::Follower, listed), 0, "nothing was taken under it yet");
        throttle.passed(Side::Follower, listed, 1_000_000);
        assert!(wait(&configs("10"), Side::Follower, listed) > 0);
        assert_eq!(wait(&none, Side::Follower, listed), 0, "the setting was deleted");
    }

    #[test]
    fn a_replica_in_sync_is_under_no_bound() {
        let state = ClusterState::default();
        assert_eq!(Bounds::of(&state, nowhere(), 1, (Side::Leader, 2)), Bounds::default());
        assert!(Bounds::default().is_free());
    }

    /// What the stock tool sets when partition 0 moves from nodes 1 and 2 to nodes 2 and 3.
    #[test]
    fn each_node_looks_for_itself_in_the_list_of_its_side() {
        let overrides = [
            ("leader.replication.throttled.replicas".to_owned(), "0:1,0:2".to_owned()),
            ("follower.replication.throttled.replicas".to_owned(), "0:3".to_owned()),
        ];
        let config = TopicConfig::from_overrides(&overrides.into()).expect("legal");
        let listed = |side| [1, 2, 3].map(|own| is_listed(&config, 0, side, own));
        assert_eq!(listed(Side::Leader), [true, true, false]);
        assert_eq!(listed(Side::Follower), [false, false, true]);
        assert!(!is_listed(&config, 1, Side::Leader, 1));
    }

    fn nowhere() -> TopicPartition {
        TopicPartition::new(highwater_model::TopicId(uuid::Uuid::nil()), 0)
    }
}
