//! Lifting a partition's log start, and deleting what left its manifest.
//!
//! Prune before sweep: an object is deleted only after the committed manifest has stopped listing it and the
//! grace has passed, which is longer than any read may take (invariant 10). Deletes go in bulk and are
//! repeated after a crash; what is already gone counts as deleted. A page's file goes after everything that
//! it lists, so a sweep that was cut short finds the rest.

use std::sync::Arc;

use highwater_model::limits::{
    MANIFEST_RETIRING_MAX, OFFLOAD_STEP_MS_MAX, PRUNE_ROUNDS_MAX, RETIRED_GRACE_MS, SWEEP_KEYS_MAX,
};
use highwater_model::{LeaderEpoch, Offset, TopicPartition};
use uuid::Uuid;

use super::{OffloadError, Offloader};
use crate::core::lanes::Lane;
use crate::core::manifest::{Edit, EditRequest, Manifest, Node, Refusal, Retired};
use crate::core::names::TopicRef;
use crate::lane::deadline_in;
use crate::port::ProposeError;

/// What one sweep of a partition has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files deleted: objects and pages.
    pub files: u64,
    /// Retired entries that are gone from the manifest.
    pub entries: usize,
}

impl Offloader {
    /// Raises the log start to `log_start` and retires what lies wholly below it. With the present log start
    /// it goes on with what an earlier call had to leave because too much was retiring.
    pub async fn raise_log_start(
        &self,
        tp: TopicPartition,
        topic: &str,
        leader_epoch: LeaderEpoch,
        log_start: Offset,
    ) -> Result<Arc<Manifest>, OffloadError> {
        let topic = TopicRef { name: topic.to_string(), id: tp.topic_id };
        let mut manifest = self.parts().port.read(tp).await?;
        for _ in 0..PRUNE_ROUNDS_MAX {
            let log_start = log_start.max(manifest.log_start);
            let scope = self.scope(&topic, tp, Lane::Housekeeping);
            let pages = manifest.pages.iter().take_while(|p| p.end <= log_start).count();
            let room = MANIFEST_RETIRING_MAX.saturating_sub(manifest.retiring.len() + pages);
            // A page that cannot be read must not keep the log start where it is.
            let head = match self.parts().pages.dead_head(scope, &manifest, log_start, room).await {
                Ok(head) => head,
                Err(e) if manifest.log_start < log_start => {
                    tracing::warn!(topic = topic.name, partition = tp.partition, "retiring was put off: {e}");
                    Vec::new()
                }
                Err(e) => return Err(e.into()),
            };
            let dead = manifest.nodes().next().is_some_and(|oldest| oldest.end() <= log_start);
            if log_start == manifest.log_start && head.is_empty() && !dead {
                break;
            }
            let edit = Edit::Prune { log_start, head };
            let request = EditRequest { expected_version: manifest.version, leader_epoch, edit };
            match self.parts().port.propose(tp, request).await {
                Ok(pruned) => {
                    self.parts().mirror.note(tp, &topic, &pruned);
                    manifest = pruned;
                }
                Err(ProposeError::Refused(Refusal::StaleVersion { .. })) => {
                    manifest = self.parts().port.read(tp).await?;
                }
                Err(ProposeError::Refused(Refusal::NothingToDo | Refusal::RetiringFull { .. })) => break,
                Err(e) => return Err(e.into()),
            }
            if manifest.log_start >= log_start && manifest.listed_start() >= log_start {
                break;
            }
        }
        Ok(manifest)
    }

