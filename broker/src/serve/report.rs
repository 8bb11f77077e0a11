//! What a broker tells the control plane of itself now and then: how far and how busy the partitions are that
//! it leads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_coordinator::core::{BrokerReport, ClusterState, PartitionReport};
use highwater_model::TopicPartition;
use tokio::sync::watch;

use crate::core::rate::Rate;
use crate::node::Node;
use crate::partition::Partition;

/// How often it is looked up.
const REFRESH: Duration = Duration::from_secs(30);

type Rates = HashMap<TopicPartition, Rate>;

/// Ends with the node.
pub(super) async fn run(node: Arc<Node>, reports: watch::Sender<BrokerReport>) {
    let (began, mut stop, mut rates) = (Instant::now(), node.stopping(), Rates::new());
    loop {
        let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = report_of(&node, now_ms, &mut rates);
        reports.send_if_modified(|known| {
            let is_news = *known != now;
            *known = now;
            is_news
        });
        let wait = tokio::time::timeout(REFRESH, stop.wait_for(|stopping| *stopping));
        if wait.await.is_ok() {
            return;
        }
    }
}

fn report_of(node: &Node, now_ms: u64, rates: &mut Rates) -> BrokerReport {
    let own = node.settings.node_id;
    let view = node.partitions.view();
    let is_led = |partition: &&Arc<Partition>| {
        let leader = |state: &ClusterState| state.partition(partition.tp).and_then(|p| p.leader);
        node.coordinator.with_state(leader) == Some(own)
    };
    let mut next = Rates::new();
    let mut partitions = Vec::new();
    for partition in view.partitions().filter(is_led) {
        let mut rate = rates.get(&partition.tp).copied().unwrap_or_default();
        rate.look(now_ms, partition.traffic());
        next.insert(partition.tp, rate);
        partitions.push(PartitionReport {
            tp: partition.tp,
            log_end: partition.bounds().map_or(0, |bounds| bounds.log_end),
            local_bytes: partition.local_use().bytes,
            bytes_per_s: rate.bytes_per_s(),
        });
    }
    // Those that are led no more are forgotten.
    *rates = next;
    BrokerReport { partitions, ..BrokerReport::default() }
}
