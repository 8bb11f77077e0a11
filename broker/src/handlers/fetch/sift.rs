//! The part of a fetch that takes expired records out of what was found (docs/adr/0021).
//!
//! Only topics that set `highwater.ttl.ms` come here. What was found of them is read into memory, a named
//! amount at a time, and sifted on a thread of the blocking pool, few at a time, so that no connection waits
//! for the arithmetic of another. Memory comes from the budget of reads from the tier; who holds some waits
//! for no more. Where nothing is left the fetch goes on behind it in the same request, up to a named amount:
//! librdkafka takes many answers without records in a row for a limit that is too small, and says so to its
//! application. A read that fails, or bytes that are damaged, end as they would without sifting.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use highwater_model::Expiry;
use highwater_model::limits::{
    DECOMPRESS_SCRATCH_KEEP_BYTES_MAX, SIFT_RECORDS_BYTES_MAX, SIFT_SKIPPED_BYTES_MAX, TIER_FETCH_WAIT_MS_MIN,
};
use highwater_wire::fetch_response::Chunk;
use highwater_wire::{Sieve, Sifted};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::Fetch;
use super::collect::{Collected, Finding};
use super::tier::units;
use crate::handlers::errors;
use crate::partition::LocalRead;

/// What one fetch has gone past.
#[derive(Default)]
pub(super) struct Skipped {
    /// The last batch of each target, without its records: it takes the client there.
    ends: BTreeMap<usize, Bytes>,
    /// Bytes of records, decompressed.
    bytes: usize,
}

impl Skipped {
    /// Puts what was gone past into findings that have nothing behind it.
    pub(super) fn tell(self, collected: &mut Collected) {
        for (at, end) in self.ends {
            let finding = &mut collected.findings[at];
            if finding.code == errors::NONE && finding.rebuilt.is_empty() && finding.local.bytes == 0 {
                finding.rebuilt.push(Chunk::Bytes(end));
            }
        }
    }
}

/// What was found of one target.
struct Job {
    target: usize,
    expiry: Expiry,
    rebuilt: Vec<Chunk>,
    local: LocalRead,
}

/// What is left of it; its local bytes are in memory then.
struct Done {
    target: usize,
    sifted: io::Result<Sifted>,
    local: LocalRead,
}

impl Fetch {
    /// Takes what has expired out of the findings. True if nothing is left to answer with and the fetch may
    /// look for what follows: its targets stand behind what was sifted.
    pub(super) async fn sift(
        &mut self,
        collected: &mut Collected,
        memory: &mut Option<OwnedSemaphorePermit>,
        skipped: &mut Skipped,
        deadline: Instant,
    ) -> bool {
        self.take_memory(collected, memory, deadline).await;
        let jobs: Vec<Job> = collected.findings.iter_mut().enumerate().filter_map(job_of).collect();
        if jobs.is_empty() {
            return false;
        }
        let targets: Vec<usize> = jobs.iter().map(|job| job.target).collect();
        let turn = self.node.sifting.clone().acquire_owned().await.expect("never closed");
        // Turn and memory go with the work: it goes on when the client's connection is closed.
        let held = memory.take();
        let sifting = tokio::task::spawn_blocking(move || {
            let done = sift_all(jobs);
            drop(turn);
            (done, held)
        });
        let done = match sifting.await {
            Ok((done, held)) => {
                *memory = held;
                done
            }
            Err(panicked) => {
                tracing::error!("sifting expired records panicked: {panicked}");
                for target in targets {
                    collected.findings[target] = Finding::error(errors::KAFKA_STORAGE_ERROR);
                }
                return false;
            }
        };
        for Done { target, sifted, local } in done {
            match sifted {
                Ok(sifted) => self.take_sifted(collected, skipped, target, sifted, local),
                Err(e) => {
                    tracing::error!(target, "cannot read a segment: {e}");
                    collected.findings[target] = Finding::error(errors::KAFKA_STORAGE_ERROR);
                }
            }
        }
        let has_news = |finding: &Finding| {
            finding.code != errors::NONE || finding.local.bytes > 0 || !finding.rebuilt.is_empty()
        };
        let is_answer = collected.is_urgent || collected.findings.iter().any(has_news);
        !is_answer && skipped.bytes < SIFT_SKIPPED_BYTES_MAX && Instant::now() < deadline
    }