    /// Deletes what the manifest retired at least the grace ago, and forgets it.
    pub async fn sweep(
        &self,
        tp: TopicPartition,
        topic: &str,
        leader_epoch: LeaderEpoch,
        now_ms: i64,
    ) -> Result<Swept, OffloadError> {
        let topic = TopicRef { name: topic.to_string(), id: tp.topic_id };
        let manifest = self.parts().port.read(tp).await?;
        let due = manifest.retiring.iter().filter(|r| now_ms.saturating_sub(r.since_ms) >= RETIRED_GRACE_MS);
        let due: Vec<Retired> = due.map(|r| r.what.clone()).collect();
        if due.is_empty() {
            return Ok(Swept::default());
        }
        let upload_ids: Vec<Uuid> = due.iter().map(Retired::upload_id).collect();
        let files = self.delete_retired(&topic, tp, due).await?;
        let entries = upload_ids.len();
        let mut expected_version = manifest.version;
        for _ in 0..PRUNE_ROUNDS_MAX {
            let edit = Edit::Swept { upload_ids: upload_ids.clone() };
            let request = EditRequest { expected_version, leader_epoch, edit };
            match self.parts().port.propose(tp, request).await {
                Ok(swept) => {
                    self.parts().mirror.note(tp, &topic, &swept);
                    // There is room again for what an earlier prune had to leave.
                    self.raise_log_start(tp, &topic.name, leader_epoch, swept.log_start).await?;
                    return Ok(Swept { files, entries });
                }
                Err(ProposeError::Refused(Refusal::StaleVersion { current, .. })) => {
                    expected_version = current
                }
                Err(ProposeError::Refused(Refusal::NothingToDo)) => return Ok(Swept { files, entries }),
                Err(e) => return Err(e.into()),
            }
        }
        // The files are gone; the entries go with the next sweep.
        Ok(Swept { files, entries: 0 })
    }

    /// Deletes everything of a partition whose topic was deleted: listed, retiring, and the mirror. Nothing
    /// may write to it any more, and the grace since the deletion has passed.
    pub async fn delete_partition(
        &self,
        tp: TopicPartition,
        topic: &str,
        manifest: &Manifest,
    ) -> Result<u64, OffloadError> {
        let topic = TopicRef { name: topic.to_string(), id: tp.topic_id };
        let retiring = manifest.retiring.iter().map(|r| r.what.clone());
        let all: Vec<Retired> = retiring.chain(manifest.nodes().map(|n| n.retired())).collect();
        let files = self.delete_retired(&topic, tp, all).await?;
        let mirror = self.parts().names.mirror(&topic, tp.partition);
        self.parts().mirror.forget(tp);
        self.parts().store.delete(&[mirror], deadline_in(OFFLOAD_STEP_MS_MAX)).await?;
        Ok(files)
    }

    /// Deletes files, pages after what they list.
    async fn delete_retired(
        &self,
        topic: &TopicRef,
        tp: TopicPartition,
        retired: Vec<Retired>,
    ) -> Result<u64, OffloadError> {
        let names = &self.parts().names;
        let mut files = 0;
        let mut keys = Vec::new();
        // A page is seen twice: opened first, its file deleted once everything above it on the stack is gone.
        let mut ahead: Vec<(Retired, bool)> = retired.into_iter().rev().map(|r| (r, false)).collect();
        while let Some((what, opened)) = ahead.pop() {
            match &what {
                Retired::Page(page) if !opened => {
                    let scope = self.scope(topic, tp, Lane::Housekeeping);
                    let below = match self.parts().pages.live_nodes(scope, page).await {
                        Ok(nodes) => nodes,
                        // An earlier sweep got this far.
                        Err(e) if e.is_not_found() => Vec::new(),
                        Err(e) => return Err(e.into()),
                    };
                    ahead.push((what, true));
                    ahead.extend(below.iter().rev().map(Node::retired).map(|r| (r, false)));
                    continue;
                }
                Retired::Page(_) => {
                    files += self.delete_keys(&mut keys).await?;
                    keys.push(names.retired(topic, tp.partition, &what));
                }
                Retired::Object { .. } => keys.push(names.retired(topic, tp.partition, &what)),
            }
            if keys.len() >= SWEEP_KEYS_MAX {
                files += self.delete_keys(&mut keys).await?;
            }
        }
        files += self.delete_keys(&mut keys).await?;
        Ok(files)
    }

    async fn delete_keys(&self, keys: &mut Vec<String>) -> Result<u64, OffloadError> {
        if !keys.is_empty() {
            self.parts().store.delete(keys, deadline_in(OFFLOAD_STEP_MS_MAX)).await?;
            self.counters().swept.add(keys.len() as u64);
        }
        Ok(keys.drain(..).count() as u64)
    }
}
