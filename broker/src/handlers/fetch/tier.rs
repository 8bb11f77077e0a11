//! The part of a fetch that only the tier has: several partitions in parallel, within a memory budget and a
//! deadline.
//!
//! A read that is not done by the deadline is left to go on: it fills the tier's cache, the fetch is answered
//! without it, and the client's next fetch finds it. Memory is taken once for all reads of a fetch, so no
//! fetch holds some while it waits for more; each read carries its share until its bytes are in the socket.
//! Behind a tier that is read to its end the local log goes on in the same answer. Invariants: 15 (no
//! partition is held), 16.

use std::time::Duration;

use bytes::Bytes;
use highwater_model::limits::{TIER_FETCH_WAIT_MS_MIN, TIER_READ_MS_MAX};
use highwater_wire::fetch_response::Chunk;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::Fetch;
use super::collect::{Collected, Finding, TierWant};
use crate::handlers::errors;
use crate::net::frame::BUDGET_UNIT_BYTES;
use highwater_tiering::read::{TierBatches, TierError, TierRead};

/// A read on its way, with the memory that it may fill.
type Reading = JoinHandle<(Result<TierBatches, TierError>, OwnedSemaphorePermit)>;

impl Fetch {
    /// Reads what the tier must give into the findings; returns the memory that the answer holds.
    pub(super) async fn read_tier(
        &self,
        collected: &mut Collected,
        deadline: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        let mut wants = std::mem::take(&mut collected.tier);
        if wants.is_empty() {
            return None;
        }
        // A client that asks for more than the budget gets what the budget holds, never nothing.
        let most = self.tier_units_max().saturating_mul(BUDGET_UNIT_BYTES);
        for want in &mut wants {
            want.bytes = want.bytes.min(most);
        }
        let deadline = deadline.max(Instant::now() + Duration::from_millis(TIER_FETCH_WAIT_MS_MIN as u64));
        let mut memory = self.tier_memory(&wants, deadline).await?;
        let readings: Vec<(&TierWant, Option<Reading>)> = wants
            .iter()
            .map(|want| {
                (want, memory.split(units(want.bytes)).and_then(|share| self.start_reading(want, share)))
            })
            .collect();
        for (want, reading) in readings {
            let Some(reading) = reading else { continue };
            match timeout_at(deadline, reading).await {
                // Late: the client asks again.
                Err(_) => {}
                Ok(Err(panicked)) => {
                    tracing::error!("a read from the tier panicked: {panicked}");
                    collected.findings[want.target] = Finding::error(errors::KAFKA_STORAGE_ERROR);
                }
                Ok(Ok((outcome, share))) => {
                    memory.merge(share);
                    self.take_in(collected, want, outcome);
                }
            }
        }
        Some(memory)
    }

    /// Memory for all reads at once; none by the deadline means an empty answer.
    async fn tier_memory(&self, wants: &[TierWant], deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let units: usize = wants.iter().map(|want| units(want.bytes)).sum();
        let units = u32::try_from(units.min(self.tier_units_max())).ok()?;
        let memory = self.node.tier_memory.clone().acquire_many_owned(units);
        timeout_at(deadline, memory).await.ok()?.ok()
    }

    /// All that the budget has.
    pub(super) fn tier_units_max(&self) -> usize {
        usize::try_from(self.node.settings.read_memory_bytes / BUDGET_UNIT_BYTES as u64).unwrap_or(usize::MAX)
    }

    fn start_reading(&self, want: &TierWant, share: OwnedSemaphorePermit) -> Option<Reading> {
        let partition = self.targets[want.target].as_ref().ok()?;
        let read = TierRead {
            tp: partition.tp,
            topic: partition.topic.clone(),
            manifest: partition.manifest(),
            start: want.start,
            bytes_max: want.bytes,
            deadline: Instant::now() + Duration::from_millis(TIER_READ_MS_MAX),
        };
        let tier = self.node.tier.clone();
        Some(tokio::spawn(async move { (tier.read(read).await, share) }))
    }

    fn take_in(&self, collected: &mut Collected, want: &TierWant, outcome: Result<TierBatches, TierError>) {
        let Ok(partition) = &self.targets[want.target] else { return };
        let batches = match outcome {
            Ok(batches) => batches,
            // Not even one batch was ready: the client asks again.
            Err(TierError::Late) => return,
            Err(e) => {
                let (topic, index) = (&partition.topic, partition.tp.partition);
                let code = match partition.bounds() {
                    Ok(bounds) if want.start < bounds.log_start => errors::OFFSET_OUT_OF_RANGE,
                    _ => {
                        tracing::warn!(%topic, partition = index, offset = want.start, "tier: {e}");
                        errors::KAFKA_STORAGE_ERROR
                    }
                };
                collected.findings[want.target] = Finding::error(code);
                return;
            }
        };
        let bytes: usize = batches.bytes.iter().map(Bytes::len).sum();
        let finding = &mut collected.findings[want.target];
        finding.rebuilt = batches.bytes.into_iter().map(Chunk::Bytes).collect();
        collected.bytes += bytes;
        let rest = want.bytes.saturating_sub(bytes);
        if rest > 0 && bytes > 0 {
            match partition.read_on(batches.next_offset, rest, self.isolation) {
                Ok(local) => {
                    collected.bytes += local.bytes;
                    finding.local = local;
                }
                Err(refusal) => {
                    // What the tier gave is good; the client meets the trouble with its next fetch.
                    self.refused(partition, &refusal);
                }
            }
        }
    }
}

/// Units of the budget for a read; at least one, as the first batch may be larger than asked.
pub(super) fn units(bytes: usize) -> usize {
    bytes.div_ceil(BUDGET_UNIT_BYTES).max(1)
}
