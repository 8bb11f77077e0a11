//! The partition's side of a group's store. The replica is lent to it while the group works, and is the
//! broker's own at all other times.

use std::sync::{Mutex, MutexGuard};

use highwater_broker::raft::{PartitionPort, TierPoint};
use highwater_broker::replica::ReplicaLog;
use highwater_log::PartitionLog;
use highwater_model::Offset;

/// See the module's text.
#[derive(Default)]
pub struct Home(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    lent: Option<ReplicaLog>,
    tier: TierPoint,
    now_ms: i64,
    has_begun: bool,
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("a panic ends the run")
    }

    pub fn lend(&self, machine: ReplicaLog, now_ms: i64) {
        let mut inner = self.lock();
        inner.now_ms = now_ms;
        assert!(inner.lent.replace(machine).is_none(), "lent once at a time");
    }

    /// The replica, and whether its log was begun anew meanwhile.
    pub fn give_back(&self) -> (ReplicaLog, bool) {
        let mut inner = self.lock();
        let has_begun = std::mem::take(&mut inner.has_begun);
        (inner.lent.take().expect("lent before"), has_begun)
    }

    pub fn set_tier(&self, tier: TierPoint) {
        self.lock().tier = tier;
    }
}

impl PartitionPort for Home {
    fn with_log(&self, work: &mut dyn FnMut(&mut PartitionLog)) -> bool {
        let mut inner = self.lock();
        let machine = inner.lent.as_mut().expect("a group works with the replica lent");
        let end = machine.log().log_end();
        work(machine.log_mut());
        if machine.log().log_end() < end {
            machine.group_wrote();
        }
        true
    }

    fn now_ms(&self) -> i64 {
        self.lock().now_ms
    }

    fn advance(&self, high_watermark: Offset) {
        let mut inner = self.lock();
        let machine = inner.lent.as_mut().expect("a group works with the replica lent");
        machine.group_committed(high_watermark);
    }

    fn tier(&self) -> TierPoint {
        self.lock().tier
    }

    fn begun(&self, _offset: Offset) {
        let mut inner = self.lock();
        inner.has_begun = true;
        inner.lent.as_mut().expect("a group works with the replica lent").group_wrote();
    }

    /// The group's shell asks the store.
    fn failed(&self, _why: &str) {}
}