    /// Memory for the local bytes that are to be sifted. Without any, they are left for the next fetch.
    async fn take_memory(
        &self,
        collected: &mut Collected,
        memory: &mut Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) {
        let expiring = || |finding: &&mut Finding| finding.expiry.is_some() && finding.local.bytes > 0;
        let bytes: usize = collected.findings.iter_mut().filter(expiring()).map(|f| f.local.bytes).sum();
        if bytes == 0 {
            return;
        }
        let budget = self.node.tier_memory.clone();
        let all = u32::try_from(units(bytes).min(self.tier_units_max())).unwrap_or(u32::MAX);
        let taken = match memory {
            // Who holds some waits for no more.
            Some(_) => budget.try_acquire_many_owned(all).ok(),
            None => {
                let deadline =
                    deadline.max(Instant::now() + Duration::from_millis(TIER_FETCH_WAIT_MS_MIN as u64));
                timeout_at(deadline, budget.acquire_many_owned(all)).await.ok().and_then(Result::ok)
            }
        };
        match (taken, memory) {
            (Some(taken), Some(memory)) => memory.merge(taken),
            (Some(taken), memory) => *memory = Some(taken),
            (None, _) => {
                collected.findings.iter_mut().filter(expiring()).for_each(|f| f.local = LocalRead::default());
            }
        }
    }

    fn take_sifted(
        &mut self,
        collected: &mut Collected,
        skipped: &mut Skipped,
        target: usize,
        sifted: Sifted,
        local: LocalRead,
    ) {
        self.node.metrics.hidden_records.inc_by(sifted.hidden_records);
        let finding = &mut collected.findings[target];
        finding.local = LocalRead { aborted: local.aborted, ..LocalRead::default() };
        if sifted.has_records {
            finding.rebuilt = sifted.bytes.into_iter().map(Chunk::Bytes).collect();
            return;
        }
        skipped.bytes += sifted.looked_bytes;
        let Some((end, next_offset)) = sifted.bytes.into_iter().last().zip(sifted.next_offset) else {
            return;
        };
        let (_, want) = &mut self.context.targets[target];
        if next_offset <= want.fetch_offset {
            // Offsets are not under a batch's checksum: a damaged one is the client's to judge.
            finding.rebuilt.push(Chunk::Bytes(end));
            return;
        }
        skipped.ends.insert(target, end);
        // The next look begins behind it. The client's own log was compared at the first look.
        want.fetch_offset = next_offset;
        want.last_fetched_epoch = -1;
    }
}

fn job_of((target, finding): (usize, &mut Finding)) -> Option<Job> {
    let expiry = finding.expiry?;
    if finding.code != errors::NONE || (finding.local.bytes == 0 && finding.rebuilt.is_empty()) {
        return None;
    }
    let (rebuilt, local) = (std::mem::take(&mut finding.rebuilt), std::mem::take(&mut finding.local));
    Some(Job { target, expiry, rebuilt, local })
}

/// Sifts what was found of each target in turn, as far as the limit of what is decompressed goes.
fn sift_all(jobs: Vec<Job>) -> Vec<Done> {
    let mut scratch = Vec::new();
    let mut left = SIFT_RECORDS_BYTES_MAX;
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs {
        // What comes after the limit is left for the next fetch; a client's turns come round.
        if left == 0 {
            break;
        }
        let done = sift_one(job, left, &mut scratch);
        let (looked, is_cut) = done.sifted.as_ref().map_or((0, false), |s| (s.looked_bytes, s.is_cut));
        left = if is_cut { 0 } else { left.saturating_sub(looked) };
        if scratch.len() > DECOMPRESS_SCRATCH_KEEP_BYTES_MAX {
            scratch = Vec::new();
        }
        all.push(done);
    }
    all
}

fn sift_one(job: Job, looked_bytes_max: usize, scratch: &mut Vec<u8>) -> Done {
    let Job { target, expiry, rebuilt, local } = job;
    let mut sieve = Sieve::new(expiry, looked_bytes_max, scratch);
    for chunk in rebuilt {
        match chunk {
            Chunk::Bytes(bytes) => sieve.push(&bytes),
            Chunk::File { .. } => unreachable!("the tier gives bytes"),
        }
    }
    let mut failed = None;
    for slice in &local.slices {
        match slice.read() {
            Ok(bytes) => sieve.push(&Bytes::from(bytes)),
            Err(e) => {
                failed = Some(e);
                break;
            }
        }
    }
    let sifted = sieve.finish();
    let sifted = match failed {
        // What came before is good; the next read begins here, and tells.
        Some(e) if sifted.next_offset.is_none() => Err(e),
        _ => Ok(sifted),
    };
    Done { target, sifted, local }
}
