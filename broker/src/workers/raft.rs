//! The Raft groups of this node's partitions: opened and closed as the control plane's record says, led as it
//! wishes, and taken over from and handed back to fetch replication.
//!
//! One task looks at every partition that has to do with a group, whenever the control plane has changed
//! something, a group has told of something, and each second; what takes time runs in a task per partition.
//! Nothing is kept between two looks but what is open, so whatever is interrupted is found again.
//!
//! ```text
//! groups   what is open on this node, opening and closing
//! lead     what a group's leader owes the control plane: reports, and its wish of voters
//! switch   both ways between fetch and raft (docs/adr/0014, "Switching a live topic")
//! ```

mod groups;
mod lead;
mod switch;

use std::sync::Arc;
use std::time::Duration;

use highwater_coordinator::core::Partition as Record;
use highwater_model::TopicConfig;
use highwater_model::limits::WORKER_TICK_MS;
use highwater_model::topic_config::Replication;

use crate::node::Node;
use crate::partition::Partition;
use crate::partition::follow::take_over_now;
use crate::raft::Role;

pub use groups::Groups;
use groups::Open;

/// Looks after the groups until the node stops.
pub(super) async fn run(node: Arc<Node>) {
    let mut stop = node.stopping();
    let mut changes = node.watch_replicas();
    loop {
        changes.mark_unchanged();
        look(&node);
        let tick = tokio::time::sleep(Duration::from_millis(WORKER_TICK_MS));
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = node.raft.reviewed() => {}
            () = tick => {}
            _ = stop.wait_for(|stopping| *stopping) => return,
        }
    }
}

/// A partition, and what the control plane says of it.
#[derive(Clone)]
struct Subject {
    node: Arc<Node>,
    partition: Arc<Partition>,
    config: Arc<TopicConfig>,
    record: Arc<Record>,
}

impl Subject {
    /// The same, by what the control plane says now; None where the partition is gone.
    fn again(&self) -> Option<Subject> {
        let tp = self.partition.tp;
        let found = self.node.coordinator.with_state(|state| {
            let topic = state.topic(tp.topic_id)?;
            Some((topic.config.clone(), topic.partition(tp.partition)?.clone()))
        });
        let (config, record) = found?;
        Some(Subject { config, record, ..self.clone() })
    }

    fn is_led_here(&self) -> bool {
        self.partition.terms().is_leader
    }
}

fn look(node: &Arc<Node>) {
    let view = node.partitions.view();
    for topic in view.topics() {
        let record = topic.record();
        let wants_raft = record.config.replication == Replication::Raft;
        for partition in topic.partitions() {
            let terms = partition.terms();
            if !wants_raft && terms.raft.is_none() {
                continue;
            }
            let Some(of_partition) = record.partition(partition.tp.partition) else { continue };
            let subject = Subject {
                node: node.clone(),
                partition: partition.clone(),
                config: record.config.clone(),
                record: of_partition.clone(),
            };
            look_at(subject);
        }
    }
    node.raft.close_strays(node, |tp| view.partition(tp).is_some());
}

/// Sets going what is due for one partition; at most one thing at a time.
fn look_at(subject: Subject) {
    let node = subject.node.clone();
    let tp = subject.partition.tp;
    let open = node.raft.open(tp);
    let terms = subject.partition.terms();
    let since_epoch = subject.record.raft.as_ref().map(|raft| raft.since_epoch);
    match (since_epoch, open) {
        (None, None) if terms.raft.is_some() => node.raft.spawn(tp, leave(subject)),
        (None, None) => node.raft.spawn(tp, switch::begin_group(subject)),
        (Some(_), None) if node.raft.may_open(tp) => node.raft.spawn(tp, groups::open_group(subject)),
        (Some(_), None) => {}
        (Some(since_epoch), Some(open)) if since_epoch == open.since_epoch => tend(subject, &open),
        (_, Some(_)) => node.raft.spawn(tp, leave(subject)),
    }
}

/// The group is no more: its part here ends, and the log goes on under fetch replication.
async fn leave(subject: Subject) {
    let Subject { node, partition, .. } = &subject;
    if !node.raft.close(node, partition.tp, true).await {
        return;
    }
    let Some(now) = subject.again() else { return };
    if now.record.raft.is_none() {
        let (topic, index) = (&partition.topic, partition.tp.partition);
        tracing::info!(%topic, partition = index, "replicated by fetch again");
        partition.leave_raft();
        take_over_now(node, partition);
        node.replicas_changed();
    }
    node.raft.review();
}

/// A group that is open.
fn tend(subject: Subject, open: &Arc<Open>) {
    let node = subject.node.clone();
    let tp = subject.partition.tp;
    if subject.record.leader_epoch > open.since_epoch {
        open.group.note_on_record();
    }
    if subject.partition.terms().raft.as_ref().is_none_or(|raft| raft.group.is_none()) {
        groups::attach(&subject.partition, open.since_epoch, &open.group);
    }
    match open.group.role() {
        Role::Ended => node.raft.spawn(tp, groups::reopen_later(subject)),
        // What a leader has stopped, its successor stops anew if it has to.
        Role::Follower { .. } => open.group.resume(),
        Role::Leader { term, .. } if lead::is_due(&subject, open, term) => {
            let open = open.clone();
            node.raft.spawn(tp, lead::lead(subject, open, term));
        }
        Role::Leader { .. } => {}
    }
}
