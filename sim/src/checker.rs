//! Judges a history: a pure function from what was seen to what must not have been.
//!
//! The classes are those of Jepsen's Kafka tests (lost write, duplicate, reordered, inconsistent offsets,
//! aborted read, poll skip) and those of the tier and of replication. Linear but for the maps it builds.
//!
//! Must not know how the run was made. Tested with a planted history of each class (`checker/tests.rs`).

mod exactly;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use highwater_model::Offset;

use crate::history::{FinalRead, History, Poll, Sent, Value};

/// A class of what must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// Acknowledged or once read, and not there in the end.
    Lost,
    /// One value at two offsets, though its producer is idempotent.
    Duplicate,
    /// Two records of one producer, or of one poll, in another order than they were sent in.
    Reordered,
    /// Two values at one offset, or an acknowledged value at another offset than was told.
    InconsistentOffset,
    /// A value whose send was refused.
    AbortedRead,
    /// An answer that leaves out offsets.
    Skipped,
    ManifestGap,
    ManifestOverlap,
    /// Two replicas hold different batches at one offset below the high watermark.
    Divergence,
    /// The manifest lists an object that the bucket does not have.
    ObjectMissing,
    /// A key was written twice (invariant 8).
    ObjectRewritten,
    /// The inequality of invariant 1 does not hold on a leader.
    BoundsBroken,
    /// An epoch or a high watermark went back.
    WentBack,
    /// A transaction is committed in one partition and not in another.
    Torn,
    /// An offset that a group had committed is gone, or an older one is there.
    LostOffset,
    /// Two members own a partition in one generation.
    TwoOwners,
    /// Of a record of the input there is none in the output, or two.
    NotExactlyOnce,
    /// Two replicas led in one term of a group.
    TwoLeaders,
    /// A group's store refused what its group asked of it, on a sound disk.
    Defect,
    /// After everything has healed, something does not come to an end.
    Stuck,
    /// An assertion of the product failed.
    Panicked,
}

/// One find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub anomaly: Anomaly,
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.anomaly, self.detail)
    }
}

impl Finding {
    pub fn new(anomaly: Anomaly, detail: impl Into<String>) -> Finding {
        Finding { anomaly, detail: detail.into() }
    }
}

/// At most this many findings of one kind are told; one is enough to fail.
const TOLD_PER_ANOMALY: usize = 3;

/// Everything that is wrong with `history`, the first few of each kind.
pub fn check(history: &History) -> Vec<Finding> {
    let mut findings = Findings::default();
    let mut partitions: Vec<u32> = history.sends.iter().map(|s| s.partition).collect();
    partitions.extend(history.polls.iter().map(|p| p.partition));
    partitions.extend(history.finals.iter().map(|f| f.partition));
    partitions.sort_unstable();
    partitions.dedup();
    let idempotent: BTreeSet<Value> =
        history.sends.iter().filter(|s| s.is_idempotent).map(|s| s.value).collect();
    for partition in partitions {
        let observed = Observed::of(history, partition, &idempotent, &mut findings);
        observed.check_sends(history, &mut findings);
        check_order(history, partition, &observed, &mut findings);
        check_finals(history, partition, &observed, &mut findings);
    }
    check_polls(&history.polls, &mut findings);
    check_replicas(history, &mut findings);
    check_manifests(history, &mut findings);
    exactly::check(history, &mut findings);
    findings.found
}

#[derive(Default)]
struct Findings {
    found: Vec<Finding>,
    told: BTreeMap<Anomaly, usize>,
}

impl Findings {
    fn add(&mut self, anomaly: Anomaly, detail: impl FnOnce() -> String) {
        let told = self.told.entry(anomaly).or_default();
        *told += 1;
        if *told <= TOLD_PER_ANOMALY {
            self.found.push(Finding { anomaly, detail: detail() });
        }
    }
}

/// What anyone has read of one partition.
struct Observed {
    partition: u32,
    at: BTreeMap<Offset, Value>,
    offsets: BTreeMap<Value, Offset>,
}

