//! The administration service: each call is one look at the node or one request to its workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_model::limits::{OFFLOAD_WAIT_DEFAULT, OFFLOAD_WAIT_MAX};
use tonic::{Request, Response, Status};

use super::cluster;
use super::proto::admin_server::Admin;
use super::proto::{
    ClusterDrainRequest, ClusterDrainResponse, ClusterMoveRequest, ClusterMoveResponse, ClusterStatusRequest,
    ClusterStatusResponse, LocalRange, OffloadedPartition, SealAlarm, TierDescribeRequest,
    TierDescribeResponse, TierOffloadRequest, TierOffloadResponse, TierPartition, TierStatusRequest,
    TierStatusResponse,
};
use crate::node::Node;
use crate::partition::Partition;
use crate::partition::registry::Topic;
use crate::status::{self, NodeStatus};
use crate::workers::offload::OffloadNowError;

pub struct AdminService {
    node: Arc<Node>,
}

impl AdminService {
    pub fn new(node: Arc<Node>) -> AdminService {
        AdminService { node }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>, Status> {
        let view = self.node.partitions.view();
        view.by_name(name).cloned().ok_or_else(|| unknown_topic(name))
    }
}

fn unknown_topic(name: &str) -> Status {
    Status::not_found(format!("there is no topic {name:?}"))
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn cluster_status(
        &self,
        _request: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        let coordinator = &self.node.coordinator;
        let (own, leader) = (self.node.settings.node_id, coordinator.leader());
        Ok(Response::new(cluster::status(&coordinator.state(), own, leader)))
    }

    async fn cluster_move(
        &self,
        request: Request<ClusterMoveRequest>,
    ) -> Result<Response<ClusterMoveResponse>, Status> {
        let partitions = cluster::begin_moves(&self.node.coordinator, request.into_inner()).await?;
        Ok(Response::new(ClusterMoveResponse { partitions }))
    }

    async fn cluster_drain(
        &self,
        request: Request<ClusterDrainRequest>,
    ) -> Result<Response<ClusterDrainResponse>, Status> {
        let asked = request.into_inner();
        let coordinator = &self.node.coordinator;
        let drained = coordinator.drain_broker(asked.node_id, asked.is_draining).await;
        drained.map_err(|error| cluster::refused(&error))?;
        let replicas = coordinator.with_state(|state| cluster::replicas_of(state, asked.node_id));
        Ok(Response::new(ClusterDrainResponse { replicas }))
    }

    async fn tier_status(
        &self,
        _request: Request<TierStatusRequest>,
    ) -> Result<Response<TierStatusResponse>, Status> {
        let status = NodeStatus::of(&self.node);
        let count = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let alarms = status.alarms.into_iter().map(|alarm| SealAlarm {
            topic: alarm.topic,
            partition: alarm.partition,
            reason: alarm.reason,
        });
        Ok(Response::new(TierStatusResponse {
            cluster_id: self.node.coordinator.cluster_id(),
            node_id: self.node.settings.node_id,
            object_store: self.node.store.url().to_owned(),
            topics: count(status.topics),
            partitions: count(status.partitions),
            objects: status.tier.objects,
            object_bytes: status.tier.bytes,
            raw_bytes: status.tier.raw_bytes,
            local_bytes: status.local_bytes,
            backlog_segments: count(status.backlog_segments),
            backlog_bytes: status.backlog_bytes,
            lag_ms: status.lag_ms,
            alarms: alarms.collect(),
        }))
    }

    async fn tier_describe(
        &self,
        request: Request<TierDescribeRequest>,
    ) -> Result<Response<TierDescribeResponse>, Status> {
        let topic = self.topic(&request.into_inner().topic)?;
        let partitions: Result<Vec<TierPartition>, Status> =
            topic.partitions().map(|partition| describe(partition)).collect();
        Ok(Response::new(TierDescribeResponse {
            topic: topic.name.to_string(),
            topic_id: topic.id.to_string(),
            partitions: partitions?,
        }))
    }

    async fn tier_offload(
        &self,
        request: Request<TierOffloadRequest>,
    ) -> Result<Response<TierOffloadResponse>, Status> {
        let request = request.into_inner();
        let wait = match request.deadline_ms {
            0 => OFFLOAD_WAIT_DEFAULT,
            ms => Duration::from_millis(ms).min(OFFLOAD_WAIT_MAX),
        };
        let topic = self.topic(&request.topic)?;
        let before: Vec<_> = topic.partitions().map(|p| (p.clone(), p.manifest().totals)).collect();
        let node = self.node.clone();
        // On a task of its own: a caller that hangs up does not leave the work half done.
        let work = tokio::spawn(async move { offload(&node, &request, wait).await });
        work.await.map_err(|_| Status::internal("the offload task panicked"))??;
        let mut partitions = Vec::with_capacity(before.len());
        for (partition, totals) in before {
            crate::workers::offload::refresh_manifest(&self.node, &partition);
            let after = partition.manifest().totals;
            let bounds = partition.bounds().map_err(|e| Status::unavailable(e.to_string()))?;
            partitions.push(OffloadedPartition {
                partition: partition.tp.partition,
                tiered_end: bounds.tiered_end,
                local_start: bounds.local_start,
                log_end: bounds.log_end,
                objects: after.objects.saturating_sub(totals.objects),
                object_bytes: after.bytes.saturating_sub(totals.bytes),
            });
        }
        Ok(Response::new(TierOffloadResponse { topic: topic.name.to_string(), partitions }))
    }
}

/// Offloads on every node that leads a part of the topic; then, if asked, drops the copies on every node.
async fn offload(node: &Arc<Node>, request: &TierOffloadRequest, wait: Duration) -> Result<(), Status> {
    let started = Instant::now();
    let told = |error: OffloadNowError| offload_status(&error, started.elapsed() >= wait);
    let others = if request.local_only { Vec::new() } else { cluster::others(node) };
    let evict = |evict| TierOffloadRequest { evict, local_only: true, ..request.clone() };
    let own = async { node.offload_now(&request.topic, wait).await.map_err(told) };
    let keep = evict(false);
    let (own, theirs) = tokio::join!(own, cluster::offload_on(&others, &keep, wait));
    own?;
    theirs?;
    if request.evict {
        node.evict_now(&request.topic).await.map_err(told)?;
        cluster::offload_on(&others, &evict(true), wait).await?;
    }
    Ok(())
}

fn offload_status(error: &OffloadNowError, is_late: bool) -> Status {
    match error {
        OffloadNowError::UnknownTopic(name) => unknown_topic(name),
        OffloadNowError::Partition { .. } if is_late => Status::deadline_exceeded(error.to_string()),
        OffloadNowError::NoTier(_) | OffloadNowError::Partition { .. } => {
            Status::failed_precondition(error.to_string())
        }
    }
}

fn describe(partition: &Partition) -> Result<TierPartition, Status> {
    let bounds = partition.bounds().map_err(|e| Status::unavailable(e.to_string()))?;
    let manifest = partition.manifest();
    let local = status::local_ranges(partition).into_iter().map(|range| LocalRange {
        start: range.start,
        end: range.end,
        bytes: range.bytes,
        reason: range.reason,
    });
    Ok(TierPartition {
        partition: partition.tp.partition,
        log_start: bounds.log_start,
        local_start: bounds.local_start,
        tiered_end: bounds.tiered_end,
        last_stable: bounds.last_stable,
        high_watermark: bounds.high_watermark,
        log_end: bounds.log_end,
        leader_epoch: partition.terms().leader_epoch,
        manifest_version: manifest.version,
        objects: manifest.totals.objects,
        object_bytes: manifest.totals.bytes,
        raw_bytes: manifest.totals.raw_bytes,
        local_bytes: partition.local_use().bytes,
        pages: u32::try_from(manifest.pages.len()).unwrap_or(u32::MAX),
        retiring: u32::try_from(manifest.retiring.len()).unwrap_or(u32::MAX),
        local: local.collect(),
    })
}
