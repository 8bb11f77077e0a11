//! A leader that can no longer tell who is in sync: its session with the control plane has lapsed, and a
//! member of its in-sync set is silent. The member cannot be left out, because nobody decides that, and it
//! may be that another replica leads by now. So what waits for the member is told at once that it may wait in
//! vain; it is not known whether it lasts. While all members keep fetching nothing changes: they would not,
//! had another leader been elected, and so what they have counts (invariant 3) with the control plane away.

use highwater_model::Offset;

use super::{Ends, Replica};

impl Replica {
    /// Whether this node's session with the control plane has lapsed. A leader reckons with it from its next
    /// step on.
    pub fn set_lapsed(&mut self, is_lapsed: bool) {
        self.is_lapsed = is_lapsed;
    }

    /// Whether this leader takes nothing that every replica in sync is to have.
    pub fn is_unproven(&self) -> bool {
        self.is_unproven
    }

    pub(super) fn prove(&mut self, now_ms: i64, ends: Ends) {
        let log_end: Offset = ends.log_end;
        self.is_unproven = match (&self.leader, &self.terms) {
            (Some(leader), Some(terms)) if self.is_lapsed => leader.has_silent_member(now_ms, terms, log_end),
            _ => false,
        };
        debug_assert!(!self.is_unproven || self.leader.is_some(), "of leaders only");
    }
}