impl Observed {
    fn of(
        history: &History,
        partition: u32,
        idempotent: &BTreeSet<Value>,
        findings: &mut Findings,
    ) -> Observed {
        let mut observed = Observed { partition, at: BTreeMap::new(), offsets: BTreeMap::new() };
        let polls = history.polls.iter().filter(|p| p.partition == partition).flat_map(|p| &p.records);
        let finals = history.finals.iter().filter(|f| f.partition == partition).flat_map(|f| &f.records);
        for (offset, value) in polls.chain(finals) {
            let seen = *observed.at.entry(*offset).or_insert(*value);
            if seen != *value {
                findings.add(Anomaly::InconsistentOffset, || {
                    format!("partition {partition} offset {offset}: value {seen}, and value {value}")
                });
            }
            let first = *observed.offsets.entry(*value).or_insert(*offset);
            if first != *offset && idempotent.contains(value) {
                findings.add(Anomaly::Duplicate, || {
                    format!("partition {partition}: value {value} at offsets {first} and {offset}")
                });
            }
        }
        observed
    }

    fn check_sends(&self, history: &History, findings: &mut Findings) {
        let partition = self.partition;
        for send in history.sends.iter().filter(|s| s.partition == partition) {
            let value = send.value;
            match (send.sent, self.offsets.get(&value)) {
                (Sent::Refused, Some(offset)) => findings.add(Anomaly::AbortedRead, || {
                    format!("partition {partition} offset {offset}: value {value} was refused")
                }),
                (Sent::Acked(told), Some(_)) if send.is_committed_when_acked => {
                    let there = self.at.get(&told);
                    if there.is_some_and(|there| *there != value) {
                        findings.add(Anomaly::InconsistentOffset, || {
                            format!(
                                "partition {partition}: value {value} was acknowledged at {told}, where \
                                     {there:?} is"
                            )
                        });
                    }
                }
                _ => {}
            }
        }
    }
}

/// Idempotent sends of one session stand in the order they were made in.
fn check_order(history: &History, partition: u32, observed: &Observed, findings: &mut Findings) {
    let mut newest: BTreeMap<u64, (Offset, Value)> = BTreeMap::new();
    for send in history.sends.iter().filter(|s| s.partition == partition && s.is_idempotent) {
        let Some(offset) = observed.offsets.get(&send.value) else { continue };
        let (before, value) = newest.insert(send.session, (*offset, send.value)).unwrap_or((-1, 0));
        if before > *offset {
            findings.add(Anomaly::Reordered, || {
                format!(
                    "partition {partition}: value {value} at {before}, its successor {} at {offset}",
                    send.value
                )
            });
        }
    }
}

/// Every acknowledged value, and everything ever read, is in each final read at its place, and no offset is
/// left out; what was deleted in between may be gone.
fn check_finals(history: &History, partition: u32, observed: &Observed, findings: &mut Findings) {
    for last in history.finals.iter().filter(|f| f.partition == partition) {
        let when = if last.is_after_eviction { "after eviction" } else { "before eviction" };
        let at: BTreeMap<Offset, Value> = last.records.iter().copied().collect();
        let log_start = history.log_starts.get(&partition).copied().unwrap_or(0);
        dense(last, when, findings);
        for (offset, value) in observed.at.range(log_start..) {
            if !at.contains_key(offset) {
                findings.add(Anomaly::Lost, || {
                    format!("partition {partition} offset {offset}: value {value} was read once, not {when}")
                });
            }
        }
        for send in history.sends.iter().filter(|s| s.partition == partition) {
            let Sent::Acked(offset) = send.sent else { continue };
            let is_due = send.is_committed_when_acked && offset >= log_start;
            if is_due && at.get(&offset) != Some(&send.value) {
                findings.add(Anomaly::Lost, || {
                    format!(
                        "partition {partition}: value {} acknowledged at {offset}, not there {when}",
                        send.value
                    )
                });
            }
        }
    }
}

fn dense(last: &FinalRead, when: &str, findings: &mut Findings) {
    for pair in last.records.windows(2) {
        let (before, after) = (pair[0].0, pair[1].0);
        if after != before + 1 {
            let anomaly = if after > before { Anomaly::Skipped } else { Anomaly::Reordered };
            findings
                .add(anomaly, || format!("partition {}: {after} follows {before} {when}", last.partition));
        }
    }
}

