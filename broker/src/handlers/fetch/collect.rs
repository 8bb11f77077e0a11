//! One look at every partition of a fetch, in order, within the fetch's bytes.

use std::sync::Arc;

use highwater_model::limits::{SIFT_BYTES_MAX, TIER_PARTITIONS_PER_FETCH_MAX};
use highwater_model::{Expiry, NodeId, OffsetBounds};
use highwater_wire::fetch_response::{Chunk, EpochEnd};

use super::{FOLLOWERS_SINCE, Fetch};
use crate::core::fetch_plan::{FetchBudget, Grant};
use crate::core::fetch_session::{FetchContext, TopicKey, Want};
use crate::handlers::errors;
use crate::handlers::topics::{find_partition, unavailable_code};
use crate::node::Node;
use crate::partition::{LocalRead, Look, Partition, ReadRefusal};

/// A partition to fetch from, or the error code why it is none.
pub(super) type Target = Result<Arc<Partition>, i16>;

/// What was found for one target.
#[derive(Default)]
pub(super) struct Finding {
    pub code: i16,
    pub bounds: Option<OffsetBounds>,
    pub diverging: Option<EpochEnd>,
    /// From the tier; comes before what is local.
    pub rebuilt: Vec<Chunk>,
    pub local: LocalRead,
    /// Not everything of the partition may be shown.
    pub expiry: Option<Expiry>,
    /// A replica nearer to the client, which it had better ask (KIP-392).
    pub preferred: Option<i32>,
}

impl Finding {
    pub fn error(code: i16) -> Finding {
        Finding { code, ..Finding::default() }
    }
}

/// A read from the tier that the fetch needs.
pub(super) struct TierWant {
    /// Index of the target.
    pub target: usize,
    pub start: i64,
    pub bytes: usize,
}

/// The state of a fetch after one look.
#[derive(Default)]
pub(super) struct Collected {
    pub findings: Vec<Finding>,
    pub tier: Vec<TierWant>,
    /// What counts for the client's minimum.
    pub bytes: usize,
    /// Something that the client must be told now.
    pub is_urgent: bool,
    /// Something of it has to be sifted first.
    pub must_sift: bool,
    /// Bytes that will be.
    sift_bytes: usize,
}

impl Collected {
    /// What may be read of a partition: what is to be sifted is read into memory, so all of it together is
    /// limited.
    fn share(&self, expires: bool, grant: Option<Grant>) -> Option<Grant> {
        let Some(grant) = grant.filter(|_| expires) else { return grant };
        let left = SIFT_BYTES_MAX.saturating_sub(self.sift_bytes);
        (left > 0).then(|| Grant { bytes: grant.bytes.min(left), ..grant })
    }

    fn will_sift(&mut self, bytes: usize) {
        self.must_sift = true;
        self.sift_bytes += bytes;
    }
}

/// The partitions behind the targets of a context.
pub(super) fn resolve(node: &Node, context: &FetchContext) -> Vec<Target> {
    let view = node.partitions.view();
    let find = |key: &TopicKey| match key {
        TopicKey::Name(name) => view.by_name(name).ok_or(errors::UNKNOWN_TOPIC_OR_PARTITION),
        TopicKey::Id(id) => view.by_id(*id).ok_or(errors::UNKNOWN_TOPIC_ID),
    };
    let targets = context.targets.iter();
    targets.map(|(key, _)| find_partition(find(&key.topic)?, key.partition).cloned()).collect()
}

impl Fetch {
    /// Looks at every partition; reads nothing but index entries.
    pub(super) fn collect(&self) -> Collected {
        let mut collected = Collected::default();
        collected.findings.reserve(self.targets.len());
        let mut budget = FetchBudget::new(self.max_bytes, self.node.settings.fetch_bytes_max);
        for (at, ((_, want), target)) in self.context.targets.iter().zip(&self.targets).enumerate() {
            let finding = match target {
                Err(code) => Finding::error(*code),
                Ok(partition) => self.look_at(at, partition, want, &mut budget, &mut collected),
            };
            collected.is_urgent |=
                finding.code != errors::NONE || finding.diverging.is_some() || finding.preferred.is_some();
            collected.findings.push(finding);
        }
        collected
    }

