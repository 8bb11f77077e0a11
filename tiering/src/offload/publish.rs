//! Listing an uploaded object, whatever happens to the proposal; and spilling pages so that the list stays
//! short.

use std::sync::Arc;
use std::time::Duration;

use highwater_log::{EpochStart, crash_point};
use highwater_model::limits::{
    OFFLOAD_PROPOSALS_MAX, OFFLOAD_PROPOSE_PAUSE_MS, OFFLOAD_SPILLS_MAX, OFFLOAD_STEP_MS_MAX,
};
use highwater_model::{LeaderEpoch, TopicPartition};

use super::{OffloadError, Offloader};
use crate::core::lanes::Lane;
use crate::core::manifest::{Edit, EditRequest, Manifest, ObjectEntry, Refusal};
use crate::core::names::TopicRef;
use crate::core::plan::spill_due;
use crate::lane::deadline_in;
use crate::port::ProposeError;

/// Where a publish stands after one proposal.
enum Standing {
    Listed(Arc<Manifest>),
    /// Propose again, against this manifest.
    Again(Arc<Manifest>),
    /// It is not listed and never will be.
    Lost(Refusal),
}

impl Offloader {
    pub(super) async fn publish(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        entry: &ObjectEntry,
        epochs: Vec<EpochStart>,
        manifest: Arc<Manifest>,
    ) -> Result<Arc<Manifest>, OffloadError> {
        let mut against = manifest;
        let mut last = String::new();
        // The version that a proposal of unknown outcome named: while the manifest stands there it may still
        // be applied.
        let mut in_flight: Option<u64> = None;
        for _ in 0..OFFLOAD_PROPOSALS_MAX {
            let edit = Edit::Publish { object: entry.clone(), epochs: epochs.clone() };
            let request = EditRequest { expected_version: against.version, leader_epoch, edit };
            match self.parts().port.propose(tp, request).await {
                Ok(listed) => return Ok(listed),
                Err(ProposeError::Failed(why)) => last = why,
                Err(ProposeError::Unknown(why)) => {
                    self.counters().unknown.add(1);
                    in_flight = Some(against.version);
                    last = why;
                }
                Err(ProposeError::Refused(refusal)) => {
                    match self.settle(topic, tp, leader_epoch, entry, Some(refusal)).await? {
                        Standing::Listed(manifest) => return Ok(manifest),
                        Standing::Again(manifest) => against = manifest,
                        Standing::Lost(refusal) => return Err(self.orphan(topic, tp, entry, refusal).await),
                    }
                    continue;
                }
            }
            tokio::time::sleep(Duration::from_millis(OFFLOAD_PROPOSE_PAUSE_MS)).await;
            match self.settle(topic, tp, leader_epoch, entry, None).await {
                Ok(Standing::Listed(manifest)) => return Ok(manifest),
                Ok(Standing::Again(manifest)) => against = manifest,
                Ok(Standing::Lost(refusal)) => return Err(self.orphan(topic, tp, entry, refusal).await),
                // The control plane is away; what was proposed is as unknown as before.
                Err(e) => last = e.to_string(),
            }
        }
        match in_flight {
            Some(version) if version == against.version => Err(OffloadError::Unknown(last)),
            _ => {
                self.delete_orphan(topic, tp, entry).await;
                Err(OffloadError::NotProposed(last))
            }
        }
    }

    /// Reads the manifest back and says where the publish stands. `refusal`: what a proposal was just told.
    async fn settle(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        entry: &ObjectEntry,
        refusal: Option<Refusal>,
    ) -> Result<Standing, OffloadError> {
        let manifest = self.parts().port.read(tp).await?;
        if self.is_listed(topic, tp, &manifest, entry).await? {
            return Ok(Standing::Listed(manifest));
        }
        let (tiered_end, current) = (manifest.tiered_end, manifest.generation);
        if current > leader_epoch {
            return Ok(Standing::Lost(Refusal::StaleEpoch { given: leader_epoch, current }));
        }
        if tiered_end != entry.start {
            return Ok(Standing::Lost(Refusal::Overlap { start: entry.start, tiered_end }));
        }
        Ok(match refusal {
            // The list is full: room must be made before the same object can be listed.
            Some(Refusal::InlineFull { .. }) => {
                Standing::Again(self.spill(topic, tp, leader_epoch, manifest).await?)
            }
            Some(Refusal::StaleVersion { .. }) | None => Standing::Again(manifest),
            Some(other) => Standing::Lost(other),
        })
    }

    async fn is_listed(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        manifest: &Manifest,
        entry: &ObjectEntry,
    ) -> Result<bool, OffloadError> {
        if manifest.entry_of(entry.upload_id).is_some() {
            return Ok(true);
        }
        if manifest.tiered_end <= entry.start || manifest.log_start >= entry.end {
            return Ok(false);
        }
        // Spilled meanwhile, perhaps.
        let scope = self.scope(topic, tp, Lane::Upload);
        let at = entry.start.max(manifest.log_start);
        let found = self.parts().pages.entry_at(scope, manifest, at).await?;
        Ok(found.is_some_and(|e| e.upload_id == entry.upload_id))
    }

    async fn orphan(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        entry: &ObjectEntry,
        refusal: Refusal,
    ) -> OffloadError {
        tracing::info!(topic = topic.name, partition = tp.partition, %refusal, "an uploaded object was not published");
        self.delete_orphan(topic, tp, entry).await;
        ProposeError::Refused(refusal).into()
    }

    /// Deletes an object that is not listed and can never be.
    async fn delete_orphan(&self, topic: &TopicRef, tp: TopicPartition, entry: &ObjectEntry) {
        self.counters().orphans.add(1);
        let key = self.parts().names.object(topic, tp.partition, entry);
        let deadline = deadline_in(OFFLOAD_STEP_MS_MAX / 6);
        if let Err(e) = self.parts().store.delete(&[key], deadline).await {
            tracing::info!("an orphaned object stays for the sweep: {e}");
        }
    }

    /// Spills what is due; each step is a page that is written and then listed.
    pub(super) async fn spill(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        manifest: Arc<Manifest>,
    ) -> Result<Arc<Manifest>, OffloadError> {
        let mut manifest = manifest;
        for _ in 0..OFFLOAD_SPILLS_MAX {
            let Some(plan) = spill_due(&manifest) else { break };
            let scope = self.scope(topic, tp, Lane::Upload);
            let page = self.parts().pages.write(scope, leader_epoch, plan).await?;
            crash_point("spill-page-written");
            let edit = Edit::Spill { page };
            let request = EditRequest { expected_version: manifest.version, leader_epoch, edit };
            manifest = self.parts().port.propose(tp, request).await?;
            self.counters().pages_spilled.add(1);
        }
        Ok(manifest)
    }

    /// As `spill`, after a publish: what cannot be spilled now is spilled with the next segment.
    pub(super) async fn spill_quietly(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        leader_epoch: LeaderEpoch,
        manifest: Arc<Manifest>,
    ) -> Arc<Manifest> {
        match self.spill(topic, tp, leader_epoch, manifest.clone()).await {
            Ok(spilled) => spilled,
            Err(e) => {
                tracing::warn!(topic = topic.name, partition = tp.partition, "spilling was put off: {e}");
                manifest
            }
        }
    }
}
