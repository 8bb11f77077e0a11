//! The memory of the requests of all connections, and the way out when all of it is held by frames that need
//! more.
//!
//! A large frame takes its share piece by piece, as it arrives, so frames can hold all shares while each
//! waits for more. Then one of them takes the overdraft, of which there is one, and arrives whole outside
//! the budget; its share comes back and the others go on. So the memory in use is at most the budget and one
//! frame. Invariant 16.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use highwater_model::limits::REQUEST_BYTES_MAX;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The budget counts in units of this size, as a semaphore holds 32 bits of permits per request.
pub const BUDGET_UNIT_BYTES: usize = 1024;

/// Memory that a frame may use.
#[derive(Debug)]
pub enum Share {
    Units(OwnedSemaphorePermit),
    /// Whatever the rest of the frame needs.
    Overdraft(OwnedSemaphorePermit),
}

/// A share on its way; fails only when the node is gone.
pub type ShareWait = Pin<Box<dyn Future<Output = Result<Share, AcquireError>> + Send>>;

/// The budget of bytes in requests of all connections; clones share it.
#[derive(Clone, Debug)]
pub struct RequestBudget {
    units: Arc<Semaphore>,
    overdraft: Arc<Semaphore>,
}

impl RequestBudget {
    /// A budget of `bytes`, and of one request at least.
    pub fn new(bytes: u64) -> RequestBudget {
        let units = usize::try_from(bytes / BUDGET_UNIT_BYTES as u64).unwrap_or(usize::MAX);
        let least = REQUEST_BYTES_MAX / BUDGET_UNIT_BYTES + 1;
        let units = Arc::new(Semaphore::new(units.clamp(least, Semaphore::MAX_PERMITS)));
        RequestBudget { units, overdraft: Arc::new(Semaphore::new(1)) }
    }

    /// `units` more, if they are free.
    pub fn try_take(&self, units: u32) -> Option<Share> {
        self.units.clone().try_acquire_many_owned(units).ok().map(Share::Units)
    }

    /// Waits for `units` more. A frame that `holds` units already is also content with the overdraft: it
    /// must not keep the others waiting while it waits itself.
    pub fn take(&self, units: u32, holds: bool) -> ShareWait {
        let more = self.units.clone().acquire_many_owned(units);
        if !holds {
            return Box::pin(async move { more.await.map(Share::Units) });
        }
        let overdraft = self.overdraft.clone().acquire_owned();
        Box::pin(async move {
            tokio::select! {
                biased;
                permit = more => permit.map(Share::Units),
                permit = overdraft => permit.map(Share::Overdraft),
            }
        })
    }

    /// Units that are free.
    #[cfg(test)]
    pub fn free_units(&self) -> usize {
        self.units.available_permits()
    }
}