    fn look_at(
        &self,
        at: usize,
        partition: &Partition,
        want: &Want,
        budget: &mut FetchBudget,
        collected: &mut Collected,
    ) -> Finding {
        if let Some(preferred) = self.nearer_replica(partition, want) {
            let bounds = partition.bounds().ok();
            return Finding { bounds, preferred: Some(preferred), ..Finding::default() };
        }
        let granted = budget.grant(want.bytes_max);
        let expiry = partition.expiry(self.node.now_ms());
        let grant = collected.share(expiry.is_some(), granted);
        let needs_leader = self.version < FOLLOWERS_SINCE;
        let (look, bounds) = match partition.look_as(want, grant, needs_leader, self.isolation) {
            Ok(found) => found,
            Err(refusal) => return Finding::error(self.refused(partition, &refusal)),
        };
        let mut finding = Finding { bounds: Some(bounds), expiry, ..Finding::default() };
        if let Look::Damaged(damage) = &look {
            self.node.metrics.local_damage.inc();
            self.refused(partition, damage);
        }
        match look {
            Look::Empty => {}
            Look::Local(local) => {
                budget.spend(local.bytes);
                // Slices end at batches, below the limit; whoever waits for as much as he allows must not
                // wait when there is more.
                let granted = granted.filter(|_| local.is_limited).map_or(0, |grant| grant.bytes);
                collected.bytes += local.bytes.max(granted);
                if expiry.is_some() && local.bytes > 0 {
                    collected.will_sift(local.bytes);
                }
                finding.local = local;
            }
            Look::Tier { .. } | Look::Damaged(_) => {
                if let Some(grant) = grant.filter(|_| collected.tier.len() < TIER_PARTITIONS_PER_FETCH_MAX) {
                    budget.spend(grant.bytes.max(1));
                    if expiry.is_some() {
                        collected.will_sift(grant.bytes.max(1));
                    }
                    collected.tier.push(TierWant {
                        target: at,
                        start: want.fetch_offset,
                        bytes: grant.bytes,
                    });
                }
            }
            Look::NotLeader => return Finding::error(errors::NOT_LEADER_OR_FOLLOWER),
            Look::OutOfRange => return Finding::error(errors::OFFSET_OUT_OF_RANGE),
            Look::Fenced => return Finding::error(errors::FENCED_LEADER_EPOCH),
            Look::UnknownEpoch => return Finding::error(errors::UNKNOWN_LEADER_EPOCH),
            Look::Diverging { epoch, end_offset } => finding.diverging = Some(EpochEnd { epoch, end_offset }),
        }
        finding
    }

    /// The replica in the client's rack that it had better ask, where the leader is in another one (KIP-392):
    /// in sync, alive, and with the offset; of several the one that has most.
    fn nearer_replica(&self, partition: &Partition, want: &Want) -> Option<i32> {
        let terms = partition.terms();
        if self.rack.is_empty() || !terms.is_leader {
            return None;
        }
        let near: Vec<NodeId> = self.node.coordinator.with_state(|state| {
            let in_rack = |node: &NodeId| {
                let broker = state.brokers.get(node);
                broker.is_some_and(|b| !b.is_fenced && b.rack.as_deref() == Some(self.rack.as_ref()))
            };
            let record = state.partition(partition.tp);
            record.map(|r| r.isr.iter().copied().filter(in_rack).collect()).unwrap_or_default()
        });
        if near.is_empty() || near.contains(&self.node.settings.node_id) {
            return None;
        }
        let ends = partition.follower_ends();
        let has_it = ends.into_iter().filter(|(node, end)| near.contains(node) && *end >= want.fetch_offset);
        let (node, _) = has_it.max_by_key(|(node, end)| (*end, std::cmp::Reverse(*node)))?;
        i32::try_from(node).ok()
    }

    /// The code for a refused read; what an operator must see is logged.
    pub(super) fn refused(&self, partition: &Partition, refusal: &ReadRefusal) -> i16 {
        match refusal {
            ReadRefusal::Unavailable(unavailable) => unavailable_code(unavailable),
            e => {
                tracing::error!(topic = %partition.topic, partition = partition.tp.partition, "cannot read: {e}");
                errors::KAFKA_STORAGE_ERROR
            }
        }
    }
}
