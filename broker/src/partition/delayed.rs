//! What delayed delivery asks of a partition before it is asked for records of a batch.

use highwater_log::{SequenceRefusal, Sequenced};
use highwater_wire::BatchHeader;

use super::{AppendRefusal, Partition};
use crate::core::replica::{LeaderRefusal, Role};

impl Partition {
    /// What the log would make of a client's batch now: nothing is to be kept of one that would be refused,
    /// or is in the log already.
    ///
    /// # Errors
    /// As the append would be refused.
    pub fn sequenced(&self, header: &BatchHeader, needs_all: bool) -> Result<Sequenced, AppendRefusal> {
        let is_raft = self.terms().raft.is_some();
        let inner = self.lock()?;
        if inner.replica.role() != Role::Leader {
            return Err(AppendRefusal::Leader(LeaderRefusal::NotLeader));
        }
        if !is_raft {
            inner.replica.replica().check_append(needs_all).map_err(AppendRefusal::Leader)?;
        }
        let high_watermark = inner.replica.high_watermark();
        let told = |refusal: SequenceRefusal| refusal.at_high_watermark(high_watermark);
        inner.log().producers().check(header).map_err(told).map_err(AppendRefusal::Sequence)
    }
}
