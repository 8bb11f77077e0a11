//! From fetch replication to a group, and back (docs/adr/0014). Each way ends with one command of the control
//! plane: before it the old way is in force, after it the new one.

use std::sync::Arc;
use std::time::Duration;

use highwater_coordinator::core::Command;
use highwater_model::LeaderEpoch;
use highwater_model::limits::{RAFT_RPC_MS_MAX, RAFT_SWITCH_LOOK_MS, RAFT_SWITCH_WAIT_MS};
use highwater_model::topic_config::Replication;

use super::Subject;
use super::groups::{Open, broker_epoch};
use crate::raft::Role;

const LOOK: Duration = Duration::from_millis(RAFT_SWITCH_LOOK_MS);

fn deadline() -> Duration {
    Duration::from_millis(RAFT_RPC_MS_MAX)
}

/// How often a step is looked at before another look at everything begins it anew.
fn looks() -> u64 {
    RAFT_SWITCH_WAIT_MS / RAFT_SWITCH_LOOK_MS
}

/// A partition under fetch replication whose topic asks for a group: every replica brings its log to the
/// disk, and the leader, which takes no more batches, hands over once all in sync have the same.
pub(super) async fn begin_group(mut subject: Subject) {
    for _ in 0..looks() {
        let Some(now) = subject.again() else { return };
        subject = now;
        let is_pending = subject.record.raft.is_none() && subject.config.replication == Replication::Raft;
        if !is_pending || subject.node.is_stopping() {
            return;
        }
        let (log_end, flushed_end) = subject.partition.log_ends();
        if flushed_end < log_end {
            subject.node.flush.push(&subject.partition);
        }
        if subject.is_led_here() && propose_begin(&subject).await {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Proposes that the group begins, if it can; true if it was.
async fn propose_begin(subject: &Subject) -> bool {
    let Some(whole) = subject.partition.hand_over() else { return false };
    let command = Command::RaftBegin {
        tp: subject.partition.tp,
        node_id: subject.node.settings.node_id,
        broker_epoch: broker_epoch(&subject.node),
        leader_epoch: whole.leader_epoch,
        partition_epoch: whole.partition_epoch,
        start_offset: whole.offset,
    };
    propose(subject, command, "a Raft group takes over").await
}

async fn propose(subject: &Subject, command: Command, what: &str) -> bool {
    let (topic, partition) = (&subject.partition.topic, subject.partition.tp.partition);
    match subject.node.coordinator.hand_over(command).await {
        Ok(()) => {
            tracing::info!(%topic, partition, "{what}");
            true
        }
        Err(e) => {
            tracing::warn!(%topic, partition, "not yet: {what}: {e}");
            false
        }
    }
}

/// The leader of a group whose topic asks for fetch replication: it takes no more batches, marks the end in
/// the log, and hands over to itself and those that have everything.
pub(super) async fn end_group(subject: Subject, open: Arc<Open>, term: u64) {
    let group = &open.group;
    let (topic, partition) = (&subject.partition.topic, subject.partition.tp.partition);
    group.pause().await;
    // Also where the mark is there: what was committed before it is known only once this was.
    if let Err(e) = group.mark_end(deadline()).await {
        tracing::warn!(%topic, partition, "the group's end is not committed yet: {e}");
        return;
    }
    let leads = || matches!(group.role(), Role::Leader { term: now, .. } if now == term);
    let voters: Vec<_> = group.settled_voters().unwrap_or_default().into_values().collect();
    for _ in 0..looks() {
        let whole = group.nodes_with_all();
        let is_here =
            |node| node == subject.node.settings.node_id || subject.node.raft.host.boot_of(node).is_some();
        // Who is away joins again as a follower.
        if voters.iter().all(|node| whole.contains(node) || !is_here(*node)) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let Some(now) = subject.again() else { return };
    let (is_wanted, is_its) = (
        now.config.replication == Replication::Fetch,
        now.record.raft.as_ref().is_some_and(|raft| raft.since_epoch == open.since_epoch),
    );
    let isr = group.nodes_with_all();
    if !is_wanted || !is_its || !leads() || !isr.contains(&now.node.settings.node_id) {
        return;
    }
    let command = Command::RaftEnd {
        tp: now.partition.tp,
        node_id: now.node.settings.node_id,
        broker_epoch: broker_epoch(&now.node),
        term: LeaderEpoch::try_from(term).unwrap_or(LeaderEpoch::MAX),
        partition_epoch: now.record.partition_epoch,
        isr,
    };
    propose(&now, command, "fetch replication takes over").await;
}

/// The wish to end the group was taken back: its leader, which the control plane must know as such, so that
/// no earlier one hands over, takes the mark away and batches again.
pub(super) async fn go_on(subject: &Subject, open: &Open) {
    let (topic, partition) = (&subject.partition.topic, subject.partition.tp.partition);
    if open.group.is_end_marked()
        && let Err(e) = open.group.unmark_end(deadline()).await
    {
        tracing::warn!(%topic, partition, "the group does not go on yet: {e}");
        return;
    }
    open.group.resume();
    tracing::info!(%topic, partition, "the group goes on");
}
