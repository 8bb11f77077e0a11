//! One partition on one broker: the product's replica, and what the shell keeps beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_broker::core::replica::{AckState, AckTicket, Role};
use highwater_broker::replica::ReplicaLog;
use highwater_log::{LogError, PartitionLog};
use highwater_model::{LeaderEpoch, Offset};

use super::upload::Upload;
use crate::network::{Address, Micros};
use crate::raft::{Group, Home};

/// An acknowledgement that waits for the high watermark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub client: Address,
    pub id: u64,
    pub base_offset: Offset,
    pub ticket: AckTicket,
}

/// An acknowledgement that waits for a group to commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal {
    pub client: Address,
    pub id: u64,
    pub term: u64,
    pub base_offset: Offset,
    pub next_offset: Offset,
}

pub(super) struct Held {
    /// None while it is lent to the group.
    machine: Option<ReplicaLog>,
    pub home: Arc<Home>,
    /// While the partition is replicated by one.
    pub group: Option<Group>,
    /// Names the opening of the group.
    pub opening: u64,
    pub proposals: Vec<Proposal>,
    /// Replicas of the group, as their nodes say.
    pub replica_ids: BTreeMap<u64, u64>,
    pub next_ask: Micros,
    /// No report to the control plane before.
    pub next_report: Micros,
    /// DeleteRecords under way.
    pub deletes_below: Option<Offset>,
    pub waiting: Vec<Waiting>,
    /// A fetch from the leader that is under way: its id and when it was sent.
    pub fetch: Option<(u64, Micros)>,
    pub next_fetch: Micros,
    pub flushes: bool,
    pub upload: Option<Upload>,
    pub next_upload: Micros,
    /// Everything committed below was compared with what other replicas have.
    pub compared: Offset,
    /// Leader epoch and high watermark when they were last looked at.
    pub watched: (LeaderEpoch, Offset),
}

impl Held {
    pub fn new(machine: ReplicaLog) -> Held {
        let watched = (-1, machine.high_watermark());
        Held {
            machine: Some(machine),
            home: Arc::default(),
            group: None,
            opening: 0,
            proposals: Vec::new(),
            replica_ids: BTreeMap::new(),
            next_ask: 0,
            next_report: 0,
            deletes_below: None,
            waiting: Vec::new(),
            fetch: None,
            next_fetch: 0,
            flushes: false,
            upload: None,
            next_upload: 0,
            compared: 0,
            watched,
        }
    }

    pub fn machine(&self) -> &ReplicaLog {
        self.machine.as_ref().expect("lent only while the group works")
    }

    pub fn machine_mut(&mut self) -> &mut ReplicaLog {
        self.machine.as_mut().expect("lent only while the group works")
    }

    /// Lends the replica to the group for `work`.
    pub fn lent<R>(&mut self, now_ms: i64, work: impl FnOnce() -> R) -> R {
        self.home.lend(self.machine.take().expect("lent once at a time"), now_ms);
        let done = work();
        let (machine, has_begun) = self.home.give_back();
        if has_begun {
            // Begun anew, it knows less than it did, and shows less.
            self.watched.1 = machine.high_watermark();
        }
        self.machine = Some(machine);
        done
    }

    pub fn log(&self) -> &PartitionLog {
        self.machine().log()
    }

    pub fn high_watermark(&self) -> Offset {
        self.machine().high_watermark()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.machine().leader_epoch()
    }

    pub fn leads(&self) -> bool {
        self.machine().role() == Role::Leader
    }

    /// Whom it follows.
    pub fn leader(&self) -> Option<u64> {
        match self.machine().role() {
            Role::Follower(leader) => leader,
            _ => None,
        }
    }

    /// Seals the active segment; a disk that refuses leaves it for later.
    pub fn roll(&mut self, now_ms: i64) {
        let _ = self.machine_mut().log_mut().roll(now_ms);
    }

    pub fn evict_below(&mut self, offset: Offset) {
        // What could not be taken out now is taken out by the next tick.
        drop(self.machine_mut().log_mut().evict_below(offset));
    }

    /// Answers of acknowledgements that come to their end now.
    pub fn settled(&mut self) -> Vec<(Waiting, AckState)> {
        let machine = self.machine.as_ref().expect("lent only while the group works");
        let judged = self.waiting.iter().map(|waiting| (*waiting, machine.ack(&waiting.ticket)));
        let settled: Vec<_> = judged.filter(|(_, state)| *state != AckState::Waiting).collect();
        self.waiting.retain(|waiting| !settled.iter().any(|(done, _)| done.id == waiting.id));
        settled
    }

    pub fn close(&mut self) -> Result<(), LogError> {
        if let Some(group) = self.group.take() {
            self.lent(0, || group.store.close());
        }
        self.machine_mut().log_mut().close()
    }
}