/// A poll starts where it was asked to and leaves nothing out; a consumer never goes back.
fn check_polls(polls: &[Poll], findings: &mut Findings) {
    let mut positions: BTreeMap<(u32, u32), Offset> = BTreeMap::new();
    for poll in polls {
        let Poll { partition, consumer, .. } = *poll;
        let position = positions.entry((consumer, partition)).or_insert(poll.from);
        let mut expected = poll.from;
        if poll.from < *position {
            findings.add(Anomaly::Reordered, || {
                format!(
                    "consumer {consumer} partition {partition}: went back from {position} to {}",
                    poll.from
                )
            });
        }
        for (offset, _) in &poll.records {
            if *offset != expected {
                let anomaly = if *offset > expected { Anomaly::Skipped } else { Anomaly::Reordered };
                findings.add(anomaly, || {
                    format!(
                        "consumer {consumer} partition {partition}: got {offset} where {expected} comes next"
                    )
                });
            }
            expected = offset + 1;
        }
        *position = expected.max(*position);
    }
}

/// All replicas hold the same batches wherever both hold something.
fn check_replicas(history: &History, findings: &mut Findings) {
    let mut truth: BTreeMap<(u32, Offset), (u64, crate::history::HeldBatch)> = BTreeMap::new();
    for replica in &history.replicas {
        for batch in &replica.batches {
            let key = (replica.partition, batch.base_offset);
            let (node, first) = *truth.entry(key).or_insert((replica.node, *batch));
            if first != *batch {
                findings.add(Anomaly::Divergence, || {
                    format!(
                        "partition {}: node {node} has {first:?}, node {} has {batch:?}",
                        replica.partition, replica.node
                    )
                });
            }
        }
        for pair in replica.batches.windows(2) {
            if pair[0].next_offset != pair[1].base_offset {
                findings.add(Anomaly::Divergence, || {
                    format!(
                        "partition {}: node {} has a hole after {:?}",
                        replica.partition, replica.node, pair[0]
                    )
                });
            }
        }
    }
    // A batch that begins inside another replica's batch has no partner at its own offset.
    let mut end: BTreeMap<u32, Offset> = BTreeMap::new();
    for ((partition, base), (node, batch)) in &truth {
        let covered = end.entry(*partition).or_insert(*base);
        if *base < *covered {
            findings.add(Anomaly::Divergence, || {
                format!("partition {partition}: node {node} has a batch at {base} inside another's")
            });
        }
        *covered = batch.next_offset.max(*covered);
    }
}

/// Ranges are contiguous from below the log start to the tiered end, and every object is there.
fn check_manifests(history: &History, findings: &mut Findings) {
    for manifest in &history.manifests {
        let partition = manifest.partition;
        let mut expected = manifest.objects.first().map_or(manifest.tiered_end, |o| o.start);
        if expected > manifest.log_start {
            findings.add(Anomaly::ManifestGap, || {
                format!("partition {partition}: log starts at {}, objects at {expected}", manifest.log_start)
            });
        }
        for object in &manifest.objects {
            if object.start > expected {
                findings.add(Anomaly::ManifestGap, || {
                    format!("partition {partition}: {expected}..{}", object.start)
                });
            }
            if object.start < expected || object.end <= object.start {
                findings.add(Anomaly::ManifestOverlap, || {
                    format!("partition {partition}: {}..{} after {expected}", object.start, object.end)
                });
            }
            expected = object.end;
            if !history.objects.contains(&object.key) {
                findings.add(Anomaly::ObjectMissing, || format!("partition {partition}: {}", object.key));
            }
        }
        if expected != manifest.tiered_end {
            let anomaly =
                if expected < manifest.tiered_end { Anomaly::ManifestGap } else { Anomaly::ManifestOverlap };
            findings.add(anomaly, || {
                format!(
                    "partition {partition}: objects end at {expected}, the tier at {}",
                    manifest.tiered_end
                )
            });
        }
    }
}

#[cfg(test)]
mod tests;
