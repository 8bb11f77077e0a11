//! One partition on one broker: the product's replica, and what the shell keeps beside it.

use highwater_broker::core::replica::{AckTicket, Role};
use highwater_broker::replica::ReplicaLog;
use highwater_log::{LogError, PartitionLog};
use highwater_model::{LeaderEpoch, Offset};

use super::upload::Upload;
use crate::network::{Address, Micros};

/// An acknowledgement that waits for the high watermark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub client: Address,
    pub id: u64,
    pub base_offset: Offset,
    pub ticket: AckTicket,
}

pub(super) struct Held {
    pub machine: ReplicaLog,
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
            machine,
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

    pub fn log(&self) -> &PartitionLog {
        self.machine.log()
    }

    pub fn high_watermark(&self) -> Offset {
        self.machine.high_watermark()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.machine.leader_epoch()
    }

    pub fn leads(&self) -> bool {
        self.machine.role() == Role::Leader
    }

    /// Whom it follows.
    pub fn leader(&self) -> Option<u64> {
        match self.machine.role() {
            Role::Follower(leader) => leader,
            _ => None,
        }
    }

    /// Seals the active segment; a disk that refuses leaves it for later.
    pub fn roll(&mut self, now_ms: i64) {
        let _ = self.machine.log_mut().roll(now_ms);
    }

    pub fn evict_below(&mut self, offset: Offset) {
        // What could not be taken out now is taken out by the next tick.
        drop(self.machine.log_mut().evict_below(offset));
    }

    pub fn close(&mut self) -> Result<(), LogError> {
        self.machine.log_mut().close()
    }
}
